"""Folders for workers that cannot have a /tmp of their own."""

import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from kernelq import tmp_folders
from kernelq.identity import Identity
from kernelq.tmp_folders import TmpFolders


@pytest.fixture
def wait_for_all() -> Callable[[], None]:
    """Waits for the children that the test has made; other tests' servers may be ours, too."""
    others = set(psutil.Process().children())

    def wait() -> None:
        for child in psutil.Process().children():
            if child not in others:
                os.waitpid(child.pid, 0)

    return wait


def is_locked(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_the_folder_itself_is_locked_for_what_clears_tmp(tmp_path: Path) -> None:
    folders = TmpFolders(str(tmp_path))
    made = Path(folders.make(Identity()))
    assert [made.parent] == list(tmp_path.iterdir())
    assert made.parent.name.startswith(f"kernelq-tmp-{os.geteuid()}-")
    assert is_locked(made.parent)
    folders.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_has_gone_is_made_again(
    tmp_path: Path, wait_for_all: Callable[[], None]
) -> None:
    folders = TmpFolders(str(tmp_path))
    first = Path(folders.make(Identity()))
    before = len(os.listdir("/proc/self/fd"))
    shutil.rmtree(first.parent)
    first.parent.mkdir()  # by whoever would like to have what we write there
    second = Path(folders.make(Identity()))
    assert second.is_dir()
    assert second.parent != first.parent
    assert is_locked(second.parent)
    assert len(os.listdir("/proc/self/fd")) == before
    for path in (first, second):
        folders.release(str(path))
    wait_for_all()
    assert not second.exists()
    folders.close()


def test_only_what_nobody_holds_is_swept(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    wait_for_all: Callable[[], None],
) -> None:
    ours, other = TmpFolders(str(tmp_path)), TmpFolders(str(tmp_path))
    living = Path(ours.make(Identity()))
    pid = os.fork()
    if pid == 0:
        TmpFolders(str(tmp_path)).make(Identity())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    (left,) = (path for path in tmp_path.iterdir() if path != living.parent)
    (tmp_path / "kernelq-tmp-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(tmp_folders.shutil, "rmtree", lambda *_, **__: None)
        other.sweep()
        wait_for_all()
    assert "removed" not in capfd.readouterr().err
    other.sweep()
    wait_for_all()
    assert f"removed {left}, which" in capfd.readouterr().err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {living.parent.name, "kernelq-tmp-link", "elsewhere"}
    ours.close()


def test_a_folder_that_cannot_be_had_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BlockingIOError

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with pytest.raises(BlockingIOError):
            TmpFolders(str(tmp_path)).make(Identity())
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before
