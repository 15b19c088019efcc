"""The load generator: wrk with one thread.

Latencies are wrk's own: it corrects them for coordinated omission (a response that took several
times the mean stands also for the requests that were not sent meanwhile). For pipelined requests
that correction is off by the depth, so none are given.
"""

from __future__ import annotations

import json
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.macro.server import Failed, pinned

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT = Path(__file__).with_name("wrk.lua")
GRACE_SECONDS = 30.0  # beyond the run's own time, before the generator is given up


@dataclass(frozen=True)
class Load:
    target: str
    connections: int
    depth: int = 1  # requests sent together
    content: int = 0  # bytes of each request's content
    thought_ms: int = 0  # a connection's pause before each request: at random up to this


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


def generate(load: Load, port: int, seconds: int, cpus: Sequence[int]) -> Outcome:
    words = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "5s"]
    words += ["-s", str(SCRIPT), f"http://127.0.0.1:{port}{load.target}", "--"]
    words += [str(load.content), str(load.depth), str(load.thought_ms)]
    before = children_seconds()
    with pinned(cpus):
        figures = json.loads(run(words, seconds).splitlines()[-1])
    if load.depth > 1:
        figures |= {"p50": 0.0, "p99": 0.0, "p999": 0.0}
    return Outcome(**figures, client=(children_seconds() - before) / figures["seconds"])


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
