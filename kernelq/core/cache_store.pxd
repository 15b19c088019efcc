# The response cache's store: keyed entries in the core's private memory, shared by all loops.
# Bodies: cache_store.pxi. What may be stored and reused is cache_rules.pxd's business, who fills
# and waits is cache_fill.pxi's.
#
# Theory of operation
#  Readers (loops) take no lock and write nothing that others read, but for two words of the entry
#  they hit (hits, asked_s), and those only when they change. Writers hold the shard's lock.
#  Slots are open addressing: a table of (hash, first entry of a chain of variants). An entry is
#  immutable once a slot or a chain leads to it, but for the words marked [atomic].
#  What is unlinked is retired, and freed when every loop has passed a point at which it holds no
#  entry (epoch-based reclamation): a loop announces itself at the start of a turn and withdraws
#  before it sleeps. Who needs an entry beyond its turn pins it (refs).
#  Eviction is S3-FIFO per shard: a small queue for newcomers, a main queue, and a ghost list of
#  hashes; bytes are counted over all shards, an insertion evicts from its own shard first and from
#  the next ones when that has nothing left.
#  Flushes: each shard numbers its invalidations. A response is stored only if its key was not
#  invalidated after the moment its request began (store_serial): a ring of the last FLUSHES_KEPT
#  says which keys; a request older than the ring is not stored.
#  Groups (RFC 9875) are a table of serials by hash: a hit compares the entry's serial with its
#  groups', so a group is invalid the moment its word is written. Two groups with one word are
#  invalidated together.
#
# Contract (store: Store *)
#   int store_init(store, mode limits from StoreSettings, loop_count)     0 or -ENOMEM
#   void store_uninit(store)                        all loops have ended
#   void store_enter(store, loop) / store_leave(store, loop)              around a loop's turn
#     Between them entries that store_find() gave stay valid. Cheap: a relaxed load and a store.
#   Entry *store_find(store, application, key, bytes, hash, const FieldView *request)
#     A reader's look-up: the variant that matches, fresh or not; NULL. Counts as asked.
#   bint store_has_variants(...)                    whether the key is stored with any Vary
#   Entry *entry_new(store, key, bytes, hash, application, vary, vary_bytes, groups, group_count,
#                    head, head_bytes, head_304_bytes)
#     Allocated, one pin (the caller's), not yet in the store; NULL: no memory, or it is larger than
#     the store may be.
#   Body *body_new(store, int64_t length)           one pin; a known length is one segment
#   bint body_append(store, body, data, bytes)      by the one that fills it; publishes body.filled
#   const uint8_t *body_at(body, offset, *bytes)    the run of filled bytes from offset on
#   int store_put(store, entry, serial)
#     Links a whole entry in place of those with the same key and secondary key, evicting what must
#     go. STORE_DONE; STORE_FLUSHED: invalidated since serial; STORE_FULL. Takes a pin of its own.
#   void entry_pin / entry_unpin(store, entry)      body_pin / body_unpin
#   uint64_t store_serial(store, hash)              what to keep when a request begins
#   uint32_t store_invalidate(store, application, key, bytes, hash)       one key, all variants
#   uint64_t store_flush(store, application, prefix, bytes, is_recursive)
#     Every key that is the prefix or, recursively, starts with it at a segment boundary ("/", "?",
#     or a prefix that ends with "/"); an empty prefix means all. Any thread but a loop: it takes long.
#   void store_flush_group(store, origin_hash)      effective at once
#   uint64_t store_sweep(store, ...)                scavenger: what nobody asked for in a period;
#                                                   entries of invalid groups
#   void store_reclaim(store)                       frees what may be freed
#   bint hit_for_miss(store, hash, now_s) / void hit_for_miss_note(store, hash, now_s)
#   bint frequent_enough(store, hash, now_s)        --cache-frequent-hits
#   uint32_t store_list(...)                        copies facts of entries, shard by shard, for
#                                                   the managers

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kernelq.core.cache_rules cimport StoredFacts
from kernelq.core.linux cimport pthread_mutex_t

cdef enum:
    SHARDS = 16
    FLUSHES_KEPT = 64              # a shard remembers so many invalidations of single keys
    VARIANTS_MAX = 32              # of one key
    SEGMENT_BYTES = 65536          # of content whose length is not known
    GROUP_WORDS = 4096
    MISS_WORDS = 4096              # hit-for-miss marks of a shard
    HIT_FOR_MISS_S = 10

cdef enum:                         # store_put()
    STORE_DONE = 0
    STORE_FLUSHED = 1
    STORE_FULL = 2

cdef enum:                         # Entry.queue
    QUEUE_NONE = 0
    QUEUE_SMALL = 1
    QUEUE_MAIN = 2

cdef enum:                         # Body.state
    BODY_FILLING = 0
    BODY_WHOLE = 1
    BODY_CUT = 2                   # never to be stored

ctypedef struct Segment:
    Segment *next                  # [atomic] published before filled passes it
    uint64_t start                 # offset in the content
    uint32_t room
    uint8_t data[1]

ctypedef struct Body:
    uint64_t filled                # [atomic] bytes that may be read
    int64_t length                 # declared; -1: not known before the end
    uint32_t refs                  # [atomic]
    uint32_t state                 # [atomic] BODY_*
    Segment *first
    Segment *last                  # the filler's

ctypedef struct Entry:
    Entry *variant                 # [atomic] the next with the same key
    Entry *newer                   # [shard lock] in its queue; retired: in its list
    Entry *older
    Body *body
    uint64_t hash
    uint64_t serial                # of the moment its request began
    uint64_t received_ns           # monotonic clock: age_s is counted from here
    int64_t date_s                 # wall clock, of its Date field
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
    uint8_t group_count            # uint16_t words of the group table, behind the head
    uint8_t queue                  # [shard lock]
    uint8_t hits                   # [atomic] 0 to 3
    uint8_t text[1]

ctypedef struct Slot:
    uint64_t hash                  # [atomic]
    Entry *first                   # [atomic] NULL: free; 1: given up, passed over

ctypedef struct Table:             # immutable size; replaced by a larger one
    uint64_t mask
    Slot slots[1]

ctypedef struct Flush:
    uint64_t serial
    uint64_t hash

ctypedef struct Shard:
    pthread_mutex_t lock
    Table *table                   # [atomic]
    uint64_t serial                # [atomic] of invalidations
    uint64_t used, given_up        # slots
    Entry *small_newest
    Entry *small_oldest
    Entry *main_newest
    Entry *main_oldest
    uint64_t small_bytes, main_bytes
    uint32_t entry_count
    uint64_t *ghosts               # hashes of what was evicted from the small queue
    uint32_t ghost_count, ghost_next
    Flush flushes[64]
    uint64_t *misses               # [atomic] hit-for-miss marks
    uint64_t *asked                # [atomic] counts for --cache-frequent-hits; NULL: not wanted

ctypedef struct StoreSettings:
    uint64_t bytes                 # most, with all overhead
    uint64_t entry_bytes           # most of one
    uint32_t frequent_hits         # stored when asked so often within
    uint32_t frequent_s
    uint32_t scavenge_s            # 0: off

ctypedef struct Store:
    StoreSettings settings
    uint8_t seed[16]
    uint32_t loop_count
    Shard *shards
    uint64_t *groups               # [atomic] serials
    uint64_t bytes                 # [atomic]
    uint64_t serial                # [atomic] of group invalidations and of whole flushes
    # reclamation
    pthread_mutex_t retired_lock
    uint64_t epoch                 # [atomic]
    uint64_t *seen                 # [atomic] per loop, on a cache line each; 0: it sleeps
    Entry *retired[3]
    Table *retired_tables[3]
    uint32_t retired_count         # [atomic]
    # counters [atomic]
    uint64_t entries_now, entries_total, flushes, flushed, evicted, scavenged
