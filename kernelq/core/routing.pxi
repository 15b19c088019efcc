# Routes in use: the snapshot that each loop looks into, how a new one replaces it, and what a
# request is told by it (route.pxd).
#
# Rules
#  1. A loop's snapshot changes only when it reads its mail: between two requests, and no pointer
#     into it is kept across that. Helper threads and doors hold a reference (snapshot_take).
#  2. Pools that a snapshot names cannot be closed while it is the newest; a loop that still uses an
#     older one reads LETTER_ROUTES before LETTER_POOL_CLOSED.

from libc.stdlib cimport qsort


# --- snapshots ------------------------------------------------------------------------------------

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int microseconds)

cdef enum:
    ROUTES_LOOK_US = 100           # routes_await(): between two looks
    ROUTES_LOOKS = 1000


cdef int words_compare(const void *first, const void *second) noexcept nogil:
    cdef uint64_t a = (<const uint64_t *> first)[0]
    cdef uint64_t b = (<const uint64_t *> second)[0]
    return (a > b) - (a < b)


cdef bint snapshot_note_applications(Snapshot *snapshot) noexcept nogil:
    # Each one once, those of a pool together. False: no memory.
    cdef const Routes *routes = snapshot.routes
    cdef size_t room = (<size_t> routes.target_count + 1) * sizeof(uint64_t)
    cdef uint64_t *words = <uint64_t *> malloc(room)
    cdef uint32_t index
    cdef uint32_t count = 0
    snapshot.applications = <uint32_t *> malloc(room)
    if words == NULL or snapshot.applications == NULL:
        free(words)
        return False
    snapshot.pools = snapshot.applications + routes.target_count
    for index in range(routes.target_count):
        words[index] = (<uint64_t> routes.pools[routes.targets[index].pool].number << 32
                        | routes.targets[index].application)
    qsort(words, routes.target_count, sizeof(uint64_t), words_compare)
    for index in range(routes.target_count):
        if index == 0 or words[index] != words[index - 1]:
            snapshot.applications[count] = <uint32_t> words[index]
            snapshot.pools[count] = <uint32_t> (words[index] >> 32)
            count += 1
    snapshot.application_count = count
    free(words)
    return True


cdef void snapshot_free(Snapshot *snapshot) noexcept nogil:
    if snapshot != NULL:
        routes_free(snapshot.routes)
        free(snapshot.applications)
        free(snapshot)


cdef int routes_publish(Core_ *core, Routes *routes, uint32_t *wrong) noexcept nogil:
    # Takes the routes. 0; -ENOMEM; -ENOENT: there is no pool, or no listener, of the number in
    # wrong.
    cdef Snapshot *snapshot = <Snapshot *> calloc(1, sizeof(Snapshot))
    cdef Snapshot *old = NULL
    cdef Letter *letters = NULL
    cdef int outcome = 0
    if snapshot == NULL:
        routes_free(routes)
        return -ENOMEM
    snapshot.routes = routes
    if (not snapshot_note_applications(snapshot)
            or not letters_make(core, LETTER_ROUTES, snapshot, &letters)):
        snapshot_free(snapshot)
        return -ENOMEM
    pthread_mutex_lock(&core.table_lock)
    outcome = routes_find_pools(core, routes, wrong)
    if outcome == 0:
        snapshot.refs = core.settings.loop_count + 1
        snapshot.next = core.snapshots
        core.snapshots = snapshot
        old = core.snapshot
        core.snapshot = snapshot
        letters_post(core, letters)
    pthread_mutex_unlock(&core.table_lock)
    if outcome < 0:
        letters_drop(letters)
        snapshot_free(snapshot)
    elif old != NULL:
        snapshot_release(core, old)
    return outcome


cdef void routes_await(Core_ *core) noexcept nogil:
    # Managers' thread: until every loop uses the newest snapshot, so that whoever stops a site and
    # is told so may rely on it. A loop comes to its letters within a turn; one that does not is
    # not waited for.
    cdef uint32_t looks = ROUTES_LOOKS if core.is_started else 0
    cdef bint is_settled = False
    while looks and not is_settled:
        pthread_mutex_lock(&core.table_lock)
        is_settled = core.snapshots == core.snapshot and core.snapshot.next == NULL
        pthread_mutex_unlock(&core.table_lock)
        if not is_settled:
            usleep(ROUTES_LOOK_US)
        looks -= 1


cdef int routes_find_pools(Core_ *core, Routes *routes, uint32_t *wrong) noexcept nogil:
    # [table lock]
    cdef uint32_t index
    for index in range(routes.pool_count):
        wrong[0] = routes.pools[index].number
        routes.pools[index].pool = pool_find(core, routes.pools[index].number)
        if routes.pools[index].pool == NULL:
            return -ENOENT
    return 0


cdef Snapshot *snapshot_take(Core_ *core) noexcept nogil:
    # The newest, to be released; NULL: there is none yet.
    cdef Snapshot *snapshot
    pthread_mutex_lock(&core.table_lock)
    snapshot = core.snapshot
    if snapshot != NULL:
        snapshot.refs += 1
    pthread_mutex_unlock(&core.table_lock)
    return snapshot


cdef void snapshot_release(Core_ *core, Snapshot *snapshot) noexcept nogil:
    cdef Snapshot **link = &core.snapshots
    cdef bint is_last
    pthread_mutex_lock(&core.table_lock)
    bug.BUG_ON(snapshot.refs == 0)
    snapshot.refs -= 1
    is_last = snapshot.refs == 0
    if is_last:
        while link[0] != snapshot:
            link = &link[0].next
        link[0] = snapshot.next
    pthread_mutex_unlock(&core.table_lock)
    if is_last:
        snapshot_free(snapshot)


cdef void snapshots_free(Core_ *core) noexcept nogil:
    # core_uninit(): no thread is left.
    cdef Snapshot *snapshot
    while core.snapshots != NULL:
        snapshot = core.snapshots
        core.snapshots = snapshot.next
        snapshot_free(snapshot)


cdef void loop_on_routes(Loop *loop, Snapshot *snapshot) noexcept nogil:
    # LETTER_ROUTES
    cdef Snapshot *old = <Snapshot *> loop.snapshot
    loop.snapshot = snapshot
    if old != NULL:
        snapshot_release(loop.core, old)


# --- a request ------------------------------------------------------------------------------------

cdef int request_route(Loop *loop, Conn *conn, const uint8_t *at, const RequestHead *head,
                       Ticket *ticket) noexcept nogil:
    # Which application it is for. REASON_NONE, or why it is refused.
    cdef const Routes *routes
    cdef const uint8_t *local = NULL
    cdef Span host = head.host
    cdef Span path = head.path
    cdef size_t bytes = 0
    cdef uint32_t needs
    cdef int outcome
    if loop.snapshot == NULL:
        return REASON_HOSTNAME
    routes = loop.snapshot.routes
    needs = routes_needs(routes, conn.listener.number)
    if needs & ROUTE_NEEDS_PATH and head.target_form != TARGET_ASTERISK:
        outcome = path_normalise(head.path, loop.path, &bytes)
        if outcome < 0:
            return -outcome
        ticket.path = span_of(loop.path, bytes)
        path = ticket.path
    if needs & ROUTE_NEEDS_ADDRESS:
        local = conn_local_address(conn)
    if needs & ROUTE_NEEDS_HOST:
        host = request_host(loop, conn, at, head)
    if not routes_find(routes, conn.listener.number, local, host, path, &ticket.route):
        return REASON_HOSTNAME
    return REASON_NONE if ticket.route.is_enabled else REASON_DISABLED


cdef Span request_host(Loop *loop, const Conn *conn, const uint8_t *at,
                       const RequestHead *head) noexcept nogil:
    # As the application will see it: what a trusted proxy says it was asked for.
    cdef ForwardedResult forwarded
    if not head.has_forwarding:
        return head.host
    forwarded_resolve(head, at, conn.remote_address, conn_address_bytes(conn), loop.core.trusted,
                      &forwarded)
    return (forwarded.host if forwarded.is_trusted and forwarded.host.bytes else head.host)


cdef void exchange_take_route(Loop *loop, Exchange *exchange, const Route *route) noexcept nogil:
    exchange.application = route.application
    exchange.generation = route.generation
    exchange_enter(loop, exchange, <Pool *> route.pool)


# --- which applications a URL, or a pool, means ---------------------------------------------------

cdef uint32_t snapshot_applications(const Snapshot *snapshot, uint32_t pool,
                                    const uint32_t **first) noexcept nogil:
    # How many applications the pool has, from first on; pool 0: all.
    cdef uint32_t low = 0
    cdef uint32_t high = snapshot.application_count
    cdef uint32_t middle
    if pool == 0:
        first[0] = snapshot.applications
        return snapshot.application_count
    while low < high:
        middle = (low + high) // 2
        if snapshot.pools[middle] < pool:
            low = middle + 1
        else:
            high = middle
    first[0] = snapshot.applications + low
    while high < snapshot.application_count and snapshot.pools[high] == pool:
        high += 1
    return high - low


cdef bint pool_answers_host(const Snapshot *snapshot, uint32_t pool, Span host) noexcept nogil:
    # Whether requests for this host may reach an application of the pool. Pool 0: yes.
    cdef const Routes *routes = snapshot.routes
    cdef const RouteScope *scope
    cdef RouteHost asked
    cdef Span name
    cdef uint32_t index
    if pool == 0:
        return True
    host_read(host, &asked)
    for index in range(routes.target_count):
        if routes.pools[routes.targets[index].pool].number != pool:
            continue
        scope = &routes.scopes[routes.targets[index].scope]
        if scope.kind < ROUTE_NAME_HERE or scope.kind > ROUTE_LABEL:
            return True
        name = span_of(asked.name, asked.bytes)
        if scope.kind >= ROUTE_LABEL_HERE:
            name = span_of(asked.name + asked.label_bytes, asked.bytes - asked.label_bytes)
            if asked.label_bytes == 0:
                continue
        if span_is(name, <const char *> routes.texts + scope.key_at, scope.name_bytes):
            return True
    return False
