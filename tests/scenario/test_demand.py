"""How many workers there are: none until a request waits, more while requests wait, fewer when they
do not, none again after a while.
"""

import os
import signal

import pytest
from load import Request
from scene import one_pool


def test_demand_start_and_idle_stop(serve, connect):
    scene = serve(one_pool('idle_timeout = "1s"'))
    assert scene.pids("worker") == []
    for times in range(1, 4):
        clients = [connect(scene) for _ in range(5)]
        for number, client in enumerate(clients, 10 * times):
            client.send(Request(number, "POST", "/", b"x"))
        assert [client.read_answer().status for client in clients] == [200] * 5
        assert scene.events(6040) == times
        scene.event(5186, times)
        scene.event(6024, times)
        assert scene.pids("worker") == []
        assert scene.pool()["state"] == "INITIALIZED"
    executions = scene.executions.read_text().splitlines()
    assert len(executions) == 15
    assert len({line.split()[0] for line in executions}) == 3


def test_load_around_an_idle_stop(serve):
    # Requests come while the idle worker ends: nobody is lost between the two.
    scene = serve(one_pool('idle_timeout = "1s"'))
    answered = 0
    for turn in range(1, 4):
        with scene.load(clients=3) as load:
            load.go_on(20)
        scene.judge(load)
        assert load.outcome.failed() == []
        answered += load.answered
        scene.event(5186, turn)
    assert scene.control.status()["counters"]["answered"] >= answered


def test_idle_worker_is_suspended(serve):
    scene = serve(one_pool('idle_timeout = "1s"', 'idle_timeout_action = "suspend"'))
    assert scene.ask(Request(1)).status == 200
    worker = scene.workers()
    scene.event(6030)
    scene.wait_until(lambda: scene.pool()["workers"][0]["suspended"])
    with scene.load() as load:
        scene.event(6031)
        load.go_on()
    scene.judge(load)
    assert load.outcome.failed() == []
    assert scene.workers() == worker


@pytest.mark.parametrize("mode", ["on_demand", "always_running"])
def test_death_of_an_idle_worker(serve, mode):
    # On demand it is replaced when a request waits; always running, at once.
    scene = serve(one_pool(f'start_mode = "{mode}"'))
    old = scene.ask(Request(1)).pid
    scene.suspend(old)  # so that the request below cannot be faster than its death
    os.kill(old, signal.SIGKILL)
    scene.event(5009)
    if mode == "always_running":
        scene.wait_until(lambda: scene.workers())
    else:
        assert scene.pool()["workers"] == []
    assert scene.ask(Request(2)).pid != old
    assert scene.events(6040) == (2 if mode == "on_demand" else 0)


def test_garden_grows_and_shrinks(serve):
    scene = serve(
        one_pool("max_processes = 3", "threads = 2", 'grow_after = "50ms"', 'shrink_after = "1s"')
    )

    def slow(number):
        return Request(number, "GET", "/sleep-40")

    with scene.load(slow, clients=16) as load:
        scene.event(6041, 2)
        scene.wait_until(lambda: len(scene.workers()) == 3)
        load.go_on()
        assert len(scene.pool()["workers"]) == 3
    scene.judge(load)
    assert load.outcome.failed() == []
    with scene.load(clients=1) as load:
        scene.event(6042, 2)
        scene.wait_until(lambda: len(scene.pool()["workers"]) == 1)
        load.go_on()
    scene.judge(load)
    assert load.outcome.failed() == []
    assert scene.events(5009) == 0


def test_start_that_takes_long(serve, connect):
    # All wait in the queue for the one worker; nobody starts a second one.
    scene = serve(one_pool("max_processes = 4", 'grow_after = "10ms"'))
    (scene.directory / "slow").touch()
    clients = [connect(scene) for _ in range(8)]
    for number, client in enumerate(clients):
        client.send(Request(number))
    scene.wait_until(lambda: scene.pool()["queue"]["length"] == 8)
    assert len(scene.pool()["workers"]) == 1
    queued = scene.control.requests()
    assert [one["state"] for one in queued] == ["queued"] * 8
    assert all(one["worker"] == -1 and one["pool"] == "one" for one in queued)
    (scene.directory / "slow").unlink()
    assert {client.read_answer().status for client in clients} == {200}
