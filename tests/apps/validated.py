"""wsgiref.validate between the server and an application that uses much of PEP 3333."""

from collections.abc import Iterable
from typing import Any
from wsgiref.validate import validator

TEXT = [("Content-Type", "text/plain")]


def inner(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    stream = environ["wsgi.input"]
    if path == "/read":
        content = stream.read(5) + stream.read(1_000_000)
    elif path == "/lines":
        content = (
            stream.readline() + b"|" + b"|".join(stream.readlines(100)) + b"|" + b"".join(stream)
        )
    elif path == "/write":
        start_response("200 OK", TEXT)(b"written ")
        return [b"returned"]
    elif path == "/errors":
        environ["wsgi.errors"].write("one line\n")
        environ["wsgi.errors"].writelines(["two\n", "three\n"])
        environ["wsgi.errors"].flush()
        content = b"errors"
    elif path == "/file":
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](open(__file__, "rb"), 100)
    elif path == "/empty":
        start_response("204 No Content", [])
        return []
    elif path == "/generator":
        start_response("200 OK", TEXT)
        return (block for block in (b"", b"a", b"", b"b"))
    else:
        content = b"hello"
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(content)))])
    return [content]


application = validator(inner)
