"""held_drop_path: a dropped branch that a kernel is given."""

from __future__ import annotations

from dataclasses import dataclass

from archdsl.ops._held import Held
from archdsl.ops.drop_path import DropPath


@dataclass(frozen=True)
class HeldDropPath(Held, DropPath):
    """The dropped branch itself; whoever is given it computes what it would."""
