"""held_linear: a linear layer that a kernel is given."""

from __future__ import annotations

from dataclasses import dataclass

from archdsl.ops._held import Held
from archdsl.ops.linear import Linear


@dataclass(frozen=True)
class HeldLinear(Held, Linear):
    """The linear layer itself; whoever is given it computes what it would."""
