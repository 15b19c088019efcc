"""An honest worker among hostile ones: answers every request with what only it can know.

argv: the key, then the descriptors of its channel. The answer is a line with the request's number
and a keyed digest of the request, then a pattern; it cannot be forged without the key, nor mixed up
without being noticed.
"""

import hashlib
import hmac
import signal
import sys
import tempfile
from types import SimpleNamespace

from kernelq import cache

THREADS = 2
_PATTERN = bytes(range(32, 127)) * 900


def answer(key: bytes, target: str, content: bytes) -> bytes:
    """What the honest answer to a request is."""
    digest = hmac.new(key, target.encode() + b" " + content, hashlib.sha256).hexdigest()
    number = int(target.rpartition("/")[2])
    start = number * 7919 % 95
    size = (0, 100, 3000, 20000, 80000)[number % 5]
    return f"honest {number} {digest}\n".encode() + _PATTERN[start : start + size]


def make_application(key: bytes):
    def application(environ, start_response):
        target = environ["PATH_INFO"]
        if int(target.rpartition("/")[2]) % 7 == 0:
            cache.flush(target)
        body = answer(key, target, environ["wsgi.input"].read())
        fields = [("Content-Type", "text/plain")]
        kind = target.split("/")[1]
        if kind == "stored":
            fields.append(("Cache-Control", "public, max-age=1000"))
        if kind == "blocks":
            start_response("200 OK", fields)
            return (body[at : at + 5000] for at in range(0, len(body), 5000))
        start_response("200 OK", [*fields, ("Content-Length", str(len(body)))])
        if kind == "file":
            file = tempfile.TemporaryFile(buffering=0)  # the server closes it
            file.write(body)
            file.seek(0)
            return environ["wsgi.file_wrapper"](file)
        return [body]

    return application


def main() -> None:
    from kernelq import _worker

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = _worker.Channel([int(fd) for fd in sys.argv[2:]])
    application = make_application(sys.argv[1].encode())
    channel.serve({0: SimpleNamespace(load=lambda: application)}, THREADS)
    channel.ready()
    while not channel.wait(3600):
        pass


if __name__ == "__main__":
    main()
