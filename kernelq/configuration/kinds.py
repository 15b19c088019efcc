"""How the values of kernelq.toml are written: one kind for each way.

A kind reads what TOML gave (text, number, true, array, table) and returns the value, or raises
ValueError with what would have been right. Texts are read by the parsers of the command line, so
that a value means the same in both places.
"""

import datetime
import re
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kernelq import options
from kernelq.configuration.toml import toml_text
from kernelq.units import GIB, HOUR, KIB, MIB, MINUTE, MS, SECOND, is_decimal

Schema = dict[str, Any]
UNLIMITED = -1
_FALSE: list[Schema] = [{"const": False}]  # where there is off
RLIMITS = tuple(sorted(name[7:].lower() for name in dir(resource) if name.startswith("RLIMIT_")))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_CLOCK = re.compile(r"(\d\d?):(\d\d)(?::(\d\d))?", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One way to write values. Arrays have an `item`, tables of free names an `entry`."""

    name: str  # in the documents
    read: Callable[[object], Any]
    schema: Schema
    write: Callable[[Any], str] = field(default=lambda value: toml_text(value))
    words: tuple[str, ...] = ()  # what a misspelt word may have meant
    is_path: bool = False  # relative to the file's directory, unless it is one of the words
    item: "Kind | None" = None
    combine: Callable[[list[Any]], Any] = tuple
    entry: Callable[[str, object], Any] | None = None

    def understand(self, value: object) -> Any:
        """The meaning of a whole value, with all that is inside; ValueError."""
        if self.entry is not None and isinstance(value, dict):
            return tuple(self.entry(name, one) for name, one in value.items())
        if self.item is None or self.entry is not None:
            return self.read(value)
        values = value if isinstance(value, list) else [value]
        return self.combine([self.item.read(one) for one in values])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text_of(value: object) -> str:
    """A text, or a number as the command line would have it; nothing for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) >= 1 << 64:
        return ""
    return str(value)


def whole(least: int, most: int, words: Mapping[str, int] | None = None) -> Kind:
    """A whole number; words stand for some of them."""
    meanings = dict(words or {})
    known = "".join(f", or {toml_text(word)}" for word in meanings)
    allowed = f"a whole number from {least} to {most}{known}"

    def read(value: object) -> int:
        if isinstance(value, str):
            if value in meanings:
                return meanings[value]
            digits = value.removeprefix("-")
            value = int(value) if is_decimal(digits) else None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(allowed)
        return value

    def write(value: int) -> str:
        return next((toml_text(word) for word, it in meanings.items() if it == value), str(value))

    schema: Schema = {"type": "integer", "minimum": least, "maximum": most}
    if meanings:
        schema = {"anyOf": [schema, {"enum": list(meanings)}]}
    return Kind("whole number", read, schema, write, tuple(meanings))


def part(most: float) -> Kind:
    """A part of one, also as "10%"."""
    allowed = f'a number from 0 to {most:g}, or a percentage such as "10%"'

    def read(value: object) -> float:
        number = _plain_number(value)
        if number is None or not 0 <= number <= most:
            raise ValueError(allowed)
        return number

    schema = {
        "anyOf": [{"type": "number", "minimum": 0, "maximum": most}, _pattern(r"\d+(\.\d+)?%")]
    }
    return Kind("part", read, schema, lambda value: f"{value:g}")


def percentage(most: float) -> Kind:
    """Percent, as a number or "150%"; 0 and off are the same."""
    allowed = f'percent from 0 to {most:g}, such as 150 or "150%", or "off"'

    def read(value: object) -> float:
        if value == "off":
            return 0.0
        number = _plain_number(value)
        if isinstance(value, str) and value.endswith("%") and number is not None:
            number *= 100
        if number is None or not 0 <= number <= most:
            raise ValueError(allowed)
        return round(float(number), 6)

    schema = {
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": most},
            _pattern(r"\d+(\.\d+)?%|off"),
        ]
    }
    return Kind("percent", read, schema, lambda value: f"{value:g}" if value else '"off"', ("off",))


def _plain_number(value: object) -> float | None:
    if _is_number(value):
        return float(value)  # type: ignore[arg-type]
    if isinstance(value, str):
        digits = value.removesuffix("%")
        if digits.isascii() and digits.replace(".", "", 1).isdigit():
            return float(digits) / (100 if value.endswith("%") else 1)
    return None


def _pattern(pattern: str) -> Schema:
    return {"type": "string", "pattern": f"^({pattern})$"}


def time(least_ns: int, off: bool = False) -> Kind:
    """A time in nanoseconds: seconds as a number, or a text with a unit. 0 is off, where off is
    allowed.
    """
    parse = options.duration(least_ns, off)

    def read(value: object) -> int:
        if off and (value in (0, "0") or value is False):
            return 0
        return parse(_text_of(value))

    words = "|off" if off else ""
    schema = {
        "anyOf": [
            {"type": "number", "minimum": 0 if off else least_ns / SECOND},
            _pattern(rf"\d+(\.\d*)?(ms|s|m|h)?{words}"),
            *_FALSE[:off],
        ]
    }
    return Kind("time", read, schema, lambda value: time_text(value, off), ("off",) if off else ())


def time_text(value: int, off: bool = False) -> str:
    if off and not value:
        return '"off"'
    for unit, name in ((HOUR, "h"), (MINUTE, "m"), (SECOND, "s")):
        if value and value % unit == 0:
            return f'"{value // unit}{name}"'
    return f'"{value / MS:g}ms"' if value else '"0s"'


def size(least: int, most: int, off: bool = False) -> Kind:
    """A number of bytes. 0 is off, where off is allowed."""
    parse = options.size(least, most)

    def read(value: object) -> int:
        if off and (value in (0, "0", "off") or value is False):
            return 0
        try:
            return parse(_text_of(value))
        except ValueError as allowed:
            raise ValueError(f"{allowed}{', or off' if off else ''}") from None

    words = "|off" if off else ""
    schema = {
        "anyOf": [
            {"type": "integer", "minimum": 0 if off else least, "maximum": most},
            _pattern(rf"\d+([KkMmGg]([Ii]?[Bb])?|[Bb])?{words}"),
            *_FALSE[:off],
        ]
    }
    return Kind("size", read, schema, lambda value: size_text(value, off), ("off",) if off else ())


def size_text(value: int, off: bool = False) -> str:
    if off and not value:
        return '"off"'
    for unit, name in ((GIB, "G"), (MIB, "M"), (KIB, "K")):
        if value and value % unit == 0:
            return f'"{value // unit}{name}"'
    return str(value)


def word(*words: str, meaning: Mapping[str, Any] | None = None) -> Kind:
    """One of a few words."""
    allowed = " or ".join(toml_text(one) for one in words)
    meanings = meaning or {one: one for one in words}

    def read(value: object) -> Any:
        if not isinstance(value, str) or value not in meanings:
            raise ValueError(allowed)
        return meanings[value]

    def write(value: object) -> str:
        return next(toml_text(one) for one, it in meanings.items() if it == value)

    return Kind("word", read, {"enum": list(words)}, write, words)


def boolean() -> Kind:
    def read(value: object) -> bool:
        if isinstance(value, bool):
            return value
        if value in ("true", "on", "false", "off"):
            return value in ("true", "on")
        raise ValueError("true or false")

    return Kind("true or false", read, {"type": "boolean"}, words=("true", "false"))


def parsed(
    name: str,
    parse: Callable[[str], Any],
    schema: Schema | None = None,
    write: Callable[[Any], str] | None = None,
    **more: Any,
) -> Kind:
    """A text that one of the command line's parsers understands."""

    def read(value: object) -> Any:
        if not isinstance(value, str):
            value = _refused_by(parse)
        return parse(value)

    return Kind(name, read, schema or {"type": "string"}, write or toml_text, **more)


def _refused_by(parse: Callable[[str], Any]) -> str:
    """A text that the parser refuses with what it allows."""
    for text in ("", "\0"):
        try:
            parse(text)
        except ValueError:
            return text
    raise ValueError("a text in quotes")


def text(allow_empty: bool = False) -> Kind:
    def parse(value: str) -> str:
        if "\0" in value or (not value and not allow_empty):
            raise ValueError("a text in quotes" + ("" if allow_empty else " that is not empty"))
        return value

    return parsed("text", parse, {"type": "string"} | ({} if allow_empty else {"minLength": 1}))


def path(*words: str) -> Kind:
    """A path, made absolute by whoever reads the file; words mean something else."""
    others = "".join(f", or {toml_text(one)}" for one in words if one)

    def parse(value: str) -> str:
        if "\0" in value or (not value and "" not in words):
            raise ValueError(f"a path{others}")
        return value

    schema = {"type": "string"} if "" in words else {"type": "string", "minLength": 1}
    return parsed("path", parse, schema, words=words, is_path=True)


def name() -> Kind:
    """What pools and sites are called: in log lines, commands, and folders of control groups."""

    def parse(value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(
                "1 to 64 letters, digits, dots, hyphens and underscores, a letter or digit first"
            )
        return value

    return parsed("name", parse, _pattern(_NAME.pattern))


def list_of(
    item: Kind,
    combine: Callable[[list[Any]], Any] = tuple,
    write: Callable[[Any], str] | None = None,
    needed: str = "",
) -> Kind:
    """An array. A single value stands for an array of one. `needed`: what there must be one of."""

    def write_all(value: tuple[Any, ...]) -> str:
        return f"[{', '.join(item.write(one) for one in value)}]"

    array: Schema = {"type": "array", "items": item.schema}
    if needed:
        array["minItems"] = 1
        combine = _at_least_one(needed)
    return Kind(
        f"array of {item.name}s",
        item.read,
        {"anyOf": [array, item.schema]},
        write or write_all,
        item.words,
        item.is_path,
        item,
        combine,
    )


def _at_least_one(what: str) -> Callable[[list[Any]], tuple[Any, ...]]:
    def combine(found: list[Any]) -> tuple[Any, ...]:
        if not found:
            raise ValueError(f"at least one {what}")
        return tuple(found)

    return combine


def schedule() -> Kind:
    """Local clock times, in seconds of the day, in order."""

    def read(value: object) -> int:
        if isinstance(value, datetime.time) and not value.microsecond:
            return value.hour * 3600 + value.minute * 60 + value.second
        found = _CLOCK.fullmatch(value) if isinstance(value, str) else None
        hour, minute, second = (int(found[n] or 0) for n in (1, 2, 3)) if found else (24, 0, 0)
        if hour > 23 or minute > 59 or second > 59:
            raise ValueError('clock times from "00:00" to "23:59", such as ["03:30", "15:30"]')
        return hour * 3600 + minute * 60 + second

    def write(at: int) -> str:
        seconds = f":{at % 60:02d}" if at % 60 else ""
        return f'"{at // 3600:02d}:{at // 60 % 60:02d}{seconds}"'

    clock = _pattern(r"([01]?\d|2[0-3]):[0-5]\d(:[0-5]\d)?")
    item = Kind("clock time", read, clock, write)
    return list_of(item, lambda found: tuple(sorted(set(found))))


def cpu_list() -> Kind:
    """CPU numbers, as an array, or as "0-3,8"."""
    allowed = 'CPU numbers such as [0, 1] or "0-3,8"'

    def read(value: object) -> tuple[int, ...]:
        made: list[int] = []
        words = _text_of(value)
        for one in words.replace(" ", "").split(","):
            found = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", one, re.ASCII)
            if not found or int(found[1]) > int(found[2] or found[1]):
                raise ValueError(allowed)
            made += range(int(found[1]), int(found[2] or found[1]) + 1)
        return tuple(made)

    schema = {
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": 9999},
            _pattern(r"\d{1,4}(-\d{1,4})?(, *\d{1,4}(-\d{1,4})?)*"),
        ]
    }
    item = Kind("CPU number", read, schema)
    return list_of(item, lambda found: tuple(sorted({one for few in found for one in few})),
                   toml_text)  # fmt: skip


def networks() -> Kind:
    """Peers, as an array or as one text with commas."""
    item = parsed("network", options.networks, words=("loopback", "unix", "none"))
    return list_of(item, lambda found: tuple(one for few in found for one in few), toml_text)


def health_path() -> Kind:
    def read(value: object) -> str:
        if isinstance(value, bool):
            value = "on" if value else "off"
        try:
            return options.health_path(value if isinstance(value, str) else "")
        except ValueError as allowed:
            raise ValueError(f"true, false, {allowed}") from None

    schema = {"anyOf": [{"type": "boolean"}, _pattern(r"on|off|/[!-~]*[!-.0-~]")]}
    return Kind("path", read, schema, lambda value: toml_text(value or "off"), ("on", "off"))


def umask() -> Kind:
    def parse(value: str) -> int:
        try:
            return options.octal(value)
        except ValueError:
            raise ValueError(
                'an octal mask in quotes, such as "022" or "077", or "inherited"'
            ) from None

    def write(value: int) -> str:
        return '"inherited"' if value < 0 else f'"{value:03o}"'

    schema = _pattern(r"0?[0-7]{1,3}|inherited")
    return parsed("mask", parse, schema, write, words=("inherited",))


def environment() -> Kind:
    """Variables, as pairs of texts."""

    def refuse(value: object) -> object:
        raise ValueError('a table of texts, such as { DEBUG = "0" }')

    schema = {
        "type": "object",
        "additionalProperties": {"type": ["string", "number"]},
        "propertyNames": {"pattern": "^[^=]+$"},
    }
    return Kind("table", refuse, schema, lambda value: toml_text(dict(value)), entry=_variable)


def _variable(name: str, value: object) -> tuple[str, str]:
    if not name or "=" in name or "\0" in name:
        raise ValueError("a variable's name, not empty and without =")
    if _is_number(value):
        value = _text_of(value) or None
    if not isinstance(value, str) or "\0" in value:
        raise ValueError('a number, or a text in quotes, such as "1"')
    return name, value


def rlimits() -> Kind:
    """Resource limits: name = limit, or name = [soft, hard]."""

    def refuse(value: object) -> object:
        raise ValueError('a table such as { nofile = 4096, core = [0, "unlimited"] }')

    def write(value: tuple[tuple[str, int, int], ...]) -> str:
        words = {-1: "unlimited"}
        return toml_text({
            one: words.get(soft, soft) if soft == hard
            else [words.get(soft, soft), words.get(hard, hard)]
            for one, soft, hard in value
        })  # fmt: skip

    limit = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}
    either = {"anyOf": [limit, {"type": "array", "items": limit, "minItems": 2, "maxItems": 2}]}
    schema: Schema = {
        "type": "object",
        "properties": dict.fromkeys(RLIMITS, either),
        "additionalProperties": False,
    }
    return Kind("table", refuse, schema, write, RLIMITS, entry=_rlimit)


def _rlimit(name: str, value: object) -> tuple[str, int, int]:
    if name not in RLIMITS:
        raise ValueError(f"one of {', '.join(RLIMITS)}")
    pair = value if isinstance(value, list) else [value, value]
    if len(pair) != 2:
        raise ValueError("one limit, or [soft, hard]")
    soft, hard = (_limit(one) for one in pair)
    if hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
        raise ValueError("[soft, hard] with a soft limit that is not above the hard one")
    return name, soft, hard


def _limit(value: object) -> int:
    if value == "unlimited":
        return UNLIMITED
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return options.size(0, (1 << 63) - 1)(_text_of(value))
        except ValueError:
            pass
    raise ValueError('a number such as 4096 or "64M", "unlimited", or [soft, hard]')
