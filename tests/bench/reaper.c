/* The least that a subreaper can do: runs a program, and reaps whatever dies until
 * nothing is left. What the broker is measured against.
 *
 *   reaper [-s] PROGRAM [ARGUMENT…]
 *
 *   -s  read /proc/PID/stat of each before it is reaped, as who wants to know whose
 *       it was has to
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void look_at(pid_t pid)
{
    char path[32], buffer[1024];
    int fd;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    fd = open(path, O_RDONLY);
    if (fd < 0 || read(fd, buffer, sizeof buffer) <= 0)
        perror(path);
    close(fd);
}

int main(int argc, char **argv)
{
    int looking = argc > 1 && !strcmp(argv[1], "-s");
    struct rusage usage;
    siginfo_t found;

    if (argc < 2 + looking || prctl(PR_SET_CHILD_SUBREAPER, 1))
        return 2;
    if (fork() == 0) {
        execvp(argv[1 + looking], argv + 1 + looking);
        _exit(127);
    }
    while (waitid(P_ALL, 0, &found, WEXITED | WNOWAIT) == 0) {
        if (looking)
            look_at(found.si_pid);
        wait4(found.si_pid, NULL, 0, &usage);
    }
    return 0;
}
