# The cache's store: how memory comes back. Reclamation, room, queues and ghosts. The contract
# stands in cache_store.pxd.
#
# Reclamation: why nothing is freed that a loop may still look at
#  A loop *announces* the epoch that it saw (store_enter: load epoch, store seen, fence R) and then
#  looks at tables until it announces another one, or that it sleeps (a release of seen). Who
#  unlinks an entry X does so first, then fence U, then loads the epoch: X is retired in epoch e
#  (entry_retire). The epoch goes from n to n + 1 by who loads n, then fence A, then finds each seen
#  either 0 or n (epoch_advance). X is freed when the epoch is e + 2, that is, behind an advance
#  whose loader saw e + 1. The three fences are seq_cst, hence in one order.
#   1. U precedes A: U's thread loaded e behind it, A's thread had loaded the later e + 1 before A.
#   2. If A precedes R, so does U, and the loop's looks behind R see X unlinked: it does not find X.
#   3. If R precedes A, the advance saw what the loop announced, or something later. Later means
#      that the loop has ended its looks at X, and the release of seen orders them before the
#      advance, the epoch and the free. The announced epoch s itself lets it pass only if s = e + 1.
#      Then the loop had loaded e + 1 before R, and U's thread e behind U: U precedes R, and as in 2
#      it does not find X.
#  A stale announcement (the loop loaded an old epoch) only delays the advance. What leads to X (a
#  chain's entry, an older table) was unlinked before X under the same lock and retired in the same
#  epoch or before, or was made to pass X over; so "sees X unlinked" covers ways through them.
#  The fence R is the one between "I am here" and "what does the table say" that x86, too, needs. It
#  is paid only when a loop wakes, and when the epoch has moved (something was retired and all loops
#  had passed): at rest store_enter is two loads of words that nobody writes.
#  A pin taken inside the turn is safe because the store's own pin is dropped only at the free.
#  tests/unit/test_memory_model.py searches the interleavings; tests/stress/test_cache_threads.py
#  runs them.
#
# Eviction: S3-FIFO (Yang et al., SOSP 2023) in each shard, by bytes
#  Newcomers stand in the small queue (a tenth of the shard's bytes). At its end they go on to the
#  main queue if they were asked for again often enough, else they leave, and their ghost stays: a
#  key whose ghost is known comes into the main queue at once. The main queue is a FIFO in which
#  each hit up to three buys another round. A reader therefore moves nothing: it counts to three.
#  No second chance and no ghost has what cannot be served any more: groups flushed, or past its
#  lifetime and the time it may be served stale. What somebody has pinned is passed over: it would
#  leave the table and stay in memory.
#  See docs/decisions/013-cache-store.md.

cdef enum:
    SMALL_SHARE = 10               # the small queue's part of a shard, as 1/n of its bytes
    SMALL_HITS = 1                 # so many hits in the small queue lead into the main queue
    EVICT_LAPS = 4                 # around the shards: a hit in the main queue buys one
    EVICT_LOOKS_MAX = 16384        # at entries, for one reservation
    EVICT_LOOKS = 16               # in one shard, beside what the size asked for takes
    RECLAIM_MOST = 1024            # entries freed in one call
    GHOST_BUCKET = 8
    GHOST_TIME_BITS = 12
    GHOST_TIME_STEPS = 1024        # of ghost_words; a quarter of what the bits can tell


# ---- retiring ----

cdef uint64_t retire_epoch(Store *store) noexcept nogil:
    # SYNC cache-epoch: fence U
    atomic.fence_seq()
    return atomic.load_relaxed(&store.epoch)


cdef void entry_retire(Store *store, Shard *shard, Entry *entry) noexcept nogil:
    # Entries three epochs older in the same list wait two more: no harm.
    cdef uint64_t epoch = retire_epoch(store)
    cdef uint64_t weight = allocated_bytes(entry)
    if entry.body != NULL and atomic.load_relaxed_u32(&entry.body.refs) == 1:
        weight += body_weight(entry.body)
    entry.older = <Entry *> weight  # it is in no queue any more: what it counts for, until then
    entry.newer = shard.retired[epoch % 3]
    shard.retired[epoch % 3] = entry
    shard.retired_epochs[epoch % 3] = epoch
    atomic.add_relaxed(&store.leaving_bytes, weight)
    atomic.add_relaxed_u32(&shard.retired_count, 1)
    atomic.add_relaxed_u32(&store.retired_count, 1)


cdef void table_retire(Store *store, Shard *shard, Table *table) noexcept nogil:
    cdef Table *old = shard.table
    shard.table = table
    atomic.store_release_ptr(shard.published, table)  # SYNC cache-table
    old.epoch = retire_epoch(store)
    old.next_retired = shard.retired_tables
    shard.retired_tables = old
    atomic.add_relaxed(&store.leaving_bytes, allocated_bytes(old))
    atomic.add_relaxed_u32(&shard.retired_count, 1)
    atomic.add_relaxed_u32(&store.retired_count, 1)


# ---- freeing ----

cdef void epoch_advance(Store *store) noexcept nogil:
    cdef uint64_t epoch = atomic.load_acquire(&store.epoch)  # SYNC cache-epoch
    cdef uint64_t seen
    cdef uint32_t loop
    # SYNC cache-epoch: fence A
    atomic.fence_seq()
    for loop in range(store.loop_count):
        seen = atomic.load_acquire(&store.seen[loop * SEEN_STRIDE])  # SYNC cache-seen
        if seen != 0 and seen != epoch:
            return
    atomic.swap_if(&store.epoch, epoch, epoch + 1)  # SYNC cache-epoch


cdef Table *tables_take(Shard *shard, uint64_t epoch) noexcept nogil:
    # Those that may go, newest first: what is behind one of them may go, too.
    cdef Table **at = &shard.retired_tables
    cdef Table *taken
    while at[0] != NULL and at[0].epoch + 2 > epoch:
        at = &at[0].next_retired
    taken = at[0]
    at[0] = NULL
    return taken


cdef Entry *entries_take(Shard *shard, uint64_t epoch, uint32_t *most) noexcept nogil:
    cdef uint32_t index
    cdef Entry *entry
    cdef Entry *taken = NULL
    for index in range(3):
        if shard.retired_epochs[index] + 2 > epoch:
            continue
        while shard.retired[index] != NULL and most[0] > 0:
            entry = shard.retired[index]
            shard.retired[index] = entry.newer
            entry.newer = taken
            taken = entry
            most[0] -= 1
    return taken


cdef void retired_note_gone(Store *store, Shard *shard, uint64_t weight) noexcept nogil:
    atomic.add_relaxed(&store.leaving_bytes, <uint64_t> 0 - weight)
    atomic.add_relaxed_u32(&shard.retired_count, <uint32_t> -1)
    atomic.add_relaxed_u32(&store.retired_count, <uint32_t> -1)


cdef void shard_reclaim(Store *store, Shard *shard, uint64_t epoch,
                        uint32_t *most) noexcept nogil:
    cdef Table *table
    cdef Table *next_table
    cdef Entry *entry
    cdef Entry *next_
    linux.pthread_mutex_lock(&shard.lock)
    table = tables_take(shard, epoch)
    entry = entries_take(shard, epoch, most)
    linux.pthread_mutex_unlock(&shard.lock)
    while table != NULL:
        next_table = table.next_retired
        retired_note_gone(store, shard, allocated_bytes(table))
        store_free(store, table)
        table = next_table
    while entry != NULL:
        next_ = entry.newer
        retired_note_gone(store, shard, <uint64_t> entry.older)
        entry_unpin(store, entry)
        entry = next_


cdef void store_reclaim(Store *store) noexcept nogil:
    cdef uint32_t most = RECLAIM_MOST
    cdef uint32_t index
    cdef uint64_t epoch
    if atomic.load_relaxed_u32(&store.retired_count) == 0:
        return
    # Twice: when all loops sleep, what was retired a moment ago may go at once.
    epoch_advance(store)
    epoch_advance(store)
    epoch = atomic.load_acquire(&store.epoch)  # SYNC cache-epoch
    for index in range(<uint32_t> SHARDS):
        if atomic.load_relaxed_u32(&store.shards[index].retired_count) > 0:
            shard_reclaim(store, &store.shards[index], epoch, &most)


# ---- room ----

cdef bint store_has_room(const Store *store, uint64_t bytes) noexcept nogil:
    return (atomic.load_relaxed(&store.bytes) + bytes
            <= store.target + atomic.load_relaxed(&store.leaving_bytes))


cdef bint store_take_room(Store *store, uint64_t bytes) noexcept nogil:
    cdef uint64_t taken = atomic.load_relaxed(&store.bytes)
    while taken + bytes <= store.settings.bytes:
        if atomic.swap_if(&store.bytes, taken, taken + bytes):  # SYNC cache-bytes
            return True
        taken = atomic.load_relaxed(&store.bytes)
    return False


cdef bint store_reserve(Store *store, uint32_t shard, uint64_t bytes) noexcept nogil:
    # Counts them, if they fit or can be made to. Of what is evicted now nothing is free yet: that
    # is what the distance from target to settings.bytes is for.
    if bytes > store.settings.bytes:
        return False
    if not store_has_room(store, bytes):
        store_reclaim(store)
        if not store_has_room(store, bytes):
            store_make_room(store, shard, bytes)
    if store_take_room(store, bytes):
        return True
    store_reclaim(store)
    return store_take_room(store, bytes)


cdef uint32_t shard_to_begin_with(const Store *store, uint32_t own) noexcept nogil:
    # The own one, so that loops meet at few locks; the fullest if it is smaller than the mean:
    # shards would drift apart, and in a small one what is asked for often goes too soon.
    cdef uint32_t index, fullest = 0
    cdef uint64_t bytes, total = 0, most = 0
    for index in range(<uint32_t> SHARDS):
        bytes = atomic.load_relaxed(&store.shards[index].bytes)
        total += bytes
        if bytes > most:
            most = bytes
            fullest = index
    if own < SHARDS and atomic.load_relaxed(&store.shards[own].bytes) >= total // SHARDS:
        return own
    return fullest


cdef void store_make_room(Store *store, uint32_t own, uint64_t bytes) noexcept nogil:
    cdef uint32_t looks = EVICT_LOOKS_MAX
    cdef uint64_t now_ns = linux.now_ns()
    cdef uint32_t first = shard_to_begin_with(store, own)
    cdef uint32_t index
    for index in range(<uint32_t> (SHARDS * EVICT_LAPS)):
        if looks == 0 or store_has_room(store, bytes):
            return
        shard_make_room(store, &store.shards[(first + index) % SHARDS], bytes, now_ns, &looks)


cdef void shard_make_room(Store *store, Shard *shard, uint64_t bytes, uint64_t now_ns,
                          uint32_t *looks) noexcept nogil:
    # So many looks that a shard with few entries keeps what is asked for often.
    cdef uint64_t count, visit
    linux.pthread_mutex_lock(&shard.lock)
    count = shard.count
    if count > 0:
        visit = EVICT_LOOKS + 2 * bytes // (shard.bytes // count + 1)
        visit = min(min(visit, 2 * count), <uint64_t> looks[0])
        looks[0] -= <uint32_t> visit
        while visit > 0 and not store_has_room(store, bytes):
            shard_evict_look(store, shard, now_ns)
            visit -= 1
        looks[0] += <uint32_t> visit
    linux.pthread_mutex_unlock(&shard.lock)


cdef bint entry_is_dead(const Store *store, const Entry *entry, uint64_t now_ns) noexcept nogil:
    # Never to be served again but after asking the worker.
    cdef uint64_t age_s = entry.age_s
    if now_ns > entry.received_ns:
        age_s += (now_ns - entry.received_ns) // 1000000000
    return (age_s > <uint64_t> entry.facts.lifetime_s
            + max(entry.facts.stale_while_revalidate_s, entry.facts.stale_if_error_s)
            or entry_is_invalid(store, entry))


cdef void shard_evict_look(Store *store, Shard *shard, uint64_t now_ns) noexcept nogil:
    # At the end of one queue: the entry there goes, or gets another round.
    cdef uint8_t hits
    cdef bint is_small = shard.small_oldest != NULL and (
        shard.main_oldest == NULL
        or shard.small_bytes * SMALL_SHARE > shard.bytes)
    cdef Entry *entry = shard.small_oldest if is_small else shard.main_oldest
    if entry == NULL:
        return
    hits = atomic.load_relaxed_u8(&entry.hits)
    if not entry_is_dead(store, entry, now_ns):
        if entry_is_pinned(entry) or hits >= (SMALL_HITS if is_small else 1):
            queue_remove(shard, entry)
            queue_add(shard, entry, QUEUE_MAIN)
            if hits > 0:
                atomic.store_relaxed_u8(&entry.hits, 0 if is_small else hits - 1)
            return
        if is_small:
            ghost_add(shard, entry.hash)
    atomic.add_relaxed(&store.evicted, 1)
    shard_unlink(store, shard, entry)


# ---- queues, under the shard's lock ----

cdef void queue_add(Shard *shard, Entry *entry, uint8_t queue) noexcept nogil:
    cdef bint is_small = queue == QUEUE_SMALL
    cdef Entry **newest = &shard.small_newest if is_small else &shard.main_newest
    cdef Entry **oldest = &shard.small_oldest if is_small else &shard.main_oldest
    entry.queue = queue
    entry.newer = NULL
    entry.older = newest[0]
    if newest[0] == NULL:
        oldest[0] = entry
    else:
        newest[0].newer = entry
    newest[0] = entry
    queue_count(shard, entry, 1)


cdef void queue_count(Shard *shard, const Entry *entry, int32_t sign) noexcept nogil:
    cdef uint64_t weight = <uint64_t> sign * entry_weight(entry)
    if entry.queue == QUEUE_SMALL:
        shard.small_bytes += weight
    atomic.store_relaxed(&shard.bytes, shard.bytes + weight)
    shard.count += <uint32_t> sign


cdef void queue_remove(Shard *shard, Entry *entry) noexcept nogil:
    cdef bint is_small = entry.queue == QUEUE_SMALL
    cdef Entry **newest = &shard.small_newest if is_small else &shard.main_newest
    cdef Entry **oldest = &shard.small_oldest if is_small else &shard.main_oldest
    if entry.newer == NULL:
        newest[0] = entry.older
    else:
        entry.newer.older = entry.older
    if entry.older == NULL:
        oldest[0] = entry.newer
    else:
        entry.older.newer = entry.newer
    queue_count(shard, entry, -1)


# ---- ghosts, under the shard's lock ----
#
# A bucket of words that all lie in one cache line; a new ghost takes the place of the oldest in its
# bucket. Time is the number of evictions from the small queue, in steps; a ghost older than the
# shard has entries has been forgotten. One in some 100,000 lookups takes a stranger for a ghost,
# and then an entry begins in the main queue: no harm.

cdef uint32_t *ghost_bucket(const Shard *shard, uint64_t hash_) noexcept nogil:
    return &shard.ghosts[(hash_ & (shard.ghost_words - 1)) & ~(<uint64_t> GHOST_BUCKET - 1)]


cdef uint32_t ghost_print(uint64_t hash_) noexcept nogil:
    return <uint32_t> (hash_ >> 40 & 0xfffff | 1) << GHOST_TIME_BITS


cdef uint64_t ghost_step(const Shard *shard) noexcept nogil:
    return max(shard.ghost_words // GHOST_TIME_STEPS, <uint64_t> 1)


cdef uint32_t ghost_age(const Shard *shard, uint32_t word) noexcept nogil:
    # In steps.
    cdef uint32_t now = <uint32_t> (shard.ghost_time // ghost_step(shard))
    return (now - word) & ((1 << GHOST_TIME_BITS) - 1)


cdef void ghost_add(Shard *shard, uint64_t hash_) noexcept nogil:
    cdef uint32_t *words = ghost_bucket(shard, hash_)
    cdef uint32_t now = <uint32_t> (shard.ghost_time // ghost_step(shard))
    cdef uint32_t index
    cdef uint32_t oldest = 0
    for index in range(<uint32_t> GHOST_BUCKET):
        if words[index] == 0:
            oldest = index
            break
        if ghost_age(shard, words[index]) > ghost_age(shard, words[oldest]):
            oldest = index
    words[oldest] = ghost_print(hash_) | (now & ((1 << GHOST_TIME_BITS) - 1))
    shard.ghost_time += 1


cdef bint ghost_take(Shard *shard, uint64_t hash_) noexcept nogil:
    cdef uint32_t *words = ghost_bucket(shard, hash_)
    cdef uint32_t index
    cdef uint32_t word
    for index in range(<uint32_t> GHOST_BUCKET):
        word = words[index]
        if word >> GHOST_TIME_BITS == ghost_print(hash_) >> GHOST_TIME_BITS:
            words[index] = 0
            return ghost_age(shard, word) * ghost_step(shard) <= shard.count
    return False


cdef void ghosts_grow(Store *store, Shard *shard) noexcept nogil:
    # With the table. They begin anew: a table that grows has hardly evicted yet. Without memory
    # they stay as they are.
    cdef uint64_t words = (shard.table.mask + 1) // 2
    cdef uint32_t *ghosts = <uint32_t *> store_alloc_fixed(store, words * sizeof(uint32_t))
    if ghosts == NULL:
        return
    store_free(store, shard.ghosts)
    shard.ghosts = ghosts
    shard.ghost_words = words
