# Whom a trusted proxy speaks for: X-Forwarded-For, -Proto, -Host and Forwarded (RFC 7239). Bodies:
# forwarded.pxi.
#
# Contract
#   int trusted_init(TrustedNetworks *networks, const uint8_t *packed, size_t bytes) noexcept nogil
#     packed comes from kernelq.trusted.pack_trusted(), which has checked the option's text. 0, or
#     -1: these are not such bytes.
#   void forwarded_resolve(const RequestHead *head, const uint8_t *at, const uint8_t *peer,
#                          size_t peer_bytes, const TrustedNetworks *networks,
#                          ForwardedResult *out) noexcept nogil
#     at: the head's input. peer: the address in network order, 4 or 16 bytes; 0 bytes: unix socket.
#     out.is_trusted False: drop every field line of which field_is_forwarding() (http1.pxi) is
#     true.
#     Otherwise client, scheme and host are set where a valid value was given; where not, one's own
#     stands. Spans point into the head's input. Costs next to nothing without head.has_forwarding.

from libc.stdint cimport uint8_t, uint16_t

from kernelq.core.span cimport Span

cdef enum:
    TRUSTED_NETWORK_MAX = 128
    TRUSTED_RECORD_BYTES = 17  # a packed network: address, prefix bits; before them all, the flags

cdef enum:
    TRUSTED_ANY = 1
    TRUSTED_UNIX = 2

cdef enum:
    SCHEME_UNKNOWN = 0
    SCHEME_HTTP = 1            # http or ws
    SCHEME_HTTPS = 2           # https or wss

ctypedef struct TrustedNetwork:
    uint8_t address[16]        # IPv4 as ::ffff:a.b.c.d
    uint8_t prefix_bits

ctypedef struct TrustedNetworks:
    bint is_any                # "*": every peer and every address
    bint is_unix               # peers on unix sockets
    uint16_t count
    TrustedNetwork networks[TRUSTED_NETWORK_MAX]

ctypedef struct ForwardedResult:
    bint is_trusted
    uint8_t scheme             # SCHEME_*
    Span client                # textual address without brackets and port; empty: the peer itself
    Span host                  # host[:port], valid by host_is_valid(); empty: none

ctypedef struct ForwardedElement:
    # One hop: what the proxy that added it says about the side it was asked from.
    Span node
    Span proto
    Span host
    bint has_node
    bint has_proto
    bint has_host
