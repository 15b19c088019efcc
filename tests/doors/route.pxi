# Doors to routes: a snapshot as an object.

from kernelq.core.route cimport (
    ROUTE_NEEDS_ADDRESS,
    ROUTE_NEEDS_HOST,
    ROUTE_NEEDS_PATH,
    Route,
    Routes,
    routes_needs,
)


cdef class RouteSnapshot:
    """Routes of tuples; see routes_from()."""

    cdef Routes *routes

    def __cinit__(self, entries):
        cdef uint32_t index
        self.routes = routes_from(entries)
        for index in range(self.routes.pool_count):
            self.routes.pools[index].pool = <void *> (
                <size_t> self.routes.pools[index].number + 1000)

    def __dealloc__(self):
        routes_free(self.routes)

    @property
    def bytes(self):
        return self.routes.bytes

    @property
    def pools(self):
        """The numbers of the pools that are named."""
        return [self.routes.pools[index].number for index in range(self.routes.pool_count)]

    def needs(self, uint32_t listener):
        cdef uint32_t needs = routes_needs(self.routes, listener)
        names = {ROUTE_NEEDS_ADDRESS: "address", ROUTE_NEEDS_HOST: "host",
                 ROUTE_NEEDS_PATH: "path"}
        return {name for bit, name in names.items() if needs & bit}

    def find(self, uint32_t listener, bytes address, bytes host, bytes path):
        """(application, pool, site, generation, prefix bytes, is enabled), or None. Host and path
        stand right before an unreadable page, one after the other."""
        cdef uint8_t local[16]
        cdef Route route
        cdef Route again
        cdef bint has_address = route_address(address, local)
        cdef uint8_t *here = local if has_address else NULL
        cdef bint is_found
        memset(&route, 0xa5, sizeof(route))
        memset(&again, 0xa5, sizeof(again))
        is_found = routes_find(self.routes, listener, here,
                               span_of(<const uint8_t *> host, len(host)),
                               span_of(guard.place(path), len(path)), &route)
        if is_found != routes_find(self.routes, listener, here,
                                   span_of(guard.place(host), len(host)),
                                   span_of(<const uint8_t *> path, len(path)), &again):
            raise AssertionError("found once, and then not")
        if not is_found:
            return None
        if <size_t> route.pool != <size_t> route.pool_number + 1000:
            raise AssertionError("the pool is another one than its number says")
        return (route.application, route.pool_number, route.site, route.generation,
                route.prefix_bytes, bool(route.is_enabled))

    def match(self, uint32_t listener, bytes address, bytes host, bytes target):
        return routes_match(self.routes, listener, address, host, target)

    def bench(self, uint32_t listener, list asked, int rounds):
        """Find each (host, path) of the list so many times; how many were found."""
        cdef size_t count = len(asked)
        cdef Span *spans = <Span *> malloc(max(<size_t> 1, count * 2) * sizeof(Span))
        cdef Route route
        cdef size_t index
        cdef size_t found = 0
        if spans == NULL:
            raise MemoryError
        for index in range(count):
            host, path = asked[index]
            spans[index * 2] = span_of(<const uint8_t *> <bytes> host, len(host))
            spans[index * 2 + 1] = span_of(<const uint8_t *> <bytes> path, len(path))
        with nogil:
            for _ in range(rounds):
                for index in range(count):
                    found += routes_find(self.routes, listener, NULL, spans[index * 2],
                                         spans[index * 2 + 1], &route)
        free(spans)
        return found
