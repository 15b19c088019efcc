# start_response(), write(), and everything between what an application returns and the response
# ring.
#
# Theory of operation: start_response() checks the head and serialises it into the thread's own room
# (entries and texts, as the HEAD record has them); nothing is sent before the first content. Then
# one record carries the head and as much content as there is. A list or tuple of blocks is one
# content. Anything else is asked for one block after the other, each of which is published before
# the next is asked for (PEP 3333); END follows close(), so that the core gives the place away only
# when the thread is free.
#
# Rules: what PEP 3333 forbids an application is an error in start_response(), and so a 500 with its
# traceback in the log. The core frames the response: Content-Length travels as a number, not as a
# field. Content beyond the declared length is cut, content short of it ends the response as broken
# off; both are logged.

cdef enum:
    ENTRIES_MAX = 256              # fields of a response
    TEXTS_ROOM = 2048              # at first

cdef enum:                         # outcome of Response.put()
    PUT_DONE = 0
    PUT_NO_WINDOW = 1
    PUT_NO_ROOM = 2
    PUT_GONE = 3

cdef uint8_t TOKEN_BYTE[256]       # 1: may stand in a field name (RFC 9110 §5.6.2)
cdef uint8_t VALUE_BYTE[256]       # 1: may stand in a field value or reason phrase
cdef frozenset HOP_BY_HOP = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "trailers", "transfer-encoding", "upgrade"))
# 1: a field name of HOP_BY_HOP, or Content-Length, starts with it
cdef uint8_t HOP_BYTE[256]


cdef int tables_fill() except -1:
    cdef int byte
    for byte in range(256):
        VALUE_BYTE[byte] = byte == 9 or (byte >= 32 and byte != 127)
        TOKEN_BYTE[byte] = (48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122
                            or (byte > 32 and byte in b"!#$%&'*+-.^_`|~"))
        HOP_BYTE[byte] = byte > 32 and byte in b"CcKkPpTtUu"
    return 0


tables_fill()


cdef inline bint bytes_are(const uint8_t *table, const uint8_t *at,
                           Py_ssize_t bytes) noexcept nogil:
    cdef uint8_t fits = 1
    cdef Py_ssize_t index
    for index in range(bytes):
        fits &= table[at[index]]
    return fits != 0


cdef inline const uint8_t *latin1_of(object text) noexcept:
    # Its bytes, or NULL if it is no str or holds a character above U+00FF.
    if not PyUnicode_CheckExact(text) and not PyUnicode_Check(text):
        return NULL
    if PyUnicode_KIND(text) != 1:
        return NULL
    return <const uint8_t *> PyUnicode_DATA(text)


cdef int64_t content_length_of(object text) except -1:
    # Digits only: int() would take "+1", "1_0" and white space.
    cdef const uint8_t *at = latin1_of(text)
    cdef Py_ssize_t index, bytes = PyUnicode_GET_LENGTH(text)
    cdef int64_t length = 0
    for index in range(bytes):
        if not 48 <= at[index] <= 57 or bytes > 18:
            raise ValueError(f"Content-Length is no number: {text!r}")
        length = length * 10 + at[index] - 48
    if bytes == 0:
        raise ValueError("Content-Length is empty")
    return length


@cython.final
@cython.no_gc_clear
cdef class Response:
    """What `start_response` and `write` belong to: the response to one request."""

    cdef LinkThread *thread
    cdef Link *link
    cdef LinkPlace *place
    cdef LinkLane *lane
    cdef uint64_t dispatch
    cdef uint16_t place_index
    cdef bint is_over              # its request has ended
    cdef bint is_head_request
    cdef bint is_started           # start_response() was called
    cdef bint is_sent              # the head was published
    cdef bint is_ended             # FLAG_END was published
    cdef bint has_no_content       # HEAD, 204, 304
    cdef bint is_too_long          # more content than declared: said once
    cdef uint16_t status
    cdef uint16_t reason_bytes
    cdef uint32_t entry_count
    cdef int64_t content_length    # declared; -1: not
    cdef uint64_t sent             # content bytes published
    cdef size_t texts_bytes
    cdef size_t texts_room
    cdef uint8_t *texts
    cdef FieldEntry entries[ENTRIES_MAX]
    cdef object writer             # our write(), bound once; None: bind it anew
    cdef object log                # callable: one line about this response

    def __cinit__(self):
        self.texts = <uint8_t *> malloc(TEXTS_ROOM)
        if self.texts == NULL:
            raise MemoryError
        self.texts_room = TEXTS_ROOM
        self.is_over = True

    def __dealloc__(self):
        free(self.texts)

    cdef inline void begin(self, LinkThread *runs, const Taken *taken, bint is_head) noexcept:
        self.thread = runs
        self.link = runs.link
        self.place_index = taken.head.place
        self.place = &self.link.places[taken.head.place]
        self.dispatch = taken.head.dispatch
        self.lane = lane_of(self.link, taken.head.dispatch)
        self.is_head_request = is_head
        self.is_over = self.is_started = self.is_sent = self.is_ended = self.is_too_long = False
        self.sent = 0

    # -- the head ----------------------------------------------------------------------------------

    @cython.binding(False)
    def start(self, status, headers, exc_info=None, /):
        """Begin the response, as PEP 3333 defines `start_response`."""
        if unlikely(self.is_over):
            raise AssertionError("start_response() was called after its request had ended")
        if unlikely(self.is_started):
            self.start_again(exc_info)
            exc_info = None
        self.is_started = False
        self.set_status(status)
        self.set_headers(headers)
        self.is_started = True
        return self.write if self.writer is None else self.writer

    cdef int start_again(self, object exc_info) except -1:
        if exc_info is None:
            raise AssertionError("start_response() was called again without exc_info")
        if self.is_sent:
            raise exc_info[1].with_traceback(exc_info[2])
        return 0

    cdef int set_status(self, object status) except -1:
        cdef const uint8_t *at = latin1_of(status)
        cdef Py_ssize_t bytes
        if at == NULL:
            raise status_error(status)
        bytes = PyUnicode_GET_LENGTH(status)
        if (bytes < 4 or at[3] != 32 or not 49 <= at[0] <= 57 or not 48 <= at[1] <= 57
                or not 48 <= at[2] <= 57 or bytes > 1024 or not bytes_are(VALUE_BYTE, at, bytes)):
            raise status_error(status)
        self.status = (at[0] - 48) * 100 + (at[1] - 48) * 10 + at[2] - 48
        if self.status < 200:
            raise ValueError(f"an interim status cannot end a response: {status!r}")
        self.has_no_content = self.is_head_request or self.status == 204 or self.status == 304
        self.texts_bytes = 0
        self.entry_count = 0
        self.reason_bytes = bytes - 4
        self.content_length = -1
        self.add_text(at + 4, bytes - 4)
        return 0

    cdef int set_headers(self, object headers) except -1:
        cdef object item
        if not PyList_CheckExact(headers):
            raise TypeError(f"the headers must be a list, not {type(headers).__name__}")
        for item in <list> headers:
            if not PyTuple_CheckExact(item) or PyTuple_GET_SIZE(item) != 2:
                raise TypeError(f"a header must be a tuple of name and value, not {item!r}")
            self.add_field(<object> PyTuple_GET_ITEM(item, 0), <object> PyTuple_GET_ITEM(item, 1))
        return 0

    cdef int add_field(self, object name, object value) except -1:
        cdef const uint8_t *name_at = latin1_of(name)
        cdef const uint8_t *value_at = latin1_of(value)
        cdef Py_ssize_t name_bytes, value_bytes
        cdef FieldEntry *entry
        if unlikely(name_at == NULL or value_at == NULL):
            raise header_error(name, value)
        name_bytes = PyUnicode_GET_LENGTH(name)
        value_bytes = PyUnicode_GET_LENGTH(value)
        if unlikely(name_bytes == 0 or name_bytes > 65535
                    or not bytes_are(TOKEN_BYTE, name_at, name_bytes)
                    or not bytes_are(VALUE_BYTE, value_at, value_bytes)):
            raise header_error(name, value)
        if HOP_BYTE[name_at[0]] and self.is_ours(name, value, name_bytes):
            return 0
        if self.entry_count == ENTRIES_MAX:
            raise ValueError(f"a response has more than {ENTRIES_MAX} headers")
        entry = &self.entries[self.entry_count]
        entry.known = 0
        entry.name_bytes = name_bytes
        entry.value_bytes = value_bytes
        self.add_text(name_at, name_bytes)
        self.add_text(value_at, value_bytes)
        self.entry_count += 1
        return 0

    cdef bint is_ours(self, object name, object value, Py_ssize_t bytes) except -1:
        # True: a Content-Length, which travels as a number. Refuses what belongs to the server
        # alone.
        cdef const char *at = <const char *> PyUnicode_DATA(name)
        cdef int64_t length
        if bytes == 12 and strncasecmp(at, b"Content-Type", 12) == 0:
            return False
        if bytes == 14 and strncasecmp(at, b"Content-Length", 14) == 0:
            length = content_length_of(value)
            if self.content_length >= 0 and self.content_length != length:
                raise ValueError("the response has two different Content-Lengths")
            self.content_length = length
            return True
        if name.lower() in HOP_BY_HOP:
            raise AssertionError(
                f"an application may not send the header {name!r}: it is about the connection, "
                "which is the server's (PEP 3333)")
        return False

    cdef inline int add_text(self, const uint8_t *at, size_t bytes) except -1:
        if unlikely(self.texts_bytes + bytes > self.texts_room):
            self.grow_texts(self.texts_bytes + bytes)
        memcpy(self.texts + self.texts_bytes, at, bytes)
        self.texts_bytes += bytes
        return 0

    cdef int grow_texts(self, size_t bytes) except -1:
        cdef uint8_t *grown
        cdef size_t room = min(max(bytes, self.texts_room * 2), <size_t> self.link.piece_bytes)
        if bytes > self.link.piece_bytes:
            raise ValueError(
                f"the headers of a response have more than {self.link.piece_bytes} bytes")
        grown = <uint8_t *> realloc(self.texts, room)
        if grown == NULL:
            raise MemoryError
        self.texts = grown
        self.texts_room = room
        return 0

    # -- records -----------------------------------------------------------------------------------

    cdef inline uint64_t head_bytes(self, bint has_content) noexcept nogil:
        # Content starts at a multiple of 8; without it nothing is padded.
        cdef uint64_t bytes = (
            sizeof(ResponseRecord) + self.entry_count * sizeof(FieldEntry) + self.texts_bytes)
        return align8(bytes) if has_content else bytes

    cdef inline uint8_t *put_head(self, uint8_t *record, uint32_t content_bytes,
                                  uint8_t flags) noexcept nogil:
        # Fills a HEAD record; gives the place for its content.
        cdef ResponseRecord *head = <ResponseRecord *> record
        cdef uint32_t bytes = <uint32_t> self.head_bytes(content_bytes > 0)
        cdef uint8_t *at
        record_init(&head.head, bytes + content_bytes, RECORD_HEAD, self.place_index, self.dispatch)
        head.head.flags = flags
        head.status = self.status
        head.field_count = self.entry_count
        head.reason_bytes = self.reason_bytes
        head.content_bytes = content_bytes
        head.content_length = self.content_length
        at = record + sizeof(ResponseRecord)
        memcpy(at, self.entries, self.entry_count * sizeof(FieldEntry))
        memcpy(at + self.entry_count * sizeof(FieldEntry), self.texts, self.texts_bytes)
        return record + bytes

    cdef inline int put(self, const uint8_t *at, size_t bytes, bint is_last,
                        size_t *put) noexcept nogil:
        # Publishes one record with the head, if it is due, and as much of the content as goes.
        # PUT_DONE: put bytes.
        cdef uint64_t window = self.link.sizes.response_window
        # SYNC news
        cdef uint64_t ahead = self.sent - atomic.load_acquire(&self.place.released)
        cdef uint64_t room = window - ahead if ahead < window else 0
        cdef uint32_t piece = <uint32_t> min(<uint64_t> bytes, min(room, self.link.piece_bytes))
        cdef uint64_t start = sizeof(RecordHead) if self.is_sent else self.head_bytes(piece > 0)
        cdef uint8_t *record
        cdef uint8_t *content
        cdef uint8_t flags
        if piece == 0 and bytes > 0:
            return PUT_NO_WINDOW
        flags = FLAG_END if is_last and piece == bytes else 0
        record = lane_claim(self.link, self.lane, start + piece,
                            0 if piece == 0 and self.is_sent else self.link.reserve_bytes)
        if record == NULL:
            return PUT_NO_ROOM
        FAULT(b"worker-claimed")
        if self.is_sent:
            record_init(<RecordHead *> record, <uint32_t> (start + piece),
                        RECORD_DATA if piece > 0 or not is_last else RECORD_END,
                        self.place_index, self.dispatch)
            (<RecordHead *> record).flags = flags
            content = record + sizeof(RecordHead)
        else:
            content = self.put_head(record, piece, flags)
        if piece > 0:
            memcpy(content, at, piece)
        lane_publish(self.lane, start + piece)
        FAULT(b"worker-published")
        self.is_sent = True
        self.is_ended = flags != 0
        self.sent += piece
        put[0] = piece
        return PUT_DONE

    cdef int send(self, const uint8_t *at, size_t bytes, bint is_last) except -1:
        # Publishes content, and the head before it; waits for window and room. Raises ClientGone.
        # at must stay alive without the GIL.
        cdef uint64_t wait_ns = 0
        cdef size_t put = 0
        cdef uint32_t seen
        cdef int outcome
        while True:
            if unlikely(self.link.is_closed):
                raise ClientGone("the channel belongs to the parent process")
            seen = atomic.load_acquire_u32(&self.place.waiter.news)  # SYNC news
            outcome = self.put(at, bytes, is_last, &put)
            if likely(outcome == PUT_DONE):
                at += put
                bytes -= put
                wait_ns = 0
                if bytes == 0:
                    return 0
            elif outcome == PUT_NO_WINDOW and self.is_gone():
                raise ClientGone("the client has left")
            else:
                with nogil:
                    if outcome == PUT_NO_WINDOW:
                        waiter_wait(self.thread, &self.place.waiter, seen, 0)
                    else:
                        link_wait_room(self.link, &wait_ns)

    cdef inline bint is_gone(self) noexcept nogil:
        return atomic.load_acquire_u32(&self.place.is_gone) != 0  # SYNC news

    cdef int end(self, bint is_cut) except -1:
        # The last record of the response, if it is still due. Never fails but in a forked child.
        cdef RecordHead record
        if self.is_ended:
            return 0
        if unlikely(self.link.is_closed):
            raise ClientGone("the channel belongs to the parent process")
        record_init(&record, sizeof(RecordHead), RECORD_END, self.place_index, self.dispatch)
        record.flags = FLAG_END | FLAG_CUT if is_cut else FLAG_END
        FAULT(b"worker-ends")
        if unlikely(not lane_put(self.link, self.lane, &record, 0)):
            with nogil:
                lane_put_at_last(self.link, self.lane, &record)
        self.is_ended = True
        return 0

    # -- content -----------------------------------------------------------------------------------

    cdef inline Py_ssize_t fitting(self, Py_ssize_t bytes) except -1:
        # How many of these bytes the declared length still admits.
        cdef int64_t left
        if self.has_no_content:
            return 0
        if self.content_length < 0:
            return bytes
        left = self.content_length - <int64_t> self.sent
        if likely(bytes <= left):
            return bytes
        if not self.is_too_long:
            self.is_too_long = True
            self.log(f"the application sent more content than its Content-Length of "
                     f"{self.content_length} says; the rest is cut")
        return <Py_ssize_t> left

    cdef int send_block(self, object block) except -1:
        # One block of the application's; an empty one does not send the head.
        cdef Py_ssize_t bytes
        if not PyBytes_Check(block):
            raise TypeError(f"the content of a response must be bytes, not {type(block).__name__}")
        if not self.is_started:
            raise AssertionError("content was sent before start_response() was called")
        if PyBytes_GET_SIZE(block) == 0:
            return 0
        bytes = self.fitting(PyBytes_GET_SIZE(block))
        if bytes == 0 and self.is_sent:
            return 0
        return self.send(<const uint8_t *> PyBytes_AS_STRING(block), bytes, False)

    @cython.binding(False)
    def write(self, data, /):
        """Send data at once, as PEP 3333 defines `write`."""
        if self.is_over:
            raise AssertionError("write() was called after its request had ended")
        if not self.is_started:
            raise AssertionError("write() was called before start_response()")
        if self.link.is_closed or self.is_gone():
            raise ClientGone("the client has left")
        self.send_block(data)
        link_announce(self.link)

    cdef int finish(self) except -1:
        # Everything was sent: ends the response, as broken off if it is shorter than declared.
        cdef bint is_cut = False
        if not self.is_started:
            raise AssertionError("the application did not call start_response()")
        if not self.is_sent:
            if self.content_length < 0 and not self.has_no_content:
                self.content_length = 0
            if self.has_no_content or self.content_length == 0:
                return self.send(NULL, 0, True)
        if not self.has_no_content and 0 <= <int64_t> self.sent < self.content_length:
            is_cut = True
            if not self.is_gone():
                self.log(f"the application sent {self.sent} bytes of content, and its "
                         f"Content-Length is {self.content_length}; the response is cut")
            if not self.is_sent:
                self.send(NULL, 0, False)
        return self.end(is_cut)

    cdef int send_one(self, object block) except -1:
        # The whole content in one block, which is the whole result.
        cdef Py_ssize_t bytes, fits
        if not PyBytes_Check(block):
            raise TypeError(f"the content of a response must be bytes, not {type(block).__name__}")
        if not self.is_started:
            raise AssertionError("the application did not call start_response()")
        bytes = PyBytes_GET_SIZE(block)
        if self.content_length < 0 and not self.is_sent and (
                not self.has_no_content or (self.is_head_request and bytes > 0
                                            and self.status not in (204, 304))):
            self.content_length = bytes
        fits = self.fitting(bytes)
        if (self.has_no_content or self.content_length < 0
                or fits + <int64_t> self.sent == self.content_length):
            if fits > 0 or not self.is_sent:
                return self.send(<const uint8_t *> PyBytes_AS_STRING(block), fits, True)
        elif fits > 0:
            self.send(<const uint8_t *> PyBytes_AS_STRING(block), fits, False)
        return self.finish()

    cdef int send_blocks(self, object blocks) except -1:
        # A list or tuple: all of its blocks are there, and so they are one content.
        cdef Py_ssize_t count = len(blocks)
        if count == 1:
            return self.send_one(blocks[0])
        for block in blocks:
            if not PyBytes_Check(block):
                raise TypeError(
                    f"the content of a response must be bytes, not {type(block).__name__}")
        return self.send_one(b"".join(blocks))

    cdef int send_iterable(self, object result) except -1:
        # Block by block; END is sent by the caller, behind close().
        cdef bint is_first = True
        cdef Py_ssize_t count = length_of(result)
        for block in result:
            if is_first and count == 1 and self.is_started and not self.is_sent:
                if self.content_length < 0 and not self.has_no_content and PyBytes_Check(block):
                    self.content_length = PyBytes_GET_SIZE(block)
            self.send_block(block)
            if self.is_sent:
                if self.is_gone():
                    raise ClientGone("the client has left")
                if is_first:
                    link_announce_soon(self.link)
                else:
                    link_announce(self.link)
                if self.has_no_content or self.is_too_long:
                    return 0
            is_first = False
        return 0

    cdef bint send_file(self, FileWrapper wrapper) except -1:
        # A regular file goes to the core as a descriptor. False: it has to be read block by block.
        cdef Py_ssize_t left
        cdef uint64_t offset, wait_ns = 0
        cdef int fd, error
        found = regular_file(wrapper.filelike)
        if found is None or not self.is_started or self.has_no_content:
            return False
        fd, offset, left = found
        if self.content_length < 0 and not self.is_sent:
            self.content_length = left
        left = min(left, max(0, self.fitting(left)))
        if left == 0:
            return True
        if unlikely(self.link.is_closed):
            raise ClientGone("the channel belongs to the parent process")
        with nogil:
            error = file_send(self.link, self.place_index, self.dispatch, fd)
            if error < 0:
                return False
            while not self.put_file(offset, left):
                link_wait_room(self.link, &wait_ns)
        return True

    cdef bint put_file(self, uint64_t offset, uint64_t bytes) noexcept nogil:
        # The FILE record, which ends the response, published together with the head if that is
        # due: a worker that dies has sent both or nothing. False: no room now.
        cdef uint64_t head = 0 if self.is_sent else align8(self.head_bytes(False))
        cdef uint8_t *at = lane_claim(self.link, self.lane, head + sizeof(FileRecord),
                                      self.link.reserve_bytes)
        cdef FileRecord *record = <FileRecord *> (at + head)
        if at == NULL:
            return False
        if not self.is_sent:
            self.put_head(at, 0, 0)
        record_init(&record.head, sizeof(FileRecord), RECORD_FILE, self.place_index, self.dispatch)
        record.head.flags = FLAG_END
        record.offset = offset
        record.bytes = bytes
        lane_publish(self.lane, head + sizeof(FileRecord))
        self.is_sent = True
        self.is_ended = True
        self.sent += bytes
        return True


cdef object regular_file(object filelike):
    # (descriptor, position, bytes behind it) if reading filelike yields just what is in a regular
    # file; or None. fileno() alone proves nothing: a GzipFile has one too, and other bytes.
    if type(filelike).__module__ == "tempfile":
        filelike = getattr(filelike, "file", None)
    raw = filelike.raw if type(filelike) in (io.BufferedReader, io.BufferedRandom) else filelike
    if type(raw) is not io.FileIO or raw.closed or not raw.readable():
        return None
    if type(filelike) is io.BufferedRandom:
        filelike.flush()
    status = os.fstat(raw.fileno())
    if status.st_mode & 0o170000 != 0o100000:
        return None
    if status.st_size == 0:
        return None  # nothing, or a file of /proc, whose size nobody knows
    position = filelike.tell()
    return raw.fileno(), position, max(0, status.st_size - position)


cdef Py_ssize_t length_of(object result):
    # len(result) if it has one; -1: it has none that can be trusted. A generator has none, which a
    # look at its type tells without an exception.
    cdef TypeSlots *slots = type_slots(result)
    if ((slots.tp_as_sequence == NULL or slots.tp_as_sequence.sq_length == NULL)
            and (slots.tp_as_mapping == NULL or slots.tp_as_mapping.mp_length == NULL)):
        return -1
    try:
        return len(result)
    except Exception:
        return -1


cdef object status_error(object status):
    if not isinstance(status, str):
        return TypeError(f"the status must be a str, not {type(status).__name__}")
    return ValueError(f"the status must be three digits, a space and a reason: {status!r}")


cdef object header_error(object name, object value):
    if not isinstance(name, str) or not isinstance(value, str):
        return TypeError(f"name and value of a header must be str: {name!r}: {value!r}")
    return ValueError(f"a header is not valid: {name!r}: {value!r}")
