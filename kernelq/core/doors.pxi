# The doors: what the managers see of the core. With the other *_doors.pxi the only parts that touch
# Python.
#
# Rules
#  1. Python's values are checked here, and exceptions raised here, before a lock is taken or a
#     thread started; the other parts know neither.
#  2. A door may be used from any thread of the service process: it takes the lock that guards what
#     it touches, or sends a letter to the loop that owns it.
#  3. No Python while a lock is held that a loop may want: an allocation can run a finalizer, and
#     that anything.

from kernelq.trusted import pack_trusted

COUNTER_NAMES = (
    "connections", "connections_now", "requests", "answered", "refused", "client_gone",
    "dispatched", "prefetched", "revoked", "redispatched", "fields_dropped", "bytes_received",
    "bytes_sent", "spilled", "turns", "wakes", "bells", "log_lost", "exchanges_now", "chunks_now",
    "accept_failed", "distrusted", "cache_hits", "cache_misses", "cache_bypassed", "cache_stale",
    "cache_revalidated", "cache_collapsed",
)
EVENT_NAMES = (
    "ready", "gone", "unhealthy", "recovered", "hopeless", "timeout", "distrusted", "first_answer",
    "quiet", "quota", "demand",
)
WORKER_STATES = ("open", "starting", "ready", "draining", "distrusted", "dead")
# What set_pool_state() knows; a closed pool has no number any more.
POOL_STATES = {
    "online": POOL_ONLINE,
    "offline": POOL_OFFLINE,
    "disabled": POOL_DISABLED,
    "shutdown": POOL_SHUTDOWN,
}


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
            "Pool": sizeof(Pool),
            "PoolSide": sizeof(PoolSide),
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
    """The core of one service process: loops, pools with their queues, workers' channels.

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
        """Take a listening, non-blocking socket, at any time: its number, for routes. Raises
        OSError: it is too late, or there are too many."""
        cdef Listener *listener = <Listener *> calloc(1, sizeof(Listener))
        cdef int outcome
        if listener == NULL:
            raise MemoryError
        listener.source.kind = SOURCE_LISTENER
        listener.fd = fd
        listener_name(listener)
        outcome = listener_add(self.core, listener)
        if outcome < 0:
            raise OSError(-outcome, os_error_text(-outcome))
        return outcome

    def remove_listener(self, uint32_t number):
        """Answer what is in its backlog, then close it; its connections end when they may. Raises
        KeyError."""
        cdef int outcome = listener_remove(self.core, number)
        if outcome == -ENOMEM:
            raise MemoryError
        if outcome < 0:
            raise KeyError(f"no listener {number}")

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
        """Make a pool, online and empty; settings: the attributes of
        kernelq.config.CorePoolSettings. Its number, which is never used again. Raises ValueError,
        and OSError: there are too many."""
        return pool_opened(self.core, settings)

    def pool_change(self, uint32_t pool, settings):
        """Other settings from now on; threads are those of workers to come, the name stays. Raises
        KeyError and ValueError."""
        pool_changed(self.core, pool, settings)

    def pool_close(self, uint32_t pool):
        """Forget a pool. Raises KeyError, and ValueError: it has workers, queued requests or
        routes."""
        pool_closed(self.core, pool)

    def pool_await_demand(self, uint32_t pool, int64_t wait_ns):
        """Post the event ("demand", -1, pool) once, as soon as requests are queued and no worker is
        ready, or, if wait_ns is not 0, the oldest has waited so long. Below 0: not any more."""
        cdef bint is_known
        with nogil:
            is_known = pool_await_demand(self.core, pool, wait_ns)
        if not is_known:
            raise KeyError(f"no pool {pool}")

    def pool_info(self, uint32_t pool):
        """State and figures of a pool: a dict."""
        return pool_shown(self.core, pool)

    def pool_take_peak(self, uint32_t pool):
        """Most requests that were executing or queued at a time since the last call."""
        return pool_peak_taken(self.core, pool)

    def requests(self, Py_ssize_t most, int64_t pool=-1):
        """Queued and executing requests of all pools, or of one, the oldest of each pool first: at
        most so many dicts."""
        return requests_listed(self.core, most, pool)

    def set_routes(self, entries):
        """Which application answers what, from now on: tuples (listener number, address bytes: b""
        any, 4 or 16, host, prefix bytes, application, pool number, site, generation, is_enabled).
        Raises ValueError, and then nothing has changed."""
        routes_set(self.core, entries)

    def route(self, uint32_t listener, bytes address, bytes host, bytes path):
        """What a request would be for: (application, pool, site, prefix), or None."""
        return route_found(self.core, listener, address, host, path)

    def channel_open(self, uint32_t pool, uint64_t generation):
        """Make a channel for a worker of this pool: (worker number, descriptors to pass to it).

        It takes requests whose generation is not greater than its own. The descriptors, in the
        order of kernelq._worker.CHANNEL_FDS, are the caller's to pass on and close. Raises KeyError
        and OSError.
        """
        cdef Worker *worker = NULL
        cdef int side_end = -1
        cdef int error
        cdef uint32_t index
        with nogil:
            error = worker_open(self.core, pool, generation, &worker, &side_end)
        if error == -ENOENT:
            raise KeyError(f"no pool {pool}")
        if error < 0:
            raise OSError(-error, "cannot open a worker's channel")
        fds = [side_end]
        try:
            fds.insert(0, fd_copy(worker.core_fd))
            fds.insert(1, fd_copy(worker.worker_fd))
            for index in range(self.core.settings.loop_count):
                fds.append(worker.doorbell_ends[index])
                worker.doorbell_ends[index] = -1
                fds.append(fd_copy(worker.bells[index]))
        except OSError:
            for fd in fds:
                linux.close(fd)
            with nogil:
                worker_forget(self.core, worker)
            raise
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
        return worker_shown(self.find(number))

    def worker_quota(self, uint32_t number, uint64_t requests):
        """Post the event ("quota", worker, served) once, when it has answered so many; 0: not any
        more."""
        worker_set_quota(self.core, self.find(number), requests)

    def set_pool_state(self, uint32_t pool, str state):
        """Say what becomes of its requests: "online": they are queued. Else they get a 503, also
        those that are queued: "offline": AppOffline, "disabled": Disabled, "shutdown":
        AppShutdown. Raises KeyError and ValueError."""
        if state not in POOL_STATES:
            raise ValueError(f"pool state {state!r}: must be one of {', '.join(POOL_STATES)}")
        cdef uint8_t value = POOL_STATES[state]
        pool_put_state(self.core, pool, value)

    def begin_drain(self):
        """The readiness probe turns 503; everything else goes on."""
        # relaxed: a probe sees it a moment later at most
        atomic.store_relaxed_u32(&self.core.is_draining, 1)

    def begin_shutdown(self):
        """Accept what is in the backlog, close the listeners, finish. The event "quiet" says when
        nothing is left."""
        cdef uint32_t index
        self.begin_drain()
        pthread_mutex_lock(&self.core.table_lock)
        self.core.is_shut = True
        pthread_mutex_unlock(&self.core.table_lock)
        for index in range(self.core.settings.loop_count):
            letter_send(&self.core.loops[index].mailbox, LETTER_SHUTDOWN, NULL, -1)

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
        """The counters, summed over the loops, and the queues' figures: a dict of ints."""
        cdef uint32_t index
        cdef PoolFigures sums
        figures = {name: core_count(self.core, index) for index, name in enumerate(COUNTER_NAMES)}
        pools_sum(self.core, &sums)
        figures.update(queued=sums.queued, workers_ready=sums.ready_count,
                       service_ns=sums.service_ns)
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


cdef int fd_copy(int fd) except -1:
    cdef int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if copy < 0:
        raise OSError(linux.errno, os_error_text(linux.errno))
    return copy


cdef str os_error_text(int error):
    import os
    return os.strerror(error)


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
