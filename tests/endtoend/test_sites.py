"""Applications as they are written: wsgiref.validate, Flask, Django; directly and behind nginx."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import nginx
import pytest
from serving import APPS, ROOT, Server
from wire import Client, Response, chunked, request

FORM = "Content-Type: application/x-www-form-urlencoded"
WAYS = ["direct", "nginx"]


# --- wsgiref.validate


@pytest.fixture(scope="module")
def validated() -> Iterator[Server]:
    with Server(application="validated:application") as server:
        yield server


@pytest.mark.parametrize(
    ("method", "path", "content", "expected"),
    [
        ("GET", "/", None, "hello"),
        ("HEAD", "/", None, ""),
        ("POST", "/read", b"0123456789", "0123456789"),
        ("POST", "/read", b"x" * 300_000, "x" * 300_000),
        ("POST", "/lines", b"a\nb\nc\nd\n", "a\n|b\n|c\n|d\n|"),
        ("GET", "/write", None, "written returned"),
        ("GET", "/errors", None, "errors"),
        ("GET", "/empty", None, ""),
        ("GET", "/generator", None, "ab"),
        ("GET", "/file", None, (APPS / "validated.py").read_text()),
    ],
)
def test_validator_is_content(
    validated: Server, method: str, path: str, content: bytes | None, expected: str
) -> None:
    mark = validated.mark()
    response = validated.ask(path, method=method, content=content)
    assert response.status in (200, 204), "\n".join(validated.log.lines[mark:])
    assert response.text == expected
    assert validated.log.count("Error", since=mark) == 0


# --- real sites


class Site:
    """A site, and the address by which a client reaches it."""

    def __init__(self, server: Server, address: tuple[str, int] | str, way: str) -> None:
        self.server = server
        self.address = address
        self.is_behind_nginx = way == "nginx"
        self.cookies: dict[str, str] = {}

    def ask(
        self, target: str, *lines: str, method: str = "GET", content: bytes | None = None
    ) -> Response:
        if self.cookies:
            values = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            lines = (*lines, f"Cookie: {values}")
        with Client(self.address) as client:
            client.send(request(method, target, *lines, content=content, host="site.example"))
            response = client.response(method)
        for cookie in response.all("Set-Cookie"):
            name, _, value = cookie.split(";")[0].partition("=")
            self.cookies[name] = value
        return response

    def post(self, target: str, **fields: str) -> Response:
        return self.ask(target, FORM, method="POST", content=urlencode(fields).encode())


def serve_site(
    way: str, application: str, folder: Path, environment: dict[str, str]
) -> Iterator[Site]:
    if way == "nginx" and nginx.COMMAND is None:
        pytest.skip("nginx is not installed")
    bind = f"unix:{folder}/kernelq.sock" if way == "nginx" else "127.0.0.1:0"
    with Server(application=application, bind=[bind], workers=2, environment=environment) as server:
        if way == "direct":
            yield Site(server, server.address(), way)
        else:
            with nginx.nginx(folder, bind) as front:
                yield Site(server, front, way)


@pytest.fixture(scope="module", params=WAYS)
def flask(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("flask")
    yield from serve_site(request.param, "flask_site:app", folder, {})


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a database with one administrator."""
    folder = tmp_path_factory.mktemp("database")
    subprocess.run(
        [sys.executable, "django_site.py"],
        cwd=APPS,
        env={**os.environ, "DJANGO_FOLDER": str(folder), "PYTHONPATH": str(ROOT)},
        check=True,
    )
    return folder


@pytest.fixture(scope="module", params=WAYS)
def django(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, database: Path
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("django")
    environment = {"DJANGO_FOLDER": str(database)}
    yield from serve_site(request.param, "django_site:application", folder, environment)


def multipart(fields: dict[str, str], file: bytes) -> tuple[str, bytes]:
    """A form with a file: the content type's line and the content."""
    parts = [
        f'--limit\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    parts.append(
        b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n" + file + b"\r\n--limit--\r\n"
    )
    return "Content-Type: multipart/form-data; boundary=limit", b"".join(parts)


def test_flask_session(flask: Site) -> None:
    flask.cookies.clear()
    assert flask.ask("/").text == "hello stranger"
    response = flask.post("/login", name="Ada")
    assert response.status == 302
    assert response.one("Location") == "/"
    assert flask.ask("/").text == "hello Ada"


def test_flask_stream(flask: Site) -> None:
    response = flask.ask("/stream")
    assert response.framing == "chunked"
    assert response.text == "".join(f"{number} /stream\n" for number in range(1000))


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_flask_upload(flask: Site, size: int) -> None:
    data = os.urandom(size)
    line, content = multipart({"note": "abc"}, data)
    for lines, sent in (
        ([line], content),
        ([line, "Transfer-Encoding: chunked"], chunked(content)),
    ):
        found = json.loads(flask.ask("/upload", *lines, method="POST", content=sent).text)
        expected = hashlib.sha256(data).hexdigest()
        assert found == {"name": "a.bin", "note": "abc", "bytes": size, "sha256": expected}


def test_flask_json(flask: Site) -> None:
    line = "Content-Type: application/json"
    assert (
        flask.ask("/json", line, method="POST", content=b'{"a": [1]}').text.strip() == '{"a":[1]}'
    )
    assert flask.ask("/json", line, method="POST", content=b"{").status == 400
    assert flask.ask("/json", method="PUT", content=b"{}").status == 405


def test_flask_download(flask: Site) -> None:
    response = flask.ask("/download")
    assert response.content == b"x" * 100_000
    assert "x.bin" in (response.one("Content-Disposition") or "")
    response = flask.ask("/file")
    assert response.content == (APPS / "flask_site.py").read_bytes()
    etag = response.one("ETag")
    assert flask.ask("/file", f"If-None-Match: {etag}").status == 304
    part = flask.ask("/file", "Range: bytes=10-19")
    assert part.status == 206
    assert part.content == response.content[10:20]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_flask_methods(flask: Site, method: str) -> None:
    assert flask.ask("/", method=method).status == 200


def test_flask_error(flask: Site) -> None:
    mark = flask.server.mark()
    assert flask.ask("/error").status == 500
    flask.server.log.expect("RuntimeError: a Flask view failed", since=mark)


def test_flask_knows_the_client(flask: Site) -> None:
    found = json.loads(flask.ask("/who?a=b").text)
    if flask.is_behind_nginx:
        assert found == {
            "url": "https://site.example/who?a=b", "client": "203.0.113.5", "secure": True
        }  # fmt: skip
    else:
        assert found == {
            "url": "http://site.example/who?a=b", "client": "127.0.0.1", "secure": False
        }  # fmt: skip


def test_django_admin_with_its_static_files(django: Site) -> None:
    assert django.ask("/admin/").one("Location") == "/admin/login/?next=/admin/"
    page = django.ask("/admin/login/?next=/admin/")
    assert page.status == 200
    assert "Django administration" in page.text
    links = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    assert len(links) >= 5
    for link in links:
        found = django.ask(link)
        assert found.status == 200, link
        assert len(found.content) > 100
    found = django.ask(links[0], f"If-Modified-Since: {django.ask(links[0]).one('Last-Modified')}")
    assert found.status == 304


def test_django_login_writes_the_database(django: Site) -> None:
    page = django.ask("/admin/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token
    fields = {"csrfmiddlewaretoken": token[1], "username": "admin", "password": "secret"}
    scheme = "https" if django.is_behind_nginx else "http"
    response = django.ask(
        "/admin/login/", FORM, f"Referer: {scheme}://site.example/admin/login/",
        method="POST", content=urlencode({**fields, "next": "/admin/"}).encode(),
    )  # fmt: skip
    assert response.status == 302, response.text
    page = django.ask("/admin/auth/user/")
    assert page.status == 200
    assert "admin@example.org" in page.text


def test_django_stream_and_uploads(django: Site) -> None:
    assert django.ask("/stream").text == "".join(f"line {number}\n" for number in range(1000))
    line, content = multipart({"note": "x"}, bytes(2_800_000))
    found: dict[str, Any] = {}
    for lines, sent in (
        ([line], content),
        ([line, "Transfer-Encoding: chunked"], chunked(content)),
    ):
        found = json.loads(django.ask("/upload", *lines, method="POST", content=sent).text)
        assert found == {"name": "a.bin", "bytes": 2_800_000, "note": "x"}
    body = chunked(b"abc" * 100, b"def")
    response = django.ask("/body", "Transfer-Encoding: chunked", method="POST", content=body)
    assert response.content == b"abc" * 100 + b"def"


def test_nginx_keeps_its_connections(flask: Site) -> None:
    if not flask.is_behind_nginx:
        pytest.skip("about nginx")
    with Client(flask.address) as client:
        for _ in range(50):
            assert client.ask("/").status == 200
    (service,) = flask.server.pids("service")
    assert len(os.listdir(f"/proc/{service}/fd")) < 60
