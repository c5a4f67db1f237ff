"""A record made into a request: the template filled, the message around it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from gptpipe.asking import report, tokens
from gptpipe.asking.answer import Answer
from gptpipe.asking.context import Context, role_of
from gptpipe.asking.inputs import compose, decode, merged, read_file, text_or_file
from gptpipe.asking.judge import Judge
from gptpipe.asking.want import Want, wanted
from gptpipe.errors import BadInput, Failure, NoInput, UsageError
from gptpipe.message import Content, Counts, Message, Part
from gptpipe.records import input
from gptpipe.records.input import FILES, LINES, Input, Record, Source
from gptpipe.records.results import Outcome
from gptpipe.sessions import attachments
from gptpipe.settings.settings import Settings
from gptpipe.text.strict_json import compact, mend
from gptpipe.text.template import Field, Template, fields, parse
from gptpipe.usage import prices
from gptpipe.wire import protocol
from gptpipe.wire.protocol import Protocol
from gptpipe.wire.request import Request, identity, system_of

IsOpen = Callable[[Record, str], bool]
"""Whether a record is still to be asked, by its request's key."""


class Maker(NamedTuple):
    """What makes a request of a record; ``spoken`` is its protocol, ``want`` is what its answer must be."""

    template: Template
    how: Input
    settings: Settings
    spoken: Protocol
    want: Want

    def request(self, record: Record) -> Request:
        """Return the request.

        :raises Failure: if the record cannot be made one.
        """
        if record.failure is not None:
            raise record.failure
        asked: Message = {"role": "user", "content": content(record, self.template, self.how)}
        messages = [*system_of(self.settings), asked]
        attachments.check_total(messages)
        return self.want.request(self.settings, messages)

    def read(self, descriptor: int) -> Source:
        """Return the records that can be read, as :func:`gptpipe.records.input.read` does.

        :raises UsageError: if the template names a column that a table does not have, or has twice.
        """
        source = input.read(descriptor, self.how)
        columns = source.header.columns if source.header else []
        for name in filter(None, fields(self.template) if source.header else ()):
            if columns.count(name) != 1:
                how = "two columns" if name in columns else "no column"
                hint = f"it has {', '.join(columns)}"
                raise UsageError(f"the table has {how} {name!r}, which the template names", hint)
        return source


def maker_of(template: str | None, options: Mapping[str, Any], context: Context, *, tools: bool = True) -> Maker:
    """Return the maker of the requests. ``options`` are those that were given.

    :raises UsageError: if the template is missing or does not fit the input, options exclude each other, or the role
        names tools and ``tools`` cannot be run.
    :raises Failure: if settings, role or schema are faulty.
    """
    how = input.input_of(options)
    role = role_of(context, options.get("role"), dict(options.get("var", ())))
    if role.tools and not tools:
        raise UsageError(f"{context.program} runs no tools, and the role names some", "gptpipe-map runs them")
    if template is None and role.prompt is None:
        raise UsageError("no template was given", "{} in it is the record, as in 'translate: {}'")
    pieces: Template = [role.prompt or ""]
    if template is not None:
        pieces = parse(text_or_file(template, how.encoding), "the template")
    _check_fields(pieces, how.form)
    want = wanted(options, role, context)
    if "check" in options:
        want = want._replace(judge=Judge(options["check"], context.env))
    chosen = context.resolve(options, role.settings)._replace(session=None)
    spoken = protocol.of(chosen, want.request(chosen, []))
    return Maker(pieces, how, chosen, spoken, want)


class Rehearsal:
    """What a run would send: how many records and tokens, what they cost, and the first request.

    Only records that are open are priced. The service tier is that of the settings, unless ``tier`` is given.
    """

    def __init__(self, maker: Maker, context: Context, is_open: IsOpen | None = None, tier: str | None = None) -> None:
        self._maker = maker
        self._context = context
        self._is_open = is_open
        self._tier = tier
        self._meter = tokens.meter(maker.settings.model, context.paths.cache)
        self._first: Request | None = None
        self._exact = True
        self._tokens = 0
        self.records = self.failed = self.open = 0
        self.price: float | None = 0.0

    def add(self, record: Record) -> Record:
        """Count a record, and return it."""
        self.records += 1
        try:
            asked = self._maker.request(record)
        except Failure:
            self.failed += 1
            return record
        self._first = self._first or asked
        if self._is_open is None or self._is_open(record, key_of(asked)):
            self.open += 1
            counted = self._meter.prompt(asked.messages)
            self._tokens += counted
            self._exact = self._exact and self._meter.exact(asked.messages)
            price = prices.cost(Counts(input=counted), self._maker.settings, tier=self._tier)
            self.price = None if price is None or self.price is None else self.price + price
        return record

    def found(self, without: Collection[str] = ()) -> dict[str, Any]:
        """Return the JSON of it; ``without`` are fields that the client would add to the request."""
        resumed = {} if self._is_open is None else {"open": self.open}
        return {
            "records": self.records,
            "failed": self.failed,
            **resumed,
            "tokens": self._tokens,
            "tokens_estimated": not self._exact,
            "price": self.price,
            "request": self._first and report.shown(self._maker.settings, self._context, self._first, without),
        }


def _check_fields(template: Template, form: str) -> None:
    named = [name for name in fields(template) if name]
    if named and form in (LINES, FILES):  # these are one piece
        raise UsageError(
            f"the template has a field {{{named[0]}}}, and {form} have none",
            "{} is the whole record; --jsonl and --csv have fields; {{ is a brace",
        )


def content(record: Record, template: Template, how: Input) -> Content:
    """Return the message that a template makes of a record: a text, or content parts if the record is such a file.

    :raises BadInput: if a field is missing, or the file is not text and of no kind that is sent.
    :raises NoInput: if the file cannot be read.
    """
    whole = _file(record.value, how.encoding) if how.form == FILES else _text(record.value)

    def value(name: str) -> str | Part:
        return _text(_field(record.value, name)) if name else whole

    if not fields(template):
        text = "".join(piece for piece in template if isinstance(piece, str))
        return compose([text, whole])
    return merged([value(piece.name) if isinstance(piece, Field) else piece for piece in template])


def _file(path: str, encoding: str) -> str | Part:
    try:
        data = read_file(os.fsdecode(path.encode("utf-8", "surrogateescape")))
    except UnicodeEncodeError:  # UTF-7 and unicode_escape have halves of surrogate pairs
        raise NoInput(f"cannot read {mend(path)}: no file has such a name") from None
    return attachments.part_for(data, path) or decode(data, mend(path), encoding)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else compact(value)


def _field(value: Any, name: str) -> Any:
    """Return the field of a record: by its whole name, or else by the parts between dots."""
    if isinstance(value, Mapping) and name in value:
        return value[name]
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise BadInput(f"the record has no field {name!r}")
    return value


def key_of(asked: Request) -> str:
    """Return what tells a request from others: 16 hexadecimal digits of the SHA-256 of its JSON without the model.

    So another model takes over what one has failed at, and only that.
    """
    from hashlib import sha256

    value = identity(asked)
    del value["model"]
    return sha256(_sorted(value).encode()).hexdigest()[:16]


_sorted = json.JSONEncoder(sort_keys=True, allow_nan=False).encode  # made once, for all records


def outcome(record: Record, key: str | None, model: str, answer: Answer) -> Outcome:
    """Return what an answer that was judged is for its record."""
    value = answer.result if answer.failure is None else answer.printed or answer.text
    return Outcome(record, key, answer.failure, value, model, answer.finish_reason, answer.usage, calls=answer.listed())
