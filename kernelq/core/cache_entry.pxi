# Entries made of response heads: which lines are kept, freshening by a 304, invalidation.

cdef enum:
    SAYS_OURS = 1 << 30            # StoredFacts.seen: Kernelq-Cache-Control had a part in it
    LINE_DROPPED = 0
    LINE_OF_304 = 1                # RFC 9110 §15.4.5, and what caches behind us need
    LINE_OTHER = 2


cdef int line_class(const FieldView *view, uint32_t index) noexcept nogil:
    cdef const FieldLine *line = &view.lines[index]
    cdef Span name = span_of(view.at + line.name_at, line.name_bytes)
    if (field_is_ours(name.at, line.name_bytes) or not field_is_kept(name.at, line.name_bytes)
            or directive_names_field(view, name)):
        return LINE_DROPPED
    if (span_is_nocase(name, b"cache-control", 13) or span_is_nocase(name, b"date", 4)
            or span_is_nocase(name, b"etag", 4) or span_is_nocase(name, b"expires", 7)
            or span_is_nocase(name, b"vary", 4) or span_is_nocase(name, b"content-location", 16)
            or span_is_nocase(name, b"last-modified", 13)
            or span_is_nocase(name, b"cdn-cache-control", 17)
            or span_is_nocase(name, b"server", 6)):
        return LINE_OF_304
    return LINE_OTHER


cdef uint8_t *line_put(uint8_t *at, const FieldView *view, uint32_t index) noexcept nogil:
    cdef const FieldLine *line = &view.lines[index]
    at = text_put(at, <const char *> view.at + line.name_at, line.name_bytes)
    at = text_put(at, b": ", 2)
    at = text_put(at, <const char *> view.at + line.value_at, line.value_bytes)
    return text_put(at, b"\r\n", 2)


cdef uint8_t *lines_put(uint8_t *at, const FieldView *view, int wanted) noexcept nogil:
    cdef uint32_t index
    for index in range(view.count):
        if line_class(view, index) == wanted:
            at = line_put(at, view, index)
    return at


cdef void own_lines_keep(Fill *fill, const FieldView *view,
                         const ResponseFacts *facts) noexcept nogil:
    # What no-cache="…" or private="…" names is not stored, and yet the first client's. Without
    # memory it is lost to that one, too.
    cdef uint32_t index
    cdef uint8_t *at
    if not facts.directives.seen & (SAYS_NO_CACHE_FIELDS | SAYS_PRIVATE_FIELDS):
        return
    fill.own_lines = <uint8_t *> malloc(lines_bytes(view) + 1)
    if fill.own_lines == NULL:
        return
    at = fill.own_lines
    for index in range(view.count):
        if line_is_own(view, index):
            at = line_put(at, view, index)
    fill.own_lines_bytes = <uint32_t> (at - fill.own_lines)


cdef bint line_is_own(const FieldView *view, uint32_t index) noexcept nogil:
    cdef const FieldLine *line = &view.lines[index]
    cdef Span name = span_of(view.at + line.name_at, line.name_bytes)
    return (not field_is_ours(name.at, line.name_bytes) and field_is_kept(name.at, line.name_bytes)
            and directive_names_field(view, name))


cdef inline bint view_has(const FieldView *view, const char *name, uint32_t bytes) noexcept nogil:
    return view_names(view, span_of(name, bytes))


cdef Entry *entry_make(Loop *loop, const Exchange *exchange, const ResponseRecord *record,
                       const uint8_t *copy, const FieldView *view, const ResponseFacts *facts,
                       bint is_end) noexcept nogil:
    # An entry with an empty body, pinned. NULL: it cannot be stored.
    cdef Entry *entry
    cdef uint8_t *at = loop.head_out
    cdef const uint8_t *phrase = (copy + sizeof(ResponseRecord)
                                  + <size_t> record.field_count * sizeof(FieldEntry))
    cdef uint32_t status_line_bytes, head_304_bytes
    cdef FieldView request
    cdef size_t vary_bytes
    at = text_put(status_line_put(at, record.status, phrase, record.reason_bytes), b"\r\n", 2)
    status_line_bytes = <uint32_t> (at - loop.head_out)
    at = lines_put(at, view, LINE_OF_304)
    at = server_and_date_put(loop, at, view_has(view, b"server", 6), view_has(view, b"date", 4))
    head_304_bytes = <uint32_t> (at - loop.head_out) - status_line_bytes
    at = lines_put(at, view, LINE_OTHER)
    image_view(loop, exchange, &request)
    vary_bytes = vary_key_put(loop.key, CACHE_KEY_MAX, view, &request)
    if vary_bytes == CACHE_KEY_NONE or at - loop.head_out > KEPT_HEAD_MAX:
        return NULL
    entry = entry_fill_in(loop, exchange, view, facts, <uint32_t> (at - loop.head_out),
                          head_304_bytes, <uint32_t> vary_bytes)
    if entry == NULL:
        return NULL
    entry.status = record.status
    entry.status_line_bytes = <uint16_t> status_line_bytes
    entry.body = body_new(&loop.core.store, response_length(record, is_end))
    if entry.body == NULL:
        entry_unpin(&loop.core.store, entry)
        return NULL
    return entry


cdef Entry *entry_fill_in(Loop *loop, const Exchange *exchange, const FieldView *view,
                          const ResponseFacts *facts, uint32_t head_bytes, uint32_t head_304_bytes,
                          uint32_t vary_bytes) noexcept nogil:
    # From loop.head_out (head), loop.key (secondary key) and the facts.
    cdef Core_ *core = loop.core
    cdef Span key = image_key(exchange)
    cdef uint64_t groups[GROUPS_MAX]
    cdef uint32_t group_count = entry_groups(core, view, b"cache-groups", key, groups)
    cdef Entry *entry = NULL
    cdef int64_t now_s = wall_seconds()
    cdef int64_t asked_s = now_s - <int64_t> ((loop.now_ns - exchange.arrived_ns) // 1000000000)
    cdef bint has_query = memchr(key.at, 63, key.bytes) != NULL
    cdef Span line
    if group_count <= GROUPS_MAX:
        entry = entry_new(&core.store, key.at, <uint32_t> key.bytes, exchange.cache_hash,
                          exchange.application, loop.key, vary_bytes, groups, group_count,
                          loop.head_out, head_bytes, head_304_bytes)
    if entry == NULL:
        return NULL
    entry.serial = exchange.cache_serial
    entry.received_ns = loop.now_ns
    entry.date_s = facts.date_s if facts.date_s >= 0 else now_s
    entry.modified_s = facts.modified_s
    entry.age_s = response_age_s(facts, asked_s, now_s)
    entry.facts.seen = facts.directives.seen
    if view_has(view, b"kernelq-cache-control", 21):
        entry.facts.seen |= SAYS_OURS
    entry.facts.lifetime_s = response_lifetime_s(facts, core.settings.cache_mode, has_query, now_s)
    entry.facts.stale_while_revalidate_s = facts.directives.stale_while_revalidate_s
    entry.facts.stale_if_error_s = facts.directives.stale_if_error_s
    entry.status_line_bytes = <uint16_t> (
        <const uint8_t *> memchr(entry_head(entry), 10, head_bytes) + 1 - entry_head(entry))
    if facts.etag.bytes and facts.etag.bytes <= VALIDATOR_BYTES_MAX:
        line = head_line_find(entry, b"etag", 4)
        entry.etag_at = <uint32_t> (line.at - entry_head(entry)) + 6
        entry.etag_bytes = <uint16_t> facts.etag.bytes
    return entry


cdef uint32_t entry_groups(Core_ *core, const FieldView *view, const char *name, Span key,
                           uint64_t *groups) noexcept nogil:
    # RFC 9875 §2: a group is of one origin.
    cdef uint64_t origin = origin_hash(core, key)
    cdef uint32_t count = groups_read(view, name, groups, GROUPS_MAX, core.store.seed)
    cdef uint32_t index
    for index in range(min(count, <uint32_t> GROUPS_MAX)):
        groups[index] ^= origin
    return count


cdef uint64_t origin_hash(Core_ *core, Span key) noexcept nogil:
    # Of "scheme://host".
    cdef size_t bytes = 8 if key.bytes > 8 and key.at[4] == c"s" else 7
    while bytes < key.bytes and key.at[bytes] != c"/":
        bytes += 1
    return siphash(core.store.seed, key.at, bytes)


# --- 304 ------------------------------------------------------------------------------------------

cdef int maker_on_not_modified(Loop *loop, Exchange *maker, const uint8_t *copy,
                               const FieldView *view, const ResponseFacts *facts) noexcept nogil:
    # RFC 9111 §4.3.4: the stale entry is good again, with the fields of the 304.
    cdef Fill *fill = maker.fill
    cdef FillBucket *bucket = fill_bucket(loop.core, fill.hash)
    cdef Entry *stale = fill.stale
    cdef Entry *entry
    if facts.etag.bytes and stale.etag_bytes and not spans_equal(facts.etag, entry_etag(stale)):
        # About another representation than ours: ask again, for the whole.
        store_invalidate(&loop.core.store, stale.application, entry_key(stale), stale.key_bytes,
                         stale.hash)
        maker_end(loop, maker, FILL_FAILED)
        return HEAD_TAKEN
    entry = entry_freshen(loop, maker, stale, view, facts)
    atomic.tally(&loop.counters[COUNT_CACHE_REVALIDATED], 1)
    if entry == NULL:
        maker_end(loop, maker, FILL_STALE)
        return HEAD_TAKEN
    pthread_mutex_lock(&bucket.lock)
    fill.entry = entry
    fill.is_freshened = True
    pthread_mutex_unlock(&bucket.lock)
    store_put(&loop.core.store, entry, maker.cache_serial)
    maker_end(loop, maker, FILL_WHOLE)
    return HEAD_TAKEN


cdef inline bint spans_equal(Span a, Span b) noexcept nogil:
    return a.bytes == b.bytes and memcmp(a.at, b.at, a.bytes) == 0


cdef Entry *entry_freshen(Loop *loop, const Exchange *maker, Entry *stale,
                          const FieldView *view, const ResponseFacts *new_) noexcept nogil:
    # RFC 9111 §3.2: each field of the 304 replaces what is stored under its name. NULL: no room.
    cdef FieldView old
    cdef FieldView all
    cdef ResponseFacts facts
    cdef Entry *entry
    cdef uint8_t *at = loop.head_out
    cdef uint32_t head_304_bytes
    cdef bint keeps_date = not view_has(view, b"date", 4)
    if stale.head_bytes + lines_bytes(view) + DATE_LINE_BYTES > KEPT_HEAD_MAX:
        return NULL
    lines_view(loop, loop.view, entry_head(stale), stale.head_bytes, stale.status_line_bytes, &old)
    at = text_put(at, <const char *> entry_head(stale), stale.status_line_bytes)
    at = lines_merged(at, &old, view, LINE_OF_304, keeps_date)
    if keeps_date:
        at = text_put(at, loop_date(loop), DATE_LINE_BYTES)
    head_304_bytes = <uint32_t> (at - loop.head_out) - stale.status_line_bytes
    at = lines_merged(at, &old, view, LINE_OTHER, False)
    lines_view(loop, loop.view, loop.head_out, <uint32_t> (at - loop.head_out),
               stale.status_line_bytes, &all)
    response_facts_read(&all, stale.status, wall_seconds(), &facts)
    facts.age_s = new_.age_s
    if view_has(view, b"kernelq-cache-control", 21):
        facts.directives = new_.directives
        facts.is_targeted = new_.is_targeted
    memcpy(loop.key, entry_vary(stale), stale.vary_bytes)
    entry = entry_fill_in(loop, maker, &all, &facts, <uint32_t> (at - loop.head_out),
                          head_304_bytes, stale.vary_bytes)
    if entry == NULL:
        return NULL
    if stale.facts.seen & SAYS_OURS and not view_has(view, b"kernelq-cache-control", 21):
        entry.facts = stale.facts  # what it was made of is not stored
    entry.status = stale.status
    entry.body = stale.body
    body_pin(stale.body)
    return entry


cdef uint64_t lines_bytes(const FieldView *view) noexcept nogil:
    # All of them, as line_put() writes them.
    cdef uint64_t bytes = 0
    cdef uint32_t index
    for index in range(view.count):
        bytes += <uint64_t> view.lines[index].name_bytes + view.lines[index].value_bytes + 4
    return bytes


cdef uint8_t *lines_merged(uint8_t *at, const FieldView *old, const FieldView *new_, int wanted,
                           bint drops_date) noexcept nogil:
    cdef uint32_t index
    cdef Span name
    for index in range(old.count):
        name = span_of(old.at + old.lines[index].name_at, old.lines[index].name_bytes)
        if line_class(old, index) != wanted or view_names(new_, name):
            continue
        if drops_date and span_is_nocase(name, b"date", 4):
            continue
        at = line_put(at, old, index)
    for index in range(new_.count):
        name = span_of(new_.at + new_.lines[index].name_at, new_.lines[index].name_bytes)
        if line_class(new_, index) == wanted and not span_is_nocase(name, b"content-length", 14):
            at = line_put(at, new_, index)
    return at


cdef bint view_names(const FieldView *view, Span name) noexcept nogil:
    cdef uint32_t index
    for index in range(view.count):
        if spans_are_nocase(view_name(view, index), name):
            return True
    return False


cdef void lines_view(const Loop *loop, FieldLine *room, const uint8_t *head, uint32_t head_bytes,
                     uint32_t from_, FieldView *view) noexcept nogil:
    # The lines of a stored head, as many as have room (loop.fields or loop.view).
    cdef const uint8_t *at = head + from_
    cdef const uint8_t *end = head + head_bytes
    cdef const uint8_t *colon
    cdef const uint8_t *line_end
    cdef FieldLine *line
    view.at = head
    view.lines = room
    view.count = 0
    while at < end and view.count < loop.core.settings.field_count + FIELDS_ADDED:
        colon = <const uint8_t *> memchr(at, 58, end - at)
        line_end = <const uint8_t *> memchr(at, 13, end - at)
        if colon == NULL or line_end == NULL or line_end < colon + 2:
            break
        line = &room[view.count]
        line.known = 0
        line.name_at = <uint32_t> (at - head)
        line.name_bytes = <uint16_t> (colon - at)
        line.value_at = <uint32_t> (colon + 2 - head)
        line.value_bytes = <uint32_t> (line_end - colon - 2)
        view.count += 1
        at = line_end + 2


cdef void cache_compare(Loop *loop, const Exchange *exchange, const ResponseRecord *record,
                        const ResponseFacts *facts) noexcept nogil:
    # RFC 9111 §4.3.5: a HEAD that shows another representation than the stored one ends that.
    cdef Span key = image_key(exchange)
    cdef FieldView view
    cdef const Entry *entry
    if record.status != 200 or key.bytes == 0:
        return
    image_view(loop, exchange, &view)
    entry = store_find(&loop.core.store, exchange.application, key.at, <uint32_t> key.bytes,
                       exchange.cache_hash, &view, loop_seconds(loop))
    if entry == NULL:
        return
    if ((facts.etag.bytes and not spans_equal(facts.etag, entry_etag(entry)))
            or (facts.modified_s >= 0 and facts.modified_s != entry.modified_s)
            or (record.content_length >= 0
                and <uint64_t> record.content_length != body_filled(entry.body))):
        store_invalidate(&loop.core.store, exchange.application, key.at, <uint32_t> key.bytes,
                         exchange.cache_hash)


# --- invalidation ---------------------------------------------------------------------------------

cdef void cache_invalidate(Loop *loop, Exchange *exchange, const ResponseFacts *facts,
                           const FieldView *view) noexcept nogil:
    # RFC 9111 §4.4: a successful unsafe request invalidates its target, and what Location and
    # Content-Location name of the same origin, as far as its own application answers it; RFC 9875
    # §3: the groups it names, which are of the origin, whoever answers there.
    cdef Core_ *core = loop.core
    cdef const RequestRecord *record = <const RequestRecord *> exchange.image
    cdef uint64_t groups[GROUPS_MAX]
    cdef uint8_t extra[EXTRA_MAX]
    cdef uint8_t *extra_end = image_extra_put(extra, exchange)
    cdef uint32_t index, count
    cdef Span method, remote, more
    cdef Span host = image_field(exchange, FIELD_HOST)
    cdef RequestHead head
    cdef size_t bytes
    memset(&head, 0, sizeof(head))
    image_line(exchange, &method, &remote, &head.target)
    if not 200 <= facts.status < 400 or extra_end == NULL or target_split(&head) != 0:
        return
    more = span_of(extra, extra_end - extra)
    bytes = cache_key_put(loop.key, CACHE_KEY_MAX, record.is_https, host, head.path, head.query,
                          head.has_query, more)
    if bytes == CACHE_KEY_NONE:
        return
    count = entry_groups(core, view, b"cache-group-invalidation", span_of(loop.key, bytes), groups)
    for index in range(min(count, <uint32_t> GROUPS_MAX)):
        store_flush_group(&core.store, groups[index])
    key_invalidate(loop, exchange.application, bytes)
    for index in range(2):
        bytes = reference_key_put(loop.key, CACHE_KEY_MAX, record.is_https, host, head.path,
                                  head.query, head.has_query, more,
                                  facts.location if index == 0 else facts.content_location)
        key_invalidate(loop, exchange.application, bytes)


cdef void key_invalidate(Loop *loop, uint32_t application, size_t bytes) noexcept nogil:
    # The key in loop.key, if there is one.
    if bytes != CACHE_KEY_NONE:
        store_invalidate(&loop.core.store, application, loop.key, <uint32_t> bytes,
                         store_hash(&loop.core.store, application, loop.key, bytes))
