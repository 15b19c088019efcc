# Helper threads: everything that can block. They write spill files, warm and close files, and take
# descriptors from the side sockets of workers.
#
# Rules
#  1. A helper thread touches a Job and a descriptor, never an Exchange or a Conn: it names the
#     exchange in the letter that it sends back to the loop.
#  2. A descriptor from a worker is used only if it is a regular file opened for reading; everything
#     else is closed here, where a slow close() (a lingering socket took 3.2 s when tried) blocks
#     nobody.
#
# Theory of operation
#  jobs: one queue, two threads. receiver: one thread with an epoll over the side sockets; a
#  worker's descriptor is kept in its slot until the loop asks for that dispatch, or given at once
#  if the loop has asked already.

cdef enum:
    JOB_SPILL = 1
    JOB_WARM = 2
    JOB_CLOSE = 3
    WARM_BYTES = 4194304
    PARKED_MAX = 64                # descriptors of one worker that no FILE record has named yet


cdef void job_submit(Core_ *core, Job *job) noexcept nogil:
    job.next = NULL
    pthread_mutex_lock(&core.jobs_lock)
    if core.jobs_last == NULL:
        core.jobs_first = job
    else:
        core.jobs_last.next = job
    core.jobs_last = job
    pthread_cond_signal(&core.jobs_ready)
    pthread_mutex_unlock(&core.jobs_lock)


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
    job.bytes = exchange.file_left if exchange.file_left < WARM_BYTES else WARM_BYTES
    job_submit(loop.core, job)
    return True


cdef void job_close(Loop *loop, int fd) noexcept nogil:
    # Closing a file may write to the disk. Without memory for the job it is closed here after all.
    cdef Job *job = job_new(loop, JOB_CLOSE, NULL, 0)
    if job == NULL:
        linux.close(fd)
        return
    job.fd = fd
    job_submit(loop.core, job)


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
    # Into the page cache: what is read is not looked at.
    cdef uint8_t *room = <uint8_t *> malloc(SPILL_BYTES)
    cdef uint64_t done = 0
    cdef ssize_t got
    while room != NULL and done < job.bytes:
        got = pread(job.fd, room, SPILL_BYTES, <int64_t> (job.offset + done))
        if got <= 0:
            break
        done += <uint64_t> got
    free(room)


cdef void *helper_main(void *argument) noexcept nogil:
    cdef Core_ *core = <Core_ *> argument
    cdef Job *job
    while True:
        pthread_mutex_lock(&core.jobs_lock)
        while core.jobs_first == NULL and not core.helpers_stop:
            pthread_cond_wait(&core.jobs_ready, &core.jobs_lock)
        job = core.jobs_first
        if job == NULL:
            pthread_mutex_unlock(&core.jobs_lock)
            return NULL
        core.jobs_first = job.next
        if core.jobs_first == NULL:
            core.jobs_last = NULL
        pthread_mutex_unlock(&core.jobs_lock)
        if job.kind == JOB_SPILL:
            job_do_spill(core, job)
        elif job.kind == JOB_WARM:
            job_do_warm(job)
        else:
            linux.close(job.fd)
            free(job)
            continue
        mailbox_post(&core.loops[job.loop].mailbox, &job.letter)


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
    exchange.file_warm_to = job.offset + job.bytes
    free(job)
    if exchange.conn == NULL:
        exchange_free_unless_held(loop, exchange)
    else:
        conn_again(loop, exchange.conn)


# --- descriptors from workers ---------------------------------------------------------------------

cdef bint file_is_good(int fd) noexcept nogil:
    cdef stat_ status
    cdef int flags = fcntl(fd, F_GETFL)
    if fstat(fd, &status) < 0 or not S_ISREG(status.st_mode):
        return False
    return flags >= 0 and (flags & O_ACCMODE) != O_WRONLY and not flags & O_PATH


cdef void receiver_watch(Core_ *core, Worker *worker) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.ptr = worker
    epoll_ctl(core.receiver_epoll, EPOLL_CTL_ADD, worker.side_fd, &event)


cdef void receiver_forget(Core_ *core, Worker *worker) noexcept nogil:
    # Takes what is still in the socket; who waits for a descriptor that never came is told so.
    pthread_mutex_lock(&core.receiver_lock)
    while not worker.side_has_ended:
        if not receiver_take_one(core, worker):
            break
    receiver_end(core, worker)
    while worker.parked_count:
        worker.parked_count -= 1
        if worker.parked[worker.parked_count].fd >= 0:
            linux.close(worker.parked[worker.parked_count].fd)
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
                            parked.exchange, parked.dispatch, -1)
            parked[0] = worker.parked[worker.parked_count - 1]
            worker.parked_count -= 1
        else:
            index += 1


cdef void *receiver_main(void *argument) noexcept nogil:
    cdef Core_ *core = <Core_ *> argument
    cdef epoll_event events[16]
    cdef int count, index
    cdef Worker *worker
    while True:
        count = epoll_wait(core.receiver_epoll, events, 16, -1)
        for index in range(count):
            worker = <Worker *> events[index].data.ptr
            if worker == NULL:
                return NULL
        pthread_mutex_lock(&core.receiver_lock)
        for index in range(count):
            receiver_take(core, <Worker *> events[index].data.ptr)
        pthread_mutex_unlock(&core.receiver_lock)


cdef void receiver_take(Core_ *core, Worker *worker) noexcept nogil:
    # Under receiver_lock. The event may be older than receiver_forget().
    if receiver_knows(core, worker) and not worker.side_has_ended:
        receiver_take_one(core, worker)


cdef bint receiver_take_one(Core_ *core, Worker *worker) noexcept nogil:
    # One message; False: none is there now.
    cdef SideMessage message
    cdef int fd = -1
    cdef ssize_t got = linux.receive_fd(worker.side_fd, &message, sizeof(message), &fd,
                                        MSG_DONTWAIT)
    if got == -EAGAIN or got == -EINTR:
        return False
    if got <= 0:
        receiver_end(core, worker)
        return False
    if got != sizeof(message) or message.kind != RECORD_FILE or (fd >= 0 and not file_is_good(fd)):
        if fd >= 0:
            linux.close(fd)
        fd = -1
    if got == sizeof(message) and message.kind == RECORD_FILE:
        receiver_deliver(core, worker, message.dispatch, fd)
    elif fd >= 0:
        linux.close(fd)
    return True


cdef bint receiver_knows(Core_ *core, Worker *worker) noexcept nogil:
    # An event may be older than receiver_forget(): look the worker up by address among those that
    # are linked.
    cdef Worker *known
    pthread_mutex_lock(&core.pool.lock)
    known = core.pool.workers
    while known != NULL and known != worker:
        known = known.next
    pthread_mutex_unlock(&core.pool.lock)
    return known != NULL


cdef void receiver_deliver(Core_ *core, Worker *worker, uint64_t dispatch, int fd) noexcept nogil:
    # fd -1: it was no regular file. Parked until a loop expects it, or sent to the loop that does.
    cdef uint32_t index
    cdef Parked *parked
    for index in range(worker.parked_count):
        parked = &worker.parked[index]
        if parked.dispatch == dispatch and parked.is_expected:
            if parked.exchange == NULL:
                if fd >= 0:
                    linux.close(fd)
            else:
                letter_send(&core.loops[dispatch & 0xff].mailbox, LETTER_FILE, parked.exchange,
                            dispatch, fd)
            parked[0] = worker.parked[worker.parked_count - 1]
            worker.parked_count -= 1
            return
    if worker.parked_count == PARKED_MAX or dispatch & 0xff >= core.settings.loop_count:
        if fd >= 0:
            linux.close(fd)
        return
    parked = &worker.parked[worker.parked_count]
    parked.dispatch = dispatch
    parked.fd = fd
    parked.is_expected = False
    parked.exchange = NULL
    worker.parked_count += 1


cdef void receiver_expect(Loop *loop, Worker *worker, uint64_t dispatch,
                          Exchange *exchange) noexcept nogil:
    # A FILE record was seen. exchange NULL: nobody wants the file any more.
    cdef Core_ *core = loop.core
    cdef uint32_t index
    cdef Parked *parked
    cdef bint is_wanted = exchange != NULL and exchange.file_is_due
    cdef bint is_found = False
    if exchange != NULL:
        exchange.file_worker = worker
    pthread_mutex_lock(&core.receiver_lock)
    for index in range(worker.parked_count):
        parked = &worker.parked[index]
        if parked.dispatch == dispatch and not parked.is_expected:
            if is_wanted:
                letter_send(&loop.mailbox, LETTER_FILE, exchange, dispatch, parked.fd)
            elif parked.fd >= 0:
                linux.close(parked.fd)
            parked[0] = worker.parked[worker.parked_count - 1]
            worker.parked_count -= 1
            is_found = True
            break
    if not is_found and is_wanted and (worker.parked_count == PARKED_MAX or worker.side_has_ended):
        letter_send(&loop.mailbox, LETTER_FILE, exchange, dispatch, -1)
    elif not is_found and worker.parked_count < PARKED_MAX:
        parked = &worker.parked[worker.parked_count]
        parked.dispatch = dispatch
        parked.fd = -1
        parked.is_expected = True
        parked.exchange = exchange if is_wanted else NULL
        worker.parked_count += 1
    pthread_mutex_unlock(&core.receiver_lock)


cdef void receiver_unexpect(Loop *loop, Exchange *exchange) noexcept nogil:
    # Nobody waits any more. If a letter is on its way already, the exchange stays until it has
    # come.
    cdef Worker *worker = exchange.file_worker
    cdef uint32_t index
    pthread_mutex_lock(&loop.core.receiver_lock)
    if receiver_knows(loop.core, worker):
        for index in range(worker.parked_count):
            if worker.parked[index].is_expected and worker.parked[index].exchange == exchange:
                worker.parked[index] = worker.parked[worker.parked_count - 1]
                worker.parked_count -= 1
                exchange.file_is_due = False
                break
    pthread_mutex_unlock(&loop.core.receiver_lock)


cdef void file_on_arrived(Loop *loop, Exchange *exchange, int fd) noexcept nogil:
    # LETTER_FILE; fd -1: no regular file came, or none at all.
    exchange.file_is_due = False
    if exchange.conn == NULL:
        if fd >= 0:
            job_close(loop, fd)
        exchange_free_unless_held(loop, exchange)
        return
    if fd < 0:
        exchange_abort(loop, exchange, REASON_RESPONSE_FILE)
        return
    exchange.file_fd = fd
    response_send_file(loop, exchange)
