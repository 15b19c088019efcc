# Calls of the core: a thread of the application asks, and sleeps until the REPLY is there. No
# Python in here; the doors are call() in worker_channel.pxi and kernelq/cache.py.
#
# Theory of operation
#  A call has a slot, and its number names the slot. Whoever reads the rings (link.pxd: leader,
#  pumping thread, guest) finds the slot of a REPLY by its number, writes the outcome there and
#  wakes the one that waits. The slot of a call that nobody waits for any more (CALL_LEFT) stays
#  taken until its REPLY has come: to the core the call is under way, and more than CALLS_MAX it
#  would not bear.


cdef LinkCall *call_find_free(Link *link) noexcept nogil:
    # Under calls_lock.
    cdef uint32_t index
    cdef LinkCall *call
    for index in range(<uint32_t> CALLS_MAX):
        call = &link.calls[index]
        if atomic.load_relaxed_u32(&call.state) == CALL_FREE:
            link.call_serial += 1
            call.number = link.call_serial << 8 | index
            atomic.store_relaxed_u32(&call.state, CALL_WAITING)
            return call
    return NULL


cdef LinkCall *call_take(Link *link, uint64_t until_ns) noexcept nogil:
    # A slot for a new call; NULL: none has become free in time. Without the GIL.
    cdef LinkCall *call
    cdef uint32_t seen
    while True:
        seen = atomic.load_acquire_u32(&link.calls_freed)  # SYNC call-freed
        thread.mutex_take(&link.calls_lock)
        call = call_find_free(link)
        thread.mutex_give(&link.calls_lock)
        if call != NULL or time_is_over(until_ns):
            return call
        thread.futex_wait(&link.calls_freed, seen, time_left(until_ns))


cdef bint call_give(Link *link, LinkCall *call, ReplyRecord *reply) noexcept nogil:
    # The caller is done with its slot, and gets the outcome. False: none has come; the slot is left
    # to the REPLY.
    cdef bint is_answered
    thread.mutex_take(&link.calls_lock)
    is_answered = atomic.load_relaxed_u32(&call.state) == CALL_ANSWERED
    reply.status = call.status
    reply.value = call.value
    atomic.store_relaxed_u32(&call.state, CALL_FREE if is_answered else CALL_LEFT)
    thread.mutex_give(&link.calls_lock)
    if is_answered:
        call_say_free(link)
    return is_answered


cdef void call_say_free(Link *link) noexcept nogil:
    atomic.add_u32(&link.calls_freed, 1)  # SYNC call-freed
    thread.futex_wake(&link.calls_freed, 1)


cdef void call_on_reply(Link *link, const ReplyRecord *reply) noexcept nogil:
    # [lead]
    cdef uint32_t index = reply.number & 0xff
    cdef LinkCall *call
    cdef bint is_known, is_left = False
    if index >= <uint32_t> CALLS_MAX:
        link_end(b"the core has answered what was never asked")
    call = &link.calls[index]
    thread.mutex_take(&link.calls_lock)
    is_known = call.number == reply.number and (
        call.state == CALL_WAITING or call.state == CALL_LEFT)
    if is_known:
        is_left = call.state == CALL_LEFT
        call.status = reply.status
        call.value = reply.value
        # SYNC call-answered
        atomic.store_release_u32(&call.state, CALL_FREE if is_left else CALL_ANSWERED)
    thread.mutex_give(&link.calls_lock)
    if not is_known:
        link_end(b"the core has answered what was never asked")
    if is_left:
        call_say_free(link)
    else:
        waiter_tell(&call.waiter)


cdef void call_put(Link *link, LinkLane *lane, const CallRecord *record, const uint8_t *first,
                   const uint8_t *second) noexcept nogil:
    # Publishes the CALL; waits for room. Without the GIL.
    cdef uint64_t wait_ns = 0
    cdef uint8_t *at = lane_claim(link, lane, record.head.bytes, link.reserve_bytes)
    while at == NULL:
        link_wait_room(link, &wait_ns)
        at = lane_claim(link, lane, record.head.bytes, link.reserve_bytes)
    memcpy(at, record, sizeof(CallRecord))
    memcpy(at + sizeof(CallRecord), first, record.first_bytes)
    memcpy(at + sizeof(CallRecord) + record.first_bytes, second, record.second_bytes)
    lane_publish(lane, record.head.bytes)
    lane_announce(lane)
    FAULT(b"worker-called")


cdef void call_wait(LinkThread *self, LinkCall *call, uint64_t until_ns) noexcept nogil:
    # Until the REPLY is there, or until_ns.
    cdef uint32_t seen
    while not time_is_over(until_ns):
        seen = atomic.load_acquire_u32(&call.waiter.news)  # SYNC news
        if atomic.load_acquire_u32(&call.state) != CALL_WAITING:  # SYNC call-answered
            return
        waiter_wait(self, &call.waiter, seen, until_ns)


cdef bint link_call(Link *link, LinkThread *serving, LinkLane *lane, CallRecord *record,
                    const uint8_t *first, const uint8_t *second, uint64_t limit_ns,
                    ReplyRecord *reply) noexcept nogil:
    # One call. serving: the calling thread, if it runs a request; NULL: a guest. False: no answer
    # came in time. Without the GIL.
    cdef LinkThread guest
    cdef LinkThread *self = serving
    cdef uint64_t until_ns = linux.now_ns() + limit_ns
    cdef LinkCall *call = call_take(link, until_ns)
    if call == NULL:
        return False
    if self == NULL:
        memset(&guest, 0, sizeof(guest))
        guest.link = link
        guest.index = link.thread_count + 1 + <uint32_t> (call.number & 0xff)
        guest.is_guest = True
        self = &guest
    record.number = call.number
    call_put(link, lane, record, first, second)
    call_wait(self, call, until_ns)
    return call_give(link, call, reply)
