"""The applications of a worker: loading them before READY, late or in vain, and warming them up."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelq.applications import (
    Application,
    enter_directory,
    load_first,
    make_applications,
    warm_up,
)
from kernelq.config import (
    ApplicationSettings,
    CorePoolSettings,
    PoolSettings,
    ProcessSettings,
)
from kernelq.errors import StartError
from kernelq.letters import pack_letter, pack_settings, unpack_letter, unpack_settings

PLAIN = """
import os
LOADED = os.environ.get("APP_LOADED", "")
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"ok"]
"""
RECORDING = """
seen, closed = [], []
class Content:
    def __init__(self):
        self.blocks = iter([b"a", b"b"])
    def __iter__(self):
        return self
    def __next__(self):
        return next(self.blocks)
    def close(self):
        closed.append(list(self.blocks))
def application(environ, start_response):
    seen.append(environ)
    write = start_response("404 Not Found", [("X", "y")])
    write(b"first")
    return Content()
"""
WARM_UP = {"threads": 2, "max_processes": 1}


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Paths, modules and variables are the process's."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("APP_LOADED", "")
    modules, variables = set(sys.modules), dict(os.environ)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("appl"):
            del sys.modules[name]
    assert {name for name in os.environ if name not in variables} <= {"APP_OTHER"}
    os.environ.pop("APP_OTHER", None)


def make(folder: Path, code: str, name: str = "appl_a", **words: Any) -> Application:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(code)
    whole = {
        "number": 1,
        "path": "/",
        "app": f"{name}:application",
        "directory": str(folder),
        "environment": [],
        "warm_up": [],
        "host": "localhost",
        "loads_first": False,
    }
    clock = words.pop("clock", lambda: 0.0)
    return Application(whole | words, clock)


# ---- loading ----


def test_an_application_is_loaded_once_with_its_environment(tmp_path: Path) -> None:
    one = make(tmp_path, PLAIN, environment=[["APP_LOADED", "yes"], ["APP_OTHER", "1"]])
    assert not one.is_loaded
    loaded = one.load()
    assert one.is_loaded
    assert one.load() is one.load_now() is loaded
    assert loaded.__globals__["LOADED"] == "yes"
    assert sys.path[0] == str(tmp_path)


def test_directories_come_first_when_their_application_is_loaded(tmp_path: Path) -> None:
    first = make(tmp_path / "a", PLAIN, "appl_a")
    second = make(tmp_path / "b", PLAIN, "appl_b")
    third = make(tmp_path / "a", PLAIN, "appl_c")
    for one in (first, second, third):
        one.load()
    assert sys.path[:2] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert sys.path.count(str(tmp_path / "a")) == 1


def test_modules_of_one_name_cannot_share_a_process(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", PLAIN), make(tmp_path / "b", PLAIN)
    again = make(tmp_path / "a", PLAIN)
    first.load_now()
    with pytest.raises(StartError, match=r"has a module 'appl_a' already, from .*/a/appl_a.py, so"):
        second.load_now()
    assert again.load_now() is first.load_now()


def test_kernelq_may_be_there_already(tmp_path: Path) -> None:
    (tmp_path / "kernelq").mkdir()
    (tmp_path / "kernelq" / "__init__.py").touch()
    make(tmp_path, "", app="kernelq.demo:application").load_now()


def test_a_failure_before_ready_has_a_traceback_in_its_words(tmp_path: Path, capfd: Any) -> None:
    one = make(tmp_path, "raise ValueError('oh')")
    with pytest.raises(StartError) as found:
        one.load_now()
    assert "importing it failed: ValueError: oh\nTraceback" in str(found.value)
    assert "applications.py" not in str(found.value)
    assert capfd.readouterr().err == ""


def test_a_failure_of_a_late_load_is_logged_once_a_second(tmp_path: Path, capfd: Any) -> None:
    now = 100.0
    logged = ""
    one = make(tmp_path, "raise ValueError('oh')", clock=lambda: now)
    for later, attempts in ((0.0, 1), (0.5, 1), (0.4, 1), (0.1, 2), (0.9, 2), (5.0, 3)):
        now += later
        with pytest.raises(StartError) as found:
            one.load()
        assert str(found.value) == (
            "application 'appl_a:application': importing it failed: ValueError: oh"
        )
        logged += capfd.readouterr().err
        assert logged.count("Traceback") == attempts
    (tmp_path / "appl_a.py").write_text(PLAIN)
    now += 0.5
    with pytest.raises(StartError):
        one.load()
    now += 0.5
    assert callable(one.load())


def test_others_wait_for_a_load_that_is_under_way(tmp_path: Path) -> None:
    code = "import appl_gate\nappl_gate.enter()\n" + PLAIN
    entered, leave = threading.Event(), threading.Event()
    count = 0

    def enter() -> None:
        nonlocal count
        count += 1
        entered.set()
        assert leave.wait(20)

    gate = type(sys)("appl_gate")
    gate.enter = enter  # type: ignore[attr-defined]
    sys.modules["appl_gate"] = gate
    one = make(tmp_path, code)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(one.load())) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert entered.wait(20)
    leave.set()
    for thread in threads:
        thread.join(20)
    assert len(results) == 4
    assert len(set(results)) == count == 1


# ---- before READY ----


def test_what_is_loaded_before_ready(tmp_path: Path) -> None:
    applications = {
        number: make(tmp_path, PLAIN, f"appl_{number}", number=number, loads_first=first)
        for number, first in enumerate((True, False, True))
    }
    load_first(applications)
    assert [one.is_loaded for one in applications.values()] == [True, False, True]


def packed(*numbers: int, warm: int = -1, **more: Any) -> dict[int, bool]:
    ones = tuple(
        ApplicationSettings(f"/{n}", number=n, warm_up=("/",) if n == warm else ()) for n in numbers
    )
    words = unpack_settings(pack_settings(PoolSettings(applications=ones, **more)))
    return {one["number"]: one["loads_first"] for one in words["applications"]}


def test_which_are_loaded_before_ready() -> None:
    gone = (ApplicationSettings("/", number=9, warm_up=("/",)),)
    assert packed(1) == {1: True}
    assert packed(1, retired=gone) == {1: True, 9: False}
    assert packed(1, 2) == {1: False, 2: False}
    assert packed(1, 2, warm=2, retired=gone) == {1: False, 2: True, 9: False}
    assert packed(1, 2, fresh=(1,)) == {1: True, 2: False}


def test_a_bad_one_refuses_the_start_only_if_it_must_be_there(tmp_path: Path) -> None:
    good, bad = make(tmp_path, PLAIN, "appl_a"), make(tmp_path, "1/0", "appl_b")
    load_first({1: good, 2: bad})
    bad.loads_first = True
    with pytest.raises(StartError, match="division by zero"):
        load_first({1: good, 2: bad})


def test_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    enter_directory({"directory": str(tmp_path), "name": "p"})
    assert Path.cwd() == tmp_path
    with pytest.raises(StartError, match="directory /none of pool 'p': No such file or directory"):
        enter_directory({"directory": "/none", "name": "p"})


# ---- warm-up ----


def test_warm_up_requests(tmp_path: Path, capfd: Any) -> None:
    one = make(
        tmp_path,
        RECORDING,
        path="/shop ä",
        warm_up=["/health%20x?a=%20b", "/"],
        host="shop.example",
    )
    warm_up([one], WARM_UP)
    module = sys.modules["appl_a"]
    first, second = module.seen
    assert module.closed == [[], []]
    assert first["wsgi.input"].read() == b""
    names = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_URI")
    assert [first[name] for name in names] == [
        "GET",
        "/shop \xc3\xa4",
        "/health x",
        "a=%20b",
        "/shop%20%C3%A4/health%20x?a=%20b",
    ]
    assert first["HTTP_HOST"] == first["SERVER_NAME"] == "shop.example"
    assert first["HTTP_USER_AGENT"] == "kernelq-warm-up"
    assert first["kernelq.warm_up"] is True
    assert first["wsgi.multithread"] is True
    assert first["wsgi.multiprocess"] is False
    assert second["PATH_INFO"] == second["REQUEST_URI"].removeprefix("/shop%20%C3%A4") == "/"
    logged = capfd.readouterr().err
    assert logged.count(" warning ") == logged.count("was answered 404 Not Found within") == 2


def test_the_environ_is_what_pep_3333_wants(tmp_path: Path) -> None:
    from wsgiref.validate import validator

    one = make(tmp_path, PLAIN, warm_up=["/"])

    def typed(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    one._loaded = validator(typed)
    warm_up([one], WARM_UP)


BODY = "def application(environ, start_response):\n    "


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (BODY + "start_response('500 Oh', [])\n    return []", "was answered 500 Oh"),
        (BODY + "start_response('503 Not Yet', [])\n    return []", "was answered 503 Not Yet"),
        (BODY + "start_response('ok', [])\n    return []", "was answered ok"),
        (BODY + "return []", "did not call start_response"),
        (BODY + "raise LookupError('oh')", "failed: LookupError: oh\nTraceback"),
        (BODY + "raise SystemExit(3)", "failed: SystemExit: 3\nTraceback"),
        (
            BODY + "start_response('200 OK', [])\n    yield b''\n    1/0",
            "failed: ZeroDivisionError: division by zero",
        ),
        (BODY + "start_response('200 OK', [])", "failed: TypeError: 'NoneType' object is not"),
        (PLAIN + "1/0", "importing it failed: ZeroDivisionError"),
    ],
)
def test_warm_up_requests_that_fail(tmp_path: Path, code: str, words: str) -> None:
    one = make(tmp_path, code, warm_up=["/fine?x"])
    with pytest.raises(StartError) as found:
        warm_up([one], WARM_UP)
    assert words in str(found.value)
    assert str(found.value).startswith(
        "application 'appl_a:application': the warm-up request GET /fine?x "
    )
    assert "applications.py" not in str(found.value)


def test_a_failing_close_refuses_too(tmp_path: Path) -> None:
    code = RECORDING.replace("closed.append(list(self.blocks))", "raise OSError('cannot')")
    with pytest.raises(StartError, match="OSError: cannot"):
        warm_up([make(tmp_path, code, warm_up=["/"])], WARM_UP)


def test_a_later_status_replaces_the_first(tmp_path: Path) -> None:
    code = BODY + (
        "start_response('200 OK', [])\n"
        "    try:\n"
        "        1/0\n"
        "    except ZeroDivisionError:\n"
        "        import sys\n"
        "        start_response('500 Oh', [], sys.exc_info())\n"
        "    return [b'']"
    )
    with pytest.raises(StartError, match="was answered 500 Oh"):
        warm_up([make(tmp_path, code, warm_up=["/"])], WARM_UP)


def test_without_warm_up_nothing_is_loaded(tmp_path: Path) -> None:
    one = make(tmp_path, "1/0")
    warm_up([one], WARM_UP)
    assert not one.is_loaded


# ---- the letter ----


def pool(count: int = 1) -> PoolSettings:
    return PoolSettings(
        "shop",
        CorePoolSettings("shop", threads=3),
        tuple(
            ApplicationSettings(
                f"/p{number}",
                "appl:application",
                "shop",
                "/srv/shop",
                (("A", "ä"),),
                ("/health",),
                number,
                "site",
                "shop.example",
            )
            for number in range(count)
        ),
        "/srv",
        max_processes=2,
        process=ProcessSettings(umask=0o27, inspectable=True),
    )


def test_a_letter_arrives_whole_for_every_reader() -> None:
    letter = pack_letter(pool(3000))
    try:
        assert os.fstat(letter).st_size > 300_000
        settings = unpack_letter(os.dup(letter))
        assert settings == unpack_letter(os.dup(letter))
        with pytest.raises(PermissionError):
            os.pwrite(letter, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(letter, 0)
    finally:
        os.close(letter)
    assert settings == unpack_settings(pack_settings(pool(3000)))
    assert {name: settings[name] for name in settings if name != "applications"} == {
        "name": "shop",
        "directory": "/srv",
        "threads": 3,
        "umask": 0o27,
        "inspectable": True,
        "log_level": PoolSettings().log_level,
        "max_processes": 2,
        "multiprocess": True,
    }


def test_applications_of_a_letter() -> None:
    applications = make_applications(unpack_settings(pack_settings(pool(3))))
    assert list(applications) == [0, 1, 2]
    one = applications[2]
    assert (one.path, one.app, one.directory) == ("/p2", "appl:application", "/srv/shop")
    assert (one.environment, one.warm_up, one.host) == ({"A": "ä"}, ("/health",), "shop.example")


def test_unpacking_closes_the_letter() -> None:
    letter = pack_letter(pool())
    unpack_letter(letter)
    with pytest.raises(OSError, match="file descriptor"):
        os.fstat(letter)
