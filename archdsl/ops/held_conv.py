"""held_conv: a convolution that a kernel is given."""

from __future__ import annotations

from dataclasses import dataclass

from archdsl.ops._held import Held
from archdsl.ops.conv import Conv


@dataclass(frozen=True)
class HeldConv(Held, Conv):
    """The convolution itself; whoever is given it computes what it would."""
