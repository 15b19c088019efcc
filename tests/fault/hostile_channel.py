"""A worker's end of the channel, by hand: every byte that a worker can write, and nothing checked.

Offsets and records are those of kernelq/core/layout.pxd; here they are written out once more, so
that a worker that knows nothing of the project's code can be played.
"""

import fcntl
import mmap
import os
import select
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

MAGIC = 0x31514C454E52454B
PAGE = 4096
PLACES_AT = 128
LANES_AT = 2 * PAGE
LANE_BYTES = 192

REQUEST, CONTENT, CLIENT_GONE = 1, 2, 3
REPLY = 7
READY, SKIPPED, HEAD, INTERIM, DATA, FILE, END, CONSUMED, PONG = range(32, 41)
CALL = 43
CALL_FLUSH, CALL_FLUSH_GROUP, CALLS_MAX, CALL_TEXT_MAX = 1, 2, 64, 36864
FLAG_END, FLAG_CUT, FLAG_INLINE, FLAG_SPILLED, FLAG_STREAMED = 1, 2, 4, 8, 16
OWNER_WORKER = 2

CHANNEL_HEAD = struct.Struct("<QIIQIIIIIIIIQ")
RECORD_HEAD = struct.Struct("<IBBHQ")
REQUEST_REST = struct.Struct("<IBBBBHHHHHHIIII4xq")
RESPONSE_REST = struct.Struct("<HHHHIIq")
CALL_REST = struct.Struct("<QIIII")
REPLY_REST = struct.Struct("<QQI4x")
FIELD_ENTRY = struct.Struct("<BBHI")
SIDE_MESSAGE = struct.Struct("<QII")

F_ADD_SEALS, F_GET_SEALS = 1033, 1034
SEAL_SEAL, SEAL_SHRINK, SEAL_GROW, SEAL_WRITE, SEAL_FUTURE_WRITE = 1, 2, 4, 8, 16
ALL_SEALS = SEAL_SEAL | SEAL_SHRINK | SEAL_GROW | SEAL_FUTURE_WRITE


class Head(NamedTuple):
    magic: int
    version: int
    owner: int
    bytes: int
    loop_count: int
    ring_bytes: int
    slot_count: int
    place_count: int
    response_window: int
    content_window: int
    creator_pid: int
    reserved: int
    epoch: int


class Request(NamedTuple):
    loop: int
    place: int
    dispatch: int
    flags: int
    target: str
    content_length: int
    application: int = 0


def align8(count: int) -> int:
    return (count + 7) & ~7


def lane_at(loop: int) -> int:
    return LANES_AT + loop * LANE_BYTES


def ring_at(head: Head, loop: int) -> int:
    rings_at = (lane_at(head.loop_count) + PAGE - 1) & ~(PAGE - 1)
    return rings_at + loop * head.ring_bytes


def record(kind: int, place: int, dispatch: int, rest: bytes = b"", flags: int = 0) -> bytes:
    count = RECORD_HEAD.size + len(rest)
    return RECORD_HEAD.pack(count, kind, flags, place & 0xFFFF, dispatch & 2**64 - 1) + rest


def response(
    place: int,
    dispatch: int,
    status: int = 200,
    fields: Sequence[tuple[bytes, bytes]] = (),
    content: bytes = b"",
    *,
    reason: bytes = b"OK",
    content_length: int = -1,
    flags: int = FLAG_END,
) -> bytes:
    """A HEAD record."""
    rest = RESPONSE_REST.pack(status, len(fields), len(reason), 0, len(content), 0, content_length)
    rest += b"".join(FIELD_ENTRY.pack(0, 0, len(name), len(value)) for name, value in fields)
    rest += reason + b"".join(name + value for name, value in fields)
    if content:
        rest = rest.ljust(align8(len(rest)), b"\0") + content
    return record(HEAD, place, dispatch, rest, flags)


def call(
    number: int,
    operation: int = CALL_FLUSH,
    first: bytes = b"",
    second: bytes = b"",
    flags: int = 0,
) -> bytes:
    rest = CALL_REST.pack(number & 2**64 - 1, operation, flags, len(first), len(second))
    return record(CALL, 0, 0, rest + first + second)


def read_request(data: bytes, loop: int) -> Request:
    """What a REQUEST record says, as far as a test wants to know it."""
    _, _, flags, place, dispatch = RECORD_HEAD.unpack_from(data)
    rest = REQUEST_REST.unpack_from(data, RECORD_HEAD.size)
    field_count, method, remote, server, target = rest[5], rest[6], rest[7], rest[8], rest[11]
    at = RECORD_HEAD.size + REQUEST_REST.size + field_count * FIELD_ENTRY.size
    at += method + remote + server
    text = data[at : at + target].decode("latin-1")
    return Request(loop, place, dispatch, flags, text, rest[-1], rest[0])


def requests_in(memory: bytes | mmap.mmap) -> list[Request]:
    """Every request that stands in the core's memory of a channel whose rings never wrapped."""
    head = Head(*CHANNEL_HEAD.unpack_from(memory))
    found = []
    for loop in range(head.loop_count):
        (published,) = struct.unpack_from("<Q", memory, lane_at(loop))
        position = max(0, published - head.ring_bytes)
        if position:
            raise ValueError("the ring has wrapped")
        while position < published:
            at = ring_at(head, loop) + position
            count, kind = struct.unpack_from("<IB", memory, at)
            if kind == REQUEST:
                found.append(read_request(memory[at : at + count], loop))
            position += align8(count)
    return found


class RawChannel:
    """The descriptors of a worker, mapped. `own` is all that the worker may write."""

    def __init__(self, fds: Sequence[int]) -> None:
        self.core_fd, self.own_fd, side, *bells = fds
        self.side = socket.socket(fileno=side)
        self.doorbells = bells[0::2]
        self.bells = bells[1::2]
        self.core = mmap.mmap(self.core_fd, 0, prot=mmap.PROT_READ)
        self.own = mmap.mmap(self.own_fd, 0)
        self.words = memoryview(self.own).cast("Q")
        self.head = Head(*CHANNEL_HEAD.unpack_from(self.core))
        self.published = [0] * self.head.loop_count
        self.released = [0] * self.head.loop_count
        self.held: list[Request] = []
        self.replies: list[tuple[int, int, int, int]] = []  # loop, number, value, status

    # -- opening ---------------------------------------------------------------------------------

    def write_head(self, **changes: int) -> None:
        limits = {"magic": 2**64 - 1, "bytes": 2**64 - 1, "epoch": 2**64 - 1}
        changes = {name: value & limits.get(name, 2**32 - 1) for name, value in changes.items()}
        head = self.head._replace(owner=OWNER_WORKER, creator_pid=os.getpid())._replace(**changes)
        self.own[: CHANNEL_HEAD.size] = CHANNEL_HEAD.pack(*head)

    def seal(self, seals: int = ALL_SEALS) -> None:
        fcntl.fcntl(self.own_fd, F_ADD_SEALS, seals)

    def is_sealed(self) -> bool:
        return fcntl.fcntl(self.own_fd, F_GET_SEALS) & ALL_SEALS == ALL_SEALS

    def ready(self) -> None:
        self.put(0, record(READY, 0, 0))

    def open(self) -> None:
        """As an honest worker does."""
        self.write_head()
        self.seal()
        self.ready()

    def close(self) -> None:
        self.side.close()
        for fd in (self.core_fd, self.own_fd, *self.doorbells, *self.bells):
            os.close(fd)

    # -- words -----------------------------------------------------------------------------------

    def core_word(self, at: int) -> int:
        return struct.unpack_from("<Q", self.core, at)[0]

    def write_word(self, at: int, value: int) -> None:
        self.words[at // 8] = value & 2**64 - 1

    def armed(self) -> list[int]:
        """Of each loop: odd while it wants to be rung."""
        words = [self.core_word(lane_at(loop) + 128) for loop in range(self.head.loop_count)]
        return [word & 0xFFFFFFFF for word in words]

    def start(self, request: Request) -> None:
        self.write_word(PLACES_AT + 8 * request.place, request.dispatch)

    def is_revoked(self, request: Request) -> bool:
        return self.core_word(PLACES_AT + 8 * request.place) == request.dispatch

    # -- records ---------------------------------------------------------------------------------

    def write_ring(self, loop: int, data: bytes) -> None:
        """Bytes behind what is published, cut to a ring."""
        start = ring_at(self.head, loop)
        offset = self.published[loop] % self.head.ring_bytes
        data = data[: self.head.ring_bytes]
        first = data[: self.head.ring_bytes - offset]
        self.own[start + offset : start + offset + len(first)] = first
        rest = data[len(first) :]
        self.own[start : start + len(rest)] = rest

    def put(self, loop: int, data: bytes, ring: bool = True) -> None:
        self.write_ring(loop, data)
        self.published[loop] += align8(len(data))
        self.write_word(lane_at(loop), self.published[loop])
        if ring:
            self.ring(loop)

    def answer(self, request: Request, data: bytes) -> None:
        """To the loop that owns the exchange."""
        self.put(request.dispatch & 0xFF, data)

    def ring(self, loop: int) -> None:
        try:
            os.eventfd_write(self.bells[loop], 1)
        except BlockingIOError:
            pass

    def has_room(self, loop: int, count: int) -> bool:
        released = self.core_word(lane_at(loop) + 64)
        return self.head.ring_bytes - (self.published[loop] - released) >= count + 8

    def wait_read(self, loop: int, limit_ms: int) -> None:
        """Until the core has read what was put, or limit_ms have passed."""
        poll = select.poll()
        for _ in range(limit_ms):
            if self.core_word(lane_at(loop) + 64) == self.published[loop]:
                return
            poll.poll(1)

    # -- requests --------------------------------------------------------------------------------

    def take(self, wait_ms: int = 0) -> None:
        """New requests into `held`; sleeps for some, armed, if there is none."""
        if self._take_all() or not wait_ms:
            return
        for loop in range(self.head.loop_count):
            self.own[lane_at(loop) + 128] = self.own[lane_at(loop) + 128] + 1 & 0x7F | 1
        poll = select.poll()
        for fd in self.doorbells:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(wait_ms):
            os.read(fd, 512)
        for loop in range(self.head.loop_count):
            self.own[lane_at(loop) + 128] += 1
        self._take_all()

    def _take_all(self) -> bool:
        before = len(self.held)
        for loop in range(self.head.loop_count):
            self._take_lane(loop)
        return len(self.held) > before

    def _take_lane(self, loop: int) -> None:
        published = self.core_word(lane_at(loop))
        while self.released[loop] < published:
            count, kind = struct.unpack("<IB", self._read_ring(loop, 5))
            if kind == REQUEST:
                self.held.append(read_request(self._read_ring(loop, count), loop))
            elif kind == REPLY:
                rest = self._read_ring(loop, count)[RECORD_HEAD.size :]
                self.replies.append((loop, *REPLY_REST.unpack(rest)))
            self.released[loop] += align8(count)
        self.write_word(lane_at(loop) + 64, self.released[loop])

    def _read_ring(self, loop: int, count: int) -> bytes:
        start = ring_at(self.head, loop)
        offset = self.released[loop] % self.head.ring_bytes
        first = self.core[start + offset : start + min(offset + count, self.head.ring_bytes)]
        return first + self.core[start : start + count - len(first)]

    # -- descriptors -----------------------------------------------------------------------------

    def send_fds(self, dispatch: int, fds: Sequence[int], kind: int = FILE) -> None:
        self.send_side(SIDE_MESSAGE.pack(dispatch & 2**64 - 1, 0, kind), fds)

    def send_side(self, message: bytes, fds: Sequence[int]) -> None:
        try:
            socket.send_fds(self.side, [message], list(fds), socket.MSG_DONTWAIT)
        except OSError:
            pass  # full, or closed: there is nothing to be held against
