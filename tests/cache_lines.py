"""How the tests of the cache's rules write field lines: as "Name: value" texts."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

from kernelq import _coretest

Lines = list[tuple[bytes, bytes]]

NOW = 1_800_000_000  # a Friday in 2027


def lines(*texts: str) -> Lines:
    pairs = [text.encode("latin-1").split(b":", 1) for text in texts]
    return [(name, value.strip(b" \t")) for name, value in pairs]


def date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def response(*texts: str, status: int = 200) -> dict[str, Any]:
    found: dict[str, Any] = _coretest.cache_response(lines(*texts), status, NOW)
    return found


def request(*texts: str) -> dict[str, Any]:
    found: dict[str, Any] = _coretest.cache_request(lines(*texts), NOW)
    return found


def says(*values: str, name: str = "Cache-Control") -> dict[str, Any]:
    """The directives of a response."""
    found: dict[str, Any] = response(*(f"{name}: {value}" for value in values))["directives"]
    return found


def asks(*values: str) -> dict[str, Any]:
    """The directives of a request."""
    found: dict[str, Any] = request(*(f"Cache-Control: {value}" for value in values))["directives"]
    return found
