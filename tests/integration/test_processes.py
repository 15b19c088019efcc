"""The processes of a server: what each death, signal and order does."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from server import ROOT, Server, comm, descendants, write_application

Start = Callable[..., Server]


def test_start_says_one_fact_per_line(start: Start, application: Path) -> None:
    server = start("app:application", "--workers", "2").ready()
    assert re.search(r"info listening on http://127\.0\.0\.1:\d+$", server.text(), re.M)
    assert "info pool default: app:application, 2 workers with 4 threads each" in server.text()
    assert f"info stop with Ctrl-C or kill {server.pid}" in server.text()
    assert server.get().startswith("one ")
    assert server.end() == 0


def test_every_process_is_where_it_belongs(start: Start, application: Path) -> None:
    server = start("app:application", "--workers", "2").ready(2)
    (service,), (spawner,) = server.pids("service"), server.pids("spawner")
    for pid in server.pids("worker"):
        assert psutil.Process(pid).ppid() == spawner
        assert os.getsid(pid) == pid
        assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
    for pid in (service, spawner):
        assert psutil.Process(pid).ppid() == server.pid
    assert psutil.Process(spawner).num_threads() == psutil.Process(server.pid).num_threads() == 1
    assert server.end() == 0


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["exec", "preload"])
def test_killed_worker_is_replaced_and_logged(
    start: Start, application: Path, preload: list[str]
) -> None:
    server = start("app:application", "--workers", "1", *preload).ready()
    pid = int(server.get().split()[1])
    os.kill(pid, signal.SIGKILL)
    assert int(server.get().split()[1]) != pid
    line = server.expect("died")
    assert f"(pid {pid}) died: signal 9 (SIGKILL), " in line
    assert re.search(r"[\d.]+ MiB at most, 1 requests served", line)
    assert server.end() == 0


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["exec", "preload"])
def test_killed_spawner_is_replaced_with_its_workers(
    start: Start, application: Path, preload: list[str]
) -> None:
    server = start("app:application", "--workers", "2", *preload).ready(2)
    before = server.pids("worker")
    os.kill(server.pids("spawner")[0], signal.SIGKILL)
    server.expect("died with its spawner")
    server.until(lambda: len(set(server.pids("worker")) - set(before)) == 2)
    assert server.get().startswith("one ")
    assert "rapid-fail" not in server.text()
    assert server.end() == 0


def test_killed_zygote_leaves_its_workers(start: Start, application: Path) -> None:
    server = start("app:application", "--workers", "1", "--preload").ready()
    (zygote,) = server.pids("zygote")
    worker = int(server.get().split()[1])
    os.kill(zygote, signal.SIGKILL)
    server.expect(f"zygote {zygote} has ended")
    assert int(server.get().split()[1]) == worker
    os.kill(worker, signal.SIGKILL)
    assert int(server.get().split()[1]) != worker
    assert len(server.pids("zygote")) == 1
    assert server.end() == 0


def test_killed_service_ends_everything_with_its_status(start: Start, application: Path) -> None:
    server = start("app:application", "--workers", "2").ready()
    os.kill(server.pids("service")[0], signal.SIGKILL)
    assert server.end(None) == 128 + signal.SIGKILL
    assert "the service died: signal 9 (SIGKILL)" in server.text()


def test_killed_main_process_ends_everything(start: Start, application: Path) -> None:
    server = start("app:application", "--workers", "2").ready()
    everybody = descendants(server.pid)
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    for pid in everybody:
        server.until(lambda pid=pid: not comm(pid) or is_zombie(pid))


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["exec", "preload"])
def test_reload_brings_the_new_code(start: Start, application: Path, preload: list[str]) -> None:
    server = start("app:application", "--workers", "2", *preload).ready(2)
    before = server.pids("worker")
    write_application(application, "second")
    server.process.send_signal(signal.SIGHUP)
    server.expect("the new code serves")
    server.until(lambda: not set(before) & set(server.pids("worker")))
    assert server.get().startswith("second ")
    assert server.end() == 0


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["exec", "preload"])
def test_reload_of_broken_code_keeps_the_old_workers(
    start: Start, application: Path, preload: list[str]
) -> None:
    server = start("app:application", "--workers", "2", *preload).ready(2)
    before = set(server.pids("worker"))
    application.write_text("def broken(:\n")
    server.process.send_signal(signal.SIGHUP)
    assert "SyntaxError" in server.expect("reload failed, the old workers go on")
    assert server.get().startswith("one ")
    server.until(lambda: set(server.pids("worker")) == before)
    write_application(application, "third")
    server.process.send_signal(signal.SIGHUP)
    server.expect("the new code serves")
    server.until(lambda: server.get().startswith("third "))
    assert server.end() == 0


def test_rapid_fail_takes_the_pool_offline_and_reload_brings_it_back(
    start: Start, application: Path
) -> None:
    server = start("app:application", "--workers", "1", "--rapid-fail", "2/300").ready()
    pid = int(server.get().split()[1])
    application.write_text("import os\nos._exit(3)\n")
    os.kill(pid, signal.SIGKILL)
    server.expect("rapid-fail protection: 2 hopeless deaths")
    server.expect("pool default: is offline")
    connection = server.connect()
    connection.request("GET", "/")
    assert connection.getresponse().status == 503
    connection.close()
    write_application(application, "mended")
    server.process.send_signal(signal.SIGHUP)
    server.expect("pool default: is online")
    assert server.get().startswith("mended ")
    assert server.end() == 0


def test_hung_import_is_ended_with_its_stacks(start: Start, application: Path) -> None:
    application.write_text("import threading\nthreading.Event().wait()\n")
    server = start(
        "app:application", "--workers", "1", "--startup-time-limit", "1s", "--rapid-fail", "1/60"
    )
    server.expect("exceeded its start-up time limit (1 s)")
    assert server.end(None) == 1
    assert 'app.py", line 2' in server.text()  # by faulthandler, at the abort


def write_hanging_application(path: Path) -> None:
    path.write_text(
        "import sys, threading\n"
        "def hang_for_ever():\n"
        "    print('hanging', file=sys.stderr, flush=True)\n"
        "    threading.Event().wait()\n"
        "def application(environ, start_response):\n"
        "    hang_for_ever()\n"
    )


def test_worker_that_does_not_finish_leaves_its_stacks(start: Start, application: Path) -> None:
    write_hanging_application(application)
    server = start("app:application", "--workers", "1", "--graceful-timeout", "200ms").ready()
    connection = server.connect()
    connection.request("GET", "/")
    server.expect("hanging")
    assert server.end() == 0
    assert "graceful timeout" in server.text()
    assert "in hang_for_ever" in server.text()
    connection.close()


def test_request_timeout_replaces_the_worker(start: Start, application: Path) -> None:
    write_hanging_application(application)
    server = start(
        "app:application",
        "--workers",
        "1",
        "--request-timeout",
        "1s",
        "--graceful-timeout",
        "200ms",
    ).ready()
    connection = server.connect()
    connection.request("GET", "/")
    server.expect("hanging")
    write_application(application, "quick")
    assert connection.getresponse().status == 504
    server.expect("has a request beyond its time limit and is replaced")
    assert server.get().startswith("quick ")
    server.expect("in hang_for_ever")
    server.expect("ended: signal 9 (SIGKILL)")
    connection.close()
    assert server.end() == 0


def test_second_interrupt_ends_at_once(start: Start, application: Path) -> None:
    write_hanging_application(application)
    server = start("app:application", "--workers", "1").ready()
    connection = server.connect()
    connection.request("GET", "/")
    server.expect("hanging")
    server.process.send_signal(signal.SIGINT)
    server.expect("stopping: requests may finish")
    server.process.send_signal(signal.SIGINT)
    server.expect("stopping now")
    assert server.end(None) == 0
    connection.close()


def test_drain_delay_is_not_ready_but_serves(start: Start, application: Path) -> None:
    server = start(
        "app:application", "--health-path", "on", "--drain-delay", "300ms", "--workers", "1"
    ).ready()
    assert status_of(server, "/.kernelq/ready") == 200
    server.process.send_signal(signal.SIGTERM)
    server.expect("not ready any more, serving for 0.3 s")
    assert status_of(server, "/.kernelq/ready") == 503
    assert status_of(server, "/.kernelq/live") == 200
    assert server.get().startswith("one ")
    assert server.end(None) == 0


def status_of(server: Server, path: str) -> int:
    connection = server.connect()
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def test_worker_told_to_end_is_replaced(start: Start, application: Path) -> None:
    server = start("app:application", "--workers", "1").ready()
    pid = int(server.get().split()[1])
    os.kill(pid, signal.SIGINT)  # means nothing to a worker
    assert int(server.get().split()[1]) == pid
    os.kill(pid, signal.SIGTERM)
    assert "exit status 0" in server.expect(f"(pid {pid}) died")
    assert int(server.get().split()[1]) != pid
    assert server.end() == 0


def test_order_to_stop_before_anybody_is_ready(start: Start, application: Path) -> None:
    application.write_text("import threading\nthreading.Event().wait()\n")
    server = start("app:application")
    server.expect("stop with Ctrl-C")
    assert server.end() == 0


def test_quit_ends_at_once(start: Start, application: Path) -> None:
    server = start("app:application", "--workers", "2").ready()
    assert server.end(signal.SIGQUIT) == 0
    assert "stopping now" in server.text()


def test_access_log_is_opened_again(start: Start, application: Path, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    server = start("app:application", "--workers", "1", "--access-log", str(log)).ready()
    server.get("/first")
    server.until(lambda: "/first" in log.read_text())
    log.rename(tmp_path / "old.log")
    server.process.send_signal(signal.SIGUSR1)
    server.expect("the access log has been opened again")
    server.get("/second")
    server.until(lambda: "/second" in log.read_text())
    assert "/second" not in (tmp_path / "old.log").read_text()
    assert server.end() == 0


def test_pid_file_and_unix_socket_are_removed(
    start: Start, application: Path, tmp_path: Path
) -> None:
    path, pid_file = tmp_path / "x.sock", tmp_path / "x.pid"
    server = start(
        "app:application", "--umask", "007", "--pid-file", str(pid_file), binding=f"unix:{path}"
    ).ready()
    assert pid_file.read_text() == f"{server.pid}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o770
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert server.end() == 0
    assert not path.exists()
    assert not pid_file.exists()


def test_systemd_hears_every_word(start: Start, application: Path, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        server = start(
            "app:application",
            environment={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"},
        )
        heard: list[bytes] = []

        def hear(word: bytes) -> None:
            while not any(word in text for text in heard):
                heard.append(manager.recv(1000))
            heard.clear()

        hear(b"READY=1")
        hear(b"WATCHDOG=1")
        server.process.send_signal(signal.SIGHUP)
        hear(b"RELOADING=1\nMONOTONIC_USEC=")
        hear(b"READY=1")
        server.process.send_signal(signal.SIGTERM)
        hear(b"STOPPING=1")
        assert server.end(None) == 0


def test_sockets_passed_by_systemd(start: Start, application: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        code = (
            "import os, sys\n"
            f"os.dup2({listening.fileno()}, 3)\n"
            "os.environ['LISTEN_PID'] = str(os.getpid())\n"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
        )
        server = start(
            "app:application",
            binding="",
            python=(sys.executable, "-c", code),
            environment={"LISTEN_FDS": "1"},
            pass_fds=[listening.fileno()],
        ).ready()
    assert server.url == f"http://127.0.0.1:{port}"
    assert server.get().startswith("one ")
    assert server.end() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_stalled_managers_do_not_stop_the_service(start: Start, application: Path) -> None:
    server = start("app:application", "--workers", "2", environment={"KERNELQ_STALL": "2"}).ready(2)
    server.get()
    server.process.send_signal(signal.SIGUSR2)
    server.expect("the managers stall for 2 s")
    os.kill(int(server.get().split()[1]), signal.SIGKILL)
    assert server.get().startswith("one ")  # by the other worker, long before the managers wake
    assert "died" not in server.text()
    server.expect("died")
    assert server.end() == 0


def test_other_directory_and_interpreter_options(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "shop.py").write_text(
        "import os, sys, kernelq\n"
        "def make(name):\n"
        "    def application(environ, start_response):\n"
        "        start_response('200 OK', [])\n"
        "        facts = (name, os.getcwd(), sys.flags.optimize, sys.argv, sys.path[0])\n"
        "        return [repr(facts).encode()]\n"
        "    return application\n"
    )
    server = start(
        "shop:make('mine')", "--chdir", str(folder), python=(sys.executable, "-O")
    ).ready()
    assert server.get() == repr(("mine", str(folder), 1, ["kernelq"], str(folder)))
    assert server.end() == 0


def test_preload_warns_of_threads(start: Start, application: Path) -> None:
    with application.open("a") as file:
        file.write(
            "import threading\n"
            "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        )
    server = start("app:application", "--workers", "1", "--preload").ready()
    assert "started 1 threads at import" in server.text()
    assert server.end() == 0


def test_process_one_reaps(start: Start, application: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a new process namespace needs root here")
    application.write_text(
        "import os\n"
        "def application(environ, start_response):\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0:\n"
        "            os._exit(0)\n"
        "        os._exit(0)\n"
        "    start_response('200 OK', [])\n"
        "    return [str(os.wait()[0]).encode()]\n"
    )
    server = start(
        "app:application",
        "--workers",
        "1",
        python=("unshare", "--pid", "--fork", "--mount-proc", sys.executable),
    )
    server.url = server.expect("listening on ").split()[-1]
    assert "kill 1;" in server.expect("stop with")
    server.get()
    main = psutil.Process(server.pid).children()[0]
    server.until(lambda: not any(p.status() == "zombie" for p in main.children(recursive=True)))
    main.send_signal(signal.SIGTERM)
    assert server.end(None) == 0


OTHER_PYTHON = "/usr/bin/python3"


def nobody_can_run(python: str) -> bool:
    probe = [python, "-c", "import kernelq._core, kernelq._worker"]
    environment = {"PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(probe, env=environment, user=65534, check=False, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["exec", "preload"])
def test_everything_but_main_process_and_spawner_drops_root(
    start: Start, application: Path, tmp_path: Path, preload: list[str]
) -> None:
    if os.geteuid() != 0 or not nobody_can_run(OTHER_PYTHON):
        pytest.skip("needs root, and an interpreter with kernelq that others may run")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    server = start(
        "app:application", "--workers", "2", "--user", "nobody", *preload, python=(OTHER_PYTHON,)
    ).ready(2)
    for name in ("service", "worker"):
        for pid in server.pids(name):
            assert psutil.Process(pid).uids() == (65534, 65534, 65534)
            assert not any("root" in group for group in groups_of(pid))
            with pytest.raises(PermissionError):  # not even the same user looks into it
                look_into(pid)
    assert psutil.Process(server.pids("spawner")[0]).uids().real == 0
    os.kill(int(server.get().split()[1]), signal.SIGKILL)
    assert server.get().startswith("one ")
    server.process.send_signal(signal.SIGHUP)
    server.expect("the new code serves")
    os.kill(server.pids("spawner")[0], signal.SIGKILL)
    server.expect("died with its spawner")
    assert server.get().startswith("one ")
    assert server.end() == 0


def groups_of(pid: int) -> list[str]:
    (line,) = re.findall(r"^Groups:\t(.*)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return ["root" for number in line.split() if number == "0"]


def look_into(pid: int) -> None:
    code = f"open('/proc/{pid}/mem', 'rb')"
    done = subprocess.run(
        [OTHER_PYTHON, "-c", code], user=65534, check=False, capture_output=True, text=True
    )
    if "PermissionError" in done.stderr:
        raise PermissionError(done.stderr)
