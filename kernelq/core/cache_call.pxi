# What workers and managers may ask of the response cache: texts in, normalised keys to the store.
# Helper threads and the managers' threads only: a flush takes long.

from kernelq.core.scan cimport CLASS_TARGET, scan_class


cdef bint url_read(Span url, RequestHead *head) noexcept nogil:
    # An absolute URL of http or https, without fragment: scheme, host, path and query.
    memset(head, 0, sizeof(RequestHead))
    if url.bytes == 0 or scan_class(url.at, url.at + url.bytes, CLASS_TARGET) != url.at + url.bytes:
        return False
    head.target = url
    head.method_id = METHOD_GET
    return target_split(head) == 0 and head.target_form == TARGET_ABSOLUTE


cdef uint32_t cache_call_flush(Core_ *core, Span prefix, bint is_recursive,
                               uint64_t *count) noexcept nogil:
    # Drops what is stored under an absolute URL ("": everything) and, recursively, below it.
    # REPLY_*; count: so many entries. Nothing is stored yet.
    cdef RequestHead head
    count[0] = 0
    if prefix.bytes and not url_read(prefix, &head):
        return REPLY_INVALID
    return REPLY_DONE


cdef uint32_t cache_call_flush_group(Core_ *core, Span origin, Span name) noexcept nogil:
    # Drops what is stored of an origin ("": of every one) with this name in its Cache-Groups.
    # REPLY_*. Nothing is stored yet.
    cdef RequestHead head
    if origin.bytes and not url_read(origin, &head):
        return REPLY_INVALID
    return REPLY_DONE
