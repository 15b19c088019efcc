"""The file that says which process is the server."""

import os
import resource
from pathlib import Path

import pytest

from kernelq.errors import StartError
from kernelq.processes import write_pid_file


def test_a_file_of_another_server_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    file.write_text("123456789\n")
    write_pid_file(str(file))
    assert file.read_text() == f"{os.getpid()}\n"
    assert os.listdir(tmp_path) == ["pid"]


def test_one_that_cannot_be_written_stays(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    file.write_text("1\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(StartError, match=f"--pid-file: cannot write {file}: "):
            write_pid_file(str(file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == "1\n"
    assert os.listdir(tmp_path) == ["pid"]
