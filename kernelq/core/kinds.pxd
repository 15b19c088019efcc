# The words of the core: states, kinds and counters, and the bounds that go with its structures.
# state.pxd says what the structures are; a name's prefix says whose word it is.

# What an epoll event or a letter is about; the first field of everything registered with epoll.
cdef enum:
    SOURCE_CONN = 1
    SOURCE_LISTENER = 2
    SOURCE_MAILBOX = 3
    SOURCE_BELL = 4
    SOURCE_PIDFD = 5

cdef enum:
    SCRATCH_BYTES = 65536          # a loop's receive buffer
    HEAD_SCRATCH_BYTES = 98304     # a response head: the worker's copy, or the one made from it
    CHUNK_BYTES = 16384            # output taken over for a slow client, in pieces of
    SPILL_BYTES = 262144           # content on its way to a spill file, in pieces of
    EVENTS_PER_TURN = 256
    IMAGE_INLINE_BYTES = 1536      # a REQUEST record up to this needs no allocation of its own
    SPARE_EXCHANGES = 64           # kept per loop for reuse
    SPARE_CHUNKS = 16
    SPARE_CONNS = 64
    SPILL_JOBS_MAX = 2             # spill buffers of one request on their way before reading pauses
    CONTROL_RESERVE_PER_PLACE = 256  # bytes of a request ring that are left to control records
    POOLS_MAX = 4096               # at a time
    LISTENERS_MAX = 65536          # likewise; routes know no more (ROUTE_LISTENERS_MAX)
    WORKER_BUCKETS = 1024          # of the table of workers by number
    GENERATION_SCAN_MAX = 1024     # requests looked at behind one that no worker is new enough for
    CACHE_KEY_MAX = 16384          # bytes of a key; what is longer is not cached
    BATCH_BYTES = 65536
    FIELDS_ADDED = 8               # to those of a request or response, by the core itself
    FILL_BUCKETS = 64
    FILL_WAITING_MAX = 16384       # requests that wait for one response; the next one asks anew
    # likewise to REPLY: one for each of CALLS_MAX, and one that is read but not released
    REPLY_RESERVE = 2600

cdef enum:                         # Conn.state
    CONN_HEAD = 0                  # waiting for or receiving a request head
    CONN_CONTENT = 1               # receiving content; the request is not dispatched yet
    CONN_WAIT = 2                  # the exchange is queued or executing; content may still arrive
    CONN_FLUSH = 3                 # the response is complete but not all sent
    CONN_LINGER = 4                # our side is shut; reading until the client closes
    CONN_CLOSED = 5                # freed at the end of the turn

cdef enum:
    HEALTH_START_NS = 1000000000   # a request handed to a free slot must be started within

cdef enum:                         # Exchange.state
    EXCHANGE_RECEIVING = 0
    EXCHANGE_QUEUED = 1            # [pool lock] in the request queue
    EXCHANGE_HANDED = 2            # [pool lock] in a worker's place, as far as we know not started
    EXCHANGE_STARTED = 3           # its worker answered or was seen to have started it
    EXCHANGE_REFUSED = 4           # [pool lock] out of the queue; a letter says why
    EXCHANGE_DONE = 5

cdef enum:                         # how the end of a response is told
    FRAMING_NONE = 0               # no content
    FRAMING_LENGTH = 1
    FRAMING_CHUNKED = 2
    FRAMING_CLOSE = 3

cdef enum:                         # Worker.state [pool lock]
    WORKER_OPEN = 0                # has a channel, no process yet
    WORKER_STARTING = 1            # has a process, has not said READY
    WORKER_READY = 2
    WORKER_DRAINING = 3            # finishes what it has; nothing more is dispatched
    WORKER_DISTRUSTED = 4          # killed by us; its rings are closed for good
    WORKER_DEAD = 5                # the pidfd fired

cdef enum:                         # Place.state [pool lock]
    PLACE_FREE = 0
    PLACE_HANDED = 1
    PLACE_STARTED = 2
    PLACE_REVOKED = 3              # taken back; free when the worker says SKIPPED
    PLACE_CONTESTED = 4            # revoked, but too late: it will be answered, or SKIPPED

cdef enum:                         # Pool.state [pool lock]
    POOL_ONLINE = 0
    POOL_OFFLINE = 1               # rapid-fail protection
    POOL_DISABLED = 2              # stopped by an administrator
    POOL_SHUTDOWN = 3
    POOL_CLOSED = 4                # out of the table; what still names it is refused

cdef enum:                         # Letter.kind
    LETTER_REFUSED = 1             # exchange: refuse it with reason
    LETTER_SPILLED = 2             # a SpillJob has been written
    LETTER_FILE = 3                # a descriptor for a response arrived
    LETTER_WORKER = 4              # a worker has a channel: watch it
    LETTER_SHUTDOWN = 6
    LETTER_STOP = 7
    LETTER_WARM = 8                # a JOB_WARM is done
    LETTER_FORGET = 9              # a worker's lanes are no longer used
    LETTER_OPENED = 10             # a worker's memory is mapped and checked
    LETTER_DRAIN = 11              # a worker gets nothing more
    LETTER_DISTRUST = 12           # a worker passed a descriptor that it must not
    LETTER_FILL = 14               # a fill went on: look at who waits for it here
    LETTER_CALLED = 13             # a JOB_CALL is done
    LETTER_LISTEN = 15             # a new listener
    LETTER_UNLISTEN = 16           # accept its backlog, then leave it
    LETTER_ROUTES = 17             # a new snapshot of routes
    LETTER_POOL_DUE = 18           # a pool is to be looked at
    LETTER_ABANDON = 20            # a worker is to be treated as if it had died
    LETTER_POOL_CLOSED = 19        # a pool that gets nothing more; to be let go of

cdef enum:                         # Core_.jobs
    QUEUE_SPILL = 0
    QUEUE_WARM = 1
    QUEUE_DISCARD = 2
    QUEUE_CALL = 3
    QUEUES = 4
    HELPERS = 6

cdef enum:                         # events to the managers
    EVENT_READY = 0
    EVENT_GONE = 1
    EVENT_UNHEALTHY = 2
    EVENT_RECOVERED = 3
    EVENT_HOPELESS = 4
    EVENT_TIMEOUT = 5
    EVENT_DISTRUSTED = 6
    EVENT_FIRST_ANSWER = 7
    EVENT_QUIET = 8
    EVENT_QUOTA = 9                # a worker has answered as many requests as it was to
    EVENT_DEMAND = 10              # requests wait for a worker

cdef enum:                         # counters; the names are in stats.pxi
    COUNT_CONNECTIONS = 0
    COUNT_CONNECTIONS_NOW = 1      # a gauge
    COUNT_REQUESTS = 2
    COUNT_ANSWERED = 3
    COUNT_REFUSED = 4
    COUNT_CLIENT_GONE = 5
    COUNT_DISPATCHED = 6
    COUNT_PREFETCHED = 7
    COUNT_REVOKED = 8
    COUNT_REDISPATCHED = 9
    COUNT_FIELDS_DROPPED = 10
    COUNT_BYTES_RECEIVED = 11
    COUNT_BYTES_SENT = 12
    COUNT_SPILLED = 13
    COUNT_TURNS = 14
    COUNT_WAKES = 15               # turns that had slept
    COUNT_BELLS = 16               # rung towards workers
    COUNT_LOG_LOST = 17
    COUNT_EXCHANGES_NOW = 18       # a gauge
    COUNT_CHUNKS_NOW = 19          # a gauge
    COUNT_ACCEPT_FAILED = 20
    COUNT_DISTRUSTED = 21
    COUNT_CACHE_HITS = 22
    COUNT_CACHE_MISSES = 23
    COUNT_CACHE_BYPASSED = 24
    COUNT_CACHE_STALE = 25         # hits that were stale, and allowed
    COUNT_CACHE_REVALIDATED = 26
    COUNT_CACHE_COLLAPSED = 27     # requests that waited for another one's response
    COUNTERS = 28

cdef enum:                         # Fill.state [fill lock]
    FILL_ASKED = 0                 # its maker is queued or executing
    FILL_STORING = 1               # its head is known and storable
    FILL_WHOLE = 2                 # entry is whole (or was revalidated)
    FILL_PASSED = 3                # not storable: everyone for himself
    FILL_FAILED = 4
    FILL_STALE = 5                 # an error: who waits gets the stale entry

cdef enum:                         # Exchange.cache_word: names in log.pxi
    CACHED_NONE = 0                # the cache is off, or not concerned
    CACHED_HIT = 1
    CACHED_MISS = 2
    CACHED_STALE = 3
    CACHED_REVALIDATED = 4
    CACHED_COLLAPSED = 5
    CACHED_BYPASS = 6
    CACHED_METHOD = 7              # not for a cache
    CACHED_MISS_STALE = 8
    CACHED_MISS_REQUEST = 9        # the request wants nothing stored
    CACHED_MISS_VARY = 10          # another variant is stored
    CACHED_STALE_ON_ERROR = 11     # the application was asked, and failed

cdef enum:
    EVENTS_AT_FIRST = 256          # room for so many; doubled when they are more
    CASUALTIES_MAX = 8             # requests that the line about a death names
    CASUALTY_METHOD_MAX = 24
    CASUALTY_TARGET_MAX = 300
    CASUALTY_CLIENT_MAX = 46
    STATUS_NONE = 1                # Exchange.status of a response that never had one
    HEALTH_TICK_NS = 134217728
    PING_EVERY_NS = 30000000000
    FILE_BYTES_PER_CALL = 1 << 20
    FILE_BYTES_AT_LEAST = 65536
    TURN_BYTES = 4 << 20           # moved in a turn; beyond, each connection gets one small piece
    CONTENT_RECORD_BYTES = 32768   # of streamed content in one record

cdef enum:
    FILE_BYTES_MAX = 0x3fffffffffffffff
