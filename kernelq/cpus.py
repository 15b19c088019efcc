"""How many CPUs this process may use: by affinity, and by the quota of its control groups."""

import math
import os


def count_loops(processors: int) -> int:
    """How many loop threads are enough for so many CPUs."""
    return 1 if processors < 4 else processors // 4


def count_usable(root: str = "/") -> int:
    """CPUs by affinity, or fewer where a quota grants less time than that; at least 1."""
    by_affinity = len(os.sched_getaffinity(0))
    quota = quota_cpus(root)
    return by_affinity if quota is None else max(1, min(by_affinity, math.ceil(quota)))


def quota_cpus(root: str = "/") -> float | None:
    """CPUs' worth of time that the control groups grant; None without a quota."""
    quotas = [*_quotas_v2(root), *_quotas_v1(root)]
    return min(quotas, default=None)


def _quotas_v2(root: str) -> list[float]:
    path = _group_path(root, "")
    mount = _mount_point(root, "cgroup2", "")
    if path is None or mount is None:
        return []
    found = []
    for folder in _with_parents(_below(root, mount), path):
        words = _read_words(f"{folder}/cpu.max")
        if len(words) == 2 and words[0] != "max":
            found.append(int(words[0]) / int(words[1]))
    return found


def _quotas_v1(root: str) -> list[float]:
    path = _group_path(root, "cpu")
    mount = _mount_point(root, "cgroup", "cpu")
    if path is None or mount is None:
        return []
    found = []
    for folder in _with_parents(_below(root, mount), path):
        quota = _read_words(f"{folder}/cpu.cfs_quota_us")
        period = _read_words(f"{folder}/cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            found.append(int(quota[0]) / int(period[0]))
    return found


def _group_path(root: str, controller: str) -> str | None:
    # Lines of /proc/self/cgroup: "0::/path" for v2, "4:cpu,cpuacct:/path" for v1.
    for line in _read_lines(_below(root, "proc/self/cgroup")):
        parts = line.split(":", 2)
        if len(parts) == 3 and controller in parts[1].split(","):
            return parts[2]
    return None


def _mount_point(root: str, kind: str, controller: str) -> str | None:
    # /proc/self/mountinfo: fields, " - ", then type, source, options of the superblock.
    for line in _read_lines(_below(root, "proc/self/mountinfo")):
        left, _, right = line.partition(" - ")
        fields, superblock = left.split(), right.split()
        if len(fields) < 5 or len(superblock) < 3 or superblock[0] != kind:
            continue
        if not controller or controller in superblock[2].split(","):
            return fields[4]
    return None


def _with_parents(mount: str, path: str) -> list[str]:
    # In a container the path may name groups that are not visible below the mount: then the mount
    # itself counts.
    names = [name for name in path.split("/") if name]
    return ["/".join([mount, *names[:count]]) for count in range(len(names), -1, -1)]


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def _read_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _read_words(path: str) -> list[str]:
    lines = _read_lines(path)
    return lines[0].split() if lines else []
