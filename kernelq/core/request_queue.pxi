# The request queue of a pool, and dispatch.
#
# Rules
#  1. Everything here but pool_admit(), and what takes the lock itself, runs under pool.lock.
#  2. A request leaves the queue only into a worker's place, into a letter (refused), or with its
#     client.
#
# Theory of operation
#  A request is handed to the worker with most free slots. Only when no worker has a free slot are
#  some handed on as prefetch, so that a worker need not sleep between two requests; how many
#  follows from how long requests take (prefetch_depth). A prefetched request that its worker does
#  not start is taken back (place_revoke) when another worker has a free slot, when its client goes,
#  when the worker drains, is found unhealthy, or has not begun it after a second.
#  A suspect (its last worker died while executing it) runs alone: a worker is kept free for it, and
#  gets nothing else until it has answered.
#
# Why a queue with one lock: loops take it once per turn for dispatch and once per answer, for some
# ten instructions each (docs/decisions/004).

cdef enum:
    PREFETCH_NS = 1600000          # a worker is given at most so much work ahead
    SERVICE_UNKNOWN_NS = 1000000
    REVOKE_AFTER_NS = 1000000      # a prefetched request younger than this is left where it is
    GENERATION_ANY = 0xffffffffffffffff


cdef void queue_link(Exchange **first, Exchange **last, Exchange *exchange) noexcept nogil:
    # By order of arrival; new ones belong at the end, those taken back near the front.
    cdef Exchange *after = last[0]
    cdef Exchange *before
    if after != NULL and after.serial > exchange.serial:
        before = first[0]
        while before.serial < exchange.serial:
            before = before.next
        after = before.previous
    exchange.previous = after
    if after == NULL:
        exchange.next = first[0]
        first[0] = exchange
    else:
        exchange.next = after.next
        after.next = exchange
    if exchange.next == NULL:
        last[0] = exchange
    else:
        exchange.next.previous = exchange


cdef void queue_push(Pool *pool, Exchange *exchange) noexcept nogil:
    bug.BUG_ON(exchange.state == EXCHANGE_QUEUED)
    if exchange.serial == 0:
        pool.serial += 1
        exchange.serial = pool.serial
    exchange.state = EXCHANGE_QUEUED
    exchange.worker = NULL
    if exchange.is_suspect:
        queue_link(&pool.suspects_first, &pool.suspects_last, exchange)
    else:
        queue_link(&pool.first, &pool.last, exchange)
    pool.queued += 1
    pool.peak = max(pool.peak, pool.queued + pool.executing)


cdef void queue_unlink(Pool *pool, Exchange *exchange) noexcept nogil:
    cdef Exchange **first = &pool.suspects_first if exchange.is_suspect else &pool.first
    cdef Exchange **last = &pool.suspects_last if exchange.is_suspect else &pool.last
    bug.BUG_ON(exchange.state != EXCHANGE_QUEUED)
    if exchange.previous == NULL:
        first[0] = exchange.next
    else:
        exchange.previous.next = exchange.next
    if exchange.next == NULL:
        last[0] = exchange.previous
    else:
        exchange.next.previous = exchange.previous
    exchange.next = NULL
    exchange.previous = NULL
    exchange.state = EXCHANGE_RECEIVING
    bug.BUG_ON(pool.queued == 0)
    pool.queued -= 1


cdef uint32_t worker_active(const Worker *worker) noexcept nogil:
    # Places whose request was not taken back: executing or to be executed.
    return worker.in_hand - worker.revoked_count


cdef bint worker_is_open(const Worker *worker, const Loop *loop) noexcept nogil:
    cdef const Lane *lane = &worker.lanes[loop.index]
    return (worker.state == WORKER_READY and not worker.is_solo and worker.waiting_suspect == NULL
            and not worker.is_unhealthy and not worker.has_timed_out and worker.free_count > 0
            and worker.deaf_since_ns == 0 and lane.is_open and not lane.requests.is_broken
            and lane.full_turn != loop.counters[COUNT_TURNS])


cdef inline bint worker_takes(const Worker *worker, const Loop *loop,
                              const Exchange *exchange) noexcept nogil:
    return worker.generation >= exchange.generation and worker_is_open(worker, loop)


cdef uint32_t prefetch_depth(const Pool *pool, const Worker *worker,
                             const Settings *settings) noexcept nogil:
    # As many as a worker executes while it would otherwise sleep and be woken, and no more than
    # have room in its response ring beside the answers of its slots: a full ring stops every
    # thread.
    cdef uint64_t service_ns = pool.service_ns if pool.service_ns else SERVICE_UNKNOWN_NS
    cdef uint64_t depth = PREFETCH_NS // service_ns
    cdef uint64_t room = settings.ring_bytes // 4 * 3 // (pool.answer_bytes + 1)
    depth = min(depth, worker.place_count - worker.slot_count)
    return <uint32_t> min(depth, room - worker.slot_count if room > worker.slot_count else 0)


cdef Worker *worker_pick(Loop *loop, Pool *pool, const Exchange *exchange) noexcept nogil:
    # A worker with a free slot, the one with most of them; else one with prefetch places left; else
    # NULL.
    cdef Worker *worker = pool.workers
    cdef Worker *best = NULL
    cdef uint32_t most
    while worker != NULL:
        if (worker_takes(worker, loop, exchange)
                and (best == NULL or worker_active(worker) < worker_active(best))):
            best = worker
        worker = worker.next
    if best == NULL or worker_active(best) < best.slot_count:
        return best
    most = best.slot_count + prefetch_depth(pool, best, &loop.core.settings)
    return best if worker_active(best) < most and best.revoked_count == 0 else NULL


cdef bint worker_hand(Loop *loop, Worker *worker, Exchange *exchange) noexcept nogil:
    # Writes the request into the worker's ring. False: it cannot be written now; nothing was
    # changed, and the worker is passed over for the rest of the turn.
    cdef Lane *lane = &worker.lanes[loop.index]
    cdef uint32_t inline_bytes = 0
    cdef uint32_t bytes = exchange.image_bytes
    cdef uint32_t index
    cdef Place *place
    cdef RecordHead *head
    cdef uint8_t *at
    if exchange.content != NULL:
        inline_bytes = <uint32_t> exchange.content_received
        bytes = <uint32_t> align8(bytes) + inline_bytes
    at = ring_claim(&lane.requests, bytes, worker_side_reserve(worker))
    if at == NULL:
        lane.full_turn = loop.counters[COUNT_TURNS]
        if lane.requests.is_broken:
            pool_owe(loop, worker.pool)  # a turn soon: lanes_drain() will see it
        return False
    index = worker.free_places[worker.free_count - 1]
    place = &worker.places[index]
    worker.serial += 1
    place.dispatch = worker.serial << 8 | exchange.loop
    if exchange.spill_fd >= 0 and not worker_pass_file(loop, worker, index, exchange.spill_fd):
        lane.full_turn = loop.counters[COUNT_TURNS]
        return False
    memcpy(at, exchange.image, exchange.image_bytes)
    if inline_bytes:
        memcpy(at + align8(exchange.image_bytes), exchange.content, inline_bytes)
    head = <RecordHead *> at
    head.bytes = bytes
    head.place = <uint16_t> index
    head.dispatch = place.dispatch
    ring_publish(&lane.requests, bytes)
    lane.unrung += 1
    loop.ring_is_due = True
    worker.free_count -= 1
    worker.in_hand += 1
    worker.pool.executing += 1
    worker.is_solo = exchange.is_suspect
    place.exchange = exchange
    place.state = PLACE_HANDED
    place.handed_ns = loop.now_ns
    exchange.worker = worker
    exchange.place = <uint16_t> index
    exchange.state = EXCHANGE_HANDED
    atomic.tally(&loop.counters[COUNT_DISPATCHED], 1)
    if worker_active(worker) > worker.slot_count:
        atomic.tally(&loop.counters[COUNT_PREFETCHED], 1)
    bug.FAULT("handed, not rung")
    return True


cdef bint worker_pass_file(Loop *loop, Worker *worker, uint32_t index, int fd) noexcept nogil:
    # The spilled content of the request that is about to be handed to this place. A side socket
    # that the worker has closed is not yet a fault: it may just be dying (pool_check_health()).
    cdef SideMessage message
    cdef int error
    message.dispatch = worker.places[index].dispatch
    message.place = index
    message.kind = RECORD_REQUEST
    error = linux.send_fd(worker.side_fd, &message, sizeof(message), fd)
    if error == -EPIPE or error == -ECONNRESET:
        worker.deaf_since_ns = loop.now_ns
    return error >= 0


cdef void place_free(Loop *loop, Worker *worker, uint32_t index) noexcept nogil:
    cdef Place *place = &worker.places[index]
    bug.BUG_ON(place.state == PLACE_FREE)
    if place.state == PLACE_REVOKED:
        worker.revoked_count -= 1
    else:
        worker.pool.executing -= 1
    place.state = PLACE_FREE
    place.exchange = NULL
    place.dispatch = 0
    worker.free_places[worker.free_count] = <uint16_t> index
    worker.free_count += 1
    worker.in_hand -= 1
    if worker.in_hand == 0:
        worker.is_solo = False
    pool_owe(loop, worker.pool)


cdef Exchange *place_revoke(Loop *loop, Worker *worker, uint32_t index) noexcept nogil:
    # Takes a request back if its worker has not started it: gives it (in no list, not handed) or
    # NULL.
    cdef Place *place = &worker.places[index]
    cdef Exchange *exchange = place.exchange
    if place.state != PLACE_HANDED or exchange == NULL:
        return NULL
    atomic.store_seq(&worker.revoked[index], place.dispatch)  # SYNC revoked
    atomic.fence_seq()  # SYNC revoked
    if atomic.load_seq(&worker.started[index]) == place.dispatch:  # SYNC started
        # Seen once, and believed from now on: a worker that takes it back gains nothing.
        place.state = PLACE_CONTESTED
        exchange.state = EXCHANGE_STARTED
        return NULL
    place.state = PLACE_REVOKED
    place.exchange = NULL
    worker.revoked_count += 1
    worker.pool.executing -= 1
    exchange.worker = NULL
    exchange.state = EXCHANGE_RECEIVING
    atomic.tally(&loop.counters[COUNT_REVOKED], 1)
    return exchange


cdef inline bint place_is_started(const Worker *worker, uint32_t index) noexcept nogil:
    # As far as we know. A word that the worker cannot have been told is no word for "not started".
    cdef const Place *place = &worker.places[index]
    cdef uint64_t word
    if place.state == PLACE_STARTED or place.state == PLACE_CONTESTED:
        return True
    if worker.started == NULL or place.state != PLACE_HANDED:
        return False
    word = atomic.load_acquire(&worker.started[index])  # SYNC started
    return word == place.dispatch or word >> 8 > worker.serial


cdef void worker_revoke_all(Loop *loop, Worker *worker) noexcept nogil:
    # What it has not started goes back into the queue.
    cdef uint32_t index
    cdef Exchange *exchange
    if worker.worker_memory == NULL:
        return
    for index in range(worker.place_count):
        exchange = place_revoke(loop, worker, index)
        if exchange != NULL:
            queue_push(worker.pool, exchange)
            pool_owe(loop, worker.pool)


cdef void suspects_dispatch(Loop *loop, Pool *pool) noexcept nogil:
    cdef Exchange *exchange = pool.suspects_first
    cdef Exchange *following
    cdef Worker *worker
    while exchange != NULL:
        following = exchange.next
        worker = worker_for_suspect(loop, pool, exchange)
        if worker == NULL:
            exchange = following  # a later one may have a worker kept for it
            continue
        worker.waiting_suspect = exchange
        if worker.in_hand == 0:
            worker.waiting_suspect = NULL
            queue_unlink(pool, exchange)
            if not worker_hand(loop, worker, exchange):
                queue_push(pool, exchange)
                return
        exchange = following


cdef Worker *worker_for_suspect(Loop *loop, Pool *pool, Exchange *exchange) noexcept nogil:
    # The worker with least in hand; once chosen it is kept, unless another one has become idle
    # sooner. NULL: none now. Suspects never take the last of several workers: one that runs for
    # long would stop all others.
    cdef Worker *worker = pool.workers
    cdef Worker *best = NULL
    cdef Worker *kept = NULL
    cdef uint32_t usable = 0
    cdef uint32_t taken = 0
    while worker != NULL:
        if worker.state == WORKER_READY and not worker.is_unhealthy and not worker.has_timed_out:
            usable += 1
            taken += worker.is_solo or worker.waiting_suspect != NULL
            if worker.waiting_suspect == exchange:
                kept = worker
        elif worker.waiting_suspect == exchange:
            worker.waiting_suspect = NULL
        if worker_takes(worker, loop, exchange) and (best == NULL or worker.in_hand < best.in_hand):
            best = worker
        worker = worker.next
    if kept != NULL:
        if kept.in_hand == 0 or best == NULL or best.in_hand != 0:
            return kept
        kept.waiting_suspect = NULL
        return best
    return best if taken == 0 or taken + 1 < usable else NULL


cdef void suspect_release(Pool *pool, Exchange *exchange) noexcept nogil:
    # It leaves the queue by another way: its worker need not be kept any longer.
    cdef Worker *worker = pool.workers
    while worker != NULL:
        if worker.waiting_suspect == exchange:
            worker.waiting_suspect = NULL
        worker = worker.next


cdef void pool_dispatch(Loop *loop, Pool *pool) noexcept nogil:
    # In order of arrival; but a request for which only workers to come will do does not hold up
    # those behind it that are for others.
    cdef Exchange *exchange
    cdef Exchange *following
    cdef Worker *worker
    cdef uint64_t below = GENERATION_ANY
    if pool.suspects_first != NULL:
        suspects_dispatch(loop, pool)
    exchange = pool.first
    while exchange != NULL:
        following = exchange.next
        worker = worker_pick(loop, pool, exchange) if exchange.generation < below else NULL
        if worker == NULL:
            if exchange.generation <= pool_oldest_generation(pool):
                return  # if nobody takes this one, nobody takes any
            below = min(below, exchange.generation)
            exchange = following
            continue
        queue_unlink(pool, exchange)
        if worker_hand(loop, worker, exchange):
            exchange = following
        else:
            queue_push(pool, exchange)  # where it was; another worker may take it
    if pool.ready_count > 1:
        pool_rebalance(loop, pool)


cdef uint64_t pool_oldest_generation(const Pool *pool) noexcept nogil:
    # Of the workers that are ready; GENERATION_ANY: there are none.
    cdef const Worker *worker = pool.workers
    cdef uint64_t oldest = GENERATION_ANY
    while worker != NULL:
        if worker.state == WORKER_READY:
            oldest = min(oldest, worker.generation)
        worker = worker.next
    return oldest


cdef bint pool_has_idle(const Loop *loop, const Pool *pool) noexcept nogil:
    cdef const Worker *worker = pool.workers
    while worker != NULL:
        if worker_active(worker) < worker.slot_count and worker_is_open(worker, loop):
            return True
        worker = worker.next
    return False


cdef void pool_rebalance(Loop *loop, Pool *pool) noexcept nogil:
    # Nothing in the queue can be dispatched. If one worker has a free slot while another sits on
    # requests that it does not start, take back the oldest of those; too young ones are looked at
    # again in a millisecond.
    cdef Worker *worker = pool.workers
    cdef Worker *idle
    cdef Exchange *exchange
    cdef uint32_t index
    if not pool_has_idle(loop, pool):
        return
    while worker != NULL:
        index = worker.place_count
        if worker.state == WORKER_READY and worker_active(worker) > worker.slot_count:
            index = place_oldest_unstarted(worker, worker.place_count)
        if index < worker.place_count:
            exchange = worker.places[index].exchange
            idle = worker_pick(loop, pool, exchange)
            if idle != NULL and idle != worker and worker_active(idle) < idle.slot_count:
                rebalance_one(loop, worker, index, idle)
                return
        worker = worker.next


cdef void rebalance_one(Loop *loop, Worker *worker, uint32_t index, Worker *idle) noexcept nogil:
    cdef PoolSide *side = &worker.pool.sides[loop.index]
    cdef Exchange *exchange
    side.rebalance_at_ns = worker.places[index].handed_ns + REVOKE_AFTER_NS
    if side.rebalance_at_ns <= loop.now_ns:
        exchange = place_revoke(loop, worker, index)
        if exchange != NULL and not worker_hand(loop, idle, exchange):
            queue_push(worker.pool, exchange)
        side.rebalance_at_ns = loop.now_ns
    loop.rebalance_at_ns = earlier(loop.rebalance_at_ns, side.rebalance_at_ns)


cdef uint32_t place_oldest_unstarted(const Worker *worker, uint32_t place_count) noexcept nogil:
    # place_count: there is none.
    cdef uint32_t index
    cdef uint32_t oldest = place_count
    cdef const Place *place
    for index in range(place_count):
        place = &worker.places[index]
        if place.state != PLACE_HANDED or place.exchange == NULL:
            continue
        # relaxed: place_revoke() looks properly
        if atomic.load_relaxed(&worker.started[index]) == place.dispatch:
            continue
        if oldest == place_count or place.dispatch >> 8 < worker.places[oldest].dispatch >> 8:
            oldest = index
    return oldest


cdef int queue_reason(const Pool *pool) noexcept nogil:
    # Why the queue takes nothing just now; REASON_NONE: it does.
    if pool.state != POOL_ONLINE:
        return pool_state_reason(pool.state)
    if pool.queued >= pool.limits.queue_length:
        return REASON_QUEUE_FULL
    return REASON_NONE


cdef inline bint reason_is_of_queue(int reason) noexcept nogil:
    return (reason == REASON_QUEUE_FULL or reason == REASON_TIMER_REQUEST_QUEUE
            or reason == REASON_APP_OFFLINE or reason == REASON_APP_SHUTDOWN
            or reason == REASON_DISABLED)


cdef inline int pool_state_reason(uint8_t state) noexcept nogil:
    if state == POOL_OFFLINE:
        return REASON_APP_OFFLINE
    return REASON_DISABLED if state == POOL_DISABLED else REASON_APP_SHUTDOWN


cdef void pool_admit(Loop *loop) noexcept nogil:
    # This turn's complete requests go into their queues and, as far as there are credits, to
    # workers.
    cdef Exchange *exchange = loop.arrivals_first
    cdef Exchange *following
    cdef PoolSide *side
    loop.arrivals_first = NULL
    loop.arrivals_last = NULL
    while exchange != NULL:
        following = exchange.next
        side = &exchange.pool.sides[loop.index]
        chain_push(&side.arrivals_first, &side.arrivals_last, exchange)
        pool_owe(loop, exchange.pool)
        exchange = following
    # What a side is owed while this goes on is for the next turn.
    loop.admitting = loop.due
    loop.due = NULL
    while loop.admitting != NULL:
        side = loop.admitting
        loop.admitting = side.next_due
        side.is_due = False
        side_admit(loop, side)
        refused_turn_away(loop)


cdef void side_admit(Loop *loop, PoolSide *side) noexcept nogil:
    cdef Pool *pool = side.pool
    cdef Exchange *exchange = side.arrivals_first
    cdef Exchange *following
    cdef int reason
    side.arrivals_first = NULL
    side.arrivals_last = NULL
    pthread_mutex_lock(&pool.lock)
    while exchange != NULL:
        following = exchange.next
        exchange.next = NULL
        reason = queue_reason(pool)
        if reason == REASON_QUEUE_FULL:
            pool_dispatch(loop, pool)
            reason = queue_reason(pool)
        pool.arrived += 1
        pool.active_ns = loop.now_ns
        if reason == REASON_NONE:
            if exchange.queued_ns == 0:
                exchange.queued_ns = loop.now_ns  # else it has waited for another's response before
            queue_push(pool, exchange)
        else:
            pool.rejected += 1
            exchange.letter.reason = <uint8_t> reason
            chain_push(&loop.refused_first, &loop.refused_last, exchange)
        exchange = following
    pool_dispatch(loop, pool)
    queue_refuse_all(loop.core, pool)
    pool_look_for_demand(loop.core, pool, loop.now_ns)
    pthread_mutex_unlock(&pool.lock)


cdef void refused_turn_away(Loop *loop) noexcept nogil:
    # One by one off a list that arrivals_unlink() knows: the end of one may be that of another.
    cdef Exchange *exchange
    while loop.refused_first != NULL:
        exchange = loop.refused_first
        chain_unlink(&loop.refused_first, &loop.refused_last, exchange)
        queue_turn_away(loop, exchange, exchange.letter.reason)


cdef void queue_turn_away(Loop *loop, Exchange *exchange, int reason) noexcept nogil:
    # The queue did not take it, or not to the end; or not what it waited for. Level-4 balancers
    # want a reset in place of a 503 (IIS loadBalancerCapabilities TcpLevel).
    if (reason_is_of_queue(reason) and exchange.conn != NULL and not exchange.head_sent
            and pool_refuses_by_reset(exchange.pool)):
        exchange_reset(loop, exchange, reason)
    else:
        exchange_refuse(loop, exchange, reason)


cdef void pool_expire(Loop *loop, Pool *pool) noexcept nogil:
    # Requests that waited too long, whichever loop owns them: their loop answers.
    cdef uint64_t limit
    cdef Exchange *exchange
    pthread_mutex_lock(&pool.lock)
    limit = pool.limits.queue_timeout_ns
    while limit:
        exchange = pool.first
        if exchange == NULL or exchange.queued_ns + limit > loop.now_ns:
            exchange = pool.suspects_first
            if exchange == NULL or exchange.queued_ns + limit > loop.now_ns:
                break
        queue_refuse(loop.core, exchange, REASON_TIMER_REQUEST_QUEUE)
    pool_look_for_demand(loop.core, pool, loop.now_ns)
    pthread_mutex_unlock(&pool.lock)


cdef void queue_refuse(Core_ *core, Exchange *exchange, int reason) noexcept nogil:
    cdef Pool *pool = exchange.pool
    queue_unlink(pool, exchange)
    suspect_release(pool, exchange)
    pool.rejected += 1
    exchange.state = EXCHANGE_REFUSED
    exchange.is_posted = True
    exchange.letter.kind = LETTER_REFUSED
    exchange.letter.reason = <uint8_t> reason
    exchange.letter.is_owned = False
    exchange.letter.subject = exchange
    mailbox_post(&core.loops[exchange.loop].mailbox, &exchange.letter)


cdef void queue_refuse_all(Core_ *core, Pool *pool) noexcept nogil:
    # Nobody will execute what is queued, or comes back from dying workers, while the pool is
    # offline or disabled, or after the server's graceful timeout.
    cdef int reason
    if pool.state == POOL_ONLINE:
        return
    reason = pool_state_reason(pool.state)
    while pool.first != NULL:
        queue_refuse(core, pool.first, reason)
    while pool.suspects_first != NULL:
        queue_refuse(core, pool.suspects_first, reason)


cdef void pool_set_state(Core_ *core, Pool *pool, uint8_t state) noexcept nogil:
    # Managers' thread.
    pthread_mutex_lock(&pool.lock)
    pool.state = state
    queue_refuse_all(core, pool)
    pthread_mutex_unlock(&pool.lock)
