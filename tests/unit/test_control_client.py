"""The Python client, and the commands but `cache` and `top`, against managers that are made up."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_managers import (
    PATIENCE,
    RELOADED,
    STACKS,
    UPGRADED,
    Served,
    make_event,
    make_pool,
    make_request,
)

from kernelq import commands, log, protocol, watching
from kernelq.__main__ import main
from kernelq.control import Client, ControlError
from kernelq.subjects import SUBJECTS


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.path) as made:
        yield made


def answering(served: Served, answer: Any) -> threading.Thread:
    """Has the next errand that takes longer answered."""
    thread = threading.Thread(target=lambda: served.managers.take_pending().done(answer))
    thread.start()
    return thread


def refusing(served: Served, text: str) -> threading.Thread:
    thread = threading.Thread(target=lambda: served.managers.take_pending().fail(text))
    thread.start()
    return thread


# -- the client -------------------------------------------------------------------------------


def test_every_method(served: Served, client: Client) -> None:
    managers = served.managers
    assert client.status()["pid"] == 4711
    assert client.names()["pools"] == ["news", "shop"]
    assert [pool["name"] for pool in client.pools()] == ["news", "shop"]
    assert [site["name"] for site in client.sites()] == ["shop", "www"]
    assert client.requests() == managers.all_requests
    assert client.requests("news") == []
    assert len(client.requests(most=1)) == 1
    assert client.match("http://shop.example/")["found"]
    assert client.recycle("shop")["state"] == "RUNNING"
    assert client.pool_start("shop")["pool"] == "shop"
    assert client.pool_stop("shop")["state"] == "DISABLING"
    assert client.site_start("www")["site"] == "www"
    assert client.site_stop("www")["state"] == "stopped"
    for ask, answer in (
        (lambda: client.stacks(3), STACKS),
        (client.reload, RELOADED),
        (client.upgrade, UPGRADED),
    ):
        thread = answering(served, answer)
        assert ask() == {"ok": True, **answer}  # type: ignore[no-untyped-call]
        thread.join(PATIENCE)
    assert len(client.cache_list("https://h/a", most=1)) == 1
    assert client.cache_show("https://h/a")[0]["status"] == 200
    assert client.cache_counters() == {"cache_hits": 3}
    assert client.cache_flush("https://h/") == 7
    client.cache_flush_group("g", origin="https://h")
    assert served.cache.calls[-1] == ("group", "https://h", "g")


def test_one_connection_carries_all(served: Served, client: Client) -> None:
    client.status()
    connection = client._connection
    assert connection is not None
    with pytest.raises(ControlError) as found:
        client.recycle("shp")
    assert found.value.is_refusal
    client.pools()
    assert client._connection is connection


def test_pages_are_put_together(served: Served, client: Client) -> None:
    names = [f"n{number:05d}" for number in range(2001)]
    served.managers.all_pools = {name: make_pool(name) for name in names}
    assert [pool["name"] for pool in client.pools()] == names


def test_a_server_that_was_restarted_is_asked_again(tmp_path: Path) -> None:
    first = Served(tmp_path / "s")
    client = Client(tmp_path / "s")
    client.status()
    first.close()
    with pytest.raises(ControlError, match="there is no such socket") as found:
        client.status()
    assert not found.value.is_refusal
    second = Served(tmp_path / "s")
    second.managers.service_pid = 5000
    assert client.status()["service_pid"] == 5000
    client.close()
    second.close()


def test_events(served: Served, client: Client) -> None:
    for number in range(3):
        served.journal.add(log.INFO, 1, "N", str(number))
    assert [event["text"] for event in client.events()] == ["0", "1", "2"]
    assert [event["text"] for event in client.events(2)] == ["2"]
    following = client.events(2, follow=True)
    assert next(following)["text"] == "2"
    served.journal.add(log.INFO, 1, "N", "3")
    assert next(following)["text"] == "3"
    assert client.status()["pid"] == 4711  # over another connection
    served.server.stop(PATIENCE)
    with pytest.raises(ControlError, match="the connection was closed"):
        next(following)


# -- the commands -----------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(served: Served, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(subject: str, *words: str) -> tuple[int, str, str]:
        status = main([subject, "--control", served.path, *words])
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.mark.parametrize("subject", ["status", "pools", "sites", "requests", "events"])
def test_what_shows_is_clean(subject: str, served: Served, run: Run) -> None:
    evil = "\x1b]0;x\x07\u202e\r\n\t"
    served.managers.all_pools["shop"] = make_pool(
        state=evil, last_event=make_event(text=evil, time=evil), start_mode=evil
    )
    served.managers.all_sites["shop"]["bindings"] = [evil]
    served.managers.all_sites["shop"]["applications"][0].update(path=evil, app=evil, pool=evil)
    fields = ("pool", "state", "client", "method", "host", "target")
    served.managers.all_requests = [make_request(**dict.fromkeys(fields, evil))]
    served.journal.add(log.INFO, 1, evil, evil, pool=evil)
    status, out, err = run(subject)
    assert (status, err) == (0, "")
    assert len(out.splitlines()) > 0
    assert all(line.isprintable() for line in out.split("\n"))


@pytest.mark.parametrize("subject", ["status", "pools", "sites", "requests"])
def test_json(subject: str, served: Served, run: Run) -> None:
    status, out, _ = run(subject, "--json")
    assert status == 0
    answer = json.loads(out)
    assert "ok" not in answer
    assert answer[subject]


def test_requests_that_are_too_many_are_said(served: Served, run: Run) -> None:
    served.managers.all_requests = [make_request()] * (protocol.REQUESTS_MAX + 1)
    status, out, err = run("requests")
    assert (status, err) == (0, "there are more than these 10000\n")
    assert len(out.splitlines()) == 10_001


def test_requests_of_a_pool(run: Run) -> None:
    assert len(run("requests", "--pool", "shop")[1].splitlines()) == 3
    assert len(run("requests", "--pool", "news")[1].splitlines()) == 1


def test_match(run: Run) -> None:
    status, out, _ = run("sites", "--match", "http://shop.example/a")
    assert status == 0
    assert out.splitlines()[-1] == "pool         shop"
    status, out, _ = run("sites", "--match", "http://other/")
    assert (status, out) == (1, "nothing answers there: Hostname\n")


def test_recycle(served: Served, run: Run) -> None:
    assert run("recycle", "shop") == (0, "pool shop is recycled: running\n", "")
    assert json.loads(run("recycle", "shop", "--json")[1]) == {"pool": "shop", "state": "RUNNING"}
    status, _, err = run("recycle", "shp")
    assert (status, err) == (1, "kernelq: there is no pool 'shp'; did you mean 'shop'?\n")
    served.managers.all_pools["broken"] = make_pool("broken")
    status, out, err = run("recycle", "--all")
    assert (status, err) == (1, "kernelq: broken: the server failed; its log says more\n")
    assert out == "pool news is recycled: running\npool shop is recycled: running\n"
    assert run("recycle")[0] == 2
    assert run("recycle", "--all", "shop")[0] == 2


@pytest.mark.parametrize(
    ("name", "call", "out"),
    [
        ("news", ("pool.stop", "news"), "pool news: disabling\n"),
        ("pool:shop", ("pool.stop", "shop"), "pool shop: disabling\n"),
        ("site:shop", ("site.stop", "shop"), "site shop: stopped\n"),
        ("www", ("site.stop", "www"), "site www: stopped\n"),
    ],
)
def test_stop(served: Served, run: Run, name: str, call: tuple[str, str], out: str) -> None:
    assert run("stop", name) == (0, out, "")
    assert served.managers.calls == [call]
    assert run("start", name)[0] == 0
    assert served.managers.calls[-1] == (call[0].replace("stop", "start"), call[1])


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("shop", "'shop' is a pool and a site; say which: 'pool:shop' or 'site:shop'"),
        ("nwes", "there is no pool or site 'nwes'; did you mean 'news'?"),
        ("pool:www", "there is no pool 'www'; there is 'news', 'shop'"),
        ("site:sho", "there is no site 'sho'; did you mean 'shop'?"),
        ("zzz", "there is no pool or site 'zzz'; there is 'news', 'shop', 'www'"),
    ],
)
def test_stop_of_what_cannot_be_meant(served: Served, run: Run, name: str, error: str) -> None:
    assert run("stop", "www", name) == (1, "", f"kernelq: {error}\n")
    assert served.managers.calls == []  # not the first one either


def test_stacks(served: Served, run: Run) -> None:
    thread = answering(served, STACKS)
    status, out, _ = run("stacks", "4003")
    thread.join(PATIENCE)
    assert (status, out) == (
        0,
        'worker 3 of pool shop, process 4003:\nThread 1:\n  File "\\x1b[2Ja.py"\n',
    )
    assert run("stacks", "9") == (1, "", "kernelq: there is no worker 9\n")
    assert run("stacks", "shop")[0] == 2


def test_reload(served: Served, run: Run) -> None:
    thread = answering(served, RELOADED)
    assert run("reload")[:2] == (0, "pool blog: added\npool shop: changed\nsite old: removed\n")
    thread.join(PATIENCE)
    thread = refusing(served, "kernelq.toml:3: a\nkernelq.toml:9: b")
    said = "kernelq: kernelq.toml:3: a\n    kernelq.toml:9: b\n"
    assert run("reload") == (1, "", said)
    thread.join(PATIENCE)


def test_upgrade(served: Served, run: Run) -> None:
    thread = answering(served, UPGRADED)
    status, out, _ = run("upgrade")
    thread.join(PATIENCE)
    assert (status, out) == (
        0,
        "kernelq 1.3 serves in process 4799; process 4712 (kernelq 1.2) finishes what it has\n",
    )


def test_events_since(served: Served, run: Run) -> None:
    served.journal.add(log.INFO, 1, "OLD", "long ago", now_ns=0)
    served.journal.add(log.ERROR, 5002, "DISABLED", "now", pool="shop", pid=7)
    assert len(run("events")[1].splitlines()) == 2
    out = run("events", "--since", "10m")[1]
    assert out.split(" ", 1)[1] == "error 5002 DISABLED pool=shop pid=7 now\n"
    assert len(run("events", "--since", "1", "--json")[1].splitlines()) == 1
    status, _, err = run("events", "--since", "yesterday")
    assert status == 2
    assert "allowed is a serial number, or an age as 30s, 10m, 2h" in err


def test_following_outlives_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Served(tmp_path / "s")
    one.journal.add(log.INFO, 1, "N", "of the first")
    started: list[Served] = []

    def restart(seconds: float) -> None:
        if not started:
            started.append(Served(tmp_path / "s"))
            started[0].journal.add(log.INFO, 1, "N", "of the second")
            started[0].journal.add(log.INFO, 1, "N", "and last")

    class Over(Exception):
        pass

    show = watching._Printer.show

    def watch(printer: watching._Printer, event: Any) -> None:
        show(printer, event)
        if event["text"] == "of the first":
            one.close()
        elif event["text"] == "and last":
            raise Over

    monkeypatch.setattr("kernelq.watching.time.sleep", restart)
    monkeypatch.setattr(watching._Printer, "show", watch)
    with pytest.raises(Over):
        commands.main(["events", "--follow", "--control", str(tmp_path / "s")])
    out, err = capsys.readouterr()
    texts = [line.split("N ")[1] for line in out.splitlines()]
    assert texts == ["of the first", "of the second", "and last"]
    assert err.endswith("there is no such socket; waiting for it\n")
    started[0].close()


@pytest.mark.parametrize("subject", SUBJECTS)
def test_help_teaches_by_examples(subject: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([subject, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"\n  kernelq {subject}" in out or f"&& kernelq {subject}" in out
    assert max(map(len, out.splitlines())) <= 100
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"kernelq {subject}" in capsys.readouterr().out


def test_letters_that_the_terminal_lacks_are_no_failure(served: Served, run: Run) -> None:
    served.managers.all_pools["shop"]["name"] = "\ud800 日本"
    assert run("pools")[0] == 0
