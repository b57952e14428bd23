/* The least that ends all that a program leaves behind: a subreaper that kills its
 * children and reaps, again and again, until there is none. What the broker's end
 * is measured against.
 *
 *   killer PROGRAM [ARGUMENT…]
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void kill_children(const char *path)
{
    static char list[1 << 20];
    char *at = list, *end;
    int fd = open(path, O_RDONLY);
    ssize_t size = 0, more;

    while ((more = read(fd, list + size, sizeof list - 1 - size)) > 0)
        size += more;
    close(fd);
    list[size] = 0;
    for (;;) {
        long pid = strtol(at, &end, 10);

        if (end == at)
            return;
        kill(pid, SIGKILL);
        at = end;
    }
}

int main(int argc, char **argv)
{
    char path[64];
    pid_t program, dead;

    if (argc < 2 || prctl(PR_SET_CHILD_SUBREAPER, 1))
        return 2;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    program = fork();
    if (program == 0) {
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    while (wait(NULL) != program)
        ;
    for (;;) {
        kill_children(path);
        while ((dead = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (dead < 0)
            return 0;
    }
}
