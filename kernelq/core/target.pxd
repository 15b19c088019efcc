# Request targets and hosts (RFC 9112 §3.2, RFC 3986). Bodies: target.pxi.
#
# Contract
#   bint host_is_valid(Span host) noexcept nogil
#     host[:port] by RFC 3986 §3.2 without userinfo, port at most 65535. The empty host is not
#     valid.
#   int target_split(RequestHead *head) noexcept nogil
#     Reads head.target (every byte of CLASS_TARGET) and head.method_id, fills target_form, scheme,
#     path, query, has_query, and host if the target names one. 0, -REASON_URL or -REASON_HOSTNAME.
#   int path_normalise(Span raw, uint8_t *out, size_t *out_bytes) noexcept nogil
#     Percent-decodes raw once, then removes dot segments. Writes at most raw.bytes to out, which
#     may not overlap raw. The result begins with "/" and never leaves the root. 0, or -REASON_URL.

cdef enum:
    PORT_MAX = 65535
    ADDRESS_TEXT_MAX = 45      # bytes of the longest textual IPv6 address
    ADDRESS_ROOM = 46          # the same with its closing NUL
