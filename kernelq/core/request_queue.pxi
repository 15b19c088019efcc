# The request queue of a pool, and dispatch.
#
# Rules
#  1. Everything here but pool_admit(), pool_expire() and pool_set_state() runs under pool.lock.
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
#  A request of an application that is newer than a worker (Exchange.generation) is not for that
#  worker: those behind it in the queue which are may overtake it.
#
# Why a queue with one lock: loops take it once per turn for dispatch and once per answer, for some
# ten instructions each (docs/decisions/004).

cdef enum:
    PREFETCH_NS = 1600000          # a worker is given at most so much work ahead
    SERVICE_UNKNOWN_NS = 1000000
    REVOKE_AFTER_NS = 1000000      # a prefetched request younger than this is left where it is


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
    bug.BUG_ON(exchange.state == EXCHANGE_QUEUED or exchange.pool != pool)
    if exchange.serial == 0:
        pool.serial += 1
        exchange.serial = pool.serial
    exchange.state = EXCHANGE_QUEUED
    exchange.worker = NULL
    if exchange.is_suspect:
        queue_link(&pool.suspects_first, &pool.suspects_last, exchange)
    else:
        queue_link(&pool.first, &pool.last, exchange)
        if exchange.next != NULL:
            pool.blocked = NULL  # it was taken back, and may belong before that
    pool.queued += 1
    pool.peak = max(pool.peak, pool.queued + pool.executing)


cdef void queue_unlink(Pool *pool, Exchange *exchange) noexcept nogil:
    cdef Exchange **first = &pool.suspects_first if exchange.is_suspect else &pool.first
    cdef Exchange **last = &pool.suspects_last if exchange.is_suspect else &pool.last
    bug.BUG_ON(exchange.state != EXCHANGE_QUEUED)
    if pool.blocked == exchange:
        pool.blocked = exchange.previous
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


cdef bint worker_takes(const Worker *worker, const Loop *loop, uint64_t generation) noexcept nogil:
    cdef const Lane *lane = &worker.lanes[loop.index]
    return (worker.state == WORKER_READY and worker.generation >= generation
            and not worker.is_solo and worker.waiting_suspect == NULL
            and not worker.is_unhealthy and not worker.has_timed_out and worker.free_count > 0
            and worker.deaf_since_ns == 0 and lane.is_open and not lane.requests.is_broken
            and lane.full_turn != loop.counters[COUNT_TURNS])


cdef int64_t prefetch_depth(const Pool *pool, const Worker *worker,
                            const Settings *settings) noexcept nogil:
    # As many as a worker executes while it would otherwise sleep and be woken, and no more than
    # have room in its response ring beside the answers of its slots: a full ring stops every
    # thread.
    cdef uint64_t service_ns = pool.service_ns if pool.service_ns else SERVICE_UNKNOWN_NS
    cdef uint64_t depth = PREFETCH_NS // service_ns
    cdef uint64_t room = settings.ring_bytes // 4 * 3 // (pool.answer_bytes + 1)
    depth = min(depth, worker.place_count - worker.slot_count)
    return <int64_t> min(depth, room - worker.slot_count if room > worker.slot_count else 0)


cdef inline int64_t worker_free_slots(const Worker *worker) noexcept nogil:
    # Below 0: so many are handed to it ahead.
    return <int64_t> worker.slot_count - worker_active(worker)


cdef Worker *worker_pick(Loop *loop, Pool *pool, uint64_t generation) noexcept nogil:
    # A worker with a free slot, the one with most of them; else one with prefetch places left; else
    # NULL.
    cdef Worker *worker = pool.workers
    cdef Worker *best = NULL
    cdef int64_t most = 0
    cdef int64_t slots
    while worker != NULL:
        if worker_takes(worker, loop, generation):
            slots = worker_free_slots(worker)
            if best == NULL or slots > most:
                best = worker
                most = slots
        worker = worker.next
    if best == NULL or most > 0:
        return best
    if -most < prefetch_depth(pool, best, &loop.core.settings) and best.revoked_count == 0:
        return best
    return NULL


cdef bint worker_hand(Loop *loop, Worker *worker, Exchange *exchange) noexcept nogil:
    # Writes the request into the worker's ring. False: it cannot be written now; nothing was
    # changed, and the worker is passed over for the rest of the turn.
    cdef Lane *lane = &worker.lanes[loop.index]
    cdef Lane *home = &worker.lanes[exchange.loop]
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
            lane_wake(loop, worker)
            pool_due(loop, worker.pool)  # a turn soon: lanes_drain() will see it
        return False
    index = worker.free_places[worker.free_count - 1]
    place = &worker.places[index]
    worker.serial += 1
    place.dispatch = worker.serial << 8 | exchange.loop
    if exchange.spill_fd >= 0 and not worker_pass_file(loop, worker, index, exchange.spill_fd):
        lane.full_turn = loop.counters[COUNT_TURNS]
        if worker.deaf_since_ns == 0:
            pool_later(loop, worker.pool, loop.now_ns + RETRY_NS)  # the kernel had no room for it
        return False
    memcpy(at, exchange.image, exchange.image_bytes)
    if inline_bytes:
        memcpy(at + align8(exchange.image_bytes), exchange.content, inline_bytes)
    head = <RecordHead *> at
    head.bytes = bytes
    head.place = <uint16_t> index
    head.dispatch = place.dispatch
    ring_publish(&lane.requests, bytes)
    lane_published(loop, worker)
    worker.free_count -= 1
    worker.in_hand += 1
    worker.pool.executing += 1
    atomic.store_relaxed_u32(&home.in_hand, home.in_hand + 1)  # relaxed: for lane_is_idle()
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


cdef inline bint pool_may_rebalance(const Pool *pool) noexcept nogil:
    # A worker that was handed more than it executes has at least two in hand.
    return pool.ready_count > 1 and pool.executing > 1


cdef void place_free(Loop *loop, Worker *worker, uint32_t index) noexcept nogil:
    cdef Place *place = &worker.places[index]
    cdef Lane *home = &worker.lanes[place.dispatch & 0xff]
    bug.BUG_ON(place.state == PLACE_FREE or home.in_hand == 0)
    if place.state == PLACE_REVOKED:
        worker.revoked_count -= 1
    else:
        worker.pool.executing -= 1
    atomic.store_relaxed_u32(&home.in_hand, home.in_hand - 1)  # relaxed: for lane_is_idle()
    place.state = PLACE_FREE
    place.exchange = NULL
    place.dispatch = 0
    worker.free_places[worker.free_count] = <uint16_t> index
    worker.free_count += 1
    worker.in_hand -= 1
    if worker.in_hand == 0:
        worker.is_solo = False
    if worker.pool.queued or pool_may_rebalance(worker.pool):
        pool_due(loop, worker.pool)  # who queues something afterwards says so again


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
            pool_due(loop, worker.pool)


cdef void suspects_dispatch(Loop *loop, Pool *pool) noexcept nogil:
    cdef Exchange *exchange = pool.suspects_first
    cdef Exchange *following
    cdef Worker *worker
    while exchange != NULL:
        following = exchange.next
        worker = worker_for_suspect(loop, exchange)
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


cdef Worker *worker_for_suspect(Loop *loop, Exchange *exchange) noexcept nogil:
    # The worker with least in hand; once chosen it is kept, unless another one has become idle
    # sooner. NULL: none now. Suspects never take the last of several workers: one that runs for
    # long would stop all others.
    cdef Worker *worker = exchange.pool.workers
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
        if (worker_takes(worker, loop, exchange.generation)
                and (best == NULL or worker.in_hand < best.in_hand)):
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
    # blocked: for this generation and those above there is no worker now. What waits at the start
    # of the queue for workers that were never ready is looked at once.
    cdef Exchange *exchange
    cdef Exchange *following
    cdef Worker *worker
    cdef uint64_t blocked = <uint64_t> -1
    cdef uint32_t scans_left = GENERATION_SCAN_MAX
    if pool.suspects_first != NULL:
        suspects_dispatch(loop, pool)
    exchange = pool.first if pool.blocked == NULL else pool.blocked.next
    while exchange != NULL and scans_left:
        following = exchange.next
        worker = NULL
        if exchange.generation < blocked:
            worker = worker_pick(loop, pool, exchange.generation)
        if worker != NULL:
            queue_unlink(pool, exchange)
            if not worker_hand(loop, worker, exchange):
                queue_push(pool, exchange)
                following = exchange  # once more, for another worker
        elif exchange.generation <= pool.oldest:
            return
        else:
            blocked = min(blocked, exchange.generation)
            scans_left -= 1
            if exchange.generation > pool.newest and exchange.previous == pool.blocked:
                pool.blocked = exchange
                if scans_left == 0:
                    pool_due(loop, pool)  # goes on behind it in the next turn
        exchange = following
    if pool_may_rebalance(pool):
        pool_rebalance(loop, pool)


cdef void pool_rebalance(Loop *loop, Pool *pool) noexcept nogil:
    # The queue is empty, or what is in it waits for workers to come. If one worker has a free slot
    # while another sits on requests that it does not start, take back the oldest of those; too
    # young ones are looked at again in a millisecond.
    cdef Worker *idle = worker_pick(loop, pool, 0)
    cdef Worker *worker = pool.workers
    cdef Exchange *exchange
    cdef uint32_t index
    if idle == NULL or worker_free_slots(idle) <= 0:
        return
    while worker != NULL:
        if worker != idle and worker.state == WORKER_READY and worker_free_slots(worker) < 0:
            index = place_oldest_unstarted(worker, idle.generation)
            if index < worker.place_count:
                if worker.places[index].handed_ns + REVOKE_AFTER_NS > loop.now_ns:
                    pool_later(loop, pool, worker.places[index].handed_ns + REVOKE_AFTER_NS)
                else:
                    exchange = place_revoke(loop, worker, index)
                    if exchange != NULL and not worker_hand(loop, idle, exchange):
                        queue_push(pool, exchange)
                    pool_later(loop, pool, loop.now_ns)
                return
        worker = worker.next


cdef uint32_t place_oldest_unstarted(const Worker *worker, uint64_t generation) noexcept nogil:
    # Of those that a worker of this generation may have. place_count: there is none.
    cdef uint32_t index
    cdef uint32_t oldest = worker.place_count
    cdef const Place *place
    for index in range(worker.place_count):
        place = &worker.places[index]
        if (place.state != PLACE_HANDED or place.exchange == NULL
                or place.exchange.generation > generation):
            continue
        # relaxed: place_revoke() looks properly
        if atomic.load_relaxed(&worker.started[index]) == place.dispatch:
            continue
        if (oldest == worker.place_count
                or place.dispatch >> 8 < worker.places[oldest].dispatch >> 8):
            oldest = index
    return oldest


cdef int pool_reason(const Pool *pool) noexcept nogil:
    # Why nothing of its queue will be executed; REASON_NONE: it will.
    if pool.state == POOL_ONLINE:
        return REASON_NONE
    if pool.state == POOL_OFFLINE:
        return REASON_APP_OFFLINE
    return REASON_APP_SHUTDOWN if pool.state == POOL_SHUTDOWN else REASON_DISABLED


cdef int queue_reason(const Pool *pool) noexcept nogil:
    # Why the queue takes nothing just now; REASON_NONE: it does.
    if pool.state != POOL_ONLINE:
        return pool_reason(pool)
    return REASON_QUEUE_FULL if pool.queued >= pool.limits.queue_length else REASON_NONE


cdef void loop_admit(Loop *loop) noexcept nogil:
    # The end of a turn. What becomes due meanwhile is looked at in the next one.
    cdef PoolSide *side = loop.due_first
    cdef PoolSide *following
    loop.due_first = NULL
    loop.due_last = NULL
    while side != NULL:
        following = side.next_due
        side.is_due = False
        # A hold: what is refused may be the last that names the pool. relaxed: for pool_look()
        atomic.store_relaxed_u32(&side.exchanges, side.exchanges + 1)
        pool_admit(loop, side)
        atomic.store_relaxed_u32(&side.exchanges, side.exchanges - 1)
        if side.is_closed:
            pool_side_leave(loop, side)
        side = following


cdef void pool_admit(Loop *loop, PoolSide *side) noexcept nogil:
    # This turn's complete requests go into the queue and, as far as there are credits, to workers.
    cdef Pool *pool = side.pool
    cdef Exchange *exchange = side.arrivals_first
    cdef Exchange *refused = NULL
    cdef Exchange *following
    cdef bint is_wanting = False
    side.arrivals_first = NULL
    side.arrivals_last = NULL
    pthread_mutex_lock(&pool.lock)
    if exchange != NULL:
        pool.active_ns = loop.now_ns
    while exchange != NULL:
        following = exchange.next
        exchange.next = NULL
        if not queue_takes(loop, pool, exchange):
            exchange.next = refused
            refused = exchange
        exchange = following
    pool_dispatch(loop, pool)
    if pool.queued:
        queue_refuse_all(loop.core, pool)
        is_wanting = pool_takes_demand(loop, pool)
    pthread_mutex_unlock(&pool.lock)
    if is_wanting:
        demand_post(loop.core, pool)
    while refused != NULL:
        following = refused.next
        refused.next = NULL
        exchange_refuse(loop, refused, refused.letter.reason)
        refused = following


cdef bint queue_takes(Loop *loop, Pool *pool, Exchange *exchange) noexcept nogil:
    # False: refused; its letter says why.
    cdef int reason = queue_reason(pool)
    pool.arrived += 1
    if reason == REASON_QUEUE_FULL:
        pool_dispatch(loop, pool)
        reason = queue_reason(pool)
    if reason != REASON_NONE:
        pool.rejected += 1
        exchange.letter.reason = <uint8_t> reason
        return False
    if exchange.queued_ns == 0:
        exchange.queued_ns = loop.now_ns  # else it has waited for another's response before
    queue_push(pool, exchange)
    return True


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
        queue_refuse(loop.core, pool, exchange, REASON_TIMER_REQUEST_QUEUE)
    pthread_mutex_unlock(&pool.lock)


cdef void queue_refuse(Core_ *core, Pool *pool, Exchange *exchange, int reason) noexcept nogil:
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
    # Nobody will execute what is queued, or comes back from dying workers, while the pool is not
    # online.
    cdef int reason = pool_reason(pool)
    if reason == REASON_NONE:
        return
    while pool.first != NULL:
        queue_refuse(core, pool, pool.first, reason)
    while pool.suspects_first != NULL:
        queue_refuse(core, pool, pool.suspects_first, reason)


cdef void pool_set_state(Core_ *core, Pool *pool, uint8_t state) noexcept nogil:
    # Managers' thread.
    pthread_mutex_lock(&pool.lock)
    pool.state = state
    pool_note_serving(core, pool)
    queue_refuse_all(core, pool)
    pthread_mutex_unlock(&pool.lock)
