/* A GLib test that has its bus from GTestDBus, as those of GNOME's services do.
 *
 *   gtest DIRECTORY NAME
 *
 * Starts a bus with a directory of descriptors, calls Echo of a service on it,
 * prints the answer and the ActiveState that the broker has of the service, and
 * ends the bus.
 */
#include <gio/gio.h>

static gchar *call(GDBusConnection *bus, const gchar *name, const gchar *path,
                   const gchar *interface, const gchar *member, GVariant *arguments)
{
    GError *error = NULL;
    GVariant *answer = g_dbus_connection_call_sync(bus, name, path, interface, member, arguments,
                                                   NULL, G_DBUS_CALL_FLAGS_NONE, 40000, NULL,
                                                   &error);
    gchar *text;

    g_assert_no_error(error);
    text = g_variant_print(answer, FALSE);
    g_variant_unref(answer);
    return text;
}

int main(int argc, char **argv)
{
    GTestDBus *dbus = g_test_dbus_new(G_TEST_DBUS_NONE);
    GDBusConnection *bus;
    GError *error = NULL;
    gchar *text;

    g_assert_cmpint(argc, ==, 3);
    g_test_dbus_add_service_dir(dbus, argv[1]);
    g_test_dbus_up(dbus);
    bus = g_bus_get_sync(G_BUS_TYPE_SESSION, NULL, &error);
    g_assert_no_error(error);
    text = call(bus, argv[2], "/", "org.activation.Test", "Echo", g_variant_new("(s)", "hello"));
    g_print("%s\n", text);
    g_free(text);
    text = call(bus, "org.activation.Broker1", "/org/activation/Broker1",
                "org.activation.Broker1.Manager", "ListServices", NULL);
    g_print("%s\n", text);
    g_free(text);
    g_object_unref(bus);
    g_test_dbus_down(dbus);
    g_object_unref(dbus);
    return 0;
}
