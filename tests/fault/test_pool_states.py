"""What becomes of requests while a pool or a site does not serve."""

import socket

import pytest

STATES = {
    "offline": (b"offline after repeated failures", "reason_app_offline"),
    "disabled": (b"is stopped", "reason_disabled"),
    "shutdown": (b"shutting down", "reason_app_shutdown"),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("loops", [1, 2])
def test_a_pool_that_does_not_serve_refuses(bench, state, loops):
    core = bench(loops=loops)
    pool, other = core.pool(), core.pool("other")
    core.route(("", b"/", 1, pool), ("other", b"/", 2, other))
    text, reason = STATES[state]
    queued = core.send()
    kept = core.send("/", "other")
    core.wait_until(pool, queued=1)
    core.core.set_pool_state(pool, state)
    assert core.core.pool_info(pool)["state"] == state
    for client in (queued, core.send()):
        status, fields, content = client.read()
        assert status == 503
        assert "connection" not in fields  # which is kept
        assert text in content
    assert core.core.stats()[reason] == 2
    assert core.core.pool_info(pool)["rejected"] == 2
    core.core.set_pool_state(pool, "online")
    worker = core.worker(pool)
    client = core.send()
    worker.serve()
    assert client.read()[0] == 200
    core.worker(other).serve()
    assert kept.read()[0] == 200
    with pytest.raises(ValueError, match="online"):
        core.core.set_pool_state(pool, "closed")


@pytest.mark.parametrize("state", STATES)
def test_a_reset_in_place_of_a_503(bench, state):
    core = bench(loops=2)
    pool = core.one_pool(refuses_by_reset=True, queue_length=1)
    queued = core.send()
    core.wait_until(pool, queued=1)
    with pytest.raises(ConnectionResetError):
        core.send().read()  # the queue is full
    core.core.set_pool_state(pool, state)
    for client in (queued, core.send()):
        with pytest.raises(ConnectionResetError):
            client.read()
    stats = core.core.stats()
    assert (stats[STATES[state][1]], stats["reason_queue_full"]) == (2, 1)
    assert stats["requests"] == stats["refused"] == 3


def test_a_disabled_site_is_answered_whatever_its_pool_prefers(bench):
    core = bench()
    pool = core.pool(refuses_by_reset=True)
    core.route(("off", b"/", 1, pool, 0, False), ("on", b"/", 2, pool))
    client = core.send("/", "off")
    status, _, content = client.read()
    assert (status, b"stopped" in content) == (503, True)
    worker = core.worker(pool)
    client.send("/", "on")  # the connection goes on
    worker.serve()
    assert client.read()[0] == 200
    assert core.core.pool_info(pool)["arrived"] == 1


def test_an_unknown_host_is_refused_and_closed(bench):
    core = bench(health_path="/_health")
    pool = core.pool()
    core.route(("known", b"/", 1, pool))
    client = core.send("/", "unknown")
    status, fields, content = client.read()
    assert (status, fields["connection"]) == (400, "close")
    assert b"no site" in content
    assert client.is_ended()
    assert core.core.stats()["reason_hostname"] == 1
    client = core.send("/_health/live", "unknown")
    assert client.read()[0] == 200


def test_a_server_without_routes_has_no_site(bench):
    core = bench()
    assert core.send().read()[0] == 400
    core.one_pool()
    core.core.set_routes([])
    assert core.send().read()[0] == 400


def ready(core) -> int:
    return core.send("/_health/ready", "any").read()[0]


def test_readiness_needs_the_pools_that_are_needed(bench):
    core = bench(health_path="/_health")
    assert ready(core) == 200
    lazy = core.pool("lazy", is_needed=False)
    assert ready(core) == 200
    pool = core.one_pool()
    assert ready(core) == 503
    worker = core.worker(pool)
    assert ready(core) == 200
    core.core.set_pool_state(lazy, "offline")
    assert ready(core) == 200
    core.core.set_pool_state(pool, "offline")
    assert ready(core) == 503
    core.core.set_pool_state(pool, "online")
    assert ready(core) == 200
    core.core.worker_drain(worker.number)
    assert ready(core) == 503
    worker.kill()
    core.core.set_routes([])
    core.core.pool_close(pool)
    assert ready(core) == 200
    core.core.begin_drain()
    assert ready(core) == 503


def test_where_a_connection_arrived_decides(bench):
    core = bench()
    pool = core.pool()
    address = socket.inet_aton("127.0.0.1")
    core.core.set_routes(
        [
            (core.listener, address, "", b"/", 1, pool, 7, 0, True),
            (core.listener, b"", "", b"/", 2, pool, 7, 0, True),
            (core.listener, b"", "h", b"/shop", 3, pool, 7, 0, True),
        ]
    )
    worker = core.worker(pool)
    for target, host, application in [
        ("/", "x", 1),
        ("/shop", "h:80", 3),
        ("/shop/../other", "h", 1),
        ("/a/../%73hop/a", "H.", 3),
    ]:
        client = core.send(target, host)
        assert worker.serve().application == application
        assert client.read()[0] == 200
    assert core.core.route(core.listener, b"", b"h", b"/shop/a") == (3, pool, 7, b"/shop")
    assert core.core.route(core.listener, address, b"z", b"/shop") == (1, pool, 7, b"/")
    assert core.core.route(core.listener + 1, b"", b"h", b"/") is None
    assert core.send("/shop/%00", "h").read()[0] == 400
