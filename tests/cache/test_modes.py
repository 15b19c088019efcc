"""What an operator decides: --cache public (as it is without any option) and off, sizes, whose
forwarding fields are believed. How rows are read: test_rfc9111.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from origin import (
    ONE_OF_EACH,
    Origin,
    Row,
    Site,
    hit,
    posted,
    ran,
    reply,
    run,
    serve,
    site_of,
    tables,
)

SHARED = reply("public, max-age=1000")
LOGIN = "Authorization: Basic eDp5"

PUBLIC = tables(
    Row("public with a lifetime is stored", [SHARED], [ran(1), hit(1)]),
    Row("public with Expires is stored", [reply("public", "Expires: {now+1000}")],
        [ran(1), hit(1)]),
    Row("s-maxage is stored", [reply("s-maxage=1000")], [ran(1), hit(1)]),
    Row("with a query too", [SHARED], [ran(1, path="?a"), hit(1, path="?a")]),
    Row("max-age alone is not", [reply("max-age=1000")], [ran(1), ran(2)]),
    Row("max-age with must-revalidate is not", [reply("max-age=1000, must-revalidate")],
        [ran(1), ran(2)]),
    Row("Expires alone is not", [reply("Expires: {now+1000}")], [ran(1), ran(2)]),
    Row("nothing said is not", [reply("Last-Modified: {now-1000000}")], [ran(1), ran(2)]),
    Row("public alone has no lifetime", [reply("public", "Last-Modified: {now-1000000}")],
        [ran(1), ran(2)]),
    Row("a cookie is set: not stored", [reply("public, max-age=1000", "Set-Cookie: a=b")],
        [ran(1), ran(2)]),
    Row("a cookie is set: not even with s-maxage", [reply("s-maxage=1000", "Set-Cookie: a=b")],
        [ran(1), ran(2)]),
    Row("authorized: public allows it", [SHARED], [ran(1, LOGIN), hit(1)]),
    Row("authorized: a targeted field does not", [reply("CDN-Cache-Control: max-age=1000")],
        [ran(1, LOGIN), ran(2)]),
    Row("private is stronger", [reply("public, private, max-age=1000")], [ran(1), ran(2)]),
    Row("no-store is stronger", [reply("public, no-store, max-age=1000")], [ran(1), ran(2)]),
    Row("404 too", [reply("public, max-age=1000", status=404)],
        [ran(1, status=404), hit(1, status=404)]),
    Row("Vary counts", [reply("public, max-age=1000", "Vary: Cookie")],
        [ran(1, "Cookie: a=1"), ran(2, "Cookie: a=2"), hit(1, "Cookie: a=1")]),
    Row("unsafe requests invalidate", [SHARED], [ran(1), posted(), ran(3)]),
)  # fmt: skip


@pytest.mark.parametrize("row", PUBLIC)
def test_public(public: Site, row: Row) -> None:
    run(public, row)


@pytest.mark.parametrize("options", [("--cache", "off"), ("--cache-size", "0")])
def test_off(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "o").mkdir()
    for site in site_of(tmp_path / "o", *ONE_OF_EACH, *options):
        run(site, Row("off", [SHARED], [
            ran(1, fields={"Age": None}), ran(2),
            ran(3, "Cache-Control: only-if-cached, max-stale"),
        ]))  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    options = ("--cache", "rfc9111", "--cache-max-entry", "20000", "--cache-size", "8M")
    yield from site_of(tmp_path_factory.mktemp("small"), *ONE_OF_EACH, *options)


def test_an_entry_that_is_too_large_is_not_stored(small: Site) -> None:
    whole = ran(1).but(version=None)
    for chunked in (False, True):
        fits = reply("max-age=1000", bytes=15_000, chunked=chunked)
        large = reply("max-age=1000", bytes=25_000, chunked=chunked)
        run(small, Row("fits", [fits], [whole, whole.but(asks=0)]))
        run(small, Row("does not", [large], [whole, whole]))


def test_large_entries_where_they_are_allowed(tmp_path: Path) -> None:
    whole = ran(1).but(version=None)
    for site in site_of(tmp_path, *ONE_OF_EACH, "--cache-max-entry", "8M"):
        for chunked in (False, True):
            large = reply("public, max-age=1000", bytes=5_000_000, chunked=chunked)
            run(site, Row("large", [large], [whole, whole.but(asks=0)]))


def test_only_what_is_asked_for_often(tmp_path: Path) -> None:
    options = ("--cache", "rfc9111", "--cache-frequent-hits", "2/1000")
    for site in site_of(tmp_path, *ONE_OF_EACH, *options):
        run(site, Row("twice", [reply("max-age=1000")], [ran(1), ran(2), hit(2)]))


# --- forwarding fields


@pytest.fixture(scope="module")
def distrustful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    options = ("--cache", "rfc9111", "--forwarded-allow-ips", "none")
    yield from site_of(tmp_path_factory.mktemp("distrustful"), *ONE_OF_EACH, *options)


FORGED = (
    "X-Forwarded-Host: evil",
    "X-Forwarded-Proto: https",
    "Forwarded: host=evil",
    "X-Forwarded-For: 10.0.0.1",
    "X-Forwarded-Prefix: /x",
    "X-Forwarded-Port: 99",
)


@pytest.mark.parametrize("line", FORGED)
def test_a_forged_request_fills_nothing(distrustful: Site, line: str) -> None:
    run(distrustful, Row("forged", [reply("max-age=1000")],
                         [ran(1, line), ran(2), hit(2, line), hit(2)]))  # fmt: skip


TRUSTED = tables(
    Row("the host that a proxy names is the key's", [reply("max-age=1000")],
        [ran(1, "X-Forwarded-Host: public.example"), hit(1, host="public.example"), ran(2)]),
    Row("the scheme is", [reply("max-age=1000")],
        [ran(1, "X-Forwarded-Proto: https"), ran(2), hit(1, "X-Forwarded-Proto: https"),
         hit(1, "Forwarded: proto=https")]),
    Row("the prefix is", [reply("max-age=1000")],
        [ran(1, "X-Forwarded-Prefix: /a"), ran(2, "X-Forwarded-Prefix: /b"), ran(3),
         hit(1, "X-Forwarded-Prefix: /a")]),
    Row("the client's address is not", [reply("max-age=1000")],
        [ran(1, "X-Forwarded-For: 192.0.2.1"), hit(1, "X-Forwarded-For: 192.0.2.2"), hit(1)]),
)  # fmt: skip


@pytest.mark.parametrize("row", TRUSTED)
def test_a_trusted_proxy(rfc9111: Site, row: Row) -> None:
    run(rfc9111, row)


# --- flush


@pytest.mark.parametrize(
    ("prefix", "recursive", "gone"),
    [
        ("http://test/{name}", True, {"", "/", "/a", "/a/b", "/ab", "?q"}),
        ("http://test/{name}", False, {""}),
        ("http://TEST:80/{name}", False, {""}),
        ("http://test/{name}/", True, {"/", "/a", "/a/b", "/ab"}),
        ("http://test/{name}/a", True, {"/a", "/a/b"}),
        ("http://test/{name}/a", False, {"/a"}),
        ("http://test/{name}/%61", False, {"/a"}),
        ("http://test/{name}?q", False, {"?q"}),
        ("http://other/{name}", True, set()),
        ("https://test/{name}", True, set()),
    ],
)
def test_flush(rfc9111: Site, prefix: str, recursive: bool, gone: set[str]) -> None:
    name = rfc9111.origin.new_name()
    rfc9111.origin.script(name, reply("max-age=1000"))
    paths = ["", "/", "/a", "/a/b", "/ab", "?q"]
    first = {path: rfc9111.server.ask(f"/{name}{path}").text for path in paths}
    assert rfc9111.flush(prefix.format(name=name), recursive) == len(gone)
    again = {path: rfc9111.server.ask(f"/{name}{path}").text for path in paths}
    assert {path for path in paths if first[path] != again[path]} == gone


def test_flush_everything_of_a_host(tmp_path: Path) -> None:
    with serve(tmp_path, *ONE_OF_EACH, "--cache", "rfc9111") as server:
        site = Site(server, Origin(tmp_path))
        names = [site.origin.new_name() for _ in range(5)]
        for name in names:
            site.origin.script(name, reply("max-age=1000"))
            server.ask(f"/{name}")
        run_one(site, names[0], "", "elsewhere")
        assert site.flush("http://test/") == 5
        assert server.ask(f"/{names[0]}").text == f"/{names[0]} v3"
        assert [server.ask(f"/{name}").text for name in names[1:]] == [
            f"/{n} v2" for n in names[1:]
        ]
        run_one(site, names[0], "", "elsewhere")
        assert site.origin.count(names[0]) == 3


def test_flush_by_a_path(rfc9111: Site) -> None:
    """Of the host of the request under way."""
    name = rfc9111.origin.new_name()
    rfc9111.origin.script(name, reply("max-age=1000"))
    run_one(rfc9111, name, "/a", "test")
    run_one(rfc9111, name, "/a", "elsewhere")
    assert rfc9111.flush(f"/{name}") == 1
    run_one(rfc9111, name, "/a", "elsewhere")
    assert rfc9111.origin.count(name) == 2
    run_one(rfc9111, name, "/a", "test")
    assert rfc9111.origin.count(name) == 3


def test_flush_a_group(rfc9111: Site) -> None:
    name = rfc9111.origin.new_name()
    rfc9111.origin.script(name, reply("max-age=1000", f'Cache-Groups: "{name}", "other"'))
    stored = (("/a", "test"), ("/b", "test"), ("/a", "elsewhere"))
    executed = 0
    for flush, newly in (
        ("", 3),
        (f"/-/flush_group?name={name}&origin=http://elsewhere", 1),
        (f"/-/flush_group?name={name}", 2),  # of the host of the request under way
        (f"/-/flush_group?name={name}x", 0),
    ):
        if flush:
            assert rfc9111.server.ask(flush, method="POST", content=b"").status == 200
        for path, host in stored:
            run_one(rfc9111, name, path, host)
        executed += newly
        assert rfc9111.origin.count(name) == executed


def run_one(site: Site, name: str, path: str, host: str) -> None:
    with site.server.connect() as client:
        request = f"GET /{name}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        assert client.send(request.encode()).response().status == 200
