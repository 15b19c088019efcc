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

COUNTER_NAMES = (
    "connections", "connections_now", "requests", "answered", "refused", "client_gone",
    "dispatched", "prefetched", "revoked", "redispatched", "fields_dropped", "bytes_received",
    "bytes_sent", "spilled", "turns", "wakes", "bells", "log_lost", "exchanges_now", "chunks_now",
    "accept_failed", "distrusted", "cache_hits", "cache_misses", "cache_bypassed", "cache_stale",
    "cache_revalidated", "cache_collapsed",
)
EVENT_NAMES = (
    "ready", "gone", "unhealthy", "recovered", "hopeless", "timeout", "distrusted", "first_answer",
    "quiet",
)
WORKER_STATES = ("open", "starting", "ready", "draining", "distrusted", "dead")
POOL_STATES = {"online": POOL_ONLINE, "offline": POOL_OFFLINE, "shutdown": POOL_SHUTDOWN}


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
    """The core of one service process: loops, request queue, workers' channels.

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
        """Take a listening, non-blocking socket. Before start()."""
        cdef Listener *grown
        cdef Listener *listener
        if self.core.is_started:
            raise RuntimeError("add_listener() after start()")
        grown = <Listener *> realloc(self.core.listeners,
                                     sizeof(Listener) * (self.core.listener_count + 1))
        if grown == NULL:
            raise MemoryError
        self.core.listeners = grown
        listener = &grown[self.core.listener_count]
        memset(listener, 0, sizeof(Listener))
        listener.source.kind = SOURCE_LISTENER
        listener.fd = fd
        listener_name(listener)
        self.core.listener_count += 1

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

    def channel_open(self):
        """Make a worker's channel: (worker number, descriptors to pass to it).

        The descriptors, in the order of kernelq._worker.CHANNEL_FDS, are the caller's to pass on
        and close. Raises OSError.
        """
        cdef Worker *worker = NULL
        cdef int side_end = -1
        cdef int error
        cdef uint32_t index
        with nogil:
            error = worker_open(self.core, &worker, &side_end)
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
        for index in range(self.core.settings.place_count):
            if inhand_read(self.core, worker, index, &inhand):
                executing.append(inhand_info(&inhand))
        worker_figures(self.core, worker, &seen)
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
        }

    def set_pool_state(self, str state):
        """Say what becomes of requests: "online": they are queued; "offline": they get 503
        AppOffline, also those that are queued; "shutdown": new ones get 503 AppShutdown."""
        if state not in POOL_STATES:
            raise ValueError(f"pool state {state!r}: must be one of {', '.join(POOL_STATES)}")
        cdef uint8_t value = POOL_STATES[state]
        with nogil:
            pool_set_state(self.core, value)

    def begin_drain(self):
        """The readiness probe turns 503; everything else goes on."""
        pthread_mutex_lock(&self.core.pool.lock)
        self.core.is_draining = True
        pthread_mutex_unlock(&self.core.pool.lock)

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
        cdef uint32_t index, queued, ready_count
        cdef uint64_t service_ns
        figures = {name: core_count(self.core, index) for index, name in enumerate(COUNTER_NAMES)}
        pthread_mutex_lock(&self.core.pool.lock)
        queued = self.core.pool.queued
        ready_count = self.core.pool.ready_count
        service_ns = self.core.pool.service_ns
        pthread_mutex_unlock(&self.core.pool.lock)
        figures.update(queued=queued, workers_ready=ready_count, service_ns=service_ns)
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
        core.event_first = (core.event_first + 1) % EVENTS_MAX
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


cdef void worker_figures(Core_ *core, const Worker *worker, WorkerFigures *seen) noexcept nogil:
    pthread_mutex_lock(&core.pool.lock)
    seen.pid = worker.pid
    seen.state = worker.state
    seen.is_unhealthy = worker.is_unhealthy
    seen.in_hand = worker.in_hand
    seen.casualty_count = worker.casualty_count
    seen.served = worker.served
    seen.latency_ns = worker.latency_ns
    memcpy(seen.casualties, worker.casualties, sizeof(seen.casualties))
    pthread_mutex_unlock(&core.pool.lock)


cdef struct InHand:                # a request in a worker's place, copied
    uint8_t text[METHOD_BYTES_MAX + ADDRESS_TEXT_MAX + TARGET_SHOWN_MAX]
    uint32_t method_bytes, target_bytes, remote_bytes
    uint64_t handed_ns
    bint is_started


cdef bint inhand_read(Core_ *core, Worker *worker, uint32_t index, InHand *seen) noexcept nogil:
    # False: nothing is in this place.
    cdef const Place *place = &worker.places[index]
    cdef Span method, remote, target
    cdef uint8_t *at = seen.text
    pthread_mutex_lock(&core.pool.lock)
    if place.exchange == NULL:
        pthread_mutex_unlock(&core.pool.lock)
        return False
    image_line(place.exchange, &method, &remote, &target)
    seen.method_bytes = span_cut(&method, METHOD_BYTES_MAX)
    seen.target_bytes = span_cut(&target, TARGET_SHOWN_MAX)
    seen.remote_bytes = span_cut(&remote, ADDRESS_TEXT_MAX)
    at = span_put(at, method)
    at = span_put(at, target)
    span_put(at, remote)
    seen.handed_ns = place.handed_ns
    seen.is_started = place_is_started(worker, index)
    pthread_mutex_unlock(&core.pool.lock)
    return True


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
    if not 1 <= given.threads <= PLACES_MAX - PREFETCH_MAX:
        raise ValueError(f"threads: {given.threads} is not in 1..{PLACES_MAX - PREFETCH_MAX}")
    settings.loop_count = given.loops
    settings.slot_count = given.threads
    settings.place_count = given.threads + PREFETCH_MAX
    settings.ring_bytes = power_of_two_below(
        max(RING_BYTES_MIN, min(RING_BYTES_MAX, RING_BYTES_ALL // given.loops)))
    settings.queue_length = given.queue_length
    settings.queue_timeout_ns = given.queue_timeout_ns
    settings.request_timeout_ns = given.request_timeout_ns
    settings.idle_timeout_ns = given.idle_timeout_ns
    settings.header_timeout_ns = given.header_timeout_ns
    settings.entity_timeout_ns = given.entity_timeout_ns
    settings.min_send_rate = given.min_send_rate
    settings.ping_response_ns = given.ping_response_time_ns
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
    settings.redispatch = choose("redispatch", given.redispatch, ("idempotent", "always", "never"))
    settings.redispatch_limit = given.redispatch_limit
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
