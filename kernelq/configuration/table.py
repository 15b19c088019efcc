"""The one table of keys of kernelq.toml: from it come the checker, the JSON Schema, the document,
the example, and what `kernelq config show` prints.

Defaults are written as TOML. A key without one has a default that the rest of the file decides
(`otherwise` says how), or is required. `field` is where the value goes in the settings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kernelq import log
from kernelq.configuration import kinds
from kernelq.configuration.kinds import Kind
from kernelq.configuration.toml import toml_text
from kernelq.options import DEFAULT_BINDING, OPTIONS, control_path
from kernelq.units import KIB, MS, SECOND

_OPTIONS = {option.name: option for option in OPTIONS}
DEFAULT_POOL = "default"


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """One key: how its value is written, what it does, and where it goes."""

    name: str
    kind: Kind
    default: str
    help: str
    field: str
    option: str = ""  # what the command line calls it
    iis: str = ""  # what IIS calls it
    example: str = ""  # as TOML, where the default shows too little
    otherwise: str = ""  # what no value means, when there is no default
    is_required: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """One table of the file, or one array of tables."""

    name: str
    help: str
    keys: tuple[Key, ...]
    is_array: bool = False

    @property
    def heading(self) -> str:
        return f"[[{self.name}]]" if self.is_array else f"[{self.name}]"

    def key(self, name: str) -> Key | None:
        return next((key for key in self.keys if key.name == name), None)


def _like(option_name: str, kind: Kind, field: str = "", name: str = "", **more: Any) -> Key:
    """A key that the command line has too: default and words are the option's."""
    option = _OPTIONS[option_name]
    words = more.pop("help", option.help)
    return Key(
        name or option.key,
        kind,
        more.pop("default", _default_of(option.default)),
        words,
        field or f"core.{option.key}",
        option_name,
        **more,
    )


def _default_of(text: str) -> str:
    if text in ("yes", "on"):
        return "true"
    if text in ("no", "off"):
        return "false"
    return text if text.isdigit() else toml_text(text)


_AUTO = {"auto": 0}
_SCAVENGE = "drop what nobody asked for within this time; off: never"

# fmt: off
SERVER = Section("server", "What is one for the whole server.", (
    _like("--loops", kinds.whole(1, 64, _AUTO)),
    _like("--max-connections", kinds.whole(1, 1_000_000, _AUTO), iis="MaxConnections"),
    _like("--keep-alive", kinds.boolean(), iis="AllowKeepAlive"),
    _like("--forwarded-allow-ips", kinds.networks(), "core.trusted",
          default='["loopback", "unix"]', example='["loopback", "10.0.0.0/8"]'),
    _like("--health-path", kinds.health_path(),
          help="answer PATH/live and PATH/ready in the core: true (/.kernelq), false, or a path"),
    _like("--content", kinds.word("held", "streamed"), "core.content_mode"),
    _like("--content-memory", kinds.size(0, 1 << 30),
          help="content held in memory up to this size, beyond it in spill_dir"),
    _like("--spill-dir", kinds.path()),
    _like("--response-takeover", kinds.size(64 * KIB, 1 << 30)),
    _like("--half-close", kinds.word("probe", "answer", "drop")),
    _like("--graceful-timeout", kinds.time(0), "graceful_timeout_ns",
          help="how long requests may go on when everything is to end"),
    _like("--drain-delay", kinds.time(0), "drain_delay_ns",
          help="after the order to stop: answer \"not ready\" but keep serving for so long (load "
               "balancers need it)"),
    Key("isolation_mode", kinds.word("worker_process", "iis5"), '"worker_process"',
        "with iis5, one queue and one host process for all applications, without recycling, idle "
        "stop, health and rapid-fail protection, as IIS 5.0 did; pools are not used then",
        "isolation_mode", iis="IIs5IsolationModeEnabled"),
    _like("--user", kinds.text(True), "user",
          help="user (name or number) that serves, and runs the applications of pools that name "
               "no other; needs a start as root", default='""', example='"www-data"'),
    _like("--group", kinds.text(True), "group", help="group likewise; empty: the user's own",
          default='""'),
    _like("--umask", kinds.umask(), "umask",
          help="file mode mask of unix sockets, and of the applications of pools that say nothing "
               "else", example='"027"'),
    _like("--access-log", kinds.path("-", "none"), "access_log",
          example='"/var/log/kernelq/access.log"'),
    _like("--log-level", kinds.word("debug", "info", "warning", "error", meaning=log.LEVELS),
          "log_level"),
    _like("--pid-file", kinds.path(""), "pid_file", default='""', example='"/run/kernelq.pid"'),
    _like("--control", kinds.parsed("path", control_path, words=("auto", "off"), is_path=True),
          "control",
          help="the socket that the commands of `kernelq` talk to; auto: named after the first "
               "binding, in $RUNTIME_DIRECTORY (systemd), /run/kernelq (root), "
               "$XDG_RUNTIME_DIR/kernelq or /tmp/kernelq-UID; or off"),
    Key("control_readers", kinds.text(True), '""',
        "a group whose members may look by the control socket, but change nothing",
        "control_readers", example='"adm"'),
    Key("cgroup_root", kinds.path(), '"/sys/fs/cgroup"',
        "where control groups (version 2) are mounted; for the limits of pools", "cgroup_root"),
    _like("--inspectable", kinds.boolean(), "inspectable"),
))

LIMITS = Section("limits", "What a client may send, and how long it may take.", (
    _like("--idle-timeout", kinds.time(SECOND), "core.idle_timeout_ns", iis="ConnectionTimeout"),
    _like("--header-timeout", kinds.time(SECOND), "core.header_timeout_ns",
          iis="HeaderWaitTimeout"),
    _like("--entity-timeout", kinds.time(SECOND), "core.entity_timeout_ns"),
    _like("--min-send-rate", kinds.whole(0, 1_000_000_000), iis="MinFileBytesPerSec"),
    _like("--max-content", kinds.size(0, 1 << 50), iis="MaxRequestEntityAllowed"),
    _like("--max-field-length", kinds.size(256, 1 << 20), iis="MaxFieldLength"),
    _like("--max-request-bytes", kinds.size(512, 1 << 20), iis="MaxRequestBytes"),
    _like("--max-target-bytes", kinds.size(256, 1 << 20)),
    _like("--max-field-count", kinds.whole(8, 1024)),
))

CACHE = Section("cache", "The response cache, one for all sites.", (
    _like("--cache", kinds.word("off", "public", "rfc9111"), "core.cache", "mode",
          default='"public"'),
    _like("--cache-size", kinds.size(0, 1 << 44), "core.cache_size", "size"),
    _like("--cache-max-entry", kinds.size(1, 1 << 44), "core.cache_max_entry", "max_entry",
          iis="UriMaxUriBytes"),
    _like("--cache-frequent-hits", kinds.whole(1, 255), "core.cache_frequent_hits",
          "frequent_hits", default="1", iis="frequentHitThreshold",
          help="keep a response when it was asked for so many times within frequent_period"),
    _like("--cache-frequent-hits", kinds.time(SECOND), "core.cache_frequent_ns",
          "frequent_period", default='"10s"', iis="frequentHitTimePeriod",
          help="the time for frequent_hits"),
    _like("--cache-scavenge", kinds.time(SECOND, off=True), "core.cache_scavenge_ns", "scavenge",
          iis="UriScavengerPeriod", help=_SCAVENGE),
    _like("--cache-status", kinds.boolean(), "core.cache_status", "status"),
))

POOL = Section("pool", "An application pool: a queue, and the worker processes that serve it.", (
    Key("name", kinds.name(), "", "what applications, commands and the log call it", "name",
        iis="AppPoolId", example='"shop"', is_required=True),
    Key("auto_start", kinds.boolean(), "true",
        "start the pool with the server; else `kernelq start` does. A started pool is ready to "
        "serve, with or without a worker", "auto_start", iis="AppPoolAutoStart"),
    Key("start_mode", kinds.word("on_demand", "always_running"), '"on_demand"',
        "on_demand: a worker is started when a request waits; always_running: at once, and kept",
        "start_mode", iis="startMode"),
    _like("--queue-length", kinds.whole(1, 1_000_000), iis="AppPoolQueueLength"),
    _like("--queue-timeout", kinds.time(SECOND), "core.queue_timeout_ns"),
    _like("--request-timeout", kinds.time(SECOND, off=True), "core.request_timeout_ns",
          default='"off"'),
    _like("--threads", kinds.whole(1, 484)),
    Key("min_processes", kinds.whole(0, 1024), "",
        "worker processes that stay when requests grow fewer", "min_processes",
        otherwise="0; 1 when always_running", example="2"),
    Key("max_processes", kinds.whole(1, 1024, _AUTO), "1",
        "most worker processes (a web garden if more than one); auto: one per CPU that kernelq may "
        "use", "max_processes", "--workers", "MaxProcesses"),
    Key("grow_after", kinds.time(MS), '"100ms"',
        "one worker more when a request has waited so long in the queue", "grow_after_ns"),
    Key("shrink_after", kinds.time(SECOND), '"60s"',
        "one worker less when half of what one fewer can do was enough for so long",
        "shrink_after_ns"),
    Key("idle_timeout", kinds.time(SECOND, off=True), "",
        "end a worker that had no request for so long; off: never", "idle_timeout_ns",
        iis="IdleTimeout", otherwise="20m; off when always_running", example='"20m"'),
    Key("idle_timeout_action", kinds.word("terminate", "suspend"), '"terminate"',
        "terminate: the idle worker ends; suspend: it stays, and gives its memory back",
        "idle_timeout_action", iis="idleTimeoutAction"),
    _like("--ping-response-time", kinds.time(SECOND), "core.ping_response_time_ns",
          iis="PingResponseTime"),
    _like("--startup-time-limit", kinds.time(SECOND), "startup_limit_ns", iis="StartupTimeLimit"),
    Key("shutdown_time_limit", kinds.time(SECOND), '"90s"',
        "how long a worker may take to finish its requests when it is replaced or stopped; then it "
        "is killed", "shutdown_limit_ns", iis="ShutdownTimeLimit"),
    _like("--redispatch", kinds.word("idempotent", "always", "never")),
    _like("--redispatch-limit", kinds.whole(0, 100)),
    Key("load_balancer_capabilities",
        kinds.word("http", "tcp", meaning={"http": False, "tcp": True}), '"http"',
        "what a client gets when the pool cannot take its request: http: 503; tcp: a reset, which "
        "balancers that do not speak HTTP understand", "core.refuses_by_reset",
        iis="LoadBalancerCapabilities"),
    _like("--preload", kinds.boolean(), "preload"),
    _like("--chdir", kinds.path(), "directory", "directory", default="",
          help="the workers' working folder", example='"/srv/shop"',
          otherwise="the folder of its applications if they have one in common, else the file's"),
    Key("orphan_worker_process", kinds.boolean(), "false",
        "leave an unhealthy worker alive, stopped and out of service, for a debugger",
        "orphan_worker_process", iis="OrphanWorkerProcess"),
    Key("orphan_action", kinds.list_of(kinds.text()), "[]",
        "program and arguments to run for an orphan; %1% is its process number", "orphan_action",
        iis="OrphanActionExe, OrphanActionParams",
        example='["/usr/local/bin/look-at", "%1%"]'),
), is_array=True)

RECYCLING = Section("pool.recycling",
                    "When a worker is replaced although nothing is wrong with it. The new one "
                    "serves before the old one stops.", (
    Key("time", kinds.time(SECOND, off=True), '"29h"', "after so long", "recycling.time_ns",
        iis="PeriodicRestartTime"),
    Key("requests", kinds.whole(0, (1 << 31) - 1, {"off": 0}), '"off"', "after so many requests",
        "recycling.requests", iis="PeriodicRestartRequests", example="10000"),
    Key("schedule", kinds.schedule(), "[]", "at these local times of the day",
        "recycling.schedule", iis="PeriodicRestartSchedule", example='["03:30"]'),
    Key("memory", kinds.size(1 << 20, 1 << 50, off=True), '"off"',
        "when it has so much resident memory", "recycling.memory", iis="PeriodicRestartMemory",
        example='"1G"'),
    Key("private_memory", kinds.size(1 << 20, 1 << 50, off=True), '"off"',
        "when it has so much memory that no other process shares", "recycling.private_memory",
        iis="PeriodicRestartPrivateMemory", example='"512M"'),
    Key("jitter", kinds.part(0.9), "0.1",
        "each worker's limits of time and requests come earlier by up to this part, so that not "
        "all of a pool are replaced at once", "recycling.jitter"),
    Key("disallow_overlapping_rotation", kinds.boolean(), "false",
        "stop the old worker first, then start the new one; requests wait meanwhile",
        "recycling.disallow_overlapping_rotation", iis="DisallowOverlappingRotation"),
    Key("disallow_rotation_on_config_change", kinds.boolean(), "false",
        "a changed configuration waits for the next recycling",
        "recycling.disallow_rotation_on_config_change", iis="DisallowRotationOnConfigChange"),
))

RAPID_FAIL = Section("pool.rapid_fail",
                     "Rapid-fail protection: when a pool whose workers keep failing is taken "
                     "offline (503).", (
    Key("max_crashes", kinds.whole(0, 1000, {"off": 0}), "5",
        "so many failures within the interval; off: never", "rapid_fail.max_crashes",
        "--rapid-fail", "RapidFailProtection, RapidFailProtectionMaxCrashes"),
    Key("interval", kinds.time(SECOND), '"5m"', "the time for max_crashes; a pool that is offline "
        "tries again once per interval", "rapid_fail.interval_ns", "--rapid-fail",
        "RapidFailProtectionInterval"),
    Key("counts", kinds.word("startup", "all"), '"startup"',
        "startup: only workers that fail before their first answer count; all: every crash, as in "
        "IIS", "rapid_fail.counts"),
    Key("action", kinds.list_of(kinds.text()), "[]",
        "program and arguments to run when the pool is taken offline", "rapid_fail.action",
        iis="AutoShutdownAppPoolExe, AutoShutdownAppPoolParams",
        example='["/usr/local/bin/page-somebody", "shop"]'),
))

CPU = Section("pool.cpu", "How much processor time a pool's workers may use together.", (
    Key("limit", kinds.percentage(1_000_000), '"off"', "percent of one CPU: 150 is one and a half",
        "cpu.limit", iis="CPULimit", example="150"),
    Key("action", kinds.word("none", "throttle", "kill"), '"none"',
        "above the limit: none: an event in the log; throttle: the workers get no more; kill: they "
        "are ended, and the pool stays offline until the interval ends", "cpu.action",
        iis="CPUAction"),
    Key("interval", kinds.time(SECOND), '"5m"', "the time over which use is counted",
        "cpu.interval_ns", iis="CPUResetInterval"),
    Key("affinity", kinds.cpu_list(), "[]", "the CPUs that the workers may run on; empty: all",
        "cpu.affinity", iis="SMPAffinitized, SMPProcessorAffinityMask", example='"0-3"'),
))

PROCESS = Section("pool.process", "What a worker process is before its first line of Python.", (
    Key("python", kinds.path(""), '""',
        "another interpreter, such as a virtual environment's; kernelq must be installed there. "
        "Empty: the one that runs kernelq", "process.python",
        example='"/srv/shop/.venv/bin/python"'),
    Key("user", kinds.text(True), "", "user (name or number) that runs the applications",
        "process.user", iis="AppPoolIdentityType, WAMUserName", otherwise="that of [server]",
        example='"shop"'),
    Key("group", kinds.text(True), "", "its group", "process.group",
        otherwise="the user's own, or that of [server] with its user", example='"shop"'),
    Key("groups", kinds.list_of(kinds.text()), "", "supplementary groups, in place of those that "
        "the user has", "process.groups", otherwise="those of the user", example='["media"]'),
    Key("umask", kinds.umask(), "", "file mode mask, octal", "process.umask",
        otherwise="that of [server]", example='"027"'),
    Key("nice", kinds.whole(-20, 19), "0", "scheduling priority; below 0 needs a start as root",
        "process.nice"),
    Key("rlimits", kinds.rlimits(), "{}",
        "resource limits (setrlimit): one number, or [soft, hard]", "process.rlimits",
        example='{ nofile = 4096, core = [0, "unlimited"] }'),
    Key("environment", kinds.environment(), "{}", "variables for all applications of the pool",
        "process.environment", iis="environmentVariables", example='{ LANG = "C.UTF-8" }'),
    Key("private_tmp", kinds.boolean(), "false", "a /tmp of its own, empty at the start",
        "process.private_tmp"),
    Key("read_only", kinds.list_of(kinds.path()), "[]",
        "with this or writable, workers may read only these places and what Python and the system "
        "need (Landlock, where the kernel has it)", "process.read_only",
        example='["/srv/shop", "/etc/ssl"]'),
    Key("writable", kinds.list_of(kinds.path()), "[]",
        "places below which workers may write; with this or read_only, nowhere else",
        "process.writable", example='["/srv/shop/uploads"]'),
    Key("no_new_privileges", kinds.boolean(), "true",
        "programs that workers start gain nothing from set-user-id bits",
        "process.no_new_privileges"),
))

SITE = Section("site", "A site: where it answers, and its applications.", (
    Key("name", kinds.name(), "", "what commands and the log call it", "name", iis="ServerComment",
        example='"shop"', is_required=True),
    _like("--bind", kinds.list_of(kinds.text(), needed="binding"), "bindings",
          "bindings", default="", iis="ServerBindings",
          help="ADDRESS:PORT or ADDRESS:PORT:HOST, [V6]:PORT:HOST, unix:PATH or fd://N. HOST is a "
               "name, *.name for any one label before it, + for every host before all others; "
               "without it, what no other site wants",
          otherwise=f"sockets passed by systemd, else {DEFAULT_BINDING}",
          example='["*:80:shop.example", "*:80:www.shop.example"]'),
    Key("auto_start", kinds.boolean(), "true", "start the site with the server; until it is "
        "started its requests are answered 503", "auto_start", iis="ServerAutoStart"),
), is_array=True)

APPLICATION = Section("site.application", "An application: what answers below a path of its site.",
                      (
    Key("path", kinds.list_of(kinds.text(), needed="path"), '"/"',
        "its path, or several; the application sees it as SCRIPT_NAME. The longest that fits a "
        "request, by whole segments, wins", "path", iis="AppRoot", example='"/api"'),
    Key("app", kinds.text(), "", "MODULE:CALLABLE or MODULE:FACTORY()", "app",
        example='"shop.wsgi:application"', is_required=True),
    Key("pool", kinds.text(), "", "the name of its pool", "pool", iis="AppPoolId",
        otherwise="the only pool", example='"shop"'),
    Key("directory", kinds.path(), "", "where it is imported from", "directory", "--chdir",
        otherwise="that of its pool, else the file's", example='"/srv/shop"'),
    Key("environment", kinds.environment(), "{}",
        "its variables; applications of one pool share a process, and cannot differ in one",
        "environment", example='{ SHOP_DB = { file = "/run/secrets/shop-db" } }'),
    Key("warm_up", kinds.list_of(kinds.text()), "[]",
        "targets below its path that a new worker must have answered before it gets requests",
        "warm_up", example='["/health"]'),
    Key("isolation", kinds.word("pooled", "isolated"), "",
        "with isolation_mode = \"iis5\": pooled: in one process with all other pooled "
        "applications (medium isolation); isolated: in a process of its own (high)", "isolation",
        iis="AppIsolated", otherwise="in the host process (low isolation)",
        example='"isolated"'),
), is_array=True)
# fmt: on

POOL_PARTS = (RECYCLING, RAPID_FAIL, CPU, PROCESS)
SECTIONS = (SERVER, LIMITS, CACHE, POOL, *POOL_PARTS, SITE, APPLICATION)
DEFAULTS = "defaults"  # [defaults.pool], [defaults.pool.recycling], ...


def find_keys(name: str) -> Iterator[tuple[Section, Key]]:
    """Every key of this name, and where it belongs."""
    for section in SECTIONS:
        found = section.key(name)
        if found is not None:
            yield section, found


def key_of_option(option: str) -> list[tuple[Section, Key]]:
    """What stands in the file in place of an option of the command line."""
    return [(section, key) for section in SECTIONS for key in section.keys if key.option == option]
