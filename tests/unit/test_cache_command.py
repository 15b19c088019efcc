"""`kernelq cache`: what it shows and how it ends, and how a server is found."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_managers import Served

from kernelq import binding, control_socket
from kernelq.__main__ import main


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "s.sock")
    yield made
    made.close()


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["cache", *words])
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
    assert json.loads(out) == {"entries": served.cache.entries[:1], "complete": True}


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
    what = "what answers there is no server of ours"
    what = what if answer else "the connection was closed without an answer"
    assert (status, err) == (1, f"kernelq: {path}: {what}\n")


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
        main(["cache", "--help"])
    assert ended.value.code == 0
    assert "kernelq cache flush --group articles" in capsys.readouterr().out
