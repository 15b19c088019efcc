# The core's pools: their table, what loops owe them, and what the managers wait for.
#
# Rules
#  1. The table's slots are written by the managers' thread, under pools_lock; loops read them
#     without it. A pool that is out of the table stays where it is until every loop has read
#     LETTER_POOL and let go of its last exchange.
#  2. A loop's PoolSide is that loop's alone.

cdef inline Pool *pool_at(Core_ *core, uint32_t slot) noexcept nogil:
    return <Pool *> atomic.load_acquire_ptr(&core.pools[slot])  # SYNC pools


cdef inline void pool_owe(Loop *loop, Pool *pool) noexcept nogil:
    # A credit came back, a request came, or a worker: dispatch is due this turn.
    cdef PoolSide *side = &pool.sides[loop.index]
    if not side.is_due:
        side.is_due = True
        side.next_due = loop.due
        loop.due = side


cdef void loop_owe_rebalance(Loop *loop) noexcept nogil:
    # Some prefetched request has become old enough to be taken back.
    cdef uint32_t slot
    cdef uint32_t high = atomic.load_acquire_u32(&loop.core.pools_high)  # SYNC pools
    cdef Pool *pool
    cdef PoolSide *side
    loop.rebalance_at_ns = 0
    for slot in range(high):
        pool = pool_at(loop.core, slot)
        side = &pool.sides[loop.index] if pool != NULL else NULL
        if side == NULL or side.rebalance_at_ns == 0:
            continue
        if side.rebalance_at_ns <= loop.now_ns:
            side.rebalance_at_ns = 0
            pool_owe(loop, pool)
        else:
            loop.rebalance_at_ns = earlier(loop.rebalance_at_ns, side.rebalance_at_ns)


# --- opening and closing --------------------------------------------------------------------------

cdef Pool *pool_new(Core_ *core, const PoolLimits *limits) noexcept nogil:
    # Managers' thread. NULL: no memory, or too many.
    cdef uint32_t slot = 0
    cdef uint32_t index
    cdef Pool *pool = <Pool *> calloc(1, sizeof(Pool))
    if pool == NULL:
        return NULL
    pool.sides = <PoolSide *> calloc(core.settings.loop_count, sizeof(PoolSide))
    while slot < POOLS_MAX and core.pools[slot] != NULL:
        slot += 1
    if pool.sides == NULL or slot == POOLS_MAX:
        free(pool.sides)
        free(pool)
        return NULL
    for index in range(core.settings.loop_count):
        pool.sides[index].pool = pool
    pthread_mutex_init(&pool.lock, NULL)
    pool.limits = limits[0]
    core.pool_number += 1
    pool.number = core.pool_number
    pthread_mutex_lock(&core.pools_lock)
    atomic.store_release_ptr(&core.pools[slot], pool)  # SYNC pools
    if slot >= core.pools_high:
        atomic.store_release_u32(&core.pools_high, slot + 1)  # SYNC pools
    pthread_mutex_unlock(&core.pools_lock)
    return pool


cdef Pool *pool_find(Core_ *core, uint32_t number) noexcept nogil:
    # Managers' thread, which is the only one that closes any. NULL: there is none.
    cdef uint32_t slot
    for slot in range(core.pools_high):
        if core.pools[slot] != NULL and core.pools[slot].number == number:
            return core.pools[slot]
    return NULL


cdef bint pool_stop(Pool *pool, uint32_t *workers, uint32_t *queued) noexcept nogil:
    # Managers' thread, before pool_close(). False: it has workers or requests, and goes on. Once it
    # is stopped, a request whose content is still coming is refused: nobody would look after a
    # queue that is out of the table.
    cdef bint is_unused
    pthread_mutex_lock(&pool.lock)
    workers[0] = pool.worker_count
    queued[0] = pool.queued
    is_unused = pool.worker_count == 0 and pool.queued == 0
    if is_unused:
        pool.state = POOL_DISABLED
        pool.awaits_demand = False
    pthread_mutex_unlock(&pool.lock)
    return is_unused


cdef void pool_close(Core_ *core, Pool *pool) noexcept nogil:
    # Managers' thread; nothing routes to it, and it is stopped. Freed at once before the loops run,
    # else by the last of them.
    cdef uint32_t slot = 0
    cdef uint32_t index
    cdef Letter *letter
    while core.pools[slot] != pool:
        slot += 1
    pool.sides_left = core.settings.loop_count
    pthread_mutex_lock(&core.pools_lock)
    atomic.store_release_ptr(&core.pools[slot], NULL)  # SYNC pools
    pthread_mutex_unlock(&core.pools_lock)
    if not core.is_started:
        pool_free(pool)
        return
    for index in range(core.settings.loop_count):
        letter = &pool.sides[index].letter
        letter.kind = LETTER_POOL
        letter.subject = pool
        mailbox_post(&core.loops[index].mailbox, letter)


cdef void pool_free(Pool *pool) noexcept nogil:
    pthread_mutex_destroy(&pool.lock)
    free(pool.sides)
    free(pool)


cdef void pool_on_closing(Loop *loop, Pool *pool) noexcept nogil:
    # LETTER_POOL
    pool.sides[loop.index].is_closing = True
    side_look_if_free(loop, pool)


cdef inline void pool_let_go(Loop *loop, Pool *pool) noexcept nogil:
    # An exchange that named it is freed.
    cdef PoolSide *side = &pool.sides[loop.index]
    bug.BUG_ON(side.exchanges == 0)
    side.exchanges -= 1
    if side.is_closing:
        side_look_if_free(loop, pool)


cdef void side_look_if_free(Loop *loop, Pool *pool) noexcept nogil:
    # It may be among those that pool_admit() goes through: the refusal of another pool's request can
    # free the last of this one's, if both wait for one response.
    cdef PoolSide *side = &pool.sides[loop.index]
    if side.exchanges:
        return
    if side.is_due:
        side_unlink(&loop.due, side)
        side_unlink(&loop.admitting, side)
        side.is_due = False
    side.is_closing = False
    if atomic.add_u32(&pool.sides_left, <uint32_t> -1) == 0:
        pool_free(pool)


cdef inline void side_unlink(PoolSide **link, const PoolSide *side) noexcept nogil:
    while link[0] != NULL and link[0] != side:
        link = &link[0].next_due
    if link[0] != NULL:
        link[0] = side.next_due


# --- what the managers wait for -------------------------------------------------------------------

cdef void pool_look_for_demand(Core_ *core, Pool *pool, uint64_t now_ns) noexcept nogil:
    # Under its lock. HttpWaitForDemandStart: one event for each time that it was asked for.
    cdef const Exchange *oldest = pool_oldest(pool)
    cdef uint64_t since
    if not pool.awaits_demand or oldest == NULL:
        return
    # A worker that has just become ready is to show first what it can do.
    since = max(oldest.queued_ns, pool.demand_since_ns)
    if pool.ready_count == 0 or (pool.demand_wait_ns and since + pool.demand_wait_ns <= now_ns):
        # Not told for want of memory: again with the next look.
        pool.awaits_demand = not event_post(core, EVENT_DEMAND, -1, pool.number)


cdef inline const Exchange *pool_oldest(const Pool *pool) noexcept nogil:
    # Under its lock: the request that has waited longest; NULL.
    if pool.first == NULL or (pool.suspects_first != NULL
                              and pool.suspects_first.queued_ns < pool.first.queued_ns):
        return pool.suspects_first
    return pool.first


cdef void pool_await_demand(Core_ *core, Pool *pool, int64_t wait_ns) noexcept nogil:
    # Managers' thread. wait_ns < 0: not any more.
    pthread_mutex_lock(&pool.lock)
    pool.awaits_demand = wait_ns >= 0
    pool.demand_wait_ns = <uint64_t> wait_ns if wait_ns > 0 else 0
    pool.demand_since_ns = linux.now_ns()
    pool_look_for_demand(core, pool, pool.demand_since_ns)
    pthread_mutex_unlock(&pool.lock)


# --- what is asked of a pool without its lock ------------------------------------------------------

cdef uint64_t pool_queue_timeout_ns(Pool *pool) noexcept nogil:
    cdef uint64_t limit
    pthread_mutex_lock(&pool.lock)
    limit = pool.limits.queue_timeout_ns
    pthread_mutex_unlock(&pool.lock)
    return limit


cdef bint pool_refuses_by_reset(Pool *pool) noexcept nogil:
    cdef bint resets
    pthread_mutex_lock(&pool.lock)
    resets = pool.limits.refuses_by_reset
    pthread_mutex_unlock(&pool.lock)
    return resets


cdef bint pool_is_as_needed(Pool *pool) noexcept nogil:
    cdef bint is_good
    pthread_mutex_lock(&pool.lock)
    is_good = not pool.limits.is_needed or (pool.state == POOL_ONLINE and pool.ready_count > 0)
    pthread_mutex_unlock(&pool.lock)
    return is_good


cdef bint pool_is_serving(Pool *pool) noexcept nogil:
    cdef bint is_serving
    pthread_mutex_lock(&pool.lock)
    is_serving = pool.state == POOL_ONLINE and pool.ready_count > 0
    pthread_mutex_unlock(&pool.lock)
    return is_serving


cdef bint core_is_ready(Core_ *core) noexcept nogil:
    # What /ready says: every pool that must always have a worker has one.
    cdef uint32_t slot
    cdef uint32_t high = atomic.load_acquire_u32(&core.pools_high)  # SYNC pools
    cdef Pool *pool
    if atomic.load_relaxed_u32(&core.is_draining):  # relaxed: seen by the next probe
        return False
    for slot in range(high):
        pool = pool_at(core, slot)
        if pool != NULL and not pool_is_as_needed(pool):
            return False
    return True
