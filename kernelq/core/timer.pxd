# A timer wheel: one per loop, coarse, with lazy re-arming.
#
# Facts: a persistent connection changes its deadline with every request and nearly never reaches
# one. So a timer is moved only when it comes due: timer_set() writes the new deadline and touches
# the wheel only if the node is not in it, or would fire too late. The wheel's slot is a promise to
# look again, not the deadline itself.

from libc.stdint cimport uint32_t, uint64_t

from kernelq.core cimport bug

cdef enum:
    TIMER_SLOTS = 1024             # a power of two
    TIMER_WORDS = 16               # of 64 slots each
    # 134 ms; the wheel spans 137 s, longer deadlines are looked at on the way
    TIMER_TICK_NS = 1 << 27

ctypedef struct Timer:
    Timer *next
    Timer *previous                # NULL: not in the wheel
    uint64_t deadline_ns           # 0: none
    uint64_t tick                  # in whose slot it waits

ctypedef struct TimerWheel:
    Timer slots[TIMER_SLOTS]       # heads of circular lists
    uint64_t occupied[TIMER_WORDS]
    uint64_t tick                  # all before it have been looked at
    uint32_t count


cdef inline void wheel_init(TimerWheel *wheel, uint64_t now_ns) noexcept nogil:
    cdef uint32_t index
    for index in range(<uint32_t> TIMER_SLOTS):
        wheel.slots[index].next = &wheel.slots[index]
        wheel.slots[index].previous = &wheel.slots[index]
    for index in range(<uint32_t> TIMER_WORDS):
        wheel.occupied[index] = 0
    wheel.tick = now_ns // TIMER_TICK_NS
    wheel.count = 0


cdef inline void timer_unlink(TimerWheel *wheel, Timer *timer) noexcept nogil:
    cdef uint32_t slot = timer.tick & (TIMER_SLOTS - 1)
    timer.next.previous = timer.previous
    timer.previous.next = timer.next
    timer.previous = NULL
    wheel.count -= 1
    if wheel.slots[slot].next == &wheel.slots[slot]:
        wheel.occupied[slot >> 6] &= ~(<uint64_t> 1 << (slot & 63))


cdef inline void timer_link(TimerWheel *wheel, Timer *timer) noexcept nogil:
    cdef uint64_t tick = timer.deadline_ns // TIMER_TICK_NS + 1
    cdef uint32_t slot
    if tick <= wheel.tick:
        tick = wheel.tick + 1
    if tick > wheel.tick + TIMER_SLOTS - 1:
        tick = wheel.tick + TIMER_SLOTS - 1
    slot = tick & (TIMER_SLOTS - 1)
    timer.tick = tick
    timer.next = &wheel.slots[slot]
    timer.previous = wheel.slots[slot].previous
    timer.previous.next = timer
    wheel.slots[slot].previous = timer
    wheel.occupied[slot >> 6] |= <uint64_t> 1 << (slot & 63)
    wheel.count += 1


cdef inline void timer_set(TimerWheel *wheel, Timer *timer, uint64_t deadline_ns) noexcept nogil:
    timer.deadline_ns = deadline_ns
    if timer.previous != NULL:
        if timer.tick <= deadline_ns // TIMER_TICK_NS + 1:
            return
        timer_unlink(wheel, timer)
    timer_link(wheel, timer)


cdef inline void timer_cancel(TimerWheel *wheel, Timer *timer) noexcept nogil:
    timer.deadline_ns = 0
    if timer.previous != NULL:
        timer_unlink(wheel, timer)


cdef inline Timer *wheel_due(TimerWheel *wheel, uint64_t now_ns) noexcept nogil:
    # Gives one timer whose deadline has passed, unlinked, or NULL. Moves those that were set anew.
    cdef uint64_t now_tick = now_ns // TIMER_TICK_NS
    cdef uint32_t slot
    cdef Timer *timer
    while wheel.tick <= now_tick:
        slot = wheel.tick & (TIMER_SLOTS - 1)
        timer = wheel.slots[slot].next
        if timer == &wheel.slots[slot]:
            if wheel.count == 0:
                wheel.tick = now_tick + 1
                return NULL
            wheel.tick += 1
            continue
        timer_unlink(wheel, timer)
        if timer.deadline_ns == 0:
            continue
        if timer.deadline_ns <= now_ns:
            return timer
        timer_link(wheel, timer)
    return NULL


cdef inline uint64_t wheel_next_ns(const TimerWheel *wheel) noexcept nogil:
    # When the wheel wants to be looked at again; 0: never.
    cdef uint32_t first = wheel.tick & (TIMER_SLOTS - 1)
    cdef uint32_t step, index, ahead
    cdef uint64_t word
    if wheel.count == 0:
        return 0
    for step in range(TIMER_WORDS + 1):
        index = ((first >> 6) + step) & (TIMER_WORDS - 1)
        word = wheel.occupied[index]
        if step == 0:
            word &= ~<uint64_t> 0 << (first & 63)
        if word != 0:
            ahead = ((index << 6) + bug.trailing_zeros(word) - first) & (TIMER_SLOTS - 1)
            return (wheel.tick + ahead) * TIMER_TICK_NS
    bug.BUG_ON(True)
    return 0
