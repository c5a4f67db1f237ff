"""What an endpoint offers beside answers: files, batches and the list of models, through the typed calls of the SDK.

The SDK goes the way of every request, with its limits and tries. Documentation:
https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gptpipe.errors import BadInput, ProtocolError, Unavailable
from gptpipe.text.address import masked, query
from gptpipe.wire import faults, http, protocol
from gptpipe.wire.client import Client
from gptpipe.wire.events import Event, Finish
from gptpipe.wire.exchange import Exchange, Refused
from gptpipe.wire.protocol import Protocol
from gptpipe.wire.reply import foreign, refusal, whole

if TYPE_CHECKING:
    import httpx2
    import openai.types
    from openai import OpenAI

Found = TypeVar("Found")

# What providers say of a file with too many bytes or requests, and of an account with too many requests queued.
_TOO_LARGE = re.compile(
    r"(?=.*\b(?:too (?:large|big|many|long)|smaller|maximum|at most|limit|exceed))"
    r"(?=.*\b(?:files?|size|requests|lines|records|bytes|[kMG]i?B)\b)"
    r"(?!.*\b(?:billing|quota|tokens?|rate)\b)",
    re.I,
)
_QUEUE_FULL = re.compile(r"enqueued|token_limit_exceeded", re.I)

_PAGE = 100  # batches in a list, https://platform.openai.com/docs/api-reference/batch/list
_RAW = "x-stainless-raw-response"  # by this the SDK knows which of its calls a response belongs to


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

    @property
    def crowded(self) -> bool:
        """Whether it failed because the provider takes no more requests until others are done."""
        return self.status == "failed" and _QUEUE_FULL.search(self.problem or "") is not None

    @property
    def too_large(self) -> bool:
        """Whether it failed because it has too many requests, or its file too many bytes."""
        return self.status == "failed" and _TOO_LARGE.match(self.problem or "") is not None


class TooLarge(BadInput):
    """The provider does not take so many requests, or bytes, in a batch."""


def models(client: Client) -> list[str]:
    """Return the names of the models that the endpoint offers, in its order.

    :raises Failure: as ``Client.stream``, and so do the other functions.
    """

    def listed(sdk: OpenAI) -> list[str]:
        reply = sdk.models.with_raw_response.list()
        try:
            return [_text(model.id) for model in reply.parse().data]
        except (AttributeError, TypeError, ValueError):
            raise foreign(reply.content, client.way, "/models", "a list of models") from None

    return _called(client, "/models", listed)


def upload(client: Client, path: str) -> str:
    """Send a file of batch requests, and return its id.

    :raises TooLarge: if the provider wants smaller files.
    """

    def create(sdk: OpenAI) -> str:
        with open(path, "rb") as file:
            return _text(sdk.files.create(file=file, purpose="batch").id)

    with _sized():
        return _called(client, "/files", create)


def create(client: Client, file: str, endpoint: Any, window: Any) -> Batch:
    """Start a batch of the requests in an uploaded file. It is tried once: twice might be paid twice.

    ``endpoint`` is that of the requests, ``window`` the time in which they are to be done, as the provider names it.

    :raises TooLarge: if the provider wants smaller files.
    """

    def start(sdk: OpenAI) -> Batch:
        return _batch(sdk.batches.create(input_file_id=file, endpoint=endpoint, completion_window=window))

    with _sized():
        return _called(client, "/batches", start, repeatable=False)


@contextmanager
def _sized() -> Iterator[None]:
    """Tell a refusal of the size from others."""
    try:
        yield
    except (BadInput, Unavailable) as failure:
        said, _, words = failure.message.partition("): ")
        if said.endswith("(413") or (said.endswith(("(400", "(422")) and _TOO_LARGE.match(words)):
            raise TooLarge(failure.message) from None
        raise


def find(client: Client, file: str) -> Batch | None:
    """Return the batch that was started of an uploaded file, or None if there is none."""
    after: Any = None
    while True:
        page = _called(client, "/batches", partial(_page, after))
        for input_file, batch in page:
            if input_file == file:
                return batch
        if not page:
            return None
        after = page[-1][1].id


def _page(after: Any, sdk: OpenAI) -> list[tuple[str, Batch]]:
    """Return batches after one, the newest first, each with the id of its file."""
    more = {} if after is None else {"after": after}
    return [(batch.input_file_id, _batch(batch)) for batch in sdk.batches.list(limit=_PAGE, **more).data]


def endpoint_of(spoken: Protocol) -> str:
    """Return what requests of a protocol have as ``url``, and their batch as ``endpoint``."""
    return f"/v1{spoken.path}"


def retrieve(client: Client, name: str) -> Batch:
    """Return a batch as it is now."""
    return _called(client, "/batches", lambda sdk: _batch(sdk.batches.retrieve(name)))


def cancel(client: Client, name: str) -> Batch:
    """Cancel a batch; what it has done stays."""
    return _called(client, "/batches", lambda sdk: _batch(sdk.batches.cancel(name)))


def download(client: Client, file: str, path: str) -> None:
    """Write the content of a file at the provider to a path."""

    def fetch(sdk: OpenAI) -> None:
        with sdk.files.with_streaming_response.content(file) as reply:
            reply.stream_to_file(path)

    _called(client, "/files", fetch)


def answer(result: Mapping[str, Any]) -> Iterator[Event]:
    """Yield the events of one line of a result file.

    :raises Failure: if it holds an error.
    """
    response = result.get("response")
    if not isinstance(response, dict):
        raise faults.from_event(result.get("error"))
    body, code = response.get("body"), response.get("status_code")
    if body is None and (error := result.get("error")):  # as vLLM writes it: the body of an error, or its sentence
        body = error if isinstance(error, dict) else {"error": error}
    if code != 200 or not isinstance(body, dict):
        raise faults.from_response(code if isinstance(code, int) else 500, {}, json.dumps(body), "the batch")
    yield from list(whole(body, protocol.RESPONSES)) or [Finish("stop")]


def _called(client: Client, path: str, call: Callable[[OpenAI], Found], *, repeatable: bool = True) -> Found:
    """Return what a typed call of the SDK returns, under the limits and with the tries of every request."""
    found: list[Found] = []

    def ask(exchange: Exchange) -> None:
        import openai

        broken: BaseException | None = None
        try:
            found.append(call(_sdk(client, exchange)))
        except openai.APIConnectionError as error:
            broken = error.__cause__ or error
        except (AttributeError, TypeError, ValueError):  # the SDK does not look whether the fields are there
            raise ProtocolError(f"{masked(client.way.base)} does not speak the Batch API") from None
        if broken is not None:
            raise broken  # not above: it and the SDK's error would each be the cause of the other

    client.run(ask, path, repeatable=repeatable)
    return found[0]


def _sdk(client: Client, exchange: Exchange) -> OpenAI:
    """Return the SDK on the client's way, for one exchange. It repeats nothing."""
    # The SDK would send organisation, project and custom headers from the environment to any host.
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        del os.environ[name]
    import openai

    way = client.way

    def sending(request: httpx2.Request) -> None:
        for name in [name for name in request.headers if name.startswith("x-stainless-") and name != _RAW]:
            del request.headers[name]  # they describe the user's machine
        del request.headers["authorization"]
        request.headers.update(way.headers)

    def received(response: httpx2.Response) -> None:
        if not response.is_success:  # the SDK would read to its end, which may not come
            raise Refused(exchange.take(http.response(response)), refusal(exchange))

    over = way.client(exchange, event_hooks={"request": [sending], "response": [received]})
    return openai.OpenAI(
        api_key="none",
        base_url=way.base.partition("?")[0],
        default_query=query(way.base),
        timeout=over.timeout,
        max_retries=0,
        http_client=over,
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
