"""The endpoints /files and /batches of the loopback server. Each request of a batch is answered as by ``echo``."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from gptpipe.wire import echo


class Objection(NamedTuple):
    """How a provider says that a file has too many requests: when, with which status, in which words."""

    place: str
    status: int
    words: str

    def reply(self) -> echo.Reply:
        """Return the refusal."""
        return _reply(self.status, {"error": {"message": self.words, "type": "invalid_request_error"}})


TOO_LARGE = (
    Objection("upload", 413, "Request Entity Too Large"),
    Objection("upload", 400, "File is too large. Please try again with a smaller file."),
    Objection("create", 400, "The batch has 7 requests, at most 2 are allowed."),
    Objection("later", 0, "The number of requests exceeds the maximum of 2."),
)


class BatchAPI:
    """Files and batches. Requests whose question holds "fail" are refused.

    ``polls`` is how often a batch is asked for before it has ended. Of the batches whose ordinals, from 0, are in
    ``expire`` the first half is not answered in time; those in ``invalid`` fail as a whole, those in ``refuse`` are
    not taken. No batch has more than ``most`` requests, which is said in the way ``objection`` has; with more than
    ``room`` requests unfinished at once a batch fails. ``making`` is called before a batch is made, ``made`` after
    that and before the reply. ``busiest`` is how many batches were unfinished at once.
    """

    def __init__(self) -> None:
        self.polls = 1
        self.most = self.room = 1 << 30
        self.objection = TOO_LARGE[0]
        self.making: Callable[[], object] = lambda: None
        self.made: Callable[[], object] = lambda: None
        self.busiest = 0
        self.expire: set[int] = set()
        self.invalid: set[int] = set()
        self.refuse: set[int] = set()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self._asked: dict[str, int] = {}
        self._unfinished: dict[str, int] = {}  # how many requests each has

    def answer(self, method: str, path: str, kind: str, content: bytes) -> echo.Reply | None:
        """Return the reply to a request, or None if it is none of these endpoints'."""
        if found := re.fullmatch(r"/v1/files/([^/]+)/content", path):
            headers = {"content-type": "application/octet-stream"}
            return echo.Reply(200, headers, iter([self.files[found[1]]])) if found[1] in self.files else _reply(404, {})
        if (method, path) == ("POST", "/v1/files"):
            return self._upload(kind, content)
        if (method, path) == ("POST", "/v1/batches"):
            self.making()
            reply = self._create(json.loads(content))
            self.made()
            return reply
        if method == "GET" and path.startswith("/v1/batches?"):
            return self._list(parse_qs(path.partition("?")[2]))
        if found := re.fullmatch(r"/v1/batches/([^/]+)(/cancel)?", path):
            return self._look(found[1], cancel=bool(found[2]))
        return None

    def _upload(self, kind: str, content: bytes) -> echo.Reply:
        boundary = kind.rpartition("boundary=")[2].encode()
        (part,) = [part for part in content.split(b"--" + boundary) if b'name="file"' in part]
        data = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        if data.count(b"\n") > self.most and self.objection.place == "upload":
            return self.objection.reply()
        name = self._store(data)
        size = len(self.files[name])
        value = {"id": name, "object": "file", "bytes": size, "created_at": 0, "filename": "f", "purpose": "batch"}
        return _reply(200, {**value, "status": "processed"})

    def _store(self, data: bytes) -> str:
        name = f"file-{len(self.files) + 1}"
        self.files[name] = data
        return name

    def _create(self, body: dict[str, Any]) -> echo.Reply:
        number = len(self.batches)
        if number in self.refuse:
            return _reply(500, {"error": {"message": "out of order"}})
        name = f"batch_{number + 1}"
        requests = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        problem = "bad line" if number in self.invalid else None
        if len(requests) > self.most:
            if self.objection.place == "create":
                return self.objection.reply()
            problem = self.objection.words
        if sum(self._unfinished.values()) + len(requests) > self.room:
            problem = "Enqueued token limit reached for m. Please try again once some in_progress batches are done."
        batch = {"id": name, "object": "batch", "created_at": 0, "status": "completed", **body}
        if problem:
            batch |= {"status": "failed", "errors": {"object": "list", "data": [{"message": problem, "line": 1}]}}
            requests = []
        self._unfinished[name] = len(requests)
        self.busiest = max(self.busiest, len(self._unfinished))
        late = len(requests) // 2 if number in self.expire else 0
        done = [_result(request) for request in requests[late:]]
        done.reverse()  # the order of the results is not that of the requests
        expired = [_failed(request, "batch_expired") for request in requests[:late]]
        good = [each for each in done if each["response"]["status_code"] == 200]
        bad = [each for each in done if each["response"]["status_code"] != 200] + expired
        batch |= {"request_counts": {"total": len(requests), "completed": len(good), "failed": len(bad)}}
        batch |= {"output_file_id": self._lines(good), "error_file_id": self._lines(bad)}
        if late:
            batch["status"] = "expired"
        self.batches[name] = batch
        return _reply(200, {**batch, "status": "validating", "output_file_id": None, "error_file_id": None})

    def _lines(self, results: list[dict[str, Any]]) -> str | None:
        data = "".join(json.dumps(result) + "\n" for result in results)
        return self._store(data.encode()) if results else None

    def _list(self, query: dict[str, list[str]]) -> echo.Reply:
        names = list(self.batches)[::-1]
        if "after" in query:
            names = names[names.index(query["after"][0]) + 1 :]
        data = [self.batches[name] for name in names[: int(query["limit"][0])]]
        return _reply(200, {"object": "list", "data": data, "has_more": len(names) > len(data)})

    def _look(self, name: str, *, cancel: bool) -> echo.Reply:
        batch = self.batches.get(name)
        if batch is None:
            return _reply(404, {"error": {"message": f"No batch found with id '{name}'."}})
        if cancel:
            batch["status"] = "cancelled"
        self._asked[name] = asked = self._asked.get(name, 0) + 1
        if asked > self.polls or cancel:
            self._unfinished.pop(name, None)
        if asked <= self.polls and not cancel and batch["status"] != "failed":
            counts = {"total": batch["request_counts"]["total"], "completed": 0, "failed": 0}
            running = {"status": "in_progress", "output_file_id": None, "error_file_id": None}
            return _reply(200, {**batch, **running, "request_counts": counts})
        return _reply(200, batch)


def _reply(status: int, value: object) -> echo.Reply:
    return echo.Reply(status, {"content-type": "application/json"}, iter([json.dumps(value).encode()]))


def _result(request: dict[str, Any]) -> dict[str, Any]:
    """Return the line of a result file for a request that was tried."""
    body = json.dumps(request["body"]).encode()
    knobs = echo.Knobs(status=400) if b"fail" in body else echo.Knobs()
    reply = echo.answer(request["method"], request["url"], body, _tries(), knobs)
    said = json.loads(b"".join(piece for piece in reply.chunks if isinstance(piece, bytes)))
    response = {"status_code": reply.status, "request_id": "r", "body": said}
    return {"id": "x", "custom_id": request["custom_id"], "response": response, "error": None}


def _failed(request: dict[str, Any], code: str) -> dict[str, Any]:
    error = {"code": code, "message": "This request could not be executed before the completion window expired."}
    return {"id": "x", "custom_id": request["custom_id"], "response": None, "error": error}


def _tries() -> Iterator[int]:
    return itertools.count()
