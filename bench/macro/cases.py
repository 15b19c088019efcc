"""The table of cases, the validator of each, and the figures that kernelq is to reach."""

from __future__ import annotations

from dataclasses import dataclass

from bench import apps
from bench.macro.client import Connection, Malformed, request
from bench.macro.load import Load

UPLOAD_BYTES = 100_000
EXPECTED = {
    "/": apps.HELLO,
    "/64k": apps.LARGE,
    "/cached": apps.HELLO,
    "/cached64k": apps.LARGE,
    "/upload": b"%d" % UPLOAD_BYTES,
}
FILL_BATCH = 200  # requests sent together


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    load: Load
    server_cpus: tuple[int, ...] = (0, 1)
    client_cpus: tuple[int, ...] = (0, 1)
    idle: int = 0  # persistent connections that keep silent beside the load
    peers: tuple[str, ...] = ()  # only these; none: all that are no caches
    status: int = 200
    entries: int = 0  # TARGET/0 to TARGET/N - 1 are asked for once before
    beside: Load | None = None  # goes on meanwhile, and is not measured

    def validate(self, port: int) -> int:
        """Raises unless the right bytes come, twice on one connection; returns the bytes of one
        response."""
        load = self.load
        target = f"{load.target}/{0:09}" if load.keys else load.target
        expected = EXPECTED[load.target] if self.status == 200 else b""
        message = request(target, b"x" * load.content, load.fields)
        with Connection(port) as connection:
            if self.status == 304:  # there must be something that has not been modified
                connection.exchange(request(target))
            for response in connection.exchange(message, load.depth) + connection.exchange(message):
                if response.status != self.status:
                    raise Malformed(f"status {response.status}")
                if response.content != expected:
                    raise Malformed(f"content {response.content[:40]!r}")
            if not connection.is_silent():
                raise Malformed("something behind the last response")
        return response.size

    def fill(self, port: int) -> None:
        """Asks for each key once. Only the count of good responses is looked at: a strict client
        would take longer than the server.
        """
        with Connection(port) as connection:
            for first in range(0, self.entries, FILL_BATCH):
                keys = range(first, min(first + FILL_BATCH, self.entries))
                messages = (request(f"{self.load.target}/{key:09}") for key in keys)
                connection.socket.sendall(b"".join(messages))
                connection.skip(len(keys), apps.HELLO)


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
    Case(
        "hit",
        "13 bytes from the cache, 64 connections, two cores",
        Load("/cached", 64),
        peers=("kernelq", "floor", "nginx", "nginx-cache", "varnish"),
    ),
    Case(
        "hit-one-core",
        "13 bytes from the cache, 64 connections, everything on one core",
        Load("/cached", 64),
        (0,),
        (0,),
        peers=("kernelq", "floor", "nginx", "nginx-cache", "varnish"),
    ),
    Case(
        "hit-pipelined",
        "13 bytes from the cache, 64 connections, 16 requests at a time, two cores",
        Load("/cached", 64, depth=16),
        peers=("kernelq", "floor", "nginx", "nginx-cache", "varnish"),
    ),
    Case(
        "hit-64k",
        "64 KiB from the cache, 64 connections, two cores",
        Load("/cached64k", 64),
        peers=("kernelq", "nginx-file", "nginx-cache", "varnish"),
    ),
    Case(
        "hit-304",
        "If-None-Match, answered 304 from the cache, 64 connections, two cores",
        Load("/cached", 64, fields=(f"If-None-Match: {apps.TAG}",)),
        peers=("kernelq", "nginx-cache", "varnish"),
        status=304,
    ),
    Case(
        "hit-many",
        "13 bytes from the cache, one of a million keys at random, 64 connections, two cores",
        Load("/cached", 64, keys=1_000_000),
        peers=("kernelq-large", "varnish"),
        entries=1_000_000,
    ),
    Case(
        "hit-beside-fills",
        "13 bytes from the cache, 64 connections, while 4 others ask for what is not in it",
        Load("/cached", 64),
        peers=("kernelq", "kernelq-l2"),
        beside=Load("/cached", 4, keys=-1),
    ),
    Case(
        "hit-loops",
        "13 bytes from the cache, 64 connections, one loop and two, two cores",
        Load("/cached", 64),
        peers=("kernelq", "kernelq-l2"),
    ),
    Case(
        "miss",
        "13 bytes that must not be stored, 64 connections, two cores",
        Load("/", 64),
        peers=("kernelq", "kernelq-off"),
    ),
    Case(
        "miss-stored",
        "13 bytes that are stored, each under a key of its own, 64 connections, two cores",
        Load("/cached", 64, keys=-1),
        peers=("kernelq", "kernelq-off"),
    ),
)


@dataclass(frozen=True)
class Target:
    """One's own figure against a peer's: at most (or least) factor times it, and something more."""

    case: str
    figure: str
    factor: float
    peer: str = ""  # none: the factor is the bound itself
    least: bool = False
    own: str = "kernelq"
    versus: str = ""  # the case of the peer's figure; none: the same
    more: float = 0.0

    def judge(self, own: float, other: float) -> tuple[bool, str]:
        bound = self.factor * (other if self.peer else 1) + self.more
        reached = own >= bound if self.least else own <= bound
        limit = f"{'at least' if self.least else 'at most'} {self.factor:.3g}"
        whose = f" of {self.peer}'s" if self.peer else ""
        whose += f" in {self.versus}" if self.versus else ""
        whose += f" and {self.more:.3g} more" if self.more else ""
        value = f"{own / other:.3g}" if self.peer and not self.more else f"{own:.3g}"
        value += f", {own - other:+.3g}" if self.more else ""
        name = self.case if self.own == "kernelq" else f"{self.case} ({self.own})"
        return reached, f"{name}: {self.figure} {limit}{whose}: {value}"


HITS = ("hit", "hit-one-core")
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
    *(Target(case, "cpu", 1.15, "floor") for case in HITS),
    *(Target(case, "cpu", 1.0, "nginx") for case in HITS),
    *(Target(case, "cpu", 1 / 1.8, "nginx-cache") for case in HITS),
    *(Target(case, "cpu", 1 / 3, "varnish") for case in HITS),
    Target("hit-pipelined", "cpu", 1 / 3, "nginx"),
    Target("hit-64k", "cpu", 1.0, "nginx-file"),
    Target("hit-304", "cpu", 1.1, "kernelq", versus="hit"),
    Target("hit-many", "cpu", 1.1, "kernelq", own="kernelq-large", versus="hit"),
    Target("hit-many", "per_entry", 256, own="kernelq-large"),
    Target("miss", "cpu", 1.0, "kernelq-off", more=0.3),
)
