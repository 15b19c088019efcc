# Request targets and hosts (RFC 9112 §3.2, RFC 3986). Bodies: target.pxi.
#
# Contract
#   bint host_is_valid(Span host) noexcept nogil
#     host[:port] by RFC 3986 §3.2 without userinfo, port at most 65535; the empty host is not valid.
#   int target_split(Span target, RequestHead *head) noexcept nogil
#     Fills head.target_form, scheme, host (absolute-form only), path, query, has_query from a target whose bytes are
#     all legal and head.method_id. 0 or -REASON_URL / -REASON_HOSTNAME.
#   int path_normalise(Span raw, uint8_t *out, size_t *out_bytes) noexcept nogil
#     0 or -REASON_URL. Percent-decodes raw once, removes dot segments, writes at most raw.bytes to out (which may
#     not be raw). The result begins with "/" and never leaves the root.

cdef enum:
    PORT_MAX = 65535
    ADDRESS_TEXT_MAX = 45      # bytes of the longest textual IPv6 address (INET6_ADDRSTRLEN - 1)
