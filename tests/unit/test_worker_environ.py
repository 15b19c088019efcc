"""What stands in the environ, whatever the requests before it left in the caches."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fake_core import STREAMED, served

from kernelq import __version__


def keep(environs: list[dict[str, Any]]) -> Any:
    """An application that keeps its environs, changes them afterwards, and reads its content."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environs.append(dict(environ, read=environ["wsgi.input"].read()))
        environ.clear()
        start_response("200 OK", [])
        return []

    return application


def environ_of(**request: Any) -> dict[str, Any]:
    """The environ of a request that is the first of its worker."""
    environs: list[dict[str, Any]] = []
    with served(keep(environs)) as rig:
        rig.ask(**request)
    return environs[0]


def test_the_whole_environ() -> None:
    environ = environ_of(
        method="POST",
        target="/a%20b/c?d=e%20f",
        path="/a b/c",
        query="d=e%20f",
        fields=[("Host", "h:81"), ("Content-Type", "x/y"), ("X-Own", "1"), ("Content-Length", "3")],
        content=b"abc",
        remote="2001:db8::1",
        remote_port=65535,
        server="h",
        server_port=81,
    )
    environ.pop("wsgi.input")
    environ.pop("wsgi.errors")
    environ.pop("wsgi.file_wrapper")
    assert environ == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/c",
        "QUERY_STRING": "d=e%20f",
        "REQUEST_URI": "/a%20b/c?d=e%20f",
        "RAW_URI": "/a%20b/c?d=e%20f",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "h",
        "SERVER_PORT": "81",
        "SERVER_SOFTWARE": f"kernelq/{__version__}",
        "REMOTE_ADDR": "2001:db8::1",
        "REMOTE_PORT": "65535",
        "CONTENT_TYPE": "x/y",
        "CONTENT_LENGTH": "3",
        "HTTP_HOST": "h:81",
        "HTTP_X_OWN": "1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "read": b"abc",
    }
    assert all(type(value) is str for name, value in environ.items() if name[0] in "RSPQCH")


def test_bytes_are_latin_1() -> None:
    every = "".join(map(chr, range(1, 256)))
    environ = environ_of(
        target=every, path=every, query=every, fields=[("X-A", every), ("Cookie", every)]
    )
    for name in ("PATH_INFO", "QUERY_STRING", "REQUEST_URI", "HTTP_X_A", "HTTP_COOKIE"):
        assert environ[name] == every


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("X-A", "1"), ("x-a", "2"), ("X-a", "3")], {"HTTP_X_A": "1, 2, 3"}),
        ([("Accept", "1"), ("accept", "2")], {"HTTP_ACCEPT": "1, 2"}),
        ([("Cookie", "a=b"), ("cookie", "c=d")], {"HTTP_COOKIE": "a=b; c=d"}),
        ([("Accept", ""), ("Accept", "")], {"HTTP_ACCEPT": ", "}),
        ([("Proxy", "evil"), ("PROXY", "x")], {}),
        ([("Transfer-Encoding", "chunked")], {}),
        ([("Content-Length", "0")], {"CONTENT_LENGTH": "0"}),
        ([("X-Content-Length", "0")], {"HTTP_X_CONTENT_LENGTH": "0"}),
        ([(f"X-{number}", "y") for number in range(128)], {f"HTTP_X_{n}": "y" for n in range(128)}),
        (
            [("Accept", str(number)) for number in range(100)],
            {"HTTP_ACCEPT": ", ".join(map(str, range(100)))},
        ),
        ([("Cookie", "x" * 9000)], {"HTTP_COOKIE": "x" * 9000}),
    ],
)
def test_fields(fields: list[tuple[str, str]], expected: dict[str, str]) -> None:
    environs: list[dict[str, Any]] = []
    with served(keep(environs)) as rig:
        for _ in range(6):
            rig.ask(fields=fields)
    for environ in environs:
        found = {k: v for k, v in environ.items() if k.startswith(("HTTP_", "CONTENT_"))}
        assert found == expected


def test_a_held_chunked_content_has_a_length_and_no_transfer_encoding() -> None:
    environ = environ_of(content=b"12345", fields=[("Transfer-Encoding", "chunked")])
    assert environ["CONTENT_LENGTH"] == "5"
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_a_streamed_chunked_content_has_no_length() -> None:
    environs: list[dict[str, Any]] = []
    fields = [("Transfer-Encoding", "chunked")]
    with served(keep(environs)) as rig:
        dispatch = rig.hand(flags=STREAMED, content_length=-1, fields=fields)
        rig.tell("CONTENT", dispatch, data=b"xyz", flags=1)
        rig.collect(dispatch)
    assert "CONTENT_LENGTH" not in environs[0]
    assert environs[0]["HTTP_TRANSFER_ENCODING"] == "chunked"
    assert environs[0]["read"] == b"xyz"


def test_https_and_http_1_0() -> None:
    environ = environ_of(is_https=True, version_minor=0, server_port=443)
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert environ["SERVER_PORT"] == "443"


def test_a_unix_socket_has_no_ports() -> None:
    environ = environ_of(remote="", remote_port=0, server="", server_port=0)
    assert environ["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in environ
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "80")
    assert environ_of(is_https=True, server_port=0)["SERVER_PORT"] == "443"


def test_multithread_and_multiprocess() -> None:
    environs: list[dict[str, Any]] = []
    with served(keep(environs), threads=2, settings={"multiprocess": False}) as rig:
        rig.ask()
    assert environs[0]["wsgi.multithread"] is True
    assert environs[0]["wsgi.multiprocess"] is False


def random_request(chance: random.Random) -> dict[str, Any]:
    """A request out of few values, so that the caches meet both what they have and what not."""
    names = ["Host", "Accept", "Cookie", "X-One", "X-Two", "User-Agent", "Content-Type"]
    fields = [
        (name, chance.choice(["", "a", "b", "c" * 600]))
        for name in names
        for _ in range(chance.choice([0, 1, 1, 1, 2]))
    ]
    if chance.random() < 0.3:
        chance.shuffle(fields)
    path = chance.choice(["/", "/a", "/b"])
    return {
        "method": chance.choice(["GET", "GET", "PUT", "M-SEARCH"]),
        "target": path,
        "query": chance.choice(["", "q=1"]),
        "fields": fields,
        "remote": chance.choice(["192.0.2.1", "192.0.2.2"]),
        "remote_port": chance.choice([1, 257, 40000]),
        "server": chance.choice(["s", "t"]),
        "server_port": chance.choice([80, 8080]),
        "is_https": chance.random() < 0.2,
        "version_minor": chance.choice([0, 1, 1]),
        "content": chance.choice([None, None, b"", b"content"]),
    }


def expected_environ(request: dict[str, Any]) -> dict[str, Any]:
    """What PEP 3333 says of it, without any cache."""
    environ = {
        "REQUEST_METHOD": request["method"],
        "PATH_INFO": request["target"],
        "REQUEST_URI": request["target"],
        "RAW_URI": request["target"],
        "QUERY_STRING": request["query"],
        "REMOTE_ADDR": request["remote"],
        "REMOTE_PORT": str(request["remote_port"]),
        "SERVER_NAME": request["server"],
        "SERVER_PORT": str(request["server_port"]),
        "SERVER_PROTOCOL": f"HTTP/1.{request['version_minor']}",
        "wsgi.url_scheme": "https" if request["is_https"] else "http",
        "read": request["content"] or b"",
    }
    if request["content"]:
        environ["CONTENT_LENGTH"] = str(len(request["content"]))
    for name, value in request["fields"]:
        key = "HTTP_" + name.upper().replace("-", "_")
        if name == "Content-Type":
            key = "CONTENT_TYPE"
        if key in environ:
            value = environ[key] + ("; " if name == "Cookie" else ", ") + value
        environ[key] = value
    return environ


@pytest.mark.parametrize("seed", range(6))
def test_no_request_sees_another_ones_values(seed: int) -> None:
    chance = random.Random(seed)
    environs: list[dict[str, Any]] = []
    requests = [random_request(chance) for _ in range(300)]
    with served(keep(environs)) as rig:
        for request in requests:
            rig.ask(**request)
    ignored = {"wsgi.version", "wsgi.input", "wsgi.errors", "wsgi.file_wrapper", "SCRIPT_NAME"}
    ignored |= {"wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once", "wsgi.input_terminated"}
    ignored |= {"SERVER_SOFTWARE"}
    for request, environ in zip(requests, environs, strict=True):
        found = {name: value for name, value in environ.items() if name not in ignored}
        assert found == expected_environ(request)
