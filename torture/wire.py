"""Faults on the wire: a recorded answer, broken at every byte in every way, judged by a reading of its own.

``Recording`` is what a server sent; ``broken`` makes a fault of it; ``expected`` says what gptpipe may do then. The
reading knows nothing of ``gptpipe.wire.sse``: it takes the whole of what was sent, as RFC 9112 and the standard of
server-sent events have it, and the few fields of a chunk that matter to an answer.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from gptpipe.errors import Status
from torture.frame import Case, Rig, manners, parallel, session

TITLE = "Faults on the wire"

APIS = ("chat", "responses")
IDLE = 0.5  # seconds of --idle-timeout where the server falls silent; where it does not, none of it may pass
AT_ONCE = 12
LATEST = 15  # seconds for any run: retries, the idle timeout and the tail of an answer take less
JOBS = 32  # of a map, in which every byte meets every fault
EVERY = 3  # bytes meet a fault in a run of their own
PAUSE = 0.02  # seconds between the halves of a reply that is split

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
_CHUNK = {"id": "chatcmpl-9", "object": "chat.completion.chunk", "model": "m-1"}
# In UTF-8 as most servers send it, and escaped as others do: two, three and four bytes, and a surrogate pair.
_DELTAS: tuple[tuple[dict[str, str], str | None], ...] = (
    ({"role": "assistant", "content": ""}, None),
    ({"content": "Größe "}, None),
    ({"content": "语 \N{CAT}\n"}, None),
    ({"content": "last."}, None),
    ({}, "stop"),
)
_USAGE = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}
ANSWER = "Größe 语 \N{CAT}\nlast."


def _events(api: str) -> list[bytes]:
    """Return the events of the recorded answer, each as it left the server."""
    if api == "responses":
        return _responses()
    chunks: list[dict[str, Any]] = [
        {**_CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in _DELTAS
    ]
    texts = [json.dumps(chunk, ensure_ascii=not n % 2, separators=(",", ":")) for n, chunk in enumerate(chunks)]
    texts += [json.dumps({**_CHUNK, "choices": [], "usage": _USAGE}), "[DONE]"]
    return [f"data: {text}\n\n".encode() for text in texts]


def _responses() -> list[bytes]:
    """Return the same answer by the Responses API. As with LiteLLM, no event says which part a delta belongs to."""
    pieces = [delta["content"] for delta, _ in _DELTAS if delta.get("content")]
    begun = {"object": "response", "model": "m-1", "status": "in_progress", "output": []}
    usage = {"input_tokens": 9, "output_tokens": 7, "total_tokens": 16}
    values: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        *({"type": "response.output_text.delta", "delta": piece} for piece in pieces),
        {"type": "response.completed", "response": {**begun, "status": "completed", "usage": usage}},
    ]
    texts = [json.dumps(value, ensure_ascii=not n % 2, separators=(",", ":")) for n, value in enumerate(values)]
    return [f"event: {value['type']}\ndata: {text}\n\n".encode() for value, text in zip(values, texts, strict=True)]


class Recording(NamedTuple):
    """A reply as it went over the wire, by which protocol, and where its body begins."""

    api: str
    framing: str
    data: bytes
    head: int


def recordings(api: str) -> list[Recording]:
    """Return the answer in chunked coding, and with the end of the connection as its end."""
    events = _events(api)
    chunked = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    plain = _HEAD + b"Connection: close\r\n\r\n"
    coded = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in [*events, b""])
    return [
        Recording(api, "chunked", chunked + coded, len(chunked)),
        Recording(api, "close", plain + b"".join(events), len(plain)),
    ]


# Making faults


class Reply(NamedTuple):
    """What the server sends: pieces with a pause between them, and how it ends: end, reset, silence."""

    pieces: tuple[bytes, ...]
    ending: str = "end"

    @property
    def sent(self) -> bytes:
        """All of the bytes."""
        return b"".join(self.pieces)


_OTHERS = (b"\n", b"\r", b"\0", b"\xff", b'"', b"{", b":", b"9")


def broken(data: bytes, fault: str, at: int) -> Reply:
    """Return the reply with the fault at an offset."""
    before, byte, after = data[:at], data[at : at + 1], data[at + 1 :]
    other = next(other for other in _OTHERS[at % len(_OTHERS) :] + _OTHERS if other != byte)
    match fault:
        case "cut":
            return Reply((before,))
        case "reset":
            return Reply((before,), "reset")
        case "silence":
            return Reply((before,), "silence")
        case "split":
            return Reply((before, byte + after))
        case "bit flipped":
            return Reply((before + bytes([byte[0] ^ 1 << at % 8]) + after,))
        case "byte replaced":
            return Reply((before + other + after,))
        case "byte dropped":
            return Reply((before + after,))
        case "byte doubled":
            return Reply((before + byte + byte + after,))
    raise AssertionError(fault)


EACH = "each"
FAULTS = ("cut", "reset", "silence", "split", "bit flipped", "byte replaced", "byte dropped", "byte doubled")


# What may come of it


class Reading(NamedTuple):
    """What an answer says: its text, and the status that it earns."""

    text: str
    status: int
    finish: str | None


def read(body: bytes, api: str) -> Reading:
    """Read a stream of events."""
    lines = re.split(rb"\r\n|\n|\r", body.removeprefix(b"\xef\xbb\xbf"))
    ended = lines[-1] == b"" and lines[-2:-1] in ([b""], [])
    blocks: list[list[bytes]] = [[]]
    for line in lines:
        if line:
            blocks[-1].append(line)
        else:
            blocks.append([])
    blocks = [block for block in blocks if block]
    text, finish = "", None
    for number, block in enumerate(blocks):
        data = b"\n".join(line[5:].removeprefix(b" ") for line in block if line.startswith(b"data:")).decode(
            "utf-8", "replace"
        )
        if not data.strip():
            continue
        if data.strip() == "[DONE]":
            finish = finish or ("stop" if text and api == "chat" else None)
            if finish:
                break
            continue
        try:
            chunk = json.loads(data, strict=False)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            if finish or (number == len(blocks) - 1 and not ended):
                break  # after the end nothing counts, and a last event that breaks off is cut, not wrong
            return Reading(text, Status.TEMPFAIL, None)
        if finish is None:
            said, finish = _heard(chunk) if api == "chat" else _heard_response(chunk)
            text += said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if finish is None or finish.lower() != "stop":  # no word that means the end is a byte away from another
        return Reading(text, Status.TEMPFAIL, None)
    return Reading(text, Status.OK if text.strip() else Status.ABSENT, finish)


def _heard(chunk: dict[str, Any]) -> tuple[str, str | None]:
    """Return the text and the finish reason in a chunk of Chat Completions."""
    choice: Any = next(iter(chunk.get("choices") or ()), None)
    if not isinstance(choice, dict) or choice.get("index"):
        return "", None
    delta, reason = choice.get("delta"), choice.get("finish_reason")
    said = delta.get("content") if isinstance(delta, dict) else None
    return said if isinstance(said, str) else "", reason if isinstance(reason, str) and reason else None


def _heard_response(event: dict[str, Any]) -> tuple[str, str | None]:
    """Return the text in an event of the Responses API, and whether it is the end of the answer."""
    said = event.get("delta") if event.get("type") == "response.output_text.delta" else None
    return said if isinstance(said, str) else "", "stop" if event.get("type") == "response.completed" else None


def dechunk(data: bytes) -> bytes:
    """Return the body in chunked coding, as far as it is one."""
    body = b""
    while header := re.match(rb"([0-9A-Fa-f]{1,20})[ \t]*(;[^\r\n]*)?\r\n", data):
        size = int(header[1], 16)
        data = data[header.end() :]
        if size == 0:
            return body
        body += data[:size]
        if len(data) < size or data[size : size + 2] != b"\r\n":
            return body
        data = data[size + 2 :]
    return body


class Expected(NamedTuple):
    """What gptpipe may make of a reply: one of these readings, or a prefix of one's text with another status."""

    readings: list[Reading]
    otherwise: frozenset[int]


_REFUSALS = frozenset({Status.DATAERR, Status.UNAVAILABLE, Status.TEMPFAIL, Status.PROTOCOL, Status.NOPERM})


def expected(recording: Recording, reply: Reply, at: int) -> Expected:
    """Return what may come of a reply that was broken at an offset."""
    in_head = at < recording.head and reply.ending == "end" and len(reply.pieces) == 1
    body = recording.data[recording.head :] if in_head else reply.sent[recording.head :]
    coded, plain = read(dechunk(body), recording.api), read(body, recording.api)
    if in_head:
        # A head that was changed can say anything; what it frames is read either way, or not at all.
        return Expected([coded, plain], _REFUSALS)
    reading = coded if recording.framing == "chunked" else plain
    # A reset may overtake what was sent before it.
    return Expected([reading], frozenset({Status.TEMPFAIL}) if reply.ending == "reset" else frozenset())


def judge(result_text: bytes, status: int, wanted: Expected, *, streamed: bool) -> str:
    """Return why text and status are not what may come, or nothing."""
    for reading in wanted.readings:
        line = reading.text if reading.text.endswith("\n") or not reading.text else reading.text + "\n"
        shown = line if streamed or reading.status == Status.OK else ""
        if status == reading.status and result_text == shown.encode():
            return ""
    if status in wanted.otherwise:
        texts = [reading.text for reading in wanted.readings] if streamed else [""]
        if any(text.encode().startswith(result_text.removesuffix(b"\n")) for text in texts):
            return ""
    return f"status {status} and {result_text!r} instead of {wanted}"


# The server


class FaultServer:
    """Sends replies that were put under a path, the last one for every further request. A context manager.

    Under EACH the reply is that of the name which is the question.
    """

    def __init__(self) -> None:
        self._replies: dict[str, list[Reply]] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # closing it alone leaves the thread, and the port to the next server
        self._acceptor.join()
        self._listener.close()

    def put(self, path: str, *replies: Reply) -> str:
        """Return the base URL under which these replies come, one after the other."""
        self._replies[path] = list(replies)
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/{path}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Take one request, send its reply, end the connection as the reply says."""
        with connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            replies = self._replies[self._request(connection)]
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
            for number, piece in enumerate(reply.pieces):
                if number:
                    time.sleep(PAUSE)
                if number == len(reply.pieces) - 1 and reply.ending == "end":
                    # The end leaves with the last bytes: a client that has read them sees that the connection is over.
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
                connection.sendall(piece)
            if reply.ending == "silence":
                connection.settimeout(LATEST)
                connection.recv(1)  # until the client goes
            elif reply.ending == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _request(self, connection: socket.socket) -> str:
        """Read a request to its end, and return the name of its reply."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536) or b"\r\n\r\n"
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        while len(body) < size and (more := connection.recv(65536)):
            body += more
        path = head.split(b"/", 2)[1].split(b"/")[0].decode()
        asked = json.loads(body) if path == EACH else {}
        return (asked.get("messages") or asked["input"])[-1]["content"] if path == EACH else path


# The cases


class Trial(NamedTuple):
    """One fault at one byte, and how gptpipe is called. ``mode`` is stream, --no-stream, -o or --json."""

    recording: Recording
    fault: str
    at: int
    mode: str
    retry: bool = False

    def __str__(self) -> str:
        again = ", tried again" if self.retry else ""
        return f"{self.recording.api}, {self.recording.framing}, {self.fault} at {self.at}, {self.mode}{again}"


def trials(api: str) -> Iterator[Trial]:
    """Yield some faults at every byte, each at every third; the ways of writing take turns."""
    chunked, plain = recordings(api)
    modes = ("--no-stream", "-o", "--json")
    for at in range(len(chunked.data) + 1):
        for number, fault in enumerate(FAULTS):
            if (at + number) % EVERY or (at == len(chunked.data) and fault in FAULTS[4:]):
                continue  # there is no byte behind the last
            yield Trial(chunked, fault, at, "stream")
            if at < len(plain.data) and fault in ("cut", "bit flipped", "byte dropped"):
                yield Trial(plain, fault, at, modes[(at + number) // EVERY % 3])
        if at % 8 == 0:
            yield Trial(chunked, ("cut", "reset")[at // 8 % 2], at, ("stream", "--no-stream")[at // 16 % 2], True)


def attempt(rig: Rig, server: FaultServer, trial: Trial) -> Case:
    """Run gptpipe against one fault, and judge status, output and session."""
    reply = broken(trial.recording.data, trial.fault, trial.at)
    replies = [reply, Reply((trial.recording.data,))] if trial.retry else [reply]
    url = server.put(re.sub(r"\W+", "-", str(trial)), *replies)
    idle = f"{IDLE if reply.ending == 'silence' else LATEST}"
    flags = {"stream": [], "-o": ["-o", "answer"]}.get(trial.mode, [trial.mode])
    call = [
        "--base-url",
        url,
        "--api",
        trial.recording.api,
        "-m",
        "m",
        "-s",
        "s",
        "--idle-timeout",
        idle,
        "--retry",
        str(int(trial.retry)),
        *flags,
    ]
    with rig.home() as home:
        result = rig.run(home, "gptpipe", *call, "--", "hi", timeout=LATEST)
        out = _written(home, result.out, trial.mode)
        wanted = expected(trial.recording, reply, trial.at)
        if trial.retry and (trial.mode != "stream" or not wanted.readings[0].text):
            wanted = Expected([read(b"".join(_events(trial.recording.api)), trial.recording.api)], frozenset())
        wrong = manners(result) or judge(out, result.status, wanted, streamed=trial.mode == "stream")
        wrong = wrong or _unkept(home, out, result.status, trial.mode)
    return Case(str(trial), not wrong, f"{wrong}; {result}" if wrong else "")


def _written(home: Path, out: bytes, mode: str) -> bytes:
    """Return the answer where the mode puts it."""
    if mode == "-o":
        path = home / "answer"
        return path.read_bytes() if path.exists() else b""
    if mode == "--json" and out:
        answer: str = json.loads(out)["answer"]
        return answer.encode().removesuffix(b"\n") + b"\n"
    return out


def _unkept(home: Path, out: bytes, status: int, mode: str) -> str:
    """Return how the session disagrees with status and output, or nothing."""
    turns = session(home)
    shown = out.decode().removesuffix("\n")
    if status == Status.OK or (out and mode == "stream"):
        if len(turns) != 1:
            return f"{len(turns)} turns in the session"
        (turn,) = turns
        if turn["messages"][-1]["content"].removesuffix("\n") != shown:
            return f"the session has {turn['messages'][-1]['content']!r}"
    if any((turn["finish_reason"] is None) != (status == Status.TEMPFAIL) for turn in turns):
        return f"status {status}, but the session says {turns[-1]['finish_reason']!r}"
    return ""


def in_one_run(rig: Rig, server: FaultServer, api: str, fault: str) -> Iterator[Case]:
    """Run gptpipe-map once, with a record for each byte that has the fault, and judge each result.

    A server that closes connections before a head is one that is not there: some in a row would hold the map. A reset
    can take back the head that was sent.
    """
    recording = recordings(api)[0]
    places = range(recording.head if fault == "cut" else 0, len(recording.data))
    replies = {f"{fault} at {at}": (at, broken(recording.data, fault, at)) for at in places}
    for name, (_, reply) in replies.items():
        server.put(name, reply)
    url = server.put(EACH, Reply((recording.data,)))
    silent = any(reply.ending == "silence" for _, reply in replies.values())
    limits = ["--idle-timeout", str(IDLE if silent else LATEST), "--retry", "0"]
    lines = "".join(f"{name}\n" for name in replies).encode()
    with rig.home() as home:
        call = ["gptpipe-map", "--base-url", url, "--api", api, "-m", "m", "-j", str(JOBS), *limits, "{}"]
        result = rig.run(home, *call, stdin=lines, timeout=len(replies) / JOBS * (IDLE + 1) + LATEST)
    rows = [json.loads(line) for line in result.out.splitlines()]
    if wrong := manners(result) or (len(rows) != len(replies) and f"{len(rows)} results of {len(replies)} records"):
        yield Case(f"a map, {api}, {fault}", False, f"{wrong}; {result.err}")
    for row in rows:
        at, reply = replies[row["record"]]
        text = f"{row['answer']}".removesuffix("\n") + "\n" if "answer" in row else ""
        status = row["error"]["status"] if "error" in row else 0
        wrong = judge(text.encode(), status, expected(recording, reply, at), streamed=False)
        yield Case(f"a map, {api}, {row['record']}", not wrong, wrong and f"{wrong}; {row}")


def cases(rig: Rig) -> Iterator[Case]:
    """Break the answer at every byte."""
    with FaultServer() as server:
        for api in APIS:
            yield from parallel(lambda trial: attempt(rig, server, trial), trials(api), AT_ONCE)
            for fault in FAULTS:
                if fault != "reset":
                    yield from in_one_run(rig, server, api, fault)
