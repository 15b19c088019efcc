"""Workers die, stop, hang and run out of memory under load, and no client notices (promise 2)."""

import os
import signal

import pytest
from load import Answer, Request, judge, mixed_requests, read_executions, run_load


class Killer:
    """Signals the worker of an answer, once per so many answers."""

    def __init__(self, every: int, kills: int, number: int = signal.SIGKILL) -> None:
        self._every = every
        self._left = kills
        self._number = number
        self.killed: list[int] = []

    def __call__(self, count: int, request: Request, answer: Answer) -> None:
        if self._left and count % self._every == 0 and answer.status == 200:
            if answer.pid in self.killed:
                return
            try:
                os.kill(answer.pid, self._number)
            except ProcessLookupError:
                return
            self.killed.append(answer.pid)
            self._left -= 1


def crash_under_load(serve, requests, kills, *options):
    server = serve("--workers", "2", "--log-level", "debug", *options)
    first_two = {int(server.log.wait_for(r"\(pid (\d+)\) started", times)[1]) for times in (1, 2)}
    killer = Killer(requests // (kills + 1), kills)
    outcome = run_load(server.address, mixed_requests(requests), on_answer=killer)
    judge(outcome, read_executions(server.executions), killer.killed)
    assert len(killer.killed) == kills
    # A worker that becomes ready while the core is busy is seen too.
    assert first_two <= {answer.pid for answer in outcome.answers.values() if answer.status == 200}
    assert server.stop() == 0
    assert server.log.count(r"\bdied: signal 9") == kills, str(server.log)
    assert server.log.count("Traceback") == 0, str(server.log)
    return outcome


@pytest.mark.parametrize("options", [(), ("--loops", "3"), ("--preload",), ("--threads", "1")])
def test_killed_workers(serve, options):
    crash_under_load(serve, 600, 7, *options)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("options", [(), ("--loops", "3"), ("--preload",), ("--threads", "1")])
def test_many_killed_workers(serve, options):
    crash_under_load(serve, 20_000, 200, *options)
