"""The shapes of all answers of the control socket, as they travel in JSON.

Times are ISO 8601 in UTC with milliseconds (2026-11-22T02:10:11.123Z); durations are numbers whose
unit is the end of the name. A number that is not known is -1, a text that is not known is "".
"""

from typing import TypedDict, final

PAGE = 1000  # pools, sites or requests of one answer

# States of the server, as `Status.state` has them.
STARTING, SERVING, RELOADING, UPGRADING, STOPPING = (
    "starting",
    "serving",
    "reloading",
    "upgrading",
    "stopping",
)
# States of a site.
STARTED, STOPPED = "started", "stopped"


class Status(TypedDict):
    """`status`: the server as a whole."""

    version: str
    pid: int  # of the main process: the one that signals go to
    service_pid: int
    state: str  # starting, serving, reloading, upgrading or stopping
    started: str
    uptime_s: float
    config_file: str  # "": the command line
    listeners: list[str]  # http://127.0.0.1:8000, unix:/run/app.sock
    counters: dict[str, int]  # the core's totals since the start
    pools: int
    sites: int


@final
class Event(TypedDict):
    """One event of docs/events.md that has happened."""

    serial: int  # rises by one with each event
    time: str
    level: str  # debug, info, warning or error
    event: int  # the id
    name: str
    pool: str  # "": of no pool
    worker: int  # -1: of no worker
    pid: int  # 0: of no process
    text: str


class Worker(TypedDict):
    """One worker process of a pool."""

    number: int  # unique over the whole server, never used again
    pid: int  # 0: not yet known
    state: str  # STARTING, READY, DRAINING, LAST_WORDS, KILLED or ORPHANED
    generation: int
    served: int  # requests answered since its start
    executing: int  # requests now
    rss_kib: int
    private_kib: int
    cpu_s: float
    started: str
    age_s: float
    unhealthy: bool  # it has not answered a ping in time
    latency_us: int  # of its last ping
    suspended: bool


class Queue(TypedDict):
    """The request queue of a pool."""

    length: int  # requests that wait now
    limit: int
    oldest_ms: int  # how long the oldest one has waited; 0: none waits
    rejected: int  # since the start: 503, the queue was full or the pool not there
    arrived: int  # since the start


class Processes(TypedDict):
    """How many worker processes a pool has and may have."""

    now: int
    min: int
    max: int


class Pool(TypedDict):
    """One application pool."""

    name: str
    state: str  # IIS's counter: UNINITIALIZED, INITIALIZED, RUNNING, DISABLING, DISABLED ...
    start_mode: str  # on_demand or always_running
    queue: Queue
    processes: Processes
    executing: int  # requests in its workers now
    workers: list[Worker]
    recycles: int  # since the start
    failures: int  # worker processes that crashed since the start
    last_event: Event | None


class Application(TypedDict):
    """One application of a site."""

    path: str
    app: str
    pool: str
    number: int
    url: str  # where it answers, as far as one URL can say that


class Site(TypedDict):
    """One site."""

    name: str
    state: str  # started or stopped
    bindings: list[str]
    applications: list[Application]


class Request(TypedDict):
    """One request that is queued or executed now."""

    pool: str
    site: str
    application: str  # its path
    worker: int  # -1: queued
    pid: int  # 0: queued
    state: str  # queued or executing
    client: str
    method: str
    host: str
    target: str
    elapsed_ms: int  # since it arrived


class Pools(TypedDict):
    """`pools`: by name, at most `most` after the name `after`."""

    pools: list[Pool]
    complete: bool  # False: ask again, after the last name


class Sites(TypedDict):
    """`sites`: as Pools."""

    sites: list[Site]
    complete: bool


class Requests(TypedDict):
    """`requests`: of all pools, or of one; the oldest first in each pool."""

    requests: list[Request]
    complete: bool


class Names(TypedDict):
    """`names`: every pool and site, sorted."""

    pools: list[str]
    sites: list[str]


class Match(TypedDict):
    """`match`: who would answer a URL. Not found: reason says why, the others are empty."""

    found: bool
    reason: str  # Hostname, or what is wrong with the URL
    site: str
    state: str  # of the site
    application: str  # its path
    app: str
    pool: str


class PoolState(TypedDict):
    """`pool.start`, `pool.stop`, `recycle`: what the pool's state is now."""

    pool: str
    state: str


class SiteState(TypedDict):
    """`site.start`, `site.stop`."""

    site: str
    state: str


class Stacks(TypedDict):
    """`stacks`: the Python stacks of a living worker."""

    pool: str
    worker: int
    pid: int
    text: str


class Difference(TypedDict):
    """What a reload did to pools or to sites."""

    added: list[str]
    changed: list[str]
    removed: list[str]
    same: int


class Reloaded(TypedDict):
    """`reload`: the new settings are in force, and each changed pool serves with new workers."""

    pools: Difference
    sites: Difference
    notes: list[str]  # what waits for the next start or upgrade


class Upgraded(TypedDict):
    """`upgrade`: a new service process serves."""

    version: str
    service_pid: int
    previous_version: str
    previous_service_pid: int


class Events(TypedDict):
    """`events`. With follow, lines come after it: an Event each, or Missed."""

    events: list[Event]
    last: int  # serial of the newest event that was looked at
    journal: str  # serials of another journal are others: ask from 0 again


@final
class Missed(TypedDict):
    """Instead of events that were dropped, because this client did not read fast enough."""

    missed: int


class CacheEntry(TypedDict, total=False):
    """A stored response. `cache.show` says more than `cache.list`."""

    key: str  # its URL
    status: int
    bytes: int  # of memory, with all overhead
    content: int  # bytes
    age: int  # seconds
    lifetime: int  # seconds; older is stale
    varies: bool
    flushed: bool


class CacheEntries(TypedDict):
    """`cache.list`, `cache.show` (always complete)."""

    entries: list[CacheEntry]
    complete: bool


class CacheCounters(TypedDict):
    """`cache.counters`: those of the core that begin with cache_."""

    counters: dict[str, int]


class CacheFlushed(TypedDict):
    """`cache.flush`."""

    flushed: int  # responses


class Nothing(TypedDict):
    """Nothing but ok."""
