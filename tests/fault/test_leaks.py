"""After many requests, connections and deaths of workers the service has what it had before:
descriptors, mappings, memory. (Exchanges that are not freed would keep it from being quiet at its
end, which every test of this directory asserts.)
"""

import os
import signal
from pathlib import Path

import psutil
import pytest
from load import Client, Request, mixed_requests, run_load

MIB = 1 << 20


class Service:
    """What the service process holds."""

    def __init__(self, server) -> None:
        self.server = server
        self.pid = server.pids("service")[0]

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def channel_mappings(self) -> int:
        maps = Path(f"/proc/{self.pid}/maps").read_text().splitlines()
        return sum("memfd:kernelq-core" in line or "memfd:kernelq-worker" in line for line in maps)

    def threads(self) -> int:
        return psutil.Process(self.pid).num_threads()

    def held(self) -> tuple[int, int, int]:
        return self.descriptors(), self.channel_mappings(), self.threads()

    def memory(self) -> int:
        return psutil.Process(self.pid).memory_full_info().uss

    def wait_until_all_ready(self, workers: int) -> None:
        # A worker whose memory is mapped twice over has said READY: then its rings are mapped too.
        self.server.wait_until(lambda: self.channel_mappings() == workers * 6)


def churn(server, first: int) -> None:
    """Every kind of request, many short connections, clients that leave, and dying workers."""
    run_load(server.address, mixed_requests(300, first))
    for number in range(40):
        with Client(server.address) as client:
            client.ask(Request(first + 300 + number))
    for number in range(40):
        client = Client(server.address)
        client.send(Request(first + 400 + number, path="/sleep-3/file"))
        client.reset()
    for number in range(3):
        with Client(server.address) as client:
            pid = client.ask(Request(first + 500 + number)).pid
            os.kill(pid, signal.SIGKILL)
            assert client.ask(Request(first + 600 + number)).status == 200
            server.log.wait_for(rf"\(pid {pid}\) died: signal 9")


def test_nothing_is_kept(serve):
    server = serve("--workers", "2", "--inspectable", "--log-level", "debug")
    service = Service(server)
    server.log.wait_for(r"\(pid \d+\) started", 2)
    service.wait_until_all_ready(2)
    before = service.held()
    churn(server, 0)
    server.wait_until(lambda: service.held() == before)
    memory = service.memory()
    for turn in range(1, 4):
        churn(server, turn * 1000)
        server.wait_until(lambda: service.held() == before)
    assert service.memory() - memory < 2 * MIB


def pipelined(client: Client, count: int, at_once: int = 100) -> None:
    requests = [Request(number) for number in range(at_once)]
    for _ in range(count // at_once):
        client.send(*requests)
        for request in requests:
            request.check(client.read_answer())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_million_requests(serve):
    server = serve("--workers", "2", "--inspectable")
    service = Service(server)
    service.wait_until_all_ready(2)
    before = service.held()
    with Client(server.address) as client:
        pipelined(client, 50_000)
        memory = service.memory()
        pipelined(client, 950_000)
        assert service.memory() - memory < 2 * MIB
    server.wait_until(lambda: service.held() == before)
    for number in range(10_000):
        with Client(server.address) as client:
            assert client.ask(Request(number)).status == 200
    server.wait_until(lambda: service.held() == before)
    assert service.memory() - memory < 2 * MIB
