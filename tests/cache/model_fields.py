"""What the reference model reads out of field values: dates, directives, structured fields, ranges,
keys. Slow and obvious; written from the RFCs, without a look at the core.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import urljoin, urlsplit

Fields = tuple[tuple[str, str], ...]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_DIRECTIVE = re.compile(rf'\s*({_TOKEN})(?:=({_TOKEN}|"(?:[^"\\]|\\.)*"))?\s*(?:,|\Z)')
_UNRESERVED = re.compile(r"[0-9A-Za-z._~-]")
DELTA_MAX = 2**31

MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def values(fields: Iterable[tuple[str, str]], name: str) -> list[str]:
    return [value for found, value in fields if found.lower() == name.lower()]


def first(fields: Iterable[tuple[str, str]], name: str) -> str | None:
    found = values(fields, name)
    return found[0] if found else None


def combined(fields: Iterable[tuple[str, str]], name: str) -> str | None:
    """All lines of a list field as one value (RFC 9110 section 5.3)."""
    found = values(fields, name)
    return ", ".join(found) if found else None


def without(fields: Fields, *names: str) -> Fields:
    unwanted = {name.lower() for name in names}
    return tuple(line for line in fields if line[0].lower() not in unwanted)


def replaced(fields: Fields, name: str, value: str | None) -> Fields:
    kept = without(fields, name)
    return kept if value is None else (*kept, (name, value))


# --- HTTP-date, RFC 9110 section 5.6.7


def date_text(seconds: float) -> str:
    when = datetime.fromtimestamp(int(seconds), UTC)
    day = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"][when.weekday()]
    return f"{day}, {when:%d} {MONTHS[when.month - 1]} {when:%Y %H:%M:%S} GMT"


def date_read(text: str | None) -> int | None:
    """Seconds since 1970, or None when the text is none of the three forms."""
    for form in ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"):
        try:
            return int(datetime.strptime(text or "", form).replace(tzinfo=UTC).timestamp())
        except ValueError:
            continue
    return None


# --- Cache-Control, RFC 9111 section 5.2


def directives(fields: Iterable[tuple[str, str]], name: str = "Cache-Control") -> dict[str, str]:
    """Directive to argument ("" without one); of repeated ones the first. Nonsense is skipped."""
    found: dict[str, str] = {}
    text = combined(fields, name) or ""
    at = 0
    while at < len(text):
        match = _DIRECTIVE.match(text, at)
        if match is None:
            at = (text + ",").index(",", at) + 1
            continue
        found.setdefault(match[1].lower(), unquoted(match[2] or ""))
        at = match.end()
    return found


def unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def seconds_of(argument: str | None) -> int | None:
    """delta-seconds (RFC 9111 section 1.2.2); None when it is not one."""
    if argument is None or not re.fullmatch(r"\d+", argument):
        return None
    return min(int(argument), DELTA_MAX)


def names_in(argument: str) -> set[str]:
    return {name.strip().lower() for name in argument.split(",") if name.strip()}


# --- structured fields, RFC 8941: as much as targeted fields and groups need

_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")
_BARE = re.compile(
    r"(?P<decimal>-?\d{1,12}\.\d{1,3})|(?P<integer>-?\d{1,15})"
    r'|(?P<string>"(?:[ !#-\[\]-~]|\\["\\])*")'
    r"|(?P<token>[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*)|:(?P<binary>[A-Za-z0-9+/=]*):"
    r"|\?(?P<boolean>[01])"
)
Item = tuple[str, str]  # kind, text


def structured_dictionary(text: str) -> dict[str, Item] | None:
    """None: it is malformed."""
    found: dict[str, Item] = {}
    at = _spaces(text, 0, " ")
    while at < len(text):
        key = _KEY.match(text, at)
        if key is None:
            return None
        at = key.end()
        item: Item = ("boolean", "1")
        if text[at : at + 1] == "=":
            read = _item(text, at + 1)
            if read is None:
                return None
            item, at = read
        after = _parameters(text, at)
        if after is None:
            return None
        found[key[0]] = item
        next_at = _comma(text, after)
        if next_at is None:
            return None
        at = next_at
    return found


def structured_strings(text: str) -> list[str] | None:
    """A list whose members are all strings; None: it is not."""
    found = []
    at = _spaces(text, 0, " ")
    while at < len(text):
        read = _item(text, at)
        if read is None or read[0][0] != "string":
            return None
        found.append(unquoted(read[0][1]))
        after = _parameters(text, read[1])
        next_at = None if after is None else _comma(text, after)
        if next_at is None:
            return None
        at = next_at
    return found


def _spaces(text: str, at: int, what: str = " \t") -> int:
    while at < len(text) and text[at] in what:
        at += 1
    return at


def _item(text: str, at: int) -> tuple[Item, int] | None:
    if text[at : at + 1] == "(":
        end = text.find(")", at)
        return None if end < 0 else (("list", text[at : end + 1]), end + 1)
    match = _BARE.match(text, at)
    if match is None or match.lastgroup is None:
        return None
    return (match.lastgroup, match[match.lastgroup]), match.end()


def _parameters(text: str, at: int) -> int | None:
    while text[at : at + 1] == ";":
        key = _KEY.match(text, _spaces(text, at + 1, " "))
        if key is None:
            return None
        at = key.end()
        if text[at : at + 1] == "=":
            read = _item(text, at + 1)
            if read is None:
                return None
            at = read[1]
    return at


def _comma(text: str, at: int) -> int | None:
    """Where the next member begins; the end; None: malformed."""
    at = _spaces(text, at)
    if at == len(text):
        return at
    if text[at] != ",":
        return None
    at = _spaces(text, at + 1)
    return None if at == len(text) else at


def targeted(fields: Fields) -> dict[str, str] | None:
    """The directives of the first valid targeted field, RFC 9213 section 2.2; None: there is none.
    Values whose type does not fit a directive are left out.
    """
    for name in ("Kernelq-Cache-Control", "CDN-Cache-Control"):
        text = combined(fields, name)
        read = structured_dictionary(text) if text else None
        if not read:
            continue
        found: dict[str, str] = {}
        for key, (kind, value) in read.items():
            if kind == "boolean" and value == "1":
                found[key] = ""
            elif kind == "integer":
                found[key] = value
            elif kind == "string":
                found[key] = unquoted(value)
        for key in ("max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"):
            if key in read and read[key][0] != "integer":
                found[key] = "invalid"
        return found
    return None


def groups(fields: Fields, name: str = "Cache-Groups") -> set[str]:
    """RFC 9875 sections 2 and 3."""
    text = combined(fields, name)
    return set(structured_strings(text) or ()) if text else set()


# --- ranges, RFC 9110 section 14


def ranges_of(text: str | None, length: int) -> list[tuple[int, int]] | None:
    """(first, last) of each satisfiable range in its order; None: the field is to be ignored."""
    if text is None or not text.lower().startswith("bytes="):
        return None
    found = []
    for spec in text[6:].split(","):
        match = re.fullmatch(r"\s*(?:(\d+)-(\d*)|-(\d+))\s*", spec)
        if match is None:
            return None
        if match[1] is None:
            least = max(0, length - int(match[3]))
            if int(match[3]) > 0 and length > 0:
                found.append((least, length - 1))
            continue
        if match[2] and int(match[2]) < int(match[1]):
            return None
        if int(match[1]) < length:
            found.append((int(match[1]), min(length - 1, int(match[2] or length))))
    return found


def etags_of(text: str) -> list[str]:
    return re.findall(r'(?:W/)?"[^"]*"', text)


def weakly_equal(one: str, other: str) -> bool:
    return one.removeprefix("W/") == other.removeprefix("W/")


def strongly_equal(one: str, other: str) -> bool:
    return one == other and not one.startswith("W/")


# --- keys, RFC 3986 sections 6.2.2 and 6.2.3


def key_of(url: str) -> str:
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    default = {"http": 80, "https": 443}[parts.scheme.lower()]
    port = "" if parts.port in (None, default) else f":{parts.port}"
    path = _dots_removed(_escapes(parts.path) or "/")
    query = f"?{_escapes(parts.query)}" if "?" in url.split("#")[0] else ""
    return f"{parts.scheme.lower()}://{host}{port}{path}{query}"


def _escapes(text: str) -> str:
    def normal(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if _UNRESERVED.fullmatch(character) else f"%{match[1].upper()}"

    return re.sub(r"%([0-9A-Fa-f]{2})", normal, text)


def _dots_removed(path: str) -> str:
    out: list[str] = []
    pieces = path.split("/")[1:]
    for number, piece in enumerate(pieces):
        is_last = number == len(pieces) - 1
        if piece == "..":
            out = out[:-1]
        elif piece != ".":
            out.append(piece)
            continue
        if is_last:
            out.append("")
    return "/" + "/".join(out)


def origin_of(url: str) -> str:
    return "/".join(key_of(url).split("/")[:3])


def same_origin_key(base: str, reference: str) -> str | None:
    """The key of what Location or Content-Location names; None: it has another origin."""
    url = urljoin(base, reference)
    if urlsplit(url).scheme.lower() not in ("http", "https") or origin_of(url) != origin_of(base):
        return None
    return key_of(url)
