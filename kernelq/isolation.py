"""IIS 5.0 isolation mode, as degenerate pools: one host process carries all applications, and is
restarted when it dies; nothing else is done for it.

The host is called inetinfo, as IIS's was. Applications of medium isolation ("pooled") share a host
process of their own, dllhost; one of high isolation ("isolated") has a host to itself, named after
its site and path.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import replace

from kernelq.config import (
    ApplicationSettings,
    CpuSettings,
    PoolSettings,
    RapidFailSettings,
    RecyclingSettings,
)

HOST = "inetinfo"
POOLED_HOST = "dllhost"
_NAME_MAX = 64


def host_name(isolation: str, site: str, path: str) -> str:
    """The name of the host process for an application of this isolation ("": low)."""
    if isolation == "pooled":
        return POOLED_HOST
    if isolation != "isolated":
        return HOST
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{site}{path}").strip("-")
    # What the name leaves out of the path must not make two of them equal.
    mark = f"{zlib.crc32(f'{site}:{path}'.encode()):08x}"
    head = f"{POOLED_HOST}-{words}"[: _NAME_MAX - len(mark) - 1].rstrip("-")
    return f"{head}-{mark}"


def host_pools(
    applications: Sequence[ApplicationSettings], template: PoolSettings
) -> tuple[PoolSettings, ...]:
    """A pool for each host process that the applications name; what hosts do not do is off."""
    members: dict[str, list[ApplicationSettings]] = {}
    for application in applications:
        members.setdefault(application.pool, []).append(application)
    return tuple(_host(name, tuple(few), template) for name, few in members.items())


def _host(
    name: str, applications: tuple[ApplicationSettings, ...], template: PoolSettings
) -> PoolSettings:
    places = {application.directory for application in applications}
    return replace(
        template,
        name=name,
        core=replace(template.core, name=name, is_needed=True),
        applications=applications,
        directory=places.pop() if len(places) == 1 else template.directory,
        auto_start=True,
        start_mode="always_running",
        min_processes=1,
        max_processes=1,
        idle_timeout_ns=0,
        recycling=RecyclingSettings(time_ns=0),
        rapid_fail=RapidFailSettings(max_crashes=0),
        cpu=CpuSettings(affinity=template.cpu.affinity),
        orphan_worker_process=False,
        orphan_action=(),
        is_managed=False,
    )
