"""Settings: checked once, then frozen. Where their values come from stands in options.py, and in
configuration/ for a file.
"""

import os
from dataclasses import dataclass, field
from typing import Any

from kernelq import cpus, log
from kernelq.application import parse_reference
from kernelq.binding import SiteBinding
from kernelq.units import GIB, HOUR, KIB, MIB, MINUTE, MS, SECOND

DEMO_APPLICATION = "kernelq.demo:application"


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What the core is told; it reads these attributes by name."""

    loops: int = 1
    idle_timeout_ns: int = 120 * SECOND
    header_timeout_ns: int = 120 * SECOND
    entity_timeout_ns: int = 120 * SECOND
    min_send_rate: int = 150
    max_field_length: int = 16 * KIB
    max_request_bytes: int = 64 * KIB
    max_target_bytes: int = 32 * KIB
    max_field_count: int = 128
    max_content: int = GIB
    content_memory: int = 128 * KIB
    response_takeover: int = MIB
    content_mode: str = "held"
    half_close: str = "probe"
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
class CorePoolSettings:
    """What the core is told of a pool; it reads these attributes by name."""

    name: str = "default"
    threads: int = 4
    queue_length: int = 1000
    queue_timeout_ns: int = 120 * SECOND
    request_timeout_ns: int = 0
    ping_response_time_ns: int = 90 * SECOND
    redispatch: str = "idempotent"
    redispatch_limit: int = 2
    refuses_by_reset: bool = False  # load_balancer_capabilities = "tcp": a reset instead of a 503
    is_needed: bool = True  # always_running: the server is ready only while it has a worker


@dataclass(frozen=True, slots=True)
class ApplicationSettings:
    """One application: what answers below a path of a site."""

    path: str = "/"  # "/" or "/shop", decoded, without a slash at the end
    app: str = DEMO_APPLICATION
    pool: str = "default"
    directory: str = "."
    environment: tuple[tuple[str, str], ...] = ()
    warm_up: tuple[str, ...] = ()
    number: int = 0  # in records, cache keys and routes; given by Numbers
    site: str = "default"
    host: str = field(default="localhost", compare=False)  # of warm-up requests; see sites.py


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """One site: its bindings, and its applications by path."""

    name: str = "default"
    bindings: tuple[SiteBinding, ...] = ()
    applications: tuple[ApplicationSettings, ...] = (ApplicationSettings(),)
    auto_start: bool = True


@dataclass(frozen=True, slots=True)
class RecyclingSettings:
    """When a worker is replaced although nothing is wrong with it (IIS periodicRestart)."""

    time_ns: int = 29 * HOUR  # 0: off
    requests: int = 0
    schedule: tuple[int, ...] = ()  # local clock times, in seconds of the day
    memory: int = 0  # bytes of resident memory
    private_memory: int = 0  # bytes that only this process has
    jitter: float = 0.1  # each worker's limits are up to this part earlier than said
    disallow_overlapping_rotation: bool = False
    disallow_rotation_on_config_change: bool = False


@dataclass(frozen=True, slots=True)
class RapidFailSettings:
    """Rapid-fail protection: when a pool is taken offline."""

    max_crashes: int = 5  # 0: off
    interval_ns: int = 5 * MINUTE
    counts: str = "startup"  # or "all", as IIS does
    action: tuple[str, ...] = ()  # a program and its arguments (IIS autoShutdownExe)


@dataclass(frozen=True, slots=True)
class CpuSettings:
    """How much processor time a pool's workers may use together."""

    limit: float = 0.0  # percent of one CPU: 150 is one and a half; 0: off
    action: str = "none"  # or "throttle", "kill"
    interval_ns: int = 5 * MINUTE
    affinity: tuple[int, ...] = ()  # CPUs that the workers may run on; (): all


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """What a worker process is, before its first line of Python runs."""

    python: str = ""  # another interpreter; "": the one that runs kernelq
    user: str = ""
    group: str = ""
    groups: tuple[str, ...] | None = None  # supplementary; None: those of the user
    umask: int = -1
    nice: int = 0
    rlimits: tuple[tuple[str, int, int], ...] = ()  # ("nofile", soft, hard); -1: unlimited
    environment: tuple[tuple[str, str], ...] = ()
    private_tmp: bool = False
    read_only: tuple[str, ...] = ()  # Landlock: readable besides the system's own places
    writable: tuple[str, ...] = ()  # Landlock: writable; neither given: no restriction
    no_new_privileges: bool = True
    descriptor_limit: int = 1024  # soft RLIMIT_NOFILE, unless rlimits says otherwise
    inspectable: bool = False


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """One application pool. Equal settings (with equal applications) mean an unchanged pool."""

    name: str = "default"
    core: CorePoolSettings = field(default_factory=CorePoolSettings)
    applications: tuple[ApplicationSettings, ...] = (ApplicationSettings(),)
    directory: str = "."
    auto_start: bool = True
    start_mode: str = "on_demand"  # or "always_running"
    min_processes: int = 0
    max_processes: int = 1
    grow_after_ns: int = 100 * MS  # a request waited so long: one more worker
    shrink_after_ns: int = 60 * SECOND  # so long half of one fewer were enough: one less
    preload: bool = False
    idle_timeout_ns: int = 20 * MINUTE  # 0: off
    idle_timeout_action: str = "terminate"  # or "suspend"
    startup_limit_ns: int = 90 * SECOND
    shutdown_limit_ns: int = 90 * SECOND
    recycling: RecyclingSettings = field(default_factory=RecyclingSettings)
    rapid_fail: RapidFailSettings = field(default_factory=RapidFailSettings)
    cpu: CpuSettings = field(default_factory=CpuSettings)
    process: ProcessSettings = field(default_factory=ProcessSettings)
    orphan_worker_process: bool = False
    orphan_action: tuple[str, ...] = ()  # a program and its arguments; "%1%" is the pid
    is_managed: bool = True  # False: IIS 5.0 isolation mode: restarted, and nothing else
    log_level: int = log.INFO
    index: int = 0  # in the spawner's table; given by Numbers
    # What the workers of the previous index answered and these need not: requests for it may still
    # wait in the queue.
    retired: tuple[ApplicationSettings, ...] = ()
    fresh: tuple[int, ...] = ()  # numbers of those that came with a reload: tried before READY

    @property
    def starts_at_once(self) -> bool:
        """Whether it has workers without anybody's asking: who opens it waits for the first."""
        return self.auto_start and self.start_mode == "always_running"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Everything the command line or the configuration file says."""

    core: CoreSettings = field(default_factory=CoreSettings)
    pools: tuple[PoolSettings, ...] = (PoolSettings(),)
    sites: tuple[SiteSettings, ...] = (SiteSettings(),)
    config_file: str = ""  # "": the command line
    isolation_mode: str = "worker_process"  # or "iis5"
    user: str = ""
    group: str = ""
    umask: int = -1
    graceful_timeout_ns: int = 30 * SECOND
    drain_delay_ns: int = 0
    access_log: str = "none"
    log_level: int = log.INFO
    pid_file: str = ""
    control: str = "auto"
    control_readers: str = ""  # a group whose members may look, but not touch
    cgroup_root: str = "/sys/fs/cgroup"
    inspectable: bool = False
    check: bool = False


def make_settings(
    application: str, values: dict[str, Any], descriptor_limit: int
) -> ServerSettings:
    """The frozen settings of parsed option values (the defaults, overlaid with what was given): one
    site, one pool, always running.
    """
    application = application or DEMO_APPLICATION
    parse_reference(application)
    processors = cpus.count_usable()
    directory = os.path.abspath(values["chdir"])
    one = ApplicationSettings(app=application, directory=directory)
    bindings = tuple(SiteBinding(binding) for binding in values["bind"])
    return ServerSettings(
        core=_core_settings(values, processors),
        pools=(_pool_settings(values, one, values["workers"] or processors, descriptor_limit),),
        sites=(SiteSettings(bindings=bindings, applications=(one,)),),
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


def _pool_settings(
    values: dict[str, Any], application: ApplicationSettings, workers: int, descriptor_limit: int
) -> PoolSettings:
    deaths, interval_ns = values["rapid_fail"]
    return PoolSettings(
        core=CorePoolSettings(
            threads=values["threads"],
            queue_length=values["queue_length"],
            queue_timeout_ns=values["queue_timeout"],
            request_timeout_ns=values["request_timeout"],
            ping_response_time_ns=values["ping_response_time"],
            redispatch=values["redispatch"],
            redispatch_limit=values["redispatch_limit"],
        ),
        applications=(application,),
        directory=application.directory,
        start_mode="always_running",
        min_processes=workers,
        max_processes=workers,
        preload=values["preload"],
        idle_timeout_ns=0,
        startup_limit_ns=values["startup_time_limit"],
        shutdown_limit_ns=values["graceful_timeout"],
        recycling=RecyclingSettings(time_ns=0),
        rapid_fail=RapidFailSettings(max_crashes=deaths, interval_ns=interval_ns),
        process=ProcessSettings(
            user=values["user"],
            group=values["group"],
            umask=values["umask"],
            descriptor_limit=descriptor_limit,
            inspectable=values["inspectable"],
        ),
        log_level=values["log_level"],
    )


def _core_settings(values: dict[str, Any], processors: int) -> CoreSettings:
    frequent_hits, frequent_ns = values["cache_frequent_hits"]
    return CoreSettings(
        loops=values["loops"] or cpus.count_loops(processors),
        idle_timeout_ns=values["idle_timeout"],
        header_timeout_ns=values["header_timeout"],
        entity_timeout_ns=values["entity_timeout"],
        min_send_rate=values["min_send_rate"],
        max_field_length=values["max_field_length"],
        max_request_bytes=values["max_request_bytes"],
        max_target_bytes=values["max_target_bytes"],
        max_field_count=values["max_field_count"],
        max_content=values["max_content"],
        content_memory=values["content_memory"],
        response_takeover=values["response_takeover"],
        content_mode=values["content"],
        half_close=values["half_close"],
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
