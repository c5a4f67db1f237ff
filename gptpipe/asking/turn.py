"""A turn: history and a new message, asked and appended to the session. ``gptpipe`` and ``gptpipe-chat`` share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import dropwhile, tee
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from gptpipe.asking import tokens
from gptpipe.asking.answer import Answer, Want
from gptpipe.asking.asker import Receiver, Terms, ask, check_price, enter, recall
from gptpipe.asking.context import Context
from gptpipe.console import children, output, signals
from gptpipe.errors import Status, UsageError
from gptpipe.message import Content, Message, Schema, Turn
from gptpipe.sessions import attachments
from gptpipe.sessions.store import Memory, NoSession, Session, Warn, last_turn, silent
from gptpipe.settings import keys, resolve
from gptpipe.settings.settings import Paths, Settings
from gptpipe.text.address import stored
from gptpipe.usage.budget import check_budget
from gptpipe.wire import client, request
from gptpipe.wire.request import system_of


class Question(NamedTuple):
    """What one turn is to ask, under which options and role (as ``settings.resolve`` takes them), and what it wants.

    ``save`` is false for a turn that reads the session and appends nothing. ``memory`` holds the conversation if
    they name no session. ``again`` leaves the latest turns out that asked the same.
    """

    content: Content
    options: Mapping[str, Any]
    role: Mapping[str, Any]
    save: bool = True
    memory: Memory | None = None
    again: bool = False
    want: Want = Want()


class Request(NamedTuple):
    """A turn's request, ready to be sent: its messages, what of them is history, the schema, and gptpipe's folders."""

    settings: Settings
    messages: list[Message]
    turns: list[Turn]
    dropped: int
    paths: Paths
    schema: Schema | None = None

    @property
    def asked(self) -> request.Request:
        """What is asked of the model."""
        return request.make(self.settings, self.messages, self.schema)

    @property
    def system(self) -> list[Message]:
        """The system message, in a list, or an empty list."""
        return [message for message in self.messages[:1] if message["role"] == "system"]


class Run:
    """One turn from its beginning on, for whoever settles and reports it: also another thread, at any moment.

    ``started`` is monotonic. What is not known yet is None.
    """

    def __init__(self, started: float) -> None:
        self.started = started
        self.answer = Answer()
        self.request: Request | None = None
        self.settings: Settings | None = None
        self.retries = 0
        self.key_source: str | None = None
        self.terms: Terms | None = None
        self._session: Session | Memory | None = None
        self._mutex = Lock()

    def open(self, session: Session | Memory) -> None:
        """Say where the turn is to be appended."""
        self._session = session

    def settle(self, *, wait: bool = True) -> None:
        """Append the turn, once, if it is to be kept and any text came: with the finish reason, or null without one.

        ``wait`` allows to wait for a lock, should the session's file have been replaced meanwhile.

        :raises WriteError: Temporary: if it cannot be appended.
        """
        with self._mutex:
            session, self._session = self._session, None
            if session is None or self.request is None or not (self.answer.text or self.answer.refusal):
                return
            turn = _turn(self.request, self.answer)
            if isinstance(session, Memory):
                session.append(turn)
            else:
                _keep(session, [turn], self.request.paths.attachments, wait=wait)

    def enter(self, status: int = Status.BUG) -> None:
        """Enter what the turn's requests used, once the answer is out; ``status`` is for one still on its way."""
        with self._mutex:
            self.answer.settle(status)
            if self.terms:
                enter(self.answer, self.terms)


def _keep(session: Session, turns: list[Turn], folder: Path, *, wait: bool = True) -> None:
    """Append turns to a session; the files in them are kept beside it."""
    if not any(attachments.has_files(turn.messages) for turn in turns):
        session.extend(turns, wait=wait)
        return
    with attachments.holding(folder):
        detached = [replace(turn, messages=attachments.detach(turn.messages, folder)) for turn in turns]
        session.extend(detached, wait=wait)


def save(turns: list[Turn], name: str, place: Context) -> None:
    """Make a session of turns.

    :raises UsageError: if there is one of this name, or it cannot be a name.
    :raises WriteError: Temporary: if it cannot be made.
    """
    with place.sessions.lock(name, 0, output.waiting, silent) as session:
        if session.last():
            raise UsageError(f"there is a session {name} already", "take another name")
        _keep(session, turns, place.paths.attachments)


def _turn(request: Request, answer: Answer) -> Turn:
    """Return the turn as the session keeps it."""
    question = [*request.system, request.messages[-1]]
    reply: Message = {"role": "assistant", "content": answer.text}
    if answer.refusal:
        reply["refusal"] = answer.refusal
    chosen = request.settings
    turn = Turn(
        [*question, reply],
        model=chosen.model,
        profile=chosen.profile,
        base_url=stored(chosen.base_url) if chosen.base_url and chosen.profile is None else None,
        finish_reason=answer.finish_reason if answer.finished else None,
        usage=answer.bill.measured,
    )
    weighed = tokens.weigh(turn, answer.reasoning, request.turns, request.paths.cache)
    return replace(weighed, usage=answer.usage)


def take(run: Run, question: Question, place: Context, receiver: Receiver) -> None:
    """Ask and append. What came is in ``run.answer``, also after a failure; :meth:`Answer.failure` judges it.

    :raises Failure: if the turn cannot be asked, answered or appended.
    :raises Interrupted: after settling, if a signal came.
    """
    early = _resolve(question, place, _past(question, place))
    want = question.want
    if not want.stored:
        check_budget(early, place.paths, over=want.over_budget)  # before the SDK is imported
        client.preload()
    key = None if want.cache_only else _key(early, place)
    with _history(run, question, place, early) as turns:
        run.request = request = compose(question, place, turns)
        chosen = run.settings = request.settings
        run.terms = terms = Terms(chosen, place.paths, want, place.program, chosen.session, place.note)
        _check_size(request, place)
        try:
            if not recall(request.asked, run.answer, receiver, terms):
                if key is None or not _same_endpoint(chosen, early):
                    key = _key(chosen, place)  # while the lock was waited for, the session went elsewhere
                _send(run, request, key, place, receiver, terms)
        finally:
            with signals.held():
                run.settle()


def _send(run: Run, request: Request, key: keys.Key, place: Context, receiver: Receiver, terms: Terms) -> None:
    run.key_source = key.source
    check_budget(terms.settings, terms.paths, over=terms.want.over_budget)
    check_price(terms)
    connection = client.Client(terms.settings, key.value, deadline=place.deadline.at, waiting=output.waiting)
    try:
        ask(connection, request.asked, run.answer, receiver, terms)
    finally:
        run.retries = connection.retries
        connection.close()


def _key(chosen: Settings, place: Context) -> keys.Key:
    return keys.find(chosen, place.env, run=children.run)


def _same_endpoint(one: Settings, other: Settings) -> bool:
    return (one.profile, one.base_url, one.key) == (other.profile, other.base_url, other.key)


def preview(question: Question, place: Context) -> Request:
    """Return the request that :func:`take` would send, without a lock, a key or a change to any file."""
    return compose(question, place, _looked_at(question, place, output.say))


def compose(question: Question, place: Context, turns: Iterator[Turn]) -> Request:
    """Return the request: the system message, the history that fits, and the question.

    ``turns`` are the session's from the newest; no more of them are read than are needed.
    """
    turns, newest, latest = tee(turns, 3)
    last = last_turn(newest)
    chosen = _resolve(question, place, _continued(latest))
    system = system_of(chosen)
    asked: Message = {"role": "user", "content": question.content}
    if question.again:
        folder = place.paths.attachments
        turns = dropwhile(lambda turn: attachments.attach(turn.question, folder, silent) == [asked], turns)
    sent = tokens.fit(turns, tokens=chosen.history_tokens, turns=chosen.history)
    if chosen.max_input_tokens is not None:  # trimming history comes before refusing the request
        sent = tokens.trim(sent, [*system, asked], chosen.max_input_tokens, chosen.model, place.paths.cache)
    history = attachments.attach(
        (message for turn in sent for message in turn.history), place.paths.attachments, output.say
    )
    dropped = max(0, (last.n if last else 0) - len(sent))  # the numbers of lines that another program wrote may lie
    return Request(chosen, [*system, *history, asked], sent, dropped, place.paths, schema=question.want.schema)


def _check_size(request: Request, place: Context) -> None:
    attachments.check_total(request.messages)
    limit = request.settings.max_input_tokens
    if limit is not None:
        tokens.check(request.messages, limit, request.settings.model, place.paths.cache)


def _resolve(question: Question, place: Context, past: Mapping[str, Any], *, need_model: bool = True) -> Settings:
    return resolve.resolve(question.options, question.role, past, place.env, place.config, need_model=need_model)


def _past(question: Question, place: Context) -> Mapping[str, Any]:
    return _continued(_looked_at(question, place, silent))


def _continued(turns: Iterator[Turn]) -> Mapping[str, Any]:
    """Return what a session continues with: model, endpoint and system message of its last finished turn."""
    last = next((turn for turn in turns if turn.finished), None)
    if last is None:
        return {}
    return {"model": last.model, "profile": last.profile, "base_url": last.base_url, "system": last.system}


def _looked_at(question: Question, place: Context, warn: Warn) -> Iterator[Turn]:
    """Yield the session's turns from the newest, without its lock; a session that is not there has none."""
    name = _resolve(question, place, {}, need_model=False).session
    if name is None:
        yield from question.memory.history() if question.memory else ()
        return
    try:
        place.sessions.path(name).stat(follow_symlinks=False)
    except OSError:  # whoever opens it will say why
        return
    with suppress(NoSession):  # it is empty, or has gone in this moment
        yield from place.sessions.history(name, warn)


@contextmanager
def _history(run: Run, question: Question, place: Context, early: Settings) -> Iterator[Iterator[Turn]]:
    """Give the session's turns from the newest: under its lock until the block ends, if the turn is to be appended."""
    name = early.session
    if name is None and question.memory:
        run.open(question.memory)
        yield question.memory.history()
    elif name is None:
        yield iter(())
    elif not question.save:
        yield place.sessions.history(name, output.say)
    else:
        with place.sessions.lock(name, early.lock_timeout, output.waiting, output.say) as session:
            run.open(session)
            yield session.history()
