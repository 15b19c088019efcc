# cython: freethreading_compatible = False
"""The worker process's side: takes requests from the core and runs a WSGI application.

Parts, bottom up:
  worker_link      memory, records and bells of the channel            (no Python)
  worker_lead      which thread reads the rings; control records       (no Python)
  worker_call      calls of the core                                   (no Python)
  worker_environ   REQUEST record -> environ
  worker_input     wsgi.input
  worker_streams   wsgi.errors, wsgi.file_wrapper
  worker_response  start_response(), write(), content -> response ring
  worker_serve     a serving thread: one request after the other
  worker_channel   the door: Channel

Nothing of the listener is loaded here, and nothing of asyncio.
"""

import io
import os
import sys
import threading
import weakref

import kernelq
from kernelq import log as error_log
from kernelq.errors import StartError

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_Check,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.dict cimport PyDict_Copy, PyDict_SetItem
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.list cimport PyList_CheckExact
from cpython.number cimport PyNumber_AsSsize_t
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport (
    PyUnicode_Check,
    PyUnicode_CheckExact,
    PyUnicode_DATA,
    PyUnicode_DecodeLatin1,
    PyUnicode_GET_LENGTH,
    PyUnicode_KIND,
)
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from kernelq.core cimport atomic, linux, thread
from kernelq.core.bug cimport FAULT, likely, unlikely
from kernelq.core.fields cimport (
    FIELD_CONTENT_LENGTH,
    FIELD_COOKIE,
    FIELD_COUNT,
    FIELD_TRANSFER_ENCODING,
    field_bit,
    field_names,
)
from kernelq.core.http1 cimport METHOD_HEAD
from kernelq.core.layout cimport (
    CALL_FLAG_RECURSIVE,
    CALL_FLUSH,
    CALL_FLUSH_GROUP,
    CALL_TEXT_MAX,
    CALLS_MAX,
    FLAG_CONTENT_INLINE,
    FLAG_CONTENT_SPILLED,
    FLAG_CONTENT_STREAMED,
    FLAG_CUT,
    FLAG_END,
    LAYOUT_MAGIC,
    LAYOUT_VERSION,
    LOOPS_MAX,
    OWNER_CORE,
    OWNER_WORKER,
    PLACES_AT,
    PLACES_MAX,
    RECORD_CALL,
    RECORD_CLIENT_GONE,
    RECORD_CONSUMED,
    RECORD_CONTENT,
    RECORD_DATA,
    RECORD_DRAIN,
    RECORD_END,
    RECORD_FILE,
    RECORD_HEAD,
    RECORD_PING,
    RECORD_PONG,
    RECORD_READY,
    RECORD_RELEASED,
    RECORD_REPLY,
    RECORD_REQUEST,
    RECORD_SKIPPED,
    REPLY_DONE,
    REPLY_INVALID,
    REPLY_NO_MEMORY,
    CallRecord,
    ChannelHead,
    CoreLane,
    FieldEntry,
    FileRecord,
    NumberRecord,
    RecordHead,
    ReplyRecord,
    RequestRecord,
    ResponseRecord,
    SideMessage,
    WorkerLane,
    align8,
    lane_at,
    memory_bytes,
    ring_at,
)
from kernelq.core.link cimport *
from kernelq.core.spin cimport spin_is_worth, spin_note_end, spin_note_wait
from kernelq.core.ring cimport (
    RING_BROKEN,
    RING_EMPTY,
    ring_claim,
    ring_has_record,
    ring_peek,
    ring_publish,
    ring_release,
)

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *one, const char *other, size_t bytes)

cdef extern from "Python.h":
    ctypedef struct SequenceSlots "PySequenceMethods":
        void *sq_length
    ctypedef struct MappingSlots "PyMappingMethods":
        void *mp_length
    ctypedef struct TypeSlots "PyTypeObject":
        SequenceSlots *tp_as_sequence
        MappingSlots *tp_as_mapping
    TypeSlots *type_slots "Py_TYPE"(object subject)

cdef extern from *:
    dict __Pyx_PyDict_NewPresized(Py_ssize_t keys)
    Py_ssize_t references_of "Py_REFCNT"(PyObject *subject)

include "core/worker_link.pxi"
include "core/worker_lead.pxi"
include "core/worker_call.pxi"
include "core/worker_environ.pxi"
include "core/worker_input.pxi"
include "core/worker_streams.pxi"
include "core/worker_response.pxi"
include "core/worker_serve.pxi"
include "core/worker_channel.pxi"
