/* Executes a program that the kernel refuses a system call, as a container's filter does.
 *
 *   refuse CALL ERRNO PROGRAM [ARGUMENT]...
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CALL(name) { #name, SYS_##name }
static const struct { const char *name; unsigned number; } calls[] = {
    CALL(flock), CALL(pidfd_open), CALL(pidfd_send_signal), CALL(prctl), CALL(prlimit64),
    CALL(sched_yield), CALL(signalfd4), CALL(socketpair), CALL(wait4), CALL(waitid),
};

int main(int argc, char **argv)
{
    unsigned number = 0, error = argc > 3 && !strcmp(argv[2], "ENOSYS") ? ENOSYS : EPERM;
    size_t i;

    for (i = 0; argc > 3 && i < sizeof calls / sizeof *calls; i++)
        if (!strcmp(argv[1], calls[i].name)) {
            number = calls[i].number;
            struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
            };
            struct sock_fprog program = { sizeof code / sizeof *code, code };

            if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
                || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
                return 125;
            execv(argv[3], argv + 3);
            return 126;
        }
    fprintf(stderr, "refuse CALL ERRNO PROGRAM [ARGUMENT]...\n");
    return 124;
}
