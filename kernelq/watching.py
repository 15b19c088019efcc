"""Commands that go on: `kernelq top`, and `kernelq events --follow`. Both outlive their server and
wait for the next one on the same socket.
"""

import json
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

from kernelq import log
from kernelq.control import Client, Connection, ControlError
from kernelq.options import duration
from kernelq.protocol import REQUESTS_MAX
from kernelq.shapes import Event, Events, Requests
from kernelq.show import Paint, event_line
from kernelq.top import Sample, frame
from kernelq.units import is_decimal
from kernelq.words import complain

RETRY_SECONDS = 1.0
REQUESTS_LOOKED_AT = min(2000, REQUESTS_MAX)

_OPEN = "\x1b[?1049h\x1b[?25l"  # a screen of its own, no cursor
_CLOSE = "\x1b[?25h\x1b[?1049l"


# top.


def watch_top(client: Client, interval: float, frames: int, *, as_json: bool, paint: Paint) -> int:
    """Frames until q, or so many of them; 0: no end, unless nobody can press a key."""
    first = take_sample(client)
    if as_json or not sys.stdout.isatty():
        return _print_frames(client, first, interval, frames or 1, as_json=as_json, paint=paint)
    with _screen() as keys:
        return _paint_frames(client, first, interval, frames, keys, paint)


def take_sample(client: Client) -> Sample:
    """What the server does now."""
    answer = cast("Requests", client.ask("requests", most=REQUESTS_LOOKED_AT))
    return Sample(time.monotonic(), client.status(), client.pools(), answer["requests"])


def _print_frames(
    client: Client, first: Sample, interval: float, frames: int, *, as_json: bool, paint: Paint
) -> int:
    before = first
    for number in range(frames):
        time.sleep(interval)
        try:
            now = take_sample(client)
        except ControlError as found:
            if found.is_refusal or number + 1 == frames:
                raise
            complain(f"{found}; trying again")
            continue
        if as_json:
            answer = {"status": now.status, "pools": now.pools, "requests": now.requests}
            print(json.dumps(answer), flush=True)
        else:
            size = shutil.get_terminal_size()
            lines = frame(now, before, size.columns, size.lines, paint)
            print("\n".join([*([""] if number else []), *lines]), flush=True)
        before = now
    return 0


def _paint_frames(
    client: Client, first: Sample, interval: float, frames: int, keys: int, paint: Paint
) -> int:
    before: Sample | None = None
    now, note = first, ""
    shown = 0
    while True:
        size = shutil.get_terminal_size()
        _paint_screen(frame(now, before, size.columns, size.lines, paint, note), size.lines)
        shown += 1
        if shown == frames or _quits(keys, interval):
            return 0
        try:
            sample = take_sample(client)
        except ControlError as found:
            note = f"trying again: {found}"
        else:
            before, now, note = now, sample, ""


def _paint_screen(lines: list[str], room: int) -> None:
    # Over the last picture, line by line: a cleared screen would flicker. No line end after the
    # last line, which would scroll.
    text = "\n".join(f"{line}\x1b[K" for line in lines[:room])
    sys.stdout.write(f"\x1b[H{text}\x1b[J")
    sys.stdout.flush()


def _quits(keys: int, seconds: float) -> bool:
    """Wait; True: q was pressed, or there is nobody to press anything any more."""
    until = time.monotonic() + seconds
    while True:
        left = until - time.monotonic()
        if left <= 0:
            return False
        if keys < 0:
            time.sleep(left)
        elif select.select([keys], [], [], left)[0]:
            pressed = os.read(keys, 100)
            if not pressed or pressed[:1] in (b"q", b"Q", b"\x04"):
                return True
            if pressed[:1] in (b" ", b"\n", b"\r"):
                return False


@contextmanager
def _screen() -> Iterator[int]:
    """The terminal in the state that a picture needs, and back again however it ends; gives where
    keys come from, or -1.
    """
    keys = sys.stdin.fileno() if sys.stdin.isatty() else -1
    before: list[Any] | None = termios.tcgetattr(keys) if keys >= 0 else None
    handlers = {number: signal.signal(number, _interrupt) for number in _ENDS}
    try:
        if keys >= 0:
            tty.setcbreak(keys)
        sys.stdout.write(_OPEN)
        yield keys
    finally:
        if before is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, before)
        sys.stdout.write(_CLOSE)
        sys.stdout.flush()
        for number, handler in handlers.items():
            signal.signal(number, handler)


_ENDS = (signal.SIGTERM, signal.SIGHUP)


def _interrupt(number: int, at: FrameType | None) -> None:
    del number, at
    raise KeyboardInterrupt


# events.


def parse_since(text: str) -> int | str:
    """A serial number, or an age as the earliest time."""
    if is_decimal(text):
        return int(text)
    try:
        age_ns = duration(0)(text)
    except ValueError:
        raise ArgumentTypeError(
            f"found {text!r}, allowed is a serial number, or an age as 30s, 10m, 2h"
        ) from None
    return log.format_time(time.time_ns() - age_ns)


def follow_events(
    client: Client,
    since: int | str,
    *,
    follow: bool,
    as_json: bool,
    room: int,
    paint: Paint,
) -> int:
    """Print them as they come. since: a serial number, or a time."""
    printer = _Printer("" if isinstance(since, int) else since, room, paint, as_json=as_json)
    last = since if isinstance(since, int) else 0
    if not follow:
        for event in client.events(last):
            printer.show(event)
        return 0
    past, coming = client.follow(last)
    while True:
        try:
            last = printer.go_on(past, coming)
        finally:
            coming.close()
        past, coming = _come_back(client, past, last)


def _come_back(client: Client, before: Events, last: int) -> tuple[Events, Connection]:
    """Wait until a server answers again. It may be another one, whose serials begin anew."""
    is_told = False
    while True:
        try:
            past, coming = client.follow(last)
            if past["journal"] == before["journal"]:
                return past, coming
            coming.close()
            return client.follow(0)
        except ControlError as found:
            if found.is_refusal:
                raise
            if not is_told:
                complain(f"{found}; waiting for it")
                is_told = True
            time.sleep(RETRY_SECONDS)


class _Printer:
    """Events as lines, those that are not too old."""

    def __init__(self, earliest: str, room: int, paint: Paint, *, as_json: bool) -> None:
        self._earliest = earliest
        self._room = room
        self._paint = paint
        self._as_json = as_json

    def show(self, event: Event) -> None:
        if event["time"] < self._earliest:
            return
        line = json.dumps(event) if self._as_json else event_line(event, self._room, self._paint)
        print(line, flush=True)

    def go_on(self, past: Events, coming: Connection) -> int:
        """Until the connection ends; gives the serial of the last one."""
        for event in past["events"]:
            self.show(event)
        last = past["last"]
        try:
            for line in coming:
                if "missed" in line:
                    self._say_missed(line["missed"])
                    continue
                self.show(line)
                last = line["serial"]
        except ControlError:
            pass  # it has ended, or was restarted
        return last

    def _say_missed(self, count: int) -> None:
        if self._as_json:
            print(json.dumps({"missed": count}), flush=True)
        else:
            complain(f"{count} events came too fast and are not shown")
