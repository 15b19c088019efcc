# What workers and managers may ask of the response cache: texts in, normalised keys to the store.
# Helper threads and the managers' threads only: a flush takes long.

cdef uint32_t cache_call_flush(Core_ *core, Span prefix, bint is_recursive,
                               uint64_t *count) noexcept nogil:
    # Drops what is stored under an absolute URL (empty: everything) and, recursively, below it.
    # REPLY_*; count: so many entries.
    cdef uint8_t *key
    cdef size_t bytes = 0
    count[0] = 0
    if core.settings.cache_mode == CACHE_OFF:
        return REPLY_DONE
    key = <uint8_t *> malloc(CACHE_KEY_MAX)
    if key == NULL:
        return REPLY_NO_MEMORY
    if prefix.bytes:
        bytes = url_key_put(key, prefix)
    if bytes != CACHE_KEY_NONE:
        count[0] = store_flush(&core.store, 0, key, <uint32_t> bytes, is_recursive)
    free(key)
    return REPLY_INVALID if bytes == CACHE_KEY_NONE else REPLY_DONE


cdef size_t url_key_put(uint8_t *key, Span url) noexcept nogil:
    # CACHE_KEY_NONE: it is no absolute URL.
    cdef UriParts parts
    uri_split(url, &parts)
    if not parts.has_scheme or not host_is_valid(parts.host):
        return CACHE_KEY_NONE
    return uri_key_put(key, CACHE_KEY_MAX, &parts, NULL)


cdef uint32_t cache_call_flush_group(Core_ *core, Span origin, Span name) noexcept nogil:
    # Drops what is stored of an origin with this name in its Cache-Groups. REPLY_*.
    cdef uint8_t key[ORIGIN_MAX]
    cdef UriParts parts
    cdef size_t bytes
    if core.settings.cache_mode == CACHE_OFF:
        return REPLY_DONE
    uri_split(origin, &parts)
    bytes = uri_origin_put(key, &parts) if parts.has_scheme else 0
    if bytes == 0:
        return REPLY_INVALID
    store_flush_group(&core.store, siphash(core.store.seed, name.at, name.bytes)
                      ^ siphash(core.store.seed, key, bytes))
    return REPLY_DONE
