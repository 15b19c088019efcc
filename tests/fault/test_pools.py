"""Many pools in one core: what one of them suffers is nothing to the others."""

import contextlib
import os
import resource

import pytest

from kernelq.config import CorePoolSettings

LOOPS = [1, 3]


@pytest.mark.parametrize("loops", LOOPS)
def test_each_pool_has_its_own_queue(bench, loops):
    core = bench(loops=loops)
    first, second = core.pool("first", queue_length=3), core.pool("second")
    core.route(("a", b"/", 11, first), ("b", b"/", 12, second))
    worker = core.worker(second)
    waiting = [core.send(f"/{number}", "a") for number in range(3)]
    core.wait_until(first, queued=3)
    status, _, content = core.send("/", "a").read()
    assert (status, content) == (503, b"503 Service Unavailable\nThe request queue is full.\n")
    for number in range(5):
        client = core.send(f"/{number}", "b")
        request = worker.serve()
        assert (request.target, request.application) == (f"/{number}", 12)
        assert client.read()[0] == 200
    own = core.worker(first)
    for _ in waiting:
        assert own.serve().application == 11
    assert [client.read()[0] for client in waiting] == [200] * 3


@pytest.mark.parametrize("loops", LOOPS)
def test_a_death_concerns_its_own_pool(bench, loops):
    core = bench(loops=loops)
    pools = [core.pool("first"), core.pool("second")]
    core.route(("a", b"/", 1, pools[0]), ("b", b"/", 2, pools[1]))
    workers = [core.worker(pool) for pool in pools]
    clients = [core.send("/", "a"), core.send("/", "b")]
    requests = [worker.take()[0] for worker in workers]
    for worker, request in zip(workers, requests, strict=True):
        worker.start(request)
    workers[0].kill()
    core.wait_until(pools[0], queued=1)
    assert core.core.pool_info(pools[0])["redispatched"] == 1
    assert core.core.pool_info(pools[1])["executing"] == 1
    workers[1].answer(requests[1])
    assert clients[1].read()[0] == 200
    core.worker(pools[0]).serve(b"again")
    assert clients[0].read()[2] == b"again"


def test_numbers_are_never_used_again(bench):
    core = bench()
    numbers = []
    for _ in range(20):
        numbers.append(core.pool())
        core.core.pool_close(numbers[-1])
    assert numbers == sorted(set(numbers))
    with pytest.raises(KeyError):
        core.core.pool_info(numbers[0])
    workers = [core.worker(core.pool()).number for _ in range(3)]
    assert len(set(workers)) == 3


def test_no_more_pools_than_there_is_room_for(bench):
    core = bench()
    pools = [core.pool() for _ in range(4096)]
    with pytest.raises(OSError, match="4096 pools"):
        core.pool()
    core.core.pool_close(pools[1000])
    pools[1000] = core.pool()
    assert len(set(pools)) == 4096
    core.route(("", b"/", 1, pools[1000]))
    worker = core.worker(pools[1000])
    client = core.send()
    worker.serve()
    assert client.read()[0] == 200
    assert core.core.stats()["workers_ready"] == 1


@pytest.mark.parametrize("loops", LOOPS)
def test_a_pool_is_closed_when_nothing_needs_it(bench, loops):
    core = bench(loops=loops)
    pool, other = core.pool(), core.pool("other")
    core.route(("", b"/", 1, pool))
    with pytest.raises(ValueError, match="has routes"):
        core.core.pool_close(pool)
    client = core.send()
    core.wait_until(pool, queued=1)
    core.route(("", b"/", 2, other))
    with pytest.raises(ValueError, match="has queued requests"):
        core.core.pool_close(pool)
    worker = core.worker(pool)
    worker.serve()
    assert client.read()[0] == 200
    with pytest.raises(ValueError, match="has workers"):
        core.core.pool_close(pool)
    worker.kill()
    core.core.pool_close(pool)
    for use in (core.core.pool_close, core.core.pool_info, core.core.pool_take_peak):
        with pytest.raises(KeyError):
            use(pool)
    with pytest.raises(KeyError):
        core.core.channel_open(pool, 0)
    with pytest.raises(KeyError):
        core.core.set_pool_state(pool, "online")
    with pytest.raises(ValueError, match="was not opened"):
        core.route(("", b"/", 1, pool))


def descriptors() -> dict[str, str]:
    """But for those of loops that have just begun, which look at their own figures in /proc."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of this very look
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return {name: what for name, what in found.items() if not what.startswith("/proc/")}


def test_a_channel_that_finds_no_descriptors_leaves_nothing(bench):
    core = bench(loops=3)
    pool = core.pool()
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = 0
    while True:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3 + refused, limits[1]))
        try:
            number, passed = core.core.channel_open(pool, 0)
            break
        except OSError:
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert descriptors() == before
    assert refused >= len(passed)
    for fd in passed:
        os.close(fd)
    core.core.worker_forget(number)
    core.core.pool_close(pool)
    assert descriptors() == before


@pytest.mark.parametrize("loops", LOOPS)
def test_who_still_sends_to_a_closed_pool_is_refused(bench, loops):
    core = bench(loops=loops)
    pool, other = core.pool(), core.pool("other")
    core.route(("", b"/", 1, pool))
    client = core.send("/up", method="POST", more="Content-Length: 4\r\n")
    client.sock.sendall(b"ab")
    while core.core.stats()["exchanges_now"] == 0:
        pass
    core.route(("", b"/", 2, other))
    core.core.pool_close(pool)
    client.sock.sendall(b"cd")
    status, _, content = client.read()
    assert status == 503
    assert b"stopped" in content


def test_a_change_is_for_workers_to_come(bench):
    core = bench()
    pool = core.one_pool(threads=1)
    old = core.worker(pool)
    core.core.pool_change(pool, CorePoolSettings(name="p", threads=3, queue_length=17))
    new = core.worker(pool)
    assert (old.raw.head.slot_count, new.raw.head.slot_count) == (1, 3)
    assert core.core.pool_info(pool)["queue_length"] == 17
    clients = [core.send(f"/{number}") for number in range(4)]
    # Free slots first, wherever they are.
    taken = [(old, request) for request in old.take(1)] + [(new, one) for one in new.take(3)]
    for worker, request in taken:
        worker.answer(request)
    assert [client.read()[0] for client in clients] == [200] * 4
    with pytest.raises(ValueError, match="name"):
        core.core.pool_change(pool, CorePoolSettings(name="q"))
    with pytest.raises(ValueError, match="threads"):
        core.core.pool_change(pool, CorePoolSettings(name="p", threads=0))


@pytest.mark.parametrize("loops", LOOPS)
def test_a_worker_gets_no_application_that_it_does_not_know(bench, loops):
    core = bench(loops=loops)
    pool = core.pool(threads=1)
    core.route(("old", b"/", 1, pool, 1), ("new", b"/", 2, pool, 2))
    old = core.worker(pool, 1)
    clients = [core.send("/new", "new"), core.send("/new", "new")]
    core.wait_until(pool, queued=2)
    for number in range(5):
        client = core.send(f"/{number}", "old")
        assert old.serve().target == f"/{number}"
        assert client.read()[0] == 200
    assert core.core.pool_info(pool)["queued"] == 2
    new = core.worker(pool, 2)
    for client in clients:
        assert new.serve().application == 2
        assert client.read()[0] == 200
    # A new one knows what is old.
    old.kill()
    client = core.send("/", "old")
    assert new.serve().application == 1
    assert client.read()[0] == 200


def test_figures_of_a_pool(bench):
    core = bench()
    pool, idle = core.pool(queue_length=5), core.pool("idle")
    core.route(("", b"/", 1, pool))
    info = core.core.pool_info(pool)
    assert info["last_activity_ns"] == info["oldest_ns"] == 0
    clients = [core.send() for _ in range(5)]
    info = core.wait_until(pool, queued=5)
    assert info["oldest_ns"] > 0
    assert core.send().read()[0] == 503
    info = core.core.pool_info(pool)
    assert (info["arrived"], info["rejected"], info["peak"]) == (6, 1, 5)
    worker = core.worker(pool)
    for _ in clients:
        worker.serve()
    assert [client.read()[0] for client in clients] == [200] * 5
    info = core.wait_until(pool, answered=5, executing=0)
    assert (info["queued"], info["oldest_ns"], info["ready"]) == (0, 0, 1)
    assert info["state"] == "online"
    assert info["last_activity_ns"] > 0
    assert core.core.pool_take_peak(pool) == 5
    assert core.core.pool_take_peak(pool) == 0
    assert core.core.pool_info(idle) == {
        **dict.fromkeys(info, 0),
        "state": "online",
        "queue_length": 1000,
    }


def test_requests_are_listed(bench):
    core = bench()
    pools = [core.pool("first", threads=1), core.pool("second")]
    core.route(("a", b"/", 1, pools[0]), ("b", b"/", 2, pools[1]))
    worker = core.worker(pools[0])
    core.send("/runs?x=1", "a", method="PUT", more="Content-Length: 0\r\n")
    (request,) = worker.take()
    worker.start(request)
    core.send("/waits", "b")
    core.wait_until(pools[1], queued=1)
    first, second = core.core.requests(100)
    assert first.pop("elapsed_ns") > 0
    assert second.pop("elapsed_ns") > 0
    assert first == {
        "pool": pools[0],
        "application": 1,
        "worker": worker.number,
        "state": "executing",
        "method": "PUT",
        "target": "/runs?x=1",
        "host": "a",
        "client": "127.0.0.1",
    }
    assert (second["pool"], second["worker"], second["state"]) == (pools[1], -1, "queued")
    assert len(core.core.requests(1)) == 1
    assert core.core.requests(0) == []


def test_many_requests_are_listed_in_order(bench):
    core = bench()
    pool = core.one_pool()
    client = [core.send(f"/{number}") for number in range(1)]
    core.wait_until(pool, queued=1)
    for number in range(1, 200):
        client.append(core.send(f"/{number}"))
        core.wait_until(pool, queued=number + 1)
    worker = core.worker(pool)
    worker.take(2)
    found = [int(one["target"][1:]) for one in core.core.requests(1000)]
    assert found == list(range(200))
    assert len(core.core.requests(150)) == 150


@pytest.mark.parametrize("loops", LOOPS)
def test_a_turn_looks_only_where_work_is(bench, loops):
    core = bench(loops=loops)
    pools = [core.pool(str(number)) for number in range(30)]
    core.route(*((f"h{number}", b"/", number, pool) for number, pool in enumerate(pools)))
    workers = [core.worker(pool) for pool in pools]
    # A lane from which nothing is awaited is armed: its word is odd, and stays as it is.
    client = core.client()
    for number in (0, 1):
        client.send("/", f"h{number}")
        workers[number].serve()
        assert client.read()[0] == 200
    before = [[0]]
    while not all(word % 2 for words in before for word in words):
        before = [worker.raw.armed() for worker in workers[2:]]
    for _ in range(50):
        client.send("/", "h1")
        workers[1].serve()
        assert client.read()[0] == 200
    assert [worker.raw.armed() for worker in workers[2:]] == before
