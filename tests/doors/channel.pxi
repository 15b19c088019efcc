# A stand-in for the core's end of a channel: makes the memory as the core does, hands over
# requests, takes answers.

import os
import select
import socket
import threading

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from kernelq.core cimport atomic, linux
from kernelq.core cimport thread as threads
from kernelq.core.fields cimport field_find
from kernelq.core.layout cimport (
    FLAG_CONTENT_INLINE,
    LAYOUT_MAGIC,
    LAYOUT_VERSION,
    LOOPS_MAX,
    OWNER_CORE,
    PLACES_AT,
    RECORD_DATA,
    RECORD_END,
    RECORD_FILE,
    RECORD_HEAD,
    RECORD_REPLY,
    RECORD_REQUEST,
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
from kernelq.core.ring cimport (
    RING_RECORD,
    RingReader,
    RingWriter,
    ring_claim,
    ring_has_record,
    ring_peek,
    ring_publish,
    ring_release,
)

RECORDS = {
    "REQUEST": 1, "CONTENT": 2, "CLIENT_GONE": 3, "RELEASED": 4, "PING": 5, "DRAIN": 6, "REPLY": 7,
    "READY": 32, "SKIPPED": 33, "HEAD": 34, "INTERIM": 35, "DATA": 36, "FILE": 37, "END": 38,
    "CONSUMED": 39, "PONG": 40, "CALL": 43,
}
RECORD_NAMES = {number: name for name, number in RECORDS.items()}
METHOD_IDS = {"GET": 1, "HEAD": 2, "POST": 3, "PUT": 4, "DELETE": 5, "OPTIONS": 6}

ctypedef struct FakeLane:
    RingWriter requests
    RingReader answers
    CoreLane *own
    const WorkerLane *peer
    uint32_t rung_for
    uint64_t rung


cdef class FakeCore:
    """One worker's channel, as the core has it."""

    cdef readonly uint32_t loop_count, ring_bytes, slot_count, place_count
    cdef int core_fd, worker_fd
    cdef uint8_t *memory
    cdef const uint8_t *peer_memory
    cdef uint64_t head_bytes
    cdef FakeLane lanes[LOOPS_MAX]
    cdef readonly uint64_t serial
    cdef readonly object side_socket
    cdef readonly list doorbells, bells, worker_fds
    cdef readonly dict dispatches

    def __init__(self, loops=1, slots=4, prefetch=0, ring_bytes=1 << 18, response_window=1 << 20,
                 content_window=1 << 18, version=None):
        cdef ChannelHead *head
        self.loop_count = loops
        self.slot_count = slots
        self.place_count = slots + prefetch
        self.ring_bytes = ring_bytes
        self.dispatches = {}
        bytes = memory_bytes(loops, ring_bytes)
        self.core_fd = linux.memfd(b"fake-core")
        self.worker_fd = linux.memfd(b"fake-worker")
        os.ftruncate(self.core_fd, bytes)
        os.ftruncate(self.worker_fd, bytes)
        self.head_bytes = ring_at(loops, ring_bytes, 0)
        self.memory = <uint8_t *> linux.map_whole(self.core_fd, self.head_bytes, True)
        head = <ChannelHead *> self.memory
        head.magic = LAYOUT_MAGIC
        head.version = LAYOUT_VERSION if version is None else version
        head.owner = OWNER_CORE
        head.bytes = bytes
        head.loop_count = loops
        head.ring_bytes = ring_bytes
        head.slot_count = slots
        head.place_count = slots + prefetch
        head.response_window = response_window
        head.content_window = content_window
        head.creator_pid = os.getpid()
        head.epoch = 7
        self.make_lanes()
        if linux.seal(self.core_fd) != 0:
            raise OSError("seal")
        self.make_fds()

    cdef int make_lanes(self) except -1:
        cdef uint32_t loop
        cdef FakeLane *lane
        for loop in range(self.loop_count):
            lane = &self.lanes[loop]
            lane.own = <CoreLane *> (self.memory + lane_at(loop))
            lane.requests.at = <uint8_t *> linux.map_twice(
                self.core_fd, ring_at(self.loop_count, self.ring_bytes, loop), self.ring_bytes,
                True)
            lane.requests.bytes = self.ring_bytes
            lane.requests.published = &lane.own.request_published
        return 0

    cdef int make_fds(self) except -1:
        self.side_socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.doorbells = []
        self.bells = []
        self.worker_fds = [os.dup(self.core_fd), os.dup(self.worker_fd), other.detach()]
        for _ in range(self.loop_count):
            reading, writing = os.pipe()
            os.set_blocking(writing, False)
            self.doorbells.append(writing)
            bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self.bells.append(bell)
            self.worker_fds += [reading, os.dup(bell)]
        return 0

    def is_sealed(self):
        """Whether the worker has sealed its memory."""
        return bool(linux.is_sealed(self.worker_fd))

    def attach(self):
        """Look at the worker's memory: it must have been sealed."""
        cdef uint32_t loop
        cdef FakeLane *lane
        if not linux.is_sealed(self.worker_fd):
            raise ValueError("the worker's memory is not sealed")
        self.peer_memory = <const uint8_t *> linux.map_whole(self.worker_fd, self.head_bytes, False)
        for loop in range(self.loop_count):
            lane = &self.lanes[loop]
            lane.peer = <const WorkerLane *> (self.peer_memory + lane_at(loop))
            lane.requests.released = &lane.peer.request_released
            lane.answers.at = <const uint8_t *> linux.map_twice(
                self.worker_fd, ring_at(self.loop_count, self.ring_bytes, loop), self.ring_bytes,
                False)
            lane.answers.bytes = self.ring_bytes
            lane.answers.published = &lane.peer.response_published
            lane.answers.released = &lane.own.response_released

    def worker_head(self):
        """The head of the worker's memory."""
        cdef const ChannelHead *head = <const ChannelHead *> self.peer_memory
        return {"magic": head.magic, "version": head.version, "owner": head.owner,
                "bytes": head.bytes, "loop_count": head.loop_count, "ring_bytes": head.ring_bytes,
                "creator_pid": head.creator_pid}

    def close_doorbells(self):
        """As if the core had died."""
        for fd in self.doorbells:
            os.close(fd)
        self.doorbells = []

    def close(self):
        """Give everything back."""
        cdef uint32_t loop
        self.close_doorbells()
        for fd in self.bells:
            os.close(fd)
        self.side_socket.close()
        for loop in range(self.loop_count):
            linux.munmap(self.lanes[loop].requests.at, self.ring_bytes * 2)
            if self.peer_memory != NULL:
                linux.munmap(<void *> self.lanes[loop].answers.at, self.ring_bytes * 2)
        linux.munmap(self.memory, self.head_bytes)
        if self.peer_memory != NULL:
            linux.munmap(<void *> self.peer_memory, self.head_bytes)
        os.close(self.core_fd)
        os.close(self.worker_fd)

    # -- towards the worker ------------------------------------------------------------------------

    def next_dispatch(self, int loop=0):
        """A dispatch that was never used before, of an exchange that loop owns."""
        self.serial += 1
        return self.serial << 8 | loop

    def put(self, bytes record, int ring=0, ring_it=True):
        """Publish a record; False: no room now."""
        cdef FakeLane *lane = &self.lanes[ring]
        cdef uint8_t *at
        cdef uint32_t size = len(record)
        at = ring_claim(&lane.requests, size, 0)
        if at == NULL:
            return False
        memcpy(at, <const char *> record, size)
        ring_publish(&lane.requests, size)
        if ring_it:
            self.ring(ring)
        return True

    def ring(self, int loop):
        """Ring the worker if it sleeps."""
        cdef FakeLane *lane = &self.lanes[loop]
        cdef uint32_t armed
        if lane.peer == NULL:
            return False
        atomic.fence_seq()
        armed = atomic.load_relaxed_u32(&lane.peer.armed)
        if armed & 1 and armed != lane.rung_for:
            lane.rung_for = armed
            lane.rung += 1
            os.write(self.doorbells[loop], b"1")
            return True
        return False

    def rung(self, int loop=0):
        """How often the worker was rung."""
        return self.lanes[loop].rung

    def worker_armed(self, int loop=0):
        """The worker's hint: odd while it sleeps, or is about to."""
        return atomic.load_acquire_u32(&self.lanes[loop].peer.armed)

    def arm(self, int loop=0):
        """Say that the core sleeps (odd) or does not; returns the counter."""
        cdef FakeLane *lane = &self.lanes[loop]
        atomic.store_seq_u32(&lane.own.armed, lane.own.armed + 1)
        return lane.own.armed

    def revoke(self, int place, uint64_t dispatch):
        """Take a request back; True: the worker had started it."""
        atomic.store_relaxed(<uint64_t *> (self.memory + PLACES_AT) + place, dispatch)
        atomic.fence_seq()
        return self.started(place) == dispatch

    def started(self, int place):
        """The dispatch that the worker started last at this place."""
        return atomic.load_relaxed(<const uint64_t *> (self.peer_memory + PLACES_AT) + place)

    def send_fd(self, uint64_t dispatch, int place, int kind, int fd):
        """A descriptor over the side socket."""
        cdef SideMessage message
        memset(&message, 0, sizeof(message))
        message.dispatch = dispatch
        message.place = place
        message.kind = kind
        if linux.send_fd(self.side_socket.fileno(), &message, sizeof(message), fd) < 0:
            raise OSError("send_fd")

    def receive_fd(self):
        """(dispatch, place, kind, descriptor) that the worker sent, or None."""
        cdef SideMessage message
        cdef int fd
        if linux.receive_fd(self.side_socket.fileno(), &message, sizeof(message), &fd,
                            threads.MSG_DONTWAIT) <= 0:
            return None
        return message.dispatch, message.place, message.kind, fd

    # -- from the worker ---------------------------------------------------------------------------

    def take(self, int loop=0):
        """The next answer as (name, flags, place, dispatch, rest), or None."""
        cdef FakeLane *lane = &self.lanes[loop]
        cdef RecordHead head
        cdef const uint8_t *body
        cdef int outcome = ring_peek(&lane.answers, &head, &body)
        if outcome == 0:
            return None
        if outcome != RING_RECORD:
            raise ValueError("the worker's ring is broken")
        record = PyBytes_FromStringAndSize(<const char *> body, head.bytes)
        ring_release(&lane.answers, head.bytes)
        return (RECORD_NAMES.get(head.kind, head.kind), head.flags, head.place, head.dispatch,
                answer_rest(record))

    def take_any(self):
        """The next answer of any loop, or None."""
        for loop in range(self.loop_count):
            answer = self.take(loop)
            if answer is not None:
                return answer
        return None

    def arm_all(self):
        """Arm all loops, or disarm them."""
        for loop in range(self.loop_count):
            self.arm(loop)
        atomic.fence_seq()

    def wait(self, timeout=20.0):
        """The next answer of any loop; sleeps for it as the core does."""
        answer = self.take_any()
        if answer is not None:
            return answer
        poller = select.epoll()
        for bell in self.bells:
            poller.register(bell, select.EPOLLIN | select.EPOLLET)
        try:
            poller.poll(0)  # what rang before does not count
            while True:
                self.arm_all()
                answer = self.take_any()
                # A bell may ring for what was taken without it.
                was_rung = answer is not None or poller.poll(timeout)
                self.arm_all()
                if answer is None:
                    answer = self.take_any()
                    if not was_rung:
                        raise TimeoutError("no answer" if answer is None else f"not rung: {answer}")
                if answer is not None:
                    return answer
        finally:
            poller.close()

    # -- many requests at once ---------------------------------------------------------------------

    def storm(self, bytes record, int64_t count, uint32_t at_hand, bint sleeps=False):
        """Hand over a request count times, at_hand of them at a time, and take the answers, without
        the GIL: how many answers had FLAG_END without FLAG_CUT."""
        cdef const char *bytes = record
        cdef uint32_t size = len(record)
        cdef int bell = self.bells[0], doorbell = self.doorbells[0]
        cdef int64_t good
        with nogil:
            good = storm_run(&self.lanes[0], bytes, size, count, at_hand, self.place_count,
                             &self.serial, bell if sleeps else -1, doorbell)
        return good


cdef int64_t storm_run(FakeLane *lane, const char *record, uint32_t size, int64_t count,
                       uint32_t at_hand, uint32_t place_count, uint64_t *serial, int bell,
                       int doorbell) noexcept nogil:
    cdef uint16_t free_places[512]
    cdef uint32_t free_count = min(at_hand, place_count)
    cdef uint32_t index, armed
    cdef int64_t handed = 0, answered = 0, good = 0
    cdef RecordHead head
    cdef const uint8_t *body
    cdef uint8_t *at
    cdef bint is_due
    for index in range(free_count):
        free_places[index] = index
    while answered < count:
        is_due = False
        while free_count > 0 and handed < count:
            at = ring_claim(&lane.requests, size, 0)
            if at == NULL:
                break
            memcpy(at, record, size)
            free_count -= 1
            serial[0] += 1
            (<RecordHead *> at).place = free_places[free_count]
            (<RecordHead *> at).dispatch = serial[0] << 8
            ring_publish(&lane.requests, size)
            handed += 1
            is_due = True
        if is_due:
            atomic.fence_seq()
            armed = atomic.load_relaxed_u32(&lane.peer.armed)
            if armed & 1 and armed != lane.rung_for:
                lane.rung_for = armed
                lane.rung += 1
                threads.write(doorbell, b"1", 1)
        while ring_peek(&lane.answers, &head, &body) == RING_RECORD:
            if head.flags & 1:
                answered += 1
                good += 1 if not head.flags & 2 else 0
                free_places[free_count] = head.place
                free_count += 1
            ring_release(&lane.answers, head.bytes)
        if answered < count and not (free_count > 0 and handed < count):
            storm_sleep(lane, bell)
    return good


cdef void storm_sleep(FakeLane *lane, int bell) noexcept nogil:
    cdef uint64_t scrap
    cdef int index
    if bell < 0:
        for index in range(64):
            if ring_has_record(&lane.answers):
                return
            atomic.cpu_relax()
        return
    atomic.store_seq_u32(&lane.own.armed, lane.own.armed + 1)
    atomic.fence_seq()
    while not ring_has_record(&lane.answers):
        if threads.bell_wait(bell) == 0:
            break
    atomic.store_seq_u32(&lane.own.armed, lane.own.armed + 1)


def request_record(uint64_t dispatch, int place=0, method="GET", target="/", path=None, query="",
                   fields=(), bytes content=None, int64_t content_length=0, int flags=0,
                   remote="192.0.2.1", int remote_port=40000, server="example.test",
                   int server_port=80, bint is_https=False, int version_minor=1,
                   uint32_t application=0, script=""):
    """A REQUEST record, as the core writes it."""
    cdef RequestRecord record
    cdef FieldEntry entry
    cdef unsigned known
    memset(&record, 0, sizeof(record))
    texts = [method.encode("latin-1"), remote.encode(), server.encode(), target.encode("latin-1"),
             (script + (target if path is None else path)).encode("latin-1"),
             query.encode("latin-1")]
    entries = []
    for name, value in fields:
        name = name.encode("latin-1")
        value = value.encode("latin-1")
        memset(&entry, 0, sizeof(entry))
        known = field_find(name, len(name))
        entry.known = known
        entry.name_bytes = 0 if known else len(name)
        entry.value_bytes = len(value)
        entries.append((<const char *> &entry)[:sizeof(entry)])
        texts += [b"" if known else name, value]
    record.head.kind = RECORD_REQUEST
    record.head.flags = flags | (FLAG_CONTENT_INLINE if content is not None else 0)
    record.head.place = place
    record.head.dispatch = dispatch
    record.application = application
    record.script_bytes = <uint32_t> len(script)
    record.method_id = METHOD_IDS.get(method, 0)
    record.version_minor = version_minor
    record.is_https = is_https
    record.field_count = len(entries)
    record.method_bytes, record.remote_bytes, record.server_bytes = map(len, texts[:3])
    record.target_bytes, record.path_bytes, record.query_bytes = map(len, texts[3:6])
    record.remote_port = remote_port
    record.server_port = server_port
    record.content_length = len(content) if content is not None else content_length
    rest = b"".join(entries) + b"".join(texts)
    if content is not None:
        rest = rest.ljust(align8(sizeof(record) + len(rest)) - sizeof(record), b"\0") + content
    record.head.bytes = sizeof(record) + len(rest)
    return (<const char *> &record)[:sizeof(record)] + rest


def control_record(name, uint64_t dispatch=0, int place=0, value=None, bytes data=b"", int flags=0):
    """Any other record of the core: with a number, or with data."""
    cdef NumberRecord record
    memset(&record, 0, sizeof(record))
    record.head.kind = RECORDS[name] if isinstance(name, str) else name
    record.head.flags = flags
    record.head.place = place
    record.head.dispatch = dispatch
    record.head.bytes = sizeof(RecordHead) + len(data)
    if value is None:
        return (<const char *> &record)[:sizeof(RecordHead)] + data
    record.head.bytes = sizeof(record)
    record.value = value
    return (<const char *> &record)[:sizeof(record)]


def reply_record(uint64_t number, uint32_t status=0, uint64_t value=0):
    """The answer to a CALL."""
    cdef ReplyRecord record
    memset(&record, 0, sizeof(record))
    record.head.bytes = sizeof(record)
    record.head.kind = RECORD_REPLY
    record.number = number
    record.status = status
    record.value = value
    return (<const char *> &record)[:sizeof(record)]


cdef object answer_call(bytes record):
    # (number, operation, flags, first text, second text)
    cdef const CallRecord *call = <const CallRecord *> <const char *> record
    cdef Py_ssize_t middle = sizeof(CallRecord) + call.first_bytes
    if middle + call.second_bytes != len(record):
        raise ValueError("the lengths of a CALL do not add up")
    return (call.number, call.operation, call.flags, record[sizeof(CallRecord):middle],
            record[middle:])


cdef object answer_rest(bytes record):
    # What an answer says beyond its RecordHead.
    cdef const char *at = record
    cdef const RecordHead *head = <const RecordHead *> at
    if head.kind == RECORD_HEAD:
        return answer_head(record)
    if head.kind == RECORDS["CALL"]:
        return answer_call(record)
    if head.kind == RECORD_FILE:
        return (<const FileRecord *> at).offset, (<const FileRecord *> at).bytes
    if head.kind in (RECORDS["PONG"], RECORDS["CONSUMED"]):
        return (<const NumberRecord *> at).value
    return record[sizeof(RecordHead):]


cdef object answer_head(bytes record):
    # (status, reason, fields, declared content length, content)
    cdef const ResponseRecord *head = <const ResponseRecord *> <const char *> record
    cdef const FieldEntry *entries = <const FieldEntry *> (head + 1)
    cdef uint32_t index
    at = sizeof(ResponseRecord) + head.field_count * sizeof(FieldEntry)
    reason = record[at:at + head.reason_bytes]
    at += head.reason_bytes
    fields = []
    for index in range(head.field_count):
        middle = at + entries[index].name_bytes
        end = middle + entries[index].value_bytes
        fields.append((record[at:middle].decode("latin-1"), record[middle:end].decode("latin-1")))
        at = end
    if head.content_bytes:
        at = align8(at)
    if at + head.content_bytes != head.head.bytes:
        raise ValueError("the lengths of a HEAD do not add up")
    return head.status, reason.decode("latin-1"), fields, head.content_length, record[at:]


# -- the revocation protocol, by two threads -------------------------------------------------------

ctypedef struct Race:
    uint64_t rounds
    uint64_t revoked
    uint64_t started
    uint64_t turn                  # of the other side: both begin a round together
    uint64_t done
    uint64_t *core_saw
    uint64_t *worker_saw


cdef void *race_worker(void *subject) noexcept nogil:
    cdef Race *race = <Race *> subject
    cdef uint64_t number
    for number in range(1, race.rounds + 1):
        while atomic.load_acquire(&race.turn) < number:
            threads.sched_yield()
        atomic.store_relaxed(&race.started, number)
        atomic.fence_seq()
        race.worker_saw[number - 1] = atomic.load_relaxed(&race.revoked) == number
        atomic.store_release(&race.done, number)
    return NULL


def revocation_race(uint64_t rounds):
    """Start and revoke at the same moment, so many times: (neither saw the other, both did)."""
    cdef Race race
    cdef threads.Thread other
    cdef uint64_t number, blind = 0, met = 0
    memset(&race, 0, sizeof(race))
    race.rounds = rounds
    race.core_saw = <uint64_t *> calloc(rounds, sizeof(uint64_t))
    race.worker_saw = <uint64_t *> calloc(rounds, sizeof(uint64_t))
    if threads.thread_start(&other, race_worker, &race) < 0:
        raise RuntimeError("no thread")
    with nogil:
        for number in range(1, rounds + 1):
            atomic.store_release(&race.turn, number)
            atomic.store_relaxed(&race.revoked, number)
            atomic.fence_seq()
            race.core_saw[number - 1] = atomic.load_relaxed(&race.started) == number
            while atomic.load_acquire(&race.done) < number:
                threads.sched_yield()
        threads.thread_join(other, NULL)
        for number in range(rounds):
            blind += not race.core_saw[number] and not race.worker_saw[number]
            met += race.core_saw[number] and race.worker_saw[number]
    free(race.core_saw)
    free(race.worker_saw)
    return blind, met
