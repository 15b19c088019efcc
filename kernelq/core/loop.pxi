# A loop thread: its turn, its mailbox, its listeners.
#
# A turn: epoll events, then answers of workers, then work left over, then dispatch, then at most
# one ring per worker, then the log's bell. Before it sleeps a loop arms its lanes and looks once
# more, so that a worker rings only a loop that sleeps, or one that awaits nothing of it.
#
# Facts that shaped this
#  A wake-up costs more than a request: a cross-core wake of a sleeper takes some 70 µs on a virtual
#  machine, a look at a counter 0.3 µs. So a loop that waits for answers looks at its lanes for a
#  short while before it sleeps, if another processor can run the worker meanwhile (spin_ns, 0 on
#  one processor) and if recent waits were that short.

cdef enum:
    # at shutdown an idle connection may bring one last request for so long
    DRAIN_NS = 2000000000
    DATE_LINE_BYTES = 37
    RECORDS_UNRUNG_MAX = 18        # requests collected for one bell while there is other work
    TURNS_UNRUNG_MAX = 64
    SPIN_EVENTS_EVERY = 8          # looks at the lanes between two looks at epoll while spinning


# --- mailbox --------------------------------------------------------------------------------------

cdef void mailbox_post(Mailbox *mailbox, Letter *letter) noexcept nogil:
    # Any thread. The mailbox borrows the letter until the loop has read it.
    cdef bint was_empty
    cdef uint64_t one = 1
    letter.next = NULL
    pthread_mutex_lock(&mailbox.lock)
    was_empty = mailbox.first == NULL
    if was_empty:
        mailbox.first = letter
    else:
        mailbox.last.next = letter
    mailbox.last = letter
    pthread_mutex_unlock(&mailbox.lock)
    if was_empty:
        write(mailbox.fd, &one, sizeof(one))


cdef void *pointers_grown(void *list_, uint32_t room) noexcept nogil:
    # A loop's list of pointers, with room for room * 2 + 8.
    cdef void *grown = realloc(list_, sizeof(void *) * (room * 2 + 8))
    bug.BUG_ON(grown == NULL)
    return grown


cdef bint letter_send(Mailbox *mailbox, uint8_t kind, void *subject, int fd) noexcept nogil:
    # False: no memory, nothing was sent.
    cdef Letter *letter = <Letter *> calloc(1, sizeof(Letter))
    if letter == NULL:
        return False
    letter.kind = kind
    letter.subject = subject
    letter.fd = fd
    letter.is_owned = True
    mailbox_post(mailbox, letter)
    return True


cdef void mailbox_read(Loop *loop) noexcept nogil:
    cdef Mailbox *mailbox = &loop.mailbox
    cdef Letter *letter
    cdef Letter *following
    cdef uint64_t count
    read(mailbox.fd, &count, sizeof(count))
    pthread_mutex_lock(&mailbox.lock)
    letter = mailbox.first
    mailbox.first = NULL
    mailbox.last = NULL
    pthread_mutex_unlock(&mailbox.lock)
    while letter != NULL:
        following = letter.next
        letter_on_read(loop, letter)
        letter = following


cdef void letter_on_read(Loop *loop, Letter *letter) noexcept nogil:
    cdef bint is_owned = letter.is_owned
    if letter.kind == LETTER_REFUSED:
        exchange_on_refused(loop, <Exchange *> letter.subject, letter.reason)
    elif letter.kind == LETTER_SPILLED:
        spill_on_written(loop, <Job *> letter.subject)
    elif letter.kind == LETTER_WARM:
        file_on_warm(loop, <Job *> letter.subject)
    elif letter.kind == LETTER_CALLED:
        call_on_done(loop, <Call *> letter.subject)
    elif letter.kind == LETTER_FILE:
        file_on_arrived(loop, <Exchange *> letter.subject, letter.fd)
    elif letter.kind == LETTER_WORKER:
        lane_watch(loop, <Worker *> letter.subject)
    elif letter.kind == LETTER_OPENED:
        lane_on_opened(loop, <Worker *> letter.subject)
    elif letter.kind == LETTER_DRAIN:
        worker_on_drain(loop, <Worker *> letter.subject)
    elif letter.kind == LETTER_ABANDON:
        (<Worker *> letter.subject).lanes[loop.index].has_died = True
        loop.deaths_are_due = True
    elif letter.kind == LETTER_DISTRUST:
        worker_distrust(loop, <Worker *> letter.subject)
    elif letter.kind == LETTER_FILL:
        fill_on_letter(loop, <Fill *> letter.subject)
    elif letter.kind == LETTER_FORGET:
        lane_forget(loop, <Worker *> letter.subject)
    elif letter.kind == LETTER_LISTEN:
        listener_join(loop, <Listener *> letter.subject)
    elif letter.kind == LETTER_UNLISTEN:
        loop_on_unlisten(loop, <Listener *> letter.subject)
    elif letter.kind == LETTER_ROUTES:
        loop_on_routes(loop, <Snapshot *> letter.subject)
    elif letter.kind == LETTER_POOL_DUE:
        pool_due(loop, <Pool *> letter.subject)
    elif letter.kind == LETTER_POOL_CLOSED:
        pool_on_closed(loop, <PoolSide *> letter.subject)
    elif letter.kind == LETTER_SHUTDOWN:
        loop_on_shutdown(loop)
    elif letter.kind == LETTER_STOP:
        loop.is_running = False
    else:
        bug.BUG_ON(True)
    if is_owned:
        free(letter)


cdef void exchange_on_refused(Loop *loop, Exchange *exchange, int reason) noexcept nogil:
    # Somebody took it out of the queue for this reason; its client may have left meanwhile.
    exchange.is_posted = False
    exchange.state = EXCHANGE_DONE
    exchange_refuse(loop, exchange, reason)


# --- events to the managers -----------------------------------------------------------------------

cdef bint event_post(Core_ *core, uint8_t kind, int64_t worker, int64_t value) noexcept nogil:
    # Never waits for the managers: the ring grows, since a death that they never hear of would be a
    # worker that is never replaced. False: no memory, it is lost.
    cdef uint64_t one = 1
    cdef Event *event
    cdef bint has_room
    pthread_mutex_lock(&core.events_lock)
    has_room = core.event_count < core.event_room or events_grow(core)
    if has_room:
        event = &core.events[(core.event_first + core.event_count) % core.event_room]
        event.kind = kind
        event.worker = worker
        event.value = value
        core.event_count += 1
    pthread_mutex_unlock(&core.events_lock)
    write(core.event_fd, &one, sizeof(one))
    return has_room


cdef bint events_grow(Core_ *core) noexcept nogil:
    # [events lock] It is full; what was at its start comes behind what was at its end.
    cdef uint32_t room = max(core.event_room * 2, <uint32_t> EVENTS_AT_FIRST)
    cdef Event *grown = <Event *> realloc(core.events, room * sizeof(Event))
    if grown == NULL:
        return False
    memcpy(grown + core.event_room, grown, core.event_first * sizeof(Event))
    core.events = grown
    core.event_room = room
    return True


# --- epoll, date ----------------------------------------------------------------------------------

cdef bint epoll_watch(Loop *loop, int fd, uint32_t events, void *source) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.ptr = source
    return epoll_ctl(loop.epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0


cdef const char *loop_date(Loop *loop) noexcept nogil:
    # "Date: Sun, 22 Nov 2026 02:10:11 GMT\r\n", made once a second (RFC 9110 §6.6.1).
    cdef time_t seconds
    cdef tm parts
    cdef uint64_t second = loop.now_ns // 250000000
    if second != loop.date_second:
        loop.date_second = second
        seconds = time(NULL)
        gmtime_r(&seconds, &parts)
        bug.BUG_ON(strftime(loop.date, sizeof(loop.date),
                            b"Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts)
                   != DATE_LINE_BYTES)
    return loop.date


cdef void loop_log(Loop *loop, int level, const char *text) noexcept nogil:
    cdef Span none = span_of(text, 0)
    log_request(loop, level, REASON_NONE, none, none, none, 0, text, NULL)


# --- shutdown -------------------------------------------------------------------------------------

cdef void loop_check_quiet(Loop *loop) noexcept nogil:
    # Draining: idle connections end after their grace; the managers hear when nothing is left.
    # Looked at again and again: a response that began before the order to stop promised to keep
    # its connection.
    if loop.now_ns >= loop.drain_until_ns:
        loop.drain_until_ns = loop.now_ns + HEALTH_TICK_NS
        loop_close_idle(loop)
    if loop.conn_count == 0 and loop.exchange_count == 0 and not loop.is_quiet:
        loop.is_quiet = True
        if atomic.add_u32(&loop.core.quiet_loops, 1) == loop.core.settings.loop_count:
            event_post(loop.core, EVENT_QUIET, -1, 0)


cdef void loop_close_idle(Loop *loop) noexcept nogil:
    # Every connection has its timer in the wheel while it is idle: that is where they are found.
    cdef uint32_t slot
    cdef Timer *timer
    cdef Timer *following
    cdef Conn *conn
    for slot in range(<uint32_t> TIMER_SLOTS):
        timer = loop.wheel.slots[slot].next
        while timer != &loop.wheel.slots[slot]:
            following = timer.next
            conn = conn_of_timer(timer)
            if conn_is_idle(conn) and conn_is_leaving(loop, conn):
                conn_linger(loop, conn)
            timer = following


cdef inline bint conn_is_idle(const Conn *conn) noexcept nogil:
    return (conn.state == CONN_HEAD and not head_is_started(&conn.progress)
            and conn.in_start == conn.in_end and not conn.can_read)


cdef inline Conn *conn_of_timer(Timer *timer) noexcept nogil:
    return <Conn *> (<uint8_t *> timer - offsetof_conn_timer)


# --- the turn -------------------------------------------------------------------------------------

cdef void loop_on_event(Loop *loop, epoll_event *event) noexcept nogil:
    cdef Source *source = <Source *> event.data.ptr
    if source.kind == SOURCE_CONN:
        conn_on_event(loop, <Conn *> source, event.events)
    elif source.kind == SOURCE_BELL:
        worker_on_bell(loop, (<Bell *> source).worker)
    elif source.kind == SOURCE_MAILBOX:
        loop.has_mail = True
    elif source.kind == SOURCE_LISTENER:
        listener_on_ready(loop, <Listener *> source)
    elif source.kind == SOURCE_PIDFD:
        # Buried behind the mail: what a letter opens is still to be read (LETTER_OPENED).
        (<Bell *> source).worker.lanes[loop.index].has_died = True
        loop.deaths_are_due = True
        loop.has_mail = True
    else:
        bug.BUG_ON(True)


cdef void loop_bury(Loop *loop) noexcept nogil:
    cdef uint32_t index
    loop.deaths_are_due = False
    for index in range(loop.worker_count):
        if loop.workers[index].lanes[loop.index].has_died:
            worker_on_death(loop, loop.workers[index])


cdef void loop_run_again(Loop *loop) noexcept nogil:
    cdef Conn *conn = loop.again
    cdef Conn *following
    loop.again = NULL
    while conn != NULL:
        following = conn.next_again
        conn_on_again(loop, conn)
        conn = following


cdef void loop_run_timers(Loop *loop) noexcept nogil:
    cdef Timer *timer = wheel_due(&loop.wheel, loop.now_ns)
    while timer != NULL:
        timer.deadline_ns = 0
        conn_on_timer(loop, conn_of_timer(timer))
        timer = wheel_due(&loop.wheel, loop.now_ns)
    if loop.accept_at_ns and loop.now_ns >= loop.accept_at_ns and not loop.is_draining:
        loop.accept_at_ns = 0
        listeners_watch(loop)
    if loop.is_draining:
        loop_check_quiet(loop)
    elif loop.drain_until_ns and loop.now_ns >= loop.drain_until_ns:
        loop.drain_until_ns = 0
        loop_close_idle(loop)


cdef void loop_tick(Loop *loop) noexcept nogil:
    # Every HEALTH_TICK_NS while this loop has requests.
    loop.health_at_ns = loop.now_ns + HEALTH_TICK_NS
    loop_check_timeouts(loop)
    loop_tick_pools(loop)


cdef bint loop_needs_tick(const Loop *loop) noexcept nogil:
    return loop.exchange_count > 0 or loop.watched_count > 0


cdef inline void loop_sweep(Loop *loop) noexcept nogil:
    # HTTP.sys UriScavengerPeriod, for as long as anything is stored.
    if loop.sweep_at_ns == 0:
        # relaxed: seen in the next turn at the latest
        if atomic.load_relaxed(&loop.core.store.entries_now):
            loop.sweep_at_ns = (loop.now_ns + <uint64_t> loop.core.settings.cache_scavenge_s
                                * 1000000000)
    elif loop.now_ns >= loop.sweep_at_ns:
        loop.sweep_at_ns = 0
        job_sweep(loop)


cdef int loop_timeout_ms(Loop *loop) noexcept nogil:
    # Until the next thing that is due; -1: nothing.
    cdef uint64_t at = wheel_next_ns(&loop.wheel)
    if loop_needs_tick(loop):
        at = earlier(at, loop.health_at_ns)
    at = earlier(at, loop.accept_at_ns)
    at = earlier(at, loop.sweep_at_ns)
    at = earlier(at, loop.later_ns)
    if not loop.is_quiet:
        at = earlier(at, loop.drain_until_ns)
    if at == 0:
        return -1
    if at <= loop.now_ns:
        return 0
    return <int> ((at - loop.now_ns + 999999) // 1000000)


cdef inline uint64_t earlier(uint64_t a, uint64_t b) noexcept nogil:
    # 0 stands for never.
    if a == 0 or (b != 0 and b < a):
        return b
    return a


cdef inline void lane_turn(Lane *lane) noexcept nogil:
    # From armed (odd: its worker rings) to not armed, or back.
    # SYNC core-armed; relaxed: ours alone to write
    atomic.store_seq_u32(lane.armed, atomic.load_relaxed_u32(lane.armed) + 1)


cdef inline void lane_wake(Loop *loop, Worker *worker) noexcept nogil:
    # Its answers are looked for in every turn from now on: until the loop sleeps and it has none.
    cdef Lane *lane = &worker.lanes[loop.index]
    if lane.busy_at:
        return
    bug.BUG_ON_DEAR(not lane.is_watched)
    loop.busy[loop.busy_count] = worker
    loop.busy_count += 1
    lane.busy_at = loop.busy_count
    # relaxed: ours alone to write
    if atomic.load_relaxed_u32(lane.armed) & 1:
        lane_turn(lane)


cdef void lane_rest(Loop *loop, Lane *lane) noexcept nogil:
    # Armed, and out of the list; the last one takes its place.
    cdef Worker *last = loop.busy[loop.busy_count - 1]
    loop.busy[lane.busy_at - 1] = last
    last.lanes[loop.index].busy_at = lane.busy_at
    loop.busy_count -= 1
    lane.busy_at = 0


cdef inline bint lane_is_idle(const Lane *lane) noexcept nogil:
    # relaxed: who is wrong about it rings, or looks once too often
    return not lane.is_open or (lane.unrung == 0 and atomic.load_relaxed_u32(&lane.in_hand) == 0)


cdef void lanes_turn(Loop *loop) noexcept nogil:
    cdef uint32_t index
    for index in range(loop.busy_count):
        lane_turn(&loop.busy[index].lanes[loop.index])
    atomic.fence_seq()  # SYNC core-armed


cdef void lanes_rest(Loop *loop) noexcept nogil:
    # Armed, and without answers: those from whom none is awaited stay so.
    cdef uint32_t index = loop.busy_count
    while index:
        index -= 1
        if lane_is_idle(&loop.busy[index].lanes[loop.index]):
            lane_rest(loop, &loop.busy[index].lanes[loop.index])


cdef bint lanes_have_answers(Loop *loop) noexcept nogil:
    cdef uint32_t index
    cdef Lane *lane
    for index in range(loop.busy_count):
        lane = &loop.busy[index].lanes[loop.index]
        if (lane.is_open and worker_is_trusted(loop.busy[index])
                and ring_has_record(&lane.answers)):
            return True
    return False


cdef void loop_ring(Loop *loop) noexcept nogil:
    # A bell wakes a sleeper, which costs as much as several requests: while there is other work at
    # hand, requests are collected for a few turns. A loop that finds nothing to do rings at once
    # (loop_wait).
    loop.turns_unrung += 1
    if loop.turns_unrung >= TURNS_UNRUNG_MAX:
        lanes_ring(loop, 0)
    else:
        lanes_ring(loop, RECORDS_UNRUNG_MAX)
    if not loop.ring_is_due:
        loop.turns_unrung = 0


cdef int loop_wait(Loop *loop, epoll_event *events) noexcept nogil:
    # Sleeps until something happens, with the lanes armed.
    cdef int count
    if loop.again != NULL or loop.due_first != NULL or loop.has_mail:
        return epoll_wait(loop.epoll_fd, events, EVENTS_PER_TURN, 0)
    if loop.ring_is_due:
        count = epoll_wait(loop.epoll_fd, events, EVENTS_PER_TURN, 0)
        if count != 0 or lanes_have_answers(loop):
            return count
        lanes_ring(loop, 0)
        loop.turns_unrung = 0
    if loop.spin.limit_ns and loop.exchange_count:
        return loop_wait_awake(loop, events)
    return loop_sleep(loop, events)


cdef int loop_sleep(Loop *loop, epoll_event *events) noexcept nogil:
    cdef int count
    cdef int timeout_ms = loop_timeout_ms(loop)
    if timeout_ms == 0:
        return epoll_wait(loop.epoll_fd, events, EVENTS_PER_TURN, 0)
    lanes_turn(loop)
    if lanes_have_answers(loop):
        timeout_ms = 0
    else:
        lanes_rest(loop)
    if loop.core.settings.cache_mode != CACHE_OFF:
        store_leave(&loop.core.store, loop.index)
        store_reclaim(&loop.core.store)
    count = epoll_wait(loop.epoll_fd, events, EVENTS_PER_TURN, timeout_ms)
    lanes_turn(loop)
    atomic.tally(&loop.counters[COUNT_WAKES], 1)
    return count


cdef int loop_wait_awake(Loop *loop, epoll_event *events) noexcept nogil:
    # Workers have requests of ours: their answers may be a moment away.
    cdef uint64_t since = linux.now_ns()
    cdef int count = -1
    if spin_is_worth(&loop.spin, since):
        count = loop_spin(loop, events, since + loop.spin.limit_ns)
        spin_note_end(&loop.spin, since)
    if count < 0:
        count = loop_sleep(loop, events)
    spin_note_wait(&loop.spin, linux.now_ns() - since)
    return count


cdef int loop_spin(Loop *loop, epoll_event *events, uint64_t until_ns) noexcept nogil:
    # Looks at the lanes and, less often, at epoll. -1: nothing came.
    cdef uint32_t looks = 0
    cdef int count
    while True:
        if lanes_have_answers(loop):
            return epoll_wait(loop.epoll_fd, events, EVENTS_PER_TURN, 0)
        looks += 1
        if looks % SPIN_EVENTS_EVERY == 0:
            count = epoll_wait(loop.epoll_fd, events, EVENTS_PER_TURN, 0)
            if count > 0:
                return count
            if linux.now_ns() >= until_ns:
                return -1
        atomic.cpu_relax()


cdef void loop_turn(Loop *loop, epoll_event *events) noexcept nogil:
    cdef int count = loop_wait(loop, events)
    cdef int64_t since = 0
    loop.now_ns = linux.now_ns()
    if loop.core.settings.cache_mode != CACHE_OFF:
        store_enter(&loop.core.store, loop.index)
    atomic.tally(&loop.counters[COUNT_TURNS], 1)
    loop.turn_bytes = 0
    if bug.DEBUG:
        since = linux.unqueued_ns(loop.schedstat_fd)
    loop_work(loop, events, count)
    if bug.DEBUG:
        since = linux.unqueued_ns(loop.schedstat_fd) - since
        if since > <int64_t> loop.turn_ns_max:
            atomic.store_relaxed(&loop.turn_ns_max, <uint64_t> since)  # relaxed: a figure


cdef void loop_work(Loop *loop, epoll_event *events, int count) noexcept nogil:
    cdef int index
    for index in range(count):
        loop_on_event(loop, &events[index])
    if loop.has_mail:
        loop.has_mail = False
        mailbox_read(loop)
    if loop.deaths_are_due:
        loop_bury(loop)
    lanes_drain(loop)
    if loop.again != NULL:
        loop_run_again(loop)
    loop_run_timers(loop)
    if loop_needs_tick(loop) and loop.now_ns >= loop.health_at_ns:
        loop_tick(loop)
    if loop.index == 0 and loop.core.settings.cache_scavenge_s:
        loop_sweep(loop)
    if loop.later_ns and loop.now_ns >= loop.later_ns:
        loop_run_later(loop)
    if loop.due_first != NULL:
        loop_admit(loop)
    if loop.ring_is_due:
        loop_ring(loop)
    if loop.closed != NULL:
        conns_free_closed(loop)
    if loop.log_is_due:
        log_ring(loop)


cdef void *loop_main(void *argument) noexcept nogil:
    cdef Loop *loop = <Loop *> argument
    cdef epoll_event events[EVENTS_PER_TURN]
    cdef sigset_t all_signals
    sigfillset(&all_signals)
    pthread_sigmask(SIG_BLOCK, &all_signals, NULL)
    if bug.DEBUG:
        loop.schedstat_fd = linux.schedstat_open()
    while loop.is_running:
        loop_turn(loop, events)
    if bug.DEBUG:
        fd_close(&loop.schedstat_fd)
    return NULL
