"""The zygote of a pool (--preload): it loads what a worker must have before READY, serves nothing,
and forks workers in milliseconds. Warm-up requests are each worker's own: what they open (a
connection to a database) must not be shared.

Theory of operation. A worker is forked twice: the process between ends at once, so that the worker
becomes the spawner's child (its subreaper), who waits for it like for any other and outlives the
zygote. The zygote tells the worker's pid only after the process between has been waited for: then
the change of parent has happened. The worker learns who it is from the spawner's letter, which the
zygote never sees: no zygote holds a channel.

Facts: only the forking thread exists in the child, and a lock that another thread held stays locked
for ever; hence the warning. gc.freeze() moves what is loaded out of the collector's sight, so that
its counters do not copy shared pages in every worker.
"""

from __future__ import annotations

import gc
import os

from kernelq import linux, log, worker
from kernelq.errors import StartError
from kernelq.letters import EXIT_ORPHANED, FromZygote, ToZygote
from kernelq.link import Link, Message, link_from

TYPE_CHECKING = False  # see worker.py
if TYPE_CHECKING:
    from typing import NoReturn


def main(descriptor: int) -> NoReturn:
    """A new interpreter's first call."""
    linux.name_process("kernelq-zygote")
    link = link_from(descriptor)
    _, settings = worker.read_letter(link)
    worker.prepare(settings)
    try:
        applications = worker.load_applications(settings)
    except StartError as found:
        _refuse_all(link, str(found))
    _warn_of_threads()
    gc.collect()
    gc.freeze()
    worker.main_forked(_fork_until_child(link), applications)


def _refuse_all(link: Link, text: str) -> NoReturn:
    """Tell each worker that is asked for why there will be none, until the spawner ends us."""
    while True:
        message = _next_request(link)
        message.close_descriptors()
        link.send(FromZygote.REFUSED, message.numbers[0], text=text)


def _fork_until_child(link: Link) -> Link:
    """Fork a worker per request; returns only in a worker, with the worker's own link."""
    while True:
        message = _next_request(link)
        number = message.numbers[0]
        try:
            pid = _fork_twice()
        except OSError as found:
            message.close_descriptors()
            link.send(FromZygote.REFUSED, number, text=f"its zygote cannot fork: {found}")
            continue
        if pid == 0:
            link.close()
            linux.name_process("kernelq-worker")
            return link_from(message.descriptors.pop())
        message.close_descriptors()
        link.send(FromZygote.FORKED, number, pid)


def _next_request(link: Link) -> Message:
    message = link.receive()
    if message is None:
        os._exit(0)
    if message.kind != ToZygote.FORK or len(message.descriptors) != 1:
        os._exit(EXIT_ORPHANED)
    return message


def _fork_twice() -> int:
    """The worker's pid; 0 in the worker. OSError, in the zygote alone."""
    between, reader, writer = linux.fork_with_pipe()
    if between == 0:
        os.close(reader)
        try:
            pid = os.fork()
        except OSError as found:
            os._exit(found.errno or 1)
        if pid == 0:
            os.close(writer)
            os.setsid()
            return 0
        try:
            os.write(writer, pid.to_bytes(8, "little"))
        except BrokenPipeError:
            pass  # the zygote was killed meanwhile: its spawner sees that, and asks another one
        os._exit(0)
    os.close(writer)
    data = os.read(reader, 8)
    os.close(reader)
    _, status = os.waitpid(between, 0)
    if len(data) != 8:
        number = os.waitstatus_to_exitcode(status)
        raise OSError(number, os.strerror(number))
    return int.from_bytes(data, "little")


def _warn_of_threads() -> None:
    names = os.listdir("/proc/self/task")
    if len(names) > 1:
        log.warning(
            f"zygote {os.getpid()}: the application started {len(names) - 1} threads at import; "
            "they do not exist in the workers, and what they had locked stays locked (--preload)"
        )
