"""Persistent connections, pipelining, half-closed and leaving clients."""

import json
from collections.abc import Callable

import pytest
from serving import Gate, Server
from wire import Client, chunked, request


def test_http_1_1_is_persistent(client: Client) -> None:
    for number in range(3):
        response = client.ask(f"/hello?{number}")
        assert response.text == f"hello {number}"
        assert response.one("Connection") is None
        assert response.one("Keep-Alive") == "timeout=120"
    assert client.is_quiet()


@pytest.mark.parametrize("line", ["Connection: close", "Connection: x, Close", "connection: CLOSE"])
def test_close_is_announced_and_kept(client: Client, line: str) -> None:
    assert client.ask("/hello", line).is_last
    assert client.ends()


def test_close_counts_on_any_of_several_connection_lines(client: Client) -> None:
    assert client.ask("/hello", "Connection: x", "Connection: close").is_last
    assert client.ends()


def test_http_1_0_closes_by_default(client: Client) -> None:
    response = client.ask("/hello?x", version="1.0")
    assert response.text == "hello x"
    assert response.is_last
    assert client.ends()


def test_http_1_0_keeps_alive_when_asked(client: Client) -> None:
    for _ in range(3):
        response = client.ask("/hello", "Connection: keep-alive", version="1.0")
        assert response.one("Connection") == "keep-alive"
        assert response.framing == "length"
    assert client.is_quiet()


def test_http_1_0_content_without_length_ends_with_the_connection(client: Client) -> None:
    response = client.ask("/stream?blocks=3&bytes=10", "Connection: keep-alive", version="1.0")
    assert response.framing == "close"
    assert response.is_last
    assert len(response.content) == 30


def test_keep_alive_off() -> None:
    with Server("--keep-alive", "off") as server:
        client = server.connect()
        assert client.ask("/hello").is_last
        assert client.ends()
        client = server.connect().get("/a%zz")
        assert client.response().is_last
        assert client.ends()


def test_pipeline_of_a_thousand_is_answered_in_order(client: Client) -> None:
    client.send(b"".join(request("GET", f"/hello?{number}") for number in range(1000)))
    for number in range(1000):
        assert client.response().text == f"hello {number}"
    assert client.is_quiet()


def test_pipeline_of_all_kinds_is_answered_in_order(client: Client) -> None:
    posted = request("POST", "/echo", content=b"counted")
    pieces = request(
        "POST", "/echo", "Transfer-Encoding: chunked", content=chunked(b"chu", b"nked")
    )
    stream = request("GET", "/stream?blocks=3&bytes=5")
    head = request("HEAD", "/hello")
    client.send((posted + pieces + stream + head) * 50)
    for _ in range(50):
        assert client.response().text == "counted"
        assert client.response().text == "chunked"
        assert client.response().text == "abcde" * 3
        assert client.response("HEAD").status == 200
    assert client.is_quiet()


def test_pipelined_bytes_one_by_one(client: Client) -> None:
    data = request("GET", "/hello?1") + request("POST", "/echo", content=b"x") + b"\r\n"
    for byte in data + request("GET", "/hello?2"):
        client.send(bytes([byte]))
    assert [client.response().text for _ in range(3)] == ["hello 1", "x", "hello 2"]


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET /" + b"x" * 40000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    ],
)
def test_error_behind_a_request_does_not_swallow_its_answer(
    server: Server, gate: Gate, wrong: bytes, status: int
) -> None:
    client = server.connect()
    client.send(request("GET", f"/waits?gate={gate.path}") + wrong + request("GET", "/hello"))
    gate.enter()
    gate.open()
    assert client.response().text == "waited"
    refused = client.response()
    assert refused.status == status
    assert refused.is_last
    assert client.ends()


def test_error_behind_a_large_response(server: Server) -> None:
    client = server.connect(receive_bytes=4096)
    client.send(request("GET", "/big?bytes=8000000") + b"nonsense\r\n\r\n")
    assert len(client.response().content) == 8000000
    assert client.response().status == 400
    assert client.ends()


def test_half_closed_client_gets_its_answer(client: Client) -> None:
    client.get("/hello?half").half_close()
    assert client.response().text == "hello half"
    assert client.ends()


def test_half_closed_client_gets_all_pipelined_answers(client: Client) -> None:
    client.send(request("GET", "/hello?x") * 20).half_close()
    for _ in range(20):
        assert client.response().text == "hello x"
    assert client.ends()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_half_closed_client_is_probed_and_gets_its_answer(
    server: Server, gate: Gate, version: str
) -> None:
    client = server.connect()
    client.send_last(request("GET", f"/waits?gate={gate.path}", version=version))
    gate.enter()
    if version == "1.1":
        assert client.interim() == 100
    gate.open()
    assert client.response().text == "waited"
    assert client.ends()


def test_half_close_after_the_request_has_begun(server: Server, gate: Gate) -> None:
    client = server.connect().get(f"/waits?gate={gate.path}")
    gate.enter()
    client.half_close()
    assert client.interim() == 100
    gate.open()
    assert client.response().text == "waited"


def test_half_close_answer_never_probes(gates: Callable[[], Gate]) -> None:
    early, late = gates(), gates()
    with Server("--half-close", "answer") as server:
        clients = [server.connect(), server.connect()]
        clients[0].send_last(request("GET", f"/waits?gate={early.path}"))
        clients[1].get(f"/waits?gate={late.path}")
        early.enter()
        late.enter()
        clients[1].half_close()
        for client, gate in zip(clients, (early, late), strict=True):
            gate.open()
            response = client.response()
            assert response.interim == []
            assert response.text == "waited"


def test_half_close_drop(gate: Gate) -> None:
    with Server("--half-close", "drop", "--log-level", "debug") as server:
        running = server.connect().get(f"/waits?gate={gate.path}")
        gate.enter()
        running.half_close()
        assert running.ends()
        server.log.expect("Connection_Dropped", gate.path)
        gate.open()
        early = server.connect().send_last(request("GET", "/hello?never-executed"))
        assert early.ends()
        server.log.expect("Client_Reset", "never-executed")


def test_closed_client_is_found_by_the_probe(server: Server, gate: Gate) -> None:
    client = server.connect().get(f"/waits?gate={gate.path}")
    gate.enter()
    client.close()
    server.log.expect("Connection_Dropped", gate.path)


def test_reset_client_is_noticed_while_its_request_runs(server: Server, gate: Gate) -> None:
    client = server.connect().get(f"/waits?gate={gate.path}")
    gate.enter()
    client.reset()
    server.log.expect("Connection_Dropped", gate.path)


def test_client_that_leaves_the_queue_costs_no_execution(gates: Callable[[], Gate]) -> None:
    running, queued = gates(), gates()
    with Server("--threads", "1", "--log-level", "debug") as server:
        clients = [server.connect().get(f"/waits?gate={running.path}")]
        running.enter()
        clients += [server.connect().get(f"/waits?gate={queued.path}") for _ in range(40)]
        server.look()
        for client in clients[1:]:
            client.reset()
        server.look()
        last = server.connect().get("/hello?last")
        running.open()
        assert clients[0].response().text == "waited"
        assert last.response().text == "hello last"
        server.log.expect_count(40, "Client_Reset", queued.path)


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\r\n"])
def test_client_leaves_within_a_head(server: Server, sent: bytes) -> None:
    client = server.connect().send(sent).half_close()
    assert client.ends()


def test_client_leaves_within_its_content(server: Server) -> None:
    client = server.connect()
    client.send(request("POST", "/echo?left-within", "Content-Length: 10") + b"123").half_close()
    assert client.ends()
    server.log.expect("EntityCut", "/echo?left-within")


def test_reset_within_every_part_of_an_exchange(server: Server, gate: Gate) -> None:
    for data in (b"", b"GE", request("POST", "/echo", "Content-Length: 9") + b"12",
                 request("POST", "/echo", "Content-Length: 99999") + b"x" * 70000,
                 request("GET", "/big?bytes=8000000"), request("GET", "/hello") * 30):  # fmt: skip
        server.connect(receive_bytes=4096).send(data).reset()
    assert server.ask("/hello?alive").text == "hello alive"


def test_empty_lines_between_requests(client: Client) -> None:
    client.send(request("POST", "/echo", content=b"x") + b"\r\n" + request("GET", "/hello?y"))
    assert client.response().text == "x"
    assert client.response().text == "hello y"


def test_several_slots_of_a_worker_run_at_once(server: Server, gates: Callable[[], Gate]) -> None:
    made = [gates() for _ in range(4)]
    clients = [server.connect().get(f"/waits?gate={gate.path}") for gate in made]
    for gate in made:
        gate.enter()
    for gate, client in zip(reversed(made), reversed(clients), strict=True):
        gate.open()
        assert client.response().text == "waited"


def test_answers_name_one_worker(client: Client) -> None:
    pids = {json.loads(client.ask("/show").text)["pid"] for _ in range(3)}
    assert len(pids) == 1


def test_bytes_behind_a_last_request_are_not_a_reset(server: Server) -> None:
    client = server.connect()
    client.send(request("GET", "/hello?x", "Connection: close") + b"x" * 100000)
    assert client.response().text == "hello x"
    client.send(b"y" * 100000).half_close()
    assert client.ends()
