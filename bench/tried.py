"""What could save round trips to a server 50 ms away, and does not: ``python -m bench.tried``.

TLS session resumption is measured with Python's ``ssl``: TCP, TLS and one answer, each time on a new connection. HTTP/2
is measured with curl, which speaks both versions: one question, and 64 at once. Debian's ``nghttpx`` stands before the
server of the benchmarks, and the relay of :mod:`bench.far` before both. Each figure is the median of 15 runs in turns.
"""

from __future__ import annotations

import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import server
from bench.far import AWAY, certificate
from bench.tools import debian

_RUNS = 15
_AT_ONCE = 64
_BODY = b'{"model":"chunks-20","stream":true,"messages":[{"role":"user","content":"hi"}]}'
_REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: far\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


def medians(kinds: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each kind, run in turns after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(_RUNS + 1):
        for name, work in kinds.items():
            began = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def resumption(port: int, authority: Path) -> dict[str, Callable[[], object]]:
    """Return an answer over a new connection, with the session of an earlier one and without."""
    context = ssl.create_default_context(cafile=str(authority))

    def ask(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        plain = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as secure:
            assert secure.session_reused is (session is not None)
            secure.sendall(_REQUEST)
            answer = b""
            while b"[DONE]" not in answer:
                answer += secure.recv(1 << 16)
            return secure.session

    session = ask(None)  # a ticket of TLS 1.3 comes after the handshake
    return {"TLS, no session": lambda: ask(None), "TLS, resumed": lambda: ask(session)}


def versions(port: int, authority: Path) -> dict[str, Callable[[], object]]:
    """Return one question and 64 at once, by HTTP/1.1 and by HTTP/2."""

    def ask(version: str, times: int) -> None:
        url = f"https://127.0.0.1:{port}/v1/chat/completions"
        at_once = ("--parallel", "--parallel-max", str(times)) if times > 1 else ()
        argv = ["curl", f"--http{version}", "-sN", "--cacert", str(authority), "-d", _BODY.decode(), *at_once]
        form = ["-w", "\nHTTP/%{http_version}\n"]
        done = subprocess.run([*argv, *form, *[url] * times], capture_output=True, text=True, check=True)
        assert done.stdout.count(f"\nHTTP/{version.removesuffix('.0')}\n") == times
        assert done.stdout.count("[DONE]") == times

    return {
        f"HTTP/{version}, {times} at once": lambda version=version, times=times: ask(version, times)  # type: ignore[misc]
        for times in (1, _AT_ONCE)
        for version in ("1.1", "2")
    }


def main() -> None:
    """Print the medians."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        authority = certificate(Path(folder))

        def start(*argv: str) -> int:
            process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            stack.callback(process.terminate)
            assert process.stdout
            return int(process.stdout.readline())

        near = start(sys.executable, server.__file__, str(authority))
        far = start(sys.executable, "-m", "bench.far", str(near), str(AWAY))
        kinds = resumption(far, authority)
        if debian("nghttpx", "nghttp2-proxy") and debian("curl"):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            plain = start(sys.executable, server.__file__)
            quiet = ["--conf=/dev/null", "--no-ocsp", "--workers=1", "--single-thread"]
            listen = [f"-f127.0.0.1,{port}", f"-b127.0.0.1,{plain}", f"{authority}.key", str(authority)]
            front = stack.enter_context(subprocess.Popen(["nghttpx", *quiet, *listen], stderr=subprocess.DEVNULL))
            stack.callback(front.terminate)
            kinds |= versions(start(sys.executable, "-m", "bench.far", str(port), str(AWAY)), authority)
        for name, seconds in medians(kinds).items():
            print(f"{name:24}{seconds * 1000:8.1f} ms")


if __name__ == "__main__":
    main()
