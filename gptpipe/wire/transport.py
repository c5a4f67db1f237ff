"""The way to an endpoint: HTTP by the proxy and the certificates of the settings, and what it means that it breaks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from gptpipe.errors import ConfigError, Failure, ProtocolError, Temporary, Unavailable, clause
from gptpipe.settings.settings import Settings
from gptpipe.text.address import masked
from gptpipe.wire import faults

if TYPE_CHECKING:
    import ssl

    import httpx2

PATIENCE = 30.0  # seconds for a download
_REFUSAL = 1 << 20  # bytes read of what a server says beside a status that is none of success
_REFUSING = 10.0  # seconds for which they are read
# What an HTTP proxy, and httpcore2 of a SOCKS proxy, say when name and password are wrong or missing.
_PROXY_REFUSES = re.compile(r"^40[17]\b|NO ACCEPTABLE METHODS|username/password", re.I)
_EAI_NODATA = -5  # Linux and macOS differ in it, and Python has it only where the C library declares it


def to_endpoint(settings: Settings, trust: Callable[[], ssl.SSLContext]) -> httpx2.BaseTransport:
    """Return the way to the endpoint: the built-in model, or HTTP by the settings' proxy and certificates."""
    import httpx2

    if settings.base_url is None:
        from gptpipe.wire import echo

        echo.parse(settings.model)  # a knob that does not exist is a usage error here, not the server's 400
        return echo.transport()
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    context, proxy = trust(), settings.proxy
    way = httpx2.Proxy(proxy, ssl_context=context if proxy.startswith("https:") else None) if proxy else None
    return httpx2.HTTPTransport(verify=context, proxy=way, limits=limits, trust_env=False)


def begin_trust(settings: Settings) -> Callable[[], ssl.SSLContext]:
    """Begin to load the certificates, and return the function that waits for them.

    OpenSSL takes 20 ms and releases the GIL: beside the import of the SDK that costs nothing. Without TLS the context
    trusts nobody.
    """
    import ssl

    if not any((url or "").startswith("https:") for url in (settings.base_url, settings.proxy)):
        return lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found: SimpleQueue[ssl.SSLContext | Exception] = SimpleQueue()

    def load_certificates() -> None:
        import httpx2

        try:
            if settings.cacert:
                found.put(ssl.create_default_context(cafile=settings.cacert))
            else:
                found.put(httpx2.create_ssl_context(trust_env=True))
        except Exception as error:
            found.put(error)

    def wait() -> ssl.SSLContext:
        context = found.get()
        if isinstance(context, OSError):  # ssl.SSLError is one
            raise ConfigError(f"cannot use the certificates in {settings.cacert}: {reason(context)}") from context
        if isinstance(context, Exception):
            raise context
        return context

    Thread(target=load_certificates, daemon=True).start()
    return wait


def bound(response: httpx2.Response) -> None:
    """Read no more of a refusal than tells why, and no longer: the SDK would read to its end, which may not come."""
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, whole: httpx2.SyncByteStream) -> None:
            self._whole = whole

        def __iter__(self) -> Iterator[bytes]:
            left, until = _REFUSAL, time.monotonic() + _REFUSING
            for block in self._whole:
                yield block[:left]
                left -= len(block)
                if left <= 0 or time.monotonic() > until:
                    return

        def close(self) -> None:
            self._whole.close()

    if not response.is_success and isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = Bounded(response.stream)


def download(url: str, proxy: str | None, cacert: str | None) -> bytes:
    """Return what is at an address, by an ``http`` or ``socks5`` proxy if one is named.

    :raises Temporary: if it cannot be reached, or has not come after PATIENCE seconds.
    :raises Unavailable: if the server refuses it; ConfigError: if its certificate does not verify.
    """
    found: SimpleQueue[bytes | BaseException] = SimpleQueue()
    Thread(target=_fetch, args=(url, proxy, cacert, found), daemon=True).start()
    try:
        data = found.get(timeout=PATIENCE)
    except Empty:
        raise Temporary(f"{masked(url)} has not come within {PATIENCE:.0f} s") from None
    if isinstance(data, BaseException):
        raise data
    return data


def _fetch(url: str, proxy: str | None, cacert: str | None, found: SimpleQueue[bytes | BaseException]) -> None:
    """Put what is at the address, or the failure: in a thread of its own, because a name lookup has no limit."""
    import ssl

    import httpx2

    try:
        trust = ssl.create_default_context(cafile=cacert) if cacert else httpx2.create_ssl_context(trust_env=True)
        with httpx2.Client(verify=trust, proxy=proxy, trust_env=False, timeout=PATIENCE) as http:
            response = http.get(url)
            if response.status_code == 200:
                found.put(response.content)
            else:
                found.put(Unavailable(f"{masked(url)} answered with status {response.status_code}"))
    except Exception as error:
        failed = ConfigError if isinstance(_root(error), ssl.SSLCertVerificationError) else Temporary
        found.put(failed(f"cannot fetch {masked(url)}: {reason(error)}"))


# What it means when the way breaks


def failure(error: BaseException, settings: Settings, url: str) -> Failure | None:
    """Return what an exception of the HTTP library means, None if it is none of the transport's; ``url`` was asked."""
    import httpx2

    if isinstance(error, httpx2.TransportError) and isinstance(refusal := _root(error), httpx2.HTTPStatusError):
        # A server that refuses before it has read the request may reset the connection: its status is known.
        code, headers = refusal.response.status_code, refusal.response.headers
        return faults.from_response(code, headers, "", masked(str(refusal.response.url)))
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
        return ConfigError(
            f"the certificate of {masked(' or '.join(tls))} does not verify: {root.verify_message}",
            "--cacert PATH names the authority that signed it",
        )
    message = f"cannot connect to {_peer(settings)}: {reason(error)}"
    if isinstance(error, httpx2.ProxyError) and _PROXY_REFUSES.search(str(error)):
        return ConfigError(message, "name and password stand in the proxy's URL: http://NAME:PASSWORD@HOST:PORT")
    if isinstance(root, ssl.SSLError) and root.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return ProtocolError(f"{_peer(settings)} does not speak TLS", "is it http:// that it speaks?")
    unknown = isinstance(root, socket.gaierror) and root.errno in (socket.EAI_NONAME, _EAI_NODATA)
    return Temporary(message, repeat=not unknown, away=not unknown)


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
