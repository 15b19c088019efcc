"""The spawner by itself: a real process that the test talks to as the service would."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from server import PATIENCE_SECONDS, ROOT
from spawning import HANGING, PoolSpawner, make_pool

from kernelq.letters import Control, FromSpawner, ToSpawner
from kernelq.link import link_from, link_pair
from kernelq.spawner import OVERLAPPING

Spawn = Callable[..., PoolSpawner]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Starts a spawner for an application's code, and sees it end without complaint."""
    made: list[PoolSpawner] = []

    def spawn_one(code: str = HANGING, preload: bool = False) -> PoolSpawner:
        made.append(PoolSpawner(tmp_path, replace(make_pool(tmp_path, code), preload=preload)))
        return made[-1]

    yield spawn_one
    for spawner in made:
        assert spawner.end() == spawner.expected_status


@pytest.fixture
def spawner(spawn: Spawn) -> PoolSpawner:
    return spawn()


def test_worker_is_announced_with_its_pidfd_and_dies_with_its_status(spawner: PoolSpawner) -> None:
    spawner.start(1)
    message = spawner.link.receive()
    assert message is not None
    assert message.kind == FromSpawner.STARTED
    pid, (pidfd,) = message.numbers[1], message.descriptors
    spawner.link.send(ToSpawner.SIGNAL, 1, signal.SIGKILL)
    message = spawner.expect(FromSpawner.DIED, 1)
    assert message.numbers[1] == signal.SIGKILL
    assert message.numbers[2] > 1000  # KiB
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, 0)
    os.close(pidfd)
    assert pid > 0


def test_what_is_not_in_the_table_is_refused(spawner: PoolSpawner) -> None:
    spawner.start(1, pool=1)
    spawner.expect(FromSpawner.FAILED, 1)
    spawner.start(1, pool=-1)
    spawner.expect(FromSpawner.FAILED, 1)
    spawner.link.send(99, 1, 2, 3)
    spawner.link.send(ToSpawner.START)
    spawner.link.send(ToSpawner.SIGNAL, 1, signal.SIGKILL)  # no such worker: nothing happens
    spawner.start(1)
    spawner.expect(FromSpawner.STARTED, 1)
    spawner.link.send(ToSpawner.SIGNAL, 1, signal.SIGUSR1)
    spawner.start(1)  # known already
    spawner.start(2)
    spawner.expect(FromSpawner.STARTED, 2)
    assert spawner.errors.read_text().count("refused") == 6


def test_no_more_than_twice_the_pool(spawner: PoolSpawner) -> None:
    most = 2 * 2 + OVERLAPPING
    for worker in range(most):
        spawner.started(worker)
    spawner.start(most)
    spawner.expect(FromSpawner.FAILED, most)
    spawner.link.send(ToSpawner.SIGNAL, 0, signal.SIGKILL)
    spawner.expect(FromSpawner.DIED, 0)
    spawner.started(most + 1)


def test_signals_of_a_terminal_do_not_reach_it(spawner: PoolSpawner) -> None:
    spawner.start(1)
    spawner.expect(FromSpawner.STARTED, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        spawner.process.send_signal(number)
    spawner.start(2)
    spawner.expect(FromSpawner.STARTED, 2)


def test_nonsense_ends_it_and_its_workers(spawner: PoolSpawner) -> None:
    spawner.start(1)
    spawner.expect(FromSpawner.STARTED, 1)
    spawner.link._socket.send(b"x")
    spawner.expected_status = 1
    assert spawner.process.wait(PATIENCE_SECONDS) == 1


@pytest.mark.parametrize("code", ["", "raise SystemExit(7)\n"])
def test_refusal_reaches_the_service(spawn: Spawn, code: str) -> None:
    spawner = spawn(code)
    spawner.start(1)
    spawner.expect(FromSpawner.STARTED, 1)
    message = spawner.controls[1].receive()
    assert message is not None
    assert message.kind == Control.REFUSED
    assert "'app:application'" in message.text
    spawner.expect(FromSpawner.DIED, 1)


def test_zygote_forks_children_of_the_spawner(spawn: Spawn) -> None:
    preloading = spawn("def application(e, s): pass\n", preload=True)
    for worker in (1, 2):
        preloading.start(worker)
    for _ in range(2):
        message = preloading.next()
        while message.kind != FromSpawner.STARTED:
            message = preloading.next()
        assert message.numbers[0] in (1, 2)


def test_zygote_that_hangs_in_the_import_is_killed_for_its_worker(spawn: Spawn) -> None:
    spawner = spawn(preload=True)
    spawner.start(1)
    spawner.link.send(ToSpawner.SIGNAL, 1, signal.SIGKILL)
    spawner.expect(FromSpawner.FAILED, 1)


def test_retired_generation_is_ended_and_a_new_one_loads_again(
    spawn: Spawn, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    spawner = spawn(f"open({str(gate)!r}, 'w').close()\n{HANGING}", preload=True)
    spawner.start(1, generation=0)
    gate.read_text()  # the first generation has been read
    (tmp_path / "default" / "app.py").write_text("raise LookupError('second')\n")
    spawner.start(2, generation=1)
    message = spawner.expect(FromSpawner.FAILED, 2)
    assert "LookupError: second" in message.text
    spawner.link.send(ToSpawner.RETIRE, 0, 0)
    spawner.expect(FromSpawner.FAILED, 1)


LIAR = """
import os, socket, struct
for name in os.listdir("/proc/self/fd"):
    try:
        link = socket.socket(fileno=os.dup(int(name)))
    except OSError:
        continue
    if link.type == socket.SOCK_SEQPACKET:
        link.send(struct.pack("<BB2q", 32, 2, 1, {pid}))
        link.detach()
import threading
threading.Event().wait()
"""


@pytest.mark.parametrize("pid", ["os.getppid()", "os.getpid()", "1", "-1", "1 << 40"])
def test_zygote_cannot_pass_another_process_off_as_its_worker(spawn: Spawn, pid: str) -> None:
    spawner = spawn(LIAR.format(pid=pid), preload=True)
    spawner.start(1)
    spawner.expect(FromSpawner.FAILED, 1)
    spawner.start(2)
    spawner.link.send(ToSpawner.SIGNAL, 2, signal.SIGKILL)
    spawner.expect(FromSpawner.FAILED, 2)


def test_worker_without_letter_ends(tmp_path: Path) -> None:
    ours, theirs = link_pair()
    code = f"from kernelq.worker import main; main({theirs.fileno()})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    ours.close()
    assert process.wait(PATIENCE_SECONDS) == 82


def test_link_from_a_received_descriptor_is_a_link() -> None:
    one, other = link_pair()
    again = link_from(os.dup(other.fileno()))
    one.send(5)
    message = again.receive()
    assert message is not None
    assert message.kind == 5
    for link in (one, other, again):
        link.close()
