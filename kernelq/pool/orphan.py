"""Orphans: workers that were given up, but are left for a debugger instead of being killed
(`orphan_worker_process`).

What happens to one: asked for its Python stacks over its control link, as long as it answers; then
SIGSTOP, by way of the spawner, who is its parent; taken out of its pool, whose plan starts another;
then the pool's `orphan_action` is run, or, without one, the log says what can be done. It stays
until it is killed, the spawner has too many, or the server ends: PR_SET_PDEATHSIG, which it has set
for itself, cannot be taken back by others.

Facts: a stopped process has its signals pending until SIGCONT, all but SIGKILL. The kernel writes
no core file of a process that is not dumpable, and none over RLIMIT_CORE, except into a pipe
(core_pattern with a bar), which knows no limit. A relative pattern stands in the process's own
working directory.
"""

import os

from kernelq.linux import read_text
from kernelq.units import SECOND

ORPHAN_WORDS_NS = SECOND  # for its stacks, before it is stopped

_PATTERN = "/proc/sys/kernel/core_pattern"
_USES_PID = "/proc/sys/kernel/core_uses_pid"


def describe_orphan(pid: int, directory: str, is_inspectable: bool) -> list[str]:
    """Lines for the log: what an administrator can do with it now."""
    return [
        f"it is stopped and left for a debugger: gdb -p {pid}; end it with kill -KILL {pid}",
        describe_core(pid, directory, is_inspectable),
    ]


def describe_core(pid: int, directory: str, is_inspectable: bool) -> str:
    """Where a core file of that process would go, and how to get it; or why there would be none."""
    if not is_inspectable:
        return "no core file can be had of it: its memory is closed to others (inspectable = false)"
    how = f"kill -ABRT {pid} and then kill -CONT {pid}"
    pattern = read_text(_PATTERN).strip()
    if pattern.startswith("|"):
        return f"a core ({how}) would be handed to {pattern[1:].split()[0]}"
    limit = core_limit(pid)
    if limit == 0:
        return "no core file can be had of it: its limit is 0 (rlimits: core)"
    path = pattern.replace("%p", str(pid)).replace("%P", str(pid))
    if read_text(_USES_PID).strip() not in ("", "0") and "%p" not in pattern:
        path += f".{pid}"
    bound = "" if limit is None else f", of at most {limit} bytes"
    return f"a core ({how}) would be written to {os.path.join(directory, path)}{bound}"


def core_limit(pid: int) -> int | None:
    """Its soft RLIMIT_CORE in bytes; None: unlimited, or not known any more."""
    for line in read_text(f"/proc/{pid}/limits").splitlines():
        if line.startswith("Max core file size"):
            word = line.removeprefix("Max core file size").split()[0]
            return int(word) if word.isdigit() else None
    return None
