# Doors to scan, fields, target and http1.

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from kernelq.core.fields cimport FIELD_COUNT, field_find, field_find_wide, field_names
from kernelq.core.http1 cimport (
    ChunkDecoder,
    FieldLine,
    HeadLimits,
    HeadProgress,
    RequestHead,
    head_is_started,
)
from kernelq.core.limits cimport (
    MAX_CHUNK_EXTENSION_BYTES,
    MAX_FIELD_COUNT,
    MAX_FIELD_LENGTH,
    MAX_REQUEST_BYTES,
    MAX_TARGET_BYTES,
    MAX_TRAILER_BYTES,
)
from kernelq.core.reason cimport REASON_COUNT, reasons as reason_rows
from kernelq.core.scan cimport (
    SCAN_32,
    SCAN_PLAIN,
    name_bytes_32,
    scan_best,
    scan_level,
    scan_target,
    scan_value,
)
from kernelq.core.span cimport Span, span_of

LIMITS = {
    "chunk_extension_bytes": MAX_CHUNK_EXTENSION_BYTES,
    "field_count": MAX_FIELD_COUNT,
    "field_length": MAX_FIELD_LENGTH,
    "request_bytes": MAX_REQUEST_BYTES,
    "target_bytes": MAX_TARGET_BYTES,
    "trailer_bytes": MAX_TRAILER_BYTES,
}
SCAN_LEVELS = tuple(range(SCAN_PLAIN, scan_best() + 1))


def reason_name(int reason):
    """The name of a reason, of either sign."""
    reason = abs(reason)
    if not 0 <= reason < REASON_COUNT:
        raise ValueError(reason)
    return reason_rows[reason].name.decode()


def reason_number(str name):
    """The number of a reason."""
    return next(index for index in range(REASON_COUNT) if reason_name(index) == name)


def reason_status(int reason):
    """The status that a reason is answered with."""
    return reason_rows[abs(reason)].status


def set_scan_level(int level):
    """Use the scans of this width from now on; returns the former level."""
    global scan_level
    former = scan_level
    if level not in SCAN_LEVELS:
        raise ValueError(level)
    scan_level = level
    return former


def find_value_end(bytes data):
    """How many bytes stand before the first that no field value may have."""
    cdef const uint8_t *at = guard.place(data)
    return scan_value(at, at + len(data)) - at


def find_target_end(bytes data):
    """How many bytes stand before the first that no request target may have."""
    cdef const uint8_t *at = guard.place(data)
    return scan_target(at, at + len(data)) - at


def find_colon(bytes data):
    """How many of 32 bytes stand before the first colon."""
    if len(data) != 32:
        raise ValueError(len(data))
    return name_bytes_32(guard.place(data))


def known_fields():
    """The table of known names: (wire name, environ name) by number."""
    return [(field_names[index].wire.decode(), field_names[index].environ.decode())
            for index in range(FIELD_COUNT)]


def find_field(bytes name):
    """The number of a known name, found both ways."""
    cdef const uint8_t *at = guard.place(name)
    cdef unsigned plain = field_find(at, len(name))
    if len(name) < 32:
        at = guard.place(name + b":" * (32 - len(name)))
        if field_find_wide(at, len(name)) != plain:
            raise AssertionError(f"the two ways differ on {name!r}")
    return plain


def check_host(bytes host):
    """Is this a valid host[:port]?"""
    return bool(host_is_valid(span_of(guard.place(host), len(host))))


def normalise_path(bytes raw):
    """The normalised path, or the name of the reason against it."""
    cdef bytes room = bytes(len(raw))
    cdef size_t count = 0
    cdef int outcome = path_normalise(span_of(guard.place(raw), len(raw)),
                                      <uint8_t *> <char *> room, &count)
    if outcome < 0:
        return reason_name(outcome)
    if count > <size_t> len(raw):
        raise AssertionError("more bytes than were given")
    return room[:count]


cdef bytes span_bytes(Span span):
    return span.at[:span.bytes] if span.bytes else b""


cdef object head_fields(const RequestHead *head, const uint8_t *at):
    cdef const FieldLine *line
    lines = []
    for index in range(head.field_count):
        line = &head.fields[index]
        lines.append((at[line.name_at:line.name_at + line.name_bytes],
                      at[line.value_at:line.value_at + line.value_bytes],
                      field_names[line.known].wire.decode()))
    return lines


cdef object head_dict(const RequestHead *head, const uint8_t *at):
    return {
        "method": span_bytes(head.method),
        "method_id": head.method_id,
        "target": span_bytes(head.target),
        "target_form": ("origin", "absolute", "asterisk")[head.target_form],
        "scheme": span_bytes(head.scheme),
        "host": span_bytes(head.host),
        "path": span_bytes(head.path),
        "query": span_bytes(head.query) if head.has_query else None,
        "version_minor": head.version_minor,
        "content_length": head.content_length,
        "is_chunked": bool(head.is_chunked),
        "is_persistent": bool(head.is_persistent),
        "expects_continue": bool(head.expects_continue),
        "has_upgrade": bool(head.has_upgrade),
        "has_forwarding": bool(head.has_forwarding),
        "fields": head_fields(head, at),
        "dropped_count": head.dropped_count,
        "seen": head.seen,
        "forwarding_lines": [index for index in range(head.field_count)
                             if field_is_forwarding(&head.fields[index], at)],
    }


cdef class HeadParser:
    """One connection's head parser. Between calls its buffer moves, its scratch memory is lost."""

    cdef HeadLimits limits
    cdef HeadProgress progress
    cdef RequestHead head
    cdef FieldLine *fields

    def __cinit__(self, *, field_length=MAX_FIELD_LENGTH, request_bytes=MAX_REQUEST_BYTES,
                  target_bytes=MAX_TARGET_BYTES, field_count=MAX_FIELD_COUNT):
        self.limits.field_length = field_length
        self.limits.request_bytes = request_bytes
        self.limits.target_bytes = target_bytes
        self.limits.field_count = field_count
        self.fields = <FieldLine *> malloc(max(1, field_count) * sizeof(FieldLine))
        if self.fields == NULL:
            raise MemoryError
        self.reset()

    def __dealloc__(self):
        free(self.fields)

    def reset(self):
        """Expect a new head."""
        memset(&self.progress, 0, sizeof(self.progress))

    @property
    def is_started(self):
        return bool(head_is_started(&self.progress))

    @property
    def checked(self):
        """How many bytes need not be looked at again."""
        return self.progress.at

    def parse(self, bytes data):
        """data: all bytes since reset(). Returns (outcome, what is known of the head)."""
        cdef const uint8_t *at = guard.place(data)
        cdef int64_t outcome
        memset(self.fields, 0xa5, self.limits.field_count * sizeof(FieldLine))
        memset(&self.head, 0xa5, sizeof(self.head))
        self.head.fields = self.fields
        outcome = http1_parse_head(at, len(data), &self.progress, &self.limits, &self.head)
        if outcome == 0:
            return 0, None
        if outcome < 0:
            seen = span_bytes(self.head.method), span_bytes(self.head.target)
            return reason_name(outcome), seen
        return outcome, head_dict(&self.head, at)

    def bench(self, bytes data, int count):
        """Parse the same head count times."""
        cdef const uint8_t *at = data
        cdef size_t size = len(data)
        cdef int64_t outcome = 0
        self.head.fields = self.fields
        with nogil:
            for _ in range(count):
                memset(&self.progress, 0, sizeof(self.progress))
                outcome = http1_parse_head(at, size, &self.progress, &self.limits, &self.head)
        return outcome


cdef class ChunkReader:
    """One content's chunk decoder."""

    cdef HeadLimits limits
    cdef ChunkDecoder decoder

    def __cinit__(self, *, field_length=MAX_FIELD_LENGTH, field_count=MAX_FIELD_COUNT):
        self.limits.field_length = field_length
        self.limits.field_count = field_count
        chunk_init(&self.decoder, &self.limits)

    def feed(self, bytes data):
        """Returns (consumed or the reason's name, content, done)."""
        cdef const uint8_t *at = guard.place(data)
        cdef Span span
        cdef bint done = False
        cdef int64_t outcome = chunk_feed(&self.decoder, at, len(data), &span, &done)
        if outcome < 0:
            return reason_name(outcome), b"", False
        if span.bytes and not at <= span.at <= span.at + span.bytes <= at + outcome:
            raise AssertionError("the content does not stand in what was consumed")
        return outcome, span_bytes(span), bool(done)


def bench_llhttp(size_t init, size_t execute, bytes data, int count):
    """Let the C parser of httptools read the same head count times, without callbacks.

    init and execute are the addresses of its functions; their structures are smaller than
    the room here.
    """
    cdef uint8_t state[1024]
    cdef uint8_t settings[1024]
    cdef const char *at = data
    cdef size_t size = len(data)
    cdef int fault = 0
    memset(state, 0, sizeof(state))
    memset(settings, 0, sizeof(settings))
    (<void (*)(void *, int, void *) noexcept nogil> init)(state, 1, settings)
    with nogil:
        for _ in range(count):
            fault |= (<int (*)(void *, const char *, size_t) noexcept nogil> execute)(state, at,
                                                                                      size)
    if fault:
        raise AssertionError("llhttp refuses the head")
