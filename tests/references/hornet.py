"""HorNet, arXiv 2207.14284: recursive gated convolution, with 7x7 kernels or global filters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.references.layers import DropPath, MapNorm, Mlp, rates, truncated


class GlobalLocal(nn.Module):
    """A 3x3 depthwise convolution of one half of the channels beside a global filter (2107.00645) of the other.

    The halves' channels alternate in the result. `size` is the map's height and width.
    """

    def __init__(self, dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        half = dim // 2
        self.pre_norm = MapNorm(dim, eps=1e-6)
        self.dw = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.filter = nn.Parameter(nn.init.trunc_normal_(torch.empty(half, size[0], size[1] // 2 + 1, 2), std=0.02))
        self.post_norm = MapNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        near, far = self.pre_norm(x).chunk(2, 1)
        near = self.dw(near)
        frequencies = torch.fft.rfft2(far) * torch.complex(self.filter[..., 0], self.filter[..., 1])
        far = torch.fft.irfft2(frequencies, s=x.shape[2:])
        mixed = torch.empty_like(x)
        mixed[:, 0::2], mixed[:, 1::2] = near, far
        return self.post_norm(mixed)


class GatedConv(nn.Module):
    """g^n Conv: products of `order` parts, each as wide as twice the one before, gated by a spatial mix."""

    def __init__(self, dim: int, order: int, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.widths = [dim >> (order - 1 - i) for i in range(order)]
        total = sum(self.widths)
        self.proj_in = nn.Conv2d(dim, 2 * dim, 1)
        self.dwconv = GlobalLocal(total, size) if size else nn.Conv2d(total, total, 7, padding=3, groups=total)
        self.pws = nn.ModuleList(nn.Conv2d(a, 2 * a, 1) for a in self.widths[:-1])
        self.proj_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj_in(x)
        first = self.widths[0]
        y, gates = x[:, :first], self.dwconv(x[:, first:]) / 3
        used = 0
        for i, width in enumerate(self.widths):
            y = (self.pws[i - 1](y) if i else y) * gates[:, used : used + width]
            used += width
        return self.proj_out(y)


class Block(nn.Module):
    """Pre-norm gated convolution and MLP, both with a layer scale."""

    def __init__(self, dim: int, order: int, size: tuple[int, int] | None, drop: float) -> None:
        super().__init__()
        self.norm1 = MapNorm(dim, eps=1e-6)
        self.gnconv = GatedConv(dim, order, size)
        self.gamma1 = nn.Parameter(torch.full((dim,), 1e-6))
        self.norm2 = MapNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim)
        self.gamma2 = nn.Parameter(torch.full((dim,), 1e-6))
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.gamma1[:, None, None] * self.gnconv(self.norm1(x)))
        return x + self.drop(self.gamma2[:, None, None] * self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """A reduction, then blocks."""

    def __init__(self, reduce: nn.Sequential, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.reduce = reduce
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        for block in self.blocks:
            x = block(x)
        return x


class HorNet(nn.Module):
    """Images [B, 3, H, W] to logits; `globals_from` is the first stage with global filters, for maps of `size`."""

    def __init__(
        self,
        size: tuple[int, int],
        dim: int = 64,
        depths: Sequence[int] = (2, 3, 18, 2),
        globals_from: int = 4,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        drops = rates(drop_path_rate, depths)
        self.stages = nn.ModuleList()
        for i, depth in enumerate(depths):
            width, stride = dim << i, 4 << i
            if i:
                reduce = nn.Sequential(MapNorm(width // 2, eps=1e-6), nn.Conv2d(width // 2, width, 2, 2))
            else:
                reduce = nn.Sequential(nn.Conv2d(3, width, 4, 4), MapNorm(width, eps=1e-6))
            grid = (size[0] // stride, size[1] // stride) if i >= globals_from else None
            self.stages.append(Stage(reduce, [Block(width, i + 2, grid, next(drops)) for _ in range(depth)]))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, 1000)
        truncated(self, nn.Conv2d, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x.mean((2, 3))))
