"""Responses on their way: files, slow readers, backpressure, memory, leaving clients."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from serving import Gate, Server, until
from wire import Client, Ended, chunked, request

MIB = 1 << 20


def write_pattern(path: Path, size: int) -> str:
    """A file of this size; gives its hash."""
    block = os.urandom(min(MIB, size))
    found = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            part = start.to_bytes(8) + block[: min(MIB, size - start) - 8]
            part = part[: size - start]
            found.update(part)
            file.write(part)
    return found.hexdigest()


def digest(client: Client, length: int) -> str:
    """The hash of so many bytes of content, which are not kept."""
    found = hashlib.sha256(client.buffer)
    left = length - len(client.buffer)
    client.buffer.clear()
    while left > 0:
        data = client.socket.recv(min(left, MIB))
        assert data, f"closed with {left} bytes left"
        found.update(data)
        left -= len(data)
    return found.hexdigest()


# --- files


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 1_000_001, 20_000_000])
def test_file(client: Client, tmp_path: Path, size: int) -> None:
    expected = write_pattern(tmp_path / "file", size)
    response = client.ask(f"/file?path={tmp_path / 'file'}")
    assert response.framing == "length"
    assert hashlib.sha256(response.content).hexdigest() == expected
    assert client.ask("/hello").status == 200


def test_file_from_its_position(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    assert client.ask(f"/file?path={tmp_path / 'file'}&from=4").text == "456789"


def test_file_with_a_shorter_length(server: Server, client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    assert client.ask(f"/file?path={tmp_path / 'file'}&says=4").text == "0123"
    assert client.ask("/hello").status == 200


def test_file_with_a_longer_length_is_cut(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    client = server.connect().get(f"/file?path={tmp_path / 'file'}&says=14")
    with pytest.raises(Ended) as ended:
        client.response()
    assert ended.value.got.endswith(b"0123456789")
    server.log.expect("Response_Cut", str(tmp_path))


def test_head_of_a_file(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    response = client.ask(f"/file?path={tmp_path / 'file'}", method="HEAD")
    assert response.status == 200
    assert client.ask("/hello").status == 200


def test_files_pipelined(client: Client, tmp_path: Path) -> None:
    write_pattern(tmp_path / "file", 300_000)
    expected = (tmp_path / "file").read_bytes()
    client.send(request("GET", f"/file?path={tmp_path / 'file'}") * 20)
    for _ in range(20):
        assert client.response().content == expected


def test_special_files_are_read_by_the_worker(client: Client) -> None:
    response = client.ask("/file?path=/proc/self/comm")
    assert response.text == "kernelq-worker\n"


def test_files_to_clients_that_leave(server: Server, tmp_path: Path) -> None:
    write_pattern(tmp_path / "file", 8_000_000)
    before = descriptors(server)
    for number in range(30):
        client = server.connect(receive_bytes=4096).get(f"/file?path={tmp_path / 'file'}")
        if number % 3 == 1:
            client.head()
        client.reset() if number % 2 else client.close()
    assert server.ask("/hello").status == 200
    until(lambda: descriptors(server) <= before, "all closed")


def descriptors(server: Server) -> int:
    (service,) = server.pids("service")
    return len(os.listdir(f"/proc/{service}/fd"))


# --- slow readers


def test_slow_reader_holds_no_worker(gate: Gate) -> None:
    with Server("--threads", "1") as server:
        slow = server.connect(receive_bytes=4096).get("/big?bytes=900000")
        slow.head()
        files = server.connect(receive_bytes=4096).get("/file?path=/usr/bin/env")
        files.head()
        assert server.ask("/hello").status == 200
        assert len(slow.rest(900000)) == 900000


def test_slow_reader_beyond_the_takeover_has_backpressure(server: Server) -> None:
    (service,) = server.pids("service")
    clients = []
    before = psutil.Process(service).memory_info().rss
    for _ in range(4):
        client = server.connect(receive_bytes=4096).get("/stream?blocks=120&bytes=100000&length")
        client.head()
        clients.append(client)
    server.look()
    assert psutil.Process(service).memory_info().rss - before < 4 * 3 * MIB
    for client in clients:
        assert digest(client, 12_000_000)


@pytest.mark.parametrize("takeover", ["64K", "100K", "64M"])
def test_every_takeover_serves(takeover: str) -> None:
    with Server("--response-takeover", takeover) as server:
        assert server.ask("/hello?x").text == "hello x"
        assert len(server.ask("/big?bytes=3000000").content) == 3_000_000
        slow = server.connect(receive_bytes=4096).get("/stream?blocks=40&bytes=100000&length")
        slow.head()
        assert len(slow.rest(4_000_000)) == 4_000_000


def test_pipelined_large_responses_to_a_slow_reader(server: Server) -> None:
    client = server.connect(receive_bytes=4096)
    client.send((request("GET", "/big?bytes=400000") + request("GET", "/hello?x")) * 8)
    for _ in range(8):
        assert len(client.response().content) == 400_000
        assert client.response().text == "hello x"


# --- leaving clients


def test_generator_is_closed_when_the_client_resets(server: Server, gate: Gate) -> None:
    client = server.connect(receive_bytes=4096).get(f"/endless?closed={gate.path}")
    client.head()
    client.reset()
    assert gate.enter() == "closed"


def test_generator_is_closed_when_the_client_closes(server: Server, gate: Gate) -> None:
    client = server.connect(receive_bytes=4096).get(f"/endless?closed={gate.path}")
    client.head()
    client.close()
    assert gate.enter() == "closed"


def test_generator_is_closed_once_after_a_complete_response(
    server: Server, gates: Callable[[], Gate]
) -> None:
    step, closed = gates(), gates()
    client = server.connect().get(f"/steps?gate={step.path}&closed={closed.path}")
    assert step.enter() == "in"
    client.head()
    assert client.chunk() == b"first"
    step.open()
    assert client.chunk() == b"second"
    assert closed.enter() == "closed"
    assert client.chunk() == b""
    assert client.ask("/hello").status == 200


def test_first_block_is_not_held_back(server: Server, gate: Gate) -> None:
    client = server.connect().get(f"/steps?gate={gate.path}")
    gate.enter()
    client.head()
    assert client.chunk() == b"first"
    gate.open()


def test_gone_client_of_a_waiting_generator(server: Server, gates: Callable[[], Gate]) -> None:
    step, closed = gates(), gates()
    client = server.connect().get(f"/steps?gate={step.path}&closed={closed.path}")
    step.enter()
    client.reset()
    server.log.expect("Connection_Dropped", step.path)
    step.open()
    assert closed.enter() == "closed"
    assert server.ask("/hello").status == 200


# --- memory


@pytest.fixture
def memory(server: Server) -> Callable[[], int]:
    """How much the service has grown, in bytes, page cache and shared memory left out."""
    (service,) = server.pids("service")

    def private() -> int:
        return psutil.Process(service).memory_full_info().uss

    before = private()
    return lambda: private() - before


@pytest.mark.parametrize(
    "size", [48 * MIB, pytest.param(256 * MIB, marks=pytest.mark.slow)], ids=["48M", "256M"]
)
def test_download_in_flat_memory(
    server: Server, memory: Callable[[], int], tmp_path: Path, size: int
) -> None:
    expected = write_pattern(tmp_path / "file", size)
    for path in (f"/file?path={tmp_path / 'file'}", f"/pieces?path={tmp_path / 'file'}"):
        client = server.connect().get(path)
        assert client.head().one("Content-Length") == str(size)
        assert digest(client, size) == expected
        assert memory() < 8 * MIB


@pytest.mark.parametrize(
    "size", [48 * MIB, pytest.param(1024 * MIB, marks=pytest.mark.slow)], ids=["48M", "1G"]
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_upload_in_flat_memory(
    server: Server, memory: Callable[[], int], size: int, framing: str
) -> None:
    expected = hashlib.sha256()
    client = server.connect()
    if framing == "length":
        client.send(request("POST", "/digest", f"Content-Length: {size}"))
    else:
        client.send(request("POST", "/digest", "Transfer-Encoding: chunked"))
    for number in range(size // MIB):
        block = b"%015d\n" % number * (MIB // 16)
        expected.update(block)
        client.send(block if framing == "length" else chunked(block)[: -len(b"0\r\n\r\n")])
    if framing == "chunked":
        client.send(b"0\r\n\r\n")
    response = client.response()
    assert expected.hexdigest() in response.text
    assert memory() < 8 * MIB
    (worker,) = server.pids("worker")
    assert psutil.Process(worker).memory_info().rss < 100 * MIB


def test_descriptors_return(server: Server) -> None:
    before = descriptors(server)
    for _ in range(50):
        server.connect().get("/hello").response()
    for _ in range(10):
        server.connect().ask("/echo", method="POST", content=bytes(200_000))
    server.close_clients()
    until(lambda: descriptors(server) <= before, "all closed")
