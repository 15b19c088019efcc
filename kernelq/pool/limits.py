"""From a pool's settings to what the plan decides by."""

import zlib

from kernelq.config import PoolSettings
from kernelq.pool.model import Limits
from kernelq.pool.recycling import early


def limits_of(settings: PoolSettings, gives_up: bool, must_not_wait: bool = False) -> Limits:
    """gives_up: the server ends when this pool cannot start. must_not_wait: new settings hold new
    applications, so that disallow_rotation_on_config_change cannot be obeyed.
    """
    recycling, rapid_fail = settings.recycling, settings.rapid_fail
    return Limits(
        max_processes=settings.max_processes,
        min_processes=settings.min_processes,
        is_always_running=settings.start_mode == "always_running",
        threads=settings.core.threads,
        is_managed=settings.is_managed,
        gives_up=gives_up,
        startup_ns=settings.startup_limit_ns,
        graceful_ns=settings.shutdown_limit_ns,
        grow_after_ns=settings.grow_after_ns,
        shrink_after_ns=settings.shrink_after_ns,
        idle_action=settings.idle_timeout_action,
        recycle_ns=recycling.time_ns,
        jitter=recycling.jitter,
        seed=_seed(settings),
        is_overlap_allowed=not recycling.disallow_overlapping_rotation,
        waits_for_recycle=recycling.disallow_rotation_on_config_change and not must_not_wait,
        rapid_fail_count=rapid_fail.max_crashes,
        rapid_fail_ns=rapid_fail.interval_ns,
        rapid_fail_counts=rapid_fail.counts,
        leaves_orphans=settings.orphan_worker_process,
        cpu_action=settings.cpu.action,
    )


def requests_limit(settings: PoolSettings, key: int) -> int:
    """After how many requests the worker of this key is replaced, with its jitter; 0: never."""
    limit = settings.recycling.requests
    if not limit or not settings.is_managed:
        return 0
    return max(1, early(limits_of(settings, gives_up=False), key, limit))


def _seed(settings: PoolSettings) -> int:
    return zlib.crc32(settings.name.encode())
