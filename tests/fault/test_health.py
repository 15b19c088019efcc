"""Workers that live and do not serve: stopped, hanging, out of memory, beyond the request's time
limit; and managers that are held up while workers die.
"""

import os
import signal

import pytest
from load import Request, judge, mixed_requests, read_executions, run_load

SLOW_MANAGERS = 5.0  # seconds


def test_stopped_worker(serve, connect):
    # SIGSTOP takes a worker out of service within about a second; what it had not started goes to
    # others, what it had started waits for it, and it serves again after SIGCONT.
    server = serve("--workers", "2", "--threads", "4")
    client = connect(server)
    client.send(Request(0, path="/wait-go"))
    server.wait_for_execution(0)
    stopped = read_executions(server.executions)[0][0]
    server.suspend(stopped)
    (server.directory / "go").touch()
    outcome = run_load(server.address, mixed_requests(300, first=1))
    judge(outcome, read_executions(server.executions), ())
    assert outcome.failed() == []
    assert stopped not in {answer.pid for answer in outcome.answers.values()}
    server.log.wait_for(rf"\(pid {stopped}\) leaves requests unstarted")
    os.kill(stopped, signal.SIGCONT)
    assert client.read_answer().pid == stopped
    server.log.wait_for(rf"\(pid {stopped}\) starts its requests again")
    more = run_load(server.address, mixed_requests(100, first=1000))
    assert stopped in {answer.pid for answer in more.answers.values()}


def test_stopped_worker_is_replaced(serve, connect):
    server = serve(
        *("--workers", "2", "--threads", "2", "--ping-response-time", "1s"),
        *("--graceful-timeout", "1s"),
    )
    client = connect(server)
    stopped = client.ask(Request(0)).pid
    client.send(Request(1, path="/wait-go"))  # one of the two executes it
    server.wait_for_execution(1)
    stopped = read_executions(server.executions)[1][0]
    server.suspend(stopped)
    (server.directory / "go").touch()
    outcome = run_load(server.address, mixed_requests(200, first=10))
    judge(outcome, read_executions(server.executions), ())
    assert client.read_answer().pid != stopped
    server.log.wait_for(rf"\(pid {stopped}\) did not recover in time and is replaced")
    server.log.wait_for(rf"\(pid {stopped}\) ended: signal 9.*in hand: GET /wait-go\?n=1 of ")
    assert read_executions(server.executions)[1][0] == stopped


def test_worker_that_holds_the_interpreter_lock(serve, connect):
    # Its other threads cannot start what they are handed: others do, and it recovers.
    server = serve("--workers", "2", "--threads", "4")
    holder = connect(server)
    holder.send(Request(0, path="/hold-3"))
    server.wait_for_execution(0)
    outcome = run_load(server.address, mixed_requests(300, first=1))
    judge(outcome, read_executions(server.executions), ())
    assert outcome.failed() == []
    assert holder.read_answer().status == 200


def test_all_slots_blocked(serve, connect):
    # Application code that runs is never unhealthy, however long.
    server = serve("--workers", "2", "--threads", "2", "--ping-response-time", "1s")
    blockers = [connect(server) for _ in range(2)]
    for number, client in enumerate(blockers):
        client.send(Request(number, path="/wait-go"))
        server.wait_for_execution(number)
    outcome = run_load(server.address, mixed_requests(400, first=10))
    assert (outcome.broken, outcome.failed()) == ([], [])
    others = [connect(server) for _ in range(4)]
    for number, client in enumerate(others, 2):
        client.send(Request(number, path="/wait-go"))
    (server.directory / "go").touch()
    for client in (*blockers, *others):
        assert client.read_answer().status == 200
    assert server.log.count("did not recover|unstarted") == 0, str(server.log)


def test_out_of_memory(serve):
    # Under an address space limit the application gets its MemoryError, and the client a 500; the
    # worker lives on, or dies; neighbours are served either way.
    server = serve("--workers", "2", "--threads", "2", environment={"FAULT_APP_LIMIT": "1000"})
    hungry = [Request(1000 + number, path="/eat-1200") for number in range(6)]
    before, after = mixed_requests(100, first=100), mixed_requests(100, first=300)
    outcome = run_load(server.address, [*before, *hungry, *after])
    assert outcome.broken == []
    statuses = {number: answer.status for number, answer in outcome.answers.items()}
    assert {statuses[request.number] for request in hungry} <= {500, 502}
    for number, request in outcome.requests.items():
        allowed = {200, 500, 502} if request.method == "POST" else {200, 500}
        assert request in hungry or statuses[number] in allowed, (number, statuses[number])
    assert 200 in statuses.values()
    assert server.log.count("MemoryError") + server.log.count(r"\bdied\b") > 0


def test_request_timeout(serve, connect):
    # 504 at once, on a kept connection; a replacement; the others of its worker finish; then its
    # stacks are in the log and it is gone.
    server = serve(
        *("--workers", "1", "--threads", "3", "--request-timeout", "1s"),
        *("--graceful-timeout", "2s"),
    )
    late, other, third = connect(server), connect(server), connect(server)
    late.send(Request(0, "POST", "/wait-never", b"x"))
    server.wait_for_execution(0)
    old = server.pids("worker")[0]
    answer = late.read_answer()
    assert answer.status == 504
    assert "connection" not in answer.fields
    server.log.wait_for(rf"\(pid {old}\) has a request beyond its time limit and is replaced")
    outcome = run_load(server.address, mixed_requests(100, first=10))
    assert (outcome.broken, outcome.failed()) == ([], [])
    assert {answer.pid for answer in outcome.answers.values()}.isdisjoint({old})
    assert late.ask(Request(1)).status == 200
    server.log.wait_for(rf"worker {old}, thread \d+ \(kernelq-\d\):")
    server.log.wait_for("in wait_for")
    server.log.wait_for(rf"\(pid {old}\) ended: signal 9")
    assert other.ask(Request(2)).status == third.ask(Request(3)).status == 200


def test_request_timeout_spares_the_neighbours(serve, connect):
    server = serve(
        *("--workers", "1", "--threads", "2", "--request-timeout", "2s"),
        *("--graceful-timeout", "30s"),
    )
    late, neighbour = connect(server), connect(server)
    late.send(Request(0, path="/wait-never"))
    server.wait_for_execution(0)
    neighbour.send(Request(1, path="/wait-go"))
    server.wait_for_execution(1)
    assert late.read_answer().status == 504
    (server.directory / "go").touch()
    assert neighbour.read_answer().status in (200, 504)
    (server.directory / "never").touch()
    server.log.wait_for(r"\bended: exit status 0")
    assert read_executions(server.executions).keys() == {0, 1}


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_managers_are_held_up_while_workers_die(serve, options):
    # Recovery of requests does not wait for them: what the dead had is with the living at once.
    server = serve(
        *("--workers", "4", "--log-level", "debug", *options),
        environment={"KERNELQ_STALL": str(SLOW_MANAGERS)},
    )
    server.log.wait_for(r"\(pid (\d+)\) started", times=4)
    run_load(server.address, mixed_requests(100, first=1000))
    dead = []

    def stall_and_kill(count, request, answer):
        if count == 50:
            server.signal(signal.SIGUSR2)
            server.log.wait_for("the managers stall")
        if count in (100, 200, 300) and answer.status == 200 and answer.pid not in dead:
            os.kill(answer.pid, signal.SIGKILL)
            dead.append(answer.pid)

    outcome = run_load(server.address, mixed_requests(600), on_answer=stall_and_kill)
    judge(outcome, read_executions(server.executions), dead)
    assert len(dead) == 3
    # All of it happened while they slept: no replacement was started, nobody waited for one.
    assert server.log.count(r"\(pid \d+\) started") == 4, str(server.log)
    assert outcome.longest_wait < SLOW_MANAGERS
    server.log.wait_for(r"\bdied: signal 9", times=3)
    server.log.wait_for(r"\(pid (\d+)\) started", times=7)
