# Helper threads: everything that can block. They write spill files, warm and close files, and take
# descriptors from the side sockets of workers.
#
# Rules
#  1. A helper thread touches a Job and a descriptor, never an Exchange or a Conn: it names the
#     exchange in the letter that it sends back to the loop.
#  2. A descriptor from a worker is used only if it is a regular file opened for reading; with any
#     other, the worker is distrusted.
#  3. Whatever came from a worker is read and closed only by threads that do nothing else: a slow
#     close() (a lingering socket took 3.2 s when tried, and can be made to take hours) or a file
#     system that does not answer blocks nobody but its like. No lock is held meanwhile.
#
# Theory of operation
#  jobs: four queues, for spill files, for warming, for closing what came from workers, for what
#  workers call (calls.pxi). receiver: one thread with an epoll over the side sockets; a worker's
#  descriptor is parked until the loop asks for that dispatch, or given at once if the loop has
#  asked already.

cdef enum:
    JOB_SPILL = 1
    JOB_WARM = 2
    JOB_CLOSE = 3                  # a file of our own
    JOB_DISCARD = 4                # whatever a worker has passed
    JOB_CALL = 5                   # the first part of a Call
    JOB_SWEEP = 6                  # of the response cache
    WARM_BYTES = 4194304
    FDS_PER_MESSAGE = 253          # SCM_MAX_FD
    PARKED_GROWTH = 64
    PARKED_SPARE = 512             # descriptors and FILE records without each other, beyond places


cdef uint32_t job_queue(uint8_t kind) noexcept nogil:
    if kind == JOB_WARM:
        return QUEUE_WARM
    if kind == JOB_CALL or kind == JOB_SWEEP:
        return QUEUE_CALL
    return QUEUE_DISCARD if kind == JOB_DISCARD else QUEUE_SPILL


cdef void job_submit(Core_ *core, Job *job) noexcept nogil:
    cdef JobQueue *jobs = &core.jobs[job_queue(job.kind)]
    job.next = NULL
    pthread_mutex_lock(&jobs.lock)
    if jobs.last == NULL:
        jobs.first = job
    else:
        jobs.last.next = job
    jobs.last = job
    pthread_cond_signal(&jobs.ready)
    pthread_mutex_unlock(&jobs.lock)


cdef Job *job_new(Loop *loop, uint8_t kind, Exchange *exchange, uint8_t letter_kind) noexcept nogil:
    cdef Job *job = <Job *> calloc(1, sizeof(Job))
    if job == NULL:
        return NULL
    job.kind = kind
    job.loop = loop.index
    job.exchange = exchange
    job.fd = -1
    job.letter.kind = letter_kind
    job.letter.subject = job
    return job


cdef bint job_spill(Loop *loop, Exchange *exchange) noexcept nogil:
    # Gives the filled buffer away. The first job opens the file; the exchange learns of it by
    # letter.
    cdef Job *job = job_new(loop, JOB_SPILL, exchange, LETTER_SPILLED)
    if job == NULL:
        return False
    job.buffer = exchange.spill
    job.bytes = exchange.spill.bytes
    job.offset = exchange.spill_offset
    job.shared = exchange.spill_file
    if job.shared == NULL:
        job.shared = <SpillFile *> calloc(1, sizeof(SpillFile))
        if job.shared == NULL:
            free(job)
            return False
        pthread_mutex_init(&job.shared.lock, NULL)
        job.shared.fd = -1
        job.shared.reader_fd = -1
        exchange.spill_file = job.shared
    exchange.spill = NULL
    exchange.spill_offset += job.bytes
    exchange.spill_jobs += 1
    job_submit(loop.core, job)
    return True


cdef bint job_warm(Loop *loop, Exchange *exchange) noexcept nogil:
    cdef Job *job = job_new(loop, JOB_WARM, exchange, LETTER_WARM)
    if job == NULL:
        return False
    job.fd = exchange.file_fd
    job.offset = exchange.file_offset
    job.keeps = exchange.file_is_copied
    job.bytes = min(exchange.file_left, <uint64_t> (SPILL_BYTES if job.keeps else WARM_BYTES))
    job_submit(loop.core, job)
    return True


cdef void job_sweep(Loop *loop) noexcept nogil:
    # Without memory: the next time.
    cdef Job *job = job_new(loop, JOB_SWEEP, NULL, 0)
    if job != NULL:
        job_submit(loop.core, job)


cdef void job_close(Loop *loop, int fd) noexcept nogil:
    # Closing a file may write to the disk. Without memory for the job it is closed here after all.
    cdef Job *job = job_new(loop, JOB_CLOSE, NULL, 0)
    if job == NULL:
        linux.close(fd)
        return
    job.fd = fd
    job_submit(loop.core, job)


cdef void fd_discard(Core_ *core, int fd) noexcept nogil:
    # Any thread: away with a descriptor that a worker has passed; -1: nothing.
    cdef Job *job
    if fd < 0:
        return
    job = <Job *> calloc(1, sizeof(Job))
    if job == NULL:
        linux.close(fd)
        return
    job.kind = JOB_DISCARD
    job.fd = fd
    job_submit(core, job)


cdef void spill_file_open(const Core_ *core, SpillFile *file) noexcept nogil:
    # Unlinked from the start; a second, read-only open is what workers get.
    cdef char path[64]
    file.fd = open(core.settings.spill_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0o600)
    if file.fd < 0:
        return
    snprintf(path, sizeof(path), b"/proc/self/fd/%d", file.fd)
    file.reader_fd = open(path, O_RDONLY | O_CLOEXEC)


cdef void job_do_spill(Core_ *core, Job *job) noexcept nogil:
    cdef uint64_t done = 0
    cdef ssize_t wrote
    pthread_mutex_lock(&job.shared.lock)
    if job.shared.fd < 0 and not job.shared.has_failed:
        spill_file_open(core, job.shared)
        job.shared.has_failed = job.shared.reader_fd < 0
    job.has_failed = job.shared.has_failed
    job.fd = job.shared.fd
    pthread_mutex_unlock(&job.shared.lock)
    while done < job.bytes and not job.has_failed:
        wrote = pwrite(job.fd, job.buffer.data + done, job.bytes - done,
                       <int64_t> (job.offset + done))
        if wrote > 0:
            done += <uint64_t> wrote
        elif wrote == 0 or linux.errno != EINTR:
            job.has_failed = True
    free(job.buffer)
    job.buffer = NULL


cdef void job_do_warm(Job *job) noexcept nogil:
    # Into the page cache: what is read is not looked at, unless the job keeps it.
    cdef SpillBuffer *buffer = <SpillBuffer *> malloc(sizeof(SpillBuffer))
    cdef uint64_t done = 0
    cdef ssize_t got
    while buffer != NULL and done < job.bytes:
        got = pread(job.fd, buffer.data, min(job.bytes - done, <uint64_t> SPILL_BYTES),
                    <int64_t> (job.offset + done))
        if got <= 0:
            break
        done += <uint64_t> got
        buffer.bytes = <uint32_t> got
        if job.keeps:
            break
    if job.keeps and done:
        job.buffer = buffer
    else:
        free(buffer)


cdef void job_do_discard(Job *job) noexcept nogil:
    # A socket's close() would wait as long as its sender wished: without lingering it does not.
    cdef linger_ off
    memset(&off, 0, sizeof(off))
    setsockopt(job.fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off))
    linux.close(job.fd)


cdef Job *job_take(JobQueue *jobs) noexcept nogil:
    # Waits for one; NULL: the core stops, and nothing is left.
    cdef Job *job
    pthread_mutex_lock(&jobs.lock)
    while jobs.first == NULL and not jobs.stops:
        pthread_cond_wait(&jobs.ready, &jobs.lock)
    job = jobs.first
    if job != NULL:
        jobs.first = job.next
        if jobs.first == NULL:
            jobs.last = NULL
        # Calls that nobody can be answered any more do not hold up the end.
        job.has_failed = job.kind == JOB_CALL and jobs.stops
    pthread_mutex_unlock(&jobs.lock)
    return job


cdef void *helper_main(void *argument) noexcept nogil:
    cdef JobQueue *jobs = <JobQueue *> argument
    cdef Core_ *core = jobs.core
    cdef Job *job = job_take(jobs)
    while job != NULL:
        if job.kind == JOB_SPILL:
            job_do_spill(core, job)
            mailbox_post(&core.loops[job.loop].mailbox, &job.letter)
        elif job.kind == JOB_WARM:
            job_do_warm(job)
            mailbox_post(&core.loops[job.loop].mailbox, &job.letter)
        elif job.kind == JOB_CALL:
            job_do_call(core, <Call *> job)
            mailbox_post(&core.loops[job.loop].mailbox, &job.letter)
        else:
            if job.kind == JOB_DISCARD:
                job_do_discard(job)
            elif job.kind == JOB_SWEEP:
                store_sweep(&core.store, linux.now_ns())
            else:
                linux.close(job.fd)
            free(job)
        job = job_take(jobs)
    return NULL


cdef void spill_on_written(Loop *loop, Job *job) noexcept nogil:
    cdef Exchange *exchange = job.exchange
    cdef bint has_failed = job.has_failed
    if exchange.spill_fd < 0 and not has_failed:
        exchange.spill_fd = job.shared.reader_fd
    free(job)
    content_on_spilled(loop, exchange, has_failed)


cdef void spill_file_free(Loop *loop, SpillFile *file) noexcept nogil:
    # No job is under way any more. The reader's descriptor is closed with the exchange.
    if file.fd >= 0:
        job_close(loop, file.fd)
    if file.reader_fd >= 0:
        job_close(loop, file.reader_fd)
    pthread_mutex_destroy(&file.lock)
    free(file)


cdef void file_on_warm(Loop *loop, Job *job) noexcept nogil:
    cdef Exchange *exchange = job.exchange
    exchange.file_is_warming = False
    if exchange.is_maker:
        fill_on_piece(loop, exchange, job.buffer)
    elif exchange.conn == NULL:
        exchange_free_unless_held(loop, exchange)
    elif not job.keeps:
        exchange.file_warm_to = job.offset + job.bytes
        conn_again(loop, exchange.conn)
    elif job.buffer == NULL:
        exchange_abort(loop, exchange, REASON_RESPONSE_FILE)
    else:
        response_send_piece(loop, exchange, job.buffer)
    free(job.buffer)
    free(job)


# --- descriptors from workers ---------------------------------------------------------------------

cdef bint file_is_good(int fd) noexcept nogil:
    cdef int flags = fcntl(fd, F_GETFL)
    return (flags >= 0 and (flags & O_ACCMODE) != O_WRONLY and not flags & O_PATH
            and linux.is_regular(fd))


cdef void receiver_watch(Core_ *core, Worker *worker) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = worker.number
    epoll_ctl(core.receiver_epoll, EPOLL_CTL_ADD, worker.side_fd, &event)


cdef void receiver_forget(Core_ *core, Worker *worker) noexcept nogil:
    # Takes what is still in the socket, into which nothing more goes; who waits for a descriptor
    # that never came is told so. What stood in the socket when it is closed would be closed with
    # it, by whoever closes it.
    pthread_mutex_lock(&core.receiver_lock)
    linux.shutdown(worker.side_fd, SHUT_RD)
    while receiver_take_one(core, worker):
        pass
    receiver_end(core, worker)
    while worker.parked_count:
        worker.parked_count -= 1
        fd_discard(core, worker.parked[worker.parked_count].fd)
    pthread_mutex_unlock(&core.receiver_lock)


cdef void receiver_end(Core_ *core, Worker *worker) noexcept nogil:
    # Nothing more will come from this worker.
    cdef uint32_t index = 0
    cdef Parked *parked
    if not worker.side_has_ended:
        worker.side_has_ended = True
        epoll_ctl(core.receiver_epoll, EPOLL_CTL_DEL, worker.side_fd, NULL)
    while index < worker.parked_count:
        parked = &worker.parked[index]
        if parked.is_expected:
            if parked.exchange != NULL:
                letter_send(&core.loops[parked.dispatch & 0xff].mailbox, LETTER_FILE,
                            parked.exchange, -1)
            parked[0] = worker.parked[worker.parked_count - 1]
            worker.parked_count -= 1
        else:
            index += 1


cdef void *receiver_main(void *argument) noexcept nogil:
    cdef Core_ *core = <Core_ *> argument
    cdef epoll_event events[16]
    cdef int count, index
    while True:
        count = epoll_wait(core.receiver_epoll, events, 16, -1)
        for index in range(count):
            if events[index].data.u64 == 0:  # core_stop(); no worker has this number
                return NULL
        pthread_mutex_lock(&core.receiver_lock)
        for index in range(count):
            receiver_take(core, <uint32_t> events[index].data.u64)
        pthread_mutex_unlock(&core.receiver_lock)


cdef void receiver_take(Core_ *core, uint32_t number) noexcept nogil:
    # Under receiver_lock. The event may be older than receiver_forget().
    cdef Worker *worker = worker_find(core, number)
    if worker != NULL and not worker.side_has_ended:
        receiver_take_one(core, worker)


cdef bint receiver_take_one(Core_ *core, Worker *worker) noexcept nogil:
    # One message; False: none is there now, or ever.
    cdef SideMessage message
    cdef int fds[FDS_PER_MESSAGE]
    cdef int count = 0, index
    cdef int fd = -1
    cdef ssize_t got = linux.receive_fds(worker.side_fd, &message, sizeof(message), fds, &count)
    if got == -EAGAIN or got == -EINTR:
        return False
    if (got == sizeof(message) and message.kind == RECORD_FILE
            and (count == 0 or (count == 1 and file_is_good(fds[0])))):
        # Without a descriptor: we were out of descriptors ourselves.
        fd = fds[0] if count else -1
        if not receiver_deliver(core, worker, message.dispatch, fd):
            receiver_accuse(core, worker)
        return True
    for index in range(count):
        fd_discard(core, fds[index])
    if got > 0 or count:
        receiver_accuse(core, worker)
    else:
        receiver_end(core, worker)
    return got > 0


cdef void receiver_accuse(Core_ *core, Worker *worker) noexcept nogil:
    # It passed what it must not: loop 0 distrusts it, and nothing more is taken from it.
    if not worker.side_has_ended:
        receiver_end(core, worker)
        letter_send(&core.loops[0].mailbox, LETTER_DISTRUST, worker, -1)


cdef Parked *parked_new(Worker *worker) noexcept nogil:
    # NULL: more than an honest worker can need, or no memory.
    cdef Parked *grown
    cdef Parked *parked
    if worker.parked_count == worker.parked_room:
        if worker.parked_room >= worker.place_count + PARKED_SPARE:
            return NULL
        grown = <Parked *> realloc(worker.parked,
                                   (worker.parked_room + PARKED_GROWTH) * sizeof(Parked))
        if grown == NULL:
            return NULL
        worker.parked = grown
        worker.parked_room += PARKED_GROWTH
    parked = &worker.parked[worker.parked_count]
    worker.parked_count += 1
    memset(parked, 0, sizeof(Parked))
    parked.fd = -1
    return parked


cdef Parked *parked_find(Worker *worker, uint64_t dispatch, bint is_expected) noexcept nogil:
    cdef uint32_t index
    for index in range(worker.parked_count):
        if (worker.parked[index].dispatch == dispatch
                and worker.parked[index].is_expected == is_expected):
            return &worker.parked[index]
    return NULL


cdef void parked_remove(Worker *worker, Parked *parked) noexcept nogil:
    worker.parked_count -= 1
    parked[0] = worker.parked[worker.parked_count]


cdef bint receiver_deliver(Core_ *core, Worker *worker, uint64_t dispatch, int fd) noexcept nogil:
    # fd -1: it got lost. Parked until a loop expects it, or sent to the loop that does. False: it
    # can never be expected.
    cdef Parked *parked = parked_find(worker, dispatch, True)
    if parked != NULL:
        if parked.exchange == NULL:
            fd_discard(core, fd)
        else:
            letter_send(&core.loops[dispatch & 0xff].mailbox, LETTER_FILE, parked.exchange,
                        fd)
        parked_remove(worker, parked)
        return True
    parked = parked_new(worker)
    if parked == NULL:
        fd_discard(core, fd)
        return False
    parked.dispatch = dispatch
    parked.fd = fd
    return True


cdef void receiver_expect(Loop *loop, Worker *worker, uint64_t dispatch,
                          Exchange *exchange) noexcept nogil:
    # A FILE record was seen. exchange NULL: nobody wants the file any more.
    cdef Core_ *core = loop.core
    cdef Parked *parked
    cdef bint is_wanted = exchange != NULL and exchange.file_is_due
    if exchange != NULL:
        exchange.file_worker = worker.number
    pthread_mutex_lock(&core.receiver_lock)
    parked = parked_find(worker, dispatch, False)
    if parked != NULL:
        if is_wanted:
            letter_send(&loop.mailbox, LETTER_FILE, exchange, parked.fd)
        else:
            fd_discard(core, parked.fd)
        parked_remove(worker, parked)
        pthread_mutex_unlock(&core.receiver_lock)
        return
    parked = NULL if worker.side_has_ended else parked_new(worker)
    if parked != NULL:
        parked.dispatch = dispatch
        parked.is_expected = True
        parked.exchange = exchange if is_wanted else NULL
    elif is_wanted:
        letter_send(&loop.mailbox, LETTER_FILE, exchange, -1)
    pthread_mutex_unlock(&core.receiver_lock)


cdef void receiver_unexpect(Loop *loop, Exchange *exchange) noexcept nogil:
    # Nobody waits any more; what comes will be closed. If a letter is on its way already, the
    # exchange stays until it has come.
    cdef Worker *worker
    cdef uint32_t index
    pthread_mutex_lock(&loop.core.receiver_lock)
    worker = worker_find(loop.core, exchange.file_worker)
    if worker != NULL:
        for index in range(worker.parked_count):
            if worker.parked[index].is_expected and worker.parked[index].exchange == exchange:
                worker.parked[index].exchange = NULL
                exchange.file_is_due = False
                break
    pthread_mutex_unlock(&loop.core.receiver_lock)


cdef void file_on_arrived(Loop *loop, Exchange *exchange, int fd) noexcept nogil:
    # LETTER_FILE; fd -1: no regular file came, or none at all.
    exchange.file_is_due = False
    if exchange.is_maker:
        exchange.file_fd = fd
        if fd < 0:
            fill_file_failed(loop, exchange)
        else:
            fill_read_file(loop, exchange)
        return
    if exchange.conn == NULL:
        fd_discard(loop.core, fd)
        exchange_free_unless_held(loop, exchange)
        return
    if fd < 0:
        exchange_abort(loop, exchange, REASON_RESPONSE_FILE)
        return
    exchange.file_fd = fd
    response_send_file(loop, exchange)
