/* Processes that are hard, or many, to end.
 *
 *   tree hop|sleep COUNT FIFO
 *
 * Makes COUNT processes that hold FIFO open, says so with a line, and ends when it
 * gets one. "sleep": daemons, by two forks, that wait. "hop": each forks and goes a
 * millisecond later, again and again, in a session of its own each time; after
 * half a minute that comes to an end by itself.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HOPS 20000

static void hop(void)
{
    int left;

    for (left = HOPS; left; left--) {
        usleep(1000);
        if (fork())
            _exit(0);
        setsid();
    }
    _exit(0);
}

int main(int argc, char **argv)
{
    int count = argc == 4 ? atoi(argv[2]) : 0, ready[2];
    char byte;

    if (count < 1 || open(argv[3], O_WRONLY) < 0 || pipe(ready))
        return 2;
    for (; count; count--) {
        if (fork() == 0) {
            setsid();
            if (fork())
                _exit(0);
            if (write(ready[1], ".", 1) != 1)
                _exit(1);
            close(ready[0]);
            close(ready[1]);
            /* Whoever reads our output must see its end. */
            close(0);
            close(1);
            close(2);
            if (!strcmp(argv[1], "hop"))
                hop();
            pause();
            _exit(0);
        }
    }
    close(ready[1]);
    while (read(ready[0], &byte, 1) > 0)
        ;
    puts("ready");
    fflush(stdout);
    return getchar() == EOF;
}
