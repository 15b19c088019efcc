"""A request whose worker died is executed again alone, within its limit; a poisonous one gets its
502, harms no neighbour and is known by name in the log (promise 2).
"""

import re

import pytest
from load import Request, read_executions, run_load

DEATH = r"\bdied: signal 9"


def neighbours(count=80, first=100):
    return (Request(number, path="/sleep-5") for number in range(first, first + count))


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("options", "method", "times"),
    [
        ((), "GET", 3),
        ((), "PUT", 3),
        ((), "POST", 1),
        (("--redispatch", "always"), "POST", 3),
        (("--redispatch", "never", "--threads", "1"), "GET", 1),
        (("--redispatch-limit", "0", "--threads", "1"), "GET", 1),
        (("--redispatch-limit", "4"), "GET", 5),
    ],
)
def test_poisonous_request(serve, workers, options, method, times):
    server = serve("--workers", workers, "--rapid-fail", "off", *options)
    run_load(server.address, neighbours(8, first=0))
    poison = Request(50, method, "/kill", b"poison" if method != "GET" else b"")
    with_poison = [*neighbours(10), poison, *neighbours(60, first=200)]
    outcome = run_load(server.address, with_poison, clients=8)
    executions = read_executions(server.executions)
    assert outcome.broken == []
    assert outcome.failed() == [(50, method, 502)]
    assert len(executions[50]) == times
    # Who shared its worker the first time was executed once more; its next turns were alone.
    assert all(len(pids) <= 2 for number, pids in executions.items() if number != 50)
    named = 0
    for time in range(times):
        named += "/kill?n=50 of 127.0.0.1" in server.log.wait_for(DEATH + ".*", time + 1).group()
    assert named == times, str(server.log)


def test_suspects_behind_one_another(serve, connect):
    # Four requests die with their worker: each is answered, one after the other, with one worker.
    server = serve("--workers", "1", "--threads", "4")
    clients = [connect(server) for _ in range(5)]
    for number, client in enumerate(clients[:3]):
        client.send(Request(number, path="/wait-go"))
        server.wait_for_execution(number)
    (server.directory / "first").touch()
    clients[3].send(Request(3, path="/once-second"))
    server.log.wait_for(DEATH)
    (server.directory / "go").touch()
    clients[4].send(Request(4))
    assert [client.read_answer().status for client in clients] == [200] * 5
    executions = read_executions(server.executions)
    assert [len(executions[number]) for number in range(5)] == [2, 2, 2, 2, 1]


def test_client_of_a_suspect_leaves(serve, connect):
    # The worker that was kept for the suspect serves the others again.
    server = serve("--workers", "1", "--threads", "2")
    blocker, suspect, killer, other = (connect(server) for _ in range(4))
    suspect.send(Request(1, path="/wait-never"))
    server.wait_for_execution(1)
    killer.send(Request(2, "POST", "/kill", b"x"))
    assert killer.read_answer().status == 502
    server.wait_for_execution(1, times=2)
    suspect.reset()
    other.send(Request(3))
    (server.directory / "never").touch()
    assert other.read_answer().status == 200
    assert blocker.ask(Request(4)).status == 200


def test_death_is_one_line(serve, connect):
    server = serve("--workers", "1", "--threads", "4")
    clients = [connect(server) for _ in range(4)]
    for number, client in enumerate(clients[:3]):
        client.send(Request(number, path="/wait-go"))
        server.wait_for_execution(number)
    clients[3].send(Request(3, path="/exit-9"))
    line = server.log.wait_for(r"warning pool default: worker \d+ \(pid \d+\) died: .*").group()
    assert re.search(r"exit status 9, \d+\.\d MiB at most, 0 requests served, in hand: ", line)
    for number in range(3):
        assert re.search(rf"GET /wait-go\?n={number} of 127\.0\.0\.1 for \d+\.\d\d s", line), line
    assert "GET /exit-9?n=3 of 127.0.0.1" in line
    (server.directory / "go").touch()
    assert [client.read_answer().status for client in clients[:3]] == [200] * 3
    assert clients[3].read_answer().status == 502
