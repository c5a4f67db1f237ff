"""Addresses: what a base URL and a proxy may be, which hosts are this machine, and how a URL is shown.

Proxy variables are read as curl reads them: https://curl.se/docs/manpage.html#ENVIRONMENT
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from gptpipe.errors import ConfigError, clause

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
# urlsplit drops tabs and newlines, and clients disagree about where a host ends at a backslash.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_USER = re.compile(r"(?<=//)[^/?#]*@")
_LOOPBACK = re.compile(r"127(\.\d{1,3}){3}")


def masked(url: str) -> str:
    """Return the URL with what stands before the host's ``@`` replaced by ``***``, to be shown."""
    return _USER.sub("***@", url)


def masked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with their values replaced by ``***``, to be shown."""
    return dict.fromkeys(headers, "***")


def check_base_url(url: str) -> str:
    """Return the base URL as it is used, without a slash at its end.

    :raises ConfigError: if it is not http or https, has no host, or has a query, which no path can follow.
    """
    parts = _split(url, "the base URL", ("http", "https"))
    if parts.query or parts.fragment:
        raise ConfigError(f"the base URL {masked(url)} has a query or a fragment: a path must be able to follow it")
    return url.rstrip("/")


def check_proxy(url: str) -> str:
    """Return the proxy's URL; as in curl, one without a scheme is an HTTP proxy.

    :raises ConfigError: if its scheme is none of PROXY_SCHEMES, or if it has no host.
    """
    url = url if "://" in url else f"http://{url}"
    _split(url, "the proxy", PROXY_SCHEMES)
    return url


def _split(url: str, what: str, schemes: tuple[str, ...]) -> SplitResult:
    try:
        if _FORBIDDEN.search(url):
            raise ValueError("it holds a space, a backslash or a control character")
        parts = urlsplit(url)
        if parts.scheme not in schemes:
            raise ValueError(f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        if not parts.hostname:
            raise ValueError("it names no host")
        parts.port  # noqa: B018 - looked at because a faulty port is found only then
    except ValueError as error:
        raise ConfigError(f"{what} {masked(url)} cannot be used: {clause(error)}") from None
    return parts


def same(one: str, other: str) -> bool:
    """Return whether two base URLs name one endpoint: case of scheme and host, and a last slash, do not count."""
    first, second = urlsplit(one.rstrip("/")), urlsplit(other.rstrip("/"))
    return (first.scheme, first.netloc.lower(), first.path) == (second.scheme, second.netloc.lower(), second.path)


def is_plain(url: str) -> bool:
    """Return whether the URL is HTTP without TLS."""
    return urlsplit(url).scheme == "http"


def is_local(url: str) -> bool:
    """Return whether the URL's host is this machine: localhost and names below it, 127.0.0.0/8, ::1."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost") or _LOOPBACK.fullmatch(host):
        return True
    if ":" not in host:
        return False
    address = IPv6Address(host.partition("%")[0])
    return address.is_loopback or bool(address.ipv4_mapped and address.ipv4_mapped.is_loopback)


def proxy_for(url: str, env: Mapping[str, str]) -> str | None:
    """Return the proxy that the environment names for the URL, or None.

    ``http_proxy`` counts in lower case only: a CGI program's caller can set ``HTTP_PROXY`` by a ``Proxy:``
    header (https://httpoxy.org). For the others lower case wins. An empty variable is unset.

    :raises ConfigError: if what it names cannot be a proxy.
    """
    parts = urlsplit(url)
    names = ("http_proxy",) if parts.scheme == "http" else ("https_proxy", "HTTPS_PROXY")
    found = next((env[name] for name in (*names, "all_proxy", "ALL_PROXY") if env.get(name)), None)
    if found is None or _excepted(parts, env.get("no_proxy") or env.get("NO_PROXY") or ""):
        return None
    return check_proxy(found)


def _excepted(parts: SplitResult, exceptions: str) -> bool:
    """Return whether ``NO_PROXY`` lists the host: as a name, a domain it is in, a network, or ``*`` for all."""
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    for entry in re.split(r"[,\s]+", exceptions.lower()):
        domain = entry.strip("[]").removesuffix(f":{port}").strip("[]").strip(".")
        if entry == "*" or (domain and (host == domain or host.endswith(f".{domain}"))):
            return True
        if "/" in entry and _within(host, entry):
            return True
    return False


def _within(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
