# The response cache as a request meets it: look-up, and answers from what is stored.
#
# Rules
#  1. A look-up takes no lock and allocates nothing; it comes before there is an exchange. An entry
#     that store_find() gave is good until the end of the turn; what is sent longer is pinned.
#  2. What a stored response says was checked when it was stored; here it is only put together.
#  3. Answers to pipelined requests collect in loop.batch and leave in one send (conn_advance).
#
# Theory of operation
#  cache_look_up() answers, or leaves a Ticket that says what the request may do: nothing with the
#  cache, store its response (alone), or ask for a response that others may wait for (cache_ask() in
#  cache_fill.pxi). A small answer is one copy of the stored head, a few fields of the moment, and
#  the content. A larger one is one sendmsg() from the store; only if the socket does not take all
#  of it is there an exchange, which pins the entry and goes on when the socket is writable.

cdef enum:
    ENTRY_COPIED_MAX = 16384       # content up to this is copied behind its head
    ENTRY_HEAD_ROOM = 1024         # for the fields of the moment
    MULTIPART_BYTES_MAX = 1 << 20  # of all parts together; beyond, Range is ignored
    PART_HEAD_MAX = 512            # without Content-Type
    BOUNDARY_BYTES = 16
    ENTRY_PARTS = 16               # pieces of one sendmsg()

cdef enum:                         # Ticket.plan
    PLAN_NONE = 0                  # the cache has nothing to do with it
    PLAN_ALONE = 1                 # its response may be stored
    PLAN_ASK = 2                   # others may wait for it, or it for others
    PLAN_VALIDATE = 3              # wants to hear from the application itself: nobody shares it
    PLAN_REFUSE = 4                # only-if-cached

cdef struct Ticket:                # what is known of a request before it has an exchange
    Route route
    Span path                      # normalised, in loop.path; empty: not made yet
    uint8_t plan
    uint8_t word                   # CACHED_*
    bint is_behind                 # was answered, stale; to be revalidated in the background
    uint64_t hash
    uint64_t serial
    uint32_t key_bytes             # in loop.key

cdef struct Answer:                # what is to be put together of an entry
    Entry *entry
    uint64_t age_s
    uint32_t status
    uint8_t word
    bint is_head
    bint is_11
    int64_t length                 # of the content; -1: not known
    Span own_lines                 # what only the first client gets (Fill.own_lines)
    uint8_t framing
    uint32_t range_count
    ByteRange ranges[RANGES_MAX]


# --- look-up --------------------------------------------------------------------------------------

cdef inline bint cache_concerns(const Loop *loop, const RequestHead *head) noexcept nogil:
    return (loop.core.settings.cache_mode != CACHE_OFF
            and (head.method_id == METHOD_GET or head.method_id == METHOD_HEAD)
            and not head.is_chunked and head.content_length <= 0 and not head.has_upgrade)


cdef inline uint64_t entry_age_s(const Loop *loop, const Entry *entry) noexcept nogil:
    # RFC 9111 §4.2.3: current_age. Another loop may have stored it since our turn began.
    if loop.now_ns <= entry.received_ns:
        return entry.age_s
    return entry.age_s + (loop.now_ns - entry.received_ns) // 1000000000


cdef inline uint32_t loop_seconds(const Loop *loop) noexcept nogil:
    return <uint32_t> (loop.now_ns // 1000000000)


cdef inline Span entry_etag(const Entry *entry) noexcept nogil:
    return span_of(entry_head(entry) + entry.etag_at, entry.etag_bytes)


cdef inline int64_t wall_seconds() noexcept nogil:
    return <int64_t> (linux.wall_ns() // 1000000000)


cdef bint cache_look_up(Loop *loop, Conn *conn, const uint8_t *at, const RequestHead *head,
                        Ticket *ticket) noexcept nogil:
    # True: answered from the store.
    cdef FieldView view
    cdef RequestFacts facts
    cdef bint is_trusted = True
    cdef Entry *entry
    view.at = at
    view.lines = head.fields
    view.count = head.field_count
    cache_facts(head, &view, &facts)
    ticket.word = CACHED_BYPASS
    if (facts.is_odd or facts.has_preconditions or facts.directives.seen & SAYS_NO_STORE
            or not cache_key(loop, conn, at, head, ticket, &is_trusted)):
        atomic.tally(&loop.counters[COUNT_CACHE_BYPASSED], 1)
        return False
    if not is_trusted:
        view_without_forwarding(loop, &view)
    ticket.serial = store_serial(&loop.core.store, ticket.hash)
    entry = store_find(&loop.core.store, ticket.route.application, loop.key, ticket.key_bytes,
                       ticket.hash, &view, loop_seconds(loop))
    if entry != NULL and entry_may_answer(loop, entry, &facts, is_trusted, ticket):
        hit_answer(loop, conn, at, head, &facts, entry, ticket)
        return True
    cache_plan(loop, head, &facts, entry, is_trusted, ticket)
    return False


cdef void view_without_forwarding(Loop *loop, FieldView *view) noexcept nogil:
    # The fields as the application would see them: a stranger's word about the client is dropped.
    cdef uint32_t index, count = 0
    for index in range(view.count):
        if not field_is_forwarding(&view.lines[index], view.at):
            loop.view[count] = view.lines[index]
            count += 1
    view.lines = loop.view
    view.count = count


cdef inline void cache_facts(const RequestHead *head, const FieldView *view,
                             RequestFacts *facts) noexcept nogil:
    # Most requests say nothing of caches: one look at the fields seen tells.
    if head.seen & CACHE_FIELDS:
        request_facts_read(view, wall_seconds(), facts)
    else:
        memset(facts, 0, sizeof(RequestFacts))


cdef bint cache_key(Loop *loop, Conn *conn, const uint8_t *at, const RequestHead *head,
                    Ticket *ticket, bint *is_trusted) noexcept nogil:
    # Writes the key into loop.key. False: it has none.
    cdef ForwardedResult forwarded
    cdef Span host = head.host
    cdef uint8_t extra[EXTRA_MAX]
    cdef uint8_t *extra_end = extra
    cdef bint is_https = False
    cdef size_t bytes
    if head.has_forwarding:
        forwarded_resolve(head, at, conn.remote_address, conn_address_bytes(conn),
                          loop.core.trusted, &forwarded)
        is_trusted[0] = forwarded.is_trusted
        if forwarded.is_trusted:
            is_https = forwarded.scheme == SCHEME_HTTPS
            if forwarded.host.bytes:
                host = forwarded.host
            extra_end = head_extra_put(extra, at, head)
            if extra_end == NULL:
                return False
    bytes = cache_key_put(loop.key, CACHE_KEY_MAX, is_https, host, head.path, head.query,
                          head.has_query, span_of(extra, extra_end - extra))
    if bytes == CACHE_KEY_NONE:
        return False
    ticket.key_bytes = <uint32_t> bytes
    ticket.hash = store_hash(&loop.core.store, ticket.route.application, loop.key, bytes)
    return True


cdef bint entry_may_answer(Loop *loop, Entry *entry, const RequestFacts *facts, bint is_trusted,
                           Ticket *ticket) noexcept nogil:
    # is_trusted: whether the request may fill an entry, and so have one revalidated.
    cdef uint64_t age_s = entry_age_s(loop, entry)
    cdef int reuse = reuse_decide(&entry.facts, facts, age_s)
    ticket.word = CACHED_HIT
    if reuse == REUSE_FRESH:
        return True
    ticket.word = CACHED_STALE
    if reuse == REUSE_WHILE_REVALIDATE:
        ticket.is_behind = is_trusted
        return True
    if reuse == REUSE_STALE:
        return True
    return (reuse == REUSE_REVALIDATE and stale_is_allowed_on_error(&entry.facts, facts, age_s)
            and not pool_is_serving(<const Pool *> ticket.route.pool))


cdef inline bint pool_is_serving(const Pool *pool) noexcept nogil:
    return atomic.load_relaxed_u8(&pool.is_serving) != 0  # relaxed: a moment ago


cdef inline bint request_looks_private(const Loop *loop, const RequestHead *head) noexcept nogil:
    # With CACHE_PUBLIC nobody waits because of an application that never thought of a cache: a page
    # of which nothing is known, asked for with a cookie, is most often one client's own.
    return (loop.core.settings.cache_mode == CACHE_PUBLIC
            and head.seen & field_bit(FIELD_COOKIE) != 0)


cdef void cache_plan(Loop *loop, const RequestHead *head, const RequestFacts *facts,
                     const Entry *entry, bint is_trusted, Ticket *ticket) noexcept nogil:
    # What a request may do that the store could not answer.
    cdef bint is_reload = facts.directives.seen & (SAYS_NO_CACHE | SAYS_MAX_AGE
                                                   | SAYS_MIN_FRESH) != 0
    cdef bint is_special = (is_reload or facts.range.at != NULL
                            or (facts.has_authorization and entry == NULL))
    atomic.tally(&loop.counters[COUNT_CACHE_MISSES], 1)
    ticket.word = CACHED_MISS
    if entry != NULL:
        ticket.word = CACHED_MISS_REQUEST if is_reload else CACHED_MISS_STALE
    elif loop.core.settings.cache_status and store_has_variants(
            &loop.core.store, ticket.route.application, loop.key, ticket.key_bytes,
            ticket.hash):
        ticket.word = CACHED_MISS_VARY
    if facts.directives.seen & SAYS_ONLY_IF_CACHED:
        ticket.plan = PLAN_REFUSE
    elif not is_trusted or head.method_id != METHOD_GET:
        ticket.plan = PLAN_NONE
    elif is_reload and entry != NULL and entry_has_validator(entry) and facts.range.at == NULL:
        ticket.plan = PLAN_VALIDATE
    elif is_special:
        ticket.plan = PLAN_ALONE
    elif entry == NULL and (facts.if_none_match.at != NULL or facts.if_modified_since.at != NULL
                            or request_looks_private(loop, head)
                            or hit_for_miss(&loop.core.store, ticket.hash, loop_seconds(loop))):
        ticket.plan = PLAN_ALONE
    else:
        ticket.plan = PLAN_ASK


# --- answers --------------------------------------------------------------------------------------

cdef void answer_choose(Answer *answer, const RequestFacts *facts) noexcept nogil:
    # Status, ranges and length of the answer that this request gets of an entry that is whole.
    cdef Entry *entry = answer.entry
    cdef uint64_t bytes = body_filled(entry.body)
    cdef int outcome
    answer.range_count = 0
    answer.framing = FRAMING_LENGTH
    answer.length = <int64_t> bytes
    answer.status = condition_status(
        facts, entry_etag(entry), entry.modified_s if entry.modified_s >= 0 else entry.date_s,
        entry.status)
    if answer.status == 304 or answer.status == 204:
        answer.framing = FRAMING_NONE
        answer.length = -1
    elif facts.range.at != NULL and entry.status == 200 and not answer.is_head:
        outcome = ranges_read(facts, entry_etag(entry), entry.modified_s, entry.date_s, bytes,
                              answer.ranges, &answer.range_count)
        if outcome == RANGES_UNSATISFIABLE:
            answer.status = 416
            answer.length = 0
        elif outcome == RANGES_SOME and multipart_fits(answer):
            answer.status = 206
            answer.length = <int64_t> answer_ranges_bytes(answer)
        else:
            answer.range_count = 0


cdef bint multipart_fits(const Answer *answer) noexcept nogil:
    cdef uint64_t bytes = 0
    cdef uint32_t index
    if answer.range_count <= 1:
        return True
    for index in range(answer.range_count):
        bytes += answer.ranges[index].bytes
    return bytes <= MULTIPART_BYTES_MAX


cdef uint64_t answer_ranges_bytes(const Answer *answer) noexcept nogil:
    # The content of a 206: one range, or all parts with their heads.
    cdef uint8_t room[PART_HEAD_MAX + 1024]
    cdef uint64_t bytes = 0
    cdef uint32_t index
    if answer.range_count == 1:
        return answer.ranges[0].bytes
    for index in range(answer.range_count):
        bytes += <uint64_t> (part_head_put(room, answer, index) - room) + answer.ranges[index].bytes
    return bytes + BOUNDARY_BYTES + 8


cdef uint8_t *boundary_put(uint8_t *at, const Entry *entry) noexcept nogil:
    # Derived from the store's secret and the entry, so that no content can know it beforehand.
    cdef uint64_t number = entry.hash ^ entry.received_ns
    cdef int shift
    for shift in range(60, -4, -4):
        at[0] = <uint8_t> HEX_DIGITS[(number >> shift) & 15]
        at += 1
    return at


cdef uint8_t *content_range_put(uint8_t *at, const ByteRange *part, uint64_t total) noexcept nogil:
    at = text_put(at, b"Content-Range: bytes ", 21)
    at = number_put(at, part.first)
    at = text_put(at, b"-", 1)
    at = number_put(at, part.first + part.bytes - 1)
    at = text_put(at, b"/", 1)
    at = number_put(at, total)
    return text_put(at, b"\r\n", 2)


cdef uint8_t *part_head_put(uint8_t *at, const Answer *answer, uint32_t index) noexcept nogil:
    # RFC 9110 §14.6: each part says its own type and range.
    cdef const Entry *entry = answer.entry
    cdef Span line = head_line_find(entry, b"content-type", 12)
    at = text_put(at, b"\r\n--", 4)
    at = boundary_put(at, entry)
    at = text_put(at, b"\r\n", 2)
    if 0 < line.bytes <= 1000:
        at = span_put(at, line)
    at = content_range_put(at, &answer.ranges[index], body_filled(entry.body))
    return text_put(at, b"\r\n", 2)


cdef Span head_line_find(const Entry *entry, const char *name, size_t bytes) noexcept nogil:
    # The first field line of that name (in lower case) with its CR LF; empty: there is none.
    cdef const uint8_t *at = entry_head(entry) + entry.status_line_bytes
    cdef const uint8_t *end = entry_head(entry) + entry.head_bytes
    cdef const uint8_t *line_end
    while at < end:
        line_end = <const uint8_t *> memchr(at, 10, end - at)
        if line_end == NULL:
            break
        if (<size_t> (line_end - at) > bytes and at[bytes] == 58
                and span_is_nocase(span_of(at, bytes), name, bytes)):
            return span_of(at, line_end + 1 - at)
        at = line_end + 1
    return span_of(end, 0)


cdef uint8_t *answer_head_put(Loop *loop, const Conn *conn, uint8_t *at,
                              const Answer *answer) noexcept nogil:
    cdef const Entry *entry = answer.entry
    cdef const uint8_t *head = entry_head(entry)
    cdef const uint8_t *lines = head + entry.status_line_bytes
    cdef Span line
    if answer.status == entry.status:
        at = text_put(at, <const char *> head, entry.head_bytes)
    else:
        at = status_line_put(at, answer.status, NULL, 0)
        at = text_put(at, b"\r\n", 2)
        if answer.status == 304:
            at = text_put(at, <const char *> lines, entry.head_304_bytes)
        elif answer.status == 416:
            at = server_and_date_put(loop, at, False, False)
            at = text_put(at, b"Content-Range: bytes */", 23)
            at = number_put(at, body_filled(entry.body))
            at = text_put(at, b"\r\n", 2)
        elif answer.range_count == 1:
            at = text_put(at, <const char *> lines, entry.head_bytes - entry.status_line_bytes)
            at = content_range_put(at, &answer.ranges[0], body_filled(entry.body))
        else:
            line = head_line_find(entry, b"content-type", 12)
            at = text_put(at, <const char *> lines, line.at - lines)
            at = text_put(at, <const char *> line.at + line.bytes,
                          head + entry.head_bytes - line.at - line.bytes)
            at = text_put(at, b"Content-Type: multipart/byteranges; boundary=", 45)
            at = boundary_put(at, entry)
            at = text_put(at, b"\r\n", 2)
    return answer_moment_put(loop, conn, at, answer)


cdef uint8_t *answer_moment_put(Loop *loop, const Conn *conn, uint8_t *at,
                                const Answer *answer) noexcept nogil:
    # What belongs to this answer and not to the stored response.
    if (answer.age_s or answer.word == CACHED_HIT or answer.word == CACHED_STALE
            or answer.word == CACHED_STALE_ON_ERROR):
        at = text_put(at, b"Age: ", 5)
        at = number_put(at, answer.age_s if answer.age_s < DELTA_MAX else <uint64_t> DELTA_MAX)
        at = text_put(at, b"\r\n", 2)
    at = span_put(at, answer.own_lines)
    if answer.framing == FRAMING_CHUNKED:
        at = text_put(at, b"Transfer-Encoding: chunked\r\n", 28)
    elif answer.length >= 0:
        at = text_put(at, b"Content-Length: ", 16)
        at = number_put(at, <uint64_t> answer.length)
        at = text_put(at, b"\r\n", 2)
    if loop.core.settings.cache_status:
        at = cache_status_put(at, answer.word, answer.entry, answer.age_s)
    at = connection_put(loop, at, answer.is_11, conn.is_last)
    return text_put(at, b"\r\n", 2)


cdef uint8_t *cache_status_put(uint8_t *at, uint8_t word, const Entry *entry,
                               uint64_t age_s) noexcept nogil:
    # RFC 9211. entry: what it was answered from or is stored as; NULL: nothing.
    cdef int64_t ttl = 0
    at = text_put(at, b"Cache-Status: kernelq", 21)
    if word == CACHED_HIT or word == CACHED_STALE:
        at = text_put(at, b"; hit", 5)
    elif word == CACHED_BYPASS:
        at = text_put(at, b"; fwd=bypass", 12)
    elif word == CACHED_REVALIDATED:
        at = text_put(at, b"; fwd=stale; fwd-status=304", 27)
    elif word == CACHED_METHOD:
        at = text_put(at, b"; fwd=method", 12)
    elif word == CACHED_STALE_ON_ERROR:
        at = text_put(at, b"; fwd=stale; detail=error", 25)
    else:
        if word == CACHED_MISS_STALE:
            at = text_put(at, b"; fwd=stale", 11)
        elif word == CACHED_MISS_REQUEST:
            at = text_put(at, b"; fwd=request", 13)
        elif word == CACHED_MISS_VARY:
            at = text_put(at, b"; fwd=vary-miss", 15)
        else:
            at = text_put(at, b"; fwd=uri-miss", 14)
        if entry != NULL and entry.body.length >= 0:  # else it may turn out to be too long
            at = text_put(at, b"; stored", 8)
        if word == CACHED_COLLAPSED:
            at = text_put(at, b"; collapsed", 11)
    if entry != NULL:
        ttl = <int64_t> entry.facts.lifetime_s - <int64_t> age_s
        at = text_put(at, b"; ttl=-", 7 if ttl < 0 else 6)
        at = number_put(at, <uint64_t> (-ttl if ttl < 0 else ttl))
    return text_put(at, b"\r\n", 2)


# --- sending --------------------------------------------------------------------------------------

cdef void batch_flush(Loop *loop, Conn *conn) noexcept nogil:
    # What is collected belongs to the connection that is just advancing (conn_advance).
    cdef iovec part
    part.iov_base = loop.batch
    part.iov_len = loop.batch_bytes
    loop.batch_bytes = 0
    conn_send(loop, conn, &part, 1)


cdef void hit_answer(Loop *loop, Conn *conn, const uint8_t *at, const RequestHead *head,
                     const RequestFacts *facts, Entry *entry, Ticket *ticket) noexcept nogil:
    # A request that has no exchange yet.
    cdef Answer answer
    cdef uint64_t total
    cdef uint8_t *out
    answer.entry = entry
    answer.own_lines = span_of(NULL, 0)
    answer.age_s = entry_age_s(loop, entry)
    answer.word = ticket.word
    answer.is_head = head.method_id == METHOD_HEAD
    answer.is_11 = head.version_minor == 1
    answer_choose(&answer, facts)
    if (not head.is_persistent or not loop.core.settings.keep_alive
            or conn_is_leaving(loop, conn)):
        conn.is_last = True
    atomic.tally(&loop.counters[COUNT_CACHE_HITS], 1)
    if ticket.word == CACHED_STALE:
        atomic.tally(&loop.counters[COUNT_CACHE_STALE], 1)
    atomic.tally(&loop.counters[COUNT_ANSWERED], 1)
    total = <uint64_t> answer.length if answer.length > 0 and not answer.is_head else 0
    if total > ENTRY_COPIED_MAX or answer.range_count > 1 or entry.head_bytes > ENTRY_COPIED_MAX:
        hit_answer_large(loop, conn, at, head, &answer, total)
        return
    if loop.batch_bytes + entry.head_bytes + ENTRY_HEAD_ROOM + total > BATCH_BYTES:
        batch_flush(loop, conn)
    out = answer_head_put(loop, conn, loop.batch + loop.batch_bytes, &answer)
    out = entry_copy(out, &answer, total)
    total = <uint64_t> (out - loop.batch) - loop.batch_bytes
    loop.batch_bytes = <uint32_t> (out - loop.batch)
    log_hit(loop, conn, at, head, &answer, total)
    hit_finish(loop, conn)


cdef uint8_t *entry_copy(uint8_t *out, const Answer *answer, uint64_t bytes) noexcept nogil:
    cdef uint64_t offset = answer.ranges[0].first if answer.range_count == 1 else 0
    cdef uint64_t run = 0
    cdef const uint8_t *from_
    while bytes:
        from_ = body_at(answer.entry.body, offset, &run)
        run = min(run, bytes)
        out = text_put(out, <const char *> from_, run)
        offset += run
        bytes -= run
    return out


cdef void hit_finish(Loop *loop, Conn *conn) noexcept nogil:
    # Between messages, as conn_finish(); what was collected leaves when the input is used up.
    if conn.is_broken:
        return
    if conn.is_last or conn.out_bytes:
        if loop.batch_bytes:
            batch_flush(loop, conn)
        conn_on_response_sent(loop, conn)
        return
    conn_start_timer(loop, conn, loop.core.settings.idle_timeout_ns)


cdef void hit_answer_large(Loop *loop, Conn *conn, const uint8_t *at, const RequestHead *head,
                           Answer *answer, uint64_t total) noexcept nogil:
    # Straight from the store; what the socket does not take now is an exchange's business.
    cdef iovec parts[ENTRY_PARTS]
    cdef msghdr message
    cdef uint64_t head_bytes, offset = 0, sent_bytes
    cdef ssize_t sent = 0
    if loop.batch_bytes:
        batch_flush(loop, conn)
    head_bytes = <uint64_t> (answer_head_put(loop, conn, loop.head_out, answer) - loop.head_out)
    log_hit(loop, conn, at, head, answer, head_bytes + total)
    if answer.range_count > 1:
        multipart_send(loop, conn, answer, head_bytes)
        hit_finish(loop, conn)
        return
    if answer.range_count == 1:
        offset = answer.ranges[0].first
    if conn.out_bytes == 0 and conn.can_write and not conn.is_broken:
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        message.msg_iovlen = entry_gather(loop, answer.entry, head_bytes, offset, total, parts)
        sent = linux.sendmsg(conn.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0 and linux.errno != EAGAIN and linux.errno != EINTR:
            conn_break(loop, conn)
            return
        sent = max(sent, 0)
        conn_sent(loop, conn, <uint64_t> sent)
    sent_bytes = <uint64_t> sent
    loop.turn_bytes += sent_bytes
    if sent_bytes == head_bytes + total:
        hit_finish(loop, conn)
    else:
        hit_go_on(loop, conn, answer, head_bytes, offset, total, sent_bytes)


cdef size_t entry_gather(Loop *loop, Entry *entry, uint64_t head_bytes, uint64_t offset,
                         uint64_t bytes, iovec *parts) noexcept nogil:
    cdef size_t count = 1
    cdef uint64_t run = 0
    parts[0].iov_base = loop.head_out
    parts[0].iov_len = head_bytes
    while bytes and count < ENTRY_PARTS:
        parts[count].iov_base = <void *> body_at(entry.body, offset, &run)
        run = min(run, bytes)
        parts[count].iov_len = run
        offset += run
        bytes -= run
        count += 1
    return count


cdef void hit_go_on(Loop *loop, Conn *conn, const Answer *answer, uint64_t head_bytes,
                    uint64_t offset, uint64_t total, uint64_t sent) noexcept nogil:
    # The socket is full, or there are more pieces than one call takes: an exchange carries the
    # rest. It was logged already; whether it counts as answered shows at its end.
    cdef Exchange *exchange = exchange_new(loop, conn)
    if exchange == NULL:
        conn_break(loop, conn)
        return
    conn.exchange = exchange
    conn.state = CONN_WAIT
    atomic.tally(&loop.counters[COUNT_ANSWERED], <uint64_t> -1)
    exchange.content_is_whole = True
    exchange.is_11 = answer.is_11
    exchange.head_sent = True
    exchange.status = <uint16_t> answer.status
    exchange.framing = FRAMING_LENGTH
    exchange_pin(exchange, answer.entry)
    if sent < head_bytes:
        conn_keep(loop, conn, loop.head_out + sent, head_bytes - sent)
        sent = head_bytes
    exchange.body_at = offset + (sent - head_bytes)
    exchange.body_end = offset + total
    response_send_body(loop, exchange)


cdef void multipart_send(Loop *loop, Conn *conn, const Answer *answer,
                         uint64_t head_bytes) noexcept nogil:
    # Several ranges; small enough to be copied (multipart_fits).
    cdef uint8_t room[PART_HEAD_MAX + 1024]
    cdef iovec part
    cdef uint32_t index
    cdef uint64_t offset, left, run = 0
    part.iov_base = loop.head_out
    part.iov_len = head_bytes
    conn_send(loop, conn, &part, 1)
    for index in range(answer.range_count):
        part.iov_base = room
        part.iov_len = part_head_put(room, answer, index) - room
        conn_send(loop, conn, &part, 1)
        offset = answer.ranges[index].first
        left = answer.ranges[index].bytes
        while left:
            part.iov_base = <void *> body_at(answer.entry.body, offset, &run)
            run = min(run, left)
            part.iov_len = run
            conn_send(loop, conn, &part, 1)
            offset += run
            left -= run
    part.iov_base = room
    part.iov_len = text_put(boundary_put(text_put(room, b"\r\n--", 4), answer.entry), b"--\r\n",
                            4) - room
    conn_send(loop, conn, &part, 1)


cdef inline void exchange_pin(Exchange *exchange, Entry *entry) noexcept nogil:
    # The body apart: another one may take its place in the entry when it is whole (fill_finish).
    exchange.entry = entry
    exchange.body = entry.body
    entry_pin(entry)
    body_pin(entry.body)


cdef inline void exchange_unpin(Core_ *core, Exchange *exchange) noexcept nogil:
    if exchange.entry != NULL:
        entry_unpin(&core.store, exchange.entry)
        body_unpin(&core.store, exchange.body)
        exchange.entry = NULL


# --- an exchange that is answered from the store --------------------------------------------------

cdef void exchange_answer(Loop *loop, Exchange *exchange, Entry *entry, uint8_t word,
                          Span own_lines) noexcept nogil:
    # It waited, or is a request of its own right; the entry is whole.
    cdef Answer answer
    cdef RequestFacts facts
    cdef FieldView view
    if exchange.has_asked_itself:
        memset(&facts, 0, sizeof(facts))
    else:
        image_view(loop, exchange, &view)
        request_facts_read(&view, wall_seconds(), &facts)
    answer.entry = entry
    answer.age_s = entry_age_s(loop, entry)
    answer.word = word
    answer.is_head = exchange.is_head
    answer.is_11 = exchange.is_11
    answer.own_lines = own_lines
    answer_choose(&answer, &facts)
    exchange_answer_begin(loop, exchange, &answer)


cdef void exchange_answer_begin(Loop *loop, Exchange *exchange,
                                const Answer *answer) noexcept nogil:
    # Head, and from then on response_send_body().
    cdef Conn *conn = exchange.conn
    cdef iovec part
    exchange.status = <uint16_t> answer.status
    exchange.cache_word = answer.word
    exchange.framing = answer.framing
    exchange.response_left = 0
    response_settle_persistence(loop, conn, exchange)
    part.iov_base = loop.head_out
    part.iov_len = answer_head_put(loop, conn, loop.head_out, answer) - loop.head_out
    exchange.head_sent = True
    exchange_pin(exchange, answer.entry)
    if answer.range_count > 1:
        multipart_send(loop, conn, answer, part.iov_len)
    elif not exchange.is_following:
        if answer.range_count == 1:
            exchange.body_at = answer.ranges[0].first
        exchange.body_end = exchange.body_at
        if answer.length > 0 and not answer.is_head:
            exchange.body_end += <uint64_t> answer.length
        entry_send_first(loop, exchange, &part)
    else:
        conn_send(loop, conn, &part, 1)
    response_send_body(loop, exchange)


cdef void entry_send_first(Loop *loop, Exchange *exchange, iovec *head) noexcept nogil:
    # The head, with the content behind it if that is small.
    cdef uint64_t bytes = exchange.body_end - exchange.body_at
    cdef uint64_t run = 0
    cdef const uint8_t *from_
    if 0 < bytes <= SMALL_CONTENT_BYTES:
        from_ = body_at(exchange.body, exchange.body_at, &run)
        if run >= bytes:
            memcpy(<uint8_t *> head.iov_base + head.iov_len, from_, bytes)
            head.iov_len += bytes
            exchange.body_at += bytes
    conn_send(loop, exchange.conn, head, 1)


cdef void response_send_body(Loop *loop, Exchange *exchange) noexcept nogil:
    # As much of the entry's content as there is and the socket takes; conn_on_drained() and
    # fill_run_side() come back.
    cdef Conn *conn = exchange.conn
    cdef Body *body = exchange.body
    cdef uint64_t end, run = 0
    cdef const uint8_t *from_
    while conn.out_bytes == 0 and conn.can_write and not conn.is_broken:
        end = body_filled(body) if exchange.is_following else exchange.body_end
        if exchange.body_at >= end:
            break
        from_ = body_at(body, exchange.body_at, &run)
        run = min(run, end - exchange.body_at)
        if not body_send(loop, exchange, from_, run):
            return
        if loop.turn_bytes > TURN_BYTES:
            conn_again(loop, conn)
            return
    if exchange.is_following or conn.is_broken:
        return
    if exchange.body_at < exchange.body_end:
        conn_watch_sending(loop, conn)
        return
    response_end(loop, exchange)


cdef bint body_send(Loop *loop, Exchange *exchange, const uint8_t *at,
                    uint64_t bytes) noexcept nogil:
    # False: the connection is done for.
    cdef Conn *conn = exchange.conn
    cdef iovec part
    cdef ssize_t sent
    if exchange.framing == FRAMING_CHUNKED:
        part.iov_base = <void *> at
        part.iov_len = min(bytes, <uint64_t> SCRATCH_BYTES)
        exchange.body_at += part.iov_len
        loop.turn_bytes += part.iov_len
        reader_put(loop, exchange, &part)
        return not conn.is_broken
    sent = linux.send(conn.fd, at, min(bytes, <uint64_t> FILE_BYTES_PER_CALL),
                      MSG_DONTWAIT | MSG_NOSIGNAL)
    if sent < 0:
        if linux.errno == EAGAIN:
            conn.can_write = False
        elif linux.errno != EINTR:
            conn_break(loop, conn)
            return False
        return True
    exchange.body_at += <uint64_t> sent
    loop.turn_bytes += <uint64_t> sent
    conn_sent(loop, conn, <uint64_t> sent)
    return True
