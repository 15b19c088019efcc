# HTTP/1.x as bytes: request heads and chunked content. Pure functions over the caller's buffer: no
# allocation, no socket, no clock. Bodies: http1.pxi (needs target.pxi included before it).
#
# Contract
#   int64_t http1_parse_head(const uint8_t *at, size_t bytes, HeadProgress *progress,
#                            const HeadLimits *limits, RequestHead *head) noexcept nogil
#     > 0         the head is complete and takes that many bytes, leading empty lines included; head
#                 is filled.
#     PARSE_MORE  come again with the same bytes and more behind them. The buffer may have moved
#                 meanwhile, and head and head.fields may have been used for another connection:
#                 only progress has to survive.
#     < 0         -REASON_*: refuse and close. head.method and head.target are filled as far as they
#                 were seen, for the log; nothing else in head means anything then.
#   The caller sets head.fields (room for limits.field_count lines) and zeroes progress before each
#   new head. All spans point into [at, at + bytes) and die with it; the offsets in FieldLine count
#   from at.
#   Every refusal depends only on the shortest prefix that shows it: however the bytes are cut into
#   pieces, the outcome is the same. A slow sender costs O(n) over all calls together.
#
#   void chunk_init(ChunkDecoder *decoder, const HeadLimits *limits) noexcept nogil
#     Borrows limits for as long as the decoder is used.
#   int64_t chunk_feed(ChunkDecoder *decoder, const uint8_t *at, size_t bytes, Span *data,
#                      bint *done) noexcept nogil
#     >= 0        bytes consumed. data: content found in them, in place, maybe empty; at most one
#                 run of it per call (the call ends behind it). Call again with the rest until all
#                 is consumed or done is set; what follows then belongs to the next request.
#     < 0         -REASON_*: the content is malformed here; all that was handed out before is good.
#   Trailer lines are checked like field lines, bounded, and discarded.
#
# Rules: whoever adds a check asks which prefix shows the fault, and makes the fault visible at
# exactly that prefix, whether the bytes came at once or one by one
# (tests/property/test_http1_properties.py).

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kernelq.core.span cimport Span

cdef enum:
    PARSE_MORE = 0

cdef enum:
    METHOD_OTHER = 0
    METHOD_GET = 1
    METHOD_HEAD = 2
    METHOD_POST = 3
    METHOD_PUT = 4
    METHOD_DELETE = 5
    METHOD_OPTIONS = 6
    METHOD_TRACE = 7
    METHOD_CONNECT = 8         # always refused (501)
    METHOD_PATCH = 9
    METHOD_QUERY = 10

cdef enum:
    TARGET_ORIGIN = 0
    TARGET_ABSOLUTE = 1
    TARGET_ASTERISK = 2        # OPTIONS only

cdef enum:
    CHUNK_DIGITS_MAX = 16      # more could only be leading zeros
    METHOD_BYTES_MAX = 64      # RFC 9112 §3: longer than any that is known is a 501
    EMPTY_LINES_MAX = 2        # RFC 9112 §2.2: at least one is to be ignored before a request line

ctypedef struct FieldLine:
    uint32_t name_at
    uint32_t value_at
    uint32_t value_bytes       # without the white space around it
    uint16_t name_bytes
    uint8_t known              # FIELD_* of fields.pxd, 0 when it is none of them

ctypedef struct RequestHead:
    Span method
    Span target                # as sent
    Span path                  # within target, as sent; a constant "/" if an absolute-form has none
    Span query                 # within target, as sent, without "?"
    Span scheme                # of an absolute-form, as sent, else empty
    Span host                  # host[:port]: the absolute-form's, else Host's; empty: none given
    FieldLine *fields          # the caller's room for limits.field_count lines
    uint64_t seen              # bit FIELD_x is set when a line with that known name is there
    int64_t content_length     # -1: none given
    uint16_t field_count       # lines in fields
    uint16_t dropped_count     # lines left out because their name contains "_"
    uint8_t method_id
    uint8_t target_form
    uint8_t version_minor      # 0 or 1; HTTP/1.2 and later speak as 1.1 (RFC 9110 §2.5)
    bint has_query
    bint is_chunked
    bint is_persistent         # by version and all Connection lines (RFC 9112 §9.3)
    bint expects_continue      # never in HTTP/1.0 (RFC 9110 §10.1.1)
    bint has_upgrade           # named in Connection too, never in HTTP/1.0 (RFC 9110 §7.8)
    bint has_forwarding        # Forwarded or any X-Forwarded-* field is there

ctypedef struct HeadLimits:
    uint32_t field_length      # bytes of a field line without its CR LF
    uint32_t request_bytes     # bytes of the whole head, with the empty lines before and behind it
    uint32_t target_bytes
    uint32_t field_count       # at most 65535

ctypedef struct HeadProgress:
    # All zero: nothing was seen yet.
    uint32_t at                # everything before this was checked
    uint32_t method_at
    uint32_t target_at
    uint32_t target_bytes
    uint32_t line_at           # start of the field line under way
    uint16_t method_bytes
    uint16_t line_count        # field lines begun
    uint8_t state
    uint8_t empty_lines

ctypedef struct ChunkDecoder:
    const HeadLimits *limits
    # of the chunk: its size while that is read, then the bytes still to come
    uint64_t left
    uint32_t extension_bytes   # of the whole content
    uint32_t trailer_bytes
    uint32_t line_bytes        # of the trailer line under way
    uint16_t line_count
    uint8_t state
    uint8_t digits             # of the chunk size under way


# ---- inside the parser ----

cdef enum:
    STEP_MORE = 0              # the input ends before the step does
    STEP_DONE = 1
    STEP_END = 2               # the field section is over

cdef enum HeadState:
    HEAD_EMPTY_LINES = 0
    HEAD_METHOD
    HEAD_TARGET
    HEAD_VERSION
    HEAD_LINE
    HEAD_NAME
    HEAD_VALUE

cdef enum ChunkState:
    CHUNK_SIZE = 0
    CHUNK_EXTENSION            # behind ";": a name follows
    CHUNK_NAME
    CHUNK_NAME_SPACE
    CHUNK_EQUALS               # behind "=": a value follows
    CHUNK_VALUE
    CHUNK_QUOTED
    CHUNK_ESCAPED              # behind a backslash in a quoted string
    CHUNK_QUOTED_END
    CHUNK_SPACE                # white space that only ";" may follow
    CHUNK_SIZE_LF
    CHUNK_DATA
    CHUNK_DATA_CR
    CHUNK_DATA_LF
    CHUNK_TRAILER              # at the start of a trailer line, or of the line that ends it all
    CHUNK_TRAILER_NAME
    CHUNK_TRAILER_VALUE
    CHUNK_TRAILER_LF
    CHUNK_END_LF
    CHUNK_DONE
    CHUNK_WRONG                # no state: the answer to a byte that does not belong

ctypedef struct HeadCursor:
    const uint8_t *base        # the input
    const uint8_t *at          # everything before this is checked
    const uint8_t *end         # of the input, or where limits.request_bytes end it

ctypedef struct Framing:
    # What the field lines say about the message, gathered over all of them before it is judged.
    Span host
    uint16_t host_count
    uint16_t length_count
    uint16_t coding_count
    uint16_t chunked_count
    bint is_chunked_last
    bint is_close_named
    bint is_keep_alive_named
    bint is_upgrade_named


cdef inline bint head_is_started(const HeadProgress *progress) noexcept nogil:
    # A byte of the request line was seen. Empty lines alone start no request: a connection that got
    # only them is still idle.
    return progress.state > 0


cdef inline bint list_take(Span *rest, Span *element) noexcept nogil:
    # Cuts the next element of a comma-separated list (RFC 9110 §5.6.1), without the white space
    # around it, which may leave it empty. False: there is no more. Start with all of the field
    # value in rest.
    cdef size_t count = 0
    cdef const uint8_t *at = rest.at
    if at == NULL:
        return False
    while count < rest.bytes and at[count] != c",":
        count += 1
    if count < rest.bytes:
        rest.at = at + count + 1
        rest.bytes -= count + 1
    else:
        rest.at = NULL
    while count > 0 and (at[0] == c" " or at[0] == c"\t"):
        at += 1
        count -= 1
    while count > 0 and (at[count - 1] == c" " or at[count - 1] == c"\t"):
        count -= 1
    element.at = at
    element.bytes = count
    return True
