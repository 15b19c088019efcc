# Responses on their way to the client: head, framing, content, file, end.
#
# Rules
#  1. The framing is chosen here, whatever the application said: its Content-Length is believed only
#     as a promise that is then kept (too much is cut, too little is an abort that the client can
#     see).
#  2. A response head is built from a private, checked copy. No CR, LF or NUL from a worker ever
#     reaches the client's field section.
#  3. Content in a worker's memory goes out by send() only, and what send() does not take is copied.

cdef enum:
    NAME_BYTES_MAX = 1024
    # room for status line, Server, Date, framing and connection fields
    HEAD_FIXED_BYTES = 2048


cdef inline uint8_t *text_put(uint8_t *at, const char *text, size_t bytes) noexcept nogil:
    memcpy(at, text, bytes)
    return at + bytes


cdef uint8_t *number_put(uint8_t *at, uint64_t number) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int count = 0
    while True:
        digits[count] = <uint8_t> (48 + number % 10)
        number //= 10
        count += 1
        if number == 0:
            break
    while count:
        count -= 1
        at[0] = digits[count]
        at += 1
    return at


cdef uint8_t *hex_put(uint8_t *at, uint64_t number) noexcept nogil:
    cdef int shift = 60
    while shift > 0 and number >> shift == 0:
        shift -= 4
    while shift >= 0:
        at[0] = <uint8_t> HEX_DIGITS[(number >> shift) & 15]
        at += 1
        shift -= 4
    return at


cdef bint field_is_ours(const uint8_t *name, uint32_t bytes) noexcept nogil:
    # Fields that say how the message is framed or the connection kept: the core writes them itself;
    # and the one that speaks to our cache alone.
    cdef Span span = span_of(name, bytes)
    cdef uint8_t first = byte_lower(name[0])
    if first == 99:      # c
        return (span_is_nocase(span, b"connection", 10)
                or span_is_nocase(span, b"content-length", 14))
    if first == 116:     # t
        return span_is_nocase(span, b"transfer-encoding", 17) or span_is_nocase(span, b"trailer", 7)
    if first == 107:     # k
        return (span_is_nocase(span, b"keep-alive", 10)
                or span_is_nocase(span, b"kernelq-cache-control", 21))
    if first == 117:     # u
        return span_is_nocase(span, b"upgrade", 7)
    if first == 112:     # p
        return span_is_nocase(span, b"proxy-connection", 16)
    return False


cdef bint name_is_token(const uint8_t *name, uint32_t bytes) noexcept nogil:
    cdef uint32_t index
    for index in range(bytes):
        if not is_token_byte(name[index]):
            return False
    return bytes > 0


cdef bint value_is_clean(const uint8_t *value, uint32_t bytes) noexcept nogil:
    # RFC 9110 §5.5: no CR, LF, NUL nor other control but the tab.
    cdef uint32_t index
    cdef uint8_t byte
    for index in range(bytes):
        byte = value[index]
        if (byte < 32 and byte != 9) or byte == 127:
            return False
    return True


cdef int fields_put(const FieldEntry *entries, uint32_t count, const uint8_t *text,
                    const uint8_t *text_end,
                    uint8_t **out, bint *has_date, bint *has_server) noexcept nogil:
    # Writes each field that is not ours as a field line. REASON_NONE, or why not.
    cdef uint32_t index, name_bytes, value_bytes
    cdef uint8_t *at = out[0]
    for index in range(count):
        name_bytes = entries[index].name_bytes
        value_bytes = entries[index].value_bytes
        if (name_bytes > <size_t> (text_end - text)
                or value_bytes > <size_t> (text_end - text) - name_bytes):
            return REASON_WORKER_DISTRUSTED
        if (not name_is_token(text, name_bytes)
                or not value_is_clean(text + name_bytes, value_bytes)):
            return REASON_RESPONSE_HEAD
        if not field_is_ours(text, name_bytes):
            if name_bytes == 4 and span_is_nocase(span_of(text, 4), b"date", 4):
                has_date[0] = True
            elif name_bytes == 6 and span_is_nocase(span_of(text, 6), b"server", 6):
                has_server[0] = True
            at = text_put(at, <const char *> text, name_bytes)
            at = text_put(at, b": ", 2)
            at = text_put(at, <const char *> text + name_bytes, value_bytes)
            at = text_put(at, b"\r\n", 2)
        text += name_bytes + value_bytes
    out[0] = at
    return REASON_NONE if text == text_end else REASON_WORKER_DISTRUSTED


cdef const char *status_phrase(uint32_t status) noexcept nogil:
    cdef uint32_t index
    for index in range(STATUS_COUNT):
        if status_texts[index].status == status:
            return status_texts[index].text
    return b""


cdef uint8_t *status_line_put(uint8_t *at, uint32_t status, const uint8_t *phrase,
                              uint32_t bytes) noexcept nogil:
    # The status line is always HTTP/1.1's: the version is the server's (RFC 9110 §2.5), not the
    # client's.
    cdef const char *text
    at = text_put(at, b"HTTP/1.1 ", 9)
    at = number_put(at, status)
    at[0] = 32
    at += 1
    if bytes:
        return text_put(at, <const char *> phrase, bytes)
    text = status_phrase(status)
    return text_put(at, text, strlen(text))


cdef uint8_t *server_and_date_put(Loop *loop, uint8_t *at, bint has_server,
                                  bint has_date) noexcept nogil:
    if not has_server and loop.core.settings.server_name_bytes:
        at = text_put(at, b"Server: ", 8)
        at = text_put(at, loop.core.settings.server_name, loop.core.settings.server_name_bytes)
        at = text_put(at, b"\r\n", 2)
    if not has_date:
        at = text_put(at, loop_date(loop), DATE_LINE_BYTES)
    return at


cdef uint8_t *connection_put(Loop *loop, uint8_t *at, bint is_11, bint is_last) noexcept nogil:
    if is_last:
        return text_put(at, b"Connection: close\r\n", 19)
    if not is_11:
        at = text_put(at, b"Connection: keep-alive\r\n", 24)
    at = text_put(at, b"Keep-Alive: timeout=", 20)
    at = number_put(at, loop.core.settings.idle_timeout_ns // 1000000000)
    return text_put(at, b"\r\n", 2)


cdef void framing_choose(Exchange *exchange, const ResponseRecord *record,
                         bint is_end) noexcept nogil:
    # RFC 9112 §6.3. Sets framing and response_left (what Content-Length will say; -1: nothing).
    cdef uint32_t status = record.status
    exchange.response_left = record.content_length
    if exchange.is_head or status == 204 or status == 304:
        exchange.framing = FRAMING_NONE
        if status == 204:
            exchange.response_left = -1
        elif exchange.response_left < 0 and is_end and exchange.is_head and record.content_bytes:
            exchange.response_left = record.content_bytes
    elif record.content_length >= 0:
        exchange.framing = FRAMING_LENGTH
    elif is_end:
        exchange.framing = FRAMING_LENGTH
        exchange.response_left = record.content_bytes
    elif exchange.is_11:
        exchange.framing = FRAMING_CHUNKED
    else:
        exchange.framing = FRAMING_CLOSE


cdef uint8_t *framing_put(uint8_t *at, const Exchange *exchange) noexcept nogil:
    if exchange.framing == FRAMING_CHUNKED:
        return text_put(at, b"Transfer-Encoding: chunked\r\n", 28)
    if exchange.response_left >= 0:
        at = text_put(at, b"Content-Length: ", 16)
        at = number_put(at, <uint64_t> exchange.response_left)
        return text_put(at, b"\r\n", 2)
    return at


cdef int response_begin(Loop *loop, Exchange *exchange, const ResponseRecord *record,
                        const uint8_t *copy, uint32_t copy_bytes, bint is_end) noexcept nogil:
    # copy: the record's head, private. Builds the response's head; it leaves with the first
    # content. A reason: the head is not valid and nothing was sent.
    cdef Conn *conn = exchange.conn
    cdef uint8_t *at = loop.head_out
    cdef uint64_t entries_bytes = <uint64_t> record.field_count * sizeof(FieldEntry)
    cdef const uint8_t *text = copy + sizeof(ResponseRecord) + entries_bytes
    cdef const uint8_t *text_end = copy + copy_bytes
    cdef bint has_date = False, has_server = False
    cdef int reason
    if sizeof(ResponseRecord) + entries_bytes + record.reason_bytes > copy_bytes:
        return REASON_WORKER_DISTRUSTED
    if record.status < 200 or record.status > 999 or not value_is_clean(text, record.reason_bytes):
        return REASON_RESPONSE_HEAD
    text_end = response_text_end(record, copy, text, copy_bytes)
    if text_end == NULL:
        return REASON_WORKER_DISTRUSTED
    framing_choose(exchange, record, is_end)
    at = status_line_put(at, record.status, text, record.reason_bytes)
    at = text_put(at, b"\r\n", 2)
    reason = fields_put(<const FieldEntry *> (copy + sizeof(ResponseRecord)), record.field_count,
                        text + record.reason_bytes, text_end, &at, &has_date, &has_server)
    if reason != REASON_NONE:
        return reason
    at = server_and_date_put(loop, at, has_server, has_date)
    at = framing_put(at, exchange)
    response_settle_persistence(loop, conn, exchange)
    if exchange.cache_word and loop.core.settings.cache_status:
        at = cache_status_put(at, exchange.cache_word, NULL, 0)
    at = connection_put(loop, at, exchange.is_11, conn.is_last)
    at = text_put(at, b"\r\n", 2)
    exchange.status = record.status
    loop.head_out_bytes = <uint32_t> (at - loop.head_out)
    return REASON_NONE


cdef const uint8_t *response_text_end(const ResponseRecord *record, const uint8_t *copy,
                                      const uint8_t *text, uint32_t copy_bytes) noexcept nogil:
    # Where the field texts end; NULL: the lengths do not add up. With content the head is padded to
    # 8.
    cdef const FieldEntry *entries = <const FieldEntry *> (copy + sizeof(ResponseRecord))
    cdef uint64_t bytes = <uint64_t> (text - copy) + record.reason_bytes
    cdef uint32_t index
    for index in range(record.field_count):
        bytes += entries[index].name_bytes
        bytes += entries[index].value_bytes
        if bytes > copy_bytes:
            return NULL
    if bytes == copy_bytes or (record.content_bytes and align8(bytes) == copy_bytes):
        return copy + bytes
    return NULL


cdef void response_settle_persistence(Loop *loop, Conn *conn, Exchange *exchange) noexcept nogil:
    # Whether this is the connection's last response: announced by it (RFC 9112 §9.6).
    if (exchange.wants_close or not loop.core.settings.keep_alive or conn_is_leaving(loop, conn)
            or exchange.framing == FRAMING_CLOSE or not exchange.content_is_whole):
        conn.is_last = True


cdef void response_content(Loop *loop, Worker *worker, Exchange *exchange, const uint8_t *content,
                           uint32_t bytes) noexcept nogil:
    # Content, in place in the worker's memory; the head goes with it if it is still here.
    cdef iovec parts[4]
    cdef int count = 0
    cdef uint8_t frame[24]
    cdef uint8_t *at
    if exchange.is_maker:
        fill_take(loop, worker, exchange, content, bytes)
        return
    exchange.response_bytes += bytes
    if exchange.framing == FRAMING_NONE:
        bytes = 0
    elif exchange.framing == FRAMING_LENGTH:
        if bytes > exchange.response_left:
            response_too_long(loop, exchange)
            bytes = <uint32_t> exchange.response_left
        exchange.response_left -= bytes
    if loop.head_out_bytes and bytes <= SMALL_CONTENT_BYTES and exchange.framing != FRAMING_CHUNKED:
        memcpy(loop.head_out + loop.head_out_bytes, content, bytes)
        loop.head_out_bytes += bytes
        bytes = 0
    if loop.head_out_bytes:
        parts[count].iov_base = loop.head_out
        parts[count].iov_len = loop.head_out_bytes
        count += 1
        loop.head_out_bytes = 0
    if bytes and exchange.framing == FRAMING_CHUNKED:
        at = hex_put(frame, bytes)
        at = text_put(at, b"\r\n", 2)
        parts[count].iov_base = frame
        parts[count].iov_len = at - frame
        count += 1
    if bytes:
        parts[count].iov_base = <void *> content
        parts[count].iov_len = bytes
        count += 1
        if exchange.framing == FRAMING_CHUNKED:
            parts[count].iov_base = <void *> <const char *> b"\r\n"
            parts[count].iov_len = 2
            count += 1
    exchange.head_sent = True
    if count:
        conn_send(loop, exchange.conn, parts, count)
    response_release(loop, worker, exchange)


cdef void response_too_long(Loop *loop, Exchange *exchange) noexcept nogil:
    if not exchange.was_too_long:
        exchange.was_too_long = True
        log_exchange_text(loop, LOG_WARNING, exchange,
                          b"the application sent more content than its Content-Length; cut")


cdef void response_release(Loop *loop, Worker *worker, Exchange *exchange) noexcept nogil:
    # Tells the worker how much of its content has left the core, a quarter of the window at a time.
    cdef uint64_t pending, gone
    if exchange.is_complete or exchange.conn == NULL:
        return
    pending = exchange.conn.out_bytes
    gone = exchange.response_bytes - pending if pending < exchange.response_bytes else 0
    if gone >= exchange.released_bytes + loop.core.settings.response_takeover // 4:
        if lane_tell(loop, worker, RECORD_RELEASED, 0, exchange.place,
                     worker.places[exchange.place].dispatch, gone):
            exchange.released_bytes = gone


cdef void response_file(Loop *loop, Exchange *exchange, uint64_t offset,
                        uint64_t bytes) noexcept nogil:
    # The head of a file response waits in head_out only within one record; here it was sent by HEAD
    # already.
    cdef iovec part
    cdef uint8_t frame[24]
    cdef uint8_t *at
    if exchange.framing == FRAMING_NONE or bytes == 0:
        return
    if exchange.framing == FRAMING_LENGTH:
        if bytes > <uint64_t> exchange.response_left:
            response_too_long(loop, exchange)
            bytes = <uint64_t> exchange.response_left
        exchange.response_left -= bytes
    elif exchange.framing == FRAMING_CHUNKED:
        at = hex_put(frame, bytes)
        at = text_put(at, b"\r\n", 2)
        part.iov_base = frame
        part.iov_len = at - frame
        conn_send(loop, exchange.conn, &part, 1)
    exchange.file_is_due = True
    exchange.file_offset = offset
    exchange.file_left = bytes
    exchange.response_bytes += bytes


cdef void response_end(Loop *loop, Exchange *exchange) noexcept nogil:
    # Everything of the response is known; with a file or output pending, the connection goes on by
    # itself.
    cdef iovec part
    cdef Conn *conn = exchange.conn
    if exchange.file_left:
        response_send_file(loop, exchange)
        return
    if exchange.framing == FRAMING_LENGTH and exchange.response_left > 0:
        response_cut(loop, exchange)
        return
    if exchange.framing == FRAMING_CHUNKED:
        part.iov_base = <void *> <const char *> (b"\r\n0\r\n\r\n" if exchange.file_ends
                                                 else b"0\r\n\r\n")
        part.iov_len = 7 if exchange.file_ends else 5
        conn_send(loop, conn, &part, 1)
    if conn.state != CONN_CLOSED:
        conn_on_response_sent(loop, conn)


cdef bint response_is_whole(const Exchange *exchange) noexcept nogil:
    # All that its head promises is out, or in a file that we have: for the client only END is
    # missing.
    if not exchange.head_sent:
        return False
    return exchange.framing == FRAMING_NONE or (
        exchange.framing == FRAMING_LENGTH and exchange.response_left == 0)


cdef void response_cut(Loop *loop, Exchange *exchange) noexcept nogil:
    # The application broke off, or sent less than its Content-Length: the client must see an
    # incomplete message.
    if not exchange.head_sent:
        exchange_refuse(loop, exchange, REASON_RESPONSE_MISSING)
        return
    if response_is_whole(exchange):
        exchange.is_complete = True
        response_end(loop, exchange)
        return
    exchange_abort(loop, exchange, REASON_RESPONSE_CUT)


cdef void response_send_file(Loop *loop, Exchange *exchange) noexcept nogil:
    # After the output that stands before it; offset is explicit, so the worker cannot move it under
    # us.
    cdef Conn *conn = exchange.conn
    cdef int64_t offset
    cdef uint64_t bytes
    cdef ssize_t sent
    cdef bint is_last
    while exchange.file_left and exchange.file_fd >= 0 and conn.out_bytes == 0 and conn.can_write:
        if not file_is_warm(loop, exchange):
            return
        is_last = loop.turn_bytes > TURN_BYTES
        offset = <int64_t> exchange.file_offset
        bytes = min(exchange.file_left, exchange.file_warm_to - exchange.file_offset,
                    <uint64_t> (FILE_BYTES_AT_LEAST if is_last else FILE_BYTES_PER_CALL))
        sent = linux.sendfile(conn.fd, exchange.file_fd, &offset, bytes)
        if sent > 0:
            exchange.file_offset += <uint64_t> sent
            exchange.file_left -= <uint64_t> sent
            conn.total_bytes += <uint64_t> sent
            exchange.sent_bytes += <uint64_t> sent
            atomic.tally(&loop.counters[COUNT_BYTES_SENT], <uint64_t> sent)
            loop.turn_bytes += <uint64_t> sent
            if is_last and exchange.file_left:
                conn_again(loop, conn)
                return
        elif sent < 0 and linux.errno == EAGAIN:
            conn.can_write = False
        elif sent < 0 and linux.errno == EINTR:
            continue
        elif sent < 0 and (linux.errno == EPIPE or linux.errno == ECONNRESET):
            conn_break(loop, conn)
            return
        else:
            exchange_abort(loop, exchange, REASON_RESPONSE_FILE)
            return
    if exchange.file_left:
        conn_watch_sending(loop, conn)
        return
    exchange.file_ends = True
    response_end(loop, exchange)


cdef void response_send_piece(Loop *loop, Exchange *exchange, SpillBuffer *piece) noexcept nogil:
    # A helper thread has read it.
    cdef iovec part
    part.iov_base = piece.data
    part.iov_len = piece.bytes
    exchange.file_offset += piece.bytes
    exchange.file_left -= piece.bytes
    conn_send(loop, exchange.conn, &part, 1)
    response_send_file(loop, exchange)


cdef bint file_is_warm(Loop *loop, Exchange *exchange) noexcept nogil:
    # sendfile() of a cold file would block the loop on the disk: one byte is read without waiting;
    # if that fails a helper thread reads ahead first and posts a letter. What a file system gives
    # that cannot say so (overlayfs, FUSE, network file systems) is never read by the loop at all.
    cdef uint8_t byte
    cdef iovec part
    cdef ssize_t got
    if exchange.file_is_warming:
        return False
    if exchange.file_offset < exchange.file_warm_to:
        return True
    part.iov_base = &byte
    part.iov_len = 1
    got = preadv2(exchange.file_fd, &part, 1, <int64_t> exchange.file_offset, RWF_NOWAIT)
    if got < 0 and linux.errno == EOPNOTSUPP and not linux.is_memory(exchange.file_fd):
        exchange.file_is_copied = True
    elif got >= 0 or linux.errno != EAGAIN:
        exchange.file_warm_to = exchange.file_offset + FILE_BYTES_PER_CALL
        return True
    if job_warm(loop, exchange):
        exchange.file_is_warming = True
    else:
        exchange_abort(loop, exchange, REASON_MEMORY)
    return False
