"""Application pools: made from checked tables, and checked against each other."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kernelq import cpus, linux
from kernelq.config import (
    ApplicationSettings,
    CorePoolSettings,
    CpuSettings,
    PoolSettings,
    ProcessSettings,
    RapidFailSettings,
    RecyclingSettings,
    ServerSettings,
)
from kernelq.configuration import machine, table
from kernelq.configuration.read import Checked, CheckedPool, Document, Reader
from kernelq.configuration.sites import Made, Seen, report_twice
from kernelq.units import MINUTE

_IDLE_TIMEOUT_NS = 20 * MINUTE


@functools.cache
def _fields(section: table.Section, prefix: str) -> tuple[tuple[str, str], ...]:
    """(key, field) of the keys that go into one of the settings' objects."""
    return tuple(
        (key.name, key.field.removeprefix(prefix))
        for key in section.keys
        if key.field.startswith(prefix) and "." not in key.field.removeprefix(prefix)
    )


def gather(tables: Sequence[Checked], prefix: str) -> dict[str, Any]:
    made = {}
    for one in tables:
        for name, field in _fields(one.section, prefix):
            if one.values[name] is not None:
                made[field] = one.values[name]
    return made


class Pools:
    """Makes the pools, with the applications that name them."""

    def __init__(
        self,
        reader: Reader,
        document: Document,
        settings: ServerSettings,
        applications: Sequence[Made],
    ) -> None:
        self._reader = reader
        self._document = document
        self._settings = settings
        self._applications: dict[str, list[Made]] = {}
        for one in applications:
            self._applications.setdefault(one[0].pool, []).append(one)

    def make(self) -> list[PoolSettings]:
        made = []
        names: Seen = {}
        for pool in self._document.pools or [implied_pool(self._document)]:
            own = pool.own
            name = own.values["name"]
            report_twice(self._reader, names, name, own.path_of("name"), "pool")
            if name and name not in self._applications and self._document.pools:
                self._reader.note(own.path, "no application names this pool")
            members = self._applications.get(name, [])
            settings = pool_settings(
                pool, tuple(one for one, _ in members), self._settings, self._reader.base
            )
            machine.check_pool(self._reader, pool, settings)
            self._check(pool, settings)
            check_variables(self._reader, members, settings)
            made.append(settings)
        return made

    def _check(self, pool: CheckedPool, settings: PoolSettings) -> None:
        own = pool.own
        if settings.min_processes > settings.max_processes:
            named = "min_processes" if "min_processes" in own.origins else "max_processes"
            self._reader.report(
                own.path_of(named),
                f"min_processes {settings.min_processes} is more than "
                f"max_processes {settings.max_processes}",
            )
        kept = settings.start_mode == "always_running"
        cpu, rapid_fail = pool.parts["pool.cpu"], pool.parts["pool.rapid_fail"]
        idle = (*own.path, "idle_timeout")
        if kept and own.origins.get("idle_timeout") == idle and own.values["idle_timeout"]:
            self._reader.note(idle, "has no effect: workers of an always_running pool stay")
        if settings.cpu.action != "none" and not settings.cpu.limit:
            self._reader.note(cpu.path_of("action"), "has no effect: there is no limit beside it")
        if settings.orphan_action and not settings.orphan_worker_process:
            self._reader.note(
                own.path_of("orphan_action"), "has no effect without orphan_worker_process"
            )
        if settings.rapid_fail.action and not settings.rapid_fail.max_crashes:
            self._reader.note(rapid_fail.path_of("action"), "has no effect: max_crashes is off")


def check_variables(reader: Reader, members: Sequence[Made], settings: PoolSettings) -> None:
    """Applications of one pool share a process, whose variables have one value each."""
    values: dict[str, tuple[str, Checked]] = {}
    for application, table_of in members:
        for name, value in application.environment:
            first = values.setdefault(name, (value, table_of))
            if first[0] != value:
                reader.report(
                    (*table_of.path_of("environment"), name),
                    f'another application of pool "{settings.name}" sets {name} to another value, '
                    "and they share a process; allowed is one value, or a pool for each",
                    (*first[1].path_of("environment"), name),
                )


def implied_pool(document: Document) -> CheckedPool:
    """The pool of a file that names none."""
    own = document.defaults.own
    values = {**own.values, "name": table.DEFAULT_POOL}
    return CheckedPool({**document.defaults.parts, "pool": replace(own, values=values)})


def pool_settings(
    pool: CheckedPool,
    applications: tuple[ApplicationSettings, ...],
    server: ServerSettings,
    base: str,
) -> PoolSettings:
    """The settings of one pool; what it does not say, the server or the rest of it decides."""
    parts = tuple(pool.parts.values())
    own = gather(parts, "")
    is_kept = own["start_mode"] == "always_running"
    own["max_processes"] = own["max_processes"] or cpus.count_usable()
    own["min_processes"] = max(own.get("min_processes", 0), 1 if is_kept else 0)
    own["idle_timeout_ns"] = 0 if is_kept else own.get("idle_timeout_ns", _IDLE_TIMEOUT_NS)
    own["name"] = own.get("name", "")
    if "directory" not in own:
        places = {application.directory for application in applications}
        own["directory"] = places.pop() if len(places) == 1 else base
    core = gather(parts, "core.")
    is_needed = is_kept and own["auto_start"]
    process = gather(parts, "process.")
    if not process.get("user"):
        process["user"] = server.user
        process["group"] = process.get("group") or server.group
    process.setdefault("umask", server.umask)
    return PoolSettings(
        core=CorePoolSettings(name=own["name"], is_needed=is_needed, **core),
        applications=applications,
        recycling=RecyclingSettings(**gather(parts, "recycling.")),
        rapid_fail=RapidFailSettings(**gather(parts, "rapid_fail.")),
        cpu=CpuSettings(**gather(parts, "cpu.")),
        process=ProcessSettings(
            descriptor_limit=linux.descriptor_soft_limit(),
            inspectable=server.inspectable,
            **process,
        ),
        log_level=server.log_level,
        **own,
    )
