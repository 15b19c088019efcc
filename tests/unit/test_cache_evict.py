"""What the cache's store evicts, and what it keeps."""

import sys
from pathlib import Path
from typing import Any

from kernelq._coretest import CacheStore

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.micro import eviction


def fill_up(store: Any, first: int = 0, **more: Any) -> int:
    """Put entries of 1000 bytes until two of them had to go; the first number not used."""
    before = store.counts()["evicted"]
    number = first
    while store.counts()["evicted"] < before + 2:
        assert store.put(b"http://a/%d" % number, b"x" * 1000, **more) == "done"
        store.rest()
        number += 1
    return number


def test_a_scan_does_not_drive_out_what_is_asked_for() -> None:
    store = CacheStore(bytes=1 << 20)
    wanted = [b"http://wanted/%d" % index for index in range(200)]
    for key in wanted:
        store.put(key, b"x" * 1000)
    for _ in range(3):
        for key in wanted:
            assert store.find(key) is not None
    for index in range(5000):
        store.put(b"http://once/%d" % index, b"x" * 1000)
        store.rest()
        if index % 20 == 0:
            store.find(wanted[index // 20 % 200])
    assert sum(store.find(key) is not None for key in wanted) > 190
    store.rest()
    assert store.close() == 0


def test_what_comes_back_soon_begins_in_the_main_queue() -> None:
    store = CacheStore(bytes=1 << 20)
    count = fill_up(store) + 3000  # beyond the last growth of a table, with which ghosts go
    for number in range(count - 3000, count):
        store.put(b"http://a/%d" % number, b"x" * 1000)
        store.rest()
    queues = []
    for number in [n for n in range(count) if store.find(b"http://a/%d" % n) is None][-20:]:
        store.put(b"http://a/%d" % number, b"x" * 1000)
        entry = store.pin(b"http://a/%d" % number)
        queues.append(entry.queue)
        entry.unpin()
    assert queues.count("main") >= 15
    store.rest()
    assert store.close() == 0


def test_what_cannot_be_served_any_more_goes_first() -> None:
    store = CacheStore(bytes=1 << 20)
    dead = [b"http://dead/%d" % index for index in range(100)]
    stale = [b"http://stale/%d" % index for index in range(100)]
    for old, kept in zip(dead, stale, strict=True):
        store.put(old, b"x" * 1000, age_s=100, lifetime_s=10, stale_s=10)
        store.put(kept, b"x" * 1000, age_s=100, lifetime_s=10, stale_s=1000)
        store.find(old)
        store.find(kept)
    for number in range(2000):
        store.put(b"http://a/%d" % number, b"x" * 1000)
        store.rest()
    assert store.counts()["evicted"] > 100
    assert [store.find(key) for key in dead] == [None] * 100
    assert sum(store.find(key) is not None for key in stale) > 95
    store.rest()
    assert store.close() == 0


def test_what_is_pinned_is_passed_over() -> None:
    store = CacheStore(bytes=1 << 20)
    pinned = []
    for index in range(200):
        store.put(b"http://pinned/%d" % index, b"x" * 1000)
        pinned.append(store.pin(b"http://pinned/%d" % index))
    for number in range(2000):
        assert store.put(b"http://a/%d" % number, b"x" * 1000) == "done"
        store.rest()
    assert all(entry.queue != "gone" for entry in pinned)
    for entry in pinned:
        entry.unpin()
    assert store.close() == 0


def test_a_store_full_of_pins_refuses_and_recovers() -> None:
    store = CacheStore(bytes=1 << 20, entry_bytes=10_000)
    pinned = []
    while store.put(b"http://a/%d" % len(pinned), b"x" * 10_000) == "done":
        pinned.append(store.pin(b"http://a/%d" % len(pinned)))
        store.rest()
        assert store.counts()["bytes"] <= 1 << 20
    assert len(pinned) > 80
    assert store.find(b"http://a/0") is not None
    for entry in pinned:
        entry.unpin()
    outcomes = []
    for number in range(1000):
        outcomes.append(store.put(b"http://b/%d" % number, b"x" * 10_000))
        store.rest()
    assert outcomes[1:] == ["done"] * 999  # what the first one evicted was not free in its turn
    assert store.close() == 0


def ratios(make_trace: Any, requests: int = 30_000) -> tuple[float, float, float]:
    """Hit ratios of the store, of S3-FIFO and of LRU in the room that the store turned out to have,
    in percent. The trace is of numbers."""
    trace = make_trace(requests)
    store = CacheStore(bytes=1 << 20)
    hits = 0
    for number in trace:
        key = b"http://a/%08d" % number
        if store.find(key) is not None:
            hits += 1
        else:
            store.put(key, b"x" * 1000)
            store.rest()
    room = store.counts()["entries_now"]
    assert store.close() == 0
    return (
        100 * hits / len(trace),
        eviction.hit_ratio(eviction.S3FIFO(room), trace),
        eviction.hit_ratio(eviction.LRU(room), trace),
    )


def test_by_trace_it_evicts_as_the_model_in_bench_does() -> None:
    # In shards of 50 entries each, with ghosts that are only prints.
    rng = eviction.random.Random(1)
    store, model, lru = ratios(lambda count: eviction.zipf(rng, 10_000, count))
    assert store > model - 1.5
    assert store > lru + 4
    store, model, lru = ratios(
        lambda count: eviction.with_scans(eviction.zipf(rng, 10_000, count), 1000, 2000)
    )
    assert store > model - 1.5
    assert store > lru + 4
