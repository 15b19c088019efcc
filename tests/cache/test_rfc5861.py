"""RFC 5861: stale-while-revalidate and stale-if-error. How rows are read: test_rfc9111.py."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from origin import (
    ONE_OF_EACH,
    Origin,
    Row,
    Site,
    Step,
    current,
    hit,
    ran,
    reply,
    run,
    serve,
    site_of,
    tables,
)
from serving import Gate, until

# stale by 1000 seconds
WHILE = "max-age=1000, stale-while-revalidate=2000"
IF_ERROR = "max-age=1000, stale-if-error=2000"
OLD = "Age: 2000"
FRESH = reply("max-age=1000")


# --- section 3


def filled(site: Site, *answers: dict[str, Any], path: str = "") -> str:
    """A URL whose first answer has been asked for."""
    name = site.origin.new_name()
    site.origin.script(name, *answers)
    assert site.server.ask(f"/{name}{path}").text == f"/{name}{path} v1"
    return name


def test_3_the_stale_response_comes_at_once_and_the_new_one_next(ordered: Site) -> None:
    name = filled(ordered, reply(WHILE, OLD), FRESH)
    response = ordered.server.ask(f"/{name}")
    assert response.text == f"/{name} v1"
    assert int(response.one("Age") or 0) >= 2000
    ordered.settle()
    assert ordered.origin.count(name) == 2
    assert ordered.server.ask(f"/{name}").text == f"/{name} v2"
    assert ordered.origin.count(name) == 2


def test_3_it_is_revalidated_by_condition(ordered: Site) -> None:
    name = filled(ordered, current(WHILE, OLD, 'ETag: "a"', fields_304=[
        ["Cache-Control", "max-age=1000"], ["ETag", '"a"']]))  # fmt: skip
    assert ordered.server.ask(f"/{name}", "X-Any: thing").text == f"/{name} v1"
    ordered.settle()
    _, asked = ordered.origin.seen(name)
    assert (asked.method, asked.get("If-None-Match")) == ("GET", '"a"')
    response = ordered.server.ask(f"/{name}")
    assert response.text == f"/{name} v1"
    assert int(response.one("Age") or -1) < 1000
    assert ordered.origin.count(name) == 2


def test_3_the_background_request_has_no_conditions_or_range_of_the_client(ordered: Site) -> None:
    name = filled(ordered, reply(WHILE, OLD), FRESH)
    response = ordered.server.ask(f"/{name}", 'If-None-Match: "b"', "Range: bytes=0-1")
    assert response.status == 206
    ordered.settle()
    _, asked = ordered.origin.seen(name)
    assert asked.get("If-None-Match") is None
    assert asked.get("Range") is None
    assert ordered.server.ask(f"/{name}").text == f"/{name} v2"


def test_3_the_background_request_is_for_the_same_variant(ordered: Site) -> None:
    vary = "Vary: Accept-Language"
    name = ordered.origin.new_name()
    ordered.origin.script(name, reply(WHILE, OLD, vary), reply("max-age=1000", vary))
    de = "Accept-Language: de"
    assert [ordered.server.ask(f"/{name}", de).text for _ in range(2)] == [f"/{name} v1"] * 2
    ordered.settle()
    assert ordered.origin.seen(name)[1].get("Accept-Language") == "de"
    assert ordered.server.ask(f"/{name}", de).text == f"/{name} v2"


def test_3_one_revalidation_at_a_time(ordered: Site, gates: Callable[[], Gate]) -> None:
    gate = gates()
    name = filled(ordered, reply(WHILE, OLD), reply("max-age=1000", gate=gate.path))
    assert ordered.server.ask(f"/{name}").text == f"/{name} v1"
    assert gate.enter() == "2"
    for _ in range(20):
        assert ordered.server.ask(f"/{name}").text == f"/{name} v1"
    gate.open()
    ordered.settle()
    assert ordered.origin.count(name) == 2
    assert ordered.server.ask(f"/{name}").text == f"/{name} v2"


def test_3_a_failed_revalidation_leaves_it_as_it_is(ordered: Site) -> None:
    name = filled(ordered, reply(WHILE, OLD), reply(status=500), {"fail": "raise"}, FRESH)
    for number in (2, 3, 4):
        assert ordered.server.ask(f"/{name}").text == f"/{name} v1"
        ordered.settle()
        assert ordered.origin.count(name) == number
    assert ordered.server.ask(f"/{name}").text == f"/{name} v4"


def test_3_a_head_gets_it_too(ordered: Site) -> None:
    name = filled(ordered, reply(WHILE, OLD), FRESH)
    response = ordered.server.ask(f"/{name}", method="HEAD")
    assert response.status == 200
    ordered.settle()
    assert ordered.server.ask(f"/{name}").text == f"/{name} v2"


WHILE_ROWS = tables(
    Row("3 fresh is fresh", [reply(WHILE, "Age: 100")], [ran(1), hit(1)]),
    Row("3 staler than the window: it has to be waited for",
        [reply("max-age=1000, stale-while-revalidate=500", OLD)], [ran(1), ran(2)]),
    Row("3 must-revalidate forbids it", [reply(WHILE + ", must-revalidate", OLD)],
        [ran(1), ran(2)]),
    Row("3 proxy-revalidate forbids it", [reply(WHILE + ", proxy-revalidate", OLD)],
        [ran(1), ran(2)]),
    Row("3 no-cache forbids it", [reply(WHILE + ", no-cache", OLD)], [ran(1), ran(2)]),
    Row("3 a client that wants none gets none", [reply(WHILE, OLD)],
        [ran(1), ran(2, "Cache-Control: no-cache")]),
    Row("3 an invalid window is none",
        [reply("max-age=1000, stale-while-revalidate=x", OLD)], [ran(1), ran(2)]),
    Row("3 of requests it means nothing", [reply("max-age=1000", OLD)],
        [ran(1), ran(2, "Cache-Control: stale-while-revalidate=2000")]),
)  # fmt: skip


@pytest.mark.parametrize("row", WHILE_ROWS)
def test_rfc5861_while(rfc9111: Site, row: Row) -> None:
    run(rfc9111, row)


# --- section 4


def stale() -> Step:
    """The application is asked, fails, and the stored response comes."""
    return ran(1, fields={"Age": lambda value: int(value or 0) >= 2000})


ERROR_ROWS = tables(
    *(
        Row(f"4 {status} is an error", [reply(IF_ERROR, OLD), reply(status=status), FRESH],
            [ran(1), stale(), ran(3), hit(3)])
        for status in (500, 502, 503, 504)
    ),
    *(
        Row(f"4 {status} is none", [reply(IF_ERROR, OLD), reply(status=status), FRESH],
            [ran(1), ran(2, status=status), ran(3)])
        for status in (404, 403, 501)
    ),
    Row("4 an exception is an error", [reply(IF_ERROR, OLD), {"fail": "raise"}, FRESH],
        [ran(1), stale(), ran(3)]),
    Row("4 staler than the window", [reply("max-age=1000, stale-if-error=500", OLD),
                                     reply(status=500)], [ran(1), ran(2, status=500)]),
    Row("4 without it errors are passed on", [reply("max-age=1000", OLD), reply(status=500)],
        [ran(1), ran(2, status=500)]),
    Row("4 must-revalidate forbids it",
        [reply(IF_ERROR + ", must-revalidate", OLD), reply(status=500)],
        [ran(1), ran(2, status=500)]),
    Row("4 proxy-revalidate forbids it",
        [reply(IF_ERROR + ", proxy-revalidate", OLD), reply(status=500)],
        [ran(1), ran(2, status=500)]),
    Row("4 no-cache forbids it", [reply(IF_ERROR + ", no-cache", OLD), reply(status=500)],
        [ran(1), ran(2, status=500)]),
    Row("4 it is not used while all is well", [reply(IF_ERROR, OLD), FRESH],
        [ran(1), ran(2), hit(2)]),
    Row("4 conditions are evaluated", [reply(IF_ERROR, OLD, 'ETag: "a"'), reply(status=503)],
        [ran(1), ran(2, 'If-None-Match: "a"', status=304, content=b"")]),
    Row("4 another variant is none",
        [reply(IF_ERROR, OLD, "Vary: Accept"), reply(status=503)],
        [ran(1, "Accept: x/a"), ran(2, "Accept: x/b", status=503)]),
    Row("4 another method gets the error", [reply(IF_ERROR, OLD), reply(status=503)],
        [ran(1), ran(2, method="POST", status=503)]),
)  # fmt: skip


@pytest.mark.parametrize("row", ERROR_ROWS)
def test_rfc5861_error(rfc9111: Site, row: Row) -> None:
    run(rfc9111, row)


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("mortal")
    options = (*ONE_OF_EACH, "--cache", "rfc9111", "--rapid-fail", "off")
    yield from site_of(folder, *options, "--redispatch-limit", "1")


def test_4_a_dead_worker_is_an_error(mortal: Site) -> None:
    name = filled(mortal, reply(IF_ERROR, OLD), {"fail": "die"}, {"fail": "die"}, FRESH)
    response = mortal.server.ask(f"/{name}")
    assert (response.status, response.text) == (200, f"/{name} v1")
    assert mortal.origin.count(name) == 3, "executed again, as --redispatch-limit allows"
    until(lambda: mortal.server.ask(f"/{name}").text == f"/{name} v4", "a worker's answer")


def test_9111_5_2_2_2_must_revalidate_and_a_dead_worker(mortal: Site) -> None:
    answers = [reply(IF_ERROR + ", must-revalidate", OLD), {"fail": "die"}, {"fail": "die"}]
    name = filled(mortal, *answers, FRESH)
    assert mortal.server.ask(f"/{name}").status in (502, 504)


@pytest.mark.parametrize("limit", ["stale-if-error=9000", "must-revalidate"])
def test_4_no_worker_is_an_error(tmp_path_factory: pytest.TempPathFactory, limit: str) -> None:
    folder = tmp_path_factory.mktemp("dead")
    options = ("--cache", "rfc9111", "--rapid-fail", "1/1000", "--queue-timeout", "1")
    with serve(folder, *ONE_OF_EACH, *options) as server:
        site = Site(server, Origin(folder))
        fresh = filled(site, FRESH)
        name = filled(site, reply(f"max-age=1000, {limit}", OLD))
        (folder / "bad").touch()
        for pid in server.pids("worker"):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not server.pids("worker") and server.log.count("rapid"), "no worker")
        assert server.ask(f"/{fresh}").text == f"/{fresh} v1", "fresh ones need no worker"
        response = server.ask(f"/{name}")
        if "error" in limit:
            assert (response.status, response.text) == (200, f"/{name} v1")
        else:
            assert response.status in (503, 504)
        assert site.origin.count(name) == 1
