"""The loopback server of the benchmarks: it prints its port, and does next to nothing while it is measured.

A model's name says what it answers: ``chunks-N`` N words as fast as they are read, from bytes that were made before;
``paced-N`` N times the nanoseconds of the monotonic clock, 200 a second, each written as ``t…t`` just before it is
sent; ``late-N`` one word after N milliseconds. ``chunks-N`` is there by the Responses API too. As most servers do, it
sends each event as an HTTP chunk of its own.
Given a file with a key and a certificate it speaks TLS.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

RATE = 200

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_MODEL = re.compile(rb'"model":\s*"(chunks|paced|late)-(\d+)"')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


def frame(data: bytes) -> bytes:
    """Return bytes as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(delta: dict[str, str], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return frame(f"data: {json.dumps(chunk)}\n\n".encode())


def words(count: int) -> bytes:
    return b"".join(event({"content": f"word{n} "}) for n in range(1, count + 1))


def typed(name: str, **fields: object) -> bytes:
    """Return an event of the Responses API, as OpenAI sends it."""
    value = {"type": f"response.{name}", "sequence_number": 1, **fields}
    return frame(f"event: response.{name}\ndata: {json.dumps(value)}\n\n".encode())


def deltas(count: int) -> bytes:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    return b"".join(typed("output_text.delta", **place, delta=f"word{n} ") for n in range(1, count + 1))


def clock(count: int) -> Iterator[bytes]:
    due = time.monotonic()
    for _ in range(count):
        due += 1 / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        yield event({"content": f"t{time.monotonic_ns()}t\n"})


START = _HEAD + event({"role": "assistant", "content": ""})
END = event({}, "stop") + frame(b"data: [DONE]\n\n") + b"0\r\n\r\n"
SHORT = START + words(1) + END
WORDS = {count: words(count) for count in (20, 20_000)}

RESPONSE = {"id": "resp_1", "object": "response", "model": "m", "output": []}
RESPONSE_START = _HEAD + typed("created", response={**RESPONSE, "status": "in_progress"})
RESPONSE_END = typed("completed", response={**RESPONSE, "status": "completed"}) + b"0\r\n\r\n"
DELTAS = {count: deltas(count) for count in (20, 20_000)}


def read_request(stream: BinaryIO, connection: socket.socket) -> bytes | None:
    """Return a request's head and body, or None when the client is gone."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return None
        head += line
    if b"100-continue" in head:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = _LENGTH.search(head)
    return head + (stream.read(int(length[1])) if length else b"")


def serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as stream:
        while (request := read_request(stream, connection)) is not None:
            found = _MODEL.search(request)
            kind, count = (found[1], int(found[2])) if found else (b"chunks", 20)
            if b"/responses HTTP/" in request:
                connection.sendall(RESPONSE_START + DELTAS[count] + RESPONSE_END)
            elif kind == b"chunks":
                connection.sendall(START + WORDS[count] + END)
            elif kind == b"late":
                time.sleep(count / 1000)
                connection.sendall(SHORT)
            else:
                connection.sendall(START)
                for block in clock(count):
                    connection.sendall(block)
                connection.sendall(END)


def main() -> None:
    context = None
    if len(sys.argv) > 1:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=quietly, args=(connection, context), daemon=True).start()


def quietly(connection: socket.socket, context: ssl.SSLContext | None) -> None:
    try:
        serve(context.wrap_socket(connection, server_side=True) if context else connection)
    except OSError:
        pass  # the client went away


if __name__ == "__main__":
    main()
