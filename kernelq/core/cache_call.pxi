# What workers and managers may ask of the response cache: texts in, normalised keys to the store.
# Helper threads and the managers' threads only: a flush takes long.

cdef enum:
    FACTS_AT_ONCE = 256            # entries copied at a time, under a shard's lock


cdef uint32_t cache_call_flush(Core_ *core, Span prefix, bint is_recursive,
                               uint64_t *count) noexcept nogil:
    # Drops what is stored under an absolute URL (empty: everything) and, recursively, below it.
    # REPLY_*; count: so many entries.
    cdef uint8_t *key
    cdef size_t bytes = 0
    count[0] = 0
    key = <uint8_t *> malloc(CACHE_KEY_MAX)
    if key == NULL:
        return REPLY_NO_MEMORY
    if prefix.bytes:
        bytes = url_key_put(key, prefix)
    if bytes != CACHE_KEY_NONE and core.settings.cache_mode != CACHE_OFF:
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
    # Drops what is stored of an origin (empty: of every one) with this name in its Cache-Groups.
    # REPLY_*.
    cdef uint8_t key[ORIGIN_MAX]
    cdef UriParts parts
    cdef size_t bytes
    cdef uint64_t hash_
    if core.settings.cache_mode == CACHE_OFF:
        return REPLY_DONE
    hash_ = siphash(core.store.seed, name.at, name.bytes)
    if origin.bytes == 0:
        return group_flush_everywhere(core, hash_)
    uri_split(origin, &parts)
    bytes = uri_origin_put(key, &parts) if parts.has_scheme and host_is_valid(parts.host) else 0
    if bytes == 0:
        return REPLY_INVALID
    store_flush_group(&core.store, hash_ ^ siphash(core.store.seed, key, bytes))
    return REPLY_DONE


cdef uint32_t group_flush_everywhere(Core_ *core, uint64_t group) noexcept nogil:
    # A group is of one origin (RFC 9875 §2): of each of which anything is stored. Their number is
    # not bounded, so they are not collected; the same one twice in a row costs nothing more.
    cdef StoreWalk walk
    cdef EntryFacts *facts = <EntryFacts *> malloc(FACTS_AT_ONCE * sizeof(EntryFacts))
    cdef uint64_t origin, before = 0
    cdef uint32_t index, count = 1
    cdef Span key
    if facts == NULL:
        return REPLY_NO_MEMORY
    memset(&walk, 0, sizeof(walk))
    while count > 0:
        count = store_list(&core.store, &walk, facts, FACTS_AT_ONCE)
        for index in range(count):
            key = span_of(facts[index].key,
                          min(facts[index].key_bytes, <uint32_t> FACTS_KEY_BYTES))
            origin = siphash(core.store.seed, key.at, key_origin_bytes(key))
            if origin != before:
                store_flush_group(&core.store, group ^ origin)
            before = origin
    free(facts)
    return REPLY_DONE
