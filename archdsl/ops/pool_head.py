"""pool_head: the mean of positions that a head begins with, whose kernel may compute all of the head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ops.base import Call, Torch
from archdsl.ops.gap import Gap


@dataclass(frozen=True)
class PoolHead(Gap):
    """The mean itself. Where logits are asked for, one kernel may compute it, the norm and the classifier behind."""

    callable: ClassVar[bool] = False

    def torch(self, call: Call) -> Torch | str:
        made = super().torch(call)
        return made if isinstance(made, str) else replace(made, helpers=("fused/pool_head",))
