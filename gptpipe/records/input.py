"""Records: what ``gptpipe-map`` and ``gptpipe-batch`` read, and the request that a template makes of each.

The forms of input and the template are specified in gptpipe-map(1).
"""

from __future__ import annotations

import codecs
import csv
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

from gptpipe.asking.inputs import blocks
from gptpipe.console.output import waiting
from gptpipe.errors import BadInput, Failure, NoInput, UsageError, clause
from gptpipe.text import strict_json

_BLOCK = 1 << 16
_LONGEST_CELL = 1 << 30  # the csv module's own limit is 128 KiB

LINES, JSONL, CSV, FILES = FORMS = ("lines", "jsonl", "csv", "files")


class Record(NamedTuple):
    """One record: ``number`` from 1, ``value`` as a result shows it, and why it cannot be asked, if so.

    The value is a string for lines and files (the path), any JSON value for JSONL, an object of strings for CSV.
    """

    number: int
    value: Any
    failure: Failure | None = None


class Input(NamedTuple):
    """How the input is read: one of FORMS, ended by NUL or by newlines, in an encoding."""

    form: str = LINES
    null: bool = False
    encoding: str = "utf-8"


# Reading


def how(options: Mapping[str, Any]) -> Input:
    """Return how the options of a program say that the input is read.

    :raises UsageError: if they exclude each other.
    """
    forms = [form for form in FORMS if options.get(form)]
    if len(forms) > 1:
        raise UsageError(f"--{forms[0]} and --{forms[1]} exclude each other")
    if options["csv"] and options["null"]:
        raise UsageError("--csv and --null exclude each other: rows end with newlines")
    return Input(forms[0] if forms else LINES, options["null"], options["encoding"])


def open_input(path: str | None) -> int:
    """Return a descriptor of the file, or of standard input for None and ``-``.

    :raises NoInput: if it cannot be opened.
    """
    if path is None or path == "-":
        return 0
    # A FIFO is not open until somebody writes to it.
    ready = (
        nullcontext() if os.path.isfile(path) else waiting(f"waiting for {path} to be written: --max-time bounds it")
    )
    try:
        with ready:
            return os.open(path, os.O_RDONLY)
    except (OSError, ValueError) as error:
        raise NoInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read(descriptor: int, how: Input, say: Callable[[str], None]) -> Iterator[Record]:
    """Yield the records as they arrive; ``say`` is told of a long wait for them, and that they are to be typed.

    :raises NoInput: if the input cannot be read.
    :raises BadInput: if it ends where its encoding does not let it go on, as UTF-16 without its mark.
    :raises UsageError: if the encoding is unknown.
    """
    texts = _split(descriptor, "\0" if how.null else "\n", how.encoding, say)
    if how.form == CSV:
        yield from _rows(texts, how.encoding)
    elif how.form == JSONL:
        lines = (text for text in texts if text.strip())
        yield from (_parsed(number, text, how.encoding) for number, text in enumerate(lines, 1))
    elif how.form == FILES:
        yield from (Record(number, path) for number, path in enumerate(texts, 1))
    else:
        yield from (_checked(number, text, text, how.encoding) for number, text in enumerate(texts, 1))


def count(descriptor: int, how: Input) -> int | None:
    """Return how many records a regular file has from here to its end, or None where that would have to be parsed."""
    if how.form not in (LINES, FILES) or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    start = os.lseek(descriptor, 0, os.SEEK_CUR)
    separator = b"\0" if how.null else b"\n"
    found, last = 0, separator
    while block := os.read(descriptor, _BLOCK):
        found += block.count(separator)
        last = block[-1:]
    os.lseek(descriptor, start, os.SEEK_SET)
    return found + (last != separator)


def _split(descriptor: int, separator: str, encoding: str, say: Callable[[str], None]) -> Iterator[str]:
    """Yield what stands between the separators, as soon as it is there; undecodable bytes as lone surrogates."""
    typed = os.isatty(descriptor)
    if typed:
        say("reading the records from the terminal; ^D ends them")

    def announce() -> None:
        if not typed:  # else it is told
            say("waiting for records on standard input; ^C ends the run with what was asked so far")

    pieces: list[str] = []
    for text in _decoded(blocks(descriptor, "the records", announce), encoding):
        *ended, rest = text.split(separator)
        if ended:
            yield "".join((*pieces, ended[0]))
            yield from ended[1:]
            pieces = []
        pieces.append(rest)
    if last := "".join(pieces):
        yield last


def _decoded(blocks: Iterator[bytes], encoding: str) -> Iterator[str]:
    try:
        b"    ".decode(encoding, "replace")  # which takes no codec but those of text, unlike the next
        decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    except (LookupError, UnicodeError):
        raise UsageError(f"unknown encoding '{encoding}'") from None
    try:
        for block in blocks:
            yield decoder.decode(block)
        yield decoder.decode(b"", True)
    except UnicodeError as error:  # of a codec that cannot mark what it does not know
        raise BadInput(f"the input is not {encoding.upper()} text: {getattr(error, 'reason', error)}") from None


def _checked(number: int, value: Any, text: str, encoding: str) -> Record:
    """Return the record, with a failure if what it was made of is not text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        failure = BadInput(f"the record is not {encoding.upper()} text", "--encoding NAME reads other encodings")
        return Record(number, shown(text), failure)
    if "\0" in text:
        return Record(number, value, BadInput("the record is not text: it holds NUL"))
    return Record(number, value)


def shown(text: str) -> str:
    """Return a text in which what is no Unicode is marked, as a name or record that is printed."""
    return strict_json.mend(text)


def displayed(value: Any) -> Any:
    """Return a record's value as JSON can hold it: the path of a file may be no Unicode."""
    return shown(value) if isinstance(value, str) else value


def _parsed(number: int, line: str, encoding: str) -> Record:
    try:
        value = strict_json.parse(line.removeprefix("\ufeff") if number == 1 else line)
    except ValueError as error:
        return Record(number, shown(line), BadInput(f"the record is no JSON: {clause(error)}"))
    return _checked(number, value, line, encoding)


def _rows(lines: Iterator[str], encoding: str) -> Iterator[Record]:
    """Yield the rows of a CSV file as objects, by the names in its first row."""
    csv.field_size_limit(_LONGEST_CELL)
    rows = csv.reader((line + "\n" for line in lines), strict=True)
    header: list[str] = []
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if not header:
                raise BadInput(f"the header is no CSV: {error}") from None
            number += 1
            yield Record(number, None, BadInput(f"the record is no CSV: {error}"))
            continue
        if not row:
            continue  # an empty line
        if not header:
            header = [row[0].removeprefix("\ufeff"), *row[1:]]
            continue
        number += 1
        if len(row) != len(header):
            failure = BadInput(f"the record has {len(row)} cells, the header {len(header)}")
            yield Record(number, list(map(shown, row)), failure)
        else:
            value = dict(zip(header, row, strict=True))
            checked = _checked(number, value, "".join((*header, *row)), encoding)
            yield checked if checked.failure is None else checked._replace(value=list(map(shown, row)))
