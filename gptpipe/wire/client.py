"""The client: one request to a server of the Chat Completions protocol, and the retries around it.

The ``openai`` SDK carries the request, over :mod:`gptpipe.wire.transport`; the bytes of the answer are decoded by
:mod:`gptpipe.wire.sse`. What can block (name lookup, TCP, TLS, reading) happens in a
:mod:`gptpipe.wire.exchange`, most often in a daemon thread of its own.
Protocol: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from math import inf
from queue import Empty
from threading import Thread, local
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gptpipe import __version__
from gptpipe.errors import BadInput, ConfigError, Failure, ProtocolError, Temporary
from gptpipe.settings.settings import Settings
from gptpipe.text.address import joined, masked, query, secrets
from gptpipe.wire import faults, lazy, protocol, sse, transport
from gptpipe.wire.events import (
    Again,
    Done,
    Error,
    Event,
    Finish,
    KeepAlive,
    Malformed,
    Opened,
    Refusal,
    Text,
    ToolCall,
    Usage,
)
from gptpipe.wire.exchange import Direct, Head, Link, Watch
from gptpipe.wire.protocol import Protocol
from gptpipe.wire.request import Request

if TYPE_CHECKING:
    import httpx2
    import openai.types
    from openai import OpenAI

Found = TypeVar("Found")
Waiting = Callable[[str], AbstractContextManager[object]]

_RECENT = 5.0  # seconds for which a name that was found will be found again
_MOST_WAITS = 100  # of one request, where the server asks for them again and again
TAIL = 1.0  # seconds for which an answer that has ended is still read: for its usage
_PAGE = 65536  # bytes shown, at most, of a reply that is no answer
_KEEP_ALIVES = "the server sends nothing but keep-alives; --max-time would end this"
_CUT = "the answer was cut"


class Batch(NamedTuple):
    """A batch at the provider, https://platform.openai.com/docs/api-reference/batch/object; counts are of requests.

    ``output`` and ``errors`` are the ids of its files, None as long as there are none; ``problem`` is why it failed.
    """

    id: str
    status: str
    completed: int
    failed: int
    total: int
    output: str | None
    errors: str | None
    problem: str | None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ("completed", "failed", "expired", "cancelled")


class _Seen:
    """What has been seen of an answer: text, an event that says something, its end, and when (monotonic)."""

    def __init__(self) -> None:
        self.text = self.known = False
        self.ended: float | None = None


class _FieldRefused(Exception):
    def __init__(self, field: str, failure: Failure) -> None:
        super().__init__(field)
        self.field = field
        self.failure = failure


def preload() -> None:
    """Import the SDK in a daemon thread, while something else is waited for."""
    Thread(target=load, daemon=True).start()


def load() -> None:
    """Import the SDK. From here on this process has no ``OPENAI_*`` variables: read the environment before."""
    # The SDK would send organisation, project and custom headers from the environment to any host.
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        del os.environ[name]
    if "openai" in sys.modules:
        import openai  # waits for the thread that has begun

        return
    # The import makes 300,000 objects that live to the end: collecting garbage meanwhile takes 30 ms and finds none.
    gc.disable()
    try:
        lazy.install()
        import httpx2  # noqa: F401
        import openai  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


class Wait(NamedTuple):
    """What follows a failed try: a wait of so many ``seconds``.

    A ``free`` wait spends no try; after the ``last`` the request is given up.
    """

    seconds: float
    free: bool = False
    last: bool = False


class Gate:
    """What each try has to pass, so that many at once can be held and slowed down together; this one is open."""

    def enter(self, request: Request) -> None:
        """Return when this request may be sent."""

    def opened(self) -> None:
        """Called when the server accepts a request."""

    def failed(self, failure: Failure, seconds: float) -> Wait:  # noqa: ARG002
        """Return what follows a try that failed; ``seconds`` is how long it would be waited for by itself."""
        return Wait(seconds)

    def sleep(self, seconds: float) -> None:
        """Wait before a try is repeated."""
        time.sleep(seconds)


class Client:
    """A connection pool to one endpoint. Several threads may use it at once.

    ``key`` is the API key or None; ``deadline`` gives the monotonic time after which no retry is waited for;
    ``waiting`` announces a wait that lasts; ``gate`` is passed by each try of each thread, where these are many, and
    none is waited for.
    """

    def __init__(
        self,
        settings: Settings,
        key: str | None,
        *,
        deadline: Callable[[], float | None],
        waiting: Waiting,
        gate: Gate | None = None,
    ) -> None:
        lazy.install()
        import httpx2

        trust = transport.begin_trust(settings)
        load()
        import openai

        self.url = protocol.url(settings, protocol.CHAT)
        self.retries = 0
        self._settings = settings
        self._key = key
        self._deadline = deadline
        self._waiting = waiting
        self._gate = gate or Gate()
        self._watch = Watch() if gate else None
        self._here = local()
        self._reached = -inf  # when a server has answered last
        self._refused: set[str] = set()
        signed = key or any(name.lower() == "authorization" for name in settings.headers)
        self._unsigned = {} if signed else {"Authorization": openai.Omit()}
        try:
            self._http = httpx2.Client(
                transport=transport.to_endpoint(settings, trust),
                timeout=httpx2.Timeout(settings.idle_timeout, connect=settings.connect_timeout, pool=None),
                trust_env=False,
                event_hooks={"request": [self._trace], "response": [transport.bound]},
            )
            self._sdk = _sdk(settings, key, self._http)
        except (httpx2.InvalidURL, ValueError) as error:
            raise ConfigError(f"the address {masked(self.url)} cannot be used: {error}") from error

    def close(self) -> None:
        """Close what is open, for a program that goes on."""
        self._http.close()

    def _trace(self, request: httpx2.Request) -> None:
        link: Link = self._here.link

        def trace(name: str, info: dict[str, Any]) -> None:
            if name.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
                link.connected = True

        if not link.connected:
            request.extensions["trace"] = trace

    @property
    def refused(self) -> frozenset[str]:
        """The fields of requests that the endpoint has refused so far."""
        return frozenset(self._refused)

    # One request and its repetitions

    def stream(self, request: Request, *, repeatable: Callable[[], bool]) -> Iterator[Event]:
        """Ask, and yield what the server says until the answer has ended.

        ``repeatable`` is asked before a try is repeated: whether nothing of it was passed on.

        :raises Failure: of the kind that gptpipe(1) documents under EXIT STATUS.
        """
        return self._repeat(lambda: self._answer(request), repeatable)

    def models(self) -> list[str]:
        """Return the names of the models that the endpoint offers, in its order.

        :raises Failure: as :meth:`stream`.
        """
        found: list[str] = []
        for _ in self._repeat(lambda: self._listing(found), lambda: True):
            pass
        return found

    def _repeat(self, attempt: Callable[[], Iterator[Event]], repeatable: Callable[[], bool]) -> Iterator[Event]:
        tries = waits = 0
        dropped: set[str] = set()
        while True:
            try:
                yield from attempt()
                return
            except _FieldRefused as refused:
                failure = self._masked(refused.failure)
                if refused.field in dropped or not repeatable():
                    raise failure from None
                dropped.add(refused.field)
                self._refused.add(refused.field)  # by the other threads' next requests too
                yield Again(failure)
            except Failure as failure:
                self._masked(failure)
                wait = self._gate.failed(failure, _pause(failure, tries))
                if not isinstance(failure, Temporary) or not failure.repeat or not repeatable():
                    raise
                if wait.last or waits >= _MOST_WAITS or (tries >= self._settings.retry and not wait.free):
                    raise
                delay = wait.seconds
                until = self._deadline()
                if until is not None and time.monotonic() + delay > until:
                    raise Temporary(
                        f"{failure.message}; the next try is due in {delay:.0f} s, after --max-time"
                    ) from None
                tries += not wait.free
                waits += 1
                self.retries += 1
                yield Again(failure)
                with self._waiting(
                    f"{failure.message}; trying again in {delay:.0f} s, --max-time or --retry 0 ends it"
                ):
                    self._gate.sleep(delay)

    # One try

    def _answer(self, request: Request) -> Iterator[Event]:
        self._gate.enter(request)
        spoken = self._spoken(request)
        body = spoken.body(request, self._settings, self._refused)
        with self._link() as link:
            link.start(lambda: self._post(spoken.path, body))
            head = self._head(link, request)
            self._reached = time.monotonic()
            self._gate.opened()
            yield Opened(head.request_id)
            blocks = self._blocks(link)
            first = self._first(blocks)
            start = first.lstrip()[:1]
            if start in (b"{", b"["):
                yield from self._whole(self._all(first, blocks), spoken)
            elif start == b"<":
                raise self._foreign(first, spoken)
            else:
                yield from self._events(first, link, head, spoken)

    def _spoken(self, request: Request) -> Protocol:
        """Return the protocol for a request: the other one if the endpoint has asked for it."""
        chosen = protocol.of(self._settings, request)
        return protocol.RESPONSES if chosen.name in self._refused else chosen

    def _link(self) -> Link:
        if self._watch and time.monotonic() - self._reached < _RECENT:
            return Direct(self._here, self._watch)
        return Link(self._here)

    def _first(self, blocks: Iterator[bytes]) -> bytes:
        """Return the first block that is not blank: it tells what kind of reply this is."""
        first = next(blocks, b"")
        if not first.strip():
            with self._waiting(_KEEP_ALIVES):
                first = next((block for block in blocks if block.strip()), b"")
        if not first:
            raise Temporary(f"{_CUT}: the server sent nothing", repeat=True)
        return first

    def _all(self, first: bytes, blocks: Iterator[bytes]) -> bytes:
        """Return a reply in one piece.

        :raises ProtocolError: if it is larger than an answer can be.
        """
        parts, size = [first], len(first)
        for block in blocks:
            parts.append(block)
            size += len(block)
            if size > sse.LARGEST:
                raise ProtocolError(f"{masked(self.url)} answered with more than {sse.LARGEST >> 20} MiB in one piece")
        return b"".join(parts)

    def _post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        import openai

        return self._sdk.post(
            path,
            body=body,
            cast_to=object,
            stream=True,
            stream_cls=openai.Stream[object],
            options={"headers": {"Accept": "text/event-stream, application/json", **self._unsigned}},
        ).response

    def _head(self, link: Link, request: Request | None = None) -> Head:
        """Wait until the server accepts the request."""
        try:
            item = link.head(self._settings.connect_timeout)
        except Empty:
            raise transport.unreached(self._settings) from None
        if isinstance(item, BaseException):
            raise self._translate(item, request)
        assert isinstance(item, Head)
        return item

    def _blocks(self, link: Link, ended: Callable[[], float | None] = lambda: None) -> Iterator[bytes]:
        """Yield the body's blocks until it ends, or for TAIL seconds after the time that ``ended`` returns."""
        while True:
            at = ended()
            left = None if at is None else at + TAIL - time.monotonic()
            if left is not None and left <= 0:
                return
            try:
                item = link.take(left)
            except Empty:
                return
            if isinstance(item, BaseException) and at is None:
                raise self._broken(item)
            if not isinstance(item, bytes):
                return
            yield item

    def _events(self, first: bytes, link: Link, head: Head, spoken: Protocol) -> Iterator[Event]:
        """Decode an event stream up to the end of the answer."""
        seen = _Seen()
        for event in self._announced(self._decoded(first, link, seen, spoken)):
            if seen.ended is not None and time.monotonic() > seen.ended + TAIL:
                return
            match event:
                case Done():
                    if seen.ended is None and seen.text:
                        yield Finish("stop")
                        seen.ended = time.monotonic()
                    if seen.ended is not None:
                        return
                    continue
                case Error(error) if seen.ended is None:
                    raise faults.from_event(error)
                case Malformed(data) if seen.ended is None:
                    if not seen.known and not head.event_stream:
                        raise self._foreign(data.encode(), spoken)
                    raise Temporary(f"{_CUT}: an event in it is not JSON", repeat=True)
                case Error() | Malformed():
                    return
                case Finish():
                    seen.ended = time.monotonic()
                case Text() | Refusal() | ToolCall():
                    seen.text = True
            seen.known = True
            yield event
            if seen.ended is not None and isinstance(event, Usage):
                return
        if seen.ended is not None:
            return
        if not seen.known and not head.event_stream:
            raise self._foreign(first, spoken)
        raise Temporary(f"{_CUT}: the server ended it without a finish reason", repeat=True)

    def _decoded(self, first: bytes, link: Link, seen: _Seen, spoken: Protocol) -> Iterator[Event]:
        """Yield the events of a stream; a failure at its end is raised after them, unless the answer has ended."""
        decoder = sse.Decoder(spoken.reader(self._settings.thinks))
        yield from _merged(decoder.feed(first))
        lost: Failure | None = None
        try:
            for block in self._blocks(link, lambda: seen.ended):
                # An event may also say nothing: an empty delta, again and again.
                yield from _merged(decoder.feed(block) or [KeepAlive()])
        except Failure as failure:
            lost = failure
        yield from decoder.close()
        if lost and seen.ended is None:  # the last event may have been whole, and the end of the answer
            raise lost

    def _announced(self, events: Iterator[Event]) -> Iterator[Event]:
        """Yield the events that say something; that none does for long is announced, once."""
        announced = False
        with ExitStack() as quiet:
            for event in events:
                if not isinstance(event, KeepAlive):
                    if not isinstance(event, Done):  # without text before it, it ends no wait
                        quiet.close()
                    yield event
                elif not announced:
                    announced = True
                    quiet.enter_context(self._waiting(_KEEP_ALIVES))

    def _whole(self, data: bytes, spoken: Protocol) -> Iterator[Event]:
        """Read a reply in one piece: an answer to a request without ``stream``, or an error."""
        try:
            body = json.loads(data)
        except RecursionError:
            raise self._foreign(data, spoken) from None
        except ValueError:
            raise Temporary(f"{_CUT}: the reply is not whole JSON", repeat=True) from None
        events = spoken.whole(body, self._settings.thinks) if isinstance(body, dict) else []
        if not events:
            raise self._foreign(data, spoken)
        finished = False
        for event in events:
            if isinstance(event, Error):
                raise faults.from_event(event.body)
            finished = finished or isinstance(event, Finish)
            yield event
        if not finished:
            yield Finish("stop")

    def _listing(self, found: list[str]) -> Iterator[Event]:
        with Link(self._here) as link:
            link.start(self._get_models)
            yield Opened(self._head(link).request_id)
            data = self._all(b"", self._blocks(link))
        try:
            entries = json.loads(data)["data"]
            found[:] = [str(entry["id"]) for entry in entries]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._foreign(data) from None

    def _get_models(self) -> httpx2.Response:
        import openai

        return self._sdk.get(
            "/models",
            cast_to=object,
            stream=True,
            stream_cls=openai.Stream[object],
            options={"headers": {**self._unsigned}},
        ).response

    # Batches

    def upload(self, path: str) -> str:
        """Send a file of batch requests, and return its id.

        :raises Failure: as :meth:`stream`.
        """

        def create(sdk: OpenAI) -> str:
            with open(path, "rb") as file:
                return _text(sdk.files.create(file=file, purpose="batch", extra_headers=self._unsigned).id)

        return self._typed(create)

    def create_batch(self, file: str) -> Batch:
        """Start a batch of the requests in an uploaded file. It is tried once: twice might be paid twice.

        :raises Failure: as :meth:`stream`.
        """
        return self._typed(
            lambda sdk: _batch(
                sdk.batches.create(
                    input_file_id=file,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    extra_headers=self._unsigned,
                )
            ),
            repeatable=False,
        )

    def batch(self, name: str) -> Batch:
        """Return a batch as it is now.

        :raises Failure: as :meth:`stream`.
        """
        return self._typed(lambda sdk: _batch(sdk.batches.retrieve(name, extra_headers=self._unsigned)))

    def cancel_batch(self, name: str) -> Batch:
        """Cancel a batch; what it has done stays.

        :raises Failure: as :meth:`stream`.
        """
        return self._typed(lambda sdk: _batch(sdk.batches.cancel(name, extra_headers=self._unsigned)))

    def download(self, file: str, path: str) -> None:
        """Write the content of a file at the provider to a path.

        :raises Failure: as :meth:`stream`.
        """

        def fetch(sdk: OpenAI) -> None:
            with sdk.files.with_streaming_response.content(file, extra_headers=self._unsigned) as reply:
                reply.stream_to_file(path)

        self._typed(fetch)

    def _typed(self, call: Callable[[OpenAI], Found], *, repeatable: bool = True) -> Found:
        """Return what a typed call of the SDK returns, under the limits and with the retries of every request."""
        found: list[Found] = []

        def called() -> None:
            try:
                found.append(call(self._sdk))
            except (AttributeError, TypeError, ValueError):  # the SDK does not look whether the fields are there
                raise ProtocolError(f"{masked(self._settings.base_url or '')} does not speak the Batch API") from None

        def attempt() -> Iterator[Event]:
            with Link(self._here) as link:
                link.run(called)
                yield Opened(self._head(link).request_id)

        for _ in self._repeat(attempt, lambda: repeatable):
            pass
        return found[0]

    # Failures

    def _foreign(self, data: bytes, spoken: Protocol | None = None) -> ProtocolError:
        """Return what a reply means that is not of the protocol, or not a list of models."""
        wanted, path = (spoken.title, spoken.path) if spoken else ("a list of models", "/models")
        # Without the key before it is shortened, or the half of one would be left.
        shown = self._clean(" ".join(data[:_PAGE].decode("utf-8", "replace").split())) or "nothing"
        where = masked(joined(self._settings.base_url or "", path))
        return ProtocolError(
            f"{where} answered with something that is not {wanted}: {shown[:60]}",
            "check the base URL (often it must end in /v1), and that no login page is in between",
        )

    def _clean(self, text: str) -> str:
        headers = self._settings.headers.values()
        # Of "Bearer KEY" the key alone is a secret too.
        words = (value.split()[-1] for value in headers if value.split())
        for secret in (self._key, *headers, *words, *secrets(self._settings.base_url or "")):
            if secret and len(secret) > 3:
                text = text.replace(secret, "***")
        return text

    def _masked(self, failure: Failure) -> Failure:
        """Return the failure without a key or header value that the server repeated in it."""
        failure.message = self._clean(failure.message)
        return failure

    def _translate(self, error: BaseException, request: Request | None) -> Exception:
        """Return what an exception of the worker means."""
        import openai

        if isinstance(error, openai.APIStatusError):
            return self._judged(error, request)
        if isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
            error = error.__cause__
        if isinstance(error, UnicodeEncodeError):
            return BadInput("the request is not UTF-8 text: an option or a variable holds other bytes")
        if failure := transport.failure(error, self._settings, self.url):
            return failure
        return error if isinstance(error, Exception) else RuntimeError(repr(error))

    def _judged(self, error: openai.APIStatusError, request: Request | None) -> Exception:
        """Return what a status means that is none of success: that a field of the request is refused, or a failure."""
        response = error.response
        text = self._clean(response.text)  # before it is shortened, or the half of a key would be left
        failure = faults.from_response(response.status_code, response.headers, text, masked(str(response.url)))
        if request is None:
            return failure
        spoken = self._spoken(request)
        if (
            faults.wants_responses(response.status_code, text)
            and spoken is protocol.CHAT
            and self._settings.api == "auto"
        ):
            return _FieldRefused(spoken.name, failure)
        if spoken is protocol.RESPONSES and faults.has_no_path(response.status_code, error.body):
            failure.hint = "the server may not have the Responses API: --api chat speaks Chat Completions"
        field = faults.refused_field(error.body) if response.status_code in (400, 422) else None
        if field is not None and self._matters(field, request):
            return _FieldRefused(field, failure)
        return failure

    def _matters(self, field: str, request: Request) -> bool:
        """Return whether the request without the field is another one."""
        body = self._spoken(request).body
        return body(request, self._settings, self._refused | {field}) != body(request, self._settings, self._refused)

    def _broken(self, error: BaseException) -> Exception:
        """Return what an exception in the midst of a reply means: its head was HTTP, so what follows was damaged."""
        import httpx2

        if isinstance(error, httpx2.RemoteProtocolError):
            return Temporary(f"{_CUT}: {transport.reason(error)}", repeat=True)
        return self._translate(error, None)


def _pause(failure: Failure, tries: int) -> float:
    """Return how many seconds the server asks to be left alone, or else what is usual."""
    asked = failure.retry_after if isinstance(failure, Temporary) else None
    return min(8.0, 0.5 * 2**tries) * random.uniform(0.75, 1.0) if asked is None else asked


def _sdk(settings: Settings, key: str | None, http: httpx2.Client) -> OpenAI:
    """Return the SDK over an HTTP client; it repeats nothing, and says nothing about the user's machine."""
    import openai

    class SDK(openai.OpenAI):
        def platform_headers(self) -> dict[str, str]:
            return {}  # finding them out runs ``uname`` in a process of its own

        @property
        def user_agent(self) -> str:
            return f"gptpipe/{__version__}"

    return SDK(
        api_key=key or "none",
        base_url=(settings.base_url or "http://echo.invalid/v1").partition("?")[0],
        default_query=query(settings.base_url or ""),
        default_headers=settings.headers,
        timeout=http.timeout,
        max_retries=0,
        http_client=http,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _batch(found: openai.types.Batch) -> Batch:
    counts = found.request_counts
    problems = (found.errors and found.errors.data) or []
    return Batch(
        _text(found.id),
        _text(found.status),
        (counts and counts.completed) or 0,
        (counts and counts.failed) or 0,
        (counts and counts.total) or 0,
        found.output_file_id,
        found.error_file_id,
        problems[0].message if problems else None,
    )


def _merged(events: list[Event]) -> Iterator[Event]:
    """Yield the events of one block, neighbouring pieces of text as one: they came together and leave together."""
    text: list[str] = []
    for event in events:
        if isinstance(event, Text):
            text.append(event.text)
            continue
        if text:
            yield Text("".join(text))
            text.clear()
        yield event
    if text:
        yield Text("".join(text))
