"""What is made from the table of keys for readers: a file to start from, and the JSON Schema."""

import json
import textwrap

from kernelq.configuration import table
from kernelq.configuration.kinds import Kind, Schema
from kernelq.configuration.table import Key, Section
from kernelq.configuration.toml import toml_text, toml_value
from kernelq.options import DEFAULT_BINDING

_COLUMNS = 96
_HEAD = """\
#:schema ./kernelq.schema.json
# The line above is for editors: `kernelq config schema > kernelq.schema.json` writes that file.
#
# A configuration of kernelq. What is commented out is the default, or an example where there is
# none. Times are "30s", "500ms", "2m", "1h" or seconds; sizes are "64K", "1M", "1G" or bytes.
# Relative paths start at this file's folder. In place of a text, { file = "/run/secrets/x" } and
# { env = "NAME" } take it from elsewhere. `kernelq check` reads the file and starts nothing.
"""
_DEFAULTS = """\
# What all pools have in common stands in [defaults.pool], [defaults.pool.recycling] and so on:
#
# [defaults.pool]
# threads = 8
"""
# What the example says and does not only mention.
_SAID = {"pool.name", "site.name", "site.bindings", "site.application.path",
         "site.application.app", "site.application.pool"}  # fmt: skip
_VALUES = {"site.bindings": toml_text([DEFAULT_BINDING]), "site.application.path": '"/"'}


def example_text() -> str:
    """A file with every key and what it does; it can be used as it is."""
    blocks = [_HEAD]
    for section in table.SECTIONS:
        if section is table.POOL:
            blocks.append(_DEFAULTS)
        blocks.append(_example_block(section))
    return "\n".join(blocks)


def _example_block(section: Section) -> str:
    lines = [*_comment(section.help), section.heading]
    for key in section.keys:
        lines += ["", *_comment(_explain(key))]
        full = f"{section.name}.{key.name}"
        value = _VALUES.get(full) or key.default or key.example
        lines.append(f"{'' if full in _SAID else '# '}{key.name} = {value}")
    return "\n".join(lines) + "\n"


def _explain(key: Key) -> str:
    word = key.help.split(" ", 1)[0]
    text = f"{key.help}." if word.endswith(":") else f"{key.help[0].upper()}{key.help[1:]}."
    if key.otherwise:
        text += f" Default: {key.otherwise}."
    elif key.example and key.default and not key.is_required:
        text += f" Such as {key.example}."
    return text


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, _COLUMNS, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def schema_text() -> str:
    return json.dumps(make_schema(), indent=2) + "\n"


def make_schema() -> Schema:
    """The JSON Schema (draft 2020-12) of a configuration file."""
    pool = _pool_schema(is_whole=True)
    site = _section_schema(table.SITE)
    application = _section_schema(table.APPLICATION)
    site["properties"]["application"] = _array(application, table.APPLICATION)
    site["properties"]["application"]["minItems"] = 1
    site["required"].append("application")
    defaults = _object(f"[{table.DEFAULTS}]", {"pool": _pool_schema(is_whole=False)})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kernelq.toml",
        "description": "Configuration of kernelq",
        "type": "object",
        "additionalProperties": False,
        "required": ["site"],
        "properties": {
            "server": _section_schema(table.SERVER),
            "limits": _section_schema(table.LIMITS),
            "cache": _section_schema(table.CACHE),
            table.DEFAULTS: defaults,
            "pool": _array(pool, table.POOL),
            "site": {**_array(site, table.SITE), "minItems": 1},
        },
        "$defs": {
            "reference": {
                "description": "A value that stands elsewhere",
                "type": "object",
                "properties": {
                    "file": {"type": "string", "minLength": 1},
                    "env": {"type": "string", "minLength": 1},
                },
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            }
        },
    }


def _pool_schema(is_whole: bool) -> Schema:
    """A pool's, or that of what all pools have in common: no name then."""
    made = _section_schema(table.POOL)
    for part in table.POOL_PARTS:
        made["properties"][part.name.partition(".")[2]] = _section_schema(part)
    if not is_whole:
        del made["properties"]["name"]
        made["required"] = []
    return made


def _section_schema(section: Section) -> Schema:
    made = _object(section.help, {key.name: _key_schema(key) for key in section.keys})
    made["required"] = [key.name for key in section.keys if key.is_required]
    return made


def _object(description: str, properties: Schema) -> Schema:
    return {
        "description": description,
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _array(items: Schema, section: Section) -> Schema:
    return {"description": section.help, "type": "array", "items": items}


def _key_schema(key: Key) -> Schema:
    made: Schema = {"description": key.help, **_referable(key.kind)}
    if key.default:
        made["default"] = toml_value(key.default)
    if key.example:
        made["examples"] = [toml_value(key.example)]
    return made


def _referable(kind: Kind) -> Schema:
    """The kind's own schema, or a reference in place of each single value."""
    reference = {"$ref": "#/$defs/reference"}
    if kind.entry is not None:
        if "properties" in kind.schema:
            return {
                **kind.schema,
                "properties": {
                    name: {"anyOf": [one, reference]}
                    for name, one in kind.schema["properties"].items()
                },
            }
        values = {"anyOf": [kind.schema["additionalProperties"], reference]}
        return {**kind.schema, "additionalProperties": values}
    if kind.item is not None:
        array, *others = kind.schema["anyOf"]
        item = {"anyOf": [array["items"], reference]}
        return {"anyOf": [{**array, "items": item}, *others, reference]}
    return {"anyOf": [kind.schema, reference]}
