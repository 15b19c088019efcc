"""Workers left for a debugger, and the programs that are run then: a real spawner."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from spawning import HANGING, PoolSpawner, make_folder, make_pool

from kernelq import spawner as spawner_module
from kernelq.letters import ActionKind, FromSpawner, ToSpawner
from kernelq.pool import probes


@pytest.fixture
def folder() -> Iterator[Path]:
    made = make_folder() if os.geteuid() == 0 else None
    yield made or Path()
    if made is not None:
        shutil.rmtree(made)


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the folder is made in /run")


@pytest.fixture
def spawner(folder: Path) -> Iterator[PoolSpawner]:
    said = folder / "said"
    os.mkfifo(said)
    action = ("/bin/sh", "-c", f"echo $KERNELQ_ACTION $KERNELQ_POOL $0 > {said}", "%1%")
    pool = replace(make_pool(folder, HANGING, "shop"), orphan_action=action)
    made = PoolSpawner(folder, pool)
    yield made
    assert made.end() == 0


def stop(spawner: PoolSpawner, worker: int) -> None:
    spawner.link.send(ToSpawner.SIGNAL, worker, signal.SIGSTOP)


def test_an_orphan_is_stopped_and_its_action_run(spawner: PoolSpawner, folder: Path) -> None:
    pid = spawner.started(1)
    stop(spawner, 1)
    spawner.link.send(ToSpawner.ACTION, 0, ActionKind.ORPHAN, pid)
    assert (folder / "said").read_text() == f"orphan shop {pid}\n"
    assert probes.state(pid) == "T"


def test_orphans_do_not_keep_others_from_starting(spawner: PoolSpawner) -> None:
    first = 0
    for worker in range(spawner_module.ORPHANS_MAX):
        pid = spawner.started(worker)
        first = first or pid
        stop(spawner, worker)
    for worker in range(10, 14):  # twice the pool
        spawner.started(worker)
    stop(spawner, 10)
    assert spawner.expect(FromSpawner.DIED, 0).numbers[1] == signal.SIGKILL
    assert probes.state(first) == ""
    assert "left for a debugger: the first is ended" in spawner.errors.read_text()


def test_actions_that_are_not_in_the_table_are_refused(spawner: PoolSpawner) -> None:
    pid = spawner.started(1)
    letters = [
        (1, ActionKind.ORPHAN, pid),
        (-1, ActionKind.ORPHAN, pid),
        (0, ActionKind.ORPHAN, os.getpid()),
        (0, ActionKind.ORPHAN, 0),
        (0, ActionKind.RAPID_FAIL, pid),
        (0, 9, pid),
    ]
    for letter in letters:
        spawner.link.send(ToSpawner.ACTION, *letter)
    spawner.link.send(ToSpawner.ACTION, 0, ActionKind.RAPID_FAIL, 0)  # it has none
    spawner.started(2)
    assert spawner.errors.read_text().count("refused") == len(letters)


def test_an_action_ends_with_the_spawner(folder: Path) -> None:
    gate = folder / "gate"
    os.mkfifo(gate)
    action = ("/bin/sh", "-c", f"exec sleep 1000 > {gate}")
    pool = replace(make_pool(folder, HANGING, "shop"), orphan_action=action)
    made = PoolSpawner(folder, pool, python=sys.executable)
    pid = made.started(1)
    made.link.send(ToSpawner.ACTION, 0, ActionKind.ORPHAN, pid)
    with gate.open() as end:
        assert made.end() == 0
        assert end.read() == ""
