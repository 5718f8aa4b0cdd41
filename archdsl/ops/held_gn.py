"""held_gn: a group normalisation that a kernel is given."""

from __future__ import annotations

from dataclasses import dataclass

from archdsl.ops._held import Held
from archdsl.ops.gn import Gn


@dataclass(frozen=True)
class HeldGn(Held, Gn):
    """The group normalisation itself; whoever is given it computes what it would."""
