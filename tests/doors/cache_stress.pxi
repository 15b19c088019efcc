# The cache's store under threads: loops that look up, pin and fill, managers that flush, sweep and
# list. Every content says of which key and version it is, in every byte that is looked at.
#
# The application behind it is a table of versions, one per key. A change raises the version first,
# then flushes, and only then says so in *floor*: who reads the floor and looks up afterwards must
# not find an older version. A fill reads the serial first, then the version, and puts what it made
# much later.

cdef enum:
    STORM_KEYS = 512
    STORM_THREADS = 16
    STORM_PINS = 8

cdef enum:
    STORM_READER = 0               # a loop: looks up, pins, fills what is missing
    STORM_KEY_FLUSHER = 1          # changes one key
    STORM_PREFIX_FLUSHER = 2       # changes all keys of a prefix
    STORM_GROUP_FLUSHER = 3        # changes all keys of a group
    STORM_MANAGER = 4              # sweeps, lists, reclaims

ctypedef struct Storm:
    Store store
    uint64_t versions[STORM_KEYS]
    uint64_t floors[STORM_KEYS]
    uint32_t most_bytes            # of content
    uint64_t ends_ns
    bint is_broken                 # readers look outside their turn: TSan must see it
    # summed up by each thread at its end
    uint64_t found, filled, flushed_fills, refused, torn, stale, foreign, changes, over

ctypedef struct StormThread:
    Storm *storm
    uint32_t kind
    uint32_t number
    uint64_t random
    Entry *pins[STORM_PINS]


cdef uint64_t gale_random(StormThread *thread) noexcept nogil:
    thread.random ^= thread.random << 13
    thread.random ^= thread.random >> 7
    thread.random ^= thread.random << 17
    return thread.random


cdef uint32_t gale_pick(StormThread *thread) noexcept nogil:
    # The lower, the more often.
    cdef uint64_t one = gale_random(thread) % STORM_KEYS
    return <uint32_t> min(one, gale_random(thread) % STORM_KEYS)


cdef void gale_key(uint8_t *key, uint32_t number) noexcept nogil:
    # Eight directories; a group has the keys with the same remainder by 16.
    memcpy(key, b"http://a/0/page", 15)
    key[9] = 48 + number % 8
    key[15] = number & 0xff
    key[16] = number >> 8


cdef void gale_check(Storm *storm, const Entry *entry, uint32_t number,
                     uint64_t floor) noexcept nogil:
    # Content: words of (version, key).
    cdef const Segment *from_ = NULL
    cdef uint64_t offset = 0, bytes = 0
    cdef uint64_t word
    cdef uint64_t version = <uint64_t> entry.date_s
    cdef uint8_t key[17]
    cdef const uint8_t *at
    gale_key(key, number)
    if entry.key_bytes != 17 or memcmp(entry.text, key, 17) != 0:
        atomic.add_relaxed(&storm.foreign, 1)
    if version < floor:
        atomic.add_relaxed(&storm.stale, 1)
    if entry.body == NULL:
        return
    while offset < body_filled(entry.body):
        at = body_run(entry.body, &from_, offset, &bytes)
        memcpy(&word, at, sizeof(word))
        if word != (version << 16 | number):
            atomic.add_relaxed(&storm.torn, 1)
            return
        memcpy(&word, at + bytes - 8, sizeof(word))
        if word != (version << 16 | number):
            atomic.add_relaxed(&storm.torn, 1)
            return
        offset += bytes


cdef Body *gale_body(StormThread *thread, uint64_t word) noexcept nogil:
    cdef Storm *storm = thread.storm
    cdef uint64_t words[64]
    cdef uint32_t index
    cdef uint64_t left = gale_random(thread) % (storm.most_bytes // 8 + 1)
    cdef uint64_t part
    cdef bint is_known = gale_random(thread) & 1
    cdef Body *body = body_new(&storm.store, <int64_t> left * 8 if is_known else -1)
    cdef Body *whole
    for index in range(64):
        words[index] = word
    while body != NULL and left > 0:
        part = min(left, <uint64_t> 64)
        if not body_append(&storm.store, body, <const uint8_t *> words, part * 8):
            body_cut(body)
            body_unpin(&storm.store, body)
            return NULL
        left -= part
    if body == NULL:
        return NULL
    whole = body_finish(&storm.store, body)
    return whole


cdef void gale_fill(StormThread *thread, uint32_t number, uint64_t hash_,
                    uint64_t serial, uint64_t version) noexcept nogil:
    cdef Storm *storm = thread.storm
    cdef uint8_t key[17]
    cdef uint64_t group = number % 16
    cdef Body *body = NULL
    cdef Entry *entry
    cdef int outcome
    gale_key(key, number)
    if gale_random(thread) % 8:
        body = gale_body(thread, version << 16 | number)
        if body == NULL:
            atomic.add_relaxed(&storm.refused, 1)
            return
    entry = entry_new(&storm.store, key, 17, hash_, 1, NULL, 0, &group, 1, NULL, 0, 0)
    if entry == NULL:
        atomic.add_relaxed(&storm.refused, 1)
        if body != NULL:
            body_unpin(&storm.store, body)
        return
    entry.body = body
    entry.date_s = <int64_t> version
    entry.received_ns = linux.now_ns()
    entry.facts.lifetime_s = 1000000 if gale_random(thread) % 4 else 0
    outcome = store_put(&storm.store, entry, serial)
    atomic.add_relaxed(&storm.filled, outcome == 0)
    atomic.add_relaxed(&storm.flushed_fills, outcome == 1)
    entry_unpin(&storm.store, entry)


cdef void gale_look(StormThread *thread, FieldView *request) noexcept nogil:
    cdef Storm *storm = thread.storm
    cdef uint32_t number = gale_pick(thread)
    cdef uint64_t floor = atomic.load_acquire(&storm.floors[number])
    cdef uint64_t serial, version, hash_
    cdef uint32_t place = gale_random(thread) % STORM_PINS
    cdef uint8_t key[17]
    cdef Entry *entry
    gale_key(key, number)
    hash_ = store_hash(&storm.store, 1, key, 17)
    serial = store_serial(&storm.store, hash_)
    version = atomic.load_acquire(&storm.versions[number])
    entry = store_find(&storm.store, 1, key, 17, hash_, request, 1)
    if entry != NULL:
        atomic.add_relaxed(&storm.found, 1)
        gale_check(storm, entry, number, floor)
        if gale_random(thread) % 16 == 0:
            # The old pin's content is looked at once more, in another turn than it was found in.
            entry_pin(entry)
            if thread.pins[place] != NULL:
                gale_check(storm, thread.pins[place],
                           <uint32_t> (thread.pins[place].text[15]
                                       | thread.pins[place].text[16] << 8), 0)
                entry_unpin(&storm.store, thread.pins[place])
            thread.pins[place] = entry
    elif gale_random(thread) % 2:
        if gale_random(thread) % 2:
            threads.sched_yield()  # a slow application: changes come in between
        gale_fill(thread, number, hash_, serial, version)


cdef void gale_read(StormThread *thread) noexcept nogil:
    cdef Storm *storm = thread.storm
    cdef FieldView request
    cdef uint32_t index
    memset(&request, 0, sizeof(request))
    while linux.now_ns() < storm.ends_ns:
        if not storm.is_broken:
            store_enter(&storm.store, thread.number)
        for index in range(gale_random(thread) % 16):
            gale_look(thread, &request)
        if atomic.load_relaxed(&storm.store.bytes) > storm.store.settings.bytes:
            atomic.add_relaxed(&storm.over, 1)
        if gale_random(thread) % 4 == 0:
            store_leave(&storm.store, thread.number)
            store_reclaim(&storm.store)
            if gale_random(thread) % 4 == 0:
                threads.sched_yield()
    for index in range(<uint32_t> STORM_PINS):
        if thread.pins[index] != NULL:
            entry_unpin(&storm.store, thread.pins[index])
    store_leave(&storm.store, thread.number)


cdef void gale_change(StormThread *thread) noexcept nogil:
    # Versions, then the flush, then the floors: of the keys that are equal modulo *by*.
    cdef Storm *storm = thread.storm
    cdef uint32_t by = STORM_KEYS
    cdef uint32_t first = gale_pick(thread)
    cdef uint32_t number
    cdef uint64_t seen[STORM_KEYS]
    cdef uint8_t key[17]
    if thread.kind == STORM_PREFIX_FLUSHER:
        by = 8 if gale_random(thread) % 4 else 1
    elif thread.kind == STORM_GROUP_FLUSHER:
        by = 16
    first %= by
    number = first
    while number < STORM_KEYS:
        seen[number] = atomic.add(&storm.versions[number], 1)
        number += by
    gale_key(key, first)
    if thread.kind == STORM_KEY_FLUSHER:
        store_invalidate(&storm.store, 1, key, 17, store_hash(&storm.store, 1, key, 17))
    elif thread.kind == STORM_GROUP_FLUSHER:
        store_flush_group(&storm.store, first)
    else:
        store_flush(&storm.store, 1, key, 10 if by == 8 else 8, True)
    number = first
    while number < STORM_KEYS:
        serial_raise(&storm.floors[number], seen[number])
        number += by
    atomic.add_relaxed(&storm.changes, 1)


cdef void *gale_run(void *subject) noexcept nogil:
    cdef StormThread *thread = <StormThread *> subject
    cdef Storm *storm = thread.storm
    cdef EntryFacts *facts = <EntryFacts *> calloc(64, sizeof(EntryFacts))
    cdef StoreWalk walk
    memset(&walk, 0, sizeof(walk))
    if thread.kind == STORM_READER:
        gale_read(thread)
    while linux.now_ns() < storm.ends_ns:
        if thread.kind != STORM_MANAGER:
            gale_change(thread)
            if gale_random(thread) % 64:
                threads.sched_yield()
            continue
        if store_list(&storm.store, &walk, facts, 64) == 0:
            memset(&walk, 0, sizeof(walk))
            store_sweep(&storm.store, linux.now_ns())
        store_reclaim(&storm.store)
        threads.sched_yield()
    free(facts)
    return NULL


def cache_storm(double seconds, uint64_t bytes, uint32_t most_bytes, kinds, bint is_broken=False,
                uint64_t seed=1):
    """Threads of these kinds (0 to 4, see above) for so long; what they counted, and the bytes that
    were left at the end."""
    cdef Storm *storm = <Storm *> calloc(1, sizeof(Storm))
    cdef StormThread runs[STORM_THREADS]
    cdef threads.Thread others[STORM_THREADS]
    cdef StoreSettings settings
    cdef uint32_t index, started = 0
    cdef uint32_t count = len(kinds)
    memset(runs, 0, sizeof(runs))
    memset(&settings, 0, sizeof(settings))
    settings.bytes = bytes
    settings.entry_bytes = most_bytes
    settings.scavenge_s = 1
    if count > STORM_THREADS or store_init(&storm.store, &settings, STORM_THREADS) < 0:
        raise ValueError("not such a storm")
    storm.most_bytes = most_bytes
    storm.is_broken = is_broken
    storm.ends_ns = linux.now_ns() + <uint64_t> (seconds * 1e9)
    for index in range(count):
        runs[index].storm = storm
        runs[index].kind = kinds[index]
        runs[index].number = index
        runs[index].random = (seed + index + 1) * <uint64_t> 0x9e3779b97f4a7c15
        if threads.thread_start(&others[index], gale_run, &runs[index]) < 0:
            break
        started += 1
    with nogil:
        for index in range(started):
            threads.thread_join(others[index], NULL)
    cdef Store *store = &storm.store
    counts = {
        "found": storm.found, "filled": storm.filled, "flushed_fills": storm.flushed_fills,
        "refused": storm.refused, "torn": storm.torn, "stale": storm.stale,
        "foreign": storm.foreign, "changes": storm.changes, "over": storm.over,
        "evicted": store.evicted, "epochs": store.epoch, "entries_now": store.entries_now,
    }
    while store.retired_count > 0:
        store_reclaim(store)
    counts["leaving"] = store.leaving_bytes
    store_uninit(store)
    counts["left"] = store.bytes
    free(storm)
    return counts


# ---- content that is read while it is filled ----

ctypedef struct Stream:
    Store *store
    Body *body
    uint64_t bytes
    uint64_t seed
    uint64_t wrong


cdef inline uint8_t stream_byte(uint64_t offset) noexcept nogil:
    return <uint8_t> (offset * 167 >> 3)


cdef void *stream_read(void *subject) noexcept nogil:
    # Until it is whole, and then to the end.
    cdef Stream *stream = <Stream *> subject
    cdef const Segment *from_ = NULL
    cdef uint64_t offset = 0, bytes = 0, index
    cdef uint32_t state
    cdef const uint8_t *at
    while True:
        state = body_state(stream.body)
        at = body_run(stream.body, &from_, offset, &bytes)
        if bytes == 0 and state != 0:
            break
        if bytes == 0:
            threads.sched_yield()
        for index in range(bytes):
            if at[index] != stream_byte(offset + index):
                atomic.add_relaxed(&stream.wrong, 1)
        offset += bytes
    if state != 1 or offset != stream.bytes:
        atomic.add_relaxed(&stream.wrong, 1)
    body_unpin(stream.store, stream.body)
    return NULL


cdef bint stream_fill(Stream *stream) noexcept nogil:
    cdef uint8_t piece[9000]
    cdef uint64_t offset = 0, bytes, index
    while offset < stream.bytes:
        stream.seed = stream.seed * <uint64_t> 6364136223846793005 + 1
        bytes = min(stream.bytes - offset, (stream.seed >> 33) % sizeof(piece) + 1)
        for index in range(bytes):
            piece[index] = stream_byte(offset + index)
        if not body_append(stream.store, stream.body, piece, bytes):
            return False
        offset += bytes
    return body_finish(stream.store, stream.body) == stream.body


def cache_stream(uint64_t bytes, bint is_known, uint32_t readers=3, uint64_t seed=1):
    """So many bytes to readers that do not wait for their end: how many were wrong, what is left
    of the store."""
    cdef Store store
    cdef Stream stream
    cdef StoreSettings settings
    cdef threads.Thread others[8]
    cdef uint32_t index
    memset(&settings, 0, sizeof(settings))
    settings.bytes = 1 << 27
    settings.entry_bytes = 1 << 26
    if readers > 8 or store_init(&store, &settings, 1) < 0:
        raise ValueError("no store")
    memset(&stream, 0, sizeof(stream))
    stream.store = &store
    stream.body = body_new(&store, <int64_t> bytes if is_known else -1)
    stream.bytes = bytes
    stream.seed = seed
    for index in range(readers):
        body_pin(stream.body)
        if threads.thread_start(&others[index], stream_read, &stream) < 0:
            raise RuntimeError("no thread")
    with nogil:
        if not stream_fill(&stream):
            body_cut(stream.body)
        for index in range(readers):
            threads.thread_join(others[index], NULL)
    body_unpin(&store, stream.body)
    store_uninit(&store)
    return stream.wrong, store.bytes
