"""The tools of gptpipe-tool(5) and of ``examples/tools`` do what they say."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gptpipe.asking import tools
from gptpipe.asking.tools import Called, Toolbox
from tests.conftest import needs
from tests.harness import manual
from tests.harness.processes import ROOT
from tests.harness.server import Server

PAGE = "gptpipe-tool.5"
EXAMPLES = ROOT / "examples" / "tools"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def call(path: Path, arguments: Any, env: dict[str, str] | None = None) -> Called:
    """Describe a tool as gptpipe does, and call it."""
    environment = {**os.environ, **(env or {})}
    (tool,) = tools.load([str(path)], Path("/nonexistent"), environment)
    assert tool.spec.name == path.name
    return tools.call(path.name, json.dumps(arguments), Toolbox((tool,), environment))


# The manual


def test_the_tool_in_sh(tmp_path: Path) -> None:
    called = call(written(tmp_path, "disk-usage", manual.display(PAGE, "disk-usage")), {})
    assert called.status == 0
    assert called.result.startswith("Filesystem")


def test_the_tool_in_python(tmp_path: Path) -> None:
    path = written(tmp_path, "lookup-order", manual.display(PAGE, "lookup-order"))
    assert call(path, {"order": 4711}).result == "shipped on Monday\n"
    assert call(path, {"order": 1}).result == "error: the tool ended with status 1\norder 1 is unknown"
    assert call(path, {"order": "x"}).status is None


def test_the_tool_around_curl(tmp_path: Path, server: Server) -> None:
    needs("curl", "jq")
    path = written(tmp_path, "weather", manual.display(PAGE, "weather"))
    server.reply("Ulm: ⛅ +7°C\n".encode(), headers={"content-type": "text/plain"})
    env = {"WEATHER": server.url}
    assert call(path, {"city": "Neu-Ulm am See"}, env).result == "Ulm: ⛅ +7°C\n"
    assert server.requests[0].path == "/v1/Neu-Ulm%20am%20See?format=3"
    server.reply(status=503)
    failed = call(path, {"city": "-o /tmp/x"}, env)
    assert failed.result.startswith("error: the tool ended with status 22\ncurl: ")


# examples/tools


@pytest.fixture
def project(tmp_path: Path) -> dict[str, str]:
    """A folder to read from, as the environment names it, beside a file that is not in it."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "src" / "main.c").write_text("1\n2\n3\n4\n")
    (root / "out").symlink_to(tmp_path)
    (root / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(root / "fifo")
    return {"READ_FILE_ROOT": str(root)}


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        pytest.param({"path": "src/main.c"}, "1\n2\n3\n4\n", id="a file"),
        pytest.param({"path": "./src//main.c", "first_line": 2, "lines": 2}, "2\n3\n", id="some lines"),
        pytest.param({"path": "."}, "fifo\nlink\nout\nsrc\n", id="the folder"),
        pytest.param({"path": "src"}, "main.c\n", id="a folder"),
    ],
)
def test_read_file(project: dict[str, str], arguments: Any, result: str) -> None:
    called = call(EXAMPLES / "read-file", arguments, project)
    assert (called.status, called.result) == (0, result)


@pytest.mark.parametrize("path", ["../secret", "src/../../secret", "link", "out/secret", "/etc/passwd", "fifo", "none"])
def test_read_file_does_not_leave_its_folder(project: dict[str, str], path: str) -> None:
    called = call(EXAMPLES / "read-file", {"path": path}, project)
    assert called.status == 1
    assert path in called.result
    assert "secret\n" not in called.result


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "orders?.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE orders (n INTEGER, place TEXT, data BLOB)")
        connection.executemany("INSERT INTO orders VALUES (?, ?, ?)", [(n, "Ulm", b"x") for n in range(300)])
    connection.close()
    return path


def query(database: Path, sql: str) -> Called:
    env = {"QUERY_SQLITE_FILE": str(database), "QUERY_SQLITE_SECONDS": "0.3"}
    return call(EXAMPLES / "query-sqlite", {"sql": sql}, env)


def test_query_sqlite(database: Path) -> None:
    assert query(database, "SELECT * FROM orders WHERE n = 7").result == '{"n": 7, "place": "Ulm", "data": "1 bytes"}\n'
    assert query(database, "SELECT count(*) AS n FROM orders").result == '{"n": 300}\n'
    assert query(database, "SELECT n FROM orders").result.endswith('{"n": 199}\nthere are more than 200 rows\n')
    assert "CREATE TABLE orders" in query(database, "SELECT sql FROM sqlite_schema").result
    endless = query(database, "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT max(x) FROM c")
    assert endless.result == "error: the tool ended with status 1\ninterrupted"


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM orders",
        "UPDATE orders SET n = 0",
        "DROP TABLE orders",
        "CREATE TABLE x (y)",
        "ATTACH '{}' AS other",
        "PRAGMA journal_mode = wal",
        "SELECT load_extension('x')",
        "SELECT 1; DELETE FROM orders",
        ".shell touch {}",
        "VACUUM INTO '{}'",
    ],
)
def test_query_sqlite_only_reads(database: Path, tmp_path: Path, sql: str) -> None:
    before = database.read_bytes()
    called = query(database, sql.format(tmp_path / "made"))
    assert called.status == 1
    assert not (tmp_path / "made").exists()
    assert database.read_bytes() == before


def test_query_sqlite_makes_no_database(tmp_path: Path) -> None:
    assert query(tmp_path / "none.db", "SELECT 1").status == 1
    assert not (tmp_path / "none.db").exists()
    assert call(EXAMPLES / "query-sqlite", {"sql": "SELECT 1"}).result.endswith("does not name a database")


def test_man_page(tmp_path: Path) -> None:
    needs("man", "jq", "col")
    (tmp_path / "man1").mkdir()
    (tmp_path / "man1" / "gptpipe.1").write_text(manual.source("gptpipe.1"))

    def page(**arguments: str) -> Called:
        return call(EXAMPLES / "man-page", arguments, {"MANPATH": str(tmp_path)})

    assert page(name="gptpipe").result == page(name="gptpipe", section="1").result
    assert "EXIT STATUS" in page(name="gptpipe").result
    assert page(name="gptpipe", section="5").status == page(name="none").status == 16
    for name in ("-k", "/etc/passwd", "a;touch x", "$(touch x)", ""):
        assert page(name=name).status is None


def test_each_example_is_tried_here() -> None:
    tests = Path(__file__).read_text()
    assert {path.name for path in EXAMPLES.iterdir()} == {
        path.name for path in EXAMPLES.iterdir() if f'"{path.name}"' in tests and os.access(path, os.X_OK)
    }
