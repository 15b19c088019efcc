"""From a file to settings: everything is checked, and all that is wrong is said at once."""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernelq import log
from kernelq.binding import Binding
from kernelq.config import ServerSettings
from kernelq.configuration.build import build
from kernelq.configuration.errors import ConfigurationErrors, Path, Problem, render
from kernelq.configuration.positions import Positions
from kernelq.configuration.read import Document, Reader


@dataclass(slots=True)
class Configuration:
    """A file that has been read and found right, with what may be asked about it later."""

    file: str  # as it was named
    settings: ServerSettings
    document: Document
    reader: Reader
    _source: "_Source"
    notes: tuple[str, ...] = ()

    def line_of(self, path: Path) -> int:
        return self._source.line_of(path)

    def raw(self, path: Path) -> Any:
        """What the file says there."""
        value: Any = self._source.tables
        for step in path:
            value = value[step]
        return value


@dataclass(slots=True)
class _Source:
    file: str
    text: str
    tables: dict[str, Any] = field(default_factory=dict)
    positions: Positions | None = None

    def line_of(self, path: Path) -> int:
        if self.positions is None:
            self.positions = Positions(self.text)
        return self.positions.line_of(path)

    def render(self, problems: Sequence[Problem]) -> list[str]:
        return render(self.file, self.tables, problems, self.line_of)


def load(path: str, passed: Sequence[Binding] = ()) -> ServerSettings:
    """The settings of a file; ConfigurationErrors holds all that is wrong with it. What only looks
    wrong goes to the log.

    `passed` are listening sockets that were passed by systemd: sites without bindings use them.
    """
    configuration = read(path, passed)
    for note in configuration.notes:
        log.warning(note)
    return configuration.settings


def read(
    path: str, passed: Sequence[Binding] = (), environment: Mapping[str, str] | None = None
) -> Configuration:
    """The file, its settings and where everything in it stands; ConfigurationErrors."""
    source = _parse(path)
    base = os.path.dirname(os.path.abspath(path))
    reader = Reader(base, os.environ if environment is None else environment)
    document = reader.read(source.tables)
    settings = build(reader, document, os.path.abspath(path), passed)
    if reader.problems:
        raise ConfigurationErrors(source.render(reader.problems))
    notes = tuple(source.render(reader.notes))
    return Configuration(path, settings, document, reader, source, notes)


def _parse(path: str) -> _Source:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as found:
        raise ConfigurationErrors([f"{path}: cannot be read: {found.strerror}"]) from None
    try:
        text = data.decode()
    except UnicodeDecodeError as found:
        line = data.count(b"\n", 0, found.start) + 1
        raise ConfigurationErrors([f"{path}:{line}: this is no text in UTF-8"]) from None
    try:
        return _Source(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as found:
        raise ConfigurationErrors([_syntax_error(path, text, str(found))]) from None
    except RecursionError:
        raise ConfigurationErrors([f"{path}: arrays or tables are nested too deeply"]) from None
    except ValueError:
        raise ConfigurationErrors([f"{path}: there is a number of too many digits"]) from None


def _syntax_error(path: str, text: str, found: str) -> str:
    """tomllib's words, with the place where editors look for it."""
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", found)
    words = found[: place.start()] if place else found
    if place and place[1]:
        return f"{path}:{place[1]}:{place[2]}: {words}"
    return f"{path}:{text.count(chr(10)) + 1}: {words} (at the end of the file)"
