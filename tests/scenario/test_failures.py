"""Workers that die, hang, leave requests unstarted or do not start, under load."""

import os
import signal

import psutil
import pytest
from load import Request, read_executions
from scene import one_pool

# A stopped worker is seen by what it is handed and does not start: it must have room for that.
ROOMY = "threads = 16"
TWO = ("max_processes = 2", "min_processes = 2", 'start_mode = "always_running"')


def two_workers(serve, *lines):
    scene = serve(one_pool(*TWO, *lines))
    scene.wait_until(lambda: len(scene.workers()) == 2)
    return scene


def check(scene, load, dead=()):
    scene.judge(load, dead)
    assert {method for _, method, _ in load.outcome.failed()} <= {"POST"}


@pytest.mark.parametrize("options", [TWO, ("max_processes = 1",), (*TWO, "preload = true")])
def test_crash(serve, options):
    # GETs never fail; a POST does only when it was executed by who died.
    scene = serve(one_pool(*options, "rapid_fail.max_crashes = 2"))
    dead = set()
    with scene.load() as load:
        for times in range(1, 6):
            scene.wait_until(lambda: scene.workers())
            dead.add(victim := scene.workers()[0])
            os.kill(victim, signal.SIGKILL)
            scene.event(5009, times)
            load.go_on()
    check(scene, load, dead)
    assert scene.events(5002) == 0  # useful workers are no failed starts
    assert scene.pool()["failures"] == 5


def test_unresponsive(serve):
    # What a stopped worker has not started goes to the other, and it is replaced. What it was
    # executing it may finish if it runs again in time.
    scene = two_workers(serve, 'ping_response_time = "1s"', ROOMY)
    with scene.load(clients=8) as load:
        victim = scene.workers()[0]
        scene.suspend(victim)
        scene.event(6026)
        load.go_on()
        scene.event(5010)
        scene.wait_until(lambda: len(set(scene.workers()) - {victim}) == 2)
        load.go_on()
        os.kill(victim, signal.SIGCONT)
        scene.event(6024)
        load.go_on()
    check(scene, load)
    assert load.outcome.failed() == []


def test_unresponsive_for_ever(serve):
    limit = 'shutdown_time_limit = "1s"'
    scene = two_workers(serve, 'ping_response_time = "1s"', limit, ROOMY)
    with scene.load(clients=12) as load:
        victim = scene.workers()[0]
        scene.suspend(victim)
        scene.event(5013)
        scene.event(6024)
        load.go_on()
    check(scene, load, {victim})


def test_orphan(serve, tmp_path):
    # It is left stopped, out of service; what it had in hand is treated as after a death.
    scene = two_workers(
        serve,
        'ping_response_time = "1s"',
        "orphan_worker_process = true",
        ROOMY,
        f'orphan_action = ["/bin/sh", "-c", "echo %1% $KERNELQ_POOL > {tmp_path}/orphan"]',
    )
    with scene.load(clients=12) as load:
        victim = scene.workers()[0]
        scene.suspend(victim)
        scene.event(6032)
        scene.log.wait_for(r"orphan action .* has ended .*: exit status 0")
        load.go_on()
        scene.wait_until(lambda: len(scene.workers()) == 2)
    check(scene, load, {victim})
    assert (scene.directory / "orphan").read_text().split() == [str(victim), "one"]
    states = {one["pid"]: one["state"] for one in scene.pool()["workers"]}
    assert states[victim] == "ORPHANED"
    assert scene.pool()["processes"]["now"] == 2
    assert psutil.Process(victim).status() == psutil.STATUS_STOPPED
    with scene.load() as load:
        os.kill(victim, signal.SIGKILL)
        scene.event(6033)
        load.go_on()
    check(scene, load)


def test_hang(serve):
    # A request beyond its limit: 504 for it alone, and another worker in place of its own.
    scene = serve(one_pool('request_timeout = "1s"', 'shutdown_time_limit = "1s"'))
    with scene.load() as load:
        old = scene.workers()
        assert scene.ask(Request(1, "POST", "/wait-never", b"x")).status == 504
        scene.event(6028)
        load.go_on()
        scene.event(5013)
        scene.log.wait_for("in wait_for")
        scene.event(6024)
        load.go_on()
    check(scene, load, old)
    assert load.outcome.failed() == []
    assert not set(old) & set(scene.workers())


def test_request_that_kills(serve):
    # A poisonous request harms itself: 502 after its last turn, and its neighbours run once more.
    scene = two_workers(serve)
    with scene.load() as load:
        assert scene.ask(Request(1, "GET", "/kill")).status == 502
        load.go_on()
    dead = read_executions(scene.executions)[1]
    assert len(dead) == 3
    check(scene, load, dead)


def kill_all(scene):
    for pid in scene.workers():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("mode", ["on_demand", "always_running"])
def test_rapid_fail(serve, tmp_path, mode):
    # Trips exactly at its number, runs its program, answers 503, and is started again by order.
    script = f"echo $KERNELQ_POOL > {tmp_path}/alarm"
    program = f'rapid_fail.action = ["/bin/sh", "-c", "{script}"]'
    scene = serve(one_pool("rapid_fail.max_crashes = 3", program, f'start_mode = "{mode}"'))
    assert scene.ask(Request(1)).status == 200
    (scene.directory / "bad").touch()
    kill_all(scene)
    scene.event(5009)
    if mode == "on_demand":
        assert scene.ask(Request(2)).status == 503  # it waited while there was hope
    scene.event(5002)
    scene.event(6011)
    scene.log.wait_for("rapid_fail action .* has ended .*: exit status 0")
    assert (scene.directory / "alarm").read_text() == "one\n"
    assert scene.ask(Request(3)).status == 503
    scene.log.wait_for(r"AppOffline.*n=3")
    scene.event(5009, 4)  # one that had served, three that did not start
    (scene.directory / "bad").unlink()
    done = scene.command("start", "pool:one")
    assert done.returncode == 0, done.stderr
    scene.event(6061)
    scene.event(6012)
    assert scene.ask(Request(4)).status == 200
    scene.log.wait_for("rapid-fail protection: 3 ")
    assert scene.events(5009) == 4, str(scene.log)


def test_rapid_fail_ends_by_itself(serve):
    scene = serve(one_pool("rapid_fail.max_crashes = 2", 'rapid_fail.interval = "1s"'))
    assert scene.ask(Request(1)).status == 200
    (scene.directory / "broken").touch()
    kill_all(scene)
    scene.event(5009)
    assert scene.ask(Request(2)).status == 503
    scene.log.wait_for("ZeroDivisionError")
    scene.event(6060)
    (scene.directory / "broken").unlink()
    scene.event(6012)
    with scene.load() as load:
        load.go_on()
    check(scene, load)


def test_rapid_fail_counts_all(serve):
    # As in IIS: every crash counts, also of workers that served.
    scene = two_workers(serve, "rapid_fail.max_crashes = 3", 'rapid_fail.counts = "all"')
    for number in range(1, 4):
        scene.wait_until(lambda: len(scene.workers()) == 2)
        assert scene.ask(Request(number)).status == 200
        os.kill(scene.workers()[0], signal.SIGKILL)
        scene.event(5009, number)
    scene.event(5002)
    assert scene.ask(Request(8)).status == 200  # there is one left
    kill_all(scene)
    scene.event(6011)
    assert scene.ask(Request(9)).status == 503
    assert scene.events(6020) == 4


def test_startup_time_limit(serve, connect):
    scene = serve(one_pool('startup_time_limit = "1s"'))
    (scene.directory / "slow").touch()
    client = connect(scene)
    client.send(Request(1))
    scene.event(5012)
    (scene.directory / "slow").unlink()
    assert client.read_answer().status == 200
    client.close()
    scene.event(6024)


def test_always_running_that_never_starts(serve, tmp_path):
    (tmp_path / "broken").touch()
    scene = serve(one_pool('start_mode = "always_running"'), ready=False)
    assert scene.wait() == 1
    scene.log.wait_for("ZeroDivisionError")
    scene.event(5059)


def test_spawner_dies(serve):
    # Its workers die with it, all that they had is executed again, and everything is started anew.
    scene = two_workers(serve)
    with scene.load() as load:
        dead = scene.workers()
        os.kill(scene.pids("spawner")[0], signal.SIGKILL)
        scene.event(6013)
        scene.wait_until(lambda: len(scene.workers()) == 2)
        load.go_on()
    check(scene, load, dead)


def test_nothing_is_kept(serve):
    scene = two_workers(serve)
    before = {}
    with scene.load() as load:
        dead = set()
        for times in range(1, 9):
            scene.wait_until(lambda: len(scene.workers()) == 2)
            before = before or scene.held()
            dead.add(victim := scene.workers()[0])
            os.kill(victim, signal.SIGKILL)
            scene.event(5009, times)
    check(scene, load, dead)
    scene.wait_until(lambda: len(scene.workers()) == 2)
    scene.wait_until(lambda: scene.held()["spawner"] == before["spawner"])
    scene.wait_until(lambda: scene.held()["service"] <= before["service"])
