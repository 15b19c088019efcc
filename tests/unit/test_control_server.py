"""Commands that managers answer: at once, later, never; to clients that wait, read or leave."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_managers import (
    PATIENCE,
    RELOADED,
    STACKS,
    UPGRADED,
    Served,
    exchange,
    make_pool,
    make_request,
    make_site,
    read_answer,
)

from kernelq import control_server, desk, log, protocol
from kernelq.control_commands import Command
from kernelq.desk import Desk, Pending
from kernelq.protocol import BY_NAME, ROWS, Argument, Row


def send(sock: socket.socket, **request: object) -> None:
    sock.sendall(json.dumps(request).encode() + b"\n")


# -- every command ----------------------------------------------------------------------------


def test_what_looks(served: Served) -> None:
    managers = served.managers
    assert served.ask(do="status") == {"ok": True, **managers.status()}
    assert served.ask(do="names") == {
        "ok": True,
        "pools": ["news", "shop"],
        "sites": ["shop", "www"],
    }
    assert served.ask(do="pools") == {"ok": True, **managers.pools(1000, "")}
    assert served.ask(do="sites") == {"ok": True, **managers.sites(1000, "")}
    assert served.ask(do="requests") == {"ok": True, **managers.requests("", 10_000)}
    assert served.ask(do="requests", pool="news")["requests"] == []
    assert served.ask(do="match", url="http://shop.example/a")["site"] == "shop"
    assert served.ask(do="match", url="http://other/")["reason"] == "Hostname"


def test_what_changes(served: Served) -> None:
    assert served.ask(do="recycle", pool="shop") == {"ok": True, "pool": "shop", "state": "RUNNING"}
    assert served.ask(do="pool.start", pool="shop")["ok"]
    assert served.ask(do="pool.stop", pool="shop")["state"] == "DISABLING"
    assert served.ask(do="site.start", site="www")["state"] == "started"
    assert served.ask(do="site.stop", site="www")["state"] == "stopped"
    assert served.managers.calls == [
        ("recycle", "shop"),
        ("pool.start", "shop"),
        ("pool.stop", "shop"),
        ("site.start", "www"),
        ("site.stop", "www"),
    ]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ({"do": "stacks", "worker": 4003}, STACKS),
        ({"do": "reload"}, RELOADED),
        ({"do": "upgrade"}, UPGRADED),
    ],
)
def test_what_takes_longer(served: Served, request_: dict[str, Any], answer: Any) -> None:
    with served.connect() as sock, served.connect() as failing:
        send(sock, **request_)
        first = served.managers.take_pending()
        send(failing, **request_)
        second = served.managers.take_pending()
        assert served.ask(do="status")["ok"]  # others are answered meanwhile
        second.fail("no")
        assert read_answer(failing) == {"ok": False, "error": "no"}
        first.done(answer)
        first.fail("too late")
        assert read_answer(sock) == {"ok": True, **answer}


def test_every_row_has_somebody_who_does_it(served: Served) -> None:
    assert set(served.server._commands) == set(BY_NAME)
    assert len(BY_NAME) == len(ROWS)


def test_a_slip_of_the_name_is_told(served: Served) -> None:
    assert served.ask(do="recycle", pool="shp") == {
        "ok": False,
        "error": "there is no pool 'shp'; did you mean 'shop'?",
    }


def test_a_manager_that_fails_is_an_answer_and_a_line_in_the_log(served: Served) -> None:
    assert served.ask(do="recycle", pool="broken") == {
        "ok": False,
        "error": "the server failed; its log says more",
    }
    assert served.said[-1] == "recycle: RuntimeError: something else"
    assert served.ask(do="status")["ok"]


def test_an_answer_that_is_no_json_is_the_servers_failure(served: Served) -> None:
    served.managers.all_pools["shop"]["name"] = {1}  # type: ignore[typeddict-item]
    assert served.ask(do="pools")["error"] == "the server failed; its log says more"
    assert "TypeError" in served.said[-1]


# -- many -------------------------------------------------------------------------------------


def test_requests_are_bounded(served: Served) -> None:
    served.managers.all_requests = [make_request(elapsed_ms=n) for n in range(20_000)]
    answer = served.ask(do="requests", most=10**9)
    assert (len(answer["requests"]), answer["complete"]) == (10_000, False)
    answer = served.ask(do="requests", most=5)
    assert (len(answer["requests"]), answer["complete"]) == (5, False)


@pytest.mark.parametrize("what", ["pools", "sites"])
def test_pages(served: Served, what: str) -> None:
    names = [f"n{number:05d}" for number in range(2500)]
    served.managers.all_pools = {name: make_pool(name) for name in names}
    served.managers.all_sites = {name: make_site(name) for name in names}
    found: list[str] = []
    sizes = []
    complete = False
    while not complete:
        answer = served.ask(do=what, after=found[-1] if found else "")
        found += [one["name"] for one in answer[what]]
        sizes.append(len(answer[what]))
        complete = answer["complete"]
    assert found == names
    assert sizes == [1000, 1000, 500]


# -- managers that do not answer --------------------------------------------------------------


def with_seconds(monkeypatch: pytest.MonkeyPatch, server: Any, name: str, seconds: float) -> None:
    row = BY_NAME[name]
    shorter = Row(row.name, row.level, row.help, row.answer, row.arguments, seconds)
    commands = dict(server._commands)
    commands[name] = Command(shorter, commands[name].run)
    monkeypatch.setattr(server, "_commands", commands)


def test_managers_that_stall_do_not_do_later_what_nobody_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path / "s", starts=False)
    with_seconds(monkeypatch, served.server, "recycle", 0.01)
    answer = served.ask(do="recycle", pool="shop")
    assert answer["error"] == ("not begun within 0.01 s: the managers stall; it will not be done")
    assert served.ask(do="cache.list")["ok"]
    with served.connect() as sock:
        send(sock, do="recycle", pool="news")  # it may be told the same, or be in time
        served.wake_managers()
        read_answer(sock)
    assert ("recycle", "shop") not in served.managers.calls
    served.close()


def test_what_was_begun_may_still_be_done(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with_seconds(monkeypatch, served.server, "reload", 0.01)
    with served.connect() as sock:
        send(sock, do="reload")
        pending = served.managers.take_pending()
        assert read_answer(sock)["error"] in (
            "no answer within 0.01 s; it may still be done",
            "not begun within 0.01 s: the managers stall; it will not be done",
        )
        pending.done(RELOADED)
        assert exchange(sock, b'{"do": "status"}\n')["state"] == "serving"


def test_errands_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "ERRANDS_MAX", 8)
    served = Served(tmp_path / "s", starts=False)
    socks = []
    for _ in range(desk.ERRANDS_MAX):
        sock = served.connect()
        send(sock, do="status")
        socks.append(sock)
        assert served.ask(do="cache.list")["ok"]  # so that the one before was read
    answer = served.ask(do="status")
    assert answer["error"] == "the managers are busy: 8 commands wait for them"
    served.wake_managers()
    assert read_answer(socks[-1])["ok"]
    for sock in socks:
        sock.close()
    served.close()


def test_a_desk_that_is_closed_refuses() -> None:
    said: list[tuple[object, str]] = []
    one = Desk()
    one.ask("status", {}).then(lambda answer, text: said.append((answer, text)))
    one.close()
    assert said == [(None, "the server is ending")]
    with pytest.raises(ValueError, match="the server is ending"):
        one.ask("status", {})
    one.close()


def test_a_pending_tells_whoever_asks_late() -> None:
    said: list[tuple[object, str]] = []
    pending: Pending[Any] = Pending()
    pending.fail("no")
    pending.done({"x": 1})
    pending.then(lambda answer, text: said.append((answer, text)))
    assert said == [(None, "no")]
    assert not pending.cancel()


# -- clients that wait ------------------------------------------------------------------------


def test_a_client_that_left_misses_its_answer_and_nobody_else_does(served: Served) -> None:
    with served.connect() as sock:
        send(sock, do="reload")
        pending = served.managers.take_pending()
    assert served.ask(do="status")["ok"]
    pending.done(RELOADED)
    assert served.ask(do="status")["ok"]


def test_who_has_shut_down_its_side_gets_its_answer(served: Served) -> None:
    """As `echo ... | nc -NU PATH` does."""
    with served.connect() as sock:
        send(sock, do="reload")
        sock.shutdown(socket.SHUT_WR)
        pending = served.managers.take_pending()
        assert served.ask(do="status")["ok"]
        pending.done(RELOADED)
        assert read_answer(sock)["ok"]
        assert sock.recv(1) == b""


def test_further_requests_wait_for_the_answer_before(served: Served) -> None:
    with served.connect() as sock:
        send(sock, do="reload")
        pending = served.managers.take_pending()
        send(sock, do="names")
        send(sock, do="match", url="http://shop.example/")
        assert served.ask(do="status")["ok"]
        pending.done(RELOADED)
        stream = sock.makefile("rb")
        answers = [json.loads(stream.readline()) for _ in range(3)]
        assert [sorted(answer)[:2] for answer in answers] == [
            ["notes", "ok"],
            ["ok", "pools"],
            ["app", "application"],
        ]


def test_who_waits_keeps_its_place_before_who_is_silent(served: Served) -> None:
    with served.connect() as waiting:
        send(waiting, do="reload")
        pending = served.managers.take_pending()
        silent = [served.connect() for _ in range(control_server.CLIENTS_MAX * 2)]
        assert served.ask(do="status")["ok"]
        pending.done(RELOADED)
        assert read_answer(waiting)["ok"]
        for sock in silent:
            sock.close()


def test_the_last_answers_are_given_at_the_end(tmp_path: Path) -> None:
    served = Served(tmp_path / "s")
    with served.connect() as done, served.connect() as waiting, served.connect() as following:
        send(done, do="upgrade")
        upgrade = served.managers.take_pending()
        send(waiting, do="reload")
        served.managers.take_pending()
        assert exchange(following, b'{"do": "events", "follow": true}\n')["ok"]
        served.server.stop_accepting()
        served.journal.add(log.INFO, 1, "ENDING", "it ends")
        upgrade.done(UPGRADED)
        served.close()
        assert read_answer(done)["service_pid"] == 4799
        assert read_answer(waiting) == {"ok": False, "error": "the server is ending"}
        assert read_answer(following)["name"] == "ENDING"
        assert following.recv(1) == b""


def test_who_comes_after_the_handing_over_is_left_to_others(served: Served) -> None:
    with served.connect() as sock:
        assert exchange(sock, b'{"do": "status"}\n')["ok"]
        served.server.stop_accepting()
        # Two turns later it does not accept any more: one ends with the answer of the other.
        assert exchange(sock, b'{"do": "status"}\n')["ok"]
        assert exchange(sock, b'{"do": "status"}\n')["ok"]
        with served.connect() as late:
            send(late, do="status")
            assert exchange(sock, b'{"do": "status"}\n')["ok"]
            late.setblocking(False)
            with pytest.raises(BlockingIOError):
                late.recv(1)


# -- events -----------------------------------------------------------------------------------


def test_events_once(served: Served) -> None:
    for number in range(1500):
        served.journal.add(log.INFO, 5079, "RECYCLED", f"n{number}", pool="shop")
    answer = served.ask(do="events")
    assert [event["serial"] for event in answer["events"]] == list(range(501, 1501))
    assert (answer["last"], answer["journal"]) == (1500, served.journal.name)
    answer = served.ask(do="events", since=1498)
    assert [event["text"] for event in answer["events"]] == ["n1498", "n1499"]
    assert served.ask(do="events", since=1500)["events"] == []
    assert [one["serial"] for one in served.ask(do="events", most=2)["events"]] == [1499, 1500]


def test_events_as_they_come(served: Served) -> None:
    served.journal.add(log.INFO, 1, "FIRST", "one")
    with served.connect() as sock, sock.makefile("rb") as stream:
        send(sock, do="events", follow=True)
        assert [one["text"] for one in json.loads(stream.readline())["events"]] == ["one"]
        for number in range(3):
            served.journal.add(log.WARNING, 2, "NEXT", f"n{number}", pool="p", worker=7, pid=8)
            event = json.loads(stream.readline())
            assert (event["serial"], event["text"]) == (number + 2, f"n{number}")
        assert (event["level"], event["pool"], event["worker"], event["pid"]) == (
            "warning",
            "p",
            7,
            8,
        )
        send(sock, do="status")  # is not answered here any more
        served.journal.add(log.WARNING, 2, "NEXT", "after")
        assert json.loads(stream.readline())["text"] == "after"
    assert served.ask(do="status")["ok"]


def test_who_follows_and_leaves_is_forgotten(served: Served) -> None:
    with served.connect() as sock:
        assert exchange(sock, b'{"do": "events", "follow": true}\n')["ok"]
        assert len(served.journal._subscribers) == 1
    for _ in range(3):
        assert served.ask(do="status")["ok"]
    assert served.journal._subscribers == []


def test_who_follows_slowly_is_told_how_many_it_missed(served: Served) -> None:
    count = 20_000
    with served.connect() as sock, sock.makefile("rb") as stream:
        send(sock, do="events", follow=True)
        assert json.loads(stream.readline())["ok"]
        for number in range(count):
            served.journal.add(log.INFO, 1, "N", f"{number}", pool="shop")
            if number % 1000 == 0:
                assert served.ask(do="cache.list")["ok"]  # nobody waits for the slow one
        serial, missed = 0, 0
        while serial < count:
            line = json.loads(stream.readline())
            if "missed" in line:
                missed += line["missed"]
                serial += line["missed"]
            else:
                serial += 1
                assert line["serial"] == serial
        assert missed > count / 2
        assert served.ask(do="status")["ok"]


def test_one_who_never_reads_holds_up_nobody_who_writes(served: Served) -> None:
    with served.connect() as sock:
        send(sock, do="events", follow=True)
        assert served.ask(do="status")["ok"]
        writers = [
            threading.Thread(
                target=lambda: [
                    served.journal.add(log.INFO, 1, "N", "x" * 500) for _ in range(2000)
                ]
            )
            for _ in range(2)
        ]
        for thread in writers:
            thread.start()
        for thread in writers:
            thread.join(PATIENCE)
        assert [one["serial"] for one in served.ask(do="events", since=3999)["events"]] == [4000]


# -- the table --------------------------------------------------------------------------------


def test_numbers_have_bounds_and_defaults() -> None:
    row = Row("x", "read", "", "", (Argument("n", 5, 7, "", 2, 9), Argument("s", "a")))
    assert protocol.check_arguments(row, {"s": ""}) == {"n": 7, "s": ""}
    assert protocol.check_arguments(row, {"s": "b", "n": 100}) == {"n": 9, "s": "b"}
    for wrong, text in (
        ({"n": 1, "s": ""}, "n: found 1, allowed is a number from 2"),
        ({"n": True, "s": ""}, "n: found True, allowed is a value of type int"),
        ({"n": 2.0, "s": ""}, "n: found 2.0, allowed is a value of type int"),
        ({}, "s: found None, allowed is a value of type str"),
        ({"s": "", "y": 1}, "y: no argument of x, allowed is n, s"),
    ):
        with pytest.raises(ValueError) as found:
            protocol.check_arguments(row, wrong)
        assert str(found.value) == text
