"""A fork server: runs the programs in real processes without paying for their imports each time.

A single-threaded helper that has imported gptpipe and its heavy libraries once. Over a Unix socket it is sent
argv, environment and folder of a call, with the descriptors of its standard streams; it forks, and the child
becomes what the console script would have been: descriptors 0 to 2 and no others, default signal actions, a
session of its own. ``tests/conftest.py`` is the other side.

A request is the length of what follows in 4 bytes, sent along with four descriptors (standard input, output,
error, and a pipe for the report), then JSON. The report is two lines: the child's pid, and its wait status.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import termios
import threading
import traceback
from typing import Any, NoReturn

import gptpipe
from tests.harness import guard

HEAVY = ("openai", "h11", "httpx2", "tiktoken", "jsonschema", "tqdm", "prompt_toolkit")


def preload() -> None:
    """Import what the programs import. What does not import fails the call that needs it, where it is seen."""
    for module in pkgutil.walk_packages(gptpipe.__path__, "gptpipe."):
        if module.name != "gptpipe.__main__":
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    for name in HEAVY:
        importlib.import_module(name)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next request and its descriptors, or None when the tests are over."""
    header, fds, _, _ = socket.recv_fds(connection, 4, 4)
    if not header:
        return None
    left = int.from_bytes(header)
    data = bytearray()
    while len(data) < left:
        data += connection.recv(left - len(data))
    request: dict[str, Any] = json.loads(data)
    return request, fds


def become(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """Be the program that the request names, to the end of this process."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    for target, fd in enumerate(fds[:3]):
        os.dup2(fd, target)
    os.closerange(3, 1 << 16)
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    os._exit(call(sys.argv[0]))


def call(program: str) -> int:
    """Call the console script's function as the interpreter would, and return the status it exits with."""
    try:
        name = program.removeprefix("gptpipe").removeprefix("-") or "filter"
        code = getattr(importlib.import_module("gptpipe.programs.start"), name)()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    sys.stdout.flush()
    return (code or 0) & 0xFF


def serve(connection: socket.socket) -> None:
    """Fork for each request and report each end, until the other side closes."""
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([connection.fileno(), wake], [], [])
        if connection.fileno() in ready:
            received = receive(connection)
            if received is None:
                break
            request, fds = received
            pid = os.fork()
            if pid == 0:
                become(request, fds)
            for fd in fds[:3]:
                os.close(fd)
            children[pid] = fds[3]
            report(fds[3], pid)
        if wake in ready:
            os.read(wake, 4096)
            reap(children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def reap(children: dict[int, int]) -> None:
    """Report every child that has ended since."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        fd = children.pop(pid)
        report(fd, status)
        os.close(fd)


def report(fd: int, number: int) -> None:
    """Send one line; a test that has stopped listening is no error."""
    with contextlib.suppress(BrokenPipeError):
        os.write(fd, b"%d\n" % number)


if __name__ == "__main__":
    preload()
    guard.install()
    gc.collect()
    gc.freeze()  # children share the pages of what is loaded instead of copying them at their first collection
    serve(socket.socket(fileno=int(sys.argv[1])))
