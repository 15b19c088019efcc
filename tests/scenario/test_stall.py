"""The managers' thread stalls for seconds (a debug hook, by SIGUSR2): traffic goes on, and so does
what needs no new process; and nobody is judged for the managers' own pause.
"""

import os
import signal

import pytest
from scene import one_pool
from steady import Load

STALL = 5.0  # seconds


def stalled(serve, *lines):
    scene = serve(one_pool("max_processes = 3", "min_processes = 3",
                           'start_mode = "always_running"', 'ping_response_time = "2s"', *lines),
                  environment={"KERNELQ_STALL": str(STALL)})  # fmt: skip
    scene.wait_until(lambda: len(scene.workers()) == 3)
    return scene


def stall(scene):
    os.kill(scene.pid, signal.SIGUSR2)
    scene.log.wait_for("the managers stall")


def longest_wait(load: Load) -> float:
    return load.outcome.longest_wait


@pytest.mark.parametrize("preload", ["false", "true"])
def test_deaths_meanwhile(serve, preload):
    scene = stalled(serve, f"preload = {preload}")
    with scene.load() as load:
        workers = scene.workers()
        stall(scene)
        for victim in workers[:2]:
            load.go_on()
            os.kill(victim, signal.SIGKILL)
            load.go_on()
        assert scene.events(5009) == 0  # they do not know it yet
        scene.event(5009, 2)
        scene.wait_until(lambda: len(scene.workers()) == 3)
        load.go_on()
    scene.judge(load, workers[:2])
    assert longest_wait(load) < STALL
    assert scene.events(6026) + scene.events(5010) == 0, str(scene.log)


def test_nobody_is_blamed(serve):
    # All of them are well, and stay; what comes due meanwhile is done afterwards.
    scene = stalled(serve, 'idle_timeout = "off"', 'recycling.time = "off"')
    with scene.load() as load:
        before = scene.workers()
        stall(scene)
        load.go_on(300)
        assert scene.control.status()["state"] == "serving"  # answered when they are back
        assert scene.workers() == before
        scene.control.recycle("one")
        scene.event(6024, 3)
        load.go_on()
    scene.judge(load)
    assert load.outcome.failed() == []
    assert longest_wait(load) < STALL
    assert scene.events(6026) + scene.events(5010) + scene.events(5009) == 0, str(scene.log)
