"""The way to an endpoint, opened while input is read and modules are imported.

Only the standard library is needed for it: name, TCP, an HTTP or SOCKS proxy, and TLS. No part of a request is sent
over the connection here. The request takes it over (:mod:`gptpipe.wire.http`) if it is still alive. Otherwise
another is opened, silently.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread, local
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from gptpipe.errors import ConfigError, clause
from gptpipe.settings.settings import Settings
from gptpipe.wire.dial import Tunnel, connect

if TYPE_CHECKING:
    import socket
    import ssl

_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

Trust = Callable[[], "ssl.SSLContext"]

here = local()
"""``here.fresh`` is true once this thread has opened a connection, false before a request."""


class Early:
    """A connection that a daemon thread opens, at once; none to the built-in model.

    ``trust`` waits for the certificates. ``tunnel`` is what was said to the proxy, if the way leads through one;
    ``secure`` says that TLS is spoken already.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.trust = begin_trust(settings)
        self.tunnel: Tunnel | None = None
        self.secure = False
        self._socket: socket.socket | None = None
        self._failure: OSError | None = None
        self._ended = 0.0  # when it was there, or had failed (monotonic)
        self._thread: Thread | None = None
        self._end = urlsplit(settings.base_url or "")
        self._first = urlsplit(settings.proxy) if settings.proxy else self._end
        self.address = _address(self._first)
        if self.address[0] and self.address[0].isascii():
            import socket  # noqa: F401  # here, or the thread would wait for what this one imports next

            self._thread = Thread(target=self._open, daemon=True)
            self._thread.start()

    def _open(self) -> None:
        found: socket.socket | None = None
        try:
            found = connect(*self.address, self.settings.connect_timeout)
            if self._first.scheme == "https":
                found = self._secured(found, self._first)
            elif self._first is not self._end and (self._end.scheme == "https" or self._first.scheme != "http"):
                self.tunnel = Tunnel(self._first, *_address(self._end))
                self.tunnel.open(found)
                if self.tunnel.stands and self._end.scheme == "https":
                    found = self._secured(found, self._end)
            self._socket = found
        except OSError as error:
            self._failure = error
        except Exception:  # the certificates cannot be used: the request will fail and say so
            pass
        if found is not None and self._socket is None:
            found.close()
        self._ended = time.monotonic()

    def _secured(self, found: socket.socket, peer: SplitResult) -> socket.socket:
        """Speak TLS with one end of the way."""
        context = self.trust()
        context.set_alpn_protocols(["http/1.1"])
        found = context.wrap_socket(found, server_hostname=peer.hostname)
        self.secure = True
        return found

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
        if self.tunnel and not self.tunnel.stands:
            return self._socket  # the proxy refuses: the library is to read why
        return self._socket if self._socket is not None and _alive(self._socket) else None

    def close(self) -> None:
        """Close the connection if nobody took it, or if the proxy refused: the library leaves that one open."""
        refused = self.tunnel is not None and not self.tunnel.stands
        if self._socket is not None and (self._thread is not None or refused):
            self._socket.close()


def _address(url: SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or _PORTS.get(url.scheme, 0)


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
        try:
            found.put(_trusted(settings.cacert))
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


def _trusted(cacert: str | None) -> ssl.SSLContext:
    """Return a context that trusts what the HTTP library does, or the authorities in one file alone.

    Where OpenSSL finds the certificates of a Linux system by itself, the library is not needed to look for them.
    """
    import ssl

    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if cacert or file:
        return ssl.create_default_context(cafile=cacert or file)
    if folder:
        return ssl.create_default_context(capath=folder)
    if sys.platform == "linux" and ssl.get_default_verify_paths().cafile:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_default_verify_paths()
        return context
    import httpcore2

    return httpcore2.default_ssl_context()


def _nobody() -> ssl.SSLContext:
    import ssl

    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
