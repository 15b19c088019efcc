"""Text for terminals: without control characters, cut to columns, in tables.

Everything here counts columns as terminals do: two for a wide character, none for a combining one.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_ELLIPSIS = "…"
_GAP = 2
UNLIMITED = 1 << 30


def clean(text: str) -> str:
    """The text in one line, with everything that is no visible character as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def width(text: str) -> int:
    """The columns that a terminal needs for it."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """The text in at most so many columns; what is missing at its end is shown by an ellipsis."""
    if width(text) <= columns:
        return text
    if columns < 1:
        return ""
    taken, room = 0, columns - 1
    for at, character in enumerate(text):
        taken += _columns_of(character)
        if taken > room:
            return text[:at] + _ELLIPSIS
    return text


def pad(text: str, columns: int, *, to_right: bool = False) -> str:
    """The text with spaces behind it (or before it) up to so many columns."""
    spaces = " " * max(0, columns - width(text))
    return spaces + text if to_right else text + spaces


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    least: how narrow it may be made, if it has to; 0: never narrower than what it holds.
    spare: when room is short columns are left out, those with the highest number first; 0: never.
    """

    head: str
    is_number: bool = False  # set to the right
    least: int = 0
    spare: int = 0


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> list[str]:
    """Lines of at most `room` columns: the heads, then the rows. Texts must be clean already.

    Where room is short, columns are left out, then cut, the widest first; a line that is still too
    long is cut at its end.
    """
    widths = [
        max([width(column.head), *(width(row[at]) for row in rows)])
        for at, column in enumerate(columns)
    ]
    kept = _keep(columns, widths, room)
    columns, widths = [columns[at] for at in kept], [widths[at] for at in kept]
    _narrow(columns, widths, room - _GAP * (len(columns) - 1))
    heads = [column.head for column in columns]
    lines = [heads, *([row[at] for at in kept] for row in rows)]
    return [_line(columns, widths, cells, room) for cells in lines]


def _keep(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """Which columns fit when each is as narrow as it may be."""
    kept = list(range(len(columns)))

    def needed() -> int:
        least = sum(min(widths[at], columns[at].least or widths[at]) for at in kept)
        return least + _GAP * (len(kept) - 1)

    spare = sorted((at for at in kept if columns[at].spare), key=lambda at: -columns[at].spare)
    for at in spare:
        if needed() > room:
            kept.remove(at)
    return kept


def _narrow(columns: Sequence[Column], widths: list[int], room: int) -> None:
    """Take what is too much from the columns that may be narrower, so that the widest of them get
    alike.
    """
    may = [at for at, column in enumerate(columns) if column.least]
    over = sum(widths) - room
    while over > 0 and may:
        widest = max(may, key=lambda at: widths[at])
        next_widest = max((widths[at] for at in may if widths[at] < widths[widest]), default=0)
        floor = max(next_widest, min(columns[widest].least, widths[widest]))
        if floor >= widths[widest]:
            may.remove(widest)
            continue
        less = min(over, widths[widest] - floor)
        widths[widest] -= less
        over -= less


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str], room: int) -> str:
    cells = [
        pad(cut(text, columns_), columns_, to_right=column.is_number)
        for column, columns_, text in zip(columns, widths, row, strict=True)
    ]
    return cut((" " * _GAP).join(cells).rstrip(), room)


# Figures, in few columns.


def count(number: int, noun: str) -> str:
    """1 worker, 2 workers."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def say_count(number: int) -> str:
    """1234, 12.3k, 4.5M: at most five columns."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 10 * size or (size > 1000 and number >= size):
            digits = 0 if number >= 99.95 * size else 1
            return f"{number / size:.{digits}f}{unit}"
    return str(number)


def say_rate(rate: float | None) -> str:
    """Per second; "-": not known."""
    if rate is None:
        return "-"
    return f"{rate:.1f}" if 0 < rate < 10 else say_count(round(rate))


def say_kib(kib: int) -> str:
    """A size that was given in KiB; "-": not known, or nothing."""
    if kib <= 0:
        return "-"
    if kib >= 10 * 1024 * 1024:
        return f"{kib / 1024 / 1024:.0f}G"
    if kib >= 1024 * 1024:
        return f"{kib / 1024 / 1024:.1f}G"
    return f"{kib // 1024}M" if kib >= 1024 else f"{kib}K"


def say_ms(milliseconds: float) -> str:
    """A duration: 0ms, 950ms, 1.2s, 59s, 3m05s, 2h10m, 4d03h; "-": not known."""
    if milliseconds < 0:
        return "-"
    if milliseconds < 1000:
        return f"{milliseconds:.0f}ms"
    if milliseconds < 10_000:
        return f"{milliseconds / 1000:.1f}s"
    seconds = int(milliseconds / 1000)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02d}h"
