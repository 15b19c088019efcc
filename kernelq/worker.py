"""The worker process: from its first line to the serving of requests, and its end.

The main thread is the control thread: it loads what must be there at once, starts the serving
threads, and then waits for what others want of it: TERM or the channel's DRAIN (finish, then end),
a request for the stacks of all threads, the end of the spawner (end at once). It never runs a
request but those that warm an application up.

Rules: what is imported here is memory in every worker; nothing of the application is imported
before the process is what it shall be (user, limits, not inspectable).
"""

from __future__ import annotations

import os
import select
import signal
import sys

from kernelq import linux, log
from kernelq.applications import (
    Application,
    enter_directory,
    load_first,
    make_applications,
    warm_up,
)
from kernelq.errors import StartError
from kernelq.letters import EXIT_ORPHANED, EXIT_REFUSED, Control, ToWorker, unpack_letter
from kernelq.link import Link, Message, link_from
from kernelq.signals import SignalQueue

# `typing` would cost each worker half a megabyte of its own, for annotations alone: so this name,
# which type checkers take for true, stands in every module that a worker imports.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

Applications = dict[int, Application]


def main(descriptor: int) -> NoReturn:
    """A new interpreter's first call: read the letter, load the applications, serve."""
    linux.name_process("kernelq-worker")
    link = link_from(descriptor)
    letter, settings = read_letter(link)
    prepare(settings)
    control = link_from(letter.descriptors.pop())
    try:
        applications = load_applications(settings)
        warm_up(applications.values(), settings)
    except StartError as found:
        _refuse(control, found)
    serve(link, control, letter, settings, applications)


def main_forked(link: Link, applications: Applications) -> NoReturn:
    """A zygote's child: what is loaded at once is loaded, the letter says who we are."""
    letter, settings = read_letter(link)
    if not linux.die_with_parent(letter.numbers[1]):
        os._exit(EXIT_ORPHANED)
    control = link_from(letter.descriptors.pop())
    try:
        warm_up(applications.values(), settings)
    except StartError as found:
        _refuse(control, found)
    serve(link, control, letter, settings, applications)


def read_letter(link: Link) -> tuple[Message, dict[str, Any]]:
    """The letter, and the settings in it; a process whose spawner has died ends here."""
    message = link.receive()
    if message is None or message.kind != ToWorker.LETTER or not message.descriptors:
        os._exit(EXIT_ORPHANED)
    return message, unpack_letter(message.descriptors.pop(0))


def prepare(settings: dict[str, Any]) -> None:
    """What must be so before the first line of the application runs."""
    import faulthandler

    log.set_threshold(settings["log_level"])
    if not settings["inspectable"]:
        linux.forbid_inspection()
    # A crash, or the abort that a worker is sent when it does not answer any more, writes the
    # Python stacks.
    faulthandler.enable(all_threads=True)
    if settings["umask"] >= 0:
        os.umask(settings["umask"])
    sys.argv = ["kernelq"]
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


def load_applications(settings: dict[str, Any]) -> Applications:
    """All of them, those loaded that must be there before READY; StartError says in words why one
    cannot be.
    """
    enter_directory(settings)
    applications = make_applications(settings)
    load_first(applications)
    return applications


def serve(
    link: Link, control: Link, letter: Message, settings: dict[str, Any], applications: Applications
) -> NoReturn:
    """Open the channel, start the serving threads, say READY, and control them until the end."""
    from kernelq._worker import Channel

    signals = SignalQueue([signal.SIGTERM, signal.SIGINT])
    channel = Channel(letter.descriptors)
    letter.descriptors = []
    channel.serve(applications, settings["threads"], settings)
    channel.ready()
    _control(link, control, signals, channel)
    sys.exit(0)


def _refuse(control: Link, found: StartError) -> NoReturn:
    control.try_send(Control.REFUSED, text=str(found))
    os._exit(EXIT_REFUSED)


def _control(link: Link, control: Link, signals: SignalQueue, channel: Any) -> None:
    """Wait for whatever others want of this worker; returns when it is drained."""
    poll = select.poll()
    for watched in (link, control, signals, channel):
        poll.register(watched.fileno(), select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == channel.fileno():
                _reset(descriptor)
                if channel.wait(0):
                    return
            elif descriptor == link.fileno():
                _obey(link)
            elif descriptor == signals.fileno():
                if signal.SIGTERM in signals.take():
                    channel.drain()
            elif not _answer(control):
                poll.unregister(descriptor)


def _obey(link: Link) -> None:
    """A word of the spawner, or its end."""
    message = link.receive()
    if message is None or message.kind != ToWorker.SUSPEND:
        os._exit(EXIT_ORPHANED)
    from kernelq.pool import probes

    probes.suspend_self()


def _reset(descriptor: int) -> None:
    try:
        os.eventfd_read(descriptor)
    except BlockingIOError:
        pass  # the channel has read it itself


def _answer(control: Link) -> bool:
    """One request of the service; False when it has gone (the spawner then ends us)."""
    try:
        message = control.receive()
    except ValueError:
        return False
    if message is None:
        return False
    message.close_descriptors()
    if message.kind == Control.STACKS:
        write_stacks()
        control.try_send(Control.STACKS_DONE)
    elif message.kind == Control.TELL_STACKS:
        _tell_stacks(control)
    return True


def _tell_stacks(control: Link) -> None:
    from kernelq import sealed

    try:
        descriptor = sealed.put("kernelq-stacks", "\n".join(describe_stacks()).encode())
    except OSError:  # it has too many files open, for one
        control.try_send(Control.TOLD)
        return
    try:
        control.send(Control.TOLD, descriptors=[descriptor])
    except ConnectionError:
        pass  # the service has gone; the spawner ends us
    finally:
        os.close(descriptor)


def write_stacks() -> None:
    """The Python stacks of all threads but this one, to the error log."""
    for stack in describe_stacks():
        log.warning(f"worker {os.getpid()}, {stack}")


def describe_stacks() -> Iterator[str]:
    """The Python stack of each thread but this one, under its name."""
    import threading
    import traceback

    names = {thread.ident: thread.name for thread in threading.enumerate()}
    own = threading.get_ident()
    for ident, frame in sys._current_frames().items():
        if ident != own:
            stack = "".join(traceback.format_stack(frame)).rstrip()
            name = names.get(ident, "not a Python thread")
            yield f"thread {ident} ({name}):\n{stack}"
