# Assertions, branch hints and fault points.
#
# Rules: BUG_ON states what this process alone guarantees. Bytes from a client or from a worker
# never reach a BUG_ON: they are checked and refused with a reason. A failed BUG_ON prints one line
# and aborts: the supervisor reports it and the service is started anew with nothing half-written.
#
# FAULT(name) is a named place at which a test may end or stop the process
# (KERNELQ_FAULT="name:kill" or "name:stop", optionally "name:kill:3" for the third passage of each
# process). With KERNELQ_FAULT_TOKEN=PATH only the process that can remove that file is meant, from
# the given passage on: one death, whichever process comes by, and another when the file is back.
# Compiled out of release builds.

cdef extern from *:
    """
    #ifndef KQ_BUG_H
    #define KQ_BUG_H
    #include <signal.h>
    #include <stdatomic.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>

    #define KQ_LIKELY(x) __builtin_expect(!!(x), 1)
    #define KQ_UNLIKELY(x) __builtin_expect(!!(x), 0)

    __attribute__((cold, noreturn)) static void kq_bug(const char *what, const char *file,
                                                       int line) {
        dprintf(2, "kernelq: bug: %s at %s:%d; the process aborts\\n", what, file, line);
        abort();
    }
    #define BUG_ON(x) ((void)(KQ_UNLIKELY(x) ? (kq_bug(#x, __FILE__, __LINE__), 0) : 0))
    #if KQ_DEBUG
    #define BUG_ON_DEAR(x) BUG_ON(x)
    __attribute__((cold)) static void kq_fault(const char *name) {
        static _Atomic int passages;
        const char *plan = getenv("KERNELQ_FAULT");
        size_t length = strlen(name);
        if (plan == NULL || strncmp(plan, name, length) != 0 || plan[length] != ':') return;
        const char *action = plan + length + 1;
        const char *count = strchr(action, ':');
        int due = count ? atoi(count + 1) : 1;
        int passage = atomic_fetch_add(&passages, 1) + 1;
        const char *token = getenv("KERNELQ_FAULT_TOKEN");
        if (token == NULL ? passage != due : passage < due || unlink(token) < 0) return;
        kill(getpid(), strncmp(action, "stop", 4) == 0 ? SIGSTOP : SIGKILL);
    }
    #define FAULT(name) kq_fault(name)
    #else
    #define BUG_ON_DEAR(x) ((void)0)
    #define FAULT(name) ((void)0)
    #endif
    #endif
    """
    bint likely "KQ_LIKELY"(bint x) noexcept nogil
    bint unlikely "KQ_UNLIKELY"(bint x) noexcept nogil
    void BUG_ON(bint x) noexcept nogil
    void BUG_ON_DEAR(bint x) noexcept nogil   # dear: only in debug builds
    void FAULT(const char *name) noexcept nogil
    unsigned int trailing_zeros "__builtin_ctzll"(unsigned long long word) noexcept nogil
    const bint DEBUG "KQ_DEBUG"
