"""Which eviction loses least? Hit ratios of made-up traces: S3-FIFO as the response cache has it
(kernelq/core/cache_evict.pxi), W-TinyLFU and LRU, by counted entries of one size.

    python -m bench.micro.eviction [--requests N] [--seed N]

A trace is a list of numbers of objects. Each cache is a class with one method: asked(key) says
whether it was there, and takes it in if it was not.
"""

import argparse
import bisect
import itertools
import random
from collections import OrderedDict, deque
from collections.abc import Callable


class LRU:
    """What was not asked for the longest goes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.entries: OrderedDict[int, None] = OrderedDict()

    def asked(self, key: int) -> bool:
        if key in self.entries:
            self.entries.move_to_end(key)
            return True
        self.entries[key] = None
        if len(self.entries) > self.room:
            self.entries.popitem(last=False)
        return False


class S3FIFO:
    """Two FIFO queues and ghosts; a hit only counts."""

    def __init__(self, room: int, share: int = 10, small_hits: int = 1) -> None:
        self.room, self.share, self.small_hits = room, share, small_hits
        self.small: deque[int] = deque()
        self.main: deque[int] = deque()
        self.hits: dict[int, int] = {}
        self.ghosts: OrderedDict[int, None] = OrderedDict()

    def asked(self, key: int) -> bool:
        if key in self.hits:
            self.hits[key] = min(3, self.hits[key] + 1)
            return True
        while len(self.hits) >= self.room:
            self.look()
        self.hits[key] = 0
        if self.ghosts.pop(key, 0) is None:
            self.main.append(key)
        else:
            self.small.append(key)
        return False

    def look(self) -> None:
        """One look at the end of a queue, as shard_evict_look() has it."""
        if self.small and (not self.main or len(self.small) * self.share > len(self.hits)):
            key = self.small.popleft()
            if self.hits[key] >= self.small_hits:
                self.hits[key] = 0
                self.main.append(key)
            else:
                del self.hits[key]
                self.ghosts[key] = None
                while len(self.ghosts) > self.room:
                    self.ghosts.popitem(last=False)
            return
        key = self.main.popleft()
        if self.hits[key]:
            self.hits[key] -= 1
            self.main.append(key)
        else:
            del self.hits[key]


class Sketch:
    """How often a key was asked for of late: four counters to 15, halved now and then."""

    def __init__(self, room: int) -> None:
        self.mask = (1 << max(6, (room * 4).bit_length())) - 1
        self.rows = [bytearray(self.mask + 1) for _ in range(4)]
        self.count, self.period = 0, room * 10

    def places(self, key: int) -> list[int]:
        word = (key + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        return [(word >> 13 * row ^ word >> 7) & self.mask for row in range(4)]

    def add(self, key: int) -> None:
        for row, place in zip(self.rows, self.places(key), strict=True):
            row[place] = min(15, row[place] + 1)
        self.count += 1
        if self.count == self.period:
            self.count = 0
            self.rows = [bytearray(value >> 1 for value in row) for row in self.rows]

    def estimate(self, key: int) -> int:
        return min(row[place] for row, place in zip(self.rows, self.places(key), strict=True))


class WTinyLFU:
    """A small LRU window; behind it a segmented LRU that lets in what is asked for more often than
    what would have to go."""

    def __init__(self, room: int, window_share: int = 100) -> None:
        self.window_room = max(1, room // window_share)
        self.main_room = room - self.window_room
        self.kept_room = self.main_room * 8 // 10
        self.window: OrderedDict[int, None] = OrderedDict()
        self.trial: OrderedDict[int, None] = OrderedDict()
        self.kept: OrderedDict[int, None] = OrderedDict()
        self.sketch = Sketch(room)

    def asked(self, key: int) -> bool:
        self.sketch.add(key)
        if key in self.window:
            self.window.move_to_end(key)
        elif key in self.kept:
            self.kept.move_to_end(key)
        elif key in self.trial:
            del self.trial[key]
            self.kept[key] = None
            if len(self.kept) > self.kept_room:
                self.trial[self.kept.popitem(last=False)[0]] = None
        else:
            self.window[key] = None
            if len(self.window) > self.window_room:
                self.admit(self.window.popitem(last=False)[0])
            return False
        return True

    def admit(self, key: int) -> None:
        """From the window into the main part, if it is worth it."""
        if len(self.trial) + len(self.kept) < self.main_room:
            self.trial[key] = None
            return
        segment = self.trial or self.kept
        victim = next(iter(segment))
        if self.sketch.estimate(key) > self.sketch.estimate(victim):
            del segment[victim]
            self.trial[key] = None


def zipf(rng: random.Random, objects: int, count: int, exponent: float = 0.9) -> list[int]:
    """Ranks by popularity."""
    weights = itertools.accumulate((rank + 1) ** -exponent for rank in range(objects))
    sums = list(weights)
    return [bisect.bisect_left(sums, rng.random() * sums[-1]) for _ in range(count)]


def with_scans(trace: list[int], length: int, every: int) -> list[int]:
    """A crawler that asks for pages nobody else wants, once each."""
    mixed: list[int] = []
    fresh = itertools.count(10_000_000)
    for at in range(0, len(trace), every):
        mixed += trace[at : at + every]
        mixed += itertools.islice(fresh, length)
    return mixed


def with_once_only(rng: random.Random, trace: list[int]) -> list[int]:
    """Every second request is for something that is asked for once (search, filters)."""
    fresh = itertools.count(20_000_000)
    return [next(fresh) if rng.random() < 0.5 else key for key in trace]


def loops(objects: int, count: int) -> list[int]:
    """The same pages in the same order, again and again."""
    return [index % objects for index in range(count)]


def shifting(rng: random.Random, objects: int, count: int, times: int) -> list[int]:
    """What is popular changes: each part has an order of its own, half of it new."""
    trace: list[int] = []
    for part in range(times):
        trace += [key + part * objects // 2 for key in zipf(rng, objects, count // times)]
    return trace


def news(rng: random.Random, objects: int, count: int) -> list[int]:
    """Articles come one by one, are wanted at once, and then less and less."""
    return [max(0, at * objects // count - int(rng.paretovariate(0.7)) + 1) for at in range(count)]


def traces(count: int, seed: int) -> dict[str, list[int]]:
    """All of them, over some 10,000 objects."""
    rng = random.Random(seed)
    return {
        "zipf 0.9": zipf(rng, 10_000, count),
        "zipf 0.7": zipf(rng, 10_000, count, 0.7),
        "zipf, scans": with_scans(zipf(rng, 10_000, count * 2 // 3), 2000, 4000),
        "zipf, half once": with_once_only(rng, zipf(rng, 10_000, count)),
        "loop of 1,200": loops(1200, count),
        "shifting zipf": shifting(rng, 10_000, count, 10),
        "news": news(rng, 10_000, count),
    }


CACHES: dict[str, Callable[[int], LRU | S3FIFO | WTinyLFU]] = {
    "S3-FIFO": S3FIFO,
    "S3-FIFO, 2 hits": lambda room: S3FIFO(room, small_hits=2),
    "S3-FIFO, half": lambda room: S3FIFO(room, share=2),
    "W-TinyLFU": WTinyLFU,
    "LRU": LRU,
}


def hit_ratio(cache: LRU | S3FIFO | WTinyLFU, trace: list[int]) -> float:
    """In percent, of all requests."""
    return 100 * sum(map(cache.asked, trace)) / len(trace)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for room in (100, 1000):
        print(f"| room for {room} | " + " | ".join(CACHES) + " |")
        print("| --- " * (len(CACHES) + 1) + "|")
        for name, trace in traces(options.requests, options.seed).items():
            ratios = [f"{hit_ratio(make(room), trace):.1f}" for make in CACHES.values()]
            print(f"| {name} | " + " | ".join(ratios) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()
