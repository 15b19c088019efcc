# wsgi.errors and wsgi.file_wrapper.


cdef int error_write(object text) except -1:
    # One write() to the error log, so that the lines of one text stay together; what cannot be
    # written is lost.
    cdef bytes data = text.encode("utf-8", "backslashreplace")
    cdef const char *at = PyBytes_AS_STRING(data)
    cdef size_t left = PyBytes_GET_SIZE(data)
    with nogil:
        thread.write_all(2, at, left)
    return 0


@cython.final
cdef class ErrorStream:
    """`environ["wsgi.errors"]`: a text stream into the error log, whole lines at a time."""

    cdef str held                  # a line under way

    def __cinit__(self):
        self.held = ""

    def write(self, str text not None, /):
        """Write text; what stands behind the last line end waits for its own, or for flush()."""
        cdef Py_ssize_t end = text.rfind("\n") + 1
        if end == 0:
            self.held += text
            return len(text)
        whole = self.held + text[:end]
        self.held = text[end:]
        error_write(whole)
        return len(text)

    def writelines(self, lines, /):
        """Write each of lines."""
        self.write("".join(lines))

    def flush(self):
        """Write what is held back, ending its line."""
        if self.held:
            held = self.held
            self.held = ""
            error_write(held + "\n")

    def writable(self):
        """Tell that the stream can be written to."""
        return True


cdef class FileWrapper:
    """`environ["wsgi.file_wrapper"]`: sends a file, a regular one without reading it."""

    cdef readonly object filelike
    cdef readonly object blksize

    def __init__(self, filelike, blksize=8192):
        self.filelike = filelike
        self.blksize = blksize

    def __iter__(self):
        return self

    def __next__(self):
        data = self.filelike.read(self.blksize)
        if data:
            return data
        raise StopIteration

    def close(self):
        """Close the file, if it can be closed."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()
