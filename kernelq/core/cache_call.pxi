# What workers and managers may ask of the response cache: texts in, normalised keys to the store.
# Helper threads and the managers' threads only: a flush takes long.

cdef uint32_t cache_call_flush(Core_ *core, Span prefix, bint is_recursive,
                               uint64_t *count) noexcept nogil:
    # Drops what is stored under an absolute URL and, recursively, below it. REPLY_*; count: so many
    # entries. Nothing is stored yet.
    count[0] = 0
    return REPLY_DONE


cdef uint32_t cache_call_flush_group(Core_ *core, Span origin, Span name) noexcept nogil:
    # Drops what is stored of an origin with this name in its Cache-Groups. REPLY_*.
    return REPLY_DONE
