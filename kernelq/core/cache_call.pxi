# What workers and managers may ask of the response cache: texts in, normalised keys to the store.
# Helper threads and the managers' threads only: a flush takes long.
#
# Managers (pool 0) reach whatever is stored, workers what applications of their own pool have
# stored, by the newest routes; groups, which are of an origin, only where one of those answers.

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
    # Drops what is stored under an absolute URL ("": everything) and, recursively, below it.
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
        count[0] = applications_flush(core, pool, key, <uint32_t> bytes, is_recursive)
    free(key)
    return REPLY_INVALID if bytes == CACHE_KEY_NONE else REPLY_DONE


cdef uint64_t applications_flush(Core_ *core, uint32_t pool, const uint8_t *key, uint32_t bytes,
                                 bint is_recursive) noexcept nogil:
    cdef Snapshot *snapshot = snapshot_take(core)
    cdef const uint32_t *applications = NULL
    cdef uint32_t applications_count = 0
    cdef uint64_t count = 0
    if snapshot != NULL:
        applications_count = snapshot_applications(snapshot, pool, &applications)
    if pool == 0 and (is_recursive or bytes == 0):
        count = store_flush_some(&core.store, NULL, 0, key, bytes, is_recursive)
    elif applications_count:
        count = store_flush_some(&core.store, applications, applications_count, key, bytes,
                                 is_recursive)
    if snapshot != NULL:
        snapshot_release(core, snapshot)
    return count


cdef uint32_t applications_show(Core_ *core, Span key, EntryFacts *facts,
                                uint32_t most) noexcept nogil:
    # What is stored under a key, whichever application of the newest routes answers there.
    cdef Snapshot *snapshot = snapshot_take(core)
    cdef const uint32_t *applications = NULL
    cdef uint32_t index, given
    cdef uint32_t count = 0
    if snapshot == NULL:
        return 0
    given = snapshot_applications(snapshot, 0, &applications)
    for index in range(given):
        if count == most:
            break
        count += store_show(&core.store, applications[index], key.at, <uint32_t> key.bytes,
                            store_hash(&core.store, applications[index], key.at, key.bytes),
                            facts + count, most - count)
    snapshot_release(core, snapshot)
    return count


cdef uint32_t cache_call_flush_group(Core_ *core, uint32_t pool, Span origin,
                                     Span name) noexcept nogil:
    # Drops what is stored of an origin (an absolute URL; empty: every one) with this name in its
    # Cache-Groups. REPLY_*.
    cdef uint8_t *key
    cdef size_t bytes
    if origin.bytes == 0:
        return group_flush_everywhere(core, pool, name)
    key = <uint8_t *> malloc(CACHE_KEY_MAX)
    if key == NULL:
        return REPLY_NO_MEMORY
    bytes = url_key_put(key, origin)
    if (bytes != CACHE_KEY_NONE and core.settings.cache_mode != CACHE_OFF
            and pool_answers_origin(core, pool, origin)):
        store_flush_group(&core.store, siphash(core.store.seed, name.at, name.bytes)
                          ^ origin_hash(core, span_of(key, bytes)))
    free(key)
    return REPLY_INVALID if bytes == CACHE_KEY_NONE else REPLY_DONE


cdef bint pool_answers_origin(Core_ *core, uint32_t pool, Span origin) noexcept nogil:
    cdef Snapshot *snapshot
    cdef RequestHead head
    cdef bint answers
    if pool == 0:
        return True
    snapshot = snapshot_take(core)
    if snapshot == NULL:
        return False
    answers = url_read(origin, &head) and pool_answers_host(snapshot, pool, head.host)
    snapshot_release(core, snapshot)
    return answers


cdef uint32_t group_flush_everywhere(Core_ *core, uint32_t pool, Span name) noexcept nogil:
    # A group is of one origin (RFC 9875 §2): of each one of which anything is stored, by an
    # application of the pool. Their number is not bounded, so they are not collected; to flush one
    # again costs a word.
    cdef uint64_t group, origin, before = 0
    cdef uint32_t index, count = 1
    cdef StoreWalk walk
    cdef EntryFacts *facts
    cdef Snapshot *snapshot
    cdef const uint32_t *applications = NULL
    cdef uint32_t applications_count = 0
    if core.settings.cache_mode == CACHE_OFF:
        return REPLY_DONE
    facts = <EntryFacts *> malloc(FACTS_AT_ONCE * sizeof(EntryFacts))
    if facts == NULL:
        return REPLY_NO_MEMORY
    snapshot = snapshot_take(core)
    if snapshot != NULL:
        applications_count = snapshot_applications(snapshot, pool, &applications)
    group = siphash(core.store.seed, name.at, name.bytes)
    memset(&walk, 0, sizeof(walk))
    while count > 0:
        count = store_list(&core.store, &walk, facts, FACTS_AT_ONCE)
        for index in range(count):
            if pool and not is_among(applications, applications_count, facts[index].application):
                continue
            origin = origin_hash(core, facts_key(&facts[index]))
            if origin != before:
                store_flush_group(&core.store, group ^ origin)
            before = origin
    if snapshot != NULL:
        snapshot_release(core, snapshot)
    free(facts)
    return REPLY_DONE


cdef Span facts_key(const EntryFacts *facts) noexcept nogil:
    # As far as it was copied.
    return span_of(facts.key, min(facts.key_bytes, <uint32_t> FACTS_KEY_BYTES))
