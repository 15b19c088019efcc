# The response cache as a worker's response passes through it: what is stored, and how.
#
# Rules
#  1. The head comes as a private copy. What is stored of it was checked like a head that is sent
#     (name_is_token, value_is_clean); one that is not sound is not stored, and refused as ever.
#  2. A stored head has: status line, the field lines that a 304 repeats (RFC 9110 §15.4.5), the
#     others. Not: framing, connection, Age, our own Kernelq-Cache-Control, and what no-cache="…" or
#     private="…" names.
#  3. Bytes that may not fit are refused before the first is sent to anybody, if the length is
#     known; if it is not, only the one for whom it was asked reads along, and goes on without the
#     store.

cdef enum:                         # cache_on_head()
    HEAD_PASSED = 0                # not for the store: to the client, if it has one
    HEAD_TAKEN = 1                 # the content goes to the fill, or nowhere


cdef inline bint cache_sees(const Exchange *exchange) noexcept nogil:
    # Whether the response to it means anything to the cache.
    cdef uint8_t method
    if exchange.is_maker or exchange.may_store:
        return True
    method = (<const RequestRecord *> exchange.image).method_id
    return not (method == METHOD_GET or method == METHOD_OPTIONS
                or method == METHOD_TRACE or method == METHOD_QUERY)


cdef int cache_on_head(Loop *loop, Exchange *exchange, const ResponseRecord *record,
                       const uint8_t *copy, uint32_t copy_bytes, bint is_end) noexcept nogil:
    # Before the head is sent. The exchange may have got a client (HEAD_PASSED), or lost it to
    # another exchange that waits for the fill (HEAD_TAKEN).
    cdef ResponseFacts facts
    cdef FieldView view
    cdef bint is_sound
    if exchange.may_store and head_is_mute(loop, record, copy, copy_bytes):
        hit_for_miss_note(&loop.core.store, exchange.cache_hash, loop_seconds(loop))
        return HEAD_PASSED
    is_sound = head_view(loop, record, copy, copy_bytes, &view)
    if is_sound:
        response_facts_read(&view, record.status, wall_seconds(), &facts)
        if exchange.is_head:
            cache_compare(loop, exchange, record, &facts)
            return HEAD_PASSED
        if not exchange.is_maker and not exchange.may_store:
            cache_invalidate(loop, exchange, &facts, &view)
            return HEAD_PASSED
    elif exchange.is_head:
        return HEAD_PASSED
    if not exchange.is_maker:
        if is_sound and head_is_storable(loop, exchange, record, &facts, is_end):
            return store_alone(loop, exchange, record, copy, &view, &facts, is_end)
        miss_note(loop, exchange, record)
        return HEAD_PASSED
    if is_sound and exchange.fill.stale != NULL:
        if record.status == 304:
            return maker_on_not_modified(loop, exchange, copy, &view, &facts)
        if is_error_status(record.status) and stale_serves(loop, exchange):
            maker_end(loop, exchange, FILL_STALE)
            return HEAD_TAKEN
    if is_sound and head_is_storable(loop, exchange, record, &facts, is_end):
        return maker_on_storable(loop, exchange, record, copy, &view, &facts, is_end)
    miss_note(loop, exchange, record)
    maker_pass(loop, exchange)
    return HEAD_PASSED


cdef void cache_on_orphan(Loop *loop, Exchange *exchange, const ResponseRecord *record,
                          const uint8_t *copy, uint32_t copy_bytes) noexcept nogil:
    # The client of an unsafe request has gone; what it has done is done.
    cdef ResponseFacts facts
    cdef FieldView view
    if exchange.is_head or exchange.cache_hash or not cache_sees(exchange):
        return
    if head_view(loop, record, copy, copy_bytes, &view):
        response_facts_read(&view, record.status, wall_seconds(), &facts)
        cache_invalidate(loop, exchange, &facts, &view)


cdef bint head_is_mute(const Loop *loop, const ResponseRecord *record, const uint8_t *copy,
                       uint32_t copy_bytes) noexcept nogil:
    # Without a field ending in "cache-control" nothing allows a response to be stored that nobody
    # waits for (CACHE_PUBLIC): most responses are done with here.
    cdef const FieldEntry *entries = <const FieldEntry *> (copy + sizeof(ResponseRecord))
    cdef uint64_t at = (sizeof(ResponseRecord) + <uint64_t> record.field_count * sizeof(FieldEntry)
                        + record.reason_bytes)
    cdef uint32_t index, name_bytes
    if loop.core.settings.cache_mode != CACHE_PUBLIC:
        return False
    for index in range(record.field_count):
        name_bytes = entries[index].name_bytes
        if at + name_bytes > copy_bytes:
            return False
        if name_bytes >= 13 and span_is_nocase(span_of(copy + at + name_bytes - 13, 13),
                                               b"cache-control", 13):
            return False
        at += name_bytes
        at += entries[index].value_bytes
    return True


cdef void miss_note(Loop *loop, const Exchange *exchange,
                    const ResponseRecord *record) noexcept nogil:
    # For a while nobody waits for a response under this key. A part, or that nothing changed, says
    # nothing of the whole; and what is only not asked for often enough may be shared all the same.
    if (record.status != 206 and record.status != 304
            and loop.core.settings.cache_frequent_hits <= 1):
        hit_for_miss_note(&loop.core.store, exchange.cache_hash, loop_seconds(loop))


cdef inline bint is_error_status(uint32_t status) noexcept nogil:
    return status == 500 or 502 <= status <= 504  # RFC 5861 §4


cdef bint stale_serves(Loop *loop, const Exchange *maker) noexcept nogil:
    # By the directives of the request that it was asked for, too.
    cdef const Entry *stale = maker.fill.stale
    cdef RequestFacts facts
    cdef FieldView view
    image_view(loop, maker, &view)
    request_facts_read(&view, wall_seconds(), &facts)
    return stale_is_allowed_on_error(&stale.facts, &facts, entry_age_s(loop, stale))


cdef bint head_view(Loop *loop, const ResponseRecord *record, const uint8_t *copy,
                    uint32_t copy_bytes, FieldView *view) noexcept nogil:
    # The head's field lines, in loop.fields. False: it is not sound.
    cdef const FieldEntry *entries = <const FieldEntry *> (copy + sizeof(ResponseRecord))
    cdef uint64_t at = (sizeof(ResponseRecord) + <uint64_t> record.field_count * sizeof(FieldEntry)
                        + record.reason_bytes)
    cdef uint32_t index
    cdef FieldLine *line
    if (record.field_count > loop.core.settings.field_count or at > copy_bytes
            or record.status < 200 or record.status > 999
            or not value_is_clean(copy + at - record.reason_bytes, record.reason_bytes)):
        return False
    view.at = copy
    view.lines = loop.fields
    view.count = record.field_count
    for index in range(record.field_count):
        line = &loop.fields[index]
        line.known = 0
        line.name_at = <uint32_t> at
        line.name_bytes = entries[index].name_bytes
        line.value_at = <uint32_t> at + line.name_bytes
        line.value_bytes = entries[index].value_bytes
        at += line.name_bytes
        at += line.value_bytes
        if (at > copy_bytes or not name_is_token(copy + line.name_at, line.name_bytes)
                or not value_is_clean(copy + line.value_at, line.value_bytes)):
            return False
    return True


cdef bint head_is_storable(Loop *loop, const Exchange *exchange, const ResponseRecord *record,
                           const ResponseFacts *facts, bint is_end) noexcept nogil:
    cdef Core_ *core = loop.core
    cdef int64_t length = response_length(record, is_end)
    cdef Span key = image_key(exchange)
    cdef bint has_query = memchr(key.at, 63, key.bytes) != NULL
    cdef RequestFacts request
    cdef FieldView view
    if length > <int64_t> core.settings.cache_entry_bytes or record.status == 304:
        return False
    image_view(loop, exchange, &view)
    request_facts_read(&view, wall_seconds(), &request)
    return (response_is_storable(facts, &request, core.settings.cache_mode, has_query)
            and frequent_enough(&core.store, exchange.cache_hash, loop_seconds(loop)))


cdef inline int64_t response_length(const ResponseRecord *record, bint is_end) noexcept nogil:
    # -1: not known yet.
    if record.status == 204:
        return 0
    if record.content_length >= 0:
        return record.content_length
    return record.content_bytes if is_end else -1


# --- the maker's ways -----------------------------------------------------------------------------

cdef void maker_end(Loop *loop, Exchange *maker, uint8_t state) noexcept nogil:
    # Its fill has its outcome. What the worker still sends is nobody's (answer_disown).
    cdef Fill *fill = maker.fill
    maker_let_go(maker)
    fill_set_state(loop, fill, state)


cdef void maker_pass(Loop *loop, Exchange *maker) noexcept nogil:
    # Not for the store: it goes to the one whose request it answers, and to nobody else (it may be
    # private); the others go on by themselves. With that one gone it is nobody's.
    cdef Exchange *waiting = maker.fill.sides[loop.index].first
    while waiting != NULL and not waiting.is_leader:
        waiting = waiting.next
    if waiting != NULL:
        maker_adopt(loop, maker, waiting)
    maker_end(loop, maker, FILL_PASSED)


cdef void maker_adopt(Loop *loop, Exchange *maker, Exchange *waiting) noexcept nogil:
    # The maker gets the client of one that waits.
    cdef Conn *conn = waiting.conn
    side_remove(loop, waiting)
    maker.conn = conn
    conn.exchange = maker
    conn_quiet_timer(conn)
    maker.is_11 = waiting.is_11
    maker.wants_close = waiting.wants_close
    maker.is_probed = waiting.is_probed
    maker.has_fin = waiting.has_fin
    # relaxed: requests() may be looking at it, since it is in a worker's place
    atomic.store_relaxed(&maker.arrived_ns, waiting.arrived_ns)
    maker.cache_word = waiting.cache_word
    maker.sent_bytes = waiting.sent_bytes
    waiting.conn = NULL
    exchange_free(loop, waiting)


cdef void fill_fail(Loop *loop, Exchange *maker, int reason) noexcept nogil:
    # No response, or not all of it.
    cdef Fill *fill = maker.fill
    if fill.entry == NULL and fill.stale != NULL and stale_serves(loop, maker) and (
            is_error_status(reasons[reason].status)):
        maker_end(loop, maker, FILL_STALE)
        return
    if fill.is_background:
        log_exchange(loop, LOG_INFO, maker, reason, maker.worker)
    fill.reason = <uint8_t> reason
    maker_end(loop, maker, FILL_FAILED)


cdef int maker_on_storable(Loop *loop, Exchange *maker, const ResponseRecord *record,
                           const uint8_t *copy, const FieldView *view, const ResponseFacts *facts,
                           bint is_end) noexcept nogil:
    # Shared with all who wait, if it would be fresh for them; else stored if only its first client
    # waits, and passed on if there are more.
    cdef Fill *fill = maker.fill
    cdef Entry *entry = entry_make(loop, maker, record, copy, view, facts, is_end)
    cdef FillBucket *bucket = fill_bucket(loop.core, fill.hash)
    cdef uint32_t waiting
    if entry == NULL:
        maker_pass(loop, maker)
        return HEAD_PASSED
    if not entry_is_shareable(entry):
        pthread_mutex_lock(&bucket.lock)
        fill_unlink(loop.core, fill)
        waiting = fill.waiting
        pthread_mutex_unlock(&bucket.lock)
        if waiting > 1:
            entry_unpin(&loop.core.store, entry)
            maker_pass(loop, maker)
            return HEAD_PASSED
    own_lines_keep(fill, view, facts)
    maker_store(loop, maker, record, entry, is_end)
    return HEAD_TAKEN


cdef inline bint entry_is_shareable(const Entry *entry) noexcept nogil:
    return (entry.facts.lifetime_s > entry.age_s and not entry.facts.seen & SAYS_NO_CACHE)


cdef void maker_store(Loop *loop, Exchange *maker, const ResponseRecord *record, Entry *entry,
                      bint is_end) noexcept nogil:
    cdef Fill *fill = maker.fill
    cdef FillBucket *bucket = fill_bucket(loop.core, fill.hash)
    maker.status = record.status
    maker.head_sent = True
    maker.response_left = entry.body.length
    maker.framing = FRAMING_LENGTH if entry.body.length >= 0 else FRAMING_CLOSE
    if record.status == 204:
        maker.framing = FRAMING_NONE
    pthread_mutex_lock(&bucket.lock)
    fill.entry = entry
    fill.is_streamed = entry.body.length >= 0
    pthread_mutex_unlock(&bucket.lock)
    if is_end:
        return  # whole in this very record: fill_finish() comes at once
    fill_set_state(loop, fill, FILL_STORING)


cdef int store_alone(Loop *loop, Exchange *exchange, const ResponseRecord *record,
                     const uint8_t *copy, const FieldView *view, const ResponseFacts *facts,
                     bint is_end) noexcept nogil:
    # Nobody else waits for this response: it becomes the maker of a fill that nobody can join, and
    # another exchange takes its client.
    cdef Exchange *reader
    cdef FillBucket *bucket = fill_bucket(loop.core, exchange.cache_hash)
    cdef Entry *entry = entry_make(loop, exchange, record, copy, view, facts, is_end)
    cdef Fill *fill
    if entry == NULL:
        return HEAD_PASSED
    reader = exchange_split(loop, exchange)
    fill = NULL
    if reader != NULL:
        fill = fill_alone(loop, exchange)
    if fill == NULL:
        if reader != NULL:
            exchange_unsplit(loop, exchange, reader)
        entry_unpin(&loop.core.store, entry)
        return HEAD_PASSED
    pthread_mutex_lock(&bucket.lock)
    side_push(loop, fill, reader)
    pthread_mutex_unlock(&bucket.lock)
    reader.is_leader = True
    reader.has_asked_itself = True
    own_lines_keep(fill, view, facts)
    maker_store(loop, exchange, record, entry, is_end)
    return HEAD_TAKEN


cdef Fill *fill_alone(Loop *loop, Exchange *maker) noexcept nogil:
    cdef uint32_t loops = loop.core.settings.loop_count
    cdef size_t bytes = sizeof(Fill) + loops * sizeof(FillSide)
    cdef Fill *fill = <Fill *> malloc(bytes)
    if fill == NULL:
        return NULL
    memset(fill, 0, bytes)
    fill.sides = <FillSide *> (<uint8_t *> fill + sizeof(Fill))
    fill.side_count = loops
    fill.hash = maker.cache_hash
    fill.application = maker.application
    fill.loop = loop.index
    fill.maker = maker
    fill.refs = 1
    maker.fill = fill
    maker.is_maker = True
    maker.may_store = False
    return fill


cdef Exchange *exchange_split(Loop *loop, Exchange *exchange) noexcept nogil:
    # Another exchange for the client of this one. NULL: no memory.
    cdef Exchange *reader = exchange_new(loop, exchange.conn)
    cdef size_t bytes = exchange.image_bytes + exchange.key_bytes
    if reader == NULL:
        return NULL
    reader.image = (&reader.image_inline[0] if bytes <= IMAGE_INLINE_BYTES
                    else <uint8_t *> malloc(bytes))
    if reader.image == NULL:
        reader.conn = NULL
        exchange_free(loop, reader)
        return NULL
    exchange_follow(loop, reader, exchange)
    memcpy(reader.image, exchange.image, bytes)
    reader.image_bytes = exchange.image_bytes
    reader.key_at = exchange.key_at
    reader.key_bytes = exchange.key_bytes
    reader.cache_hash = exchange.cache_hash
    reader.cache_serial = exchange.cache_serial
    reader.cache_word = exchange.cache_word
    reader.is_idempotent = exchange.is_idempotent
    reader.is_11 = exchange.is_11
    reader.is_head = exchange.is_head
    reader.wants_close = exchange.wants_close
    reader.is_probed = exchange.is_probed
    reader.content_is_whole = True
    reader.content_length = 0
    reader.arrived_ns = exchange.arrived_ns
    reader.sent_bytes = exchange.sent_bytes
    exchange.conn.exchange = reader
    exchange.conn = NULL
    return reader


cdef void exchange_unsplit(Loop *loop, Exchange *exchange, Exchange *reader) noexcept nogil:
    exchange.conn = reader.conn
    exchange.conn.exchange = exchange
    reader.conn = NULL
    exchange_free(loop, reader)


# --- content --------------------------------------------------------------------------------------

cdef void fill_take(Loop *loop, Worker *worker, Exchange *maker, const uint8_t *content,
                    uint32_t bytes) noexcept nogil:
    # Content of a response that is being stored; worker NULL: it came from a file.
    cdef Fill *fill = maker.fill
    maker.response_bytes += bytes
    if maker.framing == FRAMING_NONE:
        bytes = 0
    elif maker.framing == FRAMING_LENGTH:
        if bytes > maker.response_left:
            response_too_long(loop, maker)
            bytes = <uint32_t> maker.response_left
        maker.response_left -= bytes
    if bytes and not body_append(&loop.core.store, fill.entry.body, content, bytes):
        fill_overflow(loop, maker, content, bytes)
        if worker != NULL:
            response_release(loop, worker, maker)
        return
    if bytes and fill.state == FILL_STORING:
        fill_progress(loop, fill)
    if worker != NULL:
        maker_release(loop, worker, maker)


cdef void maker_release(Loop *loop, Worker *worker, Exchange *maker) noexcept nogil:
    # The store takes as fast as the worker gives.
    if (not maker.is_complete and maker.response_bytes
            >= maker.released_bytes + loop.core.settings.response_takeover // 4):
        if lane_tell(loop, worker, RECORD_RELEASED, 0, maker.place,
                     worker.places[maker.place].dispatch, maker.response_bytes):
            maker.released_bytes = maker.response_bytes


cdef void fill_overflow(Loop *loop, Exchange *maker, const uint8_t *content,
                        uint32_t bytes) noexcept nogil:
    # Its length was not known, and it is too long for the store (or there is no memory): its first
    # client goes on without the store, from where it is.
    cdef Exchange *reader = fill_reader(loop, maker)
    cdef iovec part
    if reader == NULL:
        body_cut(maker.fill.entry.body)
        fill_fail(loop, maker, REASON_MEMORY)
        return
    part.iov_base = <void *> content
    part.iov_len = bytes
    reader_put(loop, reader, &part)
    maker_adopt(loop, maker, reader)
    maker_end(loop, maker, FILL_PASSED)


cdef Exchange *fill_reader(Loop *loop, Exchange *maker) noexcept nogil:
    # Who reads along and can go on without the store: has got all that the store has, and the maker
    # its framing. NULL: nobody.
    cdef Exchange *reader = maker.fill.sides[loop.index].first
    cdef iovec part
    cdef uint64_t run = 0
    hit_for_miss_note(&loop.core.store, maker.cache_hash, loop_seconds(loop))
    while reader != NULL and reader.entry == NULL:
        reader = reader.next
    if reader == NULL or maker.framing != FRAMING_CLOSE:
        return NULL
    while reader.body_at < body_filled(reader.body):
        part.iov_base = <void *> body_at(reader.body, reader.body_at, &run)
        part.iov_len = run
        reader_put(loop, reader, &part)
        reader.body_at += run
    maker.framing = reader.framing
    maker.response_left = -1
    return reader


cdef void reader_put(Loop *loop, Exchange *reader, iovec *content) noexcept nogil:
    cdef iovec parts[3]
    cdef uint8_t frame[24]
    if reader.framing != FRAMING_CHUNKED:
        conn_send(loop, reader.conn, content, 1)
        return
    parts[0].iov_base = frame
    parts[0].iov_len = text_put(hex_put(frame, content.iov_len), b"\r\n", 2) - frame
    parts[1] = content[0]
    parts[2].iov_base = <void *> <const char *> b"\r\n"
    parts[2].iov_len = 2
    conn_send(loop, reader.conn, parts, 3)


cdef void fill_end(Loop *loop, Exchange *maker, bint is_cut) noexcept nogil:
    # The worker has said all; a file may still have to be read. Frees the maker, if nothing else
    # names it.
    cdef Fill *fill = maker.fill
    if maker.file_is_due or maker.file_left:
        maker.is_complete = True
        return
    if fill.entry == NULL:
        fill_fail(loop, maker, REASON_RESPONSE_MISSING)
    elif is_cut or (maker.framing == FRAMING_LENGTH and maker.response_left > 0):
        body_cut(fill.entry.body)
        fill_fail(loop, maker, REASON_RESPONSE_CUT)
    else:
        fill_finish(loop, maker)
    exchange_free_unless_held(loop, maker)


cdef void maker_on_death(Loop *loop, Exchange *maker, bint is_distrusted) noexcept nogil:
    # Its worker has died, and it may not be executed again. All that the head declared may be here
    # all the same, with only END missing.
    if (maker.fill.entry != NULL and maker.framing == FRAMING_LENGTH and maker.response_left == 0
            and not maker.file_is_due and maker.file_left == 0 and not is_distrusted):
        fill_end(loop, maker, False)
        return
    if maker.fill.entry != NULL:
        body_cut(maker.fill.entry.body)
    exchange_refuse(loop, maker, REASON_WORKER_DISTRUSTED if is_distrusted else REASON_WORKER_DIED)


cdef void fill_finish(Loop *loop, Exchange *maker) noexcept nogil:
    # Whole: into the store, unless its key was flushed meanwhile.
    # Its body may become another one: of a body of unknown length only the first client, who is
    # of this loop, reads along.
    cdef Fill *fill = maker.fill
    cdef Body *body = body_finish(&loop.core.store, fill.entry.body)
    if body == NULL:
        fill_fail(loop, maker, REASON_RESPONSE_CUT)
        return
    fill.entry.body = body
    store_put(&loop.core.store, fill.entry, maker.cache_serial)
    maker_end(loop, maker, FILL_WHOLE)


cdef void fill_read_file(Loop *loop, Exchange *maker) noexcept nogil:
    # A file goes into the store by way of a helper thread, which may wait for the disk.
    maker.file_is_copied = True
    if maker.file_left == 0:
        fill_end(loop, maker, False)
    elif job_warm(loop, maker):
        maker.file_is_warming = True
    else:
        fill_file_failed(loop, maker)


cdef void fill_on_piece(Loop *loop, Exchange *maker, SpillBuffer *piece) noexcept nogil:
    # piece NULL: it could not be read.
    if piece == NULL:
        fill_file_failed(loop, maker)
        return
    # What a file holds was counted when its record came (response_file).
    if not body_append(&loop.core.store, maker.fill.entry.body, piece.data, piece.bytes):
        fill_overflow_file(loop, maker, piece)
        return
    maker.file_offset += piece.bytes
    maker.file_left -= piece.bytes
    fill_progress(loop, maker.fill)
    if maker.file_left:
        fill_read_file(loop, maker)
    elif maker.is_complete:
        fill_end(loop, maker, False)


cdef void fill_overflow_file(Loop *loop, Exchange *maker, SpillBuffer *piece) noexcept nogil:
    # As fill_overflow(): the rest of the file is one chunk (response_file).
    cdef Exchange *reader = fill_reader(loop, maker)
    cdef iovec part
    cdef uint8_t frame[24]
    if reader == NULL:
        fill_file_failed(loop, maker)
        return
    if maker.framing == FRAMING_CHUNKED:
        part.iov_base = frame
        part.iov_len = text_put(hex_put(frame, maker.file_left), b"\r\n", 2) - frame
        conn_send(loop, reader.conn, &part, 1)
    maker_adopt(loop, maker, reader)
    maker_end(loop, maker, FILL_PASSED)
    response_send_piece(loop, maker, piece)


cdef void fill_file_failed(Loop *loop, Exchange *maker) noexcept nogil:
    body_cut(maker.fill.entry.body)
    maker.file_left = 0
    fill_fail(loop, maker, REASON_RESPONSE_FILE)
    exchange_free_unless_held(loop, maker)
