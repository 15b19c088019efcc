"""Pools that fail, end and leave while settings are read again: the managers above a fake core."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from fakes import FakeCore

from kernelq.config import ApplicationSettings, PoolSettings, ServerSettings
from kernelq.letters import FromSpawner, ToSpawner
from kernelq.link import Link, Message, link_from, link_pair
from kernelq.manager import Manager
from kernelq.pool.executor import PoolExecutor
from kernelq.pool.journal import Journal
from kernelq.pool.model import Event, Kind, Phase
from kernelq.pools import LEAVING_LOOK_NS, Pools

ALWAYS = PoolSettings(start_mode="always_running", min_processes=1)
BEFORE = ServerSettings(pools=(replace(ALWAYS, name="old", index=0),), sites=())


class NoRoutes:
    """Routing, of no site."""

    def endpoint_names(self) -> set[str]:
        return set()

    def remove_listeners(self, names: set[str]) -> None:
        assert not names

    def publish(self, settings: ServerSettings) -> None:
        pass


class Service:
    """What a Manager and its Pools ask of the service process; the test plays the spawner."""

    def __init__(self) -> None:
        self.core: Any = FakeCore()
        self.settings = BEFORE
        self.journal = Journal()
        self.routing = NoRoutes()
        self.is_serving = True
        self.lines: list[str] = []
        self.told: list[tuple[int, int]] = []
        self.later_ns = 0
        self.closed: list[str] = []
        self.has_ended = False
        self.supervisor = self
        self.pools = Pools(self.core, self, self.journal)
        self.manager = Manager(self)  # type: ignore[arg-type]
        self.spawner, theirs = link_pair()
        self.spawner.set_blocking(False)
        self.links = [self.spawner, theirs]
        self.pools.set_spawner(theirs)
        for settings in self.settings.pools:
            self.pools.open(settings, False)
            self.pool(settings.name).apply(Event(Kind.START))

    def log(self, level: int, text: str) -> None:
        self.lines.append(text)

    def notify(self, text: str) -> None:
        pass

    def notify_reloading(self) -> None:
        pass

    def send(self, kind: int, number: int = 0) -> None:
        self.told.append((kind, number))

    try_send = send

    def watch(self, link: Link, on_readable: Callable[[], None]) -> None:
        self.links.append(link)

    def unwatch(self, link: Link) -> None:
        pass

    def on_pool_serving(self, pool: PoolExecutor) -> None:
        self.manager.on_pool_serving(pool)

    def on_pool_reloaded(self, pool: PoolExecutor, outcome: int) -> None:
        self.manager.on_pool_reloaded(pool, outcome)

    def on_pool_give_up(self, pool: PoolExecutor, text: str) -> None:
        self.has_ended |= not self.manager.on_pool_give_up(pool, text)

    def on_pool_stopped(self, pool: PoolExecutor) -> None:
        self.manager.on_pool_gone(pool)

    def on_pool_closed(self, pool: PoolExecutor) -> None:
        self.closed.append(pool.name)

    # What the test does.

    def pool(self, name: str) -> PoolExecutor:
        found = self.pools.find(name)
        assert found is not None
        return found

    def started(self) -> list[int]:
        numbers = []
        while self.spawner.is_readable():
            message = self.spawner.receive()
            assert message is not None
            if message.kind == ToSpawner.START:
                self.links.append(link_from(message.descriptors.pop()))
                numbers.append(message.numbers[1])
            message.close_descriptors()
        return numbers

    def answer(self, kind: int, *numbers: int, text: str = "", pidfd: bool = False) -> None:
        descriptors = [os.open(os.devnull, os.O_RDONLY)] if pidfd else []
        self.pools.on_spawner_message(Message(kind, numbers, text, descriptors))

    def serve(self) -> int:
        """Whoever was started last is ready."""
        number = self.started()[-1]
        self.answer(FromSpawner.STARTED, number, 1000 + number, pidfd=True)
        self.pools.on_core_event("ready", number, 0)
        return number

    def reload(self, *pools: PoolSettings) -> None:
        self.manager.begin_reload(replace(self.settings, pools=pools), (), (), ())

    def wait(self) -> None:
        """Until pools that leave have been looked at, once more each time."""
        self.later_ns += 2 * LEAVING_LOOK_NS
        self.pools.tick(time.monotonic_ns() + self.later_ns)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    made.serve()
    yield made
    for link in made.links:
        link.close()


def added(name: str, index: int, **settings: Any) -> PoolSettings:
    one = ApplicationSettings(number=index)
    return replace(ALWAYS, name=name, index=index, applications=(one,), **settings)


def test_two_broken_pools_of_one_reload_end_nothing_but_the_reload(service: Service) -> None:
    service.reload(*BEFORE.pools, added("a", 1), added("b", 2))
    for number in service.started():
        service.answer(FromSpawner.FAILED, number, text="no module named app")
    assert not service.has_ended
    assert service.manager.under_way == ""
    service.wait()
    assert service.pools.names() == ["old"]
    assert len(list(service.pools)) == 1


def test_a_pool_that_a_reload_has_brought_ends_the_server_never(service: Service) -> None:
    service.reload(*BEFORE.pools, added("later", 1, auto_start=False))
    assert service.settings.pools[-1].name == "later"
    service.manager.pool_start("later")
    (number,) = service.started()
    service.answer(FromSpawner.FAILED, number, text="no module named app")
    assert not service.has_ended
    assert service.pool("later").state.phase is Phase.INITIALIZED


def test_a_pool_that_leaves_while_its_orphan_is_attached(service: Service) -> None:
    service.reload(*BEFORE.pools, added("new", 1, orphan_worker_process=True))
    number = service.serve()
    pool = service.pool("new")
    core_number = pool.number
    service.pools.on_core_event("hopeless", number, 0)
    (second,) = service.started()
    service.reload(*BEFORE.pools)
    service.wait()
    service.answer(FromSpawner.FAILED, second)
    service.wait()
    assert pool.is_gone
    assert core_number in service.core.pool_states
    service.pools.tick(time.monotonic_ns() + 2_000_000_000)
    assert ("abandon", number) in service.core.calls
    service.pools.on_core_event("gone", number, 0)
    service.wait()
    service.answer(FromSpawner.DIED, number, 9, 20480, 0)
    service.wait()
    assert core_number not in service.core.pool_states
    assert len(list(service.pools)) == 1
    assert service.pools.names() == ["old"]


def test_a_pool_leaves_when_all_that_was_routed_to_it_is_executing(service: Service) -> None:
    service.reload(*BEFORE.pools, added("new", 1))
    service.serve()
    pool = service.pool("new")
    service.core.info["unstarted"] = 1
    service.reload(*BEFORE.pools)
    for _ in range(3):
        service.wait()
        assert pool.state.phase is Phase.RUNNING
    service.core.info["unstarted"] = 0
    service.wait()
    assert pool.state.phase is Phase.DELETE_PENDING


def test_a_pool_whose_last_request_a_loop_has_yet_to_refuse_is_closed_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pool: int) -> None:
        raise ValueError(f"pool {pool} has queued requests")

    service.reload(*BEFORE.pools, added("new", 1))
    number = service.serve()
    service.reload(*BEFORE.pools)
    service.wait()
    service.pools.on_core_event("gone", number, 0)
    with monkeypatch.context() as patch:
        patch.setattr(service.core, "pool_close", refuse)
        service.answer(FromSpawner.DIED, number, 9, 20480, 0)
        for _ in range(3):
            service.wait()
            deadline = service.pools.next_deadline()
            assert deadline is not None
            assert service.closed == []
    service.wait()
    assert service.closed == ["new"]
    assert len(list(service.pools)) == 1


@pytest.mark.parametrize(
    "words",
    [
        "[]",
        "3",
        "{",
        '{"service_pid": null}',
        '{"service_pid": "x", "version": "2"}',
        '{"service_pid": Infinity}',
        "[" * 30000,
    ],
    ids=repr,
)
def test_whatever_an_heiress_says_the_upgrade_is_done(service: Service, words: str) -> None:
    pending = service.manager.upgrade()
    service.manager.upgraded(words)
    answers: list[Any] = []
    pending.then(lambda answer, text: answers.append(answer))
    assert (answers[0]["service_pid"], answers[0]["version"]) == (0, "")


def test_what_an_heiress_says_is_passed_on(service: Service) -> None:
    pending = service.manager.upgrade()
    service.manager.upgraded('{"version": "2", "service_pid": 7, "more": []}')
    answers: list[Any] = []
    pending.then(lambda answer, text: answers.append(answer))
    assert (answers[0]["service_pid"], answers[0]["version"]) == (7, "2")


def test_a_worker_of_a_request_is_meant_by_its_number(service: Service) -> None:
    # In a container a pid may be as small as that.
    service.reload(*BEFORE.pools, replace(added("new", 1), min_processes=2, max_processes=2))
    first, second = service.started()
    service.answer(FromSpawner.STARTED, first, second, pidfd=True)
    service.answer(FromSpawner.STARTED, second, 1000, pidfd=True)
    pool = service.pool("new")
    request = dict.fromkeys(("state", "client", "method", "host", "target"), "")
    found = {**request, "pool": pool.number, "worker": second, "application": 0, "elapsed_ns": 0}
    service.core.requests = lambda most, wanted: [found]
    (shown,) = service.manager.requests("", 9)["requests"]
    assert shown["pid"] == 1000
    service.pools.set_spawner(None)
    assert pool.find_member(0) is None
