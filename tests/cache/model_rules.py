"""The reference model's rules for one request, one response and a stored one: pure functions, each
with the section that says it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from model_fields import (
    Fields,
    combined,
    date_read,
    directives,
    etags_of,
    first,
    key_of,
    names_in,
    ranges_of,
    replaced,
    seconds_of,
    strongly_equal,
    targeted,
    values,
    weakly_equal,
    without,
)

HEURISTIC = {200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501}  # RFC 9110 section 15.1
UNDERSTOOD = HEURISTIC | {302, 303, 307, 400, 401, 403, 500, 502, 503, 504}
SAFE = {"GET", "HEAD", "OPTIONS", "TRACE", "QUERY"}
ERRORS = {500, 502, 503, 504}  # RFC 5861 section 4
SINGLE = ("Age", "Date", "ETag", "Expires", "Last-Modified", "Location", "Content-Location")
KEPT_ON_304 = ("Content-Length", "Content-Encoding", "Content-Type", "Content-Range", "ETag")
NEVER_STORED = (
    "Connection", "Keep-Alive", "Proxy-Connection", "TE", "Transfer-Encoding", "Upgrade",
    "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization",
    "Content-Length", "Age",
)  # fmt: skip
ONCE = ("Authorization", "If-Modified-Since", "If-None-Match", "If-Range", "Range")
CONDITIONS = ("If-None-Match", "If-Modified-Since")


@dataclass(frozen=True)
class Request:
    method: str
    url: str
    fields: Fields = ()
    has_content: bool = False

    @property
    def asks(self) -> dict[str, str]:
        found = directives(self.fields)
        if not values(self.fields, "Cache-Control"):
            pragma = directives(self.fields, "Pragma")
            return {"no-cache": ""} if "no-cache" in pragma else {}
        return found

    @property
    def is_conditional(self) -> bool:
        return any(values(self.fields, name) for name in CONDITIONS)

    @property
    def wants_part(self) -> bool:
        return bool(values(self.fields, "Range"))


@dataclass(frozen=True)
class Answer:
    status: int
    fields: Fields = ()
    content: bytes = b""

    @property
    def says(self) -> dict[str, str]:
        """The directives that count (RFC 9213 section 2.2)."""
        found = targeted(self.fields)
        return directives(self.fields) if found is None else found

    @property
    def is_targeted(self) -> bool:
        return targeted(self.fields) is not None


Origin = Callable[[Request], Answer]


@dataclass(frozen=True)
class Stored:
    key: str
    vary: tuple[tuple[str, str | None], ...]  # names and what the request had there
    answer: Answer
    received: float
    initial_age: int
    is_invalid: bool = False

    def age(self, now: float) -> int:
        return self.initial_age + int(now - self.received)

    def matches(self, request: Request) -> bool:
        return all(normal(combined(request.fields, name)) == value for name, value in self.vary)

    def lifetimes(self, mode: str) -> set[int]:
        """The explicit freshness lifetime, or the range that a heuristic one may be taken from."""
        answer, says = self.answer, self.answer.says
        for name in ("s-maxage", "max-age"):
            if name in says:
                return {seconds_of(says[name]) or 0}
        expires = None if answer.is_targeted else first(answer.fields, "Expires")
        date = date_read(first(answer.fields, "Date")) or int(self.received)
        if expires is not None:
            until = date_read(expires)
            return {0 if until is None else max(0, until - date)}
        modified = date_read(first(answer.fields, "Last-Modified"))
        may_guess = answer.status in HEURISTIC or "public" in says
        if mode != "rfc9111" or not may_guess or "?" in self.key:
            return {0}
        return {0, date - modified} if modified is not None and modified < date else {0}

    @property
    def must_revalidate(self) -> bool:
        return bool({"must-revalidate", "proxy-revalidate", "no-cache"} & self.qualified_off)

    @property
    def qualified_off(self) -> set[str]:
        """Directives in force: no-cache with field names only removes fields."""
        return {name for name, value in self.answer.says.items() if name != "no-cache" or not value}

    @property
    def is_validatable(self) -> bool:
        return any(values(self.answer.fields, name) for name in ("ETag", "Last-Modified"))


def normal(value: str | None) -> str | None:
    """White space around commas does not count (RFC 9111 section 4.1)."""
    if value is None:
        return None
    return ",".join(part.strip() for part in value.split(","))


def bypasses(request: Request) -> bool:
    """What the cache does not touch: neither looked up nor stored."""
    odd = any(len(values(request.fields, name)) > 1 for name in ONCE)
    asks_server = any(
        values(request.fields, name) for name in ("If-Match", "If-Unmodified-Since", "Upgrade")
    )
    return request.method not in ("GET", "HEAD") or request.has_content or odd or asks_server


def recency(stored: Stored) -> tuple[int, float]:
    return date_read(first(stored.answer.fields, "Date")) or int(stored.received), stored.received


def plain_of(request: Request) -> Request:
    return replace(request, fields=without(request.fields, *CONDITIONS, "Range", "If-Range"))


def conditional(request: Request, stored: Stored) -> list[Request]:
    """RFC 9111 section 4.3.1: the entity tag must go, the date should; the client's tags may."""
    if not stored.is_validatable:
        return []
    tag = first(stored.answer.fields, "ETag")
    modified = first(stored.answer.fields, "Last-Modified")
    plain = plain_of(request)
    theirs = first(request.fields, "If-None-Match")
    dates = {modified, None} if tag else {modified}
    tags = {tag}
    if tag and theirs and theirs != "*":
        tags |= {f"{theirs}, {tag}", f"{tag}, {theirs}"}
    found = []
    for method in {"GET", request.method}:
        for date in dates:
            for one in tags:
                fields = replaced(plain.fields, "If-None-Match", one)
                fields = replaced(fields, "If-Modified-Since", date)
                found.append(replace(plain, method=method, fields=fields))
    return found


def given_on(answer: Answer, request: Request) -> Answer:
    """The origin's answer as the client gets it."""
    content = b"" if request.method == "HEAD" or answer.status in (204, 304) else answer.content
    return replace(answer, fields=without(answer.fields, "Kernelq-Cache-Control"), content=content)


def storable(request: Request, answer: Answer, mode: str) -> set[bool]:
    """RFC 9111 section 3 and what `public` adds. Both: free."""
    says, fields = answer.says, answer.fields
    has_query = "?" in request.url
    explicit = {"max-age", "s-maxage"} & says.keys() or (
        values(fields, "Expires") and not answer.is_targeted
    )
    shared = {"public", "s-maxage", "must-revalidate"} & says.keys()
    forbidden = (
        mode == "off"
        or request.method != "GET"
        or "no-store" in request.asks
        or answer.status in (206, 304)
        or ("must-understand" in says and answer.status not in UNDERSTOOD)
        or ("no-store" in says and "must-understand" not in says)
        or ("private" in says and not says["private"])
        or (values(request.fields, "Authorization") and not shared)
        or "*" in names_in(combined(fields, "Vary") or "")
        or any(len(set(values(fields, name))) > 1 for name in SINGLE)
        or (has_query and not explicit)
    )
    if forbidden:
        return {False}
    if mode == "public":
        wanted = {"public", "s-maxage"} & says.keys() or answer.is_targeted
        if not wanted or values(fields, "Set-Cookie"):
            return {False}
    if not explicit and "public" not in says and answer.status not in HEURISTIC:
        return {False}
    is_usable = "no-cache" not in says or says["no-cache"]
    lifetime = seconds_of(says.get("s-maxage", says.get("max-age", "1"))) or 0
    if (
        not explicit
        or answer.status not in UNDERSTOOD
        or (has_query and not (is_usable and lifetime))
    ):
        return {True, False}
    return {True}


def entry_of(now: float, request: Request, answer: Answer) -> Stored:
    vary = names_in(combined(answer.fields, "Vary") or "")
    return Stored(
        key_of(request.url),
        tuple(sorted((name, normal(combined(request.fields, name))) for name in vary)),
        kept_of(answer),
        now,
        initial_age(now, answer),
    )


def kept_of(answer: Answer) -> Answer:
    """RFC 9111 section 3.1. Kernelq-Cache-Control decides, although it is never shown."""
    says = answer.says
    hidden = names_in(says.get("no-cache", "")) | names_in(says.get("private", ""))
    named = names_in(combined(answer.fields, "Connection") or "")
    return replace(answer, fields=without(answer.fields, *NEVER_STORED, *hidden, *named))


def initial_age(now: float, answer: Answer) -> int:
    """RFC 9111 section 4.2.3, with a response that took no time."""
    text = first(answer.fields, "Age")
    age = seconds_of(text.strip()) if text is not None else 0
    date = date_read(first(answer.fields, "Date"))
    return max(age or 0, 0 if date is None else int(now) - date)


def freshened(now: float, stored: Stored, answer: Answer) -> Stored:
    """The entry with the fields of a 304 or HEAD response in place of its own."""
    new = without(answer.fields, *KEPT_ON_304, *NEVER_STORED)
    kept = without(stored.answer.fields, *(name for name, _ in new))
    return replace(
        stored,
        answer=kept_of(replace(stored.answer, fields=kept + new)),
        received=now,
        initial_age=initial_age(now, answer),
        is_invalid=False,
    )


def evaluated(request: Request, answer: Answer) -> Answer:
    """Conditions and ranges against a whole response (RFC 9110 section 13.2.2, RFC 9111 4.3.2)."""
    answer = given_on(answer, request)
    if answer.status != 200:
        return answer
    if not_modified(request, answer):
        return replace(answer, status=304, content=b"")
    if request.method != "GET" or not range_applies(request, answer):
        return answer
    length = len(answer.content)
    parts = ranges_of(combined(request.fields, "Range"), length)
    if parts is None:
        return answer
    if not parts:
        return Answer(416, (("Content-Range", f"bytes */{length}"),), b"")
    if len(parts) > 1:
        return replace(answer, status=206, content=b"")
    low, high = parts[0]
    fields = (*answer.fields, ("Content-Range", f"bytes {low}-{high}/{length}"))
    return replace(answer, status=206, fields=fields, content=answer.content[low : high + 1])


def not_modified(request: Request, answer: Answer) -> bool:
    tags = combined(request.fields, "If-None-Match")
    if tags is not None:
        own = first(answer.fields, "ETag")
        if tags.strip() == "*":
            return True
        return own is not None and any(weakly_equal(own, tag) for tag in etags_of(tags))
    since = date_read(first(request.fields, "If-Modified-Since"))
    changed = date_read(first(answer.fields, "Last-Modified") or first(answer.fields, "Date"))
    return since is not None and changed is not None and changed <= since


def range_applies(request: Request, answer: Answer) -> bool:
    """If-Range, RFC 9110 section 13.1.5."""
    text = first(request.fields, "If-Range")
    if text is None:
        return True
    if text.startswith(('"', "W/")):
        return strongly_equal(text, first(answer.fields, "ETag") or "W/")
    date = date_read(first(answer.fields, "Date"))
    is_strong = date is None or date > (date_read(text) or 0)  # section 8.8.2.2
    return is_strong and text == first(answer.fields, "Last-Modified")
