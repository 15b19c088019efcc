"""Ends that nobody planned: a leader that leaves a private response behind, worker's content that
nobody wants, clients that go or stand still at the wrong moment, heads that grow.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from origin import Origin, Site, current, reply, serve, site_of
from serving import Gate, until
from test_collapsing import FRESH, sent

Gates = Callable[[], Gate]
STALE = "max-age=1000, stale-while-revalidate=2000"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    options = ("--workers", "1", "--threads", "4", "--loops", "1", "--cache", "rfc9111",
               "--cache-max-entry", "256K", "--response-takeover", "64K")  # fmt: skip
    yield from site_of(tmp_path_factory.mktemp("ends"), *options)


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    yield shared
    shared.server.close_clients()


# --- whose response it is


def test_a_private_response_is_not_passed_on(site: Site, gates: Gates) -> None:
    """The leader has left: what was made for its cookies is for nobody else."""
    gate = gates()
    name = site.origin.new_name()
    answer = reply("private", content="for {echo}", echo="HTTP_COOKIE")
    site.origin.script(name, {**answer, "gate": gate.path}, answer)
    (leader,) = sent(site, name, "Cookie: alice")
    assert gate.enter() == "1"
    (other,) = sent(site, name, "Cookie: bob")
    leader.reset()
    site.server.look()
    gate.open()
    assert other.response().text == "for bob"


# --- content that nobody wants


def test_a_revalidation_that_is_not_stored_gives_its_thread_back(ordered: Site) -> None:
    name = ordered.origin.new_name()
    ordered.origin.script(name, reply(STALE, "Age: 2000"), reply("no-store", bytes=4_000_000))
    ordered.server.ask(f"/{name}")
    assert ordered.server.ask(f"/{name}").one("Age") is not None
    ordered.settle()  # there is one thread


def test_an_error_behind_a_stale_response_gives_its_thread_back(ordered: Site) -> None:
    name = ordered.origin.new_name()
    stale = reply("max-age=1000, stale-if-error=9000", "Age: 2000")
    ordered.origin.script(name, stale, reply(status=503, bytes=4_000_000))
    ordered.server.ask(f"/{name}")
    assert ordered.server.ask(f"/{name}").text == f"/{name} v1"
    ordered.settle()


# --- clients at the wrong moment


def test_a_stale_answer_that_closes(site: Site) -> None:
    """Its head came in two parts, and the request is repeated for the store."""
    name = site.origin.new_name()
    site.origin.script(name, reply(STALE, "Age: 2000"), reply(FRESH))
    site.server.ask(f"/{name}")
    client = site.server.connect()
    client.send(f"GET /{name} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nX-A: ".encode())
    site.server.look()
    client.send(b"b\r\n\r\n")
    assert client.response().text == f"/{name} v1"
    until(lambda: site.origin.count(name) == 2, "the repeated request")
    assert site.origin.seen(name)[1].get("x-a") == "b"


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_an_unsafe_request_counts_without_its_client(site: Site, gates: Gates, method: str) -> None:
    gate = gates()
    name = site.origin.new_name()
    changed = reply("no-store", methods={method: {"gate": gate.path, "content": "changed"}})
    site.origin.script(name, reply(FRESH), changed, reply(FRESH))
    site.server.ask(f"/{name}")
    (client,) = sent(site, name, "Content-Length: 0", method=method)
    gate.enter()
    client.reset()
    site.server.look()
    gate.open()
    until(lambda: site.server.ask(f"/{name}").text == f"/{name} v3", "the new version")


def test_a_client_that_stands_still_in_an_overflow_ends(tmp_path: Path) -> None:
    options = ("--workers", "1", "--threads", "1", "--loops", "1", "--cache", "rfc9111",
               "--cache-max-entry", "64K", "--response-takeover", "64K",
               "--entity-timeout", "1s", "--min-send-rate", "1000")  # fmt: skip
    with serve(tmp_path, *options) as server:
        site = Site(server, Origin(tmp_path))
        site.origin.script("a", reply(FRESH, blocks=[["fill", 20_000_000]]))
        server.connect(receive_bytes=4096).get("/a")
        site.settle()
        server.log.expect("Timer_MinBytesPerSecond")


def test_a_client_that_reads_gets_all_of_an_overflow(site: Site) -> None:
    for size in (260_000, 330_000, 1_000_000, 4_000_000):
        name = site.origin.new_name()
        site.origin.script(name, reply(FRESH, content="x", bytes=size, chunked=True))
        assert len(site.server.ask(f"/{name}").content) == size


# --- files


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("written", ["", "abc"])
@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_a_file_without_a_length(
    site: Site, tmp_path: Path, size: int, written: str, version: str
) -> None:
    """One that is too long for the store reaches its client all the same. Behind what was written
    its length is not known.
    """
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * (size // 250))
    name = site.origin.new_name()
    site.origin.script(name, reply(FRESH, file=str(path), written=written))
    for _ in range(3):
        response = site.server.ask(f"/{name}", version=version)
        assert response.content == written.encode() + path.read_bytes()


# --- heads


def test_what_is_asked_for_fits_its_own_request(site: Site) -> None:
    """Vary names a field that the store replaces: the leader is answered all the same."""
    name = site.origin.new_name()
    first = reply("max-age=1000", "Age: 2000", "Vary: If-None-Match", 'ETag: "a"')
    site.origin.script(name, first, reply(FRESH, "Vary: If-None-Match", 'ETag: "b"'))
    line = 'If-None-Match: "x"'
    assert site.server.ask(f"/{name}", line).text == f"/{name} v1"
    assert site.server.ask(f"/{name}", line).text == f"/{name} v2"
    assert site.origin.count(name) == 2


def test_a_head_does_not_outgrow_its_room(site: Site) -> None:
    name = site.origin.new_name()
    validators = ('ETag: "a"', "max-age=1000", "Age: 2000")
    first = current(*validators, f"X-A: {'a' * 47500}")
    first["fields_304"] = [["ETag", '"a"'], ["X-B", "b" * 64000], ["Cache-Control", "max-age=9"]]
    site.origin.script(name, first)
    for _ in range(3):
        assert site.server.ask(f"/{name}").text == f"/{name} v1"


def test_a_half_closed_client_does_not_wait_for_ever(site: Site, gates: Gates) -> None:
    """Nothing is known of the response: it goes on by itself, as others do."""
    gate = gates()
    name = site.origin.new_name()
    site.origin.script(name, reply(FRESH, gate=gate.path))
    (leader,) = sent(site, name)
    assert gate.enter() == "1"
    other = site.server.connect().send_last(f"GET /{name} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    assert gate.enter() == "2"
    gate.open()
    gate.open()
    assert leader.response().status == other.response().status == 200
