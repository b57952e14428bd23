/* A D-Bus service that behaves as it is told, well or badly, and starts in a
 * millisecond: hundreds of them are activated in one test.
 *
 *   service [-d] [-l] [-u] [-f FIFO [-j KINDS]] [-x STATUS] [-k SIGNAL] [-w FILE] NAME
 *
 *   -d  daemonize by two forks, and be an orphan, before anything else
 *   -l  leave a sleeping orphan behind before taking the name
 *   -u  become root for good, if the file is set-user-ID, before taking the name
 *   -f  hold a FIFO open for writing, and so does all that is forked
 *   -j  leave an orphan of each kind behind, which writes its letter when it is one:
 *       h  forks and goes 3 milliseconds later, again and again, in a session of its
 *          own each time; writes "x" if that comes to an end after 40 seconds
 *       s  is stopped
 *       e  has executed a program without an environment
 *       n  has become nobody
 *       t  takes SIGTERM: writes "T" and goes on
 *       l  has lost its main thread, and lives on in another
 *   -x  exit with STATUS before taking the name
 *   -k  end by SIGNAL before taking the name
 *   -w  wait for FILE (a FIFO) to be opened and closed before the above
 *
 * Methods of org.activation.Test, on any path:
 *   Echo(s) -> s, Exit(i), Raise(i), Release(), Take(s), Environment() -> as,
 *   Run(s) -> i (a command of the shell, until its end)
 */
#define _GNU_SOURCE
#include <dbus/dbus.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void daemonize(void)
{
    struct pollfd parents[2] = { { .events = POLLIN }, { .events = POLLIN } };

    parents[0].fd = pidfd_open(getpid(), 0);
    if (fork())
        _exit(0);
    setsid();
    parents[1].fd = pidfd_open(getpid(), 0);
    if (fork())
        _exit(0);
    /* An orphan before anything else; a daemon does not wait, and is one soon. */
    for (int i = 0; i < 2; i++) {
        if (poll(&parents[i], 1, -1) != 1 || !(parents[i].revents & POLLIN))
            _exit(104);
        close(parents[i].fd);
    }
}

static void leave_orphan(void)
{
    pid_t child = fork();

    if (child == 0) {
        if (fork())
            _exit(0);
        setsid();
        pause();
        _exit(0);
    }
    /* The orphan is one from here on; its parent stays a zombie of ours. */
    waitid(P_PID, child, NULL, WEXITED | WNOWAIT);
}

static int held = -1;

static void say(char letter)
{
    if (write(held, &letter, 1) < 0)
        _exit(103);
}

static void hop(void)
{
    time_t end = time(NULL) + 40;

    say('h');
    while (time(NULL) < end) {
        pid_t child = fork();

        if (child > 0)
            _exit(0);
        if (child < 0)
            break;
        setsid();
        /* At full speed a few of them take all of the machine. */
        usleep(3000);
    }
    say('x');
    _exit(0);
}

static void stop(void)
{
    pid_t child = fork();

    if (child == 0) {
        /* A session of its own, or its parent's end would set it going again. */
        setsid();
        raise(SIGSTOP);
        _exit(0);
    }
    waitpid(child, NULL, WUNTRACED);
    say('s');
    _exit(0);
}

static void on_term(int number)
{
    say(number == SIGTERM ? 'T' : '?');
}

static void *outlive_leader(void *unused)
{
    char buffer[512];
    ssize_t size;

    /* Until it is shown as a zombie, though the process goes on. */
    do {
        int fd = open("/proc/self/stat", O_RDONLY);

        size = read(fd, buffer, sizeof buffer - 1);
        close(fd);
        buffer[size > 0 ? size : 0] = 0;
    } while (!strstr(buffer, ") Z "));
    say('l');
    for (;;)
        pause();
    return unused;
}

static void leave_leader(void)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, outlive_leader, NULL))
        _exit(105);
    pthread_exit(NULL);
}

static void misbehave(char kind)
{
    char *argv[] = {"sleep", "1000", NULL}, *none[] = {NULL};

    if (fork())
        return;
    if (fork())
        _exit(0);
    setsid();
    switch (kind) {
    case 'h': hop(); break;
    case 's': stop(); break;
    case 'n':
        if (setgroups(0, NULL) || setresgid(65534, 65534, 65534) ||
            setresuid(65534, 65534, 65534))
            _exit(104);
        break;
    case 't': signal(SIGTERM, on_term); break;
    case 'l': leave_leader(); break;
    }
    say(kind);
    if (kind == 'e')
        execve("/bin/sleep", argv, none);
    for (;;)
        pause();
}

static void wait_for(const char *path)
{
    char byte;
    int fd = open(path, O_RDONLY);

    while (fd >= 0 && read(fd, &byte, 1) > 0)
        ;
    close(fd);
}

static void end_by(int number)
{
    sigset_t all;

    signal(number, SIG_DFL);
    sigemptyset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    raise(number);
}

static void add_environment(DBusMessage *reply)
{
    DBusMessageIter iter, array;
    char **each;

    dbus_message_iter_init_append(reply, &iter);
    dbus_message_iter_open_container(&iter, DBUS_TYPE_ARRAY, "s", &array);
    for (each = environ; *each; each++)
        dbus_message_iter_append_basic(&array, DBUS_TYPE_STRING, each);
    dbus_message_iter_close_container(&iter, &array);
}

static void serve(DBusConnection *bus, const char *name)
{
    /* Calls that came with RequestName's answer are queued already: pop before reading. */
    do {
        DBusMessage *call;

        while ((call = dbus_connection_pop_message(bus))) {
            const char *member = dbus_message_get_member(call);
            const char *text = "";
            int number = 0;

            if (dbus_message_get_type(call) == DBUS_MESSAGE_TYPE_METHOD_CALL) {
                DBusMessage *reply = dbus_message_new_method_return(call);

                if (!strcmp(member, "Echo")) {
                    dbus_message_get_args(call, NULL, DBUS_TYPE_STRING, &text, DBUS_TYPE_INVALID);
                    dbus_message_append_args(reply, DBUS_TYPE_STRING, &text, DBUS_TYPE_INVALID);
                } else if (!strcmp(member, "Environment")) {
                    add_environment(reply);
                } else if (!strcmp(member, "Release")) {
                    dbus_bus_release_name(bus, name, NULL);
                } else if (!strcmp(member, "Take")) {
                    dbus_message_get_args(call, NULL, DBUS_TYPE_STRING, &text, DBUS_TYPE_INVALID);
                    dbus_bus_request_name(bus, text, 0, NULL);
                } else if (!strcmp(member, "Run")) {
                    dbus_message_get_args(call, NULL, DBUS_TYPE_STRING, &text, DBUS_TYPE_INVALID);
                    number = system(text);
                    dbus_message_append_args(reply, DBUS_TYPE_INT32, &number, DBUS_TYPE_INVALID);
                } else {
                    dbus_message_get_args(call, NULL, DBUS_TYPE_INT32, &number, DBUS_TYPE_INVALID);
                    if (!strcmp(member, "Exit"))
                        _exit(number);
                    if (!strcmp(member, "Raise"))
                        end_by(number);
                }
                dbus_connection_send(bus, reply, NULL);
                dbus_message_unref(reply);
            }
            dbus_message_unref(call);
        }
    } while (dbus_connection_read_write(bus, -1));
}

int main(int argc, char **argv)
{
    const char *fifo = NULL, *kinds = "";
    int option, status = -1, number = 0, daemon_wanted = 0, orphan_wanted = 0;
    DBusConnection *bus;

    while ((option = getopt(argc, argv, "dluf:j:x:k:w:")) != -1) {
        switch (option) {
        case 'd': daemon_wanted = 1; break;
        case 'l': orphan_wanted = 1; break;
        case 'u':
            if (setresuid(0, 0, 0))
                return 102;
            break;
        case 'f': held = open(optarg, O_WRONLY); break;
        case 'j': kinds = optarg; break;
        case 'x': status = atoi(optarg); break;
        case 'k': number = atoi(optarg); break;
        case 'w': fifo = optarg; break;
        default: return 2;
        }
    }
    if (daemon_wanted)
        daemonize();
    if (orphan_wanted)
        leave_orphan();
    while (*kinds)
        misbehave(*kinds++);
    if (fifo)
        wait_for(fifo);
    if (number)
        end_by(number);
    if (status >= 0)
        _exit(status);

    bus = dbus_bus_get(DBUS_BUS_SESSION, NULL);
    if (!bus)
        return 100;
    dbus_connection_set_exit_on_disconnect(bus, FALSE);
    if (dbus_bus_request_name(bus, argv[optind], 0, NULL) < 0)
        return 101;
    serve(bus, argv[optind]);
    return 0;
}
