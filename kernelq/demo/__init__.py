"""The bundled demo site: one page that says what kernelq is, shows which worker it comes from, and
can crash that worker.

    GET /        the page
    GET /state   the same facts as JSON; the page asks for them twice a second
    POST /crash  the worker that answers kills itself, a moment after its answer
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from kernelq import __version__

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

CRASH_DELAY_SECONDS = 0.05  # so that the answer to the crashing request itself is complete

_HTML = "text/html; charset=utf-8"
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"

with open(os.path.join(os.path.dirname(__file__), "page.html"), encoding="utf-8") as _file:
    _PAGE = _file.read()


class _Worker:
    """What this process knows of itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served = 0
        self._started = time.monotonic()

    def describe(self) -> dict[str, Any]:
        """The facts that the page shows; one more request has been answered."""
        with self._lock:
            self._served += 1
            served = self._served
        age = round(time.monotonic() - self._started, 1)
        return {"pid": os.getpid(), "served": served, "age": age, "version": __version__}


_worker = _Worker()


def _begin_again() -> None:
    global _worker
    _worker = _Worker()


os.register_at_fork(after_in_child=_begin_again)  # a preloaded application is loaded once only


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The demo as a WSGI application."""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    state = _worker.describe()
    if path == "/crash":
        return _crash(environ, start_response, state)
    if method not in ("GET", "HEAD"):
        return _answer(start_response, "405 Method Not Allowed", _TEXT, "GET, please.\n")
    if path == "/":
        return _answer(start_response, "200 OK", _HTML, _render(state))
    if path == "/state":
        return _answer(start_response, "200 OK", _JSON, json.dumps(state))
    return _answer(start_response, "404 Not Found", _TEXT, "There is only one page here: /\n")


def _crash(
    environ: Environ, start_response: StartResponse, state: dict[str, Any]
) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] != "POST":
        return _answer(start_response, "405 Method Not Allowed", _TEXT, "POST, please.\n")
    if environ.get("HTTP_SEC_FETCH_SITE", "same-origin") not in ("same-origin", "none"):
        return _answer(start_response, "403 Forbidden", _TEXT, "Only from the page itself.\n")
    threading.Timer(CRASH_DELAY_SECONDS, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if _JSON in environ.get("HTTP_ACCEPT", ""):
        return _answer(start_response, "202 Accepted", _JSON, json.dumps(state))
    start_response("303 See Other", [("Location", "/"), ("Content-Length", "0")])
    return [b""]


def _render(state: dict[str, Any]) -> str:
    page = _PAGE
    for name, value in state.items():
        page = page.replace(f"{{{{{name}}}}}", str(value))
    return page


def _answer(start_response: StartResponse, status: str, kind: str, text: str) -> list[bytes]:
    body = text.encode()
    start_response(
        status,
        [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ],
    )
    return [body]
