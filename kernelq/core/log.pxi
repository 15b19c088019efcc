# Access and error log: loops write records into a ring of their own, one thread formats and writes
# them.
#
# Rules
#  1. A loop never formats and never waits: if its ring is full the record is dropped and counted
#     (LogLost).
#  2. Bytes from clients are escaped when formatted: a log line is one line of printable ASCII.
#
# Formats
#  access   combined: remote - - [day/Mon/year:h:m:s +zone] "METHOD target HTTP/1.x" status bytes
#           "referer" "agent" [what the cache did: hit, stale, revalidated, collapsed]
#  error    time level [worker pid] text [reason status] client remote "METHOD target" pool=NAME
#           worker pid

cdef enum:
    LOG_DEBUG = 10
    LOG_INFO = 20
    LOG_WARNING = 30
    LOG_ERROR = 40

cdef enum:
    LOG_KIND_ACCESS = 1
    LOG_KIND_REQUEST = 2           # about a request
    LOG_KIND_TEXT = 3              # a line of the core's or the managers'
    LOG_RING_BYTES = 1 << 20
    LOG_TARGET_MAX = 4096          # as HTTPERR: longer targets are cut
    LOG_FIELD_MAX = 1024
    LOG_BATCH_BYTES = 65536
    LOG_LINE_MAX = 32768           # all of a record's texts, escaped

cdef struct LogRecord:
    RecordHead head
    uint64_t wall_ns
    uint64_t sent_bytes
    uint64_t duration_ns
    uint32_t worker                # pid, 0: none
    uint16_t level
    uint16_t status
    uint16_t reason
    uint16_t method_bytes          # texts in this order
    uint16_t target_bytes
    uint16_t remote_bytes
    uint16_t referer_bytes
    uint16_t agent_bytes
    uint16_t text_bytes
    uint16_t pool_bytes
    uint8_t version_minor
    uint8_t cache_word             # CACHED_*


cdef bint log_begin(Loop *loop, uint32_t text_bytes, LogRecord **record) noexcept nogil:
    cdef uint32_t bytes = <uint32_t> sizeof(LogRecord) + text_bytes
    record[0] = <LogRecord *> ring_claim(&loop.log, bytes, 0)
    if record[0] == NULL:
        atomic.tally(&loop.counters[COUNT_LOG_LOST], 1)
        return False
    memset(record[0], 0, sizeof(LogRecord))
    record[0].head.bytes = bytes
    record[0].wall_ns = linux.wall_ns()
    return True


cdef void log_end(Loop *loop, LogRecord *record) noexcept nogil:
    ring_publish(&loop.log, record.head.bytes)
    loop.log_is_due = True


cdef inline uint16_t span_cut(Span *span, size_t most) noexcept nogil:
    if span.bytes > most:
        span.bytes = most
    return <uint16_t> span.bytes


cdef Span image_field(const Exchange *exchange, uint8_t known) noexcept nogil:
    # The value of a known field of the request, or an empty span.
    cdef const RequestRecord *record = <const RequestRecord *> exchange.image
    cdef const FieldEntry *entries = <const FieldEntry *> (exchange.image + sizeof(RequestRecord))
    cdef const uint8_t *at = image_texts(exchange)
    cdef uint32_t index
    at += record.method_bytes + record.remote_bytes + record.server_bytes
    at += record.target_bytes + record.path_bytes + record.query_bytes
    for index in range(record.field_count):
        if entries[index].known == known:
            return span_of(at + entries[index].name_bytes, entries[index].value_bytes)
        at += entries[index].name_bytes + entries[index].value_bytes
    return span_of(at, 0)


cdef const uint8_t *image_texts(const Exchange *exchange) noexcept nogil:
    cdef const RequestRecord *record = <const RequestRecord *> exchange.image
    return exchange.image + sizeof(RequestRecord) + <size_t> record.field_count * sizeof(FieldEntry)


cdef void image_line(const Exchange *exchange, Span *method, Span *remote,
                     Span *target) noexcept nogil:
    cdef const RequestRecord *record = <const RequestRecord *> exchange.image
    cdef const uint8_t *at = image_texts(exchange)
    method[0] = span_of(at, record.method_bytes)
    remote[0] = span_of(at + record.method_bytes, record.remote_bytes)
    target[0] = span_of(at + record.method_bytes + record.remote_bytes + record.server_bytes,
                        record.target_bytes)


cdef struct AccessTexts:
    Span method, target, remote, referer, agent


cdef void log_access(Loop *loop, const Conn *conn, Exchange *exchange) noexcept nogil:
    cdef AccessTexts texts
    cdef LogRecord *record
    if not loop.core.settings.has_access_log or exchange.image == NULL:
        return
    image_line(exchange, &texts.method, &texts.remote, &texts.target)
    texts.referer = image_field(exchange, FIELD_REFERER)
    texts.agent = image_field(exchange, FIELD_USER_AGENT)
    record = log_access_begin(loop, &texts)
    if record == NULL:
        return
    record.status = exchange.status
    record.sent_bytes = exchange.sent_bytes
    record.duration_ns = loop.now_ns - exchange.arrived_ns
    record.version_minor = 1 if exchange.is_11 else 0
    record.cache_word = exchange.cache_word
    log_end(loop, record)


cdef void log_hit(Loop *loop, Conn *conn, const uint8_t *at, const RequestHead *head,
                  const Answer *answer, uint64_t bytes) noexcept nogil:
    # A request that never had an exchange.
    cdef AccessTexts texts
    cdef ForwardedResult forwarded
    cdef LogRecord *record
    cdef uint32_t index
    if not loop.core.settings.has_access_log:
        return
    memset(&texts, 0, sizeof(texts))
    texts.method = head.method
    texts.target = head.target
    texts.remote = span_of(conn.remote, conn.remote_bytes)
    forwarded_resolve(head, at, conn.remote_address, conn_address_bytes(conn), loop.core.trusted,
                      &forwarded)
    if forwarded.is_trusted and forwarded.client.bytes:
        texts.remote = forwarded.client
    for index in range(head.field_count):
        if head.fields[index].known == FIELD_REFERER:
            texts.referer = span_of(at + head.fields[index].value_at,
                                    head.fields[index].value_bytes)
        elif head.fields[index].known == FIELD_USER_AGENT:
            texts.agent = span_of(at + head.fields[index].value_at, head.fields[index].value_bytes)
    record = log_access_begin(loop, &texts)
    if record == NULL:
        return
    record.status = <uint16_t> answer.status
    record.sent_bytes = bytes
    record.version_minor = 1 if answer.is_11 else 0
    record.cache_word = answer.word
    log_end(loop, record)


cdef LogRecord *log_access_begin(Loop *loop, AccessTexts *texts) noexcept nogil:
    # NULL: there is no room.
    cdef LogRecord *record
    cdef uint8_t *at
    span_cut(&texts.target, LOG_TARGET_MAX)
    span_cut(&texts.referer, LOG_FIELD_MAX)
    span_cut(&texts.agent, LOG_FIELD_MAX)
    if not log_begin(loop, <uint32_t> (texts.method.bytes + texts.remote.bytes + texts.target.bytes
                                       + texts.referer.bytes + texts.agent.bytes),
                     &record):
        return NULL
    record.head.kind = LOG_KIND_ACCESS
    record.method_bytes = <uint16_t> texts.method.bytes
    record.target_bytes = <uint16_t> texts.target.bytes
    record.remote_bytes = <uint16_t> texts.remote.bytes
    record.referer_bytes = <uint16_t> texts.referer.bytes
    record.agent_bytes = <uint16_t> texts.agent.bytes
    at = span_put(<uint8_t *> record + sizeof(LogRecord), texts.method)
    at = span_put(at, texts.target)
    at = span_put(at, texts.remote)
    at = span_put(at, texts.referer)
    span_put(at, texts.agent)
    return record


cdef void log_request(Loop *loop, int level, int reason, Span method, Span target, Span remote,
                      uint32_t pid, const char *text, const Pool *pool) noexcept nogil:
    # pool: NULL: none is concerned.
    cdef LogRecord *record
    cdef Span words = span_of(text, strlen(text))
    cdef Span name = span_of(text, 0)
    cdef uint8_t *at
    if level < loop.core.settings.log_level:
        return
    span_cut(&method, METHOD_BYTES_MAX)
    span_cut(&target, LOG_TARGET_MAX)
    if pool != NULL:
        name = span_of(&pool.limits.name[0], pool.limits.name_bytes)
    if not log_begin(loop, <uint32_t> (method.bytes + target.bytes + remote.bytes + words.bytes
                                       + name.bytes),
                     &record):
        return
    record.head.kind = LOG_KIND_REQUEST
    record.level = <uint16_t> level
    record.reason = <uint16_t> reason
    record.worker = pid
    record.method_bytes = <uint16_t> method.bytes
    record.target_bytes = <uint16_t> target.bytes
    record.remote_bytes = <uint16_t> remote.bytes
    record.text_bytes = <uint16_t> words.bytes
    record.pool_bytes = <uint16_t> name.bytes
    at = span_put(<uint8_t *> record + sizeof(LogRecord), method)
    at = span_put(at, target)
    at = span_put(at, remote)
    at = span_put(at, words)
    span_put(at, name)
    log_end(loop, record)


cdef void log_exchange_as(Loop *loop, int level, const Exchange *exchange, int reason, uint32_t pid,
                          const char *text) noexcept nogil:
    cdef Span method, remote, target
    if level < loop.core.settings.log_level or exchange.image == NULL:
        return
    image_line(exchange, &method, &remote, &target)
    log_request(loop, level, reason, method, target, remote, pid, text, exchange.pool)


cdef void log_exchange(Loop *loop, int level, const Exchange *exchange, int reason,
                       const Worker *worker) noexcept nogil:
    log_exchange_as(loop, level, exchange, reason, <uint32_t> worker.pid if worker != NULL else 0,
                    reasons[reason].text)


cdef void log_exchange_text(Loop *loop, int level, const Exchange *exchange,
                            const char *text) noexcept nogil:
    log_exchange_as(loop, level, exchange, REASON_NONE, 0, text)


cdef void log_head(Loop *loop, const Conn *conn, const RequestHead *head,
                   int reason) noexcept nogil:
    log_request(loop, LOG_INFO, reason, head.method, head.target,
                span_of(conn.remote, conn.remote_bytes), 0, reasons[reason].text, NULL)


cdef void log_conn(Loop *loop, int level, const Conn *conn, int reason) noexcept nogil:
    cdef Span none = span_of(conn.remote, 0)
    log_request(loop, level, reason, none, none, span_of(conn.remote, conn.remote_bytes), 0,
                reasons[reason].text, NULL)


cdef void log_worker(Loop *loop, int level, const Worker *worker, const char *text) noexcept nogil:
    cdef Span none = span_of(text, 0)
    log_request(loop, level, REASON_NONE, none, none, none, <uint32_t> worker.pid, text, NULL)


# --- the writer thread ----------------------------------------------------------------------------

cdef struct LogOut:
    int fd
    uint32_t bytes
    uint8_t data[LOG_BATCH_BYTES]


cdef void log_flush(LogOut *out) noexcept nogil:
    # A log that cannot be written (disk full, reader gone) is no reason to stop serving: the batch
    # is dropped.
    cdef uint32_t done = 0
    cdef ssize_t wrote
    while done < out.bytes and out.fd >= 0:
        wrote = write(out.fd, out.data + done, out.bytes - done)
        if wrote > 0:
            done += <uint32_t> wrote
        elif wrote == 0 or linux.errno != EINTR:
            break
    out.bytes = 0


cdef uint8_t *escaped_put(uint8_t *at, const uint8_t *text, uint32_t bytes) noexcept nogil:
    # Printable ASCII as it is, but for quote and backslash; every other byte as \xHH.
    cdef uint32_t index
    cdef uint8_t byte
    for index in range(bytes):
        byte = text[index]
        if 32 <= byte < 127 and byte != 34 and byte != 92:
            at[0] = byte
            at += 1
        else:
            at = text_put(at, b"\\x", 2)
            at[0] = <uint8_t> HEX_DIGITS[byte >> 4]
            at[1] = <uint8_t> HEX_DIGITS[byte & 15]
            at += 2
    return at


cdef uint8_t *field_put(uint8_t *at, const uint8_t *text, uint32_t bytes) noexcept nogil:
    if bytes == 0:
        return text_put(at, b"-", 1)
    return escaped_put(at, text, bytes)


cdef uint8_t *access_line_put(uint8_t *at, const LogRecord *record,
                              const uint8_t *text) noexcept nogil:
    cdef char stamp[64]
    cdef time_t seconds = <time_t> (record.wall_ns // 1000000000)
    cdef tm parts
    cdef const uint8_t *target = text + record.method_bytes
    cdef const uint8_t *remote = target + record.target_bytes
    cdef const uint8_t *referer = remote + record.remote_bytes
    localtime_r(&seconds, &parts)
    at = field_put(at, remote, record.remote_bytes)
    at = text_put(at, stamp, strftime(stamp, sizeof(stamp), b" - - [%d/%b/%Y:%H:%M:%S %z] \"",
                                      &parts))
    at = escaped_put(at, text, record.method_bytes)
    at = text_put(at, b" ", 1)
    at = escaped_put(at, target, record.target_bytes)
    at = text_put(at, b" HTTP/1.1\" " if record.version_minor else b" HTTP/1.0\" ", 11)
    at = number_put(at, record.status if record.status != STATUS_NONE else 0)
    at = text_put(at, b" ", 1)
    at = number_put(at, record.sent_bytes)
    at = text_put(at, b" \"", 2)
    at = field_put(at, referer, record.referer_bytes)
    at = text_put(at, b"\" \"", 3)
    at = field_put(at, referer + record.referer_bytes, record.agent_bytes)
    at = text_put(at, b"\"", 1)
    if cached_word(record.cache_word)[0]:
        at = text_put(at, b" ", 1)
        at = text_put(at, cached_word(record.cache_word), strlen(cached_word(record.cache_word)))
    return text_put(at, b"\n", 1)


cdef const char *cached_word(uint8_t word) noexcept nogil:
    # Only where the cache has helped: every other line stays the combined format.
    if word == CACHED_HIT:
        return b"hit"
    if word == CACHED_STALE or word == CACHED_STALE_ON_ERROR:
        return b"stale"
    if word == CACHED_REVALIDATED:
        return b"revalidated"
    if word == CACHED_COLLAPSED:
        return b"collapsed"
    return b""


cdef const char *level_word(uint32_t level) noexcept nogil:
    if level >= LOG_ERROR:
        return b"error"
    if level >= LOG_WARNING:
        return b"warning"
    return b"info" if level >= LOG_INFO else b"debug"


cdef uint8_t *error_line_put(uint8_t *at, const LogRecord *record,
                             const uint8_t *text) noexcept nogil:
    cdef const uint8_t *target = text + record.method_bytes
    cdef const uint8_t *remote = target + record.target_bytes
    cdef const uint8_t *words = remote + record.remote_bytes
    at = stamp_put(at, record.wall_ns)
    at = text_put(at, level_word(record.level), strlen(level_word(record.level)))
    at = text_put(at, b" ", 1)
    if record.worker and not record.remote_bytes:
        at = text_put(at, b"worker ", 7)
        at = number_put(at, record.worker)
        at = text_put(at, b" ", 1)
    at = escaped_put(at, words, record.text_bytes)
    if record.reason:
        at = text_put(at, b" [", 2)
        at = text_put(at, reasons[record.reason].word, strlen(reasons[record.reason].word))
        if reasons[record.reason].status:
            at = text_put(at, b" ", 1)
            at = number_put(at, reasons[record.reason].status)
        at = text_put(at, b"]", 1)
    if record.remote_bytes:
        at = text_put(at, b" client ", 8)
        at = escaped_put(at, remote, record.remote_bytes)
    if record.method_bytes:
        at = text_put(at, b" \"", 2)
        at = escaped_put(at, text, record.method_bytes)
        at = text_put(at, b" ", 1)
        at = escaped_put(at, target, record.target_bytes)
        at = text_put(at, b"\"", 1)
    if record.pool_bytes:
        at = text_put(at, b" pool=", 6)
        at = escaped_put(at, words + record.text_bytes, record.pool_bytes)
    if record.worker and record.remote_bytes:
        at = text_put(at, b" worker ", 8)
        at = number_put(at, record.worker)
    return text_put(at, b"\n", 1)


cdef uint8_t *stamp_put(uint8_t *at, uint64_t wall_ns) noexcept nogil:
    # 2026-11-22T02:10:11.123Z and a blank.
    cdef char stamp[40]
    cdef time_t seconds = <time_t> (wall_ns // 1000000000)
    cdef tm parts
    cdef uint32_t millis = <uint32_t> (wall_ns // 1000000 % 1000)
    gmtime_r(&seconds, &parts)
    at = text_put(at, stamp, strftime(stamp, sizeof(stamp), b"%Y-%m-%dT%H:%M:%S.", &parts))
    at[0] = <uint8_t> (48 + millis // 100)
    at[1] = <uint8_t> (48 + millis // 10 % 10)
    at[2] = <uint8_t> (48 + millis % 10)
    return text_put(at + 3, b"Z ", 2)


cdef void log_format(LogOut *access, LogOut *error, const LogRecord *record) noexcept nogil:
    cdef const uint8_t *text = <const uint8_t *> record + sizeof(LogRecord)
    cdef LogOut *out = access if record.head.kind == LOG_KIND_ACCESS else error
    if out.bytes + LOG_LINE_MAX > LOG_BATCH_BYTES:
        log_flush(out)
    if record.head.kind == LOG_KIND_ACCESS:
        out.bytes = <uint32_t> (access_line_put(out.data + out.bytes, record, text) - out.data)
    else:
        out.bytes = <uint32_t> (error_line_put(out.data + out.bytes, record, text) - out.data)


cdef bint log_drain(Core_ *core, LogOut *access, LogOut *error) noexcept nogil:
    # Everything that is there; True if there was anything.
    cdef uint32_t index
    cdef Loop *loop
    cdef RecordHead head
    cdef const uint8_t *body = NULL
    cdef bint found = False
    pthread_mutex_lock(&core.log_lock)
    access.fd = core.access_fd
    error.fd = core.error_fd
    for index in range(core.settings.loop_count):
        loop = &core.loops[index]
        while ring_peek(&loop.log_reader, &head, &body) == RING_RECORD:
            found = True
            log_format(access, error, <const LogRecord *> body)
            ring_release(&loop.log_reader, head.bytes)
    log_flush(access)
    log_flush(error)
    pthread_mutex_unlock(&core.log_lock)
    return found


cdef bint log_has_records(Core_ *core) noexcept nogil:
    cdef uint32_t index
    for index in range(core.settings.loop_count):
        if ring_has_record(&core.loops[index].log_reader):
            return True
    return False


cdef void *writer_main(void *argument) noexcept nogil:
    # Sleeps on its eventfd while there is nothing; loops ring it at the end of a turn if it is
    # armed.
    cdef Core_ *core = <Core_ *> argument
    cdef LogOut *access = <LogOut *> malloc(sizeof(LogOut))
    cdef LogOut *error = <LogOut *> malloc(sizeof(LogOut))
    cdef uint64_t count
    bug.BUG_ON(access == NULL or error == NULL)
    access.bytes = error.bytes = 0
    while True:
        if log_drain(core, access, error):
            continue
        if atomic.load_acquire_u32(&core.writer_stop):  # SYNC writer-stop
            break
        atomic.store_seq_u32(&core.writer_armed, 1)  # SYNC writer-armed
        atomic.fence_seq()  # SYNC writer-armed
        if not log_has_records(core):
            read(core.writer_fd, &count, sizeof(count))
        atomic.store_seq_u32(&core.writer_armed, 0)  # SYNC writer-armed
    free(access)
    free(error)
    return NULL


cdef void log_ring(Loop *loop) noexcept nogil:
    # At the end of a turn that wrote records.
    cdef uint64_t one = 1
    loop.log_is_due = False
    atomic.fence_seq()  # SYNC writer-armed
    if atomic.load_seq_u32(&loop.core.writer_armed):  # SYNC writer-armed
        atomic.store_seq_u32(&loop.core.writer_armed, 0)  # SYNC writer-armed
        write(loop.core.writer_fd, &one, sizeof(one))


cdef void log_text_now(Core_ *core, int level, const char *text, uint32_t bytes) noexcept nogil:
    # The managers' lines: written at once, after what the loops have said so far.
    cdef uint8_t room[2048]
    cdef uint8_t *at = room
    cdef LogOut *out
    if level < core.settings.log_level:
        return
    out = <LogOut *> malloc(sizeof(LogOut))
    if out == NULL:
        return
    at = stamp_put(at, linux.wall_ns())
    at = text_put(at, level_word(level), strlen(level_word(level)))
    at = text_put(at, b" ", 1)
    out.fd = core.error_fd
    out.bytes = <uint32_t> (at - room)
    memcpy(out.data, room, out.bytes)
    if bytes > LOG_BATCH_BYTES - out.bytes - 1:
        bytes = LOG_BATCH_BYTES - out.bytes - 1
    memcpy(out.data + out.bytes, text, bytes)
    out.bytes += bytes
    out.data[out.bytes] = 10
    out.bytes += 1
    pthread_mutex_lock(&core.log_lock)
    log_flush(out)
    pthread_mutex_unlock(&core.log_lock)
    free(out)
