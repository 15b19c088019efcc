"""Trying whether applications can be loaded, without starting a server: `kernelq check`.

Each pool's applications are imported in a process like a worker's: the pool's interpreter, user,
folder and variables, and kernelq's own loader. What they print goes to standard error; what is
wrong comes back over a pipe of its own.
"""

import grp
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import kernelq
from kernelq import cpus
from kernelq.config import PoolSettings, ServerSettings
from kernelq.errors import StartError
from kernelq.identity import Identity, find_identity
from kernelq.units import SECOND

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(kernelq.__file__)))
_NO_KERNELQ = 79  # the status of an interpreter that cannot import kernelq
_BOOT = """
import sys
{path}
try:
    import kernelq.trial
except ImportError as found:
    print(found, file=sys.stderr)
    sys.exit({status})
{clean}
kernelq.trial.main({descriptor})
"""


def try_pools(settings: ServerSettings) -> list[str]:
    """What is wrong with the applications of all pools, in words; nothing if they can be loaded."""
    with ThreadPoolExecutor(cpus.count_usable()) as threads:
        return [error for errors in threads.map(_try_pool, settings.pools) for error in errors]


def _try_pool(pool: PoolSettings) -> list[str]:
    # Applications that differ in path alone are the same to an importer.
    found = dict.fromkeys((one.app, one.directory) for one in pool.applications)
    if not found:
        return []
    try:
        identity = _identity_of(pool)
        errors = _run(pool, identity, list(found))
    except (StartError, OSError, subprocess.SubprocessError) as wrong:
        errors = [_explain(pool, wrong)]
    return [f'pool "{pool.name}": {error}' for error in errors]


def _identity_of(pool: PoolSettings) -> Identity:
    process = pool.process
    identity = find_identity(process.user, process.group)
    if process.groups is not None and identity.uid >= 0:
        gids = (int(one) if one.isdigit() else grp.getgrnam(one).gr_gid for one in process.groups)
        identity = replace(identity, groups=(identity.gid, *gids))
    return identity


def _explain(pool: PoolSettings, wrong: BaseException) -> str:
    if isinstance(wrong, subprocess.TimeoutExpired):
        seconds = pool.startup_limit_ns / SECOND
        return f"loading its applications takes longer than {seconds:g} s (startup_time_limit)"
    if isinstance(wrong, OSError):
        return f"{wrong.filename or pool.process.python}: {wrong.strerror}"
    return str(wrong)


def _run(pool: PoolSettings, identity: Identity, found: list[tuple[str, str]]) -> list[str]:
    interpreter = pool.process.python or sys.executable
    is_other = bool(pool.process.python)
    reading, writing = os.pipe()
    boot = _BOOT.format(
        # Another interpreter has a kernelq of its own.
        path="del sys.path[0]" if is_other else f"sys.path[0] = {_ROOT!r}",
        clean="" if is_other else "del sys.path[0]",
        status=_NO_KERNELQ,
        descriptor=writing,
    )
    try:
        process = subprocess.Popen(
            [interpreter, "-c", boot],
            stdin=subprocess.PIPE,
            stdout=2,
            stderr=subprocess.PIPE if is_other else None,
            pass_fds=[writing],
            cwd=pool.directory,
            env=_environment_of(pool, identity),
            umask=pool.process.umask,
            start_new_session=True,
            **_user_of(identity),
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    with open(reading, encoding="utf-8") as answers:
        letter = json.dumps([pool.directory, found]).encode()
        try:
            _, printed = process.communicate(letter, pool.startup_limit_ns / SECOND)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        answer = answers.read()
    return _errors_of(process.returncode, answer, printed or b"", interpreter)


def _errors_of(status: int, answer: str, printed: bytes, interpreter: str) -> list[str]:
    words = printed.decode(errors="replace").strip()
    if status == _NO_KERNELQ:
        return [f"{interpreter} has no kernelq of its own: {words} (install kernelq there)"]
    if words:
        print(words, file=sys.stderr)
    if answer:
        errors: list[str] = json.loads(answer)
        return errors
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return [f"loading its applications ended the process ({how})"]


def _environment_of(pool: PoolSettings, identity: Identity) -> dict[str, str]:
    variables = dict(os.environ)
    if identity.home:
        variables.update(HOME=identity.home, USER=identity.name, LOGNAME=identity.name)
    variables.update(pool.process.environment)
    for application in pool.applications:
        variables.update(application.environment)
    return variables


def _user_of(identity: Identity) -> dict[str, Any]:
    if identity.uid < 0:
        return {}
    return {"user": identity.uid, "group": identity.gid, "extra_groups": list(identity.groups)}


def main(descriptor: int) -> None:
    """In the pool's own process: load what the letter on standard input names."""
    directory, found = json.load(sys.stdin)
    errors = load_all(directory, found)
    with open(descriptor, "w", encoding="utf-8") as answers:
        json.dump(errors, answers)
        answers.flush()
    # Threads that an application has started do not matter here.
    os._exit(0)


def load_all(directory: str, found: Iterable[Sequence[str]]) -> list[str]:
    """What is wrong with each application, in words."""
    from kernelq.application import load, parse_reference

    sys.argv = ["kernelq"]
    errors = []
    for app, place in found:
        for folder in (directory, place):
            if folder not in sys.path:
                sys.path.insert(0, folder)
        try:
            load(parse_reference(app))
        except StartError as wrong:
            errors.append(str(wrong))
    return errors
