"""The main process: what it does when the system gives it no more processes or descriptors."""

import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from kernelq import launch, sealed
from kernelq.cgroup import NO_CGROUPS
from kernelq.config import CorePoolSettings, PoolSettings, ServerSettings
from kernelq.identity import NOBODY_ELSE
from kernelq.letters import ToService, ToTable
from kernelq.link import Link, link_pair
from kernelq.numbering import Numbers
from kernelq.restarts import Restarts
from kernelq.supervisor import Supervisor


def refuse(*_: object) -> int:
    raise BlockingIOError(11, "Resource temporarily unavailable")


@pytest.fixture
def linked() -> Iterator[tuple[Supervisor, Link, Link]]:
    """A main process with one pool, and the other ends of its links to service and spawner."""
    one = object.__new__(Supervisor)  # only what this is about: no processes
    one._restarts = Restarts()
    numbers = Numbers()
    settings = ServerSettings(pools=(PoolSettings(name="shop"),), config_file="kernelq.toml")
    one._numbers, one._settings = numbers, numbers.number(settings)
    numbers.keep(one._settings)
    one._tables = {pool.index: pool for pool in one._settings.pools}
    one._leaving = {}
    one._endpoints, one._reload = [], None
    one._is_stopping = one._has_left = one._reloads_again = False
    one._cgroups = NO_CGROUPS
    core = CorePoolSettings(threads=7)
    after = ServerSettings(pools=(PoolSettings(name="shop", core=core),), config_file="x")
    identity = NOBODY_ELSE
    one._start = SimpleNamespace(load=lambda: after, identity=identity)  # type: ignore[assignment]
    one._link, service = link_pair()
    one._spawner_link, table = link_pair()
    yield one, service, table
    for link in (one._link, one._spawner_link, service, table):
        link.close()


def test_no_process_for_a_new_spawner_is_no_end(
    linked: tuple[Supervisor, Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, service, _ = linked
    one._spawner_link.close()
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        for _ in range(3):
            one._start_spawner_again()
    assert len(os.listdir("/proc/self/fd")) == before + 1  # our end of the table's link
    assert not one._restarts.is_due()
    assert 0 < one._restarts.seconds_to_wait() <= 5
    assert not service.is_readable()


def refusal(service: Link) -> str:
    """What the service is told instead of new settings."""
    message = service.receive()
    assert message is not None
    assert message.kind == ToService.REFUSED
    return message.text


def test_no_process_for_a_trial_refuses_the_reload(
    linked: tuple[Supervisor, Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, service, table = linked
    monkeypatch.setattr(launch, "prepare", refuse)
    one._begin_reload()
    assert "pool shop: " in refusal(service)
    assert one._reload is None
    assert not table.is_readable()


def test_settings_that_cannot_be_sent_are_refused(
    linked: tuple[Supervisor, Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, service, table = linked
    put = sealed.put
    names: list[str] = []

    def fail_once(name: str, data: bytes) -> int:
        names.append(name)
        return refuse() if len(names) == 2 else put(name, data)  # the first is the new table

    monkeypatch.setattr(sealed, "put", fail_once)
    one._begin_reload()
    assert "Resource temporarily unavailable" in refusal(service)
    assert one._reload is None
    assert set(one._tables) == {pool.index for pool in one._settings.pools}
    for _ in range(2):  # the new table, and the old one again
        message = table.receive()
        assert message is not None
        assert message.kind == ToTable.POOLS
        message.close_descriptors()


def test_groups_are_removed_also_without_a_spawner() -> None:
    one = object.__new__(Supervisor)
    one._spawner_pid = 0
    calls: list[str] = []
    groups = SimpleNamespace(remove_all=lambda: calls.append("removed"))
    one._cgroups = groups  # type: ignore[assignment]
    one._await_spawner()
    assert calls == ["removed"]
