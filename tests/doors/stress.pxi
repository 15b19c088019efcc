# Rings between threads, as fast as they go: for ThreadSanitizer, and for whoever reads the records.
#
# The ring and its bell are used as the log uses them: the producer rings only a consumer that has
# said that it sleeps. A *broken* ring publishes without release; ThreadSanitizer must see that.

cdef enum:
    STRESS_RING_BYTES = 65536
    STRESS_RECORD_MOST = 400

ctypedef struct Stress:
    RingWriter writer
    RingReader reader
    uint64_t published
    uint64_t released
    uint32_t armed
    int bell
    uint64_t count
    uint64_t bad
    uint64_t sleeps
    uint32_t has_failed
    bint is_broken


cdef inline uint32_t stress_bytes(uint64_t number) noexcept nogil:
    return <uint32_t> (sizeof(RecordHead) + number * 7919 % STRESS_RECORD_MOST)


cdef void stress_put(Stress *stress, uint64_t number) noexcept nogil:
    cdef uint32_t bytes = stress_bytes(number)
    cdef RecordHead *head = <RecordHead *> ring_claim(&stress.writer, bytes, 0)
    while head == NULL:
        if atomic.load_acquire_u32(&stress.has_failed):
            return
        threads.sched_yield()
        head = <RecordHead *> ring_claim(&stress.writer, bytes, 0)
    head.bytes = bytes
    head.kind = 1
    head.flags = 0
    head.place = 0
    head.dispatch = number
    memset(<uint8_t *> head + sizeof(RecordHead), <int> (number & 0xff),
           bytes - sizeof(RecordHead))
    if stress.is_broken:
        stress.writer.position += align8(bytes)
        atomic.store_relaxed(stress.writer.published, stress.writer.position)
    else:
        ring_publish(&stress.writer, bytes)
    atomic.fence_seq()
    if atomic.load_seq_u32(&stress.armed):
        atomic.store_seq_u32(&stress.armed, 0)
        threads.bell_ring(stress.bell)


cdef void *stress_produce(void *subject) noexcept nogil:
    cdef Stress *stress = <Stress *> subject
    cdef uint64_t number
    for number in range(stress.count):
        stress_put(stress, number)
    return NULL


cdef bint stress_take(Stress *stress, uint64_t number) noexcept nogil:
    # The record of this number, or nothing yet.
    cdef RecordHead head
    cdef const uint8_t *body = NULL
    cdef uint32_t index
    cdef int outcome = ring_peek(&stress.reader, &head, &body)
    if outcome != RING_RECORD:
        stress.bad += outcome != 0
        return False
    stress.bad += head.dispatch != number or head.bytes != stress_bytes(number)
    for index in range(<uint32_t> sizeof(RecordHead), head.bytes):
        stress.bad += body[index] != (number & 0xff)
    ring_release(&stress.reader, head.bytes)
    return True


cdef void stress_consume(Stress *stress) noexcept nogil:
    cdef uint64_t number = 0, count
    while number < stress.count and not stress.bad:
        if stress_take(stress, number):
            number += 1
            continue
        atomic.store_seq_u32(&stress.armed, 1)
        atomic.fence_seq()
        if not ring_has_record(&stress.reader):
            stress.sleeps += 1
            linux.read(stress.bell, &count, sizeof(count))
        atomic.store_seq_u32(&stress.armed, 0)
    if stress.bad:
        atomic.store_release_u32(&stress.has_failed, 1)


def stress_ring(uint64_t count, bint is_broken=False):
    """So many records from one thread to another: (records that were wrong, times asleep)."""
    cdef Stress stress
    cdef threads.Thread other
    cdef int fd = linux.memfd(b"stress")
    memset(&stress, 0, sizeof(stress))
    if fd < 0 or linux.ftruncate(fd, STRESS_RING_BYTES) < 0:
        raise OSError(linux.errno, "memfd")
    stress.writer.at = <uint8_t *> linux.map_twice(fd, 0, STRESS_RING_BYTES, True)
    linux.close(fd)
    stress.bell = threads.eventfd(0, threads.EFD_CLOEXEC)
    if stress.writer.at == NULL or stress.bell < 0:
        raise OSError(linux.errno, "map")
    stress.reader.at = stress.writer.at
    stress.writer.bytes = stress.reader.bytes = STRESS_RING_BYTES
    stress.writer.published = stress.reader.published = &stress.published
    stress.writer.released = stress.reader.released = &stress.released
    stress.count = count
    stress.is_broken = is_broken
    if threads.thread_start(&other, stress_produce, &stress) < 0:
        raise RuntimeError("no thread")
    with nogil:
        stress_consume(&stress)
        threads.thread_join(other, NULL)
    linux.munmap(stress.writer.at, STRESS_RING_BYTES * 2)
    linux.close(stress.bell)
    return stress.bad, stress.sleeps
