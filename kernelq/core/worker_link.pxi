# The worker's end of a channel: memory, records, bells. Contract and theory: link.pxd, layout.pxd.


cdef void link_end(const char *why) noexcept nogil:
    # The channel is not what it should be: nothing that this process could still answer would be
    # believed.
    thread.end_process(why, 70)


cdef void link_lost(Link *link) noexcept nogil:
    # The core has closed its end: the service is gone, and with it everybody to answer.
    thread.end_process(NULL, 0)


# -- memory ----------------------------------------------------------------------------------------

cdef const char *link_check(const ChannelHead *head, uint64_t core_bytes,
                            uint64_t own_bytes) noexcept nogil:
    # Why this memory cannot be used; NULL: it can. Magic and version have been looked at.
    cdef uint64_t bytes
    if head.owner != OWNER_CORE:
        return b"the memory is not the core's"
    if not 1 <= head.loop_count <= LOOPS_MAX:
        return b"the number of loops is out of range"
    if not 1 <= head.slot_count <= head.place_count or head.place_count > PLACES_MAX:
        return b"the number of places is out of range"
    if head.ring_bytes < RING_BYTES_MIN or head.ring_bytes & (head.ring_bytes - 1):
        return b"the size of a ring is not a power of two, or too small"
    bytes = memory_bytes(head.loop_count, head.ring_bytes)
    if head.bytes != bytes or core_bytes < bytes:
        return b"the core's memory has another size than it says"
    if own_bytes < bytes:
        return b"the worker's memory is too small"
    return NULL


cdef bint lane_init(Link *link, uint32_t loop, int core_fd, int own_fd) noexcept nogil:
    cdef LinkLane *lane = &link.lanes[loop]
    cdef uint32_t bytes = link.sizes.ring_bytes
    cdef uint64_t at = ring_at(link.sizes.loop_count, bytes, loop)
    lane.core = <const CoreLane *> (link.core_memory + lane_at(loop))
    lane.own = <WorkerLane *> (link.own_memory + lane_at(loop))
    lane.requests.at = <const uint8_t *> linux.map_twice(core_fd, at, bytes, False)
    lane.requests.bytes = bytes
    lane.requests.published = &lane.core.request_published
    lane.requests.released = &lane.own.request_released
    lane.responses.at = <uint8_t *> linux.map_twice(own_fd, at, bytes, True)
    lane.responses.bytes = bytes
    lane.responses.published = &lane.own.response_published
    lane.responses.released = &lane.core.response_released
    thread.mutex_init(&lane.lock, NULL)
    if lane.requests.at == NULL or lane.responses.at == NULL:
        return False
    thread.prefault(lane.responses.at, bytes * 2)
    return True


cdef bint link_map(Link *link, int core_fd, int own_fd) noexcept nogil:
    # Maps both memories and writes our head. False: errno says why.
    cdef ChannelHead *head
    cdef uint32_t loop
    link.head_bytes = ring_at(link.sizes.loop_count, link.sizes.ring_bytes, 0)
    link.core_memory = <const uint8_t *> linux.map_whole(core_fd, link.head_bytes, False)
    link.own_memory = <uint8_t *> linux.map_whole(own_fd, link.head_bytes, True)
    if link.core_memory == NULL or link.own_memory == NULL:
        return False
    thread.prefault(link.own_memory, link.head_bytes)
    link.revoked = <const uint64_t *> (link.core_memory + PLACES_AT)
    link.started = <uint64_t *> (link.own_memory + PLACES_AT)
    for loop in range(link.sizes.loop_count):
        if not lane_init(link, loop, core_fd, own_fd):
            return False
    head = <ChannelHead *> link.own_memory
    head[0] = link.sizes
    head.owner = OWNER_WORKER
    head.creator_pid = thread.getpid()
    FAULT(b"worker-mapped")
    return linux.seal(own_fd) == 0


cdef Link *link_new(const ChannelHead *sizes) noexcept nogil:
    # Gives a link without memory and descriptors, or NULL.
    cdef Link *link = <Link *> calloc(1, sizeof(Link))
    cdef uint32_t index
    if link == NULL:
        return NULL
    link.sizes = sizes[0]
    link.lanes = <LinkLane *> calloc(sizes.loop_count, sizeof(LinkLane))
    link.places = <LinkPlace *> calloc(sizes.place_count, sizeof(LinkPlace))
    link.pending = <RecordHead **> calloc(sizes.place_count, sizeof(RecordHead *))
    if link.lanes == NULL or link.places == NULL or link.pending == NULL:
        link_free(link)
        return NULL
    for index in range(sizes.place_count):
        link.places[index].spill_fd = -1
    for index in range(<uint32_t> LOOPS_MAX):
        link.doorbells[index] = -1
    link.side_socket = -1
    link.ended_fd = -1
    link.piece_bytes = min(<uint32_t> PIECE_BYTES_MAX, sizes.ring_bytes // 4)
    link.reserve_bytes = min(sizes.place_count * <uint32_t> RESERVE_PER_PLACE,
                             sizes.ring_bytes // 4)
    link.unannounced_max = UNANNOUNCED_MAX
    thread.mutex_init(&link.content_lock, NULL)
    thread.mutex_init(&link.side_lock, NULL)
    thread.mutex_init(&link.pending_lock, NULL)
    thread.mutex_init(&link.calls_lock, NULL)
    return link


cdef void link_close(Link *link) noexcept nogil:
    # Closes the descriptors; what is mapped stays (a forked child has nothing mapped).
    cdef uint32_t index
    link.is_closed = True
    for index in range(link.sizes.loop_count):
        thread.close_if(link.doorbells[index])
        link.doorbells[index] = -1
        thread.close_if(link.lanes[index].bell)
        link.lanes[index].bell = -1
    for index in range(link.sizes.place_count):
        thread.close_if(link.places[index].spill_fd)
        link.places[index].spill_fd = -1
    thread.close_if(link.side_socket)
    link.side_socket = -1
    thread.close_if(link.ended_fd)
    link.ended_fd = -1


cdef void link_unmap(Link *link) noexcept nogil:
    # No thread may use the link any more.
    cdef uint32_t loop
    for loop in range(link.sizes.loop_count):
        if link.lanes[loop].requests.at != NULL:
            linux.munmap(<void *> link.lanes[loop].requests.at, link.sizes.ring_bytes * 2)
        if link.lanes[loop].responses.at != NULL:
            linux.munmap(<void *> link.lanes[loop].responses.at, link.sizes.ring_bytes * 2)
    if link.core_memory != NULL:
        linux.munmap(<void *> link.core_memory, link.head_bytes)
    if link.own_memory != NULL:
        linux.munmap(link.own_memory, link.head_bytes)


cdef void link_free(Link *link) noexcept nogil:
    cdef uint32_t index
    if link.places != NULL:
        for index in range(link.sizes.place_count):
            content_drop(&link.places[index])
    if link.pending != NULL:
        for index in range(link.pending_count):
            free(link.pending[(link.pending_first + index) % link.sizes.place_count])
    free(link.lanes)
    free(link.places)
    free(<void *> link.pending)
    free(link.threads)
    free(link)


# -- records and bells -----------------------------------------------------------------------------

cdef inline uint8_t *lane_claim(Link *link, LinkLane *lane, uint64_t bytes,
                                uint32_t reserve) noexcept nogil:
    # Room for a record, with the lane locked until lane_publish(); NULL: none now, and the lane is
    # not locked.
    cdef uint8_t *at
    thread.mutex_take(&lane.lock)
    at = ring_claim(&lane.responses, <uint32_t> bytes, reserve)
    if unlikely(at == NULL):
        if lane.responses.is_broken:
            link_end(b"the core's counters are malformed")
        thread.mutex_give(&lane.lock)
    return at


cdef inline void lane_publish(LinkLane *lane, uint64_t bytes) noexcept nogil:
    ring_publish(&lane.responses, <uint32_t> bytes)
    atomic.store_relaxed_u32(&lane.unannounced, lane.unannounced + 1)
    thread.mutex_give(&lane.lock)


cdef bint lane_put(Link *link, LinkLane *lane, const RecordHead *record,
                   uint32_t reserve) noexcept nogil:
    # A short record as it is; False: no room now.
    cdef uint8_t *at = lane_claim(link, lane, record.bytes, reserve)
    if at == NULL:
        return False
    memcpy(at, record, record.bytes)
    lane_publish(lane, record.bytes)
    return True


cdef void lane_announce(LinkLane *lane) noexcept nogil:
    # Rings the core if it sleeps and has not been rung since it fell asleep.
    cdef uint32_t armed
    cdef bint rings
    if atomic.load_relaxed_u32(&lane.unannounced) == 0:
        return
    thread.mutex_take(&lane.lock)
    atomic.store_relaxed_u32(&lane.unannounced, 0)
    # SYNC core-armed: the record is published before we look whether its reader sleeps.
    atomic.fence_seq()
    armed = atomic.load_relaxed_u32(&lane.core.armed)
    rings = (armed & 1) != 0 and armed != lane.rung_for
    if rings:
        lane.rung_for = armed
    thread.mutex_give(&lane.lock)
    if rings:
        thread.bell_ring(lane.bell)


cdef void link_announce(Link *link) noexcept nogil:
    cdef uint32_t loop
    for loop in range(link.sizes.loop_count):
        lane_announce(&link.lanes[loop])


cdef inline bint link_is_slow(Link *link) noexcept nogil:
    return atomic.load_relaxed(&link.run_ns) > SLOW_NS


cdef inline bint link_must_announce(Link *link) noexcept nogil:
    # Answers should not wait any longer, although more requests are at hand.
    cdef uint32_t loop
    if link_is_slow(link):
        return True
    for loop in range(link.sizes.loop_count):
        if atomic.load_relaxed_u32(&link.lanes[loop].unannounced) >= link.unannounced_max:
            return True
    return False


cdef void link_wait_room(Link *link, uint64_t *wait_ns) noexcept nogil:
    # A response ring is full: the core always empties it, soon. Start with 0 in wait_ns. Without
    # the GIL.
    link_announce(link)
    wait_ns[0] = min(max(wait_ns[0] * 2, <uint64_t> ROOM_WAIT_NS), <uint64_t> ROOM_WAIT_NS_MAX)
    if thread.sleep_or_hangup(link.doorbells[0], wait_ns[0]):
        link_lost(link)


cdef void lane_put_at_last(Link *link, LinkLane *lane, const RecordHead *record) noexcept nogil:
    # A short record that must arrive; waits for room. Without the GIL.
    cdef uint64_t wait_ns = 0
    while not lane_put(link, lane, record, 0):
        link_wait_room(link, &wait_ns)


cdef inline LinkLane *lane_of(Link *link, uint64_t dispatch) noexcept nogil:
    # Where answers for the dispatch go: to the loop that owns its exchange.
    cdef uint32_t loop = dispatch & 0xff
    if unlikely(loop >= link.sizes.loop_count):
        link_end(b"a dispatch names a loop that does not exist")
    return &link.lanes[loop]


cdef inline void record_init(RecordHead *record, uint32_t bytes, uint8_t kind, uint16_t place,
                             uint64_t dispatch) noexcept nogil:
    record.bytes = bytes
    record.kind = kind
    record.flags = 0
    record.place = place
    record.dispatch = dispatch


# -- the side socket -------------------------------------------------------------------------------

cdef int spill_take(Link *link, uint16_t place, uint64_t dispatch) noexcept nogil:
    # Gives the descriptor of a request's spill file, which was sent before its record; -1: it was
    # not.
    cdef SideMessage message
    cdef LinkPlace *owner
    cdef ssize_t got
    cdef int fd = -1
    thread.mutex_take(&link.side_lock)
    while link.places[place].spill_fd < 0 or link.places[place].spill_dispatch != dispatch:
        got = linux.receive_fd(link.side_socket, &message, sizeof(message), &fd,
                               thread.MSG_DONTWAIT)
        if got <= 0:
            break
        if got != sizeof(message) or fd < 0 or message.place >= link.sizes.place_count:
            link_end(b"a message on the side socket is malformed")
        owner = &link.places[message.place]
        thread.close_if(owner.spill_fd)
        owner.spill_fd = fd
        owner.spill_dispatch = message.dispatch
    if link.places[place].spill_fd >= 0 and link.places[place].spill_dispatch == dispatch:
        fd = link.places[place].spill_fd
        link.places[place].spill_fd = -1
    else:
        fd = -1
    thread.mutex_give(&link.side_lock)
    return fd


cdef int file_send(Link *link, uint16_t place, uint64_t dispatch, int fd) noexcept nogil:
    # Passes the descriptor of a response's file to the core. 0 or -errno. Without the GIL.
    cdef SideMessage message
    cdef uint64_t wait_ns = 0
    cdef int error
    message.dispatch = dispatch
    message.place = place
    message.kind = RECORD_FILE
    while True:
        error = linux.send_fd(link.side_socket, &message, sizeof(message), fd)
        FAULT(b"worker-file-sent")
        if error != -thread.EAGAIN and error != -thread.ETOOMANYREFS:
            return error
        link_wait_room(link, &wait_ns)
