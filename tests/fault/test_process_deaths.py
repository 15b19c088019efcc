"""Whoever dies, nobody is left behind: supervisor, service, spawner, zygote, and as process 1."""

import os
import shutil
import signal
import subprocess

import psutil
import pytest
from load import Request, judge, mixed_requests, read_executions, run_load


def busy(server, connect, count=3):
    """Clients whose requests execute until the file `go` exists."""
    clients = [connect(server) for _ in range(count)]
    for number, client in enumerate(clients):
        client.send(Request(number, path="/wait-go"))
        server.wait_for_execution(number)
    return clients


@pytest.mark.parametrize("options", [(), ("--preload",)])
@pytest.mark.parametrize(
    ("victim", "status"), [("supervisor", -signal.SIGKILL), ("service", 128 + signal.SIGKILL)]
)
def test_end_of_the_whole(serve, connect, victim, status, options):
    server = serve("--workers", "2", *options)
    busy(server, connect)
    assert len(server.processes()) == (5 if options else 4)
    os.kill(server.pid if victim == "supervisor" else server.pids("service")[0], signal.SIGKILL)
    assert server.process.wait() == status
    assert server.leftovers() == []


class Wounder:
    """Does something to the server once per so many answers."""

    def __init__(self, every, times, wound) -> None:
        self._every = every
        self._left = times
        self._wound = wound

    def __call__(self, count, request, answer) -> None:
        if self._left and count % self._every == 0:
            self._left -= 1
            self._wound()


@pytest.mark.parametrize(
    ("victim", "options"),
    [("spawner", ()), ("spawner", ("--preload",)), ("zygote", ("--preload",))],
)
def test_makers_of_workers_die_under_load(serve, victim, options):
    server = serve("--workers", "2", *options)
    dead = set()

    def wound():
        # With the spawner die its workers; with the zygote nobody, and the next start makes one.
        server.wait_until(lambda: server.pids(victim) != [])
        workers = server.pids("worker")
        dead.update(workers)
        for pid in server.pids(victim):
            os.kill(pid, signal.SIGKILL)
        if victim == "zygote":
            os.kill(workers[0], signal.SIGKILL)

    outcome = run_load(server.address, mixed_requests(600), on_answer=Wounder(150, 3, wound))
    judge(outcome, read_executions(server.executions), dead)
    lines = {"spawner": "the spawner died: signal 9", "zygote": "zygote .* has ended: signal 9"}
    server.log.wait_for(lines[victim], times=3)
    assert server.stop() == 0
    assert server.log.count("Traceback") == 0, str(server.log)


UNSHARE = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")


@pytest.fixture(scope="module")
def namespace():
    """The command that makes its argument process 1 of a new namespace."""
    if (
        not shutil.which("unshare")
        or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode
    ):
        pytest.skip("this user may not make a process namespace")
    return UNSHARE


def test_process_1(serve, connect, namespace):
    # As in a container: reaps what the application has orphaned, and TERM stops it.
    server = serve("--workers", "1", prefix=namespace)
    client = connect(server)
    assert client.ask(Request(1)).status == 200
    usual = len(server.processes())
    for number in (2, 3):
        assert client.ask(Request(number, path=f"/orphan-go{number}")).status == 200
    assert len(server.processes()) == usual + 2
    (server.directory / "go2").touch()
    server.wait_until(lambda: len(server.processes()) == usual + 1)
    # Whom the spawner had adopted goes to process 1.
    os.kill(server.pids("spawner")[0], signal.SIGKILL)
    assert client.ask(Request(4)).status == 200
    (server.directory / "go3").touch()
    server.wait_until(lambda: len(server.processes()) == usual)
    client.close()
    main = psutil.Process(server.pid).children()
    assert len(main) == 1
    main[0].terminate()
    assert server.wait() == 0
    assert server.leftovers() == []
