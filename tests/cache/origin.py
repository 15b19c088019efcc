"""The test's end of app.py: writes what it shall answer, reads what it has seen. And the tables of
tests: a row is what the origin answers, and what clients then ask and must get.
"""

import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from model_fields import Fields, date_text, first, weakly_equal
from serving import Server
from wire import PATIENCE_SECONDS, Client, Response, request

HERE = Path(__file__).parent
Expected = str | int | None | Callable[[str | None], bool]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Seen:
    """One execution of the application."""

    method: str
    target: str
    fields: dict[str, str]
    content: str
    pid: int

    def get(self, name: str) -> str | None:
        return self.fields.get(name.lower())


class Origin:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new_name(self) -> str:
        return f"r{next(_numbers)}"

    def script(self, name: str, *answers: dict[str, Any]) -> None:
        """What it answers from now on, all at once."""
        draft = self.folder / f"{name}.draft"
        draft.write_text(json.dumps(answers))
        os.replace(draft, self.folder / f"{name}.json")

    def seen(self, name: str) -> list[Seen]:
        path = self.folder / f"{name}.seen"
        if not path.exists():
            return []
        lines = path.read_text().splitlines(keepends=True)
        return [Seen(**json.loads(line)) for line in lines if line.endswith("\n")]

    def count(self, name: str) -> int:
        return len(self.seen(name))


def serve(folder: Path, *options: str, **how: Any) -> Server:
    """A server whose application takes its orders from this folder."""
    environment = {"CACHE_APP_DIR": str(folder), **how.pop("environment", {})}
    return Server(
        "--log-level", "info", *options,
        application="app:application", folder=HERE, environment=environment, **how,
    )  # fmt: skip


class Site:
    """A server and its origin."""

    def __init__(self, server: Server, origin: Origin) -> None:
        self.server = server
        self.origin = origin

    def settle(self) -> None:
        """Wait for what was asked of the one worker before: with one thread and one loop, its
        answers are taken in their order.
        """
        name = "settle"
        if not (self.origin.folder / f"{name}.json").exists():
            self.origin.script(name, {"content": "settled", "fields": []})
        assert self.server.ask(f"/{name}", method="POST", content=b"").text == "settled"

    def flush(self, prefix: str, recursive: bool = True) -> int:
        target = f"/-/flush?prefix={quote(prefix, safe='')}&recursive={int(recursive)}"
        response = self.server.ask(target, method="POST", content=b"")
        assert response.status == 200, response
        return int(response.text)


ONE_OF_EACH = ("--workers", "1", "--threads", "4", "--loops", "1")


def site_of(folder: Path, *options: str) -> Iterator[Site]:
    """For fixtures."""
    with serve(folder, *options) as server:
        yield Site(server, Origin(folder))


# --- answers


def reply(*lines: str, status: int = 200, **more: Any) -> dict[str, Any]:
    """An answer. The first line may be a Cache-Control value alone."""
    fields = []
    for line in lines:
        name, colon, value = line.partition(": ")
        fields.append([name, value] if colon else ["Cache-Control", line])
    known = {one.value for one in HTTPStatus}
    phrase = HTTPStatus(status).phrase if status in known else "Other"
    return {"status": f"{status} {phrase}", "fields": fields, **more}


def current(*lines: str, **more: Any) -> dict[str, Any]:
    """An answer that turns into 304 for whoever has it already."""
    return reply(*lines, validates=True, **more)


def not_modified(*lines: str) -> dict[str, Any]:
    return reply(*lines, status=304, content="")


def stamped(value: Any, now: float, name: str = "") -> Any:
    """Dates in place of {now}, {now-100}, {rfc850+100} and {asctime+100}; {name}: the row's own."""
    if isinstance(value, str):
        text = value.replace("{name}", name)
        return re.sub(r"\{(now|rfc850|asctime)([+-]\d+)?\}", lambda one: _date(one, now), text)
    if isinstance(value, list | tuple):
        return type(value)(stamped(one, now, name) for one in value)
    if isinstance(value, dict):
        return {key: stamped(one, now, name) for key, one in value.items()}
    return value


def _date(found: re.Match[str], now: float) -> str:
    seconds = now + int(found[2] or 0)
    if found[1] == "now":
        return date_text(seconds)
    form = "%A, %d-%b-%y %H:%M:%S GMT" if found[1] == "rfc850" else "%a %b %e %H:%M:%S %Y"
    return time.strftime(form, time.gmtime(seconds))


def has_it(asked: Fields, own: Fields) -> bool:
    """Whether app.py says 304 to a request, as a pure function."""
    tags = first(asked, "If-None-Match")
    mine = first(own, "ETag")
    if tags is not None:
        if mine is None:
            return False
        listed = [tag.strip() for tag in tags.split(",")]
        return tags == "*" or any(weakly_equal(mine, tag) for tag in listed)
    since = first(asked, "If-Modified-Since")
    return since is not None and since == first(own, "Last-Modified")


# --- steps


@dataclass(frozen=True)
class Step:
    """A request, and what must come of it. `asks`: how often the origin is asked for it."""

    asks: int
    version: int | None  # which execution's content; None: not looked at, or `content` says it
    lines: tuple[str, ...] = ()
    method: str = "GET"
    status: int | None = 200  # None: 200 or 206
    fields: dict[str, Expected] = field(default_factory=dict)  # of the response
    saw: dict[str, Expected] = field(default_factory=dict)  # of the request that the origin got
    path: str = ""  # behind the row's own
    host: str = "test"
    content: bytes | None = None  # the response's
    sends: bytes | None = None  # the request's
    age: int | None = None  # at least, and not much more

    def but(self, **changes: Any) -> "Step":
        return replace(self, **changes)


def hit(version: int, *lines: str, **more: Any) -> Step:
    """Answered from the store alone."""
    return Step(0, version, lines, **more)


def ran(version: int, *lines: str, **more: Any) -> Step:
    """Answered by the application: its execution of this number."""
    return Step(1, version, lines, **more)


def renewed(version: int, *lines: str, **more: Any) -> Step:
    """The application said 304, and the stored content came."""
    return Step(1, version, lines, **more)


def refused(*lines: str, **more: Any) -> Step:
    """only-if-cached, and nothing is there."""
    return Step(0, None, lines, status=504, **more)


def posted(*lines: str, **more: Any) -> Step:
    """An unsafe request, which always goes through."""
    return Step(1, None, lines, **{"method": "POST", "sends": b"x", **more})


@dataclass(frozen=True)
class Row:
    name: str  # section and what it says
    answers: Sequence[dict[str, Any]]
    steps: Sequence[Step]


def run(site: Site, row: Row) -> None:
    """Do what the row says, against URLs that no other row uses."""
    name = site.origin.new_name()
    site.origin.script(name, *stamped(row.answers, time.time(), name))
    for number, step in enumerate(row.steps, 1):
        changing = {"lines": step.lines, "fields": step.fields, "saw": step.saw}
        step = replace(step, **stamped(changing, time.time(), name))
        before = site.origin.count(name)
        response = ask(site, name, step)
        seen = site.origin.seen(name)[before:]
        told = f"{row.name}, step {number}: {step}\ngot {response}\norigin saw {seen}"
        judge(step, response, seen, told)


def ask(site: Site, name: str, step: Step) -> Response:
    target = f"/{name}{step.path}"
    data = request(step.method, target, *step.lines, content=step.sends, host=step.host)
    with Client(site.server.address()) as client:
        return client.send(data).response(step.method)


def judge(step: Step, response: Response, seen: Sequence[Seen], told: str) -> None:
    assert len(seen) == step.asks, told
    assert response.status in ((200, 206) if step.status is None else (step.status,)), told
    if response.status == 200 and step.method == "GET" and step.version is not None:
        assert response.text.split("\n")[0].endswith(f" v{step.version}"), told
    if step.content is not None:
        assert response.content == step.content, told
    is_stored = step.asks == 0 and response.status != 504 and step.method in ("GET", "HEAD")
    if is_stored and response.status != 416:
        assert re.fullmatch(r"\d+", response.one("Age") or ""), told
    if step.age is not None:
        age = int(response.one("Age") or -1)
        assert step.age <= age <= step.age + PATIENCE_SECONDS, told
    for name, expected in step.fields.items():
        check(", ".join(response.all(name)) if response.all(name) else None, expected, told, name)
    for name, expected in step.saw.items():
        check(seen[-1].get(name), expected, told, name)


def check(value: str | None, expected: Expected, told: str, name: str) -> None:
    if callable(expected):
        assert expected(value), f"{name}: {value!r}\n{told}"
    else:
        wanted = str(expected) if isinstance(expected, int) else expected
        assert value == wanted, f"{name}: {value!r}, expected {wanted!r}\n{told}"


def present(value: str | None) -> bool:
    return value is not None


def tables(*rows: Row) -> list[Any]:
    """For pytest.mark.parametrize: each row under its name."""
    import pytest

    names = [row.name for row in rows]
    assert len(set(names)) == len(names), "two rows have one name"
    return [pytest.param(row, id=row.name) for row in rows]
