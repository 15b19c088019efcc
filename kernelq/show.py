"""What a server says, as lines of text for a terminal: functions of an answer, and no more.

No line is longer than the room that is given. Texts of the server are cleaned: URLs are clients'
words, events may hold an application's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kernelq.columns import (
    Column,
    clean,
    count,
    cut,
    say_count,
    say_kib,
    say_ms,
    table,
)
from kernelq.shapes import (
    Difference,
    Event,
    Match,
    Pool,
    Reloaded,
    Request,
    Site,
    Stacks,
    Status,
    Upgraded,
    Worker,
)

_BOLD, _DIM, _RED, _YELLOW = "1", "2", "31", "33"


@dataclass(frozen=True, slots=True)
class Paint:
    """Colours for lines that have their length already; none unless wanted."""

    wanted: bool = False

    def bold(self, line: str) -> str:
        return self._paint(_BOLD, line)

    def dim(self, line: str) -> str:
        return self._paint(_DIM, line)

    def bad(self, line: str) -> str:
        return self._paint(_RED, line)

    def odd(self, line: str) -> str:
        return self._paint(_YELLOW, line)

    def _paint(self, code: str, line: str) -> str:
        return f"\x1b[{code}m{line}\x1b[0m" if self.wanted and line else line


def word(state: str) -> str:
    """A state as people read it: SHUTDOWN_PENDING is "shutdown pending"."""
    return clean(state).lower().replace("_", " ")


def target_url(request: Request) -> str:
    """Host and target of a request, as one would type it."""
    target = request["target"]
    return clean(request["host"] + target if target.startswith("/") else target)


# The server.


def head_lines(status: Status, room: int, paint: Paint) -> list[str]:
    """Who this server is, and what it has done."""
    source = clean(status["config_file"]) or "command line"
    uptime = say_ms(status["uptime_s"] * 1000)
    counters = status["counters"]
    return [
        paint.bold(
            cut(
                f"kernelq {clean(status['version'])}, {word(status['state'])} for {uptime}, "
                f"process {status['pid']} (service {status['service_pid']}), {source}",
                room,
            )
        ),
        cut("listening on " + (", ".join(map(clean, status["listeners"])) or "nothing"), room),
        cut(
            f"{count(status['sites'], 'site')}, {count(status['pools'], 'pool')}; "
            f"{say_count(counters.get('requests', 0))} requests, "
            f"{say_count(counters.get('answered', 0))} answered, "
            f"{say_count(counters.get('refused', 0))} refused; "
            f"{count(counters.get('connections_now', 0), 'connection')} now",
            room,
        ),
    ]


def status_lines(status: Status, pools: Sequence[Pool], room: int, paint: Paint) -> list[str]:
    lines = head_lines(status, room, paint)
    if pools:
        lines += ["", *pool_table(pools, room, paint)]
    if any(pool["workers"] for pool in pools):
        lines += ["", *worker_table(pools, room, paint)]
    return lines


def pool_table(pools: Sequence[Pool], room: int, paint: Paint) -> list[str]:
    columns = (
        Column("POOL", least=8),
        Column("STATE", least=8),
        Column("QUEUE", is_number=True),
        Column("OLDEST", is_number=True),
        Column("BUSY", is_number=True),
        Column("WORKERS", is_number=True),
        Column("ARRIVED", is_number=True, spare=2),
        Column("REJECTED", is_number=True, spare=1),
        Column("RECYCLED", is_number=True, spare=3),
        Column("CRASHED", is_number=True),
        Column("LAST EVENT", least=30, spare=4),
    )
    rows = []
    for pool in pools:
        queue, processes, last = pool["queue"], pool["processes"], pool["last_event"]
        rows.append(
            (
                clean(pool["name"]),
                word(pool["state"]),
                f"{queue['length']}/{say_count(queue['limit'])}",
                say_ms(queue["oldest_ms"]) if queue["length"] else "-",
                str(pool["executing"]),
                f"{processes['now']}/{processes['max']}",
                say_count(queue["arrived"]),
                say_count(queue["rejected"]),
                say_count(pool["recycles"]),
                say_count(pool["failures"]),
                clean(f"{last['time'][11:19]} {last['text']}") if last else "-",
            )
        )
    lines = table(columns, rows, room)
    return paint_rows(lines, [is_bad_pool(pool) for pool in pools], paint)


def is_bad_pool(pool: Pool) -> bool:
    """Whether somebody should look at it."""
    queue = pool["queue"]
    return pool["state"] in ("DISABLED", "DISABLING") or queue["length"] >= queue["limit"] > 0


def paint_rows(lines: list[str], are_bad: Iterable[bool], paint: Paint) -> list[str]:
    """The lines of a table, its head dim, the bad ones red."""
    head, *rows = lines
    painted = [
        paint.bad(line) if is_bad else line for line, is_bad in zip(rows, are_bad, strict=True)
    ]
    return [paint.dim(head), *painted]


def worker_table(pools: Sequence[Pool], room: int, paint: Paint) -> list[str]:
    columns = (
        Column("POOL", least=8),
        Column("WORKER", is_number=True),
        Column("PID", is_number=True),
        Column("STATE", least=8),
        Column("GEN", is_number=True, spare=3),
        Column("SERVED", is_number=True),
        Column("BUSY", is_number=True),
        Column("RSS", is_number=True),
        Column("PRIVATE", is_number=True, spare=2),
        Column("CPU", is_number=True, spare=1),
        Column("AGE", is_number=True),
        Column("PING", is_number=True, spare=4),
    )
    workers = [(pool, worker) for pool in pools for worker in pool["workers"]]
    rows = [
        (
            clean(pool["name"]),
            str(worker["number"]),
            str(worker["pid"] or "-"),
            worker_state(worker),
            str(worker["generation"]),
            say_count(worker["served"]),
            str(worker["executing"]),
            say_kib(worker["rss_kib"]),
            say_kib(worker["private_kib"]),
            say_ms(worker["cpu_s"] * 1000),
            say_ms(worker["age_s"] * 1000),
            _ping(worker["latency_us"]),
        )
        for pool, worker in workers
    ]
    lines = table(columns, rows, room)
    return paint_rows(lines, [worker["unhealthy"] for _, worker in workers], paint)


def worker_state(worker: Worker) -> str:
    """Its state, or what is more than that."""
    state = word(worker["state"])
    if worker["unhealthy"]:
        return "unhealthy" if state == "ready" else f"{state}, unhealthy"
    return "suspended" if worker["suspended"] else state


def _ping(latency_us: int) -> str:
    if latency_us < 0:
        return "-"
    return f"{latency_us}us" if latency_us < 10_000 else say_ms(latency_us // 1000)


# Requests, sites, events.


def request_table(requests: Sequence[Request], room: int, paint: Paint) -> list[str]:
    columns = (
        Column("POOL", least=8),
        Column("PID", is_number=True, spare=2),
        Column("STATE"),
        Column("TIME", is_number=True),
        Column("CLIENT", least=12, spare=1),
        Column("METHOD", least=7),
        Column("URL", least=24),
    )
    rows = [
        (
            clean(request["pool"]),
            str(request["pid"] or "-"),
            clean(request["state"]),
            say_ms(request["elapsed_ms"]),
            clean(request["client"]),
            clean(request["method"]),
            target_url(request),
        )
        for request in requests
    ]
    return paint_rows(table(columns, rows, room), [False] * len(rows), paint)


def site_table(sites: Sequence[Site], room: int, paint: Paint) -> list[str]:
    """Each site with its bindings and applications, one below the other."""
    columns = (
        Column("SITE", least=8),
        Column("STATE"),
        Column("BINDING", least=12),
        Column("PATH", least=8),
        Column("POOL", least=8),
        Column("APPLICATION", least=12),
    )
    rows: list[tuple[str, ...]] = []
    are_bad: list[bool] = []
    for site in sites:
        applications = site["applications"]
        for at in range(max(len(site["bindings"]), len(applications), 1)):
            binding = site["bindings"][at] if at < len(site["bindings"]) else ""
            one = applications[at] if at < len(applications) else None
            rows.append(
                (
                    clean(site["name"]) if at == 0 else "",
                    word(site["state"]) if at == 0 else "",
                    clean(binding),
                    clean(one["path"]) if one else "",
                    clean(one["pool"]) if one else "",
                    clean(one["app"]) if one else "",
                )
            )
            are_bad.append(site["state"] == "stopped")
    return paint_rows(table(columns, rows, room), are_bad, paint)


def match_lines(match: Match) -> list[str]:
    if not match["found"]:
        return [f"nothing answers there: {clean(match['reason'])}"]
    return [
        f"site         {clean(match['site'])} ({word(match['state'])})",
        f"path         {clean(match['application'])}",
        f"application  {clean(match['app'])}",
        f"pool         {clean(match['pool'])}",
    ]


def event_line(event: Event, room: int, paint: Paint) -> str:
    where = [f"pool={clean(event['pool'])}"] if event["pool"] else []
    where += [f"pid={event['pid']}"] if event["pid"] else []
    words = [event["time"], event["level"], str(event["event"]), event["name"], *where]
    line = cut(clean(" ".join([*words, event["text"]])), room)
    if event["level"] == "error":
        return paint.bad(line)
    return paint.odd(line) if event["level"] == "warning" else line


def reload_lines(reloaded: Reloaded) -> list[str]:
    """What has changed, or that nothing has."""
    lines = [
        *_difference_lines("pool", reloaded["pools"]),
        *_difference_lines("site", reloaded["sites"]),
        *map(clean, reloaded["notes"]),
    ]
    return lines or ["nothing has changed"]


def _difference_lines(kind: str, difference: Difference) -> list[str]:
    changes = (
        ("added", difference["added"]),
        ("changed", difference["changed"]),
        ("removed", difference["removed"]),
    )
    return [f"{kind} {clean(name)}: {what}" for what, names in changes for name in names]


def upgrade_lines(upgraded: Upgraded) -> list[str]:
    return [
        f"kernelq {clean(upgraded['version'])} serves in process {upgraded['service_pid']}; "
        f"process {upgraded['previous_service_pid']} "
        f"(kernelq {clean(upgraded['previous_version'])}) finishes what it has"
    ]


def stack_lines(stacks: Stacks) -> list[str]:
    pool = clean(stacks["pool"])
    return [
        f"worker {stacks['worker']} of pool {pool}, process {stacks['pid']}:",
        *map(clean, stacks["text"].splitlines()),
    ]
