# The Python door: a Channel, made from the descriptors that the spawner passed on.

CHANNEL_FDS = ("core_memory", "worker_memory", "side_socket", "doorbell", "bell")

# Operations of call(), statuses of its outcome, and the flag of CALL_FLUSH.
CALLS = {"flush": CALL_FLUSH, "flush_group": CALL_FLUSH_GROUP}
REPLIES = {"done": REPLY_DONE, "invalid": REPLY_INVALID, "no_memory": REPLY_NO_MEMORY}
RECURSIVE = CALL_FLAG_RECURSIVE
layout_version = LAYOUT_VERSION  # what interpreter.py compares

cdef object channels = weakref.WeakSet()
cdef object served = None          # weak: the channel that is being served in this process
cdef object current = threading.local()  # .runner: of a serving thread

cdef int fds_prepare(object fds) except -1:
    # None of them survives an exec; waits for doorbells block.
    for fd in fds:
        os.set_inheritable(fd, False)
    for fd in fds[3::2]:
        os.set_blocking(fd, True)
    return 0


cdef int head_read(int fd, ChannelHead *head) except -1:
    # The core's head, if this kernelq understands it.
    cdef ssize_t got = thread.pread(fd, head, sizeof(ChannelHead), 0)
    if got < 0:
        PyErr_SetFromErrno(OSError)
    if got < <ssize_t> sizeof(ChannelHead) or head.magic != LAYOUT_MAGIC:
        raise ValueError("the core's memory is no kernelq channel")
    if head.version != LAYOUT_VERSION:
        raise ValueError(
            f"the core has channel layout {head.version}, this worker's kernelq has "
            f"{LAYOUT_VERSION}: both must be of the same kernelq version")
    return 0


@cython.final
@cython.no_gc_clear                # __dealloc__ asks the serving threads whether they have ended
cdef class Channel:
    """The worker process's end of the channel to the core."""

    cdef Link *link
    cdef list serving
    cdef object __weakref__

    def __init__(self, fds):
        cdef ChannelHead head
        cdef const char *why
        fds = list(fds)
        if self.link != NULL:
            raise ValueError("the channel is open already")
        fds_prepare(fds)
        head_read(fds[0], &head)
        why = link_check(&head, os.fstat(fds[0]).st_size, os.fstat(fds[1]).st_size)
        if why != NULL:
            raise ValueError(why.decode())
        if len(fds) != 3 + 2 * head.loop_count:
            raise ValueError(f"a channel of {head.loop_count} loops has not {len(fds)} descriptors")
        self.serving = []
        self.link = link_new(&head)
        if self.link == NULL:
            raise MemoryError
        if not link_map(self.link, fds[0], fds[1]):
            PyErr_SetFromErrno(OSError)
        self.take_fds(fds)
        channels.add(self)

    cdef int take_fds(self, list fds) except -1:
        cdef uint32_t loop
        os.close(fds[0])
        os.close(fds[1])
        self.link.side_socket = fds[2]
        for loop in range(self.link.sizes.loop_count):
            self.link.doorbells[loop] = fds[3 + 2 * loop]
            self.link.lanes[loop].bell = fds[4 + 2 * loop]
        self.link.ended_fd = thread.eventfd(0, thread.EFD_CLOEXEC | thread.EFD_NONBLOCK)
        if self.link.ended_fd < 0:
            PyErr_SetFromErrno(OSError)
        self.link.spin.limit_ns = self.link.sizes.spin_ns if thread.cpu_count() > 1 else 0
        return 0

    def __dealloc__(self):
        if self.link == NULL:
            return
        if self.link.is_closed:
            return
        if self.link.thread_count == 0 or self.is_over():
            self.give_back()

    cdef bint is_over(self):
        # All serving threads have ended.
        return not any([serving.is_alive() for serving in self.serving])

    cdef void give_back(self) noexcept:
        with nogil:
            if self.link.has_deputy:
                atomic.store_seq_u32(&self.link.deputy_stops, 1)  # SYNC deputy
                deputy_wake(self.link)
                thread.thread_join(self.link.deputy, NULL)
            link_close(self.link)
            link_unmap(self.link)
            link_free(self.link)
        self.link = NULL

    cdef int check(self) except -1:
        if self.link == NULL or self.link.is_closed:
            raise ValueError("the channel is closed")
        return 0

    @property
    def slot_count(self):
        """How many requests the core hands over to be run at once."""
        self.check()
        return self.link.sizes.slot_count

    @property
    def worker(self):
        """The number of this worker in the core."""
        self.check()
        return self.link.sizes.epoch

    def fileno(self):
        """A descriptor that becomes readable when wait() may have news while draining."""
        self.check()
        return self.link.ended_fd

    def ready(self):
        """Tell the core that the application is loaded: it may hand over requests."""
        cdef RecordHead record
        self.check()
        FAULT(b"worker-ready")
        record_init(&record, sizeof(RecordHead), RECORD_READY, 0, 0)
        with nogil:
            lane_put_at_last(self.link, lane_of(self.link, 0), &record)
            # Whether the core sleeps or not: before this bell it does not look at our memory.
            thread.bell_ring(self.link.lanes[0].bell)
        FAULT(b"worker-ready-said")

    def serve(self, applications, int threads, settings=None):
        """Start so many serving threads that run these applications; return at once.

        applications: by number, as requests name them, objects with a method load() that gives the
        callable. It is called once per thread; StartError says why it cannot be had now.
        """
        cdef int index
        self.check()
        if self.serving:
            raise ValueError("the channel is being served already")
        if not applications:
            raise ValueError("there is no application to serve")
        if threads != <int> self.link.sizes.slot_count:
            raise ValueError(
                f"the core expects {self.link.sizes.slot_count} threads, not {threads}")
        self.link.threads = <LinkThread *> calloc(threads, sizeof(LinkThread))
        if self.link.threads == NULL:
            raise MemoryError
        for index in range(threads):
            self.link.threads[index].link = self.link
            self.link.threads[index].index = index + 1
        self.link.thread_count = threads
        if thread.thread_start(&self.link.deputy, deputy_thread, self.link) < 0:
            raise RuntimeError("no further thread can be started")
        self.link.has_deputy = True
        base = environ_base(threads, settings)
        for index in range(threads):
            runner = Runner(self, index, applications, base)
            self.serving.append(
                threading.Thread(target=runner.run, name=f"kernelq-{index + 1}", daemon=True))
        global served
        served = weakref.ref(self)
        for serving in self.serving:
            serving.start()

    def drain(self):
        """Start no further request; those that run are finished."""
        self.check()
        with nogil:
            atomic.store_seq_u32(&self.link.is_draining, 1)  # SYNC draining
            followers_end(self.link)
            link_tell_ended(self.link)

    def wait(self, timeout=None):
        """True once the worker is drained; False after timeout seconds, or at a signal."""
        cdef uint64_t until = 0, now
        cdef uint32_t seen
        cdef int outcome = 0
        self.check()
        if timeout is not None:
            until = linux.now_ns() + <uint64_t> (max(0.0, timeout) * 1e9) + 1
        while True:
            seen = atomic.load_acquire_u32(&self.link.ended_word)  # SYNC ended
            now = linux.now_ns()
            if link_is_drained(self.link):
                return True
            if outcome == -thread.EINTR or (until and now >= until):
                return False
            with nogil:
                outcome = thread.futex_wait(&self.link.ended_word, seen,
                                            until - now if until else 0)
            PyErr_CheckSignals()

    def close(self):
        """Close the channel, once its threads have ended; the core takes the worker for gone."""
        self.check()
        if waiter_find(self.link) != NULL and self.is_over():
            raise ValueError("a call of the core is under way")
        for serving in self.serving:
            serving.join()
        self.give_back()


cdef Channel channel_served():
    # The channel of this process; LookupError: it has none, or none any more.
    cdef Runner runner = getattr(current, "runner", None)
    cdef Channel channel = None
    if runner is not None:
        channel = runner.channel
    elif served is not None:
        channel = served()
    if channel is None or channel.link == NULL or channel.link.is_closed:
        raise LookupError("this process serves no requests of kernelq")
    return channel


def is_served():
    """Whether this process is a worker that serves requests."""
    try:
        channel_served()
    except LookupError:
        return False
    return True


def current_environ():
    """The environ of the request that this thread runs, or None."""
    cdef Runner runner = getattr(current, "runner", None)
    return None if runner is None else runner.environ


def call(uint32_t operation, bytes first not None, bytes second not None=b"", uint32_t flags=0,
         double limit=CALL_LIMIT_NS / 1e9):
    """Call the core and wait for its answer, up to limit seconds: (status, value).

    Raises LookupError outside of a worker that serves, ValueError for what no call can carry,
    TimeoutError without an answer. What was called may happen all the same then.
    """
    cdef Runner runner = getattr(current, "runner", None)
    cdef Channel channel = channel_served()
    cdef LinkThread *serving = NULL
    cdef LinkLane *lane = NULL
    cdef const uint8_t *first_at = <const uint8_t *> PyBytes_AS_STRING(first)
    cdef const uint8_t *second_at = <const uint8_t *> PyBytes_AS_STRING(second)
    cdef CallRecord record
    cdef ReplyRecord reply
    cdef uint64_t limit_ns = <uint64_t> (max(limit, 0.0) * 1e9)
    cdef bint is_answered
    if len(first) + len(second) > min(<uint32_t> CALL_TEXT_MAX, channel.link.sizes.ring_bytes // 4):
        raise ValueError(f"{len(first) + len(second)} bytes are more than a call can carry")
    lane = &channel.link.lanes[0]
    if runner is not None:
        if runner.environ is None:
            # A finalizer, between two requests: this thread may have to read the rings itself, and
            # is in the midst of it.
            raise RuntimeError("a serving thread calls the core only while it runs a request")
        serving = runner.thread
        lane = runner.response.lane
    memset(&record, 0, sizeof(record))
    record_init(&record.head, <uint32_t> (sizeof(record) + len(first) + len(second)), RECORD_CALL,
                0, 0)
    record.operation = operation
    record.flags = flags
    record.first_bytes = <uint32_t> len(first)
    record.second_bytes = <uint32_t> len(second)
    with nogil:
        is_answered = link_call(channel.link, serving, lane, &record, first_at, second_at, limit_ns,
                                &reply)
    if not is_answered:
        raise TimeoutError(f"the core has not answered within {limit:g} s")
    return reply.status, reply.value


cdef dict environ_base(int threads, object settings):
    # What every environ has.
    return {
        "SERVER_SOFTWARE": f"kernelq/{kernelq.__version__}",
        "wsgi.version": (1, 0),
        "wsgi.multithread": threads > 1,
        "wsgi.multiprocess": bool((settings or {}).get("multiprocess", True)),
        "wsgi.run_once": False,
        "wsgi.input": content_empty(),
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": FileWrapper,
    }


def close_in_child():
    """Close every channel: called in a process that the application has forked."""
    cdef Channel channel
    for channel in list(channels):
        if channel.link != NULL:
            link_close(channel.link)


os.register_at_fork(after_in_child=close_in_child)
