"""Networks as they are: proxies that others wrote, certificates of every kind, both families of addresses.

The names of the ``.test`` hosts are known only to the proxies, which have a ``/etc/hosts`` of their own (a mount
namespace): what reaches such a host was resolved at the proxy.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self

from gptpipe.errors import Status
from gptpipe.wire.echo import Knobs
from tests.harness.processes import Result
from tests.harness.server import Server
from torture.frame import Case, Rig, execute, needs, outcome, parallel

TITLE = "Networks"

KEY = "sk-netw0rk-s3cret"
PASSWORD = "pa@ss:w/rd%"  # what must be escaped in a URL
ESCAPED = "pa%40ss%3Aw%2Frd%25"
SIMPLE = "s3cretword"  # tinyproxy's settings take letters and digits only
HOSTS = "127.0.0.1 localhost\n::1 localhost\n127.0.0.1 four.test\n::1 six.test\n"
LONG = "long " * 20000
TEXT = "What came of it?"
DEAD = "127.0.0.1:9"  # nobody listens there

# What a server does, and what comes of it.
EXCHANGES: dict[str, tuple[Knobs, Status]] = {
    "answer": (Knobs(text=TEXT), Status.OK),
    "long answer": (Knobs(text=LONG), Status.OK),
    "cut": (Knobs(text=TEXT, cut=4), Status.TEMPFAIL),
    "silence": (Knobs(text=TEXT, stall=4), Status.TEMPFAIL),
    "key refused": (Knobs(status=401), Status.NOPERM),
    "model unknown": (Knobs(status=404), Status.UNAVAILABLE),
    "overloaded": (Knobs(status=503), Status.TEMPFAIL),
    "length": (Knobs(text=TEXT, finish="length"), Status.TRUNCATED),
}


class Authority:
    """Certificates: an authority of one's own, and what it and others signed, as PEM files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = self._signed("authority", "-subj", "/CN=Torture", "-addext", "basicConstraints=critical,CA:TRUE")

    def context(self, name: str, names: str, *, signed: bool = True, year: int | None = None) -> ssl.SSLContext:
        """Return the server's side of TLS with a certificate for these names, made now or on the first of a year."""
        by = ["-CA", str(self.file), "-CAkey", str(self.file)] if signed else []
        path = self._signed(name, "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}", *by, year=year)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _signed(self, name: str, *more: str, year: int | None = None) -> Path:
        """Make a key and a certificate in one file."""
        path, certificate = self.folder / f"{name}.pem", self.folder / f"{name}.crt"
        then = ["faketime", f"{year}-01-01 00:00:00"] if year else []
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files: list[str | Path] = ["-days", "2", "-keyout", path, "-out", certificate]
        subprocess.run([*then, *new, *files, *more], check=True, capture_output=True)
        with path.open("ab") as file:
            file.write(certificate.read_bytes())
        return path


class Proxy(NamedTuple):
    """A proxy that runs: what ``--proxy`` is given, and what it would be with a wrong password and with none."""

    name: str
    url: str
    wrong: str = ""
    bare: str = ""


class Net:
    """The servers and the proxies, while the block lasts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = folder / "hosts"
        self.hosts.write_text(HOSTS)
        self.authority = Authority(folder)
        self.good = self.authority.context("good", "DNS:four.test,DNS:six.test,DNS:localhost,IP:127.0.0.1,IP:::1")
        self.servers: dict[tuple[str, str], Server] = {}
        self.proxies: list[Proxy] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for name, (knobs, _) in EXCHANGES.items():
            self.servers[name, "plain"] = self.serve(knobs)
            self.servers[name, "tls"] = self.serve(knobs, self.good)
            self.servers[name, "six"] = self.serve(knobs, self.good, "::1")
        self._start_proxies()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def serve(self, knobs: Knobs, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Server:
        """Start a server."""
        return self._stack.enter_context(Server(knobs, host=host, tls=tls))

    def _start_proxies(self) -> None:
        port = self._start("microsocks", "-i", "127.0.0.1", "-p")
        self.proxies.append(Proxy("SOCKS", f"socks5h://127.0.0.1:{port}"))
        port = self._start("microsocks", "-u", "me", "-P", PASSWORD, "-i", "127.0.0.1", "-p")
        urls = [f"socks5h://{user}127.0.0.1:{port}" for user in (f"me:{ESCAPED}@", "me:nonsense@", "")]
        self.proxies.append(Proxy("SOCKS with password", *urls))
        port = self._tinyproxy()
        self.proxies.append(Proxy("HTTP", f"http://127.0.0.1:{port}"))
        tls = self._start(
            *("socat", f"OPENSSL-LISTEN:PORT,bind=127.0.0.1,fork,verify=0,cert={self.folder}/good.pem"),
            f"TCP4:127.0.0.1:{port}",
        )
        self.proxies.append(Proxy("HTTP over TLS", f"https://127.0.0.1:{tls}"))
        port = self._tinyproxy(f"BasicAuth me {SIMPLE}\n")
        urls = [f"http://{user}127.0.0.1:{port}" for user in (f"me:{SIMPLE}@", "me:nonsense@", "")]
        self.proxies.append(Proxy("HTTP with password", *urls))

    def _tinyproxy(self, more: str = "") -> int:
        path = self.folder / f"tinyproxy{len(self.proxies)}.conf"
        path.write_text(f"Port PORT\nListen 127.0.0.1\nAllow 127.0.0.1\nMaxClients 100\nTimeout 60\n{more}")
        return self._start("tinyproxy", "-d", "-c", str(path))

    def _start(self, *command: str) -> int:
        """Start a program in the namespace of the ``.test`` names, on a free port, and return the port.

        The port takes the place of PORT in the arguments or in the file that is the last one, or comes last.
        """
        port = free_port()
        last = Path(command[-1])
        if "PORT" in " ".join(command):
            command = tuple(part.replace("PORT", str(port)) for part in command)
        elif last.is_file():
            last.write_text(last.read_text().replace("PORT", str(port)))
        else:
            command = (*command, str(port))
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = self._stack.enter_context(subprocess.Popen(self.among(*command), **silent))  # type: ignore[call-overload]
        self._stack.callback(process.terminate)
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return port
            time.sleep(0.05)
        raise RuntimeError(f"{command[0]} does not listen")

    def among(self, *command: str) -> list[str]:
        """Return the command that runs a program among the ``.test`` names."""
        flags = "-m" if os.geteuid() == 0 else "-rm"
        return ["unshare", flags, "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(self.hosts), *command]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


class Call(NamedTuple):
    """A call of gptpipe, and what is wanted of it: its status, the words on standard error, the answer."""

    name: str
    url: str
    args: tuple[str, ...] = ()
    status: Status = Status.OK
    words: str = ""
    text: str | None = TEXT
    env: Mapping[str, str | None] = MappingProxyType({})
    settings: str = ""

    def __str__(self) -> str:
        return self.name


def arguments(call: Call) -> list[str]:
    """Return the command line of a call."""
    usual = ["-m", "m", "--retry", "0", "--idle-timeout", "2", "--connect-timeout", "20"]
    return ["gptpipe", "--base-url", call.url, *usual, *call.args, "hi"]


def judge(call: Call, result: Result) -> Case:
    """Return the case of a call that ended."""
    case = outcome(call.name, result, status=call.status)
    said = result.text + result.err
    wrong = [secret for secret in (KEY, PASSWORD, ESCAPED, SIMPLE, "nonsense") if secret in said]
    if case.ok and wrong:
        return Case(call.name, False, f"{wrong} is shown: {result}")
    if case.ok and call.words not in result.err:
        return Case(call.name, False, f"no {call.words!r}: {result}")
    wanted = None if call.text is None else call.text + "\n"
    if case.ok and call.status == Status.OK and wanted not in (None, result.text):
        return Case(call.name, False, f"another answer: {result.text[:200]!r}")
    return case


def attempt(rig: Rig, call: Call) -> Case:
    """Run a call."""
    with rig.home() as home:
        if call.settings:
            (home / "settings").write_text(call.settings)
        env = {"OPENAI_API_KEY": KEY, **call.env}
        return judge(call, rig.run(home, *arguments(call), env=env))


def among_names(rig: Rig, net: Net, call: Call) -> Case:
    """Run a call in a namespace in which the ``.test`` names are known; it is a program of its own."""
    with rig.home() as home:
        env = {"OPENAI_API_KEY": KEY, **call.env}
        return judge(call, execute(home, *net.among(*arguments(call)), env=env))


# The calls


def proxied(net: Net) -> Iterator[Call]:
    """Yield every exchange through every proxy to every kind of host."""
    trust = ("--cacert", str(net.authority.file))
    for proxy, (name, (knobs, status)) in itertools.product(net.proxies, EXCHANGES.items()):
        text = {Status.OK: knobs.text}.get(status)
        four, six = net.servers[name, "tls"], net.servers[name, "six"]
        for url in (
            f"https://four.test:{four.port}/v1",
            f"https://six.test:{six.port}/v1",
            four.url,
            six.url,
            net.servers[name, "plain"].url,
        ):
            yield Call(f"{proxy.name}: {name} from {url}", url, ("--proxy", proxy.url, *trust), status, text=text)


def refusing(net: Net) -> Iterator[Call]:
    """Yield what a proxy refuses, and what is no proxy."""
    server = net.servers["answer", "tls"]
    url = f"https://four.test:{server.port}/v1"
    trust = ("--cacert", str(net.authority.file))
    for proxy in net.proxies:
        for what, proxy_url in (("wrong password", proxy.wrong), ("no password", proxy.bare)):
            if proxy_url:
                yield Call(f"{proxy.name}: {what}", url, ("--proxy", proxy_url, *trust), Status.CONFIG)
        through = ("--proxy", proxy.url, *trust)
        yield Call(f"{proxy.name}: unknown host", "https://none.test/v1", through, Status.TEMPFAIL)
        yield Call(f"{proxy.name}: host that refuses", f"https://{DEAD}/v1", through, Status.TEMPFAIL)
    quick = ("--connect-timeout", "2")
    plain = net.proxies[2].url.removeprefix("http://")
    for scheme in ("http", "https", "socks5", "socks5h"):
        dead = ("--proxy", f"{scheme}://{DEAD}", *trust)
        yield Call(f"no proxy there, {scheme}", url, dead, Status.TEMPFAIL, "proxy")
        yield Call(f"a name for a proxy, {scheme}", url, ("--proxy", f"{scheme}://none.invalid:1"), Status.TEMPFAIL)
    for proxy_url in (f"socks5h://{plain}", f"https://{plain}"):
        yield Call(f"another protocol: {proxy_url}", url, ("--proxy", proxy_url, *quick, *trust), Status.TEMPFAIL)
    yield Call("HTTP spoken to SOCKS", url, ("--proxy", net.proxies[0].url.replace("socks5h", "http")), Status.PROTOCOL)
    yield Call("no scheme that is known", url, ("--proxy", "ftp://127.0.0.1"), Status.CONFIG)


def chosen(net: Net) -> Iterator[Call]:
    """Yield the ways to choose a proxy, for an address on this machine: where the environment's has no say."""
    server = net.servers["answer", "tls"]
    url, trust = f"https://four.test:{server.port}/v1", ("--cacert", str(net.authority.file))
    proxy, socks = net.proxies[2].url, net.proxies[0].url
    for name, value in itertools.product(
        ("GPTPIPE_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"), (proxy, socks, proxy[7:])
    ):
        yield Call(f"{name}={value}", url, trust, env={name: value})
        yield Call(f"{name}=dead", server.url, trust, env={name: f"http://{DEAD}"})
    yield Call("lower case first", url, trust, env={"https_proxy": proxy, "HTTPS_PROXY": f"http://{DEAD}"})
    yield Call("ours before theirs", url, trust, env={"GPTPIPE_PROXY": socks, "https_proxy": f"http://{DEAD}"})
    yield Call("the option first", url, ("--proxy", socks, *trust), env={"GPTPIPE_PROXY": f"http://{DEAD}"})
    # HTTP_PROXY in upper case can be set by whoever calls a CGI program.
    plain = net.servers["answer", "plain"]
    yield Call("HTTP_PROXY", plain.url, env={"HTTP_PROXY": f"http://{DEAD}"})
    top, profile = f"proxy = '{proxy}'\n", f"[profiles.p]\nbase_url = '{url}'\napi_key_env = 'OPENAI_API_KEY'\n"
    flags = ("--config", "settings", *trust)
    yield Call("the settings file", url, flags, settings=top)
    yield Call("a profile", url, (*flags, "-p", "p"), settings=f"{profile}proxy = '{socks}'\n")
    yield Call("none, though the settings file has one", server.url, (*flags, "--proxy", ""), settings=top)


def excepted(net: Net) -> Iterator[Call]:
    """Yield what NO_PROXY excepts, and what it does not, with a proxy that is not there."""
    server, six = net.servers["answer", "tls"], net.servers["answer", "six"]
    url, trust = f"https://four.test:{server.port}/v1", ("--cacert", str(net.authority.file))
    here = (
        "four.test",
        ".test",
        "test",
        "*",
        "x.test,four.test",
        "FOUR.TEST",
        f"four.test:{server.port}",
        " four.test",
    )
    elsewhere = ("", "our.test", "three.test", "four.test:1", "127.0.0.1", "x")
    for name, value in itertools.product(("no_proxy", "NO_PROXY"), here + elsewhere):
        env: dict[str, str | None] = {"https_proxy": f"http://{DEAD}", name: value}
        status = Status.OK if value in here else Status.TEMPFAIL
        yield Call(f"{name}={value!r}", url, trust, status, env=env)
    yield Call("a name on IPv6", f"https://six.test:{six.port}/v1", trust)
    yield Call("no proxy for an option's", url, ("--proxy", f"http://{DEAD}", *trust), Status.TEMPFAIL)


def certificates(net: Net) -> Iterator[Call]:
    """Yield certificates that verify, and those that must not."""
    names, folder, authority = "DNS:localhost,IP:127.0.0.1,IP:::1", net.folder, str(net.authority.file)
    knobs, make = EXCHANGES["answer"][0], net.authority.context
    bad = {
        "expired": (make("expired", names, year=2020), "expired"),
        "not yet valid": (make("future", names, year=2037), "not yet valid"),
        "for another name": (make("other", "DNS:other.test"), "mismatch"),
        "for a wildcard of another": (make("wild", "DNS:*.other.test"), "mismatch"),
        "signed by itself": (make("self", names, signed=False), "self-signed"),
        "signed by an unknown": (_stranger(folder).context("strange", names), "certificate"),
    }
    (folder / "hashed").mkdir()
    (folder / "hashed/authority.pem").write_text(Path(authority).read_text())
    subprocess.run(["openssl", "rehash", str(folder / "hashed")], check=True, capture_output=True)
    (folder / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n")
    (folder / "empty.pem").write_text("")
    other = str(folder / "self.pem")
    for host in ("127.0.0.1", "::1"):
        good = net.serve(knobs, net.good, host)
        urls = [good.url, f"https://localhost:{good.port}/v1"] if host == "127.0.0.1" else [good.url]
        for url in urls:
            yield Call(f"--cacert, {url}", url, ("--cacert", authority))
            yield Call(f"GPTPIPE_CACERT, {url}", url, env={"GPTPIPE_CACERT": authority})
            yield Call(f"SSL_CERT_FILE, {url}", url, env={"SSL_CERT_FILE": authority})
            yield Call(f"SSL_CERT_DIR, {url}", url, env={"SSL_CERT_DIR": str(folder / "hashed")})
            yield Call(f"settings, {url}", url, ("--config", "settings"), settings=f"cacert = '{authority}'\n")
            yield Call(f"trusted by nobody, {url}", url, (), Status.CONFIG, "does not verify")
            wrong = ("--cacert", other)
            yield Call(f"another --cacert, {url}", url, wrong, Status.CONFIG, env={"SSL_CERT_FILE": authority})
            # "" is how a shell passes on a variable that is not set.
            yield Call(f"SSL_CERT_FILE empty, {url}", url, (), Status.CONFIG, env={"SSL_CERT_FILE": ""})
            for faulty in ("garbage.pem", "empty.pem", "none.pem"):
                yield Call(f"--cacert {faulty}, {url}", url, ("--cacert", str(folder / faulty)), Status.CONFIG)
                env: dict[str, str | None] = {"SSL_CERT_FILE": str(folder / faulty)}
                yield Call(f"SSL_CERT_FILE={faulty}, {url}", url, (), Status.CONFIG, env=env)
        for what, (context, words) in bad.items():
            server = net.serve(knobs, context, host)
            yield Call(f"{what}, {server.url}", server.url, ("--cacert", authority), Status.CONFIG, words)
            yield Call(f"{what}, unknown, {server.url}", server.url, (), Status.CONFIG)
    old = make("old", names)
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    yield Call("TLS 1.1", net.serve(knobs, old).url, ("--cacert", authority), Status.TEMPFAIL)
    plain = net.servers["answer", "plain"]
    yield Call("no TLS", plain.url.replace("http:", "https:"), (), Status.PROTOCOL)
    yield Call("TLS to who speaks HTTP", good.url.replace("https:", "http:"), (), Status.TEMPFAIL)


def _stranger(folder: Path) -> Authority:
    (folder / "stranger").mkdir()
    return Authority(folder / "stranger")


def cases(rig: Rig) -> Iterator[Case]:
    """Call through every proxy, with every certificate."""
    needs("microsocks", "tinyproxy", "socat", "openssl", "faketime", "unshare")
    folder = rig.folder / "network"
    folder.mkdir()
    with Net(folder) as net:
        inside = itertools.chain(proxied(net), refusing(net), chosen(net), certificates(net))
        yield from parallel(lambda call: attempt(rig, call), inside)
        yield from parallel(lambda call: among_names(rig, net, call), excepted(net), 2)
