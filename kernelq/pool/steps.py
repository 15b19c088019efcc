"""The small steps that the parts of the plan are made of, and the questions they ask of a pool."""

from dataclasses import dataclass, replace

from kernelq.pool.events import EVENTS
from kernelq.pool.model import ORPHANS_MAX, Action, Do, Event, Phase, Pool, State, Worker
from kernelq.units import MS, SECOND

LAST_WORDS_NS = SECOND  # for a worker's stacks, before it is aborted
KILL_AGAIN_NS = 5 * SECOND  # SIGKILL is repeated while a death is awaited
BACKOFF_FIRST_NS = 100 * MS
BACKOFF_MOST_NS = 30 * SECOND

SIGABRT, SIGKILL = 6, 9

NOBODY = Worker(-1, -1, State.KILLED)


@dataclass(slots=True)
class Turn:
    """One event on its way through the plan: when it came, whom it is about, what is to be done."""

    event: Event
    now: int
    actions: list[Action]
    worker: Worker = NOBODY

    def do(self, kind: Do, worker: int = -1, number: int = 0, text: str = "") -> None:
        self.actions.append(Action(kind, worker, number, text))

    def report(self, number: int, worker: int = -1, text: str = "") -> None:
        self.do(Do.REPORT, worker, number, text or EVENTS[number].text)


# Questions.


def is_up(pool: Pool) -> bool:
    """Whether workers may be started."""
    return pool.phase in (Phase.INITIALIZED, Phase.RUNNING)


def is_staying(worker: Worker) -> bool:
    return worker.state in (State.STARTING, State.READY)


def staying(pool: Pool) -> list[Worker]:
    """Whoever serves, or will; but for the candidate, who is on trial."""
    return [w for w in pool.workers if is_staying(w) and w.generation != pool.candidate]


def leaving(pool: Pool) -> list[Worker]:
    return [worker for worker in pool.workers if not is_staying(worker)]


def ready(pool: Pool) -> list[Worker]:
    return [worker for worker in pool.workers if worker.state is State.READY]


def is_starting(pool: Pool) -> bool:
    """Whether somebody is on the way to READY, the candidate not counted."""
    return any(worker.state is State.STARTING for worker in staying(pool))


def room(pool: Pool) -> int:
    """How many more processes there may be, whatever state they are in."""
    return 2 * pool.limits.max_processes - len(pool.workers)


def floor(pool: Pool) -> int:
    """How many workers are kept, and replaced at once."""
    limits = pool.limits
    if not limits.is_always_running:
        return 0
    return min(max(limits.min_processes, 1), limits.max_processes)


def backoff(doublings: int, most_ns: int) -> int:
    return min(most_ns, BACKOFF_FIRST_NS << min(doublings, 16))


# Steps.


def put(pool: Pool, worker: Worker) -> Pool:
    return replace(pool, workers=tuple(worker if w.key == worker.key else w for w in pool.workers))


def remove(pool: Pool, worker: Worker) -> Pool:
    return replace(pool, workers=tuple(w for w in pool.workers if w.key != worker.key))


def lower_target(pool: Pool) -> Pool:
    """Somebody was lost: only as many as are kept anyway are replaced without a new demand."""
    target = max(floor(pool), min(pool.target, len(staying(pool))))
    return replace(pool, target=target)


def start_worker(pool: Pool, generation: int, turn: Turn) -> Pool:
    key = pool.next_key
    worker = Worker(key, generation, State.STARTING, turn.now + pool.limits.startup_ns)
    turn.do(Do.START, key, generation)
    turn.report(6020, key)
    return replace(pool, workers=(*pool.workers, worker), next_key=key + 1)


def resume(worker: Worker, turn: Turn) -> Worker:
    if not worker.is_suspended:
        return worker
    turn.do(Do.RESUME, worker.key)
    return replace(worker, is_suspended=False)


def drain(pool: Pool, worker: Worker, grace_ns: int, turn: Turn) -> Pool:
    worker = resume(worker, turn)
    turn.do(Do.DRAIN, worker.key)
    turn.report(6023, worker.key)
    deadline = turn.now + max(grace_ns, 1)
    return put(pool, replace(worker, state=State.DRAINING, deadline=deadline))


def ask_last_words(pool: Pool, worker: Worker, turn: Turn) -> Pool:
    turn.do(Do.STACKS, worker.key)
    deadline = turn.now + LAST_WORDS_NS
    return put(pool, replace(worker, state=State.LAST_WORDS, deadline=deadline))


def kill(pool: Pool, worker: Worker, number: int, turn: Turn) -> Pool:
    worker = resume(worker, turn)
    turn.do(Do.SIGNAL, worker.key, number)
    wait_ns = LAST_WORDS_NS if number == SIGABRT else KILL_AGAIN_NS
    return put(pool, replace(worker, state=State.KILLED, deadline=turn.now + wait_ns))


def kill_starting(pool: Pool, turn: Turn) -> Pool:
    for worker in pool.workers:
        if worker.state is State.STARTING:
            pool = kill(pool, worker, SIGKILL, turn)
    return pool


def may_orphan(pool: Pool) -> bool:
    """Whether an unhealthy worker is left to a debugger: not in a pool that ends, nor too many."""
    limits = pool.limits
    wanted = limits.leaves_orphans and limits.is_managed and is_up(pool)
    return wanted and len(pool.orphans) < ORPHANS_MAX


def orphan(pool: Pool, worker: Worker, turn: Turn) -> Pool:
    """Out of the set at once; nothing waits for its death."""
    worker = resume(worker, turn)
    turn.do(Do.ORPHAN, worker.key)
    turn.do(Do.RUN, worker.key, text="orphan")
    turn.report(6032, worker.key)
    gone = replace(worker, state=State.ORPHANED, deadline=0)
    return replace(remove(pool, worker), orphans=(*pool.orphans, gone))
