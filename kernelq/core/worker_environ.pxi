# From a REQUEST record to the environ of WSGI (PEP 3333).
#
# Facts: most values of a request equal those of an earlier one: the Host, the client's name for
# itself, what it accepts. Comparing bytes is several times cheaper than making a str, so each known
# field, and the path, keeps its last str (not longer than CACHED_BYTES). Field names that are not
# known keep theirs in a small table. The environ starts as a copy of a template that has room for
# all keys: a copy is one allocation and no hashing.
#
# Rules: field names with "_" were dropped by the core: HTTP_X_Y can only come from X-Y. The field
# Proxy never enters (CVE-2016-5385: programs take HTTP_PROXY for their own configuration).
# CONTENT_LENGTH comes from the core's count alone, and HTTP_TRANSFER_ENCODING only with content
# whose length the core does not know either.

cdef enum:
    CACHED_BYTES = 512             # longest value kept for comparison
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

cdef str KEY_METHOD = "REQUEST_METHOD"
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
cdef tuple PROTOCOLS = ("HTTP/1.0", "HTTP/1.1")
cdef tuple FIELD_KEYS = tuple([
    sys.intern(field_names[known].environ[:field_names[known].environ_bytes].decode("ascii"))
    for known in range(FIELD_COUNT)])


cdef inline bint text_is(PyObject *text, const uint8_t *at, size_t bytes) noexcept:
    # text: NULL or a str made by decode_latin1().
    return (text != NULL and <size_t> PyUnicode_GET_LENGTH(<object> text) == bytes
            and memcmp(PyUnicode_DATA(<object> text), at, bytes) == 0)


cdef inline object text_cached(PyObject **slot, const uint8_t *at, size_t bytes):
    # The str of these bytes, and whether the last request had the same.
    if likely(text_is(slot[0], at, bytes)):
        return <object> slot[0]
    return text_renew(slot, at, bytes)


cdef object text_renew(PyObject **slot, const uint8_t *at, size_t bytes):
    cdef object text = PyUnicode_DecodeLatin1(<const char *> at, <Py_ssize_t> bytes, NULL)
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


@cython.final
@cython.no_gc
cdef class EnvironMaker:
    # Makes environs for one serving thread; its caches are its own.
    cdef dict plain                # templates
    cdef dict secure
    cdef PyObject *fields[64]      # by known: the last value; likewise the next ones
    cdef PyObject *path
    cdef PyObject *query
    cdef PyObject *target
    cdef PyObject *method
    cdef PyObject *server
    cdef PyObject *remote
    cdef NameSlot names[NAME_SLOTS]
    cdef PortSlot ports[PORT_SLOTS]

    def __cinit__(self, dict base):
        self.plain = __Pyx_PyDict_NewPresized(ENVIRON_ROOM)
        self.plain.update(base)
        self.plain["wsgi.url_scheme"] = "http"
        self.plain["SCRIPT_NAME"] = ""
        self.secure = self.plain.copy()
        self.secure["wsgi.url_scheme"] = "https"

    def __dealloc__(self):
        cdef int index
        for index in range(64):
            Py_XDECREF(self.fields[index])
        for index in range(NAME_SLOTS):
            Py_XDECREF(self.names[index].wire)
            Py_XDECREF(self.names[index].environ)
            Py_XDECREF(self.names[index].value)
        for index in range(PORT_SLOTS):
            Py_XDECREF(self.ports[index].text)
        Py_XDECREF(self.path)
        Py_XDECREF(self.query)
        Py_XDECREF(self.target)
        Py_XDECREF(self.method)
        Py_XDECREF(self.server)
        Py_XDECREF(self.remote)

    cdef dict make(self, const RequestRecord *record, object content):
        # The record's lengths have been checked by request_content().
        cdef const FieldEntry *entries = <const FieldEntry *> (record + 1)
        cdef const uint8_t *at = <const uint8_t *> (entries + record.field_count)
        cdef dict environ = PyDict_Copy(self.secure if record.is_https else self.plain)
        cdef object text
        PyDict_SetItem(environ, KEY_METHOD, text_cached(&self.method, at, record.method_bytes))
        at += record.method_bytes
        PyDict_SetItem(environ, KEY_REMOTE, text_cached(&self.remote, at, record.remote_bytes))
        at += record.remote_bytes
        if record.remote_port:
            PyDict_SetItem(environ, KEY_REMOTE_PORT, port_text(self.ports, record.remote_port))
        self.set_server(environ, record, at)
        at += record.server_bytes
        text = text_cached(&self.target, at, record.target_bytes)
        PyDict_SetItem(environ, KEY_TARGET, text)
        PyDict_SetItem(environ, KEY_RAW_TARGET, text)
        at += record.target_bytes
        PyDict_SetItem(environ, KEY_PATH, text_cached(&self.path, at, record.path_bytes))
        at += record.path_bytes
        PyDict_SetItem(environ, KEY_QUERY, text_cached(&self.query, at, record.query_bytes))
        at += record.query_bytes
        PyDict_SetItem(environ, KEY_PROTOCOL, PROTOCOLS[1 if record.version_minor else 0])
        if content is not None:
            PyDict_SetItem(environ, KEY_INPUT, content)
        if record.content_length > 0:
            PyDict_SetItem(environ, KEY_CONTENT_LENGTH, str(record.content_length))
        self.set_fields(environ, record, entries, at)
        return environ

    cdef int set_server(self, dict environ, const RequestRecord *record,
                        const uint8_t *at) except -1:
        # PEP 3333: neither SERVER_NAME nor SERVER_PORT is ever empty.
        cdef uint32_t port = record.server_port
        if likely(record.server_bytes > 0):
            PyDict_SetItem(environ, KEY_SERVER, text_cached(&self.server, at, record.server_bytes))
        else:
            PyDict_SetItem(environ, KEY_SERVER, "localhost")
        if unlikely(port == 0):
            port = 443 if record.is_https else 80
        PyDict_SetItem(environ, KEY_SERVER_PORT, port_text(self.ports, port))
        return 0

    cdef int set_fields(self, dict environ, const RequestRecord *record,
                        const FieldEntry *entries, const uint8_t *at) except -1:
        cdef uint64_t seen = 0
        cdef const FieldEntry *entry
        cdef uint32_t index
        cdef uint8_t known
        cdef object key
        for index in range(record.field_count):
            entry = &entries[index]
            known = entry.known
            if unlikely(known == 0 or known >= FIELD_COUNT):
                self.set_unknown(environ, entry, at)
            elif known == FIELD_CONTENT_LENGTH:
                if record.content_length == 0:
                    PyDict_SetItem(environ, KEY_CONTENT_LENGTH, "0")
            elif known == FIELD_TRANSFER_ENCODING and not (
                    record.head.flags & FLAG_CONTENT_STREAMED and record.content_length < 0):
                pass
            else:
                key = <object> PyTuple_GET_ITEM(FIELD_KEYS, known)
                text = text_cached(&self.fields[known], at + entry.name_bytes, entry.value_bytes)
                if unlikely(seen & field_bit(known)):
                    field_join(environ, key, text, "; " if known == FIELD_COOKIE else ", ")
                else:
                    PyDict_SetItem(environ, key, text)
                seen |= field_bit(known)
            at += entry.name_bytes + entry.value_bytes
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
