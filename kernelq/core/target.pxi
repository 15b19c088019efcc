# Request targets and hosts; the contract stands in target.pxd.
#
# Facts
# - "#" never reaches a server: a client that sends a fragment builds its targets by hand (refused,
#   CLASS_TARGET).
# - Escapes are checked in the path only. The path is decoded here and compared by routing, so "%zz"
#   and the "%u0041" of old scripts are refused there, as HTTP.sys and nginx do. The query is the
#   application's own text: it is handed on as sent, and links with a lone "%" in it are common.
# - A backslash is a plain byte. Nothing here turns it into "/".

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcpy

from kernelq.core.bug cimport BUG_ON, BUG_ON_DEAR
from kernelq.core.http1 cimport (
    METHOD_OPTIONS,
    TARGET_ABSOLUTE,
    TARGET_ASTERISK,
    TARGET_ORIGIN,
    RequestHead,
)
from kernelq.core.linux cimport AF_INET, AF_INET6
from kernelq.core.reason cimport REASON_HOSTNAME, REASON_URL
from kernelq.core.scan cimport CLASS_DIGIT, CLASS_HEX, CLASS_HOST, classes, scan_class
from kernelq.core.span cimport Span, span_is_nocase, span_of
from kernelq.core.target cimport ADDRESS_ROOM, ADDRESS_TEXT_MAX, PORT_MAX

cdef extern from "<arpa/inet.h>":
    int inet_pton(int family, const char *text, void *address) nogil


cdef inline int hex_value(uint8_t byte) noexcept nogil:
    BUG_ON_DEAR(not classes[byte] & CLASS_HEX)
    return byte - 48 if byte <= 57 else (byte | 0x20) - 87


cdef inline bint escape_is_valid(const uint8_t *at, const uint8_t *end) noexcept nogil:
    # at points to "%".
    return end - at >= 3 and classes[at[1]] & CLASS_HEX and classes[at[2]] & CLASS_HEX


cdef bint address_parse(int family, Span text, uint8_t *address) noexcept nogil:
    # Fills 4 or 16 bytes of address. inet_pton() wants a C string: what is too long to be an
    # address is none.
    cdef char room[ADDRESS_ROOM]
    if text.bytes == 0 or text.bytes > ADDRESS_TEXT_MAX or memchr(text.at, 0, text.bytes) != NULL:
        return False
    memcpy(room, text.at, text.bytes)
    room[text.bytes] = 0
    return inet_pton(family, room, address) == 1


cdef bint port_is_valid(const uint8_t *at, const uint8_t *end) noexcept nogil:
    # What follows the host: nothing, or ":" and a port, which may be empty (RFC 3986 §3.2.3).
    cdef uint32_t port = 0
    if at == end:
        return True
    if at[0] != c":":
        return False
    at += 1
    BUG_ON_DEAR(at > end)
    while at < end and classes[at[0]] & CLASS_DIGIT:
        port = port * 10 + at[0] - 48
        if port > PORT_MAX:
            return False
        at += 1
    return at == end


cdef bint future_literal_is_valid(const uint8_t *at, const uint8_t *end) noexcept nogil:
    # IPvFuture = "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" )
    cdef const uint8_t *dot = scan_class(at + 1, end, CLASS_HEX)
    if dot == at + 1 or dot == end or dot[0] != c"." or dot + 1 == end:
        return False
    at = dot + 1
    while at < end and (at[0] == c":" or classes[at[0]] & CLASS_HOST):
        at += 1
    return at == end


cdef bint literal_is_valid(const uint8_t *at, const uint8_t *end) noexcept nogil:
    # IP-literal = "[" ( IPv6address / IPvFuture ) "]", and the port behind it. Zone identifiers are
    # local to the client (RFC 6874 §1) and not part of the grammar: refused.
    cdef uint8_t address[16]
    cdef const uint8_t *close = <const uint8_t *> memchr(at, c"]", end - at)
    if close == NULL or close == at + 1:
        return False
    if at[1] | 0x20 == c"v":
        if not future_literal_is_valid(at + 1, close):
            return False
    elif not address_parse(AF_INET6, span_of(at + 1, close - at - 1), address):
        return False
    return port_is_valid(close + 1, end)


cdef bint host_is_valid(Span host) noexcept nogil:
    cdef const uint8_t *at = host.at
    cdef const uint8_t *end
    if host.bytes == 0:
        return False
    end = at + host.bytes
    if at[0] == c"[":
        return literal_is_valid(at, end)
    while True:
        at = scan_class(at, end, CLASS_HOST)
        if at == end or at[0] != c"%":
            break
        if not escape_is_valid(at, end):
            return False
        at += 3
    # An empty host before a port is a reg-name by the grammar, but http has no empty host (RFC 9110
    # §4.2.1).
    return at > host.at and port_is_valid(at, end)


cdef int target_split_absolute(RequestHead *head) noexcept nogil:
    # absolute-form = scheme "://" host [ ":" port ] path-abempty [ "?" query ], http and https
    # only.
    cdef Span target = head.target
    cdef const uint8_t *end = target.at + target.bytes
    cdef const uint8_t *at
    cdef size_t scheme_bytes = 4
    if target.bytes >= 5 and target.at[4] | 0x20 == c"s":
        scheme_bytes = 5
    if target.bytes < scheme_bytes + 3:
        return -REASON_URL
    head.scheme = span_of(target.at, scheme_bytes)
    if not span_is_nocase(head.scheme, b"https", scheme_bytes):
        return -REASON_URL
    if not span_is_nocase(span_of(target.at + scheme_bytes, 3), b"://", 3):
        return -REASON_URL
    at = target.at + scheme_bytes + 3
    head.host.at = at
    while at < end and at[0] != c"/" and at[0] != c"?":
        at += 1
    head.host.bytes = at - head.host.at
    if not host_is_valid(head.host):
        return -REASON_HOSTNAME
    head.target_form = TARGET_ABSOLUTE
    head.path = span_of(at, end - at)
    return 0


cdef int target_split(RequestHead *head) noexcept nogil:
    cdef const uint8_t *mark
    cdef const uint8_t *end = head.target.at + head.target.bytes
    cdef int outcome
    BUG_ON(head.target.bytes == 0)
    head.path = head.target
    if head.target.at[0] == c"/":
        head.target_form = TARGET_ORIGIN
    elif head.target.at[0] == c"*":
        # asterisk-form is for OPTIONS alone (RFC 9112 §3.2.4).
        head.target_form = TARGET_ASTERISK
        return 0 if head.target.bytes == 1 and head.method_id == METHOD_OPTIONS else -REASON_URL
    else:
        outcome = target_split_absolute(head)
        if outcome < 0:
            return outcome
    mark = <const uint8_t *> memchr(head.path.at, c"?", head.path.bytes)
    if mark != NULL:
        head.has_query = True
        head.query = span_of(mark + 1, end - mark - 1)
        head.path.bytes = mark - head.path.at
    if head.path.bytes == 0:
        head.path = span_of(b"/", 1)
        return 0
    return path_check_escapes(head.path)


cdef int path_check_escapes(Span path) noexcept nogil:
    cdef const uint8_t *end = path.at + path.bytes
    cdef const uint8_t *at = <const uint8_t *> memchr(path.at, c"%", path.bytes)
    while at != NULL:
        if not escape_is_valid(at, end):
            return -REASON_URL
        at = <const uint8_t *> memchr(at + 3, c"%", end - at - 3)
    return 0


cdef inline int segment_dots(const uint8_t *at, size_t bytes) noexcept nogil:
    # 1 for ".", 2 for "..", 0 for anything else.
    if bytes == 1 and at[0] == c".":
        return 1
    return 2 if bytes == 2 and at[0] == c"." and at[1] == c"." else 0


cdef inline size_t path_parent(const uint8_t *path, size_t bytes) noexcept nogil:
    # path[:bytes] ends with "/": the length without its last segment, never less than the root.
    BUG_ON_DEAR(bytes == 0 or path[bytes - 1] != c"/" or path[0] != c"/")
    if bytes == 1:
        return 1
    bytes -= 1
    while path[bytes - 1] != c"/":
        bytes -= 1
    return bytes


cdef int path_normalise(Span raw, uint8_t *out, size_t *out_bytes) noexcept nogil:
    # Decoding comes first, because "%2e%2e" and "..%2f" are dot segments to whoever opens files by
    # PATH_INFO, and it happens once, because "%252e" means the text "%2e" (RFC 3986 §2.4). Empty
    # segments and a trailing slash stay: to an application "/a//b" and "/a/" are other resources
    # than "/a/b" and "/a". NUL and control characters are refused even when escaped: no resource
    # has them in its name, while C strings, logs and terminals stumble over them.
    cdef const uint8_t *at = raw.at
    cdef const uint8_t *end = raw.at + raw.bytes
    cdef size_t count = 1
    cdef size_t segment = 1
    cdef uint8_t byte = 0
    cdef int dots
    if raw.bytes == 0 or at[0] != c"/":
        return -REASON_URL
    out[0] = c"/"
    at += 1
    while True:
        if at < end:
            byte = at[0]
            if byte == c"%":
                if not escape_is_valid(at, end):
                    return -REASON_URL
                byte = <uint8_t> (hex_value(at[1]) << 4 | hex_value(at[2]))
                at += 2
            if byte < 0x20 or byte == 0x7f:
                return -REASON_URL
        if at >= end or byte == c"/":
            dots = segment_dots(out + segment, count - segment)
            if dots > 0:
                count = path_parent(out, segment) if dots == 2 else segment
            elif at < end:
                out[count] = c"/"
                count += 1
            segment = count
            if at >= end:
                break
        else:
            out[count] = byte
            count += 1
        at += 1
    BUG_ON(count == 0 or count > raw.bytes)
    out_bytes[0] = count
    return 0
