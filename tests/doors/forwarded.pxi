# Doors to forwarded.

from libc.stdint cimport uint8_t

from kernelq.core.forwarded cimport SCHEME_HTTP, SCHEME_HTTPS, ForwardedResult, TrustedNetworks


def resolve_forwarded(HeadParser parser, bytes data, bytes peer, bytes packed):
    """Parse a whole head and resolve it for a peer: (is_trusted, scheme, client, host)."""
    cdef const uint8_t *at = guard.place(data)
    cdef TrustedNetworks networks
    cdef ForwardedResult result
    if trusted_init(&networks, packed, len(packed)) != 0:
        raise ValueError("not a packed table")
    parser.reset()
    parser.head.fields = parser.fields
    if http1_parse_head(at, len(data), &parser.progress, &parser.limits, &parser.head) <= 0:
        raise ValueError("not a whole and valid head")
    memset(&result, 0xa5, sizeof(result))
    forwarded_resolve(&parser.head, at, peer, len(peer), &networks, &result)
    scheme = {SCHEME_HTTP: "http", SCHEME_HTTPS: "https"}.get(result.scheme)
    return (bool(result.is_trusted), scheme,
            span_bytes(result.client), span_bytes(result.host))
