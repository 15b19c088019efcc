"""The one WSGI application that every server of the benchmarks runs.

/        13 bytes              /64k     64 KiB
/cached  13 bytes that a shared cache may keep for an hour, also under any path below; /cached64k
/upload  reads the content, answers its length
/echo    answers the request's number and the worker's pid after 20 ms; the number comes in the
         query of a GET or in the content of a POST; each execution is entered in the ledger, so
         that the crash test knows what was started and what was executed twice
"""

import os
import time

HELLO = b"Hello, world!"
LARGE = b"0123456789abcdef" * 4096
ECHO_SECONDS = 0.02


TAG = '"a"'
KEPT = [("Cache-Control", "public, max-age=3600"), ("ETag", TAG)]


def respond(start_response, content, fields=()):
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(content))), *fields]
    )
    return [content]


def hello(environ, start_response):
    return respond(start_response, HELLO)


def large(environ, start_response):
    return respond(start_response, LARGE)


def cached(environ, start_response):
    return respond(start_response, HELLO, KEPT)


def cached_large(environ, start_response):
    return respond(start_response, LARGE, KEPT)


def read_content(environ):
    """Reads as much as CONTENT_LENGTH promises; a short read is the server's fault and shows."""
    left = int(environ.get("CONTENT_LENGTH") or 0)
    blocks = []
    while left and (block := environ["wsgi.input"].read(left)):
        blocks.append(block)
        left -= len(block)
    return b"".join(blocks)


def upload(environ, start_response):
    return respond(start_response, b"%d" % len(read_content(environ)))


def open_ledger():
    path = os.environ.get("BENCH_LEDGER")
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666) if path else None


LEDGER = open_ledger()


def echo(environ, start_response):
    post = environ["REQUEST_METHOD"] == "POST"
    number = read_content(environ) if post else environ["QUERY_STRING"].encode()
    if LEDGER is not None:
        os.write(LEDGER, b"%s %d %d\n" % (number, os.getpid(), time.monotonic_ns()))
    time.sleep(ECHO_SECONDS)
    return respond(start_response, b"%s %d" % (number, os.getpid()))


ROUTES = {
    "/": hello,
    "/64k": large,
    "/cached": cached,
    "/cached64k": cached_large,
    "/upload": upload,
    "/echo": echo,
}


def missing(environ, start_response):
    if environ["PATH_INFO"].startswith("/cached/"):
        return cached(environ, start_response)
    start_response("404 Not Found", [("Content-Length", "0")])
    return []


def application(environ, start_response):
    return ROUTES.get(environ["PATH_INFO"], missing)(environ, start_response)
