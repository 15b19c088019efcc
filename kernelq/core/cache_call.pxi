# What workers and managers may ask of the response cache: texts in, normalised keys to the store.
# Helper threads and the managers' threads only: a flush takes long.

from kernelq.core.scan cimport CLASS_TARGET, scan_class

cdef enum:
    FACTS_AT_ONCE = 256            # entries copied at a time, under a shard's lock


cdef bint url_read(Span url, RequestHead *head) noexcept nogil:
    # An absolute URL of http or https, without fragment: scheme, host, path and query.
    memset(head, 0, sizeof(RequestHead))
    if url.bytes == 0 or scan_class(url.at, url.at + url.bytes, CLASS_TARGET) != url.at + url.bytes:
        return False
    head.target = url
    head.method_id = METHOD_GET
    return target_split(head) == 0 and head.target_form == TARGET_ABSOLUTE


cdef size_t url_key_put(uint8_t *key, Span url) noexcept nogil:
    # Into CACHE_KEY_MAX bytes. CACHE_KEY_NONE: it is no absolute URL.
    cdef RequestHead head
    if not url_read(url, &head):
        return CACHE_KEY_NONE
    return cache_key_put(key, CACHE_KEY_MAX, head.scheme.bytes == 5, head.host, head.path,
                         head.query, head.has_query, span_of(key, 0))


cdef uint32_t cache_call_flush(Core_ *core, uint32_t pool, Span prefix, bint is_recursive,
                               uint64_t *count) noexcept nogil:
    # Drops what is stored under an absolute URL ("": everything) and, recursively, below it: of
    # the applications of one pool, or (POOL_ANY) of all. REPLY_*; count: so many entries.
    cdef uint8_t *key
    cdef size_t bytes = 0
    cdef uint32_t status = REPLY_DONE
    count[0] = 0
    key = <uint8_t *> malloc(CACHE_KEY_MAX)
    if key == NULL:
        return REPLY_NO_MEMORY
    if prefix.bytes:
        bytes = url_key_put(key, prefix)
    if bytes == CACHE_KEY_NONE:
        status = REPLY_INVALID
    elif core.settings.cache_mode != CACHE_OFF:
        if pool == POOL_ANY and (is_recursive or prefix.bytes == 0):
            count[0] = store_flush(&core.store, STORE_ANY, key, <uint32_t> bytes, True)
        else:
            status = flush_applications(core, pool, span_of(key, bytes), is_recursive, count)
    free(key)
    return status


cdef uint32_t flush_applications(Core_ *core, uint32_t pool, Span key, bint is_recursive,
                                 uint64_t *count) noexcept nogil:
    cdef uint32_t *numbers = NULL
    cdef uint32_t index
    cdef int64_t found = core_applications(core, pool, &numbers)
    if found < 0:
        return REPLY_NO_MEMORY
    for index in range(<uint32_t> found):
        count[0] += store_flush(&core.store, numbers[index], key.at, <uint32_t> key.bytes,
                                is_recursive)
    free(numbers)
    return REPLY_DONE


cdef uint32_t cache_call_flush_group(Core_ *core, uint32_t pool, Span origin,
                                     Span name) noexcept nogil:
    # Drops what is stored of an origin (an absolute URL; empty: every one) with this name in its
    # Cache-Groups: of the applications of one pool, or (POOL_ANY) of all. REPLY_*.
    cdef uint8_t *key
    cdef size_t bytes = 0
    cdef uint32_t *numbers = NULL
    cdef int64_t count
    cdef uint32_t status = REPLY_DONE
    key = <uint8_t *> malloc(CACHE_KEY_MAX)
    if key == NULL:
        return REPLY_NO_MEMORY
    if origin.bytes:
        bytes = url_key_put(key, origin)
    if bytes == CACHE_KEY_NONE:
        status = REPLY_INVALID
    elif core.settings.cache_mode != CACHE_OFF:
        count = core_applications(core, pool, &numbers)
        if count < 0:
            status = REPLY_NO_MEMORY
        elif bytes == 0:
            status = group_flush_everywhere(core, pool, numbers, <uint32_t> count, name)
        else:
            group_flush_origin(core, span_of(key, bytes), numbers, <uint32_t> count, name)
    free(numbers)
    free(key)
    return status


cdef void group_flush_origin(Core_ *core, Span key, const uint32_t *numbers, uint32_t count,
                             Span name) noexcept nogil:
    cdef uint64_t group = siphash(core.store.seed, name.at, name.bytes)
    cdef uint32_t index
    for index in range(count):
        store_flush_group(&core.store, group ^ group_owner(core, numbers[index], key))


cdef uint32_t group_flush_everywhere(Core_ *core, uint32_t pool, const uint32_t *numbers,
                                     uint32_t count, Span name) noexcept nogil:
    # Of each origin of which one of these applications, or (POOL_ANY) any, has something stored.
    # Their number is not bounded, so they are not collected; to flush one again costs a word.
    cdef uint64_t group, owner, before = 0
    cdef uint32_t index, found = 1
    cdef StoreWalk walk
    cdef EntryFacts *facts = <EntryFacts *> malloc(FACTS_AT_ONCE * sizeof(EntryFacts))
    if facts == NULL:
        return REPLY_NO_MEMORY
    group = siphash(core.store.seed, name.at, name.bytes)
    memset(&walk, 0, sizeof(walk))
    while found > 0:
        found = store_list(&core.store, &walk, facts, FACTS_AT_ONCE)
        for index in range(found):
            if pool != POOL_ANY and not number_is_among(facts[index].application, numbers, count):
                continue
            owner = group_owner(core, facts[index].application, facts_key(&facts[index]))
            if owner != before:
                store_flush_group(&core.store, group ^ owner)
            before = owner
    free(facts)
    return REPLY_DONE


cdef bint number_is_among(uint32_t number, const uint32_t *numbers, uint32_t count) noexcept nogil:
    cdef uint32_t index
    for index in range(count):
        if numbers[index] == number:
            return True
    return False


cdef Span facts_key(const EntryFacts *facts) noexcept nogil:
    # As far as it was copied.
    return span_of(facts.key, min(facts.key_bytes, <uint32_t> FACTS_KEY_BYTES))
