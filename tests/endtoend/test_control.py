"""The control socket and the calls of workers, with real processes at every end."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest
from serving import ROOT, Server
from wire import PATIENCE_SECONDS


def command(*words: str) -> tuple[int, str, str]:
    """`kernelq cache ...`: its status, and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "kernelq", "cache", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def ask(path: Path, **request: object) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_SECONDS)
        sock.connect(str(path))
        sock.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(sock.makefile("rb").readline())


def start_failing(*arguments: str) -> str:
    """A server that must not start: the last line that it says."""
    server = Server(*arguments)
    assert server.ended() == 1
    return server.log.lines[-1]


# -- the socket -------------------------------------------------------------------------------


def test_the_default_socket_is_there_while_the_server_is(tmp_path: Path) -> None:
    with Server(environment={"RUNTIME_DIRECTORY": str(tmp_path / "run")}) as server:
        _, port = server.address()
        path = tmp_path / "run" / f"127.0.0.1-{port}.sock"
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.lstat().st_mode) == 0o755
        assert ask(path, do="cache.flush", prefix="http://h/") == {"ok": True, "flushed": 0}
    assert os.listdir(tmp_path / "run") == []


def test_only_the_service_has_it_open(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Server("--control", str(path), "--preload", workers=2) as server:
        line = next(line for line in Path("/proc/net/unix").read_text().splitlines()
                    if line.endswith(str(path)))  # fmt: skip
        inode = f"socket:[{line.split()[6]}]"
        holders = {
            process.name()
            for process in [psutil.Process(server.process.pid), *server.family()]
            for name in os.listdir(f"/proc/{process.pid}/fd")
            if os.readlink(f"/proc/{process.pid}/fd/{name}") == inode
        }
        assert holders == {"kernelq-service"}


def test_no_socket_if_none_is_wanted(tmp_path: Path) -> None:
    environment = {"RUNTIME_DIRECTORY": str(tmp_path / "run")}
    with Server("--control", "off", environment=environment) as server:
        assert server.ask("/hello").status == 200
    assert not (tmp_path / "run").exists()


def test_a_default_place_that_cannot_be_used_is_a_warning() -> None:
    with Server(environment={"RUNTIME_DIRECTORY": "/proc/kernelq"}) as server:
        server.log.expect("warning no control socket: /proc/kernelq/127.0.0.1-", "--control PATH")
        assert server.ask("/hello").status == 200


def test_a_path_that_cannot_be_used_is_an_error() -> None:
    assert start_failing("--control", "/proc/s").startswith(
        "kernelq: --control: cannot listen on /proc/s: "
    )


def test_the_socket_of_a_living_server_stays_its_own(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Server("--control", str(path)):
        assert start_failing("--control", str(path)) == (
            f"kernelq: --control: cannot listen on {path}: the address is in use (a server answers "
            "there)"
        )
        assert ask(path, do="cache.flush", prefix="")["ok"]


def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = Server("--control", str(path)).ready()
    family = first.family()
    first.process.kill()
    assert first.ended() == -signal.SIGKILL
    psutil.wait_procs(family, PATIENCE_SECONDS)
    assert path.is_socket()
    with Server("--control", str(path)):
        assert ask(path, do="cache.flush", prefix="")["ok"]
    assert not path.exists()


def test_the_managers_need_not_be_awake(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Server("--control", str(path), environment={"KERNELQ_STALL": "1"}) as server:
        os.kill(server.process.pid, signal.SIGUSR2)
        server.log.expect("the managers stall for 1 s")
        for _ in range(20):
            assert ask(path, do="cache.flush", prefix="")["ok"]


def test_silent_clients_hold_up_neither_requests_nor_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    silent = []
    with Server("--control", str(path)) as server:
        for _ in range(50):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            sock.sendall(b'{"do": ')
            silent.append(sock)
        assert server.ask("/hello").status == 200
        assert ask(path, do="cache.flush", prefix="")["ok"]
    for sock in silent:
        sock.close()


# -- the command ------------------------------------------------------------------------------


def test_flushing_from_the_command_line(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with Server("--control", path):
        said = (0, "0 responses flushed\n", "")
        assert command("flush", "https://example.org/", "--control", path) == said
        assert command("flush", "", "--control", path) == said
        said = (0, "the group articles was flushed\n", "")
        assert command("flush", "--group", "articles", "--control", path) == said
        status, _, err = command("flush", "example.org/a", "--control", path)
        assert (status, err) == (
            1,
            "kernelq: found 'example.org/a', allowed is an absolute URL\n",
        )
    status, _, err = command("list", "--control", path)
    assert (status, err) == (1, f"kernelq: {path}: there is no such socket\n")


# -- calls of workers -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calling() -> Server:
    with Server("--control", "off", "--threads", "2", "--loops", "2", workers=2) as server:
        yield server


def flush(server: Server, **query: str) -> str:
    return server.ask(f"/flush?{urlencode(query)}").text


@pytest.mark.parametrize("where", [{}, {"thread": ""}])
def test_an_application_flushes(calling: Server, where: dict[str, str]) -> None:
    assert flush(calling, url="http://example.org/a", **where) == "0"
    assert flush(calling, url="http://example.org/a", exactly="", **where) == "0"
    assert flush(calling, group="a", origin="http://example.org", **where) == "None"
    assert "ValueError: found 'http://'" in flush(calling, url="http://", **where)


def test_a_path_is_of_the_requests_own_host(calling: Server) -> None:
    assert flush(calling, url="/a") == "0"
    assert flush(calling, group="a") == "None"
    assert "name the host" in flush(calling, url="/a", thread="")


def test_calls_under_load(calling: Server) -> None:
    with calling.connect() as client:
        for _ in range(200):
            assert client.ask("/flush?url=/a").text == "0"
            assert client.ask("/flush?url=http://h/&thread=").text == "0"
