# Who reads the request rings, and what the records there say. Theory: link.pxd. No Python in here.


# -- the lead --------------------------------------------------------------------------------------

cdef inline uint32_t lead_state(uint64_t lead) noexcept nogil:
    return lead & 0xf


cdef inline uint64_t lead_next(LinkThread *self, uint32_t state) noexcept nogil:
    # A word that was never in Link.lead before: its serial grows with every change.
    return ((self.lead >> 16) + 1) << 16 | <uint64_t> self.index << 4 | state


cdef inline void lead_set(LinkThread *self, uint32_t state) noexcept nogil:
    # The leader changes its own state; nobody else may while it is LEADING or ASLEEP.
    self.lead = lead_next(self, state)
    atomic.store_release(&self.link.lead, self.lead)  # SYNC lead


cdef inline bint lead_swap(LinkThread *self, uint64_t seen) noexcept nogil:
    # From seen to LEADING by this thread, unless somebody was quicker.
    self.lead = max(self.lead, seen)
    self.lead = lead_next(self, LEAD_LEADING)
    if not atomic.swap_if(&self.link.lead, seen, self.lead):  # SYNC lead
        return False
    self.is_leader = True
    return True


cdef bint lead_seize(LinkThread *self) noexcept nogil:
    cdef uint64_t seen = atomic.load_seq(&self.link.lead)  # SYNC lead
    cdef uint32_t state = lead_state(seen)
    if state != LEAD_VACANT and state != LEAD_RUNNING:
        return False
    return lead_swap(self, seen)


cdef inline void lead_run(LinkThread *self) noexcept nogil:
    # The leader is about to run a request: from now on the lead may be seized.
    lead_set(self, LEAD_RUNNING)


cdef inline void lead_resume(LinkThread *self) noexcept nogil:
    # Its request has ended: is it still the leader?
    if self.is_leader:
        self.is_leader = lead_swap_back(self)
    if deputy_is_asleep(self.link):
        deputy_wake(self.link)


cdef inline bint lead_swap_back(LinkThread *self) noexcept nogil:
    cdef uint64_t seen = self.lead
    return lead_swap(self, seen)


cdef void lead_leave(LinkThread *self) noexcept nogil:
    self.is_leader = False
    lead_set(self, LEAD_VACANT)


cdef inline bint lead_is_free(uint64_t lead) noexcept nogil:
    # Nobody reads the rings: the lead may be seized.
    return lead_state(lead) == LEAD_RUNNING or lead_state(lead) == LEAD_VACANT


cdef Waiter *waiter_find(Link *link) noexcept nogil:
    # One whose thread waits for a control record, or NULL.
    cdef uint32_t index
    if atomic.load_relaxed_u32(&link.waiter_count) == 0:
        return NULL
    for index in range(link.sizes.place_count):
        if atomic.load_relaxed_u32(&link.places[index].waiter.has_waiter):
            return &link.places[index].waiter
    for index in range(<uint32_t> CALLS_MAX):
        if atomic.load_relaxed_u32(&link.calls[index].waiter.has_waiter):
            return &link.calls[index].waiter
    return NULL


cdef bint lead_pass_on(Link *link) noexcept nogil:
    # Nobody reads the rings: wakes whoever can take over. False: nobody can.
    cdef Waiter *waiter
    if atomic.load_relaxed_u32(&link.idle_count) > 0:
        follower_wake(link)
        return True
    waiter = waiter_find(link)
    if waiter == NULL:
        return False
    thread.futex_wake(&waiter.news, 1)
    return True


cdef void lead_lend_back(LinkThread *self) noexcept nogil:
    # A guest has read what it waited for.
    lead_leave(self)
    atomic.fence_seq()  # SYNC follow, SYNC deputy
    lead_pass_on(self.link)
    if deputy_is_asleep(self.link):
        deputy_wake(self.link)
    if atomic.load_relaxed_u32(&self.link.is_draining):
        link_tell_ended(self.link)


# -- what control records say ----------------------------------------------------------------------

cdef void content_drop(LinkPlace *place) noexcept nogil:
    cdef ContentPiece *piece
    while place.first != NULL:
        piece = place.first
        place.first = piece.next
        free(piece)
    place.last = NULL


cdef void content_forget(Link *link, LinkPlace *place, uint64_t dispatch) noexcept nogil:
    # Its request has ended: nobody will read what is left. END is out, so the place may have its
    # next request already.
    thread.mutex_take(&link.content_lock)
    if place.dispatch == dispatch:
        content_drop(place)
    thread.mutex_give(&link.content_lock)


cdef void content_add(Link *link, LinkPlace *place, const RecordHead *head,
                      const uint8_t *body) noexcept nogil:
    cdef uint32_t bytes = head.bytes - <uint32_t> sizeof(RecordHead)
    cdef ContentPiece *piece = NULL
    if bytes > 0:
        piece = <ContentPiece *> malloc(sizeof(ContentPiece) + bytes)
        if piece == NULL:
            link_end(b"no memory for the content of a request")
        piece.next = NULL
        piece.bytes = bytes
        memcpy(piece.data, body + sizeof(RecordHead), bytes)
    thread.mutex_take(&link.content_lock)
    if piece != NULL and place.last != NULL:
        place.last.next = piece
    elif piece != NULL:
        place.first = piece
    if piece != NULL:
        place.last = piece
    if head.flags & (FLAG_END | FLAG_CUT):
        place.content_ended = True
        place.content_cut = (head.flags & FLAG_CUT) != 0
    thread.mutex_give(&link.content_lock)


cdef LinkPlace *place_meet(Link *link, uint16_t index, uint64_t dispatch) noexcept nogil:
    # The place, if dispatch stands there or is newer than what does; NULL: the record is late. With
    # several loops a control record may be seen before its REQUEST, which another loop has put into
    # its own ring: serials grow. [lead]
    cdef LinkPlace *place
    if index >= link.sizes.place_count:
        link_end(b"a record names a place that does not exist")
    place = &link.places[index]
    if likely(place.dispatch == dispatch):
        return place
    if dispatch >> 8 < place.dispatch >> 8:
        return NULL
    thread.mutex_take(&link.content_lock)
    content_drop(place)
    place.dispatch = dispatch
    place.content_ended = False
    place.content_cut = False
    thread.mutex_give(&link.content_lock)
    atomic.store_relaxed(&place.released, 0)
    atomic.store_relaxed_u32(&place.is_gone, 0)
    return place


cdef void waiter_tell(Waiter *waiter) noexcept nogil:
    # Something has changed: whoever waits for it looks again.
    atomic.add_u32(&waiter.news, 1)  # SYNC news
    atomic.fence_seq()  # SYNC news
    if atomic.load_relaxed_u32(&waiter.has_waiter):
        thread.futex_wake(&waiter.news, 1)


cdef void ping_answer(Link *link, LinkLane *lane, const RecordHead *head,
                      uint64_t stamp) noexcept nogil:
    # To the loop that asked. A PONG that finds no room is not sent: the core only measures with it.
    cdef NumberRecord pong
    record_init(&pong.head, sizeof(NumberRecord), RECORD_PONG, head.place, head.dispatch)
    pong.value = stamp
    if lane_put(link, lane, &pong.head, link.reserve_bytes):
        lane_announce(lane)


cdef void control_take(Link *link, LinkLane *lane, const RecordHead *head,
                       const uint8_t *body) noexcept nogil:
    # One record that is not a REQUEST. [lead]
    cdef LinkPlace *place
    cdef uint64_t value = 0
    if head.kind == RECORD_PING or head.kind == RECORD_RELEASED:
        if head.bytes != sizeof(NumberRecord):
            link_end(b"a record of the core has another size than its kind")
        value = (<const NumberRecord *> body).value
    if head.kind == RECORD_PING:
        ping_answer(link, lane, head, value)
        return
    if head.kind == RECORD_DRAIN:
        FAULT(b"worker-drains")
        atomic.store_seq_u32(&link.is_draining, 1)  # SYNC draining
        return
    if head.kind == RECORD_REPLY:
        if head.bytes != sizeof(ReplyRecord):
            link_end(b"a record of the core has another size than its kind")
        call_on_reply(link, <const ReplyRecord *> body)
        return
    if head.kind not in (RECORD_CONTENT, RECORD_CLIENT_GONE, RECORD_RELEASED):
        link_end(b"the core sent a record of an unknown kind")
    place = place_meet(link, head.place, head.dispatch)
    if place == NULL:
        return
    if head.kind == RECORD_CONTENT:
        content_add(link, place, head, body)
    elif head.kind == RECORD_CLIENT_GONE:
        atomic.store_release_u32(&place.is_gone, 1)  # SYNC news
    else:
        atomic.store_release(&place.released, value)  # SYNC news
    waiter_tell(&place.waiter)


# -- the leader's step -----------------------------------------------------------------------------

cdef inline bint lane_next(Link *link, LinkLane *lane, Taken *taken) noexcept nogil:
    # Deals with control records up to the next REQUEST, which stays in the ring. False: none.
    # [lead]
    cdef int outcome
    while True:
        outcome = ring_peek(&lane.requests, &taken.head, &taken.record)
        if outcome == RING_EMPTY:
            return False
        if unlikely(outcome == RING_BROKEN):
            link_end(b"the core's ring is malformed")
        if likely(taken.head.kind == RECORD_REQUEST):
            if unlikely(taken.head.bytes < sizeof(RequestRecord)):
                link_end(b"a record of the core has another size than its kind")
            taken.lane = lane
            place_meet(link, taken.head.place, taken.head.dispatch)
            return True
        control_take(link, lane, &taken.head, taken.record)
        ring_release(&lane.requests, taken.head.bytes)


cdef inline bint link_next(Link *link, Taken *taken) noexcept nogil:
    # The next REQUEST of any ring, the lanes in turn. [lead]
    cdef uint32_t count
    for count in range(link.sizes.loop_count):
        link.turn = link.turn + 1 if link.turn + 1 < link.sizes.loop_count else 0
        if lane_next(link, &link.lanes[link.turn], taken):
            return True
    return False


cdef inline void taken_release(Taken *taken) noexcept nogil:
    # Its record is not needed any more.
    if taken.lane != NULL:
        ring_release(&taken.lane.requests, taken.head.bytes)
    else:
        free(<void *> taken.record)
    taken.record = NULL


cdef void taken_skip(Link *link, Taken *taken) noexcept nogil:
    # A request that will not be run: SKIPPED, if the core took it back. If it did not, we are
    # ending without having been told to by the core, which gets the request back when our process
    # has ended. Without the GIL.
    cdef RecordHead skipped
    cdef bint is_revoked = (
        atomic.load_relaxed(&link.revoked[taken.head.place]) == taken.head.dispatch)
    if (<const RequestRecord *> taken.record).head.flags & FLAG_CONTENT_SPILLED:
        thread.close_if(spill_take(link, taken.head.place, taken.head.dispatch))
    record_init(&skipped, sizeof(RecordHead), RECORD_SKIPPED, taken.head.place, taken.head.dispatch)
    taken_release(taken)
    if is_revoked:
        FAULT(b"worker-skips")
        lane_put_at_last(link, lane_of(link, skipped.dispatch), &skipped)
        FAULT(b"worker-skipped")


cdef void pending_put(Link *link, Taken *taken) noexcept nogil:
    # A request that this thread cannot run now. [lead]
    cdef RecordHead *copy = <RecordHead *> malloc(taken.head.bytes)
    if copy == NULL:
        link_end(b"no memory for a request")
    memcpy(copy, taken.record, taken.head.bytes)
    copy[0] = taken.head
    taken_release(taken)
    FAULT(b"worker-pending")
    thread.mutex_take(&link.pending_lock)
    if link.pending_count == link.sizes.place_count:
        link_end(b"the core handed over more requests than there are places")
    link.pending[(link.pending_first + link.pending_count) % link.sizes.place_count] = copy
    atomic.store_seq_u32(&link.pending_count, link.pending_count + 1)  # SYNC follow
    thread.mutex_give(&link.pending_lock)
    atomic.fence_seq()  # SYNC follow
    if atomic.load_relaxed_u32(&link.idle_count) > 0:
        follower_wake(link)


cdef bint pending_take(Link *link, Taken *taken) noexcept nogil:
    cdef RecordHead *copy = NULL
    thread.mutex_take(&link.pending_lock)
    if link.pending_count > 0:
        copy = link.pending[link.pending_first]
        link.pending_first = (link.pending_first + 1) % link.sizes.place_count
        atomic.store_seq_u32(&link.pending_count, link.pending_count - 1)  # SYNC follow
    thread.mutex_give(&link.pending_lock)
    if copy == NULL:
        return False
    taken.head = copy[0]
    taken.record = <const uint8_t *> copy
    taken.lane = NULL
    return True


# -- sleeping --------------------------------------------------------------------------------------

cdef bint link_has_record(Link *link) noexcept nogil:
    cdef uint32_t loop
    for loop in range(link.sizes.loop_count):
        if ring_has_record(&link.lanes[loop].requests):
            return True
    return False


cdef void link_arm(Link *link) noexcept nogil:
    # All lanes say that we are about to sleep; look once more afterwards. Even: we are awake.
    cdef LinkLane *lane
    cdef uint32_t loop
    for loop in range(link.sizes.loop_count):
        lane = &link.lanes[loop]
        atomic.store_relaxed_u32(&lane.own.armed, lane.own.armed + 1)
    atomic.fence_seq()  # SYNC worker-armed


cdef bint link_spin(Link *link) noexcept nogil:
    # Waits awake, as long as that is shorter than a sleep. True: something has come.
    cdef uint64_t until
    cdef int count
    cdef uint64_t now = linux.now_ns()
    if not spin_is_worth(&link.spin, now):
        return False
    spin_note_end(&link.spin, now)
    until = now + link.spin.limit_ns
    while True:
        for count in range(16):
            if link_has_record(link):
                return True
            atomic.cpu_relax()
        if linux.now_ns() > until:
            return False


cdef inline bint time_is_over(uint64_t until_ns) noexcept nogil:
    return until_ns != 0 and linux.now_ns() >= until_ns


cdef inline uint64_t time_left(uint64_t until_ns) noexcept nogil:
    # At least 1; 0: no limit.
    cdef uint64_t now
    if until_ns == 0:
        return 0
    now = linux.now_ns()
    return until_ns - now if until_ns > now else 1


cdef void lead_sleep(LinkThread *self, bint pumps, uint64_t until_ns) noexcept nogil:
    # Until something may be in a ring, or until_ns (0: no limit). Who pumps has something to wait
    # for also while draining.
    cdef Link *link = self.link
    cdef uint64_t since = linux.now_ns() if link.spin.limit_ns else 0
    if link.spin.limit_ns == 0 or not link_spin(link):
        link_arm(link)
        if not link_has_record(link) and (
                pumps or not atomic.load_relaxed_u32(&link.is_draining)):
            lead_set(self, LEAD_ASLEEP)
            if atomic.load_relaxed_u32(&link.is_draining):
                link_tell_ended(link)  # it may have waited for a guest to fall asleep
            if thread.doorbells_wait(link.doorbells, link.sizes.loop_count,
                                     time_left(until_ns)) < 0:
                link_lost(link)
            lead_set(self, LEAD_LEADING)
            atomic.fence_seq()  # SYNC deputy
            if deputy_is_asleep(link):
                deputy_wake(link)
        link_arm(link)
    if link.spin.limit_ns:
        spin_note_wait(&link.spin, linux.now_ns() - since)


# -- threads ---------------------------------------------------------------------------------------

cdef void follower_wake(Link *link) noexcept nogil:
    atomic.add_u32(&link.follow_word, 1)  # SYNC follow
    thread.futex_wake(&link.follow_word, 1)


cdef void followers_end(Link *link) noexcept nogil:
    # Draining: everybody looks up.
    cdef uint32_t index
    atomic.add_u32(&link.follow_word, 1)  # SYNC follow
    thread.futex_wake(&link.follow_word, INT_MAX)
    for index in range(link.sizes.place_count):
        waiter_tell(&link.places[index].waiter)
    for index in range(<uint32_t> CALLS_MAX):
        waiter_tell(&link.calls[index].waiter)


cdef int follower_next(LinkThread *self, Taken *taken) noexcept nogil:
    # Waits for a pending request or for the lead. NEXT_NOTHING: it has the lead now.
    cdef Link *link = self.link
    cdef uint32_t seen
    while True:
        seen = atomic.load_acquire_u32(&link.follow_word)  # SYNC follow
        atomic.add_u32(&link.idle_count, 1)
        atomic.fence_seq()  # SYNC follow, SYNC deputy
        if deputy_is_asleep(link):
            deputy_wake(link)
        if pending_take(link, taken):
            atomic.add_u32(&link.idle_count, <uint32_t> -1)
            return NEXT_REQUEST
        if lead_seize(self):
            atomic.add_u32(&link.idle_count, <uint32_t> -1)
            return NEXT_NOTHING
        if atomic.load_relaxed_u32(&link.is_draining):
            atomic.add_u32(&link.idle_count, <uint32_t> -1)
            return NEXT_DRAINED
        thread.futex_wait(&link.follow_word, seen, 0)
        atomic.add_u32(&link.idle_count, <uint32_t> -1)


cdef inline int thread_next_quick(LinkThread *self, Taken *taken) noexcept nogil:
    # What is at hand at once, without waiting for anything: may be called with the GIL.
    cdef Link *link = self.link
    if unlikely(not self.is_leader) or unlikely(atomic.load_relaxed_u32(&link.pending_count) > 0):
        if not pending_take(link, taken):
            return NEXT_NOTHING
    elif not link_next(link, taken):
        return NEXT_NOTHING
    if not self.is_leader or link_must_announce(link):
        link_announce(link)
    return NEXT_REQUEST


cdef int thread_next(LinkThread *self, Taken *taken) noexcept nogil:
    # Waits for the next request, as leader or follower. Without the GIL.
    cdef Link *link = self.link
    cdef int outcome
    self.now_ns = 0
    link_announce(link)
    while True:
        if not self.is_leader:
            outcome = follower_next(self, taken)
            if outcome != NEXT_NOTHING:
                return outcome
        if pending_take(link, taken) or link_next(link, taken):
            return NEXT_REQUEST
        if atomic.load_relaxed_u32(&link.is_draining):
            lead_leave(self)
            followers_end(link)
            return NEXT_DRAINED
        link_announce(link)
        lead_sleep(self, False, 0)


cdef void lead_pump(LinkThread *self, Waiter *waiter, uint32_t seen,
                    uint64_t until_ns) noexcept nogil:
    # The leader waits for news of its own.
    cdef Taken taken
    # SYNC news
    while atomic.load_acquire_u32(&waiter.news) == seen and not time_is_over(until_ns):
        while link_next(self.link, &taken):
            if atomic.load_relaxed_u32(&self.link.is_draining):
                taken_skip(self.link, &taken)
            else:
                pending_put(self.link, &taken)
        if atomic.load_acquire_u32(&waiter.news) == seen:  # SYNC news
            lead_sleep(self, True, until_ns)
    if self.is_guest:
        lead_lend_back(self)
        return
    lead_run(self)
    lead_pass_on(self.link)


cdef void waiter_wait(LinkThread *self, Waiter *waiter, uint32_t seen,
                      uint64_t until_ns) noexcept nogil:
    # Returns when waiter.news differs from seen, or at until_ns (0: no limit). Without the GIL, by
    # a thread that runs a request, or by a guest.
    cdef Link *link = self.link
    self.now_ns = 0
    link_announce(link)
    atomic.store_relaxed_u32(&waiter.has_waiter, 1)
    atomic.add_u32(&link.waiter_count, 1)
    atomic.fence_seq()  # SYNC news
    # SYNC news
    while atomic.load_acquire_u32(&waiter.news) == seen and not time_is_over(until_ns):
        if atomic.load_seq_u32(&link.idle_count) == 0 and lead_seize(self):  # SYNC follow
            lead_pump(self, waiter, seen, until_ns)
            break
        if lead_is_free(atomic.load_relaxed(&link.lead)):
            follower_wake(link)
        if deputy_is_asleep(link):
            deputy_wake(link)
        thread.futex_wait(&waiter.news, seen, time_left(until_ns))
    atomic.add_u32(&link.waiter_count, <uint32_t> -1)
    atomic.store_relaxed_u32(&waiter.has_waiter, 0)


# -- the deputy ------------------------------------------------------------------------------------

cdef inline bint deputy_is_asleep(Link *link) noexcept nogil:
    return atomic.load_relaxed_u32(&link.deputy_sleeps) != 0


cdef void deputy_wake(Link *link) noexcept nogil:
    atomic.store_relaxed_u32(&link.deputy_sleeps, 0)
    atomic.add_u32(&link.deputy_word, 1)  # SYNC deputy
    thread.futex_wake(&link.deputy_word, 1)


cdef inline void link_announce_soon(Link *link) noexcept nogil:
    # The bell for what was just published may wait, if somebody will see to it within a tick.
    atomic.fence_seq()  # SYNC deputy
    if link_is_slow(link) or deputy_is_asleep(link):
        link_announce(link)


cdef bint deputy_may_sleep(Link *link, uint64_t lead) noexcept nogil:
    # Nothing can come about without somebody waking us: see the callers of deputy_wake().
    cdef uint32_t loop
    if atomic.load_seq(&link.lead) != lead:  # SYNC lead
        return False
    if lead_is_free(lead) and (
            atomic.load_relaxed_u32(&link.idle_count) > 0 or waiter_find(link) != NULL):
        return False
    for loop in range(link.sizes.loop_count):
        if atomic.load_relaxed_u32(&link.lanes[loop].unannounced) > 0:
            return False
    return True


cdef void deputy_doze(Link *link, uint64_t lead) noexcept nogil:
    # Sleeps without a time limit until deputy_wake(), unless that has become wrong meanwhile.
    cdef uint32_t seen = atomic.load_acquire_u32(&link.deputy_word)  # SYNC deputy
    atomic.store_seq_u32(&link.deputy_sleeps, 1)  # SYNC deputy
    atomic.fence_seq()  # SYNC deputy
    if deputy_may_sleep(link, lead) and not atomic.load_relaxed_u32(&link.deputy_stops):
        thread.futex_wait(&link.deputy_word, seen, 0)
    atomic.store_relaxed_u32(&link.deputy_sleeps, 0)


cdef void *deputy_thread(void *subject) noexcept nogil:
    cdef Link *link = <Link *> subject
    cdef uint64_t lead, before = 0
    cdef uint32_t seen, unchanged = 0
    while not atomic.load_acquire_u32(&link.deputy_stops):  # SYNC deputy
        seen = atomic.load_acquire_u32(&link.deputy_word)  # SYNC deputy
        thread.futex_wait(&link.deputy_word, seen, DEPUTY_TICK_NS)
        link_announce(link)
        lead = atomic.load_seq(&link.lead)  # SYNC lead
        unchanged = unchanged + 1 if lead == before else 0
        before = lead
        if unchanged == 0:
            continue
        if lead_is_free(lead) and lead_pass_on(link):
            continue
        if unchanged >= DEPUTY_PATIENCE and lead_state(lead) != LEAD_LEADING:
            deputy_doze(link, lead)
    return NULL
