"""Programs of the administrator, and what is said of an orphan."""

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelq import actions
from kernelq.actions import Actions
from kernelq.config import PoolSettings, RapidFailSettings
from kernelq.identity import Identity
from kernelq.letters import ActionKind
from kernelq.pool import orphan


def shell(text: str, *words: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text, *words)


@pytest.fixture
def running() -> Iterator[Actions]:
    made = Actions(Identity())
    yield made
    made.end_all()


def wait(running: Actions) -> int:
    pid, status = os.wait()
    running.bury(pid, status)
    return status


def test_orphan_action_is_told_who(running: Actions, tmp_path: Path) -> None:
    said = tmp_path / "said"
    text = f'echo "$0 $1 $KERNELQ_ACTION $KERNELQ_POOL $KERNELQ_PID $NOTIFY_SOCKET" > {said}'
    pool = PoolSettings(name="shop", orphan_action=shell(text, "pid=%1%", "a b;c"))
    running.start(pool, ActionKind.ORPHAN, 4711)
    assert running.seconds_to_wait() is not None
    assert wait(running) == 0
    assert said.read_text() == "pid=4711 a b;c orphan shop 4711 \n"
    assert running.seconds_to_wait() is None


def test_rapid_fail_action_has_no_worker(running: Actions, tmp_path: Path) -> None:
    said = tmp_path / "said"
    text = f'echo "$KERNELQ_ACTION ${{KERNELQ_PID-none}}" > {said}; exit 3'
    pool = PoolSettings(rapid_fail=RapidFailSettings(action=shell(text)))
    running.start(pool, ActionKind.RAPID_FAIL, 0)
    assert os.waitstatus_to_exitcode(wait(running)) == 3
    assert said.read_text() == "rapid_fail none\n"


def test_programs_end_when_nobody_reads_them(running: Actions, tmp_path: Path) -> None:
    said = tmp_path / "said"
    pool = PoolSettings(orphan_action=shell(f"grep ^SigIgn /proc/self/status > {said}"))
    running.start(pool, ActionKind.ORPHAN, 1)
    assert wait(running) == 0
    ignored = int(said.read_text().split()[1], 16)
    assert not ignored & 1 << (signal.SIGPIPE - 1)


def test_no_action_is_none(running: Actions) -> None:
    running.start(PoolSettings(), ActionKind.ORPHAN, 1)
    assert running.seconds_to_wait() is None
    running.bury(1, 0)


def test_program_that_is_not_there(running: Actions, capfd: pytest.CaptureFixture[str]) -> None:
    pool = PoolSettings(name="shop", orphan_action=("/no/such/program",))
    running.start(pool, ActionKind.ORPHAN, 1)
    assert os.waitstatus_to_exitcode(wait(running)) == 127
    text = capfd.readouterr().err
    name = "pool shop: orphan action /no/such/program"
    assert f"error {name} could not be run: No such file or directory" in text
    assert f"warning {name} has ended" in text


def test_what_takes_too_long_is_killed_with_its_children(
    running: Actions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(actions, "PATIENCE_SECONDS", 0.0)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    text = f"sleep 1000 > {gate}; true"
    running.start(PoolSettings(orphan_action=shell(text)), ActionKind.ORPHAN, 1)
    with gate.open() as end:  # its child has it open now
        running.end_late()
        assert end.read() == ""  # and has gone
    assert os.WTERMSIG(wait(running)) == signal.SIGKILL


def test_not_more_than_so_many_at_a_time(
    running: Actions, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(actions, "RUNNING_MAX", 1)
    pool = PoolSettings(orphan_action=shell("exec sleep 1000"))
    running.start(pool, ActionKind.ORPHAN, 1)
    running.start(pool, ActionKind.ORPHAN, 2)
    assert "is not run: 1 others have not ended" in capfd.readouterr().err
    running.end_all()
    os.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_action_runs_as_the_user_that_serves(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.dup2(writer, 2000)  # closed in the child, like everything else
    user = Identity(65534, 65534, (65534,), "nobody", "/nonexistent")
    running = Actions(user)
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    said = tmp_path / "said"
    text = f"id -u > {said}; id -G >> {said}; echo $HOME >> {said}; ls /proc/self/fd >> {said}"
    running.start(PoolSettings(orphan_action=shell(text)), ActionKind.ORPHAN, 1)
    assert wait(running) == 0
    assert said.read_text().split() == ["65534", "65534", "/nonexistent", "0", "1", "2", "3"]
    for descriptor in (reader, writer, 2000):
        os.close(descriptor)


@pytest.fixture
def pattern(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name, text in (("_PATTERN", "core\n"), ("_USES_PID", "0\n")):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(orphan, name, str(tmp_path / name))
    return tmp_path / "_PATTERN"


@pytest.fixture
def process() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"]) as made:
        resource.prlimit(made.pid, resource.RLIMIT_CORE, (1 << 20, resource.RLIM_INFINITY))
        yield made.pid
        made.kill()


def test_where_a_core_would_go(pattern: Path, process: int) -> None:
    how = f"a core (kill -ABRT {process} and then kill -CONT {process})"
    for text, place in (
        ("core", "/srv/core"),
        ("core.%p", f"/srv/core.{process}"),
        ("/var/cores/%e.%P", f"/var/cores/%e.{process}"),
    ):
        pattern.write_text(text + "\n")
        found = orphan.describe_core(process, "/srv", True)
        assert found == f"{how} would be written to {place}, of at most 1048576 bytes"
    pattern.write_text("core\n")
    (pattern.parent / "_USES_PID").write_text("1\n")
    assert f"/srv/core.{process}," in orphan.describe_core(process, "/srv", True)
    pattern.write_text("|/usr/lib/coredump %P\n")
    assert orphan.describe_core(process, "/srv", True).endswith("handed to /usr/lib/coredump")


def test_why_there_would_be_no_core(pattern: Path, process: int) -> None:
    assert "its memory is closed" in orphan.describe_core(process, "/srv", False)
    resource.prlimit(process, resource.RLIMIT_CORE, (0, 0))
    assert "its limit is 0" in orphan.describe_core(process, "/srv", True)
    lines = orphan.describe_orphan(process, "/srv", True)
    assert f"gdb -p {process}" in lines[0]
    assert orphan.core_limit(1 << 30) is None
