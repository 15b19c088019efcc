"""A mixed load over several pools, and something happens to them every second; at the end all
counters balance, and nothing is left.

KERNELQ_SOAK_SECONDS: how long (600). KERNELQ_SOAK_SEED: the order of what happens, as printed.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack

import psutil
import pytest
from load import Client, Request, read_executions
from scene import SERVER, pool
from steady import Load, mixed, only
from test_reloads import site

from kernelq.control import ControlError

SECONDS = float(os.environ.get("KERNELQ_SOAK_SECONDS", "600"))
SEED = int(os.environ.get("KERNELQ_SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
MIB = 1 << 20

POOLS = (
    pool("max_processes = 2", 'grow_after = "50ms"', 'shrink_after = "1s"', 'idle_timeout = "1s"',
         'ping_response_time = "1s"', 'shutdown_time_limit = "2s"',
         'request_timeout = "2s"', name="shop"),
    pool("max_processes = 2", "min_processes = 2", 'start_mode = "always_running"',
         "recycling.requests = 400", 'ping_response_time = "1s"', 'shutdown_time_limit = "2s"',
         'request_timeout = "2s"', name="wiki"),
    pool("preload = true", "threads = 2", "rapid_fail.max_crashes = 3",
         'rapid_fail.interval = "1s"', 'ping_response_time = "1s"',
         'shutdown_time_limit = "2s"', 'request_timeout = "2s"', name="blog"),
)  # fmt: skip
SITES = (
    site("a", ("/", "shop"), ("/wiki", "wiki"))
    + site("b", ("/", "blog"), ("/shop", "shop"), host="b.example")
)  # fmt: skip
NEW = pool(name="new") + site("c", ("/", "new"), host="c.example")


class Chaos:
    """What may happen. Each method is one thing; `dead` are workers whose requests may fail."""

    def __init__(self, scene, chance: random.Random) -> None:
        self.scene = scene
        self.chance = chance
        self.dead: set[int] = set()
        self.done: dict[str, int] = {}
        self.threads = 4
        self.text = scene.text
        self.stopped = 0  # times that a pool or site was not there for its requests
        self._acts = [getattr(self, name) for name in dir(self) if name.startswith("do_")]

    def act(self) -> None:
        one = self.chance.choice(self._acts)
        name = one.__name__.removeprefix("do_")
        self.done[name] = self.done.get(name, 0) + 1
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        refusal = _refusal_of(one)
        assert not refusal or "the server is" in refusal, refusal  # reloading

    def _worker(self) -> int:
        pids = [pid for name in ("shop", "wiki", "blog") for pid in self.scene.workers(name)]
        return self.chance.choice(pids) if pids else 0

    def _pool(self) -> str:
        return self.chance.choice(("shop", "wiki", "blog"))

    def _signal(self, number: int) -> None:
        pid = self._worker()
        if not pid:
            return
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        self.dead.add(pid)

    def do_kill(self) -> None:
        self._signal(signal.SIGKILL)

    def do_terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def do_stop_process(self) -> None:
        self._signal(signal.SIGSTOP)

    def do_crash_in_request(self) -> None:
        answer = self.scene.ask(Request(1, "POST", "/kill", b"x"))
        assert answer.status in (502, 503)

    def do_hang(self) -> None:
        answer = self.scene.ask(Request(2, "POST", "/wiki/sleep-2500", b"x"))
        assert answer.status in (200, 502, 503, 504)

    def do_recycle(self) -> None:
        self.scene.control.recycle(self._pool())

    def do_spawner(self) -> None:
        for pid in self.scene.pids("worker"):
            self.dead.add(pid)
        for pid in self.scene.pids("spawner"):
            os.kill(pid, signal.SIGKILL)

    def do_zygote(self) -> None:
        for pid in self.scene.pids("zygote"):
            os.kill(pid, signal.SIGKILL)

    def do_reload(self) -> None:
        self.threads = 9 - self.threads
        self.scene.write(self.text.replace("threads = 2", f"threads = {self.threads}"))
        self.scene.control.reload()

    def do_add(self) -> None:
        self.scene.write(self.text + NEW)
        self.scene.control.reload()

    def do_wrong_settings(self) -> None:
        good = self.scene.text
        self.scene.write(good + "\nnonsense = 1\n")
        os.kill(self.scene.pid, signal.SIGHUP)
        self.scene.write(good)

    def do_failing_reload(self) -> None:
        (self.scene.directory / "bad").touch()
        try:
            self.do_reload()
        except ControlError:
            pass
        finally:
            (self.scene.directory / "bad").unlink()

    def do_stop_pool(self) -> None:
        name = self._pool()
        self.scene.control.pool_stop(name)
        self.stopped += 1
        self.scene.control.pool_start(name)

    def do_stop_site(self) -> None:
        name = self.chance.choice("ab")
        self.scene.control.site_stop(name)
        self.stopped += 1
        self.scene.control.site_start(name)

    def do_clients_leave(self) -> None:
        for number in range(5):
            client = Client(self.scene.address)
            client.send(Request(10 + number, path="/sleep-20"))
            client.reset()

    def do_stacks(self) -> None:
        pid = self._worker()
        if not pid:
            return
        refusal = _refusal_of(lambda: self.scene.control.stacks(pid))
        assert not refusal or "worker" in refusal, refusal  # it has just ended

    def do_look(self) -> None:
        self.scene.control.requests()
        self.scene.control.sites()
        list(self.scene.control.events())

    def do_nothing(self) -> None:
        pass


def _refusal_of(order: Callable[[], object]) -> str:
    """What the server says against it; "": nothing."""
    try:
        order()
    except ControlError as found:
        if not found.is_refusal:
            raise
        return str(found)
    return ""


def judge(scene, chaos: Chaos, load: Load, executions: dict[int, list[int]]) -> None:
    """Whatever happened: each request was answered once, in one of the ways that there was a reason
    for, and what must not run twice did not.
    """
    outcome = load.outcome
    assert outcome.broken == []
    assert outcome.answers.keys() | outcome.cut == outcome.requests.keys()
    may_be_refused = chaos.stopped or scene.events(6011)
    for number, answer in outcome.answers.items():
        request, pids = outcome.requests[number], executions.get(number, [])
        is_safe = request.method != "POST"
        assert len(pids) <= (3 if is_safe else 1), (request, pids)
        if answer.fields.get("connection") == "close":  # its content was not wanted any more
            assert answer.status == 503, (request, answer.status)
        match answer.status:
            case 200:
                assert pids[-1] == answer.pid
            case 502:  # its worker died, for a PUT or a GET three times
                assert not is_safe or len(pids) == 3, (request, pids)
            case 503:
                assert may_be_refused, request
                assert is_safe or not pids, (request, pids)
            case 504:  # its worker was stopped in the middle of it, or it hung
                assert len(pids) >= 1, request
            case _:
                raise AssertionError((request, answer.status))


def balance(scene) -> None:
    """Every request has gone one way."""
    status = scene.control.status()
    counters = status["counters"]
    print(counters)
    assert counters["requests"] == (
        counters["answered"] + counters["refused"] + counters["client_gone"]
    ), counters
    assert counters["exchanges_now"] == 0
    for one in scene.control.pools():
        assert (one["queue"]["length"], one["executing"]) == (0, 0), one


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 2 + 300)
def test_soak(serve):
    print(f"KERNELQ_SOAK_SEED={SEED} for {SECONDS:g} s")
    scene = serve(SERVER.replace("debug", "info") + "".join(POOLS) + SITES)
    chaos = Chaos(scene, random.Random(SEED))
    b = "b.example"
    loads = [
        scene.load(mixed, only("POST"), clients=4, may_close=True),
        scene.load(only(prefix="/wiki"), only("POST", "/wiki"), clients=4, may_close=True),
        scene.load(only(host=b), only("POST", host=b), clients=3, may_close=True),
        scene.load(only("PUT", "/shop", b), clients=1, may_close=True, is_connecting=True),
    ]
    with ExitStack() as stack:
        for load in loads:
            stack.enter_context(load)
        service = psutil.Process(scene.pids("service")[0])
        end = time.monotonic() + SECONDS
        warm = 0
        turn = 0
        try:
            while time.monotonic() < end:
                turn += 1
                chaos.act()
                if turn == 40:
                    warm = service.memory_full_info().uss
                until = time.monotonic() + 1
                for load in loads:
                    load.go_on(5)
                time.sleep(max(0.0, until - time.monotonic()))  # the pace, not a wait for anything
        except BaseException:
            # Seldom seen twice: say all that there is to know.
            print("running:", scene.is_running(), [load.outcome.broken for load in loads])
            print("\n".join(scene.log.lines[-300:]))
            raise
    executions = read_executions(scene.executions)
    for load in loads:
        judge(scene, chaos, load, executions)
    print(chaos.done, [load.outcome.statuses() for load in loads])
    scene.write(chaos.text)
    scene.wait_until(lambda: is_reloaded(scene))
    scene.wait_until(lambda: scene.control.status()["counters"]["exchanges_now"] == 0)
    balance(scene)
    for one in scene.control.pools():
        scene.control.recycle(one["name"])
    if warm:
        assert service.memory_full_info().uss - warm < 8 * MIB
    for pid in chaos.dead:  # those that were stopped and forgotten
        assert not psutil.pid_exists(pid) or pid in scene.pids("worker")


def is_reloaded(scene) -> bool:
    try:
        scene.control.reload()
    except ControlError:  # one is under way
        return False
    return True
