"""The way to an endpoint: HTTP by the settings' proxy and certificates, and what it means when the way breaks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from itertools import count
from threading import Thread
from typing import TYPE_CHECKING, Any

from gptpipe import __version__
from gptpipe.errors import BadInput, ConfigError, Failure, ProtocolError, Temporary, clause
from gptpipe.settings.settings import Settings
from gptpipe.text.address import joined, masked, secrets
from gptpipe.wire.early import Early, backend, here
from gptpipe.wire.exchange import Exchange

if TYPE_CHECKING:
    import httpx2

# What an HTTP proxy, and httpcore2 of a SOCKS proxy, say when name and password are wrong or missing.
_PROXY_REFUSES = re.compile(r"^40[17]\b|NO ACCEPTABLE METHODS|username/password", re.I)
_OTHER_NAME = (62, 63, 64)  # X509_V_ERR_*_MISMATCH of OpenSSL
_OUT_OF_DATE = (9, 10)
_EAI_NODATA = -5  # Linux and macOS differ in it, and Python has it only where the C library declares it
_ECHO = "http://echo.invalid/v1"  # stands for the address of the built-in model


class Way:
    """The way to one endpoint, with its connections. Several threads may use it at once.

    ``base`` is the endpoint's address, ``headers`` go with each request, ``secrets`` are what nobody else is to see.

    :raises ConfigError: if an address, the proxy or the certificates cannot be used.
    """

    def __init__(self, settings: Settings, key: str | None, early: Early | None = None) -> None:
        if early is None or _end(early.settings) != _end(settings):
            early = Early(settings)
        self._early = early
        import httpx2

        self.settings = settings
        self.base = settings.base_url or _ECHO
        own = settings.headers.values()
        # Of "Bearer KEY" the key alone is a secret too.
        hidden = (key, *own, *(value.split()[-1] for value in own if value.split()), *secrets(self.base))
        self.secrets = [secret for secret in hidden if secret and len(secret) > 3]
        self.headers = httpx2.Headers({"User-Agent": f"gptpipe/{__version__}"})
        if key:
            self.headers["Authorization"] = f"Bearer {key}"
        self.headers.update(settings.headers)
        try:
            httpx2.URL(self.base)
            self._transport = _to_endpoint(settings, early)
        except (httpx2.InvalidURL, ValueError) as error:
            raise ConfigError(f"the address {masked(self.base)} cannot be used: {error}") from error
        self._http = self.http()

    def url(self, path: str) -> str:
        """Return the address of a path below the endpoint's."""
        return joined(self.base, path)

    def http(self, **options: Any) -> httpx2.Client:
        """Return an HTTP client that goes this way; closing it closes the way."""
        import httpx2

        limits = self.settings
        timeout = httpx2.Timeout(limits.idle_timeout, connect=limits.connect_timeout, pool=None)
        return httpx2.Client(transport=self._transport, timeout=timeout, trust_env=False, **options)

    def close(self) -> None:
        """Close all connections."""
        self._early.close()
        self._http.close()

    def post(self, exchange: Exchange, path: str, content: bytes) -> httpx2.Response:
        """Send JSON, and return the response before its body is read."""
        kinds = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        return self._send(exchange, "POST", self.url(path), kinds, content)

    def get(self, exchange: Exchange, url: str) -> httpx2.Response:
        """Ask for what is at an address, and return the response before its body is read."""
        return self._send(exchange, "GET", url, {}, None)

    def _send(
        self, exchange: Exchange, method: str, url: str, headers: dict[str, str], content: bytes | None
    ) -> httpx2.Response:
        import httpx2

        extensions = {"trace": self.tracer(exchange)}
        request = self._http.build_request(method, url, headers=headers, content=content, extensions=extensions)
        request.headers.update(self.headers)
        while True:
            here.fresh = False
            try:
                return self._http.send(request, stream=True)
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError) as error:
                answered = isinstance(error, httpx2.RemoteProtocolError) and "disconnected" not in str(error)
                if here.fresh or answered:
                    raise  # else the server had closed a connection that was open before: that is not a try

    @staticmethod
    def tracer(exchange: Exchange) -> Callable[[str, dict[str, Any]], None]:
        """Return what the HTTP library calls at each step, so that an exchange knows when it is connected."""

        def trace(name: str, info: dict[str, Any]) -> None:
            if name.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
                exchange.connected = True

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


def preload() -> None:
    """Import the HTTP library in a daemon thread, while something else is waited for."""
    Thread(target=load, daemon=True).start()


def load() -> None:
    """Import the HTTP library."""
    import httpx2  # noqa: F401


def _to_endpoint(settings: Settings, early: Early) -> httpx2.BaseTransport:
    """Return the transport to the endpoint: the built-in model, or HTTP."""
    import httpx2

    if settings.base_url is None:
        return to_echo(settings.model)
    # Idle connections are kept for as long as a person thinks in a chat, and no longer than most servers keep them.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=60)
    context, proxy = early.trust(), settings.proxy
    way = httpx2.Proxy(proxy, ssl_context=context if proxy.startswith("https:") else None) if proxy else None
    found = httpx2.HTTPTransport(verify=context, proxy=way, limits=limits, trust_env=False)
    found._pool._network_backend = backend(early)  # the library takes one only where it makes no use of a proxy
    return found


def _end(settings: Settings) -> tuple[object, ...]:
    """Return what decides where a way leads, and whom it trusts."""
    return settings.base_url, settings.proxy, settings.cacert


def to_echo(model: str) -> httpx2.BaseTransport:
    """Return the built-in endpoint as a transport. It honours the read timeout of each request.

    The tries that ``fails`` counts are those of one transport.

    :raises UsageError: if the model's name has a knob that does not exist.
    """
    import httpx2

    from gptpipe.wire import echo

    echo.parse(model)
    tries = count()

    def handle(request: httpx2.Request) -> httpx2.Response:
        limit = request.extensions.get("timeout", {}).get("read")

        def timed(chunks: Iterator[bytes | echo.Pause]) -> Iterator[bytes]:
            for chunk in chunks:
                if isinstance(chunk, bytes):
                    yield chunk
                elif limit is not None and chunk.seconds > limit:
                    time.sleep(limit)
                    raise httpx2.ReadTimeout("the read operation timed out", request=request)
                else:
                    time.sleep(min(chunk.seconds, 1e9))

        reply = echo.answer(request.method, request.url.path, request.content, tries)
        return httpx2.Response(reply.status, headers=reply.headers, content=timed(reply.chunks))

    return httpx2.MockTransport(handle)


# What it means when the way breaks


def _failure(error: BaseException, settings: Settings, url: str) -> Failure | None:
    """Return what an exception of the HTTP library means, None if it is not the transport's; ``url`` was asked."""
    import httpx2

    if isinstance(error, httpx2.ConnectTimeout):
        return unreached(settings)
    if isinstance(error, httpx2.TimeoutException):
        return Temporary(f"the server was silent for {settings.idle_timeout:g} s (--idle-timeout)")
    if isinstance(error, (httpx2.ProxyError, httpx2.ConnectError)):
        return _unconnected(error, settings)
    if isinstance(error, httpx2.RemoteProtocolError) and "disconnected" not in str(error).lower():
        return ProtocolError(f"{masked(url)} does not speak HTTP: {error}")
    if isinstance(error, httpx2.DecodingError):
        return ProtocolError(f"{masked(url)} answered with a broken content encoding: {error}")
    if (settings.proxy and isinstance(error, AssertionError)) or type(error).__module__.startswith("socksio"):
        return Temporary(f"{_peer(settings)} does not speak SOCKS")  # httpcore2 lets these through
    if isinstance(error, httpx2.TransportError):
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

    import httpx2

    root = _root(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        tls = [url for url in (settings.base_url, settings.proxy) if url and url.startswith("https:")]
        where = masked(" or ".join(tls))
        return ConfigError(
            f"the certificate of {where} does not verify: {root.verify_message}", _hint(root.verify_code)
        )
    message = f"cannot connect to {_peer(settings)}: {reason(error)}"
    if isinstance(error, httpx2.ProxyError) and _PROXY_REFUSES.search(str(error)):
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
