"""The way to an endpoint, opened while input is read and modules are imported.

No part of a request is sent over the connection here. The request takes it over (:mod:`gptpipe.wire.connections`) if
it is still alive. Otherwise another is opened, silently.
"""

from __future__ import annotations

import os
import sys
import time
from threading import Event, Thread
from typing import TYPE_CHECKING

from gptpipe.errors import ConfigError, clause
from gptpipe.settings.settings import Settings
from gptpipe.wire.dial import Route, Unconnected, alive, end_of, opened

if TYPE_CHECKING:
    import socket
    import ssl


class Early:
    """A connection that a daemon thread opens, at once; none to the built-in model.

    ``trust`` are the certificates, for a way with TLS.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.trust = Trust(settings.cacert)
        self._socket: socket.socket | None = None
        self._failure: Exception | None = None
        self._ended = 0.0  # when it was there, or had failed (monotonic)
        self._thread: Thread | None = None
        self._route = _route_of(settings)
        if self._route is not None:
            import socket  # noqa: F401  # here, or the thread would wait for what this one imports next

            self._thread = Thread(target=self._open, args=(self._route,), daemon=True)
            self._thread.start()
        if self._route is not None and self._route.secure:
            self.trust.begin()  # after it: that takes the processor, and the network has to wait for its answers

    def _open(self, route: Route) -> None:
        try:
            self._socket = opened(route, self.trust, self.settings.connect_timeout)
        except Exception as error:
            self._failure = error
        self._ended = time.monotonic()

    def take(self, route: Route) -> socket.socket | None:
        """Return the connection, once, or None if it is not alive or leads another way.

        :raises Exception: as ``dial.opened``, if it failed while it was waited for, or the proxy refused it.
        """
        if self._thread is None or route != self._route:
            return None
        thread, self._thread = self._thread, None
        asked = time.monotonic()
        thread.join()
        if self._failure is not None and (self._ended > asked or not isinstance(self._failure, Unconnected)):
            raise self._failure
        return self._socket if self._socket is not None and alive(self._socket) else None

    def close(self) -> None:
        """Close the connection if nobody took it."""
        if self._socket is not None and self._thread is not None:
            self._socket.close()


def _route_of(settings: Settings) -> Route | None:
    """Return the way to the endpoint, None if there is none or the HTTP library has to say what a host is in ASCII."""
    end = end_of(settings.base_url or "")
    proxy = end_of(settings.proxy) if settings.proxy else None
    return Route(end, proxy) if end and (proxy or not settings.proxy) else None


class Trust:
    """The certificates, as :meth:`begin` loads them; called, it waits for them, and begins if nobody has.

    OpenSSL takes 20 ms and releases the GIL: beside an import that is free.
    """

    def __init__(self, cacert: str | None) -> None:
        self._cacert = cacert
        self._loaded: ssl.SSLContext | Exception | None = None
        self._begun = False
        self._ready = Event()

    def begin(self) -> None:
        """Load them in a daemon thread, once."""
        begun, self._begun = self._begun, True
        if not begun:
            Thread(target=self._load, daemon=True).start()

    def _load(self) -> None:
        try:
            context = _trusted(self._cacert)
            context.set_alpn_protocols(["http/1.1"])
            self._loaded = context
        except Exception as error:
            self._loaded = error
        self._ready.set()

    def __call__(self) -> ssl.SSLContext:
        """Return what a connection trusts.

        :raises ConfigError: if the certificates cannot be used.
        """
        self.begin()
        self._ready.wait()
        context = self._loaded
        assert context is not None
        if isinstance(context, OSError):  # ssl.SSLError is one
            where = self._cacert or os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
            why = clause(context.strerror or context)
            raise ConfigError(f"cannot use the certificates in {where}: {why}") from context
        if isinstance(context, Exception):
            raise context
        return context


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
    import httpx2

    return httpx2.create_ssl_context(trust_env=False)
