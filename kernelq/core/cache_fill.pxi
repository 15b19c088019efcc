# The response cache as a response meets it: what is asked for, stored, and shared by who waits.
#
# Rules
#  1. A Fill's list of a loop's waiting requests (its side) belongs to that loop; everything marked
#     [fill lock] is guarded by its bucket's lock, which is taken before a mailbox's and never while
#     pool.lock is held.
#  2. The maker of a fill is an exchange without a client: no client's leaving, slowness or range
#     reaches the worker. It is touched by its own loop only.
#  3. Nobody waits for what cannot be shared: as soon as the head shows that the response is not
#     storable, the first one takes it over and all others go on by themselves, side by side.
#  4. An entry is linked into the store when it is whole; before, only its fill leads to it.
#
# Life of a Fill
#     ASKED ─▶ STORING ─▶ WHOLE          its waiting requests read along, then from the entry
#       │         └─────▶ FAILED         with bytes: broken off visibly; without: asked for again
#       ├─▶ PASSED                       not storable
#       ├─▶ WHOLE                        304: the stale entry was freshened
#       └─▶ STALE or FAILED              an error: the stale entry if that is allowed (RFC 5861 §4)
#
# refs counts the maker, each waiting request, and each letter on its way.

cdef enum:
    RETRIES_TOGETHER = 1           # makers that may fail before waiting requests go on alone
    KEPT_HEAD_MAX = 65536          # of a stored head
    ENDS_PER_TURN = 512            # waiting requests that one turn answers, some 10 µs each
    # for a response of which nothing is known yet; then each goes on by itself, side by side
    WAITING_NS = 5000000000


# --- the request's image as the cache reads it ----------------------------------------------------

cdef void image_view(Loop *loop, const Exchange *exchange, FieldView *view) noexcept nogil:
    # Its field lines, in loop.view.
    cdef const RequestRecord *record = <const RequestRecord *> exchange.image
    cdef const FieldEntry *entries = <const FieldEntry *> (exchange.image + sizeof(RequestRecord))
    cdef uint64_t at = (image_texts(exchange) - exchange.image) + image_fixed_bytes(record)
    cdef uint32_t index
    view.at = exchange.image
    view.lines = loop.view
    view.count = record.field_count
    for index in range(record.field_count):
        loop.view[index].known = entries[index].known
        loop.view[index].name_at = <uint32_t> at
        loop.view[index].name_bytes = entries[index].name_bytes
        loop.view[index].value_at = <uint32_t> at + entries[index].name_bytes
        loop.view[index].value_bytes = entries[index].value_bytes
        at += entries[index].name_bytes
        at += entries[index].value_bytes


cdef inline uint64_t image_fixed_bytes(const RequestRecord *record) noexcept nogil:
    return (<uint64_t> record.method_bytes + record.remote_bytes + record.server_bytes
            + record.target_bytes + record.path_bytes + record.query_bytes)


cdef inline Span image_key(const Exchange *exchange) noexcept nogil:
    return span_of(exchange.image + exchange.key_at, exchange.key_bytes)


cdef void image_add_key(Exchange *exchange, const uint8_t *key, uint32_t bytes) noexcept nogil:
    # Behind what workers get; request_image() has left room.
    exchange.key_at = exchange.image_bytes
    exchange.key_bytes = bytes
    memcpy(exchange.image + exchange.key_at, key, bytes)


cdef inline bint field_is_condition(uint8_t known) noexcept nogil:
    return (known == FIELD_IF_NONE_MATCH or known == FIELD_IF_MODIFIED_SINCE
            or known == FIELD_RANGE or known == FIELD_IF_RANGE)


cdef bint image_for_store(Exchange *maker, const Exchange *exchange,
                          const Entry *stale) noexcept nogil:
    # The same request without the client's own conditions, and with ours if there is something to
    # revalidate (RFC 9111 §4.3.1). False: no memory.
    cdef const RequestRecord *record = <const RequestRecord *> exchange.image
    cdef const FieldEntry *entries = <const FieldEntry *> (exchange.image + sizeof(RequestRecord))
    cdef const uint8_t *values = image_texts(exchange) + image_fixed_bytes(record)
    cdef size_t most = (<size_t> exchange.image_bytes + exchange.key_bytes + 2 * sizeof(FieldEntry)
                        + VALIDATOR_BYTES_MAX + 32)
    cdef RequestRecord *copy
    cdef FieldEntry *out
    cdef uint8_t *text
    cdef uint32_t index, bytes
    cdef uint16_t count = 0
    maker.image = (&maker.image_inline[0] if most <= IMAGE_INLINE_BYTES
                   else <uint8_t *> malloc(most))
    if maker.image == NULL:
        return False
    copy = <RequestRecord *> maker.image
    memcpy(copy, record, sizeof(RequestRecord))
    copy.method_id = METHOD_GET
    copy.method_bytes = 3
    out = <FieldEntry *> (maker.image + sizeof(RequestRecord))
    for index in range(record.field_count):
        if not field_is_condition(entries[index].known):
            out[count] = entries[index]
            count += 1
    count = <uint16_t> (count + validators_entries(out + count, stale))
    copy.field_count = count
    text = <uint8_t *> (out + count)
    text = text_put(text, b"GET", 3)  # a HEAD has it revalidated, too
    text = text_put(text, <const char *> image_texts(exchange) + record.method_bytes,
                    image_fixed_bytes(record) - record.method_bytes)
    for index in range(record.field_count):
        bytes = entries[index].name_bytes + entries[index].value_bytes
        if not field_is_condition(entries[index].known):
            text = text_put(text, <const char *> values, bytes)
        values += bytes
    text = validators_put(text, stale)
    maker.image_bytes = <uint32_t> (text - maker.image)
    image_add_key(maker, exchange.image + exchange.key_at, exchange.key_bytes)
    return True


cdef uint32_t validators_entries(FieldEntry *entries, const Entry *stale) noexcept nogil:
    cdef uint32_t count = 0
    if stale != NULL and stale.etag_bytes:
        entries[count].known = FIELD_IF_NONE_MATCH
        entries[count].name_bytes = 0
        entries[count].value_bytes = stale.etag_bytes
        count += 1
    if stale != NULL and stale.modified_s >= 0:
        entries[count].known = FIELD_IF_MODIFIED_SINCE
        entries[count].name_bytes = 0
        entries[count].value_bytes = 29
        count += 1
    return count


cdef uint8_t *validators_put(uint8_t *text, const Entry *stale) noexcept nogil:
    if stale != NULL and stale.etag_bytes:
        text = span_put(text, entry_etag(stale))
    if stale != NULL and stale.modified_s >= 0:
        text = http_date_put(text, stale.modified_s)
    return text


cdef inline bint entry_has_validator(const Entry *entry) noexcept nogil:
    return entry.etag_bytes > 0 or entry.modified_s >= 0


# --- fills: locks, references, letters ------------------------------------------------------------

cdef inline FillBucket *fill_bucket(Core_ *core, uint64_t hash) noexcept nogil:
    return &core.fills[hash % FILL_BUCKETS]


cdef void fill_unlink(Core_ *core, Fill *fill) noexcept nogil:
    # [fill lock] Nobody may join any more.
    cdef Fill **link = &fill_bucket(core, fill.hash).first
    if not fill.is_linked:
        return
    fill.is_linked = False
    while link[0] != fill:
        link = &link[0].next
    link[0] = fill.next


cdef void fill_release(Core_ *core, Fill *fill) noexcept nogil:
    # [fill lock] One reference less; frees it with the last.
    bug.BUG_ON(fill.refs == 0)
    fill.refs -= 1
    if fill.refs:
        return
    fill_unlink(core, fill)
    if fill.stale != NULL:
        entry_unpin(&core.store, fill.stale)
    if fill.entry != NULL:
        entry_unpin(&core.store, fill.entry)
    free(fill.own_lines)
    free(fill)


cdef void fill_post(Core_ *core, Fill *fill, int but) noexcept nogil:
    # [fill lock] Every loop with somebody who waits looks at it; but: that one does so by itself.
    cdef uint32_t index
    cdef FillSide *side
    for index in range(fill.side_count):
        side = &fill.sides[index]
        if side.waiting and not side.is_posted and <int> index != but:
            fill_post_to(core, fill, index)


cdef void fill_post_to(Core_ *core, Fill *fill, uint32_t index) noexcept nogil:
    # [fill lock]
    cdef FillSide *side = &fill.sides[index]
    side.is_posted = True
    fill.refs += 1
    side.letter.kind = LETTER_FILL
    side.letter.is_owned = False
    side.letter.subject = fill
    mailbox_post(&core.loops[index].mailbox, &side.letter)


cdef void fill_on_letter(Loop *loop, Fill *fill) noexcept nogil:
    cdef FillBucket *bucket = fill_bucket(loop.core, fill.hash)
    cdef Exchange *maker = NULL
    pthread_mutex_lock(&bucket.lock)
    fill.sides[loop.index].is_posted = False
    if fill.loop == loop.index and fill_is_forsaken(fill):
        maker = fill.maker
    pthread_mutex_unlock(&bucket.lock)
    if maker != NULL:
        fill_cancel(loop, fill, maker)
    fill_run_side(loop, fill)
    pthread_mutex_lock(&bucket.lock)
    fill_release(loop.core, fill)
    pthread_mutex_unlock(&bucket.lock)


cdef inline bint fill_is_forsaken(const Fill *fill) noexcept nogil:
    # [fill lock] All have left before its response began.
    return (fill.maker != NULL and fill.waiting == 0 and fill.state == FILL_ASKED
            and not fill.is_background)


cdef void fill_set_state(Loop *loop, Fill *fill, uint8_t state) noexcept nogil:
    # By the maker's loop. In the end (anything but STORING) the maker lets go.
    cdef FillBucket *bucket = fill_bucket(loop.core, fill.hash)
    pthread_mutex_lock(&bucket.lock)
    fill.state = state
    if state != FILL_STORING:
        fill_unlink(loop.core, fill)
        fill.maker = NULL
    fill.refs += 1
    fill_post(loop.core, fill, loop.index)
    pthread_mutex_unlock(&bucket.lock)
    fill_run_side(loop, fill)
    pthread_mutex_lock(&bucket.lock)
    if state != FILL_STORING:
        fill_release(loop.core, fill)
    fill_release(loop.core, fill)
    pthread_mutex_unlock(&bucket.lock)


cdef void fill_progress(Loop *loop, Fill *fill) noexcept nogil:
    # More of its content is there.
    cdef FillBucket *bucket
    if fill.is_streamed and fill.side_count > 1:
        bucket = fill_bucket(loop.core, fill.hash)
        pthread_mutex_lock(&bucket.lock)
        fill_post(loop.core, fill, loop.index)
        pthread_mutex_unlock(&bucket.lock)
    fill_run_side(loop, fill)


# --- asking ---------------------------------------------------------------------------------------

cdef void cache_ask(Loop *loop, Exchange *exchange, uint32_t vary_bytes) noexcept nogil:
    # The store has no answer to this request: it waits for one that is on its way, or asks for one.
    # vary_bytes: of the secondary key in loop.key that it is expected to have; 0: not known.
    cdef Core_ *core = loop.core
    cdef FillBucket *bucket = fill_bucket(core, exchange.cache_hash)
    cdef Entry *entry = NULL
    cdef FieldView view
    cdef Fill *fill = NULL
    cdef bint is_new = False, is_fresh = False
    cdef uint8_t state = FILL_ASKED
    if exchange.queued_ns == 0:
        exchange.queued_ns = loop.now_ns
    image_view(loop, exchange, &view)
    pthread_mutex_lock(&bucket.lock)
    if not exchange.is_reload:
        fill = fill_find(core, bucket, exchange, &view)
    if fill == NULL:
        is_fresh = store_answers(loop, exchange, &view, &entry)
        if not is_fresh:
            fill = fill_begin(loop, exchange, entry, vary_bytes, False)
            is_new = fill != NULL
    if fill != NULL:
        side_push(loop, fill, exchange)
        state = fill.state
    pthread_mutex_unlock(&bucket.lock)
    if is_fresh:
        exchange_answer(loop, exchange, entry, CACHED_HIT, span_of(NULL, 0))
        return
    if fill == NULL:
        exchange_go_alone(loop, exchange)
        return
    if is_new:
        exchange.is_leader = True
        arrivals_push(loop, fill.maker)
        return
    if not exchange.conn.has_fin:
        conn_start_timer(loop, exchange.conn, waiting_patience_ns(exchange))
    atomic.tally(&loop.counters[COUNT_CACHE_COLLAPSED], 1)
    exchange.cache_word = CACHED_COLLAPSED
    if state == FILL_STORING:
        # Alone: who waits beside it may be being looked at just now (fill_run_side).
        waiting_on_storing(loop, fill, exchange)


cdef inline uint64_t queue_timeout_ns(const Exchange *exchange) noexcept nogil:
    return atomic.load_relaxed(&exchange.pool.limits.queue_timeout_ns)  # relaxed: a setting


cdef inline uint64_t waiting_patience_ns(const Exchange *exchange) noexcept nogil:
    cdef uint64_t limit = queue_timeout_ns(exchange)
    return limit if 0 < limit < WAITING_NS else <uint64_t> WAITING_NS


cdef bint store_answers(Loop *loop, const Exchange *exchange, const FieldView *view,
                        Entry **entry) noexcept nogil:
    # What came into the store since the look-up; entry: what is there, fresh or not.
    cdef RequestFacts facts
    cdef Span key = image_key(exchange)
    entry[0] = store_find(&loop.core.store, exchange.application, key.at, <uint32_t> key.bytes,
                          exchange.cache_hash, view, loop_seconds(loop))
    if entry[0] == NULL:
        return False
    request_facts_read(view, wall_seconds(), &facts)
    return reuse_decide(&entry[0].facts, &facts, entry_age_s(loop, entry[0])) == REUSE_FRESH


cdef Fill *fill_find(Core_ *core, const FillBucket *bucket, const Exchange *exchange,
                     const FieldView *view) noexcept nogil:
    # [fill lock] One whose response this request may wait for.
    cdef Fill *fill = bucket.first
    cdef Span key = image_key(exchange)
    while fill != NULL:
        if (fill.hash == exchange.cache_hash and fill.application == exchange.application
                and fill.waiting < FILL_WAITING_MAX
                and span_is(key, <const char *> fill.key, fill.key_bytes)
                and fill_fits(fill, exchange, view)
                and not store_flushed_since(&core.store, fill.application, fill.hash,
                                            fill.serial)):
            return fill
        fill = fill.next
    return NULL


cdef bint fill_fits(const Fill *fill, const Exchange *exchange,
                    const FieldView *view) noexcept nogil:
    # As far as it is known on what the response depends.
    cdef const Entry *known = fill.entry if fill.entry != NULL else fill.stale
    if known == NULL and fill.vary_bytes:
        return vary_key_matches(fill.vary, fill.vary_bytes, view)
    if known == NULL:
        return not exchange.is_choosy
    return vary_key_matches(entry_vary(known), known.vary_bytes, view)


cdef Fill *fill_begin(Loop *loop, const Exchange *exchange, Entry *stale, uint32_t vary_bytes,
                      bint is_background) noexcept nogil:
    # [fill lock] Makes the fill and its maker. NULL: no memory.
    cdef Core_ *core = loop.core
    cdef uint32_t loops = core.settings.loop_count
    cdef size_t sides_bytes = loops * sizeof(FillSide)
    cdef Fill *fill = <Fill *> malloc(sizeof(Fill) + sides_bytes + exchange.key_bytes + vary_bytes)
    cdef Exchange *maker
    if fill == NULL:
        return NULL
    maker = exchange_new(loop, NULL)
    if maker == NULL or not image_for_store(maker, exchange, stale):
        if maker != NULL:
            exchange_free(loop, maker)
        free(fill)
        return NULL
    memset(fill, 0, sizeof(Fill) + sides_bytes)
    fill.sides = <FillSide *> (<uint8_t *> fill + sizeof(Fill))
    fill.side_count = loops
    fill.key = <uint8_t *> fill + sizeof(Fill) + sides_bytes
    fill.key_bytes = exchange.key_bytes
    memcpy(<void *> fill.key, exchange.image + exchange.key_at, exchange.key_bytes)
    fill.vary = fill.key + fill.key_bytes
    fill.vary_bytes = vary_bytes
    memcpy(<void *> fill.vary, loop.key, vary_bytes)
    fill.hash = exchange.cache_hash
    fill.application = exchange.application
    fill.serial = exchange.cache_serial
    fill.loop = loop.index
    fill.maker = maker
    fill.refs = 1
    fill.is_background = is_background
    if stale != NULL:
        entry_pin(stale)
        fill.stale = stale
    if not exchange.is_reload:
        fill.is_linked = True
        fill.next = fill_bucket(core, fill.hash).first
        fill_bucket(core, fill.hash).first = fill
    maker_init(loop, maker, exchange, fill)
    return fill


cdef void maker_init(Loop *loop, Exchange *maker, const Exchange *exchange,
                     Fill *fill) noexcept nogil:
    exchange_follow(loop, maker, exchange)
    maker.fill = fill
    maker.is_maker = True
    maker.is_idempotent = True
    maker.is_11 = exchange.is_11
    maker.content_is_whole = True
    maker.content_length = 0
    maker.cache_hash = exchange.cache_hash
    maker.cache_serial = exchange.cache_serial


cdef void cache_revalidate_behind(Loop *loop, Exchange *exchange) noexcept nogil:
    # Its client was answered with something stale (RFC 5861 §3): asks anew for nobody who waits,
    # unless somebody has. Frees the exchange.
    cdef FillBucket *bucket = fill_bucket(loop.core, exchange.cache_hash)
    cdef Entry *entry = NULL
    cdef Fill *fill = NULL
    cdef FieldView view
    image_view(loop, exchange, &view)
    pthread_mutex_lock(&bucket.lock)
    if fill_find(loop.core, bucket, exchange, &view) == NULL:
        if not store_answers(loop, exchange, &view, &entry):
            fill = fill_begin(loop, exchange, entry, 0, True)
    pthread_mutex_unlock(&bucket.lock)
    if fill != NULL:
        arrivals_push(loop, fill.maker)
    exchange.conn = NULL
    exchange_free(loop, exchange)


cdef void exchange_go_alone(Loop *loop, Exchange *exchange) noexcept nogil:
    # Into the request queue, as it is; its response may be stored all the same.
    exchange.may_store = True
    exchange.cache_word = CACHED_MISS
    conn_quiet_timer(exchange.conn)
    conn_on_half_close(loop, exchange.conn)
    arrivals_push(loop, exchange)


# --- waiting --------------------------------------------------------------------------------------

cdef void side_push(Loop *loop, Fill *fill, Exchange *exchange) noexcept nogil:
    # [fill lock]
    cdef FillSide *side = &fill.sides[loop.index]
    exchange.fill = fill
    exchange.next = NULL
    exchange.previous = side.last
    if side.last == NULL:
        side.first = exchange
    else:
        side.last.next = exchange
    side.last = exchange
    side.waiting += 1
    fill.waiting += 1
    fill.refs += 1


cdef void side_remove(Loop *loop, Exchange *exchange) noexcept nogil:
    # It waits no longer. The fill may be freed.
    cdef Fill *fill = exchange.fill
    cdef FillBucket *bucket = fill_bucket(loop.core, fill.hash)
    cdef FillSide *side = &fill.sides[loop.index]
    pthread_mutex_lock(&bucket.lock)
    if exchange.previous == NULL:
        side.first = exchange.next
    else:
        exchange.previous.next = exchange.next
    if exchange.next == NULL:
        side.last = exchange.previous
    else:
        exchange.next.previous = exchange.previous
    exchange.next = exchange.previous = NULL
    exchange.fill = NULL
    side.waiting -= 1
    fill.waiting -= 1
    fill_release(loop.core, fill)
    pthread_mutex_unlock(&bucket.lock)


cdef Worker *fill_leave(Loop *loop, Exchange *exchange) noexcept nogil:
    # Its client has gone, or was answered in another way. If it was the last, nobody wants the
    # response that was asked for; gives the worker that goes on executing that.
    cdef Fill *fill = exchange.fill
    cdef FillBucket *bucket = fill_bucket(loop.core, fill.hash)
    cdef Exchange *maker = NULL
    cdef Worker *executing = NULL
    pthread_mutex_lock(&bucket.lock)
    fill.refs += 1
    pthread_mutex_unlock(&bucket.lock)
    side_remove(loop, exchange)
    pthread_mutex_lock(&bucket.lock)
    if fill_is_forsaken(fill):
        if fill.loop == loop.index:
            maker = fill.maker
        elif not fill.sides[fill.loop].is_posted:
            fill_post_to(loop.core, fill, fill.loop)
    pthread_mutex_unlock(&bucket.lock)
    if maker != NULL:
        executing = fill_cancel(loop, fill, maker)
    pthread_mutex_lock(&bucket.lock)
    fill_release(loop.core, fill)
    pthread_mutex_unlock(&bucket.lock)
    return executing


cdef Worker *fill_cancel(Loop *loop, Fill *fill, Exchange *maker) noexcept nogil:
    # The maker's loop. Whoever joined meanwhile asks again.
    maker_let_go(maker)
    fill_set_state(loop, fill, FILL_FAILED)
    return exchange_leave(loop, maker)


cdef void waiting_on_timer(Loop *loop, Exchange *exchange) noexcept nogil:
    # It waits for as long as in the request queue; but not for a response of which nothing says
    # that it will be one to share: then it goes on by itself, beside the others.
    cdef Fill *fill = exchange.fill
    cdef FillBucket *bucket = fill_bucket(loop.core, fill.hash)
    cdef uint64_t limit = queue_timeout_ns(exchange)
    cdef bint is_known
    if limit and loop.now_ns >= exchange.queued_ns + limit:
        exchange_refuse(loop, exchange, REASON_TIMER_REQUEST_QUEUE)
        return
    # It may have been a probe's (conn_on_half_close).
    if loop.now_ns < exchange.queued_ns + waiting_patience_ns(exchange):
        conn_start_timer(loop, exchange.conn,
                         exchange.queued_ns + waiting_patience_ns(exchange) - loop.now_ns)
        return
    pthread_mutex_lock(&bucket.lock)
    is_known = fill.stale != NULL or fill.entry != NULL
    pthread_mutex_unlock(&bucket.lock)
    if is_known:
        conn_start_timer(loop, exchange.conn,
                         exchange.queued_ns + limit - loop.now_ns if limit else 0)
        return
    fill_leave(loop, exchange)
    exchange_go_alone(loop, exchange)


cdef inline void maker_let_go(Exchange *maker) noexcept nogil:
    # From here on it is a request whose client has gone.
    maker.fill = NULL
    maker.is_maker = False


cdef void fill_run_side(Loop *loop, Fill *fill) noexcept nogil:
    # What has become of the fill, for everyone of this loop who waits for it; in the end they are
    # answered and leave, and those beyond ENDS_PER_TURN in the next turn.
    cdef FillBucket *bucket = fill_bucket(loop.core, fill.hash)
    cdef Exchange *exchange
    cdef Exchange *following
    cdef uint32_t ends_left = ENDS_PER_TURN
    cdef uint8_t state
    pthread_mutex_lock(&bucket.lock)
    state = fill.state
    fill.refs += 1
    pthread_mutex_unlock(&bucket.lock)
    exchange = fill.sides[loop.index].first
    while exchange != NULL and ends_left:
        following = exchange.next
        if state == FILL_STORING:
            waiting_on_storing(loop, fill, exchange)
        elif state != FILL_ASKED:
            waiting_on_end(loop, fill, exchange, state)
            ends_left -= 1
        exchange = following
    pthread_mutex_lock(&bucket.lock)
    if exchange != NULL and not fill.sides[loop.index].is_posted:
        fill_post_to(loop.core, fill, loop.index)
    fill_release(loop.core, fill)
    pthread_mutex_unlock(&bucket.lock)


cdef bint waiting_fits(Loop *loop, const Fill *fill, const Exchange *exchange) noexcept nogil:
    cdef FieldView view
    # The leader's response is the leader's: its own conditions are not the maker's.
    cdef const Entry *entry = fill.entry
    if entry.vary_bytes == 0 or exchange.is_leader:
        return True
    image_view(loop, exchange, &view)
    return vary_key_matches(entry_vary(entry), entry.vary_bytes, &view)


cdef void waiting_on_storing(Loop *loop, Fill *fill, Exchange *exchange) noexcept nogil:
    # Reads along, if the length is known (what is too long at last could not be taken back), or if
    # it is the one for whom it was asked.
    if exchange.entry == NULL:
        if not waiting_fits(loop, fill, exchange):
            side_remove(loop, exchange)
            exchange_ask_again(loop, exchange, fill.entry)
            return
        if not exchange.is_leader and (not fill.is_streamed or image_has_condition(exchange)):
            return
        waiting_begin(loop, fill, exchange)
    elif exchange.conn.out_bytes == 0:
        response_send_body(loop, exchange)


cdef bint image_has_condition(const Exchange *exchange) noexcept nogil:
    # It may get a 304 or a part: when the entry is whole.
    return (image_field(exchange, FIELD_IF_NONE_MATCH).bytes > 0
            or image_field(exchange, FIELD_IF_MODIFIED_SINCE).bytes > 0
            or image_field(exchange, FIELD_RANGE).bytes > 0)


cdef inline Span fill_own_lines(const Fill *fill, const Exchange *exchange) noexcept nogil:
    return span_of(fill.own_lines, fill.own_lines_bytes if exchange.is_leader else 0)


cdef void waiting_begin(Loop *loop, Fill *fill, Exchange *exchange) noexcept nogil:
    # The head, then whatever of the content is there.
    cdef Answer answer
    memset(&answer, 0, sizeof(answer))
    conn_quiet_timer(exchange.conn)
    answer.entry = fill.entry
    answer.age_s = entry_age_s(loop, fill.entry)
    answer.word = exchange.cache_word
    answer.is_11 = exchange.is_11
    answer.own_lines = fill_own_lines(fill, exchange)
    answer.status = fill.entry.status
    answer.length = fill.entry.body.length
    if answer.status == 204:
        answer.framing = FRAMING_NONE
        answer.length = -1
    elif answer.length >= 0:
        answer.framing = FRAMING_LENGTH
    else:
        answer.framing = FRAMING_CHUNKED if exchange.is_11 else FRAMING_CLOSE
    exchange.is_following = True
    exchange_answer_begin(loop, exchange, &answer)


cdef void waiting_on_end(Loop *loop, Fill *fill, Exchange *exchange, uint8_t state) noexcept nogil:
    cdef bint is_whole = state == FILL_WHOLE
    cdef int reason
    if is_whole and exchange.entry == NULL and not waiting_fits(loop, fill, exchange):
        side_remove(loop, exchange)
        exchange_ask_again(loop, exchange, fill.entry)
        return
    if exchange.entry != NULL:
        side_remove(loop, exchange)
        waiting_on_body_end(loop, exchange, is_whole)
        return
    conn_quiet_timer(exchange.conn)
    if is_whole or state == FILL_STALE:
        waiting_answer(loop, fill, exchange, state)
    elif state == FILL_FAILED and fill.reason and (
            exchange.is_leader or waiting_is_over(loop, exchange, fill.reason)):
        reason = fill.reason
        side_remove(loop, exchange)
        exchange_refuse(loop, exchange, reason)
    else:
        side_remove(loop, exchange)
        exchange.failures += state == FILL_FAILED
        if (state == FILL_PASSED or exchange.is_reload
                or exchange.failures > RETRIES_TOGETHER):
            exchange_go_alone(loop, exchange)
        else:
            exchange_ask_again(loop, exchange, NULL)


cdef bint waiting_is_over(const Loop *loop, const Exchange *exchange, int reason) noexcept nogil:
    # What was asked for waited too long in the request queue: so did this one, about.
    return (reason == REASON_TIMER_REQUEST_QUEUE
            and loop.now_ns + HEALTH_TICK_NS * 2
            >= exchange.queued_ns + queue_timeout_ns(exchange))


cdef void waiting_answer(Loop *loop, Fill *fill, Exchange *exchange, uint8_t state) noexcept nogil:
    # With the entry that is whole, or the stale one. The fill keeps it until we have it.
    cdef Entry *entry = fill.entry if state == FILL_WHOLE else fill.stale
    cdef uint8_t word = exchange.cache_word
    entry_pin(entry)
    side_remove(loop, exchange)
    if state == FILL_STALE:
        word = CACHED_STALE_ON_ERROR
    elif fill.is_freshened:
        word = CACHED_REVALIDATED
    exchange_answer(loop, exchange, entry, word, fill_own_lines(fill, exchange))
    entry_unpin(&loop.core.store, entry)


cdef void waiting_on_body_end(Loop *loop, Exchange *exchange, bint is_whole) noexcept nogil:
    # It reads along: now the end is known.
    if not is_whole:
        exchange_abort(loop, exchange, REASON_RESPONSE_CUT)
        return
    exchange.is_following = False
    exchange.body_end = body_filled(exchange.body)
    if exchange.conn.out_bytes == 0:
        response_send_body(loop, exchange)


cdef void exchange_ask_again(Loop *loop, Exchange *exchange, const Entry *other) noexcept nogil:
    # other: the variant that it turned out not to want.
    cdef FieldView lines, view
    cdef size_t bytes = 0
    exchange.is_leader = False
    exchange.cache_word = CACHED_MISS
    exchange.cache_serial = store_serial(&loop.core.store, exchange.cache_hash)
    if other != NULL:
        exchange.is_choosy = True
        lines_view(loop, loop.fields, entry_head(other), other.head_bytes,
                   other.status_line_bytes, &lines)
        image_view(loop, exchange, &view)
        bytes = vary_key_put(loop.key, CACHE_KEY_MAX, &lines, &view)
    cache_ask(loop, exchange, 0 if bytes == CACHE_KEY_NONE else <uint32_t> bytes)
