"""Who is at the other end of a unix socket, as the kernel noted when it was connected."""

import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass

_SO_PEERGROUPS = 59
_SHORT_BYTES = 1024  # the most that socket.getsockopt() takes
_NGROUPS_MAX = 65536

_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid


@dataclass(frozen=True, slots=True)
class Peer:
    """A process, at the time it connected."""

    pid: int
    user: int
    groups: frozenset[int]  # its group and the supplementary ones


def peer_of(sock: socket.socket) -> Peer:
    """OSError when the kernel does not say."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, group = _CREDENTIALS.unpack(data)
    return Peer(pid, user, frozenset([group, *_peer_groups(sock)]))


def _peer_groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _SHORT_BYTES)
    except OSError as found:
        if found.errno != errno.ERANGE:
            return ()  # a kernel that does not know
        data = _many_peer_groups(sock)
    return struct.unpack(f"{len(data) // 4}I", data)


def _many_peer_groups(sock: socket.socket) -> bytes:
    buffer = ctypes.create_string_buffer(_NGROUPS_MAX * 4)
    size = ctypes.c_uint(len(buffer))
    getsockopt = ctypes.CDLL(None, use_errno=True).getsockopt
    if getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(size)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw[: size.value]
