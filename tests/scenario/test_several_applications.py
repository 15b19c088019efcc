"""Several applications and sites: who is asked, what it sees, and how workers are made ready for
them.
"""

import json

import pytest
from load import Client, Request
from scene import SERVER, one_pool, pool
from steady import only
from test_reloads import site

TELLER = """
import json, os

if NAME in os.environ.get("BROKEN", "").split():
    raise ValueError(f"no {NAME} today")
print("loaded", NAME, os.getpid(), flush=True)


def application(environ, start_response):
    names = ("SCRIPT_NAME", "PATH_INFO", "REQUEST_URI", "HTTP_HOST", "SERVER_NAME")
    told = {name: environ.get(name) for name in names}
    told |= {"name": NAME, "pid": os.getpid(), "uid": os.getuid()}
    if environ["PATH_INFO"] == "/die":
        os._exit(1)
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def tellers(tmp_path):
    """Modules that tell who was asked."""
    for name in ("red", "green", "blue", "white"):
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}\n{TELLER}")


def bound(name, host, *rows, binding="127.0.0.1:0"):
    lines = ["[[site]]", f'name = "{name}"', f'bindings = ["{binding}:{host}"]']
    for path, module, pool_name in rows:
        lines += ["[[site.application]]", f'path = "{path}"', f'app = "{module}:application"']
        lines += [f'pool = "{pool_name}"']
    return "\n".join([*lines, ""])


def ask(scene, host, target, method="GET"):
    """(status, what the application told)."""
    with Client(scene.address) as client:
        head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"
        client.send_bytes(head.encode())
        answer = client.read_answer()
    return answer.status, json.loads(answer.content) if answer.status == 200 else {}


def test_hosts_and_paths(serve, tellers):
    text = SERVER + pool(name="one") + pool(name="two")
    text += bound("shop", "shop.example", ("/", "red", "one"), ("/api", "green", "two"))
    text += bound("any", "*.shop.example", ("/", "blue", "two"))
    scene = serve(text)
    told = {}
    for host, target, name, pool_name in (
        ("shop.example", "/", "red", "one"),
        ("SHOP.example.", "/apix", "red", "one"),
        ("shop.example", "/api", "green", "two"),
        ("shop.example", "/api/x/../y%20z?q=1", "green", "two"),
        ("www.shop.example", "/api", "blue", "two"),
    ):
        status, told = ask(scene, host, target)
        assert (status, told["name"]) == (200, name), (host, target)
        assert told["pid"] in scene.workers(pool_name)
        found = scene.control.match(f"http://{host}:{scene.address[1]}{target}")
        assert (found["found"], found["app"]) == (True, f"{name}:application"), (host, target)
    _, told = ask(scene, "shop.example", "/api/x/../y%20z?q=1")
    assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("/api", "/y z")
    assert told["REQUEST_URI"] == "/api/x/../y%20z?q=1"
    for host in ("other.example", "a.b.shop.example", "127.0.0.1"):
        assert ask(scene, host, "/")[0] == 400
        assert not scene.control.match(f"http://{host}:{scene.address[1]}/")["found"]
    scene.log.wait_for("Hostname 400", 3)


def test_two_pools_do_not_notice_one_another(serve):
    text = SERVER + pool(name="one") + pool(name="two")
    scene = serve(text + site("a", ("/", "one"), ("/b", "two")))
    with scene.load() as load_a, scene.load(only(prefix="/b"), only("POST", "/b")) as load_b:
        before = scene.workers("two")
        for times in range(1, 4):
            scene.control.recycle("one")
            scene.event(6024, times)
            load_a.go_on()
            load_b.go_on()
        assert scene.workers("two") == before
    for load in (load_a, load_b):
        scene.judge(load)
        assert load.outcome.failed() == []
    assert load_b.pids == set(before)
    assert not load_a.pids & load_b.pids


def test_several_in_one_pool(serve, tellers):
    # Each is loaded when it is first asked, in the worker that serves the others already.
    text = SERVER + pool(name="one")
    scene = serve(
        text + bound("a", "", ("/", "red", "one"), ("/g", "green", "one"), ("/b", "blue", "one"))
    )
    _, first = ask(scene, "x", "/")
    rows = (("/g/1", "green", "/g"), ("/b", "blue", "/b"), ("/g", "green", "/g"))
    for target, name, script in rows:
        status, told = ask(scene, "x", target)
        assert (status, told["name"], told["SCRIPT_NAME"]) == (200, name, script)
        assert told["pid"] == first["pid"]
    assert len(scene.pids("worker")) == 1


def test_one_of_several_does_not_load(serve, tellers):
    # It alone fails, and it is tried again.
    scene = serve(
        SERVER
        + pool('process.environment = { BROKEN = "green" }')
        + bound("a", "", ("/", "red", "one"), ("/g", "green", "one"), ("/b", "blue", "one"))
    )
    assert ask(scene, "x", "/")[0] == 200
    worker = scene.workers()
    assert ask(scene, "x", "/g")[0] in (500, 503)
    scene.log.wait_for("no green today")
    assert ask(scene, "x", "/b")[0] == 200
    assert scene.workers() == worker
    assert scene.events(5009) == 0


@pytest.mark.parametrize("preload", ["false", "true"])
def test_warm_up(serve, preload):
    # Before it is READY it has answered: every worker, also those of a recycle.
    application = 'warm_up = ["/sleep-1?n=900", "/?n=901"]\n'
    text = one_pool(f"preload = {preload}") + application
    scene = serve(text)
    with scene.load() as load:
        for times in range(1, 3):
            scene.control.recycle("one")
            scene.event(6024, times)
            load.go_on(30)
    scene.judge(load)
    assert load.outcome.failed() == []
    lines = [line.split() for line in scene.executions.read_text().splitlines()]
    for pid in load.pids:
        numbers = [int(number) for one, number, _ in lines if int(one) == pid]
        assert numbers[:2] == [900, 901]
    assert sum(number == "900" for _, number, _ in lines) == 3


def test_warm_up_fails(serve):
    # Such a worker is never READY: the old one goes on, and a reload is taken back.
    scene = serve(one_pool("rapid_fail.max_crashes = 2"))
    with scene.load() as load:
        before = scene.workers()
        good = scene.text
        scene.write(good + 'warm_up = ["/no-such-word?n=1"]\n')
        done = scene.command("reload")
        assert done.returncode == 1
        assert "pool one" in done.stderr
        scene.log.wait_for("the warm-up request GET /no-such-word")
        load.go_on()
        assert scene.workers() == before
    scene.judge(load)
    assert load.outcome.failed() == []
    scene.write(good)
    scene.control.reload()


def test_warm_up_fails_at_the_start(serve):
    scene = serve(one_pool("rapid_fail.max_crashes = 2") + 'warm_up = ["/exit-3?n=1"]\n')
    assert scene.ask(Request(1)).status == 503
    scene.event(5002)
    scene.event(5009, 2)


def test_iis5_isolation(serve, tellers):
    # One process for all, one for the pooled, one for each isolated; restarted, and nothing else.
    server = SERVER + 'isolation_mode = "iis5"\n'
    rows = bound("a", "", ("/", "red", "x"), ("/g", "green", "x"), ("/b", "blue", "x"),
                 ("/w", "white", "x"))  # fmt: skip
    rows = rows.replace('pool = "x"\n', "").replace('pool = "x"', "")
    rows = rows.replace(
        'app = "green:application"', 'app = "green:application"\nisolation = "pooled"'
    )
    rows = rows.replace(
        'app = "white:application"', 'app = "white:application"\nisolation = "isolated"'
    )
    scene = serve(server + rows)

    def pids():
        return {
            name: ask(scene, "x", path)[1]["pid"]
            for name, path in (("red", "/"), ("green", "/g"), ("blue", "/b"), ("white", "/w"))
        }

    before = pids()
    assert before["red"] == before["blue"]
    assert len(set(before.values())) == 3
    for _ in range(6):  # no rapid-fail protection there
        assert ask(scene, "x", "/die", "POST")[0] == 502
        after = pids()
        assert after["green"] == before["green"]
        assert after["white"] == before["white"]
        assert after["red"] == after["blue"]
    assert scene.events(5002) == 0
    names = [one["name"] for one in scene.control.pools()]
    assert "inetinfo" in names
    assert "dllhost" in names
