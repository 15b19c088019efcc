/* The floor: the least that any HTTP server on this kernel can cost. One thread, one epoll set, one
 * read and one write per turn of a connection; it looks for the end of each head and answers with
 * fixed bytes. It knows nothing else of HTTP: no content, no limits, no timers.
 *
 * floor PORT          serves 127.0.0.1:PORT until a signal ends it
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, DESCRIPTORS = 1 << 20, DEPTH_MAX = 256 };

static const char ANSWER[] = "HTTP/1.1 200 OK\r\n"
                             "Server: floor\r\n"
                             "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
                             "Content-Type: text/plain\r\n"
                             "Content-Length: 13\r\n"
                             "\r\n"
                             "Hello, world!";
enum { ANSWER_BYTES = sizeof ANSWER - 1 };

static char answers[DEPTH_MAX * ANSWER_BYTES];
static unsigned char matched[DESCRIPTORS]; /* how much of CR LF CR LF each connection has seen */

static void check(int outcome, const char *what) {
    if (outcome < 0) {
        perror(what);
        exit(1);
    }
}

static int heads_ended(int fd, const char *bytes, ssize_t count) {
    unsigned char state = matched[fd];
    int ended = 0;
    for (ssize_t i = 0; i < count; i++) {
        if (bytes[i] == "\r\n\r\n"[state])
            state++;
        else
            state = bytes[i] == '\r';
        if (state == 4) {
            state = 0;
            ended++;
        }
    }
    matched[fd] = state;
    return ended;
}

static void serve(int fd) {
    static char bytes[65536];
    ssize_t count = read(fd, bytes, sizeof bytes);
    if (count < 0 && errno == EAGAIN)
        return;
    int ended = count > 0 ? heads_ended(fd, bytes, count) : 0;
    ssize_t size = (ssize_t)ended * ANSWER_BYTES;
    if (count <= 0 || ended > DEPTH_MAX || (ended && write(fd, answers, (size_t)size) != size))
        close(fd);
}

static void take_connections(int epoll, int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (fd >= DESCRIPTORS || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
            close(fd);
        else
            matched[fd] = 0;
    }
}

static int listen_on(int port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((in_port_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    check(listener, "socket");
    check(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), "setsockopt");
    check(bind(listener, (struct sockaddr *)&address, sizeof address), "bind");
    check(listen(listener, 4096), "listen");
    return listener;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fputs("usage: floor PORT\n", stderr);
        return 2;
    }
    for (int i = 0; i < DEPTH_MAX; i++)
        memcpy(answers + i * ANSWER_BYTES, ANSWER, ANSWER_BYTES);
    int listener = listen_on(atoi(argv[1])), epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    check(epoll, "epoll_create1");
    check(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event), "epoll_ctl");
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                take_connections(epoll, listener);
            else
                serve(events[i].data.fd);
        }
    }
}
