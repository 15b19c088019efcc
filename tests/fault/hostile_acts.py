"""What a hostile worker does: one life of it, made of acts chosen by a seeded random generator.

Mutation is aware of structure: most acts start from a record that an honest worker would send at
that moment, and change something about it. Every record is a mutation, and so is every act without
one; each is waited for until the core has read it: an act behind one that has already cost the
worker its life would test nothing.
"""

import ctypes
import fcntl
import mmap
import os
import platform
import random
import select
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Callable

import hostile_channel as channel
from hostile_channel import RawChannel, Request

READ_WAIT_MS = 3
NUMBERS = [
    *(0, 1, 7, 8, 15, 16, 17, 24, 31, 32, 40, 63, 64, 255, 256, 4095, 4096, 65535, 65536),
    *(131072, 262144, 524287, 524288, 524296, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1),
]
SPLITS = [
    b"a\r\nX-Split: 1",
    b"a\nX-Split: 1",
    b"a\r\n\r\nHTTP/1.1 200 OK\r\nX-Split: 1\r\n\r\n",
    b"a\rX-Split: 1",
    b"\0",
    b"a\x7f",
]


LIBC = ctypes.CDLL(None)
USERFAULTFD = {"x86_64": 323, "aarch64": 282}.get(platform.machine(), -1)
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00


def leave_missing(page: mmap.mmap) -> bool:
    """Whoever touches this page waits for ever. False: we may not."""
    fault = LIBC.syscall(USERFAULTFD, os.O_CLOEXEC)
    if fault < 0:
        return False
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fcntl.ioctl(fault, UFFDIO_API, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))
    fcntl.ioctl(fault, UFFDIO_REGISTER, bytearray(struct.pack("QQQQ", address, len(page), 1, 0)))
    return True


class Breach(Exception):
    """The worker could do what must be impossible."""


class Life:
    """One hostile worker process."""

    def __init__(self, raw: RawChannel, seed: int, count: Callable[[], None]) -> None:
        self.raw = raw
        self.random = random.Random(seed)
        self.count = count
        self.keep: list[object] = []
        self.records = 0

    # -- choosing --------------------------------------------------------------------------------

    def number(self) -> int:
        if self.random.random() < 0.2:
            return self.random.getrandbits(self.random.choice((8, 16, 32, 64)))
        value = self.random.choice(NUMBERS) + self.random.choice((0, 0, 0, -8, -1, 1, 8))
        return value & 2**64 - 1

    def loop(self) -> int:
        return self.random.randrange(self.raw.head.loop_count)

    def request(self) -> Request:
        """One that it was handed, or one that it makes up."""
        if self.raw.held and self.random.random() < 0.9:
            return self.random.choice(self.raw.held[-8:])
        serial = self.random.randrange(40)
        place = self.random.randrange(self.raw.head.place_count)
        return Request(0, place, serial << 8 | self.loop(), 0, "", 0)

    def text(self, most: int = 60) -> bytes:
        if self.random.random() < 0.2:
            return self.random.choice(SPLITS)
        letters = b"abcXYZ019-_ ,;=\t" if self.random.random() < 0.8 else bytes(range(256))
        return bytes(self.random.choices(letters, k=self.random.randrange(most)))

    # -- records ---------------------------------------------------------------------------------

    def valid_record(self) -> bytes:
        """One that would be right for the request it is about, or nearly."""
        request = self.request()
        place, dispatch = request.place, request.dispatch
        content = b"hostile " * self.random.randrange(200)
        fields = [(b"X-Hostile", self.text()) for _ in range(self.random.randrange(4))]
        flags = self.random.choice((0, 0, channel.FLAG_END, channel.FLAG_END, channel.FLAG_CUT))
        choice = self.random.randrange(10)
        if choice == 9:
            return self.call()
        if choice < 4:
            length = self.random.choice((-1, len(content), len(content), 10, 0))
            return channel.response(
                place, dispatch, 200, fields, content, flags=flags, content_length=length
            )
        if choice == 4:
            return channel.record(channel.DATA, place, dispatch, content, flags)
        if choice == 5:
            return channel.record(channel.END, place, dispatch, b"", flags)
        if choice == 6:
            return channel.record(channel.SKIPPED, place, dispatch)
        if choice == 7:
            rest = struct.pack("<Q", self.number())
            kind = self.random.choice((channel.CONSUMED, channel.PONG))
            return channel.record(kind, place, dispatch, rest)
        rest = struct.pack("<QQ", self.number(), self.number())
        return channel.record(channel.FILE, place, dispatch, rest, flags)

    def call(self) -> bytes:
        operation, flags = self.random.choice(((1, 0), (1, 1), (2, 0)))
        second = self.text() if operation == 2 else b""
        return channel.call(self.number(), operation, b"http://h/" + self.text(), second, flags)

    def mutate(self, data: bytes) -> bytes:
        changed = bytearray(data)
        choice = self.random.randrange(8)
        if choice == 0:
            at = self.random.randrange(len(changed))
            changed[at] ^= 1 << self.random.randrange(8)
        elif choice == 1:
            changed[self.random.randrange(len(changed))] = self.random.getrandbits(8)
        elif choice == 2:
            del changed[self.random.randrange(len(changed)) :]
        elif choice == 3:
            changed += self.random.randbytes(self.random.randrange(1, 64))
        elif choice == 4:
            start = self.random.randrange(len(changed))
            changed[start : start + 8] = changed[:8]
        else:
            # A whole number at a place where one stands: heads are full of them.
            size = self.random.choice((1, 2, 4, 8))
            at = self.random.randrange(0, min(len(changed), 48)) // size * size
            value = self.number() & (1 << 8 * size) - 1
            changed[at : at + size] = value.to_bytes(size, "little")
        if len(changed) >= 16 and self.random.random() < 0.6:
            changed[:4] = len(changed).to_bytes(4, "little")
        return bytes(changed)

    def put(self, data: bytes, loop: int | None = None) -> None:
        if not data:
            return
        if loop is None:
            loop = self.loop()
            if len(data) >= 16 and self.random.random() < 0.9:
                loop = data[8] % self.raw.head.loop_count
        if self.raw.has_room(loop, len(data)):
            self.records += 1
            self.count()
            self.raw.put(loop, data)
            self.raw.wait_read(loop, READ_WAIT_MS)

    # -- acts ------------------------------------------------------------------------------------

    def act_answer(self) -> None:
        """Honestly, so that the core believes it for a while."""
        request = self.request()
        self.raw.start(request)
        if self.raw.is_revoked(request):
            self.put(channel.record(channel.SKIPPED, request.place, request.dispatch))
        else:
            fields = [(b"X-Hostile", b"1")]
            self.put(channel.response(request.place, request.dispatch, 200, fields, b"hostile" * 9))
        if request in self.raw.held and self.random.random() < 0.8:
            self.raw.held.remove(request)

    def act_valid(self) -> None:
        self.put(self.valid_record())

    def act_mutated(self) -> None:
        data = self.valid_record()
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            data = self.mutate(data) or b"\0"
        self.put(data)

    def act_twice(self) -> None:
        request = self.request()
        data = channel.response(request.place, request.dispatch, content=b"hostile twice")
        self.put(data)
        self.put(data)

    def act_after_skipped(self) -> None:
        request = self.request()
        self.put(channel.record(channel.SKIPPED, request.place, request.dispatch))
        self.put(channel.response(request.place, request.dispatch, content=b"hostile"))

    def act_head(self) -> None:
        """Response heads of every kind: splits, lengths that lie, odd statuses, many fields."""
        request = self.request()
        count = self.random.choice((0, 1, 2, 5, 60, 900))
        fields = [
            (self.random.choice((b"X-Hostile", b"", self.text(20), b"Content-Length")), self.text())
            for _ in range(count)
        ]
        data = channel.response(
            request.place,
            request.dispatch,
            self.random.choice((200, 204, 304, 100, 199, 0, 999, 1000, 65535, 500)),
            fields,
            b"hostile " * self.random.choice((0, 1, 1000, 12000)),
            reason=self.text(),
            content_length=self.random.choice((-1, 0, 5, 8, 2**40, 2**63 - 1, -2, -(2**63))),
            flags=self.random.choice((0, 1, 2, 3, 255)),
        )
        self.put(data)
        if self.random.random() < 0.5:
            self.put(channel.record(channel.DATA, request.place, request.dispatch, b"hostile", 1))

    def act_calls(self) -> None:
        """Calls that lie about themselves, too many of them, answers that nobody reads."""
        texts = (b"", b"http://h/", bytes(channel.CALL_TEXT_MAX), bytes(channel.CALL_TEXT_MAX + 1))
        first, second = self.random.choice(texts), self.random.choice(texts)
        operation = self.random.choice((0, 1, 1, 2, 3, self.number() & 2**32 - 1))
        self.put(channel.call(self.number(), operation, first, second, self.random.choice((0, 1))))
        for _ in range(self.random.choice((1, 63, 64, 65, 500))):
            loop, data = self.loop(), self.call()
            if not self.raw.has_room(loop, len(data)):
                break
            self.raw.put(loop, data, ring=False)
            self.count()
            self.records += 1
        for loop in range(self.raw.head.loop_count):
            self.raw.ring(loop)
            self.raw.wait_read(loop, READ_WAIT_MS)

    def act_flood(self) -> None:
        """As many records as the ring takes, at once."""
        loop = self.loop()
        room = self.random.choice((2000, 60000, 400000))
        while self.raw.has_room(loop, room) and room > 2000:
            data = self.valid_record()
            if not self.raw.has_room(loop, len(data)):
                break
            self.raw.put(loop, data, ring=False)
            room -= len(data)
        self.raw.ring(loop)
        self.raw.wait_read(loop, READ_WAIT_MS)

    def act_content(self) -> None:
        """Far more content than any window, without waiting for RELEASED."""
        request = self.request()
        flags = self.random.choice((0, channel.FLAG_END))
        self.put(channel.response(request.place, request.dispatch, flags=0))
        block = b"hostile " * self.random.choice((1, 100, 8000))
        for _ in range(self.random.choice((1, 10, 40))):
            self.put(channel.record(channel.DATA, request.place, request.dispatch, block, flags))

    def act_word(self) -> None:
        """A counter, started word or armed counter."""
        head = self.raw.head
        places = [channel.PLACES_AT + 8 * place for place in range(head.place_count)]
        lanes = [
            channel.lane_at(loop) + part for loop in range(head.loop_count) for part in (0, 64, 128)
        ]
        at = self.random.choice(self.random.choice((places, lanes)))
        value = self.number()
        if self.random.random() < 0.5:
            value = self.raw.words[at // 8] + self.random.choice((-16, -8, -1, 1, 8, 16, 64, 4096))
        self.raw.write_word(at, value)
        self.raw.ring(self.loop())

    def act_started(self) -> None:
        """Says started, and not, in turn."""
        request = self.request()
        at = channel.PLACES_AT + 8 * request.place
        for _ in range(self.random.randrange(1, 50)):
            self.raw.write_word(at, request.dispatch)
            self.raw.write_word(at, self.random.choice((0, request.dispatch - 256)))

    def act_scribble(self) -> None:
        """Random bytes somewhere, or everywhere."""
        own = self.raw.own
        if self.random.random() < 0.3:
            for start in range(0, len(own), 65536):
                piece = self.random.randbytes(min(65536, len(own) - start))
                own[start : start + len(piece)] = piece
        else:
            limit = self.random.choice((512, 12288, len(own)))
            for _ in range(self.random.choice((1, 10, 100))):
                own[self.random.randrange(limit)] = self.random.getrandbits(8)
        for loop in range(self.raw.head.loop_count):
            self.raw.ring(loop)

    def act_bells(self) -> None:
        for _ in range(self.random.choice((10, 1000, 5000))):
            self.raw.ring(self.loop())

    def act_fill(self) -> None:
        """The eventfd up to its limit, O_NONBLOCK off wherever possible."""
        for fd in (*self.raw.bells, *self.raw.doorbells, self.raw.side.fileno()):
            os.set_blocking(fd, False)
        for bell in self.raw.bells:
            try:
                os.eventfd_write(bell, 2**64 - 2)
            except BlockingIOError:
                pass
        if self.random.random() < 0.7:
            for fd in (*self.raw.bells, *self.raw.doorbells, self.raw.side.fileno()):
                os.set_blocking(fd, True)
            for fd in (self.raw.core_fd, self.raw.own_fd):
                os.set_blocking(fd, True)
            for bell in self.raw.bells:
                os.set_blocking(bell, False)

    def act_hold(self) -> None:
        """Reads a doorbell into memory that makes the kernel wait, and so holds what locks it can.

        Needs a privilege that tests do not always have.
        """
        page = mmap.mmap(-1, mmap.PAGESIZE)
        if not leave_missing(page):
            return
        self.keep.append(page)
        doorbell = self.random.choice(self.raw.doorbells)
        target = ctypes.byref(ctypes.c_char.from_buffer(page))
        threading.Thread(target=LIBC.read, args=(doorbell, target, 1), daemon=True).start()

    def act_deaf(self) -> None:
        """Closes its doorbells, or one end of the side socket."""
        if self.random.random() < 0.5:
            for fd in self.raw.doorbells:
                os.dup2(self.raw.core_fd, fd)
        else:
            how = self.random.choice((socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR))
            try:
                self.raw.side.shutdown(how)
            except OSError:
                pass

    # -- descriptors -----------------------------------------------------------------------------

    def descriptor(self) -> int:
        """A descriptor, of the wrong kind more often than not; the caller closes it."""
        makers = (
            lambda: os.eventfd(0),
            lambda: os.open("/dev/zero", os.O_RDWR),
            lambda: os.open("/", os.O_RDONLY),
            lambda: os.open("/proc/self/exe", os.O_PATH),
            lambda: os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_WRONLY),
            lambda: os.pidfd_open(os.getpid()),
            lambda: select.epoll().detach() if hasattr(select.epoll, "detach") else os.dup(0),
            lambda: socket.socketpair()[0].detach(),
            lambda: os.pipe()[0],
            self.regular_file,
            self.regular_file,
            lambda: os.dup(self.raw.own_fd),
            lambda: os.dup(self.raw.core_fd),
        )
        return self.random.choice(makers)()

    def regular_file(self) -> int:
        fd = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR)
        os.write(fd, b"hostile " * self.random.choice((0, 1, 100, 20000)))
        if self.random.random() < 0.3:
            os.truncate(fd, 2**24)
        return fd

    def act_descriptors(self) -> None:
        request = self.request()
        count = self.random.choice((0, 1, 1, 1, 2, 8, 9, 60, 253))
        fd = self.descriptor()
        try:
            kind = self.random.choice((channel.FILE, channel.FILE, channel.REQUEST, 0, 999))
            if self.random.random() < 0.8:
                self.raw.send_fds(request.dispatch, [fd] * count, kind)
            else:
                message = self.random.randbytes(self.random.choice((1, 15, 17, 4000)))
                self.raw.send_side(message, [fd] * count)
        finally:
            os.close(fd)

    def act_lingering(self) -> None:
        """A socket whose close() waits: unsent data, nobody reads, SO_LINGER."""
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        client.setblocking(False)
        self.keep += [listener, listener.accept()[0]]
        try:
            while True:
                client.send(bytes(1 << 20))
        except BlockingIOError:
            pass
        count = self.random.choice((1, 1, 2, 20))
        self.raw.send_fds(self.request().dispatch, [client.fileno()] * count)
        client.close()

    def act_file(self) -> None:
        """A file response: offsets and lengths that lie, the file cut off while it is sent."""
        request = self.request()
        place, dispatch = request.place, request.dispatch
        fd = self.regular_file()
        size = os.fstat(fd).st_size
        offset = self.random.choice((0, 0, size // 2, size, size + 5000, 2**62, 2**63))
        count = self.random.choice((size, size, size + 1, 2**62, 0))
        head = channel.response(
            place, dispatch, content_length=self.random.choice((-1, count & 2**62 - 1)), flags=0
        )
        rest = struct.pack("<QQ", offset, count)
        data = channel.record(channel.FILE, place, dispatch, rest, channel.FLAG_END)
        is_late = self.random.random() < 0.5
        self.put(head)
        if not is_late:
            self.raw.send_fds(dispatch, [fd])
        self.put(data)
        if self.random.random() < 0.5:
            os.truncate(fd, self.random.choice((0, size // 2)))
        if is_late and self.random.random() < 0.7:
            self.raw.send_fds(dispatch, [fd])
        os.close(fd)

    # -- what must be impossible -----------------------------------------------------------------

    def act_trespass(self) -> None:
        """Writes where it must not."""
        raw = self.raw
        size = os.fstat(raw.core_fd).st_size
        attempts = (
            lambda: mmap.mmap(raw.core_fd, 0, prot=mmap.PROT_READ | mmap.PROT_WRITE),
            lambda: os.pwrite(raw.core_fd, b"hostile", 0),
            lambda: os.truncate(raw.core_fd, size // 2),
            lambda: os.truncate(raw.core_fd, size * 2),
            lambda: fcntl.fcntl(raw.core_fd, channel.F_ADD_SEALS, channel.SEAL_WRITE),
            lambda: os.posix_fallocate(raw.core_fd, size, 4096),
        )
        if raw.is_sealed():
            attempts += (
                lambda: os.truncate(raw.own_fd, 0),
                lambda: os.truncate(raw.own_fd, size * 2),
            )
        attempt = self.random.choice(attempts)
        try:
            attempt()
        except (OSError, PermissionError):
            return
        raise Breach(f"attempt {attempts.index(attempt)} succeeded")

    def act_hole(self) -> None:
        """Punches its own memory out from under the core."""
        try:
            self.raw.own.madvise(mmap.MADV_REMOVE)
        except OSError:
            return
        if self.raw.is_sealed():
            raise Breach("a hole was punched")

    # -- life ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Opens the channel; not always as it must be done."""
        raw, choice = self.raw, self.random.random()
        if choice < 0.8:
            raw.open()
            return
        openings = (
            lambda: raw.write_head(**{self.random.choice(channel.Head._fields): self.number()}),
            lambda: os.truncate(raw.own_fd, self.random.choice((0, 64, 4096, 8192, 12288))),
            lambda: os.truncate(raw.own_fd, raw.head.bytes * 2),
            lambda: raw.own.madvise(mmap.MADV_REMOVE),
            lambda: self.act_scribble(),
            lambda: raw.ready(),
            lambda: raw.write_head(version=raw.head.version + 1),
        )
        raw.write_head()
        self.random.choice(openings)()
        for bell in range(raw.head.loop_count):
            raw.ring(bell)
        if self.random.random() < 0.8:
            raw.seal(self.random.choice((channel.ALL_SEALS, channel.ALL_SEALS, 1, 2, 6)))
        self.random.choice((raw.ready, self.ready_often, lambda: raw.ring(0)))()

    def ready_often(self) -> None:
        for _ in range(self.random.choice((2, 3000))):
            self.raw.put(self.loop(), channel.record(channel.READY, 0, 0))

    def act_ready(self) -> None:
        self.put(channel.record(channel.READY, 0, 0))

    def live(self) -> None:
        """Ends by returning, by SIGKILL from the core or from itself, or by hanging."""
        self.count()
        try:
            self.begin()
        except (OSError, ValueError):
            pass  # the opening has broken its own memory: go on with what there is
        for _ in range(self.random.choice((1, 3, 10, 30))):
            if self.random.random() < 0.7:
                self.raw.take(self.random.choice((0, 1, 20)))
            act = self.random.choices(ACTS, WEIGHTS)[0]
            before = self.records
            getattr(self, act)()
            if self.records == before:
                self.count()
        if self.random.random() < 0.1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.random.random() < 0.02:
            signal.pause()  # its life is ended by the test


ACTS = [name for name in dir(Life) if name.startswith("act_")]
_RARE = {
    "act_ready": 1,
    "act_hold": 1,
    "act_lingering": 1,
    "act_scribble": 2,
    "act_deaf": 1,
    "act_fill": 1,
}
_OFTEN = {"act_mutated": 14, "act_answer": 10, "act_valid": 6, "act_head": 6, "act_word": 6}
WEIGHTS = [_RARE.get(act) or _OFTEN.get(act, 3) for act in ACTS]
