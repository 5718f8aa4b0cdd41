"""The table of what every spec is compared with: spec -> twin, from tests/oracle/families."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from tests.oracle import families
from tests.oracle.twin import Twin


def _collected() -> dict[str, Twin]:
    out: dict[str, Twin] = {}
    for module in pkgutil.iter_modules(families.__path__):
        for twin in importlib.import_module(f"{families.__name__}.{module.name}").TWINS:
            assert twin.spec not in out, f"{twin.spec} has two twins"
            out[twin.spec] = twin
    return out


TWINS: Mapping[str, Twin] = _collected()
"""By spec, family after family; the first of a family is no variant."""

ARCHITECTURES = tuple(twin for twin in TWINS.values() if not twin.variant)
"""One of each architecture."""
