"""The words of the pool's plan: its states, events and actions, and what it remembers.

Everything is frozen: a step of the plan makes a new pool.
"""

from dataclasses import dataclass
from enum import Enum, auto

from kernelq.pool.tally import Tally

SECOND = 1_000_000_000


class State(Enum):
    """Where a worker process stands."""

    STARTING = auto()
    READY = auto()
    DRAINING = auto()
    LAST_WORDS = auto()
    KILLED = auto()


class Phase(Enum):
    """Where the pool stands."""

    IDLE = auto()
    RUNNING = auto()
    STOPPING = auto()
    STOPPED = auto()


class Kind(Enum):
    """Events. The first group is about the pool, the second about one worker."""

    START = auto()
    RELOAD = auto()
    STOP = auto()  # number: nanoseconds that requests may go on
    STOP_NOW = auto()
    TICK = auto()
    SPAWNER_LOST = auto()

    READY = auto()
    FIRST_ANSWER = auto()
    REFUSED = auto()  # text: why the application could not be loaded
    UNHEALTHY = auto()
    RECOVERED = auto()
    HOPELESS = auto()
    TIMEOUT = auto()
    DISTRUSTED = auto()
    STACKS_DONE = auto()
    DIED = auto()


class Do(Enum):
    """Actions."""

    START = auto()  # worker, number: generation
    DRAIN = auto()
    STACKS = auto()
    SIGNAL = auto()  # number: the signal
    RETIRE = auto()  # number: a generation that will not be started again
    POOL = auto()  # text: online or offline
    SERVING = auto()  # the first worker is READY
    RELOADED = auto()  # number: 1 when the new code serves, 0 when the old one goes on
    GIVE_UP = auto()  # text: why the pool cannot be started
    STOPPED = auto()
    LOG = auto()  # number: level; text; worker or -1


@dataclass(frozen=True, slots=True)
class Event:
    kind: Kind
    worker: int = -1
    number: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    kind: Do
    worker: int = -1
    number: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """The part of the pool's settings that decides anything here."""

    workers: int
    startup_ns: int = 90 * SECOND
    graceful_ns: int = 30 * SECOND
    rapid_fail_count: int = 5  # 0: off
    rapid_fail_ns: int = 300 * SECOND


@dataclass(frozen=True, slots=True)
class Worker:
    """One process; `key` is the plan's own number for it."""

    key: int
    generation: int
    state: State
    deadline: int = 0  # 0: none
    has_answered: bool = False
    is_excused: bool = False  # its spawner died: its own death says nothing about the application
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Pool:
    limits: Limits
    hopeless: Tally
    crashes: Tally
    phase: Phase = Phase.IDLE
    workers: tuple[Worker, ...] = ()  # in order of their start
    next_key: int = 0
    generation: int = 0
    newest_generation: int = 0
    candidate: int = -1  # generation on trial; -1: none
    start_after: int = 0  # back-off: no start before
    is_tripped: bool = False
    try_at: int = 0  # when tripped: the next single try
    is_online: bool = True
    was_ready: bool = False  # some worker has been READY
