"""What systemd would say and hear: sockets that it passes, and words over a notify socket. A
stand-in: no systemd runs here.
"""

import os
import signal
import socket
import sys

import pytest
from harness import PATIENCE
from load import Request
from scene import ONE_SITE, SERVER, one_pool, pool
from steady import mixed, only

# Becomes the command that follows, with its own number in LISTEN_PID.
_ACTIVATE = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
_ACTIVATE += "os.dup2(int(sys.argv[1]), 3); os.execv(sys.argv[2], sys.argv[2:])"


class Systemd:
    """The notify socket, as far as kernelq speaks to it."""

    def __init__(self, folder):
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(PATIENCE)
        self.words = []

    def wait_for(self, word):
        """Until it is said; what was said up to then."""
        while True:
            words = self._socket.recv(4096).decode().split("\n")
            self.words += words
            if word in words or any(one.startswith(word) for one in words if word[-1] == "="):
                return self.words

    def close(self):
        self._socket.close()


@pytest.fixture
def systemd(tmp_path):
    made = Systemd(tmp_path)
    yield made
    made.close()


def test_words(serve, systemd):
    scene = serve(one_pool("threads = 2"), environment={"NOTIFY_SOCKET": systemd.path})
    systemd.wait_for("READY=1")
    with scene.load(may_close=True) as load:
        scene.change("threads = 2", "threads = 3")
        os.kill(scene.pid, signal.SIGHUP)
        assert (
            "READY=1" not in systemd.wait_for("RELOADING=1")[systemd.words.index("READY=1") + 1 :]
        )
        assert any(one.startswith("MONOTONIC_USEC=") for one in systemd.words)
        systemd.wait_for("READY=1")
        load.go_on()
        scene.change("threads = 3", "thraeds = 4")
        os.kill(scene.pid, signal.SIGHUP)
        scene.log.wait_for("reload refused")
        scene.change("thraeds = 4", "threads = 4")
        systemd.words.clear()
        scene.control.upgrade()
        systemd.wait_for("MAINPID=")
        systemd.wait_for("READY=1")
        scene.follow_upgrade()
        assert f"MAINPID={scene.pid}" in systemd.words
        assert "STOPPING=1" not in systemd.words  # the unit goes on
        load.go_on()
    scene.judge(load)
    assert load.outcome.failed() == []
    assert scene.stop() == 0
    systemd.wait_for("STOPPING=1")


def test_refused_reload_ends(serve, systemd):
    # Whoever waits for the end of a reload (systemctl reload) is not left waiting.
    scene = serve(one_pool(), environment={"NOTIFY_SOCKET": systemd.path})
    systemd.wait_for("READY=1")
    systemd.words.clear()
    scene.change('name = "one"\n', 'name = "one"\nthreds = 3\n')
    os.kill(scene.pid, signal.SIGHUP)
    systemd.wait_for("RELOADING=1")
    systemd.wait_for("READY=1")


@pytest.fixture
def passed():
    """A listening socket that was there before the server."""
    made = socket.create_server(("127.0.0.1", 0))
    yield made
    made.close()


def activated(serve, text, passed):
    """A server that systemd has started because of its socket."""
    prefix = (sys.executable, "-c", _ACTIVATE, str(passed.fileno()))
    return serve(text, prefix=prefix, pass_fds=[passed.fileno()], environment={"LISTEN_FDS": "1"})


@pytest.mark.parametrize("binding", ["", "fd://3", "address"])
def test_socket_activation(serve, passed, binding):
    # Sites without bindings get it, or those that name its number, or its address.
    line = f'bindings = ["{binding}"]'
    if binding == "address":
        line = f'bindings = ["127.0.0.1:{passed.getsockname()[1]}"]'
    site = ONE_SITE.replace('bindings = ["127.0.0.1:0:"]', line if binding else "")
    scene = activated(serve, SERVER + pool() + site, passed)
    assert scene.address == passed.getsockname()
    kept, new = scene.load(may_close=True), scene.load(only(), may_close=True, is_connecting=True)
    with kept, new:
        scene.control.reload()
        kept.go_on()
        scene.control.upgrade()
        scene.follow_upgrade()
        kept.go_on()
        new.go_on()
    for load in (kept, new):
        scene.judge(load)
        assert load.outcome.failed() == []


def test_connections_before_the_start(serve, passed, tmp_path):
    # Who comes before the server has started waits in the socket, and is answered.
    with socket.create_connection(passed.getsockname()) as early:
        early.sendall(Request(1).encode())
        scene = activated(serve, SERVER + pool() + ONE_SITE.replace(
            'bindings = ["127.0.0.1:0:"]', ""), passed)  # fmt: skip
        assert early.recv(65536).startswith(b"HTTP/1.1 200 ")
    with scene.load(mixed) as load:
        load.go_on(20)
    scene.judge(load)
