# Doors to the cache's store: the calls as Python objects, pins as objects that give them back.

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from kernelq.core.cache_rules cimport FieldView
from kernelq.core.cache_store cimport (
    Body,
    Entry,
    EntryFacts,
    Segment,
    Store,
    StoreSettings,
    StoreWalk,
    body_filled,
    body_pin,
    body_state,
    entry_head,
    entry_key,
    entry_pin,
    entry_vary,
    store_enter,
    store_leave,
    store_serial,
)

PUT_OUTCOMES = {0: "done", 1: "flushed", 2: "full"}
cdef FieldLines NO_FIELDS = FieldLines(())
QUEUE_NAMES = {0: None, 1: "small", 2: "main", 3: "gone"}


cdef class CacheBody:
    """A pin of a Body."""

    cdef CacheStore owner
    cdef Body *body

    def append(self, bytes data):
        return bool(body_append(&self.owner.store, self.body, data, len(data)))

    def finish(self):
        cdef Body *body = body_finish(&self.owner.store, self.body)
        if body != NULL:
            self.body = body
        return body != NULL

    def cut(self):
        body_cut(self.body)

    def read(self, size_t step=0):
        """All that is filled, in the runs that body_run() gives, each at most step bytes."""
        cdef const Segment *from_ = NULL
        cdef uint64_t offset = 0, bytes = 0
        cdef const uint8_t *at = body_run(self.body, &from_, 0, &bytes)
        parts = []
        while bytes > 0:
            if step and bytes > step:
                bytes = step
            parts.append(PyBytes_FromStringAndSize(<const char *> at, bytes))
            offset += bytes
            at = body_run(self.body, &from_, offset, &bytes)
        return b"".join(parts)

    def at(self, uint64_t offset):
        """What body_at() gives."""
        cdef uint64_t bytes = 0
        cdef const uint8_t *at = body_at(self.body, offset, &bytes)
        return PyBytes_FromStringAndSize(<const char *> at, bytes) if bytes else b""

    def pin(self):
        """Another pin."""
        body_pin(self.body)
        return cache_body(self.owner, self.body)

    @property
    def filled(self):
        return body_filled(self.body)

    @property
    def state(self):
        return ("filling", "whole", "cut")[body_state(self.body)]

    @property
    def weight(self):
        return body_weight(self.body)

    @property
    def refs(self):
        return atomic.load_relaxed_u32(&self.body.refs)

    def unpin(self):
        if self.body != NULL:
            body_unpin(&self.owner.store, self.body)
            self.body = NULL

    def __dealloc__(self):
        if self.owner is not None and self.owner.is_open:
            self.unpin()


cdef CacheBody cache_body(CacheStore owner, Body *body):
    cdef CacheBody made = CacheBody()
    made.owner = owner
    made.body = body
    return made


cdef class CacheEntry:
    """A pin of an Entry."""

    cdef CacheStore owner
    cdef Entry *entry

    def text(self):
        """Key, secondary key and head."""
        cdef Entry *entry = self.entry
        return (PyBytes_FromStringAndSize(<const char *> entry_key(entry), entry.key_bytes),
                PyBytes_FromStringAndSize(<const char *> entry_vary(entry), entry.vary_bytes),
                PyBytes_FromStringAndSize(<const char *> entry_head(entry), entry.head_bytes))

    def content(self):
        if self.entry.body == NULL:
            return b""
        body_pin(self.entry.body)
        return cache_body(self.owner, self.entry.body).read()

    def body(self):
        """A pin of its content."""
        body_pin(self.entry.body)
        return cache_body(self.owner, self.entry.body)

    def put(self, uint64_t serial):
        return PUT_OUTCOMES[store_put(&self.owner.store, self.entry, serial)]

    @property
    def queue(self):
        return QUEUE_NAMES[self.entry.queue]

    @property
    def hits(self):
        return self.entry.hits

    @property
    def asked_s(self):
        return self.entry.asked_s

    @property
    def refs(self):
        return atomic.load_relaxed_u32(&self.entry.refs)

    @property
    def weight(self):
        return entry_weight(self.entry)

    @property
    def received_ns(self):
        return self.entry.received_ns

    def unpin(self):
        if self.entry != NULL:
            entry_unpin(&self.owner.store, self.entry)
            self.entry = NULL

    def __dealloc__(self):
        if self.owner is not None and self.owner.is_open:
            self.unpin()


cdef CacheEntry cache_entry(CacheStore owner, Entry *entry):
    cdef CacheEntry made = CacheEntry()
    made.owner = owner
    made.entry = entry
    return made


cdef class CacheStore:
    """A Store. What is not said otherwise is done by loop 0, within its turn."""

    cdef Store store
    cdef bint is_open

    def __init__(self, uint64_t bytes=1 << 26, uint64_t entry_bytes=1 << 18, uint32_t loops=1,
                 uint32_t frequent_hits=1, uint32_t frequent_s=10, uint32_t scavenge_s=0,
                 uint32_t fail_in=0):
        cdef StoreSettings settings
        settings.bytes = bytes
        settings.entry_bytes = entry_bytes
        settings.frequent_hits = frequent_hits
        settings.frequent_s = frequent_s
        settings.scavenge_s = scavenge_s
        global store_fail_in
        store_fail_in = fail_in
        cdef int error = store_init(&self.store, &settings, loops)
        store_fail_in = 0
        self.store.fail_in = 0
        if error < 0:
            raise OSError(-error, "store_init")
        self.is_open = True

    def close(self):
        """The bytes that are left: none, unless something is still pinned."""
        if self.is_open:
            self.is_open = False
            store_uninit(&self.store)
        return self.store.bytes

    def enter(self, uint32_t loop=0):
        store_enter(&self.store, loop)

    def leave(self, uint32_t loop=0):
        store_leave(&self.store, loop)

    def reclaim(self):
        store_reclaim(&self.store)

    def rest(self):
        """All loops sleep; everything that is not pinned is freed."""
        cdef uint32_t loop
        for loop in range(self.store.loop_count):
            store_leave(&self.store, loop)
        while self.store.retired_count:
            store_reclaim(&self.store)

    def hash(self, bytes key, uint32_t application=0):
        return store_hash(&self.store, application, key, len(key))

    def serial(self, uint64_t hash_=0):
        return store_serial(&self.store, hash_)

    def body(self, int64_t length=-1):
        """A body to be filled, or None."""
        cdef Body *body = body_new(&self.store, length)
        return cache_body(self, body) if body != NULL else None

    def whole(self, bytes content):
        """A body with this content, or None."""
        body = self.body(len(content))
        if body is not None:
            assert body.append(content)
            assert body.finish()
        return body

    def entry(self, bytes key, content=b"", uint32_t application=0, bytes vary=b"", groups=(),
              bytes head=b"", hash_=None, CacheBody body=None, uint64_t received_ns=0,
              uint32_t age_s=0, uint32_t lifetime_s=1 << 30, uint32_t stale_s=0):
        """An entry that is not yet put, or None. content None: no body at all."""
        cdef Entry *entry
        cdef uint64_t words[256]
        for index, group in enumerate(groups[:256]):
            words[index] = group
        if hash_ is None:
            hash_ = self.hash(key, application)
        if body is None and content is not None:
            body = self.whole(content)
            if body is None:
                return None
        entry = entry_new(&self.store, key, len(key), hash_, application, vary, len(vary), words,
                          len(groups), head, len(head), 0)
        if entry == NULL:
            return None
        if body is not None:
            body_pin(body.body)
            entry.body = body.body
        entry.status = 200
        entry.received_ns = received_ns or linux.now_ns()
        entry.age_s = age_s
        entry.facts.lifetime_s = lifetime_s
        entry.facts.stale_if_error_s = stale_s
        return cache_entry(self, entry)

    def put(self, bytes key, content=b"", serial=None, **more):
        """What became of it, "no room" included."""
        began = self.serial() if serial is None else serial
        entry = self.entry(key, content, **more)
        return "no room" if entry is None else entry.put(began)

    def pin(self, bytes key, uint32_t application=0, request=None, uint32_t now_s=0, hash_=None):
        """What a look-up finds, pinned; or None."""
        cdef FieldLines fields = FieldLines(request, is_request=True) if request else NO_FIELDS
        cdef Entry *entry
        if hash_ is None:
            hash_ = self.hash(key, application)
        store_enter(&self.store, 0)
        entry = store_find(&self.store, application, key, len(key), hash_, &fields.view,
                           now_s)
        if entry == NULL:
            return None
        entry_pin(entry)
        return cache_entry(self, entry)

    def find(self, bytes key, **more):
        """The content of what a look-up finds, or None."""
        entry = self.pin(key, **more)
        if entry is None:
            return None
        content = entry.content()
        entry.unpin()
        return content

    def has_variants(self, bytes key, uint32_t application=0):
        store_enter(&self.store, 0)
        return bool(store_has_variants(&self.store, application, key, len(key),
                                       self.hash(key, application)))

    def invalidate(self, bytes key, uint32_t application=0):
        return store_invalidate(&self.store, application, key, len(key),
                                self.hash(key, application))

    def flush(self, bytes prefix, bint recursive=True, uint32_t application=0):
        return store_flush(&self.store, application, prefix, len(prefix), recursive)

    def flush_group(self, uint64_t hash_):
        store_flush_group(&self.store, hash_)

    def sweep(self, uint64_t now_ns):
        return store_sweep(&self.store, now_ns)

    def hit_for_miss(self, uint64_t hash_, uint32_t now_s):
        return bool(hit_for_miss(&self.store, hash_, now_s))

    def hit_for_miss_note(self, uint64_t hash_, uint32_t now_s):
        hit_for_miss_note(&self.store, hash_, now_s)

    def frequent_enough(self, uint64_t hash_, uint32_t now_s):
        return bool(frequent_enough(&self.store, hash_, now_s))

    def list(self, uint32_t most=100):
        """All that store_list() gives, as dicts, and how many calls it took."""
        cdef StoreWalk walk
        cdef EntryFacts *facts = <EntryFacts *> calloc(most, sizeof(EntryFacts))
        cdef uint32_t count, index
        memset(&walk, 0, sizeof(walk))
        found = []
        calls = 0
        count = store_list(&self.store, &walk, facts, most)
        while count > 0:
            calls += 1
            found += [facts_dict(&facts[index]) for index in range(count)]
            count = store_list(&self.store, &walk, facts, most)
        free(facts)
        return found, calls

    def show(self, bytes key, uint32_t application=0):
        cdef EntryFacts *facts = <EntryFacts *> calloc(32, sizeof(EntryFacts))
        cdef uint32_t index
        cdef uint32_t count = store_show(&self.store, application, key, len(key),
                                         self.hash(key, application), facts, 32)
        found = [facts_dict(&facts[index]) for index in range(count)]
        free(facts)
        return found

    def fill(self, uint32_t count, uint32_t content_bytes, uint32_t first=0):
        """So many small entries with keys of 24 bytes and heads of 100: the bytes of their texts
        and contents, the nanoseconds it took."""
        cdef uint8_t key[32]
        cdef uint8_t room[4096]
        cdef uint32_t index
        cdef uint64_t total = 0, began = linux.now_ns()
        cdef Entry *entry
        cdef Body *body
        memset(room, 97, sizeof(room))
        for index in range(first, first + count):
            number_key(key, index)
            store_leave(&self.store, 0)
            store_reclaim(&self.store)
            store_enter(&self.store, 0)
            body = body_new(&self.store, content_bytes)
            if body == NULL:
                break
            body_append(&self.store, body, room, content_bytes)
            body_finish(&self.store, body)
            entry = entry_new(&self.store, key, 24, store_hash(&self.store, 0, key, 24), 0, NULL,
                              0, NULL, 0, room, 100, 0)
            if entry == NULL:
                body_unpin(&self.store, body)
                break
            entry.body = body
            entry.received_ns = began
            entry.facts.lifetime_s = 1 << 30
            if store_put(&self.store, entry, store_serial(&self.store, 0)) == 0:
                total += 24 + 100 + content_bytes
            entry_unpin(&self.store, entry)
        return total, linux.now_ns() - began

    def look_up(self, uint32_t count, uint32_t entries, uint32_t now_s=0):
        """So many look-ups of keys that fill() put, in a scattered order: how many hit, the
        nanoseconds of one."""
        cdef uint8_t key[32]
        cdef uint32_t index, hits = 0
        cdef FieldView view
        cdef uint64_t began, number = 1
        memset(&view, 0, sizeof(view))
        store_enter(&self.store, 0)
        began = linux.now_ns()
        for index in range(count):
            number = number * <uint64_t> 6364136223846793005 + <uint64_t> 1442695040888963407
            number_key(key, <uint32_t> ((number >> 33) % entries))
            hits += store_find(&self.store, 0, key, 24, store_hash(&self.store, 0, key, 24), &view,
                               now_s) != NULL
        return hits, (linux.now_ns() - began) / count

    def fail_in(self, uint32_t count):
        """The allocation with this number from now on fails; 0: none."""
        self.store.fail_in = count

    def counts(self):
        """The store's counters."""
        cdef Store *store = &self.store
        return {
            "entries_now": store.entries_now, "entries_total": store.entries_total,
            "flushes": store.flushes, "flushed": store.flushed, "evicted": store.evicted,
            "scavenged": store.scavenged, "bytes": store.bytes, "epoch": store.epoch,
            "leaving_bytes": store.leaving_bytes, "retired": store.retired_count,
            "target": store.target, "most": store.settings.bytes,
        }

    def slots(self):
        """(slots, used, given up) over all shards."""
        cdef uint32_t index
        slots = used = given_up = 0
        for index in range(<uint32_t> SHARDS):
            slots += self.store.shards[index].table.mask + 1
            used += self.store.shards[index].used
            given_up += self.store.shards[index].given_up
        return slots, used, given_up

    def __dealloc__(self):
        if self.is_open:
            self.is_open = False
            store_uninit(&self.store)


cdef void number_key(uint8_t *key, uint32_t number) noexcept nogil:
    memcpy(key, b"http://example.org/page/", 24)
    key[20] = number & 0xff
    key[21] = number >> 8 & 0xff
    key[22] = number >> 16 & 0xff
    key[23] = number >> 24


cdef dict facts_dict(const EntryFacts *facts):
    return {
        "key": PyBytes_FromStringAndSize(<const char *> facts.key, min(facts.key_bytes, 1024)),
        "key_bytes": facts.key_bytes, "bytes": facts.bytes, "content_bytes": facts.content_bytes,
        "status": facts.status, "hits": facts.hits, "asked_s": facts.asked_s,
        "lifetime_s": facts.lifetime_s, "age_s": facts.age_s, "application": facts.application,
        "has_vary": bool(facts.has_vary), "is_invalid": bool(facts.is_invalid),
    }
