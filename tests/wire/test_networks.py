"""Networks that refuse: what a proxy, or a server that does not hear the request out, is said to have meant."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Run, needs
from tests.harness.server import Server, certificate


@pytest.fixture
def socks() -> Iterator[str]:
    """Give the address of a SOCKS proxy that asks for a name and a password."""
    needs("microsocks")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = ["microsocks", "-i", "127.0.0.1", "-p", str(port), "-u", "me", "-P", "a@b:/c"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
        yield f"127.0.0.1:{port}"
        process.terminate()


@pytest.mark.parametrize(
    ("user", "status"), [("me:a%40b%3A%2Fc@", 0), ("me:wrong@", 78), ("", 78)], ids=["right", "wrong", "none"]
)
def test_name_and_password_of_a_socks_proxy(socks: str, user: str, status: int, run: Run, server: Server) -> None:
    call = ("--retry", "0", "--proxy", f"socks5h://{user}{socks}", "--base-url", server.url, "-m", "m", "hi")
    result = run("gptpipe", *call)
    assert (result.status, len(server.requests)) == (status, status == 0)
    assert "wrong" not in result.err


def test_an_http_proxy_that_refuses_name_and_password(run: Run, server: Server) -> None:
    server.json(407, {"error": {"message": "who are you?"}})
    proxy = server.url.removesuffix("/v1")
    result = run("gptpipe", "--proxy", proxy, "--base-url", "http://127.0.0.1:9/v1", "-m", "m", "hi")
    assert result.status == 78
    assert "the proxy refuses name and password (407): who are you?" in result.err


@pytest.mark.parametrize(("code", "status"), [(401, 77), (413, 65), (503, 75)])
def test_a_refusal_counts_though_its_body_is_cut(code: int, status: int, run: Run, server: Server) -> None:
    head = f"HTTP/1.1 {code} X\r\ncontent-type: text/html\r\ncontent-length: 999\r\n\r\n<ht"
    server.reply(head.encode(), raw=True, reset=True)
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "--retry", "0", "hi")
    assert result.status == status
    assert f"({code})" in result.err


def test_a_server_without_tls(run: Run, server: Server) -> None:
    result = run("gptpipe", "--base-url", server.url.replace("http:", "https:"), "-m", "m", "hi")
    assert result.status == 76
    assert "does not speak TLS" in result.err


@pytest.mark.parametrize("variable", ["GPTPIPE_CACERT", "SSL_CERT_FILE"])
def test_a_proxy_over_tls_is_verified_as_the_server_is(variable: str, run: Run, tmp_path: Path) -> None:
    context, authority = certificate(tmp_path)
    with Server(tls=context) as proxy:
        call = ("--proxy", proxy.url.removesuffix("/v1"), "--base-url", "http://127.0.0.1:9/v1", "-m", "m", "hi")
        assert run("gptpipe", *call, env={variable: str(authority)}).out == b"hi\n"
        found = run("gptpipe", *call)
    assert found.status == 78
    assert proxy.url.removesuffix("/v1") in found.err


FORBIDDEN = {
    "a bad key": ({"message": "Your API key was revoked.", "code": "invalid_api_key"}, 77, "the key was refused"),
    "a key without the right": ({"message": "The token lacks this scope."}, 77, "the key was refused"),
    "a country": ({"message": "Country not supported.", "code": "unsupported_country_region_territory"}, 69, "Country"),
    "a model": ({"message": "The project has no access to model x.", "code": "model_not_found"}, 69, "no access"),
    "moderation": ({"message": "The input was flagged."}, 4, "flagged"),
    "nothing": ({}, 69, "refused the request (403)"),
}


@pytest.mark.parametrize(("error", "status", "words"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_is_forbidden_is_not_always_the_key(
    run: Run, server: Server, error: dict[str, str], status: int, words: str
) -> None:
    server.json(403, {"error": error})
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "hi")
    assert (result.status, words in result.err) == (status, True)
    assert ("the key was refused" in result.err) == (status == 77)


def test_a_certificate_of_another_name(run: Run, tmp_path: Path) -> None:
    context, authority = certificate(tmp_path, "DNS:elsewhere.example")
    with Server(tls=context) as server:
        result = run("gptpipe", "--base-url", server.url, "-m", "m", "hi", env={"SSL_CERT_FILE": str(authority)})
    assert result.status == 78
    assert "does not verify" in result.err
    assert "a name that the certificate is for" in result.err
    assert "--cacert" not in result.err


def test_a_certificate_of_an_unknown_authority(run: Run, tmp_path: Path) -> None:
    context, _ = certificate(tmp_path)
    with Server(tls=context) as server:
        result = run("gptpipe", "--base-url", server.url, "-m", "m", "hi")
    assert (result.status, "--cacert PATH" in result.err) == (78, True)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "GPTPIPE_CACERT"])
def test_certificates_that_are_not_there_are_named(variable: str, run: Run) -> None:
    call = ("--base-url", "https://127.0.0.1:9/v1", "-m", "m", "hi")
    result = run("gptpipe", *call, env={variable: "/nope", "OPENAI_API_KEY": "k"})
    assert result.status == 78
    assert " /nope" in result.err
    assert "None" not in result.err


def test_a_server_that_wants_to_be_left_alone_for_long_ends_the_run(run: Run, server: Server) -> None:
    server.json(429, {"error": {"message": "slow down"}}, headers={"retry-after": "601"})
    result = run("gptpipe", "--base-url", server.url, "-m", "m", "hi", timeout=10)
    assert result.status == 75
    assert "the server wants to be left alone for 601 s" in result.err
    assert len(server.requests) == 1


def test_the_scheme_may_be_in_upper_case(run: Run, tmp_path: Path) -> None:
    context, authority = certificate(tmp_path)
    with Server(tls=context) as server:
        url = server.url.replace("https:", "HTTPS:")
        for more in (("--base-url", url), ("--base-url", "http://127.0.0.1:9/v1", "--proxy", url.removesuffix("/v1"))):
            assert run("gptpipe", *more, "--cacert", str(authority), "-m", "m", "-n", "hi").out == b"hi\n"


def test_a_list_of_models_in_a_broken_encoding(run: Run, server: Server) -> None:
    server.reply(b"{}", headers={"content-type": "application/json", "content-encoding": "gzip"})
    result = run("gptpipe-models", "--base-url", server.url)
    assert (result.status, "broken content encoding" in result.err) == (76, True)


@pytest.mark.parametrize("length", ["abc", "5", "99999"])
def test_a_header_that_contradicts_the_request(length: str, run: Run, server: Server, home: Path) -> None:
    (home / ".config/gptpipe").mkdir(parents=True)
    profile = f'[profiles.p]\nbase_url = "{server.url}"\napi_key_env = "K"\n'
    (home / ".config/gptpipe/config.toml").write_text(f'{profile}headers.Content-Length = "{length}"\n')
    result = run("gptpipe", "-n", "-p", "p", "-m", "m", "--retry", "0", "hi", env={"K": "key"})
    assert (result.status, "the request cannot be sent" in result.err) == (65, True)


def test_a_password_that_socks_cannot_carry(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        url = f"socks5://me:{'x' * 256}@127.0.0.1:{proxy.getsockname()[1]}"
        result = run("gptpipe", "-n", "--proxy", url, "--base-url", "http://127.0.0.1:9/v1", "-m", "m", "hi")
    assert (result.status, "more than 255 bytes" in result.err) == (78, True)


def test_a_name_that_no_certificate_can_have(run: Run, server: Server) -> None:
    server.reply(b"HTTP/1.1 200 OK\r\n\r\n", raw=True, hang=True)
    call = ("--proxy", server.url.removesuffix("/v1"), "--base-url", f"https://{'a' * 70}.invalid/v1", "-m", "m", "hi")
    result = run("gptpipe", "-n", "--retry", "0", *call, env={"OPENAI_API_KEY": "k"})
    assert (result.status, "cannot connect" in result.err) == (75, True)
