"""The settings that a checked file means, and what is wrong with it as a whole.

Everything is reported to the reader; the settings are of use only if nothing was.
"""

from collections.abc import Sequence
from dataclasses import replace

from kernelq import cpus, isolation
from kernelq.binding import Binding
from kernelq.config import CoreSettings, PoolSettings, ServerSettings
from kernelq.configuration import machine
from kernelq.configuration.pools import Pools, check_variables, gather, implied_pool, pool_settings
from kernelq.configuration.read import Document, Reader
from kernelq.configuration.sites import Sites

# What [defaults.pool] may say and a host process of iis5 mode does not do.
TABLES_NOT_OF_HOSTS = ("pool.recycling", "pool.rapid_fail", "pool.cpu")
KEYS_OF_HOSTS = ("affinity",)  # although it stands in one of those tables
KEYS_NOT_OF_HOSTS = (
    "auto_start",
    "start_mode",
    "min_processes",
    "max_processes",
    "grow_after",
    "shrink_after",
    "idle_timeout",
    "idle_timeout_action",
    "orphan_worker_process",
    "orphan_action",
)
_IIS5 = 'isolation_mode is "iis5"'


def build(
    reader: Reader, document: Document, file: str, passed: Sequence[Binding]
) -> ServerSettings:
    """The settings; indexes and numbers are given by whoever uses them."""
    settings = ServerSettings(
        core=_core_settings(document),
        pools=(),
        sites=(),
        config_file=file,
        **gather((document.server,), ""),
    )
    machine.check_server(reader, document.server)
    sites = Sites(reader, document, settings, passed)
    settings = replace(settings, sites=tuple(sites.make()))
    if settings.isolation_mode == "iis5":
        return _host_everything(reader, document, settings, sites)
    pools = Pools(reader, document, settings, sites.applications).make()
    return replace(settings, pools=tuple(pools))


def _core_settings(document: Document) -> CoreSettings:
    values = gather((document.server, document.limits, document.cache), "core.")
    values["loops"] = values["loops"] or cpus.count_loops(cpus.count_usable())
    return CoreSettings(log_level=document.server.values["log_level"], **values)


def _host_everything(
    reader: Reader, document: Document, settings: ServerSettings, sites: Sites
) -> ServerSettings:
    """IIS 5.0 isolation mode: host processes in place of the pools."""
    for pool in document.pools:
        reader.note(pool.own.path, f"this pool is not used: {_IIS5}")
    for name in TABLES_NOT_OF_HOSTS:
        if document.defaults.parts[name].origins.keys() - set(KEYS_OF_HOSTS):
            reader.note(document.defaults.parts[name].path, f"has no effect: {_IIS5}")
    for name in KEYS_NOT_OF_HOSTS:
        if name in document.defaults.own.origins:
            reader.note(document.defaults.own.path_of(name), f"has no effect: {_IIS5}")
    template = pool_settings(implied_pool(document), (), settings, reader.base)
    machine.check_pool(reader, document.defaults, template)
    pools: Sequence[PoolSettings] = isolation.host_pools(
        [application for application, _ in sites.applications], template
    )
    for pool_made in pools:
        members = [one for one in sites.applications if one[0].pool == pool_made.name]
        check_variables(reader, members, pool_made)
    return replace(settings, pools=tuple(pools))
