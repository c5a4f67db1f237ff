"""The way to an endpoint: HTTP by the settings' proxy and certificates, and what it means when the way breaks."""

from __future__ import annotations

import re
import sys
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from gptpipe import __version__
from gptpipe.errors import BadInput, ConfigError, Failure, ProtocolError, Temporary, clause
from gptpipe.settings.built_in import ECHO_URL
from gptpipe.settings.settings import Settings
from gptpipe.text.address import joined, masked, secrets
from gptpipe.wire import http
from gptpipe.wire.connections import Connections
from gptpipe.wire.early import Early, here
from gptpipe.wire.exchange import Exchange, Response, may_open

if TYPE_CHECKING:
    import httpx2

# What an HTTP proxy, and httpcore2 of a SOCKS proxy, say when name and password are wrong or missing.
_PROXY_REFUSES = re.compile(r"^40[17]\b|NO ACCEPTABLE METHODS|username/password", re.I)
_OTHER_NAME = (62, 63, 64)  # X509_V_ERR_*_MISMATCH of OpenSSL
_OUT_OF_DATE = (9, 10)
_EAI_NODATA = -5  # Linux and macOS differ in it, and Python has it only where the C library declares it


class Way:
    """The way to one endpoint, with its connections. Several threads may use it at once.

    ``base`` is the endpoint's address, ``headers`` go with each request, ``secrets`` are what nobody else is to see.

    :raises ConfigError: if an address, the proxy or the certificates cannot be used.
    """

    def __init__(self, settings: Settings, key: str | None, early: Early | None = None) -> None:
        if early is None or _end(early.settings) != _end(settings):
            early = Early(settings)
        self._early = early
        self.settings = settings
        self.base = settings.base_url or ECHO_URL
        own = settings.headers.values()
        # Of "Bearer KEY" the key alone is a secret too.
        hidden = (key, *own, *(value.split()[-1] for value in own if value.split()), *secrets(self.base))
        self.secrets = [secret for secret in hidden if secret and len(secret) > 3]
        self.headers = {"User-Agent": f"gptpipe/{__version__}"}
        if key:
            self.headers["Authorization"] = f"Bearer {key}"
        self.headers |= settings.headers
        limit, connect = settings.idle_timeout, settings.connect_timeout
        self._limits = {"read": limit, "write": limit, "connect": connect, "pool": None}
        self._connections: Connections | None = None
        if settings.base_url is None:
            self._echo = echoing(settings.model)
            return
        try:
            http.address(self.base)
            self._connections = http.connections(settings, early)
        except ValueError as error:
            raise ConfigError(f"the address {masked(self.base)} cannot be used: {error}") from error

    def url(self, path: str) -> str:
        """Return the address of a path below the endpoint's."""
        return joined(self.base, path)

    def client(self, **options: Any) -> httpx2.Client:
        """Return a client of the HTTP library that goes this way; closing it closes the way."""
        ours = self._connections
        way = http.over(ours, self._early) if ours else http.over_echo(self._echo)
        return http.client(way, self._limits, **options)

    def close(self) -> None:
        """Close all connections."""
        self._early.close()
        if self._connections:
            self._connections.close()

    def post(self, exchange: Exchange, path: str, content: bytes) -> Response:
        """Send JSON, and return the response before its body is read."""
        kinds = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        return self._send(exchange, "POST", self.url(path), kinds, content)

    def get(self, exchange: Exchange, url: str) -> Response:
        """Ask for what is at an address, and return the response before its body is read."""
        return self._send(exchange, "GET", url, {"Accept": "*/*"}, None)

    def _send(
        self, exchange: Exchange, method: str, url: str, headers: dict[str, str], content: bytes | None
    ) -> Response:
        if self._connections is None:
            return self._echo(method, url, content or b"", self._limits["read"])
        import httpcore2

        to = http.address(url)
        fields = self._fields(to, headers, content)
        extensions: dict[str, Any] = {"timeout": self._limits}
        if may_open():
            extensions["trace"] = self.tracer(exchange)
        request = httpcore2.Request(method, to.url, headers=fields, content=content, extensions=extensions)
        while True:
            here.fresh = False
            try:
                return http.Received(self._connections.handle_request(request))
            except (httpcore2.RemoteProtocolError, httpcore2.ReadError, httpcore2.WriteError) as error:
                answered = isinstance(error, httpcore2.RemoteProtocolError) and "disconnected" not in str(error)
                if here.fresh or answered:
                    raise  # else the server had closed a connection that was open before: that is not a try

    def _fields(self, to: http.Address, headers: dict[str, str], content: bytes | None) -> list[tuple[bytes, bytes]]:
        """Return the headers of a request: ours, over them the settings', over all a user in the URL."""
        ours = {"Host": to.host.decode(), "Accept-Encoding": http.ENCODINGS, "Connection": "keep-alive", **headers}
        if content is not None:
            ours["Content-Length"] = str(len(content))
        user = {"Authorization": f"Basic {b64encode(b':'.join(to.user)).decode()}"} if to.user else {}
        fields: dict[str, tuple[str, str]] = {}
        for name, value in (*ours.items(), *self.headers.items(), *user.items()):
            fields[name.lower()] = (name, value)
        return [(name.encode("ascii"), value.encode("ascii")) for name, value in fields.values()]

    @staticmethod
    def tracer(exchange: Exchange) -> Callable[[str, dict[str, Any]], None]:
        """Return what the HTTP library calls at each step, so that an exchange knows when it is connected."""

        def trace(name: str, info: dict[str, Any]) -> None:
            if name.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
                exchange.sending()

        return trace

    def clean(self, text: str) -> str:
        """Return the text without the key and the header values that a server repeated in it."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def failure(self, error: BaseException, path: str) -> Exception:
        """Return what it means that a request broke off with this exception."""
        if isinstance(error, Failure):
            return error
        if isinstance(error, UnicodeEncodeError):
            return BadInput("the request is not UTF-8 text: an option or a variable holds other bytes")
        if found := _failure(error, self.settings, self.url(path)):
            return found
        return error if isinstance(error, Exception) else RuntimeError(repr(error))


def preload(settings: Settings) -> None:
    """Import what speaks HTTP in a daemon thread, while something else is waited for, unless it is there."""
    if "httpcore2" not in sys.modules:
        Thread(target=load, args=(settings,), daemon=True).start()


def load(settings: Settings) -> None:
    """Import what speaks HTTP; the built-in model needs none of it."""
    if settings.base_url is not None:
        import httpcore2  # noqa: F401


def _end(settings: Settings) -> tuple[object, ...]:
    """Return what decides where a way leads, and whom it trusts."""
    return settings.base_url, settings.proxy, settings.cacert


class Said(NamedTuple):
    """A response of the built-in model."""

    status_code: int
    headers: Mapping[str, str]
    body: Iterator[bytes]
    extensions: Mapping[str, Any] = {}

    def iter_bytes(self) -> Iterator[bytes]:
        """Yield the body."""
        return self.body

    def close(self) -> None:
        """Do nothing: nothing is open."""


def echoing(model: str) -> http.Echo:
    """Return the built-in endpoint.

    The tries that ``fails`` counts are those of one endpoint.

    :raises UsageError: if the model's name has a knob that does not exist.
    """
    from gptpipe.wire import echo

    echo.parse(model)
    tries = count()

    def timed(chunks: Iterator[bytes | echo.Pause], limit: float | None) -> Iterator[bytes]:
        for chunk in chunks:
            if isinstance(chunk, bytes):
                yield chunk
            elif limit is not None and chunk.seconds > limit:
                time.sleep(limit)
                raise TimeoutError("the read operation timed out")
            else:
                time.sleep(min(chunk.seconds, 1e9))

    def ask(method: str, url: str, content: bytes, limit: float | None) -> Said:
        reply = echo.answer(method, url.partition("?")[0], content, tries)
        return Said(reply.status, reply.headers, timed(reply.chunks, limit))

    return ask


# What it means when the way breaks


def _failure(error: BaseException, settings: Settings, url: str) -> Failure | None:
    """Return what an exception of the transport means, None if it is of something else; ``url`` was asked."""
    import httpcore2

    if type(error).__module__.startswith("httpx2"):  # it was raised for the SDK, from one of those below
        error = error.__cause__ or error
    if isinstance(error, httpcore2.ConnectTimeout):
        return unreached(settings)
    if isinstance(error, (TimeoutError, httpcore2.TimeoutException)):
        return Temporary(f"the server was silent for {settings.idle_timeout:g} s (--idle-timeout)")
    if isinstance(error, (httpcore2.ProxyError, httpcore2.ConnectError)):
        return _unconnected(error, settings)
    if isinstance(error, httpcore2.RemoteProtocolError) and "disconnected" not in str(error).lower():
        return ProtocolError(f"{masked(url)} does not speak HTTP: {error}")
    if isinstance(error, zlib.error):
        return ProtocolError(f"{masked(url)} answered with a broken content encoding: {error}")
    if (settings.proxy and isinstance(error, AssertionError)) or type(error).__module__.startswith("socksio"):
        return Temporary(f"{_peer(settings)} does not speak SOCKS")  # httpcore2 lets these through
    if isinstance(error, (httpcore2.NetworkError, httpcore2.ProtocolError)):
        return Temporary(f"the connection to {_peer(settings)} was lost: {reason(error)}", repeat=True, away=True)
    return None


def unreached(settings: Settings) -> Temporary:
    """Return the failure of a connection that takes longer than it may."""
    limit = settings.connect_timeout
    return Temporary(
        f"no connection to {_peer(settings)} within {limit:g} s (--connect-timeout)", repeat=True, away=True
    )


def _unconnected(error: Exception, settings: Settings) -> Failure:
    import socket
    import ssl

    import httpcore2

    root = _root(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        tls = [url for url in (settings.base_url, settings.proxy) if url and url.startswith("https:")]
        where = masked(" or ".join(tls))
        return ConfigError(
            f"the certificate of {where} does not verify: {root.verify_message}", _hint(root.verify_code)
        )
    message = f"cannot connect to {_peer(settings)}: {reason(error)}"
    if isinstance(error, httpcore2.ProxyError) and _PROXY_REFUSES.search(str(error)):
        return ConfigError(message, "name and password stand in the proxy's URL: http://NAME:PASSWORD@HOST:PORT")
    if isinstance(root, ssl.SSLError) and root.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return ProtocolError(f"{_peer(settings)} does not speak TLS", "is it http:// that it speaks?")
    unknown = isinstance(root, socket.gaierror) and root.errno in (socket.EAI_NONAME, _EAI_NODATA)
    return Temporary(message, repeat=not unknown, away=not unknown)


def _hint(code: int) -> str | None:
    """Return what to do about a certificate that OpenSSL refuses for this reason."""
    if code in _OTHER_NAME:
        return "the address must have a name that the certificate is for"
    if code in _OUT_OF_DATE:
        return "this machine's clock may be wrong; else the server needs a new certificate"
    return "--cacert PATH names the authority that signed it"


def _peer(settings: Settings) -> str:
    if settings.proxy:
        return f"the proxy {masked(settings.proxy)}"
    return masked(settings.base_url or "echo")


def reason(error: Exception) -> str:
    """Return in a few words why, as far down as the causes go."""
    cause = _root(error)
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or str(error) or type(error).__name__
    return clause(text)


def _root(error: BaseException) -> BaseException:
    """Return the exception at the bottom of the causes."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error
