"""How many CPUs this process may use: by affinity, and by the quota of its control groups."""

import math
import os
from pathlib import Path

_ROOT = Path("/")


def count_usable(root: Path = _ROOT) -> int:
    """CPUs by affinity, or fewer where a quota grants less time than that; at least 1."""
    by_affinity = len(os.sched_getaffinity(0))
    quota = quota_cpus(root)
    return by_affinity if quota is None else max(1, min(by_affinity, math.ceil(quota)))


def quota_cpus(root: Path = _ROOT) -> float | None:
    """CPUs' worth of time that the control groups grant; None without a quota."""
    quotas = [*_quotas_v2(root), *_quotas_v1(root)]
    return min(quotas, default=None)


def _quotas_v2(root: Path) -> list[float]:
    path = _group_path(root, "")
    mount = _mount_point(root, "cgroup2", "")
    if path is None or mount is None:
        return []
    found = []
    for folder in _with_parents(root / mount.lstrip("/"), path):
        words = _read_words(folder / "cpu.max")
        if len(words) == 2 and words[0] != "max":
            found.append(int(words[0]) / int(words[1]))
    return found


def _quotas_v1(root: Path) -> list[float]:
    path = _group_path(root, "cpu")
    mount = _mount_point(root, "cgroup", "cpu")
    if path is None or mount is None:
        return []
    found = []
    for folder in _with_parents(root / mount.lstrip("/"), path):
        quota = _read_words(folder / "cpu.cfs_quota_us")
        period = _read_words(folder / "cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            found.append(int(quota[0]) / int(period[0]))
    return found


def _group_path(root: Path, controller: str) -> str | None:
    # Lines of /proc/self/cgroup: "0::/path" for v2, "4:cpu,cpuacct:/path" for v1.
    for line in _read_lines(root / "proc/self/cgroup"):
        parts = line.split(":", 2)
        if len(parts) == 3 and controller in parts[1].split(","):
            return parts[2]
    return None


def _mount_point(root: Path, kind: str, controller: str) -> str | None:
    # /proc/self/mountinfo: fields, " - ", then type, source, options of the superblock.
    for line in _read_lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        fields, superblock = left.split(), right.split()
        if len(fields) < 5 or len(superblock) < 3 or superblock[0] != kind:
            continue
        if not controller or controller in superblock[2].split(","):
            return fields[4]
    return None


def _with_parents(mount: Path, path: str) -> list[Path]:
    # In a container the path may name groups that are not visible below the mount: then the mount
    # itself counts.
    folder = mount / path.strip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))]


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _read_words(path: Path) -> list[str]:
    lines = _read_lines(path)
    return lines[0].split() if lines else []
