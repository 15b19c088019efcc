# A serving thread: takes requests, calls the application, answers.
#
# Rules: whatever the application does, its request is answered, its result closed, its place given
# back, and the thread lives on (SystemExit and KeyboardInterrupt included: signals are the main
# thread's business). Between two requests at hand the GIL is kept; it is released only to wait.


cdef inline bint request_begin(LinkThread *self, const Taken *taken) noexcept nogil:
    # The worker's half of promise 1. False: the request was taken back, or comes after DRAIN:
    # answer SKIPPED.
    cdef Link *link = self.link
    atomic.store_relaxed_u32(&self.is_running, 1)
    if unlikely(not self.is_leader):
        # SYNC draining: link_is_drained() looks at the lead, and then at us.
        atomic.fence_seq()
    if unlikely(atomic.load_relaxed_u32(&link.is_draining)):
        request_end(self)
        return False
    FAULT(b"worker-taken")
    atomic.store_relaxed(&link.started[taken.head.place], taken.head.dispatch)
    # SYNC started, SYNC revoked: STARTED is visible before we look whether it was revoked; the core
    # does the reverse.
    atomic.fence_seq()
    FAULT(b"worker-stored")
    if unlikely(atomic.load_relaxed(&link.revoked[taken.head.place]) == taken.head.dispatch):
        request_end(self)
        return False
    FAULT(b"worker-started")
    return True


cdef inline void request_end(LinkThread *self) noexcept nogil:
    atomic.store_seq_u32(&self.is_running, 0)  # SYNC draining
    if unlikely(atomic.load_relaxed_u32(&self.link.is_draining)):
        link_tell_ended(self.link)


cdef void link_tell_ended(Link *link) noexcept nogil:
    link_announce(link)
    atomic.add_u32(&link.ended_word, 1)  # SYNC ended
    thread.futex_wake(&link.ended_word, INT_MAX)
    thread.bell_ring(link.ended_fd)


cdef bint link_is_drained(Link *link) noexcept nogil:
    # No request is running, and none will be started: whoever takes one now sees is_draining. The
    # lead is looked at first: a leader that is awake may have taken one before, and not be marked
    # as running yet.
    cdef uint32_t index
    if not atomic.load_seq_u32(&link.is_draining):  # SYNC draining
        return False
    atomic.fence_seq()  # SYNC draining
    if lead_state(atomic.load_seq(&link.lead)) not in (LEAD_VACANT, LEAD_ASLEEP):  # SYNC lead
        return False
    for index in range(link.thread_count):
        if atomic.load_seq_u32(&link.threads[index].is_running):  # SYNC draining
            return False
    return True


cdef inline void clock_start(LinkThread *self) noexcept nogil:
    self.began_ns = self.now_ns if self.now_ns else linux.now_ns()
    self.began_cpu_ns = thread.thread_cpu_ns() if link_is_slow(self.link) else 0


cdef inline void average_move(uint64_t *average, uint64_t value) noexcept nogil:
    # Over about eight values. When two threads do it at once one value is lost: it is an average.
    cdef uint64_t before = atomic.load_relaxed(average)
    atomic.store_relaxed(average, before + value // 8 - before // 8)


cdef inline void clock_stop(LinkThread *self) noexcept nogil:
    cdef Link *link = self.link
    cdef uint64_t ran, blocked = 0
    self.now_ns = linux.now_ns()
    ran = self.now_ns - self.began_ns
    if unlikely(self.began_cpu_ns != 0):
        blocked = ran - min(ran, thread.thread_cpu_ns() - self.began_cpu_ns)
    average_move(&link.run_ns, ran)
    average_move(&link.blocked_ns, blocked)


cdef class Served:
    # One application, as a serving thread has it.
    cdef object source             # has load(); None: this worker does not have the application
    cdef object application        # None: not loaded yet
    cdef EnvironMaker maker


cdef class Runner:
    # What one serving thread has: its caches, its response, its error stream. Most workers have one
    # application, most others are asked for one several times in a row: so the last request's is at
    # hand, and only a change of it is looked up.
    cdef Channel channel           # keeps the link
    cdef LinkThread *thread
    cdef object applications       # Served.source by number
    cdef dict base                 # what every environ has
    cdef dict known                # Served by number
    cdef uint32_t number           # of the last request's application
    cdef Served served             # it
    cdef object application        # served.application
    cdef EnvironMaker maker        # served.maker
    cdef ErrorStream errors
    cdef Response response
    cdef object starter            # response.start, bound once
    cdef dict environ              # of the request under way

    def __cinit__(self, Channel channel, int index, object applications, dict base):
        self.channel = channel
        self.thread = &channel.link.threads[index]
        self.applications = applications
        self.errors = ErrorStream()
        self.base = base | {"wsgi.errors": self.errors}
        self.known = {}
        self.change_application(next(iter(applications)))
        self.renew_response()

    cdef int change_application(self, uint32_t number) except -1:
        # From that of the last request to another one.
        cdef Served served = self.known.get(number)
        if served is None:
            served = Served.__new__(Served)
            served.source = self.applications.get(number)
            served.maker = EnvironMaker(self.base)
            if served.source is not None:
                self.known[number] = served
        self.number = number
        self.served = served
        self.application = served.application
        self.maker = served.maker
        return 0

    cdef int renew_response(self) except -1:
        if self.response is not None:
            self.response.writer = None
        self.response = Response.__new__(Response)
        self.response.writer = self.response.write
        self.response.log = self.report
        self.starter = self.response.start
        return 0

    def run(self):
        """Serve requests until the worker is drained: the target of a serving thread."""
        cdef LinkThread *self_thread = self.thread
        cdef Taken taken
        cdef int outcome
        current.runner = self
        try:
            while True:
                outcome = thread_next_quick(self_thread, &taken)
                if outcome == NEXT_NOTHING:
                    with nogil:
                        outcome = thread_next(self_thread, &taken)
                if outcome == NEXT_DRAINED:
                    break
                self.serve(&taken)
                lead_resume(self_thread)
        except BaseException as error:
            error_log.error(failure_text("a serving thread failed", error))
            thread.end_process(b"it cannot serve requests any more", 70)
        with nogil:
            link_tell_ended(self_thread.link)

    cdef int serve(self, Taken *taken) except -1:
        cdef LinkThread *self_thread = self.thread
        cdef const RequestRecord *record = <const RequestRecord *> taken.record
        cdef Content content = None
        if unlikely(not request_begin(self_thread, taken)):
            with nogil:
                taken_skip(self_thread.link, taken)
            return 0
        record_texts_end(record)
        clock_start(self_thread)
        self.response.begin(self_thread, taken, record.method_id == METHOD_HEAD)
        try:
            if unlikely(record.application != self.number):
                self.change_application(record.application)
            if unlikely(record.head.flags & (
                    FLAG_CONTENT_INLINE | FLAG_CONTENT_SPILLED | FLAG_CONTENT_STREAMED)):
                content = content_make(self_thread, taken)
            self.environ = self.maker.make(record, content)
            taken_release(taken)
            if likely(self_thread.is_leader):
                lead_run(self_thread)
                if unlikely(atomic.load_relaxed(&self_thread.link.blocked_ns) > BLOCKS_NS
                            or (content is not None and content.source == SOURCE_STREAM)):
                    lead_pass_on(self_thread.link)
            self.call()
        except BaseException as error:
            if taken.record != NULL:
                taken_release(taken)
            self.fail(error)
        self.finish(content)
        return 0

    cdef int call(self) except -1:
        cdef object result
        if unlikely(self.application is None) and not self.find_application():
            return 0
        result = self.application(self.environ, self.starter)
        FAULT(b"worker-returned")
        if likely(PyList_CheckExact(result) or PyTuple_CheckExact(result)):
            return self.response.send_blocks(result)
        try:
            if type(result) is not FileWrapper or not self.response.send_file(result):
                self.response.send_iterable(result)
        finally:
            self.close(result)
        return self.response.finish()

    cdef bint find_application(self) except -1:
        # Loads it, for its first request here. False: there is none, and the request is answered.
        cdef Served served = self.served
        if served.source is None:
            error_log.error(self.line(
                f"the request is for application {self.number}, which this worker does not have"))
            self.answer("503 Service Unavailable")
            return False
        try:
            self.application = served.application = served.source.load()
        except StartError as error:
            error_log.error(self.line(str(error)))
            self.answer("500 Internal Server Error")
            return False
        return True

    cdef int answer(self, str status) except -1:
        # The worker's own word, if nothing has been sent.
        cdef Response response = self.response
        if not response.is_sent:
            response.content_length = -1
            response.set_status(status)
            response.set_headers([("Content-Type", "text/plain; charset=utf-8")])
            response.is_started = True
            response.send_one(f"{status[4:]}\n".encode())
        return 0

    cdef int close(self, object result) except -1:
        # PEP 3333: always, however the response went. Its failure is the application's, and changes
        # no response.
        cdef object close
        try:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            error_log.error(failure_text(self.line("close() failed"), error))
        return 0

    cdef int fail(self, object error) except -1:
        # The application raised: say so, and answer 500 if nothing has been sent.
        cdef Response response = self.response
        if self.thread.link.is_closed:
            return 0
        if not isinstance(error, ClientGone):
            try:
                error_log.error(failure_text(self.line("the application failed"), error))
            except BaseException:
                error_write("the application failed, and its traceback could not be made\n")
        try:
            self.answer("500 Internal Server Error")
        except BaseException as second:
            if not isinstance(second, ClientGone):
                raise
        return response.end(True)

    cdef int finish(self, Content content) except -1:
        # The request is answered: gives everything back that it had.
        cdef Response response = self.response
        if unlikely(self.thread.link.is_closed):
            thread.end_process(b"a process forked by the application returned to the server", 70)
        FAULT(b"worker-answered")
        if unlikely(self.errors.held):
            self.errors.flush()
        response.is_over = True
        self.environ = None
        if content is not None:
            content.close()
            content_forget(self.thread.link, response.place, response.dispatch)
        if unlikely(references_of(<PyObject *> self.starter) != 1
                    or references_of(<PyObject *> response.writer) != 1
                    or references_of(<PyObject *> response) != 4):
            self.renew_response()  # the application has kept something of it
        clock_stop(self.thread)
        request_end(self.thread)
        return 0

    def report(self, str text):
        """Write a line about the request under way into the error log."""
        error_log.warning(self.line(text))

    cdef str line(self, str text):
        # As the core writes its lines about requests.
        cdef dict environ = self.environ
        cdef str client
        if environ is None:
            return text
        client = f" client {environ['REMOTE_ADDR']}" if environ.get("REMOTE_ADDR") else ""
        return (f'{text}{client} "{environ.get("REQUEST_METHOD")} {environ.get("REQUEST_URI")}" '
                f"worker {os.getpid()}")


cdef str failure_text(str line, object error):
    # The line, and the traceback without the frames of this module.
    import traceback
    entry = error.__traceback__
    while entry is not None and entry.tb_frame.f_code.co_filename.endswith((".pxi", ".pyx")):
        entry = entry.tb_next
    return line + "\n" + "".join(traceback.format_exception(type(error), error, entry))
