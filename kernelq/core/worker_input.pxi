# wsgi.input: a request's content as a binary stream, with the semantics of io.BufferedReader.
#
# Three sources, one buffer: content that came with the request is the buffer; a spill file is read
# with pread() (its descriptor is ours, its offset is not shared); streamed content arrives piece by
# piece from the core, which sends no further ahead of CONSUMED than its window.
#
# Rules: content that broke off is an error (ClientGone) to every read that would have needed more
# of it, and never an end of file (an application must not take half an upload for a whole one).
# When its request has ended, the content is closed.

cdef enum:
    FILL_BYTES = 65536             # read from a spill file at once
    FIRST_ROOM = 65536             # for a read of unknown length; doubles

cdef enum:
    SOURCE_INLINE = 0
    SOURCE_SPILL = 1
    SOURCE_STREAM = 2


class ClientGone(ConnectionError):
    """The client has left: its content is incomplete, or its response has no reader."""


@cython.final
cdef class Content:
    """The content of a request: `environ["wsgi.input"]`."""

    # what has been fetched; at the start: all of it if it came inline
    cdef bytes buffer
    cdef Py_ssize_t at             # next byte of buffer to be handed out
    cdef uint8_t source
    cdef bint is_closed
    cdef bint is_busy              # a thread is fetching without the GIL
    cdef int fd                    # SOURCE_SPILL
    cdef int64_t left              # bytes that are still to be fetched; -1: not known
    cdef uint64_t fetched          # SOURCE_STREAM: bytes taken from the core
    cdef uint64_t consumed         # SOURCE_STREAM: told to the core
    cdef bint is_wanted            # SOURCE_STREAM: told to the core, which sends nothing unasked
    cdef LinkThread *thread
    cdef LinkPlace *place
    cdef uint16_t place_index
    cdef uint64_t dispatch

    def __cinit__(self):
        self.fd = -1
        self.buffer = b""

    def __dealloc__(self):
        thread.close_if(self.fd)

    cdef void close(self) noexcept:
        self.is_closed = True
        thread.close_if(self.fd)
        self.fd = -1

    # -- fetching ----------------------------------------------------------------------------------

    cdef inline int check(self) except -1:
        if unlikely(self.is_closed):
            raise ValueError("I/O operation on the content of a request that has ended")
        if unlikely(self.is_busy):
            raise RuntimeError("two threads read the content of one request at once")
        return 0

    cdef inline Py_ssize_t ready(self) noexcept:
        return PyBytes_GET_SIZE(self.buffer) - self.at

    cdef bint fetch(self) except -1:
        # Replaces the used-up buffer by what comes next; False: nothing does.
        if self.source == SOURCE_INLINE or self.left == 0:
            return False
        if self.source == SOURCE_SPILL:
            return self.fetch_spill()
        return self.fetch_stream()

    cdef bint fetch_spill(self) except -1:
        cdef bytes room = PyBytes_FromStringAndSize(NULL, min(self.left, <int64_t> FILL_BYTES))
        self.read_spill(PyBytes_AS_STRING(room), PyBytes_GET_SIZE(room))
        self.buffer = room
        self.at = 0
        return True

    cdef int read_spill(self, char *into, Py_ssize_t bytes) except -1:
        cdef ssize_t got = 0
        cdef Py_ssize_t done = 0
        cdef int64_t offset = <int64_t> self.fetched
        cdef int fd = self.fd
        self.is_busy = True
        with nogil:
            while done < bytes:
                got = thread.pread(fd, into + done, bytes - done, offset + done)
                if got <= 0:
                    break
                done += got
        self.is_busy = False
        if got < 0:
            PyErr_SetFromErrno(OSError)
        if done < bytes:
            raise ClientGone("the stored content of the request is incomplete")
        self.fetched += bytes
        self.left -= bytes
        return 0

    cdef bint fetch_stream(self) except -1:
        cdef ContentPiece *piece
        cdef uint32_t seen
        cdef bint ended = False, cut = False
        if self.thread.link.is_closed:
            raise ClientGone("the channel belongs to the parent process")
        while True:
            seen = atomic.load_acquire_u32(&self.place.waiter.news)  # SYNC news
            piece = content_next(self.thread.link, self.place, &ended, &cut)
            if piece != NULL:
                break
            # SYNC news
            if cut or (atomic.load_acquire_u32(&self.place.is_gone) and not ended):
                raise ClientGone("the client left before its content was complete")
            if ended:
                self.left = 0
                return False
            self.is_busy = True
            with nogil:
                self.wait_for_more(seen)
            self.is_busy = False
        try:
            self.buffer = PyBytes_FromStringAndSize(<char *> piece.data, piece.bytes)
        finally:
            free(piece)
        self.at = 0
        self.fetched += PyBytes_GET_SIZE(self.buffer)
        if self.left > 0:
            self.left = max(<int64_t> 0, self.left - PyBytes_GET_SIZE(self.buffer))
        if self.fetched - self.consumed >= self.thread.link.sizes.content_window // 4:
            self.tell_consumed()
        return True

    cdef bint tell_consumed(self) noexcept nogil:
        # Opens the window again. False: no room for the record now; a later one says as much.
        cdef NumberRecord record
        cdef Link *link = self.thread.link
        if self.is_wanted and self.consumed == self.fetched:
            return True
        record_init(&record.head, sizeof(NumberRecord), RECORD_CONSUMED, self.place_index,
                    self.dispatch)
        record.value = self.fetched
        FAULT(b"worker-consumes")
        if not lane_put(link, lane_of(link, self.dispatch), &record.head, 0):
            return False
        self.consumed = self.fetched
        self.is_wanted = True
        return True

    cdef void wait_for_more(self, uint32_t seen) noexcept nogil:
        # Until there is news about the place; the core must know that we want more.
        cdef uint64_t wait_ns = 0
        while not self.tell_consumed():
            link_wait_room(self.thread.link, &wait_ns)
        waiter_wait(self.thread, &self.place.waiter, seen, 0)

    # -- handing out -------------------------------------------------------------------------------

    cdef bytes take(self, Py_ssize_t bytes):
        # So many of the bytes that are ready.
        cdef Py_ssize_t at = self.at
        self.at += bytes
        if at == 0 and self.at == PyBytes_GET_SIZE(self.buffer):
            return self.buffer
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self.buffer) + at, bytes)

    cdef bytes take_more(self, Py_ssize_t limit):
        # More than is ready: up to limit, or to the end (limit < 0).
        cdef list parts = []
        cdef Py_ssize_t want = limit, part
        while True:
            part = self.ready() if limit < 0 else min(self.ready(), want)
            if part > 0:
                parts.append(self.take(part))
                want -= part
            if want == 0 and limit >= 0:
                break
            if self.source == SOURCE_SPILL and self.left > 0:
                parts.append(self.take_spill(self.left if limit < 0 else min(self.left, want)))
                want -= PyBytes_GET_SIZE(parts[len(parts) - 1])
            elif not self.fetch():
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    cdef bytes take_spill(self, Py_ssize_t bytes):
        # Straight from the file, past the buffer.
        cdef object taken = PyBytes_FromStringAndSize(NULL, bytes)
        self.read_spill(PyBytes_AS_STRING(taken), bytes)
        return taken

    cdef bytes take_line(self, Py_ssize_t limit):
        # Up to and with the next line end, at most limit bytes (limit < 0: any number); empty at
        # the end.
        cdef list parts = None
        cdef bytes part = b""
        cdef const char *start
        cdef const char *found
        cdef Py_ssize_t bytes
        while limit != 0:
            bytes = self.ready()
            if bytes == 0:
                if not self.fetch():
                    break
                continue
            if limit > 0:
                bytes = min(bytes, limit)
            start = PyBytes_AS_STRING(self.buffer) + self.at
            found = <const char *> memchr(start, 10, bytes)
            if found != NULL:
                bytes = found - start + 1
            part = self.take(bytes)
            if limit > 0:
                limit -= bytes
            if found != NULL and parts is None:
                return part
            if parts is None:
                parts = []
            parts.append(part)
            if found != NULL:
                break
        return b"" if parts is None else (parts[0] if len(parts) == 1 else b"".join(parts))

    # -- the stream --------------------------------------------------------------------------------

    def read(self, size=-1, /):
        """Read and return up to size bytes, or all that is left if size is None or negative."""
        cdef Py_ssize_t limit = size_of(size)
        self.check()
        if limit >= 0 and limit <= self.ready():
            return self.take(limit)
        if self.source == SOURCE_INLINE:
            return self.take(self.ready())
        return self.take_more(limit)

    def readline(self, size=-1, /):
        """Read and return one line, with its line end, of at most size bytes."""
        cdef Py_ssize_t limit = size_of(size)
        self.check()
        return self.take_line(limit)

    def readlines(self, hint=-1, /):
        """Read and return a list of lines; no further line once hint bytes have been read."""
        cdef Py_ssize_t limit = size_of(hint), total = 0
        cdef list lines = []
        cdef bytes line
        self.check()
        while True:
            line = self.take_line(-1)
            if not line:
                return lines
            lines.append(line)
            total += PyBytes_GET_SIZE(line)
            if 0 < limit <= total:
                return lines

    def readinto(self, into, /):
        """Read bytes into a writable buffer; return how many, 0 at the end."""
        cdef Py_buffer room
        cdef bytes data
        PyObject_GetBuffer(into, &room, PyBUF_WRITABLE)
        try:
            data = self.read(room.len)
            memcpy(room.buf, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        finally:
            PyBuffer_Release(&room)
        return PyBytes_GET_SIZE(data)

    def readable(self):
        """Tell that the stream can be read."""
        return True

    def __iter__(self):
        return self

    def __next__(self):
        cdef bytes line
        self.check()
        line = self.take_line(-1)
        if not line:
            raise StopIteration
        return line


cdef inline Py_ssize_t size_of(object size) except? -2:
    # A size argument as io has it: None and every negative number mean: no limit.
    cdef Py_ssize_t limit
    if size is None:
        return -1
    limit = PyNumber_AsSsize_t(size, OverflowError)
    return limit if limit >= 0 else -1


cdef ContentPiece *content_next(Link *link, LinkPlace *place, bint *ended, bint *cut) noexcept:
    # Gives the next piece, or NULL; ended and cut say what is behind the last one.
    cdef ContentPiece *piece
    thread.mutex_take(&link.content_lock)
    piece = place.first
    if piece != NULL:
        place.first = piece.next
        if place.first == NULL:
            place.last = NULL
    else:
        ended[0] = place.content_ended
        cut[0] = place.content_cut
    thread.mutex_give(&link.content_lock)
    return piece


cdef Content content_empty():
    # For every request without content: it has no state that a read could change.
    return Content.__new__(Content)


cdef Content content_make(LinkThread *self, Taken *taken):
    # The content of a request that has some.
    cdef const RequestRecord *record = <const RequestRecord *> taken.record
    cdef Content content = Content.__new__(Content)
    cdef uint64_t bytes
    content.left = record.content_length
    content.thread = self
    content.place = &self.link.places[taken.head.place]
    content.place_index = taken.head.place
    content.dispatch = taken.head.dispatch
    if record.head.flags & FLAG_CONTENT_INLINE:
        bytes = record_texts_end(record)
        content.buffer = PyBytes_FromStringAndSize(
            <const char *> taken.record + bytes, taken.head.bytes - bytes)
        content.left = 0
    elif record.head.flags & FLAG_CONTENT_SPILLED:
        content.source = SOURCE_SPILL
        content.fd = spill_take(self.link, taken.head.place, taken.head.dispatch)
        if content.fd < 0:
            raise OSError("the stored content of the request did not arrive")
    else:
        content.source = SOURCE_STREAM
    return content


cdef uint64_t record_texts_end(const RequestRecord *record) noexcept nogil:
    # Where the content of a REQUEST starts. Ends the process if the record's lengths do not fit
    # into it.
    cdef const FieldEntry *entries = <const FieldEntry *> (record + 1)
    cdef uint64_t at = sizeof(RequestRecord) + <uint64_t> record.field_count * sizeof(FieldEntry)
    cdef uint32_t index
    if at <= record.head.bytes:
        for index in range(record.field_count):
            at += entries[index].name_bytes + <uint64_t> entries[index].value_bytes
        at += record.method_bytes + <uint64_t> record.remote_bytes + record.server_bytes
        at += <uint64_t> record.target_bytes + record.path_bytes + record.query_bytes
    if at > record.head.bytes:
        link_end(b"a REQUEST of the core is malformed")
    if record.head.flags & FLAG_CONTENT_INLINE:
        at = align8(at)
        if at > record.head.bytes:
            link_end(b"a REQUEST of the core is malformed")
    return at
