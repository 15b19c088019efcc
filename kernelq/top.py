"""The picture that `kernelq top` shows: a function of two samples, a size, and no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kernelq.columns import (
    Column,
    clean,
    cut,
    pad,
    say_count,
    say_kib,
    say_ms,
    say_rate,
    table,
    width,
)
from kernelq.shapes import Pool, Request, Status, Worker
from kernelq.show import Paint, is_bad_pool, paint_rows, target_url, word, worker_state

LINES_MIN = 8

_POOL_COLUMNS = (
    Column("POOL", least=8),
    Column("STATE", least=11),
    Column("QUEUED", is_number=True),
    Column("OLDEST", is_number=True),
    Column("REQ/S", is_number=True),
    Column("REJ/S", is_number=True, spare=1),
    Column("BUSY", is_number=True),
    Column("WORKERS", is_number=True),
    Column("CPU%", is_number=True, spare=2),
    Column("RSS", is_number=True, spare=3),
)
_WORK_COLUMNS = (
    Column("POOL", least=8),
    Column("PID", is_number=True),
    Column("STATE", least=9),
    Column("REQ/S", is_number=True, spare=4),
    Column("CPU%", is_number=True, spare=2),
    Column("RSS", is_number=True, spare=3),
    Column("TIME", is_number=True),
    Column("CLIENT", least=15, spare=1),
    Column("REQUEST", least=24),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a server said at a time."""

    at: float  # seconds, monotonic
    status: Status
    pools: Sequence[Pool]
    requests: Sequence[Request]


@dataclass(slots=True)
class Rates:
    """Differences of counters between two samples of the same service process, by second."""

    seconds: float = 0.0
    counters: Mapping[str, int] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    # By process: who has none yet has no number either, and has used nothing.
    workers: Mapping[int, Worker] = field(default_factory=dict)

    @classmethod
    def since(cls, now: Sample, before: Sample | None) -> "Rates":
        if before is None or before.status["service_pid"] != now.status["service_pid"]:
            return cls()
        return cls(
            now.at - before.at,
            before.status["counters"],
            {pool["name"]: pool for pool in before.pools},
            {
                worker["pid"]: worker
                for pool in before.pools
                for worker in pool["workers"]
                if worker["pid"]
            },
        )

    def of_counter(self, counters: Mapping[str, int], name: str) -> float | None:
        return self._rate(counters.get(name, 0), self.counters.get(name))

    def of_arrivals(self, pool: Pool) -> float | None:
        before = self.pools.get(pool["name"])
        return self._rate(pool["queue"]["arrived"], before and before["queue"]["arrived"])

    def of_rejections(self, pool: Pool) -> float | None:
        before = self.pools.get(pool["name"])
        return self._rate(pool["queue"]["rejected"], before and before["queue"]["rejected"])

    def of_worker(self, worker: Worker) -> float | None:
        before = self.workers.get(worker["pid"])
        return self._rate(worker["served"], before and before["served"])

    def cpu(self, workers: Sequence[Worker]) -> float | None:
        """Percent of one CPU, of the workers that were there before."""
        both = [
            (worker["cpu_s"], self.workers[worker["pid"]]["cpu_s"])
            for worker in workers
            if worker["pid"] in self.workers
        ]
        if not both:
            return None
        rate = self._rate(sum(now for now, _ in both), sum(before for _, before in both))
        return None if rate is None else rate * 100

    def _rate(self, now: float, before: float | None) -> float | None:
        if before is None or now < before or self.seconds <= 0:
            return None
        return (now - before) / self.seconds


def frame(
    now: Sample, before: Sample | None, columns: int, lines: int, paint: Paint, note: str = ""
) -> list[str]:
    """One screen: at most so many lines of at most so many columns.

    note: what is to be said besides, as that the server is away.
    """
    rates = Rates.since(now, before)
    shown = [*_head(now, rates, columns, paint)]
    shown += [paint.bad(cut(clean(note), columns))] if note else []
    room = max(lines, LINES_MIN) - len(shown)
    # Half of the rest for pools, unless the work below needs less.
    work = _work_rows(now, rates)
    room_of_pools = max(room - len(work) - 3, (room - 3) // 2, 1)
    shown += ["", *_pool_lines(now.pools, rates, columns, room_of_pools, paint)]
    room = max(lines, LINES_MIN) - len(shown) - 2
    if work and room > 0:
        shown += ["", *_work_lines(work, columns, room, paint)]
    return shown[:lines]


def _head(now: Sample, rates: Rates, columns: int, paint: Paint) -> list[str]:
    status, counters = now.status, now.status["counters"]
    uptime = say_ms(status["uptime_s"] * 1000)
    name = (
        f"kernelq {clean(status['version'])}  {word(status['state'])}  up {uptime}  "
        f"process {status['pid']}"
    )
    source = clean(status["config_file"])
    if source and width(name) + width(source) + 2 <= columns:
        name = pad(name, columns - width(source)) + source
    queued = sum(pool["queue"]["length"] for pool in now.pools)
    executing = sum(pool["executing"] for pool in now.pools)
    figures = (
        f"{say_rate(rates.of_counter(counters, 'requests'))} req/s",
        f"{queued} queued",
        f"{executing} executing",
        f"{say_rate(rates.of_counter(counters, 'refused'))} refused/s",
        f"{say_rate(rates.of_counter(counters, 'cache_hits'))} cache hits/s",
        f"{say_count(counters.get('connections_now', 0))} connections",
    )
    return [paint.bold(cut(name, columns)), cut("  ".join(figures), columns)]


def _pool_lines(
    pools: Sequence[Pool], rates: Rates, columns: int, room: int, paint: Paint
) -> list[str]:
    """The table of pools, of which at most `room` besides the head; the busiest, if it is short."""
    shown = list(pools)
    if len(pools) > room:
        shown.sort(
            key=lambda pool: (
                not is_bad_pool(pool),
                -pool["queue"]["length"],
                -pool["executing"],
                -(rates.of_arrivals(pool) or 0),
                pool["name"],
            )
        )
        shown = shown[: max(room - 1, 1)]
    rows = [_pool_row(pool, rates) for pool in shown]
    lines = table(_POOL_COLUMNS, rows, columns)
    lines = paint_rows(lines, [is_bad_pool(pool) for pool in shown], paint)
    return [*lines, *_more(len(pools) - len(shown), "pools", columns, paint)]


def _pool_row(pool: Pool, rates: Rates) -> tuple[str, ...]:
    queue, processes = pool["queue"], pool["processes"]
    return (
        clean(pool["name"]),
        word(pool["state"]),
        str(queue["length"]),
        say_ms(queue["oldest_ms"]) if queue["length"] else "-",
        say_rate(rates.of_arrivals(pool)),
        say_rate(rates.of_rejections(pool)),
        str(pool["executing"]),
        f"{processes['now']}/{processes['max']}",
        _percent(rates.cpu(pool["workers"])),
        say_kib(sum(max(worker["rss_kib"], 0) for worker in pool["workers"])),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """A row of the lower table."""

    cells: tuple[str, ...]
    is_bad: bool = False


def _work_rows(now: Sample, rates: Rates) -> list[_Work]:
    """Workers, each with what it executes, the longest first; then what is queued; then those that
    execute nothing.
    """
    executing: dict[int, list[Request]] = {}
    for request in now.requests:
        if request["worker"] >= 0:
            executing.setdefault(request["worker"], []).append(request)
    busy: list[tuple[int, list[_Work]]] = []
    idle: list[_Work] = []
    for pool in now.pools:
        for worker in pool["workers"]:
            mine = sorted(executing.pop(worker["number"], []), key=lambda one: -one["elapsed_ms"])
            rows = _worker_rows(pool, worker, mine, rates)
            if mine:
                busy.append((mine[0]["elapsed_ms"], rows))
            else:
                idle += rows
    busy.sort(key=lambda one: -one[0])
    queued = sorted(
        (request for request in now.requests if request["worker"] < 0),
        key=lambda one: -one["elapsed_ms"],
    )
    waiting = [
        _Work((clean(one["pool"]), "-", "queued", "", "", "", *_request_cells(one)))
        for one in queued
    ]
    return [*(row for _, rows in busy for row in rows), *waiting, *idle]


def _worker_rows(
    pool: Pool, worker: Worker, requests: Sequence[Request], rates: Rates
) -> list[_Work]:
    own = (
        clean(pool["name"]),
        str(worker["pid"] or "-"),
        worker_state(worker),
        say_rate(rates.of_worker(worker)),
        _percent(rates.cpu([worker])),
        say_kib(worker["rss_kib"]),
    )
    if not requests:
        return [_Work((*own, "-", "", ""), worker["unhealthy"])]
    first, *others = requests
    return [
        _Work((*own, *_request_cells(first)), worker["unhealthy"]),
        *(_Work(("", "", "", "", "", "", *_request_cells(one))) for one in others),
    ]


def _request_cells(request: Request) -> tuple[str, str, str]:
    what = f"{clean(request['method'])} {target_url(request)}"
    return say_ms(request["elapsed_ms"]), clean(request["client"]), what


def _work_lines(work: Sequence[_Work], columns: int, room: int, paint: Paint) -> list[str]:
    shown = work if len(work) <= room else work[: max(room - 1, 1)]
    lines = table(_WORK_COLUMNS, [one.cells for one in shown], columns)
    lines = paint_rows(lines, [one.is_bad for one in shown], paint)
    return [*lines, *_more(len(work) - len(shown), "lines", columns, paint)]


def _more(count: int, what: str, columns: int, paint: Paint) -> list[str]:
    return [paint.dim(cut(f"… {count} more {what}", columns))] if count else []


def _percent(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"
