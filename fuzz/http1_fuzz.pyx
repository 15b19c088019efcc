"""libFuzzer harness for the parser: heads, chunked content, targets and trusted proxies.

The invariant, checked for any bytes: the outcome does not depend on how they were cut into pieces
nor on the width of the scan; what is handed out lies within the input; a normalised path has no dot
segments and does not grow. The sanitizers see to the rest (every piece is a block of its exact
size).

The first byte of the input chooses the parser, the second the place of the cut and tight limits.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport abort, free, malloc
from libc.string cimport memcmp, memcpy, memset

from kernelq.core.forwarded cimport ForwardedResult, TrustedNetworks
from kernelq.core cimport scan
from kernelq.core.http1 cimport (
    ChunkDecoder,
    FieldLine,
    HeadLimits,
    HeadProgress,
    RequestHead,
)
from kernelq.core.limits cimport MAX_FIELD_COUNT
from kernelq.core.scan cimport SCAN_PLAIN, scan_best
from kernelq.core.span cimport Span, span_of

include "../kernelq/core/target.pxi"
include "../kernelq/core/http1.pxi"
include "../kernelq/core/forwarded.pxi"


cdef inline void check(bint holds) noexcept nogil:
    if not holds:
        abort()


cdef inline bint span_within(Span span, const uint8_t *at, size_t bytes) noexcept nogil:
    return span.bytes == 0 or (at <= span.at and span.at + span.bytes <= at + bytes)


cdef bint span_same(Span one, Span two) noexcept nogil:
    return one.bytes == two.bytes and (one.bytes == 0 or memcmp(one.at, two.at, one.bytes) == 0)


cdef const uint8_t *piece_copy(const uint8_t *at, size_t bytes) noexcept nogil:
    # A block of exactly these bytes; the caller frees it.
    cdef uint8_t *piece = <uint8_t *> malloc(max(bytes, <size_t> 1))
    check(piece != NULL)
    memcpy(piece, at, bytes)
    return piece


cdef void scan_set(int level) noexcept nogil:
    scan.scan_level = level


# ---- heads ----

cdef void limits_choose(HeadLimits *limits, uint8_t choice) noexcept nogil:
    limits.field_length = 24 if choice & 1 else 16384
    limits.request_bytes = 100 if choice & 2 else 65536
    limits.target_bytes = 10 if choice & 4 else 32768
    limits.field_count = 3 if choice & 8 else MAX_FIELD_COUNT


cdef void head_check(const RequestHead *head, const uint8_t *at, int64_t outcome) noexcept nogil:
    cdef uint32_t index
    cdef FieldLine *line
    for index in range(head.field_count):
        line = &head.fields[index]
        check(line.name_bytes > 0 and line.name_at + line.name_bytes < line.value_at + 1)
        check(line.value_at + line.value_bytes <= outcome)
    check(span_within(head.method, at, outcome) and span_within(head.target, at, outcome))
    check(span_within(head.query, at, outcome) and span_within(head.scheme, at, outcome))
    check(span_within(head.host, at, outcome))
    check(head.path.bytes == 1 or span_within(head.path, at, outcome))
    check(not (head.is_chunked and head.content_length >= 0))
    check(head.version_minor == 0 or head.host.bytes > 0 or head.target_form == TARGET_ASTERISK)


cdef void line_check_same(const FieldLine *one, const FieldLine *two) noexcept nogil:
    check(one.name_at == two.name_at and one.name_bytes == two.name_bytes)
    check(one.value_at == two.value_at and one.value_bytes == two.value_bytes)
    check(one.known == two.known)


cdef void heads_check_same(const RequestHead *one, const RequestHead *two) noexcept nogil:
    cdef uint32_t index
    check(one.field_count == two.field_count and one.dropped_count == two.dropped_count)
    for index in range(one.field_count):
        line_check_same(&one.fields[index], &two.fields[index])
    check(span_same(one.method, two.method) and span_same(one.target, two.target))
    check(span_same(one.path, two.path) and span_same(one.query, two.query))
    check(span_same(one.host, two.host) and span_same(one.scheme, two.scheme))
    check(one.seen == two.seen and one.content_length == two.content_length)
    check(one.is_chunked == two.is_chunked and one.is_persistent == two.is_persistent)
    check(one.has_forwarding == two.has_forwarding and one.has_upgrade == two.has_upgrade)


cdef int64_t head_parse_cut(const uint8_t *at, size_t bytes, size_t cut, const HeadLimits *limits,
                            RequestHead *head) noexcept nogil:
    cdef HeadProgress progress
    cdef int64_t outcome
    cdef const uint8_t *piece = piece_copy(at, cut)
    memset(&progress, 0, sizeof(progress))
    outcome = http1_parse_head(piece, cut, &progress, limits, head)
    free(<void *> piece)
    memset(head.fields, 0xa5, limits.field_count * sizeof(FieldLine))
    # A refusal, or an end, must be the same when all bytes are there.
    if outcome != 0:
        memset(&progress, 0, sizeof(progress))
        check(http1_parse_head(at, bytes, &progress, limits, head) == outcome)
        return outcome
    return http1_parse_head(at, bytes, &progress, limits, head)


cdef void fuzz_head(const uint8_t *at, size_t bytes, uint8_t choice) noexcept nogil:
    cdef FieldLine whole_fields[MAX_FIELD_COUNT]
    cdef FieldLine other_fields[MAX_FIELD_COUNT]
    cdef RequestHead whole
    cdef RequestHead other
    cdef HeadProgress progress
    cdef HeadLimits limits
    cdef int64_t outcome
    limits_choose(&limits, choice)
    memset(&progress, 0, sizeof(progress))
    whole.fields = whole_fields
    other.fields = other_fields
    outcome = http1_parse_head(at, bytes, &progress, &limits, &whole)
    check(outcome <= <int64_t> bytes)
    if outcome > 0:
        head_check(&whole, at, outcome)
        fuzz_forwarded(&whole, at, bytes)
    check(head_parse_cut(at, bytes, choice * bytes // 256, &limits, &other) == outcome)
    if outcome > 0:
        heads_check_same(&whole, &other)
    scan_set(SCAN_PLAIN)
    memset(&progress, 0, sizeof(progress))
    check(http1_parse_head(at, bytes, &progress, &limits, &other) == outcome)
    if outcome > 0:
        heads_check_same(&whole, &other)
    scan_set(scan_best())


# ---- trusted proxies ----

cdef void fuzz_forwarded(const RequestHead *head, const uint8_t *at, size_t bytes) noexcept nogil:
    cdef TrustedNetworks networks
    cdef ForwardedResult result
    cdef uint8_t address[16]
    cdef uint8_t packed[18]
    memset(packed, 0, sizeof(packed))
    memset(packed + 11, 0xff, 2)
    packed[13] = 10
    packed[17] = 104
    check(trusted_init(&networks, packed, sizeof(packed)) == 0)
    forwarded_resolve(head, at, packed + 13, 4, &networks, &result)
    check(result.is_trusted == head.has_forwarding)
    check(span_within(result.client, at, bytes) and span_within(result.host, at, bytes))
    check(result.host.bytes == 0 or host_is_valid(result.host))
    check(result.client.bytes == 0 or address_parse(AF_INET, result.client, address)
          or address_parse(AF_INET6, result.client, address))
    forwarded_resolve(head, at, address, 0, &networks, &result)
    check(not result.is_trusted and result.client.bytes == 0)


# ---- chunked content ----

cdef int64_t chunk_read(const uint8_t *at, size_t bytes, size_t step, uint8_t *content,
                        size_t *content_bytes, bint *done) noexcept nogil:
    # All of it in pieces of step bytes: bytes consumed, or the reason.
    cdef ChunkDecoder decoder
    cdef HeadLimits limits
    cdef size_t place = 0
    cdef size_t size
    cdef const uint8_t *piece
    cdef int64_t outcome
    cdef Span data
    limits_choose(&limits, 0)
    chunk_init(&decoder, &limits)
    done[0] = False
    content_bytes[0] = 0
    while place < bytes and not done[0]:
        size = min(step, bytes - place)
        piece = piece_copy(at + place, size)
        outcome = chunk_feed(&decoder, piece, size, &data, done)
        check(outcome != 0 and outcome <= <int64_t> size)
        if outcome > 0:
            check(span_within(data, piece, outcome))
            memcpy(content + content_bytes[0], data.at, data.bytes)
            content_bytes[0] += data.bytes
        free(<void *> piece)
        if outcome < 0:
            return outcome
        place += outcome
    return <int64_t> place


cdef void fuzz_chunks(const uint8_t *at, size_t bytes, uint8_t choice) noexcept nogil:
    cdef uint8_t *room = <uint8_t *> malloc(2 * bytes + 1)
    cdef size_t whole_bytes
    cdef size_t other_bytes
    cdef bint whole_done
    cdef bint other_done
    cdef int64_t outcome
    check(room != NULL)
    outcome = chunk_read(at, bytes, bytes, room, &whole_bytes, &whole_done)
    check(outcome == chunk_read(at, bytes, 1 + choice % 7, room + bytes, &other_bytes, &other_done))
    check(whole_done == other_done and whole_bytes == other_bytes)
    check(memcmp(room, room + bytes, whole_bytes) == 0)
    free(room)


# ---- hosts and paths ----

cdef void fuzz_target(const uint8_t *at, size_t bytes) noexcept nogil:
    cdef uint8_t *out = <uint8_t *> malloc(bytes + 1)
    cdef size_t count = 0
    cdef size_t index
    check(out != NULL)
    host_is_valid(span_of(at, bytes))
    if path_normalise(span_of(at, bytes), out, &count) == 0:
        check(0 < count <= bytes and out[0] == c"/")
        out[count] = c"/"
        for index in range(count):
            if out[index] == c"/" and out[index + 1] == c".":
                check(index + 2 <= count and out[index + 2] != c"/")
                check(out[index + 2] != c"." or (index + 3 <= count and out[index + 3] != c"/"))
    free(out)


cdef public int LLVMFuzzerTestOneInput(const uint8_t *at, size_t bytes) noexcept nogil:
    cdef const uint8_t *piece
    if bytes < 2:
        return 0
    piece = piece_copy(at + 2, bytes - 2)
    if at[0] % 4 == 0 or at[0] % 4 == 3:
        fuzz_head(piece, bytes - 2, at[1])
    elif at[0] % 4 == 1:
        fuzz_chunks(piece, bytes - 2, at[1])
    else:
        fuzz_target(piece, bytes - 2)
    free(<void *> piece)
    return 0
