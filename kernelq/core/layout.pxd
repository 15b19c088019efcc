# ALL shared memory between the core and one worker process: the only definition (docs/layout.md is
# generated).
#
# A channel is two memfds. Each side writes only its own and maps the other's read-only:
#
#   core's memory      ChannelHead | revoked[place] | per loop: CoreLane   | per loop: request ring
#   worker's memory    ChannelHead | started[place] | per loop: WorkerLane | per loop: response ring
#
# Rules for editors
#  1. Any change here bumps LAYOUT_VERSION: a pool's virtual environment may hold another kernelq.
#  2. Offsets and indexes only; a pointer never enters.
#  3. Every field's comment says who writes (w), who reads (r), and with which order.
#  4. The core reads a shared value once, into its own memory, checks the copy and uses the copy.
#
# Theory of operation
#  Rings are byte rings of records with one producer and one consumer; counters run free and are
#  masked on use.
#  Each ring is mapped twice in a row, so a record is always contiguous and nothing wraps.
#  A *place* is one of the worker's execution slots (the first slot_count) or prefetch places. A
#  *dispatch* is one handing-over of one request to one place: (serial << 8 | loop that owns the
#  exchange), never used twice.
#  Revocation: the core stores revoked[place] = dispatch, fences, loads started[place]; the worker
#  stores started[place] = dispatch, fences, loads revoked[place]. At least one of them sees the
#  other, so a request is either started or taken back, never both without one of them knowing.
#  A lane's armed counter is odd while its owner sleeps or is about to; the ringer remembers the
#  last odd value that it rang for, in its own memory, and so rings once per sleep and never a
#  running consumer.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef KQ_LAYOUT_H
    #define KQ_LAYOUT_H
    #include <stdint.h>
    #include <stddef.h>

    #define KQ_LAYOUT_MAGIC 0x31514c454e52454bULL /* "KERNELQ1" */
    #define KQ_LAYOUT_VERSION 3u
    #define KQ_PAGE 4096u
    #define KQ_PLACES_MAX 500u
    #define KQ_LOOPS_MAX 64u
    #define KQ_PREFETCH_MAX 16u
    #define KQ_CALLS_MAX 64u       /* calls of one worker that wait for their REPLY */
    #define KQ_CALL_TEXT_MAX 36864u /* bytes of a CALL's texts: a target, its scheme and host */

    typedef struct {
        uint64_t magic;            /* w: owner, once; r: peer, when it maps */
        uint32_t version;          /* w: owner, once */
        uint32_t owner;            /* w: owner, once: KQ_OWNER_CORE or KQ_OWNER_WORKER */
        uint64_t bytes;            /* w: owner, once: size of this memory */
        uint32_t loop_count;       /* w: owner, once; the worker repeats the core's */
        uint32_t ring_bytes;       /* w: owner, once: of each ring in this memory, a power of two
                                      of pages */
        uint32_t slot_count;       /* w: owner, once: places that are execution slots */
        uint32_t place_count;      /* w: owner, once: slots and prefetch places */
        uint32_t response_window;  /* w: core, once: content bytes a response may be ahead of
                                      RELEASED */
        uint32_t content_window;   /* w: core, once: content bytes a request may be ahead of
                                      CONSUMED */
        uint32_t creator_pid;      /* w: owner, once */
        uint32_t spin_ns;          /* w: core, once: longest wait awake; 0: none */
        uint64_t epoch;            /* w: core, once: number of the worker in the core */
    } KqChannelHead;

    typedef struct {               /* in the core's memory, one per loop */
        _Alignas(64) uint64_t request_published; /* w: loop, release; r: worker, acquire */
        _Alignas(64) uint64_t response_released; /* w: loop, release; r: worker, acquire */
        _Alignas(64) uint32_t armed;             /* w: loop; r: worker; see Theory */
    } KqCoreLane;

    typedef struct {               /* in the worker's memory, one per loop */
        _Alignas(64) uint64_t response_published; /* w: worker, release; r: loop, acquire */
        _Alignas(64) uint64_t request_released;   /* w: worker, release; r: loop, acquire */
        _Alignas(64) uint32_t armed;              /* w: worker; r: loop; see Theory */
    } KqWorkerLane;

    typedef struct {
        uint32_t bytes;            /* of the whole record, exact; the next one starts at the next
                                      multiple of 8 */
        uint8_t kind;              /* RECORD_* */
        uint8_t flags;             /* FLAG_* */
        uint16_t place;
        uint64_t dispatch;
    } KqRecordHead;

    typedef struct {               /* a field; known names (fields.pxd) travel as their id,
                                      without text */
        uint8_t known;
        uint8_t reserved;
        uint16_t name_bytes;
        uint32_t value_bytes;
    } KqFieldEntry;

    typedef struct {               /* REQUEST: then FieldEntry[field_count], then the texts in the
                                      order of the *_bytes below, then name and value of each
                                      field, then, at the next multiple of 8, the content if
                                      FLAG_CONTENT_INLINE */
        KqRecordHead head;
        uint32_t application;      /* number of the one that is asked for */
        uint8_t method_id;
        uint8_t version_minor;
        uint8_t is_https;
        uint8_t reserved;
        uint16_t field_count;
        uint16_t method_bytes;
        uint16_t remote_bytes;     /* address of the client, without port; "" for a unix socket */
        uint16_t server_bytes;     /* name or address of the server, without port */
        uint16_t remote_port;
        uint16_t server_port;
        uint32_t target_bytes;     /* as sent */
        uint32_t path_bytes;       /* decoded and normalised */
        uint32_t query_bytes;      /* as sent, without '?' */
        uint32_t script_bytes;     /* of the path, at its start: the application's prefix; the
                                      prefix "/": 0 */
        int64_t content_length;    /* -1: not known (streamed chunked content) */
    } KqRequestRecord;

    typedef struct {               /* HEAD: then FieldEntry[field_count], reason phrase, names and
                                      values, then, at the next multiple of 8, content_bytes of
                                      content */
        KqRecordHead head;
        uint16_t status;
        uint16_t field_count;
        uint16_t reason_bytes;
        uint16_t reserved;
        uint32_t content_bytes;    /* content that follows in this record */
        uint32_t reserved2;
        int64_t content_length;    /* the application's Content-Length; -1: it gave none */
    } KqResponseRecord;

    typedef struct {               /* PING, PONG, RELEASED, CONSUMED: one number; the latter two
                                      count from the start of the content, so one lost or late
                                      record does no harm */
        KqRecordHead head;
        uint64_t value;
    } KqNumberRecord;

    typedef struct {               /* FILE: the descriptor comes over the side socket with the
                                      same dispatch */
        KqRecordHead head;
        uint64_t offset;
        uint64_t bytes;
    } KqFileRecord;

    typedef struct {               /* CALL: then the texts, in the order of the *_bytes below */
        KqRecordHead head;
        uint64_t number;           /* the worker's own, for the REPLY; nothing to the core */
        uint32_t operation;        /* CALL_* */
        uint32_t flags;            /* CALL_FLAG_* */
        uint32_t first_bytes;
        uint32_t second_bytes;
    } KqCallRecord;

    typedef struct {               /* REPLY: in the ring of the loop that read the CALL, once for
                                      each */
        KqRecordHead head;
        uint64_t number;           /* of the CALL */
        uint64_t value;
        uint32_t status;           /* REPLY_* */
        uint32_t reserved;
    } KqReplyRecord;

    typedef struct {               /* a message on the side socket, either way, with exactly one
                                      descriptor: the spill file of a request, or the file of a
                                      response */
        uint64_t dispatch;
        uint32_t place;
        uint32_t kind;             /* RECORD_REQUEST or RECORD_FILE */
    } KqSideMessage;

    #define KQ_ALIGN8(n) (((n) + 7u) & ~(uint64_t)7u)

    _Static_assert(sizeof(KqChannelHead) == 64, "layout");
    _Static_assert(sizeof(KqCoreLane) == 192 && sizeof(KqWorkerLane) == 192, "layout");
    _Static_assert(sizeof(KqRecordHead) == 16 && sizeof(KqFieldEntry) == 8, "layout");
    _Static_assert(sizeof(KqRequestRecord) == 64 && sizeof(KqResponseRecord) == 40, "layout");
    _Static_assert(offsetof(KqRequestRecord, content_length) == 56, "layout");
    _Static_assert(sizeof(KqNumberRecord) == 24 && sizeof(KqFileRecord) == 32, "layout");
    _Static_assert(sizeof(KqCallRecord) == 40 && sizeof(KqReplyRecord) == 40, "layout");
    _Static_assert(128 + KQ_PLACES_MAX * 8 <= KQ_PAGE * 2, "layout");

    /* Where things stand in either memory; the same formulas on both sides. */
    #define KQ_PLACES_AT 128u
    #define KQ_LANES_AT (KQ_PAGE * 2u)
    static inline uint64_t kq_lane_at(uint32_t loop) {
        return KQ_LANES_AT + (uint64_t)loop * sizeof(KqCoreLane);
    }
    static inline uint64_t kq_rings_at(uint32_t loops) {
        return (kq_lane_at(loops) + KQ_PAGE - 1) & ~(uint64_t)(KQ_PAGE - 1);
    }
    static inline uint64_t kq_ring_at(uint32_t loops, uint32_t ring_bytes, uint32_t loop) {
        return kq_rings_at(loops) + (uint64_t)loop * ring_bytes;
    }
    static inline uint64_t kq_memory_bytes(uint32_t loops, uint32_t ring_bytes) {
        return kq_ring_at(loops, ring_bytes, loops);
    }

    /* kind, number, producer, what it says */
    #define KQ_RECORDS(ROW) \\
        ROW(REQUEST, 1, "core", \\
            "a request; content inline, spilled (side socket), streamed or none") \\
        ROW(CONTENT, 2, "core", \\
            "a piece of streamed content; FLAG_END on the last, FLAG_CUT if it broke off") \\
        ROW(CLIENT_GONE, 3, "core", "the client has left; the answer has no reader") \\
        ROW(RELEASED, 4, "core", "so many content bytes of the response have left the core") \\
        ROW(PING, 5, "core", "a stamp, to be sent back") \\
        ROW(DRAIN, 6, "core", "no further request will come; end when the last is answered") \\
        ROW(REPLY, 7, "core", "the answer to a CALL: a status and a number") \\
        ROW(READY, 32, "worker", "the application is loaded, the memory sealed") \\
        ROW(SKIPPED, 33, "worker", "a revoked request was passed over; its place is free") \\
        ROW(HEAD, 34, "worker", "status and fields of the final response, and its first content") \\
        ROW(INTERIM, 35, "worker", "a 1xx response (not in use: refused)") \\
        ROW(DATA, 36, "worker", "content of the response") \\
        ROW(FILE, 37, "worker", "content of the response, from a file") \\
        ROW(END, 38, "worker", "the response is complete; with FLAG_CUT it broke off") \\
        ROW(CONSUMED, 39, "worker", "so many content bytes of the request were taken") \\
        ROW(PONG, 40, "worker", "the stamp of a PING") \\
        ROW(UPGRADED, 41, "worker", "the connection is the application's (not in use: refused)") \\
        ROW(UNHEALTHY, 42, "worker", "the worker asks to be replaced (not in use: refused)") \\
        ROW(CALL, 43, "worker", "a call of the core; at most CALLS_MAX wait for their REPLY")
    #define KQ_RECORD_ENUM(name, number, producer, text) RECORD_##name = number,
    enum { KQ_RECORDS(KQ_RECORD_ENUM) RECORD_NONE = 0 };

    enum { KQ_OWNER_CORE = 1, KQ_OWNER_WORKER = 2 };
    enum {
        FLAG_END = 1,              /* HEAD, DATA, FILE, CONTENT: nothing of this content follows */
        FLAG_CUT = 2,              /* END, CONTENT: broken off, not complete */
        FLAG_CONTENT_INLINE = 4,   /* REQUEST */
        FLAG_CONTENT_SPILLED = 8,  /* REQUEST: a descriptor comes over the side socket */
        FLAG_CONTENT_STREAMED = 16 /* REQUEST: CONTENT records follow */
    };
    enum {                         /* CallRecord.operation */
        CALL_FLUSH = 1,            /* first: a URL prefix; value: how many entries went */
        CALL_FLUSH_GROUP = 2       /* first: an origin, second: the name of a group (RFC 9875) */
    };
    enum { CALL_FLAG_RECURSIVE = 1 /* CALL_FLUSH: all below the prefix too */ };
    enum {                         /* ReplyRecord.status */
        REPLY_DONE = 0,
        REPLY_INVALID = 1,         /* the texts are not what the operation wants */
        REPLY_NO_MEMORY = 2
    };
    #endif
    """
    enum:
        LAYOUT_VERSION "KQ_LAYOUT_VERSION"
        PAGE_BYTES "KQ_PAGE"
        PLACES_MAX "KQ_PLACES_MAX"
        LOOPS_MAX "KQ_LOOPS_MAX"
        PREFETCH_MAX "KQ_PREFETCH_MAX"
        CALLS_MAX "KQ_CALLS_MAX"
        CALL_TEXT_MAX "KQ_CALL_TEXT_MAX"
        PLACES_AT "KQ_PLACES_AT"
        OWNER_CORE "KQ_OWNER_CORE"
        OWNER_WORKER "KQ_OWNER_WORKER"
        FLAG_END
        FLAG_CUT
        FLAG_CONTENT_INLINE
        FLAG_CONTENT_SPILLED
        FLAG_CONTENT_STREAMED
        RECORD_NONE
        RECORD_REQUEST
        RECORD_CONTENT
        RECORD_CLIENT_GONE
        RECORD_RELEASED
        RECORD_PING
        RECORD_DRAIN
        RECORD_REPLY
        RECORD_READY
        RECORD_SKIPPED
        RECORD_HEAD
        RECORD_INTERIM
        RECORD_DATA
        RECORD_FILE
        RECORD_END
        RECORD_CONSUMED
        RECORD_PONG
        RECORD_UPGRADED
        RECORD_UNHEALTHY
        RECORD_CALL
        CALL_FLUSH
        CALL_FLUSH_GROUP
        CALL_FLAG_RECURSIVE
        REPLY_DONE
        REPLY_INVALID
        REPLY_NO_MEMORY
    const uint64_t LAYOUT_MAGIC "KQ_LAYOUT_MAGIC"
    ctypedef struct ChannelHead "KqChannelHead":
        uint64_t magic
        uint32_t version
        uint32_t owner
        uint64_t bytes
        uint32_t loop_count
        uint32_t ring_bytes
        uint32_t slot_count
        uint32_t place_count
        uint32_t response_window
        uint32_t content_window
        uint32_t creator_pid
        uint32_t spin_ns
        uint64_t epoch
    ctypedef struct CoreLane "KqCoreLane":
        uint64_t request_published
        uint64_t response_released
        uint32_t armed
    ctypedef struct WorkerLane "KqWorkerLane":
        uint64_t response_published
        uint64_t request_released
        uint32_t armed
    ctypedef struct RecordHead "KqRecordHead":
        uint32_t bytes
        uint8_t kind
        uint8_t flags
        uint16_t place
        uint64_t dispatch
    ctypedef struct FieldEntry "KqFieldEntry":
        uint8_t known
        uint16_t name_bytes
        uint32_t value_bytes
    ctypedef struct RequestRecord "KqRequestRecord":
        RecordHead head
        uint32_t application
        uint8_t method_id
        uint8_t version_minor
        uint8_t is_https
        uint16_t field_count
        uint16_t method_bytes
        uint16_t remote_bytes
        uint16_t server_bytes
        uint16_t remote_port
        uint16_t server_port
        uint32_t target_bytes
        uint32_t path_bytes
        uint32_t query_bytes
        uint32_t script_bytes
        int64_t content_length
    ctypedef struct ResponseRecord "KqResponseRecord":
        RecordHead head
        uint16_t status
        uint16_t field_count
        uint16_t reason_bytes
        uint32_t content_bytes
        int64_t content_length
    ctypedef struct NumberRecord "KqNumberRecord":
        RecordHead head
        uint64_t value
    ctypedef struct FileRecord "KqFileRecord":
        RecordHead head
        uint64_t offset
        uint64_t bytes
    ctypedef struct CallRecord "KqCallRecord":
        RecordHead head
        uint64_t number
        uint32_t operation
        uint32_t flags
        uint32_t first_bytes
        uint32_t second_bytes
    ctypedef struct ReplyRecord "KqReplyRecord":
        RecordHead head
        uint64_t number
        uint64_t value
        uint32_t status
        uint32_t reserved
    ctypedef struct SideMessage "KqSideMessage":
        uint64_t dispatch
        uint32_t place
        uint32_t kind
    uint64_t align8 "KQ_ALIGN8"(uint64_t n) noexcept nogil
    uint64_t lane_at "kq_lane_at"(uint32_t loop) noexcept nogil
    uint64_t ring_at "kq_ring_at"(uint32_t loops, uint32_t ring_bytes, uint32_t loop) noexcept nogil
    uint64_t memory_bytes "kq_memory_bytes"(uint32_t loops, uint32_t ring_bytes) noexcept nogil
