"""held_ln: a layer normalisation that a kernel is given."""

from __future__ import annotations

from dataclasses import dataclass

from archdsl.ops._held import Held
from archdsl.ops.ln import Ln


@dataclass(frozen=True)
class HeldLn(Held, Ln):
    """The layer normalisation itself; whoever is given it computes what it would."""
