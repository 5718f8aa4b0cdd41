"""OverLoCK, arXiv 2502.20087: an overview of the image steers dynamic kernels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.references.layers import DropPath, MapNorm, rates, truncated

BRANCHES = {
    17: ((5, 1), (7, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    7: ((5, 1), (3, 1), (3, 2), (3, 3)),
}
"""Of a large depthwise kernel: the kernels and dilations of the branches beside it (2311.15599)."""


def conv_bn(inside: int, outside: int, k: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, k, stride, k // 2, bias=False), nn.BatchNorm2d(outside))


def depthwise(dim: int, k: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(dim, dim, k, padding=dilation * (k - 1) // 2, dilation=dilation, groups=dim, bias=bias)


class Residual(nn.Module):
    """x plus its 3x3 depthwise convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dw = depthwise(dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dw(x)


class Affine(nn.Module):
    """A weight and a bias for every channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class ResponseNorm(nn.Module):
    """Global response normalisation (2301.00808)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.square().sum((2, 3), keepdim=True).sqrt()
        share = energy / (energy.mean(1, keepdim=True) + 1e-6)
        return x + self.gamma[:, None, None] * share * x + self.beta[:, None, None]


class Gate(nn.Module):
    """Squeeze-and-excitation (1709.01507) to an eighth of the channels, but at least 16, with a GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(16, dim // 8)
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.gelu(self.fc1(pooled))))


class Dilated(nn.Module):
    """The sum of a large depthwise convolution and of dilated smaller ones, each with its norm."""

    def __init__(self, dim: int, k: int) -> None:
        super().__init__()
        self.lk = depthwise(dim, k, bias=False)
        self.lk_bn = nn.BatchNorm2d(dim)
        self.dil = nn.ModuleList(depthwise(dim, small, dilation, bias=False) for small, dilation in BRANCHES[k])
        self.dil_bn = nn.ModuleList(nn.BatchNorm2d(dim) for _ in BRANCHES[k])

    def forward(self, x: Tensor) -> Tensor:
        branches = [bn(conv(x)) for conv, bn in zip(self.dil, self.dil_bn, strict=True)]
        return sum(branches, self.lk_bn(self.lk(x)))


class Ffn(nn.Module):
    """1x1 convolution, GELU, residual depthwise convolution, response norm, 1x1 convolution."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.res_dw = Residual(hidden)
        self.grn = ResponseNorm(hidden)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.grn(self.res_dw(F.gelu(self.fc1(x)))))


class RepBlock(nn.Module):
    """A static large-kernel block; the residual has a scale in the third and fourth stage."""

    def __init__(self, dim: int, k: int, scaled: bool, drop: float) -> None:
        super().__init__()
        self.res_dw = Residual(dim)
        self.norm = MapNorm(dim, eps=1e-6)
        self.dilated = Dilated(dim, k)
        self.bn = nn.BatchNorm2d(dim)
        self.se = Gate(dim)
        self.ffn = Ffn(dim, 4 * dim)
        self.ls = Affine(dim) if scaled else nn.Identity()
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.res_dw(x)
        return self.ls(x) + self.drop(self.ffn(self.se(self.bn(self.dilated(self.norm(x))))))


def neighbours(n: int, k: int) -> list[list[int]]:
    """On an axis of n positions: the k nearest of each, all inside the axis (2204.07143)."""
    starts = [min(max(i - k // 2, 0), n - k) for i in range(n)]
    return [list(range(start, start + k)) for start in starts]


def dynamic_conv(scores: Tensor, table: Tensor, values: Tensor, k: int) -> Tensor:
    """Softmax-weighted sums of the k x k nearest values.

    scores [B, heads, H * W, k * k]; table [heads, 2k - 1, 2k - 1], a bias by neighbour minus position;
    values [B, C, H, W], the heads being contiguous groups of channels.
    """
    batch, channels, height, width = values.shape
    rows, columns = neighbours(height, k), neighbours(width, k)
    sums = []
    for y in range(height):
        for x in range(width):
            ys, xs = torch.tensor(rows[y]), torch.tensor(columns[x])
            bias = table[:, ys - y + k - 1][:, :, xs - x + k - 1].flatten(1)
            weights = (scores[:, :, y * width + x] + bias).softmax(-1)
            around = values[:, :, ys][:, :, :, xs].reshape(batch, table.shape[0], -1, k * k)
            sums.append((around * weights[:, :, None]).sum(-1).flatten(1))
    return torch.stack(sums, -1).reshape(batch, channels, height, width)


class DynamicBlock(nn.Module):
    """Context-mixing dynamic convolution of a net of `dim` channels beside a context of `context`."""

    def __init__(self, dim: int, context: int, k: int, heads: int, first: bool, drop: float) -> None:
        super().__init__()
        both = dim + context
        self.dim, self.k, self.heads = dim, k, heads
        self.x_scale = None if first else Affine(context)
        self.h_scale = None if first else Affine(context)
        self.dw1 = Residual(both)
        self.norm1 = MapNorm(both, eps=1e-6)
        self.fuse_dw = depthwise(both, 3)
        self.fuse_bn = nn.BatchNorm2d(both)
        self.fuse_pw = nn.Conv2d(both, dim, 1)
        self.grn = ResponseNorm(dim)
        self.gate = conv_bn(dim, dim)
        self.query = conv_bn(dim, dim // 2)
        self.key = conv_bn(context, dim // 2)
        self.weight_proj = nn.Conv2d(49, k * k + 25, 1)
        self.bias_table1 = nn.Parameter(torch.zeros(heads, 9, 9))
        self.bias_table2 = nn.Parameter(torch.zeros(heads, 2 * k - 1, 2 * k - 1))
        self.dyn_proj = conv_bn(dim, dim)
        self.lepe = Dilated(dim, k)
        self.lepe_bn = nn.BatchNorm2d(dim)
        self.se = Gate(dim)
        self.proj_bn = nn.BatchNorm2d(dim)
        self.proj = nn.Conv2d(dim, both, 1)
        self.ls1 = Affine(both)
        self.dw2 = Residual(both)
        self.norm2 = MapNorm(both, eps=1e-6)
        self.ffn = Ffn(both, 3 * dim)
        self.ls2 = Affine(both)
        self.drop = DropPath(drop)

    def kernels(self, query: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Scores for the small kernel and for the large one: similarities to 7 x 7 regions of the context, mapped."""
        query = self.query(query) * (self.dim / self.heads) ** -0.5
        key = self.key(F.adaptive_avg_pool2d(context, 7))
        queries = query.unflatten(1, (self.heads, -1)).flatten(3)
        keys = key.unflatten(1, (self.heads, -1)).flatten(3)
        similar = torch.einsum("bgcn,bgcl->blgn", queries, keys)
        scores = self.weight_proj(similar).permute(0, 2, 3, 1)
        return scores[..., :25], scores[..., 25:]

    def forward(self, x: Tensor, h: Tensor, overview: Tensor) -> tuple[Tensor, Tensor]:
        if self.x_scale is not None and self.h_scale is not None:
            h = self.x_scale(h) + self.h_scale(overview)
        f = self.dw1(torch.cat([x, h], 1))
        normed = self.norm1(f)
        y = self.grn(self.fuse_pw(F.gelu(self.fuse_bn(self.fuse_dw(normed)))))
        small, large = self.kernels(normed[:, : self.dim], normed[:, self.dim :])
        half = self.dim // 2
        mixed = torch.cat(
            [
                dynamic_conv(small, self.bias_table1, y[:, :half], 5),
                dynamic_conv(large, self.bias_table2, y[:, half:], self.k),
            ],
            1,
        )
        mixed = self.se(self.dyn_proj(mixed) + self.lepe_bn(self.lepe(y))) * F.silu(self.gate(y))
        f = self.ls1(f) + self.drop(self.proj(self.proj_bn(mixed)))
        f = self.dw2(f)
        f = self.ls2(f) + self.drop(self.ffn(self.norm2(f)))
        return f[:, : self.dim], f[:, self.dim :]


class OverLoCK(nn.Module):
    """Images [B, 3, H, W] with H and W multiples of 32 to logits; in training also those of the overview, if wanted."""

    def __init__(
        self,
        dims: Sequence[int] = (56, 112, 256, 336),
        depths: Sequence[int] = (2, 2, 3, 2),
        sub: Sequence[int] = (6, 2),
        ks: Sequence[int] = (17, 15, 13, 7),
        heads: Sequence[int] = (8, 12),
        drop_path_rate: float = 0.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        drops = rates(drop_path_rate, [*depths, *sub])
        half, context = dims[0] // 2, dims[3] // 4
        self.stem = nn.ModuleList(
            [conv_bn(3, half, 3, 2), conv_bn(half, half, 3), conv_bn(half, dims[0], 3, 2), conv_bn(dims[0], dims[0], 3)]
        )
        self.downs = nn.ModuleList(conv_bn(dims[i], dims[i + 1], 3, 2) for i in range(3))
        self.base = nn.ModuleList(
            nn.ModuleList(RepBlock(dims[i], ks[i], i > 1, next(drops)) for _ in range(depths[i])) for i in range(4)
        )
        self.high_level_proj = nn.Conv2d(dims[3], context, 1)
        self.look3 = nn.ModuleList(
            DynamicBlock(dims[2], context, ks[2], heads[0], j == 0, next(drops)) for j in range(sub[0])
        )
        self.x_proj = conv_bn(dims[2], dims[3], 3, 2)
        self.h_proj = conv_bn(context, context, 3, 2)
        self.look4 = nn.ModuleList(
            DynamicBlock(dims[3], context, ks[3], heads[1], False, next(drops)) for j in range(sub[1])
        )
        self.head_conv = conv_bn(dims[3] + context, 1024)
        self.head = nn.Conv2d(1024, 1000, 1)
        layers = {"bn": nn.BatchNorm2d(dims[3]), "pool": nn.AdaptiveAvgPool2d(1), "fc": nn.Conv2d(dims[3], 1000, 1)}
        self.aux_head = nn.Sequential(OrderedDict(layers)) if auxiliary else None
        truncated(self, nn.Conv2d)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        for i, layer in enumerate(self.stem):
            x = layer(F.gelu(x) if i else x)
        looked = x
        for i, blocks in enumerate(self.base):
            if i == 3:
                looked = x
            x = self.downs[i - 1](x) if i else x
            for block in blocks:
                x = block(x)
        overview = x
        top = self.high_level_proj(x)
        up = F.interpolate(top, scale_factor=2, mode="bilinear", align_corners=False)
        x, h = looked, up
        for block in self.look3:
            x, h = block(x, h, up)
        x, h = self.x_proj(x), self.h_proj(h)
        for block in self.look4:
            x, h = block(x, h, top)
        x = F.silu(self.head_conv(torch.cat([x, h], 1)))
        logits = self.head(x.mean((2, 3), keepdim=True)).flatten(1)
        if self.training and self.aux_head is not None:
            return logits, self.aux_head(overview).flatten(1)
        return logits
