# The core's data structures: read this first.
#
#     Core ── Loop × n ──── Conn ×   (socket, input, output, timer)
#       │                    │ carries
#       │                   Exchange (one request and its response; states below)
#       ├── Listener ×, Snapshot: the routes that say of which Pool a request is
#       ├── Pool × p: request queue of Exchanges, one short lock; PoolSide × n: each loop's part
#       │     └── Worker × m ──── Place × k: which Exchange was handed to it under which dispatch
#       └── Store: cached responses (cache_store.pxd); Fill: one that is asked for, and who waits
#
# Rules for editors
#  1. A Conn, its Exchanges and their output belong to the loop that accepted it. Other threads
#     never touch them, but for the fields marked [pool lock], and for reading an Exchange's image
#     while it is queued or handed.
#  2. Queue links, Places, Worker.state and an Exchange's state up to STARTED are guarded by the
#     lock of the Pool that they are of (Exchange.pool, Worker.pool: neither changes). It is held
#     for a bounded number of instructions (ring memory is written under it), and around a system
#     call only to pass on spilled content and to ring a mailbox: neither waits.
#  3. An Exchange is freed by its own loop only, when its connection, the queue, its place and no
#     letter names it.
#  4. Everything that other threads want of a loop is a Letter in its mailbox.
#  5. What a turn costs depends on the pools and workers with work, not on how many there are: a
#     loop looks at the pools in its list of due ones (loop_admit), and at the lanes in its list of
#     busy ones (lanes_drain); every other lane stays armed, and its worker rings.
#  6. A Pool is freed when it is out of the table and every loop has let go: no Exchange of that
#     loop names it (pool_side_leave). No pointer into a Snapshot is kept across turns.
#
# Locks, each held before those to its right only; never two of one kind
#     table_lock ─▶ Pool.lock ─▶ events_lock, Mailbox.lock
#     receiver_lock ─▶ workers_lock, Mailbox.lock, JobQueue.lock
#     fill lock ─▶ Mailbox.lock
#  table_lock: tables of pools, listeners, snapshots; for doors, helper threads and the end of
#  things: no loop takes it in a request's way. A Pool found under it stays while it is held.
#  workers_lock: the table of workers by number.
#
# Life of an Exchange
#     RECEIVING ─▶ QUEUED ─▶ HANDED ─▶ STARTED ─▶ (END) freed
#                    ▲          │ revoked     │ the worker died: back by promise 2, or refused
#                    └──────────┴─────────────┘

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kernelq.core.cache_store cimport Body, Entry, Store
from kernelq.core.forwarded cimport TrustedNetworks
from kernelq.core.http1 cimport ChunkDecoder, FieldLine, HeadLimits, HeadProgress
from kernelq.core.kinds cimport *
from kernelq.core.layout cimport RecordHead
from kernelq.core.linux cimport pthread_cond_t, pthread_mutex_t, pthread_t
from kernelq.core.pieces cimport *
from kernelq.core.reason cimport REASON_COUNT
from kernelq.core.ring cimport RingReader, RingWriter
from kernelq.core.settings cimport PoolLimits, Settings
from kernelq.core.spin cimport Spin
from kernelq.core.timer cimport Timer, TimerWheel

# Declared ahead: they name one another.
cdef struct Conn
cdef struct Worker
cdef struct Exchange
cdef struct Fill
cdef struct Loop
cdef struct Pool
cdef struct Core_


cdef struct Exchange:
    Exchange *next                 # [pool lock] in the queue; or a side's arrivals, spare list
    Exchange *previous
    Conn *conn                     # NULL: the client has gone
    Pool *pool                     # NULL: none is concerned (a probe, no route)
    uint32_t application           # the route's, here and below
    uint64_t generation            # workers below do not know the application
    Worker *worker                 # [pool lock]
    uint16_t place                 # [pool lock]
    uint8_t loop
    uint8_t state
    uint8_t executions             # how often it was started
    bint is_suspect                # its last worker died while it was started: runs alone next time
    bint is_idempotent
    bint is_head                   # method HEAD
    bint is_11                     # HTTP/1.1
    bint wants_close               # the client does not want the connection kept
    bint expects_continue          # 100 not sent yet
    bint is_probed                 # a half-close probe was sent
    bint has_fin                   # the client's FIN was seen
    bint is_posted                 # a letter that names it is on its way
    bint is_refused                # counted as refused, not as answered
    bint is_told                   # CLIENT_GONE was sent, or the response was abandoned
    # content of the request
    bint is_chunked
    bint is_streamed
    bint content_is_whole
    bint content_is_cut
    int64_t content_length         # -1: chunked
    uint64_t content_received
    uint64_t content_streamed      # streamed: sent to the worker
    uint64_t content_consumed      # streamed: what the worker has taken
    bint content_is_wanted         # streamed: the application has begun to read
    uint8_t *content               # held in memory
    uint32_t content_room
    int spill_fd                   # -1: none
    uint32_t spill_jobs            # written by a helper thread right now
    bint spill_failed
    bint is_spilled
    uint64_t spill_offset
    SpillBuffer *spill             # being filled
    SpillFile *spill_file
    ChunkDecoder decoder
    # the response
    bint head_sent                 # bytes of the final response have been given to the connection
    bint is_complete               # END was seen
    bint has_failed                # broken off: the connection must be aborted
    uint8_t framing
    uint16_t status
    int64_t response_left          # FRAMING_LENGTH: declared and not yet seen
    uint64_t response_bytes        # content seen from the worker
    uint64_t released_bytes        # told to the worker by RELEASED
    uint64_t content_sent          # content bytes sent to the client
    bint was_too_long              # more content than declared: cut and logged once
    int file_fd                    # -1: none
    bint file_is_due               # FILE was seen, the descriptor not yet
    bint file_is_warming
    bint file_is_copied            # read by a helper thread: its file system may make us wait
    uint64_t file_warm_to          # in the page cache up to here, as far as we know
    uint32_t file_worker           # number of the one from whom the descriptor is due
    bint file_ends
    uint64_t file_offset
    uint64_t file_left
    # times
    uint64_t arrived_ns            # its head was complete
    uint64_t queued_ns             # [pool lock] it began to wait for a worker
    uint64_t serial                # [pool lock] order of arrival in the pool's queue; 0: never
    uint64_t started_ns            # first seen to be started; 0: not
    uint64_t sent_bytes            # of the response, with head and framing
    Letter letter                  # for LETTER_REFUSED: no allocation in the queue's timeout
    # the cache (cache_fill.pxi)
    Fill *fill                     # what it makes (is_maker) or waits for
    bint is_maker                  # has no client: its response goes to the store and who waits
    bint may_store                 # nobody waits for it; its response may be stored all the same
    bint is_leader                 # the request for whose sake the maker asks
    bint has_asked_itself          # its own conditions went to the worker
    bint is_reload                 # neither waits for another's response nor shares its own
    bint is_choosy                 # does not wait for a response whose Vary is not known
    uint8_t failures               # makers of its response that failed
    uint8_t cache_word             # CACHED_*: for the log and Cache-Status
    uint64_t cache_hash
    uint64_t cache_serial          # of the store when it arrived
    uint32_t key_at                # in the image, behind what the worker gets
    uint32_t key_bytes             # 0: none
    Entry *entry                   # [pinned] it is answered from; NULL: not, or not yet
    Body *body                     # [pinned] the entry's
    uint64_t body_at               # what is still to be sent of it
    uint64_t body_end
    bint is_following              # the body is still being filled
    # the REQUEST record
    uint32_t image_bytes           # without inline content
    uint8_t *image
    uint8_t image_inline[IMAGE_INLINE_BYTES]  # behind a pointer, hence aligned like one

cdef struct FillSide:              # who waits for a fill in one loop
    Exchange *first                # the loop's own
    Exchange *last
    Letter letter
    uint32_t waiting               # [fill lock]
    bint is_posted                 # [fill lock]

cdef struct Fill:                  # a response that is asked for, to be stored and shared
    Fill *next                     # [fill lock] in its bucket
    uint64_t hash
    Exchange *maker                # touched by its own loop only; NULL: gone
    uint8_t loop                   # the maker's
    uint8_t state                  # [fill lock] FILL_*
    uint8_t reason                 # FILL_FAILED: why
    uint32_t application
    bint is_linked                 # [fill lock] in its bucket: may be joined
    bint is_background             # revalidates for nobody who waits
    bint is_streamed               # [fill lock] the length is known: all may read along
    uint32_t waiting               # [fill lock] over all sides
    uint32_t refs                  # [fill lock] the maker, each that waits, each letter
    bint is_freshened              # entry is the stale one with the fields of a 304
    Entry *stale                   # [pinned] to be revalidated; NULL: none
    Entry *entry                   # [pinned] being filled, or the result; NULL: not yet
    uint8_t *own_lines             # fields that are not stored: for the first client alone
    uint32_t own_lines_bytes
    uint64_t serial                # of the store, before the maker could be executed
    uint32_t key_bytes
    uint32_t vary_bytes            # secondary key, if another variant shows on what it depends
    uint32_t side_count
    FillSide *sides                # one per loop, behind it; then the two keys
    const uint8_t *key
    const uint8_t *vary

cdef struct FillBucket:
    pthread_mutex_t lock
    Fill *first

cdef struct Conn:
    Source source                  # first: epoll gives us its address
    uint8_t state
    uint8_t family                 # AF_INET, AF_INET6, AF_UNIX
    bint can_read                  # the socket may hold bytes we have not read
    bint can_write
    bint has_fin
    bint is_last                   # Connection: close was or will be sent
    bint is_slow                   # output waits for the client: the timer checks its rate
    bint is_broken                 # the socket is dead; the turn cleans up
    bint is_advancing              # conn_advance() is at work on its input
    uint8_t remote_bytes
    uint16_t remote_port
    int fd
    uint32_t in_start, in_end, in_room
    uint8_t *input                 # NULL while nothing is left over
    Exchange *exchange
    Chunk *out_first
    Chunk *out_last
    uint64_t out_bytes
    Listener *listener
    Timer timer
    uint64_t since_ns              # start of what the timer watches
    uint64_t since_bytes           # bytes received or sent then
    uint64_t total_bytes           # received (while reading) or sent (while sending)
    uint32_t requests
    HeadProgress progress
    Conn *next_closed              # the loop's list of closed or spare connections
    Conn *next_again               # the loop's list of those with work left for the next turn
    bint is_again
    uint8_t remote_address[16]
    uint8_t local_address[16]      # as routes have it; once local_is_known
    bint local_is_known
    char remote[46]                # text of the address

cdef struct Place:
    Exchange *exchange             # NULL: revoked or abandoned
    uint64_t dispatch
    uint64_t handed_ns
    uint8_t state

cdef struct Parked:                # a descriptor without its FILE record, or the other way round
    uint64_t dispatch
    Exchange *exchange
    int fd
    bint is_expected               # the record came first

cdef struct Bell:
    Source source
    Worker *worker

cdef struct Lane:              # one worker, as one loop sees it
    RingWriter requests
    RingReader answers
    uint32_t *armed                # our hint in our memory
    const uint32_t *worker_armed   # the worker's
    uint32_t rung_for
    uint64_t full_turn             # the turn in which a request could not be handed over
    uint32_t unrung                # records published since the worker's last bell
    uint32_t in_hand               # [pool lock, atomic] requests of this loop in its places
    uint32_t busy_at               # its place in Loop.busy, from 1; 0: it is armed, and rings
    bint is_open                   # mapped and checked: the rings may be used
    bint is_watched                # its bell and pidfd are in our epoll
    bint has_died                  # its pidfd fired; to be buried in this turn
    bint is_dead                   # we have classified what it had of ours
    Bell bell
    Bell death

cdef struct Worker:
    Worker *next                   # [pool lock] the pool's list
    Worker *next_known             # [workers lock] in its bucket
    Pool *pool
    uint32_t number
    uint32_t slot_count, place_count  # of its channel, for good
    uint64_t generation            # it takes no request with a greater one
    uint8_t state
    int pid
    int pidfd
    int core_fd, worker_fd         # the memfds
    int side_fd                    # our end of the side socket
    int doorbells[64]              # our ends of the sockets
    int doorbell_ends[64]          # the worker's, until it has them
    int bells[64]                  # eventfds
    uint8_t *core_memory           # head, revoked words, lanes
    const uint8_t *worker_memory   # NULL until its seals are checked
    uint64_t *revoked
    const uint64_t *started
    uint64_t head_bytes            # of what is mapped at the two addresses above
    Lane *lanes
    Place *places
    uint16_t *free_places
    uint32_t free_count
    uint32_t in_hand               # places that are not free
    uint32_t revoked_count
    uint64_t serial                # of dispatches
    bint is_solo                   # executes a suspect alone
    Exchange *waiting_suspect      # it is kept for this one
    uint64_t served                # [pool lock]
    uint64_t quota                 # [pool lock] EVENT_QUOTA when it has served so many; 0: none
    uint64_t last_end_ns
    uint64_t unstarted_since_ns    # health: the oldest handed slot request not started; 0: none
    uint64_t started_seen          # progress when that was noted
    bint is_unhealthy
    bint is_hopeless
    bint has_said_ready
    bint is_distrusted
    uint64_t unhealthy_since_ns
    bint has_timed_out             # a request exceeded request_timeout: no more dispatch
    uint64_t deaf_since_ns         # its side socket is closed; 0: it is not
    uint64_t ping_at_ns
    uint64_t ping_sent_ns          # 0: none is under way
    uint64_t latency_ns            # of the last PONG
    uint32_t calls                 # atomic: under way, over all loops
    uint32_t loops_done            # after its death
    Casualty casualties[CASUALTIES_MAX]  # [pool lock] for the line about its death
    uint32_t casualty_count        # [pool lock] of all, also of those beyond the array
    uint32_t loops_forgotten
    Parked *parked                 # [receiver lock]
    uint32_t parked_count, parked_room
    bint side_has_ended            # nothing more will come over the side socket

# What one loop has of a pool: touched by that loop only. A whole number of cache lines.
cdef struct PoolSide:
    Pool *pool
    PoolSide *next_due             # the loop's list of pools to be looked at in this turn
    PoolSide *next_later           # the loop's list of those to be looked at when time has come
    PoolSide *next_active          # the loop's list of those that may need a tick
    Exchange *arrivals_first       # complete requests of this turn, not yet in the queue
    Exchange *arrivals_last
    uint64_t later_ns              # 0: it is not in that list
    uint32_t exchanges             # [atomic] of this loop, that name the pool
    bint is_due
    bint is_active
    bint is_watched                # a worker is unhealthy: look at it even without requests
    bint is_closed                 # LETTER_POOL_CLOSED has come
    Letter letter                  # that one
    uint8_t padding[16]

cdef struct Pool:                  # [pool lock], but for what is marked
    pthread_mutex_t lock
    uint32_t number                # never used again
    uint32_t loops_left            # [atomic] that have not let go of it
    Pool *next_closed              # [table lock]
    PoolLimits limits
    PoolSide *sides                # one per loop, behind it
    uint8_t state
    uint8_t is_serving             # [atomic] online, and with a ready worker if it needs one
    bint is_missed                 # counted in Core_.missed_pools
    Exchange *first
    Exchange *last
    Exchange *blocked              # those up to here are newer than any ready worker; NULL: none
    Exchange *suspects_first       # the same order; they run alone
    Exchange *suspects_last
    uint32_t queued                # in both lists
    uint32_t executing             # in places, and not taken back
    uint32_t peak                  # most of both at a time since it was taken
    uint64_t serial
    Worker *workers
    uint32_t worker_count
    uint32_t ready_count
    uint64_t oldest, newest        # least generation of its workers; greatest of those once ready
    bint demand_is_awaited         # EVENT_DEMAND is to be posted, once
    uint64_t demand_wait_ns        # 0: only without a ready worker
    uint64_t demand_since_ns       # what requests waited before does not count
    uint64_t tick_at_ns            # next look at its workers' health and at its queue
    uint64_t service_ns            # moving average over the workers: prefetch depth
    uint64_t answer_bytes          # likewise, of what an answer takes in a response ring
    uint64_t arrived, answered, rejected, redispatched
    uint64_t active_ns             # last arrival or answer

cdef struct Loop:
    Core_ *core
    uint8_t index
    bint is_running
    pthread_t thread
    int epoll_fd
    TimerWheel wheel
    uint64_t now_ns
    Mailbox mailbox
    uint8_t *scratch
    uint8_t *head_scratch
    uint8_t *head_out              # a response's head on its way out
    uint32_t head_out_bytes
    FieldLine *fields
    const Snapshot *snapshot       # NULL: no routes yet
    uint8_t *path                  # normalised, of the request at hand
    PoolSide *due_first            # pools with arrivals, a credit that came back, a new worker
    PoolSide *due_last
    PoolSide *later                # pools to be looked at in a while, in no order
    uint64_t later_ns              # the first of those; 0: none
    PoolSide *active               # pools that had requests of ours at the last tick, or since
    uint32_t watched_count         # of those, which are to be looked at without requests too
    Conn *closed                   # freed at the end of the turn
    Conn *again                    # have work left for the next turn
    Conn *spare_conns
    Exchange *spare_exchanges
    Chunk *spare_chunks
    uint32_t spare_conn_count, spare_count, spare_chunk_count
    uint32_t exchange_count, conn_count
    Worker **workers               # those whose bell and pidfd it watches
    uint32_t worker_count, worker_room
    Worker **busy                  # of these: whose lane it looks at in every turn; as much room
    uint32_t busy_count
    uint64_t health_at_ns
    uint64_t sweep_at_ns           # loop 0: of the response cache; 0: nothing is stored
    Listener **listeners
    uint32_t listener_count, listener_room
    uint64_t accept_at_ns          # 0: listeners are open; else: accepting is paused until
    bint is_draining               # begin_shutdown: no new connections
    uint64_t drain_until_ns        # likewise, or after the removal of a listener: idle ones end
    uint64_t date_second
    char date[40]
    Spin spin                      # of waiting awake for answers
    bint has_mail
    bint deaths_are_due
    bint ring_is_due               # records were published and not announced
    uint32_t turns_unrung          # for so many turns
    bint is_quiet                  # draining: nothing is left
    uint64_t turn_bytes            # received and sent from files in this turn
    FieldLine *view                # field lines of an image or a response head
    uint8_t *key                   # of the request at hand, CACHE_KEY_MAX bytes
    uint8_t *batch                 # answers from the store to pipelined requests, to leave together
    uint32_t batch_bytes
    bint log_is_due                # records were written this turn
    RingWriter log
    RingReader log_reader
    uint64_t log_published, log_released
    int schedstat_fd               # debug builds: of our thread
    uint64_t turn_ns_max           # debug builds: the longest turn, but for waiting for a processor
    uint64_t counters[COUNTERS]
    uint64_t reasons[REASON_COUNT]

cdef struct Job:
    Job *next
    uint8_t kind
    Exchange *exchange             # named, not touched, by the helper thread
    uint8_t loop
    int fd
    uint64_t offset
    uint64_t bytes
    SpillBuffer *buffer
    SpillFile *shared
    bint has_failed
    bint keeps                     # JOB_WARM: what is read, for the loop to send
    Letter letter

cdef struct Call:                  # of a worker, while a helper thread is at it
    Job job                        # first: the helper thread gets its address
    uint32_t worker                # its number
    uint32_t pool                  # the worker's
    uint32_t operation, flags
    uint32_t status
    uint64_t number                # the worker's own
    uint64_t value
    uint32_t first_bytes, second_bytes
    uint8_t text[1]

cdef struct JobQueue:
    pthread_mutex_t lock
    pthread_cond_t ready
    Job *first
    Job *last
    bint stops
    Core_ *core

cdef struct Core_:
    Settings settings
    HeadLimits limits
    TrustedNetworks *trusted
    Loop *loops
    Store store
    FillBucket fills[FILL_BUCKETS]
    bint is_started
    bint is_shut                   # begin_shutdown
    uint32_t is_draining           # [atomic] /ready says 503
    uint32_t missed_pools          # [atomic] that are needed and not serving: likewise
    pthread_mutex_t table_lock     # here and below
    Pool *pools[POOLS_MAX]         # by number modulo POOLS_MAX
    Pool *closed_pools             # of which loops have not let go
    uint32_t pool_count, pool_number  # the last that was given
    Listener **listeners           # by number
    uint32_t listener_room
    Snapshot *snapshot             # the newest
    Snapshot *snapshots
    pthread_mutex_t workers_lock   # here and below: workers by number
    Worker *known[WORKER_BUCKETS]
    uint32_t worker_number         # the last that was given
    uint32_t connections, quiet_loops  # over all loops
    pthread_mutex_t events_lock    # here and below: for the managers
    Event *events                  # a ring that grows
    uint32_t event_room, event_first, event_count
    int event_fd
    JobQueue jobs[QUEUES]
    pthread_t helpers[HELPERS]     # helper n serves queue n % QUEUES
    pthread_t receiver             # takes descriptors from the side sockets
    pthread_mutex_t receiver_lock
    int receiver_epoll
    int receiver_stop_fd           # an eventfd
    pthread_t writer               # of the log, here and below
    int writer_fd
    uint32_t writer_armed
    uint32_t writer_stop
    int access_fd, error_fd
    pthread_mutex_t log_lock
