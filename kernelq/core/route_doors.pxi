# Routes from and for Python: part of the doors (doors.pxi), and like them the only code here that
# touches Python.

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from kernelq.core.route cimport (
    ROUTE_DEPTH_MAX,
    ROUTE_FAULT_COUNT,
    ROUTE_FAULT_DUPLICATE,
    ROUTE_FAULT_HOST,
    ROUTE_FAULT_LISTENER,
    ROUTE_FAULT_MEMORY,
    ROUTE_FAULT_POOLS,
    ROUTE_FAULT_PREFIX,
    ROUTE_LISTENERS_MAX,
    ROUTE_POOLS_MAX,
    ROUTE_PREFIX_MAX,
    ROUTES_MAX,
    Route,
    RouteEntry,
    RouteFault,
    Routes,
)
from kernelq.core.span cimport span_of


cdef int route_address(object address, uint8_t *out) except -1:
    """1, or 0: any. Raises ValueError."""
    cdef bytes text = address
    if len(text) not in (0, 4, 16):
        raise ValueError(f"found an address of {len(text)} bytes, allowed are 0 (any), 4 and 16")
    if not text:
        return 0
    if len(text) == 4:
        text = b"\0" * 10 + b"\xff\xff" + text
    memcpy(out, <const uint8_t *> text, 16)
    return 1


cdef int route_entry(object row, RouteEntry *entry, list kept) except -1:
    # kept: holds the texts that the entry points to.
    cdef bytes host
    cdef bytes prefix
    listener, address, name, prefix, application, pool, site, generation, is_enabled = row
    host = name.encode("utf-8", "replace")
    kept.append(host)
    kept.append(prefix)
    entry.listener = listener
    entry.has_address = route_address(address, entry.address)
    entry.host = span_of(<const uint8_t *> host, len(host))
    entry.prefix = span_of(<const uint8_t *> prefix, len(prefix))
    entry.application = application
    entry.pool = pool
    entry.site = site
    entry.generation = generation
    entry.is_enabled = is_enabled
    return 0


cdef object route_words(object row):
    return (f"listener {row[0]}, address {row[1].hex() or 'any'}, host {row[2]!r}, "
            f"prefix {row[3].decode('utf-8', 'backslashreplace')!r}")


cdef object route_error(const RouteFault *fault, list rows):
    """What is wrong with them, in words."""
    first = f"route {fault.first}"
    if fault.kind == ROUTE_FAULT_MEMORY:
        return MemoryError()
    if fault.kind == ROUTE_FAULT_COUNT:
        return ValueError(f"found {len(rows)} routes, allowed are at most {ROUTES_MAX}")
    if fault.kind == ROUTE_FAULT_POOLS:
        return ValueError(f"{first} names one pool more than the {ROUTE_POOLS_MAX} that are "
                          "allowed")
    if fault.kind == ROUTE_FAULT_LISTENER:
        return ValueError(f"{first}: found listener {rows[fault.first][0]}, allowed are numbers "
                          f"below {ROUTE_LISTENERS_MAX}")
    if fault.kind == ROUTE_FAULT_HOST:
        return ValueError(f"{first}: found host {rows[fault.first][2]!r}, allowed are '+', '', a "
                          "name or an IPv6 address in brackets, or '*.' and a name")
    if fault.kind == ROUTE_FAULT_PREFIX:
        prefix = rows[fault.first][3].decode("utf-8", "backslashreplace")
        return ValueError(f"{first}: found prefix {prefix!r}, allowed is '/' or a path such as "
                          "'/shop', decoded, without dot segments and without a slash at the end, "
                          f"of at most {ROUTE_PREFIX_MAX} bytes and {ROUTE_DEPTH_MAX} segments")
    return ValueError(f"routes {fault.first} and {fault.second} are for the same requests: "
                      + route_words(rows[fault.first]))


cdef Routes *routes_from(object entries) except NULL:
    """A snapshot of tuples (listener number, address bytes: b"" any, 4 or 16, host, prefix bytes,
    application, pool number, site, generation, is_enabled). Raises ValueError, in words."""
    cdef RouteEntry *room
    cdef RouteFault fault
    cdef Routes *routes = NULL
    cdef uint32_t index, count
    cdef list kept = []
    cdef list rows = list(entries)
    count = <uint32_t> len(rows)
    room = <RouteEntry *> calloc(<size_t> count + 1, sizeof(RouteEntry))
    if room == NULL:
        raise MemoryError
    try:
        for index in range(count):
            route_entry(rows[index], &room[index], kept)
        with nogil:
            routes = routes_build(room, count, &fault)
    finally:
        free(room)
    if routes == NULL:
        raise route_error(&fault, rows)
    return routes


cdef object routes_match(const Routes *routes, uint32_t listener, bytes address, bytes host,
                         bytes target):
    """What a request for this path (as sent) would be for: (application, pool, site, prefix), or
    None. Raises ValueError: no address, or a path that no request may have."""
    cdef uint8_t local[16]
    cdef Route route
    cdef size_t count = 0
    cdef bint has_address = route_address(address, local)
    cdef bytes path = bytes(max(1, len(target)))
    cdef uint8_t *at = <uint8_t *> path
    if path_normalise(span_of(<const uint8_t *> target, len(target)), at, &count) < 0:
        raise ValueError(f"found the path {target.decode('utf-8', 'backslashreplace')!r}, allowed "
                         "is one that begins with '/', with valid escapes")
    if not routes_find(routes, listener, local if has_address else NULL,
                       span_of(<const uint8_t *> host, len(host)), span_of(at, count), &route):
        return None
    return (route.application, route.pool_number, route.site, path[:route.prefix_bytes] or b"/")
