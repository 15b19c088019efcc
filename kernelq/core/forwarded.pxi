# Trusted proxies; the contract stands in forwarded.pxd.
#
# Theory of operation: each proxy appends the address that it was asked from, so the right-most
# entry is the word of our peer, the one before it the word of the proxy that the peer names, and so
# on. An entry may be believed as long as everything right of it is a trusted proxy. The client is
# therefore the right-most address that is not itself trusted; if all are trusted, the left-most. An
# entry that is not an address ("unknown", an obfuscated identifier) ends the walk: nobody vouches
# for what stands left of it.
#
# The walk goes from left to right, because that is how quoted strings are read: an untrusted or
# unreadable entry makes everything before it irrelevant, a trusted one hands on what was found so
# far.
#
# Facts
# - X-Forwarded-* wins over Forwarded if both are there. A proxy that knows only one family passes
#   the other one on as its client wrote it, and the proxies in wide use (nginx, HAProxy, load
#   balancers) know X-Forwarded-*: preferring Forwarded would let their clients choose their own
#   address.
# - X-Forwarded-Proto and -Host are taken from their right-most entry, our peer's word.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from kernelq.core.bug cimport BUG_ON, BUG_ON_DEAR
from kernelq.core.fields cimport (
    FIELD_FORWARDED,
    FIELD_X_FORWARDED_FOR,
    FIELD_X_FORWARDED_HOST,
    FIELD_X_FORWARDED_PROTO,
    field_bit,
)
from kernelq.core.forwarded cimport (
    SCHEME_HTTP,
    SCHEME_HTTPS,
    SCHEME_UNKNOWN,
    TRUSTED_ANY,
    TRUSTED_NETWORK_MAX,
    TRUSTED_RECORD_BYTES,
    TRUSTED_UNIX,
    ForwardedElement,
    ForwardedResult,
    TrustedNetworks,
)
from kernelq.core.http1 cimport RequestHead, list_take
from kernelq.core.scan cimport CLASS_QUOTED, CLASS_TOKEN, CLASS_VALUE, classes, scan_class
from kernelq.core.span cimport Span, span_is_nocase, span_of
from kernelq.core.target cimport ADDRESS_TEXT_MAX


# ---- who is trusted ----

cdef int trusted_init(TrustedNetworks *networks, const uint8_t *packed,
                      size_t bytes) noexcept nogil:
    cdef size_t index
    cdef size_t count
    memset(networks, 0, sizeof(TrustedNetworks))
    if bytes == 0 or (bytes - 1) % TRUSTED_RECORD_BYTES != 0:
        return -1
    count = (bytes - 1) // TRUSTED_RECORD_BYTES
    if count > TRUSTED_NETWORK_MAX:
        return -1
    networks.is_any = packed[0] & TRUSTED_ANY != 0
    networks.is_unix = packed[0] & TRUSTED_UNIX != 0
    networks.count = <uint16_t> count
    packed += 1
    for index in range(count):
        memcpy(networks.networks[index].address, packed, 16)
        networks.networks[index].prefix_bits = packed[16]
        if packed[16] > 128:
            return -1
        packed += TRUSTED_RECORD_BYTES
    return 0


cdef bint prefix_matches(const uint8_t *address, const uint8_t *network,
                         uint32_t bits) noexcept nogil:
    cdef uint32_t whole = bits >> 3
    cdef uint32_t rest = bits & 7
    BUG_ON(bits > 128)
    if memcmp(address, network, whole) != 0:
        return False
    return rest == 0 or (address[whole] ^ network[whole]) >> (8 - rest) == 0


cdef bint trusted_has(const TrustedNetworks *networks, const uint8_t *address) noexcept nogil:
    cdef uint32_t index
    BUG_ON(networks.count > TRUSTED_NETWORK_MAX)
    if networks.is_any:
        return True
    for index in range(networks.count):
        if prefix_matches(address, networks.networks[index].address,
                          networks.networks[index].prefix_bits):
            return True
    return False


cdef void address_map(const uint8_t *four, uint8_t *address) noexcept nogil:
    # IPv4 as ::ffff:a.b.c.d: a dual-stack listener sees it that way too.
    memset(address, 0, 10)
    memset(address + 10, 0xff, 2)
    memcpy(address + 12, four, 4)


cdef bint trusted_has_peer(const TrustedNetworks *networks, const uint8_t *peer,
                           size_t peer_bytes) noexcept nogil:
    cdef uint8_t address[16]
    BUG_ON(peer_bytes != 0 and peer_bytes != 4 and peer_bytes != 16)
    if peer_bytes == 0:
        return networks.is_any or networks.is_unix
    if peer_bytes == 4:
        address_map(peer, address)
        return trusted_has(networks, address)
    return trusted_has(networks, peer)


# ---- entries ----

cdef bint node_cut(Span node, Span *text) noexcept nogil:
    # The address in a node: 192.0.2.1, 192.0.2.1:port, [v6], [v6]:port (RFC 7239 §6), or a bare v6
    # as in X-Forwarded-For. Nobody needs the port, which may be obfuscated: it only has to be there
    # in one piece.
    cdef const uint8_t *end = node.at + node.bytes
    cdef const uint8_t *colon = <const uint8_t *> memchr(node.at, c":", node.bytes)
    cdef const uint8_t *close
    text[0] = node
    if node.bytes > 0 and node.at[0] == c"[":
        close = <const uint8_t *> memchr(node.at, c"]", node.bytes)
        if close == NULL or (close + 1 < end and close[1] != c":"):
            return False
        text[0] = span_of(node.at + 1, close - node.at - 1)
        colon = close + 1
    elif colon != NULL and memchr(colon + 1, c":", end - colon - 1) == NULL:
        text.bytes = colon - node.at
    else:
        return True
    return colon == end or scan_class(colon + 1, end, CLASS_TOKEN) == end


cdef bint node_parse(Span node, Span *text, uint8_t *address) noexcept nogil:
    cdef uint8_t four[4]
    if node.bytes == 0 or not node_cut(node, text):
        return False
    BUG_ON_DEAR(text.at < node.at or text.at + text.bytes > node.at + node.bytes)
    if memchr(text.at, c":", text.bytes) != NULL:
        return address_parse(AF_INET6, text[0], address)
    if node.at[0] == c"[" or not address_parse(AF_INET, text[0], four):
        return False
    address_map(four, address)
    return True


cdef uint8_t scheme_find(Span text) noexcept nogil:
    if span_is_nocase(text, b"https", 5) or span_is_nocase(text, b"wss", 3):
        return SCHEME_HTTPS
    if span_is_nocase(text, b"http", 4) or span_is_nocase(text, b"ws", 2):
        return SCHEME_HTTP
    return SCHEME_UNKNOWN


cdef void walk_entry(const ForwardedElement *element, bint is_first,
                     const TrustedNetworks *networks, ForwardedResult *out) noexcept nogil:
    # Goes one entry to the right: out is the answer for the entries so far.
    cdef uint8_t address[16]
    cdef Span text
    cdef bint is_address = element.has_node and node_parse(element.node, &text, address)
    if not is_first and is_address and trusted_has(networks, address):
        # The answer stands left of this proxy, unless nobody there is known by address.
        if out.client.bytes == 0:
            out.client = text
        return
    BUG_ON_DEAR(is_address and (text.bytes == 0 or text.bytes > ADDRESS_TEXT_MAX))
    out.client = text if is_address else span_of(NULL, 0)
    out.scheme = scheme_find(element.proto)
    out.host = element.host if host_is_valid(element.host) else span_of(NULL, 0)


# ---- X-Forwarded-* ----

cdef Span last_entry(const RequestHead *head, const uint8_t *at, unsigned known) noexcept nogil:
    cdef Span last = span_of(NULL, 0)
    cdef Span rest
    cdef Span entry
    cdef uint32_t index
    if not head.seen & field_bit(known):
        return last
    for index in range(head.field_count):
        if head.fields[index].known == known:
            rest = span_of(at + head.fields[index].value_at, head.fields[index].value_bytes)
            while list_take(&rest, &entry):
                if entry.bytes > 0:
                    last = entry
    return last


cdef void legacy_resolve(const RequestHead *head, const uint8_t *at,
                         const TrustedNetworks *networks, ForwardedResult *out) noexcept nogil:
    cdef ForwardedElement element
    cdef Span rest
    cdef bint is_first = True
    cdef uint32_t index
    memset(&element, 0, sizeof(element))
    element.has_node = True
    for index in range(head.field_count):
        if head.fields[index].known != FIELD_X_FORWARDED_FOR:
            continue
        rest = span_of(at + head.fields[index].value_at, head.fields[index].value_bytes)
        while list_take(&rest, &element.node):
            if element.node.bytes > 0:
                walk_entry(&element, is_first, networks, out)
                is_first = False
    out.scheme = scheme_find(last_entry(head, at, FIELD_X_FORWARDED_PROTO))
    out.host = last_entry(head, at, FIELD_X_FORWARDED_HOST)
    if not host_is_valid(out.host):
        out.host = span_of(NULL, 0)


# ---- Forwarded (RFC 7239 §4) ----

cdef const uint8_t *quoted_end(const uint8_t *at, const uint8_t *end) noexcept nogil:
    # at: behind the opening quote. Gives the closing one, or NULL.
    while at < end and at[0] != c'"':
        if at[0] == c"\\":
            at += 1
            if at == end or not classes[at[0]] & CLASS_VALUE:
                return NULL
        elif not classes[at[0]] & CLASS_QUOTED:
            return NULL
        at += 1
    return at if at < end else NULL


cdef const uint8_t *parameter_value(const uint8_t *at, const uint8_t *end,
                                    Span *value) noexcept nogil:
    # token / quoted-string. Gives what follows it, or NULL. A value with an escape in it is handed
    # on with its backslash, and is then neither an address nor a host. ":", "[" and "]" ought to be
    # quoted, but often are not.
    cdef const uint8_t *stop
    if at < end and at[0] == c'"':
        stop = quoted_end(at + 1, end)
        if stop == NULL:
            return NULL
        value[0] = span_of(at + 1, stop - at - 1)
        return stop + 1
    stop = at
    while stop < end and (classes[stop[0]] & CLASS_TOKEN or stop[0] == c":" or stop[0] == c"["
                          or stop[0] == c"]"):
        stop += 1
    value[0] = span_of(at, stop - at)
    return stop if stop > at else NULL


cdef bint element_set(ForwardedElement *element, Span name, Span value) noexcept nogil:
    # False: the parameter was there already, so one of the two is a lie.
    cdef bint *has
    cdef Span *place
    if span_is_nocase(name, b"for", 3):
        has = &element.has_node
        place = &element.node
    elif span_is_nocase(name, b"proto", 5):
        has = &element.has_proto
        place = &element.proto
    elif span_is_nocase(name, b"host", 4):
        has = &element.has_host
        place = &element.host
    else:
        return True
    if has[0]:
        return False
    has[0] = True
    place[0] = value
    return True


cdef const uint8_t *spaces_end(const uint8_t *at, const uint8_t *end) noexcept nogil:
    while at < end and (at[0] == c" " or at[0] == c"\t"):
        at += 1
    return at


cdef const uint8_t *element_parse(const uint8_t *at, const uint8_t *end,
                                  ForwardedElement *element) noexcept nogil:
    # forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] ). Gives the "," or the end
    # behind it, or NULL.
    cdef const uint8_t *stop
    cdef Span name
    cdef Span value
    memset(element, 0, sizeof(ForwardedElement))
    while True:
        at = spaces_end(at, end)
        stop = scan_class(at, end, CLASS_TOKEN)
        if stop > at:
            if stop == end or stop[0] != c"=":
                return NULL
            name = span_of(at, stop - at)
            at = parameter_value(stop + 1, end, &value)
            if at == NULL or not element_set(element, name, value):
                return NULL
            at = spaces_end(at, end)
        if at == end or at[0] == c",":
            return at
        if at[0] != c";":
            return NULL
        at += 1


cdef bint standard_resolve(const RequestHead *head, const uint8_t *at,
                           const TrustedNetworks *networks, ForwardedResult *out) noexcept nogil:
    # False: malformed. Where one element ends and the next begins is then anybody's guess: believe
    # none.
    cdef ForwardedElement element
    cdef const uint8_t *place
    cdef const uint8_t *end
    cdef bint is_first = True
    cdef uint32_t index
    for index in range(head.field_count):
        if head.fields[index].known != FIELD_FORWARDED:
            continue
        place = at + head.fields[index].value_at
        end = place + head.fields[index].value_bytes
        while True:
            place = element_parse(place, end, &element)
            if place == NULL:
                return False
            if element.has_node or element.has_proto or element.has_host:
                walk_entry(&element, is_first, networks, out)
                is_first = False
            BUG_ON(place > end)
            if place == end:
                break
            place += 1
    return True


cdef void forwarded_clear(ForwardedResult *out) noexcept nogil:
    memset(out, 0, sizeof(ForwardedResult))


cdef void forwarded_resolve(const RequestHead *head, const uint8_t *at, const uint8_t *peer,
                            size_t peer_bytes, const TrustedNetworks *networks,
                            ForwardedResult *out) noexcept nogil:
    cdef uint64_t legacy = field_bit(FIELD_X_FORWARDED_FOR) | field_bit(FIELD_X_FORWARDED_PROTO) \
        | field_bit(FIELD_X_FORWARDED_HOST)
    forwarded_clear(out)
    if not head.has_forwarding:
        return
    if not trusted_has_peer(networks, peer, peer_bytes):
        return
    if head.seen & legacy:
        legacy_resolve(head, at, networks, out)
    elif not standard_resolve(head, at, networks, out):
        forwarded_clear(out)
    out.is_trusted = True
