"""Addresses: what a base URL and a proxy may be, which hosts are this machine, and how a URL is shown.

Proxy variables are read as curl reads them: https://curl.se/docs/manpage.html#ENVIRONMENT
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, parse_qsl, urlsplit

from gptpipe.errors import ConfigError, clause
from gptpipe.text.names import looks_like_key

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
# urlsplit drops tabs and newlines, and clients disagree about where a host ends at a backslash.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_USER = re.compile(r"(?<=//)[^/?#]*@")
_QUERY = re.compile(r"(?<=[?&])([^=&#\s]*=)?[^&#\s]+")
_LOOPBACK = re.compile(r"127(\.\d{1,3}){3}")


def masked(url: str) -> str:
    """Return the URL as it is shown: user, password and the values of its query are ``***``."""
    return _QUERY.sub(lambda match: (match[1] or "") + "***", _USER.sub("***@", url))


def stored(url: str) -> str:
    """Return the URL as a file may keep it: without user, password and query."""
    return _USER.sub("", re.split(r"[?#]", url, maxsplit=1)[0]).rstrip("/")


def secrets(url: str) -> list[str]:
    """Return the parts of a URL that may be secret: user, password, the values of its query."""
    parts = urlsplit(url)
    return [text for text in (parts.username, parts.password, *query(url).values()) if text]


def query(url: str) -> dict[str, str]:
    """Return the fields of a URL's query."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def joined(base_url: str, path: str) -> str:
    """Return the address of a path below a base URL, which keeps its query: Azure's has its ``api-version`` there."""
    base, mark, query = base_url.partition("?")
    return f"{base.rstrip('/')}{path}{mark}{query}"


def masked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with their values replaced by ``***``, to be shown."""
    return dict.fromkeys(headers, "***")


def check_base_url(url: str) -> str:
    """Return the base URL as it is used, without a slash at the end of its path. It may have a query.

    :raises ConfigError: if it is not http or https, has no host, or has a fragment.
    """
    parts = _split(url, "the base URL", ("http", "https"))
    if parts.fragment or url.endswith("#"):
        raise ConfigError(f"the base URL {masked(url)} has a fragment, which is not sent to a server")
    return joined(_lowered(url, parts), "")


def check_proxy(url: str) -> str:
    """Return the proxy's URL, checked by PROXY_SCHEMES; as in curl, one without a scheme is an HTTP proxy."""
    url = url if "://" in url else f"http://{url}"
    return _lowered(url, _split(url, "the proxy", PROXY_SCHEMES))


def _lowered(url: str, parts: SplitResult) -> str:
    """Return the URL with its scheme in lower case, so that nobody else has to think of another."""
    return parts.scheme + url[len(parts.scheme) :]


def _split(url: str, what: str, schemes: tuple[str, ...]) -> SplitResult:
    if looks_like_key(url.removeprefix("http://")):
        raise ConfigError(f"{what} looks like a key, and is not shown")
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
    """Return whether two base URLs name one endpoint.

    The case of scheme and host, a slash at the end, user, password and query make no difference.
    """
    try:
        first, second = urlsplit(stored(one)), urlsplit(stored(other))
    except ValueError:  # the line of a session may hold anything
        return False
    return (first.scheme, first.netloc.lower(), first.path) == (second.scheme, second.netloc.lower(), second.path)


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
    header (https://httpoxy.org). For the others lower case wins. An empty variable is unset, and one that does not
    name a proxy is a ConfigError.
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
