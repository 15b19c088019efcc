"""A new kernelq takes over under load: no connection is refused or reset, old ones finish, and the
files that others know the server by stay.
"""

import os
import signal
import socket

import pytest
from load import Request
from scene import ONE_SITE, SERVER, one_pool, pool
from steady import Load, mixed, only

from kernelq.control import ControlError


def loads(scene):
    """Those who keep a connection, and those who open one for each request."""
    kept = scene.load(mixed, only("POST"), may_close=True)
    new = scene.load(mixed, clients=4, may_close=True, is_connecting=True)
    return kept, new


def check(scene, *loads: Load):
    for load in loads:
        scene.judge(load)
        assert load.outcome.failed() == []


def upgrade(scene, times=1):
    before = scene.control.status()
    done = scene.command("upgrade")
    assert done.returncode == 0, done.stderr
    scene.log.wait_for(r"upgrade: process \d+ serves", times)
    return before


def test_upgrade(serve):
    scene = serve(one_pool())
    kept, new = loads(scene)
    with kept, new:
        for times in range(1, 4):
            before = upgrade(scene, times)
            kept.go_on()
            new.go_on()
            scene.follow_upgrade()
            after = scene.control.status()
            assert after["pid"] == scene.pid != before["pid"]
            assert after["service_pid"] != before["service_pid"]
            assert after["state"] == "serving"
            assert (scene.directory / "pid").read_text() == f"{scene.pid}\n"
            scene.control.recycle("one")
            kept.go_on()
    check(scene, kept, new)


def test_upgrades_leave_nothing_open(serve):
    scene = serve(one_pool())

    def descriptors():
        return {**scene.held(), "main": len(os.listdir(f"/proc/{scene.pid}/fd"))}

    upgrade(scene)
    scene.follow_upgrade()
    first = descriptors()
    for times in range(2, 6):
        assert scene.ask(Request(times)).status == 200
        upgrade(scene, times)
        scene.follow_upgrade()
        # Not more: the first time what the command line asked may still have been open.
        scene.wait_until(lambda: all(count <= first[name] for name, count in descriptors().items()))


def test_upgrade_by_signal(serve):
    scene = serve(one_pool('start_mode = "always_running"', "max_processes = 2"))
    kept, new = loads(scene)
    with kept, new:
        os.kill(scene.pid, signal.SIGUSR2)
        scene.log.wait_for(r"upgrade: process \d+ serves")
        scene.follow_upgrade()
        kept.go_on()
        new.go_on()
    check(scene, kept, new)


def test_unix_sockets_stay(serve, tmp_path):
    path = tmp_path / "app.sock"
    site = ONE_SITE.replace('"127.0.0.1:0:"', f'"127.0.0.1:0:", "unix:{path}"')
    scene = serve(SERVER + pool() + site)

    def ask():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /?n=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")

    identity = path.stat().st_ino
    ask()
    upgrade(scene)
    ask()
    scene.follow_upgrade()
    ask()
    assert path.stat().st_ino == identity
    assert scene.control.status()["pid"] == scene.pid
    scene.stop()
    assert not path.exists()


def test_long_requests_finish(serve, connect):
    # What is executed when the new server comes is answered by the old one.
    scene = serve(one_pool())
    clients = [connect(scene) for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(Request(number, "POST", "/wait-go", b"x"))
        scene.wait_for_execution(number)
    kept, new = loads(scene)
    with kept, new:
        upgrade(scene)
        kept.go_on()
        (scene.directory / "go").touch()
        for client in clients:
            answer = client.read_answer()
            assert answer.status == 200
            assert answer.fields["connection"] == "close"
            client.close()
        scene.follow_upgrade()
        kept.go_on()
    check(scene, kept, new)


def test_new_settings_come_with_it(serve):
    scene = serve(one_pool("threads = 2"))
    with scene.load(may_close=True) as load:
        scene.change("threads = 2", "threads = 3\nmax_processes = 2")
        upgrade(scene)
        scene.follow_upgrade()
        load.go_on()
        assert scene.pool()["processes"]["max"] == 2
    check(scene, load)


def test_new_server_does_not_start(serve):
    # The old one goes on, nobody notices, and the caller is told.
    scene = serve(one_pool("threads = 2"))
    with scene.load() as load:
        before = scene.control.status()["service_pid"]
        workers = scene.workers()
        scene.change("threads = 2", "threads = many")
        done = scene.command("upgrade")
        assert done.returncode == 1, done.stdout
        assert "goes on" in done.stderr or "ended" in done.stderr, done.stderr
        load.go_on()
        scene.change("threads = many", "threads = 2\nstart_mode = 'always_running'")
        (scene.directory / "broken").touch()
        with pytest.raises(ControlError, match="ended"):
            scene.control.upgrade()
        (scene.directory / "broken").unlink()
        load.go_on()
        scene.change('bindings = ["', 'bindings = ["fd://5", "')
        with pytest.raises(ControlError, match="ended"):
            scene.control.upgrade()
        scene.log.wait_for("cannot listen on fd://5: descriptors are passed to a server at its")
        scene.change('"fd://5", ', "")
        load.go_on()
        assert scene.control.status()["service_pid"] == before
        assert scene.control.status()["state"] == "serving"
        assert scene.workers() == workers
        assert (scene.directory / "control").exists()
        assert (scene.directory / "pid").read_text() == f"{scene.pid}\n"
    check(scene, load)
    with scene.load(may_close=True) as load:
        upgrade(scene)
        scene.follow_upgrade()
        load.go_on()
    check(scene, load)


def test_new_server_cannot_write_its_pid_file(serve):
    # It finds that out when it serves already, and must not have taken over then.
    scene = serve(one_pool())
    with scene.load() as load:
        before = scene.control.status()["service_pid"]
        scene.change('pid_file = "pid"', 'pid_file = "gone/pid"')
        with pytest.raises(ControlError, match="ended"):
            scene.control.upgrade()
        scene.log.wait_for("cannot write .*gone/pid")
        load.go_on()
        assert scene.control.status()["service_pid"] == before
        assert scene.control.status()["state"] == "serving"
        assert (scene.directory / "control").exists()
        assert (scene.directory / "pid").read_text() == f"{scene.pid}\n"
    check(scene, load)


def test_order_to_end_during_an_upgrade(serve):
    # Whoever wants the server to end does not want a successor, which would come a moment later.
    # (What may be left behind is looked for after every test.)
    scene = serve(one_pool('start_mode = "always_running"'))
    (scene.directory / "slow").touch()
    scene.signal(signal.SIGUSR2)
    scene.log.wait_for("stop with Ctrl-C", 2)
    scene.signal(signal.SIGTERM)
    assert scene.wait() == 0
    assert "serves; this one" not in str(scene.log)
