"""Bad starts: one clear line (a traceback only of the application), and a status that is not 0."""

import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from server import ROOT, Server

Start = Callable[..., Server]


def run(
    folder: Path, *arguments: str, code: str = "", prefix: Sequence[str] = (), **more: object
) -> tuple[int, list[str]]:
    """The command, to its end: (status, lines of standard error without the advice about root)."""
    program = ["-c", code] if code else ["-m", "kernelq"]
    done = subprocess.run(
        [*prefix, sys.executable, *program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=30,
        text=True,
        check=False,
        **more,  # type: ignore[call-overload]
    )
    lines = [line for line in done.stderr.splitlines() if "--user NAME is advised" not in line]
    return done.returncode, lines


def test_address_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        status, (line,) = run(tmp_path, "--bind", address)
    assert status == 1
    assert line.startswith(f"kernelq: cannot listen on {address}: the address is in use")


def test_no_permission_for_a_low_port(tmp_path: Path) -> None:
    limit = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip()
    if limit == "0":
        pytest.skip("every port is open to everybody here")
    # A root without this capability is refused like anybody else.
    without = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("needs setpriv, as root")
    prefix = without if os.geteuid() == 0 else []
    status, (line,) = run(tmp_path, "--bind", "127.0.0.1:80", prefix=prefix)
    assert status == 1
    assert line.startswith("kernelq: cannot listen on 127.0.0.1:80: no permission (ports below")


def test_bad_option(tmp_path: Path) -> None:
    status, (line, hint) = run(tmp_path, "--threads", "none")
    assert status == 2
    assert line == "kernelq: --threads: found 'none', allowed is a whole number from 1 to 484"
    assert "--help" in hint


def test_too_few_descriptors(tmp_path: Path) -> None:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    status, (line,) = run(tmp_path, preexec_fn=lower)
    assert status == 1
    assert line.startswith("kernelq: too few descriptors: ")


def test_low_soft_limit_is_raised(start: Start, application: Path) -> None:
    code = (
        "import os, resource, sys\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (48, hard))\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    application.write_text(
        "import resource\n"
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]).encode()]\n"
    )
    server = start("app:application", python=(sys.executable, "-c", code)).ready()
    (service,) = server.pids("service")
    assert resource.prlimit(service, resource.RLIMIT_NOFILE)[0] > 48
    assert server.get() == "48"  # the application gets what the user had
    assert server.end() == 0


def test_old_kernel(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from kernelq import cli\n"
        "def refuse(pid): raise OSError(38, 'Function not implemented')\n"
        "os.pidfd_open = refuse\n"
        "sys.exit(cli.main([]))\n"
    )
    status, (line,) = run(tmp_path, code=code)
    assert status == 1
    assert line.startswith("kernelq: kernel too old: ")


@pytest.mark.parametrize("name", ["nobody-of-that-name", "4294967295", "9" * 5000])
def test_unknown_user(tmp_path: Path, name: str) -> None:
    status, (line,) = run(tmp_path, "--user", name)
    assert (status, line) == (1, f"kernelq: --user: there is no user '{name}'")


def test_access_log_that_cannot_be_opened(tmp_path: Path) -> None:
    name = f"{tmp_path}/none/access.log"
    status, (line,) = run(tmp_path, "--access-log", name, "--bind", "127.0.0.1:0")
    assert status == 1
    assert line == f"kernelq: --access-log: cannot open {name}: No such file or directory"


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["exec", "preload"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent:application", "there is no module 'absent'"),
        ("app:other", "module 'app' has no 'other'; it has application"),
        ("app:value", "cannot be called: it is a int"),
        ("app:make()", "the factory failed: ValueError: no"),
    ],
)
def test_application_that_cannot_be_loaded(
    start: Start, application: Path, name: str, words: str, preload: list[str]
) -> None:
    with application.open("a") as file:
        file.write("value = 1\ndef make(): raise ValueError('no')\n")
    server = start(name, "--workers", "2", *preload)
    assert server.end(None) == 1
    (error,) = [line for line in server.lines if " error pool default: application " in line]
    assert words in error


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["exec", "preload"])
def test_error_inside_the_module_shows_its_traceback_once(
    start: Start, application: Path, preload: list[str]
) -> None:
    application.write_text("import os\nimport library_that_is_absent\n")
    server = start("app:application", "--workers", "2", *preload)
    assert server.end(None) == 1
    text = server.text()
    assert text.count("Traceback (most recent call last)") == 1
    assert 'app.py", line 2' in text
    assert "No module named 'library_that_is_absent'" in text
    assert "importlib" not in text


def test_settings_that_the_core_cannot_keep(start: Start, application: Path) -> None:
    server = start("app:application", "--max-request-bytes", "1M")
    assert server.end(None) == 1
    assert " error the core cannot be made: max_request_bytes: 1048576 is more" in server.text()


def test_check_loads_everything_and_starts_nothing(tmp_path: Path, application: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"  # in use: it is not opened
        done = subprocess.run(
            [sys.executable, "-m", "kernelq", "app:application", "--check", "--bind", address],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=30,
            text=True,
            check=False,
        )
    assert done.returncode == 0
    assert done.stdout.startswith("kernelq: all is well: app:application")
    assert run(tmp_path, "app:absent", "--check")[0] == 2
