"""The control socket and the calls of workers, with real processes at every end."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
import pytest
from serving import ROOT, Server
from wire import PATIENCE_SECONDS, Client, request


def command(*words: str) -> tuple[int, str, str]:
    """`kernelq cache ...`: its status, and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "kernelq", "cache", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def ask(path: Path, **request: object) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_SECONDS)
        sock.connect(str(path))
        sock.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(sock.makefile("rb").readline())


def start_failing(*arguments: str) -> str:
    """A server that must not start: the last line that it says."""
    server = Server(*arguments)
    assert server.ended() == 1
    return server.log.lines[-1]


# -- the socket -------------------------------------------------------------------------------


def test_the_default_socket_is_there_while_the_server_is(tmp_path: Path) -> None:
    with Server(environment={"RUNTIME_DIRECTORY": str(tmp_path / "run")}) as server:
        _, port = server.address()
        path = tmp_path / "run" / f"127.0.0.1-{port}.sock"
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.lstat().st_mode) == 0o755
        assert ask(path, do="cache.flush", prefix="http://h/") == {"ok": True, "flushed": 0}
    assert os.listdir(tmp_path / "run") == []


def test_only_the_service_has_it_open(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Server("--control", str(path), "--preload", workers=2) as server:
        line = next(line for line in Path("/proc/net/unix").read_text().splitlines()
                    if line.endswith(str(path)))  # fmt: skip
        inode = f"socket:[{line.split()[6]}]"
        holders = {
            process.name()
            for process in [psutil.Process(server.process.pid), *server.family()]
            for name in os.listdir(f"/proc/{process.pid}/fd")
            if os.readlink(f"/proc/{process.pid}/fd/{name}") == inode
        }
        assert holders == {"kernelq-service"}


def test_no_socket_if_none_is_wanted(tmp_path: Path) -> None:
    environment = {"RUNTIME_DIRECTORY": str(tmp_path / "run")}
    with Server("--control", "off", environment=environment) as server:
        assert server.ask("/hello").status == 200
    assert not (tmp_path / "run").exists()


def test_a_default_place_that_cannot_be_used_is_a_warning() -> None:
    with Server(environment={"RUNTIME_DIRECTORY": "/proc/kernelq"}) as server:
        server.log.expect("warning no control socket: /proc/kernelq/127.0.0.1-", "--control PATH")
        assert server.ask("/hello").status == 200


def test_a_path_that_cannot_be_used_is_an_error() -> None:
    assert start_failing("--control", "/proc/s").startswith(
        "kernelq: control socket: cannot listen on /proc/s: "
    )


def test_the_socket_of_a_living_server_stays_its_own(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Server("--control", str(path)):
        assert start_failing("--control", str(path)) == (
            f"kernelq: control socket: cannot listen on {path}: the address is in use "
            "(a server answers there)"
        )
        assert ask(path, do="cache.flush", prefix="")["ok"]


def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = Server("--control", str(path)).ready()
    family = first.family()
    first.process.kill()
    assert first.ended() == -signal.SIGKILL
    psutil.wait_procs(family, PATIENCE_SECONDS)
    assert path.is_socket()
    with Server("--control", str(path)):
        assert ask(path, do="cache.flush", prefix="")["ok"]
    assert not path.exists()


def test_the_managers_need_not_be_awake(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Server("--control", str(path), environment={"KERNELQ_STALL": "1"}) as server:
        os.kill(server.process.pid, signal.SIGUSR2)
        server.log.expect("the managers stall for 1 s")
        for _ in range(20):
            assert ask(path, do="cache.flush", prefix="")["ok"]


def test_silent_clients_hold_up_neither_requests_nor_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    silent = []
    with Server("--control", str(path)) as server:
        for _ in range(50):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            sock.sendall(b'{"do": ')
            silent.append(sock)
        assert server.ask("/hello").status == 200
        assert ask(path, do="cache.flush", prefix="")["ok"]
    for sock in silent:
        sock.close()


# -- the command ------------------------------------------------------------------------------


def test_flushing_from_the_command_line(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with Server("--control", path):
        said = (0, "0 responses flushed\n", "")
        assert command("flush", "https://example.org/", "--control", path) == said
        assert command("flush", "", "--control", path) == said
        said = (0, "the group articles was flushed\n", "")
        assert command("flush", "--group", "articles", "--control", path) == said
        status, _, err = command("flush", "example.org/a", "--control", path)
        assert (status, err) == (
            1,
            "kernelq: found 'example.org/a', allowed is an absolute URL like "
            "http://example.org/path\n",
        )
    status, _, err = command("list", "--control", path)
    assert (status, err) == (1, f"kernelq: {path}: there is no such socket\n")


# -- calls of workers -------------------------------------------------------------------------


class Site:
    """A server whose pages are kept."""

    def __init__(self, server: Server, path: Path) -> None:
        self.server = server
        self.path = path

    def get(self, target: str, host: str = "example.org") -> str:
        with Client(self.server.address()) as client:
            response = client.send(request("GET", target, host=host)).response("GET")
        assert response.status == 200
        return response.text

    def flush(self, **query: str) -> str:
        return self.get(f"/flush?{urlencode(query)}")

    def keys(self, prefix: str = "") -> list[str]:
        answer = ask(self.path, do="cache.list", prefix=prefix)
        assert answer["ok"], answer
        return sorted(entry["key"] for entry in answer["entries"])


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    path = tmp_path_factory.mktemp("control") / "s"
    arguments = ("--control", str(path), "--loops", "2", "--threads", "2")
    with Server(*arguments, application="cached:application", workers=2) as server:
        yield Site(server, path)


@pytest.fixture
def site(shared_site: Site) -> Site:
    """With an empty cache."""
    assert ask(shared_site.path, do="cache.flush", prefix="")["ok"]
    return shared_site


@pytest.mark.parametrize("where", [{}, {"thread": ""}])
def test_an_application_flushes_a_url(site: Site, where: dict[str, str]) -> None:
    first = {page: site.get(page) for page in ("/a", "/a/b", "/a?x", "/ab", "/c")}
    assert {page: site.get(page) for page in first} == first
    assert site.flush(url="http://example.org/a", exactly="", **where) == "1"
    assert site.flush(url="HTTP://EXAMPLE.org:80/./%61", **where) == "2"
    again = {page: site.get(page) for page in first}
    assert {page for page in first if again[page] != first[page]} == {"/a", "/a/b", "/a?x"}


@pytest.mark.parametrize("where", [{}, {"thread": ""}])
def test_an_application_flushes_a_group(site: Site, where: dict[str, str]) -> None:
    pages = ("/a?group=one", "/b?group=one", "/c?group=two")
    first = {page: site.get(page) for page in pages}
    other = site.get("/a?group=one", "example.net")
    assert site.flush(group="one", origin="http://example.org", **where) == "None"
    again = {page: site.get(page) for page in pages}
    assert {page for page in first if again[page] != first[page]} == set(pages[:2])
    assert site.get("/a?group=one", "example.net") == other


def test_a_path_and_a_group_are_of_the_requests_own_host(site: Site) -> None:
    for host in ("example.org", "example.net"):
        site.get("/a", host)
        site.get("/b?group=one", host)
    assert site.flush(url="/a") == "1"
    assert site.keys() == [
        "http://example.net/a",
        "http://example.net/b?group=one",
        "http://example.org/b?group=one",
    ]
    mine, others = site.get("/b?group=one"), site.get("/b?group=one", "example.net")
    assert site.flush(group="one") == "None"
    assert site.get("/b?group=one") != mine
    assert site.get("/b?group=one", "example.net") == others


def test_what_no_application_can_flush(site: Site) -> None:
    assert "ValueError: found 'http://'" in site.flush(url="http://")
    assert "ValueError: found 'a', allowed is an absolute URL, or a path" in site.flush(url="a")
    assert "name the host" in site.flush(url="/a", thread="")
    assert "name the host" in site.flush(group="a", thread="")


def test_calls_under_load(site: Site) -> None:
    with site.server.connect() as client:
        for _ in range(200):
            assert client.ask("/a").status == 200
            assert client.ask("/flush?url=/a").text == "1"
            assert client.ask("/flush?url=http://h/&thread=").text == "0"


# -- what people see --------------------------------------------------------------------------


def test_list_shows_what_a_flush_would_take(site: Site) -> None:
    for page in ("/a", "/a/b", "/a?x", "/ab"):
        site.get(page)
    below = ["http://example.org/a", "http://example.org/a/b", "http://example.org/a?x"]
    assert site.keys("http://EXAMPLE.org:80/%61") == below
    assert site.keys("http://example.org/a/") == below[1:2]
    assert site.keys("http://example.net/") == []
    status, out, err = command("list", "--control", str(site.path), "http://example.org/a")
    assert (status, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["STATUS", "SIZE", "AGE", "FRESH", "URL"]
    assert [row.split()[-1] for row in rows] == below
    assert {row.split()[0] for row in rows} == {"200"}
    answer = json.loads(command("list", "--json", "--control", str(site.path))[1])
    assert answer["complete"]
    assert all(entry["lifetime"] == 600 for entry in answer["entries"])


def test_counters_bear_the_names_of_their_model(site: Site) -> None:
    def counted() -> dict[str, int]:
        status, out, err = command("counters", "--control", str(site.path))
        assert (status, err) == (0, "")
        rows = [line.split() for line in out.splitlines()]
        return {name: int(number.replace(",", "")) for name, number in rows}

    before = counted()
    site.get("/counted")
    site.get("/counted")
    site.get("/counted")
    after = counted()
    grown = {name: after[name] - before[name] for name in after}
    assert (grown["UriCacheMisses"], grown["UriCacheHits"], grown["TotalUrisCached"]) == (1, 2, 1)
    answer = json.loads(command("counters", "--json", "--control", str(site.path))[1])
    assert answer["counters"]["cache_uris_now"] == after["CurrentUrisCached"]


def test_no_more_is_listed_than_an_answer_holds(site: Site) -> None:
    with site.server.connect() as client:
        for number in range(1100):
            assert client.ask(f"/{number}").status == 200
    answer = ask(site.path, do="cache.list")
    assert (len(answer["entries"]), answer["complete"]) == (1000, False)
    status, out, err = command("list", "--control", str(site.path))
    assert (status, len(out.splitlines())) == (0, 1001)
    assert err == "there is more: name a longer PREFIX\n"


def test_show(site: Site) -> None:
    site.get("/a")
    status, out, _ = command("show", "http://example.org/%61", "--control", str(site.path))
    assert status == 0
    assert out.startswith(
        "key:            http://example.org/a\napplication:    1\nstatus:         200\n"
    )
    url = "http://example.org/b"
    answer = command("show", url, "--control", str(site.path))
    assert answer == (1, "", f"{url}: nothing is stored\n")


def test_flush(site: Site) -> None:
    pages = ("/a", "/a/b", "/b?group=one", "/c?group=one")
    first = {page: site.get(page) for page in pages}
    place = ("--control", str(site.path))
    assert command("flush", "http://example.org/a", *place) == (0, "2 responses flushed\n", "")
    assert site.get("/a") != first["/a"]
    said = (0, "the group one was flushed\n", "")
    assert command("flush", "--group", "one", "--origin", "http://example.net", *place) == said
    assert site.get("/b?group=one") == first["/b?group=one"]
    assert command("flush", "--group", "one", *place) == said  # of every origin
    assert site.get("/b?group=one") != first["/b?group=one"]
    assert command("flush", "", *place)[0] == 0
    assert site.keys() == []


def test_with_the_cache_off_there_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    arguments = ("--control", str(path), "--cache", "off")
    with Server(*arguments, application="cached:application") as server:
        site = Site(server, path)
        assert site.get("/a") != site.get("/a")
        assert site.keys() == site.keys("http://example.org/") == []
        assert site.flush(url="/a") == "0"
        assert site.flush(group="a") == "None"
        assert command("flush", "", "--control", str(path))[1] == "0 responses flushed\n"
