"""The response cache and several applications: each has its own entries, and a worker reaches only
those of its own pool."""

import pytest
from hostile_channel import call

FRESH = {"Cache_Control": "public, max-age=1000"}


@pytest.fixture
def shop(bench):
    """Two pools; the first has the applications 1 and 2, the second 3."""
    core = bench(cache="public", cache_status=True)
    pools = [core.pool("first"), core.pool("second")]
    core.route(
        ("h", b"/", 1, pools[0]),
        ("h", b"/a", 2, pools[0]),
        ("h", b"/b", 3, pools[1]),
        ("other", b"/", 3, pools[1]),
    )
    core.workers = [core.worker(pool) for pool in pools]
    return core


def fill(core, worker, target, host="h", **fields):
    client = core.send(target, host)
    (request,) = core.workers[worker].take()
    core.workers[worker].answer(request, target.encode(), **FRESH, **fields)
    assert client.read()[2] == target.encode()


def is_stored(core, target, host="h") -> bool:
    """Is it answered without anybody's help?"""
    client = core.send(target, host, more="Cache-Control: only-if-cached\r\n")
    return client.read()[0] == 200


def ask(core, worker, **what) -> tuple[int, int]:
    """(value, status) of a CALL."""
    raw = core.workers[worker].raw
    raw.put(0, call(1, **what))
    while not raw.replies:
        raw.take(10)
    return raw.replies.pop()[2:]


TARGETS = ["/x", "/a/x", "/b/x"]


def fill_all(core):
    for target, worker in zip(TARGETS, (0, 0, 1), strict=True):
        fill(core, worker, target)


def test_a_route_that_changes_leaves_the_old_entries_behind(shop):
    fill_all(shop)
    assert all(is_stored(shop, target) for target in TARGETS)
    pool = shop.core.route(shop.listener, b"", b"h", b"/a/x")[1]
    shop.route(("h", b"/", 9, pool))
    assert not any(is_stored(shop, target) for target in TARGETS)


def test_a_worker_flushes_what_its_own_pool_has_stored(shop):
    fill_all(shop)
    assert ask(shop, 1, first=b"http://h/", flags=1) == (1, 0)
    assert [is_stored(shop, target) for target in TARGETS] == [True, True, False]
    assert ask(shop, 1, first=b"http://h/a/x") == (0, 0)
    assert ask(shop, 1, first=b"", flags=1) == (0, 0)
    assert [is_stored(shop, target) for target in TARGETS] == [True, True, False]
    assert ask(shop, 0, first=b"http://h/a/x") == (1, 0)
    assert [is_stored(shop, target) for target in TARGETS] == [True, False, False]
    assert ask(shop, 0, first=b"", flags=1) == (1, 0)
    assert not any(is_stored(shop, target) for target in TARGETS)


def test_the_managers_reach_whatever_answers(shop):
    fill_all(shop)
    assert [one["application"] for one in shop.core.cache_show("http://h/a/x")] == [2]
    assert len(shop.core.cache_list("http://h/", 100)) == 3
    assert shop.core.cache_flush("http://h/b/x", False) == 1
    assert [is_stored(shop, target) for target in TARGETS] == [True, True, False]
    assert shop.core.cache_flush("http://h/", True) == 2
    assert not any(is_stored(shop, target) for target in TARGETS)
    fill_all(shop)
    assert shop.core.cache_flush("", True) == 3


@pytest.mark.parametrize("origin", [b"http://h/", b""])
def test_a_group_is_flushed_where_the_pool_answers(shop, origin):
    fill(shop, 0, "/x", Cache_Groups='"g"')
    fill(shop, 1, "/y", "other", Cache_Groups='"g"')
    assert ask(shop, 0, operation=2, first=b"http://other/", second=b"g")[1] == 0
    assert is_stored(shop, "/y", "other")
    assert ask(shop, 0, operation=2, first=origin, second=b"g")[1] == 0
    assert not is_stored(shop, "/x")
    assert is_stored(shop, "/y", "other")
    shop.core.cache_flush_group("http://other/", "g")
    assert not is_stored(shop, "/y", "other")


def test_a_maker_goes_where_its_request_would(shop):
    clients = [shop.send("/b/x") for _ in range(5)]
    (request,) = shop.workers[1].take()
    assert request.application == 3
    shop.workers[1].answer(request, b"one", **FRESH)
    assert [client.read()[2] for client in clients] == [b"one"] * 5
    assert shop.core.stats()["dispatched"] == 1


def test_a_stale_answer_when_its_own_pool_does_not_serve(shop):
    pool = shop.core.route(shop.listener, b"", b"h", b"/b")[1]
    client = shop.send("/b/x")
    (request,) = shop.workers[1].take()
    stale = "public, max-age=0, stale-if-error=1000"
    shop.workers[1].answer(request, b"old", Cache_Control=stale)
    assert client.read()[2] == b"old"
    shop.core.set_pool_state(pool, "offline")
    assert shop.send("/b/x").read()[::2] == (200, b"old")
