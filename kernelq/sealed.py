"""What is too large for the text of a message goes in a sealed memfd: whoever receives it finds it
complete, and nobody changes it any more.
"""

import fcntl
import os
import stat

BYTES_MAX = 256 * 1024 * 1024
TEXT_BYTES_MAX = 16 * 1024 * 1024


def put(name: str, data: bytes) -> int:
    """A descriptor of a memfd that holds the data; the caller's to pass on and close. OSError."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def take(descriptor: int, most: int = BYTES_MAX) -> bytes:
    """What it holds; closes it. ValueError when it is more than this, OSError when it is no file.
    Who does not trust the sender must not rely on its being sealed: what is read is a copy.
    """
    try:
        status = os.fstat(descriptor)
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file")
        if size > most:
            raise ValueError(f"{size} bytes are more than a message may have")
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)
