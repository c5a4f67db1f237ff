"""Records: what ``gptpipe-map`` and ``gptpipe-batch`` read, and the request that a template makes of each.

The forms of input and the template are specified in gptpipe-map(1).
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any, NamedTuple

from gptpipe.asking.inputs import blocks
from gptpipe.console.output import say, waiting_for
from gptpipe.errors import BadInput, Failure, NoInput, UsageError, clause
from gptpipe.records import rows
from gptpipe.records.rows import BOM, Header, Row
from gptpipe.text.strict_json import mend, parse

_BLOCK = 1 << 16

LINES, JSONL, CSV, FILES = FORMS = ("lines", "jsonl", "csv", "files")


class Record(NamedTuple):
    """One record: ``number`` from 1, ``value`` as a result shows it, and why it cannot be asked, if so.

    The value is a string for lines and files (the path), any JSON value for JSONL, an object of strings for CSV.
    ``row`` is the text of a table's row.
    """

    number: int
    value: Any
    failure: Failure | None = None
    row: str | None = None


class Input(NamedTuple):
    """How the input is read: one of FORMS, ended by NUL or by newlines, in an encoding.

    ``delimiter`` is that of a table, None to guess it by the header.
    """

    form: str = LINES
    null: bool = False
    encoding: str = "utf-8"
    delimiter: str | None = None


class Source(NamedTuple):
    """The records, as they arrive, and the header of a table; None also if the input is empty."""

    records: Iterator[Record]
    header: Header | None = None


def input_of(options: Mapping[str, Any]) -> Input:
    """Return how the options of a program say that the input is read.

    :raises UsageError: if they exclude each other.
    """
    forms = [form for form in (*FORMS, "tsv") if options.get(form)]
    if len(forms) > 1:
        raise UsageError(f"--{forms[0]} and --{forms[1]} exclude each other")
    table = bool(forms) and forms[0] in (CSV, "tsv")
    if table and options["null"]:
        raise UsageError(f"--{forms[0]} and --null exclude each other: rows end with newlines")
    delimiter = options.get("delimiter")
    if delimiter is not None and not table:
        raise UsageError("--delimiter needs --csv")
    if delimiter is not None:
        delimiter = rows.delimiter_of(delimiter)
    elif forms == ["tsv"]:
        delimiter = "\t"
    return Input(CSV if table else forms[0] if forms else LINES, options["null"], options["encoding"], delimiter)


def open_input(path: str | None) -> int:
    """Return a descriptor of the file, or of standard input for None and ``-``.

    :raises NoInput: if it cannot be opened.
    """
    if path is None or path == "-":
        return 0
    try:
        with waiting_for(path, "to be written"):  # a FIFO is not open until somebody writes to it
            return os.open(path, os.O_RDONLY)
    except (OSError, ValueError) as error:
        raise NoInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read(descriptor: int, how: Input) -> Source:
    """Return the records. The header of a table is read at once. A long wait for them is announced.

    :raises NoInput: if the input cannot be read; also by the iteration.
    :raises BadInput: if the encoding is so wrong that no record can be found, or a table has no header; also by the
        iteration.
    :raises UsageError: if the encoding is unknown.
    """
    texts = _split(descriptor, "\0" if how.null else "\n", how.encoding)
    if how.form == CSV:
        if (table := rows.header(texts, how.delimiter)) is None:
            return Source(iter(()))
        return Source(_rows(table[1], table[0].columns, how.encoding), table[0])
    return Source(_records(texts, how))


def _records(texts: Iterator[str], how: Input) -> Iterator[Record]:
    texts = chain((text.removeprefix(BOM) for text in islice(texts, 1)), texts)
    if not how.null:
        texts = (text.removesuffix("\r") for text in texts)
    if how.form == JSONL:
        lines = (text for text in texts if text.strip())
        yield from (_parsed(number, text, how.encoding) for number, text in enumerate(lines, 1))
    elif how.form == FILES:
        yield from (Record(number, path) for number, path in enumerate(texts, 1))
    else:
        yield from (Record(number, mend(text), _fault(text, how.encoding)) for number, text in enumerate(texts, 1))


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


def _split(descriptor: int, separator: str, encoding: str) -> Iterator[str]:
    """Yield the text between the separators, as soon as it arrives; undecodable bytes as lone surrogates."""
    message: str | None = "waiting for records on standard input; ^C ends the run with what was asked so far"
    if os.isatty(descriptor):
        say("reading the records from the terminal; ^D ends them")
        message = None
    pieces: list[str] = []
    for text in _decoded(blocks(descriptor, "the records", message), encoding):
        *ended, rest = text.split(separator)
        if ended:
            yield "".join((*pieces, ended[0]))
            yield from ended[1:]
            pieces = []
        pieces.append(rest)
    if last := "".join(pieces):
        yield last


def _decoded(data: Iterator[bytes], encoding: str) -> Iterator[str]:
    try:
        b"    ".decode(encoding, "replace")  # which takes no codec but those of text, unlike the next
        decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    except (LookupError, UnicodeError):
        raise UsageError(f"unknown encoding '{encoding}'") from None
    try:
        for block in data:
            yield decoder.decode(block)
        yield decoder.decode(b"", True)
    except UnicodeError as error:  # of a codec that cannot mark what it does not know
        raise BadInput(f"the input is not {encoding.upper()} text: {getattr(error, 'reason', error)}") from None


def _fault(text: str, encoding: str) -> BadInput | None:
    """Return why what a record is made of is not text, or None."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return BadInput(f"the record is not {encoding.upper()} text", "--encoding NAME reads other encodings")
    return BadInput("the record is not text: it holds NUL") if "\0" in text else None


def displayed(value: Any) -> Any:
    """Return a record's value as JSON can hold it: the path of a file may hold any bytes."""
    return mend(value) if isinstance(value, str) else value


def _parsed(number: int, line: str, encoding: str) -> Record:
    try:
        value = parse(line)
    except ValueError as error:
        return Record(number, mend(line), BadInput(f"the record is not JSON: {clause(error)}"))
    fault = _fault(line, encoding)
    return Record(number, mend(line) if fault else value, fault)


def _rows(found: Iterator[Row], columns: list[str], encoding: str) -> Iterator[Record]:
    """Yield the rows of a table as objects, by the names in its header; one that cannot be asked as its cells."""
    for number, row in enumerate(found, 1):
        fault = _fault("".join((*columns, *row.cells)), encoding)
        if row.problem:
            fault = BadInput(f"the record is not CSV: {row.problem}, in the row that begins in line {row.line}")
        elif len(row.cells) != len(columns):
            fault = BadInput(f"line {row.line} has {len(row.cells)} cells, the header {len(columns)}")
        value = dict(zip(columns, row.cells, strict=True)) if fault is None else list(map(mend, row.cells))
        yield Record(number, None if row.problem else value, fault, row.text)
