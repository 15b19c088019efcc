# The response cache's store: keyed entries in the core's private memory, shared by all loops.
# Bodies: cache_store.pxi (table, entries, content), cache_evict.pxi (queues, reclamation),
# cache_flush.pxi (invalidation, walks, lossy tables). What may be stored and reused is
# cache_rules.pxd's business, who fills and waits is cache_fill.pxi's.
#
# Theory of operation
#  Readers (loops) take no lock and write nothing that others read, but for two words of the entry
#  they hit (hits, asked_s), and those only when they change. Writers hold the shard's lock.
#  Slots are open addressing. A slot is one word: 16 bits of the hash and the address of the first
#  of a chain of entries with one hash (variants of a key, newest first). An entry is immutable
#  once a slot or a chain leads to it, but for the words marked [atomic].
#  What is unlinked is retired, and freed when every loop has passed a point at which it holds no
#  entry (epoch-based reclamation; the proof stands in cache_evict.pxi): a loop announces itself at
#  the start of a turn and withdraws before it sleeps. Who needs an entry beyond its turn pins it.
#  Every byte is counted from malloc to free, and what does not fit is not allocated: entry_new,
#  body_new and body_append evict first, from their own shard and then from the others. Some of
#  settings.bytes stays free for what was evicted and not yet freed (Store.target).
#  Eviction is S3-FIFO per shard: a small queue for newcomers, a main queue, and ghosts: prints of
#  hashes of what left the small queue unasked. See docs/decisions/013-cache-store.md.
#  Flushes: store.serial counts invalidations. A response is stored only if its key was not
#  invalidated after the moment its request began (store_serial): a shard's ring of the last
#  FLUSHES_KEPT keys says which, a word per application says when it last flushed a prefix; a
#  request older than the ring is not stored.
#  Groups (RFC 9875) are a table of serials by hash: a hit compares the entry's serial with its
#  groups', so a group is invalid the moment its word is written. Two groups with one word are
#  invalidated together: the larger the store, the more words, up to what an entry can name in 16
#  bits. Those never written cost no memory (calloc).
#
# Contract. "Loop": between store_enter and store_leave of its own; others: any thread, also a loop.
#   int store_init(Store *store, const StoreSettings *settings, uint32_t loop_count)
#     0 or -errno. settings.bytes below STORE_BYTES_MIN are taken for that.
#   void store_uninit(Store *store)
#     All loops have ended and nothing is pinned.
#   void store_enter(Store *store, uint32_t loop)
#   void store_leave(Store *store, uint32_t loop)
#     Around a loop's turn; enter also between two turns without a sleep. From one enter to the next
#     enter or leave, entries that store_find() gave stay valid. Two loads, as a rule.
#   void store_reclaim(Store *store)
#     Frees what may be freed, a bounded number per call; two loads when there is nothing. For each
#     loop right after store_leave(), or before store_enter(), and for a helper thread.
#   uint64_t store_hash(const Store *store, uint32_t application, const uint8_t *key, size_t bytes)
#     What is called hash everywhere else.
#   Entry *store_find(Store *store, uint32_t application, const uint8_t *key, uint32_t bytes,
#                     uint64_t hash, const FieldView *request, uint32_t now_s)
#     Loop. The newest variant that matches, fresh or not, unless one of its groups is invalid;
#     NULL. Counts as asked. now_s: monotonic clock (now_ns // 10**9).
#   bint store_has_variants(Store *store, uint32_t application, const uint8_t *key, uint32_t bytes,
#                           uint64_t hash)
#     Loop. Whether the key is stored with any Vary.
#   Entry *entry_new(Store *store, const uint8_t *key, uint32_t key_bytes, uint64_t hash,
#                    uint32_t application, const uint8_t *vary, uint32_t vary_bytes,
#                    const uint64_t *groups, uint32_t group_count, const uint8_t *head,
#                    uint32_t head_bytes, uint32_t head_304_bytes)
#     Allocated, one pin (the caller's), not yet in the store; NULL: no memory, no room, or more
#     than 255 groups. groups: hashes, of the origin and the name together. The other fields are 0
#     (modified_s and date_s -1) for the caller to set; a pin of entry.body becomes the entry's.
#   Body *body_new(Store *store, int64_t length)
#     One pin; a known length (>= 0) is one segment. NULL: no memory, no room, or more than
#     settings.entry_bytes.
#   bint body_append(Store *store, Body *body, const uint8_t *data, size_t bytes)
#     By the one that fills it; publishes what it copied. False: nothing was taken, the content
#     cannot be held (room, entry_bytes, or more than was declared): body_cut() it.
#   Body *body_finish(Store *store, Body *body)
#     By the one that fills it, when all is there: BODY_WHOLE. Gives the body to be used from now on
#     with the caller's pin: another one if this one wasted room and nobody else had pinned it.
#     NULL: shorter than declared; it is cut now, and still the caller's.
#   void body_cut(Body *body)                       BODY_CUT
#   uint64_t body_filled(const Body *body)          bytes that may be read
#   uint32_t body_state(const Body *body)           BODY_*; what it says includes body_filled()
#   const uint8_t *body_at(const Body *body, uint64_t offset, uint64_t *bytes)
#     The run of filled bytes from offset on; *bytes 0: not filled yet.
#   const uint8_t *body_run(const Body *body, const Segment **from_, uint64_t offset,
#                           uint64_t *bytes)
#     The same for one that reads on: *from_ is NULL at first and kept between calls.
#   int store_put(Store *store, Entry *entry, uint64_t serial)
#     Links a whole entry in place of those with the same key and secondary key. STORE_DONE;
#     STORE_FLUSHED: invalidated since serial; STORE_FULL. Takes a pin of its own; the caller's
#     stays. An entry is put once.
#   void entry_pin(Entry *entry) / entry_unpin(Store *store, Entry *entry)
#   void body_pin(Body *body) / body_unpin(Store *store, Body *body)
#     Who has a pin, or is a loop that found the entry in this turn, may pin. Any thread may unpin.
#   uint64_t store_serial(const Store *store, uint64_t hash)
#     What to keep when a request begins, before a worker can see it.
#   bint store_flushed_since(Store *store, uint32_t application, uint64_t hash, uint64_t serial)
#     Whether what was asked for then may be of no use to who asks now: its key or the application
#     was flushed, or any group (of which it may turn out to be).
#   uint32_t store_invalidate(Store *store, uint32_t application, const uint8_t *key,
#                             uint32_t bytes, uint64_t hash)
#     One key, all variants: how many there were. Fills of it that began before are not stored.
#   uint64_t store_flush(Store *store, uint32_t application, const uint8_t *prefix, uint32_t bytes,
#                        bint is_recursive)
#     Every key that is the prefix or, recursively, starts with it at a segment boundary ("/", "?",
#     " ", or a prefix that ends with "/"); an empty prefix means all. How many entries went. Fills
#     of the application that began before are not stored, whatever their key, if it was recursive.
#     Not for a loop: it takes long.
#   uint64_t store_flush_some(Store *store, const uint32_t *applications, uint32_t count, ...)
#     The same of several applications, in one walk; in order, each once. NULL: of all (then only
#     recursively, or with an empty prefix).
#   void store_flush_group(Store *store, uint64_t hash)      effective at once
#   uint64_t store_sweep(Store *store, uint64_t now_ns)
#     Scavenger: entries that nobody asked for in scavenge_s (0: any time), and entries of invalid
#     groups. How many went. Not for a loop.
#   bint hit_for_miss(const Store *store, uint64_t hash, uint32_t now_s)
#   void hit_for_miss_note(Store *store, uint64_t hash, uint32_t now_s)
#   bint frequent_enough(Store *store, uint64_t hash, uint32_t now_s)
#     Counts one asking; whether there were frequent_hits of them within frequent_s.
#   uint32_t store_list(Store *store, StoreWalk *walk, EntryFacts *facts, uint32_t most)
#     Copies facts for the managers, a slice under a lock at a time; walk is zeroed before the first
#     call. 0: that was all. An entry may come twice when its shard grows meanwhile. most must be at
#     least VARIANTS_MAX + 1.
#   uint32_t store_show(Store *store, uint32_t application, const uint8_t *key, uint32_t bytes,
#                       uint64_t hash, EntryFacts *facts, uint32_t most)      one key's variants

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kernelq.core cimport atomic
from kernelq.core.cache_rules cimport StoredFacts
from kernelq.core.linux cimport pthread_mutex_t

cdef enum:
    SHARDS = 16                    # by the upper bits of the hash
    FLUSHES_KEPT = 64              # a shard remembers so many invalidations of single keys
    FLUSH_WORDS = 64               # by application
    VARIANTS_MAX = 32              # of one key
    SEGMENT_BYTES = 65536          # of content whose length is not known, at most
    SEGMENT_BYTES_FIRST = 1024
    GROUP_WORDS_MIN = 4096         # serials: at most 1/128 of the store's bytes above that
    LOSSY_WORDS_MIN = 512          # marks: at most 1/1024 of the store's bytes each
    WORDS_MAX = 65536              # of each of these tables
    HIT_FOR_MISS_S = 120
    FREQUENT_HITS_MAX = 255
    STORE_BYTES_MIN = 262144
    TABLE_SLOTS_MIN = 64
    SEEN_STRIDE = 8                # words: a cache line for each loop's announcement
    FACTS_KEY_BYTES = 1024         # of a key in EntryFacts

cdef enum:                         # what store_put answers
    STORE_DONE = 0
    STORE_FLUSHED = 1
    STORE_FULL = 2

cdef enum:                         # Entry.queue
    QUEUE_NONE = 0                 # not put yet
    QUEUE_SMALL = 1
    QUEUE_MAIN = 2
    QUEUE_GONE = 3                 # unlinked

cdef enum:                         # Body.state
    BODY_FILLING = 0
    BODY_WHOLE = 1
    BODY_CUT = 2                   # never to be stored

ctypedef struct Segment:
    Segment *next                  # published before filled passes it
    uint64_t start                 # offset in the content
    uint64_t room
    uint8_t data[1]

ctypedef struct Body:              # with its first segment
    uint64_t filled                # [atomic] bytes that may be read
    int64_t length                 # declared; -1: not known before the end
    uint32_t refs                  # [atomic]
    uint32_t state                 # [atomic] BODY_*
    Segment *next                  # behind the first; published before filled passes it
    Segment *last                  # the filler's; NULL: the first
    uint64_t room
    uint8_t data[1]

ctypedef struct Entry:
    Entry *variant                 # [atomic] the next with the same hash
    Entry *newer                   # [shard lock] in its queue; retired: in its list
    Entry *older                   # [shard lock]
    Body *body                     # NULL: no content
    uint64_t hash
    uint64_t serial                # of the moment its request began
    uint64_t received_ns           # monotonic clock: age_s is counted from here
    int64_t date_s                 # wall clock, of its Date field; -1: none
    int64_t modified_s             # of Last-Modified; -1: none
    StoredFacts facts
    uint32_t refs                  # [atomic] the store's, and one for each that pins it
    uint32_t age_s                 # corrected initial age
    uint32_t asked_s               # [atomic] monotonic clock
    uint32_t application
    uint32_t key_bytes             # texts in this order
    uint32_t vary_bytes
    uint32_t head_bytes            # status line and field lines, without framing and connection
    uint32_t head_304_bytes        # of these the field lines of a 304, first behind the status line
    uint16_t status
    uint16_t status_line_bytes     # with CR LF
    uint32_t etag_at               # within head
    uint16_t etag_bytes            # 0: none
    uint8_t group_count            # uint16_t words of the group table, behind the head, unaligned
    uint8_t queue                  # [shard lock]
    uint8_t hits                   # [atomic] 0 to 3
    uint8_t text[1]

ctypedef struct Table:             # immutable size; replaced by another one
    uint64_t mask
    Table *next_retired
    uint64_t epoch                 # in which it was retired
    uint64_t slots[1]              # [atomic] 0: free; 1: given up, passed over; else see above

ctypedef struct Flush:
    uint64_t serial
    uint64_t hash

ctypedef struct Shard:             # all under the lock but what is [atomic]
    pthread_mutex_t lock
    Table *table                   # what Store.tables says to readers
    Table **published              # there
    uint64_t table_number          # of replacements
    uint64_t used, given_up        # slots
    Entry *small_newest
    Entry *small_oldest
    Entry *main_newest
    Entry *main_oldest
    uint64_t bytes                 # [atomic] of entries in both queues, with their content
    uint64_t small_bytes           # of these in the small queue
    uint32_t count                 # of entries
    uint32_t *ghosts               # buckets of 8: 20 bits of a hash, 12 bits of when
    uint64_t ghost_words, ghost_time
    uint64_t forgotten             # serials up to here have left the ring
    uint64_t flush_count
    Flush flushes[64]
    Entry *retired[3]              # by epoch modulo 3
    uint64_t retired_epochs[3]
    Table *retired_tables
    uint32_t retired_count         # [atomic]

ctypedef struct StoreSettings:
    uint64_t bytes                 # most, with all overhead
    uint64_t entry_bytes           # most content of one
    uint32_t frequent_hits         # stored when asked so often within; at most FREQUENT_HITS_MAX
    uint32_t frequent_s
    uint32_t scavenge_s            # 0: off

ctypedef struct Store:             # what readers read shares no cache line with what writers write
    StoreSettings settings
    uint8_t seed[16]
    uint32_t loop_count
    uint32_t fail_in               # tests: the allocation with this number from now on fails
    uint64_t target                # evict down to here, so that what was evicted may wait
    Shard *shards
    Table **tables                 # [atomic] of each shard
    uint64_t *groups               # [atomic] serials
    uint64_t group_mask
    uint64_t *misses               # [atomic] hit-for-miss marks: 32 bits of a hash, until when
    uint64_t *asked                # [atomic] 32 bits of a hash, since when, how often; or NULL
    uint64_t lossy_mask
    uint64_t *seen                 # [atomic] per loop, SEEN_STRIDE apart; 0: it sleeps
    uint8_t gap[64]
    uint64_t epoch                 # [atomic] changes a few times per turn at most
    uint8_t gap_too[64]
    uint64_t serial                # [atomic] of all invalidations
    uint64_t flush_serials[64]     # [atomic] of each application's last prefix flush
    uint64_t group_serial          # [atomic] of the last group's
    uint64_t bytes                 # [atomic] allocated
    uint64_t leaving_bytes         # [atomic] of these evicted or unlinked, not yet free to go
    uint32_t retired_count         # [atomic]
    # counters [atomic]
    uint64_t entries_now, entries_total, flushes, flushed, evicted, scavenged

ctypedef struct StoreWalk:         # all zero: at the start
    uint32_t shard
    uint64_t slot
    uint64_t table_number

ctypedef struct EntryFacts:
    uint64_t bytes                 # memory, with its content's
    uint64_t content_bytes
    uint64_t received_ns
    uint32_t age_s                 # at received_ns
    uint32_t lifetime_s
    uint32_t asked_s
    uint32_t application
    uint16_t status
    uint8_t hits                   # 0 to 3
    bint has_vary
    bint is_invalid                # a group of it was flushed
    uint32_t key_bytes             # of the key; key holds at most FACTS_KEY_BYTES of it
    uint8_t key[1024]


cdef inline void store_enter(Store *store, uint32_t loop) noexcept nogil:
    cdef uint64_t *seen = &store.seen[loop * SEEN_STRIDE]
    cdef uint64_t epoch = atomic.load_relaxed(&store.epoch)
    if atomic.load_relaxed(seen) == epoch:
        return
    atomic.store_release(seen, epoch)  # SYNC cache-seen
    # SYNC cache-epoch: no look at the table before the announcement
    atomic.fence_seq()


cdef inline void store_leave(Store *store, uint32_t loop) noexcept nogil:
    atomic.store_release(&store.seen[loop * SEEN_STRIDE], 0)  # SYNC cache-seen


cdef inline uint64_t store_serial(const Store *store, uint64_t hash) noexcept nogil:
    return atomic.load_acquire(&store.serial)  # SYNC cache-serial


cdef inline const uint8_t *entry_key(const Entry *entry) noexcept nogil:
    return entry.text


cdef inline const uint8_t *entry_vary(const Entry *entry) noexcept nogil:
    return entry.text + entry.key_bytes


cdef inline const uint8_t *entry_head(const Entry *entry) noexcept nogil:
    return entry.text + entry.key_bytes + entry.vary_bytes


cdef inline void entry_pin(Entry *entry) noexcept nogil:
    atomic.add_u32(&entry.refs, 1)


cdef inline void body_pin(Body *body) noexcept nogil:
    atomic.add_u32(&body.refs, 1)


cdef inline uint64_t body_filled(const Body *body) noexcept nogil:
    return atomic.load_acquire(&body.filled)  # SYNC cache-filled


cdef inline uint32_t body_state(const Body *body) noexcept nogil:
    return atomic.load_acquire_u32(&body.state)  # SYNC cache-body-state
