# Input whose last byte stands right before an unreadable page: reading one byte too far ends the
# test run.

from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_PRIVATE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

cdef extern from "<sys/mman.h>":
    int mprotect(void *address, size_t bytes, int protection) nogil

cdef enum:
    GUARD_ROOM = 1 << 20
    GUARD_PAGE = 4096


cdef class Guard:
    cdef uint8_t *room

    def __cinit__(self):
        cdef void *room = mmap(NULL, GUARD_ROOM + GUARD_PAGE, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if room == MAP_FAILED:
            raise MemoryError
        self.room = <uint8_t *> room
        if mprotect(self.room + GUARD_ROOM, GUARD_PAGE, PROT_NONE) != 0:
            raise OSError("mprotect")

    def __dealloc__(self):
        if self.room != NULL:
            munmap(self.room, GUARD_ROOM + GUARD_PAGE)

    cdef const uint8_t *place(self, bytes data) except NULL:
        # Valid until the next call.
        if len(data) > GUARD_ROOM:
            raise ValueError("the input is too long for the guarded room")
        cdef uint8_t *at = self.room + GUARD_ROOM - len(data)
        memcpy(at, <const char *> data, len(data))
        return at


cdef Guard guard = Guard()
