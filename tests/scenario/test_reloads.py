"""New settings under load: only what differs changes, and what is wrong changes nothing."""

import os
import signal
import socket

import pytest
from harness import PATIENCE
from load import Client, Request, read_executions
from scene import ONE_SITE, SERVER, one_pool, pool
from steady import only

from kernelq.control import ControlError


def site(name, *applications, host=""):
    lines = ["[[site]]", f'name = "{name}"', f'bindings = ["127.0.0.1:0:{host}"]']
    for path, pool_name, *more in applications:
        lines += ["[[site.application]]", f'path = "{path}"', 'app = "fault_app:application"']
        lines += [f'pool = "{pool_name}"', *more]
    return "\n".join([*lines, ""])


TWO_POOLS = pool(name="one") + pool(name="two")
TWO_SITES = site("a", ("/", "one")) + site("b", ("/", "two"), host="b.example")


def reload(scene):
    """By the command; its own words."""
    done = scene.command("reload")
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(scene, *loads):
    for load in loads:
        scene.judge(load)
        assert load.outcome.failed() == []
    assert scene.events(5009) == 0, str(scene.log)


def test_add_and_remove(serve):
    scene = serve(SERVER + TWO_POOLS + TWO_SITES)
    b = only(host="b.example")
    with scene.load() as load_a, scene.load(b) as load_b:
        before = scene.workers("one"), scene.workers("two")
        text = scene.text
        for turn in range(1, 4):
            scene.write(text + pool(name="new") + site("c", ("/", "new"), host="c.example"))
            scene.control.reload()
            with scene.load(only(host="c.example"), only("POST", host="c.example")) as load_c:
                load_c.go_on()
            check(scene, load_c)
            assert scene.control.names() == {
                "ok": True, "pools": ["new", "one", "two"], "sites": ["a", "b", "c"]
            }  # fmt: skip
            scene.write(text)
            answer = scene.control.reload()
            assert (answer["pools"]["removed"], answer["sites"]["removed"]) == (["new"], ["c"])
            assert answer["pools"]["same"] == answer["sites"]["same"] == 2
            assert answer["pools"]["changed"] == answer["sites"]["changed"] == []
            scene.event(6005, turn)
            # The site without a name answers now for the host that nobody has.
            assert scene.ask(Request(turn, host="c.example")).pid == before[0][0]
            load_a.go_on()
            load_b.go_on()
        # Nobody else has noticed.
        assert (scene.workers("one"), scene.workers("two")) == before
    check(scene, load_a, load_b)
    assert load_a.pids == set(before[0])
    assert load_b.pids == set(before[1])


def test_change_with_new_workers(serve):
    scene = serve(SERVER + TWO_POOLS + TWO_SITES)
    with scene.load() as load_a, scene.load(only(host="b.example")) as load_b:
        one, two = scene.workers("one"), scene.workers("two")
        for threads in (2, 3, 5):
            scene.write(scene.text.replace(
                scene.text[scene.text.index('name = "one"'):].split("[[")[0],
                f'name = "one"\nthreads = {threads}\n', 1))  # fmt: skip
            answer = scene.control.reload()
            assert answer["pools"]["changed"] == ["one"]
            load_a.go_on()
            load_b.go_on()
            assert not set(one) & set(scene.workers("one"))
            one = scene.workers("one")
        assert scene.workers("two") == two
    check(scene, load_a, load_b)
    assert len(load_a.pids) == 4
    assert load_b.pids == set(two)


def test_change_of_limits(serve):
    # What the workers need not know changes while they go on.
    scene = serve(one_pool("queue_length = 100"))
    with scene.load() as load:
        before = scene.workers()
        scene.change("queue_length = 100", "queue_length = 50\nrapid_fail.max_crashes = 7")
        assert scene.control.reload()["pools"]["changed"] == ["one"]
        assert scene.pool()["queue"]["limit"] == 50
        load.go_on()
        assert scene.workers() == before
        answer = scene.control.reload()  # nothing at all has changed
        assert answer["pools"] == {"added": [], "changed": [], "removed": [], "same": 1}
        load.go_on()
        assert scene.workers() == before
    check(scene, load)


def test_application_added_to_a_pool(serve):
    # The old worker does not know it: its requests go to the new one alone.
    scene = serve(SERVER + pool() + site("a", ("/", "one")))
    with scene.load() as load:
        scene.write(SERVER + pool() + site("a", ("/", "one"), ("/shop", "one")))
        scene.control.reload()
        with scene.load(only(prefix="/shop"), only("POST", prefix="/shop")) as shop:
            shop.go_on()
        scene.write(SERVER + pool() + site("a", ("/", "one")))
        scene.control.reload()
        load.go_on()
    check(scene, load, shop)


def test_application_moves_to_another_pool(serve):
    # And back: whoever was queued in the one is answered by it.
    first, second = (site("a", ("/", name)) for name in ("one", "two"))
    scene = serve(SERVER + TWO_POOLS + first)
    with scene.load() as load, scene.load(only("POST"), clients=8) as posts:
        for turn in range(6):
            scene.write(SERVER + TWO_POOLS + (first if turn % 2 else second))
            scene.control.reload()
            load.go_on()
            posts.go_on()
    check(scene, load, posts)
    assert len(load.pids) >= 3


def test_site_is_removed_under_load(serve):
    # Its clients are answered, or told 400 Hostname; its pool ends, and nobody else notices.
    named = site("a", ("/", "one"), host="kernelq.test") + site("b", ("/", "two"), host="b.example")
    scene = serve(SERVER + TWO_POOLS + named)
    with scene.load() as load_a, scene.load(only(host="b.example"), may_close=True) as load_b:
        before = scene.workers("one")
        text = scene.text
        for turn in range(1, 4):
            scene.write(SERVER + pool(name="one") + site("a", ("/", "one"), host="kernelq.test"))
            scene.control.reload()
            scene.event(6005, turn)
            load_a.go_on()
            load_b.go_on()
            scene.write(text)
            scene.control.reload()
            load_b.go_on()
        assert scene.workers("one") == before
    check(scene, load_a)
    assert load_b.outcome.broken == []
    assert set(load_b.outcome.statuses()) == {200, 400}
    executions = read_executions(scene.executions)
    for number, answer in load_b.outcome.answers.items():
        assert len(executions.get(number, [])) == (answer.status == 200)


def test_pool_is_removed_while_content_arrives(serve):
    # What was routed to it is executed by it, however slowly it comes, by a worker that starts
    # only then.
    named = site("a", ("/", "one")) + site("b", ("/", "two"), host="b.example")
    scene = serve(SERVER + TWO_POOLS + named)
    request = Request(1, "POST", "/", b"x" * 1000, "b.example")
    encoded = request.encode()
    with Client(scene.address) as client:
        client.send_bytes(encoded[:-500])
        scene.wait_until(lambda: scene.control.status()["counters"]["exchanges_now"] == 1)
        scene.write(SERVER + pool(name="one") + site("a", ("/", "one")))
        assert scene.control.reload()["pools"]["removed"] == ["two"]
        for number in range(2, 20):
            assert scene.ask(Request(number)).status == 200
        client.send_bytes(encoded[-500:])
        answer = client.read_answer()
        request.check(answer)
        assert answer.status == 200
    scene.event(6005)


def test_binding_moves(serve):
    # Who is connected still is answered once more, and told that the connection ends.
    here = SERVER + pool(name="one") + site("a", ("/", "one"))
    scene = serve(here)
    old = scene.address
    with Client(old) as client:
        assert client.ask(Request(1)).status == 200
        scene.write(here.replace("127.0.0.1:0:", "127.0.0.2:0:"))
        answer = scene.control.reload()
        assert answer["sites"]["changed"] == ["a"]
        last = client.ask(Request(2))
        assert (last.status, last.fields["connection"]) == (200, "close")
    (url,) = scene.control.status()["listeners"]
    host, port = url.removeprefix("http://").split(":")
    with Client((host, int(port))) as client:
        assert client.ask(Request(3)).status == 200
    scene.wait_until(lambda: is_refused(old))


def is_refused(address):
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return True
    return False


def test_settings_that_wait(serve):
    # disallow_rotation_on_config_change: the workers go on; the next recycle brings the settings.
    wait = "recycling.disallow_rotation_on_config_change = true"
    scene = serve(one_pool(wait, "threads = 2"))
    with scene.load() as load:
        before = scene.workers()
        scene.change("threads = 2", "threads = 3")
        scene.control.reload()
        scene.event(6053)
        load.go_on()
        assert scene.workers() == before
        scene.control.recycle("one")
        scene.event(6024)
        load.go_on()
        assert not set(scene.workers()) & set(before)
    check(scene, load)


def test_refused_with_all_errors(serve):
    scene = serve(one_pool())
    with scene.load() as load:
        before = scene.workers()
        good = scene.text
        scene.change('name = "one"\n', 'name = "one"\nthreds = 3\nqueue_length = "long"\n')
        with pytest.raises(ControlError) as found:
            scene.control.reload()
        assert "did you mean threads?" in str(found.value)
        assert "queue_length" in str(found.value)
        done = scene.command("reload")
        assert done.returncode == 1
        assert "threds" in done.stderr
        os.kill(scene.pid, signal.SIGHUP)
        scene.log.wait_for("reload refused, nothing has changed", 3)
        load.go_on()
        scene.write(good)
        scene.control.reload()
        load.go_on()
        assert scene.workers() == before
    check(scene, load)


@pytest.mark.parametrize("new", ["import no_such_module\n", "import os\nos._exit(3)\n"])
def test_candidate_fails(serve, new):
    # The old settings serve, the caller gets the error, and what was added is gone again.
    scene = serve(SERVER + TWO_POOLS + TWO_SITES)
    with scene.load() as load_a, scene.load(only(host="b.example")) as load_b:
        before = scene.workers("one"), scene.workers("two")
        good = scene.text
        code = (scene.directory / "fault_app.py").read_text()
        (scene.directory / "fault_app.py").write_text(new)
        scene.change('name = "one"\n[[pool]]', 'name = "one"\nthreads = 2\n[[pool]]')
        added = pool(name="new") + site("c", ("/", "new"), host="c.example")
        scene.write(scene.text + added)
        with pytest.raises(ControlError) as found:
            scene.control.reload()
        assert "pool one" in str(found.value), str(scene.log)
        scene.log.wait_for("reload failed, the old settings stay")
        load_a.go_on()
        load_b.go_on()
        assert (scene.workers("one"), scene.workers("two")) == before
        scene.wait_until(lambda: scene.control.names()["pools"] == ["one", "two"])
        (scene.directory / "fault_app.py").write_text(code)
        scene.control.reload()
        with scene.load(only(host="c.example")) as load_c:
            load_c.go_on()
        scene.write(good)
        scene.control.reload()
        load_a.go_on()
    for load in (load_a, load_b, load_c):
        scene.judge(load)
        assert load.outcome.failed() == []


def test_added_pool_fails(serve):
    # An always running pool that does not start takes the whole reload back.
    scene = serve(SERVER + pool() + site("a", ("/", "one")))
    with scene.load() as load:
        before = scene.workers()
        always = pool('start_mode = "always_running"', name="new")
        lines = 'app = "no_such_module:application"'
        broken = site("c", ("/", "new"), host="c.example").replace(
            'app = "fault_app:application"', lines
        )
        good = scene.text
        scene.write(good + always + broken)
        with pytest.raises(ControlError, match="no_such_module"):
            scene.control.reload()
        load.go_on()
        assert scene.control.names()["pools"] == ["one"]
        assert scene.ask(Request(1, host="c.example")).pid == before[0]
        scene.write(good + always + broken.replace("no_such_module", "fault_app"))
        scene.control.reload()
        with scene.load(only(host="c.example")) as load_c:
            load_c.go_on()
        assert scene.workers() == before
    for one in (load, load_c):
        scene.judge(one)
        assert one.outcome.failed() == []


def test_hup(serve):
    # As `kernelq reload`, for those who have a signal only.
    scene = serve(one_pool("threads = 4"))
    with scene.load() as load:
        for turn, threads in enumerate((2, 3, 4, 5), 1):
            scene.change(f"threads = {threads - 1 if turn > 1 else 4}", f"threads = {threads}")
            os.kill(scene.pid, signal.SIGHUP)
            scene.log.wait_for("reload: the new settings are in force", turn)
            load.go_on()
    check(scene, load)
    assert len(load.pids) == 5


def test_long_requests_survive_many_reloads(serve, connect):
    # There is no place for a third process while two are there: the next reload waits.
    scene = serve(one_pool("threads = 2"))
    clients = [connect(scene) for _ in range(2)]
    orders = []
    for turn, client in enumerate(clients):
        client.send(Request(turn, "POST", "/wait-go", b"x"))
        scene.wait_for_execution(turn)
        scene.change(f"threads = {turn + 2}", f"threads = {turn + 3}")
        orders.append(scene.order("reload"))
        scene.log.wait_for("reload: /", turn + 1)
        if turn == 0:
            assert orders[0].communicate(timeout=PATIENCE)[1] == ""
    assert scene.ask(Request(10)).status == 200
    (scene.directory / "go").touch()
    assert [client.read_answer().status for client in clients] == [200] * 2
    assert orders[1].communicate(timeout=PATIENCE)[1] == ""
    assert [order.returncode for order in orders] == [0, 0]
    scene.event(6024, 2)
    assert scene.events(6029) == 0


def nothing_to_reload(scene):
    try:
        return scene.control.reload()["pools"]["same"] == 1
    except ControlError:  # one is under way
        return False


def test_hups_in_a_row(serve):
    # The last one counts, however many came while another reload was under way.
    scene = serve(one_pool("threads = 1"))
    with scene.load() as load:
        for threads in range(1, 10):
            scene.change(f"threads = {threads}", f"threads = {threads + 1}")
            os.kill(scene.pid, signal.SIGHUP)
        scene.event(6051)
        load.go_on()
        scene.wait_until(lambda: nothing_to_reload(scene))
    check(scene, load)


def test_sockets_come_and_go(serve, tmp_path):
    # Clients of the other socket do not notice; that of the removed one refuses.
    scene = serve(SERVER + pool() + site("a", ("/", "one")))
    path = tmp_path / "app.sock"
    with scene.load() as load:
        good = scene.text
        for _ in range(3):
            scene.change('"127.0.0.1:0:"', f'"127.0.0.1:0:", "unix:{path}"')
            scene.control.reload()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(b"GET /?n=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
            scene.write(good)
            scene.control.reload()
            scene.wait_until(lambda: not path.exists())
            load.go_on()
    check(scene, load)


def test_descriptors_are_passed_at_the_start_only(serve):
    # Later a number names whatever the process has opened under it since.
    scene = serve(one_pool())
    with scene.load() as load:
        descriptors = f"/proc/{scene.pid}/fd"
        before = sorted(os.listdir(descriptors))
        for number in [*before, 99999999999]:
            scene.change('bindings = ["', f'bindings = ["fd://{number}", "')
            with pytest.raises(ControlError, match=r"passed to a server at its start|allowed is"):
                scene.control.reload()
            scene.change(f'"fd://{number}", ', "")
        assert sorted(os.listdir(descriptors)) == before
        load.go_on()
    check(scene, load)


def test_nothing_is_kept(serve):
    scene = serve(SERVER + pool("threads = 2") + site("a", ("/", "one")))
    text = scene.text

    def cycle(turn):
        scene.write(text.replace("threads = 2", f"threads = {3 + turn % 2}")
                    + pool(name="new") + site("c", ("/", "new"), host="c.example"))  # fmt: skip
        scene.control.reload()
        assert scene.ask(Request(turn, host="c.example")).status == 200
        scene.write(text)
        scene.control.reload()
        scene.event(6005, turn)
        scene.wait_until(lambda: len(scene.pids("worker")) == 1)

    with scene.load(clients=3) as load:
        cycle(1)
        load.go_on()
        before = scene.held()
        for turn in range(2, 8):
            cycle(turn)
        scene.wait_until(lambda: scene.held() == before)
    check(scene, load)


def test_reload_before_anybody_served(serve):
    # Pools that nobody has asked yet change without a worker.
    scene = serve(one_pool("threads = 2"))
    scene.change("threads = 2", "threads = 3")
    assert scene.control.reload()["pools"]["changed"] == ["one"]
    assert scene.pids("worker") == []
    assert ONE_SITE in scene.text
    with scene.load() as load:
        load.go_on()
    check(scene, load)
