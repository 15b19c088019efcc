"""Content of requests: held in memory, spilled, streamed; expectations, limits, broken content."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Gate, Server
from wire import Client, Ended, chunked, request

CHUNKED = "Transfer-Encoding: chunked"
SIZES = [1, 4095, 4096, 65535, 65536, 65537, 131072, 131073, 262144, 262145, 1 << 20, 3_000_001]


def pattern(size: int) -> bytes:
    """Bytes of which no two blocks are equal."""
    return b"".join(b"%015d\n" % number for number in range(size // 16 + 1))[:size]


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def check_digest(found: dict[str, Any], data: bytes) -> None:
    assert found["bytes"] == len(data)
    assert found["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def streaming() -> Iterator[Server]:
    with Server("--content", "streamed", "--log-level", "debug", "--max-content", "10M") as server:
        yield server


@pytest.mark.parametrize("size", SIZES)
def test_counted(client: Client, size: int) -> None:
    data = pattern(size)
    found = json.loads(client.ask("/digest", method="POST", content=data).text)
    check_digest(found, data)
    assert found["length"] == str(size)
    assert client.ask("/hello").status == 200


@pytest.mark.parametrize("piece", [1000, 65536, 100_000])
@pytest.mark.parametrize("size", SIZES)
def test_chunked_gets_its_real_length(client: Client, size: int, piece: int) -> None:
    data = pattern(size)
    content = chunked(*cut(data, piece))
    found = json.loads(client.ask("/digest", CHUNKED, method="POST", content=content).text)
    check_digest(found, data)
    assert found["length"] == str(size)
    assert found["coding"] is None
    assert client.ask("/hello").status == 200


def test_empty_content(client: Client) -> None:
    for lines, content in (([], b""), ([CHUNKED], b"0\r\n\r\n"), ([], None)):
        response = client.ask("/echo", *lines, method="POST", content=content)
        assert response.content == b""


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_content_byte_by_byte(client: Client, how: str) -> None:
    if how == "length":
        data = request("POST", "/echo", content=b"slowly")
    else:
        data = request("POST", "/echo", CHUNKED, content=chunked(b"slo", b"wly", trailers=["A: b"]))
    for byte in data:
        client.send(bytes([byte]))
    assert client.response().text == "slowly"


def test_slow_upload_holds_no_worker() -> None:
    with Server("--threads", "1") as server:
        slow = server.connect().send(request("POST", "/echo", "Content-Length: 3") + b"a")
        slower = server.connect().send(request("POST", "/echo", CHUNKED) + b"3\r\nab")
        assert server.ask("/hello?x").text == "hello x"
        assert slow.send(b"bc").response().text == "abc"
        assert slower.send(b"c\r\n0\r\n\r\n").response().text == "abc"


LINES = b"one\ntwo\r\nthree\n\n" + b"x" * 5000 + b"\n" + b"last without end"


@pytest.mark.parametrize("source", ["held", "spilled", "streamed"])
@pytest.mark.parametrize(
    ("how", "size"),
    [("iter", -1), ("readlines", -1), ("readlines", 0), ("readlines", 9), ("readline", -1),
     ("readline", 1), ("readline", 7), ("read", -1), ("read", 1000), ("read", 1 << 20)],
)  # fmt: skip
def test_input_is_read_as_a_file_is(
    server: Server, streaming: Server, source: str, how: str, size: int
) -> None:
    data = LINES if source != "spilled" else LINES * 40
    twin = io.BytesIO(data)
    if how == "iter":
        expected = list(twin)
    elif how == "readlines":
        expected = twin.readlines(size)
    else:
        expected = list(iter(lambda: getattr(twin, how)(size), b""))
    which = streaming if source == "streamed" else server
    response = which.ask(f"/reads?how={how}&size={size}", method="POST", content=data)
    assert [part.encode() for part in json.loads(response.text)] == expected


# --- expectations


def test_continue_is_sent_for_held_content(client: Client) -> None:
    client.send(request("POST", "/echo", "Content-Length: 3", "Expect: 100-continue"))
    assert client.interim() == 100
    client.send(b"abc")
    response = client.response()
    assert response.interim == []
    assert response.text == "abc"


def test_no_continue_when_content_has_come_already(client: Client) -> None:
    client.send(request("POST", "/echo", "Content-Length: 3", "Expect: 100-continue") + b"abc")
    assert client.response().interim == []


@pytest.mark.parametrize("expectation", ["100-CONTINUE", "100-continue"])
def test_expectation_ignores_case(client: Client, expectation: str) -> None:
    client.send(request("POST", "/echo", CHUNKED, f"Expect: {expectation}"))
    assert client.interim() == 100
    assert client.send(chunked(b"abc")).response().text == "abc"


def test_other_expectation_cannot_be_met(server: Server, client: Client) -> None:
    client.send(request("POST", "/echo?417", "Content-Length: 3", "Expect: the-moon"))
    assert client.response().status == 417
    assert client.ends()
    server.log.expect("Expectation 417", "/echo?417")


def test_no_continue_without_content(client: Client) -> None:
    assert client.ask("/hello", "Expect: 100-continue").interim == []


def test_no_continue_in_http_1_0(client: Client) -> None:
    client.send(
        request("POST", "/echo", "Content-Length: 3", "Expect: 100-continue", version="1.0")
    )
    assert client.is_quiet()
    assert client.send(b"abc").response().interim == []


def test_too_large_is_refused_instead_of_continued(streaming: Server) -> None:
    with Server("--max-content", "100") as held:
        for server, size in ((held, 101), (streaming, 10_485_761)):
            client = server.connect()
            length = f"Content-Length: {size}"
            client.send(request("POST", "/echo", length, "Expect: 100-continue"))
            response = client.response()
            assert response.status == 413
            assert response.interim == []
            assert response.is_last
            assert client.ends()


# --- limits and malformed content


def test_client_that_sends_ten_megabytes_to_a_413_reads_it() -> None:
    with Server("--max-content", "1000") as server:
        for framing in ("Content-Length: 10000000", CHUNKED):
            client = server.connect()
            client.send(request("POST", "/echo", framing))
            content = chunked(*cut(bytes(10_000_000), 50_000))
            client.send(content if framing == CHUNKED else bytes(10_000_000))
            assert client.response().status == 413
            assert client.ends()
        server.log.expect("EntityTooLarge 413", "POST /echo")
        exact = server.connect()
        assert exact.ask("/echo", method="POST", content=bytes(1000)).status == 200
        response = exact.ask("/echo", CHUNKED, method="POST", content=chunked(bytes(1001)))
        assert response.status == 413


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"x\r\n", "Chunk"),
        (b"3\nabc\r\n0\r\n\r\n", "Chunk"),
        (b"3\r\nabcd\r\n0\r\n\r\n", "Chunk"),
        (b"-1\r\n", "Chunk"),
        (b"0x3\r\nabc\r\n0\r\n\r\n", "Chunk"),
        (b"11111111111111111\r\n", "Chunk"),
        (b"3;a=\x00\r\nabc\r\n0\r\n\r\n", "Chunk"),
        (b"3\r\nabc\r\n0\r\nA B: c\r\n\r\n", "Trailer"),
        (b"3\r\nabc\r\n0\r\nA: c\n\r\n", "Trailer"),
        (b"3\r\nabc\r\n0\r\nA: " + b"b" * 20000 + b"\r\n\r\n", "Trailer"),
        (b"3\r\nabc\r\n0\r\n" + b"A: b\r\n" * 200 + b"\r\n", "Trailer"),
    ],
)
def test_malformed_chunks(server: Server, client: Client, content: bytes, word: str) -> None:
    mark = server.mark()
    client.send(request("POST", "/echo?chunks", CHUNKED) + content)
    response = client.response()
    assert response.status in (400, 431)
    assert response.is_last
    assert client.ends()
    line = server.log.expect("/echo?chunks", since=mark)
    assert f"[{word} " in line, line


def test_trailers_are_read_and_discarded(client: Client) -> None:
    content = chunked(b"abc", trailers=["X-Checksum: 1", "Content-Length: 5", "Host: evil"])
    response = client.ask("/show", CHUNKED, "Trailer: X-Checksum", method="POST", content=content)
    seen = json.loads(response.text)
    assert "HTTP_X_CHECKSUM" not in seen
    assert (seen["CONTENT_LENGTH"], seen["HTTP_HOST"]) == ("3", "test")
    assert client.ask("/hello").status == 200


# --- spill files


def test_spill_file_has_no_name(tmp_path: Path) -> None:
    with Server("--spill-dir", str(tmp_path)) as server:
        client = server.connect().send(request("POST", "/echo", "Content-Length: 1000000"))
        client.send(bytes(999_999))
        server.look()
        assert list(tmp_path.iterdir()) == []
        assert len(client.send(b"x").response().content) == 1_000_000


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_content_that_cannot_be_stored_is_a_507(tmp_path: Path, framing: str) -> None:
    folder = tmp_path / "spill"
    folder.mkdir()
    with Server("--spill-dir", str(folder)) as server:
        folder.rmdir()
        for size in (140_000, 1_000_000, 5_000_000):
            client = server.connect()
            if framing == "length":
                client.send(request("POST", "/echo?spill", content=bytes(size)))
            else:
                content = chunked(*cut(bytes(size), 9999))
                client.send(request("POST", "/echo?spill", CHUNKED, content=content))
            assert client.response().status == 507
        server.log.expect("Spill 507", "POST /echo?spill")
        assert server.ask("/echo", method="POST", content=bytes(60_000)).status == 200


@pytest.fixture
def tiny_disk() -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = Path(tempfile.mkdtemp())
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "kernelq-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        shutil.rmtree(folder)
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    shutil.rmtree(folder)


def test_full_disk_is_a_507(tiny_disk: Path) -> None:
    with Server("--spill-dir", str(tiny_disk)) as server:
        for _ in range(3):
            assert server.ask("/echo", method="POST", content=bytes(1_000_000)).status == 507
        assert server.ask("/digest", method="POST", content=bytes(200_000)).status == 200


def test_no_content_memory_at_all(tmp_path: Path) -> None:
    with Server("--content-memory", "0", "--spill-dir", str(tmp_path)) as server:
        assert server.ask("/echo", method="POST", content=b"abc").text == "abc"
        assert server.ask("/echo", CHUNKED, method="POST", content=chunked(b"abc")).text == "abc"
        assert server.ask("/echo", CHUNKED, method="POST", content=chunked()).text == ""


@pytest.mark.parametrize("memory", ["1M", "100M"])
def test_much_content_memory(memory: str) -> None:
    with Server("--content-memory", memory) as server:
        for size in (60_000, 120_000, 500_000, 1_000_000):
            data = pattern(size)
            found = json.loads(server.ask("/digest", method="POST", content=data).text)
            check_digest(found, data)


# --- streamed content


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", SIZES)
def test_streamed(streaming: Server, size: int, framing: str) -> None:
    data = pattern(size)
    client = streaming.connect()
    if framing == "length":
        response = client.ask("/digest", method="POST", content=data)
    else:
        content = chunked(*cut(data, 10_000))
        response = client.ask("/digest", CHUNKED, method="POST", content=content)
    found = json.loads(response.text)
    check_digest(found, data)
    assert found["length"] == (str(size) if framing == "length" else None)
    assert client.ask("/hello").status == 200


def test_streamed_continue_is_sent_only_when_content_is_read(streaming: Server, gate: Gate) -> None:
    lines = ["Content-Length: 3", "Expect: 100-continue"]
    client = streaming.connect()
    client.send(request("POST", f"/waits?gate={gate.path}", *lines))
    gate.enter()
    gate.open()
    response = client.response()
    assert response.interim == []
    assert response.is_last
    client = streaming.connect().send(request("POST", "/echo", *lines))
    assert client.interim() == 100
    assert client.send(b"abc").response().text == "abc"


def test_streamed_content_reaches_the_application_as_it_comes(
    streaming: Server, gate: Gate
) -> None:
    client = streaming.connect()
    client.send(request("POST", f"/eager?gate={gate.path}", "Content-Length: 6") + b"abc")
    assert gate.enter() == "abc"
    gate.open()
    client.send(b"def")
    assert gate.enter() == "def"
    gate.open()
    assert client.response().text == "abcdef"


def test_streamed_window_holds_a_fast_client(streaming: Server, gate: Gate) -> None:
    client = streaming.connect()
    client.send(request("POST", f"/waits?gate={gate.path}", "Content-Length: 9000000"))
    gate.enter()
    client.socket.settimeout(0.3)
    sent = 0
    try:
        while sent < 9_000_000:
            sent += client.socket.send(bytes(65536))
    except TimeoutError:
        pass
    assert sent < 9_000_000, "nobody reads the content"
    client.socket.settimeout(20)
    gate.open()
    assert client.response().text == "waited"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_streamed_content_cut_short_is_an_error(
    streaming: Server, gate: Gate, framing: str
) -> None:
    client = streaming.connect()
    if framing == "length":
        head = request("POST", f"/digest?piece=3&gate={gate.path}", "Content-Length: 10") + b"123"
    else:
        head = request("POST", f"/digest?piece=3&gate={gate.path}", CHUNKED) + b"3\r\n123\r\n"
    client.send(head)
    client.half_close()
    assert gate.enter() == "ClientGone after 3"
    gate.open()
    streaming.log.expect("EntityCut", gate.path)


def test_streamed_content_of_a_client_that_resets(streaming: Server, gate: Gate) -> None:
    client = streaming.connect()
    client.send(request("POST", f"/digest?gate={gate.path}", "Content-Length: 10") + b"123")
    streaming.look()
    client.reset()
    assert gate.enter().startswith("ClientGone")


def test_streamed_malformed_chunk_is_an_error(streaming: Server, gate: Gate) -> None:
    client = streaming.connect()
    client.send(
        request("POST", f"/digest?piece=3&gate={gate.path}", CHUNKED) + b"3\r\n123\r\nzz\r\n"
    )
    assert gate.enter() == "ClientGone after 3"
    gate.open()
    response = client.response()
    assert response.is_last
    streaming.log.expect("[Chunk 400]", gate.path)


def test_streamed_content_that_grows_too_large(streaming: Server, gate: Gate) -> None:
    client = streaming.connect().send(request("POST", f"/digest?gate={gate.path}", CHUNKED))
    client.send(chunked(*cut(bytes(20_000_000), 60_000)))
    assert client.response().status == 413
    assert gate.enter().startswith("ClientGone")


def test_streamed_unread_content_ends_the_connection(streaming: Server) -> None:
    client = streaming.connect()
    client.send(request("POST", "/hello?x", "Content-Length: 1000") + bytes(1000))
    response = client.response()
    assert response.text == "hello x"
    if response.is_last:
        assert client.ends()


def test_streamed_uploads_side_by_side(streaming: Server) -> None:
    data = pattern(400_000)
    clients = [streaming.connect() for _ in range(12)]
    for client in clients:
        client.send(request("POST", "/digest", f"Content-Length: {len(data)}"))
    for piece in cut(data, 50_000):
        for client in clients:
            client.send(piece)
    for client in clients:
        check_digest(json.loads(client.response().text), data)


def test_stream_of_answers_to_a_stream_of_content(streaming: Server) -> None:
    client = streaming.connect().send(request("POST", "/upper", CHUNKED))
    for word in (b"abc", b"def", b"ghi"):
        client.send(b"3\r\n" + word + b"\r\n")
    client.send(b"0\r\n\r\n")
    assert client.response().text == "ABCDEFGHI"


def test_cut_response_of_streamed_content(streaming: Server) -> None:
    client = streaming.connect()
    client.send(request("POST", "/lies?says=9&sends=5&how=list", "Content-Length: 3") + b"abc")
    with pytest.raises(Ended):
        client.response()
