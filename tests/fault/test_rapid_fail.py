"""An application that cannot start: rapid-fail protection, the start-up time limit, and the ways
back.
"""

import os
import signal

import pytest
from load import Client, Request, run_load


def kill_workers(server):
    for pid in server.pids("worker"):
        os.kill(pid, signal.SIGKILL)


def ask(server, number):
    with Client(server.address) as client:
        return client.ask(Request(number))


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_offline_and_back_by_reload(serve, connect, options):
    server = serve("--workers", "1", "--rapid-fail", "3/60", *options)
    assert ask(server, 1).status == 200
    waiting = connect(server)
    (server.directory / "bad").touch()
    if options:
        os.kill(server.pids("zygote")[0], signal.SIGKILL)
        server.log.wait_for("zygote .* has ended")
    kill_workers(server)
    server.log.wait_for(r"\bdied: signal 9")
    waiting.send(Request(2))  # queued while there is hope
    answer = waiting.read_answer()
    assert answer.status == 503
    assert answer.fields["retry-after"]
    assert "connection" not in answer.fields
    server.log.wait_for("pool default: is offline")
    assert ask(server, 3).status == 503
    server.log.wait_for(r"AppOffline.*n=3")
    (server.directory / "bad").unlink()
    server.signal(signal.SIGHUP)
    server.log.wait_for("pool default: is online")
    assert waiting.ask(Request(4)).status == 200
    deaths = r"died: exit status 3|could not be started"
    assert server.log.count(deaths) == 3, str(server.log)


def test_one_try_per_interval(serve):
    server = serve("--workers", "1", "--rapid-fail", "2/1")
    (server.directory / "bad").touch()
    kill_workers(server)
    server.log.wait_for("pool default: is offline")
    tries = server.log.count("died: exit status 3")
    server.log.wait_for("died: exit status 3", tries + 1)
    assert ask(server, 1).status == 503
    (server.directory / "bad").unlink()
    server.log.wait_for("pool default: is online")
    assert ask(server, 2).status == 200


def test_online_while_somebody_serves(serve):
    server = serve("--workers", "2", "--rapid-fail", "2/60", "--threads", "1")
    server.wait_until(lambda: len(server.pids("worker")) == 2)
    run_load(server.address, (Request(number, path="/sleep-2") for number in range(40)), clients=4)
    (server.directory / "bad").touch()
    os.kill(server.pids("worker")[0], signal.SIGKILL)
    server.log.wait_for("rapid-fail protection")
    outcome = run_load(server.address, (Request(number) for number in range(100, 200)))
    assert (outcome.broken, outcome.failed()) == ([], [])
    assert server.log.count("is offline") == 0
    kill_workers(server)
    server.log.wait_for("pool default: is offline")
    assert ask(server, 300).status == 503
    assert server.stop() == 0


def test_start_up_time_limit(serve, connect):
    server = serve("--workers", "1", "--startup-time-limit", "1s")
    (server.directory / "slow").touch()
    kill_workers(server)
    client = connect(server)
    client.send(Request(1))
    server.log.wait_for(r"exceeded its start-up time limit \(1 s\)")
    (server.directory / "slow").unlink()
    assert client.read_answer().status == 200
    server.log.wait_for(r"\bended: signal (6|9)")


@pytest.mark.parametrize("options", [(), ("--preload",)])
@pytest.mark.parametrize("bad", ["bad", "broken"])
def test_first_start_fails(serve, connect, options, bad, tmp_path):
    # Nothing ever served: the start has failed, and who waits already is told so.
    (tmp_path / "slow").touch()
    server = serve("--workers", "1", "--rapid-fail", "2/60", *options, ready=False)
    server.wait_until_bound()
    client = connect(server)
    client.send(Request(1))
    (tmp_path / bad).touch()
    (tmp_path / "slow").unlink()
    answer = client.read_answer()
    assert answer.status == 503
    assert answer.fields["connection"] == "close"
    client.close()
    assert server.wait() == 1
    assert server.leftovers() == []
    server.log.wait_for("none was ever ready" if bad == "bad" else "ZeroDivisionError")
