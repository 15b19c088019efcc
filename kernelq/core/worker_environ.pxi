# From a REQUEST record to the environ of WSGI (PEP 3333).
#
# Facts: most values of a request equal those of an earlier one with the same fields in the same
# order (its *shape*: one kind of client, roughly). So each shape keeps a ready environ, its
# *proto*, and the str that stands there for each field: a request's environ is a copy of the proto,
# one allocation and no hashing, and only what differs is set. Comparing bytes is several times
# cheaper than making a str. The proto follows the traffic: every fourth value that differs replaces
# the one it has.
#
# Rules: field names with "_" were dropped by the core: HTTP_X_Y can only come from X-Y. The field
# Proxy never enters (CVE-2016-5385: programs take HTTP_PROXY for their own configuration).
# CONTENT_LENGTH comes from the core's count alone, and HTTP_TRANSFER_ENCODING only with content
# whose length the core does not know either.

cdef enum:
    CACHED_BYTES = 512             # longest value kept in a proto
    SHAPE_FIELDS = 64              # fields of a request that its shape looks at
    SHAPE_SLOTS = 16               # shapes remembered, a power of two
    NAME_SLOTS = 128               # unknown field names remembered, a power of two
    PORT_SLOTS = 256               # remote ports remembered, a power of two
    # keys that fit into an environ before it has to grow (two thirds of 64)
    ENVIRON_ROOM = 42

ctypedef struct NameSlot:
    PyObject *wire                 # bytes, as sent; NULL: empty
    PyObject *environ              # str, or None: this name never enters the environ
    PyObject *value                # the last one

ctypedef struct PortSlot:
    uint32_t port
    PyObject *text

cdef enum:                         # parts of a shape
    PART_METHOD = 0
    PART_REMOTE = 1
    PART_SERVER = 2
    PART_TARGET = 3
    PART_PATH = 4
    PART_QUERY = 5
    PART_SCRIPT = 6
    PART_FIELDS = 7
    SHAPE_PARTS = PART_FIELDS + SHAPE_FIELDS

ctypedef struct Shape:
    PyObject *proto                # dict; NULL: empty slot
    PyObject *texts[SHAPE_PARTS]   # what the proto has for each part; NULL: nothing yet
    uint32_t misses
    uint32_t script_bytes
    uint16_t server_port
    uint8_t version_minor
    uint8_t is_https
    uint8_t count
    uint8_t known[SHAPE_FIELDS]

cdef str KEY_METHOD = "REQUEST_METHOD"
cdef str KEY_SCRIPT = "SCRIPT_NAME"
cdef str KEY_PATH = "PATH_INFO"
cdef str KEY_QUERY = "QUERY_STRING"
cdef str KEY_TARGET = "REQUEST_URI"
cdef str KEY_RAW_TARGET = "RAW_URI"
cdef str KEY_PROTOCOL = "SERVER_PROTOCOL"
cdef str KEY_SERVER = "SERVER_NAME"
cdef str KEY_SERVER_PORT = "SERVER_PORT"
cdef str KEY_REMOTE = "REMOTE_ADDR"
cdef str KEY_REMOTE_PORT = "REMOTE_PORT"
cdef str KEY_INPUT = "wsgi.input"
cdef str KEY_CONTENT_LENGTH = "CONTENT_LENGTH"
cdef tuple FIELD_KEYS = tuple([
    sys.intern(field_names[known].environ[:field_names[known].environ_bytes].decode("ascii"))
    for known in range(FIELD_COUNT)])

cdef uint8_t FIELD_IS_ODD[256]     # known: no shape holds it


cdef int odd_fields_fill() except -1:
    cdef int known
    for known in range(256):
        FIELD_IS_ODD[known] = known in (0, FIELD_CONTENT_LENGTH, FIELD_TRANSFER_ENCODING) or (
            known >= FIELD_COUNT)
    return 0


odd_fields_fill()


cdef inline bint text_is(PyObject *text, const uint8_t *at, size_t bytes) noexcept:
    # text: NULL or a str made by decode_latin1().
    return (text != NULL and <size_t> PyUnicode_GET_LENGTH(<object> text) == bytes
            and memcmp(PyUnicode_DATA(<object> text), at, bytes) == 0)


cdef inline object text_cached(PyObject **slot, const uint8_t *at, size_t bytes):
    # The str of these bytes, which is kept for the next time.
    cdef object text
    if text_is(slot[0], at, bytes):
        return <object> slot[0]
    text = PyUnicode_DecodeLatin1(<const char *> at, <Py_ssize_t> bytes, NULL)
    if bytes <= CACHED_BYTES:
        Py_INCREF(text)
        Py_XDECREF(slot[0])
        slot[0] = <PyObject *> text
    return text


cdef inline object port_text(PortSlot *slots, uint32_t port):
    cdef PortSlot *slot = &slots[port & (PORT_SLOTS - 1)]
    cdef object text
    if likely(slot.text != NULL and slot.port == port):
        return <object> slot.text
    text = str(port)
    Py_INCREF(text)
    Py_XDECREF(slot.text)
    slot.text = <PyObject *> text
    slot.port = port
    return text


cdef inline uint32_t name_slot(const uint8_t *name, size_t bytes) noexcept nogil:
    return (<uint32_t> bytes * 31 + name[0] * 7 + name[bytes - 1] * 13 + name[bytes >> 1] * 3) & (
        NAME_SLOTS - 1)


cdef object environ_key(bytes wire):
    # None: a field of this name never enters the environ.
    cdef str key = "HTTP_" + wire.decode("latin-1").upper().replace("-", "_")
    return None if key == "HTTP_PROXY" else sys.intern(key)


cdef int field_join(dict environ, object key, object value, str between) except -1:
    # A field that came before: its values are one list (RFC 9110 §5.3).
    environ[key] = environ[key] + between + value
    return 0


cdef dict template_make(dict base, str scheme):
    # Key by key: update() would replace the room that was made.
    cdef dict template = __Pyx_PyDict_NewPresized(ENVIRON_ROOM)
    for key, value in base.items():
        template[key] = value
    template["wsgi.url_scheme"] = scheme
    template[KEY_SCRIPT] = ""
    return template


cdef inline int shape_set(Shape *shape, dict environ, int part, object key, const uint8_t *at,
                          size_t bytes) except -1:
    # environ[key], a copy of the proto, becomes these bytes.
    if likely(text_is(shape.texts[part], at, bytes)):
        return 0
    return shape_renew(shape, environ, part, key, at, bytes)


cdef int shape_renew(Shape *shape, dict environ, int part, object key, const uint8_t *at,
                     size_t bytes) except -1:
    cdef object text = PyUnicode_DecodeLatin1(<const char *> at, <Py_ssize_t> bytes, NULL)
    PyDict_SetItem(environ, key, text)
    shape.misses += 1
    if bytes > CACHED_BYTES or (shape.texts[part] != NULL and shape.misses & 3):
        return 0
    PyDict_SetItem(<dict> shape.proto, key, text)
    Py_INCREF(text)
    Py_XDECREF(shape.texts[part])
    shape.texts[part] = <PyObject *> text
    return 0


cdef int target_renew(Shape *shape, dict environ, const uint8_t *at, size_t bytes) except -1:
    # The target stands there under two names.
    cdef dict proto = <dict> shape.proto
    shape_renew(shape, environ, PART_TARGET, KEY_TARGET, at, bytes)
    PyDict_SetItem(environ, KEY_RAW_TARGET, environ[KEY_TARGET])
    if KEY_TARGET in proto:
        PyDict_SetItem(proto, KEY_RAW_TARGET, proto[KEY_TARGET])
    return 0


cdef inline bint shape_is(const Shape *shape, const RequestRecord *record,
                          const FieldEntry *entries, uint32_t count) noexcept nogil:
    cdef uint32_t index
    if (shape.proto == NULL or shape.count != count or shape.is_https != record.is_https
            or shape.version_minor != record.version_minor
            or shape.server_port != record.server_port
            or shape.script_bytes != record.script_bytes):
        return False
    for index in range(count):
        if shape.known[index] != entries[index].known:
            return False
    return True


@cython.final
@cython.no_gc
cdef class EnvironMaker:
    # Makes environs for one application in one serving thread; its caches are its own.
    cdef dict plain                # templates
    cdef dict secure
    cdef Shape shapes[SHAPE_SLOTS]
    cdef NameSlot names[NAME_SLOTS]
    cdef PortSlot ports[PORT_SLOTS]

    def __cinit__(self, dict base):
        self.plain = template_make(base, "http")
        self.secure = template_make(base, "https")

    def __dealloc__(self):
        cdef int index
        for index in range(SHAPE_SLOTS):
            self.drop_shape(&self.shapes[index])
        for index in range(NAME_SLOTS):
            Py_XDECREF(self.names[index].wire)
            Py_XDECREF(self.names[index].environ)
            Py_XDECREF(self.names[index].value)
        for index in range(PORT_SLOTS):
            Py_XDECREF(self.ports[index].text)

    cdef void drop_shape(self, Shape *shape) noexcept:
        cdef int index
        for index in range(SHAPE_PARTS):
            Py_XDECREF(shape.texts[index])
        Py_XDECREF(shape.proto)
        memset(shape, 0, sizeof(Shape))

    cdef inline Shape *find_shape(self, const RequestRecord *record,
                                  const FieldEntry *entries) except NULL:
        cdef uint32_t count = min(<uint32_t> record.field_count, <uint32_t> SHAPE_FIELDS)
        cdef uint32_t hashed = count, index
        cdef Shape *shape
        for index in range(count):
            hashed = hashed * 31 + entries[index].known
        shape = &self.shapes[(hashed ^ hashed >> 8) & (SHAPE_SLOTS - 1)]
        if unlikely(not shape_is(shape, record, entries, count)):
            self.begin_shape(shape, record, entries, count)
        return shape

    cdef int begin_shape(self, Shape *shape, const RequestRecord *record,
                         const FieldEntry *entries, uint32_t count) except -1:
        cdef uint32_t index
        cdef uint32_t port = record.server_port
        self.drop_shape(shape)
        proto = PyDict_Copy(self.secure if record.is_https else self.plain)
        proto[KEY_PROTOCOL] = "HTTP/1.1" if record.version_minor else "HTTP/1.0"
        if port == 0:
            port = 443 if record.is_https else 80
        proto[KEY_SERVER_PORT] = str(port)
        for index in range(count):
            shape.known[index] = entries[index].known
        shape.count = count
        shape.is_https = record.is_https
        shape.version_minor = record.version_minor
        shape.server_port = record.server_port
        shape.script_bytes = record.script_bytes
        Py_INCREF(proto)
        shape.proto = <PyObject *> proto
        return 0

    cdef dict make(self, const RequestRecord *record, object content):
        # The record's lengths have been checked by record_texts_end().
        cdef const FieldEntry *entries = <const FieldEntry *> (record + 1)
        cdef const uint8_t *at = <const uint8_t *> (entries + record.field_count)
        cdef Shape *shape = self.find_shape(record, entries)
        cdef dict environ = PyDict_Copy(<dict> shape.proto)
        shape_set(shape, environ, PART_METHOD, KEY_METHOD, at, record.method_bytes)
        at += record.method_bytes
        shape_set(shape, environ, PART_REMOTE, KEY_REMOTE, at, record.remote_bytes)
        at += record.remote_bytes
        if likely(record.remote_port):
            PyDict_SetItem(environ, KEY_REMOTE_PORT, port_text(self.ports, record.remote_port))
        if likely(record.server_bytes):
            shape_set(shape, environ, PART_SERVER, KEY_SERVER, at, record.server_bytes)
        else:
            PyDict_SetItem(environ, KEY_SERVER, "localhost")  # PEP 3333: never empty
        at += record.server_bytes
        if unlikely(not text_is(shape.texts[PART_TARGET], at, record.target_bytes)):
            target_renew(shape, environ, at, record.target_bytes)
        at += record.target_bytes
        if unlikely(record.script_bytes > 0):
            shape_set(shape, environ, PART_SCRIPT, KEY_SCRIPT, at, record.script_bytes)
        shape_set(shape, environ, PART_PATH, KEY_PATH, at + record.script_bytes,
                  record.path_bytes - record.script_bytes)
        at += record.path_bytes
        shape_set(shape, environ, PART_QUERY, KEY_QUERY, at, record.query_bytes)
        at += record.query_bytes
        if unlikely(content is not None):
            PyDict_SetItem(environ, KEY_INPUT, content)
        if unlikely(record.content_length > 0):
            PyDict_SetItem(environ, KEY_CONTENT_LENGTH, str(record.content_length))
        self.set_fields(environ, record, shape, entries, at)
        return environ

    cdef int set_fields(self, dict environ, const RequestRecord *record, Shape *shape,
                        const FieldEntry *entries, const uint8_t *at) except -1:
        cdef uint64_t seen = 0
        cdef const FieldEntry *entry
        cdef uint32_t index
        cdef uint8_t known
        for index in range(record.field_count):
            entry = &entries[index]
            known = entry.known
            if likely(index < SHAPE_FIELDS and not FIELD_IS_ODD[known]
                      and not seen & field_bit(known)):
                shape_set(shape, environ, PART_FIELDS + index,
                          <object> PyTuple_GET_ITEM(FIELD_KEYS, known), at, entry.value_bytes)
            else:
                self.set_odd(environ, record, entry, at, (seen & field_bit(known)) != 0)
            seen |= field_bit(known)
            at += entry.name_bytes + entry.value_bytes
        return 0

    cdef int set_odd(self, dict environ, const RequestRecord *record, const FieldEntry *entry,
                     const uint8_t *at, bint is_repeated) except -1:
        # A field that no proto can hold: not known, repeated, or dependent on more than its value.
        cdef uint8_t known = entry.known
        cdef object key, text
        if known == 0 or known >= FIELD_COUNT:
            return self.set_unknown(environ, entry, at)
        if known == FIELD_CONTENT_LENGTH:
            if record.content_length == 0:
                PyDict_SetItem(environ, KEY_CONTENT_LENGTH, "0")
            return 0
        if known == FIELD_TRANSFER_ENCODING and not (
                record.head.flags & FLAG_CONTENT_STREAMED and record.content_length < 0):
            return 0
        key = <object> PyTuple_GET_ITEM(FIELD_KEYS, known)
        text = PyUnicode_DecodeLatin1(
            <const char *> at + entry.name_bytes, <Py_ssize_t> entry.value_bytes, NULL)
        if is_repeated:
            return field_join(environ, key, text, "; " if known == FIELD_COOKIE else ", ")
        PyDict_SetItem(environ, key, text)
        return 0

    cdef int set_unknown(self, dict environ, const FieldEntry *entry,
                         const uint8_t *at) except -1:
        cdef NameSlot *slot
        cdef bytes wire
        cdef object key
        if entry.name_bytes == 0:
            return 0
        slot = &self.names[name_slot(at, entry.name_bytes)]
        if not (slot.wire != NULL and PyBytes_GET_SIZE(<object> slot.wire) == entry.name_bytes
                and memcmp(PyBytes_AS_STRING(<object> slot.wire), at, entry.name_bytes) == 0):
            wire = PyBytes_FromStringAndSize(<const char *> at, entry.name_bytes)
            key = environ_key(wire)
            Py_INCREF(wire)
            Py_INCREF(key)
            Py_XDECREF(slot.wire)
            Py_XDECREF(slot.environ)
            slot.wire = <PyObject *> wire
            slot.environ = <PyObject *> key
        key = <object> slot.environ
        if key is None:
            return 0
        text = text_cached(&slot.value, at + entry.name_bytes, entry.value_bytes)
        if key in environ:
            return field_join(environ, key, text, ", ")
        PyDict_SetItem(environ, key, text)
        return 0
