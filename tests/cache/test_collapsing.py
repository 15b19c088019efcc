"""Many requests for what is not there yet: one of them leads, the others wait on its response. What
becomes of them when the leader leaves, its worker dies, or the entry is flushed meanwhile.

A gate (tests/endtoend/serving.py) holds the application where the test wants it; look() makes sure
that the core has read what was sent before (with several loops: most of it; no test hangs on it).
"""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from origin import ONE_OF_EACH, Origin, Site, current, reply, serve, site_of
from serving import Gate, until
from wire import Client, Ended

FRESH = "max-age=1000"
Gates = Callable[[], Gate]


@pytest.fixture(scope="module", params=["1", "3"], ids=["one loop", "three loops"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    options = ("--workers", "1", "--threads", "8", "--loops", request.param, "--cache", "rfc9111")
    folder = tmp_path_factory.mktemp("collapsing")
    yield from site_of(folder, *options, "--cache-max-entry", "8M")


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    yield shared
    shared.server.close_clients()


def sent(site: Site, name: str, *lines: str, count: int = 1, method: str = "GET") -> list[Client]:
    """So many clients that have asked, in their order; the core has read it."""
    clients = [site.server.connect().get(f"/{name}", *lines, method=method) for _ in range(count)]
    site.server.look()
    return clients


def led(site: Site, gate: Gate, *answers: dict[str, Any]) -> tuple[str, Client]:
    """A URL, and the client whose request the application has; it stands at the gate."""
    name = site.origin.new_name()
    site.origin.script(name, *answers)
    (leader,) = sent(site, name)
    assert gate.enter() == "1"
    return name, leader


def texts(clients: list[Client]) -> list[str]:
    return [client.response().text for client in clients]


# --- one request for all


@pytest.mark.parametrize("count", [1000])
def test_a_thundering_herd_runs_the_application_once(site: Site, gates: Gates, count: int) -> None:
    gate = gates()
    name, leader = led(site, gate, reply(FRESH, gate=gate.path), reply(FRESH))
    herd = sent(site, name, count=count - 1)
    assert all(client.is_quiet() for client in herd)
    gate.open()
    assert texts([leader, *herd]) == [f"/{name} v1"] * count
    assert site.origin.count(name) == 1


def test_a_herd_without_a_length(site: Site, gates: Gates) -> None:
    gate = gates()
    answer = reply(FRESH, chunked=True)
    name, leader = led(site, gate, {**answer, "gate": gate.path}, answer)
    herd = sent(site, name, count=50)
    gate.open()
    assert texts([leader, *herd]) == [f"/{name} v1"] * 51
    assert site.origin.count(name) == 1


def test_a_herd_for_what_is_stale(site: Site, gates: Gates) -> None:
    gate = gates()
    name = site.origin.new_name()
    site.origin.script(name, reply(FRESH, "Age: 2000", 'ETag: "a"'),
                       current(FRESH, 'ETag: "a"', gate=gate.path))  # fmt: skip
    assert site.server.ask(f"/{name}").text == f"/{name} v1"
    clients = sent(site, name)
    assert gate.enter() == "2"
    clients += sent(site, name, count=50)
    gate.open()
    assert texts(clients) == [f"/{name} v1"] * 51
    assert site.origin.count(name) == 2


def test_a_herd_while_revalidating(site: Site, gates: Gates) -> None:
    gate = gates()
    name = site.origin.new_name()
    stale = reply("max-age=1000, stale-while-revalidate=2000", "Age: 2000")
    site.origin.script(name, stale, reply(FRESH, gate=gate.path))
    assert site.server.ask(f"/{name}").text == f"/{name} v1"
    herd = sent(site, name, count=100)
    assert texts(herd) == [f"/{name} v1"] * 100, "nobody waits"
    assert gate.enter() == "2"
    gate.open()
    until(lambda: site.server.ask(f"/{name}").text == f"/{name} v2", "the new version")
    assert site.origin.count(name) == 2


def test_other_urls_do_not_wait(site: Site, gates: Gates) -> None:
    gate = gates()
    name, leader = led(site, gate, reply(FRESH, gate=gate.path))
    other = site.origin.new_name()
    site.origin.script(other, reply(FRESH))
    assert site.server.ask(f"/{other}").text == f"/{other} v1"
    gate.open()
    assert leader.response().text == f"/{name} v1"


ELSE = ('If-None-Match: "x"', "Range: bytes=0-1", "Cache-Control: no-store")


@pytest.mark.parametrize("line", ELSE)
def test_who_asks_for_something_else_does_not_wait(site: Site, gates: Gates, line: str) -> None:
    gate = gates()
    name, leader = led(site, gate, reply(FRESH, gate=gate.path))
    (other,) = sent(site, name, line)
    assert gate.enter() == "2"
    gate.open()
    gate.open()
    assert leader.response().text == f"/{name} v1"
    assert other.response().status in (200, 206)


def test_only_if_cached_does_not_wait(site: Site, gates: Gates) -> None:
    gate = gates()
    name, leader = led(site, gate, reply(FRESH, gate=gate.path))
    assert site.server.ask(f"/{name}", "Cache-Control: only-if-cached").status == 504
    gate.open()
    assert leader.response().text == f"/{name} v1"


# --- what cannot be shared


def test_pages_that_are_not_stored_are_not_serialised(site: Site, gates: Gates) -> None:
    gate = gates()
    name, leader = led(site, gate, reply("no-store", gate=gate.path))
    waiters = sent(site, name, count=4)
    gate.open()
    assert leader.response().text == f"/{name} v1"
    assert {gate.enter() for _ in range(4)} == {"2", "3", "4", "5"}, "all at once"
    for _ in range(4):
        gate.open()
    assert sorted(texts(waiters)) == [f"/{name} v{number}" for number in (2, 3, 4, 5)]
    again = sent(site, name, count=5)
    assert {gate.enter() for _ in range(5)} == {"6", "7", "8", "9", "10"}, "it is remembered"
    for _ in range(5):
        gate.open()
    texts(again)


def test_another_variant_is_asked_for(site: Site, gates: Gates) -> None:
    gate = gates()
    name = site.origin.new_name()
    answer = reply(FRESH, "Vary: Accept-Language", gate=gate.path)
    site.origin.script(name, answer, reply(FRESH, "Vary: Accept-Language"))
    de, en = "Accept-Language: de", "Accept-Language: en"
    clients = sent(site, name, de)
    assert gate.enter() == "1"
    clients += sent(site, name, de) + sent(site, name, en) + sent(site, name, en)
    gate.open()
    assert texts(clients[:2]) == [f"/{name} v1"] * 2
    for text in texts(clients[2:]):  # they may lead each, or one for both
        assert text in (f"/{name} v2", f"/{name} v3")
    executed = site.origin.count(name)
    assert site.server.ask(f"/{name}", de).text == f"/{name} v1"
    assert site.server.ask(f"/{name}", en).text == f"/{name} v{executed}"
    assert site.origin.count(name) == executed


@pytest.mark.parametrize("answer", [{"fail": "raise"}, reply(status=500)])
def test_a_failure_is_the_leaders_alone(site: Site, gates: Gates, answer: dict[str, Any]) -> None:
    gate = gates()
    name, leader = led(site, gate, {**answer, "gate": gate.path}, reply(FRESH))
    waiters = sent(site, name, count=3)
    gate.open()
    assert leader.response().status == 500
    assert all(text.startswith(f"/{name} v") for text in texts(waiters))


# --- those who leave


def test_the_leader_leaves(site: Site, gates: Gates) -> None:
    gate = gates()
    name, leader = led(site, gate, reply(FRESH, gate=gate.path))
    waiters = sent(site, name, count=5)
    leader.reset()
    site.server.look()
    gate.open()
    assert texts(waiters) == [f"/{name} v1"] * 5
    assert site.server.ask(f"/{name}").text == f"/{name} v1"
    assert site.origin.count(name) == 1


def test_the_leader_leaves_while_it_gets_its_response(site: Site, gates: Gates) -> None:
    gate = gates()
    size = 2_000_000
    name, leader = led(site, gate, large(size, gate, gate))
    gate.open()
    leader.head()
    leader.rest(size // 4)
    waiters = sent(site, name, count=3)
    assert gate.enter() == "1"
    leader.reset()
    site.server.look()
    gate.open()
    assert [len(client.response().content) for client in waiters] == [size] * 3
    assert site.origin.count(name) == 1


def test_waiters_leave(site: Site, gates: Gates) -> None:
    gate = gates()
    name, leader = led(site, gate, reply(FRESH, gate=gate.path))
    waiters = sent(site, name, count=6)
    for one in waiters[::2]:
        one.reset()
    site.server.look()
    gate.open()
    assert texts([leader, *waiters[1::2]]) == [f"/{name} v1"] * 4
    assert site.origin.count(name) == 1


def test_all_leave(site: Site, gates: Gates) -> None:
    gate = gates()
    name, leader = led(site, gate, reply(FRESH, gate=gate.path), reply(FRESH))
    for one in [leader, *sent(site, name, count=3)]:
        one.reset()
    site.server.look()
    gate.open()
    assert site.server.ask(f"/{name}").text in (f"/{name} v1", f"/{name} v2")


def test_who_waits_too_long_is_refused(tmp_path: Any, gates: Gates) -> None:
    """As in the request queue: the leader runs on, and what comes of it is stored."""
    options = (*ONE_OF_EACH, "--cache", "rfc9111", "--queue-timeout", "1")
    with serve(tmp_path, *options) as server:
        site, gate = Site(server, Origin(tmp_path)), gates()
        name = site.origin.new_name()
        site.origin.script(name, reply(FRESH, "Age: 2000", 'ETag: "a"'),
                           reply(FRESH, gate=gate.path))  # fmt: skip
        assert server.ask(f"/{name}").text == f"/{name} v1"
        (leader,) = sent(site, name)
        assert gate.enter() == "2"
        waiters = sent(site, name, count=3)
        assert [client.response().status for client in waiters] == [503] * 3
        gate.open()
        assert leader.response().text == f"/{name} v2"
        assert server.ask(f"/{name}").text == f"/{name} v2"
        assert site.origin.count(name) == 2


def test_what_was_made_for_one_client_is_nobody_elses(site: Site, gates: Gates) -> None:
    """A page that cannot be shared, and the client whose cookie it was made for has gone."""
    gate = gates()
    name = site.origin.new_name()
    site.origin.script(name, reply("private", gate=gate.path), reply("private"))
    (leader,) = sent(site, name, "Cookie: user=a")
    assert gate.enter() == "1"
    (other,) = sent(site, name, "Cookie: user=b")
    leader.reset()
    site.server.look()
    gate.open()
    assert other.response().text == f"/{name} v2"


def test_a_cookie_makes_nobody_wait_by_default(tmp_path: Any, gates: Gates) -> None:
    """A page of which nothing is known, for clients that are known: side by side."""
    with serve(tmp_path, *ONE_OF_EACH, "--cache", "public") as server:
        site, gate = Site(server, Origin(tmp_path)), gates()
        name = site.origin.new_name()
        site.origin.script(name, reply(gate=gate.path))
        clients = sent(site, name, "Cookie: user=a") + sent(site, name, "Cookie: user=b")
        assert {gate.enter(), gate.enter()} == {"1", "2"}
        for _ in clients:
            gate.open()
        assert sorted(texts(clients)) == [f"/{name} v1", f"/{name} v2"]


# --- workers that die


@pytest.fixture(scope="module", params=["1", "3"], ids=["one loop", "three loops"])
def mortal(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    options = ("--workers", "2", "--threads", "4", "--loops", request.param, "--cache", "rfc9111")
    folder = tmp_path_factory.mktemp("mortal")
    yield from site_of(folder, *options, "--rapid-fail", "off", "--cache-max-entry", "8M")


def kill_leader(site: Site, name: str) -> None:
    os.kill(site.origin.seen(name)[-1].pid, signal.SIGKILL)


def test_the_worker_dies_before_the_head(mortal: Site, gates: Gates) -> None:
    gate = gates()
    name, leader = led(mortal, gate, reply(FRESH, gate=gate.path), reply(FRESH))
    waiters = sent(mortal, name, count=20)
    kill_leader(mortal, name)
    assert texts([leader, *waiters]) == [f"/{name} v2"] * 21, "executed again, for all"
    assert mortal.origin.count(name) == 2


def test_the_worker_dies_and_nothing_may_run_again(tmp_path: Any, gates: Gates) -> None:
    options = ("--workers", "2", "--threads", "4", "--loops", "1", "--cache", "rfc9111")
    with serve(tmp_path, *options, "--rapid-fail", "off", "--redispatch", "never") as server:
        site, gate = Site(server, Origin(tmp_path)), gates()
        name, leader = led(site, gate, reply(FRESH, gate=gate.path), reply(FRESH))
        waiters = sent(site, name, count=20)
        kill_leader(site, name)
        assert leader.response().status == 502
        assert texts(waiters) == [f"/{name} v2"] * 20, "the first of them leads"
        assert site.origin.count(name) == 2


def outcome(client: Client) -> str:
    try:
        return client.response().text
    except Ended as ended:
        return "cut" if b"begun" in ended.got else f"{ended}"


def test_the_worker_dies_within_the_content(mortal: Site, gates: Gates) -> None:
    """Whoever has bytes of it is cut off, visibly; whoever has none gets another response."""
    gate = gates()
    blocks = ["begun ", ["fill", 50_000], ["gate", gate.path], ["die"]]
    name, leader = led(mortal, gate, reply(FRESH, blocks=blocks), reply(FRESH))
    leader.head()
    assert leader.chunk().startswith(b"begun")
    waiters = sent(mortal, name, count=5)
    gate.open()
    with pytest.raises(Ended):
        b"".join(iter(leader.chunk, b""))
    for client in waiters:
        assert outcome(client) in ("cut", f"/{name} v2")
    assert mortal.server.ask(f"/{name}").text == f"/{name} v2"
    assert mortal.origin.count(name) == 2


def test_the_worker_dies_within_content_of_known_length(mortal: Site, gates: Gates) -> None:
    gate = gates()
    blocks = [["fill", 50_000], ["gate", gate.path], ["die"]]
    name, leader = led(
        mortal, gate, reply(FRESH, "Content-Length: 100000", blocks=blocks), reply(FRESH)
    )
    waiters = sent(mortal, name, count=5)
    for client in (leader, *waiters):
        client.head()
        client.rest(50_000)
    gate.open()
    for client in (leader, *waiters):
        with pytest.raises(Ended):
            client.rest(50_000)
    assert mortal.server.ask(f"/{name}").text == f"/{name} v2"


@pytest.mark.parametrize(
    "answer",
    [
        reply(FRESH, "Content-Length: 100", blocks=["short"]),
        reply(FRESH, "Content-Length: 100", blocks=["short", ["raise"]]),
        reply(FRESH, blocks=["short", ["raise"]]),
        reply(FRESH, blocks=["short", ["die"]]),
        reply(FRESH, "Content-Length: 500000", blocks=[["fill", 400_000], ["raise"]]),
    ],
)  # fmt: skip
def test_what_was_cut_short_is_not_stored(mortal: Site, answer: dict[str, Any]) -> None:
    name = mortal.origin.new_name()
    mortal.origin.script(name, answer, reply(FRESH))
    with mortal.server.connect() as client, pytest.raises(Ended):
        client.get(f"/{name}").response()
    assert mortal.server.ask(f"/{name}").text == f"/{name} v2"
    assert mortal.server.ask(f"/{name}").text == f"/{name} v2"
    assert mortal.origin.count(name) == 2


# --- streams


def large(size: int, *places: Gate) -> dict[str, Any]:
    """Content of known length, with a gate before it and between its parts."""
    first, *others = [["gate", gate.path] for gate in places]
    part = size // (len(others) + 1)
    blocks: list[Any] = [["fill", part]]
    for place in others:
        blocks += [place, ["fill", part]]
    return reply(FRESH, f"Content-Length: {size}", gate=first[1], blocks=blocks)


def begun(client: Client, count: int) -> bytes:
    assert client.head().status == 200
    return client.rest(count)


def test_a_large_response_streams_while_it_is_stored(site: Site, gates: Gates) -> None:
    gate = gates()
    size = 4_000_000
    name, leader = led(site, gate, large(size, gate, gate))
    early = sent(site, name, count=3)
    gate.open()
    half = [begun(client, size // 2) for client in (leader, *early)]
    late = sent(site, name, count=3)
    half += [begun(client, size // 2) for client in late]
    assert gate.enter() == "1", "half of it is missing yet"
    gate.open()
    clients = (leader, *early, *late)
    whole = {one + client.rest(size // 2) for one, client in zip(half, clients, strict=True)}
    assert len(whole) == 1
    assert {site.server.ask(f"/{name}").content} == whole
    assert site.origin.count(name) == 1


def test_a_slow_client_does_not_hold_up_the_others(site: Site, gates: Gates) -> None:
    gate = gates()
    size = 6_000_000
    name = site.origin.new_name()
    site.origin.script(name, large(size, gate))
    slow = site.server.connect(receive_bytes=4096).get(f"/{name}")
    assert gate.enter() == "1"
    quick = sent(site, name, count=3)
    gate.open()
    found = {client.response().content for client in quick}
    assert {len(one) for one in found} == {size}
    assert {slow.response().content} == found
    assert site.origin.count(name) == 1


# --- flushes


@pytest.mark.parametrize("how", ["flush", "flush all", "flush group", "POST"])
def test_a_flush_during_a_fill(site: Site, gates: Gates, how: str) -> None:
    """Who asked before it may get what is under way, who asks after it may not."""
    gate = gates()
    group = site.origin.new_name()
    line = f'Cache-Groups: "{group}"'
    unsafe = {"methods": {"POST": reply("no-store", content="done")}}
    name, leader = led(site, gate, {**reply(FRESH, line, gate=gate.path)},
                       {**reply(FRESH, line), **unsafe})  # fmt: skip
    waiters = sent(site, name, count=3)
    if how == "POST":
        assert site.server.ask(f"/{name}", method="POST", content=b"").text == "done"
    elif how == "flush group":
        target = f"/-/flush_group?name={group}"
        assert site.server.ask(target, method="POST", content=b"").status == 200
    else:
        site.flush("http://test/" if how == "flush all" else f"http://test/{name}")
    executed = site.origin.count(name)
    (after,) = sent(site, name)
    gate.open()
    newer = after.response().text
    assert newer == f"/{name} v{executed + 1}", "what began before the flush is not for it"
    assert leader.response().text == f"/{name} v1"
    assert set(texts(waiters)) <= {f"/{name} v1", newer}
    assert site.server.ask(f"/{name}").text == newer, "the old one did not replace it"
    assert site.origin.count(name) == executed + 1


def test_hits_go_on_while_no_thread_is_free(tmp_path: Any, gates: Gates) -> None:
    with serve(tmp_path, *ONE_OF_EACH, "--cache", "rfc9111") as server:
        site, gate = Site(server, Origin(tmp_path)), gates()
        name, busy = site.origin.new_name(), site.origin.new_name()
        site.origin.script(name, reply(FRESH))
        site.origin.script(busy, reply("no-store", gate=gate.path))
        assert server.ask(f"/{name}").text == f"/{name} v1"
        clients = [server.connect().get(f"/{busy}?{number}") for number in range(4)]
        for _ in clients:
            gate.enter()
        for _ in range(10):
            assert server.ask(f"/{name}").text == f"/{name} v1"
        for _ in clients:
            gate.open()
        texts(clients)
