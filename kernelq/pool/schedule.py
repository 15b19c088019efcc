"""Clock times: when the local clock next shows one of a pool's times of the day.

A time means the first instant at which the clock of that day shows it, or something later. So a
time that a change of the clock skips comes when the clock jumps over it, and a time that the clock
shows twice comes once. A day that a zone never had (it moved over the date line) comes whole at the
jump. Two times that come at the same instant come once.

Facts: `datetime` takes a skipped time for one that exists: with fold=0 it maps it behind the jump,
with fold=1 before. An offset is looked up for instants here, never for times that may not exist.
"""

import os
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo

_DAY = timedelta(days=1)
LOCAL_TIME = "/etc/localtime"


def next_time(schedule: Sequence[int], now_wall: float, zone: tzinfo | None = None) -> float:
    """The next of these seconds of the day, at least one, as seconds since the epoch; it is later
    than now. zone: None: this machine's.
    """
    if zone is None:
        zone = system_zone()
    today = datetime.fromtimestamp(now_wall, zone).date()
    # The clock may have been put back over midnight, and a day may be missing.
    for distance in range(-1, 4):
        day = today + distance * _DAY
        times = [_first_instant(day, seconds, zone) for seconds in schedule]
        later = [when for when in times if when > now_wall]
        if later:
            return min(later)
    raise AssertionError("two days without a clock time")


def _first_instant(day: date, seconds: int, zone: tzinfo) -> float:
    """The first instant at which the local clock shows this time of that day, or later."""
    naive = datetime(day.year, day.month, day.day) + timedelta(seconds=seconds)
    first = naive.replace(tzinfo=zone, fold=0).timestamp()
    second = naive.replace(tzinfo=zone, fold=1).timestamp()
    if second >= first:
        return first  # it exists; when twice, this is the first time
    return _jump(second, first, naive, zone)


def _jump(before: float, after: float, naive: datetime, zone: tzinfo) -> float:
    """The instant between these two at which the clock jumps over a time."""
    low, high = int(before), int(after)
    while high - low > 1:
        middle = (low + high) // 2
        if local_time(middle, zone) < naive:
            low = middle
        else:
            high = middle
    return float(high)


def local_time(instant: float, zone: tzinfo) -> datetime:
    """What the clock shows, without its zone."""
    return datetime.fromtimestamp(instant, UTC).astimezone(zone).replace(tzinfo=None)


def system_zone(environ: Mapping[str, str] = os.environ, file: str = LOCAL_TIME) -> tzinfo:
    """The zone of this machine: what TZ says, else /etc/localtime, else UTC, as the C library."""
    from zoneinfo import ZoneInfo

    name = environ.get("TZ", "").removeprefix(":")
    if name:
        return _zone_of(name) or UTC
    if "TZ" in environ:
        return UTC  # an empty one means that
    try:
        with open(file, "rb") as data:
            return ZoneInfo.from_file(data, key="localtime")
    except (OSError, ValueError):
        return UTC


def _zone_of(name: str) -> tzinfo | None:
    """What a value of TZ names: a zone, a file, or a rule such as CET-1CEST,M3.5.0,M10.5.0; None
    when it is none of these.
    """
    import io
    from zoneinfo import ZoneInfo

    try:
        if name.startswith("/"):
            with open(name, "rb") as data:
                return ZoneInfo.from_file(data, key=name)
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        pass
    try:
        return ZoneInfo.from_file(io.BytesIO(_file_of_rule(name)), key=name)
    except (ValueError, UnicodeError):
        return None


def _file_of_rule(rule: str) -> bytes:
    """A zone file (TZif version 2) that has no history, only the rule."""
    head = b"TZif2" + bytes(15)
    counts = struct.pack(">6l", 0, 0, 0, 0, 1, 4)  # one type, four bytes of names
    body = struct.pack(">lBB", 0, 0, 0) + b"UTC\0"
    return (head + counts + body) * 2 + b"\n" + rule.encode("ascii") + b"\n"
