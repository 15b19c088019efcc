"""The main process: it reads the configuration, starts service and spawner, hands them their links,
and relays signals and systemd's words.

Rules: one thread, no application code, no core: it forks a new spawner at any time, and as root it
keeps root. It holds no listening socket and neither end of a link between the other two: an end
that is held here would never be seen to close.

What ends what: the service's end ends everything, with its status. The spawner's end is repaired: a
new one, whose link goes to the service. The main process's own end kills the service (PDEATHSIG),
whose end the spawner sees.

Reload: the configuration is read and checked here, since this process may open sockets and only it
may tell the spawner what to run as whom. What is not in order changes nothing. The service applies
the difference, and says in the end which of the two is in force.

Upgrade: a new main process is started like this one was, gets copies of the listening sockets, and
when it serves, this one's service finishes and everything here ends (upgrade.py).
"""

import contextlib
import gc
import os
import pickle
import selectors
import signal
import sys
from dataclasses import replace

from kernelq import launch, linux, log, service, spawner
from kernelq.cgroup import open_cgroups
from kernelq.config import PoolSettings, ServerSettings
from kernelq.endpoints import Endpoint, close_unused, open_endpoints, refuse_new_descriptors
from kernelq.errors import StartError
from kernelq.letters import FromService, ToService, ToTable
from kernelq.link import Link, link_pair
from kernelq.numbering import Numbers, what_waits
from kernelq.parcel import Receiver, send_parcel
from kernelq.processes import (
    fork_process,
    open_access_log,
    remove_pid_file,
    try_access_log,
    write_pid_file,
)
from kernelq.restarts import Restarts
from kernelq.selecting import call_ready
from kernelq.signals import SignalQueue
from kernelq.sites import find_sockets
from kernelq.start import Start
from kernelq.status import describe_status, exit_code
from kernelq.upgrade import Heiress

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

    def __init__(self, start: Start) -> None:
        self._start = start
        self._numbers = Numbers()
        self._settings = self._numbers.number(start.settings)
        self._numbers.keep(self._settings)
        self._tables = {pool.index: pool for pool in self._settings.pools}
        self._endpoints = start.endpoints  # their sockets are closed here once the service has them
        self._notifier = start.notifier
        self._predecessor = start.origin.predecessor
        self._heiress: Heiress | None = None
        self._selector = selectors.DefaultSelector()
        self._service_pid = 0
        self._spawner_pid = 0
        self._spawner_link: Link | None = None
        self._restarts = Restarts()  # of spawners
        self._reload: tuple[ServerSettings, list[Endpoint]] | None = None  # under way
        self._reloads_again = False  # it was ordered once more meanwhile
        self._leaving: dict[int, PoolSettings] = {}  # removed; their last requests need workers yet
        self._is_stopping = False
        self._has_left = False  # to another main process: what is left is not ours to remove
        self._lent = Receiver()
        self._status: int | None = None  # the service's wait status

    def run(self) -> int:
        """Everything from the first fork to the last wait; gives the status to end with."""
        linux.adopt_orphans()  # workers whose spawner died; and as process 1 everybody's
        self._cgroups = open_cgroups(self._settings.cgroup_root, self._start.identity.owner)
        log.write(_level_of_cgroups(self._settings), self._cgroups.describe())
        self._signals = SignalQueue(_SIGNALS)
        self._link, theirs = link_pair()
        gc.collect()
        gc.freeze()
        self._service_pid = self._fork_service(theirs)
        theirs.close()
        for endpoint in self._endpoints:
            endpoint.listener.socket.close()
        if self._start.control is not None and self._predecessor is None:
            self._start.control.socket.close()
        self._start_spawner()
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signals)
        self._selector.register(self._link, selectors.EVENT_READ, self._on_service)
        while self._status is None:
            call_ready(self._selector, self._restarts.seconds_to_wait())
            if self._restarts.is_due():
                self._start_spawner_again()
        self._await_spawner()
        return self._end_status()

    def _fork_service(self, theirs: Link) -> int:
        access_log = open_access_log(self._settings.access_log)
        core = replace(self._settings.core, access_log_fd=access_log)
        settings = replace(self._settings, core=core)
        parent = os.getpid()
        # While a predecessor lives, the control socket is its service's.
        control = None if self._predecessor is not None else self._start.control
        keep = [theirs.fileno(), access_log]
        keep += [one.listener.socket.fileno() for one in self._endpoints]
        keep += [control.socket.fileno()] if control is not None else []

        def main() -> int:
            linux.raise_descriptor_limit()
            return service.run(
                settings,
                self._endpoints,
                control,
                theirs,
                self._start.identity,
                parent,
                self._notifier.watchdog_ns,
            )

        pid = fork_process(main, keep)
        if access_log > 2:
            os.close(access_log)
        return pid

    def _start_spawner(self) -> None:
        """OSError: there can be none."""
        if self._spawner_link is not None:
            self._spawner_link.close()
        with contextlib.ExitStack() as passed:
            ours, theirs = link_pair()
            passed.callback(ours.close)
            passed.callback(theirs.close)
            self._spawner_link, table = link_pair()
            passed.callback(table.close)
            pools = dict(self._tables)
            keep = [theirs.fileno(), table.fileno()]
            cgroups, identity = self._cgroups, self._start.identity

            def main() -> int:
                return spawner.run(pools, theirs, table, cgroups, identity)

            self._spawner_pid = fork_process(main, keep)
            self._restarts.on_start()
            self._send(ToService.SPAWNER, [ours.fileno()])

    def _start_spawner_again(self) -> None:
        try:
            self._start_spawner()
        except OSError as found:  # too little memory may be what the last one has died of
            log.error(f"there can be no new spawner now: {found.strerror}")
            self._restarts.on_failure()

    # What happens.

    def _on_signals(self) -> None:
        for number in self._signals.take():
            match number:
                case signal.SIGCHLD:
                    self._reap()
                case signal.SIGHUP:
                    self._begin_reload()
                case signal.SIGUSR1:
                    self._reopen_logs()
                case signal.SIGUSR2 if "KERNELQ_STALL" in os.environ:
                    os.kill(self._service_pid, signal.SIGUSR2)  # a debug hook
                case signal.SIGUSR2:
                    self._begin_upgrade()
                case _:
                    self._stop(number)

    def _stop(self, number: int) -> None:
        at_once = number == signal.SIGQUIT or (number == signal.SIGINT and self._is_stopping)
        self._is_stopping = True
        if self._heiress is not None and not self._has_left:
            self._heiress.stop()  # who wants us to end does not want a successor
        self._send(ToService.STOP_NOW if at_once else ToService.STOP)

    def _on_service(self) -> None:
        message = self._link.receive()
        if message is None:
            self._selector.unregister(self._link)  # its death follows
            return
        match message.kind:
            case FromService.NOTIFY:
                self._on_words(message.text)
            case FromService.RELOAD:
                self._begin_reload()
            case FromService.RELOADED:
                self._end_reload(message.numbers == (1,))
            case FromService.POOL_GONE:
                for index in message.numbers:
                    self._leaving.pop(index, None)
                if self._reload is None:  # else its end sends the table
                    self._send_table(self._table())
            case FromService.UPGRADE:
                self._begin_upgrade()
            case FromService.LENT:
                parcel = self._lent.add(message)
                if parcel is not None:
                    self._lend(*parcel)
        message.close_descriptors()

    def _on_words(self, text: str) -> None:
        if self._has_left:
            return  # systemd listens to the new main process now
        self._notifier.send(text)
        if self._predecessor is not None and "READY=1" in text:
            self._succeed()

    def _reopen_logs(self) -> None:
        try:
            descriptor = open_access_log(self._settings.access_log)
        except StartError as found:
            log.error(str(found))
            return
        if descriptor > 2:
            self._send(ToService.REOPEN, [descriptor])
            os.close(descriptor)

    def _send(self, kind: int, descriptors: list[int] | None = None, text: str = "") -> None:
        try:
            self._link.send(kind, text=text, descriptors=descriptors or ())
        except OSError:
            pass  # the service has ended; its status ends us

    # Reload.

    def _begin_reload(self) -> None:
        if not self._settings.config_file:
            self._send(ToService.RELOAD)  # a command line does not change: only the code may
            return
        if self._is_stopping or self._has_left:
            self._send(ToService.REFUSED, text="the server ends")
            return
        if self._reload is not None:
            self._reloads_again = True  # the file may have changed since it was read
            return
        try:
            settings = self._numbers.number(self._start.load())
            self._prepare(settings)
            opened = self._open_new(settings)
        except StartError as found:
            self._send(ToService.REFUSED, text=str(found))
            return
        notes = what_waits(self._settings, settings)
        self._reload = settings, opened
        self._send_table({**self._tables, **{pool.index: pool for pool in settings.pools}})
        names = [(one.name, one.listener.url) for one in opened]
        data = pickle.dumps((replace(settings, core=self._settings.core), names, notes))
        try:
            send_parcel(
                self._link,
                ToService.CONFIGURE,
                data,
                [one.listener.socket.fileno() for one in opened],
            )
        except OSError as found:  # too few descriptors, or the service has ended, which ends us
            self._send(ToService.REFUSED, text=f"the settings cannot be sent: {found}")
            self._end_reload(False)
        for one in opened:
            one.listener.socket.close()

    def _prepare(self, settings: ServerSettings) -> None:
        """StartError when a new pool's processes cannot be what they shall be: better now than at
        the first start of each.
        """
        for pool in settings.pools:
            if pool.index not in self._tables:
                try:
                    launch.prepare(pool)
                except OSError as found:  # no process for a trial
                    raise StartError(f"pool {pool.name}: {found}") from None

    def _open_new(self, settings: ServerSettings) -> list[Endpoint]:
        known = {one.name for one in self._endpoints}
        wanted = [one for one in find_sockets(settings.sites) if str(one) not in known]
        refuse_new_descriptors(wanted, known)
        owner = self._start.identity.owner
        return open_endpoints(wanted, {}, owner, settings.umask)

    def _end_reload(self, is_new: bool) -> None:
        if self._reload is None:
            return
        settings, opened = self._reload
        self._reload = None
        if is_new:
            wanted = {str(one) for one in find_sockets(settings.sites)}
            everything = [*self._endpoints, *opened]
            self._endpoints = [one for one in everything if one.name in wanted]
            gone = [one for one in everything if one.name not in wanted]
            # What waits for the next start stays as it was, to be compared with again.
            settings = replace(settings, core=self._settings.core)
            kept = {pool.name for pool in settings.pools}
            self._leaving |= {i: one for i, one in self._table().items() if one.name not in kept}
            self._settings = settings
            self._numbers.keep(settings)
        else:
            gone = opened
        for one in gone:
            one.listener.remove_socket_file()
        self._send_table(self._table())
        if self._reloads_again:
            self._reloads_again = False
            self._begin_reload()

    def _table(self) -> dict[int, PoolSettings]:
        return {**self._leaving, **{pool.index: pool for pool in self._settings.pools}}

    def _send_table(self, table: dict[int, PoolSettings]) -> None:
        self._tables = table
        if self._spawner_link is None:
            return
        try:
            send_parcel(self._spawner_link, ToTable.POOLS, pickle.dumps(table))
        except OSError:
            pass  # it has died; the next one is born with the table

    # Upgrade.

    def _begin_upgrade(self) -> None:
        why = self._why_no_upgrade()
        if why:
            self._upgrade_failed(why)
            return
        self._heiress = Heiress(self._start.origin, self._settings.config_file)
        self._send(ToService.LEND)

    def _why_no_upgrade(self) -> str:
        if self._heiress is not None:
            return "an upgrade is under way already"
        if self._is_stopping or self._has_left or self._reload is not None:
            return "the server ends, or a reload is under way"
        if os.getpid() == 1:
            return (
                "the main process is process 1, with which its container would end: "
                "replace the container instead"
            )
        return ""

    def _lend(self, data: bytes, descriptors: list[int]) -> None:
        if self._heiress is None or self._is_stopping:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        try:
            self._heiress.begin(data, descriptors)
        except OSError as found:
            self._end_heiress(f"the new main process could not be started: {found}")
            return
        self._selector.register(self._heiress, selectors.EVENT_READ, self._on_heiress)

    def _on_heiress(self) -> None:
        assert self._heiress is not None
        if not self._heiress.is_serving():
            self._end_heiress("the new server ended, or said nonsense, before it served")
            return
        self._selector.unregister(self._heiress)
        self._notifier.send(f"MAINPID={self._heiress.pid}")
        self._has_left = True
        log.info(f"upgrade: process {self._heiress.pid} serves; this one finishes and ends")
        self._send(ToService.LEAVE, text=self._heiress.words)
        self._heiress.hand_over()

    def _end_heiress(self, why: str) -> None:
        assert self._heiress is not None
        if self._heiress.fileno() >= 0 and self._heiress.fileno() in self._selector.get_map():
            self._selector.unregister(self._heiress)
        self._heiress.close()
        self._heiress = None
        if self._settings.pid_file:
            with contextlib.suppress(StartError):
                write_pid_file(self._settings.pid_file)  # the new one may have put its own there
        self._upgrade_failed(why)

    def _upgrade_failed(self, why: str) -> None:
        rest = "is to end as well" if self._is_stopping else "goes on"
        log.error(f"upgrade: {why}; this server {rest}")
        self._send(ToService.UPGRADE_FAILED, text=why)

    def _succeed(self) -> None:
        """We serve: the predecessor lets go of the control socket, and finishes."""
        assert self._predecessor is not None
        if self._settings.pid_file:  # what may fail comes before the predecessor leaves
            write_pid_file(self._settings.pid_file)
        self._predecessor.take_over(self._service_pid)
        self._predecessor = None
        if self._start.control is not None:
            self._send(ToService.CONTROL, [self._start.control.socket.fileno()])
            self._start.control.socket.close()
        self._notifier.send("READY=1\nSTATUS=serving")  # now that systemd knows who we are

    # Deaths.

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
                self._on_spawner_end(status)
            elif self._heiress is not None and pid == self._heiress.pid and not self._has_left:
                self._end_heiress(f"the new main process ended: {describe_status(status)}")
            # else: an orphan.

    def _on_spawner_end(self, status: int) -> None:
        if status == 0:
            self._restarts.on_end()
        else:
            log.error(f"the spawner died: {describe_status(status)}; a new one is started")
            self._restarts.on_death()

    # The end.

    def _await_spawner(self) -> None:
        """The spawner sees the service's end, kills what is left of the workers, and ends."""
        if self._spawner_pid:
            os.waitpid(self._spawner_pid, 0)
        self._cgroups.remove_all()

    def clean_up(self) -> None:
        """Remove the files that are ours: not those of a predecessor or of an heiress."""
        if self._has_left or self._predecessor is not None:
            return
        for endpoint in self._endpoints:
            endpoint.listener.remove_socket_file()
        if self._start.control is not None:
            self._start.control.remove_socket_file()
        if self._settings.pid_file:
            remove_pid_file(self._settings.pid_file)

    def _end_status(self) -> int:
        assert self._status is not None
        if os.WIFSIGNALED(self._status):
            log.error(f"the service died: {describe_status(self._status)}")
        return exit_code(self._status)


def supervise(start: Start) -> int:
    """The main process's life, with what it leaves behind cleaned up."""
    close_unused(start.given)
    supervisor = Supervisor(start)
    try:
        try_access_log(start.settings.access_log)  # a bad start is better than a bad log
        if start.settings.pid_file and start.origin.predecessor is None:
            write_pid_file(start.settings.pid_file)
        return supervisor.run()
    finally:
        supervisor.clean_up()
        sys.stderr.flush()


def _level_of_cgroups(settings: ServerSettings) -> int:
    """Who has asked for what control groups do wants to know whether they do it."""
    is_asked = any(p.cpu.limit or p.idle_timeout_action == "suspend" for p in settings.pools)
    return log.INFO if is_asked else log.DEBUG
