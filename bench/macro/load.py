"""The load generators: wrk as fast as it goes, h2load at a given rate; one shape of answer."""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
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
    rate: int = 0  # requests per second over all connections; 0: as many as come back


@dataclass(frozen=True)
class Outcome:
    requests: int
    seconds: float
    bytes: int  # of all responses; 0: not known
    errors: int
    p50: float  # latencies in microseconds
    p99: float
    p999: float
    client: float  # share of one CPU that the generator used


def generate(load: Load, port: int, seconds: int, cpus: Sequence[int]) -> Outcome:
    before = children_seconds()
    with pinned(cpus):
        figures = (paced if load.rate else saturating)(load, port, seconds)
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


def saturating(load: Load, port: int, seconds: int) -> dict[str, float]:
    words = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "5s"]
    words += ["-s", str(SCRIPT), f"http://127.0.0.1:{port}{load.target}"]
    output = run([*words, "--", str(load.content), str(load.depth)], seconds)
    return json.loads(output.splitlines()[-1])


def paced(load: Load, port: int, seconds: int) -> dict[str, float]:
    """Requests at their appointed times, whether or not the server keeps up."""
    with tempfile.NamedTemporaryFile("r") as log:
        words = ["h2load", "--h1", "-t1", f"-c{load.connections}", f"-D{seconds}"]
        words += [f"--rps={load.rate / load.connections:g}", f"--log-file={log.name}"]
        run([*words, f"http://127.0.0.1:{port}{load.target}"], seconds)
        lines = [line.split() for line in log]
    latencies = sorted(int(line[2]) for line in lines)
    if not latencies:
        raise Failed("h2load: no response at all")

    def percentile(share: float) -> float:
        return latencies[min(int(len(latencies) * share), len(latencies) - 1)]

    return {
        "requests": len(lines),
        "seconds": seconds,
        "bytes": 0,
        "errors": sum(line[1] != "200" for line in lines),
        "p50": percentile(0.5),
        "p99": percentile(0.99),
        "p999": percentile(0.999),
    }
