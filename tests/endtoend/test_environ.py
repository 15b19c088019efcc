"""What of a request reaches the application, and what wsgi promises it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server
from wire import Client, request

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
PROXY = [
    "X-Forwarded-For: 203.0.113.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: shop.example",
]


def shown(client: Client, *lines: str, target: str = "/show") -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(client.ask(target, *lines).text)
    return seen


def test_an_ipv4_client_of_a_dual_stack_socket_has_its_own_address() -> None:
    with Server(bind=["*:0"]) as server:
        _, port = server.address()
        client = Client(("127.0.0.1", int(port)))
        assert shown(client)["REMOTE_ADDR"] == "127.0.0.1"
        client.close()


def test_plain_environ(client: Client) -> None:
    seen = shown(client, "X-One: 1", "User-Agent: test/1", target="/show?a=%20b&c")
    port = str(client.socket.getpeername()[1])
    expected = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/show",
        "QUERY_STRING": "a=%20b&c", "REQUEST_URI": "/show?a=%20b&c", "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "127.0.0.1", "SERVER_PORT": port, "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": str(client.socket.getsockname()[1]), "HTTP_HOST": "test", "HTTP_X_ONE": "1",
        "HTTP_USER_AGENT": "test/1", "wsgi.url_scheme": "http", "wsgi.multithread": True,
        "wsgi.multiprocess": False, "wsgi.run_once": False,
    }  # fmt: skip
    assert {key: seen[key] for key in expected} == expected
    assert {"wsgi.input", "wsgi.errors", "wsgi.version", "wsgi.file_wrapper"} <= set(seen["keys"])
    assert "CONTENT_LENGTH" not in seen
    assert "CONTENT_TYPE" not in seen


@pytest.mark.parametrize(
    ("workers", "threads", "multithread", "multiprocess"),
    [("2", "1", False, True), ("2", "3", True, True), ("1", "1", False, False)],
)
def test_multithread_and_multiprocess(
    workers: str, threads: str, multithread: bool, multiprocess: bool
) -> None:
    with Server("--workers", workers, "--threads", threads) as server:
        seen = shown(server.connect())
        assert seen["wsgi.multithread"] is multithread
        assert seen["wsgi.multiprocess"] is multiprocess


def test_content_type_and_length(client: Client) -> None:
    response = client.ask("/show", "Content-Type: a/b", method="POST", content=b"abc")
    seen = json.loads(response.text)
    assert (seen["CONTENT_TYPE"], seen["CONTENT_LENGTH"]) == ("a/b", "3")
    assert "HTTP_CONTENT_TYPE" not in seen
    assert "HTTP_CONTENT_LENGTH" not in seen


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/show/../show", "/show"), ("/%73how", "/show"), ("/show%3Fx", "/show?x"),
        ("/caf%C3%A9", "/caf\xc3\xa9"), ("/a%2Fb", "/a/b"), ("/./show", "/show"),
        ("//show", "//show"), ("/a\\b", "/a\\b"),
    ],
)  # fmt: skip
def test_paths(client: Client, target: str, path: str) -> None:
    """The path is decoded once and normalised; the target stays as it was sent."""
    client.get(f"{target}", "X-Show: 1")
    seen = json.loads(client.response().text)
    assert seen["REQUEST_URI"] == target
    assert seen["PATH_INFO"] == path


def test_repeated_fields_are_joined(client: Client) -> None:
    seen = shown(client, "X-A: 1", "Cookie: a=1", "X-A: 2", "Cookie: b=2", "Accept: x", "accept: y")
    assert seen["HTTP_X_A"] in ("1,2", "1, 2")
    assert seen["HTTP_COOKIE"] == "a=1; b=2"
    assert seen["HTTP_ACCEPT"] in ("x,y", "x, y")


def test_names_with_underscore_are_dropped(client: Client) -> None:
    seen = shown(client, "X_Real: forged", "X-Real: true", "CONTENT_LENGTH: 5", "Remote_Addr: x")
    assert seen["HTTP_X_REAL"] == "true"
    assert "HTTP_REMOTE_ADDR" not in seen
    assert "CONTENT_LENGTH" not in seen
    assert "HTTP_CONTENT_LENGTH" not in seen


def test_proxy_field_never_enters(client: Client) -> None:
    assert "HTTP_PROXY" not in shown(client, "Proxy: http://evil")


def test_field_values_are_latin_1(client: Client) -> None:
    client.send(request("GET", "/show", "X-A: caf\xe9 \t x"))
    assert json.loads(client.response().text)["HTTP_X_A"] == "caf\xe9 \t x"


def test_many_fields(client: Client) -> None:
    lines = [f"X-{number}: {'v' * 300}" for number in range(120)]
    seen = shown(client, *lines)
    assert sum(key.startswith("HTTP_X_") for key in seen) == 120
    assert "HTTP_X_5" not in shown(client), "nothing stays from the last request"


# --- behind a proxy


def test_trusted_proxy(client: Client) -> None:
    seen = shown(client, *PROXY)
    assert seen["REMOTE_ADDR"] == "203.0.113.7"
    assert seen["wsgi.url_scheme"] == "https"
    assert seen["HTTP_HOST"] == "shop.example"
    assert "REMOTE_PORT" not in seen


def test_right_most_untrusted_address(client: Client) -> None:
    seen = shown(client, "X-Forwarded-For: 1.2.3.4, 203.0.113.9, 127.0.0.1")
    assert seen["REMOTE_ADDR"] == "203.0.113.9"
    seen = shown(client, "X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 203.0.113.8")
    assert seen["REMOTE_ADDR"] == "203.0.113.8"


def test_forwarded(client: Client) -> None:
    line = 'Forwarded: for="[2001:db8::7]:4711";proto=https;host="shop.example"'
    seen = shown(client, line)
    assert seen["REMOTE_ADDR"] == "2001:db8::7"
    assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("https", "shop.example")


@pytest.fixture(scope="module")
def suspicious() -> Iterator[Server]:
    with Server("--forwarded-allow-ips", "192.0.2.1") as server:
        yield server
        server.close_clients()


@pytest.mark.parametrize("lines", [PROXY, ["Forwarded: for=1.2.3.4;proto=https;host=evil"]])
def test_untrusted_peer_is_not_believed(suspicious: Server, lines: list[str]) -> None:
    seen = shown(suspicious.connect(), *lines)
    assert seen["REMOTE_ADDR"] == "127.0.0.1"
    assert seen["wsgi.url_scheme"] == "http"
    assert seen["HTTP_HOST"] == "test"
    assert not [key for key in seen if "FORWARDED" in key]


@pytest.mark.parametrize("trusted", [True, False])
def test_unix_peer(tmp_path: Path, trusted: bool) -> None:
    allowed = "unix" if trusted else "10.0.0.0/8"
    path = tmp_path / "socket"
    with Server("--forwarded-allow-ips", allowed, bind=[f"unix:{path}"]) as server:
        seen = shown(server.connect(), *PROXY)
        assert seen["REMOTE_ADDR"] == ("203.0.113.7" if trusted else "")
        assert seen["wsgi.url_scheme"] == ("https" if trusted else "http")
        assert seen["SERVER_NAME"]
        assert seen["SERVER_PORT"]


# --- errors


def test_wsgi_errors_go_to_the_log(server: Server, client: Client) -> None:
    client.ask("/says?text=a+line+for+the+log")
    server.log.expect("a line for the log")


def test_lines_about_requests_look_alike(server: Server) -> None:
    """What the core writes, and what workers write."""
    server.ask("/fails?where=call&alike")
    server.ask("/lies?says=1&sends=2&how=list&alike")
    server.connect().send(request("POST", "/echo?alike", "Content-Length: 2") + b"x").half_close()
    tail = r' client 127\.0\.0\.1 "[A-Z]+ /\S+\?\S*alike"( pool=\S+)?( worker \d+)?'
    for level, words in (("error", "the application failed"), ("warning", "the application sent"),
                         ("info", "The client left")):  # fmt: skip
        line = server.log.expect(words, "alike")
        assert re.fullmatch(rf"{STAMP} {level} {words}.*{tail}", line), line


def test_exception_cannot_forge_a_line(server: Server) -> None:
    forged = "2026-01-01T00:00:00.000Z error forged"
    server.ask(f"/fails?where=call&with=%0A{forged.replace(' ', '+')}")
    server.log.expect("Failure: in the call")
    server.log.expect(f"    {forged}")
    assert not any(line.startswith(forged) for line in server.log.lines)


def test_access_log(server: Server, client: Client) -> None:
    client.ask("/hello?access", 'User-Agent: a"b', "Referer: http://x/")
    line = server.output.expect("/hello?access")
    assert line.startswith("127.0.0.1 - - [")
    assert '] "GET /hello?access HTTP/1.1" 200 ' in line
    assert line.endswith(' "http://x/" "a\\x22b"')
    client.send(request("GET", "/hello?ten", version="1.0"))
    client.response()
    assert '"GET /hello?ten HTTP/1.0" 200' in server.output.expect("/hello?ten")
