# Waiting awake: when it pays, and when it stops being free. Used by the core's loops and by
# workers.
#
# Facts that shaped this
#  Waking a sleeper on another processor costs the ringer some 2 µs and the sleeper some 5 µs of
#  CPU, and takes 50 to 70 µs on a virtual machine until it runs; a look at a counter takes 0.3 µs.
#  Awake waiting pays while waits are shorter than a wake-up, and it is free only while nobody else
#  wants the processor: the kernel tells us so by preempting us (ru_nivcsw), and then we leave it
#  alone.

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef KQ_SPIN_H
    #define KQ_SPIN_H
    #include <sys/resource.h>
    #ifndef RUSAGE_THREAD
    #define RUSAGE_THREAD 1
    #endif
    static inline uint64_t kq_preempted(void) {
        struct rusage used;
        return getrusage(RUSAGE_THREAD, &used) == 0 ? (uint64_t)used.ru_nivcsw : 0;
    }
    #endif
    """
    uint64_t thread_preempted "kq_preempted"() noexcept nogil

cdef enum:
    SPIN_WORTH_NS = 40000          # waits longer than this on average are slept through
    SPIN_PAUSE_NS = 20000000       # after a preemption nobody waits awake for
    SPIN_CHECK_EVERY = 32          # spins between two looks at preemptions

ctypedef struct Spin:
    uint64_t limit_ns              # longest single spin; 0: never
    uint64_t wait_ns               # moving average of waits
    uint64_t paused_until_ns
    uint64_t preempted             # involuntary context switches when last looked at
    uint32_t count


cdef inline bint spin_is_worth(const Spin *spin, uint64_t now_ns) noexcept nogil:
    return spin.limit_ns > 0 and spin.wait_ns < SPIN_WORTH_NS and now_ns >= spin.paused_until_ns


cdef inline void spin_note_wait(Spin *spin, uint64_t waited_ns) noexcept nogil:
    # One long wait says nothing about the next one but that it need not be short.
    if waited_ns > 8 * SPIN_WORTH_NS:
        waited_ns = 8 * SPIN_WORTH_NS
    spin.wait_ns += waited_ns // 8 - spin.wait_ns // 8


cdef inline void spin_note_end(Spin *spin, uint64_t now_ns) noexcept nogil:
    cdef uint64_t preempted
    spin.count += 1
    if spin.count % SPIN_CHECK_EVERY:
        return
    preempted = thread_preempted()
    if preempted > spin.preempted + SPIN_CHECK_EVERY // 8:
        spin.paused_until_ns = now_ns + SPIN_PAUSE_NS
    spin.preempted = preempted
