# The worker's end of a channel: types. Bodies: worker_link.pxi (memory, records, bells),
# worker_lead.pxi (who reads the rings), both without Python; layout.pxd says what the core may
# expect of us.
#
#     Link ──┬─ LinkLane × loops   request ring (read by the leader), response ring (lock), bells
#            ├─ LinkPlace × places what control records said about the dispatch that stands there
#            ├─ LinkCall × CALLS_MAX  calls of the core that wait for their REPLY
#            └─ pending            requests taken off a ring while its reader could not run them
#
# Rules for editors
#  1. [lead]: only the thread that holds the lead touches it. [lock]: guarded by the lock named.
#     Else: atomic, or never changed after the link was opened.
#  2. Nothing here relies on the GIL: free-threaded Python runs the same code.
#  3. A forked child of the application finds is_closed set and everything unmapped; whoever is
#     about to touch the channel asks first.
#
# Theory of operation: leader and followers
#  One thread holds the *lead*: it alone reads the request rings. Link.lead is one word, serial |
#  thread | state:
#
#     VACANT ──▶ LEADING ◀──▶ ASLEEP at the doorbell
#                 │    ▲
#                 ▼    │ finished and nobody took over; or taken over by another thread
#                RUNNING  a request, and nobody reads the rings meanwhile
#
#  Handing on the lead with every request would cost a wake-up for each, so the leader keeps it
#  while it runs.
#  VACANT and RUNNING may be *seized* by any thread (compare-and-swap; the leader learns it when it
#  comes back), and three parties see to it that no request waits long behind a long one:
#   - a thread that becomes free, or that has to wait for a control record (window, content), seizes
#     at once;
#   - the leader wakes a follower before it runs a request when requests are known to block;
#   - the *deputy*, a thread without Python, looks once per tick (1 ms) and wakes a follower when
#     the same request is still running, or, when no thread is free, one that waits for a control
#     record. It also rings for answers that were published without ringing, so that the leader may
#     put the bell off while more requests are at hand.
#  The deputy sleeps without a time limit while the leader is at the doorbell, or runs and nobody
#  could take over.
#  A thread that waits for a control record and got the lead *pumps*: requests that it meets become
#  pending.
#  Every pending request is taken before anything in a ring; whoever puts one there wakes a
#  follower.
#  A *guest* is a thread of the application that calls the core (worker_call.pxi) and serves
#  nothing. While all serving threads are busy it pumps for itself like them, but never keeps the
#  lead: it leaves it VACANT.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kernelq.core.layout cimport ChannelHead, CoreLane, RecordHead, WorkerLane
from kernelq.core.ring cimport RingReader, RingWriter
from kernelq.core.spin cimport Spin
from kernelq.core.thread cimport Mutex, Thread

cdef enum:
    DEPUTY_TICK_NS = 1000000
    DEPUTY_PATIENCE = 4            # ticks without a change before the deputy sleeps for good
    RESERVE_PER_PLACE = 64         # bytes of a response ring kept for END, SKIPPED and CONSUMED
    RING_BYTES_MIN = 16384         # a head, a piece and the reserve fit at once
    PIECE_BYTES_MAX = 65536        # content in one record
    SLOW_NS = 100000               # a request that runs longer is slow: no bell is put off for it
    # of which so much not on a CPU: the lead is handed on before it runs
    BLOCKS_NS = 50000
    UNANNOUNCED_MAX = 64            # answers published before the bell is rung at the latest
    ROOM_WAIT_NS = 50000           # first wait for room in a response ring; doubles up to:
    ROOM_WAIT_NS_MAX = 2000000
    CALL_LIMIT_NS = 60000000000    # an answer that takes longer is not waited for

cdef enum:                         # state of the lead
    LEAD_VACANT = 0
    LEAD_LEADING = 1
    LEAD_ASLEEP = 2
    LEAD_RUNNING = 3

cdef enum:                         # what a thread does next
    NEXT_NOTHING = 0
    NEXT_REQUEST = 1
    NEXT_DRAINED = 2

cdef enum:                         # LinkCall.state
    CALL_FREE = 0
    CALL_WAITING = 1
    CALL_ANSWERED = 2
    CALL_LEFT = 3                  # its thread does not wait any more; the REPLY frees it

ctypedef struct ContentPiece:      # of a request's streamed content
    ContentPiece *next
    uint32_t bytes
    uint8_t data[0]

ctypedef struct LinkLane:
    RingReader requests            # [lead]
    RingWriter responses           # [lock]
    Mutex lock
    const CoreLane *core
    WorkerLane *own
    int bell
    uint32_t rung_for              # [lock]
    # atomic, written under lock: records since the bell was considered
    uint32_t unannounced

ctypedef struct Waiter:            # a thread that waits for control records sleeps here
    uint32_t news                  # futex: changes whenever it should look again
    uint32_t has_waiter            # atomic

ctypedef struct LinkCall:
    Waiter waiter
    uint32_t state                 # atomic, written under calls_lock
    uint32_t status                # [calls_lock] status and value of the REPLY
    uint64_t value
    uint64_t number                # [calls_lock] serial << 8 | index: never used twice

ctypedef struct LinkPlace:
    uint64_t dispatch              # [content_lock] the latest that any record named
    uint64_t released              # atomic: content bytes of the response that have left the core
    uint32_t is_gone               # atomic: the client has left
    Waiter waiter                  # its news: one of the above, or the content
    bint content_ended             # [content_lock] the last piece is in the list
    bint content_cut               # [content_lock] it broke off behind the last piece
    ContentPiece *first            # [content_lock]
    ContentPiece *last
    # [side_lock] came over the side socket, for spill_dispatch; -1: none
    int spill_fd
    uint64_t spill_dispatch

ctypedef struct Taken:             # a request on its way to be run
    RecordHead head
    const uint8_t *record          # in the lane's ring until taken_release(), or ours
    LinkLane *lane                 # NULL: record is ours, allocated

ctypedef struct LinkThread:
    Link *link
    uint32_t index                 # from 1
    bint is_leader                 # as far as it knows
    bint is_guest                  # serves nothing: keeps the lead only while it waits
    uint64_t lead                  # what it wrote into Link.lead
    uint32_t is_running            # atomic: between STARTED and the end of its request
    uint64_t began_ns              # its request
    uint64_t began_cpu_ns          # 0: not measured
    # last reading of the clock, while nothing has blocked since; 0: none
    uint64_t now_ns

ctypedef struct Link:
    uint32_t is_closed             # in a forked child, or closed by its owner
    ChannelHead sizes              # the core's, checked
    const uint8_t *core_memory     # head, revoked words, lanes
    uint8_t *own_memory
    uint64_t head_bytes            # mapped at each of the two
    const uint64_t *revoked
    uint64_t *started
    int side_socket
    int doorbells[64]
    LinkLane *lanes
    LinkPlace *places
    uint32_t piece_bytes           # longest content in one record
    uint32_t reserve_bytes
    uint32_t turn                  # [lead] lane to look at first
    Mutex content_lock
    Mutex side_lock
    Mutex pending_lock
    Mutex calls_lock
    LinkCall calls[64]             # CALLS_MAX
    uint64_t call_serial           # [calls_lock]
    uint32_t calls_freed           # futex: changes when a call has become free
    RecordHead **pending           # [pending_lock] a circle of place_count
    uint32_t pending_first
    uint32_t pending_count         # atomic, written under pending_lock
    uint64_t lead                  # atomic
    LinkThread *threads
    uint32_t thread_count
    uint32_t idle_count            # atomic: followers that sleep, or are about to
    uint32_t waiter_count          # atomic: threads that wait for a control record
    uint32_t follow_word           # futex of the followers
    uint32_t is_draining           # atomic
    uint32_t ended_word            # futex: changes when a thread's last request has ended
    int ended_fd                   # eventfd, likewise; -1: none
    # the deputy
    Thread deputy
    bint has_deputy
    uint32_t deputy_word           # futex
    uint32_t deputy_sleeps         # atomic
    uint32_t deputy_stops          # atomic
    # averages, written by whoever leads; stale readings do no harm
    uint64_t run_ns                # of a request in the application
    uint64_t blocked_ns            # of which not on a CPU
    Spin spin                      # [lead] of the leader, waiting awake for a request
    uint32_t unannounced_max
