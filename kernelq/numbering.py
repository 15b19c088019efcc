"""The numbers by which processes speak of applications and pools.

A number is never used twice: what is still under way under an old one (a record in a queue, an
entry of the cache, a worker of the pool as it was) can never be taken for something else. What a
new reading of the configuration left as it was keeps its number: to everybody else nothing has
happened.
"""

from collections.abc import Iterable
from dataclasses import fields, replace

from kernelq.config import ApplicationSettings, PoolSettings, ServerSettings

_Place = tuple[str, str]  # site and path: what makes an application the same one


class Numbers:
    """Gives them out, and remembers what had which."""

    def __init__(self) -> None:
        self._next_application = 1
        self._next_pool = 0
        self._applications: dict[_Place, ApplicationSettings] = {}
        self._pools: dict[str, PoolSettings] = {}

    def number(self, settings: ServerSettings) -> ServerSettings:
        """The settings with all numbers filled in. Nothing is remembered until keep()."""
        applications = {
            (site.name, one.path): self._number_application(replace(one, site=site.name))
            for site in settings.sites
            for one in site.applications
        }
        sites = tuple(
            replace(
                site,
                applications=tuple(applications[site.name, one.path] for one in site.applications),
            )
            for site in settings.sites
        )
        of_pools: dict[str, list[ApplicationSettings]] = {}
        for one in applications.values():
            of_pools.setdefault(one.pool, []).append(one)
        pools = tuple(
            self._number_pool(replace(pool, applications=tuple(of_pools.get(pool.name, ()))))
            for pool in settings.pools
        )
        return replace(settings, sites=sites, pools=pools)

    def keep(self, settings: ServerSettings) -> None:
        """These settings are in force: the next ones are compared with them."""
        self._applications = {
            (site.name, one.path): one for site in settings.sites for one in site.applications
        }
        self._pools = {pool.name: pool for pool in settings.pools}

    def _number_application(self, one: ApplicationSettings) -> ApplicationSettings:
        known = self._applications.get((one.site, one.path))
        if known is not None and replace(one, number=known.number) == known:
            return known
        number = self._next_application
        self._next_application += 1
        return replace(one, number=number)

    def _number_pool(self, pool: PoolSettings) -> PoolSettings:
        known = self._pools.get(pool.name)
        if known is not None and launch_of(pool) == launch_of(known):
            return replace(pool, index=known.index, retired=known.retired, fresh=known.fresh)
        index = self._next_pool
        self._next_pool += 1
        if known is None:
            return replace(pool, index=index)
        retired = _gone(known.applications, pool.applications)
        fresh = tuple(one.number for one in _gone(pool.applications, known.applications))
        return replace(pool, index=index, retired=retired, fresh=fresh)


def launch_of(pool: PoolSettings) -> tuple[object, ...]:
    """What a worker process of the pool is made of: workers with the same need not be replaced."""
    return (
        pool.applications,
        pool.directory,
        pool.core.threads,
        pool.process,
        pool.cpu.affinity,
        pool.preload,
        pool.max_processes > 1,
        pool.log_level,
    )


def what_waits(before: ServerSettings, after: ServerSettings) -> list[str]:
    """What a reload cannot change, in words: a line for each setting that differs."""
    every = [field.name for field in fields(before.core) if not field.name.endswith("_fd")]
    found = [name for name in _FIXED if getattr(before, name) != getattr(after, name)]
    found += [
        f"core.{name}" for name in every if getattr(before.core, name) != getattr(after.core, name)
    ]
    end = "is changed by the next start or by `kernelq upgrade` only"
    return [f"{name} {end}" for name in dict.fromkeys(map(_key_of, found))]


def _key_of(field: str) -> str:
    """The key that stands for a field of the settings: [section] name."""
    from kernelq.configuration.table import SECTIONS

    for section in SECTIONS:
        for key in section.keys:
            if field in (key.field, f"{key.field}_ns"):
                return f"[{section.name}] {key.name}"
    return field.removesuffix("_ns")


_FIXED = (
    "user",
    "group",
    "umask",
    "access_log",
    "log_level",
    "pid_file",
    "control",
    "control_readers",
    "cgroup_root",
    "inspectable",
)


def _gone(
    before: Iterable[ApplicationSettings], after: Iterable[ApplicationSettings]
) -> tuple[ApplicationSettings, ...]:
    kept = {one.number for one in after}
    return tuple(one for one in before if one.number not in kept)
