"""Security: modes, files that are something else, names, keys, other people's headers, and terminals.

The promises are those of ``SECURITY.md``. The key is looked for in all that a run leaves behind or shows.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from gptpipe.errors import Status
from gptpipe.settings.built_in import BUILT_IN
from tests.harness.server import DONE, Server, chunk, event, finish, say
from torture.frame import Case, Rig, execute, needs, outcome, parallel, shell

TITLE = "Security"

KEY = "sk-t0rture-0123456789abcdef"
HEADER = "header-s3cret-value"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
USAGE = f".local/state/gptpipe/usage/{time.strftime('%Y-%m-%d')}.jsonl"
SESSION = ".local/share/gptpipe/sessions/s.jsonl"
LIMITS = ("-m", "m", "--retry", "0", "--idle-timeout", "10")
ASK = ("gptpipe", "--base-url", "URL", *LIMITS)


# Modes

UMASKS = ("0", "022", "027", "077", "0777")
WRITERS = {
    "session": "gptpipe -m echo -s s hi",
    "session with a system message": "gptpipe -m echo -s s -S x hi; gptpipe -m echo -s s again",
    "attachment": "gptpipe -m echo -s s -f dot.png look",
    "cache": "gptpipe -m echo --cache 1d hi",
    "usage": "gptpipe --base-url $URL -m m hi",
    "map": "printf 'a\\nb\\n' | gptpipe-map -m echo --cache 1d '{}'",
    "map with a file of results": "printf 'a\\nb\\n' | gptpipe-map --base-url $URL -m m -o results '{}'",
    "batch": "printf 'a\\nb\\n' | gptpipe-batch submit --base-url $URL -m m '{}'",
    "cut answer": "gptpipe -m echo:cut=1 -s s hi",
    "chat": "printf 'a\\n' | gptpipe-chat -m echo -s s",
    "copy": "gptpipe -m echo -s s hi; gptpipe-sessions copy s t; gptpipe-sessions rename t u",
    "repair": "gptpipe -m echo -s s hi; printf 'x\\n' >>.local/share/gptpipe/sessions/s.jsonl; "
    "gptpipe-sessions check --repair s",
    "eight at once": "for n in 1 2 3 4 5 6 7 8; do gptpipe -m echo -s s $n & done; wait",
}


def modes(rig: Rig, writer: str, umask: str) -> Case:
    """Run what writes under a umask; all in gptpipe's own folders must be the user's alone."""
    name = f"umask {umask}: {writer}"
    with rig.home() as home, Server() as server:
        (home / "dot.png").write_bytes(PNG)
        shell(home, f"umask {umask}; {WRITERS[writer]} >out 2>err", env={"URL": server.url})
        own = [path for path in home.rglob("*") if "gptpipe" in path.relative_to(home).parts]
        wrong = [
            f"{path.relative_to(home)} {mode:o}"
            for path in own
            if (mode := stat.S_IMODE(path.lstat().st_mode)) != (0o700 if path.is_dir() else 0o600)
        ]
        return Case(name, bool(own) and not wrong, f"{wrong or 'nothing was written'}")


def outputs(rig: Rig, umask: str) -> Case:
    """``-o`` and ``--meta`` make files as the user's other programs do, and keep the mode of what is there."""
    with rig.home() as home:
        (home / "there").touch(0o640)
        (home / "there").chmod(0o640)
        shell(home, f"umask {umask}; gptpipe -m echo -o new --meta meta x; gptpipe -m echo -o there x")
        found = {name: stat.S_IMODE((home / name).stat().st_mode) for name in ("new", "meta", "there")}
        wanted = dict.fromkeys(("new", "meta"), 0o666 & ~int(umask, 8)) | {"there": 0o640}
        return Case(f"umask {umask}: -o and --meta", found == wanted, f"{found} instead of {wanted}")


# Something else where a file should be

OBSTACLES = ("symlink", "dangling symlink", "loop of symlinks", "hard link to a secret", "FIFO", "socket", "folder")


def _place(path: Path, obstacle: str, victim: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    match obstacle:
        case "symlink":
            path.symlink_to(victim)
        case "dangling symlink":
            path.symlink_to(victim.with_name("nothing"))
        case "loop of symlinks":
            path.symlink_to(path)
        case "hard link to a secret":
            os.link(victim, path)
        case "FIFO":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener, _within(path.parent):
                listener.bind(path.name)  # a whole path may be too long for it
        case "folder":
            path.mkdir()


@contextlib.contextmanager
def _within(folder: Path) -> Iterator[None]:
    with contextlib.chdir(folder):
        yield


class Place(NamedTuple):
    """Where a file of gptpipe's should be, who uses it, and how it may end when it is something else."""

    name: str
    find: Callable[[Path], Path]
    argv: tuple[str, ...]
    allowed: frozenset[Status]


def _cached(home: Path) -> Path:
    return next((home / ".cache/gptpipe/answers").glob("*.json"))


def _attached(home: Path) -> Path:
    return next((home / ".local/share/gptpipe/attachments").glob("[0-9a-f]*"))


BLOCKED = frozenset({Status.IOERR, Status.NOINPUT})
PLACES = (
    Place("session", lambda home: home / SESSION, ("gptpipe", "-m", "echo", "-s", "s", "hi"), BLOCKED),
    Place(
        "session, looking", lambda home: home / SESSION, ("gptpipe", "-m", "echo", "-s", "s", "--no-save", "x"), BLOCKED
    ),
    Place("session, showing", lambda home: home / SESSION, ("gptpipe-sessions", "show", "s"), BLOCKED),
    Place("session, checking", lambda home: home / SESSION, ("gptpipe-sessions", "check", "s"), BLOCKED),
    Place("usage", lambda home: home / USAGE, (*ASK, "hi"), frozenset({Status.OK})),
    Place("cache", _cached, ("gptpipe", "-m", "echo", "--cache", "1d", "hi"), frozenset({Status.OK})),
    Place(
        "attachment",
        _attached,
        ("gptpipe", "-m", "echo", "-s", "t", "-f", "dot.png", "look"),
        BLOCKED | {Status.OK},
    ),
)


def obstructed(rig: Rig, place: Place, obstacle: str) -> Case:
    """Put something else where a file should be: no wait, no traceback, and nobody else's file changed."""
    name = f"a {obstacle} for the {place.name}"
    with rig.home() as home, Server() as server:
        victim = home / "victim"
        victim.write_text("secret\n")
        (home / "dot.png").write_bytes(PNG)
        argv = [server.url if word == "URL" else word for word in place.argv]
        rig.run(home, *argv)
        rig.run(home, "gptpipe", "-m", "echo", "-s", "s", "first")
        _place(place.find(home), obstacle, victim)
        result = rig.run(home, *argv)
        if victim.read_text() != "secret\n" and obstacle != "hard link to a secret":
            return Case(name, False, f"the victim is {victim.read_text()!r}")
        if (home / "nothing").exists():
            return Case(name, False, "a file was made through the symlink")
        if "Traceback" in result.err:
            return Case(name, False, result.err)
        # Another name of a file is no other file: it cannot be told from the usual one.
        allowed = set(Status) - {Status.BUG} if obstacle == "hard link to a secret" else place.allowed
        return Case(name, result.status in allowed, f"{result}")


# Names

NAMES = (
    *("../x", "..", ".", "/tmp/x", "a/b", "a/../../x", ".hidden", "", " ", "a b", "a\n", "a\tb", "a\x1b[2J", "\u202ex"),
    *("x" * 129, "é" * 65, "a\x7f", "\x9bx", "a\\b", "a:b", "a*b", "~", "~root", "$HOME", "%2e%2e", "a|b", "-\u200b"),
)
NAMERS = (
    ("gptpipe", "-m", "echo", "-s", "{}", "hi"),
    ("gptpipe", "-m", "echo", "-s", "{}", "--no-save", "hi"),
    ("gptpipe", "-m", "echo", "-r", "{}", "hi"),
    ("gptpipe", "-p", "{}", "-m", "m", "hi"),
    ("gptpipe-chat", "-m", "echo", "-s", "{}"),
    ("gptpipe-sessions", "show", "--", "{}"),
    ("gptpipe-sessions", "copy", "--", "s", "{}"),
    ("gptpipe-sessions", "copy", "--", "{}", "t"),
    ("gptpipe-sessions", "rename", "--", "s", "{}"),
    ("gptpipe-sessions", "remove", "--", "{}"),
    ("gptpipe-sessions", "path", "--", "{}"),
    ("gptpipe-sessions", "check", "--", "{}"),
)
VARIABLES = ("GPTPIPE_SESSION", "GPTPIPE_PROFILE")


def named(rig: Rig, name: str, argv: tuple[str, ...], variable: str = "") -> Case:
    """Use a name that leads out of the folder, or is none: status 2, and nothing outside is touched."""
    with rig.home() as home:
        result = rig.run(
            home, *(name if part == "{}" else part for part in argv), env={variable: name} if variable else {}
        )
        made = {path.name for path in home.rglob("*") if path.is_file()} - {Path(USAGE).name}
        case = outcome(f"{' '.join(argv)} {variable}, {name!r}", result, status=Status.USAGE)
        return Case(case.name, False, f"{made} was made") if case.ok and made else case


# The key


def traces(home: Path, secrets: Iterable[str], *texts: str | bytes) -> list[str]:
    """Return where a secret is found: in what was shown, or in a file below the home."""
    wanted = [secret.encode() for secret in secrets]
    shown = [text.encode() if isinstance(text, str) else text for text in texts]
    places = [f"shown: {text!r}" for text in shown if any(secret in text for secret in wanted)]
    kept = [path for path in home.rglob("*") if path.is_file() and path.parent.name != "keys"]
    holding = [path for path in kept if any(secret in path.read_bytes() for secret in wanted)]
    return places + [f"{path.relative_to(home)}" for path in holding]


# How a server gives away what it was sent.
REPLIES: dict[str, Callable[[Server], None]] = {
    "an answer": lambda _: None,
    "401 with the key": lambda server: server.json(401, {"error": {"message": f"Incorrect API key: {KEY}."}}),
    "401 of another shape": lambda server: server.json(401, {"detail": f"Bearer {KEY} {HEADER}"}),
    "500 with a page": lambda server: server.reply(f"<title>{KEY} {HEADER}</title>".encode(), status=500),
    "429 with the key": lambda server: server.json(429, {"error": f"slow down, {KEY}"}),
    "a login page": lambda server: server.reply(
        f"<html>{KEY} {HEADER}".encode(), headers={"content-type": "text/html"}
    ),
    "an error in the stream": lambda server: server.reply(say("A"), event({"error": {"message": f"no {KEY}"}})),
    "an error at once": lambda server: server.reply(event({"error": f"{HEADER} {KEY}"})),
    "a redirect": lambda server: server.reply(status=302, headers={"location": f"/x?key={KEY}&h={HEADER}"}),
    "an event that is no JSON": lambda server: server.reply(f"data: {KEY} {HEADER}\n\n".encode()),
    "no HTTP": lambda server: server.reply(f"SSH-2.0 {KEY} {HEADER}\r\n".encode(), raw=True),
    "a header that is none": lambda server: server.reply(f"HTTP/1.1 200 OK\r\n{KEY}\r\n\r\n".encode(), raw=True),
    "a cut answer": lambda server: server.reply(say("A")),
    "a refusal": lambda server: server.reply(chunk({"refusal": "no"}), finish(), DONE),
}
KEY_WAYS = {
    "variable": "api_key_env = 'MY_KEY'",
    "file": "api_key_file = 'HOME/keys/key'",
    "command": "api_key_command = ['cat', 'HOME/keys/key']",
    "header": f"headers = {{ Authorization = 'Bearer {KEY}', X-Secret = '{HEADER}' }}",
}
FLAGS = (("-v",), ("--json",), ("--dry-run",), ("-s", "s", "-v"), ("-o", "out", "--meta", "meta"), ("--cache", "1d"))


def secretive(rig: Rig, reply: str, way: str, flags: tuple[str, ...]) -> Case:
    """Ask a server that tells what it was sent; neither key nor header may be shown or kept."""
    name = f"{reply}, key from a {way}, {' '.join(flags)}"
    with rig.home() as home, Server() as server:
        REPLIES[reply](server)
        (home / "keys").mkdir()
        (home / "keys/key").touch(0o600)
        (home / "keys/key").write_text(f"{KEY}\n")
        (home / "keys/settings").write_text(
            f"[profiles.p]\nbase_url = '{server.url}'\n{KEY_WAYS[way].replace('HOME', str(home))}\n"
            + ("" if way == "header" else f"headers = {{ X-Secret = '{HEADER}' }}\n")
        )
        call = ("gptpipe", "--config", "keys/settings", "-p", "p", *LIMITS, *flags, "hi")
        result = rig.run(home, *call, env={"MY_KEY": KEY, "OPENAI_LOG": "debug"})
        found = traces(home, (KEY, HEADER), result.out, result.err)
        sent = "--dry-run" in flags or f"Bearer {KEY}" in server.requests[0].headers.get("authorization", "")
        wrong = found or (not sent and "the key was not sent") or ("Traceback" in result.err and result.err)
        return Case(name, not wrong, f"{wrong} {result}")


def urls(rig: Rig, flags: tuple[str, ...], scheme: str) -> Case:
    """Name and password stand in the URLs of server and proxy: they are not shown, whatever happens there."""
    with rig.home() as home, Server() as server:
        port = server.port
        base = {
            "server": f"http://me:{HEADER}@127.0.0.1:{port}/v1",
            "dead server": f"http://me:{HEADER}@127.0.0.1:9/v1",
            "login page": f"http://me:{HEADER}@127.0.0.1:{port}/elsewhere",
        }.get(scheme, "http://127.0.0.1:9/v1")
        proxy = (
            () if "server" in scheme or "page" in scheme else ("--proxy", f"{scheme}://me:{HEADER}@127.0.0.1:{port}")
        )
        call = ("gptpipe", "--base-url", base, *proxy, *LIMITS, "--connect-timeout", "2", *flags, "hi")
        result = rig.run(home, *call)
        found = traces(home, () if "-s" in flags else (HEADER,), result.out, result.err)
        wrong = found or ("Traceback" in result.err and result.err)
        return Case(f"password in the URL, {scheme}, {' '.join(flags)}", not wrong, f"{wrong} {result}")


def processes(rig: Rig, way: str) -> Case:
    """While it runs: the key is in no command line of its processes, and no core file would be written."""
    with rig.home() as home, Server() as server:
        server.reply(say("A"), hang=True)
        (home / "keys").mkdir()
        (home / "keys/key").touch(0o600)
        (home / "keys/key").write_text(f"{KEY}\n")
        settings = f"[profiles.p]\nbase_url = '{server.url}'\n{KEY_WAYS[way].replace('HOME', str(home))}\n"
        (home / "keys/settings").write_text(settings)
        call = ("gptpipe", "--config", "keys/settings", "-p", "p", *LIMITS, "hi")
        env = {"MY_KEY": KEY}
        with rig.spawn(home, *call, env=env) as process:
            process.read(b"A")
            group = [entry for entry in os.listdir("/proc") if entry.isdecimal() and _session_of(entry) == process.pid]
            lines = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in group)
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            core = re.search(r"^Max core file size +(\d+)", limits, re.MULTILINE)
            process.kill(signal.SIGQUIT)
            result = process.communicate()
        wrong: object = KEY.encode() in lines or traces(home, (KEY,), result.out, result.err)
        wrong = wrong or ((core is None or core[1] != "0") and limits)
        return Case(f"running, key from a {way}", not wrong, f"{wrong} {result}")


def _session_of(pid: str) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(int(pid))
    return -1


# Who is sent what

PROGRAMS = {
    "gptpipe": ("gptpipe", "hi"),
    "gptpipe-map": ("gptpipe-map", "{}"),
    "gptpipe-models": ("gptpipe-models",),
    "gptpipe-chat": ("gptpipe-chat",),
}
FOREIGN = {
    "OPENAI_ORG_ID": "canary-org",
    "OPENAI_PROJECT_ID": "canary-project",
    "OPENAI_CUSTOM_HEADERS": "X-Canary: canary-header\nAuthorization: Bearer canary-auth",
    "OPENAI_ADMIN_KEY": "canary-admin",
    "OPENAI_WEBHOOK_SECRET": "canary-webhook",
    "OPENAI_LOG": "debug",
}
CHOICES = ("-p", "GPTPIPE_PROFILE", "settings", "role", "session", "--base-url")


def _variable(profile: str) -> str:
    return BUILT_IN[profile].get("api_key_env", "OPENAI_API_KEY")


def addressed(rig: Rig, profile: str, choice: str, program: str) -> Case:
    """Choose a provider in every way, with the keys of all in the environment: it gets its own, and no more."""
    name = f"{program}, {profile} by {choice}"
    keys = {_variable(other): f"key-of-{other}" for other in BUILT_IN if _variable(other)}
    with rig.home() as home, Server() as server:
        config = home / ".config/gptpipe"
        (config / "roles").mkdir(parents=True)
        top = f"profile = '{profile}'\n" if choice == "settings" else ""
        (config / "config.toml").write_text(f"{top}model = 'm'\n[profiles.{profile}]\nbase_url = '{server.url}'\n")
        (config / "roles/r.md").write_text(f"+++\nprofile = '{profile}'\n+++\nBe brief.\n")
        turn = {"n": 1, "profile": profile, "model": "m", "finish_reason": "stop"}
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
        (home / SESSION).parent.mkdir(parents=True)
        (home / SESSION).write_text(json.dumps(turn | {"messages": messages}) + "\n")
        flags = {
            "-p": ("-p", profile),
            "role": ("-r", "r"),
            "session": ("-s", "s"),
            "--base-url": ("--base-url", server.url),
        }.get(choice, ())
        env = {**FOREIGN, **keys, **({choice: profile} if choice == "GPTPIPE_PROFILE" else {})}
        program, *words = PROGRAMS[program]
        result = rig.run(home, program, *flags, *words, stdin=b"a\n", env=env)
        if not server.requests:
            return Case(name, False, f"nothing was asked: {result}")
        wanted = "key-of-openai" if choice == "--base-url" else keys.get(_variable(profile))
        for request in server.requests:
            said = json.dumps(request.headers) + request.content.decode()
            found = set(re.findall(r"key-of-\w+|canary-\w+", said))
            if found != ({wanted} if wanted else set()):
                return Case(name, False, f"{found} instead of {wanted}")
        return Case(name, result.status == Status.OK and "canary" not in result.err, f"{result}")


def redirected(rig: Rig, program: str, status: int, away: bool) -> Case:
    """A redirect is not followed: whoever it leads to is asked nothing."""
    with rig.home() as home, Server() as server, Server() as other:
        target = f"{other.url}/chat/completions" if away else "/v2/chat/completions"
        server.reply(status=status, headers={"location": target}, times=3)
        program, *words = PROGRAMS[program]
        model = () if program == "gptpipe-models" else ("-m", "m")
        call = (program, "--base-url", server.url, *model, "--retry", "0", *words)
        result = rig.run(home, *call, stdin=b"a\n", env={"OPENAI_API_KEY": KEY})
        wrong = other.requests or len(server.requests) != 1 or KEY in result.err or target not in result.err
        expected = {"gptpipe-map": {Status.DATAERR, Status.PROTOCOL}, "gptpipe-chat": {Status.OK, Status.PROTOCOL}}
        ok = result.status in expected.get(program, {Status.PROTOCOL})
        return Case(f"{program}, {status}{' to another host' if away else ''}", ok and not wrong, f"{wrong} {result}")


# Terminals

SEQUENCES = {
    "clipboard (OSC 52)": "\x1b]52;c;ZXZpbA==\x07",
    "title (OSC 0)": "\x1b]0;evil\x07",
    "title ended by ST": "\x1b]2;evil\x1b\\",
    "cursor and clearing": "\x1b[2J\x1b[1;1Hevil",
    "device attributes": "\x1b[c\x1b[6n",
    "alternate screen": "\x1b[?1049h",
    "DCS": "\x1bP$qm\x1b\\",
    "8-bit CSI": "\x9b2Jevil",
    "8-bit OSC": "\x9d52;c;ZXZpbA==\x9c",
    "8-bit DCS": "\x90$qm\x9c",
    "bell, backspace, carriage return": "good\x07\x08\x08evil\rbad",
    "shift out": "\x0eevil",
    "hyperlink": "\x1b]8;;http://evil.test\x1b\\x\x1b]8;;\x1b\\",
    "NEL, DEL": "a\x85b\x7fc",
}
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")


class Channel(NamedTuple):
    """A way by which foreign text comes to a terminal. ``{}`` in the arguments is the text."""

    name: str
    argv: tuple[str, ...]
    reply: Callable[[Server, str], None] = lambda *_: None
    shown: bool = True  # whether the text must be seen, made visible


def _error(status: int) -> Callable[[Server, str], None]:
    return lambda on, text: on.json(status, {"error": {"message": f"no {text}"}})


CHANNELS = (
    Channel("answer", (*ASK, "hi"), lambda on, text: on.reply(say(text), finish(), DONE)),
    Channel("answer of echo", ("gptpipe", "-m", "echo", "--", "x{}")),
    Channel("answer, held back", (*ASK, "--no-stream", "hi"), lambda on, text: on.reply(say(text), finish(), DONE)),
    Channel("answer as JSON", (*ASK, "--json", "hi"), lambda on, text: on.reply(say(text), finish(), DONE), False),
    Channel("code block", (*ASK, "-x", "hi"), lambda on, text: on.reply(say(f"```\n{text}\n```"), finish(), DONE)),
    Channel(
        "reasoning",
        (*ASK, "--reasoning", "hi"),
        lambda on, text: on.reply(chunk({"reasoning_content": text}), say("A"), finish(), DONE),
    ),
    Channel("refusal", (*ASK, "hi"), lambda on, text: on.reply(chunk({"refusal": text}), finish(), DONE)),
    Channel("error 400", (*ASK, "hi"), _error(400)),
    Channel("error 401", (*ASK, "hi"), _error(401)),
    Channel("error 503", (*ASK, "hi"), _error(503)),
    Channel("page", (*ASK, "hi"), lambda on, text: on.reply(f"<html>{text}".encode()), False),
    Channel("error in the stream", (*ASK, "hi"), lambda on, text: on.reply(say("A"), event({"error": text})), False),
    Channel("finish reason", (*ASK, "-v", "hi"), lambda on, text: on.reply(say("A"), finish(text), DONE), False),
    Channel(
        "served by",
        (*ASK, "-v", "hi"),
        lambda on, text: on.reply(chunk({"content": "A"}, model=text), finish(), DONE),
        False,
    ),
    Channel(
        "names of models",
        ("gptpipe-models", "--base-url", "URL"),
        lambda on, text: on.json(200, {"data": [{"id": f"x{text}"}]}),
    ),
    Channel("missing file", ("gptpipe", "-m", "echo", "-f", "no{}", "hi")),
    Channel("file to write", ("gptpipe", "-m", "echo", "-o", "no/{}", "hi")),
    Channel("session", ("gptpipe", "-m", "echo", "-s", "x{}", "hi"), shown=False),
    Channel("role", ("gptpipe", "-m", "echo", "-r", "x{}", "hi"), shown=False),
    Channel("profile", ("gptpipe", "-m", "m", "-p", "x{}", "hi"), shown=False),
    Channel("knob of echo", ("gptpipe", "-m", "echo:x{}", "hi"), shown=False),
    Channel("option", ("gptpipe", "--x{}"), shown=False),
    Channel("settings file", ("gptpipe", "--config", "x{}", "hi")),
    Channel("param", ("gptpipe", "-m", "echo", "-O", "x{}", "hi"), shown=False),
    Channel("schema", ("gptpipe", "-m", "echo", "--schema", "x{}", "hi")),
    Channel("the terminal's own show", ("gptpipe-sessions", "show", "s")),
    Channel("list", ("gptpipe-sessions", "list"), shown=False),
    Channel("search", ("gptpipe-sessions", "search", "marker"), shown=False),
    Channel("map, a record", ("gptpipe-map", "-m", "echo", "{{}}x"), shown=False),
    Channel("map, an error", ("gptpipe-map", "--base-url", "URL", *LIMITS, "x"), _error(400), False),
    Channel(
        "chat",
        ("gptpipe-chat", "--base-url", "URL", *LIMITS),
        lambda on, text: on.reply(say(text), finish(), DONE),
        False,
    ),
)


def displayed(rig: Rig, channel: Channel, sequence: str) -> Case:
    """Bring a sequence to a terminal by a channel: no control character may arrive there."""
    name, text = f"{channel.name}: {sequence}", SEQUENCES[sequence]
    with rig.home() as home, Server() as server:
        channel.reply(server, text)
        turn = {"n": 1, "model": f"m{text}", "finish_reason": "stop", "at": text}
        messages = [{"role": "user", "content": f"marker {text}"}, {"role": "assistant", "content": text}]
        (home / SESSION).parent.mkdir(parents=True)
        (home / SESSION).write_text(json.dumps(turn | {"messages": messages}) + "\n")
        argv = tuple(part.replace("URL", server.url).replace("{}", text) for part in channel.argv)
        with rig.spawn(home, *argv, stdin=b"", env={"TERM": "xterm"}, tty="out err") as process:
            result = process.communicate(b"hello\n" if argv[0] in ("gptpipe-map", "gptpipe-chat") else b"")
        shown = result.out.decode(errors="surrogateescape") + result.err
        # The bar of gptpipe-map goes back to the beginning of its line by itself.
        found = [char for char in CONTROL.findall(shown) if (argv[0], char) != ("gptpipe-map", "\r")]
        seen = not channel.shown or "^" in shown or "\\x" in shown
        ok = not found and seen and "Traceback" not in shown
        return Case(name, ok, f"{found} {'' if seen else 'not shown'} {result}")


def in_tmux(rig: Rig) -> Iterator[Case]:
    """Let a real terminal show every sequence; its clipboard, title and screen stay as they were."""
    with rig.home() as home:
        socket_name = str(home / "tmux")

        def tmux(*args: str) -> str:
            return execute(home, "tmux", "-S", socket_name, "-f", "/dev/null", *args).text

        text = "\n".join(SEQUENCES.values())
        (home / "evil").write_text(text)
        (home / ".profile").touch()
        tmux("new-session", "-d", "-x", "200", "-y", "60", "bash --norc --noprofile")
        try:
            tmux("set-option", "-g", "set-clipboard", "on")
            tmux("set-option", "-g", "allow-rename", "on")
            before = tmux("display-message", "-p", "#{pane_title} #{alternate_on} #{buffer_sample}")
            for command in ("gptpipe -m echo <evil", 'gptpipe -n -m echo -- "$(cat evil)"', 'gptpipe -f "$(cat evil)"'):
                tmux("send-keys", f"{command}; tmux -S {socket_name} wait-for -S done", "Enter")
                tmux("wait-for", "done")
                after = tmux("display-message", "-p", "#{pane_title} #{alternate_on} #{buffer_sample}")
                screen = tmux("capture-pane", "-p")
                ok = after == before and "^[]52;c;" in screen and command.split()[0] in screen
                yield Case(f"tmux: {command}", ok, f"{before!r} {after!r} {screen[-600:]!r}", len(SEQUENCES))
        finally:
            tmux("kill-server")


def cases(rig: Rig) -> Iterator[Case]:
    """Try to get at what is others' to protect."""
    needs("tmux")
    yield from parallel(lambda pair: modes(rig, *pair), itertools.product(WRITERS, UMASKS), 2)
    yield from parallel(lambda umask: outputs(rig, umask), UMASKS, 2)
    yield from parallel(lambda pair: obstructed(rig, *pair), itertools.product(PLACES, OBSTACLES))
    yield from parallel(lambda pair: named(rig, *pair), itertools.product(NAMES, NAMERS))
    by_variable = ((name, ("gptpipe", "-m", "m", "hi"), variable) for name in NAMES if name for variable in VARIABLES)
    yield from parallel(lambda triple: named(rig, *triple), by_variable)
    yield from parallel(lambda triple: secretive(rig, *triple), itertools.product(REPLIES, KEY_WAYS, FLAGS))
    schemes = ("server", "dead server", "login page", "http", "https", "socks5h")
    yield from parallel(lambda pair: urls(rig, *pair), itertools.product(FLAGS, schemes))
    yield from parallel(lambda way: processes(rig, way), KEY_WAYS)
    choices = [
        (profile, choice, program)
        for profile, choice, program in itertools.product(BUILT_IN, CHOICES, PROGRAMS)
        if program == "gptpipe" or choice in ("-p", "GPTPIPE_PROFILE", "settings", "--base-url")
    ]
    yield from parallel(lambda triple: addressed(rig, *triple), choices)
    ways = itertools.product(PROGRAMS, (301, 302, 303, 307, 308), (True, False))
    yield from parallel(lambda triple: redirected(rig, *triple), ways)
    yield from parallel(lambda pair: displayed(rig, *pair), itertools.product(CHANNELS, SEQUENCES), 4)
    yield from in_tmux(rig)
