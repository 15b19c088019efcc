"""The whole state machine in one table: what an event does to a pool in this phase, and to a worker
in this state. A pair that is not here changes nothing: it is about something that is over already,
or not begun.

Each row names where it may lead to and which events of events.py it may report; FOLLOWS are those
that come of the state after it. docs/events.md is made from this; tests/property checks it.
"""

from collections.abc import Callable
from typing import NamedTuple

from kernelq.pool import generations, phases, rapid_fail, recycling, size, workers
from kernelq.pool.model import Kind, Phase, Pool, State
from kernelq.pool.steps import Turn

Place = State | Phase


class Row(NamedTuple):
    run: Callable[[Pool, Turn], Pool]
    to: tuple[Place, ...]  # besides staying; a worker that dies is nowhere
    reports: tuple[int, ...]
    text: str


UNINITIALIZED, INITIALIZED, RUNNING, DISABLING, DISABLED, SHUTDOWN, DELETE, GONE = Phase
STARTING, READY, DRAINING, LAST_WORDS, KILLED, ORPHANED = State

UP = (INITIALIZED, RUNNING)
STOPPED = (DISABLING, DISABLED)
DOWN = (UNINITIALIZED, *STOPPED)
BUSY = (*UP, DISABLING, SHUTDOWN, DELETE)  # may have processes

DRAINS = 6023
GENERATION = (6051,)  # a new generation is adopted
LOSS = (5002, 6022)
LOSS_OF_START = (*LOSS, 5093, 6052)

_Rows = dict[tuple[Place, Kind], Row]


def _rows(places: tuple[Place, ...], kind: Kind, row: Row) -> _Rows:
    return {(place, kind): row for place in places}


_POOL: tuple[tuple[tuple[Place, ...], Kind, Row], ...] = (
    ((UNINITIALIZED,), Kind.START, Row(
        phases.start, (INITIALIZED,), (6000, 6001), "starts")),
    (STOPPED, Kind.START, Row(
        phases.start, (INITIALIZED,), (6001,),
        "starts, with clean tallies; processes that are on their way out go on leaving")),
    (UP, Kind.START, Row(
        rapid_fail.try_again, (), (),
        "a pool that rapid-fail protection has stopped is tried at once")),
    ((UNINITIALIZED,), Kind.STOP, Row(
        phases.never_start, (DISABLED,), (6000, 6003), "does not start until it is told to")),
    (UP, Kind.STOP, Row(
        phases.stop, (DISABLING,), (6002, DRAINS, *GENERATION),
        "workers that are READY drain, those that start are killed; a generation on trial is "
        "taken without one")),
    (STOPPED, Kind.STOP, Row(
        phases.keep_stopped, (), (),
        "stays stopped when the CPU interval ends; who drains does so by then")),
    (UP, Kind.RECYCLE, Row(
        recycling.make_all_due, (), (5079, 5080, *GENERATION), "every READY worker is due")),
    (UP, Kind.SCHEDULE, Row(
        recycling.make_all_due, (), (5076, 5080, *GENERATION), "every READY worker is due")),
    (UP, Kind.CONFIGURE, Row(
        generations.configure, (), (5080, 6008, 6053, *GENERATION),
        "limits change at once, or with workers of a new generation: on trial, at the next "
        "recycle, or, if nobody serves or none may overlap, without a trial")),
    (DOWN, Kind.CONFIGURE, Row(
        generations.configure, (), (6008, *GENERATION), "for when it is started")),
    (UP, Kind.RELOAD, Row(
        generations.reload, (), (6050, *GENERATION),
        "a new generation: on trial, or, if nobody serves or none may overlap, without a trial")),
    (DOWN, Kind.RELOAD, Row(generations.reload, (), GENERATION, "for when it is started")),
    (UP, Kind.REMOVE, Row(phases.end, (DELETE,), (6004, DRAINS), "as STOP, for ever")),
    (DOWN, Kind.REMOVE, Row(phases.end, (DELETE,), (6004,), "who drains does so by then")),
    (UP, Kind.SHUTDOWN, Row(phases.end, (SHUTDOWN,), (6006, DRAINS), "as STOP, for ever")),
    (DOWN, Kind.SHUTDOWN, Row(phases.end, (SHUTDOWN,), (6006,), "who drains does so by then")),
    ((DELETE,), Kind.SHUTDOWN, Row(phases.end_sooner, (), (), "who drains does so by then")),
    ((*UP, *DOWN, SHUTDOWN), Kind.STOP_NOW, Row(
        phases.end_now, (SHUTDOWN,), (), "every process is killed")),
    ((DELETE,), Kind.STOP_NOW, Row(phases.end_now, (), (), "every process is killed")),
    (UP, Kind.TICK, Row(size.ask_peak, (), (), "the peak is asked for, when its time has come")),
    (BUSY, Kind.SPAWNER_LOST, Row(
        phases.excuse_all, (), (6013,), "deaths of these workers say nothing about them")),
    ((INITIALIZED,), Kind.DEMAND, Row(
        size.start_on_demand, (), (6040,), "a pool that wants nobody wants min_processes, or one")),
    ((RUNNING,), Kind.DEMAND, Row(
        size.grow, (), (6041,),
        "one more is wanted, up to max_processes, unless somebody is starting")),
    ((RUNNING,), Kind.PEAK, Row(
        size.shrink, (), (6042,),
        "one less is wanted, down to min_processes, if half of what it can do was enough and the "
        "last growth is shrink_after ago")),
    (UP, Kind.CPU_LIMIT, Row(
        phases.hold_cpu, (DISABLING,), (5025, *GENERATION),
        "by cpu.action: nothing, throttle, or kill all and stop until CPU_INTERVAL")),
    (UP, Kind.CPU_INTERVAL, Row(phases.release_cpu, (), (6070,), "not throttled any more")),
    (STOPPED, Kind.CPU_INTERVAL, Row(
        phases.release_cpu, (INITIALIZED,), (6001, 6070), "starts, if CPU_LIMIT had stopped it")),
    ((INITIALIZED,), Kind.UNSTARTABLE, Row(
        phases.give_up, (SHUTDOWN,), (5059,),
        "an always running pool failed at its first start: every process is killed")),
    ((INITIALIZED,), Kind.SERVES, Row(phases.serve, (RUNNING,), (6009,), "some worker is ready")),
    ((RUNNING,), Kind.SERVES_NO_MORE, Row(
        phases.serve_no_more, (INITIALIZED,), (6010,), "no worker is ready any more")),
    ((DISABLING,), Kind.EMPTY, Row(phases.be_disabled, (DISABLED,), (6003,), "no process is left")),
    ((SHUTDOWN,), Kind.EMPTY, Row(phases.be_gone, (GONE,), (6007,), "no process is left")),
    ((DELETE,), Kind.EMPTY, Row(phases.be_gone, (GONE,), (6005,), "no process is left")),
)  # fmt: skip

_WORKER: tuple[tuple[tuple[Place, ...], Kind, Row], ...] = (
    ((STARTING,), Kind.READY, Row(
        workers.become_ready, (READY,), (6021, 6061, *GENERATION),
        "serves; ends a trip; a candidate's generation becomes the pool's, and all others are "
        "due")),
    ((STARTING,), Kind.REFUSED, Row(workers.note_refusal, (), (), "why, for its death")),
    ((STARTING,), Kind.TICK, Row(
        workers.end_start, (LAST_WORDS, ORPHANED), (5012, 6032, *LOSS_OF_START),
        "the start-up time limit has passed: its stacks, or an orphan; counts as a loss")),
    ((READY,), Kind.FIRST_ANSWER, Row(
        workers.note_answer, (), (), "its death is not hopeless any more")),
    ((READY,), Kind.UNHEALTHY, Row(workers.note_unhealthy, (), (6026,), "it may recover")),
    ((READY,), Kind.RECOVERED, Row(workers.note_recovered, (), (6027,), "it has recovered")),
    ((READY,), Kind.HOPELESS, Row(
        workers.replace_hopeless, (DRAINING, ORPHANED), (5002, 5010, 6032, DRAINS),
        "drains, or is left to a debugger; a failure if rapid-fail protection counts all")),
    ((READY,), Kind.TIMEOUT, Row(
        workers.replace_overdue, (DRAINING,), (6028, DRAINS), "drains; its replacement starts")),
    ((READY,), Kind.IDLE, Row(
        size.rest, (DRAINING,), (5186, 6030, DRAINS),
        "of a pool on demand: drains if more than min_processes are left, or is suspended")),
    ((READY,), Kind.ACTIVE, Row(size.wake, (), (6031,), "not suspended any more")),
    ((READY,), Kind.TICK, Row(
        recycling.make_due, (), (5074, 5080, *GENERATION), "its time limit has passed: is due")),
    ((READY,), Kind.REQUESTS_LIMIT, Row(
        recycling.make_due, (), (5075, 5080, *GENERATION), "is due")),
    ((READY,), Kind.MEMORY_LIMIT, Row(
        recycling.make_due, (), (5077, 5080, *GENERATION), "is due")),
    ((READY,), Kind.PRIVATE_MEMORY_LIMIT, Row(
        recycling.make_due, (), (5117, 5080, *GENERATION), "is due")),
    ((DRAINING,), Kind.TICK, Row(
        workers.end_drain, (LAST_WORDS, ORPHANED), (5013, 6032),
        "the shutdown time limit has passed: its stacks, or, after TIMEOUT, an orphan")),
    ((LAST_WORDS,), Kind.STACKS_DONE, Row(workers.kill_now, (KILLED,), (), "SIGKILL")),
    ((LAST_WORDS,), Kind.TICK, Row(
        workers.abort_without_words, (KILLED,), (), "no stacks came: SIGABRT")),
    ((KILLED,), Kind.TICK, Row(workers.kill_now, (), (), "SIGKILL, until it has died")),
    ((STARTING,), Kind.DISTRUSTED, Row(
        workers.kill_distrusted, (KILLED,), (5127, *LOSS_OF_START), "SIGKILL; counts as a loss")),
    ((READY,), Kind.DISTRUSTED, Row(
        workers.kill_distrusted, (KILLED,), (5127, *LOSS), "SIGKILL; counts as a loss")),
    ((DRAINING, LAST_WORDS), Kind.DISTRUSTED, Row(
        workers.kill_distrusted, (KILLED,), (5127,), "SIGKILL")),
    ((STARTING,), Kind.DIED, Row(
        workers.lose, (), (5009, 6025, *LOSS_OF_START), "nobody asked for it: counts as a loss")),
    ((READY,), Kind.DIED, Row(
        workers.lose, (), (5009, 6025, *LOSS), "nobody asked for it: counts as a loss")),
    ((DRAINING, LAST_WORDS, KILLED), Kind.DIED, Row(
        workers.leave, (), (6024,), "was expected, or has been counted")),
    ((ORPHANED,), Kind.DIED, Row(workers.forget_orphan, (), (6033,), "noted and forgotten")),
)  # fmt: skip

TABLE: _Rows = {
    pair: row
    for places, kind, shared in (*_POOL, *_WORKER)
    for pair, row in _rows(places, kind, shared).items()
}

# What a step may report besides: starts and ends of workers that follow from the state after it.
FOLLOWS = (6011, 6012, 6020, DRAINS, 6029, 6051, 6060, 6061)
