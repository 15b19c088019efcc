"""Workers die, stop, hang and run out of memory under load, and no client notices (promise 2)."""

import os
import signal
from collections.abc import Collection, Iterator

from load import Answer, Outcome, Request, read_executions, run_load

REQUESTS = 900
KILLS = 10


def mixed_requests(count: int, first: int = 0) -> Iterator[Request]:
    """GETs and POSTs, some with large content, some that answer in blocks or from a file."""
    paths = ("/sleep-4", "/sleep-2", "/", "/sleep-8", "/sleep-1/file")
    for number in range(first, first + count):
        path = paths[number % len(paths)]
        if number % 3 == 0:
            bytes_ = number * 7907 % 3000 + (200_000 if number % 60 == 0 else 1)
            yield Request(number, "POST", path, b"%d." % number * (bytes_ // 5 + 1))
        else:
            yield Request(number, "GET", path)


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


def judge(outcome: Outcome, executions: dict[int, list[int]], dead: Collection[int]) -> None:
    """Promise 2, request by request."""
    assert outcome.broken == []
    assert outcome.answers.keys() == outcome.requests.keys()
    for number, request in outcome.requests.items():
        status = outcome.answers[number].status
        pids = executions.get(number, [])
        if request.method == "POST":
            assert len(pids) <= 1, f"POST {number} was executed {len(pids)} times"
            # 502: its worker died when it had been started, or was just about to.
            assert status == 200 or (status == 502 and set(pids) <= set(dead)), (number, status)
        else:
            assert status == 200, f"{request.method} {number} was answered {status}"
            assert len(pids) <= 3, f"{request.method} {number} was executed {len(pids)} times"
            assert set(pids[:-1]) <= set(dead), "executed again although its worker lived"
        if status == 200:
            assert pids[-1] == outcome.answers[number].pid


def test_killed_workers(serve):
    server = serve("--workers", "2", "--log-level", "debug")
    first_two = {int(server.log.wait_for(r"\(pid (\d+)\) started", times)[1]) for times in (1, 2)}
    killer = Killer(REQUESTS // (KILLS + 1), KILLS)
    outcome = run_load(server.address, mixed_requests(REQUESTS), on_answer=killer)
    judge(outcome, read_executions(server.executions), killer.killed)
    assert len(killer.killed) == KILLS
    # A worker that becomes ready while the core is busy is seen too.
    assert first_two <= {answer.pid for answer in outcome.answers.values() if answer.status == 200}
    assert server.stop() == 0
    assert server.log.count(r"\bdied: signal 9") == KILLS, str(server.log)
    assert server.log.count("Traceback") == 0, str(server.log)
