# The managers' view of the response cache: part of the doors (doors.pxi), and like them the only
# code here that touches Python. The lists are copied under a shard's lock and made into objects
# without it.

cdef object cache_listed(Core_ *core, bytes url, Py_ssize_t most):
    """Facts of what is stored under a URL (empty: anywhere) and below it, at most so many: a list
    of dicts. Raises ValueError: it is no absolute URL."""
    cdef bytes prefix = url_key(url) if url else b""
    cdef StoreWalk walk
    cdef uint32_t count, index
    cdef EntryFacts *facts
    entries = []
    if core.settings.cache_mode == CACHE_OFF:
        return entries
    facts = <EntryFacts *> malloc(FACTS_AT_ONCE * sizeof(EntryFacts))
    if facts == NULL:
        raise MemoryError
    memset(&walk, 0, sizeof(walk))
    try:
        while len(entries) < most:
            with nogil:
                count = store_list(&core.store, &walk, facts, FACTS_AT_ONCE)
            if count == 0:
                break
            for index in range(count):
                key = key_bytes(&facts[index])
                if key_is_below(key, prefix):
                    entries.append(facts_dict(&facts[index], key))
    finally:
        free(facts)
    return entries[:most]


cdef object cache_shown(Core_ *core, bytes url):
    """Facts of every variant of one URL. Raises ValueError: it is no absolute URL."""
    cdef EntryFacts *facts
    cdef uint32_t count, index
    cdef bytes key = url_key(url)
    cdef Span text = span_of(<const uint8_t *> key, len(key))
    if core.settings.cache_mode == CACHE_OFF:
        return []
    facts = <EntryFacts *> malloc(FACTS_AT_ONCE * sizeof(EntryFacts))
    if facts == NULL:
        raise MemoryError
    with nogil:
        count = applications_show(core, text, facts, FACTS_AT_ONCE)
    shown = [facts_dict(&facts[index], key_bytes(&facts[index])) for index in range(count)]
    free(facts)
    return shown


cdef bytes url_key(bytes url):
    """The key of a URL. Raises ValueError: it is no absolute one."""
    cdef uint8_t *key = <uint8_t *> malloc(CACHE_KEY_MAX)
    cdef size_t count
    if key == NULL:
        raise MemoryError
    count = url_key_put(key, span_of(<const uint8_t *> url, len(url)))
    made = None if count == CACHE_KEY_NONE else (<const char *> key)[:count]
    free(key)
    if made is None:
        raise url_error(url)
    return made


cdef bint key_is_below(bytes key, bytes prefix):
    # What a flush of the prefix would take.
    return key.startswith(prefix) and (
        len(key) == len(prefix) or prefix.endswith(b"/") or not prefix
        or key[len(prefix)] in b"/? ")


cdef object url_error(bytes url):
    return ValueError(f"found {url.decode('utf-8', 'replace')!r}, allowed is an absolute URL like "
                      "http://example.org/path")


cdef bytes key_bytes(const EntryFacts *facts):
    cdef Span key = facts_key(facts)
    return (<const char *> key.at)[:key.bytes]


cdef dict facts_dict(const EntryFacts *facts, bytes key):
    cdef uint64_t age_s = facts.age_s + (linux.now_ns() - facts.received_ns) // 1000000000
    return {
        "key": key.decode("latin-1"),
        "application": facts.application,
        "status": facts.status,
        "bytes": facts.bytes,
        "content": facts.content_bytes,
        "age": age_s,
        "lifetime": facts.lifetime_s,
        "varies": bool(facts.has_vary),
        "flushed": bool(facts.is_invalid),
    }


cdef uint64_t cache_flushed(Core_ *core, bytes prefix, bint is_recursive) except? 0:
    """How many entries went. Raises ValueError: no absolute URL (empty: everything)."""
    cdef uint64_t count = 0
    cdef uint32_t status
    cdef Span text = span_of(<const uint8_t *> prefix, len(prefix))
    with nogil:
        status = cache_call_flush(core, 0, text, is_recursive, &count)
    if status == REPLY_INVALID:
        raise url_error(prefix)
    if status == REPLY_NO_MEMORY:
        raise MemoryError
    return count


cdef int cache_group_flushed(Core_ *core, bytes origin, bytes name) except -1:
    """Of one origin, or (empty) of each of which anything is stored. Raises ValueError."""
    cdef uint32_t status
    cdef Span where = span_of(<const uint8_t *> origin, len(origin))
    cdef Span what = span_of(<const uint8_t *> name, len(name))
    with nogil:
        status = cache_call_flush_group(core, 0, where, what)
    if status == REPLY_INVALID:
        raise url_error(origin)
    if status == REPLY_NO_MEMORY:
        raise MemoryError
    return 0


cdef dict cache_figures(Core_ *core):
    """HTTP Service's counters of the URI cache, and what they are made of."""
    cdef Store *store = &core.store
    if core.settings.cache_mode == CACHE_OFF:
        return {}
    return {
        "cache_uris_now": atomic.load_relaxed(&store.entries_now),  # relaxed: figures, all of them
        "cache_uris_total": atomic.load_relaxed(&store.entries_total),  # relaxed
        "cache_flushes": atomic.load_relaxed(&store.flushes),  # relaxed
        "cache_flushed": atomic.load_relaxed(&store.flushed),  # relaxed
        "cache_evicted": atomic.load_relaxed(&store.evicted),  # relaxed
        "cache_scavenged": atomic.load_relaxed(&store.scavenged),  # relaxed
        "cache_bytes": atomic.load_relaxed(&store.bytes),  # relaxed
    }
