"""The looks at processor time: what counts within a window, and what does not."""

from dataclasses import replace

import pytest
from fakes import FakeCore

from kernelq.config import CpuSettings, PoolSettings
from kernelq.pool import probes
from kernelq.pool.member import Member
from kernelq.pool.model import Event, Kind
from kernelq.pool.watch import Watch
from kernelq.units import SECOND

INTERVAL_NS = 100 * SECOND
LIMITED = PoolSettings(cpu=CpuSettings(limit=50, interval_ns=INTERVAL_NS, action="kill"))


class Looks:
    """A watch of two workers, whose processor time the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spent = {1001: 0, 1002: 0}
        monkeypatch.setattr(probes, "cpu_ns", lambda pid: self.spent.get(pid, 0))
        core = FakeCore()
        self.watch = Watch(core, core.pool_open(LIMITED.core), LIMITED)
        self.members = []
        for key, pid in enumerate(self.spent):
            member = Member(key, 0)
            member.pid = pid
            self.members.append(member)

    def look(self) -> list[Event]:
        assert self.watch.next_at is not None
        return self.watch.look(self.watch.next_at, self.members)

    def spend(self, pid: int, seconds: int) -> None:
        self.spent[pid] += seconds * SECOND


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def test_more_than_the_limit_is_said_once(looks: Looks) -> None:
    looks.spend(1001, 20)
    looks.look()
    looks.spend(1001, 10)
    looks.spend(1002, 21)
    (event,) = looks.look()
    assert (event.kind, event.text) == (Kind.CPU_LIMIT, "51.0 s of CPU time within 100 s")
    assert looks.look() == []


def test_what_was_spent_before_new_settings_does_not_count(looks: Looks) -> None:
    looks.look()
    looks.spend(1001, 40)
    assert looks.look() == []
    looks.watch.configure(replace(LIMITED, startup_limit_ns=1), looks.members)
    looks.spend(1002, 20)
    assert looks.look() == []
    looks.spend(1001, 51)
    assert [event.kind for event in looks.look()] == [Kind.CPU_LIMIT]


def test_what_a_worker_spent_counts_after_its_death(looks: Looks) -> None:
    looks.spend(1001, 20)
    looks.look()
    looks.spend(1001, 20)
    looks.look()
    del looks.spent[1001]  # the core has not said so yet
    looks.look()
    looks.spend(1002, 11)
    assert [event.kind for event in looks.look()] == [Kind.CPU_LIMIT]
    del looks.members[0]
    assert looks.look() == []


def test_a_window_that_is_over_begins_anew(looks: Looks) -> None:
    kinds = []
    for _ in range(40):
        looks.spend(1001, 2)
        kinds += [event.kind for event in looks.look()]
    assert kinds == [Kind.CPU_INTERVAL] * 2
