"""Clients that do anything at any moment: the server stays, and everything is given back."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, until
from wire import Client, Ended, chunked, request


@pytest.fixture(scope="module", params=["held", "streamed"])
def target(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(
        "--content", request.param, "--threads", "2", "--queue-length", "20", "--max-content", "2M",
        "--log-level", "debug",
    ) as server:  # fmt: skip
        yield server


def descriptors(server: Server) -> int:
    (service,) = server.pids("service")
    return len(os.listdir(f"/proc/{service}/fd"))


def message(chance: random.Random, folder: Path) -> bytes:
    """One request of any kind, whole."""
    size = chance.choice([0, 1, 1000, 65536, 65537, 300_000, 3_000_000])
    content = bytes(size)
    pieces = [content[at : at + 50_000] for at in range(0, size, 50_000)]
    return chance.choice(
        [
            lambda: request("GET", "/hello"),
            lambda: request("HEAD", "/hello"),
            lambda: request("GET", "/hello", version="1.0"),
            lambda: request("GET", "/hello", "Connection: close"),
            lambda: request("POST", "/digest", content=content),
            lambda: request(
                "POST", "/echo", "Transfer-Encoding: chunked", content=chunked(*pieces)
            ),
            lambda: request("POST", "/hello", content=content),
            lambda: request("POST", "/upper", "Expect: 100-continue", content=content),
            lambda: request("GET", f"/big?bytes={size}"),
            lambda: request("GET", f"/stream?blocks=30&bytes={size // 30 + 1}"),
            lambda: request("GET", f"/file?path={folder / 'file'}"),
            lambda: request("GET", "/lies?says=900000&sends=500000&how=iterator"),
            lambda: request("GET", "/fails?where=block"),
            lambda: request("GET", "/fails?where=call"),
            lambda: b"nonsense\r\n\r\n",
            lambda: request("POST", "/echo", "Transfer-Encoding: chunked") + b"zz\r\n",
        ]
    )()


def misbehave(server: Server, chance: random.Random, folder: Path) -> None:
    """One connection: some requests, cut anywhere, read or not, ended in any way."""
    client = server.connect(receive_bytes=chance.choice([0, 4096]))
    client.socket.settimeout(chance.choice([0.001, 0.01, 0.05]))
    data = b"".join(message(chance, folder) for _ in range(chance.randint(1, 4)))
    if chance.random() < 0.5:
        data = data[: chance.randrange(len(data) + 1)]
    try:
        client.send(data)
        if chance.random() < 0.3:
            client.half_close()
        for _ in range(chance.randrange(4)):
            client.response()
    except (OSError, Ended, AssertionError):
        pass
    if chance.random() < 0.8:
        chance.choice([client.close, client.reset])()


@pytest.mark.parametrize("seed", range(4))
def test_clients_that_do_anything(target: Server, tmp_path: Path, seed: int) -> None:
    (tmp_path / "file").write_bytes(bytes(5_000_000))
    chance = random.Random(seed)
    before = descriptors(target)
    workers = target.pids("worker")
    for _ in range(60):
        misbehave(target, chance, tmp_path)
    target.close_clients()
    with Client(target.address()) as client:
        response = client.ask("/hello?still")
        while response.status == 503:
            response = client.ask("/hello?still")
        assert response.text == "hello still"
    until(lambda: descriptors(target) <= before + 1, "all descriptors closed")
    assert target.pids("worker") == workers, "no worker died"
    assert target.log.count("5127") == 0
