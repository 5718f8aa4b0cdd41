"""Layers that several references need: norms of maps, stochastic depth, the multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=1, keepdim=True)
        normed = (x - mean) * (variance + self.eps) ** -0.5
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class DropPath(nn.Module):
    """Zeroes a sample's branch with a probability while training and rescales the others (1603.09382)."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0:
            return x
        keep = (torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.drop_prob).to(x.dtype)
        return x * keep / (1 - self.drop_prob)


class Mlp(nn.Module):
    """Two 1x1 convolutions with a GELU between them: C -> 4 C -> C channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, 4 * dim, 1)
        self.fc2 = nn.Conv2d(4 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def rates(drop_path_rate: float, depths: Sequence[int]) -> Iterator[float]:
    """The rate of each block in order: from 0 for the first to `drop_path_rate` for the last."""
    count = sum(depths)
    return iter([drop_path_rate * i / max(1, count - 1) for i in range(count)])


def truncated(model: nn.Module, *kinds: type[nn.Module]) -> None:
    """Weights of the layers of these kinds from a normal of std 0.02 truncated at +-2, and their biases zero."""
    for module in model.modules():
        if isinstance(module, kinds):
            assert isinstance(module.weight, Tensor)
            nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module.bias, Tensor):
                nn.init.zeros_(module.bias)
