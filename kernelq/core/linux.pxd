# System calls and constants, used qualified (linux.accept4), so that a reader sees each call that
# leaves the project. Carries what Python 3.11 and older C libraries lack.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef KQ_LINUX_H
    #define KQ_LINUX_H
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <arpa/inet.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <poll.h>
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <linux/sockios.h>
    #include <sys/eventfd.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <sys/sendfile.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/types.h>
    #include <sys/uio.h>
    #include <sys/un.h>
    #include <time.h>
    #include <unistd.h>
    #ifndef F_SEAL_FUTURE_WRITE
    #define F_SEAL_FUTURE_WRITE 0x0010
    #endif
    #ifndef MFD_NOEXEC_SEAL
    #define MFD_NOEXEC_SEAL 0x0008U
    #endif
    #ifndef RWF_NOWAIT
    #define RWF_NOWAIT 0x00000008
    #endif
    #ifndef SYS_pidfd_send_signal
    #define SYS_pidfd_send_signal 424
    #endif
    #ifndef SYS_pidfd_open
    #define SYS_pidfd_open 434
    #endif
    #define KQ_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)

    static inline int kq_memfd(const char *name) {
        int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
        if (fd < 0 && errno == EINVAL) fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
        return fd;
    }
    static inline int kq_seal(int fd) { return fcntl(fd, F_ADD_SEALS, KQ_SEALS); }
    static inline int kq_is_sealed(int fd) {
        int seals = fcntl(fd, F_GET_SEALS);
        return seals >= 0 && (seals & KQ_SEALS) == KQ_SEALS;
    }
    static inline int64_t kq_file_bytes(int fd) {
        struct stat status;
        return fstat(fd, &status) < 0 ? -1 : status.st_size;
    }
    /* One ring mapped twice in a row: a record never wraps. NULL on failure. */
    static inline void *kq_map_twice(int fd, uint64_t offset, size_t bytes, int writable) {
        int protection = PROT_READ | (writable ? PROT_WRITE : 0);
        char *at = mmap(NULL, bytes * 2, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) return NULL;
        for (int half = 0; half < 2; half++)
            if (mmap(at + half * bytes, bytes, protection, MAP_SHARED | MAP_FIXED, fd,
                     (off_t)offset) == MAP_FAILED) {
                int error = errno;
                munmap(at, bytes * 2);
                errno = error;
                return NULL;
            }
        madvise(at, bytes * 2, MADV_DONTFORK);
        return at;
    }
    static inline void *kq_map(int fd, size_t bytes, int writable) {
        void *at = mmap(NULL, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) return NULL;
        madvise(at, bytes, MADV_DONTFORK);
        return at;
    }
    static inline uint64_t kq_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    static inline uint64_t kq_wall_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    /* Of the calling thread; see unqueued_ns. */
    static inline int kq_schedstat_open(void) {
        return open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    }
    /* A clock that stands still while the thread could run and got no processor: differences tell
       how long it was busy or blocked, on a machine however loaded. */
    static inline int64_t kq_unqueued_ns(int schedstat_fd) {
        unsigned long long running, queued = 0;
        char text[64];
        uint64_t now = kq_now_ns();
        ssize_t got = schedstat_fd < 0 ? -1 : pread(schedstat_fd, text, sizeof text - 1, 0);
        if (got > 0) {
            text[got] = 0;
            if (sscanf(text, "%llu %llu", &running, &queued) < 2) queued = 0;
        }
        return (int64_t)(now - queued);
    }
    /* One descriptor with a fixed-size message over a unix socket. 0, or -errno. */
    static inline int kq_send_fd(int sock, const void *message, size_t bytes, int fd) {
        union { struct cmsghdr align; char room[CMSG_SPACE(sizeof(int))]; } control;
        struct iovec part = {(void *)message, bytes};
        struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                           .msg_controllen = sizeof control.room};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET; c->cmsg_type = SCM_RIGHTS; c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(int));
        return sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
    }
    /* Bytes received, 0 at the end, -errno. *fd is the descriptor or -1; more than one are
       closed. */
    static inline ssize_t kq_receive_fd(int sock, void *message, size_t bytes, int *fd, int flags) {
        union { struct cmsghdr align; char room[CMSG_SPACE(8 * sizeof(int))]; } control;
        struct iovec part = {message, bytes};
        struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                           .msg_controllen = sizeof control.room};
        ssize_t got = recvmsg(sock, &m, flags | MSG_CMSG_CLOEXEC);
        *fd = -1;
        if (got < 0) return -errno;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
            int count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            for (int i = 0; i < count; i++) {
                int one;
                memcpy(&one, CMSG_DATA(c) + (size_t)i * sizeof(int), sizeof one);
                if (*fd < 0) *fd = one; else close(one);
            }
        }
        return got;
    }
    /* The same for a peer that may pass anything: every descriptor comes to the caller, since those
       that find no room would be closed in here, and that can take hours. */
    static inline ssize_t kq_receive_fds(int sock, void *message, size_t bytes, int *fds,
                                         int *count) {
        union {
            struct cmsghdr align;
            char room[CMSG_SPACE(253 * sizeof(int))]; /* SCM_MAX_FD: a message has no more */
        } control;
        struct iovec part = {message, bytes};
        struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                           .msg_controllen = sizeof control.room};
        ssize_t got = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        *count = 0;
        if (got < 0) return -errno;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
            size_t passed = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), passed * sizeof(int));
            *count = (int)passed;
        }
        return got;
    }
    /* Of tmpfs, or a memfd: reading it waits for no device and no server. Only these have seals. */
    static inline int kq_is_memory(int fd) { return fcntl(fd, F_GET_SEALS) >= 0; }
    /* Without asking a file server: it may be the peer's own, and never answer. */
    static inline int kq_is_regular(int fd) {
        struct statx s;
        return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &s) == 0
            && S_ISREG(s.stx_mode);
    }
    #endif
    """
    int memfd "kq_memfd"(const char *name) noexcept nogil
    int seal "kq_seal"(int fd) noexcept nogil
    bint is_sealed "kq_is_sealed"(int fd) noexcept nogil
    int64_t file_bytes "kq_file_bytes"(int fd) noexcept nogil
    void *map_twice "kq_map_twice"(int fd, uint64_t offset, size_t bytes,
                                   bint writable) noexcept nogil
    void *map_whole "kq_map"(int fd, size_t bytes, bint writable) noexcept nogil
    uint64_t now_ns "kq_now_ns"() noexcept nogil
    int schedstat_open "kq_schedstat_open"() noexcept nogil
    int64_t unqueued_ns "kq_unqueued_ns"(int schedstat_fd) noexcept nogil
    uint64_t wall_ns "kq_wall_ns"() noexcept nogil
    int send_fd "kq_send_fd"(int sock, const void *message, size_t bytes, int fd) noexcept nogil
    ssize_t receive_fd "kq_receive_fd"(int sock, void *message, size_t bytes, int *fd,
                                       int flags) noexcept nogil
    int errno
    ssize_t receive_fds "kq_receive_fds"(int sock, void *message, size_t bytes, int *fds,
                                         int *count) noexcept nogil
    bint is_memory "kq_is_memory"(int fd) noexcept nogil
    bint is_regular "kq_is_regular"(int fd) noexcept nogil
    int munmap(void *at, size_t bytes) noexcept nogil
    int ftruncate(int fd, int64_t bytes) noexcept nogil
    int close(int fd) noexcept nogil
    long syscall(long number, ...) noexcept nogil
    const long SYS_pidfd_send_signal
    int getpid() noexcept nogil
    int fcntl(int fd, int command, ...) noexcept nogil
    int open(const char *path, int flags, ...) noexcept nogil
    int eventfd(unsigned int value, int flags) noexcept nogil
    int fallocate(int fd, int mode, int64_t offset, int64_t bytes) noexcept nogil
    ssize_t read(int fd, void *at, size_t bytes) noexcept nogil
    ssize_t write(int fd, const void *at, size_t bytes) noexcept nogil
    ssize_t pread(int fd, void *at, size_t bytes, int64_t offset) noexcept nogil
    ssize_t pwrite(int fd, const void *at, size_t bytes, int64_t offset) noexcept nogil
    ssize_t sendfile(int out, int in_, int64_t *offset, size_t bytes) noexcept nogil
    ctypedef struct iovec "struct iovec":
        void *iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec *parts, int count, int64_t offset, int flags) noexcept nogil
    ctypedef unsigned int socklen_t
    ctypedef struct sockaddr "struct sockaddr":
        unsigned short sa_family
    ctypedef struct sockaddr_storage "struct sockaddr_storage":
        unsigned short ss_family
    ctypedef struct in_addr "struct in_addr":
        uint32_t s_addr
    ctypedef struct sockaddr_in "struct sockaddr_in":
        uint16_t sin_port
        in_addr sin_addr
    ctypedef struct in6_addr "struct in6_addr":
        pass
    ctypedef struct sockaddr_in6 "struct sockaddr_in6":
        uint16_t sin6_port
        in6_addr sin6_addr
    ctypedef struct sockaddr_un "struct sockaddr_un":
        char sun_path[108]
    ctypedef struct linger_ "struct linger":
        int l_onoff
        int l_linger
    ctypedef struct msghdr "struct msghdr":
        iovec *msg_iov
        size_t msg_iovlen
    uint16_t ntohs(uint16_t port) noexcept nogil
    const char *inet_ntop(int family, const void *address, char *text,
                          socklen_t bytes) noexcept nogil
    int accept4(int fd, sockaddr *address, socklen_t *bytes, int flags) noexcept nogil
    int getsockname(int fd, sockaddr *address, socklen_t *bytes) noexcept nogil
    int setsockopt(int fd, int level, int name, const void *value, socklen_t bytes) noexcept nogil
    int socketpair(int family, int type, int protocol, int *ends) noexcept nogil
    int shutdown(int fd, int how) noexcept nogil
    int ioctl(int fd, unsigned long request, ...) noexcept nogil
    ssize_t recv(int fd, void *at, size_t bytes, int flags) noexcept nogil
    ssize_t send(int fd, const void *at, size_t bytes, int flags) noexcept nogil
    ssize_t sendmsg(int fd, const msghdr *message, int flags) noexcept nogil
    ctypedef union epoll_data:
        void *ptr
        uint64_t u64
    ctypedef struct epoll_event "struct epoll_event":
        uint32_t events
        epoll_data data
    int epoll_create1(int flags) noexcept nogil
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event) noexcept nogil
    int epoll_wait(int epoll, epoll_event *events, int count, int timeout_ms) noexcept nogil
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef unsigned long pthread_t
    ctypedef struct sigset_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes) noexcept nogil
    int pthread_mutex_destroy(pthread_mutex_t *mutex) noexcept nogil
    int pthread_mutex_lock(pthread_mutex_t *mutex) noexcept nogil
    int pthread_mutex_unlock(pthread_mutex_t *mutex) noexcept nogil
    int pthread_cond_init(pthread_cond_t *condition, const void *attributes) noexcept nogil
    int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex) noexcept nogil
    int pthread_cond_signal(pthread_cond_t *condition) noexcept nogil
    int pthread_cond_broadcast(pthread_cond_t *condition) noexcept nogil
    int pthread_create(pthread_t *thread, const void *attributes,
                       void *(*main)(void *) noexcept nogil, void *argument) noexcept nogil
    int pthread_join(pthread_t thread, void **result) noexcept nogil
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) noexcept nogil
    int sigfillset(sigset_t *set) noexcept nogil
    ctypedef long time_t
    ctypedef struct tm "struct tm":
        pass
    time_t time(time_t *at) noexcept nogil
    tm *gmtime_r(const time_t *seconds, tm *parts) noexcept nogil
    tm *localtime_r(const time_t *seconds, tm *parts) noexcept nogil
    size_t strftime(char *text, size_t most, const char *format, const tm *parts) noexcept nogil
    int AF_INET, AF_INET6, AF_UNIX, EAGAIN, ECONNRESET, EFD_CLOEXEC, EFD_NONBLOCK, EINTR, EMFILE
    int ENFILE, ENOBUFS, ENOMEM, EPIPE, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN
    int EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP, EPOLLET, EPOLLONESHOT, EPOLLEXCLUSIVE
    int F_DUPFD_CLOEXEC, F_GETFL, IPPROTO_TCP, MSG_DONTWAIT, MSG_NOSIGNAL, O_ACCMODE
    int O_CLOEXEC, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_WRONLY, RWF_NOWAIT, SHUT_WR
    int SIGKILL, SIG_BLOCK, SIOCOUTQ, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_SEQPACKET, SOL_SOCKET
    int SO_LINGER, TCP_NODELAY, EOPNOTSUPP, SHUT_RD, SOCK_STREAM
    int EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC, ESHUTDOWN
