"""What worker processes are and may use: users, files, processor time."""

import os
import pwd
import signal

import psutil
import pytest
from load import Request
from scene import SERVER, one_pool, pool
from steady import only
from test_reloads import site

is_root = os.geteuid() == 0

WRITER = '''
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
'''


@pytest.mark.skipif(not is_root, reason="only root can be somebody else")
def test_users(serve, tmp_path):
    # Files belong to the pool's user; one pool's workers reach nothing of another's.
    import json

    from load import Client

    users = {"one": pwd.getpwnam("nobody"), "two": pwd.getpwnam("daemon")}
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "writer.py").write_text(WRITER)
    text = SERVER
    for name, user in users.items():
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, user.pw_uid, user.pw_gid)
        text += pool(f'process.user = "{user.pw_name}"', f'directory = "{tmp_path / name}"',
                     'process.umask = "027"', name=name)  # fmt: skip
    text += site("a", ("/", "one", f'directory = "{tmp_path}"'),
                 ("/b", "two", f'directory = "{tmp_path}"'))  # fmt: skip
    scene = serve(text.replace("fault_app", "writer"))

    def ask(path):
        with Client(scene.address) as client:
            client.send_bytes(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = client.read_answer()
            assert answer.status == 200, (answer, str(scene.log))
            return json.loads(answer.content)

    for turn in range(3):
        for prefix, name in (("", "one"), ("/b", "two")):
            told = ask(f"{prefix}/write/file{turn}")
            assert told["uid"] == users[name].pw_uid
            status = (tmp_path / name / f"file{turn}").stat()
            assert status.st_uid == users[name].pw_uid
            assert status.st_mode & 0o777 == 0o640
            scene.control.recycle(name)
    one = ask("/write/x")["pid"]
    denied = ("Permission denied", "No such file or directory", "No such device or address")
    for path in (f"proc/{one}/mem", f"proc/{one}/fd/3", f"{tmp_path}/one/x", f"{tmp_path}/control",
                 f"proc/{scene.pids('service')[0]}/mem"):  # fmt: skip
        assert ask(f"/b/open/{path.strip('/')}")["found"][0] in denied, path


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
    scene = serve(
        one_pool("cpu.limit = 5", 'cpu.interval = "4s"', 'cpu.action = "throttle"')
    )
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
    scene = serve(one_pool("max_processes = 2", "min_processes = 2", 'start_mode = "always_running"'))
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
