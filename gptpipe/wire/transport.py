"""The way to an endpoint: HTTP by the settings' proxy and certificates, and what it means when the way breaks."""

from __future__ import annotations

import re
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from itertools import count
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from gptpipe import __version__
from gptpipe.errors import BadInput, ConfigError, Failure, ProtocolError, Temporary, clause
from gptpipe.settings.built_in import ECHO_URL
from gptpipe.settings.settings import Settings
from gptpipe.text.address import joined, masked, secrets
from gptpipe.wire import dial, http
from gptpipe.wire.connections import Connections
from gptpipe.wire.early import Early
from gptpipe.wire.exchange import Exchange, Lost, NotHttp, Response

if TYPE_CHECKING:
    import httpx2

# What is said of a proxy when name and password are wrong or missing.
_WHO = r"(?i)^40[17]\b|NO ACCEPTABLE METHODS|username.password"
_OTHER_NAME = (62, 63, 64)  # X509_V_ERR_*_MISMATCH of OpenSSL
_OUT_OF_DATE = (9, 10)
_ENCODINGS = "gzip, deflate"
_CONNECTION = "gptpipe.wire.connection"
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
        self._limit = settings.idle_timeout
        self._connections: Connections | None = None
        if settings.base_url is None:
            self._echo = echoing(settings.model)
            return
        try:
            self._connections = Connections(http.route(settings), early, settings.connect_timeout)
        except ValueError as error:
            raise ConfigError(f"the address {masked(self.base)} cannot be used: {error}") from error

    def url(self, path: str) -> str:
        """Return the address of a path below the endpoint's."""
        return joined(self.base, path)

    def client(self, exchange: Exchange, **options: Any) -> httpx2.Client:
        """Return a client of the HTTP library that goes this way, for one exchange."""
        ours = self._connections
        return http.client(http.over(ours, exchange) if ours else http.over_echo(self._echo), self._limit, **options)

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
            return self._echo(method, url, content or b"", self._limit)
        from gptpipe.wire.connection import Sent

        to = http.address(url)
        body = () if content is None else (content,)
        sent = Sent(method, to.target, self._fields(to, headers, content), body)
        return self._connections.ask(sent, self._limit, exchange.sending)

    def _fields(self, to: http.Address, headers: dict[str, str], content: bytes | None) -> dict[str, str]:
        """Return the headers of a request: ours, over them the settings', over all a user in the URL."""
        ours = {"Host": to.host, "Accept-Encoding": _ENCODINGS, "Connection": "keep-alive", **headers}
        if content is not None:
            ours["Content-Length"] = str(len(content))
        user = {"Authorization": dial.basic(to.end.user)} if to.end.user else {}
        fields = {name.lower(): (name, value) for each in (ours, self.headers, user) for name, value in each.items()}
        return dict(fields.values())

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
    if _CONNECTION not in sys.modules:
        Thread(target=load, args=(settings,), daemon=True).start()


def load(settings: Settings) -> None:
    """Import what speaks HTTP; the built-in model needs none of it."""
    if settings.base_url is not None:
        import gptpipe.wire.connection  # noqa: F401


def _end(settings: Settings) -> tuple[object, ...]:
    """Return what decides where a way leads, and whom it trusts."""
    return settings.base_url, settings.proxy, settings.cacert


class Said(NamedTuple):
    """A response of the built-in model."""

    status: int
    headers: Mapping[str, str]
    body: Iterator[bytes]

    def read_until(self, moment: float) -> None:
        """Do nothing: what the model says is there."""

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
    if type(error).__module__.startswith("httpx2"):  # what the HTTP library made, for the SDK, of one of those below
        error = error.__cause__ or error
    if isinstance(error, dial.Unconnected):
        return _unconnected(error, settings)
    if isinstance(error, dial.ProxyRefused):
        asks = "name and password stand in the proxy's URL: http://NAME:PASSWORD@HOST:PORT"
        message = f"cannot connect to {_peer(settings)}: {error}"
        return ConfigError(message, asks) if re.search(_WHO, str(error)) else Temporary(message, repeat=True, away=True)
    if isinstance(error, dial.NotSocks):
        return Temporary(f"{_peer(settings)} does not speak SOCKS")
    if isinstance(error, TimeoutError):
        return Temporary(f"the server was silent for {settings.idle_timeout:g} s (--idle-timeout)")
    if isinstance(error, NotHttp):
        return ProtocolError(f"{masked(url)} does not speak HTTP: {error}")
    if isinstance(error, zlib.error):
        return ProtocolError(f"{masked(url)} answered with a broken content encoding: {error}")
    if isinstance(error, Lost):
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

    root = _root(error)
    if isinstance(root, TimeoutError) and root.errno is None:  # else it is the system that waited no longer
        return unreached(settings)
    if isinstance(root, ssl.SSLCertVerificationError):
        tls = [url for url in (settings.base_url, settings.proxy) if url and url.startswith("https:")]
        where = masked(" or ".join(tls))
        return ConfigError(
            f"the certificate of {where} does not verify: {root.verify_message}", _hint(root.verify_code)
        )
    if isinstance(root, ssl.SSLError) and root.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return ProtocolError(f"{_peer(settings)} does not speak TLS", "is it http:// that it speaks?")
    unknown = isinstance(root, socket.gaierror) and root.errno in (socket.EAI_NONAME, _EAI_NODATA)
    message = f"cannot connect to {_peer(settings)}: {reason(error)}"
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
