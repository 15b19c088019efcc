# Stand-ins for cache_rules.pxi: a secondary key is the request's text.

cdef uint64_t siphash(const uint8_t *seed, const uint8_t *at, size_t bytes) noexcept nogil:
    cdef uint64_t word = 0x243f6a8885a308d3
    cdef size_t index
    for index in range(bytes):
        word = (word ^ at[index]) * <uint64_t> 0x100000001b3
    word = (word ^ word >> 32) * <uint64_t> 0xd6e8feb86659fd93
    word = (word ^ word >> 32) * <uint64_t> 0xd6e8feb86659fd93
    return word ^ word >> 32


cdef bint vary_key_matches(const uint8_t *key, size_t bytes,
                           const FieldView *request) noexcept nogil:
    return request.count == bytes and memcmp(key, request.at, bytes) == 0


cdef bytes fields_view(FieldView *view, FieldLine *lines, bytes request):
    if request is None:
        request = b""
    view.at = request
    view.count = <uint32_t> len(request)
    view.lines = lines
    return request
