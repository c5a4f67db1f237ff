"""Any number of records through ``gptpipe-batch``, two batches queued at a time: time, CPU and peak memory.

``python -m bench.batches [--records 1000000]`` runs ``submit --wait`` and ``fetch`` against a Batch API on loopback
that keeps its files on disk, in a process of its own. A batch ends when it is looked at the second time. In the end
every record must have been asked once, and have its own answer.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.request import urlopen

MIB = 1 << 20
_CUSTOM_ID = re.compile(rb'"custom_id":"((\d+)-[0-9a-f]+)"')
_TAIL = (
    b'","response":{"status_code":200,"request_id":"r","body":{"id":"c","object":"chat.completion","model":"m",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}},"error":null}\n'
)


class API(ThreadingHTTPServer):
    """The Batch API; ``asked`` counts for each record how often it was asked."""

    def __init__(self, folder: Path, records: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.asked = bytearray(records + 1)
        self.looks: dict[str, int] = {}
        self.busiest = 0

    def start(self, file: str) -> str:
        """Answer all requests of a file; return the name of the batch."""
        name = f"batch_{len(self.looks) + 1}"
        with (self.folder / file).open("rb") as requests, (self.folder / f"{name}-out").open("wb") as results:
            for line in requests:
                found = _CUSTOM_ID.search(line)
                assert found
                self.asked[int(found[2])] += 1
                results.write(b'{"id":"x","custom_id":"' + found[1] + _TAIL % found[2])
        (self.folder / file).unlink()
        self.looks[name] = 0
        self.busiest = max(self.busiest, sum(looks < 2 for looks in self.looks.values()))
        return name


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: API

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        if self.path == "/v1/batches":
            self._reply(self.server.start(json.loads(self.rfile.read(size))["input_file_id"]), "validating")
            return
        name = f"file-{time.monotonic_ns()}"
        with (self.server.folder / name).open("wb") as file:
            while size:
                block = self.rfile.read(min(size, MIB))
                size -= len(block)
                file.write(block)
        # Without the head and the end of the form.
        data = (self.server.folder / name).read_bytes()
        begin, end = data.index(b'{"custom_id"'), data.rindex(b"}\n") + 2
        (self.server.folder / name).write_bytes(data[begin:end])
        self._json({"id": name, "object": "file"})

    def do_GET(self) -> None:
        if self.path == "/stats":
            once = self.server.asked.count(1)
            self._json({"once": once, "batches": len(self.server.looks), "busiest": self.server.busiest})
        elif self.path.startswith("/v1/batches/"):
            name = self.path.rpartition("/")[2]
            self.server.looks[name] += 1
            self._reply(name, "completed" if self.server.looks[name] > 1 else "in_progress")
        else:
            path = self.server.folder / self.path.split("/")[3]
            self.send_response(200)
            self.send_header("content-length", str(path.stat().st_size))
            self.end_headers()
            with path.open("rb") as file:
                shutil.copyfileobj(file, self.wfile)

    def _reply(self, name: str, status: str) -> None:
        file = f"{name}-out" if status == "completed" else None
        self._json({"id": name, "object": "batch", "status": status, "output_file_id": file})

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _serve(folder: Path, records: int, port: Any) -> None:
    api = API(folder, records)
    port.send(api.server_address[1])
    threading.Thread(target=api.serve_forever).start()


def _measured(what: str, argv: list[str], env: dict[str, str], out: Path) -> None:
    """Run a command and print what it took."""
    began = time.monotonic()
    with out.open("wb") as file:
        child = subprocess.Popen([Path(sys.executable).with_name("gptpipe-batch"), *argv], env=env, stdout=file)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    print(f"{what}: {time.monotonic() - began:.1f} s, CPU {cpu:.1f} s, peak {peak:.0f} MiB", flush=True)
    if child.returncode:
        sys.exit(f"{what} ended with {child.returncode}")


def _wrong(results: Path) -> Iterator[int]:
    with results.open() as file:
        for number, line in enumerate(file, 1):
            row = json.loads(line)
            if (row["index"], row.get("answer")) != (number, str(number)):
                yield number


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=50_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records, results = folder / "records", folder / "results"
        records.write_text("".join(f"review number {n}, neither good nor bad\n" for n in range(1, args.records + 1)))
        ours, theirs = get_context("spawn").Pipe()
        server = get_context("spawn").Process(target=_serve, args=(folder, args.records, theirs), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{ours.recv()}"
        env = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder / "config")}
        network = ["--base-url", f"{url}/v1"]
        size = ["--batch-size", str(args.batch_size), "--queued", "2", "--wait"]
        submit = ["submit", *network, "-m", "m", *size]
        _measured("submit", [*submit, "-f", str(records), "Good or bad? {}"], env, folder / "name")
        print(urlopen(f"{url}/stats").read().decode(), flush=True)
        fetch = ["fetch", "--wait", *network, "batch_1"]
        _measured("fetch", fetch, env, results)
        print(f"{sum(1 for _ in results.open('rb'))} results, {len(list(_wrong(results)))} wrong")
        server.terminate()


if __name__ == "__main__":
    main()
