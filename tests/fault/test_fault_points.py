"""A worker dies at every named point of a request's life; the client sees nothing of it, or the
right 502, and never a wrong answer (promise 2).

A fault point is a FAULT() in kernelq/core/worker_*.pxi; test_every_point_is_tried compares this
file with those.
"""

import re
import signal

import pytest
from harness import ROOT
from load import Broken, Client, Request, read_executions, run_load

# Nothing of the request has been started, or all of its answer published: any method is served.
INVISIBLE = {
    "worker-taken": "/",
    "worker-published": "/",
    "worker-answered": "/",
}
# It may have been started: GET is executed again, POST is answered 502.
STARTED = {
    "worker-stored": "/",
    "worker-started": "/",
    "worker-returned": "/",
    "worker-called": "/flush",
    "worker-claimed": "/",
    "worker-file-sent": "/file",
}
ELSEWHERE = {
    "worker-ends",
    "worker-mapped",
    "worker-ready",
    "worker-ready-said",
    "worker-drains",
    "worker-skips",
    "worker-skipped",
    "worker-pending",
    "worker-consumes",
}
DEATH = r"\bdied: signal 9"


def requests_of(path, count=24):
    for number in range(count):
        content = b"" if number % 2 else b"content " * (20_000 if number % 6 == 0 else 1)
        yield Request(number, "POST" if content else "GET", path, content)


def run_through(server, path):
    """A load during which the fault point is met once: its outcome and its executions."""
    run_load(server.address, requests_of(path), clients=4)
    server.executions.write_text("")
    server.token.touch()
    outcome = run_load(server.address, requests_of(path), clients=4)
    assert not server.token.exists(), "the fault point was not met"
    server.log.wait_for(DEATH)
    assert outcome.broken == []
    return outcome, read_executions(server.executions)


def test_every_point_is_tried():
    parts = (ROOT / "kernelq" / "core").glob("worker_*.pxi")
    points = {name for part in parts for name in re.findall(r'FAULT\(b"(.*?)"\)', part.read_text())}
    assert points == INVISIBLE.keys() | STARTED.keys() | ELSEWHERE


@pytest.mark.parametrize("point", INVISIBLE)
def test_death_that_nobody_sees(serve_with_fault, point):
    server = serve_with_fault(f"{point}:kill:2", "--workers", "2", "--threads", "1")
    outcome, executions = run_through(server, INVISIBLE[point])
    assert outcome.failed() == []
    assert all(len(pids) == 1 for pids in executions.values())


@pytest.mark.parametrize("point", STARTED)
def test_death_of_a_started_request(serve_with_fault, point):
    server = serve_with_fault(f"{point}:kill:2", "--workers", "2", "--threads", "1")
    outcome, executions = run_through(server, STARTED[point])
    assert len(outcome.failed()) <= 1
    assert all(found[1:] == ("POST", 502) for found in outcome.failed())
    for number, pids in executions.items():
        assert len(pids) <= (1 if outcome.requests[number].method == "POST" else 2)


def test_death_behind_the_last_byte(serve_with_fault):
    # All that Content-Length promised is out, and only END is missing: the response is complete.
    server = serve_with_fault("worker-ends:kill:2", "--workers", "2", "--threads", "1")
    outcome, executions = run_through(server, "/blocks")
    assert outcome.failed() == []
    assert all(len(pids) == 1 for pids in executions.values())


@pytest.mark.parametrize(
    ("fault", "path"), [("worker-claimed:kill:7", "/blocks"), ("worker-ends:kill:2", "/chunked")]
)
def test_death_within_a_response(serve_with_fault, fault, path):
    # Bytes of the response have reached the client: it sees that the rest is missing.
    server = serve_with_fault(fault, "--workers", "1", "--threads", "1", armed=True)
    request = Request(5, path=path)  # answered in four blocks
    with Client(server.address) as client, Client(server.address) as other:
        assert client.ask(request).status == 200
        with pytest.raises(Broken, match="closed after"):
            client.ask(request)
        assert other.ask(request).status == 200
    assert not server.token.exists()
    server.log.wait_for(DEATH)
    server.log.wait_for(r"Connection_Abandoned_By_AppPool.*n=5")
    assert len(read_executions(server.executions)[5]) == 3


@pytest.mark.parametrize("point", ["worker-mapped", "worker-ready", "worker-ready-said"])
def test_death_at_the_start(serve_with_fault, point):
    # Requests wait in the queue until some worker lives.
    server = serve_with_fault(f"{point}:kill", "--workers", "1", armed=True, ready=False)
    server.wait_until_bound()
    outcome = run_load(server.address, requests_of("/"), clients=4)
    assert not server.token.exists(), "the fault point was not met"
    assert (outcome.broken, outcome.failed()) == ([], [])
    server.log.wait_for(DEATH)


def test_death_while_draining(serve_with_fault):
    server = serve_with_fault("worker-drains:kill", "--workers", "2", armed=True)
    outcome = run_load(server.address, requests_of("/sleep-2"), clients=4)
    server.signal(signal.SIGHUP)
    server.log.wait_for("the new code serves")
    more = run_load(server.address, requests_of("/sleep-2"), clients=4)
    for one in (outcome, more):
        assert one.broken == []
        assert all(found[1:] == ("POST", 502) for found in one.failed())
    server.log.wait_for(r"\bended: signal 9")
    server.log.wait_for(r"\bended: exit status 0")


def test_death_while_content_streams_in(serve_with_fault, connect):
    # The content is not held, so that not even PUT can be executed again.
    server = serve_with_fault(
        "worker-consumes:kill", "--workers", "2", "--content", "streamed", armed=True
    )
    client = connect(server)
    answer = client.ask(Request(0, "PUT", content=b"x" * 1_000_000))
    assert answer.status == 502
    assert answer.fields["connection"] == "close"
    server.log.wait_for(DEATH)
    assert connect(server).ask(Request(1, "PUT", content=b"x" * 1_000_000)).status == 200
    assert len(read_executions(server.executions)[0]) == 1


def test_death_with_a_request_set_aside(serve_with_fault, connect):
    # The only thread waits for content, and meets a request that it cannot run meanwhile.
    server = serve_with_fault(
        *("worker-pending:kill", "--workers", "1", "--threads", "1", "--content", "streamed"),
        armed=True,
    )
    waiting, other = connect(server), connect(server)
    request = Request(0, "POST", content=b"x" * 1000)
    waiting.send_bytes(request.encode()[:-500])
    server.wait_for_execution(0)
    other.send(Request(1, "POST", content=b"y"))
    assert other.read_answer().status == 200
    waiting.send_bytes(request.encode()[-500:])
    assert waiting.read_answer().status == 502
    assert [len(pids) for _, pids in sorted(read_executions(server.executions).items())] == [1, 1]


def test_service_dies(serve_with_fault, connect):
    # The core's own point: whoever supervises sees the status, and nobody is left behind.
    server = serve_with_fault("handed, not rung:kill", "--workers", "2", armed=True)
    client = connect(server)
    client.send(Request(0))
    assert server.wait() == 128 + signal.SIGKILL
    with pytest.raises(Broken):
        client.read_answer()
    server.log.wait_for("the service died: signal 9")
    assert server.leftovers() == []
