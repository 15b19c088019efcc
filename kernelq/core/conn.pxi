# A connection: reading, its requests one after the other, writing, timers, closing.
#
# Rules
#  1. Nothing here frees a Conn while a caller may still use it: conn_close() unlinks, the end of
#     the turn frees.
#     A send that fails marks the connection broken (conn_break); the turn cleans up.
#  2. Input is read only while somebody wants it: a head, content with room for it, or the rest
#     before a close.
#  3. Whatever is not consumed at once is kept in conn.input, which exists only while it holds
#     something: an idle connection owns no buffer.
#
# Facts that shaped this
#  epoll is edge-triggered and armed once per connection. A recv() that fills less than it was
#  offered has emptied the socket, so the next one waits for the next edge (can_read); a FIN behind
#  the bytes shows as EPOLLRDHUP, and then one more recv() is made. close() with unread bytes sends
#  RST, which can overtake and destroy the answer on its way: so our side is shut first and the rest
#  is read (CONN_LINGER).

cdef enum:
    # per connection: one that sends as fast as we read does not hold the loop
    READS_PER_TURN = 8
    INPUT_ROOM_MIN = 2048
    # Before a close the rest is read: for LINGER_MOST_NS, as long as some comes in every LINGER_NS.
    LINGER_NS = 5000000000
    LINGER_MOST_NS = 30000000000
    PROBE_AFTER_NS = 1000000000
    TIMER_OFF_NS = 864000000000000  # ten days
    SMALL_CONTENT_BYTES = 8192     # copied behind the head: one send() of one buffer


cdef Conn *conn_new(Loop *loop) noexcept nogil:
    cdef Conn *conn = loop.spare_conns
    if conn != NULL:
        loop.spare_conns = conn.next_closed
        loop.spare_conn_count -= 1
    else:
        conn = <Conn *> malloc(sizeof(Conn))
        if conn == NULL:
            return NULL
    memset(conn, 0, sizeof(Conn))
    conn.source.kind = SOURCE_CONN
    return conn


cdef void conn_open(Loop *loop, Listener *listener, int fd,
                    const sockaddr_storage *address) noexcept nogil:
    cdef Conn *conn = conn_new(loop)
    cdef bint is_one_too_many
    if conn == NULL:
        linux.close(fd)
        return
    conn.fd = fd
    conn.listener = listener
    atomic.add_u32(&listener.refs, 1)
    conn.can_write = True
    conn_set_remote(conn, address)
    loop.conn_count += 1
    atomic.tally(&loop.counters[COUNT_CONNECTIONS], 1)
    atomic.tally(&loop.counters[COUNT_CONNECTIONS_NOW], 1)
    is_one_too_many = (atomic.add_u32(&loop.core.connections, 1)
                       > loop.core.settings.connection_limit)
    if not epoll_watch(loop, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, conn):
        conn_close(loop, conn)
        return
    conn_start_timer(loop, conn, loop.core.settings.header_timeout_ns)
    if is_one_too_many:
        conn_refuse(loop, conn, REASON_CONN_LIMIT)


cdef void conn_set_remote(Conn *conn, const sockaddr_storage *address) noexcept nogil:
    cdef const sockaddr_in *v4 = <const sockaddr_in *> address
    cdef const sockaddr_in6 *v6 = <const sockaddr_in6 *> address
    conn.family = <uint8_t> address.ss_family
    if conn.family == AF_INET:
        memcpy(conn.remote_address, &v4.sin_addr, 4)
        conn.remote_port = ntohs(v4.sin_port)
        inet_ntop(AF_INET, &v4.sin_addr, conn.remote, sizeof(conn.remote))
    elif conn.family == AF_INET6 and memcmp(&v6.sin6_addr, MAPPED_PREFIX, 12) == 0:
        # An IPv4 client at a dual-stack socket: to applications and logs it is what it is.
        conn.family = AF_INET
        memcpy(conn.remote_address, <const uint8_t *> &v6.sin6_addr + 12, 4)
        conn.remote_port = ntohs(v6.sin6_port)
        inet_ntop(AF_INET, conn.remote_address, conn.remote, sizeof(conn.remote))
    elif conn.family == AF_INET6:
        memcpy(conn.remote_address, &v6.sin6_addr, 16)
        conn.remote_port = ntohs(v6.sin6_port)
        inet_ntop(AF_INET6, &v6.sin6_addr, conn.remote, sizeof(conn.remote))
    conn.remote_bytes = <uint8_t> strlen(conn.remote)


cdef uint32_t conn_address_bytes(const Conn *conn) noexcept nogil:
    if conn.family == AF_INET:
        return 4
    return 16 if conn.family == AF_INET6 else 0


cdef const uint8_t *conn_local_address(Conn *conn) noexcept nogil:
    # As routes have it: 16 bytes, IPv4 mapped. NULL: a unix socket.
    cdef sockaddr_storage address
    cdef socklen_t bytes = sizeof(address)
    if conn.family == AF_UNIX:
        return NULL
    if not conn.local_is_known:
        conn.local_is_known = True
        memset(&address, 0, sizeof(address))
        getsockname(conn.fd, <sockaddr *> &address, &bytes)
        if address.ss_family == AF_INET6:
            memcpy(conn.local_address, &(<sockaddr_in6 *> &address).sin6_addr, 16)
        else:
            conn.local_address[10] = conn.local_address[11] = 0xff
            memcpy(&conn.local_address[12], &(<sockaddr_in *> &address).sin_addr, 4)
    return conn.local_address


cdef inline bint conn_is_leaving(const Loop *loop, const Conn *conn) noexcept nogil:
    # It gets no further request: the server ends, or its listener was removed.
    # relaxed: a response later at most
    return loop.is_draining or atomic.load_relaxed_u32(&conn.listener.is_removed) != 0


cdef void conn_start_timer(Loop *loop, Conn *conn, uint64_t limit_ns) noexcept nogil:
    # One timer per connection; what it means follows from the state (conn_on_timer).
    # A limit that is off is far away: every idle connection can be found in the wheel
    # (loop_close_idle).
    conn.since_ns = loop.now_ns
    conn.since_bytes = conn_progress(conn)
    timer_set(&loop.wheel, &conn.timer, loop.now_ns + (limit_ns if limit_ns else TIMER_OFF_NS))


cdef void conn_again(Loop *loop, Conn *conn) noexcept nogil:
    # There is work left on this connection: later in this turn, or in the next.
    if not conn.is_again and conn.state != CONN_CLOSED:
        conn.is_again = True
        conn.next_again = loop.again
        loop.again = conn


cdef void conn_break(Loop *loop, Conn *conn) noexcept nogil:
    conn.is_broken = True
    conn.can_write = False
    conn_again(loop, conn)


# --- events ---------------------------------------------------------------------------------------

cdef void conn_on_event(Loop *loop, Conn *conn, uint32_t events) noexcept nogil:
    if conn.state == CONN_CLOSED:
        return
    if events & EPOLLERR or (events & EPOLLHUP and conn.state != CONN_LINGER):
        conn_on_gone(loop, conn)
        return
    if events & EPOLLRDHUP and not conn.has_fin:
        conn.has_fin = True
        conn_on_half_close(loop, conn)
    if events & EPOLLOUT and not conn.can_write:
        conn.can_write = True
        conn_on_writable(loop, conn)
    if events & EPOLLIN:
        conn.can_read = True
        conn_read(loop, conn)


cdef void conn_on_half_close(Loop *loop, Conn *conn) noexcept nogil:
    # The client's FIN while its request is with us, or before it was whole: half-closed and waiting
    # for the answer, or closed. It looks the same; see conn_probe().
    if not conn.has_fin or conn.state != CONN_WAIT or conn.exchange == NULL:
        return
    if loop.core.settings.half_close == HALF_CLOSE_DROP:
        conn_break(loop, conn)
    elif loop.core.settings.half_close == HALF_CLOSE_PROBE and conn.out_bytes == 0:
        conn_start_timer(loop, conn, PROBE_AFTER_NS)


cdef void conn_probe(Loop *loop, Conn *conn) noexcept nogil:
    # A client that has closed answers any byte with RST, and leaves; a half-closed one reads an
    # interim response, which every HTTP/1.1 client must take (RFC 9110 §15.2).
    cdef iovec part
    if conn.exchange.is_11 and not conn.exchange.head_sent and not conn.exchange.is_probed:
        conn.exchange.is_probed = True
        part.iov_base = <void *> CONTINUE_TEXT
        part.iov_len = CONTINUE_BYTES
        conn_send(loop, conn, &part, 1)


cdef void conn_on_gone(Loop *loop, Conn *conn) noexcept nogil:
    # Reset, or closed both ways: nobody is there.
    cdef Exchange *exchange = conn.exchange
    if exchange != NULL:
        if exchange.status != 0:
            log_access(loop, conn, exchange)
        conn.exchange = NULL
        atomic.tally(&loop.counters[COUNT_CLIENT_GONE], 1)
        exchange_leave(loop, exchange)
    conn_close(loop, conn)


cdef void conn_close(Loop *loop, Conn *conn) noexcept nogil:
    bug.BUG_ON(conn.state == CONN_CLOSED)
    conn.state = CONN_CLOSED
    timer_cancel(&loop.wheel, &conn.timer)
    linux.close(conn.fd)
    conn.fd = -1
    conn_drop_input(conn)
    conn_drop_output(loop, conn)
    loop.conn_count -= 1
    atomic.tally(&loop.counters[COUNT_CONNECTIONS_NOW], <uint64_t> -1)
    atomic.add_u32(&loop.core.connections, <uint32_t> -1)
    conn.next_closed = loop.closed
    loop.closed = conn


cdef void conns_free_closed(Loop *loop) noexcept nogil:
    # One that was closed with work left is named by the list of those: it stays for a turn.
    cdef Conn *conn = loop.closed
    cdef Conn *following
    loop.closed = NULL
    while conn != NULL:
        following = conn.next_closed
        if conn.is_again:
            conn.next_closed = loop.closed
            loop.closed = conn
            conn = following
            continue
        listener_release(loop.core, conn.listener)
        if loop.spare_conn_count < SPARE_CONNS:
            conn.next_closed = loop.spare_conns
            loop.spare_conns = conn
            loop.spare_conn_count += 1
        else:
            free(conn)
        conn = following


cdef void conn_drop_input(Conn *conn) noexcept nogil:
    # While it is being taken its reader still looks at it: conn_advance() comes back.
    if conn.is_advancing:
        return
    free(conn.input)
    conn.input = NULL
    conn.in_start = conn.in_end = conn.in_room = 0


cdef void conn_drop_output(Loop *loop, Conn *conn) noexcept nogil:
    while conn.out_first != NULL:
        chunk_give_back(loop, conn)
    conn.out_bytes = 0


cdef void conn_linger(Loop *loop, Conn *conn) noexcept nogil:
    # Lingering close: our FIN, then read what still comes until theirs, for a bounded time.
    if conn.state == CONN_LINGER or conn.state == CONN_CLOSED:
        return
    if conn.is_advancing and loop.batch_bytes:
        batch_flush(loop, conn)
    if linux.shutdown(conn.fd, SHUT_WR) < 0:
        conn_close(loop, conn)
        return
    conn.state = CONN_LINGER
    conn_drop_input(conn)
    conn_start_timer(loop, conn, LINGER_NS)
    if conn.has_fin:
        conn.can_read = True
    if conn.can_read:
        conn_again(loop, conn)


cdef void conn_linger_on(Loop *loop, Conn *conn) noexcept nogil:
    if conn.total_bytes == conn.since_bytes or loop.now_ns >= conn.since_ns + LINGER_MOST_NS:
        conn_close(loop, conn)
        return
    conn.since_bytes = conn.total_bytes
    timer_set(&loop.wheel, &conn.timer, loop.now_ns + LINGER_NS)


cdef void conn_reset(Loop *loop, Conn *conn) noexcept nogil:
    # The client must see an abort where a FIN would look like the end of the content.
    cdef linger_ now
    now.l_onoff = 1
    now.l_linger = 0
    setsockopt(conn.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))
    conn_close(loop, conn)


# --- reading --------------------------------------------------------------------------------------

cdef bint conn_wants_input(const Loop *loop, const Conn *conn) noexcept nogil:
    cdef const Exchange *exchange = conn.exchange
    if conn.state == CONN_HEAD or conn.state == CONN_LINGER:
        return True
    if conn.state != CONN_CONTENT:
        return False
    if exchange.is_streamed:
        return exchange.content_is_wanted and conn.in_start == conn.in_end
    return exchange.spill_jobs < SPILL_JOBS_MAX


cdef bint conn_reserve_input(const Loop *loop, Conn *conn, uint32_t bytes) noexcept nogil:
    # Room for so many more bytes behind what is there; the input's bound is a head's, plus one
    # receive.
    cdef uint32_t held = conn.in_end - conn.in_start
    cdef uint32_t room = conn.in_room
    cdef uint8_t *grown
    if conn.in_room - conn.in_end >= bytes:
        return True
    if conn.in_start and conn.in_room - held >= bytes:
        memmove(conn.input, conn.input + conn.in_start, held)
    else:
        if room < INPUT_ROOM_MIN:
            room = INPUT_ROOM_MIN
        while room - held < bytes:
            room *= 2
        grown = <uint8_t *> malloc(room)
        if grown == NULL:
            return False
        if held:
            memcpy(grown, conn.input + conn.in_start, held)
        free(conn.input)
        conn.input = grown
        conn.in_room = room
    conn.in_start = 0
    conn.in_end = held
    return True


cdef void conn_read(Loop *loop, Conn *conn) noexcept nogil:
    cdef uint32_t left = READS_PER_TURN
    cdef ssize_t got
    cdef uint8_t *at
    cdef size_t room
    while conn.can_read and not conn.is_broken and conn_wants_input(loop, conn):
        if left == 0:
            conn_again(loop, conn)
            return
        left = left - 1 if loop.turn_bytes <= TURN_BYTES else 0
        if not conn_receive_room(loop, conn, &at, &room):
            conn_refuse(loop, conn, REASON_MEMORY)
            return
        got = linux.recv(conn.fd, at, room, MSG_DONTWAIT)
        if got > 0:
            conn.can_read = <size_t> got == room or conn.has_fin
            conn.total_bytes += <uint64_t> got
            loop.turn_bytes += <uint64_t> got
            atomic.tally(&loop.counters[COUNT_BYTES_RECEIVED], <uint64_t> got)
            conn_on_received(loop, conn, at, <size_t> got)
        elif got == 0:
            conn.can_read = False
            conn_on_end(loop, conn)
        elif linux.errno == EAGAIN:
            conn.can_read = False
        elif linux.errno != EINTR:
            conn_break(loop, conn)


cdef bint conn_receive_room(Loop *loop, Conn *conn, uint8_t **at, size_t *room) noexcept nogil:
    # Where the next bytes go: behind kept input, straight into a spill buffer, or into the loop's
    # scratch.
    cdef Exchange *exchange = conn.exchange
    cdef uint64_t left
    at[0] = loop.scratch
    room[0] = SCRATCH_BYTES
    if conn.in_start < conn.in_end:
        if not conn_reserve_input(loop, conn, INPUT_ROOM_MIN // 2):
            return False
        at[0] = conn.input + conn.in_end
        room[0] = conn.in_room - conn.in_end
    elif conn.state == CONN_CONTENT and exchange.spill != NULL and not exchange.is_chunked:
        left = <uint64_t> exchange.content_length - exchange.content_received
        at[0] = exchange.spill.data + exchange.spill.bytes
        room[0] = SPILL_BYTES - exchange.spill.bytes
        if room[0] > left:
            room[0] = left
    return True


cdef void conn_on_received(Loop *loop, Conn *conn, uint8_t *at, size_t bytes) noexcept nogil:
    if conn.state == CONN_LINGER:
        return
    if conn.in_start < conn.in_end:
        conn.in_end += <uint32_t> bytes
        conn_advance_input(loop, conn)
    elif at != loop.scratch:
        content_spilled_in_place(loop, conn, <uint32_t> bytes)
    else:
        conn_advance(loop, conn, at, bytes)


cdef void conn_advance_input(Loop *loop, Conn *conn) noexcept nogil:
    conn_advance(loop, conn, conn.input + conn.in_start, conn.in_end - conn.in_start)


cdef void conn_advance(Loop *loop, Conn *conn, const uint8_t *at, size_t bytes) noexcept nogil:
    # Takes as much of these bytes as the state allows; keeps the rest.
    cdef int64_t used = 1
    conn.is_advancing = True
    while bytes and used > 0:
        if conn.state == CONN_HEAD:
            used = conn_take_head(loop, conn, at, bytes)
        elif conn.state == CONN_CONTENT:
            used = content_take(loop, conn, at, bytes)
        else:
            break
        at += used
        bytes -= <size_t> used
    if loop.batch_bytes:
        conn_flush_hits(loop, conn)
    conn.is_advancing = False
    if conn.state == CONN_CLOSED or conn.state == CONN_LINGER:
        conn_drop_input(conn)
        return
    if bytes == 0 and conn.state == CONN_CONTENT:
        request_say_continue(loop, conn, conn.exchange)
    if bytes == 0:
        conn_drop_input(conn)
    elif conn.input != NULL and at >= conn.input and at < conn.input + conn.in_room:
        conn.in_start = <uint32_t> (at - conn.input)
    elif conn_reserve_input(loop, conn, <uint32_t> bytes):
        memcpy(conn.input + conn.in_end, at, bytes)
        conn.in_end += <uint32_t> bytes
    else:
        conn_refuse(loop, conn, REASON_MEMORY)


cdef void conn_flush_hits(Loop *loop, Conn *conn) noexcept nogil:
    # What the store answered of this input leaves in one send; what the socket does not take holds
    # back the next request.
    if conn.state == CONN_CLOSED:
        loop.batch_bytes = 0
        return
    batch_flush(loop, conn)
    if conn.out_bytes and conn.state == CONN_HEAD:
        conn.state = CONN_FLUSH


cdef int64_t conn_take_head(Loop *loop, Conn *conn, const uint8_t *at, size_t bytes) noexcept nogil:
    # Bytes used; 0: more is needed, or the connection is done for.
    cdef RequestHead head
    cdef int64_t used
    cdef bint was_idle = not head_is_started(&conn.progress)
    head.fields = loop.fields
    used = http1_parse_head(at, bytes, &conn.progress, &loop.core.limits, &head)
    if used == PARSE_MORE:
        if was_idle and conn.requests and head_is_started(&conn.progress):
            conn_start_timer(loop, conn, loop.core.settings.header_timeout_ns)
        return 0
    if used < 0:
        log_head(loop, conn, &head, <int> -used)
        conn_refuse_logged(loop, conn, <int> -used, span_is(head.method, b"HEAD", 4))
        return 0
    memset(&conn.progress, 0, sizeof(conn.progress))
    conn.requests += 1
    atomic.tally(&loop.counters[COUNT_REQUESTS], 1)
    atomic.tally(&loop.counters[COUNT_FIELDS_DROPPED], head.dropped_count)
    request_accept(loop, conn, at, &head)
    return used


cdef void conn_on_end(Loop *loop, Conn *conn) noexcept nogil:
    # recv() said 0: nothing more will come.
    cdef Exchange *exchange = conn.exchange
    conn.has_fin = True
    if conn.state == CONN_CONTENT:
        exchange.content_is_cut = True
        log_exchange(loop, LOG_INFO, exchange, REASON_CONTENT_CUT, NULL)
        atomic.tally(&loop.reasons[REASON_CONTENT_CUT], 1)
        atomic.tally(&loop.counters[COUNT_CLIENT_GONE], 1)
        if exchange.is_streamed:
            conn.state = CONN_WAIT
            content_stream_end(loop, exchange, FLAG_CUT)
            return
        conn.exchange = NULL
        exchange_free_unless_held(loop, exchange)
    if conn.state == CONN_WAIT:
        return
    if conn.out_bytes == 0:
        conn_close(loop, conn)
        return
    conn.is_last = True
    conn.state = CONN_FLUSH


# --- writing --------------------------------------------------------------------------------------

cdef Chunk *chunk_new(Loop *loop, Conn *conn) noexcept nogil:
    cdef Chunk *chunk = loop.spare_chunks
    if chunk != NULL:
        loop.spare_chunks = chunk.next
        loop.spare_chunk_count -= 1
    else:
        chunk = <Chunk *> malloc(sizeof(Chunk))
        if chunk == NULL:
            return NULL
    atomic.tally(&loop.counters[COUNT_CHUNKS_NOW], 1)
    chunk.next = NULL
    chunk.start = chunk.end = 0
    if conn.out_last == NULL:
        conn.out_first = chunk
    else:
        conn.out_last.next = chunk
    conn.out_last = chunk
    return chunk


cdef void chunk_give_back(Loop *loop, Conn *conn) noexcept nogil:
    # The first chunk of the output is done with.
    cdef Chunk *chunk = conn.out_first
    conn.out_first = chunk.next
    if conn.out_first == NULL:
        conn.out_last = NULL
    atomic.tally(&loop.counters[COUNT_CHUNKS_NOW], <uint64_t> -1)
    if loop.spare_chunk_count < SPARE_CHUNKS:
        chunk.next = loop.spare_chunks
        loop.spare_chunks = chunk
        loop.spare_chunk_count += 1
    else:
        free(chunk)


cdef void conn_sent(Loop *loop, Conn *conn, uint64_t bytes) noexcept nogil:
    conn.total_bytes += bytes
    atomic.tally(&loop.counters[COUNT_BYTES_SENT], bytes)
    if conn.exchange != NULL:
        conn.exchange.sent_bytes += bytes


cdef void conn_send(Loop *loop, Conn *conn, iovec *parts, int count) noexcept nogil:
    # Sends at once what the socket takes, keeps a copy of the rest. The parts are borrowed for this
    # call.
    cdef msghdr message
    cdef ssize_t sent = 0
    cdef uint64_t skip
    cdef int index
    if conn.is_advancing and loop.batch_bytes:
        batch_flush(loop, conn)
    if conn.is_broken or conn.state == CONN_CLOSED:
        return
    if conn.out_bytes == 0 and conn.can_write:
        if count == 1:
            sent = linux.send(conn.fd, parts[0].iov_base, parts[0].iov_len,
                              MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            memset(&message, 0, sizeof(message))
            message.msg_iov = parts
            message.msg_iovlen = <size_t> count
            sent = linux.sendmsg(conn.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            if linux.errno != EAGAIN and linux.errno != EINTR:
                conn_break(loop, conn)
                return
            sent = 0
        conn_sent(loop, conn, <uint64_t> sent)
    skip = <uint64_t> sent
    for index in range(count):
        if skip >= parts[index].iov_len:
            skip -= parts[index].iov_len
            continue
        conn_keep(loop, conn, <const uint8_t *> parts[index].iov_base + skip,
                  parts[index].iov_len - skip)
        skip = 0


cdef void conn_keep(Loop *loop, Conn *conn, const uint8_t *at, uint64_t bytes) noexcept nogil:
    # Takes over what the socket did not take, for when it is writable again.
    cdef Chunk *chunk = conn.out_last
    cdef uint32_t part
    if conn.out_bytes == 0:
        conn.can_write = False
    conn.out_bytes += bytes
    while bytes:
        if chunk == NULL or chunk.end == CHUNK_BYTES:
            chunk = chunk_new(loop, conn)
            if chunk == NULL:
                conn_break(loop, conn)
                return
        part = <uint32_t> (bytes if bytes < CHUNK_BYTES - chunk.end else CHUNK_BYTES - chunk.end)
        memcpy(chunk.data + chunk.end, at, part)
        chunk.end += part
        at += part
        bytes -= part
    conn_watch_sending(loop, conn)


cdef void conn_watch_sending(Loop *loop, Conn *conn) noexcept nogil:
    # HTTP.sys MinSendRate: looked at once per period; see conn_on_timer().
    if not conn.is_slow:
        conn.is_slow = True
        conn_start_timer(loop, conn, loop.core.settings.entity_timeout_ns)


cdef void conn_on_writable(Loop *loop, Conn *conn) noexcept nogil:
    cdef iovec parts[16]
    cdef msghdr message
    cdef ssize_t sent
    while conn.out_bytes and conn.can_write:
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        message.msg_iovlen = chunks_gather(conn, parts, 16)
        sent = linux.sendmsg(conn.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            if linux.errno == EAGAIN:
                conn.can_write = False
            elif linux.errno != EINTR:
                conn_break(loop, conn)
            return
        conn_sent(loop, conn, <uint64_t> sent)
        chunks_take(loop, conn, <uint64_t> sent)
    if conn.out_bytes == 0:
        conn_on_drained(loop, conn)


cdef size_t chunks_gather(const Conn *conn, iovec *parts, size_t most) noexcept nogil:
    cdef Chunk *chunk = conn.out_first
    cdef size_t count = 0
    while chunk != NULL and count < most:
        parts[count].iov_base = chunk.data + chunk.start
        parts[count].iov_len = chunk.end - chunk.start
        count += 1
        chunk = chunk.next
    return count


cdef void chunks_take(Loop *loop, Conn *conn, uint64_t bytes) noexcept nogil:
    cdef uint32_t part
    conn.out_bytes -= bytes
    while bytes:
        part = conn.out_first.end - conn.out_first.start
        if bytes < part:
            conn.out_first.start += <uint32_t> bytes
            return
        bytes -= part
        chunk_give_back(loop, conn)
    while conn.out_bytes == 0 and conn.out_first != NULL:
        chunk_give_back(loop, conn)


cdef void conn_on_drained(Loop *loop, Conn *conn) noexcept nogil:
    # Everything taken over has been sent.
    cdef Exchange *exchange = conn.exchange
    conn.is_slow = False
    if conn.state == CONN_FLUSH:
        conn_finish(loop, conn)
        return
    timer_cancel(&loop.wheel, &conn.timer)
    if exchange == NULL:
        return
    if exchange.fill != NULL and exchange.entry == NULL:
        # The timer that it had was for the output.
        conn_start_timer(loop, conn, waiting_patience_ns(exchange))
    if exchange.file_left:
        response_send_file(loop, exchange)
    elif exchange.entry != NULL:
        response_send_body(loop, exchange)
    elif exchange.worker != NULL:
        response_release(loop, exchange.worker, exchange)


cdef inline bint conn_is_left_over(const Conn *conn) noexcept nogil:
    # Its listener was removed while the response was on its way, and nothing has come behind that.
    # At shutdown such connections get some time (loop_check_quiet).
    # relaxed: else it is closed when it has been idle for long
    return (atomic.load_relaxed_u32(&conn.listener.is_removed) and conn.in_start == conn.in_end
            and not conn.can_read and not conn.is_advancing)


cdef void conn_on_response_sent(Loop *loop, Conn *conn) noexcept nogil:
    # The whole response is with the socket or in our output.
    if conn.out_bytes:
        conn.state = CONN_FLUSH
        return
    conn_finish(loop, conn)


cdef void conn_finish(Loop *loop, Conn *conn) noexcept nogil:
    # Between messages: the next request, or the end.
    cdef Exchange *exchange = conn.exchange
    if exchange != NULL:
        log_access(loop, conn, exchange)
        if not exchange.is_refused:
            atomic.tally(&loop.counters[COUNT_ANSWERED], 1)
        conn.exchange = NULL
        exchange_free_unless_held(loop, exchange)
    conn.is_slow = False
    if conn.is_last or conn_is_left_over(conn):
        conn_linger(loop, conn)
        return
    conn.state = CONN_HEAD
    conn_start_timer(loop, conn, loop.core.settings.idle_timeout_ns)
    if conn.in_start < conn.in_end or conn.can_read:
        if not conn.is_advancing:
            conn_again(loop, conn)


cdef void conn_on_again(Loop *loop, Conn *conn) noexcept nogil:
    # The work that was left.
    conn.is_again = False
    if conn.state == CONN_CLOSED:
        return
    if conn.is_broken:
        conn_on_gone(loop, conn)
        return
    if conn.exchange != NULL and conn.exchange.file_left and conn.out_bytes == 0:
        response_send_file(loop, conn.exchange)
        return
    if conn.exchange != NULL and conn.exchange.entry != NULL and conn.out_bytes == 0:
        response_send_body(loop, conn.exchange)
        return
    if conn.state == CONN_CONTENT and conn.in_start == conn.in_end:
        request_say_continue(loop, conn, conn.exchange)
    if conn.in_start < conn.in_end and (conn.state == CONN_HEAD or conn.state == CONN_CONTENT):
        conn_advance_input(loop, conn)
    if conn.state != CONN_CLOSED and conn.can_read:
        conn_read(loop, conn)


# --- timers ---------------------------------------------------------------------------------------

cdef void conn_on_timer(Loop *loop, Conn *conn) noexcept nogil:
    cdef const Settings *settings = &loop.core.settings
    if conn.state == CONN_LINGER:
        conn_linger_on(loop, conn)
    elif conn.is_slow:
        conn_check_rate(loop, conn, REASON_TIMER_MIN_SEND_RATE)
    elif conn.state == CONN_HEAD:
        if head_is_started(&conn.progress):
            conn_refuse(loop, conn, REASON_TIMER_HEADER_WAIT)
        else:
            conn_end_idle(loop, conn, REASON_TIMER_CONNECTION_IDLE if conn.requests
                          else REASON_TIMER_HEADER_WAIT)
    elif conn.state == CONN_CONTENT:
        if conn_wants_input(loop, conn):
            conn_check_rate(loop, conn, REASON_TIMER_ENTITY_BODY)
        else:
            conn_start_timer(loop, conn, settings.entity_timeout_ns)
            conn_again(loop, conn)
    elif conn.state == CONN_WAIT:
        if conn.has_fin:
            conn_probe(loop, conn)
        if conn.exchange.fill != NULL and conn.exchange.entry == NULL:
            waiting_on_timer(loop, conn.exchange)


cdef void conn_end_idle(Loop *loop, Conn *conn, int reason) noexcept nogil:
    # Nobody waits for an answer.
    atomic.tally(&loop.reasons[reason], 1)
    log_conn(loop, LOG_DEBUG, conn, reason)
    conn_linger(loop, conn)


cdef void conn_check_rate(Loop *loop, Conn *conn, int reason) noexcept nogil:
    # HTTP.sys EntityBody and MinSendRate in one: in each period at least rate x period bytes must
    # have moved, so a client that dribbles a byte now and then is caught like one that stands
    # still.
    cdef const Settings *settings = &loop.core.settings
    cdef int64_t least = settings.min_send_rate * (settings.entity_timeout_ns // 1000000) // 1000
    cdef int64_t moved = <int64_t> (conn_progress(conn) - conn.since_bytes)
    cdef bint may_stand = reason == REASON_TIMER_MIN_SEND_RATE and settings.min_send_rate == 0
    if may_stand or (moved > 0 and moved >= least):
        conn_start_timer(loop, conn, settings.entity_timeout_ns)
    elif conn.exchange != NULL:
        exchange_refuse(loop, conn.exchange, reason)
    else:
        atomic.tally(&loop.reasons[reason], 1)
        log_conn(loop, LOG_INFO, conn, reason)
        conn_reset(loop, conn)


cdef uint64_t conn_progress(const Conn *conn) noexcept nogil:
    # What the client has sent, or of what we send: taken. The socket takes megabytes ahead and then
    # nothing until a third of them has gone, so its own progress says little about a slow client.
    cdef int waiting = 0
    if conn.is_slow:
        linux.ioctl(conn.fd, SIOCOUTQ, &waiting)
    return conn.total_bytes - <uint64_t> waiting


# --- refusals -------------------------------------------------------------------------------------

cdef void conn_refuse(Loop *loop, Conn *conn, int reason) noexcept nogil:
    # A refusal before there is an exchange, or instead of one: answered and closed.
    log_conn(loop, LOG_INFO, conn, reason)
    conn_refuse_logged(loop, conn, reason, False)


cdef void conn_refuse_logged(Loop *loop, Conn *conn, int reason, bint is_head) noexcept nogil:
    cdef Exchange *exchange = conn.exchange
    if exchange != NULL:
        conn.exchange = NULL
        exchange.is_refused = True
        exchange_leave(loop, exchange)
    else:
        atomic.tally(&loop.counters[COUNT_REQUESTS], 1)
    atomic.tally(&loop.reasons[reason], 1)
    atomic.tally(&loop.counters[COUNT_REFUSED], 1)
    conn.is_last = True
    if reasons[reason].status == 0:
        conn_linger(loop, conn)
    else:
        answer_with_text(loop, conn, is_head, True, reasons[reason].status, reasons[reason].text)


cdef void answer_with_text(Loop *loop, Conn *conn, bint is_head, bint is_11, uint32_t status,
                           const char *text) noexcept nogil:
    # A short answer of the core's own, then the next request or the close.
    cdef uint8_t *at = loop.head_out
    cdef const char *phrase = status_phrase(status)
    cdef size_t text_bytes = strlen(text), phrase_bytes = strlen(phrase)
    cdef iovec part
    at = status_line_put(at, status, NULL, 0)
    at = text_put(at, b"\r\nContent-Type: text/plain; charset=utf-8\r\n", 43)
    at = server_and_date_put(loop, at, False, False)
    at = text_put(at, b"Content-Length: ", 16)
    at = number_put(at, text_bytes + phrase_bytes + 7)
    at = text_put(at, b"\r\n", 2)
    if status == 503:
        at = text_put(at, b"Retry-After: 1\r\n", 16)
    at = connection_put(loop, at, is_11, conn.is_last)
    at = text_put(at, b"\r\n", 2)
    if not is_head:
        at = number_put(at, status)
        at = text_put(at, b" ", 1)
        at = text_put(at, phrase, phrase_bytes)
        at = text_put(at, b"\n", 1)
        at = text_put(at, text, text_bytes)
        at = text_put(at, b".\n", 2)
    part.iov_base = loop.head_out
    part.iov_len = at - loop.head_out
    if conn.exchange != NULL:
        conn.exchange.head_sent = True
    conn_send(loop, conn, &part, 1)
    conn_on_response_sent(loop, conn)
