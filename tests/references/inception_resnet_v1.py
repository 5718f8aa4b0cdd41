"""Inception-ResNet-v1, arXiv 1602.07261, figures 7 and 10 to 15: the branches of a block written out one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = tuple[Any, ...]
"""The arguments of a unit but for the channels that come in."""


def unit(before: int, channels: int, kernel: int | tuple[int, int] = 1, stride: int = 1, pad: bool = True) -> nn.Module:
    """A convolution without bias, batch norm, ReLU."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (height // 2, width // 2) if pad else (0, 0)
    conv = nn.Conv2d(before, channels, (height, width), stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels, eps=1e-3), nn.ReLU())


def branch(before: int, *layers: Layer) -> nn.Sequential:
    """Units in a row."""
    out = nn.Sequential()
    for channels, *more in layers:
        out.append(unit(before, channels, *more))
        before = channels
    return out


class Joined(nn.Module):
    """Branches side by side, and a 3x3 maximum of stride 2 beside them."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        return torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)


class Residual(nn.Module):
    """x + scale * branches, which a 1x1 convolution with a bias widens to x, then ReLU."""

    def __init__(self, dim: int, joined: int, scale: float, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.widen = nn.Conv2d(joined, dim, 1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.cat([branch(x) for branch in self.branches], 1)
        return torch.relu(x + self.scale * self.widen(branches))


def blocks(count: int, dim: int, scale: float, *ways: Sequence[Layer]) -> nn.Sequential:
    """As many residuals, each with a branch for every way."""
    joined = sum(way[-1][0] for way in ways)
    return nn.Sequential(*(Residual(dim, joined, scale, *(branch(dim, *w) for w in ways)) for _ in range(count)))


class InceptionResNetV1(nn.Module):
    """Images [B, 3, H, W] to logits; `width` is by how much every unit is wider than the paper's."""

    def __init__(self, width: float = 1, depths: Sequence[int] = (5, 10, 5), classes: int = 1000) -> None:
        super().__init__()
        w32, w64, w80, w128, w192, w256, w384 = (int(width * n) for n in (32, 64, 80, 128, 192, 256, 384))
        wide = w256 + w256 + w384
        widest = wide + w256 + w256 + w384
        self.stem = branch(3, (w32, 3, 2, False), (w32, 3, 1, False), (w64, 3))
        self.pooled = branch(w64, (w80,), (w192, 3, 1, False), (w256, 3, 2, False))
        self.a = blocks(depths[0], w256, 0.17, [(w32,)], [(w32,), (w32, 3)], [(w32,), (w32, 3), (w32, 3)])
        self.reduce_a = Joined(branch(w256, (w384, 3, 2, False)), branch(w256, (w192,), (w192, 3), (w256, 3, 2, False)))
        self.b = blocks(depths[1], wide, 0.1, [(w128,)], [(w128,), (w128, (1, 7)), (w128, (7, 1))])
        self.reduce_b = Joined(
            branch(wide, (w256,), (w384, 3, 2, False)),
            branch(wide, (w256,), (w256, 3, 2, False)),
            branch(wide, (w256,), (w256, 3), (w256, 3, 2, False)),
        )
        self.c = blocks(depths[2], widest, 0.2, [(w192,)], [(w192,), (w192, (1, 3)), (w192, (3, 1))])
        self.head = nn.Linear(widest, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pooled(F.max_pool2d(self.stem(x), 3, 2))
        x = self.b(self.reduce_a(self.a(x)))
        x = self.c(self.reduce_b(x))
        return self.head(x.mean((2, 3)))
