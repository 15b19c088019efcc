"""Events by which the managers start, replace and add workers."""

import pytest

from kernelq.units import HOUR, MS


def test_demand_comes_when_a_request_waits_and_nobody_is_ready(bench):
    core = bench(loops=2)
    pool, other = core.pool(), core.pool("other")
    core.route(("", b"/", 1, pool), ("other", b"/", 2, other))
    core.core.pool_await_demand(pool, 0)
    core.send("/", "other")
    core.wait_until(other, queued=1)
    assert not core.has("demand")
    client = core.send()
    assert core.wait("demand") == pool
    # Once: the next one only when it is asked for, and then at once.
    core.send()
    core.wait_until(pool, queued=2)
    assert not core.has("demand")
    core.core.pool_await_demand(pool, 0)
    assert core.wait("demand") == pool
    worker = core.worker(pool)
    core.core.pool_await_demand(pool, 0)
    worker.serve()
    worker.serve()
    assert client.read()[0] == 200
    core.wait_until(pool, executing=0, queued=0)
    assert not core.has("demand")


@pytest.mark.parametrize("how", ["death", "drain"])
def test_demand_comes_when_the_only_worker_leaves(bench, how):
    core = bench()
    pool = core.one_pool(threads=1)
    worker = core.worker(pool)
    core.core.pool_await_demand(pool, 0)
    core.send("/1")
    (request,) = worker.take()
    assert not core.has("demand")
    if how == "death":
        worker.kill()
    else:
        worker.start(request)
        core.core.worker_drain(worker.number)
        core.send("/2")
    assert core.wait("demand") == pool


def test_demand_comes_when_the_oldest_has_waited_for_so_long(bench):
    core = bench(loops=2)
    pool = core.one_pool(threads=1)
    worker = core.worker(pool)
    core.core.pool_await_demand(pool, 20 * MS)
    clients = [core.send() for _ in range(30)]  # more than its slot and what is handed ahead
    assert core.wait("demand") == pool
    # What waits already is seen too, whenever that is asked for.
    assert core.core.pool_info(pool)["queued"] > 0
    core.core.pool_await_demand(pool, 20 * MS)
    assert core.wait("demand") == pool
    core.core.pool_await_demand(pool, HOUR)
    core.core.pool_await_demand(pool, -1)
    for _ in clients:
        worker.serve()
    assert [client.read()[0] for client in clients] == [200] * 30
    core.wait_until(pool, queued=0, executing=0)
    assert not core.has("demand")


def test_demand_is_disarmed(bench):
    core = bench()
    pool = core.one_pool()
    core.core.pool_await_demand(pool, 0)
    core.core.pool_await_demand(pool, -1)
    core.send()
    core.wait_until(pool, queued=1)
    assert not core.has("demand")
    with pytest.raises(KeyError):
        core.core.pool_await_demand(pool + 1000, 0)


def test_a_quota_is_told_once(bench):
    core = bench()
    pool = core.one_pool()
    worker = core.worker(pool)
    core.core.worker_quota(worker.number, 3)
    for number in range(5):
        client = core.send()
        worker.serve()
        assert client.read()[0] == 200
        core.wait_until(pool, answered=number + 1)
        assert core.has("quota") == (number >= 2)
    assert core.wait("quota", worker.number) == 3
    assert not core.has("quota")
    # What is met already is told at once.
    core.core.worker_quota(worker.number, 2)
    assert core.wait("quota", worker.number) == 5
    core.core.worker_quota(worker.number, 6)
    core.core.worker_quota(worker.number, 0)
    client = core.send()
    worker.serve()
    assert client.read()[0] == 200
    core.wait_until(pool, answered=6)
    assert not core.has("quota")
