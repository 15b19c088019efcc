"""What does a route cost? Time to build a snapshot, its memory, and nanoseconds per look-up.

    KERNELQ_TESTS=1 python setup.py build_ext --inplace
    python -m bench.micro.routes [--rounds N] [--seed N]

Sites have ten prefixes each. Requests are for random sites and paths, in the order in which they
come: what the caches of the processor do not hold is paid for. The best round counts.
"""

import argparse
import random
import time
from typing import Any

from kernelq import _coretest

PREFIXES = (
    "/", "/shop", "/shop/cart", "/shop/checkout", "/static", "/static/v2/images", "/api/v1",
    "/api/v1/orders", "/blog", "/admin",
)  # fmt: skip
BELOW = ("/", "/item/4711", "/a/b/c/d/e/f", "/index.html")
REQUESTS = 10_000

Rows = list[tuple[Any, ...]]
Requests = list[tuple[bytes, bytes]]


def row(host: str, prefix: str, number: int) -> tuple[Any, ...]:
    """An entry of the only listener, for one of 100 pools."""
    return (0, b"", host, prefix.encode(), number, number % 100, number // 10, 1, True)


def sites(count: int) -> Rows:
    """So many, each with every prefix."""
    return [
        row(f"www.site-{site}.example", prefix, site * len(PREFIXES) + index)
        for site in range(count)
        for index, prefix in enumerate(PREFIXES)
    ]


def requests(rng: random.Random, rows: Rows) -> Requests:
    """For what is there."""
    asked = []
    for _ in range(REQUESTS):
        chosen = rng.choice(rows)
        path = chosen[3].decode().rstrip("/") + rng.choice(BELOW)
        asked.append((chosen[2].encode(), path.encode()))
    return asked


def nobody(rng: random.Random) -> Requests:
    """For hosts that nobody has."""
    return [(f"{rng.getrandbits(64):x}.example".encode(), b"/a/b/c") for _ in range(REQUESTS)]


def show(name: str, rows: Rows, asked: Requests, rounds: int) -> None:
    """One line: the best of so many builds, and of so many rounds."""
    builds, times = [], []
    for _ in range(3):
        start = time.perf_counter_ns()
        made = _coretest.RouteSnapshot(rows)
        builds.append(time.perf_counter_ns() - start)
    for _ in range(rounds):
        start = time.perf_counter_ns()
        made.bench(0, asked, 1)
        times.append(time.perf_counter_ns() - start)
    print(
        f"| {name} | {min(builds) / 1e6:.1f} ms | {made.bytes / 1024:,.0f} KiB "
        f"| {min(times) / len(asked):.0f} ns |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print("| routes | built in | memory | a look-up |\n| --- | --- | --- | --- |")
    plain = [row("", "/", 0)]
    show("1: /", plain, requests(rng, plain), options.rounds)
    one = [row("www.site-1.example", "/shop", 0)]
    show("1: a host and a prefix", one, requests(rng, one), options.rounds)
    for count in (100, 1_000, 10_000):
        rows = sites(count)
        show(f"{len(rows):,}", rows, requests(rng, rows), options.rounds)
    show(f"{len(rows):,}, unknown hosts", rows, nobody(rng), options.rounds)


if __name__ == "__main__":
    main()
