# What the core's structures (state.pxd) are made of: whatever names no other one of them.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kernelq.core.kinds cimport *
from kernelq.core.linux cimport pthread_mutex_t
from kernelq.core.route cimport Routes


cdef struct Source:
    uint8_t kind

cdef struct Chunk:
    Chunk *next
    uint32_t start, end            # of what is still to be sent
    uint8_t data[CHUNK_BYTES]

cdef struct Letter:
    Letter *next
    uint8_t kind
    uint8_t reason
    bint is_owned                  # allocated for itself: the reader frees it
    void *subject
    int fd

cdef struct Mailbox:
    Source source
    pthread_mutex_t lock
    Letter *first
    Letter *last
    int fd                         # eventfd

cdef struct SpillBuffer:
    uint32_t bytes
    uint8_t data[SPILL_BYTES]

cdef struct SpillFile:             # shared by an exchange and the jobs that write for it
    pthread_mutex_t lock
    int fd
    int reader_fd                  # a second, read-only open: what workers get
    bint has_failed

# Lives where it was made until nothing names it: connections keep a pointer to theirs.
cdef struct Listener:
    Source source
    int fd                         # closed by the last loop that leaves it
    uint32_t number                # its place in the table; free again when it is freed
    uint8_t family
    uint16_t port
    bint is_no_delay               # inherited by accepted sockets
    uint32_t is_removed            # [atomic] its connections end as soon as they may
    uint8_t name_bytes
    char name[108]                 # address, or path of a unix socket
    uint8_t padding[64]            # what every accept() writes, apart
    uint32_t loops_left            # [atomic] that have not left it
    uint32_t refs                  # [atomic] loops and connections

cdef struct Casualty:              # a request that its worker was executing when it died
    uint64_t handed_ns
    uint16_t method_bytes, target_bytes, client_bytes
    char text[384]                 # method, target, client; cut to fit

# Routes in use. Freed when it is no longer the newest and no loop or helper thread uses it.
cdef struct Snapshot:
    Snapshot *next                 # [table lock] of all
    Routes *routes
    uint32_t refs                  # [table lock]
    uint32_t application_count
    uint32_t *applications         # each once, by pool
    uint32_t *pools                # number of the pool of each

cdef struct Event:
    uint8_t kind
    int64_t worker
    int64_t value
