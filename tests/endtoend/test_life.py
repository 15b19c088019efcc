"""Addresses, probes, start and end, as clients see them."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import Gate, Server, until
from wire import Client, Ended, request

HAS_V6 = socket.has_ipv6 and os.path.exists("/proc/net/if_inet6")


# --- addresses


def test_several_bindings_of_all_kinds(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    bind = ["127.0.0.1:0", "localhost:0", f"unix:{path}", *(["[::1]:0"] if HAS_V6 else [])]
    with Server(bind=bind) as server:
        kinds = set()
        for number in range(len(server.urls)):
            client = server.connect(number)
            kinds.add(client.socket.family)
            assert client.ask("/hello?x").text == "hello x"
        assert socket.AF_UNIX in kinds
        assert len(kinds) == 2 + HAS_V6
    assert not path.exists()


@pytest.mark.skipif(not HAS_V6, reason="this machine has no IPv6")
def test_v6_addresses_in_the_environ() -> None:
    import json

    with Server(bind=["[::1]:0"]) as server:
        seen = json.loads(server.ask("/show").text)
        assert seen["REMOTE_ADDR"] == "::1"
        assert seen["SERVER_NAME"] == "::1"
        assert server.urls[0].startswith("http://[::1]:")


def test_inherited_descriptor() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        with Server(bind=[f"fd://{number}"], pass_fds=[number]) as server:
            assert server.ask("/hello").status == 200
            assert server.address() == listener.getsockname()


def test_unix_clients_of_every_kind(tmp_path: Path, gate: Gate) -> None:
    with Server("--log-level", "debug", bind=[f"unix:{tmp_path}/s"]) as server:
        half = server.connect().get("/hello?half").half_close()
        assert half.response().text == "hello half"
        assert half.ends()
        running = server.connect().get(f"/waits?gate={gate.path}")
        gate.enter()
        running.close()
        server.log.expect("Connection_Dropped", gate.path)
        gate.open()
        for _ in range(10):
            server.connect().get("/big?bytes=3000000").close()
        assert len(server.ask("/big?bytes=3000000").content) == 3_000_000
        client = server.connect()
        client.send(request("GET", "/hello?x") * 300)
        assert [client.response().text for _ in range(300)] == ["hello x"] * 300
        bad = server.connect().send(b"nonsense\r\n\r\n")
        assert bad.response().status == 400
        assert bad.ends()


def test_several_loops_serve_alike() -> None:
    with Server("--loops", "3", workers=2) as server:
        clients = [server.connect() for _ in range(40)]
        for _ in range(5):
            for client in clients:
                client.send(request("GET", "/hello?x") * 3)
            for client in clients:
                assert [client.response().text for _ in range(3)] == ["hello x"] * 3
        content = bytes(200_000)
        for client in clients:
            assert client.ask("/echo", method="POST", content=content).content == content


# --- probes


def test_probes_are_answered_by_the_core(gate: Gate) -> None:
    with Server("--health-path", "on", "--threads", "1", "--queue-length", "1") as server:
        running = server.connect().get(f"/waits?gate={gate.path}")
        gate.enter()
        client = server.connect()
        for _ in range(30):
            assert client.ask("/.kernelq/live").status == 200
            assert client.ask("/.kernelq/ready").status == 200
        assert client.ask("/.kernelq/live?x=y").status == 200
        assert client.ask("/.kernelq/live", method="HEAD").content == b""
        response = client.ask("/.kernelq/ready", method="POST", content=b"content")
        assert response.status == 200
        gate.open()
        assert running.response().text == "waited"
        for other in ("/.kernelq", "/.kernelq/", "/.kernelq/livex", "/.kernelq/other", "/live"):
            assert server.ask(other).text.startswith("hello"), other


def test_probes_are_off_by_default(server: Server) -> None:
    assert server.ask("/.kernelq/live").text.startswith("hello")


def test_probes_below_another_path() -> None:
    with Server("--health-path", "/health") as server:
        assert server.ask("/health/live").status == 200
        assert server.ask("/.kernelq/live").text.startswith("hello")


def test_ready_waits_for_the_first_worker(gate: Gate) -> None:
    server = Server(
        "--health-path", "on",
        application="gated_import:application", environment={"IMPORT_GATE": gate.path},
    )  # fmt: skip
    try:
        assert gate.enter() == "importing"
        early = server.connect()
        assert early.ask("/.kernelq/live").status == 200
        response = early.ask("/.kernelq/ready")
        assert response.status == 503
        waiting = server.connect().get("/hello?early")
        server.look()
        gate.open()
        assert waiting.response().text == "hello early"
        server.ready()
        assert early.ask("/.kernelq/ready").status == 200
    finally:
        assert server.stop() == 0


def test_drain_delay(gate: Gate) -> None:
    with Server("--health-path", "on", "--drain-delay", "2") as server:
        client = server.connect()
        assert client.ask("/.kernelq/ready").status == 200
        family = server.family()
        server.process.terminate()
        server.log.expect("not ready any more")
        assert client.ask("/.kernelq/ready").status == 503
        assert client.ask("/.kernelq/live").status == 200
        assert server.ask("/hello?new").text == "hello new"
        response = client.ask("/hello")
        assert not response.is_last
        server.log.expect("requests may finish")
        while not client.ask("/hello").is_last:
            pass  # the line is written a moment before
        client.close()
        assert server.ended(family) == 0


# --- requests wait while there is no worker


def test_requests_wait_while_all_workers_are_dead(tmp_path: Path) -> None:
    with Server(workers=2) as server:
        clients = [server.connect() for _ in range(20)]
        for pid in server.pids("worker"):
            os.kill(pid, signal.SIGKILL)
        for client in clients:
            client.get("/hello?x")
        for client in clients:
            assert client.response().text == "hello x"


def test_reload_under_running_requests(gate: Gate) -> None:
    with Server() as server:
        running = server.connect().get(f"/waits?gate={gate.path}")
        gate.enter()
        server.process.send_signal(signal.SIGHUP)
        server.log.expect("reload: the new code serves")
        assert server.ask("/hello?new").text == "hello new"
        gate.open()
        assert running.response().text == "waited"


# --- the end


def test_running_queued_and_accepted_requests_finish(gates: Callable[[], Gate]) -> None:
    gate = gates()
    with Server("--threads", "1") as server:
        running = server.connect().get(f"/waits?gate={gate.path}")
        gate.enter()
        queued = [server.connect().get(f"/hello?{number}") for number in range(30)]
        pipelined = server.connect().send(request("GET", "/hello?p") * 3)
        idle = server.connect()
        kept = server.connect()
        upload = server.connect().send(request("POST", "/echo", "Content-Length: 3") + b"a")
        server.look()
        family = server.family()
        server.process.terminate()
        server.log.expect("stopping: requests may finish")
        upload.send(b"bc")
        kept.get("/hello?last")
        gate.open()
        assert running.response().is_last
        for number, client in enumerate(queued):
            response = client.response()
            assert response.text == f"hello {number}"
            assert response.is_last
        assert pipelined.response().text == "hello p"
        assert kept.response().text == "hello last"
        assert upload.response().text == "abc"
        assert idle.ends()
        server.close_clients()
        assert server.ended(family) == 0


def test_stream_that_outlasts_the_grace_of_idle_connections(gate: Gate) -> None:
    """Its response promised to keep the connection before the order to stop came."""
    with Server() as server:
        client = server.connect().get(f"/steps?gate={gate.path}")
        gate.enter()
        client.head()
        idle = server.connect()
        family = server.family()
        server.process.terminate()
        assert idle.ends()
        gate.open()
        assert client.chunk() + client.chunk() + client.chunk() == b"firstsecond"
        assert client.ends()
        client.close()
        assert server.ended(family) == 0


def test_new_connections_are_refused_after_the_order_to_stop(gate: Gate) -> None:
    with Server() as server:
        running = server.connect().get(f"/waits?gate={gate.path}")
        gate.enter()
        family = server.family()
        server.process.terminate()

        def is_refused() -> bool:
            try:
                Client(server.address()).close()
            except ConnectionRefusedError:
                return True
            return False

        until(is_refused, "the closed listener")
        gate.open()
        assert running.response().text == "waited"
        server.close_clients()
        assert server.ended(family) == 0


def test_connections_in_the_backlog_are_answered() -> None:
    """What the kernel has accepted was promised an answer."""
    with Server() as server:
        (service,) = server.pids("service")
        os.kill(service, signal.SIGSTOP)
        clients = [server.connect().get(f"/hello?{number}") for number in range(50)]
        family = server.family()
        server.process.terminate()
        os.kill(service, signal.SIGCONT)
        for number, client in enumerate(clients):
            assert client.response().text == f"hello {number}"
        server.close_clients()
        assert server.ended(family) == 0


def test_quit_ends_running_requests_at_once(gate: Gate) -> None:
    with Server() as server:
        running = server.connect().get(f"/waits?gate={gate.path}")
        gate.enter()
        family = server.family()
        server.process.send_signal(signal.SIGQUIT)
        with pytest.raises((Ended, ConnectionError, AssertionError)):
            assert running.response().status < 500
        server.ended(family)
