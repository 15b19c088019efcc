"""RFC 9211: what Cache-Status tells. How rows are read: test_rfc9111.py."""

import re
from collections.abc import Callable, Iterator

import pytest
from model_fields import first
from origin import (
    ONE_OF_EACH,
    Row,
    Site,
    current,
    hit,
    ran,
    renewed,
    reply,
    run,
    site_of,
    tables,
)
from serving import Gate

NAME = "Cache-Status"
LONG = "max-age=1000"
Parameters = dict[str, str]
Wanted = str | tuple[str | None, ...] | None


@pytest.fixture(scope="module")
def telling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("telling")
    yield from site_of(folder, *ONE_OF_EACH, "--cache", "rfc9111", "--cache-status", "on")


def told(value: str | None) -> Parameters:
    """Our member's parameters: it is the last one, a token with parameters (section 2)."""
    assert value is not None
    member = re.split(r",\s*(?=[A-Za-z\"])", value)[-1]
    name, *parameters = [part.strip() for part in member.split(";")]
    assert name == "kernelq", value
    found: Parameters = {}
    for parameter in parameters:
        match = re.fullmatch(r'([a-z][a-z0-9_-]*)(?:=(-?\d+|[a-z-]+|"[^"]*"|\?[01]))?', parameter)
        assert match, value
        found[match[1]] = match[2] or "?1"
    assert not {"hit", "fwd"} <= found.keys(), "2: they exclude each other"
    assert {"hit", "fwd"} & found.keys(), value
    return found


def says(
    **expected: str | tuple[str | None, ...] | None,
) -> dict[str, Callable[[str | None], bool]]:
    """Parameters by name (fwd_status stands for fwd-status); None: not there."""

    def holds(value: str | None) -> bool:
        found = told(value)
        return all(
            found.get(name.replace("_", "-")) in (one if isinstance(one, tuple) else (one,))
            for name, one in expected.items()
        )

    return {NAME: holds}


def lives(least: int, most: int) -> dict[str, Callable[[str | None], bool]]:
    return {NAME: lambda value: least <= int(told(value)["ttl"]) <= most}


HIT = says(hit="?1", fwd=None, stored=None, fwd_status=None)
ROWS = tables(
    Row("2.1 hit", [reply(LONG)],
        [ran(1, fields=says(fwd="uri-miss", hit=None)), hit(1, fields=HIT)]),
    Row("2.2 fwd=uri-miss, and stored", [reply(LONG)],
        [ran(1, fields=says(fwd="uri-miss", stored="?1"))]),
    Row("2.2 fwd=uri-miss, and not stored", [reply("no-store")],
        [ran(1, fields=says(fwd="uri-miss", stored=(None, "?0")))]),
    Row("2.2 fwd=vary-miss", [reply(LONG, "Vary: Accept")],
        [ran(1, "Accept: x/a"),
         ran(2, "Accept: x/b", fields=says(fwd=("vary-miss", "miss"), stored="?1"))]),
    Row("2.2 fwd=stale", [reply(LONG, "Age: 2000")],
        [ran(1), ran(2, fields=says(fwd="stale", fwd_status=(None, "200")))]),
    Row("2.2 fwd=request", [reply(LONG)],
        [ran(1), ran(2, "Cache-Control: no-cache", fields=says(fwd="request"))]),
    Row("2.2 fwd=bypass", [reply(LONG)],
        [ran(1), ran(2, 'If-Match: "a"', fields=says(fwd=("bypass", "request")))]),
    Row("2.3 fwd-status", [current(LONG, "Age: 2000", 'ETag: "a"')],
        [ran(1), renewed(1, fields=says(fwd="stale", fwd_status="304"))]),
    Row("2.4 ttl", [reply(LONG, "Age: 100")], [ran(1), hit(1, fields=lives(860, 900))]),
    Row("2.4 ttl of what is stale", [reply(LONG, "Age: 2000")],
        [ran(1), hit(1, "Cache-Control: max-stale", fields=lives(-1040, -1000))]),
    Row("2.1 a 304 from the store is a hit", [reply(LONG, 'ETag: "a"')],
        [ran(1), hit(1, 'If-None-Match: "a"', status=304, fields=HIT)]),
    Row("2.1 a part from the store is a hit", [reply(LONG)],
        [ran(1), hit(1, "Range: bytes=0-0", status=206, fields=HIT)]),
    Row("2.1 a HEAD from the store is a hit", [reply(LONG)],
        [ran(1), hit(1, method="HEAD", fields=HIT)]),
    Row("2 what caches before us said is kept", [reply(LONG, f"{NAME}: Origin; hit; ttl=5")],
        [ran(1, fields={NAME: lambda value: str(value).startswith("Origin; hit; ttl=5,")}),
         hit(1, fields={NAME: lambda value: str(value).startswith("Origin; hit; ttl=5,")
                        and "hit" in told(value)})]),
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_rfc9211(telling: Site, row: Row) -> None:
    run(telling, row)


def test_2_only_when_it_was_ordered(rfc9111: Site) -> None:
    run(
        rfc9111,
        Row("off", [reply(LONG)], [ran(1, fields={NAME: None}), hit(1, fields={NAME: None})]),
    )


def test_2_6_collapsed(telling: Site, gates: Callable[[], Gate]) -> None:
    gate = gates()
    name = telling.origin.new_name()
    telling.origin.script(name, reply(LONG, gate=gate.path))
    clients = [telling.server.connect().get(f"/{name}")]
    gate.enter()
    clients += [telling.server.connect().get(f"/{name}") for _ in range(3)]
    telling.server.look()
    gate.open()
    found = [told(first(client.response().fields, NAME)) for client in clients]
    telling.server.close_clients()
    assert telling.origin.count(name) == 1
    assert [one.get("fwd") for one in found] == ["uri-miss"] * 4
    assert [one.get("collapsed", "?0") for one in found] == ["?0", "?1", "?1", "?1"]
