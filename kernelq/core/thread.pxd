# Threads and the process they are in: locks, futexes, the waits of a worker, its end. Nothing here
# is shared with another process but the doorbells (sockets) and bells (eventfds).
#
# Facts: a futex wait compares the word and goes to sleep in one step, so "change the word, then
# wake" is never lost. The kernel gives a signal that is meant for the whole process to its main
# thread whenever that can take it, so serving threads need not block signals (and must not: a
# process started from such a thread inherits its mask, and could then not be ended by SIGTERM).

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef KQ_THREAD_H
    #define KQ_THREAD_H
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <linux/futex.h>
    #include <poll.h>
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <sys/eventfd.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    static inline struct timespec kq_timespec(uint64_t ns) {
        struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
        return t;
    }
    /* 0 woken (or for no reason), -EAGAIN the word differs from seen, -ETIMEDOUT, -EINTR. 0 ns:
       no time limit. */
    static inline int kq_futex_wait(uint32_t *word, uint32_t seen, uint64_t timeout_ns) {
        struct timespec t = kq_timespec(timeout_ns);
        const struct timespec *most = timeout_ns ? &t : NULL;
        return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, most, NULL, 0) < 0 ? -errno : 0;
    }
    static inline void kq_futex_wake(uint32_t *word, int count) {
        (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
    }
    static inline uint32_t kq_cpu_count(void) {
        cpu_set_t set;
        return sched_getaffinity(0, sizeof set, &set) < 0 ? 1 : (uint32_t)CPU_COUNT(&set);
    }
    static inline uint64_t kq_thread_cpu_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    static inline void kq_bell_ring(int fd) {
        uint64_t one = 1;
        while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {}
    }
    /* All of it, in one call where that goes; what no reader takes within a second is lost. */
    static inline void kq_write_all(int fd, const char *at, size_t bytes) {
        while (bytes > 0) {
            ssize_t put = write(fd, at, bytes);
            if (put >= 0) { at += put; bytes -= (size_t)put; continue; }
            struct pollfd p = {fd, POLLOUT, 0};
            if (errno != EINTR && (errno != EAGAIN || poll(&p, 1, 1000) <= 0)) return;
        }
    }
    /* Sleeps until the eventfd is not zero, and makes it zero; 1 when interrupted. */
    static inline int kq_bell_wait(int fd) {
        struct pollfd p = {fd, POLLIN, 0};
        uint64_t count;
        if (poll(&p, 1, -1) <= 0) return 1;
        return read(fd, &count, sizeof count) < 0;
    }
    /* Sleeps for ns, or until the other end of the doorbell is gone: 1. */
    static inline int kq_sleep_or_hangup(int doorbell, uint64_t ns) {
        struct pollfd p = {doorbell, 0, 0};
        struct timespec t = kq_timespec(ns);
        return ppoll(&p, 1, &t, NULL) > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
    }
    /* Sleeps until one of the doorbells has something and empties it, at most for ns (0: no time
       limit). 0; -1: their other end is gone. */
    static inline int kq_doorbells_wait(const int *doorbells, uint32_t count, uint64_t ns) {
        struct pollfd polled[64];
        struct timespec t = kq_timespec(ns);
        char scrap[512];
        ssize_t got;
        if (count == 1 && ns == 0) {
            got = read(doorbells[0], scrap, sizeof scrap);
            return got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN) ? -1 : 0;
        }
        for (uint32_t i = 0; i < count; i++) polled[i] = (struct pollfd){doorbells[i], POLLIN, 0};
        if (ppoll(polled, count, ns ? &t : NULL, NULL) < 0) return errno == EINTR ? 0 : -1;
        for (uint32_t i = 0; i < count; i++) {
            if (polled[i].revents & POLLIN) {
                if (read(doorbells[i], scrap, sizeof scrap) == 0) return -1;
            } else if (polled[i].revents) return -1;
        }
        return 0;
    }
    static inline void kq_close_if(int fd) {
        if (fd >= 0) close(fd);
    }
    /* Makes the kernel provide the pages now: the first request should not wait for them. A
       hint. */
    static inline void kq_prefault(void *at, size_t bytes) {
    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_WRITE 23
    #endif
        (void)madvise(at, bytes, MADV_POPULATE_WRITE);
    }
    __attribute__((cold, noreturn)) static void kq_end_process(const char *why, int status) {
        if (why) dprintf(2, "kernelq: worker process %d ends itself: %s\\n", (int)getpid(), why);
        _exit(status);
    }
    /* A thread of ours that runs no Python and takes no signals. 0 or -errno. */
    static inline int kq_thread_start(pthread_t *thread, void *(*run)(void *), void *subject) {
        pthread_attr_t attributes;
        sigset_t all, before;
        int error;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 128 * 1024);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        error = pthread_create(thread, &attributes, run, subject);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
        return -error;
    }
    #endif
    """
    ctypedef struct Mutex "pthread_mutex_t":
        pass
    ctypedef unsigned long Thread "pthread_t"
    int mutex_init "pthread_mutex_init"(Mutex *mutex, const void *attributes) noexcept nogil
    int mutex_uninit "pthread_mutex_destroy"(Mutex *mutex) noexcept nogil
    int mutex_take "pthread_mutex_lock"(Mutex *mutex) noexcept nogil
    int mutex_give "pthread_mutex_unlock"(Mutex *mutex) noexcept nogil
    int thread_join "pthread_join"(Thread thread, void **result) noexcept nogil
    int thread_start "kq_thread_start"(
        Thread *thread, void *(*run)(void *) noexcept nogil, void *subject) noexcept nogil
    int futex_wait "kq_futex_wait"(uint32_t *word, uint32_t seen,
                                   uint64_t timeout_ns) noexcept nogil
    void futex_wake "kq_futex_wake"(uint32_t *word, int count) noexcept nogil
    void close_if "kq_close_if"(int fd) noexcept nogil
    void prefault "kq_prefault"(void *at, size_t bytes) noexcept nogil
    void end_process "kq_end_process"(const char *why, int status) noexcept nogil
    int eventfd(unsigned int initial, int flags) noexcept nogil
    int EFD_CLOEXEC
    int EFD_NONBLOCK
    int getpid() noexcept nogil
    int sched_yield() noexcept nogil
    ssize_t pread(int fd, void *into, size_t bytes, int64_t offset) noexcept nogil
    ssize_t write(int fd, const void *data, size_t bytes) noexcept nogil
    int EINTR
    int MSG_DONTWAIT
    int EAGAIN
    int ETOOMANYREFS
    uint32_t cpu_count "kq_cpu_count"() noexcept nogil
    uint64_t thread_cpu_ns "kq_thread_cpu_ns"() noexcept nogil
    void bell_ring "kq_bell_ring"(int fd) noexcept nogil
    void write_all "kq_write_all"(int fd, const char *at, size_t bytes) noexcept nogil
    int bell_wait "kq_bell_wait"(int fd) noexcept nogil
    bint sleep_or_hangup "kq_sleep_or_hangup"(int doorbell, uint64_t ns) noexcept nogil
    int doorbells_wait "kq_doorbells_wait"(const int *doorbells, uint32_t count,
                                           uint64_t ns) noexcept nogil
