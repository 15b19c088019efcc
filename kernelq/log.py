"""Lines for the error log, in the form the core writes them too: `2026-11-22T02:10:11.123Z info
text`.

One write() per line, so that lines of several processes do not mix. What others may have chosen
(tracebacks, paths) cannot forge a line: control characters are written as escapes, further lines
are indented.
"""

import os
import time

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR}
_NAMES = {value: name for name, value in LEVELS.items()}

_threshold = INFO


def set_threshold(level: int) -> None:
    """Drop lines below this level from now on."""
    global _threshold
    _threshold = level


def is_wanted(level: int) -> bool:
    return level >= _threshold


def format_line(level: int, text: str, now_ns: int) -> str:
    return f"{format_time(now_ns)} {_NAMES[level]} {clean(text)}\n"


def format_time(now_ns: int) -> str:
    """A wall clock time as ISO 8601 has it, in UTC, with milliseconds."""
    seconds, rest = divmod(now_ns, 1_000_000_000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{stamp}.{rest // 1_000_000:03d}Z"


def clean(text: str) -> str:
    """The text without control characters; further lines indented by four spaces."""
    lines = text.rstrip("\n").split("\n")
    return "\n    ".join(_clean_line(line) for line in lines)


def write(level: int, text: str) -> None:
    """One line (or one indented block) to standard error."""
    if level < _threshold:
        return
    data = format_line(level, text, time.time_ns()).encode("utf-8", "replace")
    try:
        os.write(2, data)
    except OSError:
        pass  # nobody is left to tell


def debug(text: str) -> None:
    write(DEBUG, text)


def info(text: str) -> None:
    write(INFO, text)


def warning(text: str) -> None:
    write(WARNING, text)


def error(text: str) -> None:
    write(ERROR, text)


def _clean_line(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line
    )
