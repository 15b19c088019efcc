"""Data and descriptors that do not fit into one message: sent as several of one kind.

The first message carries the data, in a sealed memfd, before its own descriptors; a message's only
number is 1 if it is the last.
"""

import os
from collections.abc import Sequence

from kernelq import sealed
from kernelq.link import Link, Message

_DESCRIPTORS_EACH = 200  # a message takes 250


def send_parcel(link: Link, kind: int, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """OSError when the other end has gone. The descriptors stay the caller's."""
    first = sealed.put("kernelq-parcel", data)
    try:
        left = [first, *descriptors]
        while left:
            part, left = left[:_DESCRIPTORS_EACH], left[_DESCRIPTORS_EACH:]
            link.send(kind, int(not left), descriptors=part)
    finally:
        os.close(first)


class Receiver:
    """Puts a parcel together again."""

    def __init__(self) -> None:
        self._data: bytes | None = None
        self._descriptors: list[int] = []

    def add(self, message: Message) -> tuple[bytes, list[int]] | None:
        """The whole, once its last message has come; then ready for the next parcel."""
        received, message.descriptors = message.descriptors, []
        if self._data is None:
            self._data = sealed.take(received.pop(0))
        self._descriptors += received
        if message.numbers != (1,):
            return None
        whole = self._data, self._descriptors
        self._data, self._descriptors = None, []
        return whole
