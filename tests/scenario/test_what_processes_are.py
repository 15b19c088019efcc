"""What worker processes are and may use: users, files, processor time."""

import json
import os
import pwd
import shutil
import signal

import psutil
import pytest
from load import Client, Request
from scene import SERVER, one_pool, pool
from spawning import OTHER_PYTHON, make_folder, nobody_can_run
from steady import only
from test_reloads import site

WRITER = """
import json, os, stat


def application(environ, start_response):
    def attempt(path, flags=os.O_RDWR):
        try:
            os.close(os.open(path, flags))
        except OSError as found:
            return found.strerror
        return "open"

    words = environ["PATH_INFO"].strip("/").split("/")
    if words[0] == "write":
        with open(words[1], "w") as file:
            file.write("x")
        found = []
    else:
        found = [attempt("/" + "/".join(words[1:]))]
    told = {"pid": os.getpid(), "uid": os.getuid(), "groups": os.getgroups(), "found": found}
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def folder():
    """A folder that every user can read."""
    made = make_folder()
    yield made
    shutil.rmtree(made)


def ask(scene, path):
    """What the application told."""
    with Client(scene.address) as client:
        client.send_bytes(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = client.read_answer()
    assert answer.status == 200, (answer, str(scene.log))
    return json.loads(answer.content)


@pytest.mark.skipif(
    os.geteuid() != 0 or not nobody_can_run(OTHER_PYTHON),
    reason=f"only root can be somebody else, and others must be able to run {OTHER_PYTHON}",
)
def test_users(folder, serve):
    # Files belong to the pool's user; one pool's workers reach nothing of another's.
    users = {"one": pwd.getpwnam("nobody"), "two": pwd.getpwnam("daemon")}
    (folder / "writer.py").write_text(WRITER)
    text = SERVER
    for name, user in users.items():
        (folder / name).mkdir()
        os.chown(folder / name, user.pw_uid, user.pw_gid)
        text += pool(
            f'process.user = "{user.pw_name}"', f'directory = "{folder / name}"',
            'process.umask = "027"', f'process.python = "{OTHER_PYTHON}"', name=name
        )  # fmt: skip
    where = f'directory = "{folder}"'
    text += site("a", ("/", "one", where), ("/b", "two", where))
    scene = serve(text.replace("fault_app", "writer"), folder)
    for turn in range(3):
        for prefix, name in (("", "one"), ("/b", "two")):
            assert ask(scene, f"{prefix}/write/file{turn}")["uid"] == users[name].pw_uid
            status = (folder / name / f"file{turn}").stat()
            assert status.st_uid == users[name].pw_uid
            assert status.st_mode & 0o777 == 0o640
            scene.control.recycle(name)
    one = ask(scene, "/write/x")["pid"]
    service = scene.pids("service")[0]
    places = (f"proc/{one}/mem", f"proc/{one}/fd/3", f"proc/{service}/mem", f"proc/{service}/fd/3")
    for path in (*places, f"{folder}/one/x".strip("/"), f"{folder}/control".strip("/")):
        found = ask(scene, f"/b/open/{path}")["found"]
        assert found[0] in ("Permission denied", "No such device or address"), path
    for name in users:
        shutil.rmtree(folder / name)


def test_cpu_limit_kill(serve):
    # Workers end, the pool is stopped until the interval ends, and then goes on by itself.
    scene = serve(
        one_pool(
            "cpu.limit = 5", 'cpu.action = "kill"', 'cpu.interval = "8s"', "threads = 2",
            'redispatch = "never"',
        )
    )  # fmt: skip
    assert scene.ask(Request(1)).status == 200
    burn(scene, 2, 502)
    scene.event(5025)
    assert scene.ask(Request(3)).status == 503
    scene.wait_until(lambda: scene.pids("worker") == [])
    scene.event(6070)
    with scene.load() as load:
        load.go_on(20)
    scene.judge(load)
    assert load.outcome.failed() == []


def test_cpu_limit_none(serve):
    # An event, and nothing else.
    scene = serve(one_pool("cpu.limit = 5", 'cpu.interval = "4s"'))
    with scene.load() as load:
        before = scene.workers()
        burn(scene, 2, 200)
        scene.event(5025)
        load.go_on()
        assert scene.workers() == before
    scene.judge(load)
    assert load.outcome.failed() == []


def test_cpu_limit_throttle(serve):
    # Where control groups cannot be used the log says so, and the server goes on.
    scene = serve(one_pool("cpu.limit = 5", 'cpu.interval = "4s"', 'cpu.action = "throttle"'))
    with scene.load() as load:
        burn(scene, 2, 200)
        scene.event(5025)
        load.go_on()
        scene.event(6070)
        load.go_on()
    scene.judge(load)
    assert load.outcome.failed() == []


def burn(scene, number, status):
    assert scene.ask(Request(number, "POST", "/burn-1000", b"x")).status == status


def test_stop_order_of_signals(serve):
    # A worker that is told TERM by somebody finishes what it has, and is replaced.
    scene = serve(
        one_pool("max_processes = 2", "min_processes = 2", 'start_mode = "always_running"')
    )
    scene.wait_until(lambda: len(scene.workers()) == 2)
    with scene.load() as load:
        victim = scene.workers()[0]
        os.kill(victim, signal.SIGTERM)
        scene.wait_until(lambda: not psutil.pid_exists(victim))
        scene.wait_until(lambda: len(scene.workers()) == 2)
        load.go_on()
    scene.judge(load)
    assert load.outcome.failed() == []


def test_main_process_is_killed(serve):
    # The service and all workers die with it; nobody is left.
    scene = serve(one_pool())
    with scene.load(only("POST")) as load:
        load.go_on(10)
    scene.processes()
    os.kill(scene.pid, signal.SIGKILL)
    assert scene.wait() == -signal.SIGKILL
    assert scene.leftovers() == []
    for name in ("control", "pid"):
        (scene.directory / name).unlink(missing_ok=True)
