"""CSWin Transformer, arXiv 2107.00652: attention in stripes, written as loops over the stripes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.references.layers import DropPath, MapNorm, Mlp, rates, truncated


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention among the positions of [B, C, H, W], heads being contiguous groups of channels."""
    batch, channels, height, width = q.shape
    out = []
    for head in range(heads):
        at = slice(head * channels // heads, (head + 1) * channels // heads)
        qs, ks, vs = (x[:, at].flatten(2) for x in (q, k, v))
        weights = torch.einsum("bcn,bcm->bnm", qs, ks) / (channels // heads) ** 0.5
        out.append(torch.einsum("bnm,bcm->bcn", weights.softmax(-1), vs))
    return torch.cat(out, 1).reshape(batch, channels, height, width)


class StripeAttention(nn.Module):
    """Attention in vertical ("v") or horizontal ("h") stripes `size` wide, or in the whole map ("")."""

    def __init__(self, dim: int, heads: int, direction: str, size: int) -> None:
        super().__init__()
        self.get_v = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.heads, self.direction, self.size = heads, direction, size

    def within(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, self.heads) + self.get_v(v)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.direction:
            return self.within(q, k, v)
        axis = 3 if self.direction == "v" else 2
        stripes = zip(*(x.split(self.size, axis) for x in (q, k, v)), strict=True)
        return torch.cat([self.within(*stripe) for stripe in stripes], axis)


class Block(nn.Module):
    """Pre-norm attention and MLP; `size` None is attention in the whole map."""

    def __init__(self, dim: int, heads: int, size: int | None, drop: float) -> None:
        super().__init__()
        self.norm1 = MapNorm(dim, eps=1e-5)
        self.qkv = nn.Conv2d(dim, 3 * dim, 1)
        if size is None:
            self.attns = nn.ModuleList([StripeAttention(dim, heads, "", 0)])
        else:
            self.attns = nn.ModuleList([StripeAttention(dim // 2, heads // 2, way, size) for way in "vh"])
        self.proj = nn.Conv2d(dim, dim, 1)
        self.norm2 = MapNorm(dim, eps=1e-5)
        self.mlp = Mlp(dim)
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        parts = [part.chunk(len(self.attns), 1) for part in self.qkv(self.norm1(x)).chunk(3, 1)]
        mixed = [attn(*qkv) for attn, qkv in zip(self.attns, zip(*parts, strict=True), strict=True)]
        x = x + self.drop(self.proj(torch.cat(mixed, 1)))
        return x + self.drop(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """A strided convolution and its norm, then blocks."""

    def __init__(self, reduce: nn.Conv2d, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.conv = reduce
        self.norm = MapNorm(reduce.out_channels, eps=1e-5)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        for block in self.blocks:
            x = block(x)
        return x


class CSWin(nn.Module):
    """Images [B, 3, H, W] with H and W multiples of 32 to logits. `size` is what the model is constructed for:

    a stage whose map is one stripe wide, and the last, attend in the whole map.
    """

    def __init__(
        self,
        size: tuple[int, int],
        dim: int = 64,
        depths: Sequence[int] = (1, 2, 21, 1),
        heads: Sequence[int] = (2, 4, 8, 16),
        stripes: Sequence[int] = (1, 2, 7),
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        drops = rates(drop_path_rate, depths)
        self.stages = nn.ModuleList()
        for i, depth in enumerate(depths):
            width = dim * 2**i
            reduce = nn.Conv2d(width // 2, width, 3, 2, 1) if i else nn.Conv2d(3, dim, 7, 4, 2)
            striped = i < len(stripes) and stripes[i] < size[0] // 2 ** (i + 2)
            blocks = [Block(width, heads[i], stripes[i] if striped else None, next(drops)) for _ in range(depth)]
            self.stages.append(Stage(reduce, blocks))
        self.norm = MapNorm(width, eps=1e-5)
        self.head = nn.Linear(width, 1000)
        truncated(self, nn.Linear)
        for block in (block for stage in self.stages for block in stage.blocks):
            for layer in (block.qkv, block.proj, block.mlp.fc1, block.mlp.fc2):
                truncated(layer, nn.Conv2d)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x).mean((2, 3)))
