/* Who activates, and holds the watch: one persistent connection, one command a line.
 *
 *   client ADDRESS plain|broker
 *
 *   cycle NAME  call an unowned name; end its service and wait until nothing of it
 *               is left; then print the nanoseconds from the call to its answer
 *   keep NAME   call it and let it run; print the same
 *   settle      wait until the broker has said all that it has to say; print 0
 */
#define _GNU_SOURCE
#include <dbus/dbus.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BROKER "org.activation.Broker1"
#define MANAGER BROKER ".Manager"
/* Seconds for one command; then SIGALRM ends us, and the driver sees that. */
#define PATIENCE 30

static DBusConnection *bus;
static int on_broker;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench client: %s: %s\n", what, why);
    exit(1);
}

static long long now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static DBusMessage *call(const char *name, const char *path, const char *interface,
                         const char *member)
{
    DBusMessage *message = dbus_message_new_method_call(name, path, interface, member);
    DBusError error = DBUS_ERROR_INIT;
    DBusMessage *reply;

    reply = dbus_connection_send_with_reply_and_block(bus, message, -1, &error);
    if (!reply)
        die(name, error.message);
    dbus_message_unref(message);
    return reply;
}

static void ping(const char *name, const char *path)
{
    dbus_message_unref(call(name, path, "org.freedesktop.DBus.Peer", "Ping"));
}

/* Calls a name; its service's PID goes to *pid. */
static long long activate(const char *name, dbus_uint32_t *pid)
{
    long long start = now(), end;
    DBusMessage *reply = call(name, "/", "org.activation.Bench", "Hello");

    end = now();
    if (!dbus_message_get_args(reply, NULL, DBUS_TYPE_UINT32, pid, DBUS_TYPE_INVALID))
        die(name, "answers something else");
    dbus_message_unref(reply);
    return end - start;
}

static void wait_for_process(dbus_uint32_t pid)
{
    struct pollfd process = { .fd = syscall(SYS_pidfd_open, pid, 0), .events = POLLIN };

    if (process.fd < 0)
        return; /* It has been reaped. */
    poll(&process, 1, -1);
    close(process.fd);
}

/* Ends the service and waits until the bus, the kernel and the broker have
 * done with it: what they do then must not fall into the next bus's round. */
static void finish(const char *name, dbus_uint32_t pid)
{
    DBusMessage *quit = dbus_message_new_method_call(name, "/", "org.activation.Bench", "Quit");
    int lost = 0, reaped = !on_broker;

    dbus_message_set_no_reply(quit, TRUE);
    dbus_connection_send(bus, quit, NULL);
    dbus_message_unref(quit);
    while (!lost || !reaped) {
        DBusMessage *message = dbus_connection_pop_message(bus);
        const char *path, *subject = "";

        if (!message) {
            if (!dbus_connection_read_write(bus, -1))
                die(name, "the bus has gone");
            continue;
        }
        if (dbus_message_is_signal(message, DBUS_INTERFACE_DBUS, "NameOwnerChanged")) {
            dbus_message_get_args(message, NULL, DBUS_TYPE_STRING, &subject, DBUS_TYPE_INVALID);
            lost |= !strcmp(subject, name);
        } else if (dbus_message_is_signal(message, MANAGER, "ProcessExited")) {
            dbus_message_get_args(message, NULL, DBUS_TYPE_OBJECT_PATH, &path, DBUS_TYPE_STRING,
                                  &subject, DBUS_TYPE_INVALID);
            reaped |= !strcmp(subject, name);
        }
        dbus_message_unref(message);
    }
    wait_for_process(pid);
    ping(DBUS_SERVICE_DBUS, DBUS_PATH_DBUS);
    if (on_broker)
        ping(BROKER, "/");
}

static void connect_to(char *address)
{
    DBusError error = DBUS_ERROR_INIT;

    bus = dbus_connection_open(address, &error);
    if (!bus || !dbus_bus_register(bus, &error))
        die(address, error.message);
    /* Only the loss of a name is told, so nothing but the answer wakes us while we time. */
    dbus_bus_add_match(bus,
                       "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',"
                       "arg0namespace='org.activation.Bench',arg2=''",
                       &error);
    if (on_broker)
        dbus_bus_add_match(bus,
                           "type='signal',sender='" BROKER "',interface='" MANAGER "',"
                           "member='ProcessExited'",
                           &error);
    if (dbus_error_is_set(&error))
        die(address, error.message);
}

int main(int argc, char **argv)
{
    char line[512], verb[16], name[256];

    if (argc != 3)
        return 2;
    on_broker = !strcmp(argv[2], "broker");
    connect_to(argv[1]);
    while (fgets(line, sizeof line, stdin)) {
        dbus_uint32_t pid = 0;
        long long elapsed = 0;
        int words = sscanf(line, "%15s %255s", verb, name);

        alarm(PATIENCE);
        if (words == 2) {
            elapsed = activate(name, &pid);
            if (!strcmp(verb, "cycle"))
                finish(name, pid);
        } else {
            /* A method of the Manager's sends what waits to be said before its answer. */
            dbus_message_unref(call(BROKER, "/org/activation/Broker1", MANAGER, "ListServices"));
        }
        alarm(0);
        printf("%lld\n", elapsed);
        fflush(stdout);
    }
    return 0;
}
