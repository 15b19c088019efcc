# What workers say: records from their response rings, checked, and applied to exchanges.
#
# Rules
#  1. A record is believed only as far as it was checked here. -1 from any function: the worker
#     broke the protocol and is distrusted; a fault of the application alone (an invalid response
#     head) costs only its own request.
#  2. A record names a place and a dispatch; it reaches an exchange only if the place still has that
#     dispatch, which was never used before and whose low byte says that the exchange is this
#     loop's.
#
# Fairness: a lane is drained to what was published when its turn came, at most one ring; a worker
# that writes as fast as we read cannot hold the loop.

cdef enum:
    RECORDS_PER_DRAIN = 512        # per lane and turn


cdef void lane_drain(Loop *loop, Worker *worker) noexcept nogil:
    cdef Lane *lane = &worker.lanes[loop.index]
    cdef RecordHead head
    cdef const uint8_t *body = NULL
    cdef uint32_t left = RECORDS_PER_DRAIN
    cdef int outcome = RING_EMPTY
    while left:
        outcome = ring_peek(&lane.answers, &head, &body)
        if outcome != RING_RECORD:
            break
        left -= 1
        if answer_on_record(loop, worker, &head, body) < 0:
            outcome = RING_BROKEN
            break
        ring_release(&lane.answers, head.bytes)
    if outcome == RING_BROKEN:
        worker_distrust(loop, worker)


cdef void lane_drain_rest(Loop *loop, Worker *worker) noexcept nogil:
    # What stands in the ring now that the worker is dead. At most one ring: a child that it left
    # behind may still write.
    cdef RingReader *answers = &worker.lanes[loop.index].answers
    cdef uint64_t end = answers.position + answers.bytes
    cdef uint64_t before = answers.position - 1
    while answers.position != before and answers.position < end and ring_has_record(answers):
        before = answers.position
        lane_drain(loop, worker)


cdef void lanes_drain(Loop *loop) noexcept nogil:
    cdef uint32_t index = 0
    cdef Worker *worker
    cdef Lane *lane
    while index < loop.busy_count:
        worker = loop.busy[index]
        lane = &worker.lanes[loop.index]
        if lane.is_open and worker_is_trusted(worker):
            if lane.requests.is_broken:
                worker_distrust(loop, worker)
            elif ring_has_record(&lane.answers):
                lane_drain(loop, worker)
        index += 1


cdef int answer_on_record(Loop *loop, Worker *worker, const RecordHead *head,
                          const uint8_t *body) noexcept nogil:
    cdef Exchange *exchange = NULL
    if head.kind == RECORD_READY:
        return worker_on_ready(loop, worker)
    if head.kind == RECORD_PONG:
        return worker_on_pong(loop, worker, head, body)
    if head.kind == RECORD_SKIPPED:
        return place_on_skipped(loop, worker, head)
    if head.kind == RECORD_CALL:
        return call_on_record(loop, worker, head, body)
    if head.kind < RECORD_HEAD or head.kind > RECORD_CONSUMED or head.kind == RECORD_INTERIM:
        return -1
    if not place_find(loop, worker, head, &exchange):
        return -1
    if head.kind == RECORD_HEAD:
        return answer_on_head(loop, worker, exchange, head, body)
    if head.kind == RECORD_DATA:
        return answer_on_data(loop, worker, exchange, head, body)
    if head.kind == RECORD_END:
        return answer_on_end(loop, worker, exchange, head)
    if head.kind == RECORD_FILE:
        return answer_on_file(loop, worker, exchange, head, body)
    return answer_on_consumed(loop, worker, exchange, head, body)


cdef bint place_find(Loop *loop, Worker *worker, const RecordHead *head,
                     Exchange **exchange) noexcept nogil:
    # The record's place must hold its dispatch, and be of this loop. Fills exchange, NULL if its
    # client has gone.
    cdef Pool *pool = worker.pool
    cdef Place *place
    cdef bint is_right = False
    if head.place >= worker.place_count or head.dispatch & 0xff != loop.index:
        return False
    pthread_mutex_lock(&pool.lock)
    place = &worker.places[head.place]
    if (place.dispatch == head.dispatch
            and place.state != PLACE_FREE and place.state != PLACE_REVOKED):
        is_right = True
        exchange[0] = place.exchange
        if place.state != PLACE_STARTED:
            place.state = PLACE_STARTED
            if place.exchange != NULL:
                place.exchange.state = EXCHANGE_STARTED
    pthread_mutex_unlock(&pool.lock)
    return is_right


cdef int place_on_skipped(Loop *loop, Worker *worker, const RecordHead *head) noexcept nogil:
    # A revoked request was passed over. If we thought it started (both sides saw the other), it is
    # requeued now.
    cdef Pool *pool = worker.pool
    cdef Exchange *exchange
    cdef Place *place
    cdef int outcome = 0
    if head.place >= worker.place_count or head.dispatch & 0xff != loop.index:
        return -1
    pthread_mutex_lock(&pool.lock)
    place = &worker.places[head.place]
    if place.dispatch != head.dispatch or (
            place.state != PLACE_REVOKED and place.state != PLACE_CONTESTED):
        outcome = -1
    else:
        exchange = place.exchange
        place_free(loop, worker, head.place)
        if exchange != NULL and exchange_is_wanted(exchange):
            exchange.state = EXCHANGE_RECEIVING
            exchange.started_ns = 0
            queue_push(pool, exchange)
            pool_due(loop, pool)
            exchange = NULL
        elif exchange != NULL:
            exchange.worker = NULL
            exchange.state = EXCHANGE_DONE
    pthread_mutex_unlock(&pool.lock)
    if outcome == 0 and exchange != NULL:
        exchange_free_unless_held(loop, exchange)
    return outcome


cdef int worker_on_pong(Loop *loop, Worker *worker, const RecordHead *head,
                        const uint8_t *body) noexcept nogil:
    # Loop 0 has asked (worker_ping).
    cdef NumberRecord record
    cdef bint is_right
    if head.bytes != sizeof(NumberRecord):
        return -1
    memcpy(&record, body, sizeof(record))
    pthread_mutex_lock(&worker.pool.lock)
    is_right = worker.ping_sent_ns != 0 and record.value == worker.ping_sent_ns
    if is_right:
        worker.latency_ns = loop.now_ns - record.value
        worker.ping_sent_ns = 0
    pthread_mutex_unlock(&worker.pool.lock)
    return 0 if is_right else -1


cdef int answer_on_head(Loop *loop, Worker *worker, Exchange *exchange, const RecordHead *head,
                        const uint8_t *body) noexcept nogil:
    cdef ResponseRecord record
    cdef uint64_t head_bytes
    cdef int reason
    if head.bytes < sizeof(record):
        return -1
    memcpy(&record, body, sizeof(record))
    if record.content_bytes > head.bytes or record.content_length < -1:
        return -1
    if record.content_bytes:
        head_bytes = (head.bytes - record.content_bytes) & ~<uint64_t> 7
        if align8(head_bytes) + record.content_bytes != head.bytes:
            return -1
    else:
        head_bytes = head.bytes
    if head_bytes < sizeof(record) or head_bytes > HEAD_SCRATCH_BYTES:
        return -1
    if exchange != NULL and exchange_is_wanted(exchange):
        if exchange.status != 0:
            return -1
        memcpy(loop.head_scratch, body, head_bytes)
        if (loop.core.settings.cache_mode != CACHE_OFF and cache_sees(exchange)
                and cache_on_head(loop, exchange, &record, loop.head_scratch,
                                  <uint32_t> head_bytes,
                                  (head.flags & FLAG_END) != 0) == HEAD_TAKEN):
            if exchange.is_maker:
                fill_take(loop, worker, exchange, body + head_bytes, record.content_bytes)
            if head.flags & FLAG_END:
                answer_complete(loop, worker, head.place, exchange, False)
            else:
                answer_disown(loop, worker, exchange, head)
            return 0
    elif exchange != NULL and loop.core.settings.cache_mode != CACHE_OFF:
        memcpy(loop.head_scratch, body, head_bytes)
        cache_on_orphan(loop, exchange, &record, loop.head_scratch, <uint32_t> head_bytes)
    if exchange != NULL and exchange.conn != NULL:
        reason = response_begin(loop, exchange, &record, loop.head_scratch, <uint32_t> head_bytes,
                                (head.flags & FLAG_END) != 0)
        if reason == REASON_WORKER_DISTRUSTED:
            return -1
        if reason != REASON_NONE:
            exchange_refuse(loop, exchange, reason)
        else:
            response_content(loop, worker, exchange, body + head_bytes, record.content_bytes)
    if head.flags & FLAG_END:
        answer_complete(loop, worker, head.place, exchange, False)
    else:
        answer_disown(loop, worker, exchange, head)
    return 0


cdef void answer_disown(Loop *loop, Worker *worker, Exchange *exchange,
                        const RecordHead *head) noexcept nogil:
    # Nobody wants what is still to come, since the cache is done with it: the worker is told, else
    # it would wait for ever for room in its window.
    if exchange != NULL and not exchange_is_wanted(exchange) and not exchange.is_told:
        exchange.is_told = True
        lane_tell(loop, worker, RECORD_CLIENT_GONE, 0, head.place, head.dispatch, 0)


cdef int answer_on_data(Loop *loop, Worker *worker, Exchange *exchange, const RecordHead *head,
                        const uint8_t *body) noexcept nogil:
    if exchange != NULL and exchange_is_wanted(exchange):
        if (exchange.status == 0 or exchange.is_complete or exchange.file_left
                or exchange.file_is_due):
            return -1
        response_content(loop, worker, exchange, body + sizeof(RecordHead),
                         head.bytes - <uint32_t> sizeof(RecordHead))
        if (exchange.response_bytes > exchange.released_bytes
                + loop.core.settings.response_takeover + SCRATCH_BYTES * 2):
            return -1
    if head.flags & FLAG_END:
        answer_complete(loop, worker, head.place, exchange, False)
    else:
        answer_disown(loop, worker, exchange, head)
    return 0


cdef int answer_on_end(Loop *loop, Worker *worker, Exchange *exchange,
                       const RecordHead *head) noexcept nogil:
    if (exchange != NULL and exchange_is_wanted(exchange) and exchange.status == 0
            and not head.flags & FLAG_CUT):
        return -1
    answer_complete(loop, worker, head.place, exchange, (head.flags & FLAG_CUT) != 0)
    return 0


cdef int answer_on_file(Loop *loop, Worker *worker, Exchange *exchange, const RecordHead *head,
                        const uint8_t *body) noexcept nogil:
    # The descriptor comes by the receiver thread; the exchange waits for it while the worker is
    # free already.
    cdef FileRecord record
    if head.bytes != sizeof(record):
        return -1
    memcpy(&record, body, sizeof(record))
    if record.bytes > FILE_BYTES_MAX or record.offset > FILE_BYTES_MAX:
        return -1
    if exchange != NULL and exchange_is_wanted(exchange):
        if (exchange.status == 0 or exchange.is_complete or exchange.file_is_due
                or exchange.file_left):
            return -1
        response_file(loop, exchange, record.offset, record.bytes)
    receiver_expect(loop, worker, head.dispatch, exchange)
    if head.flags & FLAG_END:
        answer_complete(loop, worker, head.place, exchange, False)
    return 0


cdef int answer_on_consumed(Loop *loop, Worker *worker, Exchange *exchange, const RecordHead *head,
                            const uint8_t *body) noexcept nogil:
    cdef NumberRecord record
    if head.bytes != sizeof(record):
        return -1
    memcpy(&record, body, sizeof(record))
    if exchange == NULL or exchange.conn == NULL:
        return 0
    if (not exchange.is_streamed or record.value > exchange.content_streamed
            or record.value < exchange.content_consumed):
        return -1
    exchange.content_consumed = record.value
    exchange.content_is_wanted = True
    conn_again(loop, exchange.conn)
    return 0


cdef void answer_complete(Loop *loop, Worker *worker, uint32_t index, Exchange *exchange,
                          bint is_cut) noexcept nogil:
    # The worker has done its part: the place is free, the worker's counters move on.
    cdef Pool *pool = worker.pool
    cdef Place *place = &worker.places[index]
    cdef uint64_t since, served
    cdef bint is_met
    pthread_mutex_lock(&pool.lock)
    since = place.handed_ns if place.handed_ns > worker.last_end_ns else worker.last_end_ns
    worker.last_end_ns = loop.now_ns
    pool.service_ns += <uint64_t> (<int64_t> (loop.now_ns - since - pool.service_ns) // 16)
    if pool.service_ns == 0 or <int64_t> pool.service_ns < 0:
        pool.service_ns = 1
    if exchange != NULL:
        pool.answer_bytes += <uint64_t> (
            <int64_t> (min(exchange.response_bytes, <uint64_t> SCRATCH_BYTES) - pool.answer_bytes)
            // 16)
    worker.served += 1
    served = worker.served
    is_met = worker_meets_quota(worker)
    pool.answered += 1
    pool.active_ns = loop.now_ns
    place_free(loop, worker, index)
    if exchange != NULL:
        exchange.worker = NULL
    pthread_mutex_unlock(&pool.lock)
    if served == 1:
        event_post(loop.core, EVENT_FIRST_ANSWER, worker.number, 0)
    if is_met:
        event_post(loop.core, EVENT_QUOTA, worker.number, <int64_t> served)
    if exchange == NULL:
        return
    if exchange.is_maker:
        fill_end(loop, exchange, is_cut)
    elif exchange.conn == NULL:
        exchange_free_unless_held(loop, exchange)
    elif is_cut:
        response_cut(loop, exchange)
    else:
        exchange.is_complete = True
        response_end(loop, exchange)
