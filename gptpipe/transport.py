"""The way to an endpoint: HTTP, by the proxy and under the certificates of the settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from gptpipe.address import masked
from gptpipe.errors import ConfigError, Temporary, Unavailable
from gptpipe.settings import Settings

if TYPE_CHECKING:
    import ssl

    import httpx2

PATIENCE = 30.0  # seconds for a download
_REFUSAL = 1 << 20  # bytes read of what a server says beside a status that is none of success
_REFUSING = 10.0  # seconds for which they are read


def to_endpoint(settings: Settings, trust: Callable[[], ssl.SSLContext]) -> httpx2.BaseTransport:
    """Return the way to the endpoint: the built-in model, or HTTP by the settings' proxy and certificates."""
    import httpx2

    if settings.base_url is None:
        from gptpipe import echo

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
        failed = ConfigError if isinstance(root(error), ssl.SSLCertVerificationError) else Temporary
        found.put(failed(f"cannot fetch {masked(url)}: {reason(error)}"))


def root(error: BaseException) -> BaseException:
    """Return the exception at the bottom of the causes."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error


def reason(error: Exception) -> str:
    """Return in a few words why, as far down as the causes go: lower case, no full stop."""
    cause = root(error)
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")
