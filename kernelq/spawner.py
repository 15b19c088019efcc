"""The spawner: the one process that makes worker processes, and their parent.

Rules: one thread, because it forks; it acts only on numbers (a pool's index in its own table, a
worker it made, one of three signals) and never on a text; as root it stays root, so nothing that a
user's code wrote is parsed here beyond `link`. It ends with the service, and takes its workers
along.

Facts: PR_SET_PDEATHSIG is cleared by setuid and fires when the forking thread ends, so it is set in
the child after the change of user, followed by a look at getppid(); it is not delivered across
users, so that every worker also watches the link over which its letter came. A subreaper inherits
the workers that a zygote forked; waiting works for them as for its own children.
"""

import os
import selectors
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import kernelq
from kernelq import linux, log
from kernelq.config import PoolSettings
from kernelq.errors import FAILED
from kernelq.identity import Identity, find_identity
from kernelq.letters import (
    EXIT_ORPHANED,
    SIGNALS_FOR_WORKERS,
    FromSpawner,
    FromZygote,
    ToSpawner,
    ToWorker,
    ToZygote,
    pack_letter,
)
from kernelq.link import Link, Message, link_pair
from kernelq.signals import SignalQueue, restore_defaults
from kernelq.status import describe_status

_IGNORED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(kernelq.__file__)))

# The new interpreter finds this very kernelq, and nothing else by way of it, before the
# application's directory counts.
_BOOT = (
    "import sys; sys.path.insert(0, {root!r}); import kernelq; del sys.path[:{added}]; "
    "from kernelq.{module} import main; main({descriptor})"
)


class Child:
    """A worker process, or one that is about to be: `pid` is 0 until its zygote has forked it."""

    __slots__ = ("descriptors", "link", "pid", "pool", "zygote")

    def __init__(self, pool: int, link: Link, descriptors: list[int]) -> None:
        self.pool = pool
        self.link = link
        self.descriptors = descriptors
        self.pid = 0
        self.zygote: Zygote | None = None

    def close(self) -> None:
        self.link.close()
        self.close_descriptors()

    def close_descriptors(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())


class Zygote:
    """A process that has loaded one generation of the application, and forks workers from it."""

    __slots__ = ("generation", "is_ended", "link", "pid", "pool")

    def __init__(self, pool: int, generation: int, pid: int, link: Link) -> None:
        self.pool = pool
        self.generation = generation
        self.pid = pid
        self.link = link
        self.is_ended = False  # we have killed it, and wait for its death


class Spawner:
    """The spawner's state and its loop."""

    def __init__(self, pools: Sequence[PoolSettings], service: Link) -> None:
        self._pools = tuple(pools)
        self._identities = [find_identity(pool.user, pool.group) for pool in pools]
        self._letters = [pack_letter(pool) for pool in pools]
        self._service = service
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
        self._selector.register(self._service, selectors.EVENT_READ, self._on_service)
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signal)
        while self._is_serving:
            for key, _ in self._selector.select():
                key.data(key.fileobj)
        self._end_all()
        return self._status

    # What the service asks.

    def _on_service(self, link: Link) -> None:
        try:
            message = link.receive()
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
            case ToSpawner.SIGNAL, (worker, number) if number in SIGNALS_FOR_WORKERS:
                self._signal(worker, number)
            case ToSpawner.RETIRE, (pool, generation):
                self._retire(pool, generation)
            case _:
                log.error(f"spawner: refused {message.kind} {message.numbers}")

    def _may_start(self, pool: int, worker: int) -> bool:
        if not 0 <= pool < len(self._pools) or worker in self._children:
            return False
        living = sum(child.pool == pool for child in self._children.values())
        return living < 2 * self._pools[pool].workers

    def _start(self, pool: int, worker: int, generation: int, message: Message) -> None:
        ours, theirs = link_pair()
        child = self._children[worker] = Child(pool, ours, message.descriptors)
        message.descriptors = []
        try:
            if self._pools[pool].preload:
                child.zygote = self._zygote_for(pool, generation)
                child.zygote.link.send(ToZygote.FORK, worker, descriptors=[theirs.fileno()])
            else:
                self._settle_in(worker, child, self._launch(pool, "worker", theirs))
        except OSError as found:
            log.error(f"spawner: worker {worker} could not be started: {found}")
            self._fail(worker, "")
        finally:
            theirs.close()

    def _settle_in(self, worker: int, child: Child, pid: int) -> None:
        """The process exists and is ours: announce it, and hand it its letter."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            raise
        child.pid = pid
        self._workers[pid] = worker
        self._tell(FromSpawner.STARTED, worker, pid, descriptors=[pidfd])
        os.close(pidfd)
        try:
            descriptors = [self._letters[child.pool], *child.descriptors]
            child.link.send(ToWorker.LETTER, worker, self._pid, descriptors=descriptors)
        except ConnectionError:
            pass  # it has died already; its wait status will say how
        child.close_descriptors()

    def _fail(self, worker: int, text: str) -> None:
        self._children.pop(worker).close()
        self._tell(FromSpawner.FAILED, worker, text=text)

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
            os.kill(child.pid, number)
        elif child.zygote is not None:
            # Its zygote has not come to it: it hangs in the import of the application.
            os.kill(child.zygote.pid, number)

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
            pid = self._launch(pool, "zygote", theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        zygote = self._zygotes[pid] = Zygote(pool, generation, pid, ours)
        ours.set_blocking(False)
        self._selector.register(ours, selectors.EVENT_READ, lambda _: self._on_zygote(zygote))
        ours.send(ToWorker.LETTER, 0, self._pid, descriptors=[self._letters[pool]])
        return zygote

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
            self._selector.unregister(zygote.link)
            os.kill(zygote.pid, signal.SIGKILL)

    def _bury_zygote(self, zygote: Zygote, status: int) -> None:
        while not zygote.is_ended and zygote.link.is_readable():
            self._on_zygote(zygote)
        self._end_zygote(zygote)
        del self._zygotes[zygote.pid]
        zygote.link.close()
        log.info(f"zygote {zygote.pid} has ended: {describe_status(status)}")
        for worker, child in list(self._children.items()):
            if child.zygote is zygote and not child.pid:
                self._fail(worker, "")

    # Deaths.

    def _on_signal(self, signals: SignalQueue) -> None:
        signals.take()
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._zygotes:
                self._bury_zygote(self._zygotes[pid], status)
            elif pid in self._workers:
                worker = self._workers.pop(pid)
                self._children.pop(worker).close()
                microseconds = int((usage.ru_utime + usage.ru_stime) * 1e6)
                self._tell(FromSpawner.DIED, worker, status, usage.ru_maxrss, microseconds)
            # else: an orphan of the application, which became our child when its parent died.

    def _launch(self, pool: int, module: str, link: Link) -> int:
        """A new process of the pool that runs `module`'s main with the link; gives its pid."""
        pid = os.fork()
        if pid == 0:
            _become(self._pools[pool], self._identities[pool], self._pid, module, link.fileno())
        return pid

    def _end_all(self) -> None:
        for pid in (*self._zygotes, *self._workers):
            os.kill(pid, signal.SIGKILL)
        for child in self._children.values():
            child.close()
        while self._workers or self._zygotes:
            pid, _ = os.wait()
            self._workers.pop(pid, None)
            self._zygotes.pop(pid, None)


def _become(
    pool: PoolSettings, identity: Identity, parent: int, module: str, descriptor: int
) -> NoReturn:
    """The child's way from fork to exec; the order is explained at the head of this file."""
    try:
        restore_defaults()
        os.setsid()
        linux.close_all_but([descriptor])
        linux.set_descriptor_soft_limit(pool.descriptor_limit)
        identity.assume()
        identity.set_environment()
        linux.forbid_new_privileges()
        if not linux.die_with_parent(parent):
            os._exit(EXIT_ORPHANED)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.set_inheritable(descriptor, True)
        os.execv(sys.executable, _command(module, descriptor))
    except BaseException as found:
        log.error(f"spawner: a {module} could not be started: {found}")
    os._exit(1)


def _command(module: str, descriptor: int) -> list[str]:
    added = 1 if sys.flags.safe_path else 2  # -c puts "" before what _BOOT puts there
    boot = _BOOT.format(root=_ROOT, added=added, module=module, descriptor=descriptor)
    return [sys.executable, *_interpreter_options(), "-c", boot]


def _interpreter_options() -> list[str]:
    """The options of this interpreter that a new one shall have too (-O, -W, -X ...)."""
    if len(sys.orig_argv) == 1:
        return []
    import subprocess

    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return options


def run(pools: Sequence[PoolSettings], service: Link) -> int:
    """The spawner process's life."""
    linux.name_process("kernelq-spawner")
    return Spawner(pools, service).run()
