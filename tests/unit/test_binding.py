"""Bindings: parsing, opening, and what is left behind."""

import os
import socket
import stat
from pathlib import Path

import pytest

from kernelq.binding import (
    Binding,
    Listener,
    close_listeners,
    open_bindings,
    parse_binding,
    take_passed_bindings,
)
from kernelq.errors import StartError


def open_one(text: str, umask: int = -1) -> Listener:
    (listener,) = open_bindings([parse_binding(text)], None, umask)
    return listener


def refusal(text: str) -> str:
    with pytest.raises(StartError) as refused:
        open_bindings([parse_binding(text)], None, -1)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "binding"),
    [
        ("127.0.0.1:8000", Binding("tcp", "127.0.0.1", 8000)),
        ("localhost:0", Binding("tcp", "localhost", 0)),
        (":80", Binding("tcp", "*", 80)),
        ("*:80", Binding("tcp", "*", 80)),
        ("[::1]:8000", Binding("tcp", "::1", 8000, bracketed=True)),
        ("unix:/run/x.sock", Binding("unix", path="/run/x.sock")),
        ("fd://3", Binding("fd", descriptor=3)),
    ],
)
def test_parsing(text: str, binding: Binding) -> None:
    assert parse_binding(text) == binding


@pytest.mark.parametrize(
    "text",
    ["", "8000", "host", "host:", "host:http", "host:65536", "host:-1", "::1:8000", "[::1]",
     "[::g]:80", "[127.0.0.1]:80", "unix:", "unix:" + "x" * 200, "fd://", "fd://x", "http://a:80",
     "fd://2147483648", "fd://99999999999", "fd://" + "9" * 5000, "host:" + "9" * 5000],
)  # fmt: skip
def test_bad_bindings(text: str) -> None:
    with pytest.raises(ValueError, match=r"unix:PATH|:PORT|fd://N"):
        parse_binding(text)


def test_tcp_listens_without_blocking_and_without_delay() -> None:
    listener = open_one("127.0.0.1:0")
    sock = listener.socket
    assert not sock.getblocking()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert listener.url == f"http://127.0.0.1:{sock.getsockname()[1]}"
    with socket.create_connection(sock.getsockname()[:2]):
        pass
    close_listeners([listener])


def test_v6_alone_leaves_the_port_to_v4() -> None:
    six = open_one("[::1]:0")
    assert six.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    assert six.url.startswith("http://[::1]:")
    close_listeners([six])


def test_everywhere_takes_both_families() -> None:
    listener = open_one("*:0")
    port = listener.socket.getsockname()[1]
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port)):
            pass
    close_listeners([listener])


def test_address_in_use_names_the_holder() -> None:
    first = open_one("127.0.0.1:0")
    port = first.socket.getsockname()[1]
    text = refusal(f"127.0.0.1:{port}")
    assert text.startswith(f"cannot listen on 127.0.0.1:{port}: the address is in use")
    assert str(os.getpid()) in text
    close_listeners([first])


def test_one_bad_binding_closes_the_good_ones() -> None:
    before = set(os.listdir("/proc/self/fd"))
    bindings = [parse_binding("127.0.0.1:0"), parse_binding("192.0.2.1:1")]
    with pytest.raises(StartError, match="this machine has no such address"):
        open_bindings(bindings, None, -1)
    assert set(os.listdir("/proc/self/fd")) == before


def test_name_without_address() -> None:
    assert "the name 'no-such-host.invalid' has no address" in refusal("no-such-host.invalid:80")


def test_unix_socket_gets_its_mode_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    listener = open_one(f"unix:{path}", umask=0o117)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    close_listeners([listener])
    assert not path.exists()


def test_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    listener = open_one(f"unix:{path}")
    close_listeners([listener])


def test_living_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    first = open_one(f"unix:{path}")
    assert "the address is in use (a server answers there)" in refusal(f"unix:{path}")
    close_listeners([first])


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    assert "it is no socket" in refusal(f"unix:{path}")
    assert path.read_text() == "mine"


def test_socket_file_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    first = open_one(f"unix:{path}")
    path.unlink()
    second = open_one(f"unix:{path}")
    close_listeners([first])
    assert path.exists()
    close_listeners([second])


def test_unix_socket_in_a_missing_directory(tmp_path: Path) -> None:
    assert "No such file or directory" in refusal(f"unix:{tmp_path}/none/x.sock")


def test_passed_descriptor() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        listener = open_one(f"fd://{os.dup(server.fileno())}")
        assert listener.url == f"http://127.0.0.1:{port}"
        close_listeners([listener])


def test_passed_descriptor_must_listen() -> None:
    one, other = socket.socketpair()
    text = refusal(f"fd://{one.fileno()}")
    assert "it is no listening stream socket" in text
    assert "no such descriptor is open" in refusal("fd://987")
    one.close()
    other.close()


def test_what_is_no_socket_is_refused_and_left_as_it_was() -> None:
    ends = os.pipe()
    before = os.listdir("/proc/self/fd")
    assert "Socket operation on non-socket" in refusal(f"fd://{ends[0]}")
    assert os.listdir("/proc/self/fd") == before
    for end in ends:
        os.close(end)


def test_sockets_of_systemd_are_meant_for_this_process_only() -> None:
    mine = {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "a:b", "X": "y"}
    assert [b.descriptor for b in take_passed_bindings(mine)] == [3, 4]
    assert mine == {"X": "y"}
    assert take_passed_bindings({"LISTEN_FDS": "1", "LISTEN_PID": "1"}) == []
    assert take_passed_bindings({}) == []
