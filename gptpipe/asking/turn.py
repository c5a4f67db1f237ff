"""A turn: the history, the asker and the session around one question. ``gptpipe`` and ``gptpipe-chat`` share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from itertools import dropwhile, tee
from typing import Any, NamedTuple

from gptpipe import message
from gptpipe.asking import history
from gptpipe.asking.answer import Answer
from gptpipe.asking.asker import Asker, Receiver, check_spending
from gptpipe.asking.context import Context
from gptpipe.asking.link import Link
from gptpipe.asking.want import Want
from gptpipe.console import output, signals
from gptpipe.console.output import silent
from gptpipe.errors import Failure, UsageError
from gptpipe.message import Content, Message
from gptpipe.sessions import attachments
from gptpipe.sessions.store import Memory, NoSession, Session, Warn, last_turn
from gptpipe.settings import resolve
from gptpipe.settings.settings import Settings
from gptpipe.text.address import stored
from gptpipe.wire import client, protocol
from gptpipe.wire.request import Request, system_of


class Call(NamedTuple):
    """The options of a command line and a role, as ``settings.resolve`` takes them, and what an answer must be."""

    options: Mapping[str, Any]
    role: Mapping[str, Any]
    want: Want = Want()


class Question(NamedTuple):
    """The question of one turn. A session may change the ``settings``, which are those of the ``call``.

    ``save`` is false for a turn that reads the session and appends nothing. ``memory`` holds the conversation if
    the settings name no session. ``again`` leaves out the latest turns, if they asked the same.
    """

    content: Content
    call: Call
    settings: Settings
    save: bool = True
    memory: Memory | None = None
    again: bool = False


class Composed(NamedTuple):
    """A turn's request, ready to be sent; its settings, the turns of history in it, and how many were left out."""

    settings: Settings
    request: Request
    history: list[message.Turn]
    dropped: int


Append = Callable[[message.Turn, bool], object]
Past = Mapping[str, str | None]


class Turn:
    """One question, and its answer as far as it has arrived.

    ``settings`` are those of the call until the session has been read. ``turns_sent`` and ``turns_dropped`` count the
    history. ``asked`` says that a request was ready, ``connected`` that there was a client to send it. ``link`` may be
    that of the turn before.
    """

    def __init__(self, question: Question, context: Context, link: Link) -> None:
        self._question = question
        self._context = context
        self._link = link
        self.settings = question.settings
        self.answer = Answer(question.call.want)
        self.asked = self.connected = False
        self.turns_sent = self.turns_dropped = self.retries = 0

    def take(self, receiver: Receiver) -> None:
        """Ask, and append the turn to the session. ``answer`` holds the result.

        :raises Failure: if the turn cannot be asked or appended.
        :raises Interrupted: after the turn was appended, if a signal came.
        """
        question, context = self._question, self._context
        past = _past(_looked_at(question, context, silent))
        self.settings = early = _settled(question, context, past)
        if not question.call.want.stored:
            check_spending(context, early, question.call.want)
            self._link.open(early)
            client.preload(early)
            self._link.key(early)  # before the lock is taken; a stored answer needs none
        with _history(question, context, early) as (turns, append):
            turns, latest = tee(turns)
            if (now := _past(latest)) != past:  # while the lock was waited for, the session went elsewhere
                self.settings = _settled(question, context, now)
            composed = compose(question, context, self.settings, turns)
            self.turns_sent, self.turns_dropped = len(composed.history), composed.dropped
            asker = Asker(context, self.settings, question.call.want, partial(self._link.client, self.settings))
            try:
                self._ask(composed, asker, receiver, append)
                receiver.end()
            except Failure:
                receiver.end()
                raise
            finally:
                self.retries, self.connected = asker.retries, asker.connected
                asker.close()

    def _ask(self, composed: Composed, asker: Asker, receiver: Receiver, append: Append | None) -> None:
        """Ask, and append the turn whatever ends it: also a signal, or the deadline in its own thread."""
        self.asked = True
        deadline = self._context.deadline
        left = [append] if append else []

        def keep(wait: bool) -> None:
            """Append the turn, once, if any text came: with the finish reason, or null without one."""
            if left and (self.answer.text or self.answer.refusal or self.answer.rounds or self.answer.calls):
                left.pop()(_stored(composed, self.answer, self._context), wait)

        with deadline.ending(lambda: keep(False)):
            try:
                asker.ask(composed.request, self.answer, receiver)
            finally:
                with signals.held(), deadline.held():
                    keep(True)


def prepare(question: Question, context: Context, link: Link) -> None:
    """Check settings, budget and key before the user writes a question: each may be a failure."""
    chosen = _settled(question, context, _past(_looked_at(question, context, silent)))
    if not question.call.want.stored:
        check_spending(context, chosen, question.call.want)
        link.key(chosen)


def preview(question: Question, context: Context) -> Composed:
    """Return what a turn would send, without a lock, a key or a change to any file."""
    turns, latest = tee(_looked_at(question, context, output.say))
    return compose(question, context, _settled(question, context, _past(latest)), turns)


def compose(question: Question, context: Context, chosen: Settings, turns: Iterator[message.Turn]) -> Composed:
    """Return the request: the system message, the history that fits, and the question.

    ``turns`` are the session's from the newest; only as many as needed are read. BadInput or OverLimit if it is too
    large.
    """
    folder = context.paths.attachments
    turns, newest = tee(turns)
    last = last_turn(newest)
    system = system_of(chosen)
    asked: Message = {"role": "user", "content": question.content}
    if question.again:
        turns = dropwhile(lambda turn: attachments.attach(turn.question, folder, silent) == [asked], turns)
    sent = history.fit(turns, tokens=chosen.history_tokens, turns=chosen.history)
    if chosen.max_input_tokens is not None:  # trimming history comes before refusing the request
        sent = history.trim(sent, [*system, asked], chosen.max_input_tokens, chosen.model, context.paths.cache)
    past = attachments.attach((said for turn in sent for said in turn.history), folder, output.say)
    dropped = max(0, (last.n if last else 0) - len(sent))  # the numbers of lines that another program wrote may lie
    messages = [*system, *past, asked]
    attachments.check_total(messages)
    request = question.call.want.request(chosen, messages)
    protocol.of(chosen, request)  # a faulty option is said before a key is looked for
    return Composed(chosen, request, sent, dropped)


def _settled(question: Question, context: Context, past: Past) -> Settings:
    """Return the settings, with those of the session in them; raises as ``resolve``, also if no model was named."""
    call, chosen = question.call, question.settings
    if any(past.values()):
        chosen = context.resolve(call.options, call.role, past, need_model=False)
    resolve.check_model(chosen)
    return chosen


def _past(turns: Iterator[message.Turn]) -> Past:
    """Return what a session says of settings: model, endpoint and system message of its last finished turn."""
    last = next((turn for turn in turns if turn.finished), message.Turn([]))
    return {name: getattr(last, name) for name in ("model", "profile", "base_url", "system")}


def _looked_at(question: Question, context: Context, warn: Warn) -> Iterator[message.Turn]:
    """Yield the session's turns from the newest, without its lock. A session that does not exist has none."""
    name = question.settings.session
    if name is None:
        yield from question.memory.history() if question.memory else ()
        return
    try:
        context.sessions.path(name).stat(follow_symlinks=False)
    except OSError:  # opening it will say why
        return
    with suppress(NoSession):  # it is empty, or has gone in this moment
        yield from context.sessions.history(name, warn)


@contextmanager
def _history(
    question: Question, context: Context, chosen: Settings
) -> Iterator[tuple[Iterator[message.Turn], Append | None]]:
    """Hold the session's lock. The block gets its turns from the newest, and a function that appends one."""
    name, memory = chosen.session, question.memory
    if name is None and memory:
        yield memory.history(), lambda turn, _: memory.append(turn)
    elif name is None:
        yield iter(()), None
    elif not question.save:
        yield context.sessions.history(name, output.say), None
    else:
        with context.sessions.lock(name, chosen.lock_timeout, output.say) as session:
            yield session.history(), lambda turn, wait: _keep(session, [turn], context, wait=wait)


def _keep(session: Session, turns: list[message.Turn], context: Context, *, wait: bool = True) -> None:
    """Append turns to a session; the files in them are kept beside it."""
    if not any(attachments.has_files(turn.messages) for turn in turns):
        session.extend(turns, wait=wait)
        return
    folder = context.paths.attachments
    with attachments.holding(folder):
        detached = [turn._replace(messages=attachments.detach(turn.messages, folder)) for turn in turns]
        session.extend(detached, wait=wait)


def save(turns: list[message.Turn], name: str, context: Context) -> None:
    """Make a session of turns.

    :raises UsageError: if there is one of this name, or it cannot be a name.
    :raises WriteError: Temporary: if it cannot be made.
    """
    with context.sessions.lock(name, 0) as session:
        if session.last():
            raise UsageError(f"there is a session {name} already", "take another name")
        _keep(session, turns, context)


def _stored(composed: Composed, answer: Answer, context: Context) -> message.Turn:
    """Return the turn as the session keeps it."""
    *_, question = composed.request.messages
    chosen = composed.settings
    reply = [] if answer.rounds and not (answer.text or answer.refusal or answer.calls) else [answer.message]
    turn = message.Turn(
        [*system_of(chosen), question, *answer.rounds, *reply],
        model=chosen.model,
        profile=chosen.profile,
        base_url=stored(chosen.base_url) if chosen.base_url and chosen.profile is None else None,
        finish_reason=answer.finish_reason if answer.finished else None,
        usage=answer.bill.measured,
    )
    weighed = history.weigh(turn, answer.reasoning, composed.history, context.paths.cache)
    return weighed._replace(usage=answer.usage)
