"""A shared HTTP cache as RFC 9111 describes it: slow, obvious, and without any clock of its own.

`Cache.ask(now, request, origin)` gives every outcome that is allowed for a request: what the client
gets, what the origin is asked before and after that, and the cache as it is then. Where an RFC
leaves freedom there are several outcomes; what the cache's own description decides leaves one.
Whoever compares a server with it keeps all caches that are still possible:

    outcomes = [one for cache in caches for one in cache.ask(now, request, origin)]
    caches = {one.after for one in outcomes if it_is_what_was_seen(one)}

An origin is a pure function of the request that reaches it. Also left free: whether something that
could not be used again is kept, heuristic freshness up to the time since Last-Modified, removal or
marking as invalid, which validators a revalidation carries beside the entity tag.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from model_fields import (
    Fields,
    first,
    groups,
    key_of,
    origin_of,
    same_origin_key,
    seconds_of,
    weakly_equal,
)
from model_rules import (
    ERRORS,
    SAFE,
    Answer,
    Origin,
    Request,
    Stored,
    bypasses,
    conditional,
    entry_of,
    evaluated,
    freshened,
    given_on,
    plain_of,
    recency,
    storable,
)


@dataclass(frozen=True)
class Outcome:
    how: str  # hit, stale, miss, revalidated, bypass, error, none
    status: int
    content: bytes | None  # None: not compared (several ranges)
    after: "Cache"
    age: int | None = None  # of what came from the store; None: it did not
    fields: Fields = ()
    asked: tuple[Request, ...] = ()  # what the origin sees before the client has its answer
    later: tuple[Request, ...] = ()  # and in the background


@dataclass(frozen=True)
class Cache:
    mode: str = "rfc9111"  # off, public or rfc9111
    entries: frozenset[Stored] = field(default_factory=frozenset)

    def ask(self, now: float, request: Request, origin: Origin) -> list[Outcome]:
        if self.mode == "off" or bypasses(request):
            return self._passed(now, request, origin, "bypass")
        stored = self.select(request)
        asks = request.asks
        if "no-store" in asks:
            return self._passed(now, request, origin, "bypass")
        if stored is None:
            return self._missed(now, request, origin)
        outcomes: list[Outcome] = []
        for decision in sorted(self.decisions(now, request, stored)):
            if decision in ("hit", "stale"):
                outcomes.append(self._reused(now, request, stored, decision))
            elif decision == "background":
                outcomes += self._reused_meanwhile(now, request, stored, origin)
            elif "only-if-cached" in asks:
                outcomes.append(Outcome("none", 504, None, self))
            else:
                outcomes += self._validated(now, request, stored, origin)
        return outcomes

    # --- looking up

    def select(self, request: Request) -> Stored | None:
        """RFC 9111 sections 2, 4 and 4.1: the most recent one that matches."""
        key = key_of(request.url)
        found = [one for one in self.entries if one.key == key and one.matches(request)]
        return max(found, key=recency, default=None)

    def decisions(self, now: float, request: Request, stored: Stored) -> set[str]:
        """RFC 9111 sections 4, 4.2.4 and 5.2.1: hit, stale, background, validate."""
        asks, age = request.asks, stored.age(now)
        if stored.is_invalid or "no-cache" in asks or "no-cache" in stored.qualified_off:
            return {"validate"}
        most = seconds_of(asks.get("max-age"))
        if most is not None and age > most:
            return {"validate"}
        return {
            decision
            for lifetime in stored.lifetimes(self.mode)
            for decision in decided(age, lifetime, request, stored)
        }

    # --- answering from the store

    def _reused(self, now: float, request: Request, stored: Stored, how: str) -> Outcome:
        answer = evaluated(request, stored.answer)
        return Outcome(
            how, answer.status, answer.content, self, stored.age(now), answer.fields
        )  # fmt: skip

    def _reused_meanwhile(
        self, now: float, request: Request, stored: Stored, origin: Origin
    ) -> list[Outcome]:
        """RFC 5861 section 3: the stale response at once, a revalidation behind it."""
        served = self._reused(now, request, stored, "stale")
        plain = Request("GET", request.url, request.fields)
        behind = self._validated(now, plain_of(plain), stored, origin)
        return [replace(served, after=one.after, later=one.asked) for one in behind]

    # --- asking the origin

    def _missed(self, now: float, request: Request, origin: Origin) -> list[Outcome]:
        if "only-if-cached" in request.asks:
            return [Outcome("none", 504, None, self)]
        return self._passed(now, request, origin, "miss")

    def _passed(self, now: float, request: Request, origin: Origin, how: str) -> list[Outcome]:
        """The request as it is. Only what was no bypass may be stored; what is being stored may
        then answer as from the store: with a part, or 304.
        """
        answer = origin(request)
        given = {given_on(answer, request)}
        afters = [self]
        if request.method == "HEAD" and how == "miss" and answer.status == 200:
            afters = self._after_head(now, request, answer)
        elif how == "miss" and answer.status == 304:
            afters = self._after_304(now, request, answer)
        elif how == "miss":
            afters = self._stored(now, request, answer)
            given.add(evaluated(request, answer))
        return [
            Outcome(how, one.status, one.content, after, None, one.fields, (request,))
            for cache in afters
            for after in cache._invalidated(request, answer)
            for one in given
        ]

    def _validated(
        self, now: float, request: Request, stored: Stored, origin: Origin
    ) -> list[Outcome]:
        """RFC 9111 section 4.3. The client's own conditions may be passed on, replaced, or united
        with the cache's; a HEAD may be passed on; what has been invalidated may be gone.
        """
        outcomes = []
        needs_no_condition = (
            stored.is_invalid or not stored.is_validatable or request.is_conditional
            or request.wants_part or request.method == "HEAD" or wants_it_anew(request)
        )  # fmt: skip
        if needs_no_condition:
            plain = plain_of(request)
            for asked in [request, *([plain] if plain != request else [])]:
                outcomes += self._with_fallback(now, request, asked, stored, origin)
        for asked in conditional(request, stored):
            outcomes += self._with_fallback(now, request, asked, stored, origin)
        return outcomes

    def _with_fallback(
        self, now: float, request: Request, asked: Request, stored: Stored, origin: Origin
    ) -> list[Outcome]:
        answer = origin(asked)
        if answer.status in ERRORS:
            outcomes = []
            may_serve = self.allows_on_error(now, request, stored)
            if True in may_serve:
                kept = self._reused(now, request, stored, "error")
                outcomes.append(replace(kept, asked=(asked,)))
            if False in may_serve:
                given = given_on(answer, request)
                outcomes += [
                    Outcome("miss", answer.status, given.content, after, None, given.fields,
                            (asked,))
                    for after in self._stored(now, request, answer)
                ]  # fmt: skip
            return outcomes
        if answer.status != 304:
            return self._replaced(now, request, asked, stored, answer)
        return self._freshened(now, request, asked, stored, answer)

    def allows_on_error(self, now: float, request: Request, stored: Stored) -> set[bool]:
        """RFC 5861 section 4, under the prohibitions of RFC 9111 section 4.2.4."""
        if stored.is_invalid or stored.must_revalidate or "no-cache" in request.asks:
            return {False}
        says = stored.answer.says
        may = {False} if wants_it_anew(request) else set()  # it says that it wants nothing stale
        for lifetime in stored.lifetimes(self.mode):
            staleness = stored.age(now) - lifetime
            allowed = seconds_of(says.get("stale-if-error"))
            asked = seconds_of(request.asks.get("stale-if-error"))
            if allowed is not None and staleness <= allowed:
                may |= {True, False} if "s-maxage" in says else {True}
            elif asked is not None and staleness <= asked:
                may |= {True, False}
            else:
                may.add(False)
        return may

    def _replaced(
        self, now: float, request: Request, asked: Request, stored: Stored, answer: Answer
    ) -> list[Outcome]:
        """RFC 9111 section 4.3.3: the full response is used; it may be kept."""
        afters = self._stored(now, asked, answer)
        if request.method == "HEAD" and asked.method == "HEAD":
            afters = self._after_head(now, request, answer)
        given = {given_on(answer, request)}
        if answer.status == 200 and request.method in ("GET", "HEAD"):
            given.add(evaluated(request, answer))
        return [
            Outcome("miss", one.status, one.content, cache, None, one.fields, (asked,))
            for cache in self._and_without(afters, stored, answer)
            for one in given
        ]

    @staticmethod
    def _and_without(afters: list["Cache"], stored: Stored, answer: Answer) -> Iterator["Cache"]:
        """A response that is not stored may yet push out what it was to replace."""
        for one in afters:
            yield one
            if stored in one.entries:
                yield replace(one, entries=one.entries - {stored})

    def _freshened(
        self, now: float, request: Request, asked: Request, stored: Stored, answer: Answer
    ) -> list[Outcome]:
        """RFC 9111 sections 3.2 and 4.3.4."""
        tag, own = first(answer.fields, "ETag"), first(stored.answer.fields, "ETag")
        is_own = asked is not request or (tag is not None and tag == own)
        if tag is not None and own is not None and not weakly_equal(tag, own):
            is_own = False
        if not is_own:  # it was the client's condition that held
            given = given_on(answer, request)
            return [Outcome("miss", 304, b"", self, None, given.fields, (asked,))]
        renewed = freshened(now, stored, answer)
        after = replace(self, entries=self.entries - {stored} | {renewed})
        served = evaluated(request, renewed.answer)
        outcomes = [
            Outcome("revalidated", served.status, served.content, after, renewed.age(now),
                    served.fields, (asked,))
        ]  # fmt: skip
        if asked is request:  # the client asked that itself: the store may have looked away
            outcomes.append(replace(outcomes[0], status=304, content=b"", after=self))
            outcomes.append(replace(outcomes[0], status=304, content=b""))
        return outcomes

    # --- storing

    def _stored(self, now: float, request: Request, answer: Answer) -> list["Cache"]:
        """The caches that may follow from this response (RFC 9111 section 3)."""
        caches = []
        decisions = storable(request, answer, self.mode)
        if True in decisions:
            one = entry_of(now, request, answer)
            if not one.is_validatable and all(
                life <= one.age(now) for life in one.lifetimes(self.mode)
            ):
                decisions = {True, False}  # it could never be used
            others = {
                other for other in self.entries if (other.key, other.vary) != (one.key, one.vary)
            }
            caches.append(replace(self, entries=frozenset(others | {one})))
        if False in decisions:
            caches.append(self)
        return caches

    def _after_304(self, now: float, request: Request, answer: Answer) -> list["Cache"]:
        stored = self.select(request)
        if stored is None:
            return [self]
        tag = first(answer.fields, "ETag")
        if tag is None or tag != first(stored.answer.fields, "ETag"):
            return [self]
        return [
            self,
            replace(self, entries=self.entries - {stored} | {freshened(now, stored, answer)}),
        ]

    def _after_head(self, now: float, request: Request, answer: Answer) -> list["Cache"]:
        """RFC 9111 section 4.3.5: updated, taken as stale, or left alone."""
        stored = self.select(request)
        if stored is None:
            return [self]
        without_it = replace(self, entries=self.entries - {stored})
        same = all(
            first(answer.fields, name) in (None, first(stored.answer.fields, name))
            for name in ("ETag", "Last-Modified")
        )
        if not same:
            return [self, without_it]
        updated = without_it.entries | {freshened(now, stored, answer)}
        return [self, without_it, replace(self, entries=updated)]

    def _invalidated(self, request: Request, answer: Answer) -> list["Cache"]:
        """RFC 9111 section 4.4 and RFC 9875: removed or marked. Groups are named for success; after
        an error they may be obeyed or not.
        """
        if request.method in SAFE:
            return [self]
        listed = groups(answer.fields, "Cache-Group-Invalidation")
        origin = origin_of(request.url)
        grouped = {
            one for one in self.entries
            if listed & groups(one.answer.fields) and one.key.startswith(origin + "/")
        }  # fmt: skip
        if not 200 <= answer.status < 400:
            return [self] if not grouped else [self, *self._gone(grouped)]
        keys = {key_of(request.url)}
        for name in ("Location", "Content-Location"):
            reference = first(answer.fields, name)
            key = same_origin_key(request.url, reference) if reference else None
            keys |= {key} if key else set()
        return self._gone(grouped | {one for one in self.entries if one.key in keys})

    def _gone(self, entries: set[Stored]) -> list["Cache"]:
        if not entries:
            return [self]
        marked = {replace(one, is_invalid=True) for one in entries}
        return [
            replace(self, entries=self.entries - entries),
            replace(self, entries=self.entries - entries | marked),
        ]

    def flushed(self, prefix: str, is_recursive: bool = True) -> "Cache":
        """What flush() leaves: segments of the path count, not letters."""
        key = key_of(prefix) if prefix else ""

        def is_below(one: str) -> bool:
            if one == key or not key:
                return one == key or is_recursive
            ends = key.endswith("/") or one[len(key) : len(key) + 1] in ("/", "?")
            return is_recursive and one.startswith(key) and ends

        return replace(self, entries=frozenset(e for e in self.entries if not is_below(e.key)))


def decided(age: int, lifetime: int, request: Request, stored: Stored) -> set[str]:
    asks, says = request.asks, stored.answer.says
    if lifetime > age:
        fresh_for = seconds_of(asks.get("min-fresh")) or 0
        return {"hit"} if lifetime - age >= fresh_for else {"validate"}
    if stored.must_revalidate:
        return {"validate"}
    staleness = age - lifetime
    if "max-stale" in asks and "s-maxage" not in says:
        accepted = seconds_of(asks["max-stale"])
        if asks["max-stale"] == "" or (accepted is not None and staleness <= accepted):
            return {"stale"}
    allowed = seconds_of(says.get("stale-while-revalidate"))
    if allowed is None or staleness > allowed or "min-fresh" in asks:
        return {"validate"}
    # s-maxage forbids what stale-while-revalidate allows; a client's max-age says that it wants
    # nothing stale: both ways are accepted then.
    is_free = "s-maxage" in says or "max-age" in asks
    return {"background", "validate"} if is_free else {"background"}


def wants_it_anew(request: Request) -> bool:
    """What a client's own directives send to the origin need not be a condition on the way."""
    return bool({"no-cache", "max-age", "min-fresh"} & request.asks.keys())
