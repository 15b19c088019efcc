"""The core: accepts, parses, queues, dispatches, answers. It never runs application code.

Map of the module. Headers (kernelq/core/*.pxd) carry types, constants and inline functions;
state.pxd is the one to read first. Parts (kernelq/core/*.pxi), included below in the order of a
request's life, carry the bodies; nothing in them touches Python, except the last one, which holds
the managers' doors.
"""

# What the parts use of these is not seen by the linter: hence its marks.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t  # no-cython-lint
from libc.stdio cimport snprintf  # no-cython-lint
from libc.stdlib cimport calloc, free, malloc, realloc  # no-cython-lint
from libc.string cimport memcmp, memcpy, memmove, memset, strlen  # no-cython-lint

from kernelq.core cimport atomic, bug, linux  # no-cython-lint
from kernelq.core.cache_rules cimport *
from kernelq.core.cache_store cimport *
from kernelq.core.fields cimport *
from kernelq.core.forwarded cimport *
from kernelq.core.http1 cimport *
from kernelq.core.kinds cimport *
from kernelq.core.layout cimport *
from kernelq.core.limits cimport *
from kernelq.core.linux cimport *
from kernelq.core.pieces cimport *
from kernelq.core.reason cimport *
from kernelq.core.ring cimport *
from kernelq.core.route cimport *
from kernelq.core.settings cimport *
from kernelq.core.span cimport *
from kernelq.core.spin cimport *
from kernelq.core.state cimport *
from kernelq.core.status cimport *
from kernelq.core.target cimport *
from kernelq.core.timer cimport *

cdef extern from *:
    """
    static const char kq_hex_digits[] = "0123456789abcdef";
    static const char kq_mapped_prefix[] = "\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\xff\\xff";
    static const char kq_continue[] = "HTTP/1.1 100 Continue\\r\\n\\r\\n";
    #define KQ_CONTINUE_BYTES (sizeof(kq_continue) - 1)
    #define KQ_IMAGE_AT offsetof(struct __pyx_t_7kernelq_4core_5state_Exchange, image_inline)
    /* fields of a request that say something to a cache (fields.pxd) */
    #define KQ_CACHE_FIELDS (1ull << FIELD_CACHE_CONTROL | 1ull << FIELD_PRAGMA \\
        | 1ull << FIELD_AUTHORIZATION | 1ull << FIELD_RANGE | 1ull << FIELD_IF_RANGE \\
        | 1ull << FIELD_IF_MATCH | 1ull << FIELD_IF_NONE_MATCH \\
        | 1ull << FIELD_IF_MODIFIED_SINCE | 1ull << FIELD_IF_UNMODIFIED_SINCE)
    #define KQ_TIMER_AT offsetof(struct __pyx_t_7kernelq_4core_5state_Conn, timer)
    """
    const char *HEX_DIGITS "kq_hex_digits"
    const char *CONTINUE_TEXT "kq_continue"
    const char *MAPPED_PREFIX "kq_mapped_prefix"  # of an IPv4 address in an IPv6 one
    const size_t CONTINUE_BYTES "KQ_CONTINUE_BYTES"
    const size_t offsetof_image_inline "KQ_IMAGE_AT"
    const uint64_t CACHE_FIELDS "KQ_CACHE_FIELDS"
    const size_t offsetof_conn_timer "KQ_TIMER_AT"

# The life of a request, in order:
include "core/target.pxi"         # request targets and hosts
include "core/http1.pxi"          # heads and chunked content
include "core/forwarded.pxi"      # what a trusted proxy says of the client
include "core/cache_fields.pxi"   # what HTTP says of caching: fields
include "core/cache_rules.pxi"    # and rules
include "core/cache_keys.pxi"     # keys
include "core/cache_store.pxi"    # stored responses: table and content
include "core/cache_evict.pxi"    # their queues, and how memory is given back
include "core/cache_flush.pxi"    # how they become invalid
include "core/route.pxi"          # which application a request is for
include "core/loop.pxi"           # a loop's turn, mailbox, listeners
include "core/listeners.pxi"      # sockets that it accepts from
include "core/conn.pxi"           # reading, writing, timers, closing
include "core/exchange.pxi"       # a request's record and content, and how it ends
include "core/routing.pxi"        # which application and pool it is for
include "core/cache_hit.pxi"      # answers from the store
include "core/cache_fill.pxi"     # responses that are asked for, and who waits for them
include "core/cache_keep.pxi"     # a worker's response on its way into the store
include "core/cache_extra.pxi"    # what its key has beside the URI
include "core/cache_entry.pxi"    # what of its head is stored
include "core/pools.pxi"          # pools, and which of them a loop looks at
include "core/request_queue.pxi"  # queue, dispatch, revocation
include "core/channel.pxi"        # workers: memory, lanes, health, death
include "core/answers.pxi"        # what workers say
include "core/response.pxi"       # responses on their way out
include "core/calls.pxi"          # what workers ask of the core itself
include "core/cache_call.pxi"     # of these: flushing the response cache
include "core/helpers.pxi"        # threads for what can block
include "core/log.pxi"            # access and error log
include "core/stats.pxi"          # start, stop, figures
include "core/route_doors.pxi"    # routes from Python's tuples
include "core/cache_doors.pxi"    # what Python sees of the cache
include "core/pool_doors.pxi"     # of pools, workers, requests
include "core/doors.pxi"          # what Python sees: the class Core
