# Pools: made, changed, closed; which of them a loop looks at, and when; demand for workers.
#
# Rules
#  1. A PoolSide is touched by its own loop only, but for its letter.
#  2. A pool that is closed takes nothing more and is freed when every loop has let go of it
#     (pool_side_leave): by then no exchange names it.

# --- the table ------------------------------------------------------------------------------------

cdef Pool *pool_new(Core_ *core, const PoolLimits *limits) noexcept nogil:
    # NULL: no memory. Not in the table yet.
    cdef uint32_t loops = core.settings.loop_count
    cdef uint32_t index
    cdef size_t sides_at = (sizeof(Pool) + 127) & ~<size_t> 63
    cdef Pool *pool = <Pool *> calloc(1, sides_at + loops * sizeof(PoolSide))
    if pool == NULL:
        return NULL
    pthread_mutex_init(&pool.lock, NULL)
    pool.limits = limits[0]
    pool.loops_left = loops
    # calloc() promises 16 bytes: the next multiple of 64 leaves sides their own cache lines.
    pool.sides = <PoolSide *> ((<size_t> pool + sizeof(Pool) + 63) & ~<size_t> 63)
    for index in range(loops):
        pool.sides[index].pool = pool
    return pool


cdef void pool_free(Pool *pool) noexcept nogil:
    pthread_mutex_destroy(&pool.lock)
    free(pool)


cdef int pool_add(Core_ *core, Pool *pool) noexcept nogil:
    # Takes the pool: its number, or -ENOSPC.
    cdef int outcome = -ENOSPC
    pthread_mutex_lock(&core.table_lock)
    if core.pool_count < POOLS_MAX:
        core.pool_number += 1
        while core.pools[core.pool_number % POOLS_MAX] != NULL:
            core.pool_number += 1
        pool.number = core.pool_number
        core.pools[pool.number % POOLS_MAX] = pool
        core.pool_count += 1
        outcome = <int> pool.number
        pthread_mutex_lock(&pool.lock)
        pool_note_serving(core, pool)
        pthread_mutex_unlock(&pool.lock)
    pthread_mutex_unlock(&core.table_lock)
    if outcome < 0:
        pool_free(pool)
    return outcome


cdef Pool *pool_find(Core_ *core, uint32_t number) noexcept nogil:
    # [table lock] NULL: there is none.
    cdef Pool *pool = core.pools[number % POOLS_MAX]
    return pool if pool != NULL and pool.number == number else NULL


cdef int pool_set_limits(Core_ *core, uint32_t number, const PoolLimits *limits) noexcept nogil:
    # 0; -ENOENT: there is none; -EINVAL: its name is another. What loops read without the lock is
    # stored word by word.
    cdef Pool *pool
    cdef PoolLimits *own
    cdef int outcome = 0
    pthread_mutex_lock(&core.table_lock)
    pool = pool_find(core, number)
    if pool == NULL:
        outcome = -ENOENT
    elif (pool.limits.name_bytes != limits.name_bytes
            or memcmp(pool.limits.name, limits.name, limits.name_bytes) != 0):
        outcome = -EINVAL
    else:
        own = &pool.limits
        pthread_mutex_lock(&pool.lock)
        own.slot_count = limits.slot_count
        own.place_count = limits.place_count
        own.queue_length = limits.queue_length
        own.redispatch = limits.redispatch
        own.redispatch_limit = limits.redispatch_limit
        own.ping_response_ns = limits.ping_response_ns
        own.is_needed = limits.is_needed
        # relaxed, all three: a loop may learn of them a moment later
        atomic.store_relaxed(&own.queue_timeout_ns, limits.queue_timeout_ns)
        atomic.store_relaxed(&own.request_timeout_ns, limits.request_timeout_ns)
        atomic.store_relaxed_u8(&own.refuses_by_reset, limits.refuses_by_reset)
        pool_note_serving(core, pool)
        pthread_mutex_unlock(&pool.lock)
    pthread_mutex_unlock(&core.table_lock)
    return outcome


cdef int pool_close(Core_ *core, uint32_t number) noexcept nogil:
    # 0; -ENOENT: there is none; -EBUSY: it has workers; -EAGAIN: requests are queued; -EEXIST:
    # routes lead to it.
    cdef Pool *pool
    cdef int outcome = 0
    cdef uint32_t index
    pthread_mutex_lock(&core.table_lock)
    pool = pool_find(core, number)
    if pool == NULL:
        outcome = -ENOENT
    elif core.snapshot != NULL and routes_name_pool(core.snapshot.routes, number):
        outcome = -EEXIST
    else:
        pthread_mutex_lock(&pool.lock)
        if pool.workers != NULL:
            outcome = -EBUSY
        elif pool.queued:
            outcome = -EAGAIN
        else:
            pool.state = POOL_CLOSED
            pool_note_serving(core, pool)
        pthread_mutex_unlock(&pool.lock)
    if outcome == 0:
        core.pools[number % POOLS_MAX] = NULL
        core.pool_count -= 1
        pool.next_closed = core.closed_pools
        core.closed_pools = pool
    pthread_mutex_unlock(&core.table_lock)
    if outcome < 0:
        return outcome
    # From the first of these letters on a loop may let go; the pool stays until the last has.
    for index in range(core.settings.loop_count):
        pool.sides[index].letter.kind = LETTER_POOL_CLOSED
        pool.sides[index].letter.subject = &pool.sides[index]
        mailbox_post(&core.loops[index].mailbox, &pool.sides[index].letter)
    return 0


cdef bint routes_name_pool(const Routes *routes, uint32_t number) noexcept nogil:
    cdef uint32_t index
    for index in range(routes.pool_count):
        if routes.pools[index].number == number:
            return True
    return False


cdef void pool_let_go(Core_ *core, Pool *pool) noexcept nogil:
    # Every loop has.
    cdef Pool **link = &core.closed_pools
    bug.BUG_ON(pool.queued or pool.executing or pool.workers != NULL)
    pthread_mutex_lock(&core.table_lock)
    while link[0] != pool:
        link = &link[0].next_closed
    link[0] = pool.next_closed
    pthread_mutex_unlock(&core.table_lock)
    pool_free(pool)


cdef void pools_free(Core_ *core) noexcept nogil:
    # core_uninit(): no thread is left.
    cdef uint32_t index
    cdef Pool *pool
    for index in range(<uint32_t> POOLS_MAX):
        if core.pools[index] != NULL:
            pool_free(core.pools[index])
            core.pools[index] = NULL
    while core.closed_pools != NULL:
        pool = core.closed_pools
        core.closed_pools = pool.next_closed
        pool_free(pool)


# --- what a loop has of a pool --------------------------------------------------------------------

cdef inline void pool_due(Loop *loop, Pool *pool) noexcept nogil:
    # Looked at at the end of this turn, or of the next.
    cdef PoolSide *side = &pool.sides[loop.index]
    if side.is_due:
        return
    side.is_due = True
    side.next_due = NULL
    if loop.due_last == NULL:
        loop.due_first = side
    else:
        loop.due_last.next_due = side
    loop.due_last = side


cdef void pool_later(Loop *loop, Pool *pool, uint64_t at_ns) noexcept nogil:
    # Due from then on.
    cdef PoolSide *side = &pool.sides[loop.index]
    if side.later_ns == 0:
        side.next_later = loop.later
        loop.later = side
        side.later_ns = at_ns
    side.later_ns = min(side.later_ns, at_ns)
    loop.later_ns = earlier(loop.later_ns, at_ns)


cdef void loop_run_later(Loop *loop) noexcept nogil:
    cdef PoolSide **link = &loop.later
    cdef PoolSide *side
    loop.later_ns = 0
    while link[0] != NULL:
        side = link[0]
        if side.later_ns > loop.now_ns:
            loop.later_ns = earlier(loop.later_ns, side.later_ns)
            link = &side.next_later
            continue
        link[0] = side.next_later
        side.later_ns = 0
        pool_due(loop, side.pool)


cdef inline void exchange_enter(Loop *loop, Exchange *exchange, Pool *pool) noexcept nogil:
    # The exchange names the pool from now on, until it is freed.
    cdef PoolSide *side = &pool.sides[loop.index]
    bug.BUG_ON_DEAR(exchange.pool != NULL or exchange.loop != loop.index)
    exchange.pool = pool
    # relaxed, here and below: pool_look() wants no more than a figure
    atomic.store_relaxed_u32(&side.exchanges, side.exchanges + 1)
    if not side.is_active:
        side.is_active = True
        side.next_active = loop.active
        loop.active = side


cdef inline void exchange_exit(Loop *loop, Exchange *exchange) noexcept nogil:
    cdef PoolSide *side = &exchange.pool.sides[loop.index]
    bug.BUG_ON_DEAR(side.exchanges == 0)
    exchange.pool = NULL
    atomic.store_relaxed_u32(&side.exchanges, side.exchanges - 1)
    if side.is_closed:
        pool_side_leave(loop, side)


cdef inline void exchange_follow(Loop *loop, Exchange *exchange,
                                 const Exchange *first) noexcept nogil:
    # The same route as another one's.
    exchange.application = first.application
    exchange.generation = first.generation
    exchange_enter(loop, exchange, first.pool)


cdef void pool_on_closed(Loop *loop, PoolSide *side) noexcept nogil:
    # LETTER_POOL_CLOSED
    side.is_closed = True
    pool_side_leave(loop, side)


cdef void pool_side_leave(Loop *loop, PoolSide *side) noexcept nogil:
    # If nothing of this loop names the closed pool any more; the last loop frees it.
    cdef PoolSide **link
    cdef Pool *pool = side.pool
    if side.exchanges or side.is_due:
        return
    bug.BUG_ON(side.arrivals_first != NULL)
    side_watch(loop, side, False)
    link = &loop.active
    while link[0] != NULL and link[0] != side:
        link = &link[0].next_active
    if link[0] != NULL:
        link[0] = side.next_active
    link = &loop.later
    while link[0] != NULL and link[0] != side:
        link = &link[0].next_later
    if link[0] != NULL:
        link[0] = side.next_later
    if atomic.add_u32(&pool.loops_left, <uint32_t> -1) == 0:
        pool_let_go(loop.core, pool)


cdef void side_watch(Loop *loop, PoolSide *side, bint is_watched) noexcept nogil:
    if is_watched and not side.is_watched:
        loop.watched_count += 1
    elif side.is_watched and not is_watched:
        loop.watched_count -= 1
    side.is_watched = is_watched


cdef void loop_tick_pools(Loop *loop) noexcept nogil:
    # For each pool whichever loop comes first (the others may sleep). What has nothing of ours any
    # more is forgotten until it has again.
    cdef PoolSide **link = &loop.active
    cdef PoolSide *side
    while link[0] != NULL:
        side = link[0]
        if side.exchanges == 0 and not side.is_watched:
            link[0] = side.next_active
            side.is_active = False
            continue
        if pool_takes_tick(loop, side.pool):
            pool_check_health(loop, side)
            pool_expire(loop, side.pool)
        link = &side.next_active


cdef bint pool_takes_tick(Loop *loop, Pool *pool) noexcept nogil:
    cdef bint is_due
    if loop.now_ns < atomic.load_relaxed(&pool.tick_at_ns):  # relaxed: looked at again below
        return False
    pthread_mutex_lock(&pool.lock)
    is_due = loop.now_ns >= pool.tick_at_ns
    if is_due:
        atomic.store_relaxed(&pool.tick_at_ns, loop.now_ns + HEALTH_TICK_NS // 2)
    pthread_mutex_unlock(&pool.lock)
    return is_due


# --- readiness ------------------------------------------------------------------------------------

cdef void pool_note_serving(Core_ *core, Pool *pool) noexcept nogil:
    # [pool lock] After every change of state, limits or ready workers. A pool that starts workers
    # on demand serves without any: who asks for a response gets one.
    cdef bint has_worker = pool.state == POOL_ONLINE and pool.ready_count > 0
    cdef bint is_missed = (pool.limits.is_needed and not has_worker and pool.state != POOL_CLOSED)
    # relaxed: who reads it at this moment may as well have come a moment earlier
    atomic.store_relaxed_u8(&pool.is_serving, pool.state == POOL_ONLINE
                            and (has_worker or not pool.limits.is_needed))
    if is_missed != pool.is_missed:
        pool.is_missed = is_missed
        atomic.add_u32(&core.missed_pools, 1 if is_missed else <uint32_t> -1)


cdef bint core_is_ready(Core_ *core) noexcept nogil:
    # relaxed: a probe sees the change with the next one at the latest
    return (atomic.load_relaxed_u32(&core.is_draining) == 0
            and atomic.load_relaxed_u32(&core.missed_pools) == 0)


# --- demand ---------------------------------------------------------------------------------------

cdef uint64_t pool_oldest_ns(const Pool *pool) noexcept nogil:
    # [pool lock] Since when the oldest queued request waits; 0: none does.
    cdef uint64_t since = 0
    if pool.first != NULL:
        since = pool.first.queued_ns
    if pool.suspects_first != NULL:
        since = earlier(since, pool.suspects_first.queued_ns)
    return since


cdef bint pool_wants_worker(const Pool *pool, uint64_t now_ns, uint64_t *at_ns) noexcept nogil:
    # [pool lock] Whether EVENT_DEMAND is due; at_ns: when it will be, if nothing changes; 0: never.
    cdef uint64_t due_ns
    at_ns[0] = 0
    if not pool.demand_is_awaited or pool.queued == 0:
        return False
    if pool.ready_count == 0:
        return True
    if pool.demand_wait_ns == 0:
        return False
    # A worker that has just become ready is to show first what it can do.
    due_ns = max(pool_oldest_ns(pool), pool.demand_since_ns) + pool.demand_wait_ns
    if now_ns < due_ns:
        at_ns[0] = due_ns
    return now_ns >= due_ns


cdef bint pool_takes_demand(Loop *loop, Pool *pool) noexcept nogil:
    # [pool lock] True: demand_post() it, behind the lock.
    cdef uint64_t at_ns = 0
    if pool_wants_worker(pool, loop.now_ns, &at_ns):
        pool.demand_is_awaited = False
        return True
    if at_ns:
        pool_later(loop, pool, at_ns)
    return False


cdef void demand_post(Core_ *core, Pool *pool) noexcept nogil:
    # Where the event finds no room it is awaited further.
    if not event_post(core, EVENT_DEMAND, -1, pool.number):
        pthread_mutex_lock(&pool.lock)
        pool.demand_is_awaited = True
        pthread_mutex_unlock(&pool.lock)


cdef bint pool_await_demand(Core_ *core, uint32_t number, int64_t wait_ns) noexcept nogil:
    # Managers' thread. wait_ns below 0: not any more. False: there is no such pool.
    cdef Pool *pool
    cdef bint is_due = False, is_queued = False
    cdef uint64_t at_ns = 0
    pthread_mutex_lock(&core.table_lock)
    pool = pool_find(core, number)
    if pool != NULL:
        pthread_mutex_lock(&pool.lock)
        pool.demand_is_awaited = wait_ns >= 0
        pool.demand_wait_ns = <uint64_t> max(wait_ns, 0)
        pool.demand_since_ns = linux.now_ns()
        is_due = pool_wants_worker(pool, linux.now_ns(), &at_ns)
        is_queued = at_ns != 0
        if is_due:
            pool.demand_is_awaited = False
        pthread_mutex_unlock(&pool.lock)
        if is_due:
            demand_post(core, pool)
        elif is_queued:
            # A loop must look in time; any will do. Behind the table's lock the pool stays until
            # the letter is there, and the one about its end comes behind it.
            letter_send(&core.loops[0].mailbox, LETTER_POOL_DUE, pool, -1)
    pthread_mutex_unlock(&core.table_lock)
    return pool != NULL
