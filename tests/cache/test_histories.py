"""Random histories against the reference model (model.py): what the server does must always be one
of the outcomes that the model allows. A difference is a bug in one of them.

One client, one worker thread, one loop; time passes by the Age fields that the application sends,
in steps of 500 seconds between limits of 1000, so that the real clock does not matter.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model import Cache, Outcome
from model_fields import first
from model_rules import Answer, Request
from origin import Seen, Site, has_it
from wire import PATIENCE_SECONDS, Client, Response, request

CONTROLS = (
    "max-age=1000", "max-age=1000, stale-while-revalidate=1000",
    "max-age=1000, stale-if-error=1000",
    "max-age=1000, must-revalidate", "max-age=1000, no-cache", "no-store", "private, max-age=1000",
    "s-maxage=1000", "public, max-age=2000", "max-age=0", "", 'max-age=1000, no-cache="X-Version"',
    "max-age=1000, must-understand, no-store", "max-age=1000, s-maxage=2000, proxy-revalidate",
    "stale-if-error=3000, max-age=1000, immutable",
)  # fmt: skip
TARGETED = ("", "", "", "max-age=2000", "no-store", "no-cache, max-age=1000", "max-age=1000, ")
ASKS = (
    "", "", "", "", "no-cache", "max-age=0", "max-age=700", "min-fresh=700", "max-stale",
    "max-stale=700", "only-if-cached", "only-if-cached, max-stale", "no-store",
    "max-age=5000, max-stale=9000", "stale-if-error=9000",
)  # fmt: skip
CONDITIONS = (
    "", "", "", "If-None-Match: {now}", "If-None-Match: {old}", 'If-None-Match: {old}, {now}, "x"',
    "If-None-Match: *", "If-Modified-Since: {date}", "If-Modified-Since: {before}",
    "If-Match: {now}",
)  # fmt: skip
RANGES = ("", "", "", "Range: bytes=0-3", "Range: bytes=-2", "Range: bytes=900-", "Range: lines=1")
DAY = "Sun, 06 Nov 1994 08:49:{:02} GMT"


@dataclass(frozen=True)
class Policy:
    """What the application answers for one URL from now on."""

    control: str = "max-age=1000"
    targeted: str = ""
    age: int = 0
    tag: str = "strong"  # strong, weak or none
    is_dated: bool = False
    status: int = 200
    group: str = ""
    posted: int = 200  # the status of unsafe requests
    out: str = ""  # a group that they invalidate
    names: int = -1  # a URL that they name in Location


@dataclass(frozen=True)
class Ask:
    method: str = "GET"
    url: int = 0
    control: str = ""
    condition: str = ""
    part: str = ""
    language: str = ""
    is_authorized: bool = False


@dataclass(frozen=True)
class Change:
    url: int
    policy: Policy


@dataclass(frozen=True)
class Flush:
    url: int
    is_recursive: bool


URLS = 3  # the last one has a query and the first one's path
policies = st.builds(
    Policy,
    st.sampled_from(CONTROLS),
    st.sampled_from(TARGETED),
    st.sampled_from([0, 0, 0, 500, 1500, 2500]),
    st.sampled_from(["strong", "strong", "weak", "none"]),
    st.booleans(),
    st.sampled_from([200, 200, 200, 200, 404, 301, 403, 500, 503]),
    st.sampled_from(["", "", "g", "h"]),
    st.sampled_from([200, 200, 303, 404]),
    st.sampled_from(["", "", "g"]),
    st.sampled_from([-1, -1, *range(URLS)]),
)
asks = st.builds(
    Ask,
    st.sampled_from(["GET"] * 8 + ["HEAD", "POST", "FROBNICATE", "OPTIONS"]),
    st.integers(0, URLS - 1),
    st.sampled_from(ASKS),
    st.sampled_from(CONDITIONS),
    st.sampled_from(RANGES),
    st.sampled_from(["", "de", "en"]),
    st.sampled_from([False] * 9 + [True]),
)
changes = st.builds(Change, st.integers(0, URLS - 1), policies)
flushes = st.builds(Flush, st.integers(0, URLS - 1), st.booleans())
steps = st.one_of(asks, asks, asks, asks, changes, changes, flushes)
histories = st.lists(steps, min_size=2, max_size=25)


@dataclass
class World:
    """The application's state, for the application (script) and for the model (answer)."""

    site: Site
    varies: bool
    name: str = ""
    policies: list[Policy] = field(default_factory=lambda: [Policy()] * URLS)
    versions: list[int] = field(default_factory=lambda: [1] * URLS)

    def __post_init__(self) -> None:
        self.name = self.site.origin.new_name()
        for url in range(URLS):
            self.write(url)

    def path(self, url: int) -> str:
        return f"/{self.name}-{url % 2}" + ("?q=1" if url == URLS - 1 else "")

    def script_name(self, url: int) -> str:
        return f"{self.name}-{url % 2}"

    def change(self, change: Change) -> None:
        """The two URLs of one path are one resource here: both change."""
        for url in range(URLS):
            if url % 2 == change.url % 2:
                self.policies[url] = change.policy
                self.versions[url] += 1
        self.write(change.url)

    def tag(self, url: int, version: int, variant: str) -> str:
        mark = "W/" if self.policies[url].tag == "weak" else ""
        return f'{mark}"{version}{variant if self.varies else ""}"'

    def fields(self, url: int, variant: str) -> list[tuple[str, str]]:
        policy, version = self.policies[url], self.versions[url]
        found = [("X-Version", str(version))]
        found += [("Cache-Control", policy.control)] if policy.control else []
        found += [("CDN-Cache-Control", policy.targeted)] if policy.targeted else []
        found += [("Age", str(policy.age))] if policy.age else []
        found += [("Vary", "Accept-Language")] if self.varies else []
        found += [("Cache-Groups", f'"{policy.group}"')] if policy.group else []
        if policy.status == 200 and policy.tag != "none":
            found.append(("ETag", self.tag(url, version, variant)))
        if policy.status == 200 and policy.is_dated:
            found.append(("Last-Modified", DAY.format(version)))
        return found

    def unsafe(self, url: int) -> tuple[int, list[tuple[str, str]]]:
        policy = self.policies[url]
        found = [("Cache-Group-Invalidation", f'"{policy.out}"')] if policy.out else []
        if policy.names >= 0:
            found.append(("Location", self.path(policy.names)))
        return policy.posted, found

    def content(self, url: int, variant: str) -> str:
        return f"version {self.versions[url]} for {variant if self.varies else 'all'}"

    def write(self, url: int) -> None:
        status, told = self.unsafe(url)
        unsafe = {"status": f"{status} Done", "fields": told, "content": "done"}
        answer = {
            "status": f"{self.policies[url].status} Answer",
            "fields": self.fields(url, "{echo}"),
            "content": self.content(url, "{echo}"),
            "echo": "HTTP_ACCEPT_LANGUAGE",
            "validates": self.policies[url].status == 200,
            "methods": dict.fromkeys(("POST", "FROBNICATE", "OPTIONS"), unsafe),
        }
        self.site.origin.script(self.script_name(url), answer)

    def answer(self, asked: Request) -> Answer:
        """app.py as a pure function."""
        url = next(one for one in range(URLS) if f"http://test{self.path(one)}" == asked.url)
        if asked.method not in ("GET", "HEAD"):
            status, told = self.unsafe(url)
            return Answer(status, tuple(told), b"done")
        variant = first(asked.fields, "Accept-Language") or "none"
        found = tuple(self.fields(url, variant))
        status = self.policies[url].status
        if status == 200 and has_it(asked.fields, found):
            return Answer(304, found)
        return Answer(status, found, self.content(url, variant).encode())


def lines_of(world: World, ask: Ask) -> list[tuple[str, str]]:
    version = world.versions[ask.url]
    variant = ask.language or "none"
    texts = {
        "now": world.tag(ask.url, version, variant),
        "old": world.tag(ask.url, max(0, version - 1), variant),
        "date": DAY.format(version),
        "before": DAY.format(max(0, version - 1)),
    }
    lines = [f"Cache-Control: {ask.control}"] if ask.control else []
    lines += [ask.condition.format(**texts)] if ask.condition else []
    lines += [ask.part] if ask.part else []
    lines += [f"Accept-Language: {ask.language}"] if ask.language else []
    lines += ["Authorization: Basic eDp5"] if ask.is_authorized else []
    parts = [line.partition(": ") for line in lines]
    return [(name, value) for name, _, value in parts]


LOOKED_AT = ("If-None-Match", "If-Modified-Since", "If-Match", "Range", "Authorization",
             "Accept-Language")  # fmt: skip


def was_asked(seen: Iterable[Seen], asked: Iterable[Request]) -> bool:
    def plain(one: Seen | Request) -> tuple[str, ...]:
        found = [
            one.get(name) if isinstance(one, Seen) else first(one.fields, name)
            for name in LOOKED_AT
        ]
        return (one.method, *(value or "" for value in found))

    return [plain(one) for one in seen] == [plain(one) for one in asked]


def fits(outcome: Outcome, response: Response, seen: list[Seen]) -> bool:
    if response.status != outcome.status or not was_asked(seen, outcome.asked + outcome.later):
        return False
    if outcome.status == 504:
        return True
    if outcome.content is not None and response.content != outcome.content:
        return False
    if outcome.how in ("hit", "stale", "error") and outcome.status != 416:
        age = int(response.one("Age") or -1)
        if outcome.age is None or not outcome.age <= age <= outcome.age + PATIENCE_SECONDS:
            return False
    if outcome.status in (304, 416):
        return True
    names = ("ETag", "Cache-Control", "X-Version", "CDN-Cache-Control", "Location")
    return all(response.one(name) == first(outcome.fields, name) for name in names)


class Player:
    def __init__(self, site: Site, varies: bool, mode: str) -> None:
        self.world = World(site, varies)
        self.site = site
        self.caches = {Cache(mode)}
        self.told: list[str] = []

    def play(self, step: Any) -> None:
        if isinstance(step, Change):
            self.world.change(step)
            self.told.append(str(step))
        elif isinstance(step, Flush):
            prefix = f"http://test{self.world.path(step.url)}"
            self.site.flush(prefix, step.is_recursive)
            self.caches = {one.flushed(prefix, step.is_recursive) for one in self.caches}
            self.told.append(f"{step} {prefix}")
        else:
            self.ask(step)

    def ask(self, ask: Ask) -> None:
        world, origin = self.world, self.site.origin
        path, lines = world.path(ask.url), lines_of(world, ask)
        asked = Request(ask.method, f"http://test{path}", tuple(lines))
        outcomes = [
            one for cache in self.caches for one in cache.ask(time.time(), asked, world.answer)
        ]
        name = world.script_name(ask.url)
        before = origin.count(name)
        data = request(ask.method, path, *(f"{name}: {value}" for name, value in lines))
        with Client(self.site.server.address()) as client:
            response = client.send(data).response(ask.method)
        if any(one.later for one in outcomes):
            self.site.settle()
        seen = origin.seen(name)[before:]
        self.told.append(f"{data!r}\n    -> {response}\n    application saw {seen}")
        fitting = {one.after for one in outcomes if fits(one, response, seen)}
        assert fitting, self.report(outcomes)
        self.caches = fitting

    def report(self, outcomes: list[Outcome]) -> str:
        allowed = {
            f"{one.how}: {one.status} {one.content!r} Age {one.age} {one.fields}\n"
            f"        asks {one.asked}\n        later {one.later}"
            for one in outcomes
        }
        entries = "\n    ".join(str(entry) for cache in self.caches for entry in cache.entries)
        return "\n".join(
            ["", *self.told, f"stored, in one way or another:\n    {entries}", "allowed:", *allowed]
        )


def play(site: Site, varies: bool, history: list[Any], mode: str = "rfc9111") -> None:
    player = Player(site, varies, mode)
    for step in history:
        player.play(step)


RELAXED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@settings(max_examples=150, suppress_health_check=RELAXED, deadline=None)
@given(varies=st.booleans(), history=histories)
def test_histories(ordered: Site, varies: bool, history: list[Any]) -> None:
    play(ordered, varies, history)


@settings(max_examples=100, suppress_health_check=RELAXED, deadline=None)
@given(varies=st.booleans(), history=histories)
def test_histories_by_default(ordered_public: Site, varies: bool, history: list[Any]) -> None:
    play(ordered_public, varies, history, "public")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=5000, suppress_health_check=RELAXED, deadline=None)
@given(varies=st.booleans(), history=histories)
def test_many_histories(ordered: Site, varies: bool, history: list[Any]) -> None:
    play(ordered, varies, history)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=5000, suppress_health_check=RELAXED, deadline=None)
@given(varies=st.booleans(), history=histories)
def test_many_histories_by_default(ordered_public: Site, varies: bool, history: list[Any]) -> None:
    play(ordered_public, varies, history, "public")
