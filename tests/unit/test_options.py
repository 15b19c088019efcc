"""Options: every default parses, every bad value says what is allowed."""

from pathlib import Path

import pytest

from kernelq import cpus, options
from kernelq.config import DEMO_APPLICATION, CoreSettings, make_settings
from kernelq.errors import OptionError
from kernelq.options import OPTIONS, default_values, parse_option
from kernelq.units import GIB, KIB, MIB, SECOND

BY_NAME = {option.name: option for option in OPTIONS}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_row_is_complete(option: options.Option) -> None:
    parse_option(option, option.default)
    assert option.help
    assert option.name.startswith("--")


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(OPTIONS)


def test_defaults_are_the_cores_own() -> None:
    settings = make_settings("", default_values(), 1024)
    core, plain = settings.core, CoreSettings()
    machine_decides = {"loops", "spin_ns"}
    for name in set(CoreSettings.__dataclass_fields__) - machine_decides:
        assert getattr(core, name) == getattr(plain, name), name
    assert settings.pools[0].applications[0].app == DEMO_APPLICATION


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("--workers", "auto", 0),
        ("--workers", "3", 3),
        ("--queue-timeout", "90", 90 * SECOND),
        ("--queue-timeout", "1500ms", 1.5 * SECOND),
        ("--queue-timeout", "2m", 120 * SECOND),
        ("--queue-timeout", "1.5h", 5400 * SECOND),
        ("--request-timeout", "off", 0),
        ("--graceful-timeout", "0", 0),
        ("--max-content", "1G", GIB),
        ("--max-content", "64KiB", 64 * KIB),
        ("--max-content", "10m", 10 * MIB),
        ("--max-content", "123", 123),
        ("--rapid-fail", "3/60", (3, 60 * SECOND)),
        ("--rapid-fail", "3/2m", (3, 120 * SECOND)),
        ("--rapid-fail", "off", (0, 300 * SECOND)),
        ("--cache", "rfc9111", "rfc9111"),
        ("--cache-size", "0", 0),
        ("--cache-size", "1G", GIB),
        ("--cache-frequent-hits", "2/10", (2, 10 * SECOND)),
        ("--cache-scavenge", "0", 0),
        ("--cache-scavenge", "off", 0),
        ("--cache-scavenge", "5m", 300 * SECOND),
        ("--cache-status", "on", True),
        ("--control", "off", "off"),
        ("--control", "auto", "auto"),
        ("--control", "/run/a.sock", "/run/a.sock"),
        ("--umask", "027", 0o27),
        ("--umask", "inherited", -1),
        ("--keep-alive", "off", False),
        ("--health-path", "on", "/.kernelq"),
        ("--health-path", "/up", "/up"),
        ("--health-path", "off", ""),
        ("--log-level", "debug", 10),
        ("--forwarded-allow-ips", "10.0.0.1, unix", ("10.0.0.1/32", "unix")),
        ("--forwarded-allow-ips", "fd00::/8,loopback", ("fd00::/8", "127.0.0.0/8", "::1/128")),
        ("--forwarded-allow-ips", "none", ()),
        ("--forwarded-allow-ips", "*", ("*",)),
    ],
)
def test_good_values(name: str, text: str, value: object) -> None:
    assert parse_option(BY_NAME[name], text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("--workers", "0"),
        ("--workers", "many"),
        ("--workers", "-1"),
        ("--workers", "1.5"),
        ("--workers", "٣"),
        ("--threads", "1000"),
        ("--queue-timeout", "0"),
        ("--queue-timeout", "off"),
        ("--queue-timeout", "1d"),
        ("--queue-timeout", "1e9"),
        ("--queue-timeout", "s"),
        ("--queue-timeout", "99999h"),
        ("--queue-timeout", 5000 * "9"),
        ("--workers", 5000 * "9"),
        ("--max-content", 5000 * "9"),
        ("--max-content", "1T"),
        ("--max-content", "-1"),
        ("--max-content", "1.5G"),
        ("--rapid-fail", "5"),
        ("--rapid-fail", "0/300"),
        ("--rapid-fail", "5/x"),
        ("--cache", "on"),
        ("--cache-size", "-1"),
        ("--cache-max-entry", "0"),
        ("--cache-frequent-hits", "2"),
        ("--cache-frequent-hits", "0/10"),
        ("--cache-frequent-hits", "off"),
        ("--cache-scavenge", "10ms"),
        ("--cache-status", "yes"),
        ("--control", ""),
        ("--control", "/" + 107 * "x"),
        ("--umask", "888"),
        ("--umask", "1777"),
        ("--keep-alive", "yes"),
        ("--health-path", "up"),
        ("--health-path", "/a b"),
        ("--log-level", "loud"),
        ("--forwarded-allow-ips", "10.0.0.1/8"),
        ("--forwarded-allow-ips", ","),
        ("--chdir", "/nonexistent"),
        ("--content", "kept"),
        ("--access-log", ""),
    ],
)
def test_bad_values_say_what_is_allowed(name: str, text: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse_option(BY_NAME[name], text)
    message = str(refused.value)
    assert message.startswith(f"{name}: found {text!r}, allowed is ")
    assert "\n" not in message


def test_loops_are_one_below_four_processors_then_a_quarter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for processors, loops in ((1, 1), (3, 1), (4, 1), (8, 2), (32, 8)):
        monkeypatch.setattr(cpus, "count_usable", lambda count=processors: count)
        settings = make_settings("", default_values(), 1024)
        assert settings.core.loops == loops
        assert settings.pools[0].max_processes == processors


def make_v2(root: Path, path: str, quotas: dict[str, str]) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{path}\n")
    (root / "proc/self/mountinfo").write_text(
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
    )
    for folder, quota in quotas.items():
        place = root / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "cpu.max").write_text(quota)


def test_quota_v2_is_the_least_on_the_way_up(tmp_path: Path) -> None:
    make_v2(tmp_path, "/a/b", {"a/b": "max 100000\n", "a": "150000 100000\n"})
    assert cpus.quota_cpus(str(tmp_path)) == 1.5
    assert 1 <= cpus.count_usable(str(tmp_path)) <= 2


def test_quota_v2_in_a_container_is_at_the_mount(tmp_path: Path) -> None:
    make_v2(tmp_path, "/host/only", {".": "50000 100000\n"})
    assert cpus.quota_cpus(str(tmp_path)) == 0.5
    assert cpus.count_usable(str(tmp_path)) == 1


def test_quota_v1(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/m\n3:cpu,cpuacct:/docker/x\n0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text(
        "31 30 0:27 /docker/x /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n"
    )
    group = tmp_path / "sys/fs/cgroup/cpu"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("200000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert cpus.quota_cpus(str(tmp_path)) == 2.0
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpus.quota_cpus(str(tmp_path)) is None


def test_no_cgroups_no_quota(tmp_path: Path) -> None:
    assert cpus.quota_cpus(str(tmp_path)) is None
