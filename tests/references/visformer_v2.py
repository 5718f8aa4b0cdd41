"""Visformer V2, arXiv 2104.12533: attention in windows of a map, whose shift moves where the map is cut."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.references.layers import DropPath, rates

Size = tuple[int, int]


def cut(extent: int, window: int, shift: int) -> list[int]:
    """The lengths into which shifted windows cut an axis: the first and the last are parts of one window."""
    if extent <= window:
        return [extent]
    if not shift:
        return [window] * (extent // window)
    return [shift, *[window] * (extent // window - 1), window - shift]


class Attention(nn.Module):
    """Softmax attention within each part of a map, with a bias for every distance and head."""

    def __init__(self, dim: int, heads: int, size: Size, window: int, shift: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = min(size[0], window), min(size[1], window)
        self.cuts = [cut(extent, window, shift) for extent in size]
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.distances = 2 * self.window[0] - 1, 2 * self.window[1] - 1
        self.table = nn.Parameter(torch.empty(self.distances[0] * self.distances[1], heads))
        self.proj = nn.Conv2d(dim, dim, 1, bias=False)

    def bias(self, height: int, width: int) -> Tensor:
        """[heads, queries, keys] for a part of that size."""
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        rows, columns = ((n.flatten()[:, None] - n.flatten()) for n in (y, x))
        table = self.table.unflatten(0, self.distances)
        return table[rows + self.window[0] - 1, columns + self.window[1] - 1].permute(2, 0, 1)

    def within(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        scores = torch.einsum("bhcq,bhck->bhqk", q, k) * q.shape[2] ** -0.5 + self.bias(*x.shape[2:])
        mixed = torch.einsum("bhqk,bhck->bhcq", scores.softmax(-1), v)
        return self.proj(mixed.reshape(x.shape))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.split(self.cuts[0], 2)
        return torch.cat([torch.cat([self.within(part) for part in row.split(self.cuts[1], 3)], 3) for row in rows], 2)


class Mlp(nn.Module):
    """Twice the channels with a 3x3 convolution in 8 groups among them, or four times the channels without."""

    def __init__(self, dim: int, spatial: bool) -> None:
        super().__init__()
        hidden = 2 * dim if spatial else 4 * dim
        self.fc1 = nn.Conv2d(dim, hidden, 1, bias=False)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=8, bias=False) if spatial else None
        self.fc2 = nn.Conv2d(hidden, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))
        return self.fc2(x if self.conv is None else F.gelu(self.conv(x)))


class Block(nn.Module):
    """Pre-norm attention, if there is one, and MLP."""

    def __init__(self, dim: int, attn: Attention | None, drop: float) -> None:
        super().__init__()
        self.attn = attn
        self.norm1 = nn.BatchNorm2d(dim) if attn else None
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = Mlp(dim, attn is None)
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        if self.attn is not None:
            x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Patches of 2x2 with their positions, then blocks."""

    def __init__(self, before: int, dim: int, size: Size, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.proj = nn.Conv2d(before, dim, 2, 2)
        self.norm = nn.BatchNorm2d(dim)
        self.pos_embed = nn.Parameter(torch.empty(dim, *size))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.norm(self.proj(x)) + self.pos_embed)


class VisformerV2(nn.Module):
    """Images [B, 3, H, W] to logits; `size` is the images' height and width, multiples of 32."""

    def __init__(
        self,
        size: Size,
        dim: int = 64,
        width: int = 32,
        depths: Sequence[int] = (1, 10, 14, 3),
        heads: Sequence[int | None] = (None, None, 8, 16),
        drop_path_rate: float = 0.0,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        drops = rates(drop_path_rate, depths)
        self.stages = nn.ModuleList()
        count = 0
        for i, depth in enumerate(depths):
            extent, wide, window = (size[0] >> (i + 2), size[1] >> (i + 2)), dim << i, 56 >> i
            blocks = []
            for number in range(count, count + depth):
                among = heads[i]
                attn = Attention(wide, among, extent, window, number % 2 * (window // 2)) if among else None
                blocks.append(Block(wide, attn, next(drops)))
            self.stages.append(Stage(wide // 2 if i else width, wide, extent, blocks))
            count += depth
        self.norm = nn.BatchNorm2d(wide)
        self.head = nn.Linear(wide, classes)
        for name, parameter in self.named_parameters():
            if name.endswith(("table", "pos_embed", "head.weight")):
                nn.init.trunc_normal_(parameter, std=0.02)
            elif parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter, mode="fan_out")
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x).mean((2, 3)))
