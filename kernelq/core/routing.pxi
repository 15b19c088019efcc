# Which pool a request is for: the route map in use, and how it is replaced.
#
# Rules
#  1. A loop looks into its own map only, and keeps nothing of it beyond the request at hand:
#     exchanges copy what they need (exchange_follow).
#  2. The path is normalised at most once: here, if any of a listener's routes has a prefix, else
#     when the record is written.

cdef int request_route(Loop *loop, Conn *conn, const RequestHead *head) noexcept nogil:
    # Into loop.route. REASON_*.
    cdef const Routes *routes
    cdef uint8_t room[16]
    cdef const uint8_t *address = NULL
    cdef Span path = span_of(NULL, 0)
    cdef uint32_t needs
    cdef int reason
    if loop.routes == NULL:
        return route_to_only(loop)
    routes = loop.routes.routes
    needs = routes_needs(routes, conn.listener.number)
    if needs & ROUTE_NEEDS_ADDRESS and conn_local_address(conn, room):
        address = room
    if needs & ROUTE_NEEDS_PATH and head.target_form != TARGET_ASTERISK:
        reason = path_normalise(head.path, loop.path, &loop.path_bytes)
        if reason < 0:
            return -reason
        path = span_of(loop.path, loop.path_bytes)
    if not routes_find(routes, conn.listener.number, address, head.host, path, &loop.route):
        return REASON_HOSTNAME
    return REASON_NONE


cdef int route_to_only(Loop *loop) noexcept nogil:
    # Without routes the first pool gets everything.
    cdef Pool *pool = pool_at(loop.core, 0)
    memset(&loop.route, 0, sizeof(loop.route))
    loop.route.pool = pool
    loop.route.is_enabled = True
    return REASON_NONE if pool != NULL else REASON_HOSTNAME


cdef bint conn_local_address(const Conn *conn, uint8_t *out) noexcept nogil:
    # 16 bytes, IPv4 as ::ffff:a.b.c.d. False: it has none.
    cdef sockaddr_storage address
    cdef socklen_t bytes = sizeof(address)
    if getsockname(conn.fd, <sockaddr *> &address, &bytes) < 0:
        return False
    if address.ss_family == AF_INET6:
        memcpy(out, &(<sockaddr_in6 *> &address).sin6_addr, 16)
        return True
    if address.ss_family != AF_INET:
        return False
    memset(out, 0, 10)
    memset(out + 10, 0xff, 2)
    memcpy(out + 12, &(<sockaddr_in *> &address).sin_addr, 4)
    return True


cdef void exchange_follow(Loop *loop, Exchange *exchange, const Route *route) noexcept nogil:
    exchange.pool = <Pool *> route.pool
    exchange.application = route.application
    exchange.site = route.site
    exchange.generation = route.generation
    exchange.pool.sides[loop.index].exchanges += 1


cdef void exchange_follow_another(Loop *loop, Exchange *exchange,
                                  const Exchange *other) noexcept nogil:
    exchange.pool = other.pool
    exchange.application = other.application
    exchange.site = other.site
    exchange.generation = other.generation
    exchange.pool.sides[loop.index].exchanges += 1


# --- replacing the map ----------------------------------------------------------------------------

cdef int routes_publish(Core_ *core, Routes *routes) noexcept nogil:
    # Managers' thread: takes the snapshot, whose pools are open. -errno: it is still the caller's.
    cdef uint32_t loops = core.settings.loop_count
    cdef RouteMap *map_ = <RouteMap *> calloc(1, sizeof(RouteMap) + loops * sizeof(Letter))
    cdef RouteMap *before
    cdef Letter *letter
    cdef uint32_t index
    if map_ == NULL:
        return -ENOMEM
    map_.letters = <Letter *> (map_ + 1)
    map_.routes = routes
    map_.holders = loops + 1
    for index in range(routes.pool_count):
        routes.pools[index].pool = pool_find(core, routes.pools[index].number)
        bug.BUG_ON(routes.pools[index].pool == NULL)
    pthread_mutex_lock(&core.routes_lock)
    before = core.routes
    core.routes = map_
    pthread_mutex_unlock(&core.routes_lock)
    for index in range(loops):
        if core.is_started:
            letter = &map_.letters[index]
            letter.kind = LETTER_ROUTES
            letter.subject = map_
            mailbox_post(&core.loops[index].mailbox, letter)
        else:
            loop_take_routes(&core.loops[index], map_)
    if before != NULL:
        routes_let_go(before)
    return 0


cdef void loop_take_routes(Loop *loop, RouteMap *map_) noexcept nogil:
    # LETTER_ROUTES
    cdef RouteMap *before = loop.routes
    loop.routes = map_
    if before != NULL:
        routes_let_go(before)


cdef RouteMap *routes_hold(Core_ *core) noexcept nogil:
    # Any thread but a loop: the newest, until routes_let_go(). NULL: there is none.
    cdef RouteMap *map_
    pthread_mutex_lock(&core.routes_lock)
    map_ = core.routes
    if map_ != NULL:
        atomic.add_u32(&map_.holders, 1)
    pthread_mutex_unlock(&core.routes_lock)
    return map_


cdef void routes_let_go(RouteMap *map_) noexcept nogil:
    if atomic.add_u32(&map_.holders, <uint32_t> -1) == 0:
        routes_free(map_.routes)
        free(map_)


cdef bint routes_name(const Core_ *core, const Pool *pool) noexcept nogil:
    # Managers' thread.
    cdef uint32_t index
    if core.routes == NULL:
        return False
    for index in range(core.routes.routes.pool_count):
        if core.routes.routes.pools[index].pool == pool:
            return True
    return False


# --- applications ---------------------------------------------------------------------------------

cdef int compare_numbers(const void *one, const void *other) noexcept nogil:
    cdef uint32_t a = (<const uint32_t *> one)[0]
    cdef uint32_t b = (<const uint32_t *> other)[0]
    return (a > b) - (a < b)


cdef int64_t core_applications(Core_ *core, uint32_t pool, uint32_t **numbers) noexcept nogil:
    # Any thread but a loop: the applications of one pool, or (POOL_ANY) all, each once; the array
    # is the caller's. -ENOMEM.
    cdef const Routes *routes
    cdef uint32_t *found
    cdef uint32_t index, room, count = 0
    cdef int64_t unique = 0
    pthread_mutex_lock(&core.routes_lock)
    room = core.routes.routes.target_count if core.routes != NULL else 0
    found = <uint32_t *> malloc((room + 1) * sizeof(uint32_t))
    if found != NULL and core.routes == NULL:
        found[0] = 0
        count = 1
    elif found != NULL:
        routes = core.routes.routes
        for index in range(room):
            if pool == POOL_ANY or routes.pools[routes.targets[index].pool].number == pool:
                found[count] = routes.targets[index].application
                count += 1
    pthread_mutex_unlock(&core.routes_lock)
    if found == NULL:
        return -ENOMEM
    qsort(found, count, sizeof(uint32_t), compare_numbers)
    for index in range(count):
        if index == 0 or found[index] != found[index - 1]:
            found[unique] = found[index]
            unique += 1
    numbers[0] = found
    return unique
