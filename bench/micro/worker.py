"""What does a request cost inside the worker, beyond the application's own code?

A stand-in for the core puts a batch of requests into the ring before the serving thread starts, so
that it never waits: the application reads its thread's CPU time in its first and its last call, and
the difference is the cost of all that lies between, its own body (called alone, in the same run)
subtracted. Needs the test module: KERNELQ_TESTS=1 python setup.py build_ext --inplace.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from kernelq._coretest import FakeCore, control_record, request_record

from kernelq._worker import Channel

WRK = [("Host", "127.0.0.1:8000")]
BROWSER = [
    ("Host", "www.example.org"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Connection", "keep-alive"),
    ("Cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
    ("Upgrade-Insecure-Requests", "1"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Site", "none"),
    ("Priority", "u=0, i"),
]
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "13")]
Application = Callable[[dict[str, Any], Callable[..., Any]], Any]


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer 13 bytes."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world!"]


def generator(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    """Answer 13 bytes, as frameworks do: an iterable that is no list."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    yield b"Hello, world!"


def upload(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Read the content."""
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world!"]


def own_cost(application: Application) -> float:
    """Nanoseconds of the application called with next to nothing around it."""
    environ = {"wsgi.input": io.BytesIO()}

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        return None

    count = 50000
    begin = time.thread_time_ns()
    for _ in range(count):
        for _ in application(environ, start_response):
            pass
    return (time.thread_time_ns() - begin) / count


def batch(application: Application, record: dict[str, Any], count: int) -> float:
    """Nanoseconds per request of one batch."""
    core = FakeCore(slots=1, prefetch=499, ring_bytes=1 << 22)
    channel = Channel(list(core.worker_fds))
    core.attach()
    times: list[int] = []
    left = count

    def timed(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        nonlocal left
        left -= 1
        if left == 0 or left == count - 100:
            times.append(time.thread_time_ns())
        return application(environ, start_response)

    for index in range(count):
        dispatch = core.next_dispatch()
        port = 40000 + index % 64
        data = request_record(dispatch, index % 500, remote_port=port, **record)
        assert core.put(data, ring_it=False)
    core.put(control_record("DRAIN"), ring_it=False)
    channel.serve({0: SimpleNamespace(load=lambda: timed)}, 1)
    assert channel.wait(60)
    channel.close()
    answer = core.take()
    assert answer[0] == "HEAD", answer
    assert answer[4][4] == b"Hello, world!", answer
    core.close()
    return (times[1] - times[0]) / (count - 100)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only")
    options = parser.parse_args()
    cases: dict[str, tuple[Application, dict[str, Any]]] = {
        "hello, wrk's fields": (hello, {"fields": WRK}),
        "hello, a browser's fields": (hello, {"fields": BROWSER}),
        "generator": (generator, {"fields": WRK}),
        "upload of 100 bytes": (upload, {"fields": WRK, "content": b"x" * 100, "method": "POST"}),
    }
    print(f"{'':28} {'all':>8} {'own':>8} {'worker':>8}   ns per request")
    for name, (application, record) in cases.items():
        if options.only and options.only not in name:
            continue
        figures = [batch(application, record, options.count) for _ in range(options.rounds)]
        own = statistics.median(own_cost(application) for _ in range(5))
        total = statistics.median(figures)
        print(f"{name:28} {total:8.0f} {own:8.0f} {total - own:8.0f}")


if __name__ == "__main__":
    main()
