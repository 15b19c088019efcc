"""The configuration as it is understood: every key with its value, and where that comes from.

What is printed is a configuration file again, and means the same. Values that stand elsewhere are
shown as the reference to their place, never as what was found there.
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kernelq.configuration.build import KEYS_NOT_OF_HOSTS, KEYS_OF_HOSTS, TABLES_NOT_OF_HOSTS
from kernelq.configuration.errors import Path
from kernelq.configuration.load import Configuration
from kernelq.configuration.pools import implied_pool
from kernelq.configuration.read import Checked, CheckedPool
from kernelq.configuration.table import Key, Section
from kernelq.configuration.toml import toml_key, toml_text, toml_value

_SOURCE_COLUMN = 44
_IIS5 = 'isolation_mode "iis5"'


@dataclass(frozen=True, slots=True)
class Shown:
    """One key: its value as TOML (empty: there is none), and where that comes from."""

    name: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Block:
    """One table."""

    section: Section
    source: str
    keys: tuple[Shown, ...]


def show_text(configuration: Configuration) -> str:
    """The whole configuration as a file."""
    lines: list[str] = []
    for block in list_blocks(configuration):
        heading = block.section.heading
        lines += ["", _with_source(heading, block.source) if block.source else heading]
        for key in block.keys:
            text = f"{key.name} = {key.text}" if key.text else f"# {key.name}"
            lines.append(_with_source(text, key.source))
    return "\n".join([*lines[1:], ""])


def show_object(configuration: Configuration) -> dict[str, Any]:
    """The same for programs: each key is {value, source}."""
    made: dict[str, Any] = {}
    for block in list_blocks(configuration):
        *path, last = block.section.name.split(".")
        place = made
        for step in path:
            place = place[step][-1] if isinstance(place[step], list) else place[step]
        table = {
            key.name: {"value": toml_value(key.text) if key.text else None, "source": key.source}
            for key in block.keys
        }
        if block.section.is_array:
            place.setdefault(last, []).append(table)
        else:
            place[last] = table
    return made


def _with_source(text: str, source: str) -> str:
    return f"{text.ljust(_SOURCE_COLUMN)} # {source}"


def list_blocks(configuration: Configuration) -> Iterator[Block]:
    """Every table, in the order of the document."""
    document, settings = configuration.document, configuration.settings
    for table in (document.server, document.limits, document.cache):
        yield _block(configuration, table, settings)
    for pool, checked in _pools(configuration):
        for table in checked.parts.values():
            yield _block(configuration, table, pool)
    for number, site in enumerate(settings.sites):
        own = document.sites[number]
        yield _block(configuration, own.own, site)
        at = 0
        for table in own.applications:
            count = len(table.values["path"])
            paths = tuple(one.path for one in site.applications[at : at + count])
            yield _block(configuration, table, site.applications[at], paths)
            at += count


def _pools(configuration: Configuration) -> Iterator[tuple[Any, CheckedPool]]:
    """The settings of each pool, and the tables that they were made from."""
    document, settings = configuration.document, configuration.settings
    if settings.isolation_mode == "iis5":
        for pool in settings.pools:
            yield pool, document.defaults
    else:
        yield from zip(settings.pools, document.pools or [implied_pool(document)], strict=True)


def _block(
    configuration: Configuration, table: Checked, settings: object, paths: Sequence[str] = ()
) -> Block:
    section = table.section
    source = _place(configuration, table.path) if section.is_array else ""
    keys = tuple(_shown(configuration, table, key, settings, paths) for key in section.keys)
    return Block(section, source, keys)


def _shown(
    configuration: Configuration, table: Checked, key: Key, settings: object, paths: Sequence[str]
) -> Shown:
    value = _resolved(table, key, settings, paths)
    text = "" if value is None else key.kind.write(value)
    if configuration.settings.isolation_mode == "iis5" and _is_of_hosts(table, key):
        return Shown(key.name, text, _IIS5)
    path = table.origins.get(key.name)
    if path is None:
        return Shown(key.name, text, _default(table, key, value))
    if key.name in table.entries:
        return Shown(key.name, *_entries(configuration, table.entries[key.name], value, text))
    used = [str(one) for at, one in configuration.reader.references.items() if _is_below(at, path)]
    if used:
        text = toml_text(configuration.raw(path))
    return Shown(key.name, text, ", ".join([_place(configuration, path), *used]))


def _entries(
    configuration: Configuration, paths: dict[str, Path], value: Any, text: str
) -> tuple[str, str]:
    """A table of free names: each entry may have another source."""
    references = configuration.reader.references
    used = [references[path] for path in paths.values() if path in references]
    if used:
        pairs = []
        for name, *rest in value:
            reference = references.get(paths[name])
            pairs.append(f"{toml_key(name)} = "
                         f"{reference.to_toml() if reference else toml_text(rest[0])}")  # fmt: skip
        text = f"{{ {', '.join(pairs)} }}"
    places = dict.fromkeys(_place(configuration, path) for path in paths.values())
    return text, ", ".join([*places, *dict.fromkeys(str(one) for one in used)])


def _resolved(table: Checked, key: Key, settings: object, paths: Sequence[str]) -> Any:
    if key.name == "isolation":
        return table.values["isolation"]
    if key.name == "bindings":
        return tuple(str(one) for one in settings.bindings)  # type: ignore[attr-defined]
    if paths and key.name == "path":
        return tuple(paths)
    return operator.attrgetter(key.field)(settings)


def _default(table: Checked, key: Key, value: Any) -> str:
    if key.otherwise:
        return f"default: {key.otherwise}"
    is_auto = "auto" in key.kind.words and table.values[key.name] == 0 and value
    return "default: auto" if is_auto else "default"


def _is_of_hosts(table: Checked, key: Key) -> bool:
    """Whether isolation_mode has decided it."""
    name = table.section.name
    if name == "pool":
        return key.name == "name" or key.name in KEYS_NOT_OF_HOSTS
    if name == "site.application":
        return key.name == "pool"
    return name in TABLES_NOT_OF_HOSTS and key.name not in KEYS_OF_HOSTS


def _is_below(path: Path, above: Path) -> bool:
    return path[: len(above)] == above


def _place(configuration: Configuration, path: Path) -> str:
    line = configuration.line_of(path)
    return f"{configuration.file}:{line}" if line else "default"
