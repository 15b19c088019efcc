"""Everything that happens to pools and workers, by number: what the log, `kernelq events` and
docs/events.md call it. Ids below 6000 are WAS's (IIS 7 and later; IIS 6 has them as 10xx under
W3SVC); from 6000 on they are our own. The words are ours throughout.
"""

from typing import NamedTuple

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40


class PoolEvent(NamedTuple):
    """One row; `text` is said when nothing more exact is known."""

    id: int
    iis6: int  # its id in IIS 6; 0: none
    level: int
    name: str
    text: str


_ROWS = (
    PoolEvent(5002, 1002, ERROR, "rapid_fail", "rapid-fail protection has stopped the pool"),
    PoolEvent(5009, 1009, WARNING, "worker_died", "died unexpectedly"),
    PoolEvent(5010, 1010, WARNING, "worker_hopeless", "did not recover in time and is replaced"),
    PoolEvent(5012, 1012, WARNING, "startup_limit", "exceeded its start-up time limit"),
    PoolEvent(5013, 1013, WARNING, "shutdown_limit", "did not finish in time; its stacks follow"),
    PoolEvent(5025, 1025, WARNING, "cpu_limit", "the pool used more processor time than it may"),
    PoolEvent(5059, 1059, ERROR, "start_failed", "the pool cannot be started"),
    PoolEvent(5074, 1074, INFO, "recycle_time", "is recycled: it reached its time limit"),
    PoolEvent(5075, 1075, INFO, "recycle_requests", "is recycled: it reached its request limit"),
    PoolEvent(5076, 1076, INFO, "recycle_schedule", "is recycled: its scheduled time has come"),
    PoolEvent(5077, 1077, INFO, "recycle_memory", "is recycled: it reached its memory limit"),
    PoolEvent(5079, 1079, INFO, "recycle_ordered", "is recycled: an administrator asks for it"),
    PoolEvent(5080, 1080, INFO, "recycle_configuration", "all workers get the new settings"),
    PoolEvent(
        5093, 1093, WARNING, "overlap_failed",
        "the replacement of a worker failed to start; the old one goes on",
    ),
    PoolEvent(
        5117, 1117, INFO, "recycle_private_memory",
        "is recycled: it reached its private memory limit",
    ),
    PoolEvent(
        5127, 0, WARNING, "worker_distrusted", "is no longer trusted: it sent malformed data"
    ),
    PoolEvent(5186, 0, INFO, "worker_idle", "ends: it had no request for the idle time-out"),
    PoolEvent(6000, 0, DEBUG, "pool_added", "is added"),
    PoolEvent(6001, 0, INFO, "pool_started", "is started"),
    PoolEvent(6002, 0, INFO, "pool_stopping", "is being stopped by an administrator"),
    PoolEvent(6003, 0, INFO, "pool_stopped", "is stopped"),
    PoolEvent(6004, 0, INFO, "pool_removing", "is being removed"),
    PoolEvent(6005, 0, INFO, "pool_removed", "is removed"),
    PoolEvent(6006, 0, DEBUG, "pool_shutdown", "ends with the server"),
    PoolEvent(6007, 0, DEBUG, "pool_ended", "has ended"),
    PoolEvent(6008, 0, INFO, "pool_configured", "has new settings; no worker needs a restart"),
    PoolEvent(6009, 0, DEBUG, "pool_serves", "has a worker that is ready"),
    PoolEvent(6010, 0, DEBUG, "pool_serves_no_more", "has no worker that is ready"),
    PoolEvent(6011, 0, ERROR, "pool_offline", "is offline"),
    PoolEvent(6012, 0, INFO, "pool_online", "is online"),
    PoolEvent(6013, 0, WARNING, "spawner_lost", "the spawner was lost, and the workers with it"),
    PoolEvent(6020, 0, DEBUG, "worker_starting", "is started"),
    PoolEvent(6021, 0, DEBUG, "worker_ready", "is ready"),
    PoolEvent(6022, 0, ERROR, "worker_refused", "could not load the application"),
    PoolEvent(6023, 0, DEBUG, "worker_draining", "finishes what it has"),
    PoolEvent(6024, 0, INFO, "worker_ended", "ended"),
    PoolEvent(6025, 0, INFO, "worker_lost", "died with its spawner"),
    PoolEvent(
        6026, 0, WARNING, "worker_unhealthy", "leaves requests unstarted; they go to others"
    ),
    PoolEvent(6027, 0, INFO, "worker_recovered", "starts its requests again"),
    PoolEvent(
        6028, 0, WARNING, "request_overdue",
        "has a request beyond its time limit and is replaced",
    ),
    PoolEvent(6029, 0, WARNING, "worker_hastened", "leaves too slowly: its place is needed"),
    PoolEvent(6030, 0, INFO, "worker_suspended", "is suspended: it had no request for long"),
    PoolEvent(6031, 0, INFO, "worker_resumed", "is resumed: a request came"),
    PoolEvent(6032, 0, WARNING, "worker_orphaned", "is left to a debugger, and replaced"),
    PoolEvent(6033, 0, INFO, "orphan_ended", "was an orphan, and has ended"),
    PoolEvent(6040, 0, INFO, "demand_start", "a request waits: a worker is started"),
    PoolEvent(6041, 0, INFO, "pool_grown", "requests wait: one more worker is started"),
    PoolEvent(6042, 0, INFO, "pool_shrunk", "fewer workers are enough: one less"),
    PoolEvent(
        6050, 0, INFO, "reload_started", "reload: starting a worker with the application's new code"
    ),
    PoolEvent(6051, 0, INFO, "reload_done", "the new code and settings are in force"),
    PoolEvent(6052, 0, ERROR, "reload_failed", "reload failed, the old workers go on"),
    PoolEvent(6053, 0, INFO, "settings_wait", "the new settings wait for the next recycle"),
    PoolEvent(6060, 0, INFO, "rapid_fail_try", "rapid-fail protection: a worker is tried"),
    PoolEvent(
        6061, 0, INFO, "rapid_fail_over",
        "rapid-fail protection: a worker is ready, the pool starts others again",
    ),
    PoolEvent(6070, 0, INFO, "cpu_interval", "the limit of processor time begins anew"),
)  # fmt: skip

EVENTS = {row.id: row for row in _ROWS}
DEATHS = frozenset((5009, 6024, 6025))  # said when it is known how the worker died
# What the figures of a pool count.
RECYCLES = frozenset((5074, 5075, 5076, 5077, 5079, 5080, 5117))
FAILURES = frozenset((5009, 5010, 5012, 5127))
