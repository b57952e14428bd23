/* The programs of the scenarios: processes that leave their parents in every way
 * that daemons do, and start in a millisecond.
 *
 *   child MODE STATUS LIFE [ARGUMENT]
 *
 * STATUS  what the process that stays ends with: a number, or "pid" for its own
 *         PID modulo 250, which the parent can check without being told. Those
 *         that only fork and go end with STATUS + 100.
 * LIFE    "now": it ends at once; "wait": when descriptor 3 is closed everywhere
 *         else; "stdin": the same with descriptor 0; "pause": when it is killed.
 *
 * An orphan made here is disguised, if its MODE says so, before its parent ends:
 * whoever adopts it never sees it as it was.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RELEASE = 3, REPORT = 4, NOBODY = 65534 };

extern char **environ;
static int status;
static char *life;
static char *argument;

static void wait_for_end(int fd)
{
    char byte;

    while (read(fd, &byte, 1) > 0)
        ;
}

static void end(void)
{
    if (!strcmp(life, "wait"))
        wait_for_end(RELEASE);
    else if (!strcmp(life, "stdin"))
        wait_for_end(0);
    else if (!strcmp(life, "pause"))
        for (;;)
            pause();
    _exit(status < 0 ? getpid() % 250 : status);
}

static pid_t must_fork(void)
{
    pid_t child = fork();

    if (child < 0)
        _exit(250);
    return child;
}

static void report(const char *text)
{
    if (write(REPORT, text, strlen(text)) < 0)
        _exit(251);
}

/* Returns in an orphan to be, whose parent ends when `ready` is closed in it. */
static int leave(void)
{
    int ready[2];

    if (pipe(ready))
        _exit(252);
    if (must_fork()) {
        close(ready[1]);
        wait_for_end(ready[0]);
        _exit(status + 100);
    }
    close(ready[0]);
    return ready[1];
}

static int daemonize(int reaped)
{
    pid_t child = must_fork();

    if (child) {
        if (reaped)
            waitpid(child, NULL, 0);
        _exit(status + 100);
    }
    setsid();
    return leave();
}

static void overwrite(char **argv)
{
    char *last = argv[0];
    char **each;

    for (each = argv; *each; each++)
        last = *each + strlen(*each);
    for (each = environ; *each; each++)
        last = *each + strlen(*each);
    life = strdup(life);
    memset(argv[0], 'x', last - argv[0]);
}

static void become_nobody(void)
{
    if (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY))
        _exit(255);
}

static void raise_soft_limits(void)
{
    struct rlimit limit;
    int resource;

    for (resource = 0; resource < RLIM_NLIMITS; resource++)
        if (!getrlimit(resource, &limit)) {
            limit.rlim_cur = limit.rlim_max;
            setrlimit(resource, &limit);
        }
}

static void try_to_raise_hard_limits(void)
{
    struct rlimit limit;
    int resource;

    /* Root may, if it has the capability: a tag is a mark, not a wall. */
    if (!geteuid())
        become_nobody();
    for (resource = 0; resource < RLIM_NLIMITS; resource++)
        if (!getrlimit(resource, &limit)) {
            limit.rlim_max++;
            setrlimit(resource, &limit);
            limit.rlim_cur = limit.rlim_max = RLIM_INFINITY;
            setrlimit(resource, &limit);
        }
}

/* As "ulimit -x" and "ulimit -m" do, and pam_limits where it is told to. */
static void lower_limit(int resource)
{
    struct rlimit limit = {100, 100};

    if (setrlimit(resource, &limit))
        _exit(248);
}

static void exec_without_environment(int ready)
{
    char number[16], fd[16];
    char *argv[] = {"", "ready", number, life, fd, NULL};
    char *none[] = {NULL};

    snprintf(number, sizeof number, "%d", status);
    snprintf(fd, sizeof fd, "%d", ready);
    execve("/proc/self/exe", argv, none);
    _exit(253);
}

/* A service that is a subreaper itself: nobody above it sees its orphans before its end. */
static void gather(int count)
{
    int goers = 2 * count, how;

    if (prctl(PR_SET_CHILD_SUBREAPER, 1))
        _exit(247);
    while (count--)
        if (!must_fork()) {
            close(daemonize(0));
            end();
        }
    while (goers && wait(&how) > 0)
        if (WIFEXITED(how) && WEXITSTATUS(how) == status + 100)
            goers--;
    report(".");
    /* The orphans have it still: it ends with the last of them. */
    close(REPORT);
    for (;;)
        pause();
}

static void *fork_in_thread(void *unused)
{
    if (!must_fork())
        end();
    report(".");
    for (;;)
        pause();
    return unused;
}

static void threads(int count)
{
    pthread_t thread;

    while (count--)
        if (pthread_create(&thread, NULL, fork_in_thread, NULL))
            _exit(254);
    wait_for_end(RELEASE);
    while (wait(NULL) > 0)
        ;
    _exit(status);
}

/* A full binary tree; each process says who it is and whose child. */
static void tree(int depth)
{
    char line[40];
    pid_t parent = getppid();

    while (depth-- > 0) {
        int left = must_fork(), right;

        if (left && (right = must_fork()))
            break;
        parent = getppid();
    }
    snprintf(line, sizeof line, "%d %d\n", (int)getpid(), (int)parent);
    report(line);
    end();
}

static void hop(int count)
{
    while (count-- > 0) {
        if (must_fork())
            _exit(0);
        setsid();
    }
    end();
}

static void burst(int count)
{
    while (count-- > 0)
        if (!must_fork())
            end();
}

/* Orphans that come one after the other; their parents are reaped by the kernel. */
static void stream(int count)
{
    signal(SIGCHLD, SIG_IGN);
    while (count-- > 0)
        if (!must_fork()) {
            signal(SIGCHLD, SIG_DFL);
            if (!must_fork())
                end();
            _exit(0);
        }
    /* Says that there is no child when all of them have gone. */
    wait(NULL);
}

static void *outlive_leader(void *unused)
{
    char buffer[512];
    ssize_t size;
    int fd;

    /* Until it is shown as a zombie, though the process goes on. */
    do {
        fd = open("/proc/self/stat", O_RDONLY);
        size = read(fd, buffer, sizeof buffer - 1);
        close(fd);
        buffer[size > 0 ? size : 0] = 0;
    } while (!strstr(buffer, ") Z "));
    report(".");
    end();
    return unused;
}

static void leave_leader(void)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, outlive_leader, NULL))
        _exit(254);
    pthread_exit(NULL);
}

static void trace(pid_t pid)
{
    report(ptrace(PTRACE_SEIZE, pid, NULL, NULL) ? "refused" : ".");
    end();
}

/* A debugger that has seen the end of what it traced, and goes on. */
static void trace_to_end(pid_t pid)
{
    report(ptrace(PTRACE_SEIZE, pid, NULL, NULL) ? "refused" : ".");
    wait_for_end(RELEASE);
    waitpid(pid, NULL, __WALL);
    report(".");
    for (;;)
        pause();
}

static void stopped_child(void)
{
    pid_t child = must_fork();

    if (!child) {
        raise(SIGSTOP);
        end();
    }
    waitpid(child, NULL, WUNTRACED);
    report(".");
    end();
}

static void zombie_child(void)
{
    siginfo_t info;
    pid_t child = must_fork();

    if (!child)
        _exit(0);
    waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    printf("%d\n", (int)child);
    fflush(stdout);
    end();
}

static void list_descriptors(void)
{
    int fd;

    for (fd = 0; fd < 20000; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            printf("%d\n", fd);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *mode = argv[1];
    int ready = -1;

    status = strcmp(argv[2], "pid") ? atoi(argv[2]) : -1;
    life = argv[3];
    argument = argc > 4 ? argv[4] : "0";
    if (!strcmp(mode, "ready"))
        ready = atoi(argument);
    else if (!strcmp(mode, "background"))
        ready = leave();
    else if (!strcmp(mode, "daemon"))
        ready = daemonize(0);
    else if (!strcmp(mode, "reaped"))
        ready = daemonize(1);
    else if (!strcmp(mode, "emptyenv")) {
        exec_without_environment(daemonize(0));
    } else if (!strcmp(mode, "overwritten")) {
        ready = daemonize(0);
        overwrite(argv);
    } else if (!strcmp(mode, "nobody")) {
        ready = daemonize(0);
        become_nobody();
    } else if (!strcmp(mode, "dumpable")) {
        ready = daemonize(0);
        prctl(PR_SET_DUMPABLE, 0);
    } else if (!strcmp(mode, "limits")) {
        raise_soft_limits();
        ready = daemonize(0);
    } else if (!strcmp(mode, "hard")) {
        try_to_raise_hard_limits();
        ready = daemonize(0);
    } else if (!strcmp(mode, "lowered")) {
        ready = daemonize(0);
        lower_limit(RLIMIT_LOCKS);
    } else if (!strcmp(mode, "sized")) {
        ready = daemonize(0);
        lower_limit(RLIMIT_RSS);
    } else if (!strcmp(mode, "gather")) {
        gather(atoi(argument));
    } else if (!strcmp(mode, "raised"))
        raise_soft_limits();
    else if (!strcmp(mode, "tree"))
        tree(atoi(argument));
    else if (!strcmp(mode, "orphantree")) {
        close(daemonize(0));
        tree(atoi(argument));
    } else if (!strcmp(mode, "threads"))
        threads(atoi(argument));
    else if (!strcmp(mode, "leaderless"))
        leave_leader();
    else if (!strcmp(mode, "trace"))
        trace(atoi(argument));
    else if (!strcmp(mode, "tracetoend"))
        trace_to_end(atoi(argument));
    else if (!strcmp(mode, "hop"))
        hop(atoi(argument));
    else if (!strcmp(mode, "burst")) {
        burst(atoi(argument));
        _exit(0);
    } else if (!strcmp(mode, "stream")) {
        stream(atoi(argument));
        _exit(0);
    } else if (!strcmp(mode, "signal")) {
        kill(getpid(), atoi(argument));
        _exit(111);
    } else if (!strcmp(mode, "report")) {
        report(".");
    } else if (!strcmp(mode, "reportnobody")) {
        become_nobody();
        report(".");
    } else if (!strcmp(mode, "reportroot")) {
        /* If the program's file is root's and says so. */
        if (setuid(0))
            _exit(255);
        report(".");
    } else if (!strcmp(mode, "ignoring")) {
        signal(SIGTERM, SIG_IGN);
        report(".");
    } else if (!strcmp(mode, "stopped"))
        stopped_child();
    else if (!strcmp(mode, "zombie"))
        zombie_child();
    else if (!strcmp(mode, "name")) {
        prctl(PR_SET_NAME, argument);
        puts("");
        fflush(stdout);
    } else if (!strcmp(mode, "fds"))
        list_descriptors();
    else if (strcmp(mode, "plain"))
        _exit(249);
    if (ready >= 0)
        close(ready);
    end();
}
