# HTTP/1.x request heads and chunked content; the contract stands in http1.pxd.
#
# Rules
# - A refusal may depend only on bytes up to and including the one that shows the fault. Length
#   limits are therefore judged before the byte found behind the limit, and the field section as a
#   whole only once it is complete.
# - head_take_fast() knows no faults and no ends: a line that it does not like is left to
#   head_take_line(), whose word is the definition.
# - Nothing is read at or behind cursor.end.
#
# Theory of operation: a head normally arrives in one piece and is parsed in one go. When it does
# not, progress keeps where the check stopped; the next call checks only what is new, and once the
# end has come, the whole head is parsed once more to fill the caller's structures. So each byte is
# looked at twice at most, and a connection that waits for the rest of a head holds 28 bytes instead
# of a table of fields.

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memset

from kernelq.core.bug cimport BUG_ON, BUG_ON_DEAR, likely, unlikely
from kernelq.core.fields cimport (
    FIELD_CONNECTION,
    FIELD_CONTENT_LENGTH,
    FIELD_EXPECT,
    FIELD_FORWARDED,
    FIELD_FORWARDING_LAST,
    FIELD_FRAMING_LAST,
    FIELD_HOST,
    FIELD_NAME_MAX,
    FIELD_TRANSFER_ENCODING,
    FIELD_UNKNOWN,
    FIELD_UPGRADE,
    field_bit,
    field_find,
    field_find_wide,
)
from kernelq.core.http1 cimport (
    CHUNK_DIGITS_MAX,
    EMPTY_LINES_MAX,
    METHOD_BYTES_MAX,
    METHOD_CONNECT,
    METHOD_DELETE,
    METHOD_GET,
    METHOD_HEAD,
    METHOD_OPTIONS,
    METHOD_OTHER,
    METHOD_PATCH,
    METHOD_POST,
    METHOD_PUT,
    METHOD_QUERY,
    METHOD_TRACE,
    PARSE_MORE,
    STEP_DONE,
    STEP_END,
    STEP_MORE,
    TARGET_ABSOLUTE,
    TARGET_ASTERISK,
    TARGET_ORIGIN,
    ChunkDecoder,
    ChunkState,
    FieldLine,
    Framing,
    HeadCursor,
    HeadLimits,
    HeadProgress,
    HeadState,
    RequestHead,
    list_take,
)
from kernelq.core.limits cimport MAX_CHUNK_EXTENSION_BYTES, MAX_TRAILER_BYTES
from kernelq.core.reason cimport (
    REASON_BAD_REQUEST,
    REASON_CHUNK,
    REASON_CONTENT_TOO_LARGE,
    REASON_EXPECTATION,
    REASON_FIELD_COUNT,
    REASON_FIELD_LENGTH,
    REASON_FRAMING,
    REASON_HEADER,
    REASON_HOSTNAME,
    REASON_INVALID_CRLF,
    REASON_NOT_IMPLEMENTED,
    REASON_NUMBER,
    REASON_REQUEST_LENGTH,
    REASON_TRAILER,
    REASON_URL,
    REASON_URL_LENGTH,
    REASON_VERB,
    REASON_VERSION,
)
from kernelq.core.scan cimport (
    CLASS_DIGIT,
    CLASS_HEX,
    CLASS_QUOTED,
    CLASS_TOKEN,
    CLASS_VALUE,
    classes,
    name_bytes_32,
    scan_class,
    scan_target,
    scan_value,
)
from kernelq.core.span cimport Span, span_is, span_is_nocase, span_of


# ---- request line ----

cdef int method_find(Span method) noexcept nogil:
    if method.bytes == 3:
        if span_is(method, b"GET", 3):
            return METHOD_GET
        return METHOD_PUT if span_is(method, b"PUT", 3) else METHOD_OTHER
    if method.bytes == 4:
        if span_is(method, b"POST", 4):
            return METHOD_POST
        return METHOD_HEAD if span_is(method, b"HEAD", 4) else METHOD_OTHER
    if span_is(method, b"DELETE", 6):
        return METHOD_DELETE
    if span_is(method, b"OPTIONS", 7):
        return METHOD_OPTIONS
    if span_is(method, b"PATCH", 5):
        return METHOD_PATCH
    if span_is(method, b"QUERY", 5):
        return METHOD_QUERY
    if span_is(method, b"TRACE", 5):
        return METHOD_TRACE
    return METHOD_CONNECT if span_is(method, b"CONNECT", 7) else METHOD_OTHER


cdef void head_name_request(const uint8_t *base, const HeadProgress *progress,
                            RequestHead *head) noexcept nogil:
    # Fills method and target as far as they were seen.
    BUG_ON_DEAR(progress.method_at + progress.method_bytes > progress.target_at > 0)
    head.method = span_of(base + progress.method_at, progress.method_bytes)
    head.method_id = <uint8_t> method_find(head.method)
    head.target = span_of(base + progress.target_at, progress.target_bytes)


cdef int head_skip_empty_lines(HeadCursor *cursor, HeadProgress *progress) noexcept nogil:
    # RFC 9112 §2.2: some clients send an empty line after the content of a POST.
    while cursor.at < cursor.end:
        if cursor.at[0] == c"\n":
            return -REASON_INVALID_CRLF
        if cursor.at[0] != c"\r":
            progress.method_at = <uint32_t> (cursor.at - cursor.base)
            progress.state = HeadState.HEAD_METHOD
            return STEP_DONE
        if progress.empty_lines == EMPTY_LINES_MAX:
            return -REASON_BAD_REQUEST
        if cursor.end - cursor.at == 1:
            return STEP_MORE
        if cursor.at[1] != c"\n":
            return -REASON_INVALID_CRLF
        progress.empty_lines += 1
        cursor.at += 2
    return STEP_MORE


cdef int head_take_method(HeadCursor *cursor, HeadProgress *progress) noexcept nogil:
    # method SP. Other tokens than the ones we know pass: an application may define its own (RFC
    # 9110 §9.1).
    cdef const uint8_t *method = cursor.base + progress.method_at
    cdef const uint8_t *stop = scan_class(cursor.at, cursor.end, CLASS_TOKEN)
    cursor.at = stop
    if stop - method > METHOD_BYTES_MAX:
        return -REASON_NOT_IMPLEMENTED
    if stop == cursor.end:
        return STEP_MORE
    if stop[0] != c" " or stop == method:
        return -REASON_VERB
    progress.method_bytes = <uint16_t> (stop - method)
    if method_find(span_of(method, stop - method)) == METHOD_CONNECT:
        return -REASON_NOT_IMPLEMENTED
    cursor.at = stop + 1
    progress.target_at = <uint32_t> (cursor.at - cursor.base)
    progress.state = HeadState.HEAD_TARGET
    return STEP_DONE


cdef int head_take_target(HeadCursor *cursor, HeadProgress *progress,
                          const HeadLimits *limits) noexcept nogil:
    # request-target SP. Its form is judged behind the version: "PRI * HTTP/2.0" is a matter of
    # version.
    cdef const uint8_t *stop = scan_target(cursor.at, cursor.end)
    cursor.at = stop
    progress.target_bytes = <uint32_t> (stop - cursor.base) - progress.target_at
    if progress.target_bytes > limits.target_bytes:
        progress.target_bytes = limits.target_bytes
        return -REASON_URL_LENGTH
    if stop == cursor.end:
        return STEP_MORE
    if stop[0] == c"\n":
        return -REASON_INVALID_CRLF
    if stop[0] == c"\r":
        return -REASON_BAD_REQUEST
    if stop[0] != c" " or progress.target_bytes == 0:
        return -REASON_URL
    cursor.at = stop + 1
    progress.state = HeadState.HEAD_VERSION
    return STEP_DONE


cdef int version_fault(const uint8_t *at, const uint8_t *end) noexcept nogil:
    # What is wrong with the version and line end at this point: a reason, or STEP_MORE if nothing
    # is so far.
    cdef const char *shape = b"HTTP/0.0\r\n"
    cdef ptrdiff_t index
    for index in range(min(<ptrdiff_t> 10, end - at)):
        if shape[index] == c"0":
            if not classes[at[index]] & CLASS_DIGIT:
                return -REASON_BAD_REQUEST
        elif index >= 8:
            if at[index] != <uint8_t> shape[index]:
                return -REASON_INVALID_CRLF
        elif at[index] != <uint8_t> shape[index]:
            return -REASON_BAD_REQUEST
        if index == 7 and at[5] != c"1":
            return -REASON_VERSION
    return STEP_MORE


cdef int head_take_version(HeadCursor *cursor, HeadProgress *progress,
                           RequestHead *head) noexcept nogil:
    # HTTP-version CRLF, and the end of the request line.
    cdef int fault
    if cursor.end - cursor.at >= 10 and memcmp(cursor.at, b"HTTP/1.1\r\n", 10) == 0:
        head.version_minor = 1
    else:
        fault = version_fault(cursor.at, cursor.end)
        if fault < 0 or cursor.end - cursor.at < 10:
            return fault
        head.version_minor = cursor.at[7] != c"0"
    cursor.at += 10
    head_name_request(cursor.base, progress, head)
    fault = target_split(head)
    if fault < 0:
        return fault
    progress.state = HeadState.HEAD_LINE
    return STEP_DONE


cdef int head_take_request_line(HeadCursor *cursor, HeadProgress *progress,
                                const HeadLimits *limits, RequestHead *head) noexcept nogil:
    cdef int step = STEP_DONE
    if progress.state == HeadState.HEAD_EMPTY_LINES:
        step = head_skip_empty_lines(cursor, progress)
    if step == STEP_DONE and progress.state == HeadState.HEAD_METHOD:
        step = head_take_method(cursor, progress)
    if step == STEP_DONE and progress.state == HeadState.HEAD_TARGET:
        step = head_take_target(cursor, progress, limits)
    if step == STEP_DONE and progress.state == HeadState.HEAD_VERSION:
        step = head_take_version(cursor, progress, head)
    return step


# ---- field lines ----

cdef inline void head_enter_line(RequestHead *head, const uint8_t *base, const uint8_t *name,
                                 size_t name_bytes, const uint8_t *value, const uint8_t *stop,
                                 unsigned known) noexcept nogil:
    cdef FieldLine *line = &head.fields[head.field_count]
    BUG_ON_DEAR(not base <= name < value <= stop)
    BUG_ON_DEAR(not 0 < name_bytes < <size_t> (value - name))
    line.name_at = <uint32_t> (name - base)
    line.value_at = <uint32_t> (value - base)
    line.value_bytes = <uint32_t> (stop - value)
    line.name_bytes = <uint16_t> name_bytes
    line.known = <uint8_t> known
    head.seen |= field_bit(known)
    head.field_count += 1


cdef inline bint is_space(uint8_t byte) noexcept nogil:
    return byte == c" " or byte == c"\t"


cdef void head_keep_line(const uint8_t *base, RequestHead *head, const uint8_t *name,
                         size_t name_bytes, const uint8_t *stop, unsigned known) noexcept nogil:
    # Enters a checked line: name ":" OWS value OWS, stop at its CR.
    cdef const uint8_t *value = name + name_bytes + 1
    while value < stop and is_space(value[0]):
        value += 1
    while value < stop and is_space((stop - 1)[0]):
        stop -= 1
    if known == FIELD_UNKNOWN:
        # An application sees "-" and "_" as the same letter: such a name would stand for another
        # field.
        if memchr(name, c"_", name_bytes) != NULL:
            head.dropped_count += 1
            return
        if name_is_forwarding(name, name_bytes):
            head.has_forwarding = True
    head_enter_line(head, base, name, name_bytes, value, stop, known)


cdef void head_take_fast(HeadCursor *cursor, HeadProgress *progress, const HeadLimits *limits,
                         RequestHead *head) noexcept nogil:
    # Takes whole, valid lines while more than 32 bytes can be read. What else it meets stays
    # untouched.
    cdef const uint8_t *end = cursor.end
    cdef const uint8_t *name = cursor.at
    cdef const uint8_t *value
    cdef const uint8_t *stop
    cdef ptrdiff_t longest = limits.field_length
    cdef uint32_t room = limits.field_count - progress.line_count
    cdef size_t name_bytes
    cdef unsigned known
    while end - name > FIELD_NAME_MAX and room > 0:
        name_bytes = name_bytes_32(name)
        if unlikely(name_bytes == 0 or name_bytes == FIELD_NAME_MAX):
            break
        known = field_find_wide(name, name_bytes)
        if known == FIELD_UNKNOWN:
            if scan_class(name, name + name_bytes, CLASS_TOKEN) != name + name_bytes:
                break
        # At most 32 bytes from the name on: one more can be read.
        value = name + name_bytes + 1
        if likely(value[0] == c" "):
            value += 1
        stop = scan_value(value, end)
        if unlikely(end - stop < 2 or memcmp(stop, b"\r\n", 2) != 0 or stop - name > longest):
            break
        # White space more than one SP, or no value at all.
        if unlikely(known == FIELD_UNKNOWN or value[0] <= c" " or (stop - 1)[0] <= c" "):
            head_keep_line(cursor.base, head, name, name_bytes, stop, known)
        else:
            head_enter_line(head, cursor.base, name, name_bytes, value, stop, known)
        room -= 1
        name = stop + 2
    progress.line_count = <uint16_t> (limits.field_count - room)
    cursor.at = name


cdef int head_begin_line(HeadCursor *cursor, HeadProgress *progress,
                         const HeadLimits *limits) noexcept nogil:
    # STEP_END: this is the empty line behind the field section.
    if cursor.at == cursor.end:
        return STEP_MORE
    if cursor.at[0] == c"\n":
        return -REASON_INVALID_CRLF
    if cursor.at[0] == c"\r":
        if cursor.end - cursor.at == 1:
            return STEP_MORE
        if cursor.at[1] != c"\n":
            return -REASON_INVALID_CRLF
        cursor.at += 2
        return STEP_END
    if progress.line_count >= limits.field_count:
        return -REASON_FIELD_COUNT
    progress.line_count += 1
    progress.line_at = <uint32_t> (cursor.at - cursor.base)
    progress.state = HeadState.HEAD_NAME
    return STEP_DONE


cdef int head_take_name(HeadCursor *cursor, HeadProgress *progress,
                        const HeadLimits *limits) noexcept nogil:
    # field-name ":". White space is no token character: this refuses obs-fold, white space between
    # the request line and the first field (RFC 9112 §2.2), and white space before the colon (§5.1).
    cdef const uint8_t *line = cursor.base + progress.line_at
    cdef const uint8_t *stop = scan_class(cursor.at, cursor.end, CLASS_TOKEN)
    cursor.at = stop
    if stop - line > min(limits.field_length, <uint32_t> 65535):
        return -REASON_FIELD_LENGTH
    if stop == cursor.end:
        return STEP_MORE
    if stop[0] != c":" or stop == line:
        return -REASON_INVALID_CRLF if stop[0] == c"\n" else -REASON_HEADER
    cursor.at = stop + 1
    progress.state = HeadState.HEAD_VALUE
    return STEP_DONE


cdef int head_take_value(HeadCursor *cursor, HeadProgress *progress, const HeadLimits *limits,
                         RequestHead *head) noexcept nogil:
    # OWS field-value OWS CRLF.
    cdef const uint8_t *line = cursor.base + progress.line_at
    cdef const uint8_t *stop = scan_value(cursor.at, cursor.end)
    cdef size_t name_bytes
    cursor.at = stop
    if stop - line > <ptrdiff_t> limits.field_length:
        return -REASON_FIELD_LENGTH
    if stop == cursor.end:
        return STEP_MORE
    if stop[0] != c"\r":
        return -REASON_INVALID_CRLF if stop[0] == c"\n" else -REASON_HEADER
    if cursor.end - stop == 1:
        return STEP_MORE
    if stop[1] != c"\n":
        return -REASON_INVALID_CRLF
    name_bytes = <const uint8_t *> memchr(line, c":", stop - line) - line
    head_keep_line(cursor.base, head, line, name_bytes, stop, field_find(line, name_bytes))
    cursor.at = stop + 2
    progress.state = HeadState.HEAD_LINE
    return STEP_DONE


cdef int head_take_line(HeadCursor *cursor, HeadProgress *progress, const HeadLimits *limits,
                        RequestHead *head) noexcept nogil:
    # One line, from wherever it stopped the last time.
    cdef int step = STEP_DONE
    if progress.state == HeadState.HEAD_LINE:
        step = head_begin_line(cursor, progress, limits)
    if step == STEP_DONE and progress.state == HeadState.HEAD_NAME:
        step = head_take_name(cursor, progress, limits)
    if step == STEP_DONE:
        step = head_take_value(cursor, progress, limits, head)
    return step


# ---- what the field lines mean ----

cdef bint name_is_forwarding(const uint8_t *name, size_t bytes) noexcept nogil:
    # A name that is not in the table but belongs to the family: an application may trust
    # X-Forwarded-Anything.
    return bytes > 12 and span_is_nocase(span_of(name, 12), b"x-forwarded-", 12)


cdef bint field_is_forwarding(const FieldLine *line, const uint8_t *at) noexcept nogil:
    # at: the head's input. True for the fields by which a proxy speaks about its client.
    if line.known != FIELD_UNKNOWN:
        return FIELD_FORWARDED <= line.known <= FIELD_FORWARDING_LAST
    return name_is_forwarding(at + line.name_at, line.name_bytes)


cdef int length_resolve(Span value, Framing *framing, RequestHead *head) noexcept nogil:
    # RFC 9110 §8.6. A repeated field is refused even if both say the same, and so is the list "5,
    # 5": the RFC lets a recipient choose, and two that choose differently frame differently.
    cdef int64_t length = 0
    cdef size_t index
    BUG_ON_DEAR(head.content_length >= 0 and framing.length_count == 0)
    framing.length_count += 1
    if framing.length_count > 1 or value.bytes == 0:
        return -REASON_NUMBER
    if scan_class(value.at, value.at + value.bytes, CLASS_DIGIT) != value.at + value.bytes:
        return -REASON_NUMBER
    for index in range(value.bytes):
        if length > (INT64_MAX - 9) // 10:
            return -REASON_CONTENT_TOO_LARGE
        length = length * 10 + value.at[index] - 48
    head.content_length = length
    return 0


cdef int coding_resolve(Span value, Framing *framing) noexcept nogil:
    # RFC 9112 §6.1. Empty elements and parameters, which lists in general may have, are refused: no
    # client sends them here, and they are what attackers try.
    cdef Span element
    while list_take(&value, &element):
        if element.bytes == 0:
            return -REASON_FRAMING
        if scan_class(element.at, element.at + element.bytes, CLASS_TOKEN) \
                != element.at + element.bytes:
            return -REASON_FRAMING
        framing.is_chunked_last = span_is_nocase(element, b"chunked", 7)
        framing.chunked_count += framing.is_chunked_last
        framing.coding_count += 1
    return 0


cdef int connection_resolve(Span value, Framing *framing) noexcept nogil:
    cdef Span element
    if span_is(value, b"keep-alive", 10):
        # What nearly every browser sends.
        framing.is_keep_alive_named = True
        return 0
    while list_take(&value, &element):
        if scan_class(element.at, element.at + element.bytes, CLASS_TOKEN) \
                != element.at + element.bytes:
            return -REASON_HEADER
        if span_is_nocase(element, b"close", 5):
            framing.is_close_named = True
        elif span_is_nocase(element, b"keep-alive", 10):
            framing.is_keep_alive_named = True
        elif span_is_nocase(element, b"upgrade", 7):
            framing.is_upgrade_named = True
    return 0


cdef int expect_resolve(Span value, RequestHead *head) noexcept nogil:
    cdef Span element
    while list_take(&value, &element):
        if element.bytes == 0:
            continue
        if not span_is_nocase(element, b"100-continue", 12):
            return -REASON_EXPECTATION
        head.expects_continue = head.version_minor > 0
    return 0


cdef int line_resolve(Span value, unsigned known, Framing *framing,
                      RequestHead *head) noexcept nogil:
    if known == FIELD_HOST:
        framing.host = value
        framing.host_count += 1
    elif known == FIELD_CONNECTION:
        return connection_resolve(value, framing)
    elif known == FIELD_CONTENT_LENGTH:
        return length_resolve(value, framing, head)
    elif known == FIELD_TRANSFER_ENCODING:
        return coding_resolve(value, framing)
    elif known == FIELD_EXPECT:
        return expect_resolve(value, head)
    return 0


cdef int host_resolve(const Framing *framing, RequestHead *head) noexcept nogil:
    # RFC 9112 §3.2: exactly one in HTTP/1.1, even beside an absolute-form, which replaces it
    # (§3.2.2). An empty value says that the target has no authority. That suits OPTIONS * and
    # HTTP/1.0, which need none, but http://…/path has one (§3.3 lets a server refuse).
    if framing.host_count > 1 or (framing.host_count == 0 and head.version_minor > 0):
        return -REASON_HOSTNAME
    if framing.host.bytes > 0:
        if not host_is_valid(framing.host):
            return -REASON_HOSTNAME
    elif head.target_form == TARGET_ORIGIN and head.version_minor > 0:
        return -REASON_HOSTNAME
    if head.target_form != TARGET_ABSOLUTE:
        head.host = framing.host
    return 0


cdef int content_resolve(const Framing *framing, RequestHead *head) noexcept nogil:
    # RFC 9112 §6.3, its choices always for refusal.
    if framing.coding_count == 0:
        return -REASON_FRAMING if head.seen & field_bit(FIELD_TRANSFER_ENCODING) else 0
    if framing.length_count > 0 or head.version_minor == 0:
        return -REASON_FRAMING
    if framing.chunked_count != 1 or not framing.is_chunked_last:
        return -REASON_FRAMING
    if framing.coding_count > 1:
        return -REASON_NOT_IMPLEMENTED
    BUG_ON(head.content_length >= 0)
    head.is_chunked = True
    return 0


cdef int head_resolve(const uint8_t *base, RequestHead *head) noexcept nogil:
    # The head is complete: what do its lines together mean? 0 or a reason.
    cdef uint64_t framing_bits = field_bit(FIELD_FRAMING_LAST + 1) - 2
    cdef uint64_t forwarding_bits = \
        field_bit(FIELD_FORWARDING_LAST + 1) - field_bit(FIELD_FORWARDED)
    cdef Framing framing
    cdef FieldLine *line
    cdef uint32_t index
    cdef int fault
    memset(&framing, 0, sizeof(framing))
    if head.seen & framing_bits:
        for index in range(head.field_count):
            line = &head.fields[index]
            if line.known == FIELD_UNKNOWN or line.known > FIELD_FRAMING_LAST:
                continue
            fault = line_resolve(span_of(base + line.value_at, line.value_bytes),
                                 line.known, &framing, head)
            if fault < 0:
                return fault
    if head.seen & forwarding_bits:
        head.has_forwarding = True
    head.is_persistent = not framing.is_close_named and (
        head.version_minor > 0 or framing.is_keep_alive_named)
    head.has_upgrade = framing.is_upgrade_named and head.version_minor > 0 \
        and head.seen & field_bit(FIELD_UPGRADE) != 0
    fault = host_resolve(&framing, head)
    return fault if fault < 0 else content_resolve(&framing, head)


# ---- the whole head ----

cdef void head_clear(RequestHead *head) noexcept nogil:
    cdef FieldLine *fields = head.fields
    memset(head, 0, sizeof(RequestHead))
    head.fields = fields
    head.content_length = -1


cdef int64_t head_scan(const uint8_t *at, size_t bytes, HeadProgress *progress,
                       const HeadLimits *limits, RequestHead *head) noexcept nogil:
    # From where progress stands. The bytes of the head if it is complete, PARSE_MORE, or a reason.
    cdef HeadCursor cursor
    cdef int step
    BUG_ON(progress.at > bytes or head.fields == NULL or limits.field_count > 65535)
    cursor.base = at
    cursor.at = at + progress.at
    cursor.end = at + min(bytes, <size_t> limits.request_bytes)
    head_clear(head)
    step = STEP_DONE
    if progress.state < HeadState.HEAD_LINE:
        step = head_take_request_line(&cursor, progress, limits, head)
    while step == STEP_DONE:
        if progress.state == HeadState.HEAD_LINE:
            head_take_fast(&cursor, progress, limits, head)
        step = head_take_line(&cursor, progress, limits, head)
    BUG_ON(cursor.at < at or cursor.at > cursor.end)
    progress.at = <uint32_t> (cursor.at - at)
    if step == STEP_END:
        return progress.at
    if step == STEP_MORE and bytes >= limits.request_bytes:
        if progress.state <= HeadState.HEAD_TARGET:
            return -REASON_URL_LENGTH
        return -REASON_REQUEST_LENGTH
    return step


cdef int64_t http1_parse_head(const uint8_t *at, size_t bytes, HeadProgress *progress,
                              const HeadLimits *limits, RequestHead *head) noexcept nogil:
    cdef bint is_resumed = progress.at > 0
    cdef int64_t outcome = head_scan(at, bytes, progress, limits, head)
    cdef int fault
    if outcome > 0 and is_resumed:
        memset(progress, 0, sizeof(HeadProgress))
        outcome = head_scan(at, bytes, progress, limits, head)
        BUG_ON(outcome <= 0)
    if outcome > 0:
        fault = head_resolve(at, head)
        if fault < 0:
            outcome = fault
    if outcome < 0:
        head_name_request(at, progress, head)
    return outcome


# ---- chunked content (RFC 9112 §7.1) ----

cdef void chunk_init(ChunkDecoder *decoder, const HeadLimits *limits) noexcept nogil:
    memset(decoder, 0, sizeof(ChunkDecoder))
    decoder.limits = limits
    BUG_ON(limits.field_length == 0)


cdef int chunk_next_part(uint8_t byte) noexcept nogil:
    # Behind a complete size, extension name or value.
    if byte == c"\r":
        return ChunkState.CHUNK_SIZE_LF
    if byte == c";":
        return ChunkState.CHUNK_EXTENSION
    return ChunkState.CHUNK_SPACE if is_space(byte) else ChunkState.CHUNK_WRONG


cdef int chunk_name_end(uint8_t byte) noexcept nogil:
    if byte == c"=":
        return ChunkState.CHUNK_EQUALS
    if is_space(byte):
        return ChunkState.CHUNK_NAME_SPACE
    return chunk_next_part(byte)


cdef int chunk_extension_step(int state, uint8_t byte) noexcept nogil:
    # chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ), §7.1.1. The meaning
    # is ignored, the grammar is not: what hides in an extension here may be a line end to somebody
    # else.
    cdef bint is_token = classes[byte] & CLASS_TOKEN
    BUG_ON_DEAR(state == ChunkState.CHUNK_SIZE or state >= ChunkState.CHUNK_SIZE_LF)
    if state == ChunkState.CHUNK_EXTENSION:
        return ChunkState.CHUNK_NAME if is_token else (
            state if is_space(byte) else ChunkState.CHUNK_WRONG)
    if state == ChunkState.CHUNK_NAME:
        return state if is_token else chunk_name_end(byte)
    if state == ChunkState.CHUNK_NAME_SPACE:
        return ChunkState.CHUNK_WRONG if byte == c"\r" else chunk_name_end(byte)
    if state == ChunkState.CHUNK_EQUALS:
        if byte == c'"':
            return ChunkState.CHUNK_QUOTED
        return ChunkState.CHUNK_VALUE if is_token else (
            state if is_space(byte) else ChunkState.CHUNK_WRONG)
    if state == ChunkState.CHUNK_VALUE:
        return state if is_token else chunk_next_part(byte)
    if state == ChunkState.CHUNK_QUOTED:
        if byte == c"\\":
            return ChunkState.CHUNK_ESCAPED
        if byte == c'"':
            return ChunkState.CHUNK_QUOTED_END
        return state if classes[byte] & CLASS_QUOTED else ChunkState.CHUNK_WRONG
    if state == ChunkState.CHUNK_ESCAPED:
        return ChunkState.CHUNK_QUOTED if classes[byte] & CLASS_VALUE else ChunkState.CHUNK_WRONG
    if state == ChunkState.CHUNK_QUOTED_END:
        return chunk_next_part(byte)
    # CHUNK_SPACE
    if byte == c"\r":
        return ChunkState.CHUNK_WRONG
    return chunk_next_part(byte)


cdef int chunk_size_step(ChunkDecoder *decoder, uint8_t byte) noexcept nogil:
    # 0 or a reason, as all steps below.
    cdef int state
    if classes[byte] & CLASS_HEX:
        if decoder.digits == CHUNK_DIGITS_MAX:
            return -REASON_CHUNK
        if decoder.left > <uint64_t> INT64_MAX >> 4:
            return -REASON_CONTENT_TOO_LARGE
        decoder.digits += 1
        decoder.left = decoder.left << 4 | <uint64_t> hex_value(byte)
        return 0
    state = chunk_next_part(byte)
    if decoder.digits == 0 or state == ChunkState.CHUNK_WRONG:
        return -REASON_CHUNK
    decoder.state = <uint8_t> state
    return 0


cdef int chunk_extension_byte(ChunkDecoder *decoder, uint8_t byte) noexcept nogil:
    cdef int state = chunk_extension_step(decoder.state, byte)
    decoder.extension_bytes += 1
    if state == ChunkState.CHUNK_WRONG or decoder.extension_bytes > MAX_CHUNK_EXTENSION_BYTES:
        return -REASON_CHUNK
    decoder.state = <uint8_t> state
    return 0


cdef int chunk_line_end_step(ChunkDecoder *decoder, uint8_t byte) noexcept nogil:
    # The line ends around the data of a chunk.
    if decoder.state == ChunkState.CHUNK_DATA_CR:
        decoder.state = ChunkState.CHUNK_DATA_LF
        return 0 if byte == c"\r" else -REASON_CHUNK
    if byte != c"\n":
        return -REASON_CHUNK
    if decoder.state == ChunkState.CHUNK_DATA_LF:
        decoder.state = ChunkState.CHUNK_SIZE
        decoder.digits = 0
    else:
        decoder.state = ChunkState.CHUNK_DATA if decoder.left > 0 else ChunkState.CHUNK_TRAILER
    return 0


cdef int trailer_begin_line(ChunkDecoder *decoder, uint8_t byte) noexcept nogil:
    if byte == c"\r":
        decoder.state = ChunkState.CHUNK_END_LF
        return 0
    if not classes[byte] & CLASS_TOKEN or decoder.line_count >= decoder.limits.field_count:
        return -REASON_TRAILER
    decoder.line_count += 1
    decoder.line_bytes = 1
    decoder.state = ChunkState.CHUNK_TRAILER_NAME
    return 0


cdef int trailer_step(ChunkDecoder *decoder, uint8_t byte) noexcept nogil:
    BUG_ON_DEAR(decoder.state < ChunkState.CHUNK_TRAILER or decoder.left > 0)
    decoder.trailer_bytes += 1
    if decoder.trailer_bytes > MAX_TRAILER_BYTES:
        return -REASON_TRAILER
    if decoder.state == ChunkState.CHUNK_TRAILER:
        return trailer_begin_line(decoder, byte)
    if decoder.state == ChunkState.CHUNK_TRAILER_LF or decoder.state == ChunkState.CHUNK_END_LF:
        decoder.state = ChunkState.CHUNK_DONE if decoder.state == ChunkState.CHUNK_END_LF \
            else ChunkState.CHUNK_TRAILER
        return 0 if byte == c"\n" else -REASON_TRAILER
    if decoder.state == ChunkState.CHUNK_TRAILER_VALUE and byte == c"\r":
        decoder.state = ChunkState.CHUNK_TRAILER_LF
        return 0
    decoder.line_bytes += 1
    if decoder.line_bytes > decoder.limits.field_length:
        return -REASON_TRAILER
    if decoder.state == ChunkState.CHUNK_TRAILER_VALUE:
        return 0 if classes[byte] & CLASS_VALUE else -REASON_TRAILER
    if byte == c":":
        decoder.state = ChunkState.CHUNK_TRAILER_VALUE
        return 0
    return 0 if classes[byte] & CLASS_TOKEN else -REASON_TRAILER


cdef int chunk_step(ChunkDecoder *decoder, uint8_t byte) noexcept nogil:
    if decoder.state == ChunkState.CHUNK_SIZE:
        return chunk_size_step(decoder, byte)
    if decoder.state < ChunkState.CHUNK_SIZE_LF:
        return chunk_extension_byte(decoder, byte)
    if decoder.state >= ChunkState.CHUNK_TRAILER:
        return trailer_step(decoder, byte)
    return chunk_line_end_step(decoder, byte)


cdef int64_t chunk_feed(ChunkDecoder *decoder, const uint8_t *at, size_t bytes, Span *data,
                        bint *done) noexcept nogil:
    # Byte by byte between the data, which is where the bytes are.
    cdef size_t index = 0
    cdef int fault
    BUG_ON(decoder.state >= ChunkState.CHUNK_DONE)
    data[0] = span_of(at, 0)
    done[0] = False
    while index < bytes:
        if decoder.state == ChunkState.CHUNK_DATA:
            BUG_ON(decoder.left == 0 or decoder.left > <uint64_t> INT64_MAX)
            data[0] = span_of(at + index, <size_t> min(<uint64_t> (bytes - index), decoder.left))
            decoder.left -= data.bytes
            if decoder.left == 0:
                decoder.state = ChunkState.CHUNK_DATA_CR
            return <int64_t> (index + data.bytes)
        fault = chunk_step(decoder, at[index])
        if fault < 0:
            return fault
        index += 1
        if decoder.state == ChunkState.CHUNK_DONE:
            done[0] = True
            break
    return <int64_t> index
