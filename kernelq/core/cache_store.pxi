# The response cache's store: memory, tables, entries, content. The contract stands in
# cache_store.pxd, reclamation and eviction in cache_evict.pxi, flushes in cache_flush.pxi.
#
# Rules for editors
#  1. A shard's lock is held for a bounded number of steps, never around a system call but malloc's
#     own, and never together with another shard's.
#  2. What readers walk (slots, Entry.variant, Store.tables) is written with a release, and only
#     under the lock. What they may hold (entries, tables) is retired, not freed.
#  3. Memory comes from store_alloc() and goes by store_free(): nothing is allocated uncounted.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from kernelq.core cimport atomic, bug, linux
from kernelq.core.cache_rules cimport FieldView
from kernelq.core.cache_store cimport (
    BODY_CUT,
    BODY_FILLING,
    BODY_WHOLE,
    FLUSH_WORDS,
    FLUSHES_KEPT,
    FREQUENT_HITS_MAX,
    GROUP_WORDS_MIN,
    LOSSY_WORDS_MIN,
    QUEUE_GONE,
    QUEUE_MAIN,
    QUEUE_NONE,
    QUEUE_SMALL,
    SEEN_STRIDE,
    SEGMENT_BYTES,
    SEGMENT_BYTES_FIRST,
    SHARDS,
    STORE_BYTES_MIN,
    STORE_DONE,
    STORE_FLUSHED,
    STORE_FULL,
    TABLE_SLOTS_MIN,
    VARIANTS_MAX,
    WORDS_MAX,
    Body,
    Entry,
    Segment,
    Shard,
    Store,
    StoreSettings,
    Table,
    body_filled,
    entry_key,
    entry_vary,
)

cdef extern from *:
    """
    #include <errno.h>
    #include <malloc.h>
    #include <stddef.h>
    #include <sys/random.h>
    #define KQ_STORE_TYPE(name) __pyx_t_7kernelq_4core_11cache_store_##name
    #define KQ_ENTRY_TEXT_AT offsetof(KQ_STORE_TYPE(Entry), text)
    #define KQ_BODY_DATA_AT offsetof(KQ_STORE_TYPE(Body), data)
    #define KQ_SEGMENT_DATA_AT offsetof(KQ_STORE_TYPE(Segment), data)
    #define KQ_TABLE_SLOTS_AT offsetof(KQ_STORE_TYPE(Table), slots)
    /* What malloc took for it: glibc keeps a word in front of each allocation. */
    static inline size_t kq_allocated(const void *at) {
        return malloc_usable_size((void *)at) + 8;
    }
    """
    const size_t ENTRY_TEXT_AT "KQ_ENTRY_TEXT_AT"
    const size_t BODY_DATA_AT "KQ_BODY_DATA_AT"
    const size_t SEGMENT_DATA_AT "KQ_SEGMENT_DATA_AT"
    const size_t TABLE_SLOTS_AT "KQ_TABLE_SLOTS_AT"
    size_t allocated_bytes "kq_allocated"(const void *at) noexcept nogil
    void prefetch "__builtin_prefetch"(const void *at) noexcept nogil
    ssize_t getrandom(void *at, size_t bytes, unsigned int flags) noexcept nogil

cdef enum:
    TABLES_AT = 8                  # a cache line in front, for nobody else's writes
    SLOT_FREE = 0
    SLOT_GIVEN_UP = 1
    SLOT_ADDRESS_BITS = 48
    MAPPED_BYTES = 131072          # from here malloc may use whole pages
    HITS_MAX = 3


cdef uint32_t store_fail_in = 0    # tests: Store.fail_in of the next store

# ---- memory ----

cdef uint64_t bytes_wanted(size_t bytes) noexcept nogil:
    # At most what malloc takes for so many: its own word, rounded to 16, and what it may leave on
    # because the rest would be too small to use; whole pages and two words where it maps them.
    cdef uint64_t wanted = ((<uint64_t> bytes + 8 + 15) & ~(<uint64_t> 15)) + 16
    return wanted + 4096 + 16 if bytes >= MAPPED_BYTES else wanted


cdef bint allocation_is_to_fail(Store *store) noexcept nogil:
    if atomic.load_relaxed_u32(&store.fail_in) == 0:
        return False
    return atomic.add_relaxed_u32(&store.fail_in, <uint32_t> -1) == 0


cdef void *store_count(Store *store, void *at, uint64_t reserved) noexcept nogil:
    # The reservation becomes what it really took, or is given back.
    atomic.add_relaxed(&store.bytes, (allocated_bytes(at) if at != NULL else 0) - reserved)
    return at


cdef void *store_alloc(Store *store, uint32_t shard, size_t bytes) noexcept nogil:
    # NULL: there is no memory, or no room even after evicting, from this shard first (SHARDS: from
    # any).
    cdef uint64_t wanted = bytes_wanted(bytes)
    if not store_reserve(store, shard, wanted):
        return NULL
    return store_count(store, NULL if allocation_is_to_fail(store) else malloc(bytes), wanted)


cdef void *store_alloc_fixed(Store *store, size_t bytes) noexcept nogil:
    # Zeroed, and whether it fits or not.
    return store_count(store, NULL if allocation_is_to_fail(store) else calloc(1, bytes), 0)


cdef void store_free(Store *store, void *at) noexcept nogil:
    cdef uint64_t bytes
    if at != NULL:
        bytes = allocated_bytes(at)
        free(at)
        atomic.add_relaxed(&store.bytes, <uint64_t> 0 - bytes)


# ---- the store ----

cdef uint64_t table_words(uint64_t store_bytes, uint64_t least, uint64_t share) noexcept nogil:
    # A power of two: those that take 1 / share of the store's bytes, WORDS_MAX at most.
    cdef uint64_t words = least
    while words < WORDS_MAX and words * 2 * sizeof(uint64_t) * share <= store_bytes:
        words *= 2
    return words


cdef int shard_init(Store *store, Shard *shard, Table **published) noexcept nogil:
    if linux.pthread_mutex_init(&shard.lock, NULL) != 0:
        return -linux.ENOMEM
    shard.published = published
    shard.table = table_new(store, TABLE_SLOTS_MIN)
    shard.ghost_words = TABLE_SLOTS_MIN // 2
    shard.ghosts = <uint32_t *> store_alloc_fixed(store, shard.ghost_words * sizeof(uint32_t))
    atomic.store_release_ptr(shard.published, shard.table)  # SYNC cache-table
    return 0 if shard.table != NULL and shard.ghosts != NULL else -linux.ENOMEM


cdef int store_init(Store *store, const StoreSettings *settings,
                    uint32_t loop_count) noexcept nogil:
    cdef uint32_t index
    cdef uint64_t most
    cdef int error = 0
    memset(store, 0, sizeof(Store))
    store.fail_in = store_fail_in
    store.settings = settings[0]
    store.settings.bytes = max(store.settings.bytes, <uint64_t> STORE_BYTES_MIN)
    store.settings.frequent_hits = min(store.settings.frequent_hits, <uint32_t> FREQUENT_HITS_MAX)
    most = min(store.settings.entry_bytes, store.settings.bytes // 4)
    store.target = store.settings.bytes - max(store.settings.bytes // 16, most)
    store.loop_count = loop_count
    store.epoch = 3
    store.group_mask = table_words(store.settings.bytes, GROUP_WORDS_MIN, 128) - 1
    store.lossy_mask = table_words(store.settings.bytes, LOSSY_WORDS_MIN, 1024) - 1
    if getrandom(store.seed, sizeof(store.seed), 0) != <ssize_t> sizeof(store.seed):
        return -linux.EAGAIN
    store.seen = <uint64_t *> store_alloc_fixed(
        store, (loop_count + 2) * SEEN_STRIDE * sizeof(uint64_t))
    store.groups = <uint64_t *> store_alloc_fixed(
        store, (store.group_mask + 1) * sizeof(uint64_t))
    store.misses = <uint64_t *> store_alloc_fixed(
        store, (store.lossy_mask + 1) * sizeof(uint64_t))
    if store.settings.frequent_hits > 1:
        store.asked = <uint64_t *> store_alloc_fixed(
            store, (store.lossy_mask + 1) * sizeof(uint64_t))
    store.tables = <Table **> store_alloc_fixed(store, (SHARDS + 2 * TABLES_AT) * sizeof(void *))
    store.shards = <Shard *> store_alloc_fixed(store, SHARDS * sizeof(Shard))
    if (store.seen == NULL or store.groups == NULL or store.misses == NULL
            or store.tables == NULL or store.shards == NULL
            or (store.asked == NULL and store.settings.frequent_hits > 1)):
        error = -linux.ENOMEM
    if store.shards != NULL and store.tables != NULL:
        for index in range(<uint32_t> SHARDS):
            error = min(error, shard_init(store, &store.shards[index],
                                          &store.tables[TABLES_AT + index]))
    if error < 0:
        store_uninit(store)
    return error


cdef void shard_uninit(Store *store, Shard *shard) noexcept nogil:
    cdef uint64_t index
    cdef Entry *entry
    cdef Entry *next_
    if shard.table != NULL:
        for index in range(shard.table.mask + 1):
            entry = slot_entry(shard.table.slots[index])
            while entry != NULL:
                next_ = entry.variant
                entry_unpin(store, entry)
                entry = next_
    store_free(store, shard.table)
    store_free(store, shard.ghosts)
    for index in range(3):
        while shard.retired[index] != NULL:
            entry = shard.retired[index]
            shard.retired[index] = entry.newer
            entry_unpin(store, entry)
    while shard.retired_tables != NULL:
        index = <uint64_t> shard.retired_tables
        shard.retired_tables = shard.retired_tables.next_retired
        store_free(store, <void *> index)
    if shard.published != NULL:
        linux.pthread_mutex_destroy(&shard.lock)


cdef void store_uninit(Store *store) noexcept nogil:
    cdef uint32_t index
    if store.shards != NULL:
        for index in range(<uint32_t> SHARDS):
            shard_uninit(store, &store.shards[index])
    store_free(store, store.shards)
    store_free(store, store.tables)
    store_free(store, store.asked)
    store_free(store, store.misses)
    store_free(store, store.groups)
    store_free(store, store.seen)
    store.shards = NULL
    bug.BUG_ON_DEAR(atomic.load_relaxed(&store.bytes) != 0)


cdef uint64_t store_hash(const Store *store, uint32_t application, const uint8_t *key,
                         size_t bytes) noexcept nogil:
    cdef uint64_t hash_ = siphash(store.seed, key, bytes)
    return hash_ ^ (<uint64_t> application * <uint64_t> 0x9e3779b97f4a7c15)


cdef inline uint32_t shard_index(uint64_t hash_) noexcept nogil:
    return <uint32_t> (hash_ >> 60)


cdef inline Shard *shard_of(const Store *store, uint64_t hash_) noexcept nogil:
    return &store.shards[shard_index(hash_)]


# ---- tables ----

cdef inline uint64_t slot_tag(uint64_t hash_) noexcept nogil:
    # Bits that choose neither the shard nor, in any table there could be, the slot.
    return hash_ >> 44 & 0xffff


cdef inline uint64_t slot_word(Entry *entry) noexcept nogil:
    return slot_tag(entry.hash) << SLOT_ADDRESS_BITS | <uint64_t> entry


cdef inline Entry *slot_entry(uint64_t word) noexcept nogil:
    if word <= SLOT_GIVEN_UP:
        return NULL
    return <Entry *> (word & ((<uint64_t> 1 << SLOT_ADDRESS_BITS) - 1))


cdef Table *table_new(Store *store, uint64_t slots) noexcept nogil:
    cdef Table *table = <Table *> store_alloc_fixed(
        store, TABLE_SLOTS_AT + slots * sizeof(uint64_t))
    if table != NULL:
        table.mask = slots - 1
    return table


cdef uint64_t table_seek(const Table *table, uint64_t hash_) noexcept nogil:
    # For writers: the slot that leads to this hash, or one past the last.
    cdef uint64_t index = hash_ & table.mask
    cdef uint64_t word = table.slots[index]
    cdef Entry *entry
    while word != SLOT_FREE:
        entry = slot_entry(word)
        if word >> SLOT_ADDRESS_BITS == slot_tag(hash_) and entry != NULL and entry.hash == hash_:
            return index
        index = (index + 1) & table.mask
        word = table.slots[index]
    return table.mask + 1


cdef uint64_t table_vacancy(const Table *table, uint64_t hash_) noexcept nogil:
    cdef uint64_t index = hash_ & table.mask
    while table.slots[index] > SLOT_GIVEN_UP:
        index = (index + 1) & table.mask
    return index


cdef void slot_give_up(Shard *shard, uint64_t index) noexcept nogil:
    # A reader that probes goes on behind a slot given up. Before a free slot nothing has to be
    # passed over: there it is freed at once, and so are those given up before it.
    cdef Table *table = shard.table
    shard.used -= 1
    if table.slots[(index + 1) & table.mask] != SLOT_FREE:
        atomic.store_release(&table.slots[index], SLOT_GIVEN_UP)  # SYNC cache-slot
        shard.given_up += 1
        return
    atomic.store_release(&table.slots[index], SLOT_FREE)  # SYNC cache-slot
    index = (index - 1) & table.mask
    while table.slots[index] == SLOT_GIVEN_UP:
        atomic.store_release(&table.slots[index], SLOT_FREE)  # SYNC cache-slot
        shard.given_up -= 1
        index = (index - 1) & table.mask


cdef void table_copy(Table *table, const Table *old) noexcept nogil:
    # The hash stands in the entry: those of the next slots are on their way while one is placed.
    cdef uint64_t index
    cdef Entry *entry
    for index in range(old.mask + 1):
        entry = slot_entry(old.slots[(index + 8) & old.mask])
        if entry != NULL:
            prefetch(&entry.hash)
        entry = slot_entry(old.slots[index])
        if entry != NULL:
            table.slots[table_vacancy(table, entry.hash)] = old.slots[index]


cdef bint shard_replace_table(Store *store, Shard *shard) noexcept nogil:
    # Twice the size, or as it is but without what was given up.
    cdef uint64_t slots = shard.table.mask + 1
    cdef bint is_larger = shard.used * 8 > slots * 5
    cdef Table *table
    if is_larger:
        slots *= 2
    if (atomic.load_relaxed(&store.bytes) + slots * sizeof(uint64_t) * 5 // 4 + 128
            > store.settings.bytes):
        return False
    table = table_new(store, slots)
    if table == NULL:
        return False
    table_copy(table, shard.table)
    table_retire(store, shard, table)
    shard.given_up = 0
    shard.table_number += 1
    if is_larger:
        ghosts_grow(store, shard)
    return True


cdef bint shard_has_slot(Store *store, Shard *shard, uint64_t hash_) noexcept nogil:
    # Without memory for another table this one is filled further; a free slot always stays, for
    # probing ends there. A hash that is there needs none.
    cdef uint64_t slots = shard.table.mask + 1
    cdef uint64_t taken = shard.used + shard.given_up + 1
    if taken * 4 <= slots * 3 or shard_replace_table(store, shard):
        return True
    return taken * 16 <= slots * 15 or table_seek(shard.table, hash_) <= shard.table.mask


# ---- readers ----

cdef bint entry_is_invalid(const Store *store, const Entry *entry) noexcept nogil:
    # A group of it was flushed after its request began.
    cdef const uint8_t *at = (entry.text + entry.key_bytes + entry.vary_bytes + entry.head_bytes)
    cdef uint16_t word
    cdef uint32_t index
    for index in range(entry.group_count):
        memcpy(&word, at + index * sizeof(word), sizeof(word))
        if atomic.load_acquire(&store.groups[word]) > entry.serial:  # SYNC cache-groups
            return True
    return False


cdef inline bint entry_is_of(const Entry *entry, uint32_t application, const uint8_t *key,
                             uint32_t bytes, uint64_t hash_) noexcept nogil:
    return (entry.hash == hash_ and entry.key_bytes == bytes and entry.application == application
            and memcmp(entry.text, key, bytes) == 0)


cdef Entry *store_chain(const Store *store, uint64_t hash_) noexcept nogil:
    # The first entry with this hash, by a reader.
    # SYNC cache-table
    cdef const Table *table = <const Table *> atomic.load_acquire_ptr(
        &store.tables[TABLES_AT + shard_index(hash_)])
    cdef uint64_t index = hash_ & table.mask
    cdef uint64_t word = atomic.load_acquire(&table.slots[index])  # SYNC cache-slot
    cdef Entry *entry
    while word != SLOT_FREE:
        if word >> SLOT_ADDRESS_BITS == slot_tag(hash_) and word != SLOT_GIVEN_UP:
            entry = slot_entry(word)
            if entry.hash == hash_:
                return entry
        index = (index + 1) & table.mask
        word = atomic.load_acquire(&table.slots[index])  # SYNC cache-slot
    return NULL


cdef inline Entry *entry_variant(const Entry *entry) noexcept nogil:
    return <Entry *> atomic.load_acquire_ptr(&entry.variant)  # SYNC cache-slot


cdef void entry_note_asked(Entry *entry, uint32_t now_s) noexcept nogil:
    # Written only when it changes: what many loops hit stays in all their caches.
    cdef uint8_t hits = atomic.load_relaxed_u8(&entry.hits)
    if hits < HITS_MAX:
        atomic.store_relaxed_u8(&entry.hits, hits + 1)
    if atomic.load_relaxed_u32(&entry.asked_s) < now_s:
        atomic.store_relaxed_u32(&entry.asked_s, now_s)


cdef Entry *store_find(Store *store, uint32_t application, const uint8_t *key, uint32_t bytes,
                       uint64_t hash_, const FieldView *request, uint32_t now_s) noexcept nogil:
    cdef Entry *entry = store_chain(store, hash_)
    while entry != NULL:
        if (entry_is_of(entry, application, key, bytes, hash_)
                and (entry.vary_bytes == 0
                     or vary_key_matches(entry_vary(entry), entry.vary_bytes, request))
                and (entry.group_count == 0 or not entry_is_invalid(store, entry))):
            entry_note_asked(entry, now_s)
            return entry
        entry = entry_variant(entry)
    return NULL


cdef bint store_has_variants(Store *store, uint32_t application, const uint8_t *key,
                             uint32_t bytes, uint64_t hash_) noexcept nogil:
    cdef Entry *entry = store_chain(store, hash_)
    while entry != NULL:
        if entry.vary_bytes > 0 and entry_is_of(entry, application, key, bytes, hash_):
            return True
        entry = entry_variant(entry)
    return False


# ---- entries ----

cdef Entry *entry_new(Store *store, const uint8_t *key, uint32_t key_bytes, uint64_t hash_,
                      uint32_t application, const uint8_t *vary, uint32_t vary_bytes,
                      const uint64_t *groups, uint32_t group_count, const uint8_t *head,
                      uint32_t head_bytes, uint32_t head_304_bytes) noexcept nogil:
    cdef uint16_t word
    cdef uint32_t index
    cdef Entry *entry
    cdef uint8_t *at
    cdef size_t bytes = (ENTRY_TEXT_AT + <size_t> key_bytes + vary_bytes + head_bytes
                         + group_count * sizeof(uint16_t))
    if group_count > 255:
        return NULL
    entry = <Entry *> store_alloc(store, shard_index(hash_), max(bytes, sizeof(Entry)))
    if entry == NULL:
        return NULL
    if <uint64_t> entry >> SLOT_ADDRESS_BITS:  # no kernel gives such addresses unasked
        store_free(store, entry)
        return NULL
    memset(entry, 0, ENTRY_TEXT_AT)
    entry.hash = hash_
    entry.date_s = -1
    entry.modified_s = -1
    entry.refs = 1
    entry.application = application
    entry.key_bytes = key_bytes
    entry.vary_bytes = vary_bytes
    entry.head_bytes = head_bytes
    entry.head_304_bytes = head_304_bytes
    entry.group_count = <uint8_t> group_count
    at = entry.text
    if key_bytes > 0:
        memcpy(at, key, key_bytes)
    at += key_bytes
    if vary_bytes > 0:
        memcpy(at, vary, vary_bytes)
    at += vary_bytes
    if head_bytes > 0:
        memcpy(at, head, head_bytes)
    at += head_bytes
    for index in range(group_count):
        word = <uint16_t> (groups[index] & store.group_mask)
        memcpy(at + index * sizeof(word), &word, sizeof(word))
    return entry


cdef uint64_t entry_weight(const Entry *entry) noexcept nogil:
    # What would be free without it, if nobody else had pinned its content.
    return allocated_bytes(entry) + (body_weight(entry.body) if entry.body != NULL else 0)


cdef void entry_unpin(Store *store, Entry *entry) noexcept nogil:
    if atomic.add_u32(&entry.refs, <uint32_t> -1) == 0:
        if entry.body != NULL:
            body_unpin(store, entry.body)
        store_free(store, entry)


cdef bint entry_is_pinned(const Entry *entry) noexcept nogil:
    # By others than the store: it would leave the table without leaving memory. A hint.
    return (atomic.load_relaxed_u32(&entry.refs) > 1
            or (entry.body != NULL and atomic.load_relaxed_u32(&entry.body.refs) > 1))


# ---- linking, under the shard's lock ----

cdef void shard_unlink(Store *store, Shard *shard, Entry *entry) noexcept nogil:
    cdef uint64_t index = table_seek(shard.table, entry.hash)
    cdef Entry *before
    bug.BUG_ON(index > shard.table.mask)
    before = slot_entry(shard.table.slots[index])
    if before != entry:
        while before.variant != entry:
            before = before.variant
        atomic.store_release_ptr(&before.variant, entry.variant)  # SYNC cache-slot
    elif entry.variant != NULL:
        # SYNC cache-slot
        atomic.store_release(&shard.table.slots[index], slot_word(entry.variant))
    else:
        slot_give_up(shard, index)
    queue_remove(shard, entry)
    entry.queue = QUEUE_GONE
    entry_retire(store, shard, entry)
    atomic.add_relaxed(&store.entries_now, <uint64_t> -1)


cdef void shard_link(Shard *shard, Entry *entry) noexcept nogil:
    cdef Table *table = shard.table
    cdef uint64_t index = table_seek(table, entry.hash)
    if index <= table.mask:
        entry.variant = slot_entry(table.slots[index])
    else:
        index = table_vacancy(table, entry.hash)
        if table.slots[index] == SLOT_GIVEN_UP:
            shard.given_up -= 1
        shard.used += 1
    atomic.store_release(&table.slots[index], slot_word(entry))  # SYNC cache-slot


cdef uint32_t shard_replace(Store *store, Shard *shard, Entry *entry) noexcept nogil:
    # Unlinks what the new first of the chain replaces, or leaves unreachable: the same secondary
    # key; any, if it matches every request; the oldest beyond VARIANTS_MAX. Gives the queue of the
    # one whose place it takes.
    cdef uint32_t variants = 1
    cdef uint32_t queue = QUEUE_NONE
    cdef Entry *old = entry.variant
    cdef Entry *next_
    while old != NULL:
        next_ = old.variant
        if entry_is_of(old, entry.application, entry.text, entry.key_bytes, entry.hash):
            if (entry.vary_bytes == 0
                    or (old.vary_bytes == entry.vary_bytes
                        and memcmp(entry_vary(old), entry_vary(entry), entry.vary_bytes) == 0)):
                queue = max(queue, <uint32_t> old.queue)
                atomic.store_relaxed_u8(&entry.hits, atomic.load_relaxed_u8(&old.hits))
                shard_unlink(store, shard, old)
            elif variants == VARIANTS_MAX:
                shard_unlink(store, shard, old)
            else:
                variants += 1
        old = next_
    return queue


cdef bint shard_has_flushed(const Store *store, const Shard *shard, uint32_t application,
                            uint64_t hash_, uint64_t serial) noexcept nogil:
    # A flush raises the application's word before it takes this lock, and an invalidation writes
    # its record under it: either it is seen here, or it will see the entry.
    cdef uint64_t index
    if (serial < shard.forgotten
            # SYNC cache-flushes
            or atomic.load_acquire(&store.flush_serials[application % FLUSH_WORDS]) > serial):
        return True
    for index in range(min(shard.flush_count, <uint64_t> FLUSHES_KEPT)):
        if shard.flushes[index].hash == hash_ and shard.flushes[index].serial > serial:
            return True
    return False


cdef int store_put(Store *store, Entry *entry, uint64_t serial) noexcept nogil:
    cdef Shard *shard = shard_of(store, entry.hash)
    cdef uint32_t queue
    cdef int outcome = STORE_DONE
    bug.BUG_ON(entry.queue != QUEUE_NONE)
    bug.BUG_ON(entry.body != NULL
               and atomic.load_relaxed_u32(&entry.body.state) != BODY_WHOLE)
    entry.serial = serial
    entry.asked_s = max(entry.asked_s, <uint32_t> (entry.received_ns // 1000000000))
    linux.pthread_mutex_lock(&shard.lock)
    if (shard_has_flushed(store, shard, entry.application, entry.hash, serial)
            or entry_is_invalid(store, entry)):
        outcome = STORE_FLUSHED
    elif not shard_has_slot(store, shard, entry.hash):
        outcome = STORE_FULL
    else:
        atomic.add_u32(&entry.refs, 1)
        atomic.add_relaxed(&store.entries_now, 1)
        atomic.add_relaxed(&store.entries_total, 1)
        shard_link(shard, entry)
        queue = shard_replace(store, shard, entry)
        if queue == QUEUE_NONE and ghost_take(shard, entry.hash):
            queue = QUEUE_MAIN
        queue_add(shard, entry, <uint8_t> max(queue, <uint32_t> QUEUE_SMALL))
    linux.pthread_mutex_unlock(&shard.lock)
    return outcome


# ---- content ----

cdef Body *body_alloc(Store *store, uint64_t room, int64_t length) noexcept nogil:
    cdef Body *body = <Body *> store_alloc(store, SHARDS,
                                           max(BODY_DATA_AT + room, sizeof(Body)))
    if body == NULL:
        return NULL
    memset(body, 0, BODY_DATA_AT)
    body.length = length
    body.refs = 1
    body.room = room
    return body


cdef Body *body_new(Store *store, int64_t length) noexcept nogil:
    if length < 0:
        return body_alloc(store, SEGMENT_BYTES_FIRST - BODY_DATA_AT, -1)
    if <uint64_t> length > store.settings.entry_bytes:
        return NULL
    return body_alloc(store, <uint64_t> length, length)


cdef void body_unpin(Store *store, Body *body) noexcept nogil:
    cdef Segment *segment
    cdef Segment *next_
    if atomic.add_u32(&body.refs, <uint32_t> -1) > 0:
        return
    segment = body.next
    while segment != NULL:
        next_ = segment.next
        store_free(store, segment)
        segment = next_
    store_free(store, body)


cdef uint64_t body_weight(const Body *body) noexcept nogil:
    cdef const Segment *segment = body.next
    cdef uint64_t bytes = allocated_bytes(body)
    while segment != NULL:
        bytes += allocated_bytes(segment)
        segment = segment.next
    return bytes


cdef Segment *body_grow(Store *store, Body *body, uint64_t total, uint64_t bytes) noexcept nogil:
    # A segment behind the last, as large as all before it, within bounds, and for so many bytes at
    # least; no reader looks at it before filled passes its start.
    cdef uint64_t room = max(bytes, min(total, <uint64_t> SEGMENT_BYTES))
    cdef Segment *segment = <Segment *> store_alloc(
        store, SHARDS, max(SEGMENT_DATA_AT + room, sizeof(Segment)))
    if segment == NULL:
        return NULL
    segment.next = NULL
    segment.start = total
    segment.room = room
    if body.last == NULL:
        body.next = segment
    else:
        body.last.next = segment
    return segment


cdef bint body_append(Store *store, Body *body, const uint8_t *data,
                      size_t bytes) noexcept nogil:
    cdef uint64_t filled = atomic.load_relaxed(&body.filled)
    cdef uint64_t most = <uint64_t> body.length if body.length >= 0 else store.settings.entry_bytes
    cdef uint64_t start = body.last.start if body.last != NULL else 0
    cdef uint64_t end = start + (body.last.room if body.last != NULL else body.room)
    cdef uint8_t *at = &body.last.data[0] if body.last != NULL else &body.data[0]
    cdef size_t here = min(<uint64_t> bytes, end - filled)
    cdef Segment *segment = NULL
    if bytes > most or filled > most - bytes or body.state != BODY_FILLING:
        return False
    if here < bytes:
        segment = body_grow(store, body, end, bytes - here)
        if segment == NULL:
            return False
    if here > 0:
        memcpy(at + (filled - start), data, here)
    if segment != NULL:
        memcpy(segment.data, data + here, bytes - here)
        body.last = segment
    atomic.store_release(&body.filled, filled + bytes)  # SYNC cache-filled
    return True


cdef const uint8_t *body_run(const Body *body, const Segment **from_, uint64_t offset,
                             uint64_t *bytes) noexcept nogil:
    cdef uint64_t filled = body_filled(body)
    cdef const Segment *segment = from_[0]
    cdef const uint8_t *at = <const uint8_t *> body.data
    cdef uint64_t start = 0
    cdef uint64_t end = body.room
    bytes[0] = 0
    if offset >= filled:
        return NULL
    if segment != NULL and segment.start <= offset:
        at = <const uint8_t *> segment.data
        start = segment.start
        end = start + segment.room
    while offset >= end:  # and below filled: so there is a next one
        segment = segment.next if start > 0 else body.next
        at = <const uint8_t *> segment.data
        start = segment.start
        end = start + segment.room
    from_[0] = segment if start > 0 else NULL
    bytes[0] = min(end, filled) - offset
    return at + (offset - start)


cdef const uint8_t *body_at(const Body *body, uint64_t offset, uint64_t *bytes) noexcept nogil:
    cdef const Segment *from_ = NULL
    return body_run(body, &from_, offset, bytes)


cdef void body_cut(Body *body) noexcept nogil:
    atomic.store_release_u32(&body.state, BODY_CUT)  # SYNC cache-body-state


cdef Body *body_compact(Store *store, Body *body) noexcept nogil:
    # A copy of exactly its size; NULL: there is no room for one, or the waste is small.
    cdef uint64_t filled = atomic.load_relaxed(&body.filled)
    cdef uint64_t room = body.room if body.last == NULL else body.last.start + body.last.room
    cdef uint64_t offset = 0, bytes = 0
    cdef const Segment *from_ = NULL
    cdef const uint8_t *at
    cdef Body *copy
    if (room - filled) * 8 <= room or atomic.load_relaxed_u32(&body.refs) > 1:
        return NULL
    copy = body_alloc(store, filled, <int64_t> filled)
    while copy != NULL and offset < filled:
        at = body_run(body, &from_, offset, &bytes)
        memcpy(copy.data + offset, at, bytes)
        offset += bytes
    if copy != NULL:
        atomic.store_release(&copy.filled, filled)  # SYNC cache-filled
    return copy


cdef Body *body_finish(Store *store, Body *body) noexcept nogil:
    cdef Body *copy = NULL
    if body.length >= 0 and atomic.load_relaxed(&body.filled) != <uint64_t> body.length:
        body_cut(body)
        return NULL
    if body.length < 0:
        copy = body_compact(store, body)
        if copy != NULL:
            body_unpin(store, body)
            body = copy
    atomic.store_release_u32(&body.state, BODY_WHOLE)  # SYNC cache-body-state
    return body
