# An exchange: from a parsed head to a REQUEST record, its content, and the ways it can end.
#
# Rules
#  1. An exchange is freed when nothing names it: exchange_is_held() is the whole list.
#  2. What a record says is fixed when the head is complete; only content_length is patched, for
#     chunked content that is held whole (its applications see a length, never the chunks).
#  3. Every refusal goes through exchange_refuse(): one reason, one log line, one counter, one
#     answer.

cdef enum:
    SPILL_GROW_BYTES = 4096        # first allocation for held content of unknown length
    RETRY_NS = 1000000             # a worker's ring was full of other requests: look again after


cdef Exchange *exchange_new(Loop *loop, Conn *conn) noexcept nogil:
    cdef Exchange *exchange = loop.spare_exchanges
    if exchange != NULL:
        loop.spare_exchanges = exchange.next
        loop.spare_count -= 1
    else:
        exchange = <Exchange *> malloc(sizeof(Exchange))
        if exchange == NULL:
            return NULL
    memset(exchange, 0, offsetof_image_inline)
    exchange.conn = conn
    exchange.loop = loop.index
    exchange.spill_fd = -1
    exchange.file_fd = -1
    exchange.content_length = -1
    exchange.arrived_ns = loop.now_ns
    loop.exchange_count += 1
    atomic.tally(&loop.counters[COUNT_EXCHANGES_NOW], 1)
    return exchange


cdef bint exchange_is_held(const Exchange *exchange) noexcept nogil:
    return (exchange.conn != NULL or exchange.worker != NULL or exchange.is_posted
            or exchange.spill_jobs > 0 or exchange.file_is_warming or exchange.file_is_due
            or exchange.state == EXCHANGE_QUEUED)


cdef inline bint exchange_is_wanted(const Exchange *exchange) noexcept nogil:
    # Somebody waits for its response: its client, or those of a fill.
    return exchange.conn != NULL or exchange.is_maker


cdef void exchange_free_unless_held(Loop *loop, Exchange *exchange) noexcept nogil:
    # The connection has let go of it.
    exchange.conn = NULL
    if exchange.file_is_due:
        receiver_unexpect(loop, exchange)
    if not exchange_is_held(exchange):
        exchange_free(loop, exchange)


cdef void exchange_free(Loop *loop, Exchange *exchange) noexcept nogil:
    bug.BUG_ON(exchange_is_held(exchange) or exchange.fill != NULL)
    exchange_drop_content(loop, exchange)
    exchange_unpin(loop.core, exchange)
    fd_discard(loop.core, exchange.file_fd)
    if exchange.pool != NULL:
        exchange_exit(loop, exchange)
    if exchange.image != exchange.image_inline:
        free(exchange.image)
    loop.exchange_count -= 1
    atomic.tally(&loop.counters[COUNT_EXCHANGES_NOW], <uint64_t> -1)
    if loop.spare_count < SPARE_EXCHANGES:
        exchange.next = loop.spare_exchanges
        loop.spare_exchanges = exchange
        loop.spare_count += 1
    else:
        free(exchange)


cdef void exchange_drop_content(Loop *loop, Exchange *exchange) noexcept nogil:
    free(exchange.content)
    exchange.content = NULL
    free(exchange.spill)
    exchange.spill = NULL
    exchange.spill_fd = -1
    if exchange.spill_file != NULL:
        spill_file_free(loop, exchange.spill_file)
        exchange.spill_file = NULL


cdef Worker *exchange_leave(Loop *loop, Exchange *exchange) noexcept nogil:
    # Its client has gone, or was answered in its place: out of the queue, back from a worker that
    # has not started it, and known as orphaned to one that has; gives that one.
    cdef Worker *worker = NULL
    cdef int reason = REASON_CLIENT_RESET
    cdef Worker *executing = NULL
    if exchange.fill != NULL and not exchange.is_maker:
        executing = fill_leave(loop, exchange)
    if exchange.pool != NULL:
        worker = exchange_take_back(loop, exchange)
    if worker != NULL:
        executing = worker
    if exchange.status != 0 or executing != NULL:
        reason = REASON_CONNECTION_DROPPED
    if exchange.conn != NULL and not exchange.is_refused:
        atomic.tally(&loop.reasons[reason], 1)
        log_exchange(loop, LOG_DEBUG, exchange, reason, executing)
    if exchange.pool != NULL:
        arrivals_unlink(loop, exchange)
    exchange.conn = NULL
    if worker != NULL and not exchange.is_told:
        exchange.is_told = True
        lane_tell(loop, worker, RECORD_CLIENT_GONE, 0, exchange.place,
                  worker.places[exchange.place].dispatch, 0)
    exchange_free_unless_held(loop, exchange)
    return executing


cdef Worker *exchange_take_back(Loop *loop, Exchange *exchange) noexcept nogil:
    # Gives the worker that has started it; else NULL, and it is nowhere.
    cdef Pool *pool = exchange.pool
    cdef Worker *worker
    pthread_mutex_lock(&pool.lock)
    worker = exchange.worker
    if exchange.state == EXCHANGE_QUEUED:
        queue_unlink(pool, exchange)
        suspect_release(pool, exchange)
        exchange.state = EXCHANGE_DONE
    elif worker != NULL and place_revoke(loop, worker, exchange.place) != NULL:
        worker = NULL
    pthread_mutex_unlock(&pool.lock)
    return worker


cdef void arrivals_unlink(Loop *loop, Exchange *exchange) noexcept nogil:
    # It may have become complete in this very turn.
    cdef PoolSide *side = &exchange.pool.sides[loop.index]
    cdef Exchange **link = &side.arrivals_first
    cdef Exchange *previous = NULL
    while link[0] != NULL and link[0] != exchange:
        previous = link[0]
        link = &link[0].next
    if link[0] == NULL:
        return
    link[0] = exchange.next
    if side.arrivals_last == exchange:
        side.arrivals_last = previous
    exchange.next = NULL


cdef bint exchange_is_away(Exchange *exchange) noexcept nogil:
    # In a worker's place, or (another loop may have taken it back this very moment) in the queue.
    cdef bint is_away
    if exchange.pool == NULL:
        return False
    pthread_mutex_lock(&exchange.pool.lock)
    is_away = exchange.worker != NULL or exchange.state == EXCHANGE_QUEUED
    pthread_mutex_unlock(&exchange.pool.lock)
    return is_away


cdef void exchange_refuse(Loop *loop, Exchange *exchange, int reason) noexcept nogil:
    # Answers with the reason's status if that is still possible, else breaks off visibly. The
    # connection is kept when the request was whole. The exchange may be freed.
    cdef Conn *conn = exchange.conn
    cdef int status = reasons[reason].status
    cdef bint is_head, is_11
    if exchange.is_maker:
        fill_fail(loop, exchange, reason)
        exchange_leave(loop, exchange)
        return
    if conn == NULL:
        exchange_free_unless_held(loop, exchange)
        return
    if exchange.head_sent or status == 0:
        exchange_abort(loop, exchange, reason)
        return
    if pool_resets(exchange.pool, reason):
        exchange_reset(loop, exchange, reason)
        return
    if exchange.fill != NULL:
        fill_leave(loop, exchange)
    log_exchange(loop, LOG_WARNING if status >= 500 else LOG_INFO, exchange, reason,
                 exchange.worker)
    atomic.tally(&loop.reasons[reason], 1)
    atomic.tally(&loop.counters[COUNT_REFUSED], 1)
    loop.head_out_bytes = 0
    if (not exchange.content_is_whole or exchange.wants_close or not loop.core.settings.keep_alive
            or conn_is_leaving(loop, conn)):
        conn.is_last = True
    exchange.status = <uint16_t> status
    exchange.is_refused = True
    if not exchange_is_away(exchange):
        answer_with_text(loop, conn, exchange.is_head, exchange.is_11, status, reasons[reason].text)
        return
    # It goes on executing; its answer will find nobody.
    is_head = exchange.is_head
    is_11 = exchange.is_11
    log_access(loop, conn, exchange)
    conn.exchange = NULL
    exchange_leave(loop, exchange)
    answer_with_text(loop, conn, is_head, is_11, status, reasons[reason].text)


cdef bint pool_resets(const Pool *pool, int reason) noexcept nogil:
    # A balancer in front that knows TCP only: it goes elsewhere when it is reset.
    if pool == NULL or (reason != REASON_QUEUE_FULL and reason != REASON_APP_OFFLINE
                        and reason != REASON_APP_SHUTDOWN and reason != REASON_DISABLED):
        return False
    return atomic.load_relaxed_u8(&pool.limits.refuses_by_reset) != 0  # relaxed: a setting


cdef void exchange_reset(Loop *loop, Exchange *exchange, int reason) noexcept nogil:
    # In place of its 503.
    cdef Conn *conn = exchange.conn
    log_exchange(loop, LOG_WARNING, exchange, reason, exchange.worker)
    atomic.tally(&loop.reasons[reason], 1)
    atomic.tally(&loop.counters[COUNT_REFUSED], 1)
    conn.exchange = NULL
    exchange.is_refused = True
    exchange.status = STATUS_NONE
    log_access(loop, conn, exchange)
    exchange_leave(loop, exchange)
    conn_reset(loop, conn)


cdef inline bint exchange_owes(const Exchange *exchange) noexcept nogil:
    # Content of a file or of a cached entry that the client has not got.
    return exchange.file_left > 0 or (exchange.entry != NULL and (
        exchange.is_following or exchange.body_at < exchange.body_end))


cdef void exchange_abort(Loop *loop, Exchange *exchange, int reason) noexcept nogil:
    # Response bytes are out (or no answer is possible): what the client has must not look complete,
    # unless it is: then only the worker's END is missing, and the client, which may be sending its
    # next request already, need not know.
    cdef Conn *conn = exchange.conn
    cdef uint8_t framing = exchange.framing
    cdef bint head_sent = exchange.head_sent
    cdef bint is_whole = response_is_whole(exchange) and not exchange_owes(exchange)
    log_exchange(loop, LOG_WARNING, exchange, reason, exchange.worker)
    atomic.tally(&loop.reasons[reason], 1)
    atomic.tally(&loop.counters[COUNT_ANSWERED if is_whole else COUNT_REFUSED], 1)
    conn.is_last = conn.is_last or not is_whole
    conn.exchange = NULL
    exchange.is_refused = True
    if exchange.status == 0:
        exchange.status = STATUS_NONE
    log_access(loop, conn, exchange)
    exchange_leave(loop, exchange)
    if head_sent and framing == FRAMING_CLOSE:
        conn_reset(loop, conn)
    elif reason == REASON_TIMER_MIN_SEND_RATE:
        conn_reset(loop, conn)
    else:
        conn_on_response_sent(loop, conn)


# --- a request ------------------------------------------------------------------------------------

cdef void request_accept(Loop *loop, Conn *conn, const uint8_t *at,
                         RequestHead *head) noexcept nogil:
    # A complete head: an answer from the core, a refusal, or an exchange that receives its content.
    cdef Exchange *exchange
    cdef Ticket ticket
    cdef uint32_t probe = 0
    cdef int reason = REASON_NONE
    memset(&ticket, 0, sizeof(ticket))
    if loop.core.settings.health_path_bytes:
        probe = probe_status(loop, head)
    if probe == 0:
        reason = request_route(loop, conn, at, head, &ticket)
    if probe or reason != REASON_NONE:
        pass
    elif not cache_concerns(loop, head):
        ticket.word = CACHED_METHOD if loop.core.settings.cache_mode != CACHE_OFF else CACHED_NONE
    elif cache_look_up(loop, conn, at, head, &ticket) and not ticket.is_behind:
        return
    exchange = exchange_new(loop, conn)
    if exchange == NULL:
        if not ticket.is_behind:
            conn_refuse(loop, conn, REASON_MEMORY)
        return
    if probe == 0 and reason == REASON_NONE:
        exchange_take_route(loop, exchange, &ticket.route)
    if ticket.is_behind:
        request_repeat(loop, conn, exchange, at, head, &ticket)
        return
    conn.exchange = exchange
    exchange_read_head(loop, exchange, head)
    if not request_has_image(loop, conn, exchange, at, head, &ticket, reason):
        return
    if probe:
        request_answer_probe(loop, conn, exchange, probe)
    elif ticket.plan == PLAN_REFUSE:
        exchange_refuse(loop, exchange, REASON_ONLY_IF_CACHED)
    elif ticket.plan == PLAN_ASK or ticket.plan == PLAN_VALIDATE:
        exchange.is_reload = ticket.plan == PLAN_VALIDATE
        conn.state = CONN_WAIT
        conn_quiet_timer(conn)
        conn_on_half_close(loop, conn)
        cache_ask(loop, exchange, 0)
    else:
        exchange.may_store = ticket.plan == PLAN_ALONE
        request_receive(loop, conn, exchange)


cdef void exchange_read_head(Loop *loop, Exchange *exchange,
                             const RequestHead *head) noexcept nogil:
    exchange.is_11 = head.version_minor == 1
    exchange.is_head = head.method_id == METHOD_HEAD
    exchange.is_idempotent = method_is_idempotent(head.method_id)
    exchange.wants_close = not head.is_persistent
    exchange.expects_continue = head.expects_continue
    exchange.is_chunked = head.is_chunked
    exchange.is_streamed = (loop.core.settings.is_streamed
                            and (head.is_chunked or head.content_length > 0))
    exchange.content_length = (-1 if head.is_chunked
                               else (head.content_length if head.content_length > 0 else 0))
    exchange.content_is_whole = not head.is_chunked and head.content_length <= 0


cdef bint request_has_image(Loop *loop, Conn *conn, Exchange *exchange, const uint8_t *at,
                            RequestHead *head, const Ticket *ticket, int refusal) noexcept nogil:
    # refusal: why it cannot be taken, if that is known already. False: it was refused.
    cdef int reason = request_image(loop, conn, exchange, at, head, ticket)
    if reason == REASON_NONE:
        reason = refusal
    if reason == REASON_NONE and exchange.content_length > 0:
        if <uint64_t> exchange.content_length > loop.core.settings.content_limit:
            reason = REASON_CONTENT_TOO_LARGE
    if reason == REASON_NONE:
        return True
    if exchange.image == NULL:
        log_head(loop, conn, head, reason)
        conn_refuse_logged(loop, conn, reason, exchange.is_head)
        return False
    # Whoever asks for a site that is none of ours need not ask again here.
    conn.is_last = conn.is_last or reason == REASON_HOSTNAME
    exchange_refuse(loop, exchange, reason)
    return False


cdef void request_repeat(Loop *loop, Conn *conn, Exchange *exchange, const uint8_t *at,
                         RequestHead *head, const Ticket *ticket) noexcept nogil:
    # Its client was answered with a stale entry: the same request once more, for the store.
    if request_image(loop, conn, exchange, at, head, ticket) == REASON_NONE:
        cache_revalidate_behind(loop, exchange)
        return
    exchange.conn = NULL
    exchange_free(loop, exchange)


cdef bint method_is_idempotent(uint8_t method_id) noexcept nogil:
    # RFC 9110 §9.2.2.
    return (method_id == METHOD_GET or method_id == METHOD_HEAD or method_id == METHOD_PUT
            or method_id == METHOD_DELETE or method_id == METHOD_OPTIONS
            or method_id == METHOD_TRACE or method_id == METHOD_QUERY)


cdef void request_receive(Loop *loop, Conn *conn, Exchange *exchange) noexcept nogil:
    if exchange.content_is_whole:
        request_complete(loop, conn, exchange)
        return
    conn.state = CONN_CONTENT
    conn_start_timer(loop, conn, loop.core.settings.entity_timeout_ns)
    if exchange.is_chunked:
        chunk_init(&exchange.decoder, &loop.core.limits)
    if exchange.is_streamed:
        arrivals_push(loop, exchange)


cdef void request_say_continue(Loop *loop, Conn *conn, Exchange *exchange) noexcept nogil:
    # RFC 9110 §10.1.1: only when the content is wanted, and not once some of it has arrived by
    # itself.
    cdef iovec part
    if not exchange.expects_continue or exchange.content_received:
        return
    if exchange.is_streamed and not exchange.content_is_wanted:
        return
    exchange.expects_continue = False
    part.iov_base = <void *> CONTINUE_TEXT
    part.iov_len = CONTINUE_BYTES
    conn_send(loop, conn, &part, 1)


cdef void arrivals_push(Loop *loop, Exchange *exchange) noexcept nogil:
    cdef PoolSide *side = &exchange.pool.sides[loop.index]
    exchange.next = NULL
    if side.arrivals_last == NULL:
        side.arrivals_first = exchange
    else:
        side.arrivals_last.next = exchange
    side.arrivals_last = exchange
    pool_due(loop, exchange.pool)


cdef void request_complete(Loop *loop, Conn *conn, Exchange *exchange) noexcept nogil:
    # Whole: to the queue at the end of the turn.
    cdef RequestRecord *record = <RequestRecord *> exchange.image
    exchange.content_is_whole = True
    conn.state = CONN_WAIT
    if exchange.is_streamed:
        content_stream_end(loop, exchange, 0)
        conn_on_half_close(loop, conn)
        return
    record.content_length = <int64_t> exchange.content_received
    if exchange.spill_fd >= 0:
        record.head.flags = FLAG_CONTENT_SPILLED
    elif exchange.content != NULL:
        record.head.flags = FLAG_CONTENT_INLINE
    conn_quiet_timer(conn)
    conn_on_half_close(loop, conn)
    arrivals_push(loop, exchange)


cdef inline void conn_quiet_timer(Conn *conn) noexcept nogil:
    # While a request is with the queue or a worker the connection has no deadline of its own; the
    # node stays in the wheel, where it will be found without one. But a client that does not take
    # what was sent before is still watched.
    if not conn.is_slow:
        conn.timer.deadline_ns = 0


cdef uint32_t probe_status(Loop *loop, const RequestHead *head) noexcept nogil:
    # /live and /ready below the health path, for any host. 0: it is no probe.
    cdef const Settings *settings = &loop.core.settings
    cdef uint32_t prefix = settings.health_path_bytes
    cdef Span rest
    if head.path.bytes <= prefix or memcmp(head.path.at, settings.health_path, prefix) != 0:
        return 0
    rest = span_of(head.path.at + prefix, head.path.bytes - prefix)
    if span_is(rest, b"/ready", 6):
        return 200 if core_is_ready(loop.core) else 503
    return 200 if span_is(rest, b"/live", 5) else 0


cdef void request_answer_probe(Loop *loop, Conn *conn, Exchange *exchange,
                               uint32_t status) noexcept nogil:
    # Its content, if any, is not read: the connection ends.
    if (not exchange.content_is_whole or exchange.wants_close
            or not loop.core.settings.keep_alive or conn_is_leaving(loop, conn)):
        conn.is_last = True
    exchange.status = <uint16_t> status
    answer_with_text(loop, conn, exchange.is_head, exchange.is_11, status,
                     b"ready" if status == 200 else b"not ready")


# --- its record -----------------------------------------------------------------------------------

cdef int request_image(Loop *loop, Conn *conn, Exchange *exchange, const uint8_t *at,
                       RequestHead *head, const Ticket *ticket) noexcept nogil:
    # Writes the REQUEST record into the exchange. Texts follow the fixed part and the field
    # entries; behind them, not for workers, the cache's key.
    cdef ForwardedResult forwarded
    cdef Span host = head.host
    cdef Span client = span_of(&conn.remote[0], conn.remote_bytes)
    cdef RequestRecord *record
    cdef FieldEntry *entries
    cdef uint8_t *text
    cdef size_t path_bytes = 0
    cdef size_t most = request_image_most(conn, at, head) + ticket.key_bytes
    cdef int reason
    forwarded_resolve(head, at, conn.remote_address, conn_address_bytes(conn), loop.core.trusted,
                      &forwarded)
    if forwarded.is_trusted and forwarded.client.bytes:
        client = forwarded.client
    if forwarded.is_trusted and forwarded.host.bytes:
        host = forwarded.host
    exchange.image = (&exchange.image_inline[0] if most <= IMAGE_INLINE_BYTES
                      else <uint8_t *> malloc(most))
    if exchange.image == NULL:
        return REASON_MEMORY
    record = <RequestRecord *> exchange.image
    memset(record, 0, sizeof(RequestRecord))
    record.head.kind = RECORD_REQUEST
    record.head.flags = FLAG_CONTENT_STREAMED if exchange.is_streamed else 0
    record.content_length = exchange.content_length
    record.method_id = head.method_id
    record.version_minor = head.version_minor
    record.is_https = forwarded.is_trusted and forwarded.scheme == SCHEME_HTTPS
    record.application = ticket.route.application
    record.script_bytes = ticket.route.prefix_bytes
    record.method_bytes = <uint16_t> head.method.bytes
    record.remote_bytes = <uint16_t> client.bytes
    record.remote_port = 0 if forwarded.is_trusted and forwarded.client.bytes else conn.remote_port
    record.server_bytes = conn.listener.name_bytes
    record.server_port = conn.listener.port
    record.target_bytes = <uint32_t> head.target.bytes
    record.query_bytes = <uint32_t> head.query.bytes
    entries = <FieldEntry *> (exchange.image + sizeof(RequestRecord))
    record.field_count = request_entries(entries, at, head, host, forwarded.is_trusted)
    text = <uint8_t *> (entries + record.field_count)
    text = span_put(text, head.method)
    text = span_put(text, client)
    text = text_put(text, conn.listener.name, conn.listener.name_bytes)
    text = span_put(text, head.target)
    if head.target_form == TARGET_ASTERISK:
        text[0] = 42
        path_bytes = 1
    elif ticket.path.bytes:
        path_bytes = ticket.path.bytes
        memcpy(text, ticket.path.at, path_bytes)
    else:
        reason = path_normalise(head.path, text, &path_bytes)
        if reason < 0:
            request_image_log_only(exchange, record, text)
            return -reason
    record.path_bytes = <uint32_t> path_bytes
    text = span_put(text + path_bytes, head.query)
    text = request_fields(text, at, head, host, forwarded.is_trusted)
    exchange.image_bytes = <uint32_t> (text - exchange.image)
    exchange.cache_word = ticket.word
    if ticket.key_bytes:
        exchange.cache_hash = ticket.hash
        exchange.cache_serial = ticket.serial
        image_add_key(exchange, loop.key, ticket.key_bytes)
    return REASON_NONE


cdef void request_image_log_only(Exchange *exchange, RequestRecord *record,
                                 uint8_t *text) noexcept nogil:
    # The path is malformed: what stands in the record so far is enough for the log.
    record.field_count = 0
    record.path_bytes = 0
    record.query_bytes = 0
    exchange.image_bytes = <uint32_t> (text - exchange.image)


cdef size_t request_image_most(const Conn *conn, const uint8_t *at,
                               const RequestHead *head) noexcept nogil:
    cdef size_t bytes = (sizeof(RequestRecord) + ADDRESS_TEXT_MAX
                         + (<size_t> head.field_count + 1) * sizeof(FieldEntry))
    cdef uint32_t index
    bytes += head.method.bytes + head.target.bytes * 2 + head.query.bytes + 8
    bytes += conn.listener.name_bytes + head.host.bytes
    for index in range(head.field_count):
        bytes += head.fields[index].name_bytes + head.fields[index].value_bytes
        if field_is_forwarding(&head.fields[index], at):
            bytes += head.fields[index].value_bytes  # may become client or host
    return bytes


cdef inline uint8_t *span_put(uint8_t *at, Span span) noexcept nogil:
    if span.bytes:
        memcpy(at, span.at, span.bytes)  # an empty span may be nowhere
    return at + span.bytes


cdef inline bint request_field_is_passed(const FieldLine *field, const uint8_t *at,
                                         bint is_trusted) noexcept nogil:
    # Framing is the core's business, Host is written anew, a stranger's word about the client is
    # dropped.
    if (field.known == FIELD_HOST or field.known == FIELD_CONTENT_LENGTH
            or field.known == FIELD_TRANSFER_ENCODING):
        return False
    return is_trusted or not field_is_forwarding(field, at)


cdef uint16_t request_entries(FieldEntry *entries, const uint8_t *at, const RequestHead *head,
                              Span host, bint is_trusted) noexcept nogil:
    cdef uint32_t index
    cdef uint16_t count = 0
    cdef const FieldLine *field
    if host.bytes or head.seen >> FIELD_HOST & 1:
        entries[0].known = FIELD_HOST
        entries[0].name_bytes = 0
        entries[0].value_bytes = <uint32_t> host.bytes
        count = 1
    for index in range(head.field_count):
        field = &head.fields[index]
        if request_field_is_passed(field, at, is_trusted):
            entries[count].known = field.known
            entries[count].name_bytes = 0 if field.known else field.name_bytes
            entries[count].value_bytes = field.value_bytes
            count += 1
    return count


cdef uint8_t *request_fields(uint8_t *text, const uint8_t *at, const RequestHead *head, Span host,
                             bint is_trusted) noexcept nogil:
    cdef uint32_t index
    cdef const FieldLine *field
    text = span_put(text, host)
    for index in range(head.field_count):
        field = &head.fields[index]
        if request_field_is_passed(field, at, is_trusted):
            if field.known == 0:
                text = text_put(text, <const char *> at + field.name_at, field.name_bytes)
            text = text_put(text, <const char *> at + field.value_at, field.value_bytes)
    return text


# --- its content ----------------------------------------------------------------------------------

cdef int64_t content_take(Loop *loop, Conn *conn, const uint8_t *at, size_t bytes) noexcept nogil:
    # Bytes used of these; 0: none can be taken now, or the request was refused.
    cdef Exchange *exchange = conn.exchange
    cdef Span data
    cdef bint is_done = False
    cdef int64_t used
    cdef int reason
    if exchange.is_streamed:
        return content_take_streamed(loop, conn, at, bytes)
    if exchange.is_chunked:
        used = chunk_feed(&exchange.decoder, at, bytes, &data, &is_done)
    else:
        used = content_take_counted(exchange, at, bytes, &data, &is_done)
    if used < 0:
        content_refuse(loop, conn, <int> -used)
        return 0
    reason = content_hold(loop, exchange, data)
    if reason != REASON_NONE:
        content_refuse(loop, conn, reason)
        return 0
    if is_done:
        content_finish(loop, conn)
    return used


cdef void content_refuse(Loop *loop, Conn *conn, int reason) noexcept nogil:
    exchange_refuse(loop, conn.exchange, reason)


cdef int64_t content_take_counted(const Exchange *exchange, const uint8_t *at, size_t bytes,
                                  Span *data, bint *is_done) noexcept nogil:
    cdef uint64_t left = <uint64_t> exchange.content_length - exchange.content_received
    data.at = at
    data.bytes = bytes if bytes < left else left
    is_done[0] = data.bytes == left
    return <int64_t> data.bytes


cdef int content_hold(Loop *loop, Exchange *exchange, Span data) noexcept nogil:
    # In memory as long as it is small, then in a spill file. REASON_NONE, or why it cannot be
    # taken.
    cdef const Settings *settings = &loop.core.settings
    cdef uint64_t total = exchange.content_received + data.bytes
    if total > settings.content_limit:
        return REASON_CONTENT_TOO_LARGE
    if exchange.spill_failed:
        return REASON_SPILL
    if not exchange.is_spilled and total <= settings.content_memory and (
            exchange.is_chunked or <uint64_t> exchange.content_length <= settings.content_memory):
        return content_hold_in_memory(settings, exchange, data)
    if not exchange.is_spilled:
        exchange.is_spilled = True
        atomic.tally(&loop.counters[COUNT_SPILLED], 1)
        if exchange.content != NULL:
            if not spill_put(loop, exchange, span_of(exchange.content, exchange.content_received)):
                return REASON_MEMORY
            free(exchange.content)
            exchange.content = NULL
    if not spill_put(loop, exchange, data):
        return REASON_MEMORY
    exchange.content_received = total
    return REASON_NONE


cdef int content_hold_in_memory(const Settings *settings, Exchange *exchange,
                                Span data) noexcept nogil:
    cdef uint64_t total = exchange.content_received + data.bytes
    cdef uint64_t room = exchange.content_room
    cdef uint8_t *grown
    if total > room:
        if not exchange.is_chunked:
            room = <uint64_t> exchange.content_length
        else:
            room = SPILL_GROW_BYTES if room == 0 else room * 2
            while room < total:
                room *= 2
        grown = <uint8_t *> realloc(exchange.content, room)
        if grown == NULL:
            return REASON_MEMORY
        exchange.content = grown
        exchange.content_room = <uint32_t> room
    if data.bytes:
        memcpy(exchange.content + exchange.content_received, data.at, data.bytes)
    exchange.content_received = total
    return REASON_NONE


cdef bint spill_put(Loop *loop, Exchange *exchange, Span data) noexcept nogil:
    # Into spill buffers; full ones go to a helper thread.
    cdef size_t part
    while data.bytes:
        if exchange.spill == NULL:
            exchange.spill = <SpillBuffer *> malloc(sizeof(SpillBuffer))
            if exchange.spill == NULL:
                return False
            exchange.spill.bytes = 0
        part = SPILL_BYTES - exchange.spill.bytes
        if part > data.bytes:
            part = data.bytes
        memcpy(exchange.spill.data + exchange.spill.bytes, data.at, part)
        exchange.spill.bytes += <uint32_t> part
        data.at += part
        data.bytes -= part
        if exchange.spill.bytes == SPILL_BYTES and not job_spill(loop, exchange):
            return False
    return True


cdef void content_spilled_in_place(Loop *loop, Conn *conn, uint32_t bytes) noexcept nogil:
    # conn_read() received straight into the spill buffer.
    cdef Exchange *exchange = conn.exchange
    exchange.spill.bytes += bytes
    exchange.content_received += bytes
    if exchange.spill_failed:
        content_refuse(loop, conn, REASON_SPILL)
        return
    if exchange.content_received == <uint64_t> exchange.content_length:
        content_finish(loop, conn)
    elif exchange.spill.bytes == SPILL_BYTES and not job_spill(loop, exchange):
        content_refuse(loop, conn, REASON_MEMORY)


cdef void content_finish(Loop *loop, Conn *conn) noexcept nogil:
    # All of it has arrived; what is spilled must also be written.
    cdef Exchange *exchange = conn.exchange
    exchange.content_is_whole = True
    exchange.expects_continue = False
    if exchange.spill != NULL and not job_spill(loop, exchange):
        content_refuse(loop, conn, REASON_MEMORY)
        return
    if exchange.spill_jobs:
        conn.state = CONN_WAIT
        timer_cancel(&loop.wheel, &conn.timer)
        return
    request_complete(loop, conn, exchange)


cdef void content_on_spilled(Loop *loop, Exchange *exchange, bint has_failed) noexcept nogil:
    # A helper thread has written a buffer (or could not).
    cdef Conn *conn = exchange.conn
    exchange.spill_jobs -= 1
    if has_failed:
        exchange.spill_failed = True
    if conn == NULL:
        exchange_free_unless_held(loop, exchange)
        return
    if exchange.spill_failed:
        if exchange.spill_jobs == 0:
            content_refuse(loop, conn, REASON_SPILL)
        return
    if exchange.content_is_whole and exchange.spill_jobs == 0:
        request_complete(loop, conn, exchange)
    elif conn.can_read or conn.in_start < conn.in_end:
        conn_again(loop, conn)


# --- streamed content -----------------------------------------------------------------------------

cdef int64_t content_take_streamed(Loop *loop, Conn *conn, const uint8_t *at,
                                   size_t bytes) noexcept nogil:
    # As much as the window and the ring take; the rest waits in the connection's input.
    cdef Exchange *exchange = conn.exchange
    cdef uint64_t window = loop.core.settings.content_window
    cdef uint64_t ahead = exchange.content_streamed - exchange.content_consumed
    cdef Span data
    cdef bint is_done = False
    cdef int64_t used
    if not exchange.content_is_wanted or ahead >= window or exchange.worker == NULL:
        return 0
    if bytes > window - ahead:
        bytes = window - ahead
    if bytes > CONTENT_RECORD_BYTES:
        bytes = CONTENT_RECORD_BYTES
    if not lane_has_room(loop, exchange.worker, <uint32_t> bytes):
        conn_start_timer(loop, conn, RETRY_NS)
        return 0
    if exchange.is_chunked:
        used = chunk_feed(&exchange.decoder, at, bytes, &data, &is_done)
    else:
        used = content_take_counted(exchange, at, bytes, &data, &is_done)
    if used < 0:
        exchange.content_is_cut = True
        atomic.tally(&loop.reasons[-used], 1)
        log_exchange(loop, LOG_INFO, exchange, <int> -used, exchange.worker)
        conn.is_last = True
        conn.state = CONN_WAIT
        content_stream_end(loop, exchange, FLAG_CUT)
        return 0
    exchange.content_received += data.bytes
    if exchange.content_received > loop.core.settings.content_limit:
        exchange_refuse(loop, exchange, REASON_CONTENT_TOO_LARGE)
        return 0
    if data.bytes:
        lane_stream(loop, exchange, data)
    if is_done:
        request_complete(loop, conn, exchange)
    return used


cdef bint lane_has_room(Loop *loop, Worker *worker, uint32_t bytes) noexcept nogil:
    return ring_claim(&worker.lanes[loop.index].requests, bytes + <uint32_t> sizeof(RecordHead),
                      worker_side_reserve(worker)) != NULL


cdef void lane_stream(Loop *loop, Exchange *exchange, Span data) noexcept nogil:
    # A CONTENT record; there is room (lane_has_room).
    cdef Lane *lane = &exchange.worker.lanes[loop.index]
    cdef uint32_t bytes = <uint32_t> (sizeof(RecordHead) + data.bytes)
    cdef uint8_t *at = ring_claim(&lane.requests, bytes, 0)
    cdef RecordHead *head = <RecordHead *> at
    bug.BUG_ON(at == NULL and not lane.requests.is_broken)
    if at == NULL:
        return
    head.bytes = bytes
    head.kind = RECORD_CONTENT
    head.flags = 0
    head.place = exchange.place
    head.dispatch = exchange.worker.places[exchange.place].dispatch
    memcpy(at + sizeof(RecordHead), data.at, data.bytes)
    ring_publish(&lane.requests, bytes)
    lane_published(loop, exchange.worker)
    exchange.content_streamed += data.bytes


cdef void content_stream_end(Loop *loop, Exchange *exchange, uint8_t flags) noexcept nogil:
    # An empty last CONTENT record. FLAG_CUT: broken off.
    cdef RecordHead *head
    cdef Lane *lane
    if exchange.worker == NULL:
        return
    lane = &exchange.worker.lanes[loop.index]
    if not lane.is_open or not worker_is_trusted(exchange.worker):
        return
    head = <RecordHead *> ring_claim(&lane.requests, sizeof(RecordHead), REPLY_RESERVE)
    if head == NULL:
        return
    head.bytes = sizeof(RecordHead)
    head.kind = RECORD_CONTENT
    head.flags = FLAG_END | flags
    head.place = exchange.place
    head.dispatch = exchange.worker.places[exchange.place].dispatch
    ring_publish(&lane.requests, sizeof(RecordHead))
    lane_published(loop, exchange.worker)
