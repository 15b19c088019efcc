"""A file held against the table of keys: values, where they come from, and everything that is
wrong. What only the whole can show is checked in build.py.
"""

import difflib
import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kernelq.configuration import table
from kernelq.configuration.errors import Path, Problem, describe
from kernelq.configuration.kinds import Kind
from kernelq.configuration.references import Reference, is_reference, parse_reference, resolve
from kernelq.configuration.table import Key, Section
from kernelq.configuration.toml import toml_text, toml_value

_KEYS_SHOWN = 12
_WRONG = object()


@dataclass(slots=True)
class Checked:
    """One table of the file: every key's value (None: nothing was said and the rest decides), and
    the paths of those that the file gives.
    """

    section: Section
    path: Path
    values: dict[str, Any]
    origins: dict[str, Path] = field(default_factory=dict)
    entries: dict[str, dict[str, Path]] = field(default_factory=dict)  # of tables of free names

    def path_of(self, name: str) -> Path:
        return self.origins.get(name, self.path)


@dataclass(slots=True)
class CheckedPool:
    """[[pool]] and its tables, by the names of their sections."""

    parts: dict[str, Checked]

    @property
    def own(self) -> Checked:
        return self.parts["pool"]

    @property
    def name(self) -> str:
        return str(self.own.values["name"])


@dataclass(slots=True)
class CheckedSite:
    own: Checked
    applications: list[Checked]


@dataclass(slots=True)
class Document:
    """The whole file, checked table by table."""

    server: Checked
    limits: Checked
    cache: Checked
    defaults: CheckedPool
    pools: list[CheckedPool]
    sites: list[CheckedSite]


@functools.cache
def default_values(section: Section) -> dict[str, Any]:
    """Every key's default; None where there is none."""
    return {key.name: default_of(key) for key in section.keys}


def default_of(key: Key) -> Any:
    if not key.default:
        return None
    return key.kind.understand(toml_value(key.default))


class Reader:
    """Reads tables, and collects what is wrong with them."""

    def __init__(self, base: str, environment: Mapping[str, str]) -> None:
        self.base = base
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []
        self.references: dict[Path, Reference] = {}
        self._environment = environment
        self._keys = {
            section.name: {key.name: key for key in section.keys} for section in table.SECTIONS
        }

    def read(self, document: dict[str, Any]) -> Document:
        """All tables, whatever is wrong in some of them."""
        sections = {"server": table.SERVER, "limits": table.LIMITS, "cache": table.CACHE}
        known = (*sections, "pool", "site", table.DEFAULTS)
        self._report_unknown(document, (), known, "the file")
        plain = {
            name: self._section(section, self._table(document, (), name), (name,))
            for name, section in sections.items()
        }
        defaults = self._table(document, (), table.DEFAULTS)
        self._report_unknown(defaults, (table.DEFAULTS,), ("pool",), f"[{table.DEFAULTS}]")
        path: Path = (table.DEFAULTS, "pool")
        common = self._pool(self._table(defaults, path[:1], "pool"), path, None)
        return Document(
            plain["server"],
            plain["limits"],
            plain["cache"],
            common,
            [
                self._pool(one, ("pool", number), common)
                for number, one in self._tables(document, (), "pool")
            ],
            [
                self._site(one, ("site", number))
                for number, one in self._tables(document, (), "site")
            ],
        )

    # What is wrong.

    def found(self, path: Path, value: object) -> str:
        """The value in words, unless it is one that must not be shown."""
        reference = self.reference_at(path)
        return f"the value of {reference}" if reference else describe(value)

    def reference_at(self, path: Path) -> Reference | None:
        """What the value is taken from. A single value that stands for an array is its element."""
        return self.references.get(path) or (
            self.references.get(path[:-1]) if isinstance(path[-1], int) else None
        )

    def refuse(self, path: Path, value: object, allowed: str, words: Iterable[str] = ()) -> None:
        meant = "" if self.reference_at(path) else suggest(value, words)
        hint = f"; did you mean {toml_text(meant)}?" if meant else ""
        self.report(path, f"found {self.found(path, value)}, allowed is {allowed}{hint}")

    def report_words(self, path: Path, words: str) -> None:
        """What somebody else says of a value, which may name it."""
        reference = self.reference_at(path)
        if reference:
            words = f"the value of {reference} is none that is allowed here"
        self.report(path, words)

    def refuse_name(self, path: Path, what: str, name: str, known: str) -> None:
        """A name that nothing has."""
        meant = "" if self.reference_at(path) else suggest(name, known.split(", "))
        hint = f"; did you mean {toml_text(meant)}?" if meant else f"; there are {known}"
        self.report(path, f"there is no {what} {self.found(path, name)}{hint}")

    def report(self, path: Path, text: str, other: Path | None = None) -> None:
        self.problems.append(Problem(path, text, other))

    def note(self, path: Path, text: str) -> None:
        self.notes.append(Problem(path, text))

    # Tables.

    def _table(self, parent: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
        value = parent.get(name, {})
        if isinstance(value, dict):
            return value
        heading = _dotted((*path, name))
        many = isinstance(value, list) and value and isinstance(value[0], dict)
        found = f"[[{heading}]]" if many else describe(value)
        self.report((*path, name), f"found {found}, allowed is one table, [{heading}]")
        return {}

    def _tables(
        self, parent: dict[str, Any], path: Path, name: str
    ) -> Iterable[tuple[int, dict[str, Any]]]:
        value = parent.get(name, [])
        heading = _dotted((*path, name))
        allowed = f"allowed is [[{heading}]], with two brackets, once for each"
        if not isinstance(value, list):
            found = f"[{heading}]" if isinstance(value, dict) else describe(value)
            self.report((*path, name), f"found {found}, {allowed}")
            value = [value] if isinstance(value, dict) else []
        for number, one in enumerate(value):
            if isinstance(one, dict):
                yield number, one
            else:
                self.report((*path, name, number), f"found {describe(one)}, {allowed}")

    def _pool(self, raw: dict[str, Any], path: Path, common: CheckedPool | None) -> CheckedPool:
        inner = {part.name.partition(".")[2]: part for part in table.POOL_PARTS}
        parts = {
            "pool": self._section(
                table.POOL, raw, path, common.parts["pool"] if common else None, tuple(inner)
            )
        }
        for name, section in inner.items():
            parts[section.name] = self._section(
                section,
                self._table(raw, path, name),
                (*path, name),
                common.parts[section.name] if common else None,
            )
        if common is None and "name" in raw:
            self.report((*path, "name"), "a name is each pool's own: it has no default")
        return CheckedPool(parts)

    def _site(self, raw: dict[str, Any], path: Path) -> CheckedSite:
        own = self._section(table.SITE, raw, path, None, ("application",))
        tables = self._tables(raw, path, "application")
        applications = [
            self._section(table.APPLICATION, one, (*path, "application", number))
            for number, one in tables
        ]
        return CheckedSite(own, applications)

    def _section(
        self,
        section: Section,
        raw: dict[str, Any],
        path: Path,
        common: Checked | None = None,
        inner: tuple[str, ...] = (),
    ) -> Checked:
        values = dict(common.values if common else default_values(section))
        made = Checked(section, path, values)
        if common:
            made.origins.update(common.origins)
            made.entries.update(common.entries)
        keys = self._keys[section.name]
        for name, value in raw.items():
            key = keys.get(name)
            if key is None:
                if name not in inner:
                    self._report_unknown({name: value}, path, (*keys, *inner), section.heading)
                continue
            place = (*path, name)
            made.origins[name] = place
            read = self._value(key.kind, value, place)
            if read is _WRONG:
                continue
            if key.kind.entry is not None and isinstance(value, dict):
                read = _merged(values[name], read)
                own = {one: (*place, one) for one in value}
                made.entries[name] = {**made.entries.get(name, {}), **own}
            values[name] = read
        if path[0] != table.DEFAULTS:
            for key in section.keys:
                if key.is_required and key.name not in raw:
                    needed = f"needed is one such as {key.name} = {key.example}"
                    self.report(path, f"there is no {key.name}; {needed}")
        return made

    # Values.

    def _value(self, kind: Kind, value: object, path: Path) -> Any:
        if kind.entry is not None:
            return self._map(kind, value, path)
        if kind.item is None:
            return self._scalar(kind, value, path)
        several = isinstance(value, list)
        if isinstance(value, list):
            made = [self._scalar(kind.item, one, (*path, n)) for n, one in enumerate(value)]
        else:
            made = [self._scalar(kind.item, value, path)]
        if _WRONG in made:
            return _WRONG
        try:
            return kind.combine(made)
        except ValueError as allowed:
            self.refuse(path, value if several else [value], str(allowed))
            return _WRONG

    def _scalar(self, kind: Kind, value: object, path: Path) -> Any:
        if is_reference(value):
            value = self._follow(value, path)
            if value is _WRONG:
                return _WRONG
        is_place = kind.is_path and isinstance(value, str) and value and value not in kind.words
        try:
            if is_place:
                return kind.read(os.path.abspath(os.path.join(self.base, str(value))))
            return kind.read(value)
        except ValueError as allowed:
            self.refuse(path, value, str(allowed), kind.words)
            return _WRONG

    def _map(self, kind: Kind, value: object, path: Path) -> Any:
        assert kind.entry is not None
        if not isinstance(value, dict):
            return self._scalar(kind, value, path)
        made = []
        for name, one in value.items():
            place = (*path, name)
            text = self._follow(one, place) if is_reference(one) else one
            if text is _WRONG:
                made.append(_WRONG)
                continue
            try:
                made.append(kind.entry(name, text))
            except ValueError as allowed:
                if name in kind.words or not kind.words:
                    self.refuse(place, text, str(allowed))
                else:
                    self._report_unknown({name: one}, path, kind.words, f"{path[-1]}")
                made.append(_WRONG)
        return _WRONG if _WRONG in made else tuple(made)

    def _follow(self, value: Any, path: Path) -> Any:
        try:
            reference = parse_reference(value, self.base)
            self.references[path] = reference
            return resolve(reference, self._environment)
        except ValueError as wrong:
            self.report(path, str(wrong))
            return _WRONG

    def _report_unknown(
        self, raw: Mapping[str, object], path: Path, known: Iterable[str], where: str
    ) -> None:
        names = tuple(known)
        for name in raw:
            if name not in names:
                self.report((*path, name), _unknown_key(name, names, where))


def _dotted(path: Path) -> str:
    return ".".join(step for step in path if isinstance(step, str))


def suggest(found: object, words: Iterable[str]) -> str:
    """The word that was probably meant, or nothing."""
    if not isinstance(found, str):
        return ""
    known = {word.lower(): word for word in words if word}
    close = difflib.get_close_matches(found.lower()[:64], known, 1, 0.6)
    return known[close[0]] if close else ""


def _unknown_key(name: str, known: tuple[str, ...], where: str) -> str:
    text = f"there is no such key in {where}"
    plain = name.lower().replace("-", "_")
    if plain in known:
        return f"{text}; did you mean {plain}?"
    of_iis = _name_in_iis(name)
    if of_iis is not None and of_iis[1].name in known:
        return f"{text}; here it is called {of_iis[1].name}"
    homes = [section.heading for section, _ in table.find_keys(plain)]
    if homes and plain not in ("name", "path"):
        return f"{text}; it belongs to {' or '.join(homes)}"
    if of_iis is not None:
        return f"{text}; here it is {of_iis[1].name} in {of_iis[0].heading}"
    meant = suggest(name, known)
    if meant:
        return f"{text}; did you mean {meant}?"
    if len(known) <= _KEYS_SHOWN:
        return f"{text}; allowed are {', '.join(known)}"
    return f"{text}; `kernelq config example` shows all"


def _name_in_iis(name: str) -> tuple[Section, Key] | None:
    """The key that IIS calls so."""
    plain = name.lower().replace("_", "")
    for section in table.SECTIONS:
        for key in section.keys:
            names = [key.name.replace("_", ""), *key.iis.lower().replace(",", "").split()]
            if plain in names:
                return section, key
    return None


def _merged(common: tuple[Any, ...], own: tuple[Any, ...]) -> tuple[Any, ...]:
    """Entries of a table, the own ones in place of those of the same name."""
    return tuple({entry[0]: entry for entry in (*common, *own)}.values())
