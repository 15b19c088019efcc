"""CALL and REPLY against the core: what a worker may ask, and what costs it its life.

The test itself writes and reads the worker's channel; the process that the core takes for the
worker only waits for its end.
"""

import os
import select
import socket
import subprocess
import sys

import pytest
from hostile_channel import (
    CALL,
    CALL_REST,
    CALL_TEXT_MAX,
    CALLS_MAX,
    RawChannel,
    call,
    lane_at,
    record,
)

from kernelq import _core
from kernelq.config import CorePoolSettings, CoreSettings

PATIENCE_MS = 30_000
DONE, INVALID = 0, 1


class Bench:
    """A core, and the end of a channel that a worker would have."""

    def __init__(self, loops: int = 1, listener: socket.socket | None = None) -> None:
        self.core = _core.Core(CoreSettings(loops=loops, log_level=50))
        self.pool = self.core.pool_open(CorePoolSettings(threads=2))
        if listener is not None:
            number = self.core.add_listener(os.dup(listener.fileno()))
            self.core.set_routes([(number, b"", "", b"/", 0, self.pool, 0, 0, True)])
        self.core.start()
        self.number, fds = self.core.channel_open(self.pool, 0)
        # Ends when its standard input does.
        command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.raw = RawChannel([os.dup(fd) for fd in fds])
        for fd in fds:
            os.close(fd)
        self.core.worker_attach(self.number, self.process.pid, os.pidfd_open(self.process.pid))
        self.raw.open()
        self.seen: list[str] = []
        self.wait_event("ready")

    def wait_event(self, name: str) -> None:
        poll = select.poll()
        poll.register(self.core.event_fd, select.POLLIN)
        while name not in self.seen:
            assert poll.poll(PATIENCE_MS), f"no event {name!r}, only {self.seen}"
            self.seen += [event[0] for event in self.core.take_events()]

    def wait_replies(self, count: int) -> list[tuple[int, int, int, int]]:
        while len(self.raw.replies) < count:
            self.raw.take(10)
            assert "distrusted" not in [event[0] for event in self.core.take_events()]
        replies, self.raw.replies = self.raw.replies, []
        return replies

    def close(self) -> None:
        self.raw.close()
        self.process.stdin.close()
        self.process.wait()
        self.wait_event("gone")
        self.core.worker_forget(self.number)
        self.core.stop()


@pytest.fixture
def bench(request):
    made = Bench(getattr(request, "param", 1))
    yield made
    made.close()


@pytest.mark.parametrize("bench", [1, 3], indirect=True)
def test_each_call_is_answered_by_the_loop_that_read_it(bench):
    loops = bench.raw.head.loop_count
    for round_ in range(20):
        sent = [(number % loops, round_ << 32 | number) for number in range(CALLS_MAX)]
        for loop, number in sent:
            bench.raw.put(loop, call(number, 1 + number % 2, b"http://h/", b"g" * (number % 2)))
        replies = bench.wait_replies(CALLS_MAX)
        assert sorted((loop, number) for loop, number, _, _ in replies) == sorted(sent)
        assert {status for _, _, _, status in replies} == {DONE}


def test_the_longest_texts(bench):
    first = b"http://h/" + b"x" * (CALL_TEXT_MAX - 9)
    bench.raw.put(0, call(5, 1, first, flags=1))
    assert bench.wait_replies(1)[0][1] == 5
    bench.raw.put(0, call(6, 2, first[:-100], b"y" * 100))
    assert bench.wait_replies(1)[0][1] == 6


@pytest.mark.parametrize(
    "data",
    [
        call(1, operation=0),
        call(1, operation=3),
        call(1, operation=2**32 - 1),
        call(1, flags=2),
        call(1, operation=2, flags=1),
        call(1, second=b"x"),
        call(1, first=b"x" * (CALL_TEXT_MAX + 1)),
        call(1, operation=2, first=b"x" * CALL_TEXT_MAX, second=b"y"),
        call(1)[:-1],
        record(CALL, 0, 0),
        record(CALL, 0, 0, CALL_REST.pack(1, 1, 0, 5, 0) + b"four"),
        record(CALL, 0, 0, CALL_REST.pack(1, 1, 0, 3, 0) + b"four"),
        record(CALL, 0, 0, CALL_REST.pack(1, 1, 0, 2**32 - 1, 5) + b"four"),
        record(CALL, 0, 0, CALL_REST.pack(1, 2, 0, 2**31, 2**31) + b""),
    ],
)
def test_a_call_that_cannot_be_right_is_distrusted(bench, data):
    data = len(data).to_bytes(4, "little") + data[4:]
    bench.raw.put(0, data)
    bench.wait_event("distrusted")
    assert bench.process.wait() == -9


def test_more_calls_than_may_be_under_way_are_distrusted(bench):
    for number in range(CALLS_MAX * 2):
        bench.raw.put(0, call(number), ring=False)
    bench.raw.ring(0)
    bench.wait_event("distrusted")


def test_who_does_not_read_its_answers_is_distrusted(bench):
    published = bench.raw.core_word(lane_at(0))
    number = 0
    while "distrusted" not in bench.seen:
        for _ in range(CALLS_MAX):
            bench.raw.put(0, call(number), ring=False)
            number += 1
        bench.raw.ring(0)
        # Until all of them are answered: each is in the ring then, and takes 40 bytes.
        while bench.raw.core_word(lane_at(0)) < published + 40 * number:
            bench.seen += [event[0] for event in bench.core.take_events()]
            if "distrusted" in bench.seen:
                break
    assert number > bench.raw.head.ring_bytes // 40 - CALLS_MAX


def test_the_worker_may_die_before_it_is_answered():
    for _ in range(10):
        bench = Bench(loops=2)
        for number in range(CALLS_MAX):
            bench.raw.put(number % 2, call(number))
        bench.process.kill()
        bench.close()


def test_the_core_may_end_before_it_has_answered():
    for _ in range(10):
        bench = Bench(loops=2)
        for number in range(CALLS_MAX):
            bench.raw.put(number % 2, call(number))
        bench.core.stop()
        bench.raw.close()
        bench.process.stdin.close()
        bench.process.wait()
