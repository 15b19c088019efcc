# Calls of workers: CALL and REPLY. What is called may take long, so a helper thread does it, and
# the loop that read the CALL sends the REPLY when the job's letter comes back.
#
# Rules
#  1. A CALL is copied and checked before anything is done with it. An operation or a flag that does
#     not exist, lengths that do not add up, more than CALLS_MAX calls under way: the worker broke
#     the protocol. Texts that an operation cannot use are only an answer (REPLY_INVALID).
#  2. A call names its worker by number, never by address: the worker may end, and be forgotten,
#     before the answer is there. What it asked for is done all the same.
#  3. Other control records leave room for a REPLY to each call under way (REPLY_RESERVE). A worker
#     whose ring has none does not read its answers, and calls on: no honest one does.

cdef bint call_is_right(const RecordHead *head, const CallRecord *record) noexcept nogil:
    if record.first_bytes > CALL_TEXT_MAX or record.second_bytes > CALL_TEXT_MAX:
        return False
    if head.bytes != sizeof(CallRecord) + record.first_bytes + record.second_bytes:
        return False
    if record.first_bytes + record.second_bytes > CALL_TEXT_MAX:
        return False
    if record.operation == CALL_FLUSH:
        return record.flags & ~<uint32_t> CALL_FLAG_RECURSIVE == 0 and record.second_bytes == 0
    return record.operation == CALL_FLUSH_GROUP and record.flags == 0


cdef int call_on_record(Loop *loop, Worker *worker, const RecordHead *head,
                        const uint8_t *body) noexcept nogil:
    cdef CallRecord record
    cdef Call *call
    cdef uint32_t bytes
    if head.bytes < sizeof(record):
        return -1
    memcpy(&record, body, sizeof(record))
    if not call_is_right(head, &record):
        return -1
    # Over all loops: each may read calls of this worker.
    if atomic.add_u32(&worker.calls, 1) > CALLS_MAX:
        return -1
    bytes = record.first_bytes + record.second_bytes
    call = <Call *> calloc(1, sizeof(Call) + bytes)
    if call == NULL:
        return call_answer(loop, worker, record.number, REPLY_NO_MEMORY, 0)
    call.job.kind = JOB_CALL
    call.job.loop = loop.index
    call.job.fd = -1
    call.job.letter.kind = LETTER_CALLED
    call.job.letter.subject = call
    call.worker = worker.number
    call.pool = worker.pool.number
    call.number = record.number
    call.operation = record.operation
    call.flags = record.flags
    call.first_bytes = record.first_bytes
    call.second_bytes = record.second_bytes
    memcpy(call.text, body + sizeof(record), bytes)
    job_submit(loop.core, &call.job)
    return 0


cdef void job_do_call(Core_ *core, Call *call) noexcept nogil:
    # Helper thread.
    cdef Span first = span_of(<const char *> call.text, call.first_bytes)
    cdef Span second = span_of(<const char *> call.text + call.first_bytes, call.second_bytes)
    if call.job.has_failed:
        return
    if call.operation == CALL_FLUSH:
        call.status = cache_call_flush(core, call.pool, first, call.flags & CALL_FLAG_RECURSIVE,
                                       &call.value)
    else:
        call.status = cache_call_flush_group(core, call.pool, first, second)


cdef int call_answer(Loop *loop, Worker *worker, uint64_t number, uint32_t status,
                     uint64_t value) noexcept nogil:
    # -1: the worker does not read what it is answered.
    cdef Lane *lane = &worker.lanes[loop.index]
    cdef ReplyRecord *record
    atomic.add_u32(&worker.calls, <uint32_t> -1)
    if not lane.is_open or not worker_is_trusted(worker):
        return 0
    record = <ReplyRecord *> ring_claim(&lane.requests, sizeof(ReplyRecord), 0)
    if record == NULL:
        return -1
    memset(record, 0, sizeof(ReplyRecord))
    record.head.bytes = sizeof(ReplyRecord)
    record.head.kind = RECORD_REPLY
    record.number = number
    record.value = value
    record.status = status
    ring_publish(&lane.requests, sizeof(ReplyRecord))
    lane_published(loop, worker)
    return 0


cdef void call_on_done(Loop *loop, Call *call) noexcept nogil:
    # LETTER_CALLED
    cdef uint32_t index
    cdef Worker *worker
    for index in range(loop.worker_count):
        worker = loop.workers[index]
        if worker.number == call.worker:
            if call_answer(loop, worker, call.number, call.status, call.value) < 0:
                worker_distrust(loop, worker)
            break
    free(call)


cdef void calls_drop(Loop *loop) noexcept nogil:
    # Every thread has ended: letters that no loop has read, and the answers among them.
    cdef Letter *letter = loop.mailbox.first
    cdef Letter *following
    loop.mailbox.first = NULL
    loop.mailbox.last = NULL
    while letter != NULL:
        following = letter.next
        if letter.kind == LETTER_CALLED:
            free(letter.subject)
        elif letter.is_owned:
            free(letter)
        letter = following
