# Routes; the contract stands in route.pxd.
#
# Facts
# - A prefix "/shop" is for "/shop" and all below "/shop/". So a boundary is where a "/" follows, or
#   the path ends, and the prefix with k slashes can only end at the k-th boundary: those beyond the
#   deepest prefix of a scope need not be looked at.
# - A slot keeps the lower half of its hash: tables grow without reading what they lead to, and a
#   probe reads a text only if it is very likely the right one.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from kernelq.core.bug cimport BUG_ON, BUG_ON_DEAR
from kernelq.core.cache_rules cimport SipState
from kernelq.core.linux cimport AF_INET6
from kernelq.core.route cimport (
    ROUTE_DEPTH_MAX,
    ROUTE_FAULT_COUNT,
    ROUTE_FAULT_DUPLICATE,
    ROUTE_FAULT_HOST,
    ROUTE_FAULT_LISTENER,
    ROUTE_FAULT_MEMORY,
    ROUTE_FAULT_NONE,
    ROUTE_FAULT_POOLS,
    ROUTE_FAULT_PREFIX,
    ROUTE_KINDS,
    ROUTE_LABEL,
    ROUTE_LABEL_HERE,
    ROUTE_LISTENERS_MAX,
    ROUTE_NAME,
    ROUTE_NAME_HERE,
    ROUTE_NAME_MAX,
    ROUTE_NEEDS_ADDRESS,
    ROUTE_NEEDS_HOST,
    ROUTE_NEEDS_PATH,
    ROUTE_NONE,
    ROUTE_POOLS_MAX,
    ROUTE_PREFIX_MAX,
    ROUTE_STRONG,
    ROUTE_STRONG_HERE,
    ROUTE_WEAK,
    ROUTE_WEAK_HERE,
    ROUTES_MAX,
    Route,
    RouteEntry,
    RouteFault,
    RouteHost,
    RouteListener,
    RoutePath,
    RoutePool,
    Routes,
    RouteScope,
    RouteSlot,
    RouteTable,
    RouteTarget,
)
from kernelq.core.span cimport Span, byte_lower, span_of

cdef extern from "<sys/random.h>":
    ssize_t getrandom(void *at, size_t bytes, unsigned int flags) nogil

cdef enum:
    ROUTE_SLOTS_MIN = 16
    ROUTE_ADDRESS_BYTES = 16
    ROUTE_LITERAL_BYTES = 17       # an IPv6 address as a name


# ---- names ----

cdef void host_read_literal(Span host, RouteHost *out) noexcept nogil:
    # "[" ... "]", with or without a port behind it.
    cdef const uint8_t *close
    close = <const uint8_t *> memchr(host.at, c"]", min(host.bytes, <size_t> ROUTE_NAME_MAX))
    if close != NULL and address_parse(AF_INET6, span_of(host.at + 1, close - host.at - 1),
                                       out.name + 1):
        out.name[0] = c"["
        out.bytes = ROUTE_LITERAL_BYTES


cdef void host_read(Span host, RouteHost *out) noexcept nogil:
    cdef size_t most = min(host.bytes, <size_t> ROUTE_NAME_MAX + 2)
    cdef size_t index = 0
    out.bytes = 0
    out.label_bytes = 0
    if most > 0 and host.at[0] == c"[":
        host_read_literal(host, out)
        return
    while index < most and host.at[index] != c":":
        if host.at[index] == c"." and out.label_bytes == 0:
            out.label_bytes = <uint32_t> index + 1
        out.name[index] = byte_lower(host.at[index])
        index += 1
    if index > 0 and out.name[index - 1] == c".":
        index -= 1
    if index > ROUTE_NAME_MAX:
        index = 0
    if out.label_bytes >= index or out.label_bytes == 1:
        out.label_bytes = 0
    out.bytes = <uint32_t> index


cdef bint name_is_valid(Span name) noexcept nogil:
    # Labels of letters, digits, "-" and "_", or an IPv6 literal; no port, no dot at the end.
    cdef uint8_t address[16]
    cdef uint8_t byte
    cdef uint8_t before = c"."
    cdef size_t index
    if name.bytes == 0 or name.bytes > ROUTE_NAME_MAX:
        return False
    if name.at[0] == c"[":
        return (name.at[name.bytes - 1] == c"]"
                and address_parse(AF_INET6, span_of(name.at + 1, name.bytes - 2), address))
    for index in range(name.bytes):
        byte = byte_lower(name.at[index])
        if byte == c"." and before == c".":
            return False
        if not (c"a" <= byte <= c"z" or c"0" <= byte <= c"9" or byte == c"-" or byte == c"_"
                or byte == c"."):
            return False
        before = byte
    return before != c"."


cdef int entry_kind(const RouteEntry *entry, Span *name) noexcept nogil:
    # ROUTE_*, and the name that is compared; -1: no such host.
    cdef int here = 1 if entry.has_address else 0
    name[0] = span_of(NULL, 0)
    if entry.host.bytes == 0:
        return ROUTE_WEAK - here
    if entry.host.bytes == 1 and entry.host.at[0] == c"+":
        return ROUTE_STRONG - here
    name[0] = entry.host
    if entry.host.bytes > 2 and entry.host.at[0] == c"*" and entry.host.at[1] == c".":
        name[0] = span_of(entry.host.at + 2, entry.host.bytes - 2)
        return ROUTE_LABEL - here if name_is_valid(name[0]) and name.at[0] != c"[" else -1
    return ROUTE_NAME - here if name_is_valid(name[0]) else -1


cdef uint32_t prefix_depth(Span prefix) noexcept nogil:
    # How many segments it has; 0: a normalised path never begins so, or it is too long or deep. The
    # prefix "/" has 1.
    cdef uint32_t depth = 0
    cdef size_t segment = 1
    cdef size_t index
    if prefix.bytes == 0 or prefix.bytes > ROUTE_PREFIX_MAX or prefix.at[0] != c"/":
        return 0
    if prefix.bytes > 1 and prefix.at[prefix.bytes - 1] == c"/":
        return 0
    for index in range(1, prefix.bytes + 1):
        if index < prefix.bytes and (prefix.at[index] < 0x20 or prefix.at[index] == 0x7f):
            return 0
        if index == prefix.bytes or prefix.at[index] == c"/":
            if segment_dots(prefix.at + segment, index - segment) > 0:
                return 0
            segment = index + 1
            depth += 1
    return depth if depth <= ROUTE_DEPTH_MAX else 0


# ---- tables ----

cdef inline uint32_t hash_half(uint64_t hash_) noexcept nogil:
    return <uint32_t> (hash_ ^ hash_ >> 32)


cdef inline uint32_t scope_hash(uint32_t listener, uint32_t kind, uint64_t name,
                                uint64_t address) noexcept nogil:
    # name, address: their keyed hashes.
    return hash_half(name + rotate(address, 29)
                     + <uint64_t> (listener * 8 + kind) * <uint64_t> 0x9e3779b97f4a7c15)


cdef inline uint32_t target_hash(uint32_t scope, uint64_t prefix) noexcept nogil:
    return hash_half(prefix + <uint64_t> scope * <uint64_t> 0x9e3779b97f4a7c15)


cdef void table_place(RouteTable *table, uint32_t hash_, uint32_t place) noexcept nogil:
    cdef uint32_t index = hash_ & table.mask
    while table.slots[index].place != 0:
        index = (index + 1) & table.mask
    table.slots[index].hash = hash_
    table.slots[index].place = place


cdef bint table_add(RouteTable *table, uint32_t hash_, uint32_t index) noexcept nogil:
    # At most half full, so that what is not there is soon not found. False: no memory.
    cdef RouteTable larger
    cdef uint32_t count = 0 if table.slots == NULL else table.mask + 1
    cdef uint32_t slot
    if table.used * 2 >= count:
        larger.mask = max(count * 2, <uint32_t> ROUTE_SLOTS_MIN) - 1
        larger.used = table.used
        larger.slots = <RouteSlot *> calloc(<size_t> larger.mask + 1, sizeof(RouteSlot))
        if larger.slots == NULL:
            return False
        for slot in range(count):
            if table.slots[slot].place != 0:
                table_place(&larger, table.slots[slot].hash, table.slots[slot].place)
        free(table.slots)
        table[0] = larger
    table_place(table, hash_, index + 1)
    table.used += 1
    return True


cdef uint32_t scope_seek(const Routes *routes, uint32_t hash_, uint32_t listener, uint32_t kind,
                         const uint8_t *name, uint32_t bytes,
                         const uint8_t *address) noexcept nogil:
    # address: NULL for kinds that are for any.
    cdef const RouteTable *table = &routes.scope_table
    cdef const RouteScope *scope
    cdef const uint8_t *key
    cdef uint32_t index = hash_ & table.mask
    if table.slots == NULL:
        return ROUTE_NONE
    while table.slots[index].place != 0:
        if table.slots[index].hash == hash_:
            scope = &routes.scopes[table.slots[index].place - 1]
            key = routes.texts + scope.key_at
            if (scope.listener == listener and scope.kind == kind and scope.name_bytes == bytes
                    and (bytes == 0 or memcmp(key, name, bytes) == 0)
                    and (address == NULL
                         or memcmp(key + bytes, address, ROUTE_ADDRESS_BYTES) == 0)):
                return table.slots[index].place - 1
        index = (index + 1) & table.mask
    return ROUTE_NONE


cdef uint32_t target_seek(const Routes *routes, uint32_t hash_, uint32_t scope,
                          const uint8_t *prefix, size_t bytes) noexcept nogil:
    cdef const RouteTable *table = &routes.target_table
    cdef const RouteTarget *target
    cdef uint32_t index = hash_ & table.mask
    if table.slots == NULL:
        return ROUTE_NONE
    while table.slots[index].place != 0:
        if table.slots[index].hash == hash_:
            target = &routes.targets[table.slots[index].place - 1]
            if (target.scope == scope and target.prefix_bytes == bytes
                    and memcmp(routes.texts + target.prefix_at, prefix, bytes) == 0):
                return table.slots[index].place - 1
        index = (index + 1) & table.mask
    return ROUTE_NONE


# ---- build ----

cdef void routes_free(Routes *routes) noexcept nogil:
    if routes == NULL:
        return
    free(routes.listeners)
    free(routes.scopes)
    free(routes.targets)
    free(routes.texts)
    free(routes.pools)
    free(routes.scope_table.slots)
    free(routes.target_table.slots)
    free(routes)


cdef uint32_t routes_text_put(Routes *routes, size_t *used, const uint8_t *at,
                              size_t bytes) noexcept nogil:
    cdef uint32_t where = <uint32_t> used[0]
    if bytes > 0:
        memcpy(routes.texts + where, at, bytes)
    used[0] += bytes
    return where


cdef int routes_make_room(Routes *routes, const RouteEntry *entries, uint32_t count,
                          RouteFault *fault) noexcept nogil:
    # For the worst case, that each entry has a scope of its own; memory that is not written to is
    # not there, and given back at the end.
    cdef size_t texts = 1
    cdef uint32_t index
    for index in range(count):
        if entries[index].listener >= ROUTE_LISTENERS_MAX:
            fault.first = index
            return ROUTE_FAULT_LISTENER
        routes.listener_count = max(routes.listener_count, entries[index].listener + 1)
        texts += entries[index].prefix.bytes + entries[index].host.bytes
        texts += ROUTE_LITERAL_BYTES + ROUTE_ADDRESS_BYTES
    if texts > <uint32_t> ROUTE_NONE:
        return ROUTE_FAULT_COUNT
    routes.texts = <uint8_t *> malloc(texts)
    routes.listeners = <RouteListener *> calloc(<size_t> routes.listener_count + 1,
                                                sizeof(RouteListener))
    routes.scopes = <RouteScope *> malloc((<size_t> count + 1) * sizeof(RouteScope))
    routes.targets = <RouteTarget *> calloc(<size_t> count + 1, sizeof(RouteTarget))
    routes.pools = <RoutePool *> calloc(min(count, <uint32_t> ROUTE_POOLS_MAX) + 1,
                                        sizeof(RoutePool))
    if (routes.texts == NULL or routes.listeners == NULL or routes.scopes == NULL
            or routes.targets == NULL or routes.pools == NULL):
        return ROUTE_FAULT_MEMORY
    for index in range(routes.listener_count):
        routes.listeners[index].strong = <uint32_t> ROUTE_NONE
        routes.listeners[index].weak = <uint32_t> ROUTE_NONE
    return ROUTE_FAULT_NONE


cdef int build_scope(Routes *routes, const RouteEntry *entry, size_t *texts,
                     uint32_t *out) noexcept nogil:
    # The entry's scope, a new one if need be.
    cdef RouteHost host
    cdef RouteScope *scope
    cdef RouteListener *listener = &routes.listeners[entry.listener]
    cdef Span name
    cdef const uint8_t *address = <const uint8_t *> entry.address if entry.has_address else NULL
    cdef uint32_t hash_
    cdef int kind = entry_kind(entry, &name)
    if kind < 0:
        return ROUTE_FAULT_HOST
    host_read(name, &host)
    hash_ = scope_hash(entry.listener, kind, siphash(routes.seed, host.name, host.bytes),
                       siphash(routes.seed, address, ROUTE_ADDRESS_BYTES) if address else 0)
    out[0] = scope_seek(routes, hash_, entry.listener, kind, host.name, host.bytes, address)
    if out[0] != <uint32_t> ROUTE_NONE:
        return ROUTE_FAULT_NONE
    out[0] = routes.scope_count
    if not table_add(&routes.scope_table, hash_, out[0]):
        return ROUTE_FAULT_MEMORY
    routes.scope_count += 1
    scope = &routes.scopes[out[0]]
    scope.lengths = 0
    scope.listener = entry.listener
    scope.root = <uint32_t> ROUTE_NONE
    scope.longest = 0
    scope.deepest = 0
    scope.kind = <uint8_t> kind
    scope.name_bytes = <uint8_t> host.bytes
    scope.key_at = routes_text_put(routes, texts, host.name, host.bytes)
    if address != NULL:
        routes_text_put(routes, texts, address, ROUTE_ADDRESS_BYTES)
    listener.kinds |= <uint8_t> (1 << kind)
    if kind == ROUTE_STRONG:
        listener.strong = out[0]
    elif kind == ROUTE_WEAK:
        listener.weak = out[0]
    return ROUTE_FAULT_NONE


cdef int build_prefix(Routes *routes, const RouteEntry *entry, uint32_t index, size_t *texts,
                      RouteFault *fault) noexcept nogil:
    cdef RouteTarget *target = &routes.targets[index]
    cdef RouteScope *scope = &routes.scopes[target.scope]
    cdef uint32_t depth = prefix_depth(entry.prefix)
    cdef uint32_t hash_
    if depth == 0:
        return ROUTE_FAULT_PREFIX
    if entry.prefix.bytes == 1:
        fault.first = scope.root
        scope.root = index
        return ROUTE_FAULT_NONE if fault.first == <uint32_t> ROUTE_NONE else ROUTE_FAULT_DUPLICATE
    hash_ = target_hash(target.scope, siphash(routes.seed, entry.prefix.at, entry.prefix.bytes))
    fault.first = target_seek(routes, hash_, target.scope, entry.prefix.at, entry.prefix.bytes)
    if fault.first != <uint32_t> ROUTE_NONE:
        return ROUTE_FAULT_DUPLICATE
    target.prefix_bytes = <uint16_t> entry.prefix.bytes
    target.prefix_at = routes_text_put(routes, texts, entry.prefix.at, entry.prefix.bytes)
    scope.lengths |= <uint64_t> 1 << (entry.prefix.bytes & 63)
    scope.longest = max(scope.longest, <uint16_t> entry.prefix.bytes)
    scope.deepest = max(scope.deepest, <uint8_t> depth)
    routes.listeners[entry.listener].deep |= <uint8_t> (1 << scope.kind)
    return ROUTE_FAULT_NONE if table_add(&routes.target_table, hash_, index) else ROUTE_FAULT_MEMORY


cdef int build_pool(Routes *routes, RouteTable *table, uint32_t number,
                    uint16_t *out) noexcept nogil:
    # Its place among the pools; the numbers are ours, so any spreading does.
    cdef uint32_t hash_ = hash_half((<uint64_t> number + 1) * <uint64_t> 0x9e3779b97f4a7c15)
    cdef uint32_t index = hash_ & table.mask
    while table.slots != NULL and table.slots[index].place != 0:
        if routes.pools[table.slots[index].place - 1].number == number:
            out[0] = <uint16_t> (table.slots[index].place - 1)
            return ROUTE_FAULT_NONE
        index = (index + 1) & table.mask
    if routes.pool_count == ROUTE_POOLS_MAX:
        return ROUTE_FAULT_POOLS
    out[0] = <uint16_t> routes.pool_count
    routes.pools[routes.pool_count].number = number
    routes.pool_count += 1
    return ROUTE_FAULT_NONE if table_add(table, hash_, out[0]) else ROUTE_FAULT_MEMORY


cdef int build_entries(Routes *routes, const RouteEntry *entries, uint32_t count, size_t *texts,
                       RouteTable *pools, RouteFault *fault) noexcept nogil:
    cdef const RouteEntry *entry
    cdef RouteTarget *target
    cdef uint32_t index
    cdef int outcome
    for index in range(count):
        entry = &entries[index]
        target = &routes.targets[index]
        fault.first = index
        fault.second = index
        target.application = entry.application
        target.site = entry.site
        target.generation = entry.generation
        target.is_enabled = entry.is_enabled
        outcome = build_scope(routes, entry, texts, &target.scope)
        if outcome == ROUTE_FAULT_NONE:
            outcome = build_pool(routes, pools, entry.pool, &target.pool)
        if outcome == ROUTE_FAULT_NONE:
            outcome = build_prefix(routes, entry, index, texts, fault)
        if outcome != ROUTE_FAULT_NONE:
            if outcome != ROUTE_FAULT_DUPLICATE:
                fault.first = index
            return outcome
        routes.target_count += 1
    return ROUTE_FAULT_NONE


cdef uint8_t listener_needs(const Routes *routes, const RouteListener *listener) noexcept nogil:
    # What is behind a "+" with "/" is never reached.
    cdef uint8_t needs = 0
    cdef uint32_t kind
    for kind in range(<uint32_t> ROUTE_KINDS):
        if not listener.kinds >> kind & 1:
            continue
        if kind & 1 == 0:
            needs |= ROUTE_NEEDS_ADDRESS
        if ROUTE_NAME_HERE <= kind <= ROUTE_LABEL:
            needs |= ROUTE_NEEDS_HOST
        if listener.deep >> kind & 1:
            needs |= ROUTE_NEEDS_PATH
        if kind == ROUTE_STRONG and routes.scopes[listener.strong].root != <uint32_t> ROUTE_NONE:
            break
    return needs


cdef uint32_t listener_only(const Routes *routes, const RouteListener *listener) noexcept nogil:
    # "/" of its "+", or of what is for every host: nothing else is reached if it needs nothing.
    if listener.kinds >> ROUTE_STRONG & 1:
        return routes.scopes[listener.strong].root
    if listener.kinds >> ROUTE_WEAK & 1:
        return routes.scopes[listener.weak].root
    return <uint32_t> ROUTE_NONE


cdef void *shrunk(void *at, size_t bytes) noexcept nogil:
    cdef void *smaller = realloc(at, max(bytes, <size_t> 1))
    return at if smaller == NULL else smaller


cdef void routes_finish(Routes *routes, size_t texts) noexcept nogil:
    cdef uint32_t index
    routes.texts = <uint8_t *> shrunk(routes.texts, texts)
    routes.scopes = <RouteScope *> shrunk(routes.scopes, routes.scope_count * sizeof(RouteScope))
    routes.pools = <RoutePool *> shrunk(routes.pools, routes.pool_count * sizeof(RoutePool))
    for index in range(routes.listener_count):
        routes.listeners[index].needs = listener_needs(routes, &routes.listeners[index])
        routes.listeners[index].only = listener_only(routes, &routes.listeners[index])
    routes.bytes = (
        sizeof(Routes) + texts
        + <uint64_t> routes.listener_count * sizeof(RouteListener)
        + <uint64_t> routes.scope_count * sizeof(RouteScope)
        + <uint64_t> routes.target_count * sizeof(RouteTarget)
        + <uint64_t> routes.pool_count * sizeof(RoutePool))
    if routes.scope_table.slots != NULL:
        routes.bytes += (<uint64_t> routes.scope_table.mask + 1) * sizeof(RouteSlot)
    if routes.target_table.slots != NULL:
        routes.bytes += (<uint64_t> routes.target_table.mask + 1) * sizeof(RouteSlot)


cdef Routes *routes_build(const RouteEntry *entries, uint32_t count,
                          RouteFault *fault) noexcept nogil:
    cdef Routes *routes
    cdef RouteTable pools
    cdef size_t texts = 0
    memset(fault, 0, sizeof(RouteFault))
    memset(&pools, 0, sizeof(pools))
    if count > ROUTES_MAX:
        fault.kind = ROUTE_FAULT_COUNT
        return NULL
    routes = <Routes *> calloc(1, sizeof(Routes))
    if routes == NULL or getrandom(routes.seed, sizeof(routes.seed),
                                   0) != <ssize_t> sizeof(routes.seed):
        fault.kind = ROUTE_FAULT_MEMORY
    if fault.kind == ROUTE_FAULT_NONE:
        fault.kind = routes_make_room(routes, entries, count, fault)
    if fault.kind == ROUTE_FAULT_NONE:
        fault.kind = build_entries(routes, entries, count, &texts, &pools, fault)
    free(pools.slots)
    if fault.kind != ROUTE_FAULT_NONE:
        routes_free(routes)
        return NULL
    BUG_ON(routes.target_count != count)
    routes_finish(routes, texts)
    return routes


# ---- find ----

cdef uint64_t path_hash_up_to(const uint8_t *seed, RoutePath *path, size_t end) noexcept nogil:
    # siphash() of the path's first bytes up to end, which is never less than the end before.
    cdef SipState state
    cdef uint64_t word
    if path.count == 0:
        sip_begin(&path.state, seed)
    while path.hashed + 8 <= end:
        memcpy(&word, path.text.at + path.hashed, 8)
        sip_word(&path.state, word)
        path.hashed += 8
    word = 0
    if end > path.hashed:
        memcpy(&word, path.text.at + path.hashed, end - path.hashed)
    state = path.state
    return sip_end(&state, word, end)


cdef void path_extend(const uint8_t *seed, RoutePath *path, uint32_t deepest,
                      size_t longest) noexcept nogil:
    # Find the boundaries that a prefix so deep and long can end at.
    cdef size_t limit = min(path.text.bytes, longest + 1)
    cdef const uint8_t *mark
    cdef size_t end
    BUG_ON_DEAR(deepest > ROUTE_DEPTH_MAX)
    while path.count < deepest and path.at <= limit:
        mark = <const uint8_t *> memchr(path.text.at + path.at, c"/", limit - path.at)
        if mark != NULL:
            end = mark - path.text.at
        elif limit == path.text.bytes:
            end = limit
        else:
            return
        path.hashes[path.count] = path_hash_up_to(seed, path, end)
        path.ends[path.count] = <uint32_t> end
        path.count += 1
        path.at = end + 1


cdef uint32_t scope_find(const Routes *routes, uint32_t number, RoutePath *path) noexcept nogil:
    # The target of the longest prefix; ROUTE_NONE.
    cdef const RouteScope *scope = &routes.scopes[number]
    cdef uint32_t index
    cdef uint32_t end
    cdef uint32_t found
    if scope.deepest == 0 or path.text.bytes == 0 or path.text.at[0] != c"/":
        return scope.root
    path_extend(routes.seed, path, scope.deepest, scope.longest)
    index = min(path.count, <uint32_t> scope.deepest)
    while index > 0:
        index -= 1
        end = path.ends[index]
        if end > scope.longest or not scope.lengths >> (end & 63) & 1:
            continue
        found = target_seek(routes, target_hash(number, path.hashes[index]), number, path.text.at,
                            end)
        if found != <uint32_t> ROUTE_NONE:
            return found
    return scope.root


cdef void route_fill(const Routes *routes, uint32_t number, Route *out) noexcept nogil:
    cdef const RouteTarget *target = &routes.targets[number]
    cdef const RoutePool *pool = &routes.pools[target.pool]
    out.pool = pool.pool
    out.pool_number = pool.number
    out.generation = target.generation
    out.application = target.application
    out.site = target.site
    out.prefix_bytes = target.prefix_bytes
    out.is_enabled = target.is_enabled


cdef uint32_t kind_scope(const Routes *routes, uint32_t listener, uint32_t kind,
                         const uint8_t *address, const RouteHost *host) noexcept nogil:
    # The scope of this kind for such a connection and host; ROUTE_NONE.
    cdef const uint8_t *name = <const uint8_t *> host.name
    cdef uint32_t bytes = host.bytes
    cdef uint64_t address_hash = 0
    if kind == ROUTE_STRONG:
        return routes.listeners[listener].strong
    if kind == ROUTE_WEAK:
        return routes.listeners[listener].weak
    if kind & 1:
        address = NULL
    elif address == NULL:
        return ROUTE_NONE
    else:
        address_hash = siphash(routes.seed, address, ROUTE_ADDRESS_BYTES)
    if kind == ROUTE_STRONG_HERE or kind == ROUTE_WEAK_HERE:
        bytes = 0
    elif kind == ROUTE_LABEL_HERE or kind == ROUTE_LABEL:
        if host.label_bytes == 0:
            return ROUTE_NONE
        name += host.label_bytes
        bytes -= host.label_bytes
    elif bytes == 0:
        return ROUTE_NONE
    return scope_seek(routes,
                      scope_hash(listener, kind, siphash(routes.seed, name, bytes), address_hash),
                      listener, kind, name, bytes, address)


cdef bint routes_find(const Routes *routes, uint32_t listener, const uint8_t *address, Span host,
                      Span path, Route *out) noexcept nogil:
    cdef RouteHost asked
    cdef RoutePath walk
    cdef uint32_t kind
    cdef uint32_t scope
    cdef uint32_t target
    cdef uint8_t kinds
    if listener >= routes.listener_count:
        return False
    if routes.listeners[listener].needs == 0:
        target = routes.listeners[listener].only
        if target != <uint32_t> ROUTE_NONE:
            route_fill(routes, target, out)
        return target != <uint32_t> ROUTE_NONE
    kinds = routes.listeners[listener].kinds
    if kinds & ~(1 << ROUTE_STRONG | 1 << ROUTE_WEAK):
        host_read(host, &asked)
    walk.text = path
    walk.hashed = 0
    walk.at = 1
    walk.count = 0
    for kind in range(<uint32_t> ROUTE_KINDS):
        if not kinds >> kind & 1:
            continue
        scope = kind_scope(routes, listener, kind, address, &asked)
        if scope == <uint32_t> ROUTE_NONE:
            continue
        target = scope_find(routes, scope, &walk)
        if target != <uint32_t> ROUTE_NONE:
            route_fill(routes, target, out)
            return True
    return False
