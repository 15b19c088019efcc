"""The control socket: where it stands, who is answered, what no client can do to others."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fake_managers import Served, exchange

from kernelq import binding, control_server, control_socket, peers
from kernelq.errors import StartError
from kernelq.identity import find_readers

# -- the server -------------------------------------------------------------------------------


def test_requests_are_answered_in_order_over_one_connection(served: Served) -> None:
    with served.connect() as sock:
        lines = [{"do": "cache.flush", "prefix": f"https://{n}/"} for n in range(5)]
        sock.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        stream = sock.makefile("rb")
        for _ in lines:
            assert json.loads(stream.readline()) == {"ok": True, "flushed": 7}
    assert served.cache.calls == [("flush", f"https://{n}/", True) for n in range(5)]


def test_every_command_with_its_arguments(served: Served) -> None:
    answer = served.ask(do="cache.list", prefix="https://h/a")
    assert answer == {"ok": True, "entries": served.cache.entries[:1], "complete": True}
    assert served.ask(do="cache.list", most=1)["complete"] is False
    assert len(served.ask(do="cache.list", most=10**9)["entries"]) == 2
    assert served.ask(do="cache.show", url="https://h/a")["entries"] == served.cache.entries[:1]
    served.ask(do="cache.flush", prefix="https://h/", recursive=False)
    served.ask(do="cache.flush_group", group="g", origin="https://h")
    served.ask(do="cache.flush_group", group="g")
    assert served.cache.calls == [
        ("list", "https://h/a", 1001),
        ("list", "", 2),
        ("list", "", 1001),
        ("flush", "https://h/", False),
        ("group", "https://h", "g"),
        ("group", "", "g"),
    ]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"nonsense", "that is no JSON"),
        (b"\xff\xfe", "that is no JSON"),
        (b"", "that is no JSON"),
        (b"[" * 60000, "that is no JSON"),
        (b"[]", 'allowed is {"do": "...", ...}'),
        (b'{"do": 5}', 'allowed is {"do": "...", ...}'),
        (
            b'{"do": "stop"}',
            "allowed is cache.counters, cache.flush, cache.flush_group, cache.list, cache.show, "
            "events, match, names, pool.start, pool.stop, pools, recycle, reload, requests, "
            "site.start, site.stop, sites, stacks, status, upgrade",
        ),
        (b'{"do": "status", "x": 1}', "x: no argument of status, allowed is none"),
        (
            b'{"do": "cache.flush", "prefix": "", "recursiv": false}',
            "recursiv: no argument of cache.flush, allowed is prefix, recursive",
        ),
        (b'{"do": "stacks", "worker": -1}', "worker: found -1, allowed is a number from 0"),
        (b'{"do": "cache.flush"}', "prefix: found None, allowed is a value of type str"),
        (b'{"do": "cache.list", "most": true}', "most: found True, allowed is a value of type int"),
        (b'{"do": "cache.list", "most": 0}', "most: found 0, allowed is a number from 1"),
        (b'{"do": "cache.flush", "prefix": "/a"}', "found '/a', allowed is an absolute URL"),
        (
            b'{"do": "cache.flush_group", "group": "broken"}',
            "the server failed; its log says more",
        ),
    ],
)
def test_what_is_wrong_is_said_and_ends_nothing(served: Served, line: bytes, error: str) -> None:
    with served.connect() as sock:
        assert exchange(sock, line + b"\n") == {"ok": False, "error": error}
        assert exchange(sock, b'{"do": "cache.list"}\n')["ok"]


def test_a_failure_of_the_server_is_in_its_log(served: Served) -> None:
    served.ask(do="cache.flush_group", group="broken")
    assert served.said[-1] == "control socket: OSError: something else"


def test_who_changed_what_is_in_the_log(served: Served) -> None:
    served.ask(do="cache.flush", prefix="https://h/")
    served.ask(do="status")
    served.ask(do="reload", x=1)  # refused: nobody is asked
    who = f"(user {os.getuid()}, process {os.getpid()})"
    words = '{"prefix": "https://h/", "recursive": true}'
    assert served.said == [f"control socket: cache.flush {words} {who}"]


def test_a_line_has_an_end_or_its_sender_is_gone(served: Served) -> None:
    with served.connect() as sock:
        answer = exchange(sock, b"x" * 200_000)
        assert answer == {"ok": False, "error": "a line is longer than 65536 bytes"}
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""


def test_silent_clients_hold_nobody(served: Served) -> None:
    silent = [served.connect() for _ in range(control_server.CLIENTS_MAX * 2)]
    silent[-1].sendall(b'{"do": "cache.l')
    for _ in range(5):
        assert served.ask(do="cache.list")["ok"]
    assert silent[0].recv(1) == b""  # it had to go
    for sock in silent:
        sock.close()


def test_a_client_that_does_not_read_holds_nobody(served: Served) -> None:
    served.cache.entries = [{"key": "https://h/" + "x" * 2000}] * 1000
    deaf = [served.connect() for _ in range(4)]
    for sock in deaf:
        sock.sendall(b'{"do": "cache.list"}\n' * 50)
    assert len(served.ask(do="cache.list")["entries"]) == 1000
    for sock in deaf:
        sock.close()
    assert served.ask(do="cache.list")["ok"]


def test_silence_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "SILENCE_SECONDS_MAX", 0.01)
    served = Served(tmp_path / "s.sock")
    with served.connect() as sock:
        assert sock.recv(1) == b""
    served.close()


@pytest.mark.parametrize(
    ("user", "groups", "looks", "touches"),
    [
        (4712, [4712], True, True),  # the user that serves
        (0, [0], True, True),
        (4711, [4711, 77], True, False),  # a member of the readers' group
        (4711, [77], True, False),
        (4711, [4711, 78], False, False),
    ],
)
def test_levels(
    user: int,
    groups: list[int],
    looks: bool,
    touches: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "peer_of", lambda sock: peers.Peer(1, user, frozenset(groups)))
    served = Served(tmp_path / "a.sock", 4712, 77)
    look, touch = served.ask(do="status"), served.ask(do="cache.flush", prefix="https://h/")
    served.close()
    assert look["ok"] is looks
    assert touch["ok"] is touches
    if not looks:
        assert look["error"] == "only the user that serves, and root, may ask"
    elif not touches:
        assert touch["error"] == (
            "cache.flush: you may look and not touch; only the user that serves, and root, may do "
            "that"
        )


def test_without_readers_nobody_else_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "peer_of", lambda sock: peers.Peer(1, 4711, frozenset([0])))
    served = Served(tmp_path / "a.sock", 4712)
    assert not served.ask(do="status")["ok"]
    served.close()


def test_the_kernel_says_who_connected() -> None:
    one, other = socket.socketpair()
    found = peers.peer_of(one)
    assert (found.user, found.pid) == (os.geteuid(), os.getpid())
    assert found.groups == {os.getegid(), *os.getgroups()}
    one.close()
    other.close()


def answers_as(user: int, groups: list[int], path: str, line: bytes) -> bytes:
    """What a process of this user and these groups is answered; b"": it cannot even connect."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                with contextlib.suppress(ConnectionError):
                    sock.sendall(line)
                os.write(writes, sock.makefile("rb").readline())
        finally:
            os._exit(0)
    os.close(writes)
    with open(reads, "rb") as stream:
        answer = stream.read()
    os.waitpid(pid, 0)
    return answer


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("count", [1, 300], ids=["few groups", "many groups"])
def test_processes_of_other_users(count: int) -> None:
    groups = [77, *range(5000, 5000 + count)]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        served = Served(Path(folder) / "s", 4712, 77)
        os.chmod(served.path, 0o666)  # so that the file keeps nobody out
        flush = b'{"do": "cache.flush", "prefix": "https://h/"}\n'
        said = [
            answers_as(user, groups, served.path, line)
            for user, groups in ((4712, [4712]), (4711, groups), (4711, groups[1:]))
            for line in (b'{"do": "status"}\n', flush)
        ]
        served.close()
    assert [json.loads(line)["ok"] for line in said] == [True, True, True, False, False, False]
    assert b"you may look and not touch" in said[3]
    assert b"only the user that serves, and root, may ask" in said[4]


def test_the_end_does_not_wait_for_clients(tmp_path: Path) -> None:
    served = Served(tmp_path / "s.sock")
    with served.connect() as sock:
        assert exchange(sock, b'{"do": "cache.list"}\n')["ok"]
        served.close()
        assert sock.recv(1) == b""
    assert not os.path.exists(served.path)


# -- where it stands --------------------------------------------------------------------------


class Named:
    """A listener as far as its name goes."""

    def __init__(self, url: str) -> None:
        self.url = url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1-8000.sock"),
        ("http://[::1]:80", "::1-80.sock"),
        ("http://[::]:80", "::-80.sock"),
        ("unix:/run/app/web.sock", "unix-run-app-web.sock.sock"),
        ("unix:/" + "x" * 200, "x" * 60 + ".sock"),
        ("unix:/a/../b c\n", "unix-a-..-b-c.sock"),
    ],
)
def test_the_name_is_of_the_first_binding(url: str, name: str) -> None:
    listeners: list[Any] = [Named(url), Named("http://x:1")]
    assert control_socket.socket_name(listeners) == name


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        listener = control_socket.open_control(str(tmp_path / "s"), [], None)
    finally:
        os.umask(before)
    assert listener is not None
    assert stat.S_IMODE(os.lstat(listener.path).st_mode) == 0o600
    listener.socket.close()
    listener.remove_socket_file()


def test_a_dead_servers_socket_is_replaced_and_a_living_ones_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    dead = control_socket.open_control(path, [], None)
    assert dead is not None
    dead.socket.close()
    living = control_socket.open_control(path, [], None)
    assert living is not None
    with pytest.raises(StartError, match=r"control socket: .* on .*/s: .*a server answers"):
        control_socket.open_control(path, [], None)
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="there is a file of that name and it is no socket"):
        control_socket.open_control(str(tmp_path / "file"), [], None)
    with pytest.raises(StartError, match=r"control socket: cannot listen on .*No such file"):
        control_socket.open_control(str(tmp_path / "no" / "s"), [], None)
    living.socket.close()
    living.remove_socket_file()


def connects_as(user: int, path: str) -> bool:
    """Whether this user reaches the socket."""
    pid = os.fork()
    if pid == 0:
        status = 2
        try:
            os.setresuid(user, user, user)
            with socket.socket(socket.AF_UNIX) as sock:
                status = 0 if sock.connect_ex(path) == 0 else 1
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status != 2
    return status == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_user_that_serves_and_root_reach_it_and_nobody_else() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        listener = control_socket.open_control(f"{folder}/s", [], (4711, 4711))
        assert listener is not None
        assert os.lstat(listener.path).st_uid == 4711
        reached = [connects_as(user, listener.path) for user in (4711, 0, 4712)]
        listener.socket.close()
    assert reached == [True, True, False]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_group_may_reach_it_too(capfd: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        listener = control_socket.open_control(f"{folder}/s", [], (4711, 4711), 77)
        assert listener is not None
        found = os.lstat(listener.path)
        assert (found.st_uid, found.st_gid) == (4711, 77)
        assert stat.S_IMODE(found.st_mode) == 0o660
        listener.socket.close()
        listener = control_socket.open_control(f"{folder}/s2", [], None, 77)
        assert listener is not None
        assert (os.lstat(listener.path).st_uid, os.lstat(listener.path).st_gid) == (0, 77)
        listener.socket.close()
    assert capfd.readouterr().err == ""


def test_a_folder_that_the_group_cannot_enter_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = (str(tmp_path / "kernelq"), 0o700)
    monkeypatch.setattr(control_socket, "default_folder", lambda environ: folder)
    listener = control_socket.open_control("auto", [], None, os.getegid())
    assert listener is not None
    assert "warning control_readers: only its owner can reach " in capfd.readouterr().err
    listener.socket.close()


def test_readers_are_a_group() -> None:
    own = os.getegid()
    assert find_readers("") is None
    assert find_readers(str(own)) == own
    assert find_readers(grp.getgrgid(own).gr_name) == own
    with pytest.raises(StartError, match="there is no group 'no such'"):
        find_readers("no such")


def test_off_is_off() -> None:
    assert control_socket.open_control("off", [], None) is None


def test_default_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert control_socket.default_folder({"RUNTIME_DIRECTORY": "/run/a:/run/b"})[0] == "/run/a"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert control_socket.default_folder({}) == ("/run/kernelq", 0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    session = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert control_socket.default_folder(session) == (f"{tmp_path}/kernelq", 0o700)
    assert control_socket.default_folder({"XDG_RUNTIME_DIR": "/no"}) == ("/tmp/kernelq-4711", 0o700)


def open_default(monkeypatch: pytest.MonkeyPatch, folder: Path) -> binding.Listener | None:
    monkeypatch.setattr(control_socket, "default_folder", lambda environ: (str(folder), 0o700))
    return control_socket.open_control("auto", [], None)


def test_the_default_folder_is_made_for_us_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for _ in range(2):  # made, and found
        listener = open_default(monkeypatch, tmp_path / "kernelq")
        assert listener is not None
        assert listener.path == str(tmp_path / "kernelq" / "kernelq.sock")
        assert stat.S_IMODE(os.lstat(tmp_path / "kernelq").st_mode) == 0o700
        listener.socket.close()
        listener.remove_socket_file()


@pytest.mark.parametrize("how", ["link", "open", "foreign", "file", "readonly"])
def test_a_default_folder_of_others_is_a_warning_not_a_failure(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kernelq"
    if how == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "real")
    elif how == "file":
        folder.touch()
    elif how == "readonly":
        folder = Path("/proc/kernelq")
    else:
        folder.mkdir(mode=0o700)
        folder.chmod(0o777 if how == "open" else 0o700)
        if how == "foreign":
            monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert open_default(monkeypatch, folder) is None
    assert "warning no control socket: " in capfd.readouterr().err
