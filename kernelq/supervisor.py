"""The main process: it starts service and spawner, hands them their links, relays signals and
systemd's words.

Rules: one thread, no application code, no core: it forks a new spawner at any time, and as root it
keeps root. It holds no listening socket and neither end of a link between the other two: an end
that is held here would never be seen to close.

What ends what: the service's end ends everything, with its status. The spawner's end is repaired: a
new one, whose link goes to the service. The main process's own end kills the service (PDEATHSIG),
whose end the spawner sees.
"""

import gc
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from kernelq import linux, log, service, spawner
from kernelq.binding import Listener
from kernelq.config import ServerSettings
from kernelq.errors import StartError
from kernelq.identity import Identity
from kernelq.letters import FromService, ToService
from kernelq.link import Link, link_pair
from kernelq.notify import Notifier
from kernelq.signals import SignalQueue, restore_defaults
from kernelq.status import describe_status, exit_code

SECOND = 1_000_000_000
SPAWNER_RESTART_FIRST_NS = 0
SPAWNER_RESTART_STEP_NS = SECOND // 10
SPAWNER_RESTART_MOST_NS = 5 * SECOND
SPAWNER_STEADY_NS = 60 * SECOND  # a spawner that lived this long was no failure of the start

_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)


class Supervisor:
    """The main process's state and its loop."""

    def __init__(
        self,
        settings: ServerSettings,
        listeners: list[Listener],
        control: Listener | None,
        identity: Identity,
        notifier: Notifier,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._control = control
        self._identity = identity
        self._notifier = notifier
        self._selector = selectors.DefaultSelector()
        self._service_pid = 0
        self._spawner_pid = 0
        self._spawner_started_ns = 0
        self._spawner_at = 0  # when a new spawner is due; 0: none is
        self._spawner_deaths = 0
        self._is_stopping = False
        self._status: int | None = None  # the service's wait status

    def run(self) -> int:
        """Everything from the first fork to the last wait; gives the status to end with."""
        linux.adopt_orphans()  # workers whose spawner died; and as process 1 everybody's
        self._signals = SignalQueue(_SIGNALS)
        self._link, theirs = link_pair()
        gc.collect()
        gc.freeze()
        self._service_pid = self._fork_service(theirs)
        theirs.close()
        for listener in self._own_listeners():
            listener.socket.close()
        self._start_spawner()
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signals)
        self._selector.register(self._link, selectors.EVENT_READ, self._on_service)
        while self._status is None:
            for key, _ in self._selector.select(self._seconds_to_wait()):
                key.data()
            if self._spawner_at and time.monotonic_ns() >= self._spawner_at:
                self._start_spawner()
        self._await_spawner()
        return self._end_status()

    def _own_listeners(self) -> list[Listener]:
        return [*self._listeners, *([self._control] if self._control else [])]

    def _fork_service(self, theirs: Link) -> int:
        access_log = open_access_log(self._settings.access_log)
        core = replace(self._settings.core, access_log_fd=access_log)
        settings = replace(self._settings, core=core)
        parent = os.getpid()
        keep = [theirs.fileno(), access_log]
        keep += [one.socket.fileno() for one in self._own_listeners()]

        def main() -> int:
            linux.raise_descriptor_limit()
            return service.run(
                settings,
                self._listeners,
                self._control,
                theirs,
                self._identity,
                parent,
                self._notifier.watchdog_ns,
            )

        pid = fork_process(main, keep)
        if access_log > 2:
            os.close(access_log)
        return pid

    def _start_spawner(self) -> None:
        self._spawner_at = 0
        ours, theirs = link_pair()
        pools = self._settings.pools
        self._spawner_pid = fork_process(lambda: spawner.run(pools, theirs), [theirs.fileno()])
        self._spawner_started_ns = time.monotonic_ns()
        theirs.close()
        self._send(ToService.SPAWNER, [ours.fileno()])
        ours.close()

    # What happens.

    def _on_signals(self) -> None:
        for number in self._signals.take():
            match number:
                case signal.SIGCHLD:
                    self._reap()
                case signal.SIGHUP:
                    self._send(ToService.RELOAD)
                case signal.SIGUSR1:
                    self._reopen_logs()
                case signal.SIGUSR2:
                    os.kill(self._service_pid, signal.SIGUSR2)  # a debug hook, ignored otherwise
                case _:
                    self._stop(number)

    def _stop(self, number: int) -> None:
        at_once = number == signal.SIGQUIT or (number == signal.SIGINT and self._is_stopping)
        self._is_stopping = True
        self._send(ToService.STOP_NOW if at_once else ToService.STOP)

    def _on_service(self) -> None:
        message = self._link.receive()
        if message is None:
            self._selector.unregister(self._link)  # its death follows
        elif message.kind == FromService.NOTIFY:
            self._notifier.send(message.text)

    def _reopen_logs(self) -> None:
        try:
            descriptor = open_access_log(self._settings.access_log)
        except StartError as found:
            log.error(str(found))
            return
        if descriptor > 2:
            self._send(ToService.REOPEN, [descriptor])
            os.close(descriptor)

    def _send(self, kind: int, descriptors: list[int] | None = None) -> None:
        try:
            self._link.send(kind, descriptors=descriptors or ())
        except OSError:
            pass  # the service has ended; its status ends us

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._service_pid:
                self._status = status
            elif pid == self._spawner_pid:
                self._spawner_pid = 0
                self._plan_spawner(status)
            # else: an orphan.

    def _plan_spawner(self, status: int) -> None:
        if status == 0:
            return  # it has seen the service's end, which we are about to see
        log.error(f"the spawner died: {describe_status(status)}; a new one is started")
        now = time.monotonic_ns()
        is_steady = now - self._spawner_started_ns > SPAWNER_STEADY_NS
        self._spawner_deaths = 0 if is_steady else self._spawner_deaths + 1
        delay_ns = SPAWNER_RESTART_STEP_NS << min(self._spawner_deaths - 1, 8)
        if self._spawner_deaths <= 1:
            delay_ns = SPAWNER_RESTART_FIRST_NS
        self._spawner_at = now + min(delay_ns, SPAWNER_RESTART_MOST_NS)

    def _seconds_to_wait(self) -> float | None:
        if not self._spawner_at:
            return None
        return max(0, self._spawner_at - time.monotonic_ns()) / SECOND

    # The end.

    def _await_spawner(self) -> None:
        """The spawner sees the service's end, kills what is left of the workers, and ends."""
        if not self._spawner_pid:
            return
        os.waitpid(self._spawner_pid, 0)

    def _end_status(self) -> int:
        assert self._status is not None
        if os.WIFSIGNALED(self._status):
            log.error(f"the service died: {describe_status(self._status)}")
        return exit_code(self._status)


def fork_process(main: Callable[[], int], keep: list[int]) -> int:
    """Fork a process of ours that keeps only these descriptors; gives its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        restore_defaults()
        linux.close_all_but(keep)
        status = main()
    except BaseException:
        import traceback

        log.error(f"process {os.getpid()} failed:\n{traceback.format_exc()}")
    finally:
        os._exit(status)


def open_access_log(name: str) -> int:
    """A descriptor for the access log; -1 for none, 1 for standard output. StartError when it
    cannot be opened.
    """
    if name == "none":
        return -1
    if name == "-":
        return 1
    try:
        return os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as found:
        raise StartError(f"--access-log: cannot open {name}: {found.strerror}") from None


def write_pid_file(name: str) -> None:
    """StartError when it cannot be written. A file that an ended server left is replaced."""
    try:
        with open(name, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as found:
        raise StartError(f"--pid-file: cannot write {name}: {found.strerror}") from None


def remove_pid_file(name: str) -> None:
    try:
        os.unlink(name)
    except OSError:
        pass  # gone already


def supervise(
    settings: ServerSettings,
    listeners: list[Listener],
    control: Listener | None,
    identity: Identity,
    notifier: Notifier,
) -> int:
    """The main process's life, with what it leaves behind cleaned up."""
    has_pid_file = False
    try:
        open_access = open_access_log(settings.access_log)  # a bad start is better than a bad log
        if open_access > 2:
            os.close(open_access)
        if settings.pid_file:
            write_pid_file(settings.pid_file)
            has_pid_file = True
        return Supervisor(settings, listeners, control, identity, notifier).run()
    finally:
        for listener in [*listeners, *([control] if control else [])]:
            listener.remove_socket_file()
        if has_pid_file:
            remove_pid_file(settings.pid_file)
        sys.stderr.flush()
