"""Every key of kernelq.toml: what it takes, where that goes, and what it refuses."""

import os
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from kernelq import config
from kernelq.configuration import ConfigurationErrors, read, table
from kernelq.configuration.kinds import UNLIMITED
from kernelq.configuration.read import default_of
from kernelq.configuration.table import Key, Section
from kernelq.configuration.toml import toml_value
from kernelq.units import GIB, HOUR, KIB, MIB, MINUTE, MS, SECOND

KEYS = [(section, key) for section in table.SECTIONS for key in section.keys]
IDS = [f"{section.name}.{key.name}" for section, key in KEYS]

# By key: values as TOML writes them and what they mean, and values that are refused.
Cases = tuple[list[tuple[str, Any]], list[str]]
BOOLEAN: Cases = ([("true", True), ("false", False), ('"on"', True)], ["1", '"yes"', "[]", "{}"])
TIME: Cases = (
    [("30", 30 * SECOND), ('"500s"', 500 * SECOND), ("1.5", 1.5 * SECOND), ('"2m"', 2 * MINUTE)],
    ['"1d"', "-1", "true", '"-1s"', "[]", "1979-05-27", "1e99", "nan", '"99999h"'],
)
TIME_OR_OFF: Cases = (
    [*TIME[0], ('"off"', 0), ("0", 0), ("false", 0)],
    [one for one in TIME[1] if one != "true"] + ["true", '"never"'],
)
NUMBERS_BAD = ["-1", "1.5", "true", '"many"', "[]", '""', '"1.0"', f'"{5000 * "9"}"']
TEXT: Cases = ([('"a b"', "a b")], ["1", "true", '"\\u0000"', '{ a = "1" }'])
ARRAY: Cases = (
    [('["/bin/x", "%1%"]', ("/bin/x", "%1%")), ('"/bin/x"', ("/bin/x",)), ("[]", ())],
    ["[1]", "1", '["x", ""]', "[[]]"],
)
HERE = "/"  # a folder that is there
CASES: dict[str, Cases] = {
    "server.loops": ([("1", 1), ('"4"', 4)], ["0", "65", *NUMBERS_BAD]),
    "server.max_connections": ([('"auto"', 0), ("7", 7)], ["0", "1_000_001", *NUMBERS_BAD]),
    "server.keep_alive": BOOLEAN,
    "server.forwarded_allow_ips": (
        [
            ('["unix", "10.0.0.0/8"]', ("unix", "10.0.0.0/8")),
            ('"unix,10.0.0.1"', ("unix", "10.0.0.1/32")),
            ("[]", ()),
            ('"none"', ()),
        ],
        ['"10.0.0.1/8"', "[1]", '[""]', "true"],
    ),
    "server.health_path": (
        [("true", "/.kernelq"), ("false", ""), ('"/up"', "/up"), ('"on"', "/.kernelq")],
        ['"up"', '"/a b"', "1", "[]"],
    ),
    "server.content": ([('"streamed"', "streamed")], ['"kept"', "true"]),
    "server.content_memory": ([('"64K"', 64 * KIB), ("5", 5)], ['"1T"', "-1", "true", "1.5"]),
    "server.spill_dir": ([(f'"{HERE}"', HERE)], ['"/nonexistent"', '""', "1"]),
    "server.response_takeover": ([('"1M"', MIB)], ["1", '"2G"', "false"]),
    "server.half_close": ([('"drop"', "drop")], ['"maybe"']),
    "server.graceful_timeout": ([*TIME[0], ("0", 0)], TIME[1]),
    "server.drain_delay": ([*TIME[0], ("0", 0)], TIME[1]),
    "server.isolation_mode": ([('"worker_process"', "worker_process")], ['"iis6"', "5"]),
    "server.user": ([('""', ""), (f'"{os.geteuid()}"', str(os.geteuid()))], ['"no-such"', "0"]),
    "server.group": ([('""', ""), (f'"{os.getegid()}"', str(os.getegid()))], ['"no-such"', "0"]),
    "server.umask": ([('"022"', 0o22), ('"inherited"', -1)], ["18", '"888"', '"1777"', "true"]),
    "server.access_log": (
        [('"-"', "-"), ('"none"', "none"), ('"/var/log/x"', "/var/log/x")],
        ['""', "1"],
    ),
    "server.log_level": ([('"debug"', 10), ('"error"', 40)], ['"loud"', "10"]),
    "server.pid_file": ([('"/run/x"', "/run/x"), ('""', "")], ["1"]),
    "server.control": (
        [('"off"', "off"), ('"auto"', "auto"), ('"/run/x"', "/run/x")],
        [f'"/{107 * "x"}"', "false"],
    ),
    "server.control_readers": ([('""', ""), ('"0"', "0")], ['"no-such-group"', "0"]),
    "server.cgroup_root": ([('"/sys/fs/cgroup/x"', "/sys/fs/cgroup/x")], ['""', "1"]),
    "server.inspectable": BOOLEAN,
    "limits.idle_timeout": (TIME[0], ["0", '"off"', *TIME[1]]),
    "limits.header_timeout": (TIME[0], ["0", '"off"', *TIME[1]]),
    "limits.entity_timeout": (TIME[0], ["0", '"off"', *TIME[1]]),
    "limits.min_send_rate": ([("0", 0), ("240", 240)], NUMBERS_BAD),
    "limits.max_content": ([('"1G"', GIB), ("0", 0), ('"10MiB"', 10 * MIB)], ['"1.5G"', "-1"]),
    "limits.max_field_length": ([('"1K"', KIB)], ["255", '"2M"']),
    "limits.max_request_bytes": ([('"32K"', 32 * KIB)], ["511", '"2M"']),
    "limits.max_target_bytes": ([('"1K"', KIB)], ["255", '"2M"']),
    "limits.max_field_count": ([("8", 8)], ["7", "1025", *NUMBERS_BAD]),
    "cache.mode": ([('"off"', "off"), ('"rfc9111"', "rfc9111")], ['"on"', "true"]),
    "cache.size": ([("0", 0), ('"1G"', GIB)], ['"-1"', "-1"]),
    "cache.max_entry": ([('"1M"', MIB)], ["0"]),
    "cache.frequent_hits": ([("2", 2)], ["0", "256", *NUMBERS_BAD]),
    "cache.frequent_period": (TIME[0], ["0", *TIME[1]]),
    "cache.scavenge": TIME_OR_OFF,
    "cache.status": BOOLEAN,
    "pool.name": (
        [('"shop"', "shop"), ('"shop-1.b_c"', "shop-1.b_c")],
        ['""', '"a b"', '"-a"', '"ä"', "1", f'"{65 * "x"}"'],
    ),
    "pool.auto_start": BOOLEAN,
    "pool.start_mode": (
        [('"always_running"', "always_running"), ('"on_demand"', "on_demand")],
        ['"AlwaysRunning"', "true"],
    ),
    "pool.queue_length": ([("10", 10)], ["0", "1_000_001", *NUMBERS_BAD]),
    "pool.queue_timeout": (TIME[0], ["0", '"off"', *TIME[1]]),
    "pool.request_timeout": TIME_OR_OFF,
    "pool.threads": ([("1", 1), ('"16"', 16)], ["0", "485", *NUMBERS_BAD]),
    "pool.min_processes": ([("1", 1), ("0", 0)], ["2", "1025", *NUMBERS_BAD]),
    "pool.max_processes": ([("8", 8)], ["0", "1025", *NUMBERS_BAD]),
    "pool.grow_after": ([('"5ms"', 5 * MS), ("1", SECOND)], ["0", *TIME[1]]),
    "pool.shrink_after": (TIME[0], ["0", *TIME[1]]),
    "pool.idle_timeout": TIME_OR_OFF,
    "pool.idle_timeout_action": ([('"suspend"', "suspend")], ['"sleep"']),
    "pool.ping_response_time": (TIME[0], ["0", *TIME[1]]),
    "pool.startup_time_limit": (TIME[0], ["0", *TIME[1]]),
    "pool.shutdown_time_limit": (TIME[0], ["0", *TIME[1]]),
    "pool.redispatch": ([('"never"', "never")], ['"sometimes"']),
    "pool.redispatch_limit": ([("0", 0), ("100", 100)], ["101", *NUMBERS_BAD]),
    "pool.load_balancer_capabilities": ([('"tcp"', True), ('"http"', False)], ['"udp"', "2"]),
    "pool.preload": BOOLEAN,
    "pool.directory": ([(f'"{HERE}"', HERE)], ['"/nonexistent"', '""', "1"]),
    "pool.orphan_worker_process": BOOLEAN,
    "pool.orphan_action": ARRAY,
    "pool.recycling.time": ([*TIME_OR_OFF[0], ('"29h"', 29 * HOUR)], TIME_OR_OFF[1]),
    "pool.recycling.requests": ([("10000", 10000), ('"off"', 0), ("0", 0)], NUMBERS_BAD),
    "pool.recycling.schedule": (
        [
            ('["15:30", "03:30:05"]', (12605, 55800)),
            ('"00:00"', (0,)),
            ("[03:30:00, 03:30:00]", (12600,)),
            ("[]", ()),
        ],
        ['"24:00"', '"3"', '"03:60"', "[330]", '["x"]', "1979-05-27", "03:30:00.5"],
    ),
    "pool.recycling.memory": ([('"1G"', GIB), ('"off"', 0), ("0", 0)], ['"1K"', "true", "-1"]),
    "pool.recycling.private_memory": ([('"64M"', 64 * MIB)], ["1024", '"much"']),
    "pool.recycling.jitter": ([("0.25", 0.25), ('"50%"', 0.5), ("0", 0.0)], ["1", "-0.1", '"x%"']),
    "pool.recycling.disallow_overlapping_rotation": BOOLEAN,
    "pool.recycling.disallow_rotation_on_config_change": BOOLEAN,
    "pool.rapid_fail.max_crashes": ([("3", 3), ('"off"', 0)], ["1001", *NUMBERS_BAD]),
    "pool.rapid_fail.interval": (TIME[0], ["0", *TIME[1]]),
    "pool.rapid_fail.counts": ([('"all"', "all")], ['"none"']),
    "pool.rapid_fail.action": ARRAY,
    "pool.cpu.limit": (
        [("150", 150.0), ('"12.5%"', 12.5), ('"off"', 0.0), ("0", 0.0)],
        ["-1", '"much"', "true", '"%"'],
    ),
    "pool.cpu.action": ([('"throttle"', "throttle"), ('"kill"', "kill")], ['"KillW3wp"', "1"]),
    "pool.cpu.interval": (TIME[0], ["0", *TIME[1]]),
    "pool.cpu.affinity": (
        [("0", (0,)), ("[0]", (0,)), ('"0"', (0,)), ('["0-0"]', (0,)), ("[]", ())],
        ["-1", '"x"', '"3-1"', "[true]", "9000", '""', "[0, -1]"],
    ),
    "pool.process.python": (
        [('""', ""), ('"/bin/sh"', "/bin/sh")],
        ['"/nonexistent"', '"/etc/passwd"', '"/"', "3"],
    ),
    "pool.process.user": (
        [('""', ""), (f'"{os.geteuid()}"', str(os.geteuid()))],
        ['"no-such-user"', "0", '"²"', f'"{5000 * "9"}"', '"4294967295"'],
    ),
    "pool.process.group": ([('""', "")], ['"no-such-group"', "0"]),
    "pool.process.groups": (
        [('["0"]', ("0",)), ("[]", ())] if os.geteuid() == 0 else [],
        ['["no-such-group"]', "[0]", '["²"]', '["4294967296"]'],
    ),
    "pool.process.umask": ([('"027"', 0o27)], ["18", '"x"']),
    "pool.process.nice": ([("19", 19), ('"5"', 5)], ["20", "-21", "1.5", "true"]),
    "pool.process.rlimits": (
        [
            ("{ nofile = 64 }", (("nofile", 64, 64),)),
            ('{ core = [0, "1M"] }', (("core", 0, MIB),)),
            ("{}", ()),
        ],
        [
            "64",
            "{ files = 64 }",
            "{ nofile = [2, 1] }",
            '{ nofile = ["unlimited", 1] }',
            "{ nofile = true }",
            "{ nofile = [1] }",
            "{ nofile = -1 }",
        ],
    ),
    "pool.process.environment": (
        [
            ('{ A = "1", "b.c" = "" }', (("A", "1"), ("b.c", ""))),
            ("{ N = 1, F = 1.5 }", (("N", "1"), ("F", "1.5"))),
        ],
        ['"A=1"', "{ A = true }", '{ "A=B" = "1" }', '{ "" = "1" }', '{ A = "\\u0000" }'],
    ),
    "pool.process.private_tmp": BOOLEAN,
    "pool.process.read_only": ([('["/", "/etc"]', ("/", "/etc")), ("[]", ())], ['["/none"]', "1"]),
    "pool.process.writable": ([('"/tmp"', ("/tmp",))], ['["/nonexistent"]', '[""]']),
    "pool.process.no_new_privileges": BOOLEAN,
    "site.name": ([('"shop"', "shop")], ['""', '"a b"', "[]"]),
    "site.bindings": (
        [
            ('["*:80:", "127.0.0.1:81:Shop.Example"]', "*:80: 127.0.0.1:81:shop.example"),
            ('"[::1]:80"', "[::1]:80:"),
            ('"fd://3"', "fd://3:"),
        ],
        ["[]", '"nowhere"', "80", '"*:80:*.*.x"', '"1.2.3.4:99999"'],
    ),
    "site.auto_start": BOOLEAN,
    "site.application.path": (
        [('"/a/"', "/a"), ('["/", "/b c"]', "/ /b c")],
        ['"a"', "[]", '"/a//b"', '"/a/../b"', '"/a%20b"', '"/a?b"', "1", '["/", "/"]'],
    ),
    "site.application.app": (
        [('"a.b:c"', "a.b:c"), ('"a:make(\\"x\\")"', 'a:make("x")')],
        ['"a"', '"a.py"', '"a:b(c)"', "1", '""'],
    ),
    "site.application.pool": ([('"default"', "default")], ['"other"', "1", '""']),
    "site.application.directory": ([(f'"{HERE}"', HERE)], ['"/nonexistent"', "1"]),
    "site.application.environment": ([('{ A = "1" }', (("A", "1"),))], ["1", "{ A = [] }"]),
    "site.application.warm_up": (
        [('["/health", "/a?b=c"]', ("/health", "/a?b=c")), ('"/x"', ("/x",))],
        ['"health"', '"/a b"', '"/ä"', "[1]"],
    ),
    "site.application.isolation": ([], ['"pooled"', '"low"', "true"]),
}


def write(section: Section, key: Key, value: str) -> str:
    """A file in which this key has this value, and all else is right."""
    wanted = {
        "pool": {"name": '"default"'},
        "site": {"name": '"default"'},
        "site.application": {"app": '"kernelq.demo:application"'},
    }
    lines = []
    before = ["pool"] if section.name.startswith("pool.") else []
    before += [] if section.name.startswith("site") else [section.name]
    for heading in [*before, "site", "site.application"]:
        values = dict(wanted.get(heading, {}))
        if heading == section.name:
            values[key.name] = value
        is_array = heading in wanted
        lines.append(f"[[{heading}]]" if is_array else f"[{heading}]")
        lines += [f"{name} = {text}" for name, text in values.items()]
    return "\n".join(lines)


def found(settings: config.ServerSettings, section: Section, key: Key) -> Any:
    """Where the value went."""
    if section is table.SITE:
        if key.name == "bindings":
            return " ".join(str(one) for one in settings.sites[0].bindings)
        return attrgetter(key.field)(settings.sites[0])
    if section is table.APPLICATION:
        if key.name == "path":
            return " ".join(one.path for one in settings.sites[0].applications)
        return attrgetter(key.field)(settings.sites[0].applications[0])
    return attrgetter(key.field)(settings.pools[0] if "pool" in section.name else settings)


Load = Callable[[str], config.ServerSettings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_text(text: str) -> config.ServerSettings:
        file = tmp_path / "kernelq.toml"
        file.write_text(text)
        return read(str(file)).settings

    return load_text


def test_every_key_has_cases() -> None:
    assert sorted(CASES) == sorted(IDS)


@pytest.mark.parametrize(("section", "key"), KEYS, ids=IDS)
def test_good_values_arrive(section: Section, key: Key, load: Load) -> None:
    for text, meaning in CASES[f"{section.name}.{key.name}"][0]:
        assert found(load(write(section, key, text)), section, key) == meaning, text


@pytest.mark.parametrize(("section", "key"), KEYS, ids=IDS)
def test_bad_values_are_refused_with_line_and_key(section: Section, key: Key, load: Load) -> None:
    for text in CASES[f"{section.name}.{key.name}"][1]:
        written = write(section, key, text)
        with pytest.raises(ConfigurationErrors) as refused:
            load(written)
        (line,) = refused.value.lines
        number = written.split("\n").index(f"{key.name} = {text}") + 1
        assert f"kernelq.toml:{number}: " in line, line
        assert f".{key.name}" in line, line
        assert "\n" not in line


@pytest.mark.parametrize(("section", "key"), KEYS, ids=IDS)
def test_every_row_is_complete(section: Section, key: Key) -> None:
    assert key.help
    assert "--" not in key.help, "a file speaks of keys"
    assert not key.help.endswith(".")
    assert bool(key.default) != bool(key.otherwise or key.is_required)
    for text in (key.default, key.example):
        if text and "file =" not in text:
            read_back(key, text)


def read_back(key: Key, text: str) -> None:
    """What is written of a value means that value."""
    value = key.kind.understand(toml_value(text))
    written = key.kind.write(value)
    assert key.kind.understand(toml_value(written)) == value


@pytest.mark.parametrize(("section", "key"), KEYS, ids=IDS)
def test_defaults_are_those_of_the_settings(section: Section, key: Key) -> None:
    """One place decides, and the other agrees."""
    machine_decides = {"loops", "bindings", "path"}
    if not key.default or key.name in machine_decides:
        return
    owners = {"site": config.SiteSettings(), "site.application": config.ApplicationSettings()}
    pool = section.name.startswith("pool")
    owner: object = config.PoolSettings() if pool else config.ServerSettings()
    owner = owners.get(section.name, owner)
    if key.name == "forwarded_allow_ips":
        assert sorted(default_of(key)) == sorted(attrgetter(key.field)(owner))
    else:
        assert default_of(key) == attrgetter(key.field)(owner)


def test_unlimited(load: Load) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may raise a limit")
    section, key = next(one for one in KEYS if one[1].name == "rlimits")
    settings = load(write(section, key, '{ core = "unlimited" }'))
    assert settings.pools[0].process.rlimits == (("core", UNLIMITED, UNLIMITED),)
