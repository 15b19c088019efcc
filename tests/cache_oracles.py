"""Slow and obvious readings of what the cache's rules read, for the property tests."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

DELTA_MAX = 2**31
ENDLESS = 2**32 - 1
RANGES_MAX = 16
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"

# ---- URIs (RFC 3986) ----

Uri = tuple[bool, str, str, str | None]
UNRESERVED = re.compile(r"[A-Za-z0-9\-._~]")


def normal_escapes(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        byte = chr(int(found[1], 16))
        return byte if UNRESERVED.match(byte) else found[0].upper()

    return re.sub(r"%([0-9A-Fa-f]{2})", one, text)


def without_dots(path: str) -> str:
    """RFC 3986 §5.2.4, step by step."""
    out = ""
    while path:
        if path.startswith("/./") or path == "/.":
            path = "/" + path[3:]
        elif path.startswith("/../") or path == "/..":
            path = "/" + path[4:]
            out = out[: out.rindex("/")] if "/" in out else ""
        else:
            end = path.find("/", 1)
            end = len(path) if end < 0 else end
            out, path = out + path[:end], path[end:]
    return out


def uri_is_confusing(uri: Uri) -> bool:
    """It has no key: an escaped slash and a dot segment, or a lone "%" in its path."""
    path = normal_escapes(uri[2])
    if re.search(r"%(?![0-9A-Fa-f]{2})", uri[2]):
        return True
    return "%2F" in path and without_dots(path) != path


def normal_uri(uri: Uri) -> Uri:
    is_https, host, path, query = uri
    host = re.sub(r"%..|.", lambda found: found[0] if len(found[0]) > 1 else found[0].lower(),
                  normal_escapes(host))  # fmt: skip
    host = host.removesuffix(":443" if is_https else ":80").removesuffix(":")
    if query is not None and not re.search(r"%(?![0-9A-Fa-f]{2})", query):
        query = normal_escapes(query)
    return is_https, host, without_dots(normal_escapes(path)) or "/", query


# ---- dates ----

DAY = "(?:mon|tue|wed|thu|fri|sat|sun)"
LONG_DAY = "(?:mon|tues|wednes|thurs|fri|satur|sun)day"
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
MONTH = f"(?P<month>{'|'.join(MONTHS)})"
TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
FORMS = [
    re.compile(text, re.ASCII | re.IGNORECASE)
    for text in (
        rf"{DAY}, (?P<day>\d\d) {MONTH} (?P<year>\d{{4}}) {TIME} (?:GMT|UTC)",
        rf"{LONG_DAY}, (?P<day>\d\d)-{MONTH}-(?P<year>\d\d) {TIME} (?:GMT|UTC)",
        rf"{DAY} {MONTH} (?P<day>[ \d]\d) {TIME} (?P<year>\d{{4}})",
    )
]


def read_date(text: str, now_s: int) -> int:
    found = next((match for form in FORMS if (match := form.fullmatch(text))), None)
    if found is None:
        return -1
    now = datetime.fromtimestamp(now_s, UTC)
    hour, minute, second = (int(found[name]) for name in ("hour", "minute", "second"))
    if (hour, minute, second) == (23, 59, 60):
        second, more = 59, timedelta(seconds=1)
    else:
        more = timedelta(0)
    year, month = int(found["year"]), MONTHS.index(found["month"].lower()) + 1
    if len(found["year"]) == 2:
        year += now.year // 100 * 100
    try:
        moment = datetime(year, month, int(found["day"]), hour, minute, second, tzinfo=UTC)
        if len(found["year"]) == 2 and moment + more > now.replace(year=now.year + 50):
            moment = moment.replace(year=year - 100)
        seconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC) + more).total_seconds())
    except (ValueError, OverflowError):
        return -1
    return max(seconds, -1)


# ---- Cache-Control ----

NUMBERS = {
    "max-age", "s-maxage", "stale-while-revalidate", "stale-if-error", "max-stale", "min-fresh",
}  # fmt: skip
OF_REQUESTS = {
    "no-store", "no-cache", "max-age", "stale-if-error", "max-stale", "min-fresh", "only-if-cached",
}  # fmt: skip
OF_RESPONSES = {
    "no-store", "no-cache", "private", "public", "max-age", "s-maxage", "must-revalidate",
    "proxy-revalidate", "must-understand", "immutable", "stale-while-revalidate", "stale-if-error",
}  # fmt: skip
PERMITTING = {"public", "must-understand", "immutable"}
ARGUMENT = re.compile(rf'"((?:[^"\\]|\\.)*)"|({TOKEN}+)')


def read_elements(line: str) -> list[tuple[str, str | None, bool]]:
    """(name in lower case, argument, whether it is well-formed)."""
    found = []
    rest = line.lstrip(", \t")
    while rest:
        name = re.match(f"{TOKEN}*", rest)
        assert name is not None
        rest = rest[name.end() :]
        argument, is_whole = None, True
        if rest.startswith("="):
            value = ARGUMENT.match(rest, 1)
            if value:
                argument = value[1] if value[1] is not None else value[2]
                rest = rest[value.end() :]
            else:
                is_whole = False
                rest = rest[2:] if rest.startswith('="') else rest[1:]
        junk, _, rest = rest.partition(",")
        found.append((name[0].lower(), argument, is_whole and not junk.strip(" \t")))
        rest = rest.lstrip(", \t")
    return found


def names_are_valid(text: str) -> bool:
    names = [name.strip(" \t") for name in text.split(",")]
    names = [name for name in names if name]
    return bool(names) and all(re.fullmatch(f"{TOKEN}+", name) for name in names)


def read_cache_control(lines: list[str], is_request: bool) -> dict[str, Any]:
    said: dict[str, Any] = {}
    known = OF_REQUESTS if is_request else OF_RESPONSES
    for name, argument, is_whole in (one for line in lines for one in read_elements(line)):
        if name not in known:
            continue
        if name in NUMBERS:
            if name == "max-stale" and argument is None and is_whole:
                value = ENDLESS
            elif is_whole and argument is not None and re.fullmatch("[0-9]+", argument):
                value = min(int(argument), DELTA_MAX)
            else:
                value = 0
            said.setdefault(name, value)
        elif is_whole or name not in PERMITTING:
            has_names = name in {"no-cache", "private"} and argument is not None and is_whole
            if has_names and not is_request and names_are_valid(argument or ""):
                said[f"{name}-fields"] = True
            else:
                said[name] = True
    return said


# ---- structured fields (RFC 9651) ----

BARE = [
    ("other", re.compile(r"-?\d{1,12}\.\d{1,3}", re.ASCII)),
    ("integer", re.compile(r"-?\d{1,15}", re.ASCII)),
    ("string", re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')),
    ("token", re.compile(rf"([A-Za-z*](?:{TOKEN}|[:/])*)")),
    ("other", re.compile(r":[A-Za-z0-9+/]*={0,2}:")),
    ("boolean", re.compile(r"\?[01]")),
    ("other", re.compile(r"@-?\d{1,15}", re.ASCII)),
    ("display", re.compile(r'%"((?:[ !#$&-~]|%[0-9a-f]{2})*)"')),
]
KEY = re.compile(r"[a-z*][a-z0-9_\-.*]*")


class Malformed(Exception):
    pass


class FieldReader:
    """One text, read from the left."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise Malformed
        self.at = found.end()
        return found

    def spaces(self, which: str = " ") -> None:
        while self.peek() and self.peek() in which:
            self.at += 1

    def bare(self) -> tuple[str, Any]:
        for kind, pattern in BARE:
            found = pattern.match(self.text, self.at)
            if found is None:
                continue
            self.at = found.end()
            if kind == "display":
                raw = re.sub("%(..)", lambda hexa: chr(int(hexa[1], 16)), found[1])
                try:
                    raw.encode("latin-1").decode("utf-8")
                except UnicodeDecodeError:
                    raise Malformed from None
                kind = "other"
            return kind, found[1] if kind in {"string", "token"} else found[0]
        raise Malformed

    def parameters(self) -> None:
        while self.peek() == ";":
            self.at += 1
            self.spaces()
            self.take(KEY)
            if self.peek() == "=":
                self.at += 1
                self.bare()

    def item(self) -> tuple[str, Any]:
        if self.peek() != "(":
            found = self.bare()
            self.parameters()
            return found
        self.at += 1
        members = []
        while True:
            self.spaces()
            if self.peek() == ")":
                break
            members.append(self.bare())
            self.parameters()
            if self.peek() not in {" ", ")"}:
                raise Malformed
        self.at += 1
        self.parameters()
        return "list", members

    def dictionary(self) -> list[tuple[str, tuple[str, Any]]]:
        members = []
        while self.peek():
            key = self.take(KEY)[0]
            if self.peek() == "=":
                self.at += 1
                value = self.item()
            else:
                value = "boolean", "?1"
                self.parameters()
            members.append((key, value))
            self.spaces(" \t")
            if not self.peek():
                break
            if self.peek() != ",":
                raise Malformed
            self.at += 1
            self.spaces(" \t")
            if not self.peek():
                raise Malformed
        return members


def directive_of(name: str, kind: str, value: Any) -> dict[str, Any]:
    if name in NUMBERS:
        is_number = kind == "integer" and int(value) >= 0
        return {name: min(int(value), DELTA_MAX)} if is_number else {}
    if kind == "boolean":
        return {name: True} if value == "?1" else {}
    if name not in {"no-cache", "private"} or kind in {"integer", "other"}:
        return {}
    members = value if kind == "list" else [(kind, value)]
    good = all(kind in {"string", "token"} and names_are_valid(text) for kind, text in members)
    return {f"{name}-fields" if members and good else name: True}


def read_dictionary(lines: list[str]) -> dict[str, Any] | None:
    """The directives, or None: invalid, or empty."""
    try:
        members = [FieldReader(line).dictionary() for line in lines]
    except Malformed:
        return None
    if not members or not all(members):
        return None
    said: dict[str, Any] = {}
    for name, (kind, value) in dict(one for line in members for one in line).items():
        if name in OF_RESPONSES:
            said |= directive_of(name, kind, value)
    return said


# ---- ranges ----


def read_ranges(value: str, length: int) -> str | list[tuple[int, int]]:
    specs = [text.strip(" \t") for text in value.removeprefix("bytes=").split(",")]
    specs = [text for text in specs if text]
    chosen = []
    is_empty_suffix = False
    for text in specs:
        found = re.fullmatch(r"([0-9]*)-([0-9]*)", text)
        if found is None or text == "-":
            return "none"
        first, last = found.groups()
        if first and last and int(first) > int(last):
            return "none"
        if not first:
            is_empty_suffix |= length == 0 and int(last) > 0
            first, last = str(max(0, length - int(last))), ""
        end = min(length, int(last) + 1) if last else length
        chosen.append(set(range(int(first), end)) if int(first) < length else set())
    if not specs or len(specs) > RANGES_MAX or is_empty_suffix:
        return "none"
    asked = sum(map(len, chosen))
    parts: list[set[int]] = []
    for one in filter(None, chosen):
        near = [part for part in parts if part & {at + by for at in one for by in (-1, 0, 1)}]
        place = parts.index(near[0]) if near else len(parts)
        parts = [part for part in parts if part not in near]
        parts.insert(place, one.union(*near))
    if not parts:
        return "unsatisfiable"
    return [(min(part), len(part)) for part in parts] if asked <= length else "none"
