"""The application that the servers of these tests run. What a request shall do stands in its path:

    /WORD/WORD...?n=NUMBER     each word is done in turn: sleep-MS, kill, hang ...; then it answers

Every execution is written into the file `executions` before anything else is done: "PID NUMBER
METHOD". The answer starts with "PID NUMBER METHOD LENGTH CRC" (of the content received) and a line
end, and goes on with a pattern that follows from the number, so that a mixed-up byte shows.
"""

import ctypes
import functools
import os
import resource
import signal
import threading
import time
import zlib

VERSION = 1
_PATTERN = bytes(range(32, 127)) * 700
_eaten: list[bytearray] = []

if "FAULT_APP_LIMIT" in os.environ:  # MiB of address space
    most = int(os.environ["FAULT_APP_LIMIT"]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
while os.path.exists("slow"):
    time.sleep(0.005)
if os.path.exists("bad"):
    os._exit(3)
if os.path.exists("broken"):
    1 / 0  # noqa: B018


def filler(number: int) -> bytes:
    start = number * 7919 % 95
    return _PATTERN[start : start + number * 104729 % 4000]


@functools.cache
def executions():
    return os.open("executions", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def application(environ, start_response):
    number = int(environ["QUERY_STRING"].removeprefix("n="))
    method = environ["REQUEST_METHOD"]
    os.write(executions(), f"{os.getpid()} {number} {method}\n".encode())
    content = environ["wsgi.input"].read()
    for word in environ["PATH_INFO"].strip("/").split("/"):
        name, _, value = word.partition("-")
        DOES[name](value)
    told = f"{os.getpid()} {number} {method} {len(content)} {zlib.crc32(content)}\n".encode()
    body = told + filler(number)
    headers = [
        ("Content-Type", "text/plain"),
        ("X-Number", str(number)),
        ("X-Version", str(VERSION)),
    ]
    if "chunked" not in environ["PATH_INFO"]:
        headers.append(("Content-Length", str(len(body))))
    start_response("200 OK", headers)
    if "blocks" in environ["PATH_INFO"] or "chunked" in environ["PATH_INFO"]:
        return (body[at : at + 1000] for at in range(0, len(body), 1000))
    if "file" in environ["PATH_INFO"]:
        return environ["wsgi.file_wrapper"](_file_of(body))
    return [body]


def _file_of(body):
    import tempfile

    file = tempfile.TemporaryFile(buffering=0)
    file.write(body)
    file.seek(0)
    return file


def sleep(value):
    time.sleep(float(value) / 1000)


def kill(value):
    os.kill(os.getpid(), int(value or signal.SIGKILL))


def hold_gil(value):
    # sleep(3) called with the GIL held: no other Python thread of this process runs meanwhile.
    ctypes.PyDLL(None).sleep(int(value))


def wait_for(value):
    """Until the file exists."""
    while not os.path.exists(value):
        time.sleep(0.005)


def kill_unless(value):
    """The first who makes the file dies."""
    try:
        os.close(os.open(value, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    kill("")


def burn(value):
    """So many milliseconds of processor time."""
    end = time.thread_time() + int(value) / 1000
    while time.thread_time() < end:
        pass


def orphan(value):
    """Leaves a process without parent, which ends when the file exists."""
    between = os.fork()
    if between == 0:
        if os.fork() == 0:
            wait_for(value)
        os._exit(0)
    os.waitpid(between, 0)


def flush(value):
    from kernelq import cache

    cache.flush("/")


def eat(value):
    """So many MiB, and never give them back."""
    _eaten.extend(bytearray(1 << 20) for _ in range(int(value)))


DOES = {
    "": lambda value: None,
    "blocks": lambda value: None,
    "chunked": lambda value: None,
    "file": lambda value: None,
    "sleep": sleep,
    "kill": kill,
    "hold": hold_gil,
    "burn": burn,
    "wait": wait_for,
    "once": kill_unless,
    "orphan": orphan,
    "eat": eat,
    "flush": flush,
    "exit": lambda value: os._exit(int(value)),
    "threads": lambda value: threading.active_count(),
}
