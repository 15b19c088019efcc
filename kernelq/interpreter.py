"""The Python interpreter that a pool's workers run: this one, or another (`python`), which must
have the same kernelq.

Another interpreter is asked beforehand, by a child that runs as the pool's user, with little time:
a worker that cannot import kernelq would only die without a word. What it says is lines of text, of
which nothing is believed but that they are folders' names. An answer is kept as long as the
interpreter's file is the same; a failure is not: installing kernelq does not change that file.
"""

import math
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import kernelq
from kernelq.errors import StartError
from kernelq.identity import Identity
from kernelq.landlock import outermost
from kernelq.status import describe_status

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(kernelq.__file__)))
PATIENCE_SECONDS = 20.0
SILENCE_SECONDS = 300.0
_ANSWER_BYTES_MAX = 65536
_MARK = "kernelq-interpreter"

# This interpreter, started again, finds this very kernelq, and nothing else by way of it, before
# the application's directory counts.
_BOOT_OWN = (
    "import sys; sys.path.insert(0, {root!r}); import kernelq; del sys.path[:{added}]; "
    "from kernelq.{module} import main; main({descriptor})"
)
# Another one finds the kernelq that is installed there; -c puts "" first, unless told not to.
_BOOT_OTHER = (
    "import sys; sys.path[:1] = sys.path[:1] if sys.flags.safe_path else []; "
    "from kernelq.{module} import main; main({descriptor})"
)
_QUESTION = f"""
import sys
sys.path[:1] = sys.path[:1] if sys.flags.safe_path else []
import kernelq, kernelq._worker
print({_MARK!r}, kernelq.__version__, getattr(kernelq._worker, "layout_version", 0))
places = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sys.path]
print("\\n".join(place for place in places if "\\n" not in place))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What to execute, and the folders that it reads; both as real processes will find them."""

    path: str
    places: tuple[str, ...]
    is_own: bool = True
    stamp: tuple[int, ...] = ()  # of another one's file, when it was asked
    options: tuple[str, ...] = ()  # of this one, which a new one shall have too

    @property
    def is_current(self) -> bool:
        """Whether the file is still the one that was asked."""
        return self.is_own or self.stamp == _stamp_of(self.path)

    def command(self, module: str, descriptor: int) -> list[str]:
        """The new process's argv: run the module's main with the descriptor of its link."""
        if not self.is_own:
            boot = _BOOT_OTHER.format(module=module, descriptor=descriptor)
            return [self.path, "-c", boot]
        added = 1 if sys.flags.safe_path else 2  # -c puts "" before what _BOOT_OWN puts there
        boot = _BOOT_OWN.format(root=ROOT, added=added, module=module, descriptor=descriptor)
        return [self.path, *self.options, "-c", boot]


@dataclass(frozen=True, slots=True)
class _Answer:
    version: str
    layout: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    stamp: tuple[int, ...]
    until: float
    answer: _Answer | None


_answers: dict[tuple[str, int, int], _Known] = {}  # by interpreter, user and group


def own_interpreter() -> Interpreter:
    folders = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, ROOT]
    # The first is where the script lies or the server was started, which is nobody's but ours.
    folders += sys.path if sys.flags.safe_path else sys.path[1:]
    options = tuple(_own_options())
    return Interpreter(sys.executable, _places(sys.executable, folders), options=options)


def find_interpreter(path: str, identity: Identity, environment: dict[str, str]) -> Interpreter:
    """The interpreter of that name; "": this one. StartError when workers could not run there."""
    if not path or os.path.abspath(path) == os.path.abspath(sys.executable):
        return own_interpreter()
    stamp = _stamp_of(path)
    theirs = _ask_once(path, identity, environment)
    ours = _ask_once(sys.executable, Identity(), {**os.environ, "PYTHONPATH": ROOT})
    if (theirs.version, theirs.layout) != (ours.version, ours.layout):
        raise StartError(
            f"python: {path} has kernelq {theirs.version} (layout {theirs.layout}), and this is "
            f"kernelq {ours.version} (layout {ours.layout}): the same must be installed there"
        )
    return Interpreter(path, _places(path, [*theirs.places]), is_own=False, stamp=stamp)


def _places(path: str, folders: list[str]) -> tuple[str, ...]:
    # An executable that is a chain of symbolic links needs the last link's folder only. The whole
    # file system is no place: an empty part of PYTHONPATH can mean it.
    folders = [*folders, os.path.dirname(os.path.realpath(path))]
    real = {os.path.realpath(folder) for folder in folders if os.path.isabs(folder)}
    return outermost([folder for folder in real if folder != "/"])


def _ask_once(path: str, identity: Identity, environment: dict[str, str]) -> _Answer:
    stamp = _stamp_of(path)
    key = (path, identity.uid, identity.gid)
    known = _answers.get(key)
    if known is None or known.stamp != stamp or known.until <= time.monotonic():
        answer = _ask(path, identity, environment)
        until = math.inf if answer else time.monotonic() + SILENCE_SECONDS
        known = _answers[key] = _Known(stamp, until, answer)
    if known.answer is None:
        raise StartError(
            f"python: {path} did not answer within {PATIENCE_SECONDS:g} s, or without end"
        )
    return known.answer


def _stamp_of(path: str) -> tuple[int, ...]:
    """What changes with the file, or with what its name leads to; () when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_dev


def _ask(path: str, identity: Identity, environment: dict[str, str]) -> _Answer | None:
    """What it says; None: nothing, and it has not ended either. StartError: no kernelq is there."""
    status, text = _run(path, identity, environment)
    _, mark, answer = text.rpartition(_MARK)
    lines = answer.splitlines()
    words = lines[0].split() if lines else []
    if status is None:
        return None
    if status or not mark or len(words) != 2:
        last = text.strip().rpartition("\n")[2] or "it said nothing"
        raise StartError(
            f"python: {path} cannot import kernelq ({describe_status(status)}: {last}); "
            f"install it there: {path} -m pip install kernelq=={kernelq.__version__}"
        )
    return _Answer(words[0], words[1], tuple(line for line in lines[1:] if os.path.isabs(line)))


def _run(path: str, identity: Identity, environment: dict[str, str]) -> tuple[int | None, str]:
    """The wait status (None: it took too long) and what was written."""
    become = {}
    if identity.uid >= 0:
        become = {
            "user": identity.uid,
            "group": identity.gid,
            "extra_groups": list(identity.groups),
        }
    try:
        process = subprocess.Popen(
            [path, "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            start_new_session=True,
            **become,  # type: ignore[call-overload]
        )
    except OSError as found:
        raise StartError(f"python: cannot run {path}: {found.strerror}") from None
    text = _read_within(process.stdout.fileno(), time.monotonic() + PATIENCE_SECONDS)
    process.stdout.close()
    if text is None:
        os.killpg(process.pid, signal.SIGKILL)
    status = _wait_status(process.wait())
    return (None, "") if text is None else (status, text.decode("utf-8", "replace"))


def _wait_status(code: int) -> int:
    return -code if code < 0 else code << 8


def _read_within(descriptor: int, deadline: float) -> bytes | None:
    """All that comes before the end; None when that comes too late, or never."""
    data = b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(data) < _ANSWER_BYTES_MAX:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        more = os.read(descriptor, 4096)
        if not more:
            return data
        data += more
    return None


def _own_options() -> list[str]:
    """The options of this interpreter that a new one shall have too (-O, -W, -X ...)."""
    if len(sys.orig_argv) == 1:
        return []
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return options
