"""The reference model against the tables: what a row demands must be among what the model allows.
So neither is wrong alone. No server runs here.
"""

import time
from dataclasses import replace
from typing import Any

import pytest
import test_modes
import test_rfc5861
import test_rfc8246
import test_rfc9110_conditions
import test_rfc9110_ranges
import test_rfc9111
import test_rfc9111_reuse
import test_rfc9213
import test_rfc9875
from model import Cache, Outcome
from model_fields import Fields, first
from model_rules import Answer, Request
from origin import Row, Step, has_it, stamped

NOW = time.time()
NAME = "row"


def rows_of(module: Any, *names: str) -> list[Any]:
    return [param for name in names for param in getattr(module, name)]


RFC9111 = [
    *rows_of(test_rfc9111, "KEYS", "STORING", "FIELDS", "AUTHORIZATION", "ASKING", "ANSWERING"),
    *rows_of(test_rfc9111_reuse, "REUSE", "VARY", "FRESHNESS", "VALIDATION", "INVALIDATION"),
    *rows_of(test_rfc9110_conditions, "IF_NONE_MATCH", "IF_MODIFIED_SINCE", "PASSED_ON"),
    *rows_of(test_rfc9110_ranges, "RANGES", "IF_RANGE", "PASSED_ON"),
    *rows_of(test_rfc9213, "SHOWN"),
    *rows_of(test_rfc9875, "ROWS"),
    *rows_of(test_rfc5861, "WHILE_ROWS", "ERROR_ROWS"),
    *rows_of(test_rfc8246, "ROWS"),
]


def fields_of(lines: Any) -> Fields:
    parts = [line.partition(":") for line in lines]
    return tuple((name, value.strip()) for name, _, value in parts)


def answered(answer: dict[str, Any], asked: Request, number: int, target: str) -> Answer:
    """app.py as a pure function."""
    if "fail" in answer:
        return Answer(500)
    own = tuple((name, value.strip()) for name, value in answer["fields"])
    if answer.get("validates") and has_it(asked.fields, own):
        told = answer.get("fields_304", own)
        return Answer(304, tuple((name, value) for name, value in told))
    status = int(answer["status"][:3])
    text = answer.get("content")
    content = f"{target} v{number}" if text is None else text
    return Answer(status, own, b"" if status in (204, 304) else content.encode())


def demanded(step: Step, outcome: Outcome) -> bool:
    statuses = (200, 206) if step.status is None else (step.status,)
    if len(outcome.asked) != step.asks or outcome.status not in statuses:
        return False
    content = outcome.content
    if content is not None and outcome.status == 200 and step.method == "GET":
        if step.version is not None and not content.endswith(b" v%d" % step.version):
            return False
        if step.content is not None and content != step.content:
            return False
    if step.age is not None and outcome.age != step.age:
        return False
    for name, expected in step.saw.items():
        value = first(outcome.asked[-1].fields, name)
        if expected(value) if callable(expected) else value == expected:
            continue
        return False
    return True


def play(row: Row, mode: str) -> None:
    caches, executed = {Cache(mode)}, 0
    answers = stamped(row.answers, NOW, NAME)
    for number, step in enumerate(row.steps, 1):
        changing = {"lines": step.lines, "fields": step.fields, "saw": step.saw}
        step = replace(step, **stamped(changing, NOW, NAME))
        target = f"/{NAME}{step.path}"
        asked = Request(
            step.method,
            f"http://{step.host}{target}",
            fields_of(step.lines),
            step.sends is not None,
        )
        answer = answers[min(executed + 1, len(answers)) - 1]

        def origin(
            request: Request, answer: Any = answer, count: int = executed + 1, at: str = target
        ) -> Answer:
            return answered(answer, request, count, at)

        outcomes = [one for cache in caches for one in cache.ask(NOW, asked, origin)]
        caches = {one.after for one in outcomes if demanded(step, one)}
        assert caches, f"{row.name}, step {number}: {step}\nallowed:\n" + "\n".join(
            f"{one.how} {one.status} {one.content!r} Age {one.age} asks {one.asked}"
            for one in outcomes
        )
        executed += step.asks


@pytest.mark.parametrize("row", RFC9111)
def test_rows_of_rfc9111(row: Row) -> None:
    play(row, "rfc9111")


@pytest.mark.parametrize("row", test_modes.PUBLIC)
def test_rows_of_public(row: Row) -> None:
    play(row, "public")
