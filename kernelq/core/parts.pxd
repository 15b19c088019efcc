# The small parts of the core's state (state.pxd): those that name none of the others.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kernelq.core.kinds cimport CHUNK_BYTES, SPILL_BYTES
from kernelq.core.linux cimport pthread_mutex_t

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
    uint64_t value
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

cdef struct Casualty:              # a request that its worker was executing when it died
    uint64_t handed_ns
    uint16_t method_bytes, target_bytes, client_bytes
    char text[384]                 # method, target, client; cut to fit

cdef struct Event:
    uint8_t kind
    int64_t worker
    int64_t value
