# The cache's store: what takes entries out on somebody's word, walks over all entries, and the
# lossy tables. The contract stands in cache_store.pxd.
#
# Why a fill that began before a flush is never stored after it
#  Each flush takes a number n from store.serial; a fill remembers the number s that it read before
#  its request could reach a worker. s >= n: the request came behind the flush, and its response may
#  stay. s < n: the response must not be found once the flush has returned. Under the shard's lock
#  the fill compares and links (store_put), and the flush leaves its mark and unlinks. If the fill
#  comes first, the flush finds the entry; if the flush does, the fill finds the mark. A prefix
#  flush leaves its mark, a word of the application, before it takes the first shard's lock, so that
#  this holds in every shard. A group's word is compared at each hit: it need not find anything.
#  An entry with s >= n that a flush meets is left alone.

from kernelq.core.cache_store cimport (
    FACTS_KEY_BYTES,
    HIT_FOR_MISS_S,
    EntryFacts,
    Flush,
    StoreWalk,
)

cdef enum:
    WALK_SLOTS = 256               # looked at while a lock is held
    WALK_RESTARTS = 4              # of a shard that grew meanwhile; then it is kept locked

cdef enum:                         # what a walk takes out
    TAKE_PREFIX = 0
    TAKE_UNASKED = 1

ctypedef struct Take:
    uint32_t kind
    uint32_t application_count
    const uint32_t *applications   # in order; NULL: every one
    const uint8_t *prefix
    uint32_t bytes
    bint is_recursive
    uint64_t serial                # only what began before
    uint64_t asked_from_s


cdef void serial_raise(uint64_t *word, uint64_t serial) noexcept nogil:
    # Two flushes may come in any order: the later number stays.
    cdef uint64_t seen = atomic.load_relaxed(word)
    while seen < serial:
        # SYNC cache-flushes, cache-groups: whoever begins to look from now on sees it
        if atomic.swap_if(word, seen, serial):  # SYNC cache-flushes SYNC cache-groups
            return
        seen = atomic.load_relaxed(word)


# ---- single keys and groups ----

cdef uint64_t shard_note_flush(Store *store, Shard *shard, uint64_t hash_) noexcept nogil:
    cdef Flush *flush = &shard.flushes[shard.flush_count % FLUSHES_KEPT]
    shard.forgotten = flush.serial
    flush.serial = atomic.add(&store.serial, 1)  # SYNC cache-serial
    flush.hash = hash_
    shard.flush_count += 1
    return flush.serial


cdef uint32_t store_invalidate(Store *store, uint32_t application, const uint8_t *key,
                               uint32_t bytes, uint64_t hash_) noexcept nogil:
    cdef Shard *shard = shard_of(store, hash_)
    cdef uint64_t index
    cdef uint32_t count = 0
    cdef Entry *entry
    cdef Entry *next_
    linux.pthread_mutex_lock(&shard.lock)
    shard_note_flush(store, shard, hash_)
    index = table_seek(shard.table, hash_)
    entry = slot_entry(shard.table.slots[index]) if index <= shard.table.mask else NULL
    while entry != NULL:
        next_ = entry.variant
        if entry_is_of(entry, application, key, bytes, hash_):
            shard_unlink(store, shard, entry)
            count += 1
        entry = next_
    linux.pthread_mutex_unlock(&shard.lock)
    atomic.add_relaxed(&store.flushes, 1)
    atomic.add_relaxed(&store.flushed, count)
    return count


cdef void store_flush_group(Store *store, uint64_t hash_) noexcept nogil:
    cdef uint64_t serial = atomic.add(&store.serial, 1)  # SYNC cache-serial
    serial_raise(&store.groups[hash_ & store.group_mask], serial)
    serial_raise(&store.group_serial, serial)
    atomic.add_relaxed(&store.flushes, 1)


cdef bint store_flushed_since(Store *store, uint32_t application, uint64_t hash_,
                              uint64_t serial) noexcept nogil:
    cdef Shard *shard = shard_of(store, hash_)
    cdef bint is_flushed
    if store_serial(store, hash_) == serial:
        return False
    if atomic.load_acquire(&store.group_serial) > serial:  # SYNC cache-groups
        return True
    linux.pthread_mutex_lock(&shard.lock)
    is_flushed = shard_has_flushed(store, shard, application, hash_, serial)
    linux.pthread_mutex_unlock(&shard.lock)
    return is_flushed


# ---- walks: a slice of a shard under its lock at a time ----
#
# An entry stays in its slot while the table stays, so the slots from the walk's place on are what
# it has not seen; new entries need not be. Where the table was replaced between two slices, the
# shard is begun anew.

cdef bint is_among(const uint32_t *numbers, uint32_t count, uint32_t number) noexcept nogil:
    # They are in order.
    cdef uint32_t low = 0
    cdef uint32_t high = count
    cdef uint32_t middle
    while low < high:
        middle = (low + high) // 2
        if numbers[middle] < number:
            low = middle + 1
        else:
            high = middle
    return low < count and numbers[low] == number


cdef bint prefix_takes(const Take *take, const Entry *entry) noexcept nogil:
    cdef const uint8_t *key = entry_key(entry)
    if entry.serial >= take.serial:
        return False
    if take.applications != NULL and not is_among(take.applications, take.application_count,
                                                  entry.application):
        return False
    if take.bytes == 0:
        return True
    if entry.key_bytes < take.bytes or memcmp(key, take.prefix, take.bytes) != 0:
        return False
    if entry.key_bytes == take.bytes or key[take.bytes] == c" ":
        return True
    if not take.is_recursive:
        return False
    return take.prefix[take.bytes - 1] == c"/" or key[take.bytes] in (c"/", c"?")


cdef bint walk_takes(const Store *store, const Take *take, const Entry *entry) noexcept nogil:
    if take.kind == TAKE_PREFIX:
        return prefix_takes(take, entry)
    return (atomic.load_relaxed_u32(&entry.asked_s) < take.asked_from_s
            or entry_is_invalid(store, entry))


cdef uint64_t slot_take(Store *store, Shard *shard, uint64_t index,
                        const Take *take) noexcept nogil:
    cdef Entry *entry = slot_entry(shard.table.slots[index])
    cdef Entry *next_
    cdef uint64_t count = 0
    while entry != NULL:
        next_ = entry.variant
        if walk_takes(store, take, entry):
            shard_unlink(store, shard, entry)
            count += 1
        entry = next_
    return count


cdef uint64_t shard_take(Store *store, Shard *shard, const Take *take) noexcept nogil:
    # All of the shard; how many it took out.
    cdef uint64_t index = 0, count = 0, end
    cdef uint64_t table_number
    cdef uint32_t restarts = 0
    linux.pthread_mutex_lock(&shard.lock)
    table_number = shard.table_number
    while index <= shard.table.mask:
        end = min(index + WALK_SLOTS, shard.table.mask + 1)
        while index < end:
            count += slot_take(store, shard, index, take)
            index += 1
        if restarts == WALK_RESTARTS:
            continue
        linux.pthread_mutex_unlock(&shard.lock)
        store_reclaim(store)
        linux.pthread_mutex_lock(&shard.lock)
        if shard.table_number != table_number:
            table_number = shard.table_number
            restarts += 1
            index = 0
    linux.pthread_mutex_unlock(&shard.lock)
    return count


cdef uint64_t store_take(Store *store, const Take *take) noexcept nogil:
    cdef uint32_t index
    cdef uint64_t count = 0
    for index in range(<uint32_t> SHARDS):
        count += shard_take(store, &store.shards[index], take)
    return count


cdef uint64_t store_flush(Store *store, uint32_t application, const uint8_t *prefix,
                          uint32_t bytes, bint is_recursive) noexcept nogil:
    return store_flush_some(store, &application, 1, prefix, bytes, is_recursive)


cdef uint64_t store_flush_some(Store *store, const uint32_t *applications, uint32_t given,
                               const uint8_t *prefix, uint32_t bytes,
                               bint is_recursive) noexcept nogil:
    cdef Take take
    cdef uint64_t count = 0
    cdef uint32_t index
    if not is_recursive and bytes > 0 and applications != NULL:
        for index in range(given):
            count += store_invalidate(store, applications[index], prefix, bytes,
                                      store_hash(store, applications[index], prefix, bytes))
        return count
    memset(&take, 0, sizeof(take))
    take.kind = TAKE_PREFIX
    take.applications = applications
    take.application_count = given
    take.prefix = prefix
    take.bytes = bytes
    take.is_recursive = is_recursive
    take.serial = atomic.add(&store.serial, 1)  # SYNC cache-serial
    if applications == NULL:
        given = FLUSH_WORDS
    for index in range(given):
        serial_raise(&store.flush_serials[(applications[index] if applications != NULL else index)
                                          % FLUSH_WORDS], take.serial)
    count = store_take(store, &take)
    atomic.add_relaxed(&store.flushes, 1)
    atomic.add_relaxed(&store.flushed, count)
    return count


cdef uint64_t store_sweep(Store *store, uint64_t now_ns) noexcept nogil:
    cdef Take take
    cdef uint64_t now_s = now_ns // 1000000000
    cdef uint64_t count
    memset(&take, 0, sizeof(take))
    take.kind = TAKE_UNASKED
    if store.settings.scavenge_s > 0 and now_s > store.settings.scavenge_s:
        take.asked_from_s = now_s - store.settings.scavenge_s
    count = store_take(store, &take)
    atomic.add_relaxed(&store.scavenged, count)
    return count


# ---- what the managers want to see ----

cdef void facts_of(const Store *store, const Entry *entry, EntryFacts *facts) noexcept nogil:
    facts.bytes = entry_weight(entry)
    facts.content_bytes = body_filled(entry.body) if entry.body != NULL else 0
    facts.received_ns = entry.received_ns
    facts.age_s = entry.age_s
    facts.lifetime_s = entry.facts.lifetime_s
    facts.asked_s = atomic.load_relaxed_u32(&entry.asked_s)
    facts.application = entry.application
    facts.status = entry.status
    facts.hits = atomic.load_relaxed_u8(&entry.hits)
    facts.has_vary = entry.vary_bytes > 0
    facts.is_invalid = entry_is_invalid(store, entry)
    facts.key_bytes = entry.key_bytes
    memcpy(facts.key, entry.text, min(entry.key_bytes, <uint32_t> FACTS_KEY_BYTES))


cdef uint32_t chain_facts(const Store *store, const Entry *entry, EntryFacts *facts,
                          uint32_t most) noexcept nogil:
    cdef uint32_t count = 0
    while entry != NULL and count < most:
        facts_of(store, entry, &facts[count])
        count += 1
        entry = entry.variant
    return count


cdef uint32_t shard_list(Store *store, Shard *shard, StoreWalk *walk, EntryFacts *facts,
                         uint32_t most) noexcept nogil:
    # One slice; a chain that finds no room is left to the next one.
    cdef uint64_t end
    cdef uint32_t count = 0
    cdef const Entry *entry
    linux.pthread_mutex_lock(&shard.lock)
    if walk.slot > 0 and shard.table_number != walk.table_number:
        walk.slot = 0
    walk.table_number = shard.table_number
    end = min(walk.slot + WALK_SLOTS, shard.table.mask + 1)
    while walk.slot < end and count + VARIANTS_MAX < most:
        entry = slot_entry(shard.table.slots[walk.slot])
        count += chain_facts(store, entry, &facts[count], most - count)
        walk.slot += 1
    if walk.slot > shard.table.mask:
        walk.shard += 1
        walk.slot = 0
    linux.pthread_mutex_unlock(&shard.lock)
    return count


cdef uint32_t store_list(Store *store, StoreWalk *walk, EntryFacts *facts,
                         uint32_t most) noexcept nogil:
    cdef uint32_t count = 0
    bug.BUG_ON(most <= VARIANTS_MAX)
    while count == 0 and walk.shard < SHARDS:
        count = shard_list(store, &store.shards[walk.shard], walk, facts, most)
    return count


cdef uint32_t store_show(Store *store, uint32_t application, const uint8_t *key, uint32_t bytes,
                         uint64_t hash_, EntryFacts *facts, uint32_t most) noexcept nogil:
    cdef Shard *shard = shard_of(store, hash_)
    cdef uint64_t index
    cdef uint32_t count = 0
    cdef const Entry *entry = NULL
    linux.pthread_mutex_lock(&shard.lock)
    index = table_seek(shard.table, hash_)
    if index <= shard.table.mask:
        entry = slot_entry(shard.table.slots[index])
    while entry != NULL and count < most:
        if entry_is_of(entry, application, key, bytes, hash_):
            facts_of(store, entry, &facts[count])
            count += 1
        entry = entry.variant
    linux.pthread_mutex_unlock(&shard.lock)
    return count


# ---- lossy tables ----
#
# A word holds all that is known of one hash, so that reading and writing it needs no order; another
# hash with the same place overwrites it, and two loops that count at once may count one.

cdef inline uint32_t lossy_print(uint64_t hash_) noexcept nogil:
    # Bits that do not choose the place.
    return <uint32_t> (hash_ >> 32)


cdef bint hit_for_miss(const Store *store, uint64_t hash_, uint32_t now_s) noexcept nogil:
    cdef uint64_t word = atomic.load_relaxed(&store.misses[hash_ & store.lossy_mask])
    return word >> 32 == lossy_print(hash_) and now_s < <uint32_t> word


cdef void hit_for_miss_note(Store *store, uint64_t hash_, uint32_t now_s) noexcept nogil:
    cdef uint64_t word = <uint64_t> lossy_print(hash_) << 32 | <uint32_t> (now_s + HIT_FOR_MISS_S)
    atomic.store_relaxed(&store.misses[hash_ & store.lossy_mask], word)


cdef bint frequent_enough(Store *store, uint64_t hash_, uint32_t now_s) noexcept nogil:
    # 32 bits of the hash, 24 bits of the second that began the count, 8 bits of count. The count
    # begins anew when frequent_s have passed since its first.
    cdef uint64_t *at
    cdef uint64_t word, count
    if store.asked == NULL:
        return True
    at = &store.asked[hash_ & store.lossy_mask]
    word = atomic.load_relaxed(at)
    count = word & 0xff
    if (word >> 32 != lossy_print(hash_)
            or (now_s - <uint32_t> (word >> 8) & 0xffffff) >= store.settings.frequent_s):
        word = <uint64_t> lossy_print(hash_) << 32 | <uint64_t> (now_s & 0xffffff) << 8
        count = 0
    if count < FREQUENT_HITS_MAX:
        count += 1
    atomic.store_relaxed(at, word & ~(<uint64_t> 0xff) | count)
    return count >= store.settings.frequent_hits
