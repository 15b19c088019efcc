"""The control socket: where it stands, who is answered, what no client can do to others."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelq import binding, cli, control, control_server, control_socket
from kernelq.control_server import ControlServer, cache_commands
from kernelq.errors import StartError

PATIENCE = 20


class FakeCache:
    """What the core does for the commands, without a core."""

    def __init__(self) -> None:
        self.entries = [
            {"key": "https://h/a", "status": 200, "bytes": 512, "age": 3, "lifetime": 60},
            {
                "key": "https://h/b?\x1b[2J",
                "status": 404,
                "bytes": 123456,
                "age": 90,
                "lifetime": 9,
            },
        ]
        self.calls: list[tuple[object, ...]] = []
        self.go = threading.Event()
        self.go.set()

    def cache_list(self, prefix: str, most: int) -> list[dict[str, Any]]:
        self.calls.append(("list", prefix, most))
        return [entry for entry in self.entries if str(entry["key"]).startswith(prefix)][:most]

    def cache_show(self, url: str) -> list[dict[str, Any]]:
        self.go.wait(PATIENCE)
        return [entry for entry in self.entries if entry["key"] == url]

    def cache_flush(self, prefix: str, recursive: bool) -> int:
        self.calls.append(("flush", prefix, recursive))
        if not prefix.startswith("https://"):
            raise ValueError(f"found {prefix!r}, allowed is an absolute URL")
        return 7

    def stats(self) -> dict[str, int]:
        return {"cache_hits": 3, "requests": 5}

    def cache_flush_group(self, origin: str, name: str) -> None:
        self.calls.append(("group", origin, name))
        if name == "broken":
            raise OSError("something else")


class Served:
    """A control server on a socket, and its clients."""

    def __init__(self, path: Path, user: int | None = None) -> None:
        self.path = str(path)
        self.cache = FakeCache()
        self.said: list[str] = []
        self.listener = binding.open_unix(self.path, None, control_socket.OWNER_ONLY)
        self.server = ControlServer(
            self.listener.socket,
            cache_commands(self.cache),
            lambda level, text: self.said.append(text),
            user,
        )
        self.server.start()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(self.path)
        return sock

    def ask(self, **request: object) -> dict[str, Any]:
        with self.connect() as sock:
            return exchange(sock, json.dumps(request).encode() + b"\n")

    def close(self) -> None:
        self.server.stop(PATIENCE)
        self.listener.remove_socket_file()
        assert not self.server._thread.is_alive()


def exchange(sock: socket.socket, data: bytes) -> dict[str, Any]:
    with contextlib.suppress(BrokenPipeError):
        sock.sendall(data)
    return read_answer(sock)


def read_answer(sock: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n"):
        more = sock.recv(1 << 20)
        assert more, "closed without an answer"
        data += more
    answer: dict[str, Any] = json.loads(data)
    return answer


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "s.sock")
    yield made
    made.close()


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
            "allowed is cache.counters, cache.flush, cache.flush_group, cache.list, cache.show",
        ),
        (b'{"do": "cache.flush"}', "prefix: found None, allowed is a value of type str"),
        (b'{"do": "cache.list", "most": true}', "most: found True, allowed is a value of type int"),
        (b'{"do": "cache.list", "most": 0}', "most: found none, allowed is a number from 1"),
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
    assert served.said == ["control socket: OSError: something else"]


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


def test_other_users_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_user(tmp_path / "a.sock", monkeypatch, peer=4711, owner=4712, ok=False)
    assert_user(tmp_path / "b.sock", monkeypatch, peer=4711, owner=4711, ok=True)
    assert_user(tmp_path / "c.sock", monkeypatch, peer=0, owner=4711, ok=True)


def assert_user(
    path: Path, monkeypatch: pytest.MonkeyPatch, peer: int, owner: int, ok: bool
) -> None:
    monkeypatch.setattr(control_server, "peer_user", lambda sock: peer)
    served = Served(path, owner)
    answer = served.ask(do="cache.list")
    assert answer["ok"] is ok
    if not ok:
        assert answer["error"] == "only the user that serves, and root, may ask"
    served.close()


def test_the_kernel_says_who_connected() -> None:
    one, other = socket.socketpair()
    assert control_server.peer_user(one) == os.geteuid()
    one.close()
    other.close()


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
    with pytest.raises(StartError, match=r"--control: cannot listen on .*/s: .*a server answers"):
        control_socket.open_control(path, [], None)
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="there is a file of that name and it is no socket"):
        control_socket.open_control(str(tmp_path / "file"), [], None)
    with pytest.raises(StartError, match=r"--control: cannot listen on .*No such file"):
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


# -- the command ------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = cli.main(["cache", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_list_is_a_table(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "list", "--control", served.path)
    assert (status, err) == (0, "")
    assert out == (
        "STATUS  SIZE  AGE  FRESH  URL\n"
        "   200   512   3s    57s  https://h/a\n"
        "   404  120K  90s  stale  https://h/b?\\x1b[2J\n"
    )


def test_list_as_json(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "list", "--json", "--control", served.path, "https://h/a")
    assert status == 0
    assert json.loads(out)["entries"] == served.cache.entries[:1]


def test_a_table_fits_the_terminal(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served.cache.entries[0]["key"] = "https://h/" + "long" * 50
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    lines = run(capsys, "list", "--control", served.path)[1].splitlines()
    assert max(map(len, lines)) == 70
    assert lines[2].endswith("…")


def test_show(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "show", "--control", served.path, "https://h/a")
    assert status == 0
    assert out.startswith("key:            https://h/a\nstatus:         200\n")
    status, out, err = run(capsys, "show", "--control", served.path, "https://h/none")
    assert (status, out, err) == (1, "", "https://h/none: nothing is stored\n")


def test_flush(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--control", served.path)
    assert run(capsys, "flush", "https://h/", *place) == (0, "7 responses flushed\n", "")
    assert run(capsys, "flush", "https://h/", "--exact", *place)[0] == 0
    assert run(capsys, "flush", "--group", "g", *place) == (0, "the group g was flushed\n", "")
    assert run(capsys, "flush", "--group", "g", "--origin", "https://h", *place)[0] == 0
    assert served.cache.calls == [
        ("flush", "https://h/", True),
        ("flush", "https://h/", False),
        ("group", "", "g"),
        ("group", "https://h", "g"),
    ]
    status, _, err = run(capsys, "flush", "/a", *place)
    assert (status, err) == (1, "kernelq: found '/a', allowed is an absolute URL\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "cache: the following arguments are required: list|show|counters|flush"),
        (["empty"], "cache: argument list|show|counters|flush: invalid choice: 'empty'"),
        (["show"], "cache: the following arguments are required: URL"),
        (["flush"], "cache flush: allowed is either PREFIX or --group NAME"),
        (["flush", "x", "--group", "g"], "cache flush: allowed is either PREFIX or --group NAME"),
        (["flush", "x", "--origin", "y"], "cache flush: --origin belongs to --group"),
        (["flush", "--group", "x", "--exact"], "cache flush: --exact belongs to PREFIX"),
    ],
)
def test_a_bad_command_is_one_line_and_a_hint(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, *words)
    assert status == 2
    first, hint = err.splitlines()
    assert first.startswith(f"kernelq: {line}")
    assert "kernelq cache --help" in hint


def test_no_server_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "s")
    said = f"kernelq: {path}: there is no such socket\n"
    assert run(capsys, "list", "--control", path) == (1, "", said)
    listener = binding.open_unix(path, None, 0o177)
    listener.socket.close()
    said = f"kernelq: {path}: no server listens there any more\n"
    assert run(capsys, "list", "--control", path) == (1, "", said)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n", b"[]\n", b"{}\n"])
def test_another_server_there(
    answer: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "s")
    listener = binding.open_unix(path, None, 0o177)
    listener.socket.setblocking(True)

    def serve() -> None:
        sock, _ = listener.socket.accept()
        sock.recv(1000)
        sock.sendall(answer)
        sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    status, _, err = run(capsys, "list", "--control", path)
    thread.join()
    listener.socket.close()
    assert (status, err) == (1, f"kernelq: {path}: what answers there is no server of ours\n")


def test_the_only_living_server_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(control_socket, "ROOT_FOLDER", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    status, _, err = run(capsys, "list")
    assert status == 1
    assert err.startswith("kernelq: no control socket of a running server that you may use")
    dead = binding.open_unix(str(tmp_path / "dead.sock"), None, 0o177)
    dead.socket.close()
    (tmp_path / "file.sock").touch()
    one = Served(tmp_path / "one.sock")
    assert run(capsys, "flush", "https://h/")[0] == 0
    other = Served(tmp_path / "other.sock")
    status, _, err = run(capsys, "flush", "https://h/")
    assert status == 1
    assert err == (
        "kernelq: several servers run; --control PATH says which is meant:\n"
        f"    {tmp_path}/one.sock\n    {tmp_path}/other.sock\n"
    )
    one.close()
    other.close()


def test_help_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        control.main(["cache", "--help"])
    assert ended.value.code == 0
    assert "kernelq cache flush --group articles" in capsys.readouterr().out
