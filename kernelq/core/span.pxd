# A span: bytes that belong to somebody else. Borrowed until the buffer under it is read into again
# or freed.

from libc.stdint cimport uint8_t
from libc.string cimport memcmp

ctypedef struct Span:
    const uint8_t *at
    size_t bytes


cdef inline Span span_of(const void *at, size_t bytes) noexcept nogil:
    cdef Span span
    span.at = <const uint8_t *> at
    span.bytes = bytes
    return span


cdef inline bint span_is(Span span, const char *text, size_t bytes) noexcept nogil:
    return span.bytes == bytes and memcmp(span.at, text, bytes) == 0


cdef inline uint8_t byte_lower(uint8_t byte) noexcept nogil:
    return byte | 0x20 if 65 <= byte <= 90 else byte


cdef inline bint span_is_nocase(Span span, const char *lower, size_t bytes) noexcept nogil:
    # lower is in lower case already.
    cdef size_t index
    if span.bytes != bytes:
        return False
    for index in range(bytes):
        if byte_lower(span.at[index]) != <uint8_t> lower[index]:
            return False
    return True
