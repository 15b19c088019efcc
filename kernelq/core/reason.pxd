# Why a request was refused, cut or lost: one row per reason.
#
# A row gives the enum (REASON_*), the status sent (0: none can be sent any more), the word in the
# error log (HTTPERR's word where HTTP.sys has one), and the text of the short answer. Counters,
# log, docs/reasons.md and the tests are all made from these rows.

from libc.stdint cimport uint16_t

cdef extern from *:
    """
    #ifndef KQ_REASON_H
    #define KQ_REASON_H
    #define KQ_REASONS(ROW) \\
        ROW(NONE, 0, "-", "no reason") \\
        /* the request's bytes (http1) */ \\
        ROW(BAD_REQUEST, 400, "BadRequest", "The request could not be understood") \\
        ROW(VERB, 400, "Verb", "The method is not a token") \\
        ROW(URL, 400, "URL", "The request target is malformed") \\
        ROW(URL_LENGTH, 414, "URL_Length", "The request target is too long") \\
        ROW(VERSION, 505, "Version_N/S", "The HTTP version is not supported") \\
        ROW(HEADER, 400, "Header", "A field line is malformed") \\
        ROW(INVALID_CRLF, 400, "Invalid_CR/LF", \\
            "A line does not end in CR LF, or CR or LF stands where it may not") \\
        ROW(FIELD_LENGTH, 431, "FieldLength", "A field line is too long") \\
        ROW(FIELD_COUNT, 431, "FieldCount", "There are too many field lines") \\
        ROW(REQUEST_LENGTH, 431, "RequestLength", "The request head is too long") \\
        ROW(HOSTNAME, 400, "Hostname", \\
            "The Host field is missing, repeated or invalid, or names no site of this server") \\
        ROW(NUMBER, 400, "Number", "Content-Length is malformed or contradictory") \\
        ROW(FRAMING, 400, "Framing", \\
            "Transfer-Encoding and Content-Length contradict each other, or chunked is not last") \\
        ROW(NOT_IMPLEMENTED, 501, "N/I", "The method or transfer coding is not implemented") \\
        ROW(EXPECTATION, 417, "Expectation", "The expectation cannot be met") \\
        ROW(CHUNK, 400, "Chunk", "The chunked content is malformed") \\
        ROW(TRAILER, 400, "Trailer", "The trailer section is malformed or too long") \\
        ROW(CONTENT_TOO_LARGE, 413, "EntityTooLarge", \\
            "The content is larger than the server takes") \\
        ROW(CONTENT_CUT, 0, "EntityCut", "The client left before its content was complete") \\
        /* timers */ \\
        ROW(TIMER_CONNECTION_IDLE, 0, "Timer_ConnectionIdle", \\
            "The persistent connection was idle for too long") \\
        ROW(TIMER_HEADER_WAIT, 408, "Timer_HeaderWait", \\
            "The request head did not arrive in time") \\
        ROW(TIMER_ENTITY_BODY, 408, "Timer_EntityBody", "The content did not arrive in time") \\
        ROW(TIMER_MIN_SEND_RATE, 0, "Timer_MinBytesPerSecond", \\
            "The client took the response too slowly") \\
        ROW(TIMER_REQUEST_QUEUE, 503, "Timer_ReqQueue", \\
            "The request waited too long in the request queue") \\
        ROW(TIMER_RESPONSE, 504, "Timer_Response", "The application did not answer in time") \\
        /* queue, pool, worker */ \\
        ROW(QUEUE_FULL, 503, "QueueFull", "The request queue is full") \\
        ROW(APP_OFFLINE, 503, "AppOffline", \\
            "The application pool is offline after repeated failures") \\
        ROW(APP_SHUTDOWN, 503, "AppShutdown", "The server is shutting down") \\
        ROW(DISABLED, 503, "Disabled", "The site or its application pool is stopped") \\
        ROW(ONLY_IF_CACHED, 504, "OnlyIfCached", \\
            "The request may be answered only from the cache, which has no answer") \\
        ROW(CONN_LIMIT, 503, "ConnLimit", "There are too many connections") \\
        ROW(MEMORY, 503, "Memory", "The server is out of memory") \\
        ROW(SPILL, 507, "Spill", "The content could not be stored") \\
        ROW(WORKER_DIED, 502, "Connection_Abandoned_By_AppPool", \\
            "The worker process ended while it executed the request") \\
        ROW(WORKER_DISTRUSTED, 502, "Worker_Distrusted", \\
            "The worker process sent malformed data") \\
        ROW(RESPONSE_HEAD, 502, "Response_Head", \\
            "The application's response head is not valid HTTP") \\
        ROW(RESPONSE_MISSING, 502, "Response_Missing", \\
            "The application ended without a response") \\
        ROW(RESPONSE_CUT, 0, "Response_Cut", \\
            "The application's response ended before it was complete") \\
        ROW(RESPONSE_FILE, 0, "Response_File", \\
            "The file of the response ended early or could not be read") \\
        /* the client */ \\
        ROW(CLIENT_RESET, 0, "Client_Reset", "The client left while its request was queued") \\
        ROW(CONNECTION_DROPPED, 0, "Connection_Dropped", \\
            "The client left before the response was complete")

    #define KQ_REASON_ENUM(name, status, word, text) REASON_##name,
    enum { KQ_REASONS(KQ_REASON_ENUM) REASON_COUNT };
    typedef struct { unsigned short status; const char *name, *word, *text; } KqReason;
    #define KQ_REASON_ROW(name, status, word, text) {status, #name, word, text},
    static const KqReason kq_reasons[] = { KQ_REASONS(KQ_REASON_ROW) };
    #endif
    """
    ctypedef struct ReasonRow "KqReason":
        uint16_t status
        const char *name
        const char *word
        const char *text
    const ReasonRow reasons "kq_reasons"[]
    enum:
        REASON_NONE
        REASON_BAD_REQUEST
        REASON_VERB
        REASON_URL
        REASON_URL_LENGTH
        REASON_VERSION
        REASON_HEADER
        REASON_INVALID_CRLF
        REASON_FIELD_LENGTH
        REASON_FIELD_COUNT
        REASON_REQUEST_LENGTH
        REASON_HOSTNAME
        REASON_NUMBER
        REASON_FRAMING
        REASON_NOT_IMPLEMENTED
        REASON_EXPECTATION
        REASON_CHUNK
        REASON_TRAILER
        REASON_CONTENT_TOO_LARGE
        REASON_CONTENT_CUT
        REASON_TIMER_CONNECTION_IDLE
        REASON_TIMER_HEADER_WAIT
        REASON_TIMER_ENTITY_BODY
        REASON_TIMER_MIN_SEND_RATE
        REASON_TIMER_REQUEST_QUEUE
        REASON_TIMER_RESPONSE
        REASON_QUEUE_FULL
        REASON_APP_OFFLINE
        REASON_APP_SHUTDOWN
        REASON_DISABLED
        REASON_ONLY_IF_CACHED
        REASON_CONN_LIMIT
        REASON_MEMORY
        REASON_SPILL
        REASON_WORKER_DIED
        REASON_WORKER_DISTRUSTED
        REASON_RESPONSE_HEAD
        REASON_RESPONSE_MISSING
        REASON_RESPONSE_CUT
        REASON_RESPONSE_FILE
        REASON_CLIENT_RESET
        REASON_CONNECTION_DROPPED
        REASON_COUNT
