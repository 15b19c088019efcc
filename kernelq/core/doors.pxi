# The doors: what the managers see of the core. The only part that touches Python.
#
# Rules
#  1. Python's values are checked here, and exceptions raised here, before a lock is taken or a
#     thread started; the other parts know neither.
#  2. A door may be used from any thread of the service process: it takes the lock that guards what
#     it touches, or sends a letter to the loop that owns it.
#  3. No Python while a lock is held that a loop may want: an allocation can run a finalizer, and
#     that anything.

from kernelq.trusted import pack_trusted

cdef enum:
    TARGET_SHOWN_MAX = 1024        # bytes of a request target in worker_info()
    REQUESTS_AT_ONCE = 2048        # most of one pool in requests()

COUNTER_NAMES = (
    "connections", "connections_now", "requests", "answered", "refused", "client_gone",
    "dispatched", "prefetched", "revoked", "redispatched", "fields_dropped", "bytes_received",
    "bytes_sent", "spilled", "turns", "wakes", "bells", "log_lost", "exchanges_now", "chunks_now",
    "accept_failed", "distrusted", "cache_hits", "cache_misses", "cache_bypassed", "cache_stale",
    "cache_revalidated", "cache_collapsed",
)
EVENT_NAMES = (
    "ready", "gone", "unhealthy", "recovered", "hopeless", "timeout", "distrusted", "first_answer",
    "quiet", "demand", "quota",
)
POOL_WORDS = ("online", "offline", "shutdown", "disabled")
WORKER_STATES = ("open", "starting", "ready", "draining", "distrusted", "dead")
POOL_STATES = {"online": POOL_ONLINE, "offline": POOL_OFFLINE, "shutdown": POOL_SHUTDOWN,
               "disabled": POOL_DISABLED}


def reasons_table():
    """The rows of core/reason.pxd: (name, HTTP status or 0, word in the log, text)."""
    return [
        (reasons[index].name.decode(), reasons[index].status, reasons[index].word.decode(),
         reasons[index].text.decode())
        for index in range(REASON_COUNT)
    ]


def layout():
    """Offsets and sizes of the shared memory, from the compiler; docs/layout.md is made of them."""
    return {
        "version": LAYOUT_VERSION,
        "sizes": {
            "ChannelHead": sizeof(ChannelHead), "CoreLane": sizeof(CoreLane),
            "WorkerLane": sizeof(WorkerLane), "RecordHead": sizeof(RecordHead),
            "FieldEntry": sizeof(FieldEntry), "RequestRecord": sizeof(RequestRecord),
            "ResponseRecord": sizeof(ResponseRecord), "NumberRecord": sizeof(NumberRecord),
            "FileRecord": sizeof(FileRecord), "CallRecord": sizeof(CallRecord),
            "ReplyRecord": sizeof(ReplyRecord), "SideMessage": sizeof(SideMessage),
        },
        "private": {
            "Conn": sizeof(Conn),
            "Exchange": sizeof(Exchange),
            "Worker": sizeof(Worker),
            "Loop": sizeof(Loop),
        },
        "places_at": PLACES_AT,
        "lane_at": [lane_at(0), lane_at(1)],
    }


cdef uint32_t power_of_two_below(uint32_t most) noexcept nogil:
    cdef uint32_t power = 1
    while power * 2 <= most:
        power *= 2
    return power


cdef class Core:
    """The core of one service process: loops, routes, pools with their queues, workers' channels.

    settings: an object with the attributes of kernelq.config.CoreSettings. Raises OSError (no
    descriptors, no memory) and ValueError (a setting that does not fit). Nothing runs before
    start(); call that after fork() and setuid().
    """

    cdef Core_ *core

    def __cinit__(self, settings):
        cdef int error
        self.core = <Core_ *> calloc(1, sizeof(Core_))
        if self.core == NULL:
            raise MemoryError
        settings_fill(self.core, settings)
        error = core_init(self.core)
        if error < 0:
            raise OSError(-error, os_error_text(-error))

    def __dealloc__(self):
        if self.core != NULL:
            with nogil:
                core_stop(self.core)
                core_uninit(self.core)
            free(self.core)

    def add_listener(self, int fd):
        """Take a listening, non-blocking socket: its number, by which routes know it."""
        cdef Listener *listener = <Listener *> calloc(1, sizeof(Listener))
        cdef Listener **grown
        cdef uint32_t index
        grown = <Listener **> realloc(self.core.listeners,
                                      sizeof(Listener *) * (self.core.listener_count + 1))
        if grown != NULL:
            self.core.listeners = grown
        if grown == NULL or listener == NULL:
            free(listener)
            raise MemoryError
        if self.core.listener_count == ROUTE_LISTENERS_MAX:
            free(listener)
            raise ValueError(f"there have been {ROUTE_LISTENERS_MAX} listeners already")
        listener.source.kind = SOURCE_LISTENER
        listener.fd = fd
        listener.number = self.core.listener_count
        listener.loops_left = self.core.settings.loop_count
        listener_name(listener)
        grown[self.core.listener_count] = listener
        self.core.listener_count += 1
        for index in range(self.core.settings.loop_count):
            if self.core.is_started:
                letter_send(&self.core.loops[index].mailbox, LETTER_LISTEN, listener, 0, -1)
            else:
                listener_join(&self.core.loops[index], listener)
        return listener.number

    def remove_listener(self, uint32_t number):
        """Take what is in its backlog, then close it. Raises ValueError."""
        cdef uint32_t index
        if number >= self.core.listener_count:
            raise ValueError(f"there is no listener {number}")
        for index in range(self.core.settings.loop_count):
            letter_send(&self.core.loops[index].mailbox, LETTER_UNLISTEN,
                        self.core.listeners[number], 0, -1)

    def set_routes(self, rows):
        """Which pool each request is for, from now on: an iterable of tuples (listener, address,
        host, prefix, application, pool, site, generation, is enabled), as route_doors.pxi has them.
        Raises ValueError: two are the same, one is malformed, or names a pool that is not open."""
        cdef Routes *routes = routes_from(rows)
        cdef uint32_t index
        cdef int error
        for index in range(routes.pool_count):
            if pool_find(self.core, routes.pools[index].number) == NULL:
                number = routes.pools[index].number
                routes_free(routes)
                raise ValueError(f"there is no pool {number}")
        with nogil:
            error = routes_publish(self.core, routes)
        if error < 0:
            routes_free(routes)
            raise MemoryError

    def route(self, uint32_t listener, bytes address, str host, bytes path):
        """Who would answer: (application, pool, site, prefix), or None. path: as in a URL; address:
        the connection's own, b"" or 4 or 16 bytes. Raises ValueError."""
        cdef RouteMap *map_ = routes_hold(self.core)
        if map_ == NULL:
            return None
        try:
            return routes_match(map_.routes, listener, address, host.encode(), path)
        finally:
            routes_let_go(map_)

    def start(self):
        """Start the loop, helper and log threads."""
        cdef int error
        with nogil:
            error = core_start(self.core)
        if error < 0:
            raise OSError(-error, "cannot start the core's threads")

    @property
    def event_fd(self):
        """An eventfd, readable while take_events() has something; take_events() resets it."""
        return self.core.event_fd

    def take_events(self):
        """What happened since the last call: a list of (name, worker number, value)."""
        cdef uint64_t count
        cdef Event event
        events = []
        read(self.core.event_fd, &count, sizeof(count))
        while event_take(self.core, &event):
            events.append((EVENT_NAMES[event.kind], event.worker, event.value))
        return events

    def pool_open(self, settings):
        """A new pool: its number, which is never used again. settings: an object with the
        attributes of kernelq.config.CorePoolSettings. Raises ValueError."""
        cdef PoolLimits limits
        cdef Pool *pool
        limits_fill(&limits, settings)
        pool = pool_new(self.core, &limits)
        if pool == NULL:
            raise ValueError(f"there are {POOLS_MAX} pools already, or no memory")
        return pool.number

    cdef Pool *pool(self, uint32_t number) except NULL:
        cdef Pool *pool = pool_find(self.core, number)
        if pool == NULL:
            raise KeyError(f"no pool {number}")
        return pool

    def pool_change(self, uint32_t number, settings):
        """New limits; threads are those of workers that are opened later. Raises ValueError."""
        cdef Pool *pool = self.pool(number)
        cdef PoolLimits limits
        limits_fill(&limits, settings)
        pthread_mutex_lock(&pool.lock)
        pool.limits = limits
        pthread_mutex_unlock(&pool.lock)

    def pool_close(self, uint32_t number):
        """It is gone: ValueError while it has workers or requests, or routes lead to it."""
        cdef Pool *pool = self.pool(number)
        cdef uint32_t workers, queued
        if routes_name(self.core, pool):
            raise ValueError(f"pool {number} has routes that lead to it")
        if not pool_stop(pool, &workers, &queued):
            raise ValueError(f"pool {number} has {workers} workers, {queued} requests")
        with nogil:
            pool_close(self.core, pool)

    def pool_info(self, uint32_t number):
        """State, queue and counts of a pool: a dict."""
        cdef PoolFigures seen
        cdef bint is_there
        with nogil:
            is_there = pool_figures(self.core, number, &seen)
        if not is_there:
            raise KeyError(f"no pool {number}")
        return {
            "state": POOL_WORDS[seen.state],
            "queued": seen.queued,
            "queue_length": seen.queue_length,
            "oldest_ns": seen.oldest_ns,
            "ready": seen.ready,
            "executing": seen.executing,
            "peak": seen.peak,
            "arrived": seen.arrived,
            "answered": seen.answered,
            "rejected": seen.rejected,
            "redispatched": seen.redispatched,
            "last_activity_ns": seen.active_ns,
        }

    def pool_take_peak(self, uint32_t number):
        """Most requests queued and executing at a time since the last call."""
        cdef Pool *pool = self.pool(number)
        cdef uint32_t peak
        pthread_mutex_lock(&pool.lock)
        peak = pool.peak
        pool.peak = pool.queued + pool.executing
        pthread_mutex_unlock(&pool.lock)
        return peak

    def pool_await_demand(self, uint32_t number, int64_t wait_ns):
        """Have the event "demand" (value: the pool) posted, once, when requests wait and no worker
        is ready, or (wait_ns > 0) one has waited so long. wait_ns < 0: not any more."""
        cdef Pool *pool = self.pool(number)
        with nogil:
            pool_await_demand(self.core, pool, wait_ns)

    def requests(self, Py_ssize_t most, int64_t number=-1):
        """What waits and what is executed now, of all pools or of one, the oldest first in each: at
        most so many dicts."""
        return requests_listed(self.core, most, number)

    def channel_open(self, uint32_t pool_number, uint64_t generation):
        """Make the channel of a worker of this pool: (worker number, descriptors to pass to it).
        generation: only requests whose route has no larger one are dispatched to it.

        The descriptors, in the order of kernelq._worker.CHANNEL_FDS, are the caller's to pass on
        and close. Raises OSError.
        """
        cdef Pool *pool = self.pool(pool_number)
        cdef Worker *worker = NULL
        cdef int side_end = -1
        cdef int error
        cdef uint32_t index
        with nogil:
            error = worker_open(self.core, pool, generation, &worker, &side_end)
        if error < 0:
            raise OSError(-error, "cannot open a worker's channel")
        fds = [fd_copy(worker.core_fd), fd_copy(worker.worker_fd), side_end]
        for index in range(self.core.settings.loop_count):
            fds.append(worker.doorbell_ends[index])
            worker.doorbell_ends[index] = -1
            fds.append(fd_copy(worker.bells[index]))
        return worker.number, fds

    cdef Worker *find(self, uint32_t number) except NULL:
        cdef Worker *worker = worker_find(self.core, number)
        if worker == NULL:
            raise KeyError(f"no worker {number}")
        return worker

    def worker_attach(self, uint32_t number, int pid, int pidfd):
        """The worker has a process; takes pidfd."""
        cdef Worker *worker = self.find(number)
        cdef int error
        with nogil:
            error = worker_attach(self.core, worker, pid, pidfd)
        if error < 0:
            raise MemoryError

    def worker_quota(self, uint32_t number, uint64_t requests):
        """Have the event "quota" posted when it has answered so many requests; 0: never."""
        cdef Worker *worker = self.find(number)
        with nogil:
            worker_set_quota(self.core, worker, requests)

    def worker_abandon(self, uint32_t number):
        """Its process is stopped and left to a debugger: treat it as if it had died. The event
        "gone" follows. Raises ValueError: it has none."""
        cdef Worker *worker = self.find(number)
        if worker.pidfd < 0:
            raise ValueError(f"worker {number} has no process yet")
        with nogil:
            worker_abandon(self.core, worker)

    def worker_drain(self, uint32_t number):
        """Dispatch nothing more to it, take back what it has not started, tell it to finish."""
        cdef Worker *worker = self.find(number)
        with nogil:
            worker_drain(self.core, worker)

    def worker_abort(self, uint32_t number):
        """Its process was never started: forget its channel."""
        self.worker_forget(number)

    def worker_forget(self, uint32_t number):
        """After the event "gone": release what the core still has of it."""
        cdef Worker *worker = self.find(number)
        with nogil:
            worker_forget(self.core, worker)

    def worker_info(self, uint32_t number):
        """State, counts and the requests in hand of a worker: a dict."""
        cdef Worker *worker = self.find(number)
        cdef WorkerFigures seen
        cdef InHand inhand
        executing = []
        for index in range(worker.place_count):
            if inhand_read(worker, index, &inhand):
                executing.append(inhand_info(&inhand))
        worker_figures(worker, &seen)
        for index in range(min(seen.casualty_count, <uint32_t> CASUALTIES_MAX)):
            executing.append(casualty_info(&seen.casualties[index]))
        return {
            "pid": seen.pid,
            "state": WORKER_STATES[seen.state],
            "in_hand": seen.in_hand,
            "served": seen.served,
            "unhealthy": bool(seen.is_unhealthy),
            "latency_ns": seen.latency_ns,
            "executing": executing,
            "casualties": seen.casualty_count,
            "pool": worker.pool.number,
            "generation": worker.generation,
        }

    def set_pool_state(self, uint32_t number, str state):
        """Say what becomes of requests: "online": they are queued; "offline", "disabled" and
        "shutdown": they get 503 AppOffline, Disabled or AppShutdown, also those that are queued."""
        cdef Pool *pool = self.pool(number)
        if state not in POOL_STATES:
            raise ValueError(f"pool state {state!r}: must be one of {', '.join(POOL_STATES)}")
        cdef uint8_t value = POOL_STATES[state]
        with nogil:
            pool_set_state(self.core, pool, value)

    def begin_drain(self):
        """The readiness probe turns 503; everything else goes on."""
        atomic.store_relaxed_u32(&self.core.is_draining, 1)  # relaxed: seen by the next probe

    def begin_shutdown(self):
        """Accept what is in the backlog, close the listeners, finish. The event "quiet" says when
        nothing is left."""
        cdef uint32_t index
        self.begin_drain()
        for index in range(self.core.settings.loop_count):
            letter_send(&self.core.loops[index].mailbox, LETTER_SHUTDOWN, NULL, 0, -1)

    def stop(self):
        """End every thread, at once. Connections end with the process."""
        with nogil:
            core_stop(self.core)

    def log(self, int level, str text):
        """A line into the error log, in order with the core's."""
        cdef Py_ssize_t length = 0
        data = text.encode("utf-8", "backslashreplace")
        cdef const char *at = data
        length = len(data)
        with nogil:
            log_text_now(self.core, level, at, <uint32_t> length)

    def cache_list(self, str prefix, Py_ssize_t most):
        """What is stored under keys that start with prefix: at most so many dicts of facts."""
        return cache_listed(self.core, prefix.encode("utf-8", "surrogateescape"), most)

    def cache_show(self, str url):
        """What is stored of one absolute URL: a dict for each variant. Raises ValueError."""
        return cache_shown(self.core, url.encode("utf-8", "surrogateescape"))

    def cache_flush(self, str prefix, bint recursive):
        """Drop what is stored under an absolute URL ("": everything), and below it: how many
        entries. Raises ValueError."""
        return cache_flushed(self.core, prefix.encode("utf-8", "surrogateescape"), recursive)

    def cache_flush_group(self, str origin, str name):
        """Drop what is stored of an origin in a group (RFC 9875). Raises ValueError."""
        cache_group_flushed(self.core, origin.encode("utf-8", "surrogateescape"),
                            name.encode("utf-8", "surrogateescape"))

    def stats(self):
        """The counters, summed over the loops, and the queue's figures: a dict of ints."""
        cdef uint32_t index
        cdef PoolFigures seen
        figures = {name: core_count(self.core, index) for index, name in enumerate(COUNTER_NAMES)}
        with nogil:
            figures_summed(self.core, &seen)
        figures.update(queued=seen.queued, workers_ready=seen.ready, service_ns=seen.service_ns)
        figures.update(cache_figures(self.core))
        if bug.DEBUG:
            figures["turn_ns_max"] = turn_ns_max(self.core)
        for index in range(1, <uint32_t> REASON_COUNT):
            name = "reason_" + reasons[index].name.decode().lower()
            figures[name] = reason_count(self.core, index)
        return figures


cdef uint64_t reason_count(const Core_ *core, uint32_t reason) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t index
    for index in range(core.settings.loop_count):
        total += atomic.load_relaxed(&core.loops[index].reasons[reason])  # relaxed: a figure
    return total


cdef uint64_t turn_ns_max(const Core_ *core) noexcept nogil:
    cdef uint64_t most = 0
    cdef uint32_t index
    for index in range(core.settings.loop_count):
        most = max(most, atomic.load_relaxed(&core.loops[index].turn_ns_max))  # relaxed: a figure
    return most


cdef bint event_take(Core_ *core, Event *event) noexcept nogil:
    cdef bint found
    pthread_mutex_lock(&core.events_lock)
    found = core.event_count > 0
    if found:
        event[0] = core.events[core.event_first]
        core.event_first = (core.event_first + 1) % core.event_room
        core.event_count -= 1
    pthread_mutex_unlock(&core.events_lock)
    return found


cdef struct WorkerFigures:         # of a Worker, what is guarded by the pool's lock, copied
    int pid
    uint8_t state
    bint is_unhealthy
    uint32_t in_hand
    uint32_t casualty_count
    uint64_t served
    uint64_t latency_ns
    Casualty casualties[CASUALTIES_MAX]


cdef void worker_figures(const Worker *worker, WorkerFigures *seen) noexcept nogil:
    pthread_mutex_lock(&worker.pool.lock)
    seen.pid = worker.pid
    seen.state = worker.state
    seen.is_unhealthy = worker.is_unhealthy
    seen.in_hand = worker_active(worker)
    seen.casualty_count = worker.casualty_count
    seen.served = worker.served
    seen.latency_ns = worker.latency_ns
    memcpy(seen.casualties, worker.casualties, sizeof(seen.casualties))
    pthread_mutex_unlock(&worker.pool.lock)


cdef struct PoolFigures:           # of a Pool, copied under its lock
    uint8_t state
    uint32_t queued, queue_length, ready, executing, peak
    uint64_t arrived, answered, rejected, redispatched
    uint64_t active_ns, oldest_ns, service_ns


cdef bint pool_figures(Core_ *core, uint32_t number, PoolFigures *seen) noexcept nogil:
    # False: there is no such pool.
    cdef Pool *pool
    pthread_mutex_lock(&core.pools_lock)
    pool = pool_find(core, number)
    if pool != NULL:
        pool_figures_copy(pool, seen)
    pthread_mutex_unlock(&core.pools_lock)
    return pool != NULL


cdef void figures_summed(Core_ *core, PoolFigures *sum_) noexcept nogil:
    # Over all pools: what stats() shows of them.
    cdef PoolFigures seen
    cdef uint32_t slot
    memset(sum_, 0, sizeof(PoolFigures))
    pthread_mutex_lock(&core.pools_lock)
    for slot in range(core.pools_high):
        if core.pools[slot] != NULL:
            pool_figures_copy(core.pools[slot], &seen)
            sum_.queued += seen.queued
            sum_.ready += seen.ready
            sum_.service_ns = max(sum_.service_ns, seen.service_ns)
    pthread_mutex_unlock(&core.pools_lock)


cdef void pool_figures_copy(Pool *pool, PoolFigures *seen) noexcept nogil:
    cdef const Exchange *oldest
    cdef uint64_t now_ns = linux.now_ns()
    pthread_mutex_lock(&pool.lock)
    oldest = pool_oldest(pool)
    seen.state = pool.state
    seen.queued = pool.queued
    seen.queue_length = pool.limits.queue_length
    seen.ready = pool.ready_count
    seen.executing = pool.executing
    seen.peak = pool.peak
    seen.arrived = pool.arrived
    seen.answered = pool.answered
    seen.rejected = pool.rejected
    seen.redispatched = pool.redispatched
    seen.active_ns = pool.active_ns
    seen.service_ns = pool.service_ns
    seen.oldest_ns = now_ns - min(now_ns, oldest.queued_ns) if oldest != NULL else 0
    pthread_mutex_unlock(&pool.lock)


cdef struct InHand:                # a request in a worker's place, copied
    uint8_t text[METHOD_BYTES_MAX + ADDRESS_TEXT_MAX + TARGET_SHOWN_MAX + ROUTE_NAME_MAX]
    uint32_t method_bytes, target_bytes, remote_bytes, host_bytes
    uint32_t application
    int64_t worker                 # its number; -1: queued
    uint64_t handed_ns
    uint64_t arrived_ns
    bint is_started


cdef void inhand_copy(const Exchange *exchange, InHand *seen) noexcept nogil:
    # Under its pool's lock.
    cdef Span method, remote, target
    cdef Span host = image_field(exchange, FIELD_HOST)
    cdef uint8_t *at = seen.text
    image_line(exchange, &method, &remote, &target)
    seen.method_bytes = span_cut(&method, METHOD_BYTES_MAX)
    seen.target_bytes = span_cut(&target, TARGET_SHOWN_MAX)
    seen.remote_bytes = span_cut(&remote, ADDRESS_TEXT_MAX)
    seen.host_bytes = span_cut(&host, ROUTE_NAME_MAX)
    at = span_put(at, method)
    at = span_put(at, target)
    at = span_put(at, remote)
    span_put(at, host)
    seen.application = exchange.application
    seen.arrived_ns = atomic.load_relaxed(&exchange.arrived_ns)  # relaxed: see maker_adopt()
    seen.worker = -1
    seen.is_started = False


cdef bint inhand_read(Worker *worker, uint32_t index, InHand *seen) noexcept nogil:
    # False: nothing is in this place.
    cdef const Place *place = &worker.places[index]
    pthread_mutex_lock(&worker.pool.lock)
    if place.exchange == NULL:
        pthread_mutex_unlock(&worker.pool.lock)
        return False
    inhand_copy(place.exchange, seen)
    seen.handed_ns = place.handed_ns
    seen.is_started = place_is_started(worker, index)
    seen.worker = worker.number
    pthread_mutex_unlock(&worker.pool.lock)
    return True


cdef uint32_t slot_requests(Core_ *core, uint32_t slot, int64_t wanted, uint32_t *number,
                            InHand *seen, uint32_t most) noexcept nogil:
    # Of the pool in this slot of the table, if it is the one that is wanted (-1: any).
    cdef uint32_t count = 0
    cdef Pool *pool
    pthread_mutex_lock(&core.pools_lock)
    pool = core.pools[slot]
    if pool != NULL and (wanted < 0 or pool.number == wanted):
        number[0] = pool.number
        count = pool_requests(pool, seen, most)
    pthread_mutex_unlock(&core.pools_lock)
    return count


cdef uint32_t pool_requests(Pool *pool, InHand *seen, uint32_t most) noexcept nogil:
    # Copies of what is in its workers' hands and in its queue: how many.
    cdef uint32_t count = 0
    cdef uint32_t index
    cdef Worker *worker
    cdef const Exchange *exchange
    pthread_mutex_lock(&pool.lock)
    worker = pool.workers
    while worker != NULL:
        for index in range(worker.place_count):
            if worker.places[index].exchange != NULL and count < most:
                inhand_copy(worker.places[index].exchange, &seen[count])
                seen[count].handed_ns = worker.places[index].handed_ns
                seen[count].is_started = place_is_started(worker, index)
                seen[count].worker = worker.number
                count += 1
        worker = worker.next
    exchange = pool.suspects_first if pool.suspects_first != NULL else pool.first
    while exchange != NULL and count < most:
        inhand_copy(exchange, &seen[count])
        count += 1
        exchange = (pool.first if exchange.next == NULL and exchange.is_suspect
                    else exchange.next)
    pthread_mutex_unlock(&pool.lock)
    return count


cdef list requests_listed(Core_ *core, Py_ssize_t most, int64_t wanted):
    cdef InHand *seen
    cdef uint32_t slot, index, count
    cdef uint32_t number = 0
    cdef uint64_t now_ns
    listed = []
    seen = <InHand *> malloc(REQUESTS_AT_ONCE * sizeof(InHand))
    if seen == NULL:
        raise MemoryError
    try:
        for slot in range(core.pools_high):
            if len(listed) >= most:
                break
            count = <uint32_t> min(most - len(listed), <Py_ssize_t> REQUESTS_AT_ONCE)
            with nogil:
                count = slot_requests(core, slot, wanted, &number, seen, count)
            now_ns = linux.now_ns()
            found = [request_info(&seen[index], number, now_ns) for index in range(count)]
            listed += sorted(found, key=request_age, reverse=True)
    finally:
        free(seen)
    return listed


def request_age(request):
    return request["elapsed_ns"]


cdef dict request_info(const InHand *seen, uint32_t pool, uint64_t now_ns):
    cdef const uint8_t *host = (seen.text + seen.method_bytes + seen.target_bytes
                                + seen.remote_bytes)
    request = inhand_info(seen)
    return {
        "pool": pool,
        "application": seen.application,
        "worker": seen.worker,
        "state": "queued" if seen.worker < 0 else "executing",
        "method": request["method"],
        "target": request["target"],
        "client": request["client"],
        "host": host[:seen.host_bytes].decode("latin-1"),
        "elapsed_ns": now_ns - min(now_ns, seen.arrived_ns),
    }


cdef dict inhand_info(const InHand *seen):
    cdef const uint8_t *target = seen.text + seen.method_bytes
    cdef const uint8_t *remote = target + seen.target_bytes
    return {
        "method": seen.text[:seen.method_bytes].decode("latin-1"),
        "target": target[:seen.target_bytes].decode("latin-1"),
        "client": remote[:seen.remote_bytes].decode("latin-1"),
        "handed_ns": seen.handed_ns,
        "started": bool(seen.is_started),
    }


cdef dict casualty_info(const Casualty *casualty):
    text = casualty.text[:casualty.method_bytes + casualty.target_bytes + casualty.client_bytes]
    target_end = casualty.method_bytes + casualty.target_bytes
    return {
        "method": text[:casualty.method_bytes].decode("latin-1"),
        "target": text[casualty.method_bytes:target_end].decode("latin-1"),
        "client": text[target_end:].decode("latin-1"),
        "handed_ns": casualty.handed_ns,
        "started": True,
    }


cdef int fd_copy(int fd) except -1:
    cdef int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if copy < 0:
        raise OSError(linux.errno, os_error_text(linux.errno))
    return copy


cdef str os_error_text(int error):
    import os
    return os.strerror(error)


cdef void listener_name(Listener *listener) noexcept:
    # The address it is bound to: SERVER_NAME and SERVER_PORT of its requests.
    cdef sockaddr_storage address
    cdef socklen_t bytes = sizeof(address)
    memset(&address, 0, sizeof(address))
    getsockname(listener.fd, <sockaddr *> &address, &bytes)
    listener.family = <uint8_t> address.ss_family
    if listener.family == AF_INET:
        listener.port = ntohs((<sockaddr_in *> &address).sin_port)
        inet_ntop(AF_INET, &(<sockaddr_in *> &address).sin_addr, listener.name,
                  sizeof(listener.name))
    elif listener.family == AF_INET6:
        listener.port = ntohs((<sockaddr_in6 *> &address).sin6_port)
        inet_ntop(AF_INET6, &(<sockaddr_in6 *> &address).sin6_addr, listener.name,
                  sizeof(listener.name))
    else:
        # A unix socket has no host and no port; the names that RFC 3875 demands are these.
        memcpy(listener.name, b"localhost", 9)
    listener.name_bytes = <uint8_t> strlen(listener.name)


cdef copy_text(str name, str value, char *room, size_t most):
    data = value.encode()
    if <size_t> len(data) >= most:
        raise ValueError(f"{name}: {value!r} is longer than {most - 1} bytes")
    memcpy(room, <const char *> data, len(data))
    room[len(data)] = 0


cdef choose(str name, str value, tuple allowed):
    if value not in allowed:
        raise ValueError(f"{name}: {value!r} is none of {', '.join(allowed)}")
    return allowed.index(value)


cdef settings_fill(Core_ *core, given):
    # Checks what would break the core; friendlier checks stand where options are read
    # (kernelq.config).
    cdef Settings *settings = &core.settings
    if not 1 <= given.loops <= LOOPS_MAX:
        raise ValueError(f"loops: {given.loops} is not in 1..{LOOPS_MAX}")
    settings.loop_count = given.loops
    settings.ring_bytes = power_of_two_below(
        max(RING_BYTES_MIN, min(RING_BYTES_MAX, RING_BYTES_ALL // given.loops)))
    settings.idle_timeout_ns = given.idle_timeout_ns
    settings.header_timeout_ns = given.header_timeout_ns
    settings.entity_timeout_ns = given.entity_timeout_ns
    settings.min_send_rate = given.min_send_rate
    settings.field_length = given.max_field_length
    settings.request_bytes = given.max_request_bytes
    settings.target_bytes = given.max_target_bytes
    settings.field_count = given.max_field_count
    if given.max_request_bytes * 4 > settings.ring_bytes * 2:
        raise ValueError(
            f"max_request_bytes: {given.max_request_bytes} is more than a worker's ring can take")
    settings.content_limit = given.max_content
    settings.content_memory = min(given.content_memory, settings.ring_bytes // 4)
    settings.response_takeover = given.response_takeover
    settings.content_window = CONTENT_WINDOW
    settings.is_streamed = choose("content_mode", given.content_mode, ("held", "streamed")) == 1
    settings.half_close = choose("half_close", given.half_close, ("probe", "answer", "drop"))
    settings.keep_alive = given.keep_alive
    settings.connection_limit = given.max_connections or connection_limit_default()
    settings.log_level = given.log_level
    settings.has_access_log = given.access_log_fd >= 0
    settings.spin_ns = given.spin_ns
    cache_settings_fill(settings, given)
    copy_text("spill_dir", given.spill_dir, settings.spill_dir, sizeof(settings.spill_dir))
    copy_text("health_path", given.health_path, settings.health_path, sizeof(settings.health_path))
    settings.health_path_bytes = <uint16_t> strlen(settings.health_path)
    copy_text("server_name", given.server_name, settings.server_name, sizeof(settings.server_name))
    settings.server_name_bytes = <uint16_t> strlen(settings.server_name)
    core.access_fd = given.access_log_fd
    core.error_fd = given.error_log_fd
    core.limits.field_length = settings.field_length
    core.limits.request_bytes = settings.request_bytes
    core.limits.target_bytes = settings.target_bytes
    core.limits.field_count = settings.field_count
    packed = pack_trusted(given.trusted)
    core.trusted = <TrustedNetworks *> calloc(1, sizeof(TrustedNetworks))
    if core.trusted == NULL:
        raise MemoryError
    if trusted_init(core.trusted, packed, len(packed)) < 0:
        raise ValueError(f"trusted: {given.trusted!r} cannot be used")


cdef limits_fill(PoolLimits *limits, given):
    memset(limits, 0, sizeof(PoolLimits))
    if not 1 <= given.threads <= PLACES_MAX - PREFETCH_MAX:
        raise ValueError(f"threads: {given.threads} is not in 1..{PLACES_MAX - PREFETCH_MAX}")
    limits.slot_count = given.threads
    limits.place_count = given.threads + PREFETCH_MAX
    limits.queue_length = given.queue_length
    limits.queue_timeout_ns = given.queue_timeout_ns
    limits.request_timeout_ns = given.request_timeout_ns
    limits.ping_response_ns = given.ping_response_time_ns
    limits.redispatch = choose("redispatch", given.redispatch, ("idempotent", "always", "never"))
    limits.redispatch_limit = given.redispatch_limit
    limits.refuses_by_reset = given.refuses_by_reset
    limits.is_needed = given.is_needed
    copy_text("name", given.name, limits.name, sizeof(limits.name))
    limits.name_bytes = <uint16_t> strlen(limits.name)


cdef cache_settings_fill(Settings *settings, given):
    # In the order of CACHE_OFF, CACHE_PUBLIC, CACHE_RFC9111.
    mode = choose("cache", given.cache, ("off", "public", "rfc9111"))
    settings.cache_mode = mode if given.cache_size else 0
    settings.cache_bytes = given.cache_size
    settings.cache_entry_bytes = min(given.cache_max_entry, given.cache_size)
    settings.cache_frequent_hits = given.cache_frequent_hits
    settings.cache_frequent_s = seconds_above(given.cache_frequent_ns)
    settings.cache_scavenge_s = seconds_above(given.cache_scavenge_ns)
    settings.cache_status = given.cache_status


cdef seconds_above(ns):
    # Whole seconds, so that a short time does not become 0, which means something else.
    return -(-ns // 1000000000)


cdef connection_limit_default():
    # What the descriptors allow, less those that the core itself and its workers need.
    import resource
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - 256, 64) if soft != resource.RLIM_INFINITY else 1 << 20
