"""Every file of the corpus is read as its .expect says, however its bytes arrive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from http1_cases import parse_head, parse_in_pieces, read_messages

from kernelq import _coretest

CORPUS = Path(__file__).parents[1] / "corpus" / "http1"


def cases(kind: str) -> list[Any]:
    return [pytest.param(path, id=path.stem) for path in sorted((CORPUS / kind).glob("*.http"))]


def expectation(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.with_suffix(".expect").read_text())
    return loaded


def as_text(value: Any) -> Any:
    """Bytes as JSON has them: ISO 8859-1."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, tuple | list):
        return [as_text(item) for item in value]
    return value


def seen(message: dict[str, Any], key: str) -> Any:
    if key == "fields":
        return [as_text(line[:2]) for line in message["fields"]]
    if key == "normalised":
        return as_text(_coretest.normalise_path(message["path"]))
    return as_text(message[key])


def check_requests(messages: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(messages) == len(expected)
    for message, wanted in zip(messages, expected, strict=True):
        assert {key: seen(message, key) for key in wanted} == wanted


@pytest.mark.parametrize("path", cases("valid"))
def test_valid(path: Path) -> None:
    messages, end = read_messages(path.read_bytes())
    assert end == "end"
    check_requests(messages, expectation(path)["requests"])


@pytest.mark.parametrize("path", cases("invalid"))
def test_invalid(path: Path) -> None:
    expected = expectation(path)
    messages, end = read_messages(path.read_bytes())
    assert end == expected["reason"]
    assert _coretest.reason_status(_coretest.reason_number(end)) == expected["status"]
    check_requests(messages, expected.get("requests", []))


@pytest.mark.parametrize("path", cases("valid") + cases("invalid"))
def test_pieces(path: Path) -> None:
    """Pieces of a few sizes, which end in other places than single bytes do for the long cases."""
    data = path.read_bytes()
    whole = parse_head(data)
    for size in (1 + len(data) // 40, 1 + len(data) // 7, 1 + len(data) // 2):
        assert parse_in_pieces(data, range(size, len(data), size)) == whole


def test_sizes() -> None:
    assert len(cases("invalid")) >= 120
    assert len(cases("valid")) >= 80


def test_every_parser_reason_has_a_case() -> None:
    covered = {expectation(path.values[0])["reason"] for path in cases("invalid")}
    first, last = (_coretest.reason_number(name) for name in ("VERB", "CONTENT_TOO_LARGE"))
    assert covered >= {_coretest.reason_name(number) for number in range(first, last + 1)}
