# Pools, workers, requests, routes and listeners as the managers see them: part of the doors
# (doors.pxi). What is shown is copied under a lock and made into objects without it.

cdef enum:
    TARGET_SHOWN_MAX = 1024        # bytes of a request target
    HOST_SHOWN_MAX = 256
    REQUESTS_AT_ONCE = 64          # copied at a time, under a pool's lock


cdef int pool_limits_fill(PoolLimits *limits, given) except -1:
    # Checks what would break the core.
    if not 1 <= given.threads <= PLACES_MAX - PREFETCH_MAX:
        raise ValueError(f"threads: {given.threads} is not in 1..{PLACES_MAX - PREFETCH_MAX}")
    memset(limits, 0, sizeof(PoolLimits))
    limits.slot_count = given.threads
    limits.place_count = given.threads + PREFETCH_MAX
    limits.queue_length = given.queue_length
    limits.queue_timeout_ns = given.queue_timeout_ns
    limits.request_timeout_ns = given.request_timeout_ns
    limits.ping_response_ns = given.ping_response_time_ns
    limits.redispatch = choose("redispatch", given.redispatch, ("idempotent", "always", "never"))
    limits.redispatch_limit = given.redispatch_limit
    limits.refuses_by_reset = 1 if given.refuses_by_reset else 0
    limits.is_needed = given.is_needed
    copy_text("name", given.name, limits.name, sizeof(limits.name))
    limits.name_bytes = <uint16_t> strlen(limits.name)
    return 0


cdef object no_pool(uint32_t number):
    return KeyError(f"no pool {number}")


cdef object pool_opened(Core_ *core, settings):
    cdef PoolLimits limits
    cdef Pool *pool
    cdef int outcome
    pool_limits_fill(&limits, settings)
    pool = pool_new(core, &limits)
    if pool == NULL:
        raise MemoryError
    outcome = pool_add(core, pool)
    if outcome < 0:
        raise OSError(-outcome, f"there are {POOLS_MAX} pools already")
    return outcome


cdef int pool_changed(Core_ *core, uint32_t number, settings) except -1:
    cdef PoolLimits limits
    cdef int outcome
    pool_limits_fill(&limits, settings)
    outcome = pool_set_limits(core, number, &limits)
    if outcome == -ENOENT:
        raise no_pool(number)
    if outcome < 0:
        raise ValueError(f"name: {settings.name!r} is not the name of pool {number}, which stays")
    return 0


cdef int pool_closed(Core_ *core, uint32_t number) except -1:
    cdef int outcome
    with nogil:
        outcome = pool_close(core, number)
    if outcome == -ENOENT:
        raise no_pool(number)
    if outcome < 0:
        what = {-EBUSY: "has workers", -EAGAIN: "has queued requests", -EEXIST: "has routes"}
        raise ValueError(f"pool {number} {what[outcome]}")
    return 0


cdef int pool_put_state(Core_ *core, uint32_t number, uint8_t state) except -1:
    cdef Pool *pool
    with nogil:
        pthread_mutex_lock(&core.table_lock)
        pool = pool_find(core, number)
        if pool != NULL:
            pool_set_state(core, pool, state)
        pthread_mutex_unlock(&core.table_lock)
    if pool == NULL:
        raise no_pool(number)
    return 0


# --- figures --------------------------------------------------------------------------------------

cdef struct PoolFigures:           # of a Pool, copied
    uint8_t state
    uint32_t queued, queue_length, ready_count, worker_count, executing, peak, unstarted
    uint64_t oldest_ns, service_ns
    uint64_t arrived, answered, rejected, redispatched, active_ns


cdef void pool_figures(Pool *pool, PoolFigures *seen) noexcept nogil:
    pthread_mutex_lock(&pool.lock)
    seen.state = pool.state
    seen.queued = pool.queued
    seen.queue_length = pool.limits.queue_length
    seen.ready_count = pool.ready_count
    seen.worker_count = pool.worker_count
    seen.executing = pool.executing
    seen.peak = pool.peak
    seen.oldest_ns = pool_oldest_ns(pool)
    seen.service_ns = pool.service_ns
    seen.arrived = pool.arrived
    seen.answered = pool.answered
    seen.rejected = pool.rejected
    seen.redispatched = pool.redispatched
    seen.active_ns = pool.active_ns
    pthread_mutex_unlock(&pool.lock)


cdef uint32_t pool_started(Pool *pool) noexcept nogil:
    # Requests whose execution has begun and has not ended.
    cdef const Worker *worker
    cdef uint32_t index
    cdef uint32_t count = 0
    pthread_mutex_lock(&pool.lock)
    worker = pool.workers
    while worker != NULL:
        for index in range(worker.place_count):
            count += worker.places[index].exchange != NULL and place_is_started(worker, index)
        worker = worker.next
    pthread_mutex_unlock(&pool.lock)
    return count


cdef bint pool_look(Core_ *core, uint32_t number, PoolFigures *seen) noexcept nogil:
    # unstarted: what loops have is read first, so that a request that ends meanwhile may be counted
    # as one that has not begun, never the other way round.
    cdef Pool *pool
    cdef uint32_t index
    cdef uint32_t exchanges = 0
    pthread_mutex_lock(&core.table_lock)
    pool = pool_find(core, number)
    if pool != NULL:
        for index in range(core.settings.loop_count):
            # relaxed: a loop's own figure, as it was a moment ago
            exchanges += atomic.load_relaxed_u32(&pool.sides[index].exchanges)
        pool_figures(pool, seen)
        seen.unstarted = exchanges - min(pool_started(pool), exchanges)
    pthread_mutex_unlock(&core.table_lock)
    return pool != NULL


cdef void pools_sum(Core_ *core, PoolFigures *sums) noexcept nogil:
    # For stats(); service_ns: of the slowest.
    cdef PoolFigures seen
    cdef uint32_t index
    memset(sums, 0, sizeof(PoolFigures))
    pthread_mutex_lock(&core.table_lock)
    for index in range(<uint32_t> POOLS_MAX):
        if core.pools[index] != NULL:
            pool_figures(core.pools[index], &seen)
            sums.queued += seen.queued
            sums.ready_count += seen.ready_count
            sums.service_ns = max(sums.service_ns, seen.service_ns)
    pthread_mutex_unlock(&core.table_lock)


cdef dict pool_shown(Core_ *core, uint32_t number):
    cdef PoolFigures seen
    cdef uint64_t now_ns = linux.now_ns()
    if not pool_look(core, number, &seen):
        raise no_pool(number)
    oldest_ns = 0
    if seen.oldest_ns:
        # At least 1: it came this very moment, or behind our look at the clock.
        oldest_ns = max(<int64_t> now_ns - <int64_t> seen.oldest_ns, <int64_t> 1)
    return {
        "state": next(name for name, value in POOL_STATES.items() if value == seen.state),
        "queued": seen.queued,
        "queue_length": seen.queue_length,
        "oldest_ns": oldest_ns,
        "ready": seen.ready_count,
        "workers": seen.worker_count,
        "executing": seen.executing,
        "unstarted": seen.unstarted,
        "peak": seen.peak,
        "arrived": seen.arrived,
        "answered": seen.answered,
        "rejected": seen.rejected,
        "redispatched": seen.redispatched,
        "last_activity_ns": seen.active_ns,
    }


cdef object pool_peak_taken(Core_ *core, uint32_t number):
    cdef Pool *pool
    cdef uint32_t peak = 0
    pthread_mutex_lock(&core.table_lock)
    pool = pool_find(core, number)
    if pool != NULL:
        pthread_mutex_lock(&pool.lock)
        peak = pool.peak
        pool.peak = pool.queued + pool.executing
        pthread_mutex_unlock(&pool.lock)
    pthread_mutex_unlock(&core.table_lock)
    if pool == NULL:
        raise no_pool(number)
    return peak


# --- requests -------------------------------------------------------------------------------------

cdef struct SeenRequest:           # of an Exchange that is queued or in a place, copied
    uint64_t serial
    uint64_t arrived_ns
    uint32_t application
    int64_t worker                 # -1: queued
    uint32_t method_bytes, target_bytes, host_bytes, remote_bytes
    uint8_t text[METHOD_BYTES_MAX + TARGET_SHOWN_MAX + HOST_SHOWN_MAX + ADDRESS_TEXT_MAX]


cdef void request_copy(SeenRequest *seen, const Exchange *exchange, int64_t worker) noexcept nogil:
    # [pool lock]
    cdef Span method, remote, target, host
    cdef uint8_t *at = seen.text
    image_line(exchange, &method, &remote, &target)
    host = image_field(exchange, FIELD_HOST)
    seen.serial = exchange.serial
    seen.arrived_ns = atomic.load_relaxed(&exchange.arrived_ns)  # relaxed: see maker_adopt()
    seen.application = exchange.application
    seen.worker = worker
    seen.method_bytes = span_cut(&method, METHOD_BYTES_MAX)
    seen.target_bytes = span_cut(&target, TARGET_SHOWN_MAX)
    seen.host_bytes = span_cut(&host, HOST_SHOWN_MAX)
    seen.remote_bytes = span_cut(&remote, ADDRESS_TEXT_MAX)
    at = span_put(span_put(at, method), target)
    span_put(span_put(at, host), remote)


cdef struct Found:                 # the oldest of those behind a serial
    uint32_t count
    const Exchange *exchanges[REQUESTS_AT_ONCE]
    int64_t workers[REQUESTS_AT_ONCE]


cdef void found_add(Found *found, const Exchange *exchange, int64_t worker,
                    uint64_t after) noexcept nogil:
    # In order of arrival; the youngest of too many falls out.
    cdef uint32_t at = found.count
    if exchange.serial <= after:
        return
    if at == REQUESTS_AT_ONCE:
        if found.exchanges[at - 1].serial < exchange.serial:
            return
        at -= 1
    else:
        found.count += 1
    while at > 0 and found.exchanges[at - 1].serial > exchange.serial:
        found.exchanges[at] = found.exchanges[at - 1]
        found.workers[at] = found.workers[at - 1]
        at -= 1
    found.exchanges[at] = exchange
    found.workers[at] = worker


cdef void found_add_queue(Found *found, const Exchange *exchange, uint64_t after) noexcept nogil:
    # The list is in order: those behind the last that has room are younger.
    cdef uint32_t left = REQUESTS_AT_ONCE
    while exchange != NULL and left:
        if exchange.serial > after:
            found_add(found, exchange, -1, after)
            left -= 1
        exchange = exchange.next


cdef uint32_t requests_look(Core_ *core, uint32_t number, uint64_t after,
                            SeenRequest *seen) noexcept nogil:
    # The oldest requests of a pool that arrived behind this serial: how many, at most
    # REQUESTS_AT_ONCE.
    cdef Pool *pool
    cdef const Worker *worker
    cdef Found found
    cdef uint32_t index
    found.count = 0
    pthread_mutex_lock(&core.table_lock)
    pool = pool_find(core, number)
    if pool != NULL:
        pthread_mutex_lock(&pool.lock)
        found_add_queue(&found, pool.first, after)
        found_add_queue(&found, pool.suspects_first, after)
        worker = pool.workers
        while worker != NULL:
            for index in range(worker.place_count):
                if worker.places[index].exchange != NULL:
                    found_add(&found, worker.places[index].exchange, worker.number, after)
            worker = worker.next
        for index in range(found.count):
            request_copy(&seen[index], found.exchanges[index], found.workers[index])
        pthread_mutex_unlock(&pool.lock)
    pthread_mutex_unlock(&core.table_lock)
    return found.count


cdef tuple request_texts(const SeenRequest *seen):
    # (method, target, host, client)
    cdef const uint8_t *target = seen.text + seen.method_bytes
    cdef const uint8_t *host = target + seen.target_bytes
    cdef const uint8_t *remote = host + seen.host_bytes
    return (seen.text[:seen.method_bytes].decode("latin-1"),
            target[:seen.target_bytes].decode("latin-1"),
            host[:seen.host_bytes].decode("latin-1"),
            remote[:seen.remote_bytes].decode("latin-1"))


cdef dict request_shown(const SeenRequest *seen, uint32_t pool, uint64_t now_ns):
    method, target, host, client = request_texts(seen)
    return {
        "pool": pool,
        "application": seen.application,
        "worker": seen.worker,
        "state": "queued" if seen.worker < 0 else "executing",
        "method": method,
        "target": target,
        "host": host,
        "client": client,
        "elapsed_ns": max(now_ns, seen.arrived_ns) - seen.arrived_ns,
    }


cdef list pool_numbers(Core_ *core):
    cdef uint32_t *numbers = <uint32_t *> malloc(POOLS_MAX * sizeof(uint32_t))
    cdef uint32_t index
    cdef uint32_t count = 0
    if numbers == NULL:
        raise MemoryError
    pthread_mutex_lock(&core.table_lock)
    for index in range(<uint32_t> POOLS_MAX):
        if core.pools[index] != NULL:
            numbers[count] = core.pools[index].number
            count += 1
    pthread_mutex_unlock(&core.table_lock)
    found = sorted([numbers[index] for index in range(count)])
    free(numbers)
    return found


cdef list requests_listed(Core_ *core, Py_ssize_t most, int64_t only):
    # only: one pool's; -1: all.
    cdef SeenRequest *seen
    cdef uint32_t number, index, count
    cdef uint64_t after
    cdef uint64_t now_ns = linux.now_ns()
    shown = []
    seen = <SeenRequest *> malloc(REQUESTS_AT_ONCE * sizeof(SeenRequest))
    if seen == NULL:
        raise MemoryError
    try:
        for number in pool_numbers(core) if only < 0 else [only]:
            after = 0
            count = REQUESTS_AT_ONCE
            while count == REQUESTS_AT_ONCE and len(shown) < most:
                with nogil:
                    count = requests_look(core, number, after, seen)
                for index in range(count):
                    after = seen[index].serial
                    shown.append(request_shown(&seen[index], number, now_ns))
    finally:
        free(seen)
    return shown[:max(most, 0)]


# --- routes ---------------------------------------------------------------------------------------

cdef int routes_set(Core_ *core, entries) except -1:
    cdef Routes *routes = routes_from(entries)
    cdef uint32_t wrong = 0
    cdef int outcome
    with nogil:
        outcome = routes_publish(core, routes, &wrong)
    if outcome == -ENOENT:
        raise ValueError(f"found pool {wrong}, which was not opened, or is closed")
    if outcome < 0:
        raise MemoryError
    with nogil:
        routes_await(core)
    return 0


cdef object route_found(Core_ *core, uint32_t listener, bytes address, bytes host, bytes path):
    cdef Snapshot *snapshot = snapshot_take(core)
    if snapshot == NULL:
        return None
    try:
        return routes_match(snapshot.routes, listener, address, host, path)
    finally:
        snapshot_release(core, snapshot)


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


# --- workers --------------------------------------------------------------------------------------

cdef struct WorkerFigures:         # of a Worker, what is guarded by the pool's lock, copied
    int pid
    uint8_t state
    bint is_unhealthy
    uint32_t in_hand
    uint32_t casualty_count
    uint64_t served
    uint64_t latency_ns
    Casualty casualties[CASUALTIES_MAX]


cdef void worker_figures(Worker *worker, WorkerFigures *seen) noexcept nogil:
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


cdef struct InHand:                # a request in a worker's place, copied
    SeenRequest request
    uint64_t handed_ns
    bint is_started


cdef bint inhand_read(Worker *worker, uint32_t index, InHand *seen) noexcept nogil:
    # False: nothing is in this place.
    cdef const Place *place = &worker.places[index]
    cdef bint is_there
    pthread_mutex_lock(&worker.pool.lock)
    is_there = place.exchange != NULL
    if is_there:
        request_copy(&seen.request, place.exchange, worker.number)
        seen.handed_ns = place.handed_ns
        seen.is_started = place_is_started(worker, index)
    pthread_mutex_unlock(&worker.pool.lock)
    return is_there


cdef dict inhand_info(const InHand *seen):
    method, target, _, client = request_texts(&seen.request)
    return {
        "method": method,
        "target": target,
        "client": client,
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


cdef dict worker_shown(Worker *worker):
    cdef WorkerFigures seen
    cdef InHand inhand
    cdef uint32_t index
    executing = []
    for index in range(worker.place_count):
        if inhand_read(worker, index, &inhand):
            executing.append(inhand_info(&inhand))
    worker_figures(worker, &seen)
    for index in range(min(seen.casualty_count, <uint32_t> CASUALTIES_MAX)):
        executing.append(casualty_info(&seen.casualties[index]))
    return {
        "pid": seen.pid,
        "pool": worker.pool.number,
        "generation": worker.generation,
        "state": WORKER_STATES[seen.state],
        "in_hand": seen.in_hand,
        "served": seen.served,
        "unhealthy": bool(seen.is_unhealthy),
        "latency_ns": seen.latency_ns,
        "executing": executing,
        "casualties": seen.casualty_count,
    }
