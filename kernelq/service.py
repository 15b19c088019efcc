"""The service process: the core's threads, and on the main thread the managers.

Rules: never on the path of a request; never root once it serves; never forks. When the main thread
stalls, traffic and the recovery of requests go on without it, only replacements wait.

Theory of operation of the end. An order to stop first waits for --drain-delay, not ready but
serving. Then the core closes its listeners and finishes what it has, with workers replaced as ever.
When it is quiet, the workers are told to drain; when --graceful-timeout has passed first, what is
left is answered by the core and the workers are ended. A second order ends at once.
"""

import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto

from kernelq import linux, log, notify
from kernelq.binding import Listener
from kernelq.config import ServerSettings
from kernelq.control_server import ControlServer, cache_commands
from kernelq.errors import FAILED, StartError
from kernelq.identity import Identity
from kernelq.letters import FromService, ToService
from kernelq.link import Link, link_from
from kernelq.pool.executor import PoolExecutor
from kernelq.pool.model import Event, Kind
from kernelq.pool.plan import next_deadline
from kernelq.signals import SignalQueue

SECOND = 1_000_000_000
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
        listeners: Sequence[Listener],
        control: Listener | None,
        supervisor: Link,
        watchdog_ns: int,
    ) -> None:
        from kernelq._core import Core

        self._settings = settings
        self._supervisor = supervisor
        self._watchdog_ns = watchdog_ns
        try:
            self._core = Core(settings.core)
        except (OSError, ValueError) as found:
            raise StartError(f"the core cannot be made: {found}") from None
        for listener in listeners:
            self._core.add_listener(listener.socket.detach())
        self._urls = [listener.url for listener in listeners]
        self._control = self._make_control(control)
        self._pool = PoolExecutor(self._core, self, 0, settings.pools[0])
        self._spawner: Link | None = None
        self._selector = selectors.DefaultSelector()
        self._phase = Phase.SERVING
        self._phase_deadline = 0
        self._watchdog_at = 0
        self._is_quiet = False
        self._status = 0
        self._started_ns = time.monotonic_ns()

    def run(self) -> int:
        """Serve until told to stop; gives the status to end with."""
        stall_seconds = float(os.environ.get("KERNELQ_STALL", "0"))
        wanted = [signal.SIGTERM, *([signal.SIGUSR2] if stall_seconds else [])]
        ignored = [*_OURS_TO_IGNORE, *([] if stall_seconds else [signal.SIGUSR2])]
        signals = SignalQueue(wanted, ignored)
        self._core.start()
        if self._control is not None:
            self._control.start()
        self._register(signals.fileno(), lambda: self._on_signals(signals, stall_seconds))
        self._register(self._core.event_fd, self._on_core_events)
        self._register(self._supervisor.fileno(), self._on_supervisor)
        self._pool.apply(Event(Kind.START))
        self._say_start()
        while self._phase is not Phase.OVER:
            self._turn()
        if self._control is not None:
            self._control.stop()
        self._core.stop()
        return self._status

    def _make_control(self, listener: Listener | None) -> ControlServer | None:
        if listener is None:
            return None
        return ControlServer(listener.socket, cache_commands(self._core), self.log)

    # What the executor asks of its host.

    def log(self, level: int, text: str) -> None:
        if not log.is_wanted(level):
            return
        first, *more = log.clean(text).split("\n")
        self._core.log(level, first)
        for line in more:
            self._core.log(level, line)

    def watch(self, link: Link, on_readable: Callable[[], None]) -> None:
        self._register(link.fileno(), on_readable)

    def unwatch(self, link: Link) -> None:
        self._selector.unregister(link.fileno())

    def on_serving(self) -> None:
        seconds = (time.monotonic_ns() - self._started_ns) / SECOND
        self.log(log.INFO, f"ready: the first worker serves after {seconds:.2f} s")
        self._notify("READY=1\nSTATUS=serving")

    def on_reloaded(self, is_new: bool) -> None:
        if is_new:
            self.log(log.INFO, "reload: the new code serves; the old workers finish and end")
        self._notify(
            "READY=1\nSTATUS=" + ("serving" if is_new else "reload failed, old code serves")
        )

    def on_give_up(self, text: str) -> None:
        self.log(log.ERROR, text)
        self._status = FAILED
        self._phase = Phase.ENDING
        self._core.begin_shutdown()
        self._core.set_pool_state("shutdown")  # who waits already is told so

    def on_stopped(self) -> None:
        self._phase = Phase.LAST_ANSWERS
        self._phase_deadline = time.monotonic_ns() + LAST_ANSWERS_NS

    # The loop.

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._seconds_to_wait()):
            if self._is_registered(key.fd):
                key.data()
        now = time.monotonic_ns()
        deadline = next_deadline(self._pool.state)
        if deadline is not None and now >= deadline:
            self._pool.apply(Event(Kind.TICK))
        if self._phase_deadline and now >= self._phase_deadline:
            self._phase_deadline = 0
            self._on_phase_deadline()
        if self._phase is Phase.LAST_ANSWERS and self._is_quiet and self._pool.is_buried:
            self._phase = Phase.OVER
        if self._watchdog_ns and now >= self._watchdog_at:
            self._watchdog_at = now + self._watchdog_ns
            self._notify("WATCHDOG=1")

    def _seconds_to_wait(self) -> float | None:
        times = [next_deadline(self._pool.state), self._phase_deadline or None]
        times.append(self._watchdog_at if self._watchdog_ns else None)
        due = min((when for when in times if when is not None), default=None)
        return None if due is None else max(0, due - time.monotonic_ns()) / SECOND

    def _register(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, on_readable)

    def _is_registered(self, descriptor: int) -> bool:
        # An earlier callback of the same turn may have closed this one's link.
        return descriptor in self._selector.get_map()

    def _on_core_events(self) -> None:
        for name, worker, _ in self._core.take_events():
            if name == "quiet":
                self._on_quiet()
            else:
                self._pool.on_core_event(name, worker)

    def _on_signals(self, signals: SignalQueue, stall_seconds: float) -> None:
        for number in signals.take():
            if number == signal.SIGTERM:
                self._order_stop()
            elif number == signal.SIGUSR2:
                self.log(log.WARNING, f"debug: the managers stall for {stall_seconds:g} s")
                time.sleep(stall_seconds)

    def _on_supervisor(self) -> None:
        message = self._supervisor.receive()
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
                self._reload()
            case ToService.REOPEN:
                self._reopen_log(message.descriptors.pop())
        message.close_descriptors()

    def _reopen_log(self, descriptor: int) -> None:
        # Under the same number, so that the core's log thread never sees a closed one.
        try:
            os.dup2(descriptor, self._settings.core.access_log_fd, inheritable=False)
        finally:
            os.close(descriptor)
        self.log(log.INFO, "the access log has been opened again")

    # The spawner.

    def _take_spawner(self, link: Link) -> None:
        while self._spawner is not None:
            self._on_spawner()  # the old one is dead: what it still said, and its end
        self._spawner = link
        self._register(link.fileno(), self._on_spawner)
        self._pool.set_spawner(link)

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
        self._pool.on_spawner_message(message)

    def _drop_spawner(self) -> None:
        assert self._spawner is not None
        self.log(log.ERROR, "the spawner has died; its workers die with it and are replaced")
        self.unwatch(self._spawner)
        self._spawner.close()
        self._spawner = None
        self._pool.set_spawner(None)

    # Orders.

    def _reload(self) -> None:
        if self._phase is Phase.SERVING:
            self._notify(notify.reloading())
            self._pool.apply(Event(Kind.RELOAD))

    def _order_stop(self) -> None:
        if self._phase is not Phase.SERVING:
            return
        self._notify("STOPPING=1")
        delay_ns = self._settings.drain_delay_ns
        if not delay_ns:
            self._begin_finish()
            return
        self._core.begin_drain()
        self.log(log.INFO, f"stopping: not ready any more, serving for {delay_ns / SECOND:g} s")
        self._phase = Phase.DELAYING
        self._phase_deadline = time.monotonic_ns() + delay_ns

    def _begin_finish(self) -> None:
        seconds = self._settings.graceful_timeout_ns / SECOND
        self._phase = Phase.FINISHING
        self._phase_deadline = time.monotonic_ns() + self._settings.graceful_timeout_ns
        self._core.begin_shutdown()  # first: whoever reads the line may rely on it
        self.log(log.INFO, f"stopping: requests may finish within {seconds:g} s")

    def _order_stop_now(self) -> None:
        if self._phase in (Phase.LAST_ANSWERS, Phase.OVER):
            self._phase = Phase.OVER
            return
        self.log(log.WARNING, "stopping now: what is unfinished is lost")
        self._is_quiet = True
        self._phase = Phase.ENDING
        self._phase_deadline = time.monotonic_ns() + 5 * SECOND
        self._core.set_pool_state("shutdown")
        self._pool.apply(Event(Kind.STOP_NOW))

    def _on_quiet(self) -> None:
        self._is_quiet = True
        if self._phase is Phase.FINISHING:
            grace_ns = max(0, self._phase_deadline - time.monotonic_ns())
            self._phase = Phase.ENDING
            self._phase_deadline = 0
            self._pool.apply(Event(Kind.STOP, number=grace_ns))

    def _on_phase_deadline(self) -> None:
        if self._phase is Phase.DELAYING:
            self._begin_finish()
        elif self._phase is Phase.FINISHING:
            self.log(log.WARNING, "graceful timeout: what is unfinished is given up")
            self._phase = Phase.ENDING
            self._core.set_pool_state("shutdown")
            self._pool.apply(Event(Kind.STOP))
        else:
            self._phase = Phase.OVER

    # What is said.

    def _notify(self, text: str) -> None:
        self._supervisor.try_send(FromService.NOTIFY, text=text)

    def _say_start(self) -> None:
        pool = self._settings.pools[0]
        for url in self._urls:
            self.log(log.INFO, f"listening on {url}")
        how = ", forked from a preloaded process" if pool.preload else ""
        self.log(
            log.INFO,
            f"pool {pool.name}: {pool.application}, {_count(pool.workers, 'worker')} "
            f"with {_count(pool.threads, 'thread')} each{how}",
        )
        main = os.getppid()
        self.log(
            log.INFO, f"stop with Ctrl-C or kill {main}; reload the code with kill -HUP {main}"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def run(
    settings: ServerSettings,
    listeners: Sequence[Listener],
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
        return Service(settings, listeners, control, supervisor, watchdog_ns).run()
    except StartError as found:
        log.error(str(found))
        return found.status
