"""What the kernel says of a process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from kernelq import worker
from kernelq.letters import EXIT_ORPHANED, ToWorker
from kernelq.link import link_pair
from kernelq.pool import probes

GONE = 1 << 30


GROWING = """
import mmap
print(flush=True)
input()
memory = mmap.mmap(-1, 32 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(b"x" * (32 << 20))
print(flush=True)
input()
"""


def test_memory_of_a_process() -> None:
    command = [sys.executable, "-S", "-c", GROWING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        before = probes.resident_bytes(child.pid), probes.private_bytes(child.pid)
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        after = probes.resident_bytes(child.pid), probes.private_bytes(child.pid)
        child.stdin.write(b"\n")
    assert after[0] - before[0] > 16 << 20
    assert after[1] - before[1] > 16 << 20


def test_processor_time_with_that_of_ended_children() -> None:
    pid = os.getpid()
    before = probes.cpu_ns(pid)
    code = "import time\nwhile time.process_time() < 0.1: pass"
    subprocess.run([sys.executable, "-S", "-c", code], check=True)
    after = probes.cpu_ns(pid)
    assert after - before >= 80_000_000
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    last = probes.cpu_ns(pid)
    assert last > after


def test_who_has_gone_or_cannot_be_looked_into() -> None:
    assert probes.memory_kib(GONE) == (0, 0)
    assert probes.cpu_ns(GONE) == 0
    assert probes.state(GONE) == ""
    assert probes.suspend(GONE) is None
    assert probes.memory_kib(2) == (0, 0)  # the kernel's own have none


def test_state_whatever_the_process_calls_itself() -> None:
    code = (
        "import os, sys\nfrom kernelq import linux\nlinux.name_process(') Z 1 (')\n"
        "print('x', flush=True)\nsys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        assert probes.state(process.pid) in "SR"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert probes.state(process.pid) == "T"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert probes.state(process.pid) == "Z"
        assert probes.resident_bytes(process.pid) == 0


HOLDER = """
import mmap, sys
from kernelq import worker
from kernelq.letters import EXIT_ORPHANED, ToWorker
from kernelq.link import link_pair
from kernelq.pool import probes
memory = mmap.mmap(-1, 8 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(b"kernelq!" * (1 << 20))
print("ready", flush=True)
sys.stdin.readline()
print(probes.suspend_self(), memory[:8], memory[-8:], flush=True)
"""


def test_suspending_asks_and_loses_nothing() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        asked = probes.suspend(process.pid)
        if os.geteuid() == 0:
            assert asked is not None
            assert asked >= 8 << 20
        out, _ = process.communicate(b"\n")
    own, first, last = out.decode().split()
    assert int(own) >= 8 << 20
    assert (first, last) == ("b'kernelq!'", "b'kernelq!'")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_the_right_to_look_closer() -> None:
    parent = os.getpid()
    least, most = probes.private_bytes(parent) // 2, probes.resident_bytes(parent)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        found = probes.suspend(parent) is None and least < probes.private_bytes(parent) <= most
        os.write(write, repr(found).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"True"
    os.close(read)
    os.close(write)


def test_a_worker_does_what_its_spawner_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = link_pair()
    asked: list[int] = []
    monkeypatch.setattr(probes, "suspend_self", lambda: asked.append(1))
    ours.send(ToWorker.SUSPEND)
    worker._obey(theirs)
    assert asked == [1]
    monkeypatch.setattr(os, "_exit", asked.append)
    ours.close()
    worker._obey(theirs)
    assert asked[1] == EXIT_ORPHANED
    theirs.close()
