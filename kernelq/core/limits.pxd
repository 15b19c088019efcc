# Every bound of the core: name, default, unit. What happens when one is hit stands beside its use;
# the reasons are rows of reason.pxd. Names follow HTTP.sys where it has one. Settings that a user
# may change are copied into Settings (settings.pxd) with these defaults; the rest are constants.

cdef enum:
    MAX_FIELD_LENGTH = 16384          # bytes of one field line (HTTP.sys MaxFieldLength)
    # bytes of request line and field section (HTTP.sys MaxRequestBytes: 16384; browsers with many
    # cookies and signed URLs go beyond it)
    MAX_REQUEST_BYTES = 65536
    MAX_TARGET_BYTES = 32768          # bytes of the request target
    MAX_FIELD_COUNT = 128             # field lines of a head; the same for a trailer section
    MAX_CHUNK_EXTENSION_BYTES = 4096  # bytes of chunk extensions, of a whole content
    MAX_TRAILER_BYTES = 16384         # bytes of a trailer section

cdef enum:                            # constants, not settings
    RING_BYTES_MAX = 1048576          # of one ring; records are at most half of it
    RING_BYTES_MIN = 262144           # below, a large head with its content would not fit
    RING_BYTES_ALL = 1048576          # of all rings in one memory, as far as RING_BYTES_MIN allows
    CONTENT_WINDOW = 65536            # bytes of streamed content a worker may be behind
