# Start, stop and figures of a Core: its doors' nogil side.

cdef int loop_init(Core_ *core, uint32_t index) noexcept nogil:
    cdef Loop *loop = &core.loops[index]
    cdef int fd
    loop.core = core
    loop.index = <uint8_t> index
    loop.is_running = True
    loop.now_ns = linux.now_ns()
    loop.spin.limit_ns = core.settings.spin_ns
    loop.epoll_fd = -1
    loop.mailbox.fd = -1
    wheel_init(&loop.wheel, loop.now_ns)
    pthread_mutex_init(&loop.mailbox.lock, NULL)
    loop.mailbox.source.kind = SOURCE_MAILBOX
    loop.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    loop.mailbox.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    loop.scratch = <uint8_t *> malloc(SCRATCH_BYTES)
    loop.head_scratch = <uint8_t *> malloc(HEAD_SCRATCH_BYTES)
    loop.head_out = <uint8_t *> malloc(HEAD_SCRATCH_BYTES + HEAD_FIXED_BYTES + SMALL_CONTENT_BYTES)
    loop.fields = <FieldLine *> calloc(core.settings.field_count + FIELDS_ADDED, sizeof(FieldLine))
    loop.view = <FieldLine *> calloc(core.settings.field_count + FIELDS_ADDED, sizeof(FieldLine))
    loop.key = <uint8_t *> malloc(CACHE_KEY_MAX)
    loop.path = <uint8_t *> malloc(core.settings.target_bytes + 1)
    loop.batch = <uint8_t *> malloc(BATCH_BYTES)
    if (loop.epoll_fd < 0 or loop.mailbox.fd < 0 or loop.scratch == NULL
            or loop.head_scratch == NULL
            or loop.head_out == NULL or loop.fields == NULL or loop.view == NULL
            or loop.key == NULL or loop.path == NULL or loop.batch == NULL):
        return -ENOMEM
    fd = linux.memfd(b"kernelq-log")
    if fd < 0 or linux.ftruncate(fd, LOG_RING_BYTES) < 0:
        return -linux.errno
    loop.log.at = <uint8_t *> linux.map_twice(fd, 0, LOG_RING_BYTES, True)
    linux.close(fd)
    if loop.log.at == NULL:
        return -linux.errno
    loop.log.bytes = loop.log_reader.bytes = LOG_RING_BYTES
    loop.log_reader.at = loop.log.at
    loop.log.published = &loop.log_published
    loop.log_reader.published = &loop.log_published
    loop.log.released = &loop.log_released
    loop.log_reader.released = &loop.log_released
    if not epoll_watch(loop, loop.mailbox.fd, EPOLLIN, &loop.mailbox):
        return -linux.errno
    return 0


cdef void loop_uninit(Core_ *core, uint32_t index) noexcept nogil:
    # Its thread has ended; what it still had is given back.
    cdef Loop *loop = &core.loops[index]
    cdef Exchange *exchange
    cdef Chunk *chunk
    cdef Conn *conn
    calls_drop(loop)
    while loop.spare_exchanges != NULL:
        exchange = loop.spare_exchanges
        loop.spare_exchanges = exchange.next
        free(exchange)
    while loop.spare_chunks != NULL:
        chunk = loop.spare_chunks
        loop.spare_chunks = chunk.next
        free(chunk)
    while loop.spare_conns != NULL:
        conn = loop.spare_conns
        loop.spare_conns = conn.next_closed
        free(conn)
    if loop.log.at != NULL:
        linux.munmap(loop.log.at, LOG_RING_BYTES * 2)
    free(loop.scratch)
    free(loop.head_scratch)
    free(loop.head_out)
    free(loop.fields)
    free(loop.view)
    free(loop.key)
    free(loop.path)
    free(loop.batch)
    free(loop.workers)
    free(loop.busy)
    free(loop.listeners)
    fd_close(&loop.epoll_fd)
    fd_close(&loop.mailbox.fd)


cdef int core_init(Core_ *core) noexcept nogil:
    # Settings are filled. 0 or -errno; core_uninit() cleans up either way.
    cdef uint32_t index
    cdef int error
    core.event_fd = core.writer_fd = core.receiver_epoll = core.receiver_stop_fd = -1
    pthread_mutex_init(&core.table_lock, NULL)
    pthread_mutex_init(&core.workers_lock, NULL)
    pthread_mutex_init(&core.events_lock, NULL)
    pthread_mutex_init(&core.receiver_lock, NULL)
    pthread_mutex_init(&core.log_lock, NULL)
    for index in range(<uint32_t> QUEUES):
        core.jobs[index].core = core
        pthread_mutex_init(&core.jobs[index].lock, NULL)
        pthread_cond_init(&core.jobs[index].ready, NULL)
    for index in range(<uint32_t> FILL_BUCKETS):
        pthread_mutex_init(&core.fills[index].lock, NULL)
    error = core_init_store(core)
    if error < 0:
        return error
    core.loops = <Loop *> calloc(core.settings.loop_count, sizeof(Loop))
    if core.loops == NULL:
        return -ENOMEM
    for index in range(core.settings.loop_count):
        error = loop_init(core, index)
        if error < 0:
            return error
    core.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    core.writer_fd = eventfd(0, EFD_CLOEXEC)
    core.receiver_epoll = epoll_create1(EPOLL_CLOEXEC)
    core.receiver_stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    if (core.event_fd < 0 or core.writer_fd < 0 or core.receiver_epoll < 0
            or core.receiver_stop_fd < 0):
        return -linux.errno
    return 0


cdef int core_init_store(Core_ *core) noexcept nogil:
    cdef StoreSettings settings
    if core.settings.cache_mode == CACHE_OFF:
        return 0
    settings.bytes = core.settings.cache_bytes
    settings.entry_bytes = core.settings.cache_entry_bytes
    settings.frequent_hits = core.settings.cache_frequent_hits
    settings.frequent_s = core.settings.cache_frequent_s
    settings.scavenge_s = core.settings.cache_scavenge_s
    return store_init(&core.store, &settings, core.settings.loop_count)


cdef int core_start(Core_ *core) noexcept nogil:
    cdef uint32_t index
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = 0
    epoll_ctl(core.receiver_epoll, EPOLL_CTL_ADD, core.receiver_stop_fd, &event)
    core.is_started = True
    if pthread_create(&core.writer, NULL, writer_main, core) != 0:
        return -EAGAIN
    if pthread_create(&core.receiver, NULL, receiver_main, core) != 0:
        return -EAGAIN
    for index in range(<uint32_t> HELPERS):
        if pthread_create(&core.helpers[index], NULL, helper_main,
                          &core.jobs[index % QUEUES]) != 0:
            return -EAGAIN
    for index in range(core.settings.loop_count):
        if pthread_create(&core.loops[index].thread, NULL, loop_main, &core.loops[index]) != 0:
            return -EAGAIN
    return 0


cdef void thread_join_if(pthread_t thread) noexcept nogil:
    # 0: it was never started (no memory, too many threads).
    if thread:
        pthread_join(thread, NULL)


cdef void core_stop(Core_ *core) noexcept nogil:
    # Ends every thread: loops first, then those who work for them.
    cdef uint32_t index
    cdef uint64_t one = 1
    if not core.is_started:
        return
    core.is_started = False
    for index in range(core.settings.loop_count):
        letter_send(&core.loops[index].mailbox, LETTER_STOP, NULL, -1)
    for index in range(core.settings.loop_count):
        thread_join_if(core.loops[index].thread)
    write(core.receiver_stop_fd, &one, sizeof(one))
    thread_join_if(core.receiver)
    for index in range(<uint32_t> QUEUES):
        pthread_mutex_lock(&core.jobs[index].lock)
        core.jobs[index].stops = True
        pthread_cond_broadcast(&core.jobs[index].ready)
        pthread_mutex_unlock(&core.jobs[index].lock)
    for index in range(<uint32_t> HELPERS):
        thread_join_if(core.helpers[index])
    atomic.store_release_u32(&core.writer_stop, 1)  # SYNC writer-stop
    write(core.writer_fd, &one, sizeof(one))
    thread_join_if(core.writer)


cdef void core_uninit(Core_ *core) noexcept nogil:
    # After core_stop(). Sockets of clients go with the process or with their connections' memory.
    cdef uint32_t index
    cdef Worker *worker
    for index in range(<uint32_t> WORKER_BUCKETS):
        while core.known[index] != NULL:
            worker = core.known[index]
            core.known[index] = worker.next_known
            worker_free(core, worker)
    if core.loops != NULL:
        for index in range(core.settings.loop_count):
            loop_uninit(core, index)
    if core.settings.cache_mode != CACHE_OFF:
        store_uninit(&core.store)
    pools_free(core)
    listeners_free(core)
    snapshots_free(core)
    free(core.loops)
    free(core.trusted)
    free(core.events)
    core.events = NULL
    core.loops = NULL
    core.trusted = NULL
    fd_close(&core.event_fd)
    fd_close(&core.writer_fd)
    fd_close(&core.receiver_epoll)
    fd_close(&core.receiver_stop_fd)


cdef uint64_t core_count(const Core_ *core, uint32_t counter) noexcept nogil:
    # Each loop counts for itself; a sum read while they run is a moment old (relaxed: nothing
    # follows from it).
    cdef uint64_t total = 0
    cdef uint32_t index
    for index in range(core.settings.loop_count):
        total += atomic.load_relaxed(&core.loops[index].counters[counter])  # relaxed: a figure
    return total
