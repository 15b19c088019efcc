"""Clock times across every change of every zone's clock that this machine knows of."""

import itertools
import struct
import zoneinfo
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernelq.pool.schedule import local_time, next_time, system_zone

EPOCH = datetime(1970, 1, 1)
DAY = 86400
FOLDER = Path("/usr/share/zoneinfo")
ZONES = sorted(name for name in zoneinfo.available_timezones() if (FOLDER / name).is_file())
BERLIN = "Europe/Berlin"


def changes(name: str) -> list[int]:
    """The instants at which a zone's clock changes, from its file (RFC 9636), since 1945."""
    data = (FOLDER / name).read_bytes()
    counts = struct.unpack_from(">6l", data, 20)
    is_ut, is_standard, leaps, times, types, letters = counts
    second = 44 + 5 * times + 6 * types + letters + 8 * leaps + is_standard + is_ut
    times = struct.unpack_from(">6l", data, second + 20)[3]
    found = struct.unpack_from(f">{times}q", data, second + 44)
    return [instant for instant in found if instant > -25 * 365 * DAY]


@cache
def distinct_zones() -> tuple[str, ...]:
    """One name for each file: most names are another's."""
    return tuple({(FOLDER / name).read_bytes(): name for name in ZONES}.values())


def offset(instant: int, zone: zoneinfo.ZoneInfo) -> int:
    shown = local_time(instant, zone)
    return int((shown - EPOCH).total_seconds()) - instant


def expected(now: float, seconds: int, near: list[int], zone: zoneinfo.ZoneInfo) -> float:
    """The first instant after now at which the clock comes to, or over, that time of some day.

    Between two changes the clock runs evenly; `near` are all changes within a week.
    """
    edges = [int(now) - 5 * DAY, *near, int(now) + 6 * DAY]
    pieces = [(at, end, offset(at, zone)) for at, end in itertools.pairwise(edges)]
    found = []
    today = (int(now) + offset(int(now), zone)) // DAY
    for day in range(today - 2, today + 5):
        shown = day * DAY + seconds
        firsts = (max(at, shown - off) for at, end, off in pieces if shown - off < end)
        found.append(next(firsts))
    return min(instant for instant in found if instant > now)


@pytest.mark.skipif(not ZONES, reason="no zone files here")
def test_every_change_of_every_clock() -> None:
    seen = 0
    for name in distinct_zones():
        zone = zoneinfo.ZoneInfo(name)
        instants = changes(name)
        for instant in instants:
            near = [one for one in instants if abs(one - instant) < 8 * DAY]
            before = (instant + offset(instant - 1, zone)) % DAY
            after = (instant + offset(instant, zone)) % DAY
            middle = (before + ((after - before + DAY // 2) % DAY - DAY // 2) // 2) % DAY
            for seconds in {before, middle, after}:
                for now in (instant - 7200, instant):
                    found = next_time((seconds,), now, zone)
                    assert found == expected(now, seconds, near, zone), (name, now, seconds)
                    seen += 1
    assert seen > 10_000


schedules = st.lists(st.integers(0, DAY - 1), min_size=1, max_size=4).map(tuple)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ZONES or ["UTC"]), st.floats(-2e9, 5e9), schedules)
def test_progress(name: str, now: float, schedule: tuple[int, ...]) -> None:
    """From one time to the next: always later, never over one of them, and each at its own time."""
    zone = zoneinfo.ZoneInfo(name)
    found = next_time(schedule, now, zone)
    assert now < found <= now + 2.2 * DAY
    assert next_time(schedule, found - 0.001, zone) == found
    for one in schedule:
        alone = next_time((one,), now, zone)
        assert alone >= found
    shown = local_time(found, zone)
    of_day = shown.hour * 3600 + shown.minute * 60 + shown.second
    before = local_time(found - 1, zone)
    is_jump = shown - before != timedelta(seconds=1)
    assert is_jump or of_day in schedule


@pytest.mark.parametrize(
    ("schedule", "now", "then"),
    [
        (("02:30",), "2025-03-30 00:00+01:00", "2025-03-30 03:00+02:00"),  # skipped: at the jump
        (("02:00", "02:59"), "2025-03-30 00:00+01:00", "2025-03-30 03:00+02:00"),  # once
        (("02:30",), "2025-03-30 03:00+02:00", "2025-03-31 02:30+02:00"),
        (("02:30",), "2025-10-26 00:00+02:00", "2025-10-26 02:30+02:00"),  # twice: the first
        (("02:30",), "2025-10-26 02:30+02:00", "2025-10-27 02:30+01:00"),
        (("03:00", "23:00"), "2025-06-01 04:00+02:00", "2025-06-01 23:00+02:00"),
        (("03:00",), "2025-06-01 03:00+02:00", "2025-06-02 03:00+02:00"),  # not now
        (("00:00",), "2025-06-01 23:59+02:00", "2025-06-02 00:00+02:00"),
    ],
)
@pytest.mark.skipif(BERLIN not in ZONES, reason="no zone files here")
def test_berlin(schedule: tuple[str, ...], now: str, then: str) -> None:
    seconds = [int(text[:2]) * 3600 + int(text[3:]) * 60 for text in schedule]
    zone = zoneinfo.ZoneInfo(BERLIN)
    found = next_time(seconds, datetime.fromisoformat(now).timestamp(), zone)
    assert found == datetime.fromisoformat(then).timestamp()


@pytest.mark.skipif("Pacific/Apia" not in ZONES, reason="no zone files here")
def test_a_day_that_never_was() -> None:
    zone = zoneinfo.ZoneInfo("Pacific/Apia")  # had no 30 December 2011
    now = datetime.fromisoformat("2011-12-29 20:00-10:00").timestamp()
    jump = datetime.fromisoformat("2011-12-31 00:00+14:00").timestamp()
    first = next_time((19 * 3600,), now, zone)
    assert first == jump
    assert next_time((19 * 3600,), jump, zone) == jump + 19 * 3600


def test_in_the_zone_of_this_machine() -> None:
    assert 0 < next_time((0,), 0) <= DAY


@pytest.mark.parametrize(
    ("tz", "hours"),
    [
        ("Asia/Tokyo", 9),
        (":Asia/Tokyo", 9),
        (str(FOLDER / "Asia/Tokyo"), 9),
        ("CET-1CEST,M3.5.0,M10.5.0/3", 2),
        ("<+0530>-5:30", 5.5),
        ("", 0),
        ("no such zone", 0),
        ("/no/such/file", 0),
        ("../../etc/passwd", 0),
    ],
)
@pytest.mark.skipif("Asia/Tokyo" not in ZONES, reason="no zone files here")
def test_zone_of_the_system_by_name(tz: str, hours: float) -> None:
    summer = datetime(2025, 7, 1, tzinfo=UTC)
    assert summer.astimezone(system_zone({"TZ": tz})).utcoffset() == timedelta(hours=hours)


@pytest.mark.skipif("Asia/Tokyo" not in ZONES, reason="no zone files here")
def test_zone_of_the_system_by_file(tmp_path: Path) -> None:
    file = tmp_path / "localtime"
    assert system_zone({}, str(file)) is UTC
    file.write_bytes(b"no zone")
    assert system_zone({}, str(file)) is UTC
    file.unlink()
    file.symlink_to(FOLDER / "Asia/Tokyo")
    assert datetime.now(system_zone({}, str(file))).utcoffset() == timedelta(hours=9)
