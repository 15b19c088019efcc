"""Listening sockets that come and go while the server serves."""

import os
import socket
import threading

import pytest
from core_bench import Hand


@pytest.mark.parametrize("loops", [1, 3])
def test_a_listener_is_added_while_the_server_serves(bench, loops):
    core = bench(loops=loops)
    pool = core.one_pool()
    worker = core.worker(pool)
    number = core.listen()
    client = core.client(number)
    client.send()
    assert client.read()[0] == 400  # no route leads from there yet
    core.core.set_routes(
        [(one, b"", "", b"/", one, pool, 0, 0, True) for one in (core.listener, number)]
    )
    for one in (core.listener, number):
        client = core.client(one)
        client.send()
        assert worker.serve().application == one
        assert client.read()[0] == 200


@pytest.mark.parametrize("loops", [1, 3])
def test_a_listener_is_removed(bench, loops):
    core = bench(loops=loops)
    pool = core.one_pool()
    number = core.listen()
    core.route(("", b"/", 1, pool))
    worker = core.worker(pool)
    idle, busy = core.client(number), core.client(number)
    idle.send()
    worker.serve()
    assert "connection" not in idle.read()[1]
    busy.send("/busy")
    (request,) = worker.take()
    core.core.remove_listener(number)
    with pytest.raises(KeyError):
        core.core.remove_listener(number)
    # What is open is served, and told that it ends.
    worker.answer(request)
    status, fields, _ = busy.read()
    assert (status, fields["connection"]) == (200, "close")
    assert busy.is_ended()
    assert idle.is_ended()
    with pytest.raises(ConnectionRefusedError):
        core.client(number)
    for client in (idle, busy):
        client.close()
    while core.core.stats()["connections_now"]:
        pass
    del core.ports[number]
    assert core.send().sock.getpeername()[1] == core.ports[core.listener]
    worker.serve()
    with pytest.raises(KeyError):
        core.core.remove_listener(1000)


def test_what_is_in_the_backlog_is_answered(bench):
    core = bench(loops=2)
    pool = core.one_pool()
    worker = core.worker(pool)
    for _ in range(10):
        number = core.listen()
        core.route(("", b"/", 1, pool))
        clients = [core.client(number) for _ in range(40)]
        core.core.remove_listener(number)
        for client in clients:
            client.send()
        for _ in clients:
            worker.serve()
        assert [client.read()[0] for client in clients] == [200] * 40
        for client in clients:
            client.close()
        del core.ports[number]


def test_numbers_are_used_again_when_nobody_needs_them(bench):
    core = bench()
    held = core.listen()
    client = core.client(held)
    core.core.remove_listener(held)
    del core.ports[held]
    seen = set()
    for _ in range(50):
        number = core.listen()
        assert number != held or client.is_ended()
        seen.add(number)
        core.core.remove_listener(number)
        del core.ports[number]
    assert len(seen) <= 50
    assert max(seen) < 60


class Steady(threading.Thread):
    """A client that asks without end, on new connections and old ones."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.is_over = threading.Event()
        self.statuses: list[bytes] = []
        self.problem = ""
        self.start()

    def run(self) -> None:
        try:
            while not self.is_over.is_set():
                with socket.create_connection(("127.0.0.1", self.port)) as sock:
                    sock.settimeout(30)
                    for _ in range(5):
                        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                        self.statuses.append(sock.recv(65536)[9:12])
        except OSError as found:
            self.problem = str(found)


class Serving(threading.Thread):
    """Answers whatever comes to a worker."""

    def __init__(self, worker: Hand) -> None:
        super().__init__(daemon=True)
        self.worker = worker
        self.is_over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.is_over.is_set():
            self.worker.raw.take(10)
            for request in self.worker.raw.held:
                self.worker.answer(request)
            self.worker.raw.held.clear()


@pytest.mark.parametrize("loops", [1, 2])
def test_listeners_and_routes_change_under_load(bench, loops):
    core = bench(loops=loops)
    pools = [core.pool(str(number)) for number in range(3)]
    core.route(("", b"/", 1, pools[0]))
    servers = [Serving(core.worker(pool)) for pool in pools]
    clients = [Steady(core.ports[core.listener]) for _ in range(4)]
    turn = 0
    while all(client.is_alive() and len(client.statuses) < 300 for client in clients):
        turn += 1
        number = core.listen()
        deep = b"/deep/" + b"x" * (turn % 100 + 1)
        core.route(("", b"/", turn, pools[turn % 3]), ("h", deep, 5, pools[0]))
        extra = core.pool(f"extra {turn}")
        core.core.set_pool_state(extra, "disabled")
        core.core.pool_close(extra)
        core.core.remove_listener(number)
        del core.ports[number]
        core.core.requests(100)
    for thread in (*clients, *servers):
        thread.is_over.set()
        thread.join(30)
    assert [client.problem for client in clients] == [""] * 4
    assert {status for client in clients for status in client.statuses} == {b"200"}


def open_sockets() -> int:
    names = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum(os.path.lexists(name) and "socket:" in os.readlink(name) for name in names)


def test_no_socket_stays_open(bench):
    core = bench()
    before = open_sockets()
    for _ in range(20):
        number = core.listen()
        port = core.ports.pop(number)
        core.core.remove_listener(number)
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                break
    while open_sockets() > before:
        pass


def listen_shared(core) -> tuple[int, socket.socket]:
    """The number of a listener, and its socket: somebody else has it, too."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return core.core.add_listener(os.dup(sock.fileno())), sock


@pytest.mark.parametrize("loops", [1, 3])
@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
def test_a_listener_that_somebody_else_has_shut_down(bench, loops, how):
    core = bench(loops=loops)
    number, sock = listen_shared(core)
    core.route(("", b"/", 1, core.one_pool()))
    sock.shutdown(how)
    client = core.client()
    turns = core.core.stats()["turns"]
    for _ in range(50):
        client.send("*", method="PUT")
        assert client.read()[0] == 400
        client = core.client()
    # It is ready for ever, and yet no loop is always awake.
    assert core.core.stats()["turns"] < turns + 1000 * loops
    core.core.remove_listener(number)
    with pytest.raises(KeyError):
        core.core.remove_listener(number)
    while True:  # every loop leaves it, and goes on
        client = core.client()
        client.send("*", method="PUT")
        assert client.read()[0] == 400
        again, other = listen_shared(core)
        other.close()
        if again == number:
            break
    sock.close()
