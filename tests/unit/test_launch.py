"""What is found out about a pool's processes before the first is made."""

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernelq import interpreter, landlock, launch
from kernelq.config import CpuSettings, PoolSettings, ProcessSettings
from kernelq.errors import StartError
from kernelq.identity import Identity, find_identity


def pool(**process: Any) -> PoolSettings:
    return PoolSettings(name="shop", process=ProcessSettings(**process))


def refusal(settings: PoolSettings) -> str:
    with pytest.raises(StartError) as found:
        launch.prepare(settings)
    return str(found.value)


def test_nothing_asked_for_is_nothing_changed() -> None:
    plan = launch.prepare(pool())
    soft = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert plan.rlimits == (("nofile", resource.RLIMIT_NOFILE, soft, hard),)
    assert (plan.cpus, plan.cgroup, plan.grants, plan.notes) == (frozenset(), "", None, ())
    assert not plan.mounts_tmp
    assert not plan.needs_tmp_folder
    assert plan.interpreter.is_own


def test_limits_by_name() -> None:
    plan = launch.prepare(pool(rlimits=(("core", 0, 0), ("nofile", 100, 200))))
    assert plan.rlimits == (
        ("nofile", resource.RLIMIT_NOFILE, 100, 200),
        ("core", resource.RLIMIT_CORE, 0, 0),
    )


def test_limits_that_cannot_be() -> None:
    text = refusal(pool(rlimits=(("files", 1, 2),)))
    assert text.startswith("pool shop: rlimits: found 'files', allowed are as, core, cpu, data, ")
    for soft in (2, -1):
        text = refusal(pool(rlimits=(("core", soft, 1),)))
        assert text == "pool shop: rlimits: core: the soft limit is to be at most the hard one"


def test_nice_out_of_range() -> None:
    assert refusal(pool(nice=20)) == "pool shop: nice: found 20, allowed is -20 to 19"


def test_cpus_that_are_not_ours() -> None:
    one = replace(pool(), cpu=CpuSettings(affinity=(4096, min(os.sched_getaffinity(0)))))
    allowed = launch.describe_cpus(os.sched_getaffinity(0))
    words = f"affinity: there is no CPU 4096 for us, allowed are {allowed}"
    assert refusal(one) == f"pool shop: {words}"


@pytest.mark.parametrize(
    ("cpus", "text"),
    [({0}, "0"), ({0, 1}, "0-1"), ({0, 1, 2, 3, 6}, "0-3, 6"), ({5, 1, 2}, "1-2, 5")],
)
def test_cpus_as_the_kernel_writes_them(cpus: set[int], text: str) -> None:
    assert launch.describe_cpus(cpus) == text


def test_environment_of_another_user() -> None:
    inherited = {
        "PATH": "/bin", "SSH_AGENT": "x", "LISTEN_FDS": "1", "KERNELQ_X": "", "VIRTUAL_ENV": "v",
        "TMPDIR": "/root/tmp", "KERNELQ_FAULT": "a:kill",
    }  # fmt: skip
    user = Identity(5, 5, (), "five", "/home/five")
    made = launch.make_environment(inherited, pool(environment=(("PATH", "/opt"),)), user)
    assert made == {
        "PATH": "/opt", "HOME": "/home/five", "USER": "five", "LOGNAME": "five",
        "TMPDIR": "/root/tmp", "VIRTUAL_ENV": "v", "KERNELQ_FAULT": "a:kill",
    }  # fmt: skip
    same = launch.make_environment(inherited, pool(private_tmp=True, python="/x"), Identity())
    assert same == {"PATH": "/bin", "SSH_AGENT": "x", "KERNELQ_FAULT": "a:kill"}


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_environment_that_cannot_be(name: str) -> None:
    assert "cannot be the name of a variable" in refusal(pool(environment=((name, "x"),)))


def test_unknown_names() -> None:
    assert refusal(pool(user="no-such")) == "pool shop: user: there is no user 'no-such'"
    assert refusal(pool(groups=("no-such",))) == "pool shop: group: there is no group 'no-such'"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take other groups")
def test_supplementary_groups() -> None:
    assert find_identity("daemon", "", ()).groups == (1,)
    assert find_identity("daemon", "", ("mail", "7")).groups == (1, 7, 8)
    assert find_identity("", "", ("mail",)).uid == 0


def test_interpreter_that_is_not_there() -> None:
    words = "python: cannot run /no/such/python: No such file or directory"
    assert refusal(pool(python="/no/such/python")) == f"pool shop: {words}"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_interpreter_without_kernelq(tmp_path: Path) -> None:
    text = refusal(pool(python=script(tmp_path / "python", f'exec {sys.executable} -S -E "$@"')))
    assert "cannot import kernelq (exit status 1: ModuleNotFoundError: No module named " in text
    assert f"{tmp_path}/python -m pip install kernelq==" in text


def test_interpreter_that_says_something_else(tmp_path: Path) -> None:
    text = refusal(pool(python=script(tmp_path / "python", "echo no python")))
    assert f"python: {tmp_path}/python cannot import kernelq (exit status 0: no python)" in text


def test_interpreter_with_another_kernelq(tmp_path: Path) -> None:
    text = refusal(pool(python=script(tmp_path / "python", "echo kernelq-interpreter 99.0 7")))
    assert f"{tmp_path}/python has kernelq 99.0 (layout 7), and this is kernelq " in text


def test_interpreter_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "PATIENCE_SECONDS", 0.01)
    silent = script(tmp_path / "python", "exec sleep 1000")
    assert refusal(pool(python=silent)).endswith("did not answer within 0.01 s, or without end")
    endless = script(tmp_path / "endless", "exec yes")
    monkeypatch.setattr(interpreter, "PATIENCE_SECONDS", 20)
    assert "did not answer" in refusal(pool(python=endless))


def test_interpreter_that_does_not_answer_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(interpreter, "_run", lambda *words: asked.append(words) or (None, ""))
    silent = script(tmp_path / "python", "")
    for _ in range(2):
        assert "did not answer" in refusal(pool(python=silent))
        assert len(asked) == 1
    os.utime(silent, (1, 1))
    assert "did not answer" in refusal(pool(python=silent))
    assert len(asked) == 2


def test_interpreter_is_asked_once_while_it_stays_the_same(tmp_path: Path) -> None:
    count = tmp_path / "count"
    text = f'echo x >> {count}; exec {sys.executable} "$@"'
    python = script(tmp_path / "python", text)
    environment = {**os.environ, "PYTHONPATH": interpreter.ROOT}
    for _ in range(2):
        found = interpreter.find_interpreter(python, Identity(), environment)
        assert not found.is_own
        assert found.is_current
        assert sys.prefix in found.places or sys.base_prefix in found.places
    assert count.read_text() == "x\n"
    os.utime(python, (1, 1))
    assert not found.is_current
    interpreter.find_interpreter(python, Identity(), environment)
    assert count.read_text() == "x\nx\n"


@pytest.mark.parametrize("options", [[], ["-P"]])
def test_where_the_server_was_started_is_no_place_of_python(options: list[str]) -> None:
    code = "from kernelq import interpreter\nprint(*interpreter.own_interpreter().places)"
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd="/",
        env={"PYTHONPATH": f":{interpreter.ROOT}:/opt"},
        capture_output=True,
        text=True,
        check=True,
    )
    places = done.stdout.split()
    assert "/" not in places
    assert {"/opt", interpreter.ROOT} <= {*places}


def test_standard_input_is_empty_even_where_it_was_closed() -> None:
    code = (
        "import os, sys\nfrom kernelq import linux\n"
        "if len(sys.argv) > 1: os.close(0)\n"
        "linux.empty_input()\n"
        "assert os.get_inheritable(0) and os.read(0, 1) == b''\n"
        "print(*sorted(os.listdir('/proc/self/fd')))\n"
    )
    for words in ([], ["closed"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            env={"PYTHONPATH": interpreter.ROOT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["0", "1", "2", "3"]


def test_interpreter_of_ours_is_found_by_every_name() -> None:
    assert interpreter.find_interpreter(sys.executable, Identity(), {}).is_own


def test_kernel_without_landlock_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    plan = launch.prepare(pool(read_only=("/srv",)))
    assert plan.grants is None
    ((level, text),) = plan.notes
    assert level == 30
    assert text.endswith("has no Landlock here: nothing is restricted")


def test_actions_by_version() -> None:
    sizes = [landlock.handled_actions(version).bit_count() for version in range(1, 9)]
    assert sizes == [13, 14, 15, 15, 16, 16, 16, 16]


def test_outermost_folders(tmp_path: Path) -> None:
    for name in ("a", "a/b", "a-b"):
        (tmp_path / name).mkdir()
    paths = [str(tmp_path / name) for name in ("a/b", "a-b", "a")] + [""]
    assert landlock.outermost(paths) == (str(tmp_path / "a"), str(tmp_path / "a-b"))
