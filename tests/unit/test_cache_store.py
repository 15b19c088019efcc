"""The cache's store: what it keeps, what it gives back, what it costs."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from kernelq._coretest import CacheStore, cache_vary_key

SECOND = 10**9
VARY = [(b"Vary", b"Accept-Language")]


@pytest.fixture
def store() -> Iterator[Any]:
    made = CacheStore()
    yield made
    made.rest()
    assert made.close() == 0


def language(value: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"Accept-Language", value)]


def variant(value: bytes) -> bytes:
    """The secondary key of a response that varies by language."""
    key = cache_vary_key(VARY, language(value))
    assert key
    return bytes(key)


# ---- what is kept ----


def test_what_was_put_is_found(store: Any) -> None:
    assert store.find(b"http://a/") is None
    assert store.put(b"http://a/", b"one", head=b"HTTP/1.1 200 OK\r\n") == "done"
    found = store.pin(b"http://a/")
    assert found.text() == (b"http://a/", b"", b"HTTP/1.1 200 OK\r\n")
    assert found.content() == b"one"
    assert store.find(b"http://a/x") is None


def test_the_same_key_is_replaced(store: Any) -> None:
    store.put(b"http://a/", b"one")
    store.put(b"http://a/", b"two")
    assert store.find(b"http://a/") == b"two"
    assert store.counts()["entries_now"] == 1
    assert store.counts()["entries_total"] == 2


def test_applications_do_not_see_one_another(store: Any) -> None:
    store.put(b"http://a/", b"one", application=1)
    store.put(b"http://a/", b"two", application=2)
    assert store.find(b"http://a/", application=1) == b"one"
    assert store.find(b"http://a/", application=2) == b"two"
    assert store.find(b"http://a/") is None
    assert store.invalidate(b"http://a/", application=1) == 1
    assert store.find(b"http://a/", application=2) == b"two"


def test_keys_with_one_hash_are_told_apart(store: Any) -> None:
    same = 0x1234567890ABCDEF
    for index in range(40):
        assert store.put(b"key %d" % index, b"%d" % index, hash_=same, application=7) == "done"
    assert store.put(b"key 1", b"other", hash_=same, application=8) == "done"
    for index in range(40):
        found = store.find(b"key %d" % index, hash_=same, application=7)
        assert found == b"%d" % index
    assert store.find(b"key 40", hash_=same, application=7) is None


def test_hashes_with_one_place_and_one_tag_are_told_apart(store: Any) -> None:
    # All the bits that a slot knows are equal; the entries' own hashes are not.
    hashes = [0x0000ABC000000000 | index << 20 for index in range(60)]
    for index, hash_ in enumerate(hashes):
        assert store.put(b"%d" % index, b"%d" % index, hash_=hash_) == "done"
    for index, hash_ in enumerate(hashes):
        assert store.find(b"%d" % index, hash_=hash_) == b"%d" % index


def test_content_may_be_empty_or_missing(store: Any) -> None:
    assert store.put(b"http://a/", b"") == "done"
    assert store.find(b"http://a/") == b""
    assert store.put(b"http://a/", None) == "done"
    assert store.find(b"http://a/") == b""


def test_variants_are_chosen_by_the_request(store: Any) -> None:
    store.put(b"http://a/", b"hallo", vary=variant(b"de"))
    store.put(b"http://a/", b"hello", vary=variant(b"en"))
    assert store.find(b"http://a/", request=language(b"de")) == b"hallo"
    assert store.find(b"http://a/", request=language(b"en")) == b"hello"
    assert store.find(b"http://a/", request=language(b"fr")) is None
    assert store.has_variants(b"http://a/")
    assert not store.has_variants(b"http://b/")
    store.put(b"http://a/", b"gruezi", vary=variant(b"de"))
    assert store.find(b"http://a/", request=language(b"de")) == b"gruezi"
    assert store.counts()["entries_now"] == 2


def test_what_matches_every_request_replaces_all_variants(store: Any) -> None:
    store.put(b"http://a/", b"hallo", vary=variant(b"de"))
    store.put(b"http://a/", b"hello", vary=variant(b"en"))
    store.put(b"http://a/", b"all")
    assert store.counts()["entries_now"] == 1
    assert not store.has_variants(b"http://a/")
    assert store.find(b"http://a/", request=language(b"de")) == b"all"


def test_of_too_many_variants_the_oldest_goes(store: Any) -> None:
    for index in range(40):
        store.put(b"http://a/", b"%d" % index, vary=variant(b"x-%d" % index))
    found = [store.find(b"http://a/", request=language(b"x-%d" % index)) for index in range(40)]
    assert found == [None] * 8 + [b"%d" % index for index in range(8, 40)]


# ---- content ----


def test_content_of_known_length(store: Any) -> None:
    body = store.body(10)
    assert (body.read(), body.state) == (b"", "filling")
    assert body.append(b"01234")
    assert body.read() == b"01234"
    assert not body.append(b"567890")
    assert not body.finish()
    assert body.state == "cut"
    body = store.body(5)
    assert body.append(b"01234")
    assert body.append(b"")
    assert body.finish()
    assert (body.read(), body.at(3), body.at(5), body.state) == (b"01234", b"34", b"", "whole")
    assert not body.append(b"") or body.filled == 5


@pytest.mark.parametrize("step", [1, 700, 1000, 65536, 100_000])
def test_content_of_unknown_length(store: Any, step: int) -> None:
    content = random.Random(step).randbytes(200_000 if step > 1 else 3000)
    body = store.body()
    for at in range(0, len(content), step):
        assert body.append(content[at : at + step])
        if at % 7 == 0:
            assert body.read(step=10_000) == content[: at + step]
    assert body.finish()
    assert body.read() == content
    for offset in range(0, len(content), 997):
        assert content[offset:].startswith(body.at(offset)[:64])
    assert body.weight < len(content) * 9 / 8 + 200


def test_content_that_others_have_pinned_stays_in_its_place(store: Any) -> None:
    body = store.body()
    body.append(b"x" * 100)
    other = body.pin()
    before = body.weight
    assert body.finish()
    assert (body.weight, body.refs, other.state) == (before, 2, "whole")
    other.unpin()
    body = store.body()
    body.append(b"x" * 100)
    assert body.finish()
    assert body.weight < 200


def test_content_beyond_the_bounds_is_refused() -> None:
    store = CacheStore(entry_bytes=5000)
    assert store.body(5001) is None
    body = store.body()
    assert body.append(b"x" * 5000)
    assert not body.append(b"x")
    assert body.read() == b"x" * 5000
    body.cut()
    assert body.state == "cut"
    body.unpin()
    assert store.close() == 0


def test_both_entries_share_the_content(store: Any) -> None:
    store.put(b"http://a/", b"x" * 1000)
    old = store.pin(b"http://a/")
    body = old.body()
    before = store.counts()["bytes"]
    fresh = store.entry(b"http://a/", body=body, age_s=5)
    assert fresh.put(store.serial()) == "done"
    body.unpin()
    old.unpin()
    fresh.unpin()
    assert store.counts()["bytes"] - before < 300
    store.rest()
    assert store.find(b"http://a/") == b"x" * 1000
    assert store.counts()["entries_now"] == 1


# ---- memory comes back ----


def test_what_a_loop_may_look_at_is_not_freed() -> None:
    store = CacheStore(loops=2)
    store.put(b"http://a/", b"x" * 1000)
    before = store.counts()["bytes"]
    store.enter(1)
    store.invalidate(b"http://a/")
    for _ in range(5):
        store.reclaim()
        store.enter(0)
    assert store.counts()["bytes"] == before
    store.enter(1)  # one epoch may have passed, a second one not
    store.leave(1)
    store.leave(0)
    store.reclaim()
    assert store.counts()["bytes"] < before - 1000
    assert store.close() == 0


def test_turns_let_epochs_pass() -> None:
    store = CacheStore(loops=2)
    for index in range(100):
        store.put(b"http://a/", b"x" * 1000)
        store.reclaim()
        store.enter(0)
        store.enter(1)
        assert store.counts()["retired"] <= 5, index
    assert store.close() == 0


def test_what_is_pinned_outlives_its_place(store: Any) -> None:
    store.put(b"http://a/", b"x" * 1000)
    entry = store.pin(b"http://a/")
    before = store.counts()["bytes"]
    assert store.flush(b"") == 1
    store.rest()
    assert store.counts()["bytes"] == before
    assert (entry.content(), entry.queue) == (b"x" * 1000, "gone")
    body = entry.body()
    entry.unpin()
    assert before - 1000 < store.counts()["bytes"] < before
    body.unpin()
    assert store.counts()["bytes"] < before - 1000


def test_allocations_that_fail_lose_nothing() -> None:
    store = CacheStore()
    for number in range(1, 5):
        for index in range(60):
            store.fail_in(number)
            store.put(b"http://a/%d" % index, b"x" * 100)
            body = store.body()
            if body is not None:
                for _ in range(5):
                    if not body.append(b"y" * 1000):
                        break
                assert body.read() == b"y" * body.filled
                body.finish()
                body.unpin()
        store.fail_in(0)
        assert store.put(b"http://a/0", b"y") == "done"
        assert store.find(b"http://a/0") == b"y"
    store.rest()
    assert store.close() == 0


def test_a_table_that_cannot_grow_is_filled_further() -> None:
    store = CacheStore()
    outcomes = []
    for index in range(2000):
        # The entry's own two allocations succeed, the table's does not.
        store.fail_in(3)
        outcomes.append(store.put(b"http://a/%d" % index, b"x"))
    slots, used, _ = store.slots()
    assert slots == 1024
    assert outcomes.count("done") == used
    assert 0.9 * slots < used < slots
    assert outcomes[-1] == "full"
    for index, outcome in enumerate(outcomes):
        assert (store.find(b"http://a/%d" % index) is not None) == (outcome == "done")
    store.fail_in(3)
    assert store.put(b"http://a/0", b"y") == "done"
    assert store.find(b"http://a/0") == b"y"
    store.fail_in(0)
    assert store.put(b"http://a/1999", b"x") == "done"
    store.rest()
    assert store.close() == 0


@pytest.mark.parametrize("number", range(1, 38))
def test_a_store_that_cannot_begin_says_so(number: int) -> None:
    with pytest.raises(OSError):
        CacheStore(fail_in=number)


def test_slots_given_up_do_not_pile_up(store: Any) -> None:
    rng = random.Random(1)
    alive: list[bytes] = []
    for index in range(30_000):
        key = b"http://a/%d" % index
        store.put(key, b"")
        alive.append(key)
        if len(alive) > 500:
            assert store.invalidate(alive.pop(rng.randrange(len(alive)))) == 1
        if index % 100 == 0:
            store.rest()
    slots, used, given_up = store.slots()
    assert used == 500
    assert slots <= 2048
    assert used + given_up < 0.8 * slots
    for key in alive:
        assert store.find(key) == b""


# ---- what it costs ----


def test_a_small_entry_takes_at_most_256_bytes_more() -> None:
    for content in (13, 20, 28):  # wherever malloc rounds
        store = CacheStore(bytes=1 << 30)
        before = store.counts()["bytes"]
        useful, _ = store.fill(100_000, content)
        store.rest()
        assert store.counts()["entries_now"] == 100_000
        assert (store.counts()["bytes"] - before - useful) / 100_000 < 256
        assert store.close() == 0


@pytest.mark.slow
def test_a_million_entries() -> None:
    store = CacheStore(bytes=1 << 30)
    before = store.counts()["bytes"]
    useful, _ = store.fill(1_000_000, 13)
    store.rest()
    assert (store.counts()["bytes"] - before - useful) / 1_000_000 < 256
    hits, _ = store.look_up(1_000_000, 1_000_000)
    assert hits == 1_000_000
    assert store.flush(b"http://example.org/") == 1_000_000
    store.rest()
    assert store.close() == 0


def test_bytes_stay_within_the_bound() -> None:
    rng = random.Random(2)
    store = CacheStore(bytes=1 << 20, entry_bytes=1 << 17)
    outcomes = {"done": 0, "no room": 0, "full": 0}
    for index in range(5000):
        content = b"x" * rng.choice([0, 10, 1000, 20_000, 131_072])
        outcomes[store.put(b"http://a/%d" % rng.randrange(2000), content)] += 1
        assert store.counts()["bytes"] <= 1 << 20
        if index % 4 == 0:
            store.leave()
            store.reclaim()
    assert outcomes["done"] > 4000
    store.rest()
    assert store.close() == 0


def test_an_entry_larger_than_the_store_harms_nobody() -> None:
    store = CacheStore(bytes=1 << 20, entry_bytes=1 << 30)
    store.put(b"http://a/", b"x")
    assert store.body(1 << 21) is None
    assert store.put(b"http://b/", b"x" * (1 << 21)) == "no room"
    assert store.find(b"http://a/") == b"x"
    assert store.close() == 0


# ---- flushes ----


@pytest.mark.parametrize(
    ("prefix", "recursive", "gone"),
    [
        (b"", True, "abcdefgh"),
        (b"", False, "abcdefgh"),
        (b"http://a/x", True, "abcdg"),
        (b"http://a/x", False, "a"),
        (b"http://a/x/", True, "bc"),
        (b"http://a/x/", False, ""),
        (b"http://a/", True, "abcdefg"),
        (b"http://a", True, "abcdefg"),
        (b"http://", True, "abcdefgh"),
        (b"ttp://a/x", True, ""),
        (b"http://a/x/1/2/3", True, ""),
    ],
)
def test_flush(store: Any, prefix: bytes, recursive: bool, gone: str) -> None:
    keys = {
        "a": b"http://a/x",
        "b": b"http://a/x/1",
        "c": b"http://a/x/1/2",
        "d": b"http://a/x?q",
        "e": b"http://a/xx",
        "f": b"http://a/y",
        "g": b"http://a/x :8443",
        "h": b"http://ab/x",
    }
    for key in keys.values():
        store.put(key, b"", application=1)
        store.put(key, b"", application=2)
    assert store.flush(prefix, recursive, application=1) == len(gone)
    assert {n for n in keys if store.find(keys[n], application=1) is None} == set(gone)
    assert all(store.find(key, application=2) == b"" for key in keys.values())
    assert store.counts()["flushed"] == len(gone)


def test_a_fill_that_began_before_is_not_stored(store: Any) -> None:
    key = b"http://a/x"
    began = store.serial()
    assert store.invalidate(b"http://a/y") == 0
    assert store.put(key, b"", serial=began) == "done"
    began = store.serial()
    assert store.invalidate(key) == 1
    assert store.put(key, b"", serial=began) == "flushed"
    assert store.put(key, b"") == "done"
    began = store.serial()
    assert store.flush(b"http://a/") == 1
    assert store.put(key, b"", serial=began) == "flushed"
    assert store.put(key, b"", serial=began, application=1) == "done"
    assert store.flush(key, recursive=False) == 0
    assert store.put(key, b"") == "done"


def test_a_fill_older_than_what_is_remembered_is_not_stored(store: Any) -> None:
    began = store.serial()
    for index in range(3000):
        store.invalidate(b"http://a/%d" % index)
    assert store.put(b"http://a/x", b"", serial=began) == "flushed"
    assert store.put(b"http://a/x", b"") == "done"
    began = store.serial()
    for index in range(20):
        store.invalidate(b"http://a/%d" % index)
    assert store.put(b"http://a/y", b"", serial=began) == "done"


def test_groups(store: Any) -> None:
    store.put(b"http://a/1", b"", groups=[100, 200])
    store.put(b"http://a/2", b"", groups=[300])
    store.put(b"http://a/3", b"")
    began = store.serial()
    store.flush_group(200)
    found = [store.find(b"http://a/%d" % index) for index in (1, 2, 3)]
    assert found == [None, b"", b""]
    assert store.put(b"http://a/1", b"", groups=[200], serial=began) == "flushed"
    assert store.put(b"http://a/1", b"", groups=[300], serial=began) == "done"
    assert store.put(b"http://a/1", b"new", groups=[200]) == "done"
    assert store.find(b"http://a/1") == b"new"
    store.flush_group(200)
    assert [entry["is_invalid"] for entry in store.show(b"http://a/1")] == [True]
    assert store.sweep(SECOND) == 1
    assert store.counts()["entries_now"] == 2
    assert store.put(b"http://a/1", b"", groups=range(300)) == "no room"


def test_a_prefix_flush_while_the_table_grows(store: Any) -> None:
    for index in range(3000):
        store.put(b"http://a/%d" % index, b"")
    assert store.flush(b"http://a/") == 3000
    assert store.counts()["entries_now"] == 0


# ---- scavenger, lossy tables, managers ----


def test_what_nobody_asks_for_is_scavenged() -> None:
    store = CacheStore(scavenge_s=120)
    for index in range(10):
        store.put(b"http://a/%d" % index, b"", received_ns=1000 * SECOND)
    assert store.sweep(1120 * SECOND) == 0
    assert store.find(b"http://a/3", now_s=1100) == b""
    assert store.find(b"http://a/3", now_s=1099) == b""
    assert store.sweep(1121 * SECOND) == 9
    assert store.sweep(1220 * SECOND) == 0
    assert store.sweep(1221 * SECOND) == 1
    assert store.counts()["scavenged"] == 10
    store.rest()
    assert store.close() == 0


def test_hit_for_miss_is_remembered_for_a_while(store: Any) -> None:
    hash_ = store.hash(b"http://a/")
    assert not store.hit_for_miss(hash_, 100)
    store.hit_for_miss_note(hash_, 100)
    assert store.hit_for_miss(hash_, 219)
    assert not store.hit_for_miss(hash_, 220)
    assert not store.hit_for_miss(hash_ ^ 1 << 40, 100)


def test_frequent_hits() -> None:
    store = CacheStore(frequent_hits=3, frequent_s=10)
    asked = [store.frequent_enough(77, now) for now in (100, 105, 109, 110, 111, 119, 119)]
    assert asked == [False, False, True, False, False, True, True]
    other = 77 | 1 << 40
    assert [store.frequent_enough(h, 200) for h in (77, 77, other, 77)] == [False] * 4
    assert store.close() == 0
    store = CacheStore()
    assert store.frequent_enough(77, 100)
    assert store.close() == 0


def test_the_managers_list(store: Any) -> None:
    keys = {b"http://a/%d" % index for index in range(3000)} | {b"http://a/" + b"x" * 2000}
    for key in keys:
        store.put(key, b"12345", application=3)
    store.put(b"http://a/1", b"", application=3, vary=variant(b"de"))
    found, calls = store.list(most=100)
    assert len(found) == 3002
    assert calls > 30
    assert {entry["key"] for entry in found} == {key[:1024] for key in keys}
    assert max(entry["key_bytes"] for entry in found) == 2009
    shown = store.show(b"http://a/1", application=3)
    assert [(one["has_vary"], one["content_bytes"]) for one in shown] == [(True, 0), (False, 5)]
    assert shown[0]["status"] == 200
    assert store.show(b"http://a/1", application=2) == []
