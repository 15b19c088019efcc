"""A spawner process that a test talks to as the service would, with pools of any kind."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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
from kernelq.spawner import run
sys.exit(run({pools!r}, link_from({descriptor})))
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
    ) -> None:
        self.link, theirs = link_pair()
        os.set_inheritable(theirs.fileno(), True)
        numbered = [replace(pool, index=index) for index, pool in enumerate(pools)]
        code = _SPAWNER.format(pools=numbered, descriptor=theirs.fileno())
        self.errors = folder / "errors"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [python, "-c", code],
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                pass_fds=[theirs.fileno()],
                stderr=errors,
                cwd=folder,
                user=user,
                extra_groups=None if user is None else [],
            )
        theirs.close()
        self.link._socket.settimeout(PATIENCE_SECONDS)
        self.controls: dict[int, Link] = {}

    def start(self, worker: int, pool: int = 0, descriptors: Sequence[int] = ()) -> None:
        """Ask for a worker; its channel is no channel, which it finds out after the import."""
        ours, theirs = link_pair()
        ours._socket.settimeout(PATIENCE_SECONDS)
        self.controls[worker] = ours
        with open(os.devnull) as null:
            channel = descriptors or [null.fileno(), null.fileno()]
            passed = [*channel, theirs.fileno()]
            self.link.send(ToSpawner.START, pool, worker, 0, descriptors=passed)
        theirs.close()

    def expect(self, kind: int, worker: int) -> Message:
        message = self.link.receive()
        assert message is not None, self.errors.read_text()
        message.close_descriptors()
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
        for control in self.controls.values():
            control.close()
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


def listen(path: Path, mode: int, uid: int) -> socket.socket:
    """A socket file as the control socket's."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(mode)
    os.chown(path, uid, uid)
    listener.listen()
    return listener
