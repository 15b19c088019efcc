"""Control groups: against a kernel of dictionaries, a plain folder, and the real one."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernelq import cgroup
from kernelq.cgroup import Cgroups, Group, find_own, open_cgroups

ROOT = Path(__file__).resolve().parents[2]
US = os.getpid()


class Kernel:
    """What the code relies on: groups with processes, controllers that are handed down, and the
    errors of what is not allowed. Paths are below /cg.
    """

    def __init__(self, controllers: str = "cpu memory io", others: tuple[int, ...] = ()) -> None:
        self.given = {"/cg": set(controllers.split())}  # what a group has, as above it was enabled
        self.enabled: dict[str, set[str]] = {"/cg": set()}
        self.procs: dict[str, set[int]] = {"/cg": {US, *others}}
        self.values: dict[str, str] = {}
        self.owners: dict[str, tuple[int, int]] = {}
        self.is_locked = False

    def files(self, folder: str) -> set[str]:
        names = {"cgroup.procs", "cgroup.controllers", "cgroup.subtree_control"}
        names |= {"cpu.max"} if "cpu" in self.given[folder] else set()
        return names | ({"memory.reclaim", "memory.current"} & self.memory_files(folder))

    def memory_files(self, folder: str) -> set[str]:
        is_there = "memory" in self.given[folder]
        return {"memory.reclaim", "memory.current"} if is_there else set()

    def look_up(self, path: str) -> tuple[str, str]:
        folder, name = os.path.split(path)
        if folder not in self.procs or name not in self.files(folder):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return folder, name

    def make(self, path: str) -> None:
        if self.is_locked:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        if path in self.procs:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        self.given[path] = set(self.enabled[os.path.dirname(path)])
        self.enabled[path], self.procs[path] = set(), set()

    def remove(self, path: str) -> None:
        if path not in self.procs:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        if self.procs[path]:
            raise OSError(errno.EBUSY, "Device or resource busy", path)
        del self.procs[path]

    def read(self, path: str) -> str:
        if path == "/proc/self/cgroup":
            (own,) = (name for name, pids in self.procs.items() if US in pids)
            return f"3:cpu:/\n0::{own.removeprefix('/cg') or '/'}\n"
        try:
            folder, name = self.look_up(path)
        except FileNotFoundError:
            return ""
        words = {
            "cgroup.procs": self.procs[folder],
            "cgroup.controllers": self.given[folder],
            "cgroup.subtree_control": self.enabled[folder],
        }.get(name)
        return self.values.get(path, "") if words is None else "\n".join(map(str, words))

    def write(self, path: str, text: str) -> None:
        folder, name = self.look_up(path)
        if name == "cgroup.procs":
            if self.enabled[folder]:
                raise OSError(errno.EBUSY, "Device or resource busy", path)
            for pids in self.procs.values():
                pids.discard(int(text))
            self.procs[folder].add(int(text))
        elif name == "cgroup.subtree_control":
            if self.procs[folder]:
                raise OSError(errno.EBUSY, "Device or resource busy", path)
            self.enabled[folder].add(text.removeprefix("+"))
        else:
            self.values[path] = text


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Kernel], Kernel]:
    def use_one(kernel: Kernel) -> Kernel:
        for name in ("make", "remove", "write"):
            monkeypatch.setattr(cgroup, f"_{name}", getattr(kernel, name))
        monkeypatch.setattr(cgroup, "read_text", kernel.read)
        monkeypatch.setattr(cgroup, "_give", kernel.owners.__setitem__)
        monkeypatch.setattr(cgroup, "names_in", lambda path: names_in(kernel, path))
        monkeypatch.setattr(cgroup.os, "access", lambda path, mode: bool(path_is_there(path)))
        return kernel

    def names_in(kernel: Kernel, folder: str) -> list[str]:
        return [os.path.basename(path) for path in kernel.procs if os.path.dirname(path) == folder]

    def path_is_there(path: str) -> bool:
        return not path.startswith("/cg/unified")

    return use_one


def test_the_leaf_comes_before_the_controllers(use: Callable[[Kernel], Kernel]) -> None:
    kernel = use(Kernel())
    groups = open_cgroups("/cg", owner=(33, 33))
    assert (groups.base, groups.controllers, groups.why) == ("/cg", ("cpu", "memory"), "")
    assert kernel.procs["/cg/service"] == {US}
    assert kernel.enabled["/cg"] == {"cpu", "memory"}
    assert groups.describe() == "cgroups: a group per pool below /cg"


def test_a_pool_has_its_group(use: Callable[[Kernel], Kernel]) -> None:
    kernel = use(Kernel())
    groups = open_cgroups("/cg", owner=(33, 44))
    group = groups.make("a shop/../x", 7)
    assert group is not None
    assert group == groups.group("a shop/../x", 7) == groups.make("a shop/../x", 7)
    assert group.path == f"/cg/pool-a_shop____x.7-{US}"
    assert kernel.owners == {
        f"{group.path}/{name}": (33, 44) for name in ("cpu.max", "memory.reclaim")
    }
    group.join()
    assert group.pids() == [US]
    assert not group.remove()
    kernel.procs[group.path].clear()
    assert group.remove()
    assert group.remove()
    assert group.pids() == []


def test_what_a_group_limits(use: Callable[[Kernel], Kernel]) -> None:
    kernel = use(Kernel())
    group = open_cgroups("/cg").make("shop", 1)
    assert group is not None
    kernel.values[f"{group.path}/memory.current"] = "8192\n"
    assert group.memory() == 8192
    limit = f"{group.path}/cpu.max"
    for percent, text in ((150, "150000 100000"), (0.1, "1000 100000"), (0, "max 100000")):
        assert group.throttle(percent)
        assert kernel.values[limit] == text
    assert group.reclaim()
    assert kernel.values[f"{group.path}/memory.reclaim"] == "8192"


def test_memory_that_could_not_all_be_reclaimed(
    use: Callable[[Kernel], Kernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = use(Kernel())
    group = open_cgroups("/cg").make("shop", 1)
    assert group is not None
    assert not group.reclaim()  # nothing is there
    kernel.values[f"{group.path}/memory.current"] = "8192\n"

    def refuse(path: str, text: str) -> None:
        raise OSError(errno.EAGAIN, "Try again", path)

    monkeypatch.setattr(cgroup, "_write", refuse)
    assert group.reclaim()
    assert not group.throttle(1)


def test_without_controllers_nothing_is_limited(
    use: Callable[[Kernel], Kernel],
) -> None:
    use(Kernel(controllers=""))
    groups = open_cgroups("/cg")
    assert (groups.is_usable, groups.controllers) == (True, ())
    group = groups.make("shop", 1)
    assert group is not None
    assert not group.throttle(50)
    assert not group.reclaim()
    assert "cannot be throttled" in groups.describe()
    assert "push out their own memory" in groups.describe()


def test_a_group_with_others_in_it_is_not_ours(use: Callable[[Kernel], Kernel]) -> None:
    kernel = use(Kernel(others=(1, 2)))
    groups = open_cgroups("/cg")
    assert not groups.is_usable
    assert groups.why == (
        "/cg is not ours alone (2 other processes are in it); systemd: Delegate=yes"
    )
    assert "cannot be throttled" in groups.describe()
    assert kernel.procs == {"/cg": {US, 1, 2}}
    assert groups.make("shop", 1) is None
    assert groups.group("shop", 1) is None
    groups.remove_all()


def test_a_group_that_was_not_handed_over(use: Callable[[Kernel], Kernel]) -> None:
    kernel = use(Kernel())
    kernel.is_locked = True
    assert open_cgroups("/cg").why == "/cg/service: Permission denied"


def test_an_upgraded_server_starts_in_the_leaf(use: Callable[[Kernel], Kernel]) -> None:
    kernel = use(Kernel())
    open_cgroups("/cg")
    kernel.procs["/cg/service"].add(4711)  # the old one
    groups = open_cgroups("/cg")
    assert (groups.base, groups.controllers) == ("/cg", ("cpu", "memory"))


def test_groups_of_the_dead_are_removed(use: Callable[[Kernel], Kernel]) -> None:
    kernel = use(Kernel())
    dead, ours = f"/cg/pool-x.1-{1 << 30}", f"/cg/pool-x.1-{US}"
    for path in (dead, ours, "/cg/another"):
        kernel.make(path)
    groups = open_cgroups("/cg")
    assert set(kernel.procs) == {"/cg", "/cg/service", "/cg/another", ours}
    groups.remove_all()
    assert set(kernel.procs) == {"/cg", "/cg/service", "/cg/another"}


def test_no_cgroup2_at_all(tmp_path: Path) -> None:
    assert open_cgroups(str(tmp_path)).why == f"no cgroup2 at {tmp_path}"


@pytest.mark.parametrize("line", ["", "0::/../other\n", "0::/not/mounted\n"])
def test_own_group_out_of_sight(tmp_path: Path, line: str) -> None:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(line)
    with pytest.raises(OSError, match="outside"):
        find_own(str(tmp_path), str(tmp_path))


def test_plain_folder_stands_in(tmp_path: Path) -> None:
    new = tmp_path / ".new-group"
    new.mkdir()
    for name in ("cgroup.procs", "cgroup.controllers", "cgroup.subtree_control"):
        (tmp_path / name).touch()
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    for name in ("cgroup.procs", "cpu.max"):
        (new / name).touch()
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/\n")
    groups = open_cgroups(str(tmp_path), proc=str(tmp_path))
    assert groups.controllers == ("cpu", "memory")
    assert (tmp_path / "service" / "cgroup.procs").read_text() == f"{US}\n"
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu\n+memory\n"
    group = groups.make("shop", 0)
    assert group is not None
    group.join()
    assert group.throttle(50)
    assert not group.reclaim()
    assert Path(group.path, "cpu.max").read_text() == "50000 100000\n"
    assert not group.remove()
    Path(group.path, "cgroup.procs").write_text(f"{1 << 30}\n")
    assert group.remove()


def real_root() -> str:
    """Where a cgroup2 of this machine can be written to; "": nowhere."""
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if os.path.exists(f"{root}/cgroup.controllers") and os.access(root, os.W_OK):
            return root
    return ""


@pytest.fixture
def real_group() -> Iterator[Path]:
    group = Path(real_root()) / f"kernelq-test-{US}"
    group.mkdir()
    yield group
    for path in sorted(group.glob("**/"), reverse=True):
        path.rmdir()


REAL = """
import os, sys
from kernelq.cgroup import open_cgroups
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
groups = open_cgroups("/sys/fs/cgroup")
assert groups.base == sys.argv[1], groups
assert open_cgroups("/sys/fs/cgroup").base == sys.argv[1]
group = groups.make("shop", 0)
told, tell = os.pipe()
child = os.fork()
if child == 0:
    group.join()
    os.write(tell, open("/proc/self/cgroup").read().encode())
    while True:
        pass
print(os.read(told, 4096).decode())
assert group.pids() == [child]
assert not group.remove()
assert group.throttle(50) == ("cpu" in groups.controllers)
os.kill(child, 9)
print(os.waitpid(child, 0)[1])
groups.remove_all()
assert not os.path.exists(group.path)
"""


@pytest.mark.skipif(not real_root(), reason="no cgroup2 that could be written to")
def test_the_real_kernel(real_group: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REAL, str(real_group)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n9\n")
    assert f"0::/{real_group.name}/pool-shop.0-" in done.stdout


def test_nothing_without_a_base() -> None:
    Cgroups().remove_abandoned()
    assert Group("/nowhere").memory() is None
