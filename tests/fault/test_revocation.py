"""A request that was handed over, but not started, is taken back and executed elsewhere (promise
1), also when its worker dies or misbehaves around that.
"""

import os
import signal

import pytest
from load import Request, read_executions, run_load

PREFETCHED = 6


class Blocked:
    """Two workers, one request executing in each until its file exists, more handed over behind."""

    def __init__(self, server, connect) -> None:
        self.server = server
        run_load(server.address, (Request(number) for number in range(100)), clients=8)
        server.executions.write_text("")
        self.clients = [connect(server) for _ in range(2 + PREFETCHED)]
        for number in range(2):
            self.clients[number].send(Request(number, path=f"/wait-go{number}"))
            server.wait_for_execution(number)
        for number, client in enumerate(self.clients[2:], 2):
            client.send(Request(number, "POST", content=b"once"))

    def release(self, number: int) -> int:
        """Lets one go; its worker's pid."""
        (self.server.directory / f"go{number}").touch()
        return self.answer(number).pid

    def answer(self, number: int):
        answer = self.clients[number].read_answer()
        assert answer.status == 200
        return answer

    def executions(self) -> dict[int, list[int]]:
        return read_executions(self.server.executions)


def test_prefetched_requests_move_to_the_free_worker(serve, connect):
    blocked = Blocked(serve("--workers", "2", "--threads", "1"), connect)
    free = blocked.release(1)
    for number in range(2, 2 + PREFETCHED):
        assert blocked.answer(number).pid == free
    stuck = blocked.release(0)
    assert stuck != free
    assert all(len(pids) == 1 for pids in blocked.executions().values())
    # The one that was blocked passes over what was taken back, and serves again.
    outcome = run_load(
        blocked.server.address, (Request(n, path="/sleep-3") for n in range(100, 140))
    )
    assert {answer.pid for answer in outcome.answers.values()} == {stuck, free}


@pytest.mark.parametrize("point", ["worker-skips", "worker-skipped"])
def test_death_while_passing_over(serve_with_fault, connect, point):
    blocked = Blocked(
        serve_with_fault(f"{point}:kill", "--workers", "2", "--threads", "1"), connect
    )
    blocked.server.token.touch()
    free = blocked.release(1)
    for number in range(2, 2 + PREFETCHED):
        assert blocked.answer(number).pid == free
    blocked.release(0)
    blocked.server.log.wait_for(r"\bdied: signal 9")
    assert not blocked.server.token.exists()
    assert all(len(pids) == 1 for pids in blocked.executions().values())


def test_death_with_requests_handed_over(serve, connect):
    # What waited behind the started one in the dead worker is executed, whatever its method.
    blocked = Blocked(serve("--workers", "2", "--threads", "1"), connect)
    for worker in blocked.server.pids("worker"):
        os.kill(worker, signal.SIGKILL)
    for number in range(2, 2 + PREFETCHED):
        blocked.answer(number)
    assert all(len(pids) == 1 for number, pids in blocked.executions().items() if number > 1)
    for number in range(2):
        blocked.release(number)
        assert len(blocked.executions()[number]) == 2


def test_client_leaves_before_its_request_is_started(serve, connect):
    blocked = Blocked(serve("--workers", "2", "--threads", "1"), connect)
    for client in blocked.clients[3:]:
        client.reset()
    blocked.release(1)
    blocked.answer(2)
    blocked.release(0)
    outcome = run_load(blocked.server.address, (Request(number) for number in range(100, 150)))
    assert outcome.failed() == []
    assert blocked.executions().keys() == {0, 1, 2, *range(100, 150)}
