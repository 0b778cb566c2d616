/* Preloaded into a program under valgrind's callgrind: it makes time and the network the same in every run.

   Valgrind is some fifty times slower, and another machine's load delays the other side as it likes: batches would fill
   in one run and go half empty in the next. The program calls getloadavg() three times. From the first one on
   - clocks stand still while the program works;
   - the other side answers at once: the event loop waits until every request has its answer, which takes ANSWER_NS;
   - where nothing is under way the next timer is due at once.
   From the second one on instructions are counted too; the third one ends the program. A request is what was sent over
   TCP, its answer the next bytes that come; who has connected to the program is not waited for. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#define SECOND 1000000000LL
#define ANSWER_NS 300000
#define TURN_NS 1000 /* a timer of libev's rings only once its time has passed */
#define FILES 4096
#define REAL(name) static __typeof__(&name) real_##name;
REAL(clock_nanosleep) REAL(pthread_cond_timedwait) REAL(send) REAL(recv) REAL(epoll_wait) REAL(accept4)

static int marks;
static long long begun[16], passed; /* each clock at the first mark, and what has passed since, in nanoseconds */
static char awaits[FILES], accepted[FILES];
static int highest; /* of the files that ever awaited an answer */

__attribute__((constructor)) static void find_real(void) {
    real_clock_nanosleep = dlsym(RTLD_NEXT, "clock_nanosleep");
    real_pthread_cond_timedwait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real_send = dlsym(RTLD_NEXT, "send");
    real_recv = dlsym(RTLD_NEXT, "recv");
    real_epoll_wait = dlsym(RTLD_NEXT, "epoll_wait");
    real_accept4 = dlsym(RTLD_NEXT, "accept4");
}

static void await_answer(int file, int yes) {
    if (file < 0 || file >= FILES || accepted[file]) return;
    awaits[file] = yes;
    if (file > highest) highest = file;
}

static long long real_ns(clockid_t clock) {
    struct timespec now;
    syscall(SYS_clock_gettime, clock, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

static int is_wall(clockid_t clock) {
    return clock >= 0 && clock < 16 && clock != CLOCK_PROCESS_CPUTIME_ID && clock != CLOCK_THREAD_CPUTIME_ID;
}

int getloadavg(double *averages, int number) {
    for (clockid_t clock = 0; !marks && clock < 16; clock++) begun[clock] = is_wall(clock) ? real_ns(clock) : 0;
    marks++;
    if (marks == 2) CALLGRIND_START_INSTRUMENTATION;
    if (marks == 3) _exit(0);
    for (int one = 0; one < number; one++) averages[one] = 0;
    return number;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!marks || !is_wall(clock)) return syscall(SYS_clock_gettime, clock, now);
    now->tv_sec = (begun[clock] + passed) / SECOND;
    now->tv_nsec = (begun[clock] + passed) % SECOND;
    return 0;
}

/* Other threads sleep by the same clock. */
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *asked, struct timespec *left) {
    long long end = asked->tv_sec * SECOND + asked->tv_nsec;
    if (!marks) return real_clock_nanosleep(clock, flags, asked, left);
    if (!(flags & TIMER_ABSTIME)) end += begun[clock] + passed;
    while (begun[clock] + passed < end) usleep(20000);
    return 0;
}

/* Only Python's lock of its interpreter waits so, for 5 ms: those are real ones. */
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *asked) {
    long long end = real_ns(CLOCK_MONOTONIC) + 5000000;
    struct timespec until = {end / SECOND, end % SECOND};
    return real_pthread_cond_timedwait(condition, mutex, marks ? &until : asked);
}

ssize_t send(int file, const void *bytes, size_t number, int flags) {
    int protocol = 0;
    socklen_t size = sizeof protocol;
    ssize_t sent = real_send(file, bytes, number, flags);
    if (sent > 0 && !getsockopt(file, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) && protocol == IPPROTO_TCP)
        await_answer(file, 1);
    return sent;
}

ssize_t recv(int file, void *bytes, size_t number, int flags) {
    ssize_t got = real_recv(file, bytes, number, flags);
    await_answer(file, got < 0 && errno == EAGAIN);
    return got;
}

int accept4(int listener, struct sockaddr *address, socklen_t *size, int flags) {
    int file = real_accept4(listener, address, size, flags);
    if (file >= 0 && file < FILES) accepted[file] = 1;
    return file;
}

int close(int file) {
    await_answer(file, 0);
    if (file >= 0 && file < FILES) accepted[file] = 0;
    return syscall(SYS_close, file);
}

static int all_answered(void) {
    int any = 0;
    for (int file = 0; file <= highest; file++) {
        struct pollfd one = {file, POLLIN, 0};
        if (!awaits[file]) continue;
        poll(&one, 1, -1);
        any = 1;
    }
    return any;
}

/* In the order of their files: which answer came first is chance. */
static void sort(struct epoll_event *events, int number) {
    for (int one = 1; one < number; one++)
        for (int at = one; at && (int)events[at].data.u64 < (int)events[at - 1].data.u64; at--) {
            struct epoll_event later = events[at - 1];
            events[at - 1] = events[at];
            events[at] = later;
        }
}

int epoll_wait(int loop, struct epoll_event *events, int most, int timeout) {
    if (!marks) return real_epoll_wait(loop, events, most, timeout);
    if (all_answered()) passed += ANSWER_NS;
    int found = real_epoll_wait(loop, events, most, timeout < 0 ? -1 : 0);
    if (!found) passed += timeout * 1000000LL + TURN_NS;
    sort(events, found);
    return found;
}
