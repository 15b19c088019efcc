"""Every row of the table of reasons (kernelq/core/reason.pxd) that a client or an application can
provoke: the status, the word in the log, and whether the connection is kept.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Gate, Server, until
from wire import Client, Ended, Response, chunked, request

from kernelq import _core, control

CORPUS = Path(__file__).resolve().parent.parent / "corpus" / "http1" / "invalid"
ROWS = {row[0]: row[1:] for row in _core.reasons_table()}

# Only memory that runs out or a worker that breaks the protocol provokes these
# (tests/fault/test_hostile_worker.py).
UNPROVOKED = {"NONE", "MEMORY", "WORKER_DISTRUSTED", "RESPONSE_HEAD", "RESPONSE_MISSING"}
provoked: set[str] = set()


def provokes(*names: str) -> Callable[[Any], Any]:
    """Says which rows a test is about."""
    provoked.update(names)

    def mark(test: Any) -> Any:
        return test

    return mark


def word(name: str) -> str:
    status, word = ROWS[name][:2]
    return f"[{word} {status}]" if status else f"[{word}]"


def check_kept(client: Client) -> None:
    """The connection goes on."""
    assert client.ask("/hello?on").text == "hello on"


def check_refused(response: Response, name: str) -> None:
    assert response.status == ROWS[name][0]
    assert response.text.startswith(f"{response.status} ")
    assert len(response.content) < 300


CASES = sorted(path.stem for path in CORPUS.glob("*.expect"))
provoked.update(json.loads((CORPUS / f"{case}.expect").read_text())["reason"] for case in CASES)


@pytest.mark.parametrize("case", CASES)
def test_malformed_request_is_refused_and_closed(server: Server, case: str) -> None:
    expected = json.loads((CORPUS / f"{case}.expect").read_text())
    data = (CORPUS / f"{case}.http").read_bytes()
    if "limits" in expected:
        pytest.skip("needs limits of its own")
    mark = server.mark()
    client = server.connect().send(data)
    method = "HEAD" if data.lstrip(b"\r\n").startswith(b"HEAD ") else "GET"
    response = client.response(method)
    while response.status < 400:  # good requests before the bad one
        response = client.response()
    check_refused(response, expected["reason"])
    assert response.is_last
    assert client.ends()
    server.log.expect(word(expected["reason"]), since=mark)


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    """Small limits."""
    with Server(
        "--max-field-length", "256", "--max-request-bytes", "2000", "--max-target-bytes", "300",
        "--max-field-count", "10", "--max-content", "1000", "--max-connections", "3",
    ) as server:  # fmt: skip
        yield server
        server.close_clients()


@provokes("FIELD_LENGTH", "REQUEST_LENGTH", "URL_LENGTH", "FIELD_COUNT", "CONTENT_TOO_LARGE")
@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("FIELD_LENGTH", ["X: " + "v" * 253], ["X: " + "v" * 254]),
        ("FIELD_COUNT", ["X: y"] * 9, ["X: y"] * 10),
        ("REQUEST_LENGTH", ["X: " + "v" * 200] * 9, ["X: " + "v" * 215] * 9),
        ("CONTENT_TOO_LARGE", ["Content-Length: 0"], ["Content-Length: 1001"]),
        ("URL_LENGTH", 299, 300),
    ],
)
def test_limits(strict: Server, name: str, good: Any, bad: Any) -> None:
    mark = strict.mark()
    for given, is_good in ((good, True), (bad, False)):
        target = "/" + "x" * given if isinstance(given, int) else "/hello"
        lines = [] if isinstance(given, int) else given
        with Client(strict.address()) as client:
            response = client.ask(target, *lines)
            if is_good:
                assert response.status == 200
                continue
            check_refused(response, name)
            assert client.ends()
    strict.log.expect(word(name), since=mark)


@provokes("CONN_LIMIT")
def test_too_many_connections(strict: Server) -> None:
    clients = [strict.connect() for _ in range(3)]
    for client in clients:
        check_kept(client)
    more = strict.connect()
    response = more.response()
    check_refused(response, "CONN_LIMIT")
    assert response.one("Retry-After") is not None
    assert more.ends()
    more.close()
    strict.log.expect(word("CONN_LIMIT"))
    clients.pop().close()
    strict.close_clients()
    until(lambda: strict.ask("/hello").status == 200)


# --- timers


@pytest.fixture(scope="module")
def hasty() -> Iterator[Server]:
    """Short timers."""
    with Server(
        "--idle-timeout", "1", "--header-timeout", "1", "--entity-timeout", "1", "--threads", "1",
        "--queue-timeout", "1", "--min-send-rate", "1000", "--log-level", "debug",
    ) as server:  # fmt: skip
        yield server


@provokes("TIMER_CONNECTION_IDLE")
def test_idle_connection_is_closed(hasty: Server) -> None:
    client = hasty.connect()
    response = client.ask("/hello")
    assert response.one("Keep-Alive") == "timeout=1"
    assert client.ends()
    hasty.log.expect(word("TIMER_CONNECTION_IDLE"), "127.0.0.1")


@provokes("TIMER_HEADER_WAIT")
def test_connection_that_never_asks_is_closed(hasty: Server) -> None:
    mark = hasty.mark()
    assert hasty.connect().ends()
    assert hasty.connect().send(b"\r\n").ends()
    hasty.log.expect(word("TIMER_HEADER_WAIT"), since=mark)


@pytest.mark.parametrize("is_first", [True, False])
def test_unfinished_head_is_a_408(hasty: Server, is_first: bool) -> None:
    mark = hasty.mark()
    client = hasty.connect()
    if not is_first:
        check_kept(client)
    response = dribble(client, request("GET", "/" + "x" * 1000))
    check_refused(response, "TIMER_HEADER_WAIT")
    assert client.ends()
    hasty.log.expect(word("TIMER_HEADER_WAIT"), since=mark)


@provokes("TIMER_ENTITY_BODY")
@pytest.mark.parametrize("pieces", ["none", "dribble", "chunks"])
def test_content_that_does_not_come_is_a_408(hasty: Server, pieces: str) -> None:
    client = hasty.connect()
    if pieces == "chunks":
        client.send(request("POST", f"/echo?{pieces}", "Transfer-Encoding: chunked"))
        response = dribble(client, b"1\r\nx\r\n" * 1000, 6)
    else:
        client.send(request("POST", f"/echo?{pieces}", "Content-Length: 1000"))
        response = client.response() if pieces == "none" else dribble(client, bytes(999))
    check_refused(response, "TIMER_ENTITY_BODY")
    assert response.is_last
    hasty.log.expect(word("TIMER_ENTITY_BODY"), f"/echo?{pieces}")


def test_content_that_comes_fast_enough_is_taken(hasty: Server) -> None:
    client = hasty.connect()
    client.send(request("POST", "/echo", "Content-Length: 12000"))
    for _ in range(7):  # nearly two seconds: twice the timer
        client.send(bytes(1500))
        assert client.response_within(0.25) is None
    assert len(client.send(bytes(1500)).response().content) == 12000


def dribble(client: Client, data: bytes, step: int = 1) -> Response:
    """Send a piece every twentieth of a second until the server answers."""
    for at in range(0, len(data), step):
        client.send(data[at : at + step])
        if response := client.response_within(0.05):
            return response
    raise AssertionError("it was never refused")


@provokes("TIMER_MIN_SEND_RATE")
@pytest.mark.parametrize("path", ["/big?bytes=16000000", "/stream?blocks=200&bytes=100000"])
def test_client_that_does_not_read_is_cut_off(hasty: Server, path: str) -> None:
    mark = hasty.mark()
    client = hasty.connect(receive_bytes=4096).get(path)
    hasty.log.expect(word("TIMER_MIN_SEND_RATE"), since=mark)
    with pytest.raises(Ended):
        client.response()


def test_file_that_is_not_read_is_cut_off(hasty: Server, tmp_path: Path) -> None:
    mark = hasty.mark()
    path = tmp_path / "file"
    path.write_bytes(bytes(16_000_000))
    client = hasty.connect(receive_bytes=4096).get(f"/file?path={path}")
    hasty.log.expect(word("TIMER_MIN_SEND_RATE"), since=mark)
    with pytest.raises(Ended):
        client.response()


@provokes("TIMER_REQUEST_QUEUE")
def test_request_that_waits_too_long_is_a_503(hasty: Server, gate: Gate) -> None:
    running = hasty.connect().get(f"/waits?gate={gate.path}")
    gate.enter()
    waiting = [hasty.connect().get(f"/hello?waiting={n}") for n in range(20)]
    for client in waiting:
        response = client.response()
        check_refused(response, "TIMER_REQUEST_QUEUE")
        assert response.one("Retry-After") is not None
        assert not response.is_last
    gate.open()
    assert running.response().text == "waited"
    check_kept(waiting[-1])
    hasty.log.expect(word("TIMER_REQUEST_QUEUE"), "/hello?waiting=")


def test_time_of_upload_is_not_time_in_the_queue(hasty: Server, gate: Gate) -> None:
    slow = hasty.connect().send(request("POST", "/echo?slow", "Content-Length: 6000"))
    running = hasty.connect().get(f"/waits?gate={gate.path}")
    gate.enter()
    before = [hasty.connect().get(f"/hello?{n}") for n in range(20)]
    for _ in range(5):
        slow.send(bytes(1000))
        assert slow.response_within(0.25) is None
    slow.send(bytes(1000))
    assert slow.response_within(0.5) is None
    gate.open()
    assert running.response().text == "waited"
    assert {client.response().status for client in before} == {503}
    assert len(slow.response().content) == 6000


@pytest.mark.parametrize("attempt", range(3))
def test_timers_of_requests_work_on_every_loop(attempt: int, gate: Gate) -> None:
    with Server("--loops", "3", "--request-timeout", "1", "--graceful-timeout", "1") as server:
        client = server.connect().get(f"/waits?gate={gate.path}")
        gate.enter()
        check_refused(client.response(), "TIMER_RESPONSE")


@provokes("TIMER_RESPONSE")
def test_request_that_runs_too_long_is_a_504(gates: Callable[[], Gate]) -> None:
    one, two = gates(), gates()
    with Server("--request-timeout", "1", "--graceful-timeout", "1") as server:
        client = server.connect().get(f"/waits?gate={one.path}")
        one.enter()
        check_refused(client.response(), "TIMER_RESPONSE")
        check_kept(client)
        begun = server.connect().get(f"/steps?gate={two.path}")
        two.enter()
        with pytest.raises(Ended) as ended:
            begun.response()
        assert b"first" in ended.value.got
        server.log.expect(word("TIMER_RESPONSE"), one.path)
        server.log.expect(word("TIMER_RESPONSE"), two.path)
        assert server.ask("/hello").status == 200


# --- queue, pool, worker


@provokes("QUEUE_FULL")
def test_full_queue_is_a_503(gate: Gate) -> None:
    with Server("--threads", "1", "--queue-length", "5") as server:
        running = server.connect().get(f"/waits?gate={gate.path}")
        gate.enter()
        waiting = [server.connect().get(f"/hello?full={n}") for n in range(50)]
        server.look()
        server.log.expect(word("QUEUE_FULL"), "/hello?full=")
        gate.open()
        assert running.response().text == "waited"
        responses = [client.response() for client in waiting]
        refused = [response for response in responses if response.status == 503]
        assert 50 - 5 - 16 <= len(refused) <= 45
        for response in refused:
            check_refused(response, "QUEUE_FULL")
            assert response.one("Retry-After") is not None
            assert not response.is_last
        for client in waiting:
            check_kept(client)


@provokes("APP_OFFLINE")
def test_offline_pool_is_a_503(tmp_path: Path) -> None:
    with Server("--rapid-fail", "1/300") as server:
        client = server.connect()
        response = client.ask(f"/crash?once={tmp_path / 'once'}")
        check_refused(response, "APP_OFFLINE")
        check_refused(client.ask("/hello"), "APP_OFFLINE")
        server.log.expect(word("APP_OFFLINE"), "/crash")


@provokes("DISABLED")
@pytest.mark.parametrize("kind", ["pool", "site"])
def test_what_an_administrator_has_stopped_is_a_503(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "control"
    with Server("--control", str(path)) as server, control.Client(path) as manager:
        client = server.connect()
        check_kept(client)
        manager.ask(f"{kind}.stop", **{kind: "default"})
        check_refused(client.ask("/hello?stopped"), "DISABLED")
        manager.ask(f"{kind}.start", **{kind: "default"})
        check_kept(client)
        server.log.expect(word("DISABLED"), "/hello?stopped")


@provokes("APP_SHUTDOWN")
def test_requests_after_the_graceful_timeout_are_a_503(gate: Gate) -> None:
    with Server("--threads", "1", "--graceful-timeout", "1") as server:
        running, idle = server.connect(), server.connect()
        check_kept(idle)
        running.get(f"/waits?gate={gate.path}", method="POST")
        gate.enter()
        family = server.family()
        server.process.terminate()
        server.log.expect("graceful timeout")
        response = idle.ask("/hello?late")
        check_refused(response, "APP_SHUTDOWN")
        assert response.is_last
        check_refused(running.response(), "WORKER_DIED")
        assert server.ended(family) == 0
        server.log.expect(word("APP_SHUTDOWN"), "/hello?late")


@provokes("WORKER_DIED")
def test_dead_worker_is_a_502_for_what_may_not_be_repeated(server: Server, tmp_path: Path) -> None:
    client = server.connect()
    response = client.ask(f"/crash?once={tmp_path / 'post'}", method="POST")
    check_refused(response, "WORKER_DIED")
    check_kept(client)
    assert client.ask(f"/crash?once={tmp_path / 'get'}").text == "survived"
    client.get(f"/crash?after&once={tmp_path / 'after'}")
    with pytest.raises(Ended) as ended:
        client.response()
    assert b"begun" in ended.value.got
    server.log.expect(word("WORKER_DIED"), "POST /crash")


@provokes("SPILL", "RESPONSE_CUT", "CONTENT_CUT", "CLIENT_RESET", "CONNECTION_DROPPED")
def test_reasons_that_other_files_provoke() -> None:
    """test_content, test_framing, test_connections."""


@provokes("RESPONSE_FILE")
def test_file_that_shrinks_is_a_visible_abort(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(40_000_000))
    client = server.connect(receive_bytes=4096).get(f"/file?path={path}")
    client.head()
    os.truncate(path, 1000)
    with pytest.raises(Ended) as ended:
        client.rest(40_000_000)
    assert len(ended.value.got) < 40_000_000
    server.log.expect(word("RESPONSE_FILE"), str(path))


@provokes("ONLY_IF_CACHED")
def test_what_is_not_stored_is_a_504_for_who_wants_nothing_else(server: Server) -> None:
    client = server.connect()
    response = client.ask("/hello?only", "Cache-Control: only-if-cached")
    check_refused(response, "ONLY_IF_CACHED")
    check_kept(client)


def test_every_row_is_provoked() -> None:
    assert set(ROWS) - provoked == UNPROVOKED


def test_every_row_has_a_word_and_a_sentence() -> None:
    for name, (status, word, text) in ROWS.items():
        assert status == 0 or 400 <= status <= 599, name
        assert re.fullmatch(r"[A-Za-z_/-]+", word), name
        assert not text.endswith("."), name


def test_unfinished_chunks_are_cut(server: Server) -> None:
    client = server.connect()
    client.send(request("POST", "/echo?unfinished", "Transfer-Encoding: chunked"))
    client.send(chunked(b"abc")[:-2]).half_close()
    assert client.ends()
    server.log.expect(word("CONTENT_CUT"), "/echo?unfinished")
