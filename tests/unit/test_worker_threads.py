"""Leader, followers, deputy: no request is stranded, whatever the others do."""

from __future__ import annotations

import random
import threading
from typing import Any
from wsgiref.validate import validator

import pytest
from fake_core import FLAG_END, STREAMED, Rig, answering, served
from kernelq._coretest import request_record


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_all_threads_can_be_in_the_application_at_once(threads: int) -> None:
    together = threading.Barrier(threads, timeout=20)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        together.wait()
        return answering()(environ, start_response)

    with served(application, threads) as rig:
        for _ in range(20):
            for dispatch in [rig.hand() for _ in range(threads)]:
                assert rig.collect(dispatch).content == b"ok"


def test_a_request_behind_a_long_one_is_taken_by_another_thread() -> None:
    go = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/long":
            go.wait()
        return answering()(environ, start_response)

    with served(application, threads=2, prefetch=8) as rig:
        for _ in range(5):
            go.clear()
            long = rig.hand(target="/long")
            for _ in range(30):
                assert rig.ask(place=3).content == b"ok"
            go.set()
            assert rig.collect(long).content == b"ok"


def test_one_thread_pumps_for_itself() -> None:
    # Its content arrives behind requests that it cannot run before it has the content.
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        data = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [data or b"none"]

    with served(application, prefetch=6) as rig:
        for _ in range(10):
            streamed = rig.hand(flags=STREAMED, content_length=-1)
            others = [rig.hand() for _ in range(6)]
            rig.tell("PING", value=5)
            while rig.core.wait()[0] != "PONG":
                pass  # it asks for its content meanwhile
            rig.tell("CONTENT", streamed, data=b"late", flags=FLAG_END)
            assert rig.collect(streamed).content == b"late"
            for dispatch in others:
                assert rig.collect(dispatch).content == b"none"


def test_every_thread_waits_for_content_that_comes_in_any_order() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        data = b"".join(environ["wsgi.input"])
        start_response("200 OK", [])
        return [data]

    chance = random.Random(3)
    with served(application, threads=4, prefetch=4) as rig:
        for _ in range(20):
            waiting = [rig.hand(flags=STREAMED, content_length=-1) for _ in range(8)]
            # Four run, four are prefetched: those of the running ones first, or nothing would move.
            for group in (waiting[:4], waiting[4:]):
                chance.shuffle(group)
                for dispatch in group:
                    rig.tell("CONTENT", dispatch, data=b"a\nb\n")
                for dispatch in group:
                    rig.tell("CONTENT", dispatch, flags=FLAG_END)
            for dispatch in waiting:
                assert rig.collect(dispatch).content == b"a\nb\n"


def mixed_application(go: threading.Semaphore) -> Any:
    """Answers at once, or blocks, or streams, as the target says."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/blocks":
            go.acquire()
        data = environ["wsgi.input"].read()
        start_response("200 OK", [])
        if path == "/big":
            return iter([b"x" * 3000] * 10)
        return [path.encode() + data]

    return application


def hand_one(rig: Rig, kind: str, place: int, chance: random.Random) -> int:
    """Hand over a request of some kind, by any loop, for any loop."""
    loop = chance.randrange(rig.core.loop_count)
    ring = chance.randrange(rig.core.loop_count)
    if kind == "/streams":
        dispatch = rig.hand(place, loop, ring, target=kind, flags=STREAMED, content_length=-1)
        rig.tell("CONTENT", dispatch, loop, data=b"1")
        rig.tell("CONTENT", dispatch, loop, data=b"2", flags=FLAG_END)
        return dispatch
    return rig.hand(place, loop, ring, target=kind)


EXPECTED = {"/": b"/", "/blocks": b"/blocks", "/streams": b"/streams12", "/big": b"x" * 30000}


@pytest.mark.parametrize("threads", range(1, 9))
@pytest.mark.parametrize("loops", [1, 3])
def test_a_mixture_is_answered_whole(threads: int, loops: int) -> None:
    chance = random.Random(threads)
    go = threading.Semaphore(0)
    kinds = ["/"] * 30 + ["/streams"] * 3 + ["/big"] * 3 + ["/blocks"]
    with served(mixed_application(go), threads, prefetch=8, response_window=4096) as rig:
        free = list(range(rig.core.place_count))
        running: dict[int, tuple[str, int]] = {}
        for step in range(1500):
            while free and chance.random() < 0.9 and step < 1400:
                kind = chance.choice(kinds)
                place = free.pop(chance.randrange(len(free)))
                running[hand_one(rig, kind, place, chance)] = kind, place
                if kind == "/blocks":
                    go.release()
            if not running:
                continue
            dispatch = next(iter(running)) if chance.random() < 0.5 else chance.choice([*running])
            kind, place = running.pop(dispatch)
            assert rig.collect(dispatch).content == EXPECTED[kind]
            free.append(place)


@pytest.mark.parametrize("threads", [1, 2, 4, 8])
@pytest.mark.parametrize("sleeps", [True, False])
@pytest.mark.parametrize("at_hand", [1, 3, 20])
def test_a_storm_loses_nothing(threads: int, sleeps: bool, at_hand: int) -> None:
    with served(answering(), threads, prefetch=16) as rig:
        record = request_record(0, fields=[("Host", "h")])
        assert rig.core.storm(record, 4000, at_hand, sleeps) == 4000


def test_a_storm_of_generators_loses_nothing() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"one"
        yield b"two"

    with served(application, threads=4, prefetch=16) as rig:
        assert rig.core.storm(request_record(0), 4000, 20, True) == 4000


def test_a_storm_of_errors_loses_nothing(capfd: Any) -> None:
    count = iter(range(10**6))

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if next(count) % 3 == 0:
            raise ValueError
        start_response("200 OK", [])
        return iter([b"one"])

    with served(application, threads=4, prefetch=16) as rig:
        assert rig.core.storm(request_record(0), 600, 20, True) == 600


def test_an_idle_worker_does_nothing() -> None:
    with served(answering(), threads=4) as rig:
        for _ in range(5):
            rig.ask()
        # Once it has gone to sleep its hint stays odd, and no thread is switched to any more.
        settled = switches()
        while settled != (settled := switches_after(0.2)):
            pass
        assert rig.core.worker_armed() & 1


def test_a_draining_worker_sleeps_while_it_waits_for_content() -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        return answering(environ["wsgi.input"].read())(environ, start_response)

    with served(application) as rig:
        streamed = rig.hand(flags=STREAMED, content_length=-1)
        rig.tell("PING", value=5)
        while rig.core.wait()[0] != "PONG":
            pass
        rig.tell("DRAIN")
        # Its hint becomes odd, and stays what it is.
        settled = 0
        while not settled & 1 or settled != rig.core.worker_armed():
            settled = rig.core.worker_armed()
            threading.Event().wait(0.05)
        rig.tell("CONTENT", streamed, data=b"late", flags=FLAG_END)
        assert rig.collect(streamed).content == b"late"


def switches() -> int:
    """How often the threads of this process, but this one, have been given a CPU."""
    import os

    total = 0
    for thread in os.listdir("/proc/self/task"):
        if int(thread) == threading.get_native_id():
            continue
        with open(f"/proc/self/task/{thread}/status") as status:
            total += sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
    return total


def switches_after(seconds: float) -> int:
    """The same, a while later."""
    threading.Event().wait(seconds)
    return switches()


# -- the validator of the standard library -------------------------------------------------------


def writing(environ: dict[str, Any], start_response: Any) -> Any:
    """Uses write()."""
    start_response("200 OK", [("Content-Type", "text/plain")])(b"written ")
    return [b"returned"]


def echoing(environ: dict[str, Any], start_response: Any) -> Any:
    """Reads its content in every way that the validator admits."""
    stream = environ["wsgi.input"]
    data = stream.read(3) + stream.readline() + b"".join(stream.readlines()) + b"".join(stream)
    environ["wsgi.errors"].write("")
    environ["wsgi.errors"].flush()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return iter([data])


@pytest.mark.parametrize(
    "application", [answering(headers=[("Content-Type", "a/b")]), writing, echoing]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_wsgiref_validate(application: Any, method: str, capfd: Any) -> None:
    content = b"content\nof two lines" if method == "POST" else None
    with served(validator(application)) as rig:
        answer = rig.ask(method=method, content=content, query="a=b")
        assert answer.status == 200
        if application is echoing and content:
            assert answer.content == content
    assert capfd.readouterr().err == ""
