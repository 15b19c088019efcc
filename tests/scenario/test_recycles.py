"""Recycling under load, by each of its triggers: the new worker serves before the old one stops,
and no request notices.
"""

import time

import pytest
from load import Request
from scene import one_pool


def eat(scene, mebibytes):
    assert scene.ask(Request(1, "POST", f"/eat-{mebibytes}", b"x")).status == 200


def check_unnoticed(scene, load):
    scene.judge(load)
    assert load.outcome.failed() == []
    assert scene.events(5009) == 0, str(scene.log)


@pytest.mark.parametrize("preload", ["false", "true"])
def test_requests(serve, preload):
    scene = serve(
        one_pool("recycling.requests = 100", "recycling.jitter = 0", f"preload = {preload}")
    )
    with scene.load() as load:
        scene.event(5075, 3)
        scene.event(6024, 3)
        load.go_on()
    check_unnoticed(scene, load)
    assert len(load.pids) >= 4
    assert scene.pool()["recycles"] >= 3


def test_time(serve):
    scene = serve(one_pool('recycling.time = "1s"', "max_processes = 2", "min_processes = 2",
                           'start_mode = "always_running"'))  # fmt: skip
    with scene.load() as load:
        scene.event(5074, 4)
        load.go_on()
    check_unnoticed(scene, load)
    assert len(load.pids) >= 5


def test_schedule(serve):
    # The clock is set by its zone: its next full minute is five or six seconds away.
    now = time.time()
    due = int(now) + 6
    zone_seconds = -due % 60
    shown = time.gmtime(due + zone_seconds)
    scene = serve(one_pool(f'recycling.schedule = ["{shown.tm_hour:02}:{shown.tm_min:02}"]'),
                  environment={"TZ": f"TEST-00:00:{zone_seconds:02}"})  # fmt: skip
    with scene.load() as load:
        scene.event(5076)
        load.go_on()
        scene.wait_until(lambda: len(scene.workers()) == 1)
        load.go_on()
    check_unnoticed(scene, load)
    assert len(load.pids) == 2
    assert scene.events(5076) == 1


@pytest.mark.parametrize(("key", "event"), [("memory", 5077), ("private_memory", 5117)])
def test_memory(serve, key, event):
    scene = serve(one_pool(f'recycling.{key} = "150M"'))
    with scene.load() as load:
        eat(scene, 160)
        scene.event(event)
        scene.event(6024)
        load.go_on()
    check_unnoticed(scene, load)
    assert len(load.pids) == 2
    assert scene.events(event) == 1


def test_order(serve):
    scene = serve(one_pool("max_processes = 2", "min_processes = 2",
                           'start_mode = "always_running"'))  # fmt: skip
    scene.wait_until(lambda: len(scene.workers()) == 2)
    before = scene.workers()
    with scene.load() as load:
        for times in range(1, 4):
            assert scene.control.recycle("one")["state"] == "RUNNING"
            scene.event(6024, 2 * times)
            load.go_on()
    check_unnoticed(scene, load)
    assert not set(before) & set(scene.workers())
    assert scene.pool()["recycles"] == 6


def test_without_overlap(serve):
    # The old one ends first: requests wait, and nobody is refused.
    scene = serve(one_pool("recycling.disallow_overlapping_rotation = true"))
    with scene.load() as load:
        for times in range(1, 4):
            scene.control.recycle("one")
            scene.event(6024, times)
            load.go_on()
            assert len(scene.pool()["workers"]) == 1
    check_unnoticed(scene, load)


def test_replacement_fails(serve):
    # Whoever should be replaced goes on, until a replacement is ready.
    scene = serve(one_pool())
    with scene.load() as load:
        old = scene.workers()
        (scene.directory / "broken").touch()
        scene.control.recycle("one")
        scene.event(5093, 2)
        load.go_on()
        assert scene.workers() == old
        (scene.directory / "broken").unlink()
        scene.event(6024)
        load.go_on()
    scene.judge(load)
    assert load.outcome.failed() == []
    assert scene.workers() != old


def test_nothing_is_kept(serve):
    # As many descriptors as before, after many recycles.
    scene = serve(one_pool("recycling.requests = 20", "recycling.jitter = 0"))
    with scene.load() as load:
        scene.event(5075, 2)
        load.go_on()
    scene.wait_until(lambda: len(scene.pool()["workers"]) == 1)
    before = scene.held()
    with scene.load(clients=4) as load:
        scene.event(5075, 20)
    scene.judge(load)
    scene.wait_until(lambda: scene.held() == before)
