"""A worker process from its letter to READY, or to its refusal; and the same by way of a zygote."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_core import Rig
from kernelq._coretest import FakeCore

from kernelq import linux
from kernelq.config import ApplicationSettings, CorePoolSettings, PoolSettings, ProcessSettings
from kernelq.interpreter import ROOT
from kernelq.letters import (
    EXIT_ORPHANED,
    EXIT_REFUSED,
    Control,
    FromZygote,
    ToWorker,
    ToZygote,
    pack_letter,
)
from kernelq.link import Link, link_pair

TELLING = """
import os
def application(environ, start_response):
    start_response("200 OK", [])
    words = (os.environ.get("APP_NAME", ""), environ["SCRIPT_NAME"], environ["PATH_INFO"])
    asked.append(environ["HTTP_HOST"] if "kernelq.warm_up" in environ else "")
    return [" ".join(words + (os.getcwd(), "+".join(asked))).encode()]
asked = []
"""


def pool_of(folder: Path, *applications: ApplicationSettings) -> PoolSettings:
    return PoolSettings(
        core=CorePoolSettings(threads=2),
        applications=applications,
        directory=str(folder),
        process=ProcessSettings(inspectable=True),
    )


def application(
    folder: Path, number: int, path: str, code: str = TELLING, warm_up: tuple[str, ...] = ()
) -> ApplicationSettings:
    (folder / f"app{number}.py").write_text(code)
    return ApplicationSettings(
        path,
        f"app{number}:application",
        directory=str(folder),
        environment=(("APP_NAME", f"n{number}"),),
        warm_up=warm_up,
        number=number,
        host="shop.example",
    )


@contextlib.contextmanager
def process(module: str, before: str = "") -> Iterator[tuple[subprocess.Popen[str], Link]]:
    """A new interpreter that runs this code and waits for its letter."""
    ours, theirs = link_pair()
    code = f"{before}\nfrom kernelq.{module} import main; main({theirs.fileno()})"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    theirs.close()
    try:
        yield child, ours
    finally:
        ours.close()
        child.kill()
        child.communicate()


def send_letter(link: Link, pool: PoolSettings, descriptors: list[int]) -> None:
    """As the spawner does."""
    letter = pack_letter(pool)
    link.send(ToWorker.LETTER, 7, os.getpid(), descriptors=[letter, *descriptors])
    os.close(letter)


@contextlib.contextmanager
def channel_of(link: Link, pool: PoolSettings, parent: int = 0) -> Iterator[tuple[FakeCore, Link]]:
    """The core's end of the worker's channel, and the service's end of its control link."""
    core = FakeCore(slots=2)
    control, theirs = link_pair()
    send_letter(link, pool, [*core.worker_fds, theirs.fileno()])
    theirs.close()
    for fd in core.worker_fds:
        os.close(fd)
    try:
        yield core, control
    finally:
        control.close()
        core.close()


def rig_of(core: FakeCore) -> Rig:
    """What the worker can be asked with, once it is ready."""
    poll = select.poll()
    poll.register(core.bells[0], select.POLLIN)
    assert poll.poll(20_000), "the worker does not say READY"
    core.attach()
    assert core.wait()[0] == "READY"
    return Rig(core, None)  # type: ignore[arg-type]


def refusal(pool: PoolSettings) -> str:
    """The words of a worker that does not start."""
    with process("worker") as (child, link), channel_of(link, pool) as (_, control):
        message = control.receive()
        assert message is not None
        assert message.kind == Control.REFUSED
        assert child.wait(20) == EXIT_REFUSED
        return message.text


def drain(rig: Rig, child: subprocess.Popen[str]) -> str:
    """What it has written to its log."""
    rig.tell("DRAIN")
    words = child.communicate(timeout=20)[1]
    assert child.returncode == 0
    return words


def test_one_application(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, application(tmp_path, 4, "/"))
    with process("worker") as (child, link), channel_of(link, pool) as (core, _):
        rig = rig_of(core)
        assert rig.ask(application=4).content == f"n4  / {tmp_path} ".encode()
        assert drain(rig, child) == ""


def test_several_applications_are_loaded_when_they_are_asked_for(tmp_path: Path) -> None:
    pool = pool_of(
        tmp_path,
        application(tmp_path, 1, "/"),
        application(tmp_path, 2, "/two"),
        application(tmp_path, 3, "/bad", "raise ValueError('oh')"),
    )
    with process("worker") as (child, link), channel_of(link, pool) as (core, _):
        rig = rig_of(core)
        answer = rig.ask(application=2, script="/two", target="/x")
        assert answer.content == f"n2 /two /x {tmp_path} ".encode()
        assert rig.ask(application=3, script="/bad").status == 500
        assert rig.ask(application=1).content.startswith(b"n1  / ")
        assert rig.ask(application=9).status == 503
        words = drain(rig, child)
    assert words.count("Traceback") == 1
    assert "app3:application': importing it failed: ValueError: oh client 192.0.2.1" in words


def test_warm_up_comes_before_ready(tmp_path: Path) -> None:
    pool = pool_of(
        tmp_path,
        application(tmp_path, 1, "/", "1/0"),
        application(tmp_path, 2, "/two", warm_up=("/a", "/b?c")),
    )
    with process("worker") as (child, link), channel_of(link, pool) as (core, _):
        rig = rig_of(core)
        answer = rig.ask(application=2, script="/two")
        assert answer.content.endswith(b" shop.example+shop.example+")
        words = drain(rig, child)
    assert words.count("the warm-up request GET /a was answered 200 OK within") == 1
    assert words.count("the warm-up request GET /b?c was answered 200 OK within") == 1
    assert "division" not in words


@pytest.mark.parametrize(
    ("code", "warm_up", "words"),
    [
        ("1/0", (), "importing it failed: ZeroDivisionError: division by zero\nTraceback"),
        (TELLING.replace("200 OK", "503 Not Yet"), ("/a",), "GET /a was answered 503 Not Yet"),
        (TELLING + "application = None", ("/a",), "cannot be called: it is a NoneType"),
    ],
)
def test_refusals(tmp_path: Path, code: str, warm_up: tuple[str, ...], words: str) -> None:
    assert words in refusal(pool_of(tmp_path, application(tmp_path, 1, "/", code, warm_up)))


def test_a_warm_up_that_fails_among_several(tmp_path: Path) -> None:
    bad = application(tmp_path, 2, "/", TELLING.replace("return", "return 1/0 or"), ("/a",))
    text = refusal(pool_of(tmp_path, application(tmp_path, 1, "/one"), bad))
    assert "application 'app2:application': the warm-up request GET /a failed: ZeroDivision" in text


def test_a_working_directory_that_is_not_there(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "none", application(tmp_path, 1, "/"))
    assert "the working directory" in refusal(pool)


def test_what_annotations_alone_want_is_not_loaded() -> None:
    code = """
import sys, kernelq.worker, kernelq.zygote, kernelq._worker, kernelq.application, kernelq.sealed
kernelq.worker.unpack_letter(kernelq.sealed.put("letter", b"{}"))
kernelq.worker.prepare({"log_level": 20, "inspectable": True, "umask": -1})
print("typing" in sys.modules)
"""
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.fixture
def subreaper() -> Iterator[None]:
    """Like the spawner, this process becomes the parent of what a zygote forks."""
    linux.adopt_orphans()
    yield
    linux.adopt_orphans(False)


@pytest.mark.usefixtures("subreaper")
def test_a_zygote_loads_and_each_worker_warms_up(tmp_path: Path) -> None:
    pool = pool_of(
        tmp_path,
        application(tmp_path, 1, "/one", "1/0"),
        application(tmp_path, 2, "/", warm_up=("/a",)),
    )
    with process("zygote") as (zygote, link):
        send_letter(link, pool, [])
        for number in (1, 2):
            assert fork_and_ask(link, pool, number).endswith(b" shop.example+")
        link.close()
        words = zygote.communicate(timeout=20)[1]
    assert words.count("the warm-up request GET /a was answered 200 OK") == 2


def fork_and_ask(zygote: Link, pool: PoolSettings, number: int) -> bytes:
    """What a forked worker answers. It is our child in the end, and ends with its link."""
    own, theirs = link_pair()
    zygote.send(ToZygote.FORK, number, descriptors=[theirs.fileno()])
    theirs.close()
    message = zygote.receive()
    assert message is not None
    assert message.kind == FromZygote.FORKED
    with channel_of(own, pool) as (core, _):
        content = rig_of(core).ask(application=2).content
        own.close()
        _, status = os.waitpid(message.numbers[1], 0)
    assert os.waitstatus_to_exitcode(status) == EXIT_ORPHANED
    return content


FORKING_BADLY = """
import os
real, zygote, count = os.fork, os.getpid(), []
def fork():
    count.append(0)
    if len(count) == 1 or (len(count) == 3 and os.getpid() != zygote):
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return real()
os.fork = fork
"""


@pytest.mark.usefixtures("subreaper")
def test_a_zygote_that_cannot_fork_says_so_and_can_later(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, application(tmp_path, 2, "/"))
    with process("zygote", FORKING_BADLY) as (_, link):
        send_letter(link, pool, [])
        own, theirs = link_pair()
        for number in (1, 2):  # the first fork fails, and the one of the process between
            link.send(ToZygote.FORK, number, descriptors=[theirs.fileno()])
            message = link.receive()
            assert message is not None
            assert (message.kind, message.numbers) == (FromZygote.REFUSED, (number,))
            assert message.text.endswith("Resource temporarily unavailable")
        own.close()
        theirs.close()
        assert fork_and_ask(link, pool, 3)


def test_stacks_that_cannot_be_told_end_no_worker(tmp_path: Path) -> None:
    failing = "import os\ndef refuse(*_): raise OSError(24, 'Too many open files')\n"
    pool = pool_of(tmp_path, application(tmp_path, 1, "/"))
    with (
        process("worker", failing + "os.memfd_create = refuse") as (child, link),
        channel_of(link, pool) as (core, control),
    ):
        rig = rig_of(core)
        control.send(Control.TELL_STACKS)
        message = control.receive()
        assert message is not None
        assert (message.kind, message.descriptors) == (Control.TOLD, [])
        assert rig.ask(application=1).content
        drain(rig, child)
