"""What the main process does with the operating system: forks of itself, log and pid files."""

import contextlib
import os
from collections.abc import Callable, Collection

from kernelq import linux, log
from kernelq.errors import StartError
from kernelq.signals import restore_defaults


def fork_process(main: Callable[[], int], keep: Collection[int]) -> int:
    """Fork a process of ours that keeps only these descriptors; gives its pid. OSError."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        restore_defaults()
        linux.close_all_but(keep)
        status = main()
    except BaseException:
        import traceback

        log.error(f"process {os.getpid()} failed:\n{traceback.format_exc()}")
    finally:
        os._exit(status)


def open_access_log(name: str) -> int:
    """A descriptor for the access log; -1 for none, 1 for standard output. StartError when it
    cannot be opened.
    """
    if name == "none":
        return -1
    if name == "-":
        return 1
    try:
        return os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as found:
        raise StartError(f"--access-log: cannot open {name}: {found.strerror}") from None


def try_access_log(name: str) -> None:
    """StartError when it cannot be opened."""
    descriptor = open_access_log(name)
    if descriptor > 2:
        os.close(descriptor)


def write_pid_file(name: str) -> None:
    """StartError when it cannot be written: what was there stays then. A file that an ended server
    left is replaced.
    """
    new = f"{name}.new"
    try:
        with open(new, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
        os.rename(new, name)
    except OSError as found:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise StartError(f"--pid-file: cannot write {name}: {found.strerror}") from None


def remove_pid_file(name: str) -> None:
    try:
        os.unlink(name)
    except OSError:
        pass  # gone already
