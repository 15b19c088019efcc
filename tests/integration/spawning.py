"""A spawner process that a test talks to as the service would, with pools of any kind."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from server import PATIENCE_SECONDS, ROOT

from kernelq.config import ApplicationSettings, PoolSettings, ProcessSettings
from kernelq.letters import Control, FromSpawner, ToSpawner
from kernelq.link import Link, Message, link_pair

OTHER_PYTHON = "/usr/bin/python3"  # the tests' own may lie in root's home
MARK = "what was found: "

_SPAWNER = """
import sys
from kernelq.config import *
from kernelq.link import link_from
from kernelq.cgroup import NO_CGROUPS, open_cgroups
from kernelq.spawner import run
group = {cgroup!r}
if group:
    open(group + "/cgroup.procs", "w").write("0")
cgroups = open_cgroups("/sys/fs/cgroup") if group else NO_CGROUPS
if {stand_in!r}:
    cgroups = open_cgroups({stand_in!r}, proc={stand_in!r})
table = link_from({table})
pools = {{pool.index: pool for pool in {pools!r}}}
status = run(pools, link_from({descriptor}), table, cgroups)
cgroups.remove_all()
sys.exit(status)
"""

HANGING = "import threading\nthreading.Event().wait()\n"


def reporting(code: str) -> str:
    """An application that leaves in `found` what its test asks for, and tells it by failing."""
    return f"import json, os\nfound = {{}}\n{code}\nraise LookupError({MARK!r} + json.dumps(found))"


def make_folder() -> Path:
    """A folder that every user can read, outside of /tmp and /var/tmp."""
    folder = Path(tempfile.mkdtemp(prefix="kernelq-test-", dir="/run"))
    folder.chmod(0o755)
    return folder


def make_pool(folder: Path, code: str, name: str = "default", **process: Any) -> PoolSettings:
    """A pool whose application, with this code, stands in a folder of its name."""
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "app.py").write_text(code)
    place.chmod(0o755)
    one = ApplicationSettings(app="app:application", directory=str(place), pool=name)
    settings = ProcessSettings(**{"descriptor_limit": 512, **process})
    return PoolSettings(
        name=name, applications=(one,), directory=str(place), max_processes=2, process=settings
    )


class PoolSpawner:
    """A spawner process, and the service's end of its link."""

    def __init__(
        self,
        folder: Path,
        *pools: PoolSettings,
        python: str = sys.executable,
        environment: dict[str, str] | None = None,
        user: int | None = None,
        cgroup: str = "",
        stand_in: str = "",
    ) -> None:
        self.link, theirs = link_pair()
        self.table, their_table = link_pair()
        numbered = [replace(pool, index=index) for index, pool in enumerate(pools)]
        code = _SPAWNER.format(
            cgroup=cgroup,
            stand_in=stand_in,
            pools=numbered,
            descriptor=theirs.fileno(),
            table=their_table.fileno(),
        )
        self.errors = folder / "errors"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [python, "-c", code],
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                pass_fds=[theirs.fileno(), their_table.fileno()],
                stderr=errors,
                cwd=folder,
                user=user,
                extra_groups=None if user is None else [],
            )
        theirs.close()
        their_table.close()
        self.link._socket.settimeout(PATIENCE_SECONDS)
        self.controls: dict[int, Link] = {}  # by worker
        self._links: list[Link] = []
        self.expected_status = 0

    def start(self, worker: int, pool: int = 0, generation: int = 0) -> None:
        """Ask for a worker; its channel is no channel, which it finds out after the import."""
        ours, theirs = link_pair()
        ours._socket.settimeout(PATIENCE_SECONDS)
        self.controls[worker] = ours
        self._links.append(ours)
        with open(os.devnull) as null:
            passed = [null.fileno(), null.fileno(), theirs.fileno()]
            self.link.send(ToSpawner.START, pool, worker, generation, descriptors=passed)
        theirs.close()

    def next(self) -> Message:
        message = self.link.receive()
        assert message is not None, self.errors.read_text()
        message.close_descriptors()
        return message

    def expect(self, kind: int, worker: int) -> Message:
        message = self.next()
        told = (message.kind, message.numbers[0])
        assert told == (kind, worker), (told, message.text, self.errors.read_text())
        return message

    def started(self, worker: int, pool: int = 0) -> int:
        """Start a worker; its pid."""
        self.start(worker, pool)
        return self.expect(FromSpawner.STARTED, worker).numbers[1]

    def ask(self, worker: int = 1, pool: int = 0) -> dict[str, Any]:
        """Start a worker whose application reports, and give what it found."""
        self.started(worker, pool)
        return self.report(worker)

    def report(self, worker: int) -> dict[str, Any]:
        """What the application of a started worker found."""
        message = self.controls[worker].receive()
        assert message is not None, self.errors.read_text()
        assert message.kind == Control.REFUSED
        assert MARK in message.text, message.text
        line = message.text.rpartition(MARK)[2].splitlines()[0]
        self.expect(FromSpawner.DIED, worker)
        found: dict[str, Any] = json.loads(line)
        return found

    def refusal(self, worker: int = 1, pool: int = 0) -> str:
        """Start a worker that cannot be made: why."""
        self.start(worker, pool)
        return self.expect(FromSpawner.FAILED, worker).text

    def end(self) -> int:
        self.link.close()
        self.table.close()
        for link in self._links:
            link.close()
        return self.process.wait(PATIENCE_SECONDS)


def nobody_can_run(python: str) -> bool:
    """Whether another user can run that Python with this kernelq."""
    environment = {"PYTHONPATH": str(ROOT)}
    probe = [python, "-c", "import kernelq._worker"]
    try:
        done = subprocess.run(probe, env=environment, user=65534, check=False, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def make_stand_in(folder: Path) -> Path:
    """A plain folder in place of a cgroup file system (kernelq/cgroup.py)."""
    root = folder / "cgroup"
    for name in (".new-group", "self"):
        (root / name).mkdir(parents=True)
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (root / name).touch()
    (root / "cgroup.controllers").write_text("cpu memory\n")
    (root / "self" / "cgroup").write_text("0::/\n")  # in place of /proc
    files = ("cgroup.procs", "cpu.max", "memory.reclaim")
    for name in files:
        (root / ".new-group" / name).touch()
    (root / ".new-group" / "memory.current").write_text("4096\n")
    return root


def listen(path: Path, mode: int, uid: int) -> socket.socket:
    """A socket file as the control socket's."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(mode)
    os.chown(path, uid, uid)
    listener.listen()
    return listener
