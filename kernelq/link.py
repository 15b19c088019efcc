"""Messages between kernelq's own processes, over a SOCK_SEQPACKET socket pair.

A message is a kind, up to eight whole numbers, a short text, and descriptors. The receiver of a
message trusts its form only: what the numbers mean is checked by whoever acts on them.

Facts: a sequenced packet arrives whole or not at all, so there is no framing to get wrong; the end
of the other process is an empty message; descriptors that do not fit are closed by the kernel and
flagged MSG_CTRUNC.
"""

import array
import os
import select
import socket
import struct
from collections.abc import Sequence

NUMBERS_MAX = 8
TEXT_BYTES_MAX = 32768
DESCRIPTORS_MAX = 250  # the kernel's own limit is 253 (SCM_MAX_FD)

_HEAD = struct.Struct("<BB")
_BYTES_MAX = _HEAD.size + 8 * NUMBERS_MAX + TEXT_BYTES_MAX
_DESCRIPTOR_BYTES = array.array("i").itemsize


class Message:
    """One received message. Whoever receives it owns its descriptors."""

    __slots__ = ("descriptors", "kind", "numbers", "text")

    def __init__(
        self, kind: int, numbers: tuple[int, ...], text: str, descriptors: list[int]
    ) -> None:
        self.kind = kind
        self.numbers = numbers
        self.text = text
        self.descriptors = descriptors

    def close_descriptors(self) -> None:
        """Close what came with the message, when nobody wants it."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class Link:
    """One end of a socket pair that carries messages."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def set_blocking(self, blocking: bool) -> None:
        self._socket.setblocking(blocking)

    def is_readable(self) -> bool:
        """Whether a message, or the end, is there."""
        return self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Whether a message, or the end, comes within this time."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def is_ended(self) -> bool:
        """Whether the other end has gone; what it sent before may still be there to receive."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return bool(poll.poll(0))

    def send(
        self, kind: int, *numbers: int, text: str = "", descriptors: Sequence[int] = ()
    ) -> None:
        """Send one message; OSError when the other end has gone."""
        data = _pack(kind, numbers, text)
        if descriptors:
            socket.send_fds(self._socket, [data], list(descriptors), socket.MSG_NOSIGNAL)
        else:
            self._socket.send(data, socket.MSG_NOSIGNAL)

    def try_send(self, kind: int, *numbers: int, text: str = "") -> bool:
        """Send without waiting; False when the other end has gone or does not listen."""
        try:
            data = _pack(kind, numbers, text)
            self._socket.send(data, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def receive(self) -> Message | None:
        """The next message; None at the end of the other process.

        Raises BlockingIOError when the link does not block and nothing is there, ValueError when
        what came is no message.
        """
        room = socket.CMSG_SPACE(DESCRIPTORS_MAX * _DESCRIPTOR_BYTES)
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(
                _BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            return None
        descriptors = _descriptors_of(ancillary)
        if not data:
            return None
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ValueError("a message was cut short")
            return _parse(data, descriptors)
        except ValueError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise


def link_pair() -> tuple[Link, Link]:
    """Two connected links; neither survives an exec unless made inheritable."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Link(one), Link(other)


def link_from(descriptor: int) -> Link:
    """A link over a descriptor that was received or inherited; takes it."""
    return Link(socket.socket(fileno=descriptor))


def _descriptors_of(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % _DESCRIPTOR_BYTES])
            descriptors.extend(numbers)
    return descriptors


def _pack(kind: int, numbers: tuple[int, ...], text: str) -> bytes:
    body = text.encode("utf-8", "replace")[:TEXT_BYTES_MAX]
    return _HEAD.pack(kind, len(numbers)) + struct.pack(f"<{len(numbers)}q", *numbers) + body


def _parse(data: bytes, descriptors: list[int]) -> Message:
    if len(data) < _HEAD.size:
        raise ValueError("a message without a head")
    kind, count = _HEAD.unpack_from(data)
    end = _HEAD.size + 8 * count
    if count > NUMBERS_MAX or len(data) < end:
        raise ValueError("a message without its numbers")
    numbers = struct.unpack_from(f"<{count}q", data, _HEAD.size)
    return Message(kind, numbers, data[end:].decode("utf-8", "replace"), descriptors)
