"""The cache's store against an obvious model: a dict of what was put and not taken out since.

The store may forget (it evicts), so the model says what may be found, not what must be; in a store
with room for all it must. Whatever happens, no byte is lost: at the end nothing is left.
"""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule
from kernelq._coretest import CacheStore, cache_vary_key

KEYS = [b"http://a/", b"http://a/x", b"http://a/x/1", b"http://a/x?q", b"http://a/xx", b"http://b/"]
LANGUAGES = [b"", b"de", b"en"]
VARY = [(b"Vary", b"Accept-Language")]
SECOND = 10**9

keys = st.sampled_from(KEYS)
applications = st.sampled_from([0, 1, 65])  # two of them share a word of the flush table
languages = st.sampled_from(LANGUAGES)
groups = st.lists(st.sampled_from([1, 2, 3 + 65536 * 7]), max_size=2)
contents = st.sampled_from([0, 1, 100, 1000, 5000, 70_000])


def language(value: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"Accept-Language", value)] if value else []


def secondary(value: bytes) -> bytes:
    """The secondary key; empty: does not vary."""
    return bytes(cache_vary_key(VARY, language(value))) if value else b""


@dataclass
class Fill:
    """A request on its way to the application, or its response before it is put."""

    key: bytes
    application: int
    serial: int
    groups: list[int]
    may_store: bool = True  # nothing was flushed since that forbids it
    must_store: bool = True  # nothing was flushed since that lets the store play safe


@dataclass
class Kept:
    """What the store may hold."""

    content: bytes
    groups: list[int]
    received_ns: int
    asked_s: int
    order: int = 0


@dataclass
class Model:
    """Variants by (application, key), then by language."""

    entries: dict[tuple[int, bytes], dict[bytes, Kept]] = field(default_factory=dict)

    def variants(self, application: int, key: bytes) -> dict[bytes, Kept]:
        return self.entries.setdefault((application, key), {})

    def found(self, application: int, key: bytes, wanted: bytes) -> Kept | None:
        """The newest variant that matches."""
        matching = [
            kept
            for value, kept in self.variants(application, key).items()
            if value in (b"", wanted)
        ]
        return max(matching, key=lambda kept: kept.order, default=None)

    def all(self) -> list[Kept]:
        return [kept for variants in self.entries.values() for kept in variants.values()]


class StoreStates(RuleBasedStateMachine):
    """A store with room for everything."""

    fills = Bundle("fills")
    most_bytes = 1 << 26
    forgets = False

    def __init__(self) -> None:
        super().__init__()
        self.store: Any = CacheStore(bytes=self.most_bytes, loops=2, scavenge_s=100)
        self.model = Model()
        self.open: list[Fill] = []
        self.pins: list[tuple[Any, bytes]] = []
        self.now_s = 1000
        self.order = 0

    @rule(target=fills, key=keys, application=applications, names=groups)
    def begin(self, key: bytes, application: int, names: list[int]) -> Fill:
        fill = Fill(key, application, self.store.serial(), names)
        self.open.append(fill)
        return fill

    @rule(fill=fills, size=contents, value=languages)
    def end(self, fill: Fill, size: int, value: bytes) -> None:
        self.order += 1
        content = (b"%d " % self.order * size)[:size]
        outcome = self.store.put(
            fill.key,
            content,
            application=fill.application,
            groups=fill.groups,
            vary=secondary(value),
            serial=fill.serial,
            received_ns=self.now_s * SECOND,
        )
        if not fill.may_store:
            assert outcome in ("flushed", "no room")
        elif fill.must_store and not self.forgets:
            assert outcome == "done"
        if outcome != "done":
            return
        variants = self.model.variants(fill.application, fill.key)
        if value == b"":
            variants.clear()
        kept = Kept(content, fill.groups, self.now_s * SECOND, self.now_s, self.order)
        variants[value] = kept

    @rule(key=keys, application=applications, value=languages)
    def look(self, key: bytes, application: int, value: bytes) -> None:
        expected = self.model.found(application, key, value)
        entry = self.store.pin(
            key, application=application, request=language(value), now_s=self.now_s
        )
        if entry is None:
            assert expected is None or self.forgets
            return
        content = entry.content()
        assert entry.text()[0] == key
        if self.forgets:
            variants = self.model.variants(application, key)
            assert any(content == variants[one].content for one in (b"", value) if one in variants)
        else:
            assert expected is not None
            assert content == expected.content
            expected.asked_s = max(expected.asked_s, self.now_s)
        if len(self.pins) < 4:
            self.pins.append((entry, content))
        else:
            entry.unpin()

    @precondition(lambda self: self.pins)
    @rule()
    def unpin(self) -> None:
        entry, content = self.pins.pop()
        assert entry.content() == content
        entry.unpin()

    @rule(key=keys, application=applications)
    def invalidate(self, key: bytes, application: int) -> None:
        gone = self.store.invalidate(key, application=application)
        variants = self.model.variants(application, key)
        assert gone == len(variants) or (self.forgets and gone < len(variants))
        variants.clear()
        for fill in self.open:
            if (fill.key, fill.application) == (key, application):
                fill.may_store = fill.must_store = False

    @rule(
        prefix=st.sampled_from(["", "http://a/", "http://a/x", "http://a"]),
        application=applications,
    )
    def flush(self, prefix: str, application: int) -> None:
        start = prefix.encode()

        def is_meant(key: bytes) -> bool:
            rest = key[len(start) :]
            return key.startswith(start) and (
                not start or not rest or start.endswith(b"/") or rest[:1] in (b"/", b"?", b" ")
            )

        expected = 0
        for (owner, key), variants in self.model.entries.items():
            if owner == application and is_meant(key):
                expected += len(variants)
                variants.clear()
        gone = self.store.flush(start, application=application)
        assert gone == expected or (self.forgets and gone < expected)
        for fill in self.open:
            if fill.application == application and is_meant(fill.key):
                fill.may_store = False
            if fill.application % 64 == application % 64:
                fill.must_store = False

    @rule(group=st.sampled_from([1, 2, 3]))
    def flush_group(self, group: int) -> None:
        self.store.flush_group(group)
        for variants in self.model.entries.values():
            for value, kept in list(variants.items()):
                if any(name % 65536 == group for name in kept.groups):
                    del variants[value]
        for fill in self.open:
            if any(name % 65536 == group for name in fill.groups):
                fill.may_store = fill.must_store = False
        # What is invalid is still there until somebody takes it out; the model has none of it.
        self.store.sweep(0)

    @rule(seconds=st.sampled_from([1, 60, 101]))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds

    @rule()
    def sweep(self) -> None:
        gone = self.store.sweep(self.now_s * SECOND)
        expected = 0
        for variants in self.model.entries.values():
            for value, kept in list(variants.items()):
                if kept.asked_s < self.now_s - 100:
                    del variants[value]
                    expected += 1
        assert gone == expected or self.forgets

    @rule(loop=st.sampled_from([0, 1]), sleeps=st.booleans())
    def turn(self, loop: int, sleeps: bool) -> None:
        if sleeps:
            self.store.leave(loop)
        self.store.reclaim()
        if not sleeps:
            self.store.enter(loop)

    @rule(number=st.integers(1, 4))
    def memory_fails(self, number: int) -> None:
        self.store.fail_in(number)
        self.store.put(b"http://other/%d" % number, b"x", application=9)
        self.store.fail_in(0)
        self.store.invalidate(b"http://other/%d" % number, application=9)

    @invariant()
    def counts_agree(self) -> None:
        counts = self.store.counts()
        assert counts["bytes"] <= counts["most"]
        assert counts["leaving_bytes"] <= counts["bytes"]
        if not self.forgets:
            assert counts["entries_now"] == len(self.model.all())

    def teardown(self) -> None:
        for entry, content in self.pins:
            assert entry.content() == content
            entry.unpin()
        found, _ = self.store.list()
        assert len(found) == self.store.counts()["entries_now"]
        self.store.rest()
        assert self.store.close() == 0


class SmallStoreStates(StoreStates):
    """A store that must forget."""

    most_bytes = 1 << 18
    forgets = True


TestRoomForAll = StoreStates.TestCase
TestSmall = SmallStoreStates.TestCase
TestRoomForAll.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestSmall.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
