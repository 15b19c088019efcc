# Routes: which application of which pool a request is for, by listener, host and path (HTTP.sys's
# URL prefixes). An immutable snapshot: built once, looked into by all loops, freed as a whole.
# Bodies: route.pxi; made from Python's tuples in route_doors.pxi.
#
# Theory of operation
#  A *scope* is what the path is compared in: one listener, one kind (a category of HTTP.sys), one
#  host name, one local address or any. Scopes are tried in the order of ROUTE_KINDS; the first in
#  which any prefix matches ends the search, even if a later one has a longer match. Within a scope
#  the longest prefix of whole segments wins.
#
#    1, 2  "+"        strong wildcard: every host; for the local address, then for any
#    3, 4  name       the host named in the request; likewise
#    5, 6  *.name     any one label before the name; likewise
#    7     ""         IP-bound: what arrived at this local address and nobody above wants
#    8     ""         weak wildcard: all the rest
#
#  Two open-addressing tables with a keyed hash (SipHash-1-3, the seed is the snapshot's own, so a
#  client cannot choose hosts or paths that collide): scopes by listener, kind, address and name;
#  targets by scope and prefix. The prefix "/" stands in the scope itself. Each hash of a path up to
#  a segment boundary continues that of the one before, so a path is read once, and no further than
#  the scope's deepest and longest prefixes go. What a listener does not have costs nothing: a bit
#  for each kind says whether to look at all.
#
# Rules
#  1. Nothing is written after routes_build() but RoutePool.pool, before the snapshot is published.
#  2. Find allocates nothing, takes no lock, and is safe for any bytes in host and path. Its cost
#     depends on the length of the host (at most ROUTE_NAME_MAX) and on the scope's deepest prefix,
#     not on how many routes there are.
#  3. Hosts are compared in lower case, without port and without one dot at the end. An IPv6 literal
#     in brackets is compared as an address, however it is written; an IPv4 address as text. Escapes
#     in hosts are not decoded: such a host is nobody's name. A host that is empty, longer than
#     ROUTE_NAME_MAX or an IPvFuture literal has no name: "+" and "" alone match.
#  4. Paths are compared byte by byte with the decoded, normalised path, which is what the
#     application sees. A path that does not begin with "/" ("*" of OPTIONS, or empty) is matched by
#     the prefix "/" alone.
#
# Contract
#   Routes *routes_build(const RouteEntry *entries, uint32_t count, RouteFault *fault)
#     NULL: fault says what is wrong, and with which entries (their indexes). Texts are copied. No
#     entries are fine: nothing is found then. Any thread.
#   void routes_free(Routes *routes)                 NULL is fine.
#   uint32_t routes_needs(const Routes *routes, uint32_t listener)
#     ROUTE_NEEDS_* bits: what routes_find() has to be told for this listener; what is not among
#     them may be empty (NULL). 0: one "+" or "" with "/", and nothing else: no normalised path, no
#     hash. Inline.
#   bint routes_find(const Routes *routes, uint32_t listener, const uint8_t *address, Span host,
#                    Span path, Route *out)
#     address: the local one of the connection, 16 bytes, IPv4 as ::ffff:a.b.c.d; NULL: none (unix).
#     host: as sent in Host or the absolute target. path: decoded and normalised. False: nothing
#     matches (400, REASON_HOSTNAME).

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kernelq.core.cache_rules cimport SipState
from kernelq.core.span cimport Span

cdef enum:
    ROUTES_MAX = 1 << 22           # entries of a snapshot
    ROUTE_LISTENERS_MAX = 65536    # listener numbers are below this
    ROUTE_POOLS_MAX = 4096         # different pools
    ROUTE_NAME_MAX = 253           # bytes of a host name (RFC 1035 §2.3.4, without the last dot)
    ROUTE_PREFIX_MAX = 2048        # bytes of a prefix
    ROUTE_DEPTH_MAX = 64           # segments of a prefix
    ROUTE_NONE = 0xffffffff        # no index

cdef enum:                         # routes_needs()
    ROUTE_NEEDS_ADDRESS = 1
    ROUTE_NEEDS_HOST = 2
    ROUTE_NEEDS_PATH = 4

cdef enum:                         # ROUTE_KINDS, in the order of the search
    ROUTE_STRONG_HERE = 0          # HERE: only for connections to one local address
    ROUTE_STRONG = 1
    ROUTE_NAME_HERE = 2
    ROUTE_NAME = 3
    ROUTE_LABEL_HERE = 4           # "*.name"
    ROUTE_LABEL = 5
    ROUTE_WEAK_HERE = 6
    ROUTE_WEAK = 7
    ROUTE_KINDS = 8

cdef enum:                         # RouteFault.kind
    ROUTE_FAULT_NONE = 0
    ROUTE_FAULT_MEMORY = 1
    ROUTE_FAULT_COUNT = 2          # more than ROUTES_MAX entries
    ROUTE_FAULT_LISTENER = 3       # first: the entry, here and below
    ROUTE_FAULT_HOST = 4           # no "+", "", name or "*.name" of letters, digits, "-", "_"
    ROUTE_FAULT_PREFIX = 5         # no "/", or "/a/b": never a match for a normalised path
    ROUTE_FAULT_POOLS = 6          # more than ROUTE_POOLS_MAX pools
    ROUTE_FAULT_DUPLICATE = 7      # first and second have one listener, address, host and prefix

ctypedef struct RouteEntry:        # what a snapshot is built from
    Span host                      # "+", a name, "*.name", or empty
    Span prefix                    # "/", or "/a/b" without a slash at the end; decoded
    uint64_t generation
    uint32_t listener
    uint32_t application
    uint32_t pool
    uint32_t site
    bint has_address
    uint8_t address[16]            # IPv4 as ::ffff:a.b.c.d
    bint is_enabled

ctypedef struct RouteFault:
    uint32_t kind                  # ROUTE_FAULT_*
    uint32_t first                 # index of an entry
    uint32_t second                # the later one of two duplicates

ctypedef struct Route:             # what is found
    void *pool                     # RoutePool.pool
    uint64_t generation            # least generation of workers that know the application
    uint32_t pool_number
    uint32_t application
    uint32_t site
    uint32_t prefix_bytes          # of the path, at its start; the prefix "/": 0
    bint is_enabled                # False: the site is stopped

ctypedef struct RoutePool:
    uint32_t number
    void *pool                     # for the core, which sets it before it publishes the snapshot

ctypedef struct RouteTarget:
    uint64_t generation
    uint32_t scope
    uint32_t prefix_at             # in texts
    uint32_t application
    uint32_t site
    uint16_t prefix_bytes          # 0: "/"
    uint16_t pool                  # in pools
    bint is_enabled

ctypedef struct RouteScope:
    uint64_t lengths               # bit n: a prefix has n modulo 64 bytes
    uint32_t listener
    uint32_t key_at                # in texts: the name, then the address of a HERE
    uint32_t root                  # target of "/"; ROUTE_NONE
    uint16_t longest               # bytes of its longest prefix, "/" not counted
    uint8_t name_bytes
    uint8_t kind
    uint8_t deepest                # segments of its deepest prefix

ctypedef struct RouteListener:
    uint32_t strong                # scope of ROUTE_STRONG; ROUTE_NONE
    uint32_t weak                  # scope of ROUTE_WEAK; ROUTE_NONE
    uint32_t only                  # needs nothing: the target of every request; ROUTE_NONE
    uint8_t kinds                  # bit for each kind that it has
    uint8_t deep                   # bit for each kind that has prefixes other than "/"
    uint8_t needs                  # ROUTE_NEEDS_*

ctypedef struct RouteSlot:
    uint32_t hash                  # its lower half
    uint32_t place                 # index + 1; 0: free

ctypedef struct RouteTable:
    RouteSlot *slots
    uint32_t mask
    uint32_t used

ctypedef struct Routes:
    uint8_t seed[16]
    RouteListener *listeners       # by number
    RouteScope *scopes
    RouteTarget *targets           # by index of the entry
    uint8_t *texts
    RoutePool *pools               # those that entries name
    RouteTable scope_table
    RouteTable target_table        # without those of "/"
    uint32_t listener_count        # highest number + 1
    uint32_t scope_count
    uint32_t target_count
    uint32_t pool_count
    uint64_t bytes                 # memory of all that

ctypedef struct RouteHost:         # a host, ready to be compared
    uint32_t bytes                 # 0: no name
    uint32_t label_bytes           # of its first label with the dot; 0: one label, or an address
    uint8_t name[256]              # an IPv6 address: "[" and its 16 bytes

ctypedef struct RoutePath:         # a path and its hashes up to segment boundaries
    Span text
    SipState state                 # of the whole words before hashed
    size_t hashed                  # bytes, a multiple of 8
    size_t at                      # where the next boundary is looked for
    uint32_t count                 # of boundaries that are known
    uint32_t ends[64]              # ROUTE_DEPTH_MAX
    uint64_t hashes[64]


cdef inline uint32_t routes_needs(const Routes *routes, uint32_t listener) noexcept nogil:
    return routes.listeners[listener].needs if listener < routes.listener_count else 0
