from __future__ import annotations

import pytest

from gptpipe.errors import ConfigError
from gptpipe.text.address import (
    check_base_url,
    check_proxy,
    is_local,
    joined,
    masked,
    masked_headers,
    proxy_for,
    same,
    stored,
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:secret@host:1/v1", "http://***@host:1/v1"),
        ("socks5h://me@host", "socks5h://***@host"),
        ("http://a@b@host", "http://***@host"),
        ("https://host/a@b", "https://host/a@b"),
        ("https://host/v1", "https://host/v1"),
        ("https://host/v1?api-version=1&key=a%20b", "https://host/v1?api-version=***&key=***"),
        ("https://host/v1?secret", "https://host/v1?***"),
        ("http://a/?k=1 or http://b/?k=2#x", "http://a/?k=*** or http://b/?k=***#x"),
    ],
)
def test_a_shown_url_holds_no_user(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_shown_headers_hold_no_values() -> None:
    assert masked_headers({"x-key": "secret"}) == {"x-key": "***"}


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("https://host", "https://host"),
        ("http://host:8000/v1/", "http://host:8000/v1"),
        ("HTTPS://Host/v1", "https://Host/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://me:secret@host/v1", "http://me:secret@host/v1"),
        ("https://host/v1/?api-version=1/", "https://host/v1?api-version=1/"),
    ],
)
def test_a_base_url_is_taken(url: str, used: str) -> None:
    assert check_base_url(url) == used


@pytest.mark.parametrize(
    "url",
    [
        "host/v1",
        "localhost:8000",
        "ftp://host/v1",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "http://:80/",
        "http://host:port/",
        "http://host:99999/",
        "http://[::1/v1",
        "http://ho st/v1",
        "http://host/v1\n",
        "http://evil\\@localhost/v1",
        "https://host/v1#x",
        "",
    ],
    ids=repr,
)
def test_a_base_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        check_base_url(url)


def test_a_refusal_does_not_show_the_password() -> None:
    with pytest.raises(ConfigError) as caught:
        check_base_url("ftp://me:secret@host")
    assert "secret" not in caught.value.message
    assert "ftp://***@host" in caught.value.message


@pytest.mark.parametrize(
    ("url", "used"),
    [
        ("proxy:3128", "http://proxy:3128"),
        ("http://me:secret@proxy", "http://me:secret@proxy"),
        ("https://proxy", "https://proxy"),
        ("socks5://proxy:1080", "socks5://proxy:1080"),
        ("socks5h://proxy:1080", "socks5h://proxy:1080"),
    ],
)
def test_a_proxy_is_taken(url: str, used: str) -> None:
    assert check_proxy(url) == used


@pytest.mark.parametrize("url", ["socks4://proxy", "ftp://proxy", "http://", "http://proxy:x"])
def test_a_proxy_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        check_proxy(url)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("api.localhost", True),
        ("127.0.0.1", True),
        ("127.255.3.4", True),
        ("[::1]", True),
        ("[0:0:0:0:0:0:0:1]", True),
        ("[::ffff:127.0.0.1]", True),
        ("me:pw@localhost", True),
        ("localhost@example.com", False),
        ("127.0.0.1.example.com", False),
        ("127.example.com", False),
        ("notlocalhost", False),
        ("localhost.example.com", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("[::2]", False),
        ("[fe80::1%25eth0]", False),
    ],
)
def test_local(host: str, local: bool) -> None:
    assert is_local(f"http://{host}:8000/v1") is local


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("http://host/v1/", True),
        ("HTTP://HOST/v1", True),
        ("https://host/v1", False),
        ("http://host/V1", False),
        ("http://host:81/v1", False),
    ],
)
def test_same_endpoint(other: str, expected: bool) -> None:
    assert same("http://host/v1", other) is expected


P, Q = "http://proxy:1", "http://other:2"


@pytest.mark.parametrize(
    ("url", "env", "proxy"),
    [
        ("https://host", {}, None),
        ("https://host", {"https_proxy": P}, P),
        ("https://host", {"HTTPS_PROXY": P}, P),
        ("https://host", {"HTTPS_PROXY": Q, "https_proxy": P}, P),
        ("https://host", {"https_proxy": "", "HTTPS_PROXY": P}, P),
        ("https://host", {"http_proxy": P}, None),
        ("https://host", {"ALL_PROXY": P}, P),
        ("https://host", {"all_proxy": P, "ALL_PROXY": Q}, P),
        ("https://host", {"HTTPS_PROXY": P, "all_proxy": Q}, P),
        ("https://host", {"HTTPS_PROXY": "proxy:1"}, P),
        ("http://host", {"http_proxy": P}, P),
        ("http://host", {"HTTP_PROXY": P}, None),
        ("http://host", {"HTTP_PROXY": P, "ALL_PROXY": Q}, Q),
        ("http://host", {"https_proxy": P}, None),
        ("http://host", {"all_proxy": "socks5h://p:1"}, "socks5h://p:1"),
    ],
    ids=str,
)
def test_the_environments_proxy(url: str, env: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(url, env) == proxy


@pytest.mark.parametrize(
    ("url", "exceptions", "excepted"),
    [
        ("https://host.example.com", "*", True),
        ("https://host.example.com", "example.com", True),
        ("https://host.example.com", ".example.com", True),
        ("https://example.com", ".example.com", True),
        ("https://host.example.com", "EXAMPLE.COM", True),
        ("https://host.example.com", "a.b, example.com", True),
        ("https://host.example.com", "a.b example.com", True),
        ("https://host.example.com", "ample.com", False),
        ("https://host.example.com", "example.org", False),
        ("https://host.example.com", "example.com:443", True),
        ("https://host.example.com", "example.com:80", False),
        ("https://host.example.com:8443", "host.example.com:8443", True),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://11.1.2.3", "10.0.0.0/8", False),
        ("https://10.1.2.3", "10.1.2.3", True),
        ("https://host", "10.0.0.0/8", False),
        ("https://[fd00::1]", "fd00::/8", True),
        ("https://[fd00::1]:443", "[fd00::1]", True),
        ("https://host", "", False),
        ("https://host", " , ,", False),
        ("https://host", "host/x", False),
    ],
    ids=str,
)
def test_no_proxy(url: str, exceptions: str, excepted: bool) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        assert (proxy_for(url, {"https_proxy": P, name: exceptions}) is None) is excepted


def test_a_faulty_proxy_of_the_environment() -> None:
    with pytest.raises(ConfigError):
        proxy_for("https://host", {"ALL_PROXY": "gopher://proxy"})


def test_a_path_follows_the_base_url_and_its_query_the_path() -> None:
    url = "https://me:pw@host/v1?api-version=1"
    assert joined(url, "/models") == "https://me:pw@host/v1/models?api-version=1"
    assert stored(url) == "https://host/v1"
    assert same(url, "https://HOST/v1/")
    assert not same(url, "https://host/v2")
