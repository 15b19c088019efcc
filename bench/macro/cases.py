"""The table of cases, the validator of each, and the figures that kernelq is to reach."""

from __future__ import annotations

from dataclasses import dataclass

from bench import apps
from bench.macro.client import Connection, Malformed, request
from bench.macro.load import Load

UPLOAD_BYTES = 100_000
EXPECTED = {"/": apps.HELLO, "/64k": apps.LARGE, "/upload": b"%d" % UPLOAD_BYTES}


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    load: Load
    server_cpus: tuple[int, ...] = (0, 1)
    client_cpus: tuple[int, ...] = (0, 1)
    idle: int = 0  # persistent connections that keep silent beside the load

    def validate(self, port: int) -> int:
        """Raises unless the right bytes come, twice on one connection; returns the bytes of one
        response."""
        load = self.load
        message = request(load.target, b"x" * load.content)
        with Connection(port) as connection:
            for response in connection.exchange(message, load.depth) + connection.exchange(message):
                if response.status != 200:
                    raise Malformed(f"status {response.status}")
                if response.content != EXPECTED[load.target]:
                    raise Malformed(f"content {response.content[:40]!r}")
            if not connection.is_silent():
                raise Malformed("something behind the last response")
        return response.size


CASES = (
    Case("hello", "13 bytes, 64 connections, two cores", Load("/", 64)),
    Case(
        "hello-pinned",
        "13 bytes, 64 connections, server on one core, client on the other",
        Load("/", 64),
        (0,),
        (1,),
    ),
    Case(
        "hello-one-core",
        "13 bytes, 64 connections, everything on one core",
        Load("/", 64),
        (0,),
        (0,),
    ),
    Case(
        "hello-calm",
        "13 bytes, 64 connections that think up to 25 ms before each request, two cores",
        Load("/", 64, thought_ms=25),
    ),
    Case("one", "13 bytes, one connection, two cores", Load("/", 1)),
    Case(
        "one-one-core", "13 bytes, one connection, everything on one core", Load("/", 1), (0,), (0,)
    ),
    Case("64k", "64 KiB response, 64 connections, two cores", Load("/64k", 64)),
    Case(
        "upload",
        "100 KB of content, 64 connections, two cores",
        Load("/upload", 64, content=UPLOAD_BYTES),
    ),
    Case(
        "pipelined",
        "13 bytes, 64 connections, 16 requests at a time, two cores",
        Load("/", 64, depth=16),
    ),
    Case(
        "idle",
        "13 bytes, 64 connections beside 10,000 silent ones, two cores",
        Load("/", 64),
        idle=10_000,
    ),
)


@dataclass(frozen=True)
class Target:
    """kernelq's figure against a peer's in the same case: at most (or least) factor times it."""

    case: str
    figure: str
    factor: float
    peer: str = ""  # none: the factor is the bound itself
    least: bool = False

    def judge(self, own: float, other: float) -> tuple[bool, str]:
        bound = self.factor * (other if self.peer else 1)
        reached = own >= bound if self.least else own <= bound
        limit = f"{'at least' if self.least else 'at most'} {self.factor:.3g}"
        whose = f" of {self.peer}'s" if self.peer else ""
        value = own / other if self.peer else own
        return reached, f"{self.case}: {self.figure} {limit}{whose}: {value:.3g}"


HELLOS = ("hello", "hello-pinned", "hello-one-core")
TARGETS = (
    *(Target(case, "cpu", 1.0, "bjoern") for case in HELLOS),
    *(Target(case, "cpu", 1 / 1.7, "granian") for case in HELLOS),
    *(Target(case, "cpu", 1 / 1.7, "granian-t1") for case in HELLOS),
    Target("hello", "rate", 1.0, "fastpysgi", least=True),
    Target("hello", "p99", 1.0, "granian"),
    Target("64k", "cpu", 0.7, "granian"),
    Target("one", "p50", 1.25, "bjoern"),
    Target("one-one-core", "p50", 1.6, "bjoern"),
    Target("idle", "per_connection", 512),
)
