/* What is activated: takes the name in its argument, answers Hello with its
 * PID, and ends on Quit. */
#include <dbus/dbus.h>
#include <string.h>
#include <unistd.h>

static void answer(DBusConnection *bus, DBusMessage *call)
{
    DBusMessage *reply = dbus_message_new_method_return(call);
    dbus_uint32_t pid = getpid();

    dbus_message_append_args(reply, DBUS_TYPE_UINT32, &pid, DBUS_TYPE_INVALID);
    dbus_connection_send(bus, reply, NULL);
    dbus_message_unref(reply);
}

int main(int argc, char **argv)
{
    DBusConnection *bus = dbus_bus_get(DBUS_BUS_SESSION, NULL);

    if (argc != 2 || !bus)
        return 100;
    if (dbus_bus_request_name(bus, argv[1], DBUS_NAME_FLAG_DO_NOT_QUEUE, NULL) !=
        DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER)
        return 101;
    /* The call that it was activated for comes before RequestName's answer, so
     * it is queued here by now: take what there is before waiting for more. */
    do {
        DBusMessage *message;

        while ((message = dbus_connection_pop_message(bus))) {
            if (dbus_message_is_method_call(message, "org.activation.Bench", "Hello"))
                answer(bus, message);
            if (dbus_message_is_method_call(message, "org.activation.Bench", "Quit"))
                return 0;
            dbus_message_unref(message);
        }
    } while (dbus_connection_read_write(bus, -1));
    return 0;
}
