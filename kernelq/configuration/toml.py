"""Single values of TOML: what `kernelq config show` prints, what errors suggest, and what the table
of keys says.
"""

import re
import tomllib
from collections.abc import Mapping
from typing import Any


def toml_text(value: object) -> str:
    """The value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        inside = ", ".join(
            f"{toml_key(str(name))} = {toml_text(one)}" for name, one in value.items()
        )
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml_text(one) for one in value)}]"
    return str(value)


def toml_value(text: str) -> Any:
    """What a value means that is written so."""
    return tomllib.loads(f"value = {text}")["value"]


def toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else _quoted(name)


def _quoted(text: str) -> str:
    made = []
    for c in text:
        if c in '"\\':
            made.append("\\" + c)
        elif c.isprintable():
            made.append(c)
        else:
            made.append(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}")
    return f'"{"".join(made)}"'
