# Listening sockets: added and removed at any time, watched by every loop.
#
# Rules
#  1. A Listener stays where it is until no loop and no connection names it (refs).
#  2. A loop leaves a listener only after it has accepted until EAGAIN: what is in the backlog was
#     promised an answer. The last loop that leaves closes the socket.
#
# Fact that shaped this: whoever completes its handshake between the last accept() and close() is
# reset by the kernel. The last loop accepts once more before it closes, which leaves the time of
# one system call.

cdef enum:
    ACCEPTS_PER_TURN = 64
    ACCEPT_PAUSE_NS = 100000000    # without descriptors: try again after


# --- the table ------------------------------------------------------------------------------------

cdef int listener_add(Core_ *core, Listener *listener) noexcept nogil:
    # Its number, or -errno. Takes the listener either way; its descriptor only with a number.
    cdef Letter *letters = NULL
    cdef int outcome
    listener.refs = listener.loops_left = core.settings.loop_count
    if not letters_make(core, LETTER_LISTEN, listener, &letters):
        free(listener)
        return -ENOMEM
    pthread_mutex_lock(&core.table_lock)
    outcome = -ESHUTDOWN if core.is_shut else listener_place(core, listener)
    if outcome >= 0:
        letters_post(core, letters)
    pthread_mutex_unlock(&core.table_lock)
    if outcome < 0:
        letters_drop(letters)
        free(listener)
    return outcome


cdef int listener_place(Core_ *core, Listener *listener) noexcept nogil:
    # [table lock] The lowest number that is free.
    cdef uint32_t number = 0
    cdef uint32_t room
    cdef Listener **grown
    while number < core.listener_room and core.listeners[number] != NULL:
        number += 1
    if number == LISTENERS_MAX:
        return -ENOSPC
    if number == core.listener_room:
        room = number * 2 + 8
        grown = <Listener **> realloc(core.listeners, room * sizeof(Listener *))
        if grown == NULL:
            return -ENOMEM
        memset(grown + number, 0, (room - number) * sizeof(Listener *))
        core.listeners = grown
        core.listener_room = room
    listener.number = number
    core.listeners[number] = listener
    return <int> number


cdef int listener_remove(Core_ *core, uint32_t number) noexcept nogil:
    # 0, -ENOENT or -ENOMEM.
    cdef Letter *letters = NULL
    cdef Listener *listener = NULL
    cdef int outcome = -ENOENT
    pthread_mutex_lock(&core.table_lock)
    if number < core.listener_room:
        listener = core.listeners[number]
    # relaxed: written under this lock only
    if listener != NULL and atomic.load_relaxed_u32(&listener.is_removed) == 0:
        outcome = -ENOMEM
        if letters_make(core, LETTER_UNLISTEN, listener, &letters):
            outcome = 0
            # relaxed: a response that begins at this moment may keep its connection
            atomic.store_relaxed_u32(&listener.is_removed, 1)
            letters_post(core, letters)
    pthread_mutex_unlock(&core.table_lock)
    return outcome


cdef void listener_release(Core_ *core, Listener *listener) noexcept nogil:
    # A loop or a connection less.
    if atomic.add_u32(&listener.refs, <uint32_t> -1):
        return
    pthread_mutex_lock(&core.table_lock)
    core.listeners[listener.number] = NULL
    pthread_mutex_unlock(&core.table_lock)
    free(listener)


cdef void listeners_free(Core_ *core) noexcept nogil:
    # core_uninit(): no thread is left.
    cdef uint32_t number
    for number in range(core.listener_room):
        if core.listeners[number] != NULL:
            fd_close(&core.listeners[number].fd)
            free(core.listeners[number])
    free(core.listeners)
    core.listeners = NULL
    core.listener_room = 0


# --- one letter to every loop, or none ------------------------------------------------------------

cdef bint letters_make(Core_ *core, uint8_t kind, void *subject, Letter **first) noexcept nogil:
    # A chain of as many as there are loops. False: no memory.
    cdef Letter *letter
    cdef uint32_t index
    for index in range(core.settings.loop_count):
        letter = <Letter *> calloc(1, sizeof(Letter))
        if letter == NULL:
            letters_drop(first[0])
            return False
        letter.kind = kind
        letter.subject = subject
        letter.fd = -1
        letter.is_owned = True
        letter.next = first[0]
        first[0] = letter
    return True


cdef void letters_drop(Letter *letter) noexcept nogil:
    cdef Letter *following
    while letter != NULL:
        following = letter.next
        free(letter)
        letter = following


cdef void letters_post(Core_ *core, Letter *letter) noexcept nogil:
    cdef Letter *following
    cdef uint32_t index
    for index in range(core.settings.loop_count):
        following = letter.next
        mailbox_post(&core.loops[index].mailbox, letter)
        letter = following


# --- a loop and its listeners ---------------------------------------------------------------------

cdef void listener_join(Loop *loop, Listener *listener) noexcept nogil:
    # LETTER_LISTEN
    if loop.listener_count == loop.listener_room:
        loop.listeners = <Listener **> pointers_grown(loop.listeners, loop.listener_room)
        loop.listener_room = loop.listener_room * 2 + 8
    loop.listeners[loop.listener_count] = listener
    loop.listener_count += 1
    if loop.is_draining:
        listener_leave(loop, listener)
    elif loop.accept_at_ns == 0:
        epoll_watch(loop, listener.fd, EPOLLIN | EPOLLEXCLUSIVE, listener)


cdef void listener_leave(Loop *loop, Listener *listener) noexcept nogil:
    # Its backlog first. It may be freed.
    cdef uint32_t index = 0
    while loop.listeners[index] != listener:
        index += 1
    loop.listener_count -= 1
    loop.listeners[index] = loop.listeners[loop.listener_count]
    while listener_accept(loop, listener):
        pass
    epoll_ctl(loop.epoll_fd, EPOLL_CTL_DEL, listener.fd, NULL)
    if atomic.add_u32(&listener.loops_left, <uint32_t> -1) == 0:
        while listener_accept(loop, listener):
            pass
        fd_close(&listener.fd)
    listener_release(loop.core, listener)


cdef void loop_on_unlisten(Loop *loop, Listener *listener) noexcept nogil:
    # LETTER_UNLISTEN. At shutdown it was left already. Its idle connections may bring one last
    # request each.
    cdef uint32_t index
    for index in range(loop.listener_count):
        if loop.listeners[index] == listener:
            listener_leave(loop, listener)
            break
    if not loop.is_draining:
        loop.drain_until_ns = loop.now_ns + DRAIN_NS


cdef void listeners_watch(Loop *loop) noexcept nogil:
    cdef uint32_t index
    for index in range(loop.listener_count):
        epoll_watch(loop, loop.listeners[index].fd, EPOLLIN | EPOLLEXCLUSIVE,
                    loop.listeners[index])


cdef void listeners_unwatch(Loop *loop) noexcept nogil:
    cdef uint32_t index
    for index in range(loop.listener_count):
        epoll_ctl(loop.epoll_fd, EPOLL_CTL_DEL, loop.listeners[index].fd, NULL)


cdef void loop_on_shutdown(Loop *loop) noexcept nogil:
    # Accept until EAGAIN, then never again.
    if loop.is_draining:
        return
    while loop.listener_count:
        listener_leave(loop, loop.listeners[0])
    loop.is_draining = True
    loop.accept_at_ns = 0
    loop.drain_until_ns = loop.now_ns + DRAIN_NS


cdef bint listener_accept(Loop *loop, Listener *listener) noexcept nogil:
    # One connection. False: none is there now, or none can be taken.
    cdef sockaddr_storage address
    cdef socklen_t bytes = sizeof(address)
    cdef int one = 1
    cdef int fd = accept4(listener.fd, <sockaddr *> &address, &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd >= 0:
        if listener.family != AF_UNIX and not listener.is_no_delay:
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        conn_open(loop, listener, fd, &address)
        return True
    if linux.errno == EAGAIN or linux.errno == EINVAL:
        return False  # EINVAL: whoever shares the socket has shut it down
    if (linux.errno == EMFILE or linux.errno == ENFILE or linux.errno == ENOBUFS
            or linux.errno == ENOMEM):
        atomic.tally(&loop.counters[COUNT_ACCEPT_FAILED], 1)
        if loop.accept_at_ns == 0:
            loop_log(loop, LOG_ERROR, b"out of descriptors or memory: accepting pauses for 100 ms")
            listeners_unwatch(loop)
        loop.accept_at_ns = loop.now_ns + ACCEPT_PAUSE_NS
        return False
    return True  # that one was aborted before we came (accept(2)); there may be others


cdef void listener_on_ready(Loop *loop, Listener *listener) noexcept nogil:
    cdef uint32_t left = ACCEPTS_PER_TURN
    if loop.is_draining:
        return
    while left and listener_accept(loop, listener):
        left -= 1
    if left and linux.errno == EINVAL:
        # It would be ready for ever.
        epoll_ctl(loop.epoll_fd, EPOLL_CTL_DEL, listener.fd, NULL)
        loop_log(loop, LOG_ERROR, b"a listening socket was shut down by another process")
