"""The systemd units of contrib/: every line is one that systemd knows, and says what it shall."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
UNITS = sorted(path.name for path in CONTRIB.iterdir())
SERVICES = [name for name in UNITS if name.endswith(".service")]

# The directives in use, by the manual page that describes them (systemd 252).
KNOWN = {
    "systemd.unit(5)": "After Description Documentation Wants WantedBy",
    "systemd.service(5)": (
        "ExecReload ExecStart ExecStartPre NotifyAccess OOMPolicy Restart RestartSec "
        "TimeoutStartSec TimeoutStopSec Type WatchdogSec"
    ),
    "systemd.kill(5)": "KillMode",
    "systemd.socket(5)": "Backlog ListenStream NoDelay",
    "systemd.resource-control(5)": "Delegate",
    "systemd.exec(5)": (
        "AmbientCapabilities CapabilityBoundingSet ConfigurationDirectory LimitNOFILE "
        "LockPersonality LogsDirectory NoNewPrivileges PrivateDevices PrivateTmp ProtectClock "
        "ProtectHome ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables "
        "ProtectSystem ReadWritePaths RestrictAddressFamilies RestrictNamespaces RestrictRealtime "
        "RestrictSUIDSGID RuntimeDirectory RuntimeDirectoryMode RuntimeDirectoryPreserve "
        "SystemCallArchitectures SystemCallErrorNumber SystemCallFilter UMask User"
    ),
}


def lines(name: str) -> list[tuple[str, str, str]]:
    """Section, directive and value of each line."""
    found = []
    section = ""
    for line in (CONTRIB / name).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            directive, equals, value = line.partition("=")
            assert equals, line
            found.append((section, directive, value))
    return found


def values(name: str, directive: str) -> list[str]:
    return [value for _, one, value in lines(name) if one == directive]


def test_the_units_that_there_are() -> None:
    assert UNITS == ["kernelq.service", "kernelq.socket", "kernelq@.service"]


@pytest.mark.parametrize("name", UNITS)
def test_every_directive_is_known(name: str) -> None:
    known = {word for words in KNOWN.values() for word in words.split()}
    assert [one for _, one, _ in lines(name) if one not in known] == []
    sections = {"Unit", "Install", name.rpartition(".")[2].capitalize()}
    assert {section for section, _, _ in lines(name)} == sections


def test_the_table_has_nothing_that_is_not_used() -> None:
    used = {one for name in UNITS for _, one, _ in lines(name)}
    assert {word for words in KNOWN.values() for word in words.split()} - used == set()


@pytest.mark.parametrize("name", SERVICES)
def test_what_kernelq_relies_on(name: str) -> None:
    for directive, value in (
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("KillMode", "mixed"),
        ("Delegate", "yes"),
        ("OOMPolicy", "continue"),
        ("NoNewPrivileges", "yes"),
        ("SystemCallErrorNumber", "EPERM"),
    ):
        assert values(name, directive) == [value]
    # Each would hide from the managers, or keep from them, what they need.
    for directive in ("ProtectProc", "ProcSubset", "ProtectControlGroups", "PrivateUsers"):
        assert values(name, directive) == []
    filters = " ".join(values(name, "SystemCallFilter"))
    for call in ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"):
        assert call in filters


@pytest.mark.parametrize("name", SERVICES)
def test_commands_and_options_exist(name: str) -> None:
    from kernelq.options import OPTIONS

    known = {option.name for option in OPTIONS} | {"--config", "--control"}
    for directive in ("ExecStart", "ExecStartPre", "ExecReload"):
        (command,) = values(name, directive)
        assert command.lstrip("+").split()[0] == "/opt/kernelq/bin/kernelq"
        assert set(re.findall(r"--\w+", command)) <= known


def test_root_keeps_what_it_needs_and_no_more() -> None:
    kept = " ".join(values("kernelq.service", "CapabilityBoundingSet")).split()
    assert {"CAP_SETUID", "CAP_SETGID", "CAP_KILL"} <= {*kept}
    assert not {*kept} & {"CAP_SYS_PTRACE", "CAP_SYS_MODULE", "CAP_DAC_OVERRIDE", "CAP_NET_ADMIN"}
    assert values("kernelq@.service", "CapabilityBoundingSet") == [""]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_itself_finds_nothing_wrong(tmp_path: Path) -> None:
    for name in UNITS:
        text = (CONTRIB / name).read_text().replace("/opt/kernelq/bin/kernelq", "/bin/true")
        (tmp_path / name.replace("@.", "@daemon.")).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "kernelq" in line]
    assert (ours, done.returncode) == ([], 0)
