"""Application pools at their doors: a real core, workers played by hand."""

import socket

import pytest
from hostile_channel import SKIPPED, record
from one_core import DEMAND, GONE, PATIENCE, QUIET, QUOTA, House, Worker, pool_settings

EVENTS = 40_000  # more than the core ever had room for
MANY = 2400


def route(listener, prefix, pool, *, host="", application=0, generation=0, is_enabled=True):
    return (listener, b"", host, prefix, application, pool, 1, generation, is_enabled)


@pytest.fixture(params=[1, 3])
def loops(request):
    return request.param


@pytest.fixture
def house(loops):
    with House(loops) as made:
        made.core.start()
        yield made


# --- opening, changing, closing -------------------------------------------------------------------


def test_numbers_are_never_used_again(house):
    first = house.core.pool_open(pool_settings())
    house.core.pool_close(first)
    assert house.core.pool_open(pool_settings()) == first + 1
    with pytest.raises(KeyError):
        house.core.pool_info(first)


def test_a_pool_in_use_is_not_closed(house):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings())
    other = house.core.pool_open(pool_settings(name="other"))
    house.core.set_routes([route(listener, b"/", pool)])
    with pytest.raises(ValueError, match="routes"):
        house.core.pool_close(pool)
    client = house.client(port)
    client.send("/a")
    house.until(pool, queued=1)
    house.core.set_routes([route(listener, b"/", other)])
    with pytest.raises(ValueError, match="queued requests"):
        house.core.pool_close(pool)
    worker = house.worker(pool)
    assert worker.serve() == ["/a"]
    assert client.read() == (200, b"/a")
    with pytest.raises(ValueError, match="has workers"):
        house.core.pool_close(pool)
    house.bury(worker)
    house.core.pool_close(pool)


def test_a_request_whose_pool_closes_while_its_content_comes_is_refused(house):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings())
    house.core.set_routes([route(listener, b"/", pool)])
    client = house.client(port)
    client.send("/a", "Content-Length: 4", "Expect: 100-continue")
    assert client.socket.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
    house.core.set_routes([])
    house.core.pool_close(pool)
    client.socket.sendall(b"four")
    assert client.read()[0] == 503


def test_a_pool_that_closes_takes_no_request_more(house):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings())
    house.core.set_routes([route(listener, b"/", pool)])
    assert house.core.pool_info(pool)["state"] == "online"
    house.core.set_routes([])
    house.core.pool_close(pool)
    assert house.client(port).ask("/a")[0] == 400


# --- routing --------------------------------------------------------------------------------------


def test_what_nobody_routes_is_counted_once(house):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings())
    house.core.set_routes([route(listener, b"/shop", pool)])
    for target in ("/other", "/%zz", "/shopping"):
        assert house.client(port).ask(target)[0] == 400
    stats = house.core.stats()
    assert stats["requests"] == stats["refused"] == 3


def test_a_probe_after_a_long_path(loops):
    with House(loops, health_path="/health") as house:
        listener, port = house.listen()
        house.core.start()
        pool = house.core.pool_open(pool_settings())
        house.core.set_routes([route(listener, b"/shop", pool)])
        house.core.set_pool_state(pool, "offline")
        client = house.client(port)
        for _ in range(5):
            assert client.ask("/shop/" + "x" * 20_000, host="b.test")[0] == 503
            assert client.ask("/health/live", method="GET")[0] == 200


# --- generations ----------------------------------------------------------------------------------


def test_a_request_for_workers_to_come_does_not_hold_up_the_others(house):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings())
    house.core.set_routes(
        [
            route(listener, b"/", pool, application=1),
            route(listener, b"/new", pool, application=2, generation=5),
        ]
    )
    old = house.worker(pool, generation=4)
    clients = [house.client(port) for _ in range(4)]
    for number, client in enumerate(clients[:2]):
        client.send(f"/new/{number}")
        house.until(pool, queued=number + 1)
    for client in clients[2:]:
        client.send("/old")
        assert old.serve() == ["/old"]
        assert client.read() == (200, b"/old")
    assert house.core.pool_info(pool)["queued"] == 2
    young = house.worker(pool, generation=5)
    assert sorted(young.serve(2)) == ["/new/0", "/new/1"]
    assert [client.read()[1] for client in clients[:2]] == [b"/new/0", b"/new/1"]


def test_many_requests_for_workers_to_come_do_not_hold_up_the_others(house):
    # More than are looked at in one turn; then some of them leave, and one worker comes.
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings(queue_length=5000))
    house.core.set_routes(
        [
            route(listener, b"/", pool, application=1),
            route(listener, b"/new", pool, application=2, generation=5),
        ]
    )
    old = house.worker(pool, generation=4)
    clients = [house.client(port) for _ in range(MANY)]
    for number, client in enumerate(clients):
        client.send(f"/new/{number}")
    house.until(pool, queued=MANY)
    last = house.client(port)
    for _ in range(3):
        last.send("/old")
        assert old.serve() == ["/old"]
        assert last.read() == (200, b"/old")
        for client in clients[: MANY // 4]:
            client.close()
        del clients[: MANY // 4]
        house.until(pool, queued=len(clients))
    house.bury(old)
    last.send("/old")
    house.until(pool, queued=len(clients) + 1)
    young = house.worker(pool, generation=5)
    assert len({young.serve()[0] for _ in range(len(clients) + 1)}) == len(clients) + 1
    assert last.read() == (200, b"/old")
    assert {client.read()[0] for client in clients} == {200}


# --- quota, demand, events ------------------------------------------------------------------------


def test_a_quota_that_was_reached_before_it_was_set(house):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings())
    house.core.set_routes([route(listener, b"/", pool)])
    worker = house.worker(pool)
    client = house.client(port)
    for _ in range(3):
        client.send("/a")
        worker.serve()
        client.read()
    house.until(pool, answered=3)
    house.core.worker_quota(worker.number, 2)
    assert house.wait(QUOTA) == (QUOTA, worker.number, 3)
    client.send("/a")
    worker.serve()
    client.read()
    house.until(pool, answered=4)
    assert not house.has_seen(QUOTA)
    house.core.worker_quota(worker.number, 5)
    client.send("/a")
    worker.serve()
    client.read()
    assert house.wait(QUOTA) == (QUOTA, worker.number, 5)


def test_no_event_is_lost_while_the_managers_are_busy(house):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings())
    house.core.set_routes([route(listener, b"/", pool)])
    house.client(port).send("/a")
    house.until(pool, queued=1)
    for _ in range(EVENTS):
        house.core.pool_await_demand(pool, 0)
    assert house.core.take_events() == [(DEMAND, -1, pool)] * EVENTS


def test_demand_is_told_once_each_time_it_is_asked_for(house):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings())
    house.core.pool_await_demand(pool, 0)
    house.core.set_routes([route(listener, b"/", pool)])
    client = house.client(port)
    client.send("/a")
    assert house.wait(DEMAND) == (DEMAND, -1, pool)
    house.client(port).send("/b")
    house.until(pool, queued=2)
    assert not house.has_seen(DEMAND)
    house.core.pool_await_demand(pool, -1)
    assert not house.has_seen(DEMAND)
    house.core.pool_await_demand(pool, 0)
    assert house.wait(DEMAND) == (DEMAND, -1, pool)
    worker = house.worker(pool)
    worker.serve(2)
    house.until(pool, queued=0, executing=0)


@pytest.mark.parametrize("leaves", ["dies", "drains", "is abandoned"])
def test_demand_when_the_last_worker_leaves(house, leaves):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings(threads=1, redispatch="never"))
    house.core.set_routes([route(listener, b"/", pool)])
    worker = house.worker(pool)
    clients = [house.client(port) for _ in range(30)]
    for client in clients:
        client.send("/a")
    house.until(pool, arrived=30)
    house.core.pool_await_demand(pool, 0)
    assert not house.has_seen(DEMAND)
    if leaves == "dies":
        worker.kill()
    elif leaves == "drains":
        house.core.worker_drain(worker.number)
    else:
        house.core.worker_abandon(worker.number)
    assert house.wait(DEMAND) == (DEMAND, -1, pool)


def test_demand_when_one_waits_too_long(house):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings(threads=1))
    house.core.set_routes([route(listener, b"/", pool, generation=1)])
    house.worker(pool)
    house.core.pool_await_demand(pool, 1_000_000)
    house.client(port).send("/a")
    assert house.wait(DEMAND) == (DEMAND, -1, pool)


# --- refusals by reset ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("when", ["before", "while it waits"])
@pytest.mark.parametrize("state", ["offline", "disabled", "shutdown"])
def test_a_pool_that_refuses_by_reset(house, method, when, state):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings(refuses_by_reset=True))
    house.core.set_routes([route(listener, b"/", pool)])
    client = house.client(port)
    if when == "before":
        house.core.set_pool_state(pool, state)
        client.send("/a", method=method)
    else:
        client.send("/a", method=method)
        house.until(pool, queued=1)
        house.core.set_pool_state(pool, state)
    assert client.read()[0] == -1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_full_queue_that_refuses_by_reset(house, method):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings(refuses_by_reset=True, queue_length=1))
    house.core.set_routes([route(listener, b"/", pool)])
    first, second = house.client(port), house.client(port)
    first.send("/a", method=method)
    house.until(pool, queued=1)
    second.send("/b", method=method)
    assert second.read()[0] == -1
    worker = house.worker(pool)
    worker.serve()
    assert first.read() == (200, b"/a")


# --- workers that are left to a debugger ----------------------------------------------------------


def test_what_an_abandoned_worker_has_not_started_it_must_not_start(house):
    # It may not have been stopped yet, and a debugger lets it go on: it has to see that what was
    # given to others is not its own any more.
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings(redispatch="never"))
    house.core.set_routes([route(listener, b"/", pool)])
    worker = house.worker(pool)
    clients = [house.client(port) for _ in range(2)]
    for client in clients:
        client.send("/a")
    started, waiting = worker.take(2)
    worker.raw.start(started)
    house.core.worker_abandon(worker.number)
    house.wait(GONE, worker.number)
    assert worker.raw.is_revoked(waiting)
    other = house.worker(pool)
    assert other.serve() == ["/a"]
    assert sorted(client.read()[0] for client in clients) == [200, 502]
    house.forget(worker)


def test_a_worker_can_be_abandoned_more_than_once(house):
    pool = house.core.pool_open(pool_settings())
    worker = house.worker(pool)
    house.core.worker_abandon(worker.number)
    worker.kill()
    house.core.worker_abandon(worker.number)
    house.wait(GONE, worker.number)
    house.core.worker_abandon(worker.number)
    house.forget(worker)
    with pytest.raises(KeyError):
        house.core.worker_abandon(worker.number)
    assert not house.has_seen(GONE)
    house.core.pool_close(pool)


def test_a_worker_without_a_process_cannot_be_abandoned(house):
    pool = house.core.pool_open(pool_settings())
    worker = Worker(house.core, pool)
    with pytest.raises(ValueError, match="no process"):
        house.core.worker_abandon(worker.number)
    house.core.worker_abort(worker.number)
    worker.close()
    house.core.pool_close(pool)


# --- listeners ------------------------------------------------------------------------------------


def test_no_listener_comes_after_the_order_to_stop(house):
    house.listen()
    house.core.begin_shutdown()
    with pytest.raises(BrokenPipeError):
        house.listen()
    house.events.append(house.wait(QUIET))


def test_a_listener_that_is_removed_leaves_its_connections(house):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings())
    house.core.set_routes([route(listener, b"/", pool)])
    house.core.set_pool_state(pool, "offline")
    kept = house.client(port)
    assert kept.ask("/a")[0] == 503
    house.core.remove_listener(listener)
    with pytest.raises(KeyError, match="no listener"):
        house.core.remove_listener(listener)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        except ConnectionRefusedError:
            break
    assert kept.ask("/a")[0] == 503
    with pytest.raises(KeyError, match="no listener"):
        house.core.remove_listener(listener + 1)


def test_figures_balance_after_revocations(house):
    listener, port = house.listen()
    pool = house.core.pool_open(pool_settings(threads=1))
    house.core.set_routes([route(listener, b"/", pool)])
    worker = house.worker(pool)
    clients = [house.client(port) for _ in range(8)]
    for client in clients:
        client.send("/a")
    first, *others = worker.take(house.until(pool, arrived=8)["executing"])
    worker.raw.start(first)
    house.core.worker_drain(worker.number)
    house.until(pool, executing=1, queued=7)
    for request in others:
        worker.raw.answer(request, record(SKIPPED, request.place, request.dispatch))
    worker.answer(first, b"first")
    house.until(pool, executing=0, queued=7, answered=1, ready=0)
    assert house.core.pool_take_peak(pool) == 8
    other = house.worker(pool)
    other.serve(7)
    info = house.until(pool, executing=0, queued=0)
    assert (info["arrived"], info["answered"], info["rejected"]) == (8, 8, 0)
    assert house.core.pool_take_peak(pool) == 7
    assert house.core.pool_take_peak(pool) == 0
