"""The messages to dbus-broker, which one wrong message would end."""

from __future__ import annotations

import inspect

import pytest

from broker import errors
from broker.engine import dbus_broker
from broker.errors import DBusError

# The reasons that Name.Reset takes; any other string ends the bus.
KNOWN = {
    "DestructiveTransaction",
    "UnknownUnit",
    "MaskedUnit",
    "InvalidUnit",
    "UnitFailure",
    "StartupFailure",
    "StartupSkipped",
    "NameReleased",
}


def outcomes() -> list[type[DBusError]]:
    """Every outcome that there is."""
    return [
        each
        for each in vars(errors).values()
        if inspect.isclass(each) and issubclass(each, DBusError)
    ]


@pytest.mark.parametrize("outcome", outcomes())
def test_every_outcome_has_a_reason_that_it_knows(outcome: type[DBusError]) -> None:
    assert dbus_broker.reason(outcome).removeprefix("org.bus1.DBus.Name.Error.") in KNOWN


def test_the_policy_lets_our_own_user_and_root_in_and_nobody_else() -> None:
    for version, signature in ((30, ")a(ss)b)"), (31, ")a(ss)b)"), (32, ")a(ss)bs)")):
        policy = dbus_broker.policy(version, 1000)
        assert policy.signature.endswith(signature)
        batches = dict(policy.value[0])
        assert {uid: batch[0] for uid, batch in batches.items()} == {
            0xFFFFFFFF: False,
            0: True,
            1000: True,
        }
        # A rule of priority 0 would never apply.
        assert all(batch[1] > 0 for batch in batches.values())
    assert len(dbus_broker.policy(33, 0).value[0]) == 2


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize(("version", "places"), [(33, 1), (34, 2), (37, 2)])
def test_its_quota_of_descriptors_is_used_up_before_its_table(
    version: int, places: int, uid: int
) -> None:
    for limit in [*range(4096), *(2**bits + more for bits in range(12, 32) for more in (-1, 0, 1))]:
        found = dbus_broker.max_fds(version, limit, uid)
        # 0 would end it at once, as would a number that is cut to that.
        assert 8 <= found < 2**32
        if limit >= 64:
            assert found * (1 if uid == 0 else 2) * places + 32 <= limit


def test_its_limits_fit_32_bits() -> None:
    found = dict(option.removeprefix("--").split("=") for option in dbus_broker.limits(37))
    assert set(found) == {"max-bytes", "max-fds", "max-matches"}
    assert all(0 < int(value) < 2**32 for value in found.values())
