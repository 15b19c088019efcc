# A byte ring of records in shared memory: one producer, one consumer, each counter in its writer's
# memory.
#
#     released            published         position
#        |   to be read       |    claimed     |     free ...
#
# Rules
#  1. The peer's counter is read once into a local, checked against our own counters, and then the
#     copy is used.
#     A counter that cannot be right breaks the ring for good (RING_BROKEN): its peer is no longer
#     trusted.
#  2. The consumer copies a record's head before it looks at it. A body may be used in place only by
#     code for which a change under its hands is harmless (send(), memcpy); everything else works on
#     a copy.
#  3. claim, fill, publish: what is claimed and not published belongs to nobody else and may be
#     claimed anew.
#
# Why the bytes need no lock: between released and published they are the consumer's, else the
# producer's; the counters hand them over with release and acquire (SYNC record-published, SYNC
# record-released).

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from kernelq.core cimport atomic
from kernelq.core.layout cimport RecordHead, align8

cdef enum:
    RING_EMPTY = 0
    RING_RECORD = 1
    RING_BROKEN = -1

ctypedef struct RingWriter:
    uint8_t *at                # the ring's bytes, mapped twice in a row
    uint32_t bytes
    uint64_t position          # next byte to be written
    uint64_t released_seen     # the consumer's counter when last read: it only grows
    uint64_t *published        # ours, in our memory
    const uint64_t *released   # the peer's
    bint is_broken

ctypedef struct RingReader:
    const uint8_t *at
    uint32_t bytes
    uint64_t position          # next byte to be read
    uint64_t published_seen
    const uint64_t *published  # the peer's
    uint64_t *released         # ours, in our memory
    bint is_broken


cdef inline uint32_t ring_room(RingWriter *ring) noexcept nogil:
    # Bytes that can be claimed now; 0 once broken.
    cdef uint64_t released
    if ring.is_broken:
        return 0
    released = atomic.load_acquire(ring.released)  # SYNC record-released
    if released > ring.position or released < ring.released_seen:
        ring.is_broken = True
        return 0
    ring.released_seen = released
    if ring.position - released > ring.bytes:
        ring.is_broken = True
        return 0
    return <uint32_t> (ring.bytes - (ring.position - released))


cdef inline uint8_t *ring_claim(RingWriter *ring, uint32_t bytes, uint32_t reserve) noexcept nogil:
    # Room for one record of so many bytes, leaving reserve bytes free behind it; NULL: not now (or
    # broken).
    cdef uint64_t need = align8(bytes) + reserve
    if ring.bytes - (ring.position - ring.released_seen) < need and ring_room(ring) < need:
        return NULL
    if ring.is_broken:
        return NULL
    return ring.at + (ring.position & (ring.bytes - 1))


cdef inline void ring_publish(RingWriter *ring, uint32_t bytes) noexcept nogil:
    # bytes: what was claimed; the record's head is filled.
    ring.position += align8(bytes)
    atomic.store_release(ring.published, ring.position)  # SYNC record-published


cdef inline int ring_peek(RingReader *ring, RecordHead *head, const uint8_t **body) noexcept nogil:
    # RING_RECORD: fills head with a checked copy and gives body, the record in place (borrowed
    # until ring_release). The record is whole and inside the ring; kind, flags and place are not
    # checked here.
    cdef uint64_t ready = ring.published_seen - ring.position
    if ring.is_broken:
        return RING_BROKEN
    if ready == 0:
        ring.published_seen = atomic.load_acquire(ring.published)  # SYNC record-published
        ready = ring.published_seen - ring.position
        if ready == 0:
            return RING_EMPTY
        if ready > ring.bytes or ready & 7:
            ring.is_broken = True
            return RING_BROKEN
    body[0] = ring.at + (ring.position & (ring.bytes - 1))
    memcpy(head, body[0], sizeof(RecordHead))
    if head.bytes < sizeof(RecordHead) or head.bytes > ready or align8(head.bytes) > ready:
        ring.is_broken = True
        return RING_BROKEN
    return RING_RECORD


cdef inline void ring_release(RingReader *ring, uint32_t bytes) noexcept nogil:
    # bytes: head.bytes of the copy that ring_peek() filled.
    ring.position += align8(bytes)
    atomic.store_release(ring.released, ring.position)  # SYNC record-released


cdef inline bint ring_has_record(RingReader *ring) noexcept nogil:
    # A hint (after arming: with atomic.fence_seq() between the arming store and this load).
    return (ring.published_seen != ring.position
            or atomic.load_acquire(ring.published) != ring.position)  # SYNC record-published
