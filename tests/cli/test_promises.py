"""What clients rely on is what the broker's XML promises."""

from __future__ import annotations

from broker.api import paths
from broker.bus import objects
from broker.core import contract

SPECS = {each.name: each for each in (paths.MANAGER, paths.SERVICE, paths.PROCESS)}


def test_answers() -> None:
    found = {name: about.results for name, about in paths.MANAGER.methods.items()}
    for spec in (objects.PROPERTIES, objects.OBJECT_MANAGER):
        found |= {name: about.results for name, about in spec.methods.items()}
    assert contract.ANSWERS.items() <= found.items()


def test_signals() -> None:
    found = {
        (spec.name, name): kind
        for spec in (paths.MANAGER, objects.PROPERTIES, objects.OBJECT_MANAGER)
        for name, kind in spec.signals.items()
    }
    assert contract.SIGNALS.items() <= found.items()


def test_properties() -> None:
    """There may be more."""
    for interface, types in contract.TYPES.items():
        promised = {name: about.signature for name, about in SPECS[interface].properties.items()}
        relied_on = {name: kind for kind, names in types.items() for name in names.split()}
        assert relied_on.items() <= promised.items()
