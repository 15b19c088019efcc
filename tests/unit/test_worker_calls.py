"""Calls of the core: every thread of a worker gets its own answer, whoever reads the rings."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_core import Rig, answering, served
from kernelq._coretest import reply_record
from test_worker_channel import in_a_process

from kernelq import _worker, cache
from kernelq._worker import CALLS, call

FLUSH = CALLS["flush"]


def calling(run: Callable[[dict[str, Any]], object]) -> Any:
    """An application whose content is what a call gave."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        content = repr(run(environ)).encode()
        start_response("200 OK", [])
        return [content]

    return application


def next_call(rig: Rig) -> tuple[Any, ...]:
    """(number, operation, flags, first, second) of the next CALL."""
    while True:
        kind, _, place, dispatch, rest = rig.core.wait()
        if kind == "CALL":
            assert (place, dispatch) == (0, 0)
            return rest
        rig.answers[dispatch].add(kind, _, rest)


def reply(rig: Rig, number: int, status: int = 0, value: int = 0, ring: int = 0) -> None:
    assert rig.core.put(reply_record(number, status, value), ring)


class Asking(threading.Thread):
    """A background thread of the application that calls."""

    def __init__(self, run: Callable[[], object]) -> None:
        super().__init__()
        self.run_it = run
        self.outcome: object = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.run_it()
        except Exception as found:
            self.outcome = found

    def end(self) -> object:
        self.join(20)
        assert not self.is_alive()
        return self.outcome


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_request_calls(threads: int) -> None:
    with served(calling(lambda _: call(FLUSH, b"one", b"two", 1)), threads) as rig:
        for value in range(50):
            dispatch = rig.hand(place=0)
            number, *rest = next_call(rig)
            assert rest == [FLUSH, 1, b"one", b"two"]
            reply(rig, number, value % 3, value)
            assert rig.collect(dispatch).content == repr((value % 3, value)).encode()


@pytest.mark.parametrize("loop", range(3))
def test_a_request_calls_the_loop_that_owns_it(loop: int) -> None:
    with served(calling(lambda _: call(FLUSH, b"")), loops=3) as rig:
        dispatch = rig.hand(loop=loop, ring=(loop + 1) % 3)
        number = None
        while number is None:
            answer = rig.core.take(loop)
            number = answer and answer[4][0]
        reply(rig, number, ring=loop)
        assert rig.collect(dispatch).content == b"(0, 0)"


def test_all_threads_call_and_are_answered_in_any_order() -> None:
    with served(calling(lambda environ: call(FLUSH, environ["QUERY_STRING"].encode())), 8) as rig:
        for _ in range(20):
            waiting = {rig.hand(place=place, query=str(place)): place for place in range(8)}
            asked = [next_call(rig) for _ in waiting]
            for number, _, _, text, _ in reversed(asked):
                reply(rig, number, value=100 + int(text))
            for dispatch, place in waiting.items():
                assert rig.collect(dispatch).content == f"(0, {100 + place})".encode()


@pytest.mark.parametrize("threads", [1, 4])
def test_a_background_thread_calls_while_all_is_idle(threads: int) -> None:
    with served(answering(), threads) as rig:
        for value in range(20):
            asking = Asking(lambda: call(FLUSH, b"x"))
            reply(rig, next_call(rig)[0], value=value)
            assert asking.end() == (0, value)
            assert rig.ask(place=0).content == b"ok"


def test_a_background_thread_reads_for_itself_while_all_threads_are_busy() -> None:
    go = threading.Semaphore(0)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/long":
            go.acquire()
        return answering()(environ, start_response)

    with served(application, threads=2, prefetch=4) as rig:
        for value in range(20):
            long = [rig.hand(place=place, target="/long") for place in range(2)]
            askings = [Asking(lambda: call(FLUSH, b"x")) for _ in range(3)]
            numbers = [next_call(rig)[0] for _ in askings]
            # A request that comes meanwhile is kept for a thread that can run it.
            behind = rig.hand(place=3)
            for number in numbers:
                reply(rig, number, value=value)
            assert [asking.end() for asking in askings] == [(0, value)] * 3
            go.release(2)
            for dispatch in [*long, behind]:
                assert rig.collect(dispatch).content == b"ok"


def test_more_calls_than_may_be_under_way_wait() -> None:
    with served(answering()) as rig:
        askings = [Asking(lambda: call(FLUSH, b"x")) for _ in range(80)]
        numbers = [next_call(rig)[0] for _ in range(64)]
        assert len(set(numbers)) == 64
        assert rig.core.take_any() is None
        for value, number in enumerate(numbers):
            reply(rig, number, value=value)
        for value in range(64, 80):
            reply(rig, next_call(rig)[0], value=value)
        outcomes = [asking.end() for asking in askings]
        assert sorted(outcomes) == [(0, value) for value in range(80)]  # type: ignore[type-var]


@pytest.mark.parametrize("where", ["request", "thread"])
def test_a_call_without_an_answer_ends(where: str) -> None:
    def ask(_: object = None) -> object:
        try:
            return call(FLUSH, b"x", limit=0.05)
        except TimeoutError as found:
            return str(found)

    said = "the core has not answered within 0.05 s"
    with served(calling(ask)) as rig:
        if where == "request":
            assert rig.ask().content == repr(said).encode()
        else:
            assert Asking(ask).end() == said


def test_a_call_without_an_answer_ends_although_its_thread_reads_the_rings() -> None:
    go = threading.Semaphore(0)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        go.acquire()
        return answering()(environ, start_response)

    with served(application, prefetch=2) as rig:
        for _ in range(10):
            dispatch = rig.hand(place=0)
            rig.tell("PING", value=1)  # read by whoever reads while the only thread is busy
            asking = Asking(lambda: call(FLUSH, b"x", limit=0.03))
            assert isinstance(asking.end(), TimeoutError)
            behind = rig.hand(place=1)
            go.release(2)
            assert rig.collect(dispatch).content == b"ok"
            assert rig.collect(behind).content == b"ok"


def test_a_late_answer_frees_the_place_of_its_call() -> None:
    def ask() -> None:
        with pytest.raises(TimeoutError):
            call(FLUSH, b"x", limit=0.001)

    with served(answering()) as rig:
        numbers = []
        for _ in range(64):
            ask()
            numbers.append(next_call(rig)[0])
        asking = Asking(lambda: call(FLUSH, b"again"))
        reply(rig, numbers[7], value=7)
        number, _, _, text, _ = next_call(rig)
        assert text == b"again"
        assert number & 0xFF == numbers[7] & 0xFF
        assert number != numbers[7]
        reply(rig, number, value=8)
        assert asking.end() == (0, 8)


@pytest.mark.parametrize("number", [0, 64, 255, 1 << 8, 2**64 - 1])
def test_an_answer_to_what_was_never_asked_ends_the_process(number: int) -> None:
    def run() -> None:
        with served(answering()) as rig:
            reply(rig, number)
            rig.channel.wait(60)

    status, text = in_a_process(run)
    assert status == 70
    assert "ends itself: the core has answered what was never asked\n" in text


def test_a_call_is_answered_while_draining() -> None:
    with served(calling(lambda _: call(FLUSH, b"x"))) as rig:
        dispatch = rig.hand()
        number = next_call(rig)[0]
        rig.tell("DRAIN")
        asking = Asking(lambda: call(FLUSH, b"y"))
        other = next_call(rig)[0]
        reply(rig, number, value=1)
        assert rig.collect(dispatch).content == b"(0, 1)"
        reply(rig, other, value=2)
        assert asking.end() == (0, 2)


def test_a_guest_does_not_keep_a_drained_worker() -> None:
    with served(answering()) as rig:
        rig.ask()
        rig.tell("DRAIN")
        assert rig.channel.wait(20)
        asking = Asking(lambda: call(FLUSH, b"x"))
        number = next_call(rig)[0]
        assert rig.channel.wait(20)
        reply(rig, number)
        assert asking.end() == (0, 0)


def test_texts_that_no_call_can_carry() -> None:
    with served(answering()), pytest.raises(ValueError, match="more than a call can carry"):
        call(FLUSH, b"x" * 30000, b"y" * 30000)


def test_a_storm_of_calls_beside_a_storm_of_requests() -> None:
    # Requests, streamed content and calls of four background threads, over two loops.
    count = 150

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        content = repr(call(FLUSH, b"r")).encode()
        start_response("200 OK", [])
        return [content]

    def ask() -> list[tuple[int, int]]:
        return [call(FLUSH, b"b") for _ in range(count)]

    with served(application, threads=3, loops=2, prefetch=3) as rig:
        askings = [Asking(ask) for _ in range(4)]
        running: dict[int, int] = {}
        calls = handed = ended = 0
        while ended < count or calls < 5 * count:
            if len(running) < 6 and handed < count:
                place = next(place for place in range(6) if place not in running.values())
                running[rig.hand(place, handed % 2, handed // 2 % 2)] = place
                handed += 1
                continue
            kind, flags, _, dispatch, rest = rig.core.wait()
            if kind == "CALL":
                calls += 1
                # The fake core takes from any ring; the reply may come by either.
                reply(rig, rest[0], value=9, ring=calls % 2)
                continue
            rig.answers[dispatch].add(kind, flags, rest)
            if rig.answers[dispatch].is_ended:
                assert rig.answers[dispatch].content == b"(0, 9)"
                del running[dispatch]
                ended += 1
        for asking in askings:
            assert asking.end() == [(0, 9)] * count


# -- kernelq.cache ----------------------------------------------------------------------------


@pytest.fixture
def rig() -> Iterator[Rig]:
    def run(environ: dict[str, Any]) -> object:
        words = environ["QUERY_STRING"].split("&")
        try:
            if words[0] == "group":
                return cache.flush_group(*words[1:])
            return cache.flush(words[0], len(words) == 1)
        except Exception as found:
            return f"{type(found).__name__}: {found}"

    with served(calling(run)) as rig:
        yield rig


@pytest.mark.parametrize(
    ("query", "flags", "first", "second"),
    [
        ("/a/b", 1, b"https://h.test:8443/a/b", b""),
        ("/a/b&exactly", 0, b"https://h.test:8443/a/b", b""),
        ("/", 1, b"https://h.test:8443/", b""),
        ("HTTP://Other.test/%7Ea?b=c", 1, b"HTTP://Other.test/%7Ea?b=c", b""),
        ("http://other.test/a#part", 1, b"http://other.test/a", b""),
        ("/\xe4", 1, b"https://h.test:8443/%C3%A4", b""),
        ("group&articles", 0, b"https://h.test:8443", b"articles"),
        ("group&a b&https://x.test", 0, b"https://x.test", b"a b"),
    ],
)
def test_what_a_flush_asks_for(
    rig: Rig, query: str, flags: int, first: bytes, second: bytes
) -> None:
    dispatch = rig.hand(query=query, fields=[("Host", "h.test:8443")], is_https=True)
    number, operation, *rest = next_call(rig)
    assert operation == CALLS["flush_group" if query.startswith("group") else "flush"]
    assert rest == [flags, first, second]
    reply(rig, number, value=3)
    content = rig.collect(dispatch).content
    assert content == (b"None" if query.startswith("group") else b"3")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("a/b", "ValueError: found 'a/b', allowed is an absolute URL, or a path such as /a"),
        ("//h/a", "ValueError: found '//h/a', allowed is an absolute URL, or a path such as /a"),
        ("ftp://h/", "ValueError: found 'ftp://h/', allowed is an absolute URL"),
        ("/a b", "ValueError: found 'https://h.test/a b', a URL has neither spaces"),
        ("group&\xe4", "ValueError: found '\xe4', a group's name is printable ASCII"),
        ("group&a&h.test", "ValueError: found 'h.test', allowed is an absolute URL"),
    ],
)
def test_what_is_no_url_is_refused(rig: Rig, query: str, said: str) -> None:
    answer = rig.ask(query=query, fields=[("Host", "h.test")], is_https=True)
    assert said in answer.content.decode()


def test_a_request_without_a_host_is_of_the_server(rig: Rig) -> None:
    dispatch = rig.hand(query="/a", version_minor=0)
    number, _, _, first, _ = next_call(rig)
    assert first == b"http://example.test:80/a"
    reply(rig, number)
    rig.collect(dispatch)


def test_statuses_become_exceptions(rig: Rig) -> None:
    for status, name in ((1, b"ValueError: found 'http://h'"), (2, b"MemoryError")):
        dispatch = rig.hand(query="http://h")
        reply(rig, next_call(rig)[0], status)
        assert name in rig.collect(dispatch).content


def test_a_background_thread_names_the_host(rig: Rig) -> None:
    assert cache.is_available()
    assert "name the host" in str(Asking(lambda: cache.flush("/a")).end())
    assert "name the host" in str(Asking(lambda: cache.flush_group("a")).end())
    asking = Asking(lambda: cache.flush("http://h/"))
    reply(rig, next_call(rig)[0], value=5)
    assert asking.end() == 5


def test_outside_of_a_worker_it_is_an_error() -> None:
    assert not cache.is_available()
    for function in (lambda: cache.flush("http://h/"), lambda: cache.flush_group("a", "http://h")):
        with pytest.raises(RuntimeError, match="works only in a worker process of kernelq"):
            function()
    with pytest.raises(LookupError):
        call(FLUSH, b"")
    assert _worker.current_environ() is None


def test_a_forked_child_is_no_worker(rig: Rig) -> None:
    def run() -> None:
        os.write(2, b"%d" % cache.is_available())

    assert in_a_process(run) == (0, "0")


def test_a_finalizer_between_two_requests_is_refused(capfd: Any) -> None:
    outcomes: list[object] = []

    class Late:
        def __del__(self) -> None:
            try:
                call(FLUSH, b"x")
            except RuntimeError as found:
                outcomes.append(str(found))

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ["late"] = Late()
        return answering()(environ, start_response)

    with served(application) as rig:
        for _ in range(3):
            rig.ask()
    assert outcomes == ["a serving thread calls the core only while it runs a request"] * 3
