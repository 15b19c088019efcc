"""The load generator: wrk with one thread.

Latencies are wrk's own: it corrects them for coordinated omission (a response that took several
times the mean stands also for the requests that were not sent meanwhile). For pipelined requests
that correction is off by the depth, so none are given.
"""

from __future__ import annotations

import json
import resource
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.macro.server import Failed, pinned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCRIPT = Path(__file__).with_name("wrk.lua")
GRACE_SECONDS = 30.0  # beyond the run's own time, before the generator is given up


@dataclass(frozen=True)
class Load:
    target: str
    connections: int
    depth: int = 1  # requests sent together
    content: int = 0  # bytes of each request's content
    thought_ms: int = 0  # a connection's pause before each request: at random up to this
    keys: int = 0  # targets are TARGET/NUMBER: one of so many at random; -1: each one new
    fields: tuple[str, ...] = ()  # field lines of each request


@dataclass(frozen=True)
class Outcome:
    requests: int
    seconds: float
    bytes: int  # of all responses
    errors: int
    p50: float  # latencies in microseconds; 0: not known
    p99: float
    p999: float
    client: float  # share of one CPU that the generator used


def words_of(load: Load, port: int, seconds: int) -> list[str]:
    words = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "5s"]
    words += ["-s", str(SCRIPT), f"http://127.0.0.1:{port}{load.target}", "--"]
    words += [str(load.content), str(load.depth), str(load.thought_ms), str(load.keys)]
    return [*words, str(time.monotonic_ns() % 900_000_000), *load.fields]


def generate(load: Load, port: int, seconds: int, cpus: Sequence[int]) -> Outcome:
    before = children_seconds()
    with pinned(cpus):
        figures = json.loads(run(words_of(load, port, seconds), seconds).splitlines()[-1])
    if load.depth > 1:
        figures |= {"p50": 0.0, "p99": 0.0, "p999": 0.0}
    return Outcome(**figures, client=(children_seconds() - before) / figures["seconds"])


@contextmanager
def beside(load: Load | None, port: int, seconds: int) -> Iterator[set[int]]:
    """Another load meanwhile, of which nothing is measured; its process."""
    if load is None:
        yield set()
        return
    words = words_of(load, port, seconds + 60)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield {process.pid}
    finally:
        process.kill()
        process.wait()


def children_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def run(words: list[str], seconds: int) -> str:
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds + GRACE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{words[0]} did not end") from None
    if done.returncode:
        raise Failed(f"{words[0]}: {(done.stdout + done.stderr).strip()[-300:]}")
    return done.stdout
