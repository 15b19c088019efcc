"""The spawner: the one process that makes worker processes, and their parent.

Rules: one thread, because it forks; it acts only on numbers (a pool's index in its own table, a
worker it made, one of four signals) and never on a text; as root it stays root, so nothing that a
user's code wrote is parsed here beyond `link`. It ends with the service, and takes its workers
along.

Facts: PR_SET_PDEATHSIG is cleared by setuid and fires when the forking thread ends, so it is set in
the child after the change of user, followed by a look at getppid(); it is not delivered across
users, so that every worker also watches the link over which its letter came. A subreaper inherits
the workers that a zygote forked; waiting works for them as for its own children.
"""

import contextlib
import os
import pickle
import selectors
import signal
from collections.abc import Callable, Mapping, Sequence

from kernelq import launch, linux, log
from kernelq.actions import Actions
from kernelq.cgroup import NO_CGROUPS, Cgroups, Group
from kernelq.children import Child, Zygote, next_dead
from kernelq.config import PoolSettings
from kernelq.errors import FAILED, StartError
from kernelq.identity import NOBODY_ELSE, Identity
from kernelq.letters import (
    SIGNALS_FOR_WORKERS,
    ActionKind,
    FromSpawner,
    FromZygote,
    ToSpawner,
    ToTable,
    ToWorker,
    ToZygote,
    pack_letter,
)
from kernelq.link import Link, Message, link_pair
from kernelq.parcel import Receiver
from kernelq.pool import probes
from kernelq.selecting import call_ready
from kernelq.signals import SignalQueue
from kernelq.status import describe_status
from kernelq.tmp_folders import TmpFolders

_IGNORED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

OVERLAPPING = 2  # processes of a pool beyond its workers and as many that are leaving


ORPHANS_MAX = 4  # of one pool; with one more, the one that was stopped first is killed


class Spawner:
    """The spawner's state and its loop."""

    def __init__(
        self,
        pools: Mapping[int, PoolSettings],
        service: Link,
        table: Link,
        cgroups: Cgroups = NO_CGROUPS,
        identity: Identity = NOBODY_ELSE,
    ) -> None:
        self._cgroups = cgroups
        self._actions = Actions(identity)
        self._current = dict(pools)
        self._pools = dict(pools)  # these, and those that have processes still
        self._launches: dict[int, launch.Launch] = {}
        self._letters: dict[int, int] = {}
        self._tmp_folders = TmpFolders()
        self._service = service
        self._table = table
        self._new_table = Receiver()
        self._children: dict[int, Child] = {}  # by worker
        self._workers: dict[int, int] = {}  # worker by pid
        self._zygotes: dict[int, Zygote] = {}  # by pid
        self._selector = selectors.DefaultSelector()
        self._pid = os.getpid()
        self._is_serving = True
        self._status = 0
        self._signals = SignalQueue([signal.SIGCHLD], ignored=_IGNORED)

    def run(self) -> int:
        """Serve until the service ends; then end every worker."""
        linux.adopt_orphans()
        self._tmp_folders.sweep()
        self._selector.register(self._service, selectors.EVENT_READ, self._on_service)
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signals)
        self._selector.register(self._table, selectors.EVENT_READ, self._on_table)
        while self._is_serving:
            call_ready(self._selector, self._actions.seconds_to_wait())
            self._actions.end_late()
        self._end_all()
        return self._status

    def _on_table(self) -> None:
        """The main process, of which this one is a fork, has read its configuration again."""
        message = self._table.receive()
        if message is None:
            self._selector.unregister(self._table)  # it has died; the service's end follows
            return
        parcel = self._new_table.add(message) if message.kind == ToTable.POOLS else None
        message.close_descriptors()
        if parcel is None:
            return
        self._current = pickle.loads(parcel[0])
        self._pools.update(self._current)
        self._drop_departed()

    def _drop_departed(self) -> None:
        """Forget pools that the table names no more, once their last process has gone."""
        used = {child.pool for child in self._children.values()}
        used.update(zygote.pool for zygote in self._zygotes.values())
        for index in {*self._pools} - {*self._current} - used:
            pool = self._pools.pop(index)
            self._launches.pop(index, None)
            if index in self._letters:
                os.close(self._letters.pop(index))
            group = self._cgroups.group(pool.name, index)
            if group is not None:
                group.remove()

    def _letter_of(self, pool: int) -> int:
        if pool not in self._letters:
            self._letters[pool] = pack_letter(self._pools[pool])
        return self._letters[pool]

    # What the service asks.

    def _on_service(self) -> None:
        try:
            message = self._service.receive()
        except ValueError as found:
            log.error(f"spawner: what the service sent is no message: {found}")
            self._status = FAILED  # the supervisor starts another one
            message = None
        if message is None:
            self._is_serving = False
            return
        self._reap()
        try:
            self._obey(message)
        finally:
            message.close_descriptors()

    def _obey(self, message: Message) -> None:
        match message.kind, message.numbers:
            case ToSpawner.START, (pool, worker, generation) if self._may_start(pool, worker):
                self._start(pool, worker, generation, message)
            case ToSpawner.START, (pool, worker, _) if worker not in self._children:
                log.error(f"spawner: refused to start worker {worker} of pool {pool}")
                self._tell(FromSpawner.FAILED, worker)  # else it would be waited for
            case ToSpawner.SIGNAL, (worker, number) if number in SIGNALS_FOR_WORKERS:
                self._signal(worker, number)
            case ToSpawner.RETIRE, (pool, generation):
                self._retire(pool, generation)
            case ToSpawner.ACTION, (pool, kind, pid) if self._may_act(pool, kind, pid):
                self._actions.start(self._pools[pool], ActionKind(kind), pid)
            case ToSpawner.SUSPEND, (worker,) if self._runs(worker):
                self._suspend(self._children[worker])
            case ToSpawner.THROTTLE, (pool, is_on) if pool in self._pools:
                self._throttle(self._pools[pool], bool(is_on))
            case _:
                log.error(f"spawner: refused {message.kind} {message.numbers}")

    def _may_start(self, pool: int, worker: int) -> bool:
        if pool not in self._pools or worker in self._children:
            return False
        living = sum(
            child.pool == pool and not child.is_orphan for child in self._children.values()
        )
        return living < 2 * self._pools[pool].max_processes + OVERLAPPING

    def _may_act(self, pool: int, kind: int, pid: int) -> bool:
        if pool not in self._pools:
            return False
        if kind == ActionKind.RAPID_FAIL:
            return pid == 0
        child = self._children.get(self._workers.get(pid, -1))
        return kind == ActionKind.ORPHAN and child is not None and child.pool == pool

    def _start(self, pool: int, worker: int, generation: int, message: Message) -> None:
        try:
            ours, theirs = link_pair()
        except OSError as found:
            log.error(f"spawner: worker {worker} could not be started: {found}")
            self._tell(FromSpawner.FAILED, worker)
            return
        child = self._children[worker] = Child(pool, ours, message.descriptors)
        message.descriptors = []
        try:
            if self._pools[pool].preload:
                child.zygote = self._zygote_for(pool, generation)
                child.tmp_folder = child.zygote.tmp_folder
                self._tmp_folders.hold(child.tmp_folder)
                with contextlib.suppress(ConnectionError):  # its burial says why it is dead
                    child.zygote.link.send(ToZygote.FORK, worker, descriptors=[theirs.fileno()])
            else:
                child.pid, child.report, child.tmp_folder = self._launch(pool, "worker", theirs)
                self._workers[child.pid] = worker
                self._watch(child.report, lambda: self._on_report(worker, child))
        except StartError as found:
            self._fail(worker, str(found))
        except OSError as found:
            log.error(f"spawner: worker {worker} could not be started: {found}")
            self._fail(worker, "")
        finally:
            theirs.close()

    def _on_report(self, worker: int, child: Child) -> None:
        """The new process runs, or says why it cannot, or has died before it could do either."""
        self._selector.unregister(child.report)
        text = launch.read_report(child.report)
        child.report = -1
        try:
            if text is None:
                self._settle_in(worker, child, child.pid)
                return
        except OSError as found:
            text = f"it could not be announced: {found.strerror}"
        self._workers.pop(child.pid, None)
        self._fail(worker, text)

    def _settle_in(self, worker: int, child: Child, pid: int) -> None:
        """The process exists and is ours: announce it, and hand it its letter."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            raise
        child.pid = pid
        self._workers[pid] = worker
        try:
            self._tell(FromSpawner.STARTED, worker, pid, descriptors=[pidfd])
            descriptors = [self._letter_of(child.pool), *child.descriptors]
            child.link.send(ToWorker.LETTER, worker, self._pid, descriptors=descriptors)
        except ConnectionError:
            pass  # it has died already; its wait status will say how
        except OSError:
            del self._workers[pid]
            raise
        finally:
            os.close(pidfd)
        child.close_descriptors()

    def _fail(self, worker: int, text: str) -> None:
        self._forget(worker)
        self._tell(FromSpawner.FAILED, worker, text=text)

    def _forget(self, worker: int) -> None:
        child = self._children.pop(worker)
        child.close()
        self._tmp_folders.release(child.tmp_folder)

    def _tell(
        self, kind: int, *numbers: int, text: str = "", descriptors: Sequence[int] = ()
    ) -> None:
        try:
            self._service.send(kind, *numbers, text=text, descriptors=descriptors)
        except ConnectionError:
            self._is_serving = False

    def _signal(self, worker: int, number: int) -> None:
        child = self._children.get(worker)
        if child is None:
            return  # it has died meanwhile
        if child.pid:
            if number == signal.SIGSTOP:
                self._leave_orphan(child)
            os.kill(child.pid, number)
        elif child.zygote is not None and number != signal.SIGSTOP:
            # Its zygote has not come to it: it hangs in the import of the application.
            os.kill(child.zygote.pid, number)

    def _leave_orphan(self, child: Child) -> None:
        """It is no worker any more, only a process to look into; there may be few of these."""
        orphans = [
            one for one in self._children.values() if one.is_orphan and one.pool == child.pool
        ]
        child.is_orphan = True
        if len(orphans) >= ORPHANS_MAX:
            name = self._pools[child.pool].name
            log.warning(
                f"pool {name}: {ORPHANS_MAX} workers left for a debugger: the first is ended"
            )
            os.kill(orphans[0].pid, signal.SIGKILL)

    def _runs(self, worker: int) -> bool:
        child = self._children.get(worker)
        return child is not None and child.pid != 0 and child.report < 0

    def _suspend(self, child: Child) -> None:
        """Push out its memory; where that is not ours to do, it is asked to do so itself."""
        plan = self._launches[child.pool]
        has_memory = "memory" in self._cgroups.controllers and plan.cgroup
        is_alone = sum(one.pool == child.pool for one in self._children.values()) == 1

        def push_out() -> None:  # takes as long as the swap device does
            pushed = probes.suspend(child.pid) is not None
            if not (has_memory and is_alone and Group(plan.cgroup).reclaim()) and not pushed:
                child.link.try_send(ToWorker.SUSPEND)

        launch.in_child(push_out, [child.link.fileno()])

    def _throttle(self, pool: PoolSettings, is_on: bool) -> None:
        group = self._cgroups.group(pool.name, pool.index)
        if (group is None or not group.throttle(pool.cpu.limit if is_on else 0)) and is_on:
            log.warning(f"pool {pool.name}: cpu.limit: no control group here to throttle it by")

    def _retire(self, pool: int, generation: int) -> None:
        for zygote in self._zygotes.values():
            if (zygote.pool, zygote.generation) == (pool, generation):
                self._end_zygote(zygote)

    # Zygotes.

    def _zygote_for(self, pool: int, generation: int) -> Zygote:
        for zygote in self._zygotes.values():
            if (zygote.pool, zygote.generation) == (pool, generation) and not zygote.is_ended:
                return zygote
        ours, theirs = link_pair()
        try:
            pid, report, folder = self._launch(pool, "zygote", theirs)
        except (OSError, StartError):
            ours.close()
            raise
        finally:
            theirs.close()
        zygote = self._zygotes[pid] = Zygote(pool, generation, pid, ours, report)
        zygote.tmp_folder = folder
        ours.set_blocking(False)
        self._watch(ours.fileno(), lambda: self._on_zygote(zygote))
        self._watch(report, lambda: self._on_zygote_report(zygote))
        with contextlib.suppress(ConnectionError):
            ours.send(ToWorker.LETTER, 0, self._pid, descriptors=[self._letter_of(pool)])
        return zygote

    def _on_zygote_report(self, zygote: Zygote) -> None:
        self._selector.unregister(zygote.report)
        zygote.refusal = launch.read_report(zygote.report) or ""
        zygote.report = -1

    def _on_zygote(self, zygote: Zygote) -> None:
        """One message of a zygote; its code is the application's, so it is not believed."""
        try:
            message = zygote.link.receive()
        except BlockingIOError:
            return
        except ValueError:
            message = None
        if message is None:
            self._end_zygote(zygote)
            return
        message.close_descriptors()
        match message.kind, message.numbers:
            case FromZygote.FORKED, (worker, pid) if self._awaits(zygote, worker):
                self._take_over(worker, pid)
            case FromZygote.REFUSED, (worker,) if self._awaits(zygote, worker):
                self._fail(worker, message.text)
            case _:
                log.error(f"spawner: zygote {zygote.pid} sent nonsense and is ended")
                self._end_zygote(zygote)

    def _awaits(self, zygote: Zygote, worker: int) -> bool:
        child = self._children.get(worker)
        return child is not None and child.zygote is zygote and not child.pid

    def _take_over(self, worker: int, pid: int) -> None:
        try:
            if pid in self._workers or pid in self._zygotes:
                raise ChildProcessError(f"process {pid} is somebody else")
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            self._settle_in(worker, self._children[worker], pid)
        except (OSError, OverflowError) as found:
            # Killed and reaped before its zygote could tell, or no child of ours at all.
            log.error(f"spawner: worker {worker} could not be started: {found}")
            self._fail(worker, "")

    def _end_zygote(self, zygote: Zygote) -> None:
        """Kill a zygote, which serves nobody; the workers it has forked live on: they are our
        children.
        """
        if not zygote.is_ended:
            zygote.is_ended = True
            self._selector.unregister(zygote.link.fileno())
            os.kill(zygote.pid, signal.SIGKILL)

    def _hear_out(self, zygote: Zygote) -> None:
        """It has died, and its pid is still its own: what it said before, and its end."""
        while not zygote.is_ended and zygote.link.is_readable():
            self._on_zygote(zygote)
        if zygote.report >= 0:
            self._on_zygote_report(zygote)
        self._end_zygote(zygote)

    def _bury_zygote(self, zygote: Zygote, status: int) -> None:
        del self._zygotes[zygote.pid]
        zygote.link.close()
        log.info(f"zygote {zygote.pid} has ended: {describe_status(status)}")
        for worker, child in list(self._children.items()):
            if child.zygote is zygote and not child.pid:
                self._fail(worker, zygote.refusal)
        self._tmp_folders.release(zygote.tmp_folder)

    # Deaths.

    def _on_signals(self) -> None:
        self._signals.take()
        self._reap()

    def _reap(self) -> None:
        while (pid := next_dead()) is not None:
            child = self._children.get(self._workers.get(pid, -1))
            if child is not None and child.report >= 0:
                self._on_report(self._workers[pid], child)  # while there is a process to announce
            if pid in self._zygotes:
                self._hear_out(self._zygotes[pid])
            _, status, usage = os.wait4(pid, 0)
            worker = self._workers.pop(pid, None)
            if pid in self._zygotes:
                self._bury_zygote(self._zygotes[pid], status)
            elif worker is not None:
                self._forget(worker)
            else:
                self._actions.bury(pid, status)
                # Or it was an orphan of the application, which became our child when its parent
                # died; or could not become a worker; or removed a temporary folder.
            self._drop_departed()
            if worker is not None:
                microseconds = int((usage.ru_utime + usage.ru_stime) * 1e6)
                self._tell(FromSpawner.DIED, worker, status, usage.ru_maxrss, microseconds)

    def _launch(self, pool: int, module: str, link: Link) -> tuple[int, int, str]:
        """A new process of the pool that runs `module`'s main with the link: its pid, its report,
        and its temporary folder. StartError, OSError: there is none.
        """
        plan = self._launches.get(pool)
        # Looked up at the first start; a failure is looked up again, and so is a Python that has
        # been installed anew.
        if plan is None or not plan.interpreter.is_current:
            settings = self._pools[pool]
            try:
                group = self._cgroups.make(settings.name, settings.index)
            except OSError as found:
                raise StartError(f"pool {settings.name}: cgroup: {found}") from None
            plan = launch.prepare(settings, group.path if group else "")
            self._launches[pool] = plan
            for level, text in plan.notes:
                log.write(level, f"pool {plan.pool.name}: {text}")
        folder = self._tmp_folders.make(plan.identity) if plan.needs_tmp_folder else ""
        try:
            return *launch.start(plan, module, link, folder), folder
        except OSError:
            self._tmp_folders.release(folder)
            raise

    def _watch(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, on_readable)

    def _end_all(self) -> None:
        for pid in (*self._zygotes, *self._workers):
            os.kill(pid, signal.SIGKILL)
        self._actions.end_all()
        for child in self._children.values():
            child.close()
        while self._workers or self._zygotes:
            pid, _ = os.wait()
            self._workers.pop(pid, None)
            self._zygotes.pop(pid, None)
        self._tmp_folders.close()


def run(
    pools: Mapping[int, PoolSettings],
    service: Link,
    table: Link,
    cgroups: Cgroups = NO_CGROUPS,
    identity: Identity = NOBODY_ELSE,
) -> int:
    """The spawner process's life: pools by index, which the main process may replace later.

    identity: the user that serves, as whom the pools' actions run.
    """
    linux.name_process("kernelq-spawner")
    return Spawner(pools, service, table, cgroups, identity).run()
