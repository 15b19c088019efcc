"""Values that stand elsewhere: { file = "/run/secrets/x" } or { env = "NAME" }.

What they give is used, and never shown: errors and `kernelq config show` name the place.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from kernelq.configuration.toml import toml_text

_BYTES_MAX = 65536
_ALLOWED = '{ file = "/path" } or { env = "NAME" }'


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a value comes from: `kind` is file or env."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def to_toml(self) -> str:
        return toml_text({self.kind: self.name})


def is_reference(value: object) -> bool:
    """Whether a table is meant as a reference, right or wrong."""
    return isinstance(value, dict) and bool(value) and value.keys() <= {"file", "env"}


def parse_reference(table: Mapping[str, object], base: str) -> Reference:
    """ValueError says what is wrong. Paths are relative to `base`."""
    if len(table) != 1:
        raise ValueError(f"found both file and env, allowed is {_ALLOWED}")
    ((kind, name),) = table.items()
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"found no name in {kind}, allowed is {_ALLOWED}")
    return Reference(kind, os.path.abspath(os.path.join(base, name)) if kind == "file" else name)


def resolve(reference: Reference, environment: Mapping[str, str]) -> str:
    """The text that it stands for, without the newline at a file's end; ValueError."""
    if reference.kind == "env":
        found = environment.get(reference.name)
        if found is None:
            raise ValueError(f"the environment variable {reference.name} is not set")
        return found
    try:
        with open(reference.name, "rb") as file:
            data = file.read(_BYTES_MAX + 1)
        text = data.decode()
    except OSError as found_error:
        reason = found_error.strerror
        raise ValueError(f"the file {reference.name} cannot be read: {reason}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the file {reference.name} is no text in UTF-8") from None
    if len(data) > _BYTES_MAX:
        raise ValueError(f"the file {reference.name} is longer than {_BYTES_MAX} bytes")
    return text.removesuffix("\n").removesuffix("\r")
