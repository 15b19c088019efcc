# A worker as the core sees it: its memory, its lanes, its death.
#
# Rules
#  1. worker_open, worker_attach, worker_drain, worker_forget come from the managers' thread; all
#     else runs on loops.
#  2. Nothing of the worker's memory is read before its seals are checked (worker_map), and each
#     word once.
#  3. A worker is unlinked and freed only when every loop has let go of its lane (LETTER_FORGET).
#
# Facts that shaped this
#  A memfd that its other side has shrunk, or may still shrink, turns a read into SIGBUS: hence
#  F_SEAL_SHRINK, and its size, before the first look. A pidfd becomes readable when the process has
#  ended, before it is reaped, and stays so. An eventfd written by the worker is watched
#  edge-triggered and never read: each write is an edge. Towards the worker a socket is used: an
#  eventfd shares its O_NONBLOCK with the worker, who could clear it and block our write; a pipe has
#  a mutex that its reader holds while it copies, for as long as its memory makes the kernel wait
#  (userfaultfd, FUSE), or it gets no processor.

cdef uint32_t worker_side_reserve(const Worker *worker) noexcept nogil:
    # What requests and content leave free in a request ring.
    return worker.place_count * CONTROL_RESERVE_PER_PLACE + REPLY_RESERVE


cdef int worker_memory_create(Core_ *core, Worker *worker) noexcept nogil:
    cdef uint64_t bytes = memory_bytes(core.settings.loop_count, core.settings.ring_bytes)
    cdef ChannelHead *head
    worker.core_fd = linux.memfd(b"kernelq-core")
    worker.worker_fd = linux.memfd(b"kernelq-worker")
    if worker.core_fd < 0 or worker.worker_fd < 0:
        return -linux.errno
    if linux.ftruncate(worker.core_fd, bytes) < 0 or linux.ftruncate(worker.worker_fd, bytes) < 0:
        return -linux.errno
    if fallocate(worker.core_fd, 0, 0, bytes) < 0 or fallocate(worker.worker_fd, 0, 0, bytes) < 0:
        return -linux.errno
    worker.head_bytes = ring_at(core.settings.loop_count, core.settings.ring_bytes, 0)
    worker.core_memory = <uint8_t *> linux.map_whole(worker.core_fd, worker.head_bytes, True)
    if worker.core_memory == NULL:
        return -linux.errno
    head = <ChannelHead *> worker.core_memory
    head.version = LAYOUT_VERSION
    head.owner = OWNER_CORE
    head.bytes = bytes
    head.loop_count = core.settings.loop_count
    head.ring_bytes = core.settings.ring_bytes
    head.slot_count = worker.slot_count
    head.place_count = worker.place_count
    head.response_window = core.settings.response_takeover
    head.content_window = core.settings.content_window
    head.creator_pid = <uint32_t> getpid()
    head.spin_ns = core.settings.spin_ns
    head.epoch = worker.number
    head.magic = LAYOUT_MAGIC
    worker.revoked = <uint64_t *> (worker.core_memory + PLACES_AT)
    return 0


cdef int worker_lane_create(Core_ *core, Worker *worker, uint32_t index) noexcept nogil:
    cdef Lane *lane = &worker.lanes[index]
    cdef CoreLane *mine = <CoreLane *> (worker.core_memory + lane_at(index))
    cdef int ends[2]
    lane.requests.bytes = core.settings.ring_bytes
    lane.requests.at = <uint8_t *> linux.map_twice(
        worker.core_fd, ring_at(core.settings.loop_count, core.settings.ring_bytes, index),
        core.settings.ring_bytes, True)
    if lane.requests.at == NULL:
        return -linux.errno
    lane.requests.published = &mine.request_published
    lane.answers.released = &mine.response_released
    lane.answers.bytes = core.settings.ring_bytes
    lane.armed = &mine.armed
    lane.bell.source.kind = SOURCE_BELL
    lane.bell.worker = worker
    lane.death.source.kind = SOURCE_PIDFD
    lane.death.worker = worker
    worker.bells[index] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    if (worker.bells[index] < 0
            or socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0):
        return -linux.errno
    worker.doorbells[index] = ends[1]
    lane.rung_for = 0
    worker.doorbell_ends[index] = ends[0]
    return 0 if linux.shutdown(ends[1], SHUT_RD) == 0 else -linux.errno


cdef bint worker_take_limits(Core_ *core, uint32_t pool_number, Worker *worker) noexcept nogil:
    # What its channel is made by. False: there is no such pool.
    cdef Pool *pool
    pthread_mutex_lock(&core.table_lock)
    pool = pool_find(core, pool_number)
    if pool != NULL:
        pthread_mutex_lock(&pool.lock)
        worker.slot_count = pool.limits.slot_count
        worker.place_count = pool.limits.place_count
        pthread_mutex_unlock(&pool.lock)
    pthread_mutex_unlock(&core.table_lock)
    return pool != NULL


cdef int worker_open(Core_ *core, uint32_t pool_number, uint64_t generation, Worker **given,
                     int *side_end) noexcept nogil:
    # Gives a worker with a complete channel, linked into the pool. -errno: nothing was left behind
    # (-ENOENT: there is no such pool).
    cdef Worker *worker = <Worker *> calloc(1, sizeof(Worker))
    cdef uint32_t index
    cdef int ends[2]
    cdef int error = 0
    if worker == NULL:
        return -ENOMEM
    worker_fds_init(worker)
    worker.generation = generation
    if not worker_take_limits(core, pool_number, worker):
        worker_free(core, worker)
        return -ENOENT
    worker.lanes = <Lane *> calloc(core.settings.loop_count, sizeof(Lane))
    worker.places = <Place *> calloc(worker.place_count, sizeof(Place))
    worker.free_places = <uint16_t *> calloc(worker.place_count, sizeof(uint16_t))
    if worker.lanes == NULL or worker.places == NULL or worker.free_places == NULL:
        error = -ENOMEM
    worker.number = atomic.add_u32(&core.worker_number, 1)
    if error == 0:
        error = worker_memory_create(core, worker)
    index = 0
    while error == 0 and index < core.settings.loop_count:
        error = worker_lane_create(core, worker, index)
        index += 1
    if error == 0 and linux.seal(worker.core_fd) < 0:
        error = -linux.errno
    if error == 0 and socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0:
        error = -linux.errno
    if error < 0:
        worker_free(core, worker)
        return error
    worker.side_fd = ends[0]
    for index in range(worker.place_count):
        worker.free_places[index] = <uint16_t> (worker.place_count - 1 - index)
    worker.free_count = worker.place_count
    if not worker_link(core, pool_number, worker):
        linux.close(ends[1])
        worker_free(core, worker)
        return -ENOENT
    side_end[0] = ends[1]
    given[0] = worker
    return 0


# --- the tables of workers ------------------------------------------------------------------------

cdef bint worker_link(Core_ *core, uint32_t pool_number, Worker *worker) noexcept nogil:
    # Into its pool and the table. False: there is no such pool (any more).
    cdef Worker **bucket = &core.known[worker.number % WORKER_BUCKETS]
    cdef Pool *pool
    pthread_mutex_lock(&core.table_lock)
    pool = pool_find(core, pool_number)
    if pool != NULL:
        worker.pool = pool
        pthread_mutex_lock(&pool.lock)
        worker.next = pool.workers
        pool.workers = worker
        pool_note_workers(pool)
        pthread_mutex_unlock(&pool.lock)
    pthread_mutex_unlock(&core.table_lock)
    if pool == NULL:
        return False
    pthread_mutex_lock(&core.workers_lock)
    worker.next_known = bucket[0]
    bucket[0] = worker
    pthread_mutex_unlock(&core.workers_lock)
    return True


cdef void pool_note_workers(Pool *pool) noexcept nogil:
    # [pool lock]
    cdef const Worker *worker = pool.workers
    cdef uint64_t before = pool.newest
    pool.worker_count = 0
    pool.oldest = <uint64_t> -1
    pool.newest = 0
    while worker != NULL:
        pool.worker_count += 1
        pool.oldest = min(pool.oldest, worker.generation)
        if worker.has_said_ready:
            pool.newest = max(pool.newest, worker.generation)
        worker = worker.next
    if pool.newest > before:
        pool.blocked = NULL


cdef void worker_fds_init(Worker *worker) noexcept nogil:
    cdef uint32_t index
    worker.pidfd = worker.core_fd = worker.worker_fd = worker.side_fd = -1
    for index in range(<uint32_t> LOOPS_MAX):
        worker.doorbells[index] = worker.bells[index] = worker.doorbell_ends[index] = -1


cdef void fd_close(int *fd) noexcept nogil:
    if fd[0] >= 0:
        linux.close(fd[0])
        fd[0] = -1


cdef void worker_free(Core_ *core, Worker *worker) noexcept nogil:
    # Nobody looks at it any more: not the pool, not a loop, not the receiver.
    cdef uint32_t index
    cdef Lane *lane
    if worker.lanes != NULL:
        for index in range(core.settings.loop_count):
            lane = &worker.lanes[index]
            bug.BUG_ON(lane.busy_at != 0 and core.is_started)
            if lane.requests.at != NULL:
                linux.munmap(lane.requests.at, <size_t> lane.requests.bytes * 2)
            if lane.answers.at != NULL:
                linux.munmap(<void *> lane.answers.at, <size_t> lane.answers.bytes * 2)
    if worker.core_memory != NULL:
        linux.munmap(worker.core_memory, worker.head_bytes)
    if worker.worker_memory != NULL:
        linux.munmap(<void *> worker.worker_memory, worker.head_bytes)
    for index in range(<uint32_t> LOOPS_MAX):
        fd_close(&worker.doorbells[index])
        fd_close(&worker.doorbell_ends[index])
        fd_close(&worker.bells[index])
    fd_close(&worker.core_fd)
    fd_close(&worker.worker_fd)
    fd_close(&worker.side_fd)
    fd_close(&worker.pidfd)
    free(worker.lanes)
    free(worker.parked)
    free(worker.places)
    free(worker.free_places)
    free(worker)


cdef Worker *worker_find(Core_ *core, uint32_t number) noexcept nogil:
    # NULL: it was forgotten. For the managers' thread, which is the only one that forgets, and
    # under receiver_lock.
    cdef Worker *worker
    pthread_mutex_lock(&core.workers_lock)
    worker = core.known[number % WORKER_BUCKETS]
    while worker != NULL and worker.number != number:
        worker = worker.next_known
    pthread_mutex_unlock(&core.workers_lock)
    return worker


cdef void worker_unlink(Core_ *core, Worker *worker) noexcept nogil:
    cdef Worker **link = &core.known[worker.number % WORKER_BUCKETS]
    pthread_mutex_lock(&core.workers_lock)
    while link[0] != worker:
        link = &link[0].next_known
    link[0] = worker.next_known
    pthread_mutex_unlock(&core.workers_lock)
    pthread_mutex_lock(&worker.pool.lock)
    link = &worker.pool.workers
    while link[0] != worker:
        link = &link[0].next
    link[0] = worker.next
    pool_note_workers(worker.pool)
    pthread_mutex_unlock(&worker.pool.lock)


cdef int worker_attach(Core_ *core, Worker *worker, int pid, int pidfd) noexcept nogil:
    # The worker has a process: every loop watches its bell and its pidfd. Takes pidfd.
    cdef uint32_t index
    worker.pid = pid
    worker.pidfd = pidfd
    for index in range(<uint32_t> LOOPS_MAX):
        fd_close(&worker.doorbell_ends[index])
    pthread_mutex_lock(&worker.pool.lock)
    if worker.state == WORKER_OPEN:  # else it is to drain already
        atomic.store_relaxed_u8(&worker.state, WORKER_STARTING)
    pthread_mutex_unlock(&worker.pool.lock)
    receiver_watch(core, worker)
    # Loop 0 last: it opens the lanes of the others, who must know the worker by then.
    for index in range(core.settings.loop_count, 0, -1):
        if not letter_send(&core.loops[index - 1].mailbox, LETTER_WORKER, worker, -1):
            return -ENOMEM
    return 0


cdef bint worker_memory_is_good(const Core_ *core, const Worker *worker, const ChannelHead *mine,
                                const ChannelHead *head) noexcept nogil:
    # head: a copy of what the worker wrote.
    return (head.magic == LAYOUT_MAGIC and head.version == LAYOUT_VERSION
            and head.owner == OWNER_WORKER and head.bytes == mine.bytes
            and head.loop_count == core.settings.loop_count
            and head.ring_bytes == core.settings.ring_bytes
            and head.place_count == worker.place_count)


cdef bint worker_map(Core_ *core, Worker *worker) noexcept nogil:
    # First look at the worker's memory. False: not sealed yet, or not what it must be (then it
    # stays unmapped).
    cdef ChannelHead head
    cdef uint32_t index
    cdef Lane *lane
    cdef const WorkerLane *theirs
    cdef const uint8_t *memory
    if (not linux.is_sealed(worker.worker_fd)
            or linux.file_bytes(worker.worker_fd) != linux.file_bytes(worker.core_fd)):
        return False
    memory = <const uint8_t *> linux.map_whole(worker.worker_fd, worker.head_bytes, False)
    if memory == NULL:
        return False
    memcpy(&head, memory, sizeof(head))
    if not worker_memory_is_good(core, worker, <const ChannelHead *> worker.core_memory, &head):
        linux.munmap(<void *> memory, worker.head_bytes)
        return False
    for index in range(core.settings.loop_count):
        lane = &worker.lanes[index]
        theirs = <const WorkerLane *> (memory + lane_at(index))
        lane.answers.at = <const uint8_t *> linux.map_twice(
            worker.worker_fd, ring_at(core.settings.loop_count, core.settings.ring_bytes, index),
            core.settings.ring_bytes, False)
        if lane.answers.at == NULL:
            linux.munmap(<void *> memory, worker.head_bytes)
            return False
        lane.answers.published = &theirs.response_published
        lane.requests.released = &theirs.request_released
        lane.worker_armed = &theirs.armed
    pthread_mutex_lock(&worker.pool.lock)
    worker.started = <const uint64_t *> (memory + PLACES_AT)
    worker.worker_memory = memory
    pthread_mutex_unlock(&worker.pool.lock)
    return True


cdef void lane_watch(Loop *loop, Worker *worker) noexcept nogil:
    # LETTER_WORKER: into this loop's epoll and list.
    cdef Lane *lane = &worker.lanes[loop.index]
    if loop.worker_count == loop.worker_room:
        loop.workers = <Worker **> pointers_grown(loop.workers, loop.worker_room)
        loop.busy = <Worker **> pointers_grown(loop.busy, loop.worker_room)
        loop.worker_room = loop.worker_room * 2 + 8
    loop.workers[loop.worker_count] = worker
    loop.worker_count += 1
    lane.is_watched = True
    lane_wake(loop, worker)
    epoll_watch(loop, worker.bells[loop.index], EPOLLIN | EPOLLET, &lane.bell)
    epoll_watch(loop, worker.pidfd, EPOLLIN | EPOLLONESHOT, &lane.death)
    if loop.index == 0:
        worker_on_bell(loop, worker)


cdef void worker_on_bell(Loop *loop, Worker *worker) noexcept nogil:
    # Its lane is drained in this turn; the first bell of all says that its memory can be mapped.
    cdef uint32_t index
    lane_wake(loop, worker)
    if loop.index != 0 or worker.worker_memory != NULL or not worker_is_trusted(worker):
        return
    # Once sealed it stays so; looked at twice, it may be sealed in between.
    if not linux.is_sealed(worker.worker_fd):
        return
    if not worker_map(loop.core, worker):
        worker_distrust(loop, worker)
        return
    worker.lanes[0].is_open = True
    for index in range(1, loop.core.settings.loop_count):
        letter_send(&loop.core.loops[index].mailbox, LETTER_OPENED, worker, -1)
    if atomic.load_relaxed_u8(&worker.state) == WORKER_DRAINING:  # relaxed: else a letter comes
        lane_tell(loop, worker, RECORD_DRAIN, 0, 0, 0, 0)


cdef void lane_on_opened(Loop *loop, Worker *worker) noexcept nogil:
    # LETTER_OPENED: loop 0 has mapped and checked the worker's memory.
    cdef Lane *lane = &worker.lanes[loop.index]
    lane.is_open = not lane.is_dead
    lane_wake(loop, worker)
    pool_due(loop, worker.pool)


cdef inline void lane_published(Loop *loop, Worker *worker) noexcept nogil:
    # A record stands in its request ring: it is rung at the end of the turn, or soon after.
    worker.lanes[loop.index].unrung += 1
    loop.ring_is_due = True
    lane_wake(loop, worker)


cdef void lane_ring(Loop *loop, Worker *worker) noexcept nogil:
    # At most once per turn and sleep of the worker; a running worker is not rung.
    cdef Lane *lane = &worker.lanes[loop.index]
    cdef uint32_t armed
    cdef uint8_t byte = 1
    lane.unrung = 0
    atomic.fence_seq()  # SYNC worker-armed
    armed = atomic.load_seq_u32(lane.worker_armed)  # SYNC worker-armed
    if armed & 1 == 0 or armed == lane.rung_for:
        return
    lane.rung_for = armed
    atomic.tally(&loop.counters[COUNT_BELLS], 1)
    linux.send(worker.doorbells[loop.index], &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL)


cdef void lanes_ring(Loop *loop, uint32_t patience) noexcept nogil:
    # Rings every worker for whom more than so many records were published since its last bell.
    cdef uint32_t index
    cdef Worker *worker
    loop.ring_is_due = False
    for index in range(loop.busy_count):
        worker = loop.busy[index]
        if worker.lanes[loop.index].unrung > patience:
            lane_ring(loop, worker)
        loop.ring_is_due |= worker.lanes[loop.index].unrung > 0


cdef bint lane_tell(Loop *loop, Worker *worker, uint8_t kind, uint8_t flags, uint32_t place,
                    uint64_t dispatch, uint64_t value) noexcept nogil:
    # A control record; it uses the room that REQUEST and CONTENT leave free, but for that of REPLY.
    # False: the worker does not drain.
    cdef Lane *lane = &worker.lanes[loop.index]
    cdef NumberRecord *record
    if not lane.is_open or not worker_is_trusted(worker):
        return True
    record = <NumberRecord *> ring_claim(&lane.requests, sizeof(NumberRecord), REPLY_RESERVE)
    if record == NULL:
        lane_wake(loop, worker)  # the ring may be broken: lanes_drain() sees it
        return False
    record.head.bytes = sizeof(NumberRecord)
    record.head.kind = kind
    record.head.flags = flags
    record.head.place = <uint16_t> place
    record.head.dispatch = dispatch
    record.value = value
    ring_publish(&lane.requests, sizeof(NumberRecord))
    lane_published(loop, worker)
    return True


cdef int worker_on_ready(Loop *loop, Worker *worker) noexcept nogil:
    # Once: a worker that says it again and again must not fill the table of events.
    cdef Pool *pool = worker.pool
    cdef bint was_ready
    pthread_mutex_lock(&pool.lock)
    was_ready = worker.has_said_ready
    worker.has_said_ready = True
    pool_note_workers(pool)
    if worker.state == WORKER_STARTING:
        atomic.store_relaxed_u8(&worker.state, WORKER_READY)
        pool.ready_count += 1
        pool_note_serving(loop.core, pool)
    pthread_mutex_unlock(&pool.lock)
    if was_ready:
        return -1
    pool_due(loop, pool)
    event_post(loop.core, EVENT_READY, worker.number, 0)
    return 0


cdef inline bint worker_is_trusted(const Worker *worker) noexcept nogil:
    # Neither dead nor distrusted, as far as this loop may know without the pool's lock.
    return atomic.load_relaxed_u8(&worker.state) < WORKER_DISTRUSTED  # relaxed: see worker_on_death


cdef void worker_leave_ready(Core_ *core, Worker *worker, uint8_t state) noexcept nogil:
    # Under the pool's lock.
    if worker.state == WORKER_READY:
        worker.pool.ready_count -= 1
        pool_note_serving(core, worker.pool)
    if worker.state < state:
        atomic.store_relaxed_u8(&worker.state, state)
    worker.waiting_suspect = NULL


cdef void worker_distrust(Loop *loop, Worker *worker) noexcept nogil:
    # It wrote what it must not: its rings are closed for good, it is killed, and its death does the
    # rest. What a dead worker wrote may be found out only now.
    cdef bint is_new, is_alive
    pthread_mutex_lock(&worker.pool.lock)
    is_new = not worker.is_distrusted
    is_alive = worker.state < WORKER_DISTRUSTED
    worker.is_distrusted = True
    worker_leave_ready(loop.core, worker, WORKER_DISTRUSTED)
    pthread_mutex_unlock(&worker.pool.lock)
    if not is_new:
        return
    atomic.tally(&loop.counters[COUNT_DISTRUSTED], 1)
    if not is_alive:
        log_worker(loop, LOG_ERROR, worker, b"has ended and left malformed data (event 5127)")
        return
    log_worker(loop, LOG_ERROR, worker,
               b"sent malformed data and is no longer trusted (event 5127); it is killed")
    syscall(SYS_pidfd_send_signal, worker.pidfd, SIGKILL, NULL, 0)
    event_post(loop.core, EVENT_DISTRUSTED, worker.number, 0)


cdef void worker_set_quota(Core_ *core, Worker *worker, uint64_t requests) noexcept nogil:
    # Managers' thread: EVENT_QUOTA, once, when it has answered so many; 0: not any more.
    cdef uint64_t served
    cdef bint is_met
    pthread_mutex_lock(&worker.pool.lock)
    worker.quota = requests
    is_met = worker_meets_quota(worker)
    served = worker.served
    pthread_mutex_unlock(&worker.pool.lock)
    if is_met:
        event_post(core, EVENT_QUOTA, worker.number, <int64_t> served)


cdef inline bint worker_meets_quota(Worker *worker) noexcept nogil:
    # [pool lock] Once.
    if worker.quota == 0 or worker.served < worker.quota:
        return False
    worker.quota = 0
    return True


cdef void worker_drain(Core_ *core, Worker *worker) noexcept nogil:
    # Managers' thread: nothing more is dispatched; loop 0 revokes and tells it.
    pthread_mutex_lock(&worker.pool.lock)
    worker_leave_ready(core, worker, WORKER_DRAINING)
    pthread_mutex_unlock(&worker.pool.lock)
    letter_send(&core.loops[0].mailbox, LETTER_DRAIN, worker, -1)


cdef void worker_on_drain(Loop *loop, Worker *worker) noexcept nogil:
    pthread_mutex_lock(&worker.pool.lock)
    worker_revoke_all(loop, worker)
    pthread_mutex_unlock(&worker.pool.lock)
    pool_due(loop, worker.pool)
    lane_tell(loop, worker, RECORD_DRAIN, 0, 0, 0, 0)


cdef void worker_abandon(Core_ *core, Worker *worker) noexcept nogil:
    # Managers' thread: it is stopped, and left to a debugger. What it has in hand is treated as if
    # it had died; nothing of what it says later is read.
    cdef uint32_t index
    for index in range(core.settings.loop_count):
        letter_send(&core.loops[index].mailbox, LETTER_ABANDON, worker, -1)


cdef void worker_on_death(Loop *loop, Worker *worker) noexcept nogil:
    # Each loop: first what the worker still said, then what became of the rest of this loop's
    # requests.
    cdef Core_ *core = loop.core
    cdef Lane *lane = &worker.lanes[loop.index]
    cdef uint32_t index
    cdef uint32_t done
    cdef bint is_distrusted
    if lane.is_dead:
        return
    lane.is_dead = True
    pthread_mutex_lock(&worker.pool.lock)
    is_distrusted = worker.is_distrusted
    if worker.state != WORKER_DISTRUSTED:
        worker_leave_ready(core, worker, WORKER_DEAD)
    pthread_mutex_unlock(&worker.pool.lock)
    if not is_distrusted:
        if loop.index == 0 and worker.worker_memory == NULL:
            lane.is_open = worker_map(core, worker)
        if lane.is_open:
            lane_drain_rest(loop, worker)
    for index in range(worker.place_count):
        place_bury(loop, worker, index)
    lane.is_open = False
    pool_due(loop, worker.pool)
    done = atomic.add_u32(&worker.loops_done, 1)
    if done == core.settings.loop_count:
        event_post(core, EVENT_GONE, worker.number, 0)


cdef void place_bury(Loop *loop, Worker *worker, uint32_t index) noexcept nogil:
    # What becomes of the request in this place, if it is this loop's, now that the worker is dead.
    # What a distrusted worker says that it has not started, it may have executed all the same.
    cdef Pool *pool = worker.pool
    cdef Place *place = &worker.places[index]
    cdef Exchange *exchange
    cdef bint was_started, is_distrusted
    cdef bint requeued = False
    pthread_mutex_lock(&pool.lock)
    exchange = place.exchange
    if place.state == PLACE_FREE or place.dispatch & 0xff != loop.index or exchange == NULL:
        if place.state != PLACE_FREE and place.dispatch & 0xff == loop.index:
            place_free(loop, worker, index)
        pthread_mutex_unlock(&pool.lock)
        return
    is_distrusted = worker.is_distrusted
    # One that was abandoned may still run, and a debugger may let it go on: as in place_revoke().
    atomic.store_seq(&worker.revoked[index], place.dispatch)  # SYNC revoked
    atomic.fence_seq()  # SYNC revoked
    was_started = is_distrusted or place_is_started(worker, index)
    if was_started:
        exchange.executions += 1
        casualty_note(worker, place)
    place_free(loop, worker, index)
    exchange.worker = NULL
    if exchange_is_wanted(exchange) and (not was_started or exchange_may_repeat(exchange)):
        exchange.is_suspect = exchange.is_suspect or was_started
        exchange.state = EXCHANGE_RECEIVING
        exchange.started_ns = 0
        if was_started:
            exchange.queued_ns = loop.now_ns
            pool.redispatched += 1
        queue_push(pool, exchange)
        requeued = True
    pthread_mutex_unlock(&pool.lock)
    if requeued:
        if was_started:
            atomic.tally(&loop.counters[COUNT_REDISPATCHED], 1)
            log_exchange_as(loop, LOG_WARNING, exchange, REASON_NONE, <uint32_t> worker.pid,
                            b"its worker ended while executing it; it is executed again, alone")
    elif exchange.is_maker:
        exchange.state = EXCHANGE_DONE
        maker_on_death(loop, exchange, is_distrusted)
    elif exchange.conn == NULL:
        exchange.state = EXCHANGE_DONE
        exchange_free_unless_held(loop, exchange)
    elif response_is_whole(exchange):
        exchange.is_complete = True
        response_end(loop, exchange)
    else:
        exchange.state = EXCHANGE_DONE
        exchange_refuse(loop, exchange, REASON_WORKER_DISTRUSTED
                        if is_distrusted else REASON_WORKER_DIED)


cdef void casualty_note(Worker *worker, const Place *place) noexcept nogil:
    # Under the pool's lock. The managers read it when they write the line about the death.
    cdef Casualty *casualty
    cdef Span method, client, target
    cdef uint8_t *at
    worker.casualty_count += 1
    if worker.casualty_count > CASUALTIES_MAX or place.exchange.image == NULL:
        return
    casualty = &worker.casualties[worker.casualty_count - 1]
    image_line(place.exchange, &method, &client, &target)
    span_cut(&method, CASUALTY_METHOD_MAX)
    span_cut(&target, CASUALTY_TARGET_MAX)
    span_cut(&client, CASUALTY_CLIENT_MAX)
    casualty.handed_ns = place.handed_ns
    casualty.method_bytes = <uint16_t> method.bytes
    casualty.target_bytes = <uint16_t> target.bytes
    casualty.client_bytes = <uint16_t> client.bytes
    at = span_put(<uint8_t *> casualty.text, method)
    span_put(span_put(at, target), client)


cdef bint exchange_may_repeat(const Exchange *exchange) noexcept nogil:
    # Promise 2: a started request is executed again only if all of this holds. Under the pool's
    # lock.
    cdef const PoolLimits *limits = &exchange.pool.limits
    if exchange.head_sent or exchange.executions > limits.redispatch_limit:
        return False
    if exchange.is_streamed or limits.redispatch == REDISPATCH_NEVER:
        return False
    return exchange.is_idempotent or limits.redispatch == REDISPATCH_ALWAYS


cdef void worker_forget(Core_ *core, Worker *worker) noexcept nogil:
    # Managers' thread, after EVENT_GONE (or before worker_attach): frees it once every loop has let
    # go.
    cdef uint32_t index
    if worker.state == WORKER_OPEN:
        worker_unlink(core, worker)
        worker_free(core, worker)
        return
    receiver_forget(core, worker)
    worker_unlink(core, worker)
    for index in range(core.settings.loop_count):
        letter_send(&core.loops[index].mailbox, LETTER_FORGET, worker, -1)


cdef void lane_forget(Loop *loop, Worker *worker) noexcept nogil:
    cdef uint32_t index
    epoll_ctl(loop.epoll_fd, EPOLL_CTL_DEL, worker.bells[loop.index], NULL)
    epoll_ctl(loop.epoll_fd, EPOLL_CTL_DEL, worker.pidfd, NULL)
    for index in range(loop.worker_count):
        if loop.workers[index] == worker:
            loop.workers[index] = loop.workers[loop.worker_count - 1]
            loop.worker_count -= 1
            break
    if worker.lanes[loop.index].busy_at:
        lane_rest(loop, &worker.lanes[loop.index])
    if atomic.add_u32(&worker.loops_forgotten, 1) == loop.core.settings.loop_count:
        worker_free(loop.core, worker)


cdef void worker_check_health(Loop *loop, Worker *worker) noexcept nogil:
    # Under the pool's lock, once per tick. Unhealthy: a slot is free and yet a request
    # handed over is not started within a second. Running application code is never unhealthy by
    # itself.
    cdef uint32_t index
    cdef uint32_t started = 0
    cdef uint32_t waiting = 0
    cdef Place *place
    for index in range(worker.place_count):
        place = &worker.places[index]
        if place.state == PLACE_FREE or place.state == PLACE_REVOKED:
            waiting += place.state == PLACE_REVOKED
            continue
        if (place.state == PLACE_STARTED or place.state == PLACE_CONTESTED
                or atomic.load_acquire(&worker.started[index]) == place.dispatch):  # SYNC started
            started += 1
            if place.exchange != NULL and place.exchange.started_ns == 0:
                place.exchange.started_ns = loop.now_ns
        else:
            waiting += 1
    if waiting == 0 or started >= worker.slot_count:
        worker.unstarted_since_ns = 0
        if waiting > worker.revoked_count:
            worker_revoke_late(loop, worker)
        if worker.is_unhealthy and waiting == 0:
            worker.is_unhealthy = False
            worker.is_hopeless = False
            pool_due(loop, worker.pool)
            event_post(loop.core, EVENT_RECOVERED, worker.number, 0)
        return
    if worker.unstarted_since_ns == 0 or worker.started_seen != started + worker.served:
        worker.unstarted_since_ns = loop.now_ns
        worker.started_seen = started + worker.served
    worker_judge(loop, worker)


cdef void worker_revoke_late(Loop *loop, Worker *worker) noexcept nogil:
    # It is busy: what it was given ahead and has not begun in time waits for whoever is free first.
    cdef uint32_t index
    cdef Exchange *exchange
    for index in range(worker.place_count):
        if worker.places[index].handed_ns + HEALTH_START_NS <= loop.now_ns:
            exchange = place_revoke(loop, worker, index)
            if exchange != NULL:
                queue_push(worker.pool, exchange)
                pool_due(loop, worker.pool)


cdef void worker_judge(Loop *loop, Worker *worker) noexcept nogil:
    cdef uint64_t since = worker.unstarted_since_ns
    if not worker.is_unhealthy and loop.now_ns >= since + HEALTH_START_NS:
        worker.is_unhealthy = True
        worker.unhealthy_since_ns = since
        worker_revoke_all(loop, worker)
        worker.waiting_suspect = NULL
        event_post(loop.core, EVENT_UNHEALTHY, worker.number, 0)
    if (worker.is_unhealthy and not worker.is_hopeless
            and loop.now_ns
            >= worker.unhealthy_since_ns + worker.pool.limits.ping_response_ns):
        worker.is_hopeless = True
        event_post(loop.core, EVENT_HOPELESS, worker.number, 0)


cdef void worker_ping(Loop *loop, Worker *worker) noexcept nogil:
    # For a figure only: how long a record takes to a worker and back. Nobody is judged by it. The
    # answer comes to loop 0, so only that one asks.
    if loop.index == 0 and worker.ping_sent_ns == 0 and loop.now_ns >= worker.ping_at_ns:
        worker.ping_at_ns = loop.now_ns + PING_EVERY_NS
        if lane_tell(loop, worker, RECORD_PING, 0, 0, 0, loop.now_ns):
            worker.ping_sent_ns = loop.now_ns


cdef void pool_check_health(Loop *loop, PoolSide *side) noexcept nogil:
    # Every tick while anything is in hand.
    cdef Pool *pool = side.pool
    cdef Worker *worker
    cdef Worker *deaf = NULL
    cdef bint is_watched = False
    pthread_mutex_lock(&pool.lock)
    worker = pool.workers
    while worker != NULL:
        if worker.deaf_since_ns and worker_is_trusted(worker):
            is_watched = True
            if loop.now_ns >= worker.deaf_since_ns + HEALTH_START_NS:
                deaf = worker
        if (worker.started != NULL
                and (worker.state == WORKER_READY or worker.state == WORKER_DRAINING)):
            if worker.in_hand or worker.is_unhealthy:
                worker_check_health(loop, worker)
            worker_ping(loop, worker)
            is_watched |= worker.is_unhealthy
        worker = worker.next
    pthread_mutex_unlock(&pool.lock)
    side_watch(loop, side, is_watched)
    if deaf != NULL:
        worker_distrust(loop, deaf)  # it closed its side socket, and lives


cdef void loop_check_timeouts(Loop *loop) noexcept nogil:
    # Every loop, every tick: this loop's requests that execute for too long.
    cdef uint32_t number
    cdef Worker *worker
    cdef Lane *lane
    for number in range(loop.worker_count):
        worker = loop.workers[number]
        lane = &worker.lanes[loop.index]
        # relaxed, both: looked at again at the next tick
        if (lane.is_open and atomic.load_relaxed_u32(&lane.in_hand)
                and atomic.load_relaxed(&worker.pool.limits.request_timeout_ns)):
            worker_check_timeouts(loop, worker)


cdef void worker_check_timeouts(Loop *loop, Worker *worker) noexcept nogil:
    cdef Pool *pool = worker.pool
    cdef uint64_t limit
    cdef uint32_t index
    cdef Exchange *exchange
    cdef Place *place
    for index in range(worker.place_count):
        pthread_mutex_lock(&pool.lock)
        limit = pool.limits.request_timeout_ns
        place = &worker.places[index]
        exchange = place.exchange
        if (exchange == NULL or place.state == PLACE_FREE or place.dispatch & 0xff != loop.index
                or limit == 0 or exchange.started_ns == 0
                or exchange.started_ns + limit > loop.now_ns):
            exchange = NULL
        else:
            exchange.state = EXCHANGE_STARTED
            if place.state == PLACE_HANDED:
                place.state = PLACE_STARTED
        pthread_mutex_unlock(&pool.lock)
        if exchange != NULL and exchange_is_wanted(exchange):
            worker_time_out(loop, worker, exchange)


cdef void worker_time_out(Loop *loop, Worker *worker, Exchange *exchange) noexcept nogil:
    # 504 at once; the worker gets nothing more, its other requests may finish; the managers replace
    # it.
    cdef bint is_first
    pthread_mutex_lock(&worker.pool.lock)
    is_first = not worker.has_timed_out
    worker.has_timed_out = True
    worker.waiting_suspect = NULL
    worker_revoke_all(loop, worker)
    pthread_mutex_unlock(&worker.pool.lock)
    lane_tell(loop, worker, RECORD_CLIENT_GONE, 0, exchange.place,
              worker.places[exchange.place].dispatch, 0)
    exchange.is_told = True
    exchange_refuse(loop, exchange, REASON_TIMER_RESPONSE)
    if is_first:
        event_post(loop.core, EVENT_TIMEOUT, worker.number, 0)
