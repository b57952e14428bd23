"""The asynchronous fixtures in event loops of every scope, and in those of others."""

from __future__ import annotations

import pytest

from tests.testing.conftest import INI, run

# Two tests, so that a loop outlives the first one's connection.
TWO = """
    import asyncio
    import pytest

    # From dbus-next itself, with Python 3.13.
    @pytest.mark.filterwarnings("ignore:'typing.no_type_check_decorator':DeprecationWarning")
    @pytest.mark.asyncio(MARK)
    @pytest.mark.parametrize("number", range(2))
    async def test_it(dbus_activator_connection, number):
        async with asyncio.timeout(20):
            await dbus_activator_connection.request_name("org.example.One")
        # Who waits for its end is no reason to hang either.
        asyncio.ensure_future(dbus_activator_connection.wait_for_disconnect())
"""


@pytest.mark.parametrize(
    ("fixtures", "tests", "mark"),
    [
        ("session", "session", ""),
        ("function", "function", "loop_scope='module'"),
        ("session", "function", ""),
    ],
)
def test_a_connection_is_in_the_loop_of_its_test(
    project: pytest.Pytester, fixtures: str, tests: str, mark: str
) -> None:
    project.makeini(
        INI.replace("loop_scope = function", f"loop_scope = {fixtures}")
        + f"    asyncio_default_test_loop_scope = {tests}\n"
    )
    run(project, TWO.replace("MARK", mark)).assert_outcomes(passed=2)


def test_a_loop_of_another_kind_is_told(project: pytest.Pytester) -> None:
    result = run(
        project,
        """
        import pytest

        def test_none(dbus_activator_async):
            dbus_activator_async.bus.add_faulty("org.example.One", hangs=True)
            # As trio and anyio's trio do: by hand, in no loop of asyncio's.
            for waiting in (dbus_activator_async.start, dbus_activator_async.stop):
                with pytest.raises(RuntimeError, match="is for tests in asyncio's event loop"):
                    waiting("org.example.One").send(None)
            dbus_activator_async.bus.assert_not_activated("org.example.One")

        async def test_connection(dbus_activator_connection):
            pass
        """,
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*dbus_activator_connection is for tests that pytest-asyncio*"])
