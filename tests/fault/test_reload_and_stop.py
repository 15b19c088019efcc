"""Reload and stop under load: no request is lost, no connection ends unannounced."""

import os
import signal
import threading

import pytest
from load import Broken, Client, Request, judge, mixed_requests, read_executions, run_load


def change_code(server, old, new):
    """The application's file with `old` replaced, in place of the present one."""
    file = server.directory / "fault_app.py"
    text = file.read_text()
    assert old in text
    changed = file.with_suffix(".new")
    changed.write_text(text.replace(old, new))
    changed.rename(file)


class Reloader:
    """Reloads at given counts of answers, each time with new code."""

    def __init__(self, server, every, times) -> None:
        self._server = server
        self._every = every
        self._times = times
        self.version = 1
        self.seen: set[str] = set()

    def __call__(self, count, request, answer) -> None:
        self.seen.add(answer.fields["x-version"])
        if count % self._every == 0 and self.version <= self._times:
            change_code(
                self._server, f"VERSION = {self.version}\n", f"VERSION = {self.version + 1}\n"
            )
            self._server.signal(signal.SIGHUP)
            self.version += 1
            self._server.log.wait_for("the new code serves", self.version - 1)


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_reload_under_load(serve, options):
    server = serve("--workers", "2", *options)
    reloader = Reloader(server, 150, 3)
    outcome = run_load(server.address, mixed_requests(900), on_answer=reloader)
    judge(outcome, read_executions(server.executions), ())
    assert outcome.failed() == []
    assert reloader.seen == {"1", "2", "3", "4"}
    with Client(server.address) as client:
        assert client.ask(Request(1000)).fields["x-version"] == "4"
    assert server.stop() == 0
    assert server.log.count("Traceback") == 0, str(server.log)
    assert server.log.count(r"\bdied\b") == 0, str(server.log)


@pytest.mark.parametrize("options", [(), ("--preload",)])
@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("import no_such_module\n", "No module named 'no_such_module'"),
        ("VERSION = = 2\n", "SyntaxError"),
        ("import os\nos._exit(3)\n", "exit status 3"),
        ("import os\nos.kill(os.getpid(), 11)\n", "signal 11"),
    ],
)
def test_reload_with_code_that_does_not_load(serve, options, new, said):
    server = serve("--workers", "2", *options)
    server.wait_until(lambda: len(server.pids("worker")) == 2)
    workers = server.pids("worker")
    change_code(server, "VERSION = 1\n", new)

    def reload(count, request, answer):
        if count == 30:
            server.signal(signal.SIGHUP)
            server.log.wait_for("old code serves|reload failed|goes on")

    outcome = run_load(server.address, mixed_requests(200), on_answer=reload)
    assert outcome.broken == []
    assert outcome.failed() == []
    assert {answer.pid for answer in outcome.answers.values()} <= set(workers)
    server.log.wait_for(said)
    # A later reload with good code works.
    change_code(server, new, "VERSION = 2\n")
    server.signal(signal.SIGHUP)
    server.log.wait_for("the new code serves")
    with Client(server.address) as client:
        assert client.ask(Request(1000)).fields["x-version"] == "2"


def test_stop_under_load(serve):
    # What was sent before a connection was told to close is answered; then the port refuses.
    server = serve("--workers", "2")
    answered = []
    lock = threading.Lock()

    def one_client(first):
        number = first
        try:
            client = Client(server.address)
        except ConnectionRefusedError:
            return
        with client:
            while True:
                number += 1
                client.send(Request(number, "POST", "/sleep-3", b"content"))
                try:
                    answer = client.read_answer()
                except Broken as found:
                    answered.append(found)
                    return
                with lock:
                    answered.append(answer.status)
                    if len(answered) == 200:
                        server.signal(signal.SIGTERM)
                if answer.fields.get("connection") == "close":
                    return

    threads = [threading.Thread(target=one_client, args=(n * 10_000,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answered) == {200}
    assert server.wait() == 0
    assert server.leftovers() == []
    assert all(len(pids) == 1 for pids in read_executions(server.executions).values())
    with pytest.raises(ConnectionRefusedError):
        Client(server.address)


def test_stop_waits_for_running_and_queued(serve, connect):
    server = serve("--workers", "1", "--threads", "1")
    clients = [connect(server) for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(Request(number, path="/wait-go"))
    server.wait_for_execution(0)
    server.signal(signal.SIGTERM)
    server.log.wait_for("stopping")
    (server.directory / "go").touch()
    for client in clients:
        answer = client.read_answer()
        assert answer.status == 200
        assert answer.fields["connection"] == "close"
        client.close()
    assert server.wait() == 0


def test_worker_dies_while_stopping(serve, connect):
    # It is replaced, and what it had is executed again.
    server = serve("--workers", "1", "--threads", "1")
    clients = [connect(server) for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(Request(number, path="/wait-go"))
    server.wait_for_execution(0)
    server.signal(signal.SIGTERM)
    server.log.wait_for("stopping")
    os.kill(server.pids("worker")[0], signal.SIGKILL)
    (server.directory / "go").touch()
    for client in clients:
        assert client.read_answer().status == 200
        client.close()
    assert server.wait() == 0


@pytest.mark.parametrize(
    "signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,), (signal.SIGTERM, signal.SIGQUIT)]
)
def test_stop_now(serve, connect, signals):
    server = serve("--workers", "1")
    client = connect(server)
    client.send(Request(0, path="/wait-never"))
    server.wait_for_execution(0)
    for times, number in enumerate(signals, 1):
        server.signal(number)
        server.log.wait_for("stopping", times)
    assert server.wait() == 0
    assert server.leftovers() == []


def test_graceful_timeout(serve, connect):
    # What does not end in time is given up: the client is told so, the stacks are in the log.
    server = serve("--workers", "1", "--threads", "1", "--graceful-timeout", "1s")
    clients = [connect(server) for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(Request(number, path="/wait-never"))
    server.wait_for_execution(0)
    server.signal(signal.SIGTERM)
    answers = [client.read_answer() for client in clients]
    assert all(answer.status in (502, 503) for answer in answers), answers
    for client in clients:
        client.close()
    assert server.wait() == 0
    server.log.wait_for("in wait_for")
    server.log.wait_for("graceful timeout")
