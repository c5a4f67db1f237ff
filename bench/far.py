"""The row of a server that is far away: TLS, behind a relay that holds back each direction.

The relay is a program of its own, ``python -m bench.far PORT MILLISECONDS``: it prints its port, and passes on what
comes to PORT of this machine. A connection to it stands at once, because the kernel answers, so it lets the first bytes
wait for as long as the handshake of TCP would have taken. ``python -m bench.far`` is a proxy for it, without delay.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import server
from bench.measure import Command, Run, run
from bench.rows import LAST_OF_20, PROMPT, Finding, Place, Promise, measured

AWAY = 50  # milliseconds to the server and back
_PIECE = 1 << 16


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float, begin: float) -> None:
    """Pass bytes on, each ``delay`` after it came, and none that came before ``begin``."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def write() -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                target.close()
                return
            target.write(data)

    writing = asyncio.create_task(write())
    while True:
        try:
            data = await source.read(_PIECE)
        except OSError:
            data = b""
        waiting.put_nowait((max(loop.time(), begin) + delay, data))
        if not data:
            await writing
            return


async def _relay(port: int, delay: float) -> None:
    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begin = asyncio.get_running_loop().time() + 2 * delay
        behind, to = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pass_on(reader, to, delay, begin), _pass_on(behind, writer, delay, begin))

    await _serve(meet)


async def _proxy() -> None:
    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        host, _, port = head.split()[1].decode().rpartition(":")
        behind, to = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(_pass_on(reader, to, 0, 0), _pass_on(behind, writer, 0, 0))

    await _serve(meet)


async def _serve(meet: object) -> None:
    found = await asyncio.start_server(meet, "127.0.0.1", 0)  # type: ignore[arg-type]
    print(found.sockets[0].getsockname()[1], flush=True)
    await found.serve_forever()


def certificate(folder: Path) -> Path:
    """Return a file with a key and a certificate for this machine."""
    path = folder / "far.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=far"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{path}.key", "-out", str(path)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.key").read_bytes())
    return path


def _moved(command: Command, url: str, authority: Path, *more: str) -> Command:
    """Return a command that goes to another address, and trusts its certificate."""
    old = re.compile(r"http://127\.0\.0\.1:\d+/v1")
    trust = {"SSL_CERT_FILE": str(authority), "CURL_CA_BUNDLE": str(authority), "OPENAI_API_KEY": "sk-loopback"}
    env = {name: old.sub(url, value) for name, value in command.env.items()}
    program, *rest = (old.sub(url, word) for word in command.argv)
    return Command([program, *more, *rest], {**env, **trust})


def _second_turn(command: Command) -> Run:
    """Return how long the second turn of a chat takes: from the question to the last word of the answer."""
    with subprocess.Popen(
        command.argv, env=command.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stdin
        assert child.stdout
        for _ in range(2):
            began, seen = time.perf_counter(), b""
            child.stdin.write(PROMPT.encode() + b"\n")
            while LAST_OF_20 not in seen:
                seen += child.stdout.read(_PIECE)
        seconds = time.perf_counter() - began
        child.stdin.close()
        child.wait()
    return Run(seconds, 0)


def far(place: Place) -> Iterator[Finding]:
    """A question to a server 50 ms away over TLS, also by a proxy that far away, and the second turn of a chat."""
    authority = certificate(place.folder)
    with ExitStack() as stack:

        def start(*argv: str) -> int:
            process = stack.enter_context(subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, text=True))
            stack.callback(process.terminate)
            assert process.stdout
            return int(process.stdout.readline())

        near = start(server.__file__, str(authority))
        port, proxy = (start("-m", "bench.far", str(to), str(AWAY)) for to in (near, start("-m", "bench.far")))
        url, by_proxy = f"https://127.0.0.1:{port}/v1", ("--proxy", f"http://127.0.0.1:{proxy}")
        kinds: dict[str, Command] = {}
        for name in ("gptpipe", "ten lines", "curl"):
            if name in place.tools:
                kinds[name] = _moved(place.tools[name].command("chunks-20", PROMPT), url, authority)
        for name in ("gptpipe", "curl"):
            if name in place.tools:
                command = place.tools[name].command("chunks-20", PROMPT)
                kinds[f"{name} --proxy"] = _moved(command, f"https://127.0.0.1:{near}/v1", authority, *by_proxy)
        program, *options = place.tools["gptpipe"].ask("chunks-20", None)
        chat = _moved(Command([f"{program}-chat", *options], place.tools["gptpipe"].env), url, authority)
        runs: Mapping[str, partial[Run]] = {name: partial(run, command, LAST_OF_20) for name, command in kinds.items()}
        found = measured("50 ms away", {**runs, "second turn of a chat": partial(_second_turn, chat)}, place.runs)
    yield from found.values()
    for other, limit in (("curl", 1.25), ("ten lines", 0.40)):
        if other in found:
            value = found["gptpipe"].seconds / found[other].seconds
            yield Promise("50 ms away", f"time, that of {other} being 1", value, limit)
    value = found["second turn of a chat"].seconds / (AWAY / 1000)
    yield Promise("50 ms away", "the second turn, in round trips", value, 1.2)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(_relay(int(sys.argv[1]), int(sys.argv[2]) / 2000))
    else:
        asyncio.run(_proxy())
