"""Forks that fail, and the end of a process that never became what it was forked for."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from kernelq import launch, spawner
from kernelq.actions import Actions
from kernelq.children import Child
from kernelq.config import PoolSettings
from kernelq.identity import Identity
from kernelq.letters import ActionKind, FromSpawner, ToSpawner
from kernelq.link import Message, link_pair
from kernelq.tmp_folders import TmpFolders


@pytest.fixture
def no_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


@pytest.mark.usefixtures("no_forks")
def test_work_for_a_child_is_left_undone(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch.in_child(lambda: None) == 0
    assert "Resource temporarily unavailable" in capfd.readouterr().err


def test_temporary_folders_stay_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = TmpFolders(str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", lambda: os.open("/no/such/file", 0))
        folders.release(folders.make(Identity()))
        folders.make(Identity())
        folders.sweep()
        assert len(os.listdir(tmp_path)) == 1
        folders.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("no_forks")
def test_no_worker_keeps_no_descriptor() -> None:
    plan = launch.prepare(PoolSettings())
    ours, theirs = link_pair()
    before = descriptors()
    with pytest.raises(BlockingIOError):
        launch.start(plan, "worker", theirs)
    assert descriptors() == before
    ours.close()
    theirs.close()


def test_a_worker_without_a_link_is_told_to_have_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(24, "Too many open files")

    one = object.__new__(spawner.Spawner)  # only what this is about: no processes
    one._children = {}
    one._service, service = link_pair()
    with monkeypatch.context() as patch:
        patch.setattr(spawner, "link_pair", refuse)
        one._start(0, 7, 0, Message(ToSpawner.START, (0, 7, 0), "", []))
    message = service.receive()
    assert message is not None
    assert (message.kind, message.numbers) == (FromSpawner.FAILED, (7,))
    assert one._children == {}
    one._service.close()
    service.close()


def test_a_worker_that_cannot_be_announced_is_forgotten_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its process ends when it sees its link's end, and is nobody's by then.
    one = object.__new__(spawner.Spawner)
    ours, theirs = link_pair()
    one._children, one._workers, one._zygotes = {7: Child(0, ours, [])}, {}, {}
    one._tmp_folders = TmpFolders()
    told: list[int] = []

    def tell(kind: int, *numbers: int, **_: object) -> None:
        if kind == FromSpawner.STARTED:
            raise OSError(109, "Too many references: cannot splice")
        told.append(kind)

    monkeypatch.setattr(one, "_tell", tell)
    pid = os.fork()
    if pid == 0:
        theirs.receive()
        os._exit(0)
    before = descriptors()
    one._take_over(7, pid)
    assert told == [FromSpawner.FAILED]
    assert (one._children, one._workers) == ({}, {})
    assert len(descriptors()) == len(before) - 1  # the link's
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    theirs.close()


@pytest.mark.usefixtures("no_forks")
def test_no_action_keeps_no_descriptor(capfd: pytest.CaptureFixture[str]) -> None:
    before = descriptors()
    Actions(Identity()).start(PoolSettings(orphan_action=("/bin/true",)), ActionKind.ORPHAN, 1)
    assert descriptors() == before
    assert "could not be run: Resource temporarily unavailable" in capfd.readouterr().err


def test_a_departed_pool_goes_with_what_could_not_become_its_worker() -> None:
    one = object.__new__(spawner.Spawner)
    one._current, one._pools = {}, {0: PoolSettings(name="shop")}
    one._children, one._workers, one._zygotes = {}, {}, {}
    one._launches, one._letters = {}, {}
    one._actions = Actions(Identity())
    groups: list[str] = []
    group = SimpleNamespace(remove=lambda: groups.append("removed"))
    one._cgroups = SimpleNamespace(group=lambda name, index: group)  # type: ignore[assignment]
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    one._reap()
    assert groups == ["removed"]
    assert one._pools == {}
