# Reading the field values that caching depends on; the contract stands in cache_rules.pxd.
#
# Rules
# - Each reader goes over its text once and never outside it. What it cannot read is the peer's
#   fault and has a defined outcome, the cautious one: stored less, or asked again.
# - Where a field is a list, its lines count as one text joined by commas (RFC 9110 §5.3), but
#   nothing that is quoted goes on in the next line: there it is malformed.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy, memset

from kernelq.core.bug cimport BUG_ON_DEAR
from kernelq.core.cache_rules cimport (
    DELTA_MAX,
    SAYS_IMMUTABLE,
    SAYS_MAX_AGE,
    SAYS_MAX_STALE,
    SAYS_MIN_FRESH,
    SAYS_MUST_REVALIDATE,
    SAYS_MUST_UNDERSTAND,
    SAYS_NO_CACHE,
    SAYS_NO_STORE,
    SAYS_NUMBERS,
    SAYS_OF_REQUESTS,
    SAYS_OF_RESPONSES,
    SAYS_ONLY_IF_CACHED,
    SAYS_PERMITTING,
    SAYS_PRIVATE,
    SAYS_PROXY_REVALIDATE,
    SAYS_PUBLIC,
    SAYS_S_MAXAGE,
    SAYS_STALE_IF_ERROR,
    SAYS_STALE_WHILE_REVALIDATE,
    SF_BOOLEAN,
    SF_INNER_LIST,
    SF_INTEGER,
    SF_OTHER,
    SF_STRING,
    SF_TOKEN,
    DateParts,
    DirectiveReader,
    Directives,
    FieldView,
    SfItem,
)
from kernelq.core.http1 cimport list_take
from kernelq.core.scan cimport CLASS_DIGIT, CLASS_HEX, CLASS_TOKEN, classes, scan_class
from kernelq.core.span cimport Span, byte_lower, span_is_nocase, span_of


# ---- lines ----

cdef inline Span view_value(const FieldView *view, uint32_t index) noexcept nogil:
    return span_of(view.at + view.lines[index].value_at, view.lines[index].value_bytes)


cdef inline Span view_name(const FieldView *view, uint32_t index) noexcept nogil:
    # Empty where a request's line is known by number.
    return span_of(view.at + view.lines[index].name_at, view.lines[index].name_bytes)


cdef inline bint spans_are_nocase(Span one, Span other) noexcept nogil:
    cdef size_t index
    if one.bytes != other.bytes:
        return False
    for index in range(one.bytes):
        if byte_lower(one.at[index]) != byte_lower(other.at[index]):
            return False
    return True


cdef inline bint span_is_token(Span text) noexcept nogil:
    cdef const uint8_t *end = text.at + text.bytes
    return text.bytes > 0 and scan_class(text.at, end, CLASS_TOKEN) == end


cdef inline bint byte_is_space(uint8_t byte) noexcept nogil:
    return byte == c" " or byte == c"\t"


cdef bint field_is_named(Span list, Span name) noexcept nogil:
    cdef Span element
    while list_take(&list, &element):
        if name.bytes > 0 and spans_are_nocase(element, name):
            return True
    return False


cdef inline const uint8_t *quote_close(const uint8_t *at, const uint8_t *end) noexcept nogil:
    # at: behind the opening quote. The closing one, or NULL: there is none.
    while at < end and at[0] != c'"':
        at += 2 if at[0] == c"\\" else 1
    return at if at < end else NULL


# ---- numbers ----

cdef bint delta_read(Span text, uint32_t *seconds) noexcept nogil:
    # delta-seconds (RFC 9111 §1.2.2): digits only; what is more than DELTA_MAX counts as that.
    cdef uint64_t value = 0
    cdef size_t index
    seconds[0] = 0
    if text.bytes == 0:
        return False
    for index in range(text.bytes):
        if not classes[text.at[index]] & CLASS_DIGIT:
            return False
        value = value * 10 + text.at[index] - 48
        if value > DELTA_MAX:
            value = DELTA_MAX
    seconds[0] = <uint32_t> value
    return True


# ---- dates (RFC 9110 §5.6.7) ----

cdef inline int64_t days_of(int64_t year, int64_t month, int64_t day) noexcept nogil:
    # Days since 1970-01-01 in the Gregorian calendar. The year begins in March here, so that the
    # leap day is its last one; 400 years have 146097 days.
    cdef int64_t months = (month + 9) % 12
    if month <= 2:
        year -= 1
    return 365 * year + year // 4 - year // 100 + year // 400 \
        + (months * 306 + 5) // 10 + day - 1 - 719468


cdef inline int64_t seconds_of(const DateParts *parts, int64_t year) noexcept nogil:
    return days_of(year, parts.month, parts.day) * 86400 + parts.hour * 3600 \
        + parts.minute * 60 + parts.second


cdef void date_parts_of(int64_t seconds, DateParts *parts) noexcept nogil:
    # Of a moment in the years 1970 to 9999. The estimate of the year is never too early and at
    # most one too late.
    cdef int64_t days = seconds // 86400
    cdef int64_t rest = seconds % 86400
    parts.year = 1970 + days * 400 // 146097 + 1
    while days_of(parts.year, 1, 1) > days:
        parts.year -= 1
    parts.month = 12
    while days_of(parts.year, parts.month, 1) > days:
        parts.month -= 1
    parts.day = days - days_of(parts.year, parts.month, 1) + 1
    parts.hour = rest // 3600
    parts.minute = rest // 60 % 60
    parts.second = rest % 60


cdef int name_find(const uint8_t *at, const char *names, int count, size_t bytes) noexcept nogil:
    # Which of the names, each of that many bytes in lower case, stands here; -1: none.
    cdef int index
    for index in range(count):
        if span_is_nocase(span_of(at, bytes), names + index * bytes, bytes):
            return index
    return -1


cdef bint date_fits(const uint8_t *at, const char *shape, DateParts *parts) noexcept nogil:
    # Reads one byte for each of shape: "D" day, "_" the same with a space for a leading zero,
    # "M" month (three bytes), "Y" year, "h" "m" "s", "A" a day name; others stand for themselves,
    # letters in any case (RFC 9111 §4.2: dates are to be read without regard to case).
    cdef size_t index = 0
    cdef int64_t *part
    memset(parts, 0, sizeof(DateParts))
    while shape[index] != 0:
        if shape[index] == c"A":
            if name_find(at + index, b"sunmontuewedthufrisat", 7, 3) < 0:
                return False
            index += 3
            continue
        if shape[index] == c"M":
            parts.month = name_find(at + index, b"janfebmaraprmayjunjulaugsepoctnovdec", 12, 3) + 1
            if parts.month == 0:
                return False
            index += 3
            continue
        if shape[index] == c"Y":
            part = &parts.year
        elif shape[index] == c"D" or shape[index] == c"_":
            part = &parts.day
        elif shape[index] == c"h":
            part = &parts.hour
        elif shape[index] == c"m":
            part = &parts.minute
        elif shape[index] == c"s":
            part = &parts.second
        elif byte_lower(at[index]) != byte_lower(<uint8_t> shape[index]):
            return False
        else:
            index += 1
            continue
        if shape[index] != c"_" or at[index] != c" ":
            if not classes[at[index]] & CLASS_DIGIT:
                return False
            part[0] = part[0] * 10 + at[index] - 48
        index += 1
    return True


cdef bint date_is_real(const DateParts *parts) noexcept nogil:
    # The day exists, and so does the time; a second more is for leap seconds only.
    cdef bint is_leap = parts.year % 4 == 0 and (parts.year % 100 != 0 or parts.year % 400 == 0)
    cdef int64_t days = 31
    if parts.month == 2:
        days = 29 if is_leap else 28
    elif parts.month == 4 or parts.month == 6 or parts.month == 9 or parts.month == 11:
        days = 30
    if not 1 <= parts.day <= days or parts.hour > 23 or parts.minute > 59:
        return False
    return parts.second <= 59 or (parts.second == 60 and parts.hour == 23 and parts.minute == 59)


cdef void century_add(DateParts *parts, int64_t now_s) noexcept nogil:
    # A year of two digits: this century, unless that is more than 50 years ahead.
    cdef DateParts now
    cdef int64_t seconds
    date_parts_of(now_s if now_s > 0 else 0, &now)
    parts.year += now.year // 100 * 100
    seconds = seconds_of(parts, parts.year - 50)
    if seconds > now_s:
        parts.year -= 100


cdef inline bint zone_is_known(const uint8_t *at) noexcept nogil:
    # GMT, or UTC by another name (RFC 9111 §4.2).
    return span_is_nocase(span_of(at, 3), b"gmt", 3) or span_is_nocase(span_of(at, 3), b"utc", 3)


cdef bint date_850_fits(Span text, int64_t now_s, DateParts *parts) noexcept nogil:
    # Weekday, 06-Nov-94 08:49:37 GMT
    cdef const uint8_t *comma = <const uint8_t *> memchr(text.at, c",", text.bytes)
    cdef Span day
    if comma == NULL or text.at + text.bytes - comma != 24:
        return False
    day = span_of(text.at, comma - text.at)
    if not (span_is_nocase(day, b"sunday", 6) or span_is_nocase(day, b"monday", 6)
            or span_is_nocase(day, b"tuesday", 7) or span_is_nocase(day, b"wednesday", 9)
            or span_is_nocase(day, b"thursday", 8) or span_is_nocase(day, b"friday", 6)
            or span_is_nocase(day, b"saturday", 8)):
        return False
    if not date_fits(comma, b", DD-MMM-YY hh:mm:ss ", parts) or not zone_is_known(comma + 21):
        return False
    century_add(parts, now_s)
    return True


cdef int64_t http_date_read(Span text, int64_t now_s) noexcept nogil:
    # The day's name has to be one, but nobody is turned away for a wrong one.
    cdef DateParts parts
    cdef int64_t seconds
    if text.bytes == 29 and text.at[3] == c",":
        if not date_fits(text.at, b"AAA, DD MMM YYYY hh:mm:ss ", &parts):
            return -1
        if not zone_is_known(text.at + 26):
            return -1
    elif text.bytes == 24 and text.at[3] == c" ":
        if not date_fits(text.at, b"AAA MMM _D hh:mm:ss YYYY", &parts):
            return -1
    elif text.bytes < 30 or not date_850_fits(text, now_s, &parts):
        return -1
    if not date_is_real(&parts):
        return -1
    seconds = seconds_of(&parts, parts.year)
    return seconds if seconds >= 0 else -1


cdef inline uint8_t *digits_put(uint8_t *at, int64_t value, int count) noexcept nogil:
    cdef int index
    for index in range(count - 1, -1, -1):
        at[index] = <uint8_t> (48 + value % 10)
        value //= 10
    return at + count


cdef uint8_t *http_date_put(uint8_t *at, int64_t seconds) noexcept nogil:
    cdef DateParts parts
    cdef const char *days = b"ThuFriSatSunMonTueWed"
    cdef const char *months = b"JanFebMarAprMayJunJulAugSepOctNovDec"
    if seconds < 0:
        seconds = 0
    if seconds > 253402300799LL:
        seconds = 253402300799LL
    date_parts_of(seconds, &parts)
    memcpy(at, days + seconds // 86400 % 7 * 3, 3)
    memcpy(at + 3, b", ", 2)
    at = digits_put(at + 5, parts.day, 2)
    at[0] = c" "
    memcpy(at + 1, months + (parts.month - 1) * 3, 3)
    at[4] = c" "
    at = digits_put(at + 5, parts.year, 4)
    at[0] = c" "
    at = digits_put(at + 1, parts.hour, 2)
    at[0] = c":"
    at = digits_put(at + 1, parts.minute, 2)
    at[0] = c":"
    at = digits_put(at + 1, parts.second, 2)
    memcpy(at, b" GMT", 4)
    return at + 4


# ---- directives ----

cdef uint32_t directive_find(Span name) noexcept nogil:
    # SAYS_*, or 0: not one that means anything here.
    if span_is_nocase(name, b"max-age", 7):
        return SAYS_MAX_AGE
    if span_is_nocase(name, b"public", 6):
        return SAYS_PUBLIC
    if span_is_nocase(name, b"private", 7):
        return SAYS_PRIVATE
    if span_is_nocase(name, b"no-cache", 8):
        return SAYS_NO_CACHE
    if span_is_nocase(name, b"no-store", 8):
        return SAYS_NO_STORE
    if span_is_nocase(name, b"s-maxage", 8):
        return SAYS_S_MAXAGE
    if span_is_nocase(name, b"immutable", 9):
        return SAYS_IMMUTABLE
    if span_is_nocase(name, b"max-stale", 9):
        return SAYS_MAX_STALE
    if span_is_nocase(name, b"min-fresh", 9):
        return SAYS_MIN_FRESH
    if span_is_nocase(name, b"only-if-cached", 14):
        return SAYS_ONLY_IF_CACHED
    if span_is_nocase(name, b"stale-if-error", 14):
        return SAYS_STALE_IF_ERROR
    if span_is_nocase(name, b"must-revalidate", 15):
        return SAYS_MUST_REVALIDATE
    if span_is_nocase(name, b"must-understand", 15):
        return SAYS_MUST_UNDERSTAND
    if span_is_nocase(name, b"proxy-revalidate", 16):
        return SAYS_PROXY_REVALIDATE
    if span_is_nocase(name, b"stale-while-revalidate", 22):
        return SAYS_STALE_WHILE_REVALIDATE
    return 0


cdef uint32_t *directive_number(Directives *directives, uint32_t says) noexcept nogil:
    if says == SAYS_MAX_AGE:
        return &directives.max_age_s
    if says == SAYS_S_MAXAGE:
        return &directives.s_maxage_s
    if says == SAYS_STALE_WHILE_REVALIDATE:
        return &directives.stale_while_revalidate_s
    if says == SAYS_STALE_IF_ERROR:
        return &directives.stale_if_error_s
    if says == SAYS_MAX_STALE:
        return &directives.max_stale_s
    BUG_ON_DEAR(says != SAYS_MIN_FRESH)
    return &directives.min_fresh_s


cdef bint names_read(Span list, Span wanted, bint *is_named) noexcept nogil:
    # Field names between commas, at least one. False: something else stands there too.
    cdef Span element
    cdef uint32_t count = 0
    while list_take(&list, &element):
        if element.bytes == 0:
            continue
        if not span_is_token(element):
            return False
        count += 1
        if wanted.bytes > 0 and spans_are_nocase(element, wanted):
            is_named[0] = True
    return count > 0


cdef void directive_take(DirectiveReader *reader, uint32_t says, Span argument,
                         bint is_whole) noexcept nogil:
    # One element of Cache-Control. argument.at NULL: none; is_whole False: it is not well-formed.
    cdef Directives *out = reader.out
    if says & SAYS_NUMBERS:
        # The first occurrence counts (RFC 9111 §4.2.1). One that is no number counts as 0: stale.
        if out.seen & says:
            return
        out.seen |= says
        if says == SAYS_MAX_STALE and argument.at == NULL and is_whole:
            out.max_stale_s = 0xffffffff
        elif not is_whole or not delta_read(argument, directive_number(out, says)):
            directive_number(out, says)[0] = 0
    elif not is_whole and says & SAYS_PERMITTING:
        return
    elif says & (SAYS_NO_CACHE | SAYS_PRIVATE) and argument.at != NULL and is_whole \
            and not reader.is_request:
        if names_read(argument, reader.wanted, &reader.is_named):
            out.seen |= says << 1
        else:
            out.seen |= says
    else:
        out.seen |= says


cdef const uint8_t *argument_take(const uint8_t *at, const uint8_t *end, Span *argument,
                                  bint *is_whole) noexcept nogil:
    # at: behind "=". token / quoted-string; gives what follows.
    cdef const uint8_t *stop
    if at < end and at[0] == c'"':
        stop = quote_close(at + 1, end)
        if stop == NULL:
            is_whole[0] = False
            return at + 1
        argument[0] = span_of(at + 1, stop - at - 1)
        return stop + 1
    stop = scan_class(at, end, CLASS_TOKEN)
    argument[0] = span_of(at, stop - at)
    if stop == at:
        is_whole[0] = False
    return stop


cdef void cache_control_read(Span line, DirectiveReader *reader) noexcept nogil:
    # RFC 9111 §5.2: #( token [ "=" ( token / quoted-string ) ] ). An element that is not of this
    # form ends at the next comma, whatever quotes are there: it still restricts, but permits
    # nothing.
    cdef const uint8_t *at = line.at
    cdef const uint8_t *end = line.at + line.bytes
    cdef const uint8_t *stop
    cdef Span argument
    cdef uint32_t says
    cdef bint is_whole
    while at < end:
        if at[0] == c"," or byte_is_space(at[0]):
            at += 1
            continue
        stop = scan_class(at, end, CLASS_TOKEN)
        says = directive_find(span_of(at, stop - at)) & reader.allowed
        at = stop
        argument = span_of(NULL, 0)
        is_whole = True
        if at < end and at[0] == c"=":
            at = argument_take(at + 1, end, &argument, &is_whole)
        while at < end and byte_is_space(at[0]):
            at += 1
        while at < end and at[0] != c",":
            is_whole = False
            at += 1
        if says != 0:
            directive_take(reader, says, argument, is_whole)


cdef void reader_begin(DirectiveReader *reader, Directives *out, bint is_request,
                       Span wanted) noexcept nogil:
    memset(reader, 0, sizeof(DirectiveReader))
    memset(out, 0, sizeof(Directives))
    reader.out = out
    reader.is_request = is_request
    reader.allowed = SAYS_OF_REQUESTS if is_request else SAYS_OF_RESPONSES
    reader.wanted = wanted


# ---- structured fields (RFC 9651 §4.2) ----
#
# Each function gets the place where its item begins and gives the first byte behind it, or NULL:
# malformed, and with it the whole field.

cdef inline bint sf_key_byte(uint8_t byte) noexcept nogil:
    return c"a" <= byte <= c"z" or classes[byte] & CLASS_DIGIT or byte == c"_" or byte == c"-" \
        or byte == c"." or byte == c"*"


cdef inline const uint8_t *sf_spaces(const uint8_t *at, const uint8_t *end) noexcept nogil:
    while at < end and at[0] == c" ":
        at += 1
    return at


cdef const uint8_t *sf_key(const uint8_t *at, const uint8_t *end, Span *key) noexcept nogil:
    cdef const uint8_t *start = at
    if at == end or not (c"a" <= at[0] <= c"z" or at[0] == c"*"):
        return NULL
    while at < end and sf_key_byte(at[0]):
        at += 1
    key[0] = span_of(start, at - start)
    return at


cdef const uint8_t *sf_number(const uint8_t *at, const uint8_t *end, SfItem *item) noexcept nogil:
    # At most 15 digits; as a decimal 12 before the point and 1 to 3 behind it.
    cdef const uint8_t *digits
    cdef const uint8_t *stop
    cdef int64_t sign = 1
    if at[0] == c"-":
        sign = -1
        at += 1
    digits = at
    stop = scan_class(at, end, CLASS_DIGIT)
    if stop == digits or stop - digits > 15:
        return NULL
    item.kind = SF_INTEGER
    item.number = 0
    while at < stop:
        item.number = item.number * 10 + at[0] - 48
        at += 1
    item.number *= sign
    if at == end or at[0] != c".":
        return at
    item.kind = SF_OTHER
    stop = scan_class(at + 1, end, CLASS_DIGIT)
    if at - digits > 12 or stop == at + 1 or stop - at > 4:
        return NULL
    return stop


cdef const uint8_t *sf_string(const uint8_t *at, const uint8_t *end, SfItem *item) noexcept nogil:
    # item.text keeps its backslashes.
    cdef const uint8_t *start = at + 1
    at = start
    while at < end and at[0] != c'"':
        if at[0] == c"\\":
            at += 1
            if at == end or (at[0] != c'"' and at[0] != c"\\"):
                return NULL
        elif not 0x20 <= at[0] <= 0x7e:
            return NULL
        at += 1
    if at == end:
        return NULL
    item.kind = SF_STRING
    item.text = span_of(start, at - start)
    return at + 1


cdef const uint8_t *sf_token(const uint8_t *at, const uint8_t *end, SfItem *item) noexcept nogil:
    cdef const uint8_t *start = at
    while at < end and (classes[at[0]] & CLASS_TOKEN or at[0] == c":" or at[0] == c"/"):
        at += 1
    item.kind = SF_TOKEN
    item.text = span_of(start, at - start)
    return at


cdef const uint8_t *sf_bytes(const uint8_t *at, const uint8_t *end, SfItem *item) noexcept nogil:
    # ":" base64 ":". Missing padding is forgiven (RFC 9651 §4.2.7), misplaced padding is not.
    cdef uint32_t pads = 0
    at += 1
    while at < end and at[0] != c":":
        if at[0] == c"=":
            pads += 1
        elif pads > 0 or not ((at[0] | 0x20) - 97 < 26 and (at[0] | 0x20) >= 97
                              or classes[at[0]] & CLASS_DIGIT or at[0] == c"+" or at[0] == c"/"):
            return NULL
        at += 1
    if at == end or pads > 2:
        return NULL
    item.kind = SF_OTHER
    return at + 1


cdef bint utf8_step(uint8_t byte, uint32_t *left, uint8_t *low, uint8_t *high) noexcept nogil:
    # Takes the next byte of a UTF-8 text: left more belong to the character, the next of them
    # within low and high (no overlong form, no surrogate, nothing above U+10FFFF).
    if left[0] > 0:
        if not low[0] <= byte <= high[0]:
            return False
        left[0] -= 1
    elif byte < 0x80:
        return True
    elif 0xc2 <= byte <= 0xf4:
        left[0] = 1 if byte < 0xe0 else 2 if byte < 0xf0 else 3
        low[0] = 0xa0 if byte == 0xe0 else 0x90 if byte == 0xf0 else 0x80
        high[0] = 0x9f if byte == 0xed else 0x8f if byte == 0xf4 else 0xbf
        return True
    else:
        return False
    low[0] = 0x80
    high[0] = 0xbf
    return True


cdef inline bint lower_hex(uint8_t byte) noexcept nogil:
    return classes[byte] & CLASS_HEX and not c"A" <= byte <= c"F"


cdef const uint8_t *sf_display(const uint8_t *at, const uint8_t *end,
                               SfItem *item) noexcept nogil:
    # %"..." with escapes of two lower-case digits; UTF-8 once they are taken out.
    cdef uint32_t left = 0
    cdef uint8_t low = 0x80
    cdef uint8_t high = 0xbf
    cdef uint8_t byte
    at += 1
    if at == end or at[0] != c'"':
        return NULL
    at += 1
    while at < end and at[0] != c'"':
        byte = at[0]
        if not 0x20 <= byte <= 0x7e:
            return NULL
        if byte == c"%":
            if end - at < 3 or not lower_hex(at[1]) or not lower_hex(at[2]):
                return NULL
            byte = <uint8_t> (hex_value(at[1]) << 4 | hex_value(at[2]))
            at += 2
        if not utf8_step(byte, &left, &low, &high):
            return NULL
        at += 1
    if at == end or left > 0:
        return NULL
    item.kind = SF_OTHER
    return at + 1


cdef const uint8_t *sf_bare(const uint8_t *at, const uint8_t *end, SfItem *item) noexcept nogil:
    if at == end:
        return NULL
    if at[0] == c"-" or classes[at[0]] & CLASS_DIGIT:
        return sf_number(at, end, item)
    if at[0] == c'"':
        return sf_string(at, end, item)
    if at[0] == c"*" or c"a" <= (at[0] | 0x20) <= c"z":
        return sf_token(at, end, item)
    if at[0] == c":":
        return sf_bytes(at, end, item)
    if at[0] == c"%":
        return sf_display(at, end, item)
    if at[0] == c"?":
        if end - at < 2 or (at[1] != c"0" and at[1] != c"1"):
            return NULL
        item.kind = SF_BOOLEAN
        item.number = at[1] - 48
        return at + 2
    if at[0] == c"@" and end - at > 1 and (at[1] == c"-" or classes[at[1]] & CLASS_DIGIT):
        at = sf_number(at + 1, end, item)
        if at == NULL or item.kind != SF_INTEGER:
            return NULL
        item.kind = SF_OTHER
        return at
    return NULL


cdef const uint8_t *sf_parameters(const uint8_t *at, const uint8_t *end) noexcept nogil:
    # Checked and passed over.
    cdef Span key
    cdef SfItem item
    while at < end and at[0] == c";":
        at = sf_key(sf_spaces(at + 1, end), end, &key)
        if at != NULL and at < end and at[0] == c"=":
            at = sf_bare(at + 1, end, &item)
        if at == NULL:
            return NULL
    return at


cdef const uint8_t *sf_inner(const uint8_t *at, const uint8_t *end, SfItem *item) noexcept nogil:
    # Item or inner list, with its parameters. item.text of a list: all that stands in it.
    cdef const uint8_t *start = at + 1
    cdef SfItem member
    if at == end or at[0] != c"(":
        at = sf_bare(at, end, item)
        return at if at == NULL else sf_parameters(at, end)
    at = start
    while True:
        at = sf_spaces(at, end)
        if at < end and at[0] == c")":
            break
        at = sf_bare(at, end, &member)
        if at != NULL:
            at = sf_parameters(at, end)
        if at == NULL or at == end or (at[0] != c" " and at[0] != c")"):
            return NULL
    item.kind = SF_INNER_LIST
    item.text = span_of(start, at - start)
    return sf_parameters(at + 1, end)


cdef const uint8_t *sf_comma(const uint8_t *at, const uint8_t *end) noexcept nogil:
    # Between members of a list: gives the next one, or end. A comma with nothing behind it is
    # malformed.
    while at < end and byte_is_space(at[0]):
        at += 1
    if at == end:
        return end
    if at[0] != c",":
        return NULL
    at += 1
    while at < end and byte_is_space(at[0]):
        at += 1
    return at if at < end else NULL


cdef bint sf_names_read(const SfItem *item, Span wanted, bint *is_named) noexcept nogil:
    # Field names as a string or token (with commas, as in Cache-Control), or as an inner list of
    # them. False: something else, or nothing.
    cdef const uint8_t *at = item.text.at
    cdef const uint8_t *end = at + item.text.bytes
    cdef SfItem member
    cdef uint32_t count = 0
    if item.kind == SF_STRING or item.kind == SF_TOKEN:
        return names_read(item.text, wanted, is_named)
    if item.kind != SF_INNER_LIST:
        return False
    while True:
        at = sf_spaces(at, end)
        if at == end:
            return count > 0
        at = sf_bare(at, end, &member)
        if at == NULL or (member.kind != SF_STRING and member.kind != SF_TOKEN) \
                or not names_read(member.text, wanted, is_named):
            return False
        at = sf_parameters(at, end)
        if at == NULL:
            return False
        count += 1


cdef void sf_directive_take(DirectiveReader *reader, Span key, const SfItem *item) noexcept nogil:
    # The last of several members with one key counts (RFC 9651 §4.2.2), also when its value is of
    # the wrong type, so that the directive is ignored (RFC 9213 §2.1).
    cdef uint32_t says = directive_find(key) & reader.allowed
    cdef Directives *out = reader.out
    cdef bint is_named = False
    cdef int64_t number
    if says == 0:
        return
    out.seen &= ~says
    if says & SAYS_NUMBERS:
        number = 0
        if item.kind == SF_INTEGER and item.number >= 0:
            out.seen |= says
            number = min(item.number, <int64_t> DELTA_MAX)
        directive_number(out, says)[0] = <uint32_t> number
        return
    if says & (SAYS_NO_CACHE | SAYS_PRIVATE):
        out.seen &= ~(says << 1)
        if item.kind != SF_BOOLEAN and item.kind != SF_INTEGER and item.kind != SF_OTHER:
            if sf_names_read(item, reader.wanted, &is_named):
                out.seen |= says << 1
            else:
                out.seen |= says
        if says == SAYS_NO_CACHE:
            reader.is_named_no_cache = is_named
        else:
            reader.is_named_private = is_named
    if item.kind == SF_BOOLEAN and item.number == 1:
        out.seen |= says


cdef int sf_dictionary_read(Span line, DirectiveReader *reader) noexcept nogil:
    # The count of members, or -1: malformed.
    cdef const uint8_t *at = line.at
    cdef const uint8_t *end = line.at + line.bytes
    cdef Span key
    cdef SfItem item
    cdef int count = 0
    while at < end:
        at = sf_key(at, end, &key)
        if at == NULL:
            return -1
        if at < end and at[0] == c"=":
            at = sf_inner(at + 1, end, &item)
        else:
            item.kind = SF_BOOLEAN
            item.number = 1
            at = sf_parameters(at, end)
        if at == NULL:
            return -1
        sf_directive_take(reader, key, &item)
        count += 1
        at = sf_comma(at, end)
        if at == NULL:
            return -1
    return count
