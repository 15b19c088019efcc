"""Log lines: one form, and nobody can forge one."""

import re

import pytest

from kernelq import log
from kernelq.status import describe_status, exit_code


def test_form_of_a_line() -> None:
    line = log.format_line(log.INFO, "text", 1795313411_123_456_789)
    assert line == "2026-11-22T02:10:11.123Z info text\n"


def test_further_lines_are_indented() -> None:
    line = log.format_line(log.ERROR, "one\ntwo\n", 0)
    assert line.endswith("error one\n    two\n")


@pytest.mark.parametrize("text", ["a\rb", "a\x1b[2Jb", "a\0b", "a\u2028b", "a\x85b", "a\udcffb"])
def test_control_characters_are_escaped(text: str) -> None:
    line = log.format_line(log.INFO, text, 0)
    assert re.fullmatch(r"[ -~]+\n", line)
    assert line.count("\n") == 1


def test_threshold(capfd: pytest.CaptureFixture[str]) -> None:
    log.set_threshold(log.WARNING)
    try:
        log.info("not seen")
        log.warning("seen")
    finally:
        log.set_threshold(log.INFO)
    assert "not seen" not in (written := capfd.readouterr().err)
    assert "warning seen\n" in written


def test_wait_statuses_in_words() -> None:
    assert describe_status(9) == "signal 9 (SIGKILL)"
    assert describe_status(3 << 8) == "exit status 3"
    assert (exit_code(9), exit_code(3 << 8)) == (137, 3)
