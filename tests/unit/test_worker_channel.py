"""The channel itself: what is refused, what is sealed, how it ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fake_core import Answer, answering, one, served
from kernelq._coretest import FakeCore, control_record, request_record

from kernelq._worker import CHANNEL_FDS, Channel


def in_a_process(run: Callable[[], None]) -> tuple[int, str]:
    """Run in a forked process of its own: how it ended, and what it wrote to its standard error."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.dup2(writing, 2)
        os.close(writing)
        status = 99
        try:
            run()
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "r") as stream:
        text = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


def open_fds() -> set[str]:
    """The descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))


def test_descriptors_in_the_order_of_the_contract() -> None:
    assert CHANNEL_FDS[:3] == ("core_memory", "worker_memory", "side_socket")


def test_another_layout_is_refused_by_both_numbers() -> None:
    core = FakeCore(version=77)
    with pytest.raises(ValueError, match="layout 77, this worker's kernelq has 3"):
        Channel(list(core.worker_fds))
    for fd in core.worker_fds:
        os.close(fd)
    core.close()


def test_what_is_no_channel_is_refused() -> None:
    core = FakeCore()
    fds = list(core.worker_fds)
    with pytest.raises(ValueError, match="no kernelq channel"):
        Channel([fds[1], *fds[1:]])
    with pytest.raises(ValueError, match="has not 4 descriptors"):
        Channel(fds[:4])
    with pytest.raises(OSError, match="file descriptor"):
        Channel([999, *fds[1:]])
    for fd in fds:
        os.close(fd)
    core.close()


def test_a_worker_memory_that_is_too_small_is_refused() -> None:
    core = FakeCore()
    fds = list(core.worker_fds)
    os.ftruncate(fds[1], 4096)
    with pytest.raises(ValueError, match="too small"):
        Channel(fds)
    for fd in fds:
        os.close(fd)
    core.close()


def test_the_memory_is_sealed_and_described() -> None:
    with served(answering(), loops=3, threads=2, prefetch=5) as rig:
        assert rig.core.is_sealed()
        head = rig.core.worker_head()
        assert head["owner"] == 2
        assert head["loop_count"] == 3
        assert head["creator_pid"] == os.getpid()
        assert rig.channel.slot_count == 2
        assert rig.channel.worker == 7


def test_nothing_is_left_behind() -> None:
    before = open_fds()
    threads = threading.active_count()
    for loops in (1, 4):
        with served(answering(), threads=3, loops=loops) as rig:
            for loop in range(loops):
                assert rig.ask(loop=loop, ring=loop).content == b"ok"
    assert open_fds() == before
    assert threading.active_count() == threads


def test_the_number_of_threads_is_the_number_of_slots() -> None:
    core = FakeCore(slots=2)
    channel = Channel(list(core.worker_fds))
    with pytest.raises(ValueError, match="expects 2 threads"):
        channel.serve(one(answering()), 3)
    channel.close()
    with pytest.raises(ValueError, match="closed"):
        channel.ready()
    core.close()


def test_answers_go_to_the_loop_that_owns_the_exchange() -> None:
    with served(answering(), loops=4, threads=2) as rig:
        for ring in range(4):
            for loop in range(4):
                assert rig.ask(loop=loop, ring=ring).content == b"ok"


def test_content_may_arrive_before_its_request() -> None:
    # Another loop hands over than the one that owns the connection: two rings, without order.
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        data = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [data]

    with served(application, loops=2) as rig:
        for _ in range(4):
            dispatch = rig.core.next_dispatch(1)
            rig.answers[dispatch] = Answer()
            # Nobody is rung before all of it is there.
            rig.core.put(control_record("CONTENT", dispatch, 0, data=b"early"), 1, False)
            rig.core.put(control_record("CONTENT", dispatch, 0, flags=1), 1, False)
            rig.core.put(request_record(dispatch, 0, flags=16, content_length=-1), 0, False)
            rig.core.ring(1)
            assert rig.collect(dispatch).content == b"early"


def test_ping() -> None:
    with served(answering(), loops=2, threads=2) as rig:
        for ring in range(2):
            rig.tell("PING", value=123 + ring, ring=ring)
            kind, _, _, _, rest = rig.core.wait()
            assert (kind, rest) == ("PONG", 123 + ring)


def test_a_revoked_request_is_skipped() -> None:
    ran: list[str] = []
    entered = threading.Semaphore(0)
    go = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        ran.append(environ["PATH_INFO"])
        entered.release()
        go.wait()
        return answering()(environ, start_response)

    with served(application, prefetch=2) as rig:
        first = rig.hand(place=0, target="/1")
        entered.acquire()
        second = rig.hand(place=1, target="/2")
        third = rig.hand(place=2, target="/3")
        assert not rig.core.revoke(1, second)
        assert rig.core.revoke(0, first)
        go.set()
        assert rig.collect(first).content == b"ok"
        assert rig.collect(second).is_skipped
        assert rig.collect(third).content == b"ok"
    assert ran == ["/1", "/3"]


def test_a_revoked_request_gives_its_spill_file_back(tmp_path: Any) -> None:
    entered = threading.Semaphore(0)
    go = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        entered.release()
        go.wait()
        return answering()(environ, start_response)

    with served(application, prefetch=2) as rig:
        first = rig.hand()
        entered.acquire()
        before = open_fds()
        second = rig.hand_spilled(b"content", tmp_path / "spill")
        rig.core.revoke(1, second)
        go.set()
        rig.collect(first)
        assert rig.collect(second).is_skipped
        assert open_fds() == before


# -- the end -------------------------------------------------------------------------------------


def test_drain_finishes_what_runs_and_skips_what_does_not() -> None:
    entered = threading.Semaphore(0)
    go = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        entered.release()
        go.wait()
        return answering()(environ, start_response)

    with served(application, threads=2, prefetch=3) as rig:
        running = [rig.hand(place=place) for place in range(2)]
        for _ in running:
            entered.acquire()
        waiting = [rig.hand(place=2 + place) for place in range(3)]
        for place, dispatch in enumerate(waiting):
            rig.core.revoke(2 + place, dispatch)
        rig.tell("DRAIN")
        assert not rig.channel.wait(0.05)
        go.set()
        for dispatch in running:
            assert rig.collect(dispatch).content == b"ok"
        for dispatch in waiting:
            assert rig.collect(dispatch).is_skipped
        assert rig.channel.wait(20)


@pytest.mark.parametrize("threads", [1, 3])
def test_drain_by_the_process_itself(threads: int) -> None:
    entered = threading.Semaphore(0)
    go = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        entered.release()
        go.wait()
        return answering()(environ, start_response)

    with served(application, threads=threads, prefetch=3) as rig:
        dispatch = rig.hand(place=0)
        entered.acquire()
        left = rig.hand(place=threads)
        rig.channel.drain()
        assert not rig.channel.wait(0.05)
        go.set()
        assert rig.collect(dispatch).content == b"ok"
        assert rig.channel.wait(20)
        if threads == 1:
            assert rig.core.started(threads) != left
            assert rig.core.take() is None


def test_drain_while_nothing_runs() -> None:
    with served(answering(), threads=2) as rig:
        rig.ask()
        assert not rig.channel.wait(0)
        rig.channel.drain()
        assert rig.channel.wait(20)


def test_wait_ends_at_a_signal() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with served(answering()) as rig:
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            assert not rig.channel.wait(60)
            timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_serving_threads_block_no_signals() -> None:
    # A process started from one would inherit the mask, and SIGTERM could not end it.
    masks: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return answering()(environ, start_response)

    with served(application) as rig:
        rig.ask()
    assert masks == [set()]


@pytest.mark.parametrize("moment", ["idle", "running"])
def test_a_core_that_dies_ends_the_process(moment: str) -> None:
    def run() -> None:
        core = FakeCore(slots=1, response_window=10)
        channel = Channel(list(core.worker_fds))
        core.attach()
        for fd in core.worker_fds:
            assert fd not in core.doorbells
        channel.serve(one(answering(b"x" * 100)), 1)
        channel.ready()
        if moment == "running":
            core.put(request_record(core.next_dispatch(), 0))
            while core.take() is None:
                pass
            while core.take() is None:
                pass
        core.close_doorbells()
        channel.wait(60)
        os._exit(98)

    assert in_a_process(run) == (0, "")


@pytest.mark.parametrize("kind", [8, 0, 9, 32, 34, 255])
def test_a_record_of_an_unknown_kind_ends_the_process(kind: int) -> None:
    def run() -> None:
        with served(answering()) as rig:
            rig.tell(kind)  # type: ignore[arg-type]
            rig.channel.wait(60)

    status, text = in_a_process(run)
    assert status == 70
    assert "ends itself: the core sent a record of an unknown kind\n" in text
    assert text.count("\n") == 1


BROKEN: dict[str, Callable[[], bytes]] = {
    "place": lambda: request_record(1 << 8, 100),
    "loop": lambda: request_record(1 << 8 | 9, 0),
    "too short": lambda: request_record(1 << 8, 0)[:4].ljust(48, b"\0"),
    "lengths": lambda: damaged(request_record(1 << 8, 0, target="/abc"), 40, 255),
    "field count": lambda: damaged(request_record(1 << 8, 0, fields=[("A", "b")]), 24, 255),
    "number record": lambda: control_record("RELEASED", 1 << 8, 0),
}


def damaged(record: bytes, at: int, value: int) -> bytes:
    """The record with another byte at a place."""
    return record[:at] + bytes([value]) + record[at + 1 :]


@pytest.mark.parametrize("name", BROKEN)
def test_a_malformed_record_ends_the_process(name: str) -> None:
    def run() -> None:
        with served(answering()) as rig:
            rig.core.put(BROKEN[name]())
            rig.channel.wait(60)

    status, text = in_a_process(run)
    assert status == 70
    assert "ends itself" in text


# -- processes that the application forks --------------------------------------------------------


def test_a_forked_child_finds_the_channel_closed() -> None:
    results: list[int] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", [])
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                write(b"from the child")
            except ConnectionError:
                status = 42
            finally:
                os._exit(status)
        results.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return [b"from the parent"]

    with served(application, threads=2) as rig:
        for _ in range(3):
            assert rig.ask().content == b"from the parent"
    assert results == [42] * 3


@pytest.mark.parametrize("how", ["returns", "raises", "yields"])
def test_a_forked_child_that_comes_back_to_the_server_ends(how: str, capfd: Any) -> None:
    results: list[int] = []

    def blocks() -> Any:
        yield b"child"

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        pid = os.fork()
        if pid == 0:
            if how == "raises":
                raise ValueError
            return [b"from the child"] if how == "returns" else blocks()
        results.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return [b"from the parent"]

    with served(application) as rig:
        answer = rig.ask()
        assert (answer.content, answer.kinds) == (b"from the parent", ["HEAD"])
    assert results == [70]
    assert "forked by the application returned to the server" in capfd.readouterr().err


def test_a_forked_child_cannot_read_streamed_content() -> None:
    results: list[int] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        pid = os.fork()
        if pid == 0:
            try:
                environ["wsgi.input"].read()
            except ConnectionError:
                os._exit(42)
            finally:
                os._exit(1)
        results.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    with served(application) as rig:
        dispatch = rig.hand(flags=16, content_length=3)
        rig.tell("CONTENT", dispatch, data=b"abc")
        assert rig.collect(dispatch).content == b"abc"
    assert results == [42]
