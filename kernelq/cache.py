"""The response cache, as the application sees it: when it has changed something, it flushes what
shows it.

    from kernelq import cache

    cache.flush("/articles/7")              # of the host of the request under way, and all below
    cache.flush("https://example.org/")     # everything of that host
    cache.flush_group("articles")           # all responses with Cache-Groups: "articles"

When a call returns, no client gets the old response any more, from whatever loop or worker; a
response whose request began before the call may still be sent to those that wait for it, but is not
kept. With `--cache off` there is nothing to flush, and nothing is done.

Works in any thread of a worker process from the moment it serves: not while the application is
being imported, for there is no channel to the core yet. A path alone (and a group without an
origin) belongs to the request that the calling thread runs; other threads name scheme and host.

Outside of a worker that serves (tests, a development server, a management command) each call is a
RuntimeError, not silence: a flush that flushes nothing is a stale page that nobody can explain.
Code that also runs there asks `is_available()` first; other processes of the same machine use the
command `kernelq cache flush`.
"""

import sys
from typing import Any

__all__ = ["flush", "flush_group", "is_available"]


def flush(url_prefix: str, recursive: bool = True) -> int:
    """Drop what is stored under an absolute URL, or under a path of the current request's host.

    Recursively also all below it: `/a` is above `/a/b` and `/a?x`, not above `/ab`; `/a/` is above
    `/a/b` alone. Without `recursive` only that very URL, in all its variants. Gives the number of
    responses that were dropped.

    Raises ValueError for what is no URL, RuntimeError outside of a worker that serves, TimeoutError
    when the core has not answered for 60 seconds.
    """
    flags = _worker("flush").RECURSIVE if recursive else 0
    return _call("flush", _url(url_prefix), b"", flags)


def flush_group(name: str, origin: str | None = None) -> None:
    """Drop every response of the origin (`https://example.org`; None: the current request's) whose
    Cache-Groups field names this group (RFC 9875). Raises what flush() raises.
    """
    _worker("flush_group")
    if not name.isascii() or not name.isprintable():
        raise ValueError(f"found {name!r}, a group's name is printable ASCII (RFC 9875)")
    where = _current_origin("a group") if origin is None else origin
    _call("flush_group", _absolute(where), name.encode("ascii"), 0)


def is_available() -> bool:
    """Whether this process is a worker of kernelq that serves requests."""
    module = sys.modules.get("kernelq._worker")
    return module is not None and bool(module.is_served())


def _worker(function: str) -> Any:
    if not is_available():
        raise RuntimeError(
            f"kernelq.cache.{function}() works only in a worker process of kernelq that serves "
            "requests (is_available() tells); elsewhere use the command `kernelq cache flush`"
        )
    return sys.modules["kernelq._worker"]


def _call(operation: str, first: bytes, second: bytes, flags: int) -> int:
    worker = _worker(operation)
    status, value = worker.call(worker.CALLS[operation], first, second, flags)
    if status == worker.REPLIES["invalid"]:
        raise ValueError(f"found {first.decode('ascii')!r}, allowed is an absolute URL")
    if status == worker.REPLIES["no_memory"]:
        raise MemoryError("the core has no memory for the call")
    return int(value)


def _url(text: str) -> bytes:
    if text.startswith("/") and not text.startswith("//"):
        text = _current_origin("a path") + text
    return _absolute(text)


def _absolute(text: str) -> bytes:
    """As bytes, with escapes for what is not ASCII; the core brings it into its normal form."""
    if not text.lower().startswith(("http://", "https://")):
        raise ValueError(f"found {text!r}, allowed is an absolute URL, or a path such as /a")
    data = text.partition("#")[0].encode("utf-8")
    if any(byte <= 0x20 or byte == 0x7F for byte in data):
        raise ValueError(f"found {text!r}, a URL has neither spaces nor control characters")
    return b"".join(b"%c" % byte if byte < 0x80 else b"%%%02X" % byte for byte in data)


def _current_origin(what: str) -> str:
    environ = _worker("flush").current_environ()
    if environ is None:
        raise ValueError(f"{what} belongs to a request, and this thread runs none: name the host")
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    return f"{environ['wsgi.url_scheme']}://{host}"
