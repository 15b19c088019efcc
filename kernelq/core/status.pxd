# Status codes and their reason phrases (RFC 9110 §15, RFC 4918, RFC 6585, RFC 7725, RFC 8297), and
# token bytes.

from libc.stdint cimport uint8_t, uint16_t

cdef extern from *:
    """
    #ifndef KQ_STATUS_H
    #define KQ_STATUS_H
    typedef struct { unsigned short status; const char *text; } KqStatus;
    static const KqStatus kq_statuses[] = {
        {200, "OK"}, {304, "Not Modified"}, {404, "Not Found"}, {302, "Found"},
        {400, "Bad Request"}, {201, "Created"}, {202, "Accepted"},
        {203, "Non-Authoritative Information"}, {204, "No Content"}, {205, "Reset Content"},
        {206, "Partial Content"}, {207, "Multi-Status"}, {208, "Already Reported"},
        {226, "IM Used"}, {300, "Multiple Choices"}, {301, "Moved Permanently"},
        {303, "See Other"}, {305, "Use Proxy"}, {307, "Temporary Redirect"},
        {308, "Permanent Redirect"}, {401, "Unauthorized"}, {402, "Payment Required"},
        {403, "Forbidden"}, {405, "Method Not Allowed"}, {406, "Not Acceptable"},
        {407, "Proxy Authentication Required"}, {408, "Request Timeout"}, {409, "Conflict"},
        {410, "Gone"}, {411, "Length Required"}, {412, "Precondition Failed"},
        {413, "Content Too Large"}, {414, "URI Too Long"}, {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"}, {417, "Expectation Failed"}, {418, "I'm a teapot"},
        {421, "Misdirected Request"}, {422, "Unprocessable Content"}, {423, "Locked"},
        {424, "Failed Dependency"}, {425, "Too Early"}, {426, "Upgrade Required"},
        {428, "Precondition Required"}, {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"}, {451, "Unavailable For Legal Reasons"},
        {500, "Internal Server Error"}, {501, "Not Implemented"}, {502, "Bad Gateway"},
        {503, "Service Unavailable"}, {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"}, {506, "Variant Also Negotiates"},
        {507, "Insufficient Storage"}, {508, "Loop Detected"},
        {511, "Network Authentication Required"},
    };
    #define KQ_STATUS_COUNT (sizeof(kq_statuses) / sizeof(kq_statuses[0]))
    /* RFC 9110 §5.6.2: a bit for each byte of a token. */
    static const unsigned char kq_token_bits[32] = {
        0, 0, 0, 0, 0xfa, 0x6c, 0xff, 0x03, 0xfe, 0xff, 0xff, 0xc7, 0xff, 0xff, 0xff, 0x57,
    };
    #define kq_is_token_byte(b) (kq_token_bits[(unsigned char)(b) >> 3] >> ((b) & 7) & 1)
    #endif
    """
    ctypedef struct Status "KqStatus":
        uint16_t status
        const char *text
    const Status status_texts "kq_statuses"[]
    const size_t STATUS_COUNT "KQ_STATUS_COUNT"
    bint is_token_byte "kq_is_token_byte"(uint8_t byte) noexcept nogil
