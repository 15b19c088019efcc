"""The applications of a worker: when they are loaded, and what they are asked before others ask.

One application is loaded before the worker says READY, and so is each that has warm-up requests;
others when their first request comes, by the serving thread that has it: the rest of the
worker goes on meanwhile, and requests for the same application wait.

Facts: a process has one sys.path, one os.environ and one module of a name. What an application
brings of these is there for those that are loaded after it, too; two applications whose modules
have one name cannot share a worker, and the second would be given the first one's: refused.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from kernelq import log
from kernelq.errors import StartError

TYPE_CHECKING = False  # see worker.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Wsgi = Callable[..., Any]

RETRY_AFTER_S = 1.0  # what failed to load is not tried again sooner


class Application:
    """One application: its words of the letter, and the callable once it is loaded."""

    __slots__ = (
        "_clock", "_failed_at", "_failure", "_loaded", "_lock", "app", "directory", "environment",
        "host", "loads_first", "number", "path", "warm_up",
    )  # fmt: skip

    def __init__(self, words: dict[str, Any], clock: Callable[[], float] = time.monotonic) -> None:
        self.number: int = words["number"]
        self.path: str = words["path"]
        self.app: str = words["app"]
        self.directory: str = words["directory"]
        self.environment: dict[str, str] = dict(words["environment"])
        self.warm_up: tuple[str, ...] = tuple(words["warm_up"])
        self.host: str = words["host"]
        self.loads_first: bool = words["loads_first"]
        self._loaded: Wsgi | None = None
        self._failure = ""
        self._failed_at = 0.0
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None

    def load_now(self) -> Wsgi:
        """Before READY: StartError says in words, and with a traceback, why it cannot be loaded."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._import()
            return self._loaded

    def load(self) -> Wsgi:
        """For a request: like load_now(), but the traceback goes into the log, StartError has one
        line, and a failure stands for a while.
        """
        if self._loaded is not None:
            return self._loaded
        with self._lock:
            if self._loaded is None:
                self._loaded = self._try_again()
            return self._loaded

    def _try_again(self) -> Wsgi:
        if not self._failure or self._clock() - self._failed_at >= RETRY_AFTER_S:
            try:
                return self._import()
            except StartError as found:
                log.error(f"worker {os.getpid()}: {found}")
                self._failure = str(found).partition("\n")[0]
                self._failed_at = self._clock()
        raise StartError(self._failure)

    def _import(self) -> Wsgi:
        from kernelq.application import load, parse_reference

        reference = parse_reference(self.app)
        os.environ.update(self.environment)
        if self.directory in sys.path:
            sys.path.remove(self.directory)
        sys.path.insert(0, self.directory)
        self._check_module(reference.module.partition(".")[0])
        return load(reference)

    def _check_module(self, name: str) -> None:
        from importlib.machinery import PathFinder

        there = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
        if there is None or name == "kernelq":
            return
        ours = PathFinder.find_spec(name, [self.directory])
        if ours is None or ours.origin is None:
            return
        if os.path.realpath(ours.origin) != os.path.realpath(there):
            raise StartError(
                f"application {self.app!r}: this process has a module {name!r} already, from "
                f"{there}, so the one in {self.directory} cannot be had: rename one of them, or "
                "give the application a pool of its own"
            )


def make_applications(settings: dict[str, Any]) -> dict[int, Application]:
    """Of a letter, by number."""
    applications = map(Application, settings["applications"])
    return {application.number: application for application in applications}


def enter_directory(settings: dict[str, Any]) -> None:
    """The pool's working directory; StartError."""
    try:
        os.chdir(settings["directory"])
    except OSError as found:
        raise StartError(
            f"the working directory {settings['directory']} of pool {settings['name']!r}: "
            f"{found.strerror}"
        ) from None


def load_first(applications: dict[int, Application]) -> None:
    """Load those that must be there before READY; StartError."""
    for application in applications.values():
        if application.loads_first:
            application.load_now()


def warm_up(applications: Iterable[Application], settings: dict[str, Any]) -> None:
    """Send each application the requests that it wants before others; StartError when one of them
    fails.
    """
    for application in applications:
        for target in application.warm_up:
            _ask(application, target, settings)


class _Answer:
    """What a warm-up request's start_response() and write() are."""

    __slots__ = ("status",)

    def __init__(self) -> None:
        self.status = ""

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], None]:
        self.status = status
        return lambda data: None


def _ask(application: Application, target: str, settings: dict[str, Any]) -> None:
    what = f"application {application.app!r}: the warm-up request GET {target}"
    began = time.monotonic()
    try:
        status = _run(application.load_now(), _environ(application, target, settings))
    except BaseException as found:
        raise StartError(_failure_text(what, found)) from None
    if not status[:3].isdigit() or status[:1] == "5":
        raise StartError(f"{what} was answered {status}")
    took_ms = int((time.monotonic() - began) * 1000)
    say = log.warning if status[:1] == "4" else log.info
    say(f"worker {os.getpid()}: {what} was answered {status} within {took_ms} ms")


def _run(application: Wsgi, environ: dict[str, Any]) -> str:
    """The status; the content is taken whole, and closed."""
    answer = _Answer()
    result = application(environ, answer.start)
    try:
        for _ in result:
            pass
    finally:
        close = getattr(result, "close", None)
        if close is not None:
            close()
    if not answer.status:
        raise AssertionError("the application did not call start_response()")
    return answer.status


def _environ(application: Application, target: str, settings: dict[str, Any]) -> dict[str, Any]:
    import io
    from urllib.parse import quote, unquote_to_bytes

    import kernelq

    path, _, query = target.partition("?")
    script = "" if application.path == "/" else application.path
    sent = quote(script) + target
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": script.encode().decode("latin-1"),
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": sent,
        "RAW_URI": sent,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": application.host,
        "SERVER_PORT": "80",
        "SERVER_SOFTWARE": f"kernelq/{kernelq.__version__}",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": application.host,
        "HTTP_USER_AGENT": "kernelq-warm-up",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": settings["threads"] > 1,
        "wsgi.multiprocess": settings["max_processes"] > 1,
        "wsgi.run_once": False,
        "kernelq.warm_up": True,
    }


def _failure_text(what: str, found: BaseException) -> str:
    """With the traceback of the application's own frames."""
    import traceback

    entry = found.__traceback__
    while entry is not None and entry.tb_frame.f_code.co_filename == __file__:
        entry = entry.tb_next
    last = f"{type(found).__name__}: {found}".splitlines()[0]
    text = "".join(traceback.format_exception(type(found), found, entry)).rstrip()
    return f"{what} failed: {last}\n{text}"
