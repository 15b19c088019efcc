"""How much faster than httptools is the parser, per typical browser request?

Four ways to read the same head, interleaved in one process; the best round counts, ratios are what
matters:

- kernelq: http1_parse_head() in a loop without Python (that is how the core calls it)
- llhttp: the C parser inside httptools with no callbacks at all, in the same loop: its state
  machine alone, which stores nothing. It knows no Host grammar, no duplicate fields, no limits.
- httptools, bare: feed_data() with a protocol that wants nothing
- httptools: feed_data() with the callbacks that a server needs (URL, fields, end)

    KERNELQ_TESTS=1 python setup.py build_ext --inplace
    python bench/micro/parser.py               times
    python bench/micro/parser.py --callgrind   instructions per head (needs valgrind)
"""

from __future__ import annotations

import argparse
import ctypes
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httptools
import httptools.parser.parser as httptools_module

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from kernelq import _coretest

if TYPE_CHECKING:
    from collections.abc import Callable

CHROME_FIELDS = """\
Host: www.example.com
Connection: keep-alive
Cache-Control: max-age=0
sec-ch-ua: "Chromium";v="124", "Google Chrome";v="124", "Not-A.Brand";v="99"
sec-ch-ua-mobile: ?0
sec-ch-ua-platform: "Linux"
Upgrade-Insecure-Requests: 1
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
Chrome/124.0.0.0 Safari/537.36
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;\
q=0.8,application/signed-exchange;v=b3;q=0.7
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: navigate
Sec-Fetch-User: ?1
Sec-Fetch-Dest: document
Referer: https://www.example.com/catalogue/
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-US,en;q=0.9,de;q=0.8
Cookie: sessionid=1234567890abcdef1234567890abcdef; csrftoken=abcdefghijklmnopqrstuvwxyzABCDEF; \
theme=dark
"""
FIREFOX_FIELDS = """\
Host: www.example.com
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0
Accept: application/json, text/plain, */*
Accept-Language: en-US,en;q=0.5
Accept-Encoding: gzip, deflate, br
Content-Type: application/json
X-Requested-With: XMLHttpRequest
Content-Length: 0
Origin: https://www.example.com
Connection: keep-alive
Referer: https://www.example.com/app/
Cookie: sessionid=1234567890abcdef1234567890abcdef
Sec-Fetch-Dest: empty
Sec-Fetch-Mode: cors
Sec-Fetch-Site: same-origin
"""


def head(start: str, fields: str) -> bytes:
    return f"{start}\n{fields}\n".replace("\n", "\r\n").encode()


REQUESTS = {
    "Chrome, page": head("GET /catalogue/item/4711?ref=home&lang=en HTTP/1.1", CHROME_FIELDS),
    "Firefox, fetch": head("POST /api/v1/items HTTP/1.1", FIREFOX_FIELDS),
    "benchmark tool": head("GET / HTTP/1.1", "Host: 127.0.0.1:8000\n"),
}
WAYS = ("kernelq", "llhttp", "httptools, bare", "httptools")


class Wants:
    """What a server takes from a request."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.is_complete = False

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_message_complete(self) -> None:
        self.is_complete = True


class WantsNothing:
    """No callbacks."""


def loop_httptools(data: bytes, count: int, wants: type) -> None:
    for _ in range(count):
        httptools.HttpRequestParser(wants()).feed_data(data)


def loop_of(way: str, data: bytes) -> Callable[[int], object]:
    if way == "kernelq":
        return lambda count: _coretest.HeadParser().bench(data, count)
    if way == "llhttp":
        library = ctypes.CDLL(httptools_module.__file__)
        addresses = [
            ctypes.cast(function, ctypes.c_void_p).value
            for function in (library.llhttp_init, library.llhttp_execute)
        ]
        return lambda count: _coretest.bench_llhttp(*addresses, data, count)
    wants = WantsNothing if way == "httptools, bare" else Wants
    return lambda count: loop_httptools(data, count, wants)


def validate(data: bytes) -> None:
    """All must take the head for the same thing before it is worth measuring how fast."""
    outcome, ours = _coretest.HeadParser().parse(data)
    theirs = Wants()
    httptools.HttpRequestParser(theirs).feed_data(data)
    if outcome != len(data) or not theirs.is_complete or ours["target"] != theirs.url:
        sys.exit("the parsers disagree on the target or the end")
    if [line[:2] for line in ours["fields"]] != theirs.fields:
        sys.exit("the parsers disagree on the fields")
    loop_of("llhttp", data)(3)


def measure(data: bytes, rounds: int = 300) -> dict[str, float]:
    """Nanoseconds per head: the best of many short rounds, which a busy machine disturbs least."""
    counts = {way: 1_000 if way in ("kernelq", "llhttp") else 100 for way in WAYS}
    loops = {way: loop_of(way, data) for way in WAYS}
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(rounds):
        for way in WAYS:
            start = time.perf_counter_ns()
            loops[way](counts[way])
            best[way] = min(best[way], (time.perf_counter_ns() - start) / counts[way])
    return best


def instructions(name: str, way: str, count: int) -> int:
    """Instructions of a whole run of this script that reads the head count times."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    command += [__file__, "--count", str(count), "--request", name, "--way", way]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", result.stderr)
    if found is None:
        sys.exit(result.stderr)
    return int(found[1])


def count_instructions(name: str) -> dict[str, float]:
    """Per head: the difference of two runs, so that start-up does not count."""
    few, many = 1_000, 3_000
    return {
        way: (instructions(name, way, many) - instructions(name, way, few)) / (many - few)
        for way in WAYS
    }


def show(title: str, results: dict[str, dict[str, float]]) -> None:
    print(f"{title:<16}" + "".join(f"{way:>26}" for way in WAYS))
    for name, figures in results.items():
        cells = [
            f"{figures[way]:>14.0f} ({figures[way] / figures['kernelq']:5.1f} x)" for way in WAYS
        ]
        print(f"{name:<16}" + "".join(f"{cell:>26}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--callgrind", action="store_true")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--request", default="Chrome, page", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        loop_of(options.way, REQUESTS[options.request])(options.count)
        return
    for name, data in REQUESTS.items():
        validate(data)
        print(f"{name}: {len(data)} bytes, {data.count(b': ')} fields")
    if options.callgrind:
        show("instructions", {name: count_instructions(name) for name in REQUESTS})
    else:
        show("ns per head", {name: measure(data) for name, data in REQUESTS.items()})


if __name__ == "__main__":
    main()
