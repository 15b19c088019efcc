# The settings of a Core, checked and copied once at its door; read by every loop, written by none.
# And those of a pool, which may change while it serves.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    HALF_CLOSE_PROBE = 0
    HALF_CLOSE_ANSWER = 1
    HALF_CLOSE_DROP = 2
    REDISPATCH_IDEMPOTENT = 0
    REDISPATCH_ALWAYS = 1
    REDISPATCH_NEVER = 2

ctypedef struct Settings:
    uint32_t loop_count
    uint32_t ring_bytes            # of each ring
    uint32_t content_memory        # bytes of held content kept in memory; beyond: spilled
    uint32_t response_takeover     # bytes of a response taken over from a worker for a slow client
    uint32_t content_window        # bytes of streamed content ahead of CONSUMED
    uint32_t connection_limit
    uint32_t min_send_rate         # bytes per second; 0: off
    uint32_t field_length
    uint32_t request_bytes
    uint32_t target_bytes
    uint32_t field_count
    uint64_t content_limit
    uint64_t idle_timeout_ns
    uint64_t header_timeout_ns
    uint64_t entity_timeout_ns
    uint8_t half_close
    bint keep_alive
    bint is_streamed               # content goes to the worker as it arrives
    bint has_access_log
    int log_level
    uint8_t cache_mode             # CACHE_* of cache_rules.pxd; CACHE_OFF also without bytes
    bint cache_status              # responses get a Cache-Status field
    uint64_t cache_bytes           # most, with all overhead
    uint64_t cache_entry_bytes     # most content of one response
    uint32_t cache_frequent_hits   # a response is kept when it was asked for so often within
    uint32_t cache_frequent_s      # so many seconds
    uint32_t cache_scavenge_s      # what nobody asks for so long is dropped; 0: never
    uint32_t spin_ns               # longest spin before a loop sleeps; 0: never
    char server_name[64]           # value of the Server field
    uint16_t server_name_bytes
    char health_path[128]          # "": off
    uint16_t health_path_bytes
    char spill_dir[256]

ctypedef struct PoolLimits:        # [pool lock], but for what is marked
    uint32_t slot_count            # execution slots of a new worker: its threads
    uint32_t place_count           # slots and prefetch places
    uint32_t queue_length
    uint32_t redispatch_limit
    uint64_t queue_timeout_ns      # [atomic] 0: off
    uint64_t request_timeout_ns    # [atomic] 0: off
    uint64_t ping_response_ns
    uint8_t redispatch
    uint8_t refuses_by_reset       # [atomic] a reset instead of a 503 that the pool causes
    bint is_needed                 # the server is ready only while it has a worker
    uint16_t name_bytes
    char name[256]                 # fixed when the pool is opened
