"""The service process: the core's threads, and on the main thread the managers.

Rules: never on the path of a request; never root once it serves; never forks. When the main thread
stalls, traffic and the recovery of requests go on without it, only replacements wait.

Theory of operation of the end. An order to stop first waits for --drain-delay, not ready but
serving. Then the core closes its listeners and finishes what it has, with workers replaced as ever.
When it is quiet, the workers are told to drain; when --graceful-timeout has passed first, what is
left is answered by the core and the workers are ended. A second order ends at once.
"""

import os
import pickle
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto

from kernelq import linux, log, notify
from kernelq.binding import Listener
from kernelq.config import ServerSettings
from kernelq.control_commands import cache_commands, journal_commands, manager_commands
from kernelq.control_server import ControlServer
from kernelq.desk import Desk
from kernelq.endpoints import Endpoint, lend
from kernelq.errors import FAILED, StartError
from kernelq.identity import Identity, find_readers
from kernelq.letters import FromService, ToService
from kernelq.link import Link, link_from
from kernelq.managed import manager_table
from kernelq.manager import Manager
from kernelq.parcel import Receiver
from kernelq.pool.executor import PoolExecutor
from kernelq.pool.journal import Journal
from kernelq.pool.model import Event, Kind
from kernelq.pools import Pools
from kernelq.routing import Routing
from kernelq.selecting import call_ready
from kernelq.signals import SignalQueue
from kernelq.units import SECOND

LAST_ANSWERS_NS = SECOND  # for answers on their way out after the workers have gone

_OURS_TO_IGNORE = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


class Phase(Enum):
    """How far the end has come."""

    SERVING = auto()
    DELAYING = auto()  # not ready, but serving: load balancers look away meanwhile
    FINISHING = auto()  # listeners closed, requests finish
    ENDING = auto()  # workers end
    LAST_ANSWERS = auto()  # workers have ended; answers and log lines are on their way out
    OVER = auto()


class Service:
    """The managers' state and their loop."""

    def __init__(
        self,
        settings: ServerSettings,
        endpoints: Sequence[Endpoint],
        control: Listener | None,
        supervisor: Link,
        watchdog_ns: int,
    ) -> None:
        from kernelq._core import Core

        self.settings = settings
        self.supervisor = supervisor
        self._watchdog_ns = watchdog_ns
        try:
            self.core = Core(settings.core)
        except (OSError, ValueError) as found:
            raise StartError(f"the core cannot be made: {found}") from None
        self.journal = Journal()
        self.desk = Desk(self.log)
        self.pools = Pools(self.core, self, self.journal)
        self.routing = Routing(self.core, self.pools)
        for endpoint in endpoints:
            self.routing.add_listener(endpoint.name, endpoint.listener)
        self.manager = Manager(self)
        self._control_socket: Listener | None = None
        self._control: ControlServer | None = None
        if control is not None:
            self._make_control(control)
        self._spawner: Link | None = None
        self._selector = selectors.DefaultSelector()
        self._phase = Phase.SERVING
        self._phase_deadline = 0
        self._watchdog_at = 0
        self._is_quiet = False
        self._status = 0
        self._configuring = Receiver()
        self._awaited: set[str] = set()  # pools without whose first worker we are not ready
        self._is_ready = False
        self.started_at = time.time()
        self._started_ns = time.monotonic_ns()

    def run(self) -> int:
        """Serve until told to stop; gives the status to end with."""
        stall_seconds = float(os.environ.get("KERNELQ_STALL", "0"))
        wanted = [signal.SIGTERM, *([signal.SIGUSR2] if stall_seconds else [])]
        ignored = [*_OURS_TO_IGNORE, *([] if stall_seconds else [signal.SIGUSR2])]
        signals = SignalQueue(wanted, ignored)
        self._register(self.core.event_fd, self._on_core_events)
        self._register(signals.fileno(), lambda: self._on_signals(signals, stall_seconds))
        self._register(self.supervisor.fileno(), self._on_supervisor)
        self._register(self.desk.fileno(), lambda: self.desk.serve(self._errands))
        self._errands = manager_table(self.manager)
        self._open_pools()
        self.routing.publish(self.settings)
        self.core.start()
        if self._control is not None:
            self._control.start()
        for pool in self.pools:
            pool.start()
        self._say_start()
        self._look_if_ready()
        while self._phase is not Phase.OVER:
            self._turn()
        self.desk.close()
        if self._control is not None:
            self._control.stop()
        self.core.stop()
        return self._status

    @property
    def state(self) -> str:
        """As `kernelq status` says it."""
        if self._phase is not Phase.SERVING:
            return "stopping"
        return self.manager.under_way or ("serving" if self._is_ready else "starting")

    @property
    def is_serving(self) -> bool:
        return self._phase is Phase.SERVING

    def _open_pools(self) -> None:
        is_alone = len(self.settings.pools) == 1
        for settings in self.settings.pools:
            self.pools.open(settings, is_alone and settings.starts_at_once)
            if settings.starts_at_once:
                self._awaited.add(settings.name)

    def _make_control(self, listener: Listener) -> None:
        self._control_socket = listener
        commands = {
            **cache_commands(self.core),
            **journal_commands(self.journal),
            **manager_commands(self.desk),
        }
        readers = find_readers(self.settings.control_readers)
        self._control = ControlServer(listener.socket, commands, self.log, readers=readers)

    # What the pools ask of their owner.

    def log(self, level: int, text: str) -> None:
        if not log.is_wanted(level):
            return
        first, *more = log.clean(text).split("\n")
        self.core.log(level, first)
        for line in more:
            self.core.log(level, line)

    def watch(self, link: Link, on_readable: Callable[[], None]) -> None:
        self._register(link.fileno(), on_readable)

    def unwatch(self, link: Link) -> None:
        self._selector.unregister(link.fileno())

    def on_pool_serving(self, pool: PoolExecutor) -> None:
        self.manager.on_pool_serving(pool)
        self._awaited.discard(pool.name)
        self._look_if_ready()

    def on_pool_reloaded(self, pool: PoolExecutor, outcome: int) -> None:
        self.manager.on_pool_reloaded(pool, outcome)

    def on_pool_give_up(self, pool: PoolExecutor, text: str) -> None:
        if self.manager.on_pool_give_up(pool, text):
            return  # a reload brought it, and takes it back
        self._status = FAILED
        self._phase = Phase.ENDING
        self.core.begin_shutdown()
        for one in self.pools:
            self.core.set_pool_state(one.number, "shutdown")  # who waits already is told so
            if one is not pool:
                one.apply(Event(Kind.STOP_NOW))

    def on_pool_stopped(self, pool: PoolExecutor) -> None:
        if self._phase in (Phase.SERVING, Phase.DELAYING, Phase.FINISHING):
            self.manager.on_pool_gone(pool)
        elif all(one.is_gone for one in self.pools):
            self._phase = Phase.LAST_ANSWERS
            self._phase_deadline = time.monotonic_ns() + LAST_ANSWERS_NS

    def on_pool_closed(self, pool: PoolExecutor) -> None:
        self.supervisor.send(FromService.POOL_GONE, pool.settings.index)

    def _look_if_ready(self) -> None:
        if self._is_ready or self._awaited:
            return
        self._is_ready = True
        seconds = (time.monotonic_ns() - self._started_ns) / SECOND
        has_workers = any(pool.starts_at_once for pool in self.settings.pools)
        what = "the first worker serves" if has_workers else "workers start on demand"
        self.log(log.INFO, f"ready: {what} after {seconds:.2f} s")
        self.notify("READY=1\nSTATUS=serving")

    # The loop.

    def _turn(self) -> None:
        call_ready(self._selector, self._seconds_to_wait())
        now = time.monotonic_ns()
        self.pools.tick(now)
        if self._phase_deadline and now >= self._phase_deadline:
            self._phase_deadline = 0
            self._on_phase_deadline()
        if self._phase is Phase.LAST_ANSWERS and self._is_quiet and self.pools.is_buried:
            self._phase = Phase.OVER
        if self._watchdog_ns and now >= self._watchdog_at:
            self._watchdog_at = now + self._watchdog_ns
            self.notify("WATCHDOG=1")

    def _seconds_to_wait(self) -> float | None:
        times = [self.pools.next_deadline(), self._phase_deadline or None]
        times.append(self._watchdog_at if self._watchdog_ns else None)
        due = min((when for when in times if when is not None), default=None)
        return None if due is None else max(0, due - time.monotonic_ns()) / SECOND

    def _register(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, on_readable)

    def _on_core_events(self) -> None:
        for name, worker, value in self.core.take_events():
            if name == "quiet":
                self._on_quiet()
            else:
                self.pools.on_core_event(name, worker, value)

    def _on_signals(self, signals: SignalQueue, stall_seconds: float) -> None:
        for number in signals.take():
            if number == signal.SIGTERM:
                self._order_stop()
            elif number == signal.SIGUSR2:
                self.log(log.WARNING, f"debug: the managers stall for {stall_seconds:g} s")
                time.sleep(stall_seconds)

    def _on_supervisor(self) -> None:
        try:
            message = self.supervisor.receive()
        except ValueError as found:  # too few descriptors to take what it passes on
            self.log(log.ERROR, f"what the main process sent cannot be taken: {found}")
            self.supervisor.try_send(FromService.RELOADED, 0)  # if it was of a reload
            return
        if message is None:
            self._order_stop_now()  # the main process has died: nobody would restart anything
            self._phase = Phase.OVER
            return
        match message.kind:
            case ToService.SPAWNER:
                self._take_spawner(link_from(message.descriptors.pop()))
            case ToService.STOP:
                self._order_stop()
            case ToService.STOP_NOW:
                self._order_stop_now()
            case ToService.RELOAD:
                self.manager.reload_code()
            case ToService.CONFIGURE:
                parcel = self._configuring.add(message)
                if parcel is not None:
                    # From the process that made us, which is ourselves, with more rights.
                    settings, names, notes = pickle.loads(parcel[0])
                    self.manager.begin_reload(settings, names, notes, parcel[1])
            case ToService.REFUSED:
                self.manager.refuse_reload(message.text)
            case ToService.REOPEN:
                self._reopen_log(message.descriptors.pop())
            case ToService.LEND:
                lend(self.supervisor, self.routing.sockets(), self._control_socket)
            case ToService.CONTROL:
                self._take_control(message.descriptors.pop())
            case ToService.LEAVE:
                self._leave(message.text)
            case ToService.UPGRADE_FAILED:
                self.manager.upgrade_failed(message.text)
        message.close_descriptors()

    def _reopen_log(self, descriptor: int) -> None:
        # Under the same number, so that the core's log thread never sees a closed one.
        try:
            os.dup2(descriptor, self.settings.core.access_log_fd, inheritable=False)
        finally:
            os.close(descriptor)
        self.log(log.INFO, "the access log has been opened again")

    # The spawner.

    def _take_spawner(self, link: Link) -> None:
        while self._spawner is not None:
            self._on_spawner()  # the old one is dead: what it still said, and its end
        self._spawner = link
        self._register(link.fileno(), self._on_spawner)
        self.pools.set_spawner(link)

    def _on_spawner(self) -> None:
        assert self._spawner is not None
        try:
            message = self._spawner.receive()
        except ValueError as found:
            self.log(log.ERROR, f"what the spawner sent is no message: {found}")
            message = None
        if message is None:
            self._drop_spawner()
            return
        self.pools.on_spawner_message(message)

    def _drop_spawner(self) -> None:
        assert self._spawner is not None
        self.log(log.ERROR, "the spawner has died; its workers die with it and are replaced")
        self.unwatch(self._spawner)
        self._spawner.close()
        self._spawner = None
        self.pools.set_spawner(None)

    # Orders.

    def _order_stop(self) -> None:
        if self._phase is not Phase.SERVING:
            return
        self.manager.cancel("the server ends")
        self.notify("STOPPING=1")
        delay_ns = self.settings.drain_delay_ns
        if not delay_ns:
            self._begin_finish()
            return
        self.core.begin_drain()
        self.log(log.INFO, f"stopping: not ready any more, serving for {delay_ns / SECOND:g} s")
        self._phase = Phase.DELAYING
        self._phase_deadline = time.monotonic_ns() + delay_ns

    def _leave(self, heiress: str) -> None:
        """Another main process serves from now on."""
        self.manager.upgraded(heiress)
        if self._control is not None:
            self._control.stop_accepting()
        if self._phase is Phase.SERVING:
            self._begin_finish()

    def _take_control(self, descriptor: int) -> None:
        """The predecessor has let go of the control socket."""
        import socket

        from kernelq.binding import listener_of

        self._make_control(listener_of(socket.socket(fileno=descriptor)))
        assert self._control is not None
        self._control.start()

    def _begin_finish(self) -> None:
        seconds = self.settings.graceful_timeout_ns / SECOND
        self._phase = Phase.FINISHING
        self._phase_deadline = time.monotonic_ns() + self.settings.graceful_timeout_ns
        self.core.begin_shutdown()  # first: whoever reads the line may rely on it
        self.log(log.INFO, f"stopping: requests may finish within {seconds:g} s")

    def _order_stop_now(self) -> None:
        if self._phase in (Phase.LAST_ANSWERS, Phase.OVER):
            self._phase = Phase.OVER
            return
        self.log(log.WARNING, "stopping now: what is unfinished is lost")
        self.manager.cancel("the server ends")
        self._is_quiet = True
        self._phase = Phase.ENDING
        self._phase_deadline = time.monotonic_ns() + 5 * SECOND
        self._end_pools(Event(Kind.STOP_NOW), "shutdown")

    def _on_quiet(self) -> None:
        self._is_quiet = True
        if self._phase is Phase.FINISHING:
            grace_ns = max(0, self._phase_deadline - time.monotonic_ns())
            self._phase = Phase.ENDING
            self._phase_deadline = 0
            self._end_pools(Event(Kind.SHUTDOWN, number=grace_ns), "")

    def _on_phase_deadline(self) -> None:
        if self._phase is Phase.DELAYING:
            self._begin_finish()
        elif self._phase is Phase.FINISHING:
            self.log(log.WARNING, "graceful timeout: what is unfinished is given up")
            self._phase = Phase.ENDING
            self._end_pools(Event(Kind.SHUTDOWN), "shutdown")
        else:
            self._phase = Phase.OVER

    def _end_pools(self, event: Event, state: str) -> None:
        for pool in self.pools:
            if state:
                self.core.set_pool_state(pool.number, state)
            pool.apply(event)
        if not len(self.pools):
            self._phase = Phase.OVER

    # What is said.

    def notify(self, text: str) -> None:
        self.supervisor.try_send(FromService.NOTIFY, text=text)

    def notify_reloading(self) -> None:
        self.notify(notify.reloading())

    def _say_start(self) -> None:
        for url in self.routing.urls():
            self.log(log.INFO, f"listening on {url}")
        for pool in self.settings.pools:
            names = ", ".join(one.app for one in pool.applications[:3])
            more = len(pool.applications) - 3
            names += f" and {more} more" if more > 0 else ""
            how = ", forked from a preloaded process" if pool.preload else ""
            self.log(
                log.INFO,
                f"pool {pool.name}: {names}, {_count(pool.max_processes, 'worker')} "
                f"with {_count(pool.core.threads, 'thread')} each{how}",
            )
        main = os.getppid()
        what = "read the file again" if self.settings.config_file else "reload the code"
        self.log(log.INFO, f"stop with Ctrl-C or kill {main}; {what} with kill -HUP {main}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def run(
    settings: ServerSettings,
    endpoints: Sequence[Endpoint],
    control: Listener | None,
    supervisor: Link,
    identity: Identity,
    parent: int,
    watchdog_ns: int,
) -> int:
    """The service process's life: become who it shall be, then serve."""
    linux.name_process("kernelq-service")
    identity.assume()
    identity.set_environment()
    linux.forbid_new_privileges()
    if not settings.inspectable:
        linux.forbid_inspection()
    if not linux.die_with_parent(parent):
        return FAILED
    try:
        return Service(settings, endpoints, control, supervisor, watchdog_ns).run()
    except StartError as found:
        log.error(str(found))
        return found.status
