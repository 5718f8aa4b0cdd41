"""Turns a weight's name and shape into random values at which it matters: zeros, ones and tiny scales hide mistakes."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def random_weight(name: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Float64 values [*shape] that depend on name and seed only, and keep the variance of what a matrix maps."""
    import torch

    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    role = name.rpartition(".")[2]
    if role == "running_var":
        return values.abs() + 0.5
    if role.endswith(("_embed", "_token", "table")):
        return values
    if len(shape) >= 2:
        return values / math.sqrt(max(1, math.prod(shape[1:])))
    return 0.7 + 0.3 * values if role in ("weight", "gamma", "scale") else 0.3 * values
