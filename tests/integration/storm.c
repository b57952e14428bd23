/* Makes orphans: processes whose parent ends first, so that the nearest subreaper
 * gets them. Each exits with its PID modulo 250, which can be checked by whoever
 * reaps it. Not a part of service.c: the benchmark runs it where there is no bus.
 *
 *   storm stream|burst COUNT ALIVE SUBREAPER FILE
 *
 *   stream    one after the other, each as soon as it can
 *   burst     ALIVE at a time, that wait and are released together
 *   ALIVE     so many of them at most that have not been reaped: PIDs are few
 *   FILE      gets the PID of each, as a native int
 *
 * Prints the nanoseconds until the last one was reaped: from the first one's start,
 * or from each release.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Often enough: a list of thousands takes milliseconds to read. */
#define LOOK_AFTER 500
#define LISTED 2

static const char *subreaper;
static int file, pid_limit;
/* By PID; shared with the processes that leave them. */
static char *is_orphan;

static void check(int fine, const char *what)
{
    if (!fine) {
        perror(what);
        exit(1);
    }
}

/* How many of the orphans have not been reaped. The list may lack some of them while
 * others are taken from it, but not all: so what it lacks is looked for. */
static int left(void)
{
    char path[64];
    int count = 0;
    pid_t pid;
    FILE *list;

    snprintf(path, sizeof path, "/proc/%s/task/%s/children", subreaper, subreaper);
    list = fopen(path, "r");
    check(list != NULL, path);
    while (fscanf(list, "%d", &pid) == 1)
        if (is_orphan[pid]) {
            is_orphan[pid] = LISTED;
            count++;
        }
    fclose(list);
    for (pid = 1; pid < pid_limit; pid++)
        if (is_orphan[pid] == LISTED)
            is_orphan[pid] = 1;
        else if (is_orphan[pid] && kill(pid, 0) && errno == ESRCH)
            /* Somebody else may be given the PID from here on. */
            is_orphan[pid] = 0;
    return count;
}

/* Others use up PIDs as well, and give them back. */
static pid_t must_fork(void)
{
    const struct timespec while_there_is_none = {0, 1000000};
    pid_t pid;

    while ((pid = fork()) < 0 && errno == EAGAIN)
        nanosleep(&while_there_is_none, NULL);
    check(pid >= 0, "fork");
    return pid;
}

/* The kernel tells nobody that a zombie was reaped: there is only to look again. */
static void wait_until_left(int count)
{
    const struct timespec while_it_works = {0, 1000000};

    while (left() > count)
        nanosleep(&while_it_works, NULL);
}

/* Leaves orphans behind, that end when the other end of the pipe is closed. */
static void leave(int count, int gate[2])
{
    pid_t parent = must_fork();
    int status;

    if (parent == 0) {
        while (count--) {
            pid_t orphan = must_fork();
            char byte;

            if (orphan == 0) {
                if (gate) {
                    close(gate[1]);
                    if (read(gate[0], &byte, 1) != 0)
                        _exit(255);
                }
                _exit(getpid() % 250);
            }
            is_orphan[orphan] = 1;
            check(write(file, &orphan, sizeof orphan) == sizeof orphan, "write");
        }
        _exit(0);
    }
    check(waitpid(parent, &status, 0) == parent, "waitpid");
    if (status)
        exit(1);
}

static long long now(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static long long stream(int count, int alive)
{
    long long begin = now();

    while (count--) {
        leave(1, NULL);
        if (count % LOOK_AFTER == 0)
            wait_until_left(alive - LOOK_AFTER);
    }
    wait_until_left(0);
    return now() - begin;
}

static long long burst(int count, int alive)
{
    long long taken = 0;

    while (count > 0) {
        int gate[2], some = count < alive ? count : alive;

        check(pipe(gate) == 0, "pipe");
        leave(some, gate);
        close(gate[0]);
        taken -= now();
        close(gate[1]);
        wait_until_left(0);
        taken += now();
        count -= some;
    }
    return taken;
}

int main(int argc, char **argv)
{
    long long taken;
    FILE *limit;

    if (argc != 6)
        return 2;
    subreaper = argv[4];
    file = open(argv[5], O_WRONLY | O_CREAT | O_APPEND, 0666);
    check(file >= 0, argv[5]);
    limit = fopen("/proc/sys/kernel/pid_max", "r");
    check(limit && fscanf(limit, "%d", &pid_limit) == 1, "pid_max");
    fclose(limit);
    is_orphan = mmap(NULL, pid_limit, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(is_orphan != MAP_FAILED, "mmap");
    taken = (!strcmp(argv[1], "burst") ? burst : stream)(atoi(argv[2]), atoi(argv[3]));
    printf("%lld\n", taken);
    return 0;
}
