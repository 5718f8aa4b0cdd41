"""held_bn: a batch normalisation that a kernel is given."""

from __future__ import annotations

from dataclasses import dataclass

from archdsl.ops._held import Held
from archdsl.ops.bn import Bn


@dataclass(frozen=True)
class HeldBn(Held, Bn):
    """The batch normalisation itself; whoever is given it computes what it would."""
