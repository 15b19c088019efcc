"""What is too large for the text of a message goes in a sealed memfd: whoever receives it finds it
complete, and nobody changes it any more.
"""

import errno
import os
import stat

BYTES_MAX = 256 * 1024 * 1024
TEXT_BYTES_MAX = 16 * 1024 * 1024

_MFD_NOEXEC_SEAL = 0x8  # since Linux 6.3, which may insist on it (vm.memfd_noexec = 2)


def create(name: str) -> int:
    """A descriptor of an empty memfd that nobody can execute and anybody can seal; OSError."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError as found:
        if found.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)


def put(name: str, data: bytes) -> int:
    """A descriptor of a memfd that holds the data; the caller's to pass on and close. OSError."""
    import fcntl

    descriptor = create(name)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
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
