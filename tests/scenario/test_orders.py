"""What an administrator orders while requests come: start and stop of pools and sites, stacks,
events; and what is refused.
"""

import threading
from contextlib import closing, suppress

import pytest
from load import Broken, Client, Request
from scene import ONE_SITE, SERVER, one_pool, pool
from steady import only
from test_reloads import TWO_POOLS, TWO_SITES

from kernelq.control import Client as Control
from kernelq.control import ControlError


def test_stop_and_start_pool(serve):
    # What was there is answered, what comes is refused as Disabled; the other pool does not notice.
    scene = serve(SERVER + TWO_POOLS + TWO_SITES)
    b = only(host="b.example")
    with scene.load(b, only("POST", host="b.example")) as load_b:
        for turn in range(1, 4):
            client = Client(scene.address)
            client.send(Request(turn, "POST", f"/wait-go{turn}", b"x"))
            scene.wait_for_execution(turn)
            done = scene.command("stop", "one")
            assert done.returncode == 0, done.stderr
            assert scene.pool("one")["state"] == "DISABLING"
            refused = scene.ask(Request(10 + turn))
            assert refused.status == 503
            scene.log.wait_for(rf"Disabled 503.*n={10 + turn}")
            (scene.directory / f"go{turn}").touch()
            assert client.read_answer().status == 200
            client.close()
            scene.event(6003, turn)
            assert scene.pool("one")["state"] == "DISABLED"
            assert scene.pool("one")["workers"] == []
            load_b.go_on()
            done = scene.command("start", "one")
            assert done.returncode == 0, done.stderr
            assert scene.ask(Request(20 + turn)).status == 200
            load_b.go_on()
    scene.judge(load_b)
    assert load_b.outcome.failed() == []
    assert len(load_b.pids) == 1


def test_stop_pool_under_load(serve):
    # Each request is answered by the application or refused: nothing between.
    scene = serve(one_pool())
    with scene.load() as load:
        for turn in range(1, 4):
            scene.control.pool_stop("one")
            scene.event(6003, turn)
            load.go_on()
            scene.control.pool_start("one")
            scene.wait_until(lambda: scene.workers())
            load.go_on()
    executions = scene.executions.read_text().split("\n")
    assert load.outcome.broken == []
    assert set(load.outcome.statuses()) == {200, 503}
    ran = [int(line.split()[1]) for line in executions if line]
    answered = {number for number, one in load.outcome.answers.items() if one.status == 200}
    assert len(ran) == len(set(ran))
    assert set(ran) == answered


def test_pool_that_is_not_started(serve):
    scene = serve(one_pool("auto_start = false", 'start_mode = "always_running"'))
    assert scene.ask(Request(1)).status == 503
    assert scene.pids("worker") == []
    scene.control.pool_start("one")
    scene.event(6021)
    assert scene.ask(Request(2)).status == 200


def test_stop_and_start_site(serve):
    scene = serve(SERVER + TWO_POOLS + TWO_SITES)
    b = only(host="b.example")
    with scene.load() as load_a:
        for turn in range(1, 4):
            assert scene.ask(Request(turn, host="b.example")).status == 200
            done = scene.command("stop", "b")
            assert done.returncode == 0, done.stderr
            assert scene.ask(Request(10 + turn, host="b.example")).status == 503
            scene.log.wait_for(rf"Disabled 503.*n={10 + turn}")
            states = {site["name"]: site["state"] for site in scene.control.sites()}
            assert states == {"a": "started", "b": "stopped"}
            assert scene.pool("two")["state"] == "RUNNING"
            load_a.go_on()
            done = scene.command("start", "b")
            assert done.returncode == 0, done.stderr
            with scene.load(b) as load_b:
                load_b.go_on(20)
            scene.judge(load_b)
            assert load_b.outcome.failed() == []
    scene.judge(load_a)
    assert load_a.outcome.failed() == []


def test_site_that_is_not_started(serve):
    scene = serve(SERVER + pool() + ONE_SITE.replace("bindings", "auto_start = false\nbindings"))
    assert scene.ask(Request(1)).status == 503
    scene.control.site_start("one")
    assert scene.ask(Request(2)).status == 200


def wait_for_arrival(scene, count):
    scene.wait_until(lambda: scene.pool()["queue"]["arrived"] >= count)


@pytest.mark.parametrize("capabilities", ["http", "tcp"])
def test_full_queue(serve, connect, capabilities):
    # More requests than may wait: 503 QueueFull; with tcp a reset, which balancers understand.
    more = f'load_balancer_capabilities = "{capabilities}"'
    scene = serve(one_pool("queue_length = 2", "threads = 1", more))
    clients = [connect(scene) for _ in range(3)]
    clients[0].send(Request(0, path="/wait-go"))
    scene.wait_for_execution(0)
    refused = 0
    for number in range(1, 20):  # some are handed over already, two wait, and then no more
        client = connect(scene)
        client.send(Request(number, "POST", "/", b"x"))
        wait_for_arrival(scene, number + 1)
        clients.append(client)
        if scene.pool()["queue"]["rejected"]:
            refused = number
            break
    last = clients.pop()
    assert refused
    if capabilities == "http":
        assert last.read_answer().status == 503
        scene.log.wait_for("QueueFull 503")
    else:
        with pytest.raises(Broken, match="ConnectionResetError"):
            last.read_answer()
    (scene.directory / "go").touch()
    for client in clients[3:]:
        assert client.read_answer().status == 200
    assert clients[0].read_answer().status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_stopped_pool_resets(serve, method):
    scene = serve(one_pool('load_balancer_capabilities = "tcp"'))
    assert scene.ask(Request(1)).status == 200
    scene.control.pool_stop("one")
    scene.event(6003)
    with pytest.raises(Broken, match="ConnectionResetError"):
        scene.ask(Request(2, method, "/", b"" if method == "GET" else b"x"))
    scene.control.pool_start("one")
    assert scene.ask(Request(3)).status == 200


def test_stacks(serve, connect):
    # Of a living worker, while it goes on.
    scene = serve(one_pool())
    client = connect(scene)
    client.send(Request(0, path="/wait-go"))
    scene.wait_for_execution(0)
    with scene.load() as load:
        for _ in range(3):
            worker = scene.workers()[0]
            done = scene.command("stacks", str(worker))
            assert done.returncode == 0, done.stderr
            assert "in wait_for" in done.stdout
            assert "fault_app.py" in done.stdout
            load.go_on(20)
        with pytest.raises(ControlError, match="there is no worker"):
            scene.control.stacks(99_999_999)
    scene.judge(load)
    (scene.directory / "go").touch()
    assert client.read_answer().status == 200


def test_requests_are_shown(serve, connect):
    scene = serve(one_pool("threads = 1"))
    clients = [connect(scene) for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(Request(number, path="/wait-go"))
    scene.wait_for_execution(0)
    scene.wait_until(lambda: scene.pool()["queue"]["arrived"] == 3)
    shown = scene.control.requests(pool="one")
    assert {one["target"] for one in shown} == {f"/wait-go?n={number}" for number in range(3)}
    executing = [one for one in shown if one["pid"]]
    assert {one["pid"] for one in executing} == set(scene.workers())
    assert all(one["site"] == "one" and one["method"] == "GET" for one in shown)
    done = scene.command("requests")
    assert "/wait-go?n=0" in done.stdout
    (scene.directory / "go").touch()
    assert {client.read_answer().status for client in clients} == {200}
    scene.wait_until(lambda: scene.control.requests() == [])


def test_events_follow(serve):
    # In order, without a gap, until the server ends.
    scene = serve(one_pool())
    events = []
    ready = threading.Event()

    def follow():
        with Control(scene.control.path) as control:
            past, coming = control.follow()
            events.extend(past["events"])
            ready.set()
            with closing(coming), suppress(ControlError):
                events.extend(coming)

    follower = threading.Thread(target=follow)
    follower.start()
    ready.wait()
    with scene.load() as load:
        for times in range(1, 4):
            scene.control.recycle("one")
            scene.event(6024, times)
            load.go_on(20)
    scene.judge(load)
    assert scene.stop() == 0
    follower.join()
    serials = [event["serial"] for event in events]
    assert serials == list(range(1, len(serials) + 1))
    assert sum(event["event"] == 5079 for event in events) == 3
    # What the log says has been said here, too.
    assert {6001, 6040, 6021, 6023, 6024} <= {event["event"] for event in events}


def test_unknown_names(serve):
    scene = serve(one_pool())
    for words in (("recycle", "oen"), ("stop", "pool:two"), ("start", "site:two")):
        done = scene.command(*words)
        assert done.returncode == 1
        assert "there is no" in done.stderr
