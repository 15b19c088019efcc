"""What is wrong with a configuration file, all of it, in words for people."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kernelq.errors import BAD_OPTION, StartError

# Keys, and numbers of array elements, from the top: ("pool", 0, "recycling", "requests").
Path = tuple[str | int, ...]

_FOUND_MAX = 60
_LINES_MAX = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: at `path`, and where it contradicts another place, `other`."""

    path: Path
    text: str
    other: Path | None = None


class ConfigurationErrors(StartError):
    """A configuration that cannot be used. One line for each error."""

    status = BAD_OPTION

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = tuple(lines)
        shown = list(lines[:_LINES_MAX])
        if len(lines) > _LINES_MAX:
            shown.append(f"{len(lines) - _LINES_MAX} further errors are not shown")
        super().__init__("\n".join(shown))


def describe(value: object) -> str:
    """What was found, as TOML would write it, and short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = repr(value) if '"' in value or not value.isprintable() else f'"{value}"'
        return text if len(text) <= _FOUND_MAX else f"{text[:_FOUND_MAX]}..."
    if isinstance(value, dict):
        return "a table" if value else "an empty table"
    if isinstance(value, list):
        is_flat = len(value) < 9 and not any(isinstance(one, (list, dict)) for one in value)
        text = f"[{', '.join(map(describe, value))}]" if is_flat else ""
        return text if 2 < len(text) <= _FOUND_MAX else f"an array of {len(value)}"
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return f"the time {value.isoformat()}"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return f"a number of {value.bit_length()} bits"
    return str(value)


def locate(document: object, path: Path) -> str:
    """The path in words: pool "shop".recycling.requests. Elements without a name are counted from
    1.
    """
    words: list[str] = []
    for step in path:
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list) and isinstance(step, int) and step < len(document):
            document = document[step]
        else:
            document = None
        if isinstance(step, str):
            words.append(f".{step}" if words else step)
        else:
            # An application that gives no path has this one.
            plain = ' "/"' if words[-1] == ".application" else f"[{step + 1}]"
            words.append(_name_of(document) or plain)
    return "".join(words)


def _name_of(element: object) -> str:
    """The name of a pool or site, the path of an application."""
    if not isinstance(element, dict):
        return ""
    for key in ("name", "path"):
        name = element.get(key)
        if isinstance(name, list) and name:
            name = name[0]
        if isinstance(name, str):
            return f" {describe(name)}"
    return ""


def render(
    file: str, document: object, problems: Sequence[Problem], line_of: Callable[[Path], int]
) -> list[str]:
    """A line per problem, in the order of the file."""
    placed = []
    for problem in problems:
        line = line_of(problem.path)
        text = f"{file}:{line}: " if line else f"{file}: "
        where = locate(document, problem.path)
        text += f"{where}: {problem.text}" if where else problem.text
        if problem.other is not None:
            text += f" (the other: line {line_of(problem.other)})"
        placed.append((line, text))
    placed.sort(key=lambda one: one[0])
    return list(dict.fromkeys(text for _, text in placed))
