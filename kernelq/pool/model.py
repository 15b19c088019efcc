"""The words of the pool's plan: its states, events and actions, and what it remembers.

Everything is frozen: a step of the plan makes a new pool.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum, auto

from kernelq.pool.tally import Tally
from kernelq.units import MINUTE, MS, SECOND

ORPHANS_MAX = (
    4  # stopped processes that a pool leaves to a debugger at a time; each keeps its memory
)


class State(Enum):
    """Where a worker process stands."""

    STARTING = auto()
    READY = auto()
    DRAINING = auto()  # finishes what it has
    LAST_WORDS = auto()  # too late: asked for its stacks
    KILLED = auto()
    ORPHANED = auto()  # unhealthy, left to a debugger; it stands in Pool.orphans, not in the set


class Phase(IntEnum):
    """Where the pool stands; the numbers are those of IIS's counter, but the last."""

    UNINITIALIZED = 1  # made, never started
    INITIALIZED = 2  # started; no worker is ready
    RUNNING = 3  # some worker is ready
    DISABLING = 4  # stopped by an administrator or for its use of CPU; processes are left
    DISABLED = 5
    SHUTDOWN_PENDING = 6  # the server ends, or the pool has given up
    DELETE_PENDING = 7  # its settings are gone
    GONE = 8


class Kind(Enum):
    """Events. Each group says whom it is about: Event.worker is -1 for the pool's own."""

    # The pool.
    START = auto()  # the server's at first (auto_start), an administrator's later
    STOP = auto()  # an administrator; number: nanoseconds that requests may go on.
    #                A pool that is not to start with the server is told STOP instead of START
    RECYCLE = auto()  # an administrator: every worker, one after the other
    SCHEDULE = auto()  # the same, by the clock
    CONFIGURE = auto()  # limits: the new ones; is_restart: workers must be replaced to have them
    RELOAD = auto()  # new code, same settings
    REMOVE = auto()  # number: nanoseconds that requests may go on
    SHUTDOWN = auto()  # the server ends; number: nanoseconds that requests may go on
    STOP_NOW = auto()  # the server ends at once
    TICK = auto()  # next_deadline() has come
    SPAWNER_LOST = auto()
    DEMAND = auto()  # the core's "demand": what AWAIT_DEMAND waited for has come
    PEAK = auto()  # the answer to Do.PEAK; number: most requests at a time since the one before
    CPU_LIMIT = auto()  # the pool's workers used more than cpu.limit; text: how much
    CPU_INTERVAL = auto()  # cpu.interval_ns is over, a new one begins

    # One worker.
    READY = auto()
    FIRST_ANSWER = auto()
    REFUSED = auto()  # text: why the application could not be loaded
    UNHEALTHY = auto()
    RECOVERED = auto()
    HOPELESS = auto()
    TIMEOUT = auto()  # one of its requests is beyond its time limit
    DISTRUSTED = auto()
    STACKS_DONE = auto()
    DIED = auto()
    IDLE = auto()  # no request for idle_timeout; may be said again
    ACTIVE = auto()  # a request came to it while it was suspended
    REQUESTS_LIMIT = auto()  # the core's "quota"
    MEMORY_LIMIT = auto()  # text: how much
    PRIVATE_MEMORY_LIMIT = auto()  # text: how much

    # What follows from an event inside the plan; nobody else sends them.
    SERVES = auto()  # a worker is ready, and none was
    SERVES_NO_MORE = auto()  # no worker is ready, and one was
    UNSTARTABLE = auto()  # an always running pool failed at its first start
    EMPTY = auto()  # no process is left


class Do(Enum):
    """Actions, to be done in order."""

    START = auto()  # worker: its key, new; number: its generation
    DRAIN = auto()  # worker
    STACKS = auto()  # worker
    SIGNAL = auto()  # worker; number: the signal
    ORPHAN = auto()  # worker: stop it, take it from the core; its death is still told (DIED). One
    #                  that has no process yet is killed
    SUSPEND = auto()  # worker: give its memory back; it stays READY
    RESUME = auto()  # worker: end of SUSPEND; comes before a DRAIN or SIGNAL, too
    GENERATION = auto()  # number: a new one; code read and settings given from now on are its
    RETIRE = auto()  # number: a generation that will not be started again
    POOL = auto()  # text: the state for the core: online, offline, disabled, or (REMOVE) shutdown
    AWAIT_DEMAND = auto()  # number: the core's wait_ns; 0: only "no worker is ready"; -1: disarm
    PEAK = auto()  # read and reset the core's peak, answer with Kind.PEAK
    SERVING = auto()  # the first worker is READY (once)
    RELOADED = auto()  # end of a RELOAD or of a CONFIGURE with is_restart. number: 1 the new
    #                    generation serves, 0 the old one goes on, 2 it waits for the next recycle
    GIVE_UP = auto()  # text: why the pool cannot be started; STOPPED follows
    STOPPED = auto()  # the pool is GONE: after SHUTDOWN, STOP_NOW, REMOVE and GIVE_UP
    RUN = auto()  # text: "rapid_fail", or "orphan" (worker): run the settings' program, if any
    THROTTLE = auto()  # number: 1 hold the workers to their CPU limit, 0 let them go
    REPORT = auto()  # number: id in events.EVENTS, which has its level; worker or -1; text: never
    #                  empty. 5009 (a death that nobody asked for): with how it died, when known


@dataclass(frozen=True, slots=True)
class Limits:
    """The part of the pool's settings that decides anything here."""

    max_processes: int = 1
    min_processes: int = 0
    is_always_running: bool = False
    threads: int = 4
    is_managed: bool = True  # False: IIS 5.0 isolation mode: restarted, and nothing else
    gives_up: bool = True  # an always running pool that cannot start at first ends (GIVE_UP)
    startup_ns: int = 90 * SECOND
    graceful_ns: int = 90 * SECOND  # shutdown_time_limit
    grow_after_ns: int = 100 * MS
    shrink_after_ns: int = 60 * SECOND
    idle_action: str = "terminate"  # or "suspend"
    recycle_ns: int = 0  # a worker's time limit; 0: off
    jitter: float = 0.1
    seed: int = 0  # of the jitter
    is_overlap_allowed: bool = True
    waits_for_recycle: bool = False  # disallow_rotation_on_config_change
    rapid_fail_count: int = 5  # 0: off
    rapid_fail_ns: int = 5 * MINUTE
    rapid_fail_counts: str = "startup"  # or "all"
    leaves_orphans: bool = False  # orphan_worker_process
    cpu_action: str = "none"  # or "throttle", "kill"


@dataclass(frozen=True, slots=True)
class Event:
    kind: Kind
    worker: int = -1
    number: int = 0
    text: str = ""
    limits: Limits | None = None  # of CONFIGURE
    is_restart: bool = False  # of CONFIGURE


@dataclass(frozen=True, slots=True)
class Action:
    kind: Do
    worker: int = -1
    number: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """One process; `key` is the plan's own number for it."""

    key: int
    generation: int
    state: State
    deadline: int = 0  # of its state; 0: none
    ready_at: int = 0  # when it became READY; its time limit counts from here
    is_due: bool = False  # to be recycled
    is_recycled: bool = False  # it leaves because it was due
    is_late: bool = False  # it leaves because of a request beyond its time limit
    is_suspended: bool = False
    has_answered: bool = False
    is_excused: bool = False  # its spawner died: its own death says nothing about the application
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Pool:
    limits: Limits
    hopeless: Tally  # deaths before anything useful, for the back-off
    failures: Tally  # what rapid-fail protection counts
    crashes: Tally  # deaths of useful workers
    phase: Phase = Phase.UNINITIALIZED
    workers: tuple[Worker, ...] = ()  # in order of their start
    orphans: tuple[Worker, ...] = ()  # not of the set; nothing waits for them
    next_key: int = 0
    target: int = 0  # how many workers are wanted now, between min_processes and max_processes
    grown_at: int = 0
    peak_at: int = 0  # when to ask for the peak; 0: not
    armed: int = -1  # what AWAIT_DEMAND said last; -1 when it was used up
    generation: int = 0
    newest_generation: int = 0
    candidate: int = -1  # generation on trial; -1: none
    waiting: int = -1  # generation that the next recycle will try; -1: none
    next_limits: Limits | None = None  # come into force with the candidate or the one that waits
    start_after: int = 0  # back-off: no start before
    overlap_after: int = 0  # back-off of replacements that failed beside living workers
    overlap_failures: int = 0  # in a row
    is_tripped: bool = False
    try_at: int = 0  # when tripped: the next single try
    is_over_cpu: bool = False  # DISABLING or DISABLED until CPU_INTERVAL
    is_throttled: bool = False
    told_state: str = "online"  # what the core was told last
    was_ready: bool = False  # some worker has been READY
    verdict: str = ""  # why it cannot be started
