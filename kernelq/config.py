"""Settings: checked once, then frozen. Where their values come from stands in options.py."""

import os
from dataclasses import dataclass, field
from typing import Any

from kernelq import cpus, log
from kernelq.application import parse_reference
from kernelq.binding import Binding
from kernelq.units import GIB, KIB, MIB, SECOND

DEMO_APPLICATION = "kernelq.demo:application"


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What the core is told; it reads these attributes by name."""

    loops: int = 1
    threads: int = 4
    queue_length: int = 1000
    queue_timeout_ns: int = 120 * SECOND
    request_timeout_ns: int = 0
    idle_timeout_ns: int = 120 * SECOND
    header_timeout_ns: int = 120 * SECOND
    entity_timeout_ns: int = 120 * SECOND
    min_send_rate: int = 150
    ping_response_time_ns: int = 90 * SECOND
    max_field_length: int = 16 * KIB
    max_request_bytes: int = 64 * KIB
    max_target_bytes: int = 32 * KIB
    max_field_count: int = 128
    max_content: int = GIB
    content_memory: int = 64 * KIB
    response_takeover: int = MIB
    content_mode: str = "held"
    half_close: str = "probe"
    redispatch: str = "idempotent"
    redispatch_limit: int = 2
    keep_alive: bool = True
    max_connections: int = 0
    spill_dir: str = "/var/tmp"
    health_path: str = ""
    trusted: tuple[str, ...] = ("127.0.0.0/8", "::1/128", "unix")
    access_log_fd: int = -1
    error_log_fd: int = 2
    log_level: int = log.INFO
    server_name: str = "kernelq"
    spin_ns: int = 0
    cache: str = "public"
    cache_size: int = 64 * MIB
    cache_max_entry: int = 256 * KIB
    cache_frequent_hits: int = 1
    cache_frequent_ns: int = 10 * SECOND
    cache_scavenge_ns: int = 120 * SECOND
    cache_status: bool = False


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """One application pool: what its workers run, as whom, and how many of them."""

    name: str = "default"
    application: str = DEMO_APPLICATION
    directory: str = "."
    workers: int = 1
    threads: int = 4
    preload: bool = False
    user: str = ""
    group: str = ""
    umask: int = -1
    startup_limit_ns: int = 90 * SECOND
    graceful_timeout_ns: int = 30 * SECOND
    rapid_fail_count: int = 5
    rapid_fail_interval_ns: int = 300 * SECOND
    descriptor_limit: int = 1024
    inspectable: bool = False
    log_level: int = log.INFO


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything the command line says."""

    core: CoreSettings = field(default_factory=CoreSettings)
    pools: tuple[PoolSettings, ...] = (PoolSettings(),)
    bindings: tuple[Binding, ...] = ()
    user: str = ""
    group: str = ""
    umask: int = -1
    graceful_timeout_ns: int = 30 * SECOND
    drain_delay_ns: int = 0
    access_log: str = "none"
    log_level: int = log.INFO
    pid_file: str = ""
    control: str = "auto"
    inspectable: bool = False
    check: bool = False


def make_settings(
    application: str, values: dict[str, Any], descriptor_limit: int
) -> ServerSettings:
    """The frozen settings of parsed option values (the defaults, overlaid with what was given)."""
    application = application or DEMO_APPLICATION
    parse_reference(application)
    processors = cpus.count_usable()
    workers = values["workers"] or processors
    deaths, interval_ns = values["rapid_fail"]
    pool = PoolSettings(
        application=application,
        directory=os.path.abspath(values["chdir"]),
        workers=workers,
        threads=values["threads"],
        preload=values["preload"],
        user=values["user"],
        group=values["group"],
        umask=values["umask"],
        startup_limit_ns=values["startup_time_limit"],
        graceful_timeout_ns=values["graceful_timeout"],
        rapid_fail_count=deaths,
        rapid_fail_interval_ns=interval_ns,
        descriptor_limit=descriptor_limit,
        inspectable=values["inspectable"],
        log_level=values["log_level"],
    )
    return ServerSettings(
        core=_core_settings(values, processors),
        pools=(pool,),
        bindings=tuple(values["bind"]),
        user=values["user"],
        group=values["group"],
        umask=values["umask"],
        graceful_timeout_ns=values["graceful_timeout"],
        drain_delay_ns=values["drain_delay"],
        access_log=values["access_log"],
        log_level=values["log_level"],
        pid_file=values["pid_file"],
        control=values["control"],
        inspectable=values["inspectable"],
        check=values["check"],
    )


def _core_settings(values: dict[str, Any], processors: int) -> CoreSettings:
    frequent_hits, frequent_ns = values["cache_frequent_hits"]
    return CoreSettings(
        loops=values["loops"] or (1 if processors < 4 else processors // 4),
        threads=values["threads"],
        queue_length=values["queue_length"],
        queue_timeout_ns=values["queue_timeout"],
        request_timeout_ns=values["request_timeout"],
        idle_timeout_ns=values["idle_timeout"],
        header_timeout_ns=values["header_timeout"],
        entity_timeout_ns=values["entity_timeout"],
        min_send_rate=values["min_send_rate"],
        ping_response_time_ns=values["ping_response_time"],
        max_field_length=values["max_field_length"],
        max_request_bytes=values["max_request_bytes"],
        max_target_bytes=values["max_target_bytes"],
        max_field_count=values["max_field_count"],
        max_content=values["max_content"],
        content_memory=values["content_memory"],
        response_takeover=values["response_takeover"],
        content_mode=values["content"],
        half_close=values["half_close"],
        redispatch=values["redispatch"],
        redispatch_limit=values["redispatch_limit"],
        keep_alive=values["keep_alive"],
        max_connections=values["max_connections"],
        spill_dir=values["spill_dir"],
        health_path=values["health_path"],
        trusted=values["forwarded_allow_ips"],
        log_level=values["log_level"],
        cache=values["cache"],
        cache_size=values["cache_size"],
        cache_max_entry=values["cache_max_entry"],
        cache_frequent_hits=frequent_hits,
        cache_frequent_ns=frequent_ns,
        cache_scavenge_ns=values["cache_scavenge"],
        cache_status=values["cache_status"],
    )
