"""The command line: what it says, before anything is started."""

import os
import re
import socket
from pathlib import Path

import pytest

from kernelq import cli, identity, linux, notify
from kernelq.__main__ import main
from kernelq.binding import Binding
from kernelq.config import DEMO_APPLICATION
from kernelq.errors import OptionError, StartError
from kernelq.options import OPTIONS


def application_of(words: list[str]) -> str:
    return cli.read_command(words).sites[0].applications[0].app


def test_application_with_and_without_the_word_serve() -> None:
    for words in (["app:a"], ["serve", "app:a"], ["app:a", "--workers", "2"]):
        assert application_of(words) == "app:a"
    assert application_of([]) == DEMO_APPLICATION
    assert application_of(["serve"]) == DEMO_APPLICATION


def test_options_may_stand_anywhere() -> None:
    settings = cli.read_command(
        ["--bind", "127.0.0.1:1", "app:a", "--bind", "unix:/x", "--preload", "--threads=2"]
    )
    bindings = settings.sites[0].bindings
    assert [str(one.endpoint) for one in bindings] == ["127.0.0.1:1", "unix:/x"]
    assert settings.pools[0].preload
    assert settings.pools[0].core.threads == 2


def test_sockets_passed_by_systemd_are_in_place_of_the_default_and_beside_others() -> None:
    passed = [Binding("fd", descriptor=3)]
    for words, expected in (([], ["fd://3"]), (["--bind", "unix:/x"], ["fd://3", "unix:/x"])):
        bindings = cli.read_command(words, passed).sites[0].bindings
        assert [str(one.endpoint) for one in bindings] == expected


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--workers", "none"], "--workers: found 'none', allowed is a whole number from 1 to"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--work", "2"], "unrecognized arguments: --work"),
        (["--workers"], "argument --workers: expected one argument"),
        (["a:b", "c:d"], "found 'a:b c:d', allowed is one application"),
        (["app"], "application: found 'app', allowed is MODULE:CALLABLE"),
        (["--bind", "nowhere"], "--bind: found 'nowhere', allowed is HOST:PORT"),
        (["--bind", "fd://99999999999"], "--bind: found 'fd://99999999999', allowed is fd://N"),
        (["top", "--frames", "9" * 5000], "top: argument --frames: found '9"),
        (["events", "--since", "9" * 5000], "events: argument --since: found '9"),
    ],
)
def test_bad_command_is_one_line_and_a_hint(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == OptionError.status
    first, hint = capsys.readouterr().err.splitlines()
    assert first.startswith(f"kernelq: {line}")
    assert "--help" in hint


def test_bindings_that_cannot_be_together_are_no_good_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["check", "--bind", "*:80", "--bind", "a.example:80"]) == StartError.status
    out, err = capsys.readouterr()
    assert out == ""
    assert "listens on a.example:80" in err
    assert "cannot be told apart" in err


def test_help_teaches_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for option in OPTIONS:
        assert option.name in text
    assert "kernelq app:application" in text
    assert "kernelq --config" in text
    assert "HUP" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"kernelq \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_unknown_user_and_group() -> None:
    with pytest.raises(StartError, match="there is no user 'nobody-of-that-name'"):
        identity.find_identity("nobody-of-that-name", "")
    with pytest.raises(StartError, match="there is no group 'no-such-group'"):
        identity.find_identity("", "no-such-group")
    assert identity.find_identity("", "").owner is None


def test_other_user_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(StartError, match="only root may change"):
        identity.find_identity("root", "")


def test_old_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    linux.check_kernel()
    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(StartError, match=r"kernel too old: .*pidfd_open is missing \(Linux 5.3"):
        linux.check_kernel()


def test_forbidden_call_is_not_called_old(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(StartError, match="is forbidden here"):
        linux.check_kernel()


def test_closing_all_but_some() -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        linux.close_all_but([write_end])
        kept = {int(name) for name in os.listdir("/proc/self/fd")}
        os.write(write_end, b"y" if write_end in kept and read_end not in kept else b"n")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read_end, 1) == b"y"
    os.close(read_end)
    os.close(write_end)


def test_systemd_is_told(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"}
        notifier = notify.Notifier(environment)
        assert environment == {}
        assert notifier.watchdog_ns == 15_000_000_000
        notifier.send("READY=1")
        assert manager.recv(100) == b"READY=1"
        notifier.send(notify.reloading())
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", manager.recv(100))


def test_nobody_to_tell() -> None:
    notify.Notifier({}).send("READY=1")
    notify.Notifier({"NOTIFY_SOCKET": "/nonexistent/x"}).send("READY=1")
    assert notify.Notifier({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}).watchdog_ns == 0
