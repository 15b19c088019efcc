"""What a worker process is, by real processes: its user and groups, its limits, and what it cannot
reach. Most of it needs root, and a Python that other users can run.
"""

import grp
import os
import pickle
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from server import PATIENCE_SECONDS, ROOT
from spawning import (
    HANGING,
    OTHER_PYTHON,
    PoolSpawner,
    listen,
    make_folder,
    make_pool,
    make_stand_in,
    nobody_can_run,
    reporting,
)

from kernelq import landlock
from kernelq.config import CpuSettings, PoolSettings
from kernelq.letters import FromSpawner, ToSpawner, ToTable, ToWorker
from kernelq.parcel import send_parcel

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")

needs_other_python = pytest.mark.skipif(
    os.geteuid() == 0 and not nobody_can_run(OTHER_PYTHON),
    reason=f"{OTHER_PYTHON} cannot run this kernelq as another user",
)
needs_kernelq_outside_tmp = pytest.mark.skipif(
    any(ROOT.is_relative_to(folder) for folder in ("/tmp", "/var/tmp")),
    reason=f"private_tmp would hide this kernelq ({ROOT}) from its own workers",
)
needs_landlock = pytest.mark.skipif(landlock.version() == 0, reason="no Landlock here")

Spawn = Callable[..., PoolSpawner]


@pytest.fixture
def folder() -> Iterator[Path]:
    made = make_folder()
    yield made
    shutil.rmtree(made)


@pytest.fixture
def spawn(folder: Path) -> Iterator[Spawn]:
    made: list[PoolSpawner] = []

    def spawn_one(*pools: PoolSettings, **more: object) -> PoolSpawner:
        settings: dict[str, Any] = {"python": OTHER_PYTHON, **more}
        made.append(PoolSpawner(folder, *pools, **settings))
        return made[-1]

    yield spawn_one
    for spawner in made:
        assert spawner.end() == 0


@needs_other_python
def test_files_belong_to_the_user_and_groups_of_the_pool(folder: Path, spawn: Spawn) -> None:
    made = folder / "made"
    made.mkdir()
    made.chmod(0o777)
    code = reporting(
        f"path = {str(made / 'file')!r}\n"
        "os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))\n"
        "found['uid'], found['gid'] = os.getresuid(), os.getresgid()\n"
        "found['groups'] = sorted(os.getgroups())\n"
        "found['home'] = [os.environ[name] for name in ('HOME', 'USER', 'LOGNAME')]\n"
    )
    pool = make_pool(
        folder, code, user="daemon", group="games", groups=("mail", "www-data"), umask=0o027
    )
    found = spawn(pool).ask()
    user, group = pwd.getpwnam("daemon"), grp.getgrnam("games").gr_gid
    assert found["uid"] == [user.pw_uid] * 3
    assert found["gid"] == [group] * 3
    names = ("mail", "www-data", "games")
    assert found["groups"] == sorted(grp.getgrnam(name).gr_gid for name in names)
    assert found["home"] == [user.pw_dir, "daemon", "daemon"]
    file = (made / "file").stat()
    assert (file.st_uid, file.st_gid, file.st_mode & 0o777) == (user.pw_uid, group, 0o640)


@needs_other_python
def test_no_group_of_root_is_left(folder: Path, spawn: Spawn) -> None:
    code = reporting("found['groups'] = os.getgroups()\n")
    found = spawn(make_pool(folder, code, user="nobody", groups=())).ask()
    assert found["groups"] == [pwd.getpwnam("nobody").pw_gid]


TRY_ALL = """
import errno, socket
def attempt(name, what):
    try:
        what()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
for line in open({targets!r}):
    name, pid = line.split()
    attempt(name + " mem", lambda: open("/proc/" + pid + "/mem", "rb").close())
    attempt(name + " fd", lambda: os.listdir("/proc/" + pid + "/fd"))
    attempt(name + " environ", lambda: open("/proc/" + pid + "/environ", "rb").close())
    attempt(name + " channel", lambda: [os.open("/proc/" + pid + "/fd/" + str(n), os.O_RDWR)
                                        for n in range(3, 9)])
    attempt(name + " kill", lambda: os.kill(int(pid), 0))
attempt("control", lambda: socket.socket(socket.AF_UNIX).connect({control!r}))
"""

SERVICE = """
import os, sys, time
from kernelq import linux
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
linux.forbid_inspection()
print("ready", flush=True)
sys.stdin.read()
"""


@needs_other_python
@pytest.mark.parametrize("user", ["daemon", "games"], ids=["same user", "other user"])
def test_a_worker_reaches_nothing_of_others(folder: Path, spawn: Spawn, user: str) -> None:
    targets, control = folder / "targets", folder / "control.sock"
    code = reporting(TRY_ALL.format(targets=str(targets), control=str(control)))
    other = make_pool(folder, HANGING, "other", user="daemon")
    one = make_pool(folder, code, "one", user=user)
    spawner = spawn(other, one)
    sibling = spawner.started(1, pool=0)
    service = subprocess.Popen(
        [OTHER_PYTHON, "-c", SERVICE],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert service.stdin is not None
    assert service.stdout is not None
    assert service.stdout.readline() == b"ready\n"
    lines = {"sibling": sibling, "spawner": spawner.process.pid, "service": service.pid}
    targets.write_text("".join(f"{name} {pid}\n" for name, pid in lines.items()))
    listener = listen(control, 0o600, 65534)
    found = spawner.ask(2, pool=1)
    service.stdin.close()
    service.stdout.close()
    service.wait(PATIENCE_SECONDS)
    listener.close()
    if user == "daemon":
        assert found.pop("sibling kill") == "done"  # against that there is no defence
    assert len(found) >= 15
    assert set(found.values()) <= {"EACCES", "EPERM"}, found


@needs_other_python
@needs_landlock
def test_landlock_keeps_a_worker_in_its_places(folder: Path, spawn: Spawn) -> None:
    for name in ("data", "store", "secret"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
        (folder / name / "file").write_text(name)
        (folder / name / "file").chmod(0o666)
    code = reporting(
        f"folder = {str(folder)!r}\n"
        "def attempt(name, what):\n"
        "    try:\n"
        "        found[name] = what() or 'done'\n"
        "    except OSError as error:\n"
        "        found[name] = type(error).__name__\n"
        "attempt('read data', lambda: open(folder + '/data/file').read())\n"
        "attempt('write data', lambda: open(folder + '/data/new', 'w').close())\n"
        "attempt('read store', lambda: open(folder + '/store/file').read())\n"
        "attempt('write store', lambda: open(folder + '/store/new', 'w').close())\n"
        "attempt('truncate store', lambda: os.truncate(folder + '/store/file', 1))\n"
        "store = folder + '/store/'\n"
        "attempt('rename store', lambda: os.rename(store + 'new', store + 'x'))\n"
        "attempt('read secret', lambda: open(folder + '/secret/file').read())\n"
        "attempt('list secret', lambda: os.listdir(folder + '/secret') and 'done')\n"
        "attempt('write secret', lambda: open(folder + '/secret/new', 'w').close())\n"
        "attempt('truncate secret', lambda: os.truncate(folder + '/secret/file', 1))\n"
        "attempt('move out', lambda: os.rename(folder + '/store/x', folder + '/secret/x'))\n"
        "attempt('write tmp', lambda: open('/tmp/kernelq-never', 'w').close())\n"
        "attempt('write null', lambda: open('/dev/null', 'w').write('x') and 'done')\n"
        "attempt('random', lambda: open('/dev/urandom', 'rb').read(1) and 'done')\n"
        "import ssl, sqlite3, zoneinfo, subprocess\n"
        "attempt('zone', lambda: zoneinfo.ZoneInfo('Europe/Berlin').key)\n"
        "attempt('run', lambda: subprocess.run(['true'], check=True) and 'done')\n"
        "attempt('kill spawner', lambda: os.kill(os.getppid(), 0))\n"
    )
    pool = make_pool(
        folder,
        code,
        user="daemon",
        read_only=(str(folder / "data"),),
        writable=(str(folder / "store"),),
    )
    found = spawn(pool).ask()
    assert found["read data"] == "data"
    assert found["read store"] == "store"
    done = ("write store", "rename store", "truncate store", "write null", "random", "run")
    assert {found[name] for name in done} == {"done"}
    assert found["zone"] == "Europe/Berlin"
    denied = ["write data", "read secret", "list secret", "write secret", "write tmp"]
    denied += ["move out", "truncate secret"] if landlock.version() >= 3 else ["move out"]
    assert {found[name] for name in denied} <= {"PermissionError", "OSError"}, found
    assert found["kill spawner"] == "PermissionError"
    assert (folder / "secret" / "file").read_text() == "secret"


@needs_landlock
def test_landlock_place_that_is_not_there_is_a_refusal(folder: Path, spawn: Spawn) -> None:
    pool = make_pool(folder, HANGING, read_only=("/nowhere/at/all",))
    text = spawn(pool).refusal()
    assert text == ("pool default: read_only, writable: /nowhere/at/all: No such file or directory")


@needs_landlock
@needs_other_python
def test_landlock_of_a_sibling_of_the_same_user_forbids_signals(folder: Path, spawn: Spawn) -> None:
    if landlock.version() < 6:
        pytest.skip("signals are restricted since version 6")
    targets = folder / "targets"
    code = reporting(TRY_ALL.format(targets=str(targets), control="/nowhere"))
    other = make_pool(folder, HANGING, "other", user="daemon")
    one = make_pool(folder, code, "one", user="daemon", read_only=(str(folder),))
    spawner = spawn(other, one)
    targets.write_text(f"sibling {spawner.started(1, pool=0)}\n")
    assert spawner.ask(2, pool=1)["sibling kill"] == "EPERM"


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of the real kernel, empty before and after."""
    roots = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
    root = next((one for one in roots if (one / "cgroup.controllers").exists()), None)
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("no cgroup2 that could be written to")
    made = root / f"kernelq-test-{os.getpid()}"
    made.mkdir()
    yield made
    (made / "service").rmdir()
    made.rmdir()


@needs_other_python
def test_workers_run_in_the_group_of_their_pool(folder: Path, group: Path, spawn: Spawn) -> None:
    code = reporting("found['group'] = open('/proc/self/cgroup').read()\n")
    one = make_pool(folder, code, "one", user="daemon")
    two = replace(make_pool(folder, code, "two"), preload=True)
    spawner = spawn(one, two, cgroup=str(group))
    pid = spawner.process.pid
    assert f"0::/{group.name}/pool-one.0-{pid}\n" in spawner.ask(1, pool=0)["group"]
    refused = spawner.refusal(2, pool=1)  # the zygote's report
    assert f"0::/{group.name}/pool-two.1-{pid}\\n" in refused
    assert (group / "service" / "cgroup.procs").read_text() == f"{pid}\n"


def only(folder: Path) -> Path:
    (found,) = folder.glob("pool-*")
    return found


def test_a_pool_is_throttled_by_its_group(folder: Path, spawn: Spawn) -> None:
    root = make_stand_in(folder)
    pool = replace(make_pool(folder, HANGING), cpu=CpuSettings(limit=50.0))
    spawner = spawn(pool, python=sys.executable, stand_in=str(root))
    pid = spawner.started(1)
    group = only(root)
    assert (group / "cgroup.procs").read_text() == f"{pid}\n"
    for is_on in (1, 0):
        spawner.link.send(ToSpawner.THROTTLE, 0, is_on)
    spawner.link.send(ToSpawner.THROTTLE, 1, 1)  # no such pool
    spawner.started(2)
    assert (group / "cpu.max").read_text() == "50000 100000\nmax 100000\n"
    assert spawner.errors.read_text().count("refused") == 1


def test_the_group_of_a_pool_goes_with_its_last_worker(folder: Path, spawn: Spawn) -> None:
    root = make_stand_in(folder)
    pool = make_pool(folder, HANGING)
    spawner = spawn(pool, python=sys.executable, stand_in=str(root))
    spawner.started(1)
    old = only(root)
    new = {1: replace(pool, index=1)}
    send_parcel(spawner.table, ToTable.POOLS, pickle.dumps(new), [])
    spawner.started(2, pool=1)
    assert old.exists()
    spawner.link.send(ToSpawner.SIGNAL, 1, signal.SIGKILL)
    spawner.expect(FromSpawner.DIED, 1)
    assert not old.exists()
    assert only(root).name.startswith("pool-default.1-")
    spawner.start(3, pool=0)
    spawner.expect(FromSpawner.FAILED, 3)
    spawner.started(4, pool=1)
    assert spawner.errors.read_text().count("refused") == 1


def test_without_groups_a_throttle_is_a_warning(folder: Path, spawn: Spawn) -> None:
    spawner = spawn(make_pool(folder, HANGING), python=sys.executable)
    for is_on in (1, 0):
        spawner.link.send(ToSpawner.THROTTLE, 0, is_on)
    spawner.started(1)
    assert spawner.errors.read_text().count("no control group here to throttle it by") == 1


HEAR = """
import select, socket
links = []
for name in os.listdir("/proc/self/fd"):
    try:
        links.append(socket.socket(fileno=os.dup(int(name))))
    except OSError:
        pass
(link,) = select.select(links, [], [])[0]
found["kind"] = link.recv(100)[0]
"""


@needs_other_python
def test_a_worker_that_we_may_not_touch_is_asked_to_suspend(folder: Path, spawn: Spawn) -> None:
    spawner = spawn(make_pool(folder, reporting(HEAR)), user=1)
    spawner.link.send(ToSpawner.SUSPEND, 1)  # not yet known
    spawner.started(1)
    spawner.link.send(ToSpawner.SUSPEND, 1)
    assert spawner.report(1) == {"kind": ToWorker.SUSPEND}
    assert spawner.errors.read_text().count("refused") == 1


def test_a_worker_that_we_may_touch_is_suspended_unasked(folder: Path, spawn: Spawn) -> None:
    root = make_stand_in(folder)
    spawner = spawn(make_pool(folder, HANGING), python=sys.executable, stand_in=str(root))
    spawner.started(1)
    spawner.link.send(ToSpawner.SUSPEND, 1)
    reclaim = only(root) / "memory.reclaim"
    while not reclaim.read_text():  # by a child, some time
        os.sched_yield()
    assert reclaim.read_text() == "4096\n"


@needs_other_python
def test_limits_are_as_set(folder: Path, spawn: Spawn) -> None:
    cpu = min(os.sched_getaffinity(0))
    code = reporting(
        "import resource\n"
        "found['nofile'] = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "found['core'] = resource.getrlimit(resource.RLIMIT_CORE)\n"
        "found['nice'] = os.getpriority(os.PRIO_PROCESS, 0)\n"
        "found['cpus'] = sorted(os.sched_getaffinity(0))\n"
        "old = os.umask(0)\n"
        "found['umask'] = old\n"
        "found['session'] = os.getsid(0) == os.getpid()\n"
        "found['status'] = open('/proc/self/status').read()\n"
        "found['stdin'] = os.readlink('/proc/self/fd/0')\n"
    )
    pool = make_pool(
        folder,
        code,
        user="daemon",
        umask=0o077,
        nice=-3,
        rlimits=(("nofile", 300, 400), ("core", 0, 0)),
        inspectable=True,
    )
    found = spawn(replace(pool, cpu=CpuSettings(affinity=(cpu,)))).ask()
    assert found["nofile"] == [300, 400]
    assert found["core"] == [0, 0]
    assert found["nice"] == -3
    assert found["cpus"] == [cpu]
    assert found["umask"] == 0o077
    assert found["session"]
    assert "NoNewPrivs:\t1" in found["status"]
    assert found["stdin"] == "/dev/null"


@needs_other_python
def test_worker_of_another_interpreter(folder: Path, spawn: Spawn) -> None:
    code = reporting("import sys\nfound['python'], found['path'] = sys.executable, sys.path\n")
    pool = make_pool(folder, code, user="daemon", python=OTHER_PYTHON)
    found = spawn(pool, python=sys.executable).ask()
    assert found["python"] == OTHER_PYTHON
    assert found["path"][0] == str(folder / "default")
    assert sys.prefix not in " ".join(found["path"])


@needs_other_python
def test_environment_is_clean(folder: Path, spawn: Spawn) -> None:
    code = reporting("found.update(os.environ)\n")
    pool = make_pool(
        folder, code, user="daemon", environment=(("COLOUR", "blue"), ("LANG", "C.UTF-8"))
    )
    inherited = {
        "NOTIFY_SOCKET": "/run/x",
        "LISTEN_FDS": "1",
        "LISTEN_PID": "1",
        "LISTEN_FDNAMES": "http",
        "WATCHDOG_USEC": "1",
        "KERNELQ_STALL": "9",
        "XDG_RUNTIME_DIR": "/run/user/0",
        "SSH_AUTH_SOCK": "/root/agent",
        "LANG": "C",
        "KEPT": "yes",
    }
    found = spawn(pool, environment=inherited).ask()
    assert found["COLOUR"] == "blue"
    assert found["LANG"] == "C.UTF-8"
    assert found["KEPT"] == "yes"
    assert found["HOME"] == pwd.getpwnam("daemon").pw_dir
    assert not {*found} & ({*inherited} - {"LANG", "KEPT"})


PRIVATE_TMP = """
import tempfile
found["tmp"] = tempfile.gettempdir()
found["seen"] = [sorted(os.listdir(path)) for path in ("/tmp", "/var/tmp")]
with open(tempfile.gettempdir() + "/mine", "w") as file:
    found["owner"] = os.fstat(file.fileno()).st_uid
open("/var/tmp/mine", "w").close()
"""


@needs_other_python
@needs_kernelq_outside_tmp
def test_private_tmp_is_not_shared(folder: Path, spawn: Spawn) -> None:
    marks = [Path("/tmp") / folder.name, Path("/var/tmp") / folder.name]
    for mark in marks:
        mark.touch()
    try:
        pool = make_pool(folder, reporting(PRIVATE_TMP), user="daemon", private_tmp=True)
        spawner = spawn(pool)
        for worker in (1, 2):
            found = spawner.ask(worker)
            assert found == {
                "tmp": "/tmp",
                "seen": [[], []],
                "owner": pwd.getpwnam("daemon").pw_uid,
            }
        assert not Path("/var/tmp/mine").exists()
    finally:
        for mark in marks:
            mark.unlink()


@needs_other_python
@needs_landlock
@needs_kernelq_outside_tmp
def test_private_tmp_is_writable_where_little_else_is(folder: Path, spawn: Spawn) -> None:
    more = {"private_tmp": True, "read_only": (str(folder),)}
    pool = make_pool(folder, reporting(PRIVATE_TMP), user="daemon", **more)
    assert spawn(pool).ask()["tmp"] == "/tmp"
    poor = make_pool(folder, reporting(FOLDER_TMP), "poor", **more)
    assert spawn(poor, user=1).ask()["mode"] == 0o700


@needs_other_python
def test_private_tmp_over_the_application_is_a_refusal(folder: Path) -> None:
    place = Path("/var/tmp") / folder.name
    place.mkdir()
    try:
        pool = make_pool(place, HANGING, user="daemon", private_tmp=True)
        spawner = PoolSpawner(folder, pool, python=OTHER_PYTHON)
        text = spawner.refusal()
        assert text.endswith("lies in /var/tmp, where the workers would not see it"), text
        assert spawner.end() == 0
    finally:
        shutil.rmtree(place)


FOLDER_TMP = """
import tempfile
found["tmp"] = tempfile.gettempdir()
found["mode"] = os.stat(tempfile.gettempdir()).st_mode & 0o777
os.makedirs(tempfile.gettempdir() + "/deep/er")
"""


@needs_other_python
def test_tmp_folder_where_mounts_are_not_allowed(folder: Path, spawn: Spawn) -> None:
    pool = make_pool(folder, reporting(FOLDER_TMP), private_tmp=True)
    spawner = spawn(pool, user=1)  # no root, no mounts
    ours = folder / "default"
    found = spawner.ask()
    assert found["mode"] == 0o700
    assert "kernelq-tmp-1-" in found["tmp"]
    assert "TMPDIR names a folder" in spawner.errors.read_text()
    again = spawner.ask(2)
    assert again["tmp"] != found["tmp"]
    spawner.link.close()
    assert spawner.process.wait(PATIENCE_SECONDS) == 0
    assert not Path(found["tmp"]).parent.exists()
    assert ours.exists()


@needs_other_python
def test_workers_of_a_zygote_share_its_tmp_folder_to_the_last(folder: Path, spawn: Spawn) -> None:
    code = f"import tempfile\nopen({str(folder / 'said')!r}, 'w').write(tempfile.gettempdir())\n"
    os.mkfifo(folder / "said", 0o666)
    os.chmod(folder / "said", 0o666)
    pool = make_pool(folder, code + "def application(e, s): pass\n", private_tmp=True)
    spawner = spawn(replace(pool, preload=True), user=1)
    spawner.start(1)
    place = Path((folder / "said").read_text())
    spawner.expect(FromSpawner.STARTED, 1)
    spawner.link.send(ToSpawner.RETIRE, 0, 0)
    spawner.expect(FromSpawner.DIED, 1)  # by itself: its channel is none
    while place.exists():  # it and the zygote have gone
        os.sched_yield()


@needs_other_python
def test_what_a_killed_spawner_left_is_removed_by_the_next(folder: Path, spawn: Spawn) -> None:
    hang = f"import tempfile\nprint(tempfile.mkdtemp(), file=open({str(folder / 'said')!r}, 'w'))\n"
    os.mkfifo(folder / "said", 0o666)
    os.chmod(folder / "said", 0o666)
    pool = make_pool(folder, hang + HANGING, private_tmp=True)
    first = PoolSpawner(folder, pool, python=OTHER_PYTHON, user=1)
    first.start(1)
    left = Path((folder / "said").read_text().strip())
    worker = first.expect(FromSpawner.STARTED, 1).numbers[1]
    first.process.kill()
    first.process.wait(PATIENCE_SECONDS)
    first.end()
    assert left.exists()
    pidfd_wait(worker)
    second = spawn(make_pool(folder, reporting(""), "second"), user=1)
    second.ask()
    while left.parent.parent.exists():  # removed by a child, some time
        os.sched_yield()


def pidfd_wait(pid: int) -> None:
    """Until a process that is nobody's any more has gone: it becomes our child, or init's."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def test_a_worker_that_cannot_be_made_is_never_started(folder: Path, spawn: Spawn) -> None:
    pool = make_pool(folder, HANGING, rlimits=(("nofile", 10, 1 << 40),))
    spawner = spawn(pool, python=sys.executable)
    text = spawner.refusal()
    assert text == "pool default: rlimits: nofile: not allowed to raise maximum limit"
    spawner.link.send(ToSpawner.SIGNAL, 1, signal.SIGKILL)  # no such worker
    assert spawner.refusal(2) == text


def test_unknown_user_is_a_refusal_with_words(folder: Path, spawn: Spawn) -> None:
    spawner = spawn(make_pool(folder, HANGING, user="nobody-at-all"), python=sys.executable)
    assert spawner.refusal() == "pool default: user: there is no user 'nobody-at-all'"


def test_zygote_that_cannot_be_made_refuses_its_workers(folder: Path, spawn: Spawn) -> None:
    pool = make_pool(folder, HANGING, rlimits=(("nofile", 10, 1 << 40),))
    spawner = spawn(replace(pool, preload=True), python=sys.executable)
    assert spawner.refusal() == "pool default: rlimits: nofile: not allowed to raise maximum limit"
