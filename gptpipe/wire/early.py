"""The way to an endpoint, opened while input is read and modules are imported.

Only the standard library is needed for it: name, TCP and TLS to the first host, which is the proxy if there is one.
Nothing is sent over the connection here. The request takes it over (:func:`backend`) if it is still alive. Otherwise
another is opened, silently.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from threading import Thread, local
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gptpipe.errors import ConfigError, clause
from gptpipe.settings.settings import Settings

if TYPE_CHECKING:
    import socket
    import ssl

    import httpcore2

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

Trust = Callable[[], "ssl.SSLContext"]

here = local()
"""``here.fresh`` is true once this thread has opened a connection, false before a request."""


class Early:
    """A connection that a daemon thread opens, at once; none to the built-in model.

    ``trust`` waits for the certificates.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._socket: socket.socket | None = None
        self._failure: OSError | None = None
        self._ended = 0.0  # when it was there, or had failed (monotonic)
        self._thread: Thread | None = None
        url = urlsplit(settings.proxy or settings.base_url or "")
        self.address = (url.hostname or "", url.port or _PORTS.get(url.scheme, 0))
        self.tls = url.scheme == "https"
        self.trust = begin_trust(settings)
        if url.hostname and url.hostname.isascii():
            self._thread = Thread(target=self._open, daemon=True)
            self._thread.start()

    def _open(self) -> None:
        import socket

        found: socket.socket | None = None
        try:
            found = socket.create_connection(self.address, self.settings.connect_timeout)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                context = self.trust()
                context.set_alpn_protocols(["http/1.1"])
                found = context.wrap_socket(found, server_hostname=self.address[0])
            self._socket = found
        except OSError as error:
            self._failure = error
        except Exception:  # the certificates cannot be used: the request will fail and say so
            pass
        if found is not None and self._socket is None:
            found.close()
        self._ended = time.monotonic()

    def take(self) -> socket.socket | None:
        """Return the connection, once, or None if it is not alive.

        :raises OSError: if it failed while it was waited for.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return None
        asked = time.monotonic()
        thread.join()
        if self._failure is not None and self._ended > asked:
            raise self._failure
        return self._socket if self._socket is not None and _alive(self._socket) else None

    def close(self) -> None:
        """Close the connection if nobody took it."""
        if self._thread is not None and self._socket is not None:
            self._socket.close()


def _alive(found: socket.socket) -> bool:
    """Return whether a connection is open and silent. What TLS sends for later connections is read here."""
    found.settimeout(0)
    try:
        found.recv(1)
    except BlockingIOError:
        return True
    except OSError as error:  # of TLS: it wants to read, so there is nothing
        if type(error).__name__ == "SSLWantReadError":
            return True
    found.close()
    return False


def begin_trust(settings: Settings) -> Trust:
    """Begin to load the certificates, and return the function that waits for them.

    OpenSSL takes 20 ms and releases the GIL: beside an import that is free. Without TLS the context trusts nobody.
    """
    if not any((url or "").startswith("https:") for url in (settings.base_url, settings.proxy)):
        return _nobody
    found: SimpleQueue[ssl.SSLContext | Exception] = SimpleQueue()

    def load() -> None:
        import ssl

        import httpcore2

        try:
            if settings.cacert:
                found.put(ssl.create_default_context(cafile=settings.cacert))
            else:
                found.put(httpcore2.default_ssl_context())
        except Exception as error:
            found.put(error)

    def wait() -> ssl.SSLContext:
        context = found.get()
        found.put(context)  # for the next caller
        if isinstance(context, OSError):  # ssl.SSLError is one
            where = settings.cacert or os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
            why = clause(context.strerror or context)
            raise ConfigError(f"cannot use the certificates in {where}: {why}") from context
        if isinstance(context, Exception):
            raise context
        return context

    Thread(target=load, daemon=True).start()
    return wait


def _nobody() -> ssl.SSLContext:
    import ssl

    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def backend(early: Early) -> httpcore2.NetworkBackend:
    """Return what opens the connections of the HTTP library: the first is the early one."""
    import httpcore2
    from httpcore2._backends.sync import SyncStream  # a stream of ours would be a copy of it

    class Ready(SyncStream):
        """The early connection, on which TLS has begun already if its host speaks it."""

        def start_tls(self, *arguments: Any, **named: Any) -> httpcore2.NetworkStream:
            if early.tls:
                return SyncStream(self._sock)
            return super().start_tls(*arguments, **named)

    class Backend(httpcore2.SyncBackend):
        def connect_tcp(
            self,
            host: str,
            port: int,
            timeout: float | None = None,
            local_address: str | None = None,
            socket_options: Iterable[Any] | None = None,
        ) -> httpcore2.NetworkStream:
            if (host.lower(), port) == early.address:
                try:
                    if (found := early.take()) is not None:
                        return Ready(found)
                except TimeoutError as error:
                    raise httpcore2.ConnectTimeout from error
                except OSError as error:
                    raise httpcore2.ConnectError(str(error)) from error
            here.fresh = True
            return super().connect_tcp(host, port, timeout, local_address, socket_options)

    return Backend()
