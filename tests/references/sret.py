"""SReT, arXiv 2111.05297: a transformer whose blocks run twice on one set of weights, each time in other groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.references.layers import DropPath, rates


class GroupAttention(nn.Module):
    """Attention among the tokens of a group: neighbours in raster order, or tokens drawn at random."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, groups: int, drawn: bool) -> Tensor:
        count = x.shape[1]
        members = torch.randperm(count) if drawn else torch.arange(count)
        out = torch.empty_like(x)
        for group in members.chunk(groups):
            q, k, v = self.qkv(x[:, group]).unflatten(2, (3, self.heads, -1)).unbind(2)
            weights = torch.einsum("bqhc,bkhc->bhqk", q, k) * q.shape[-1] ** -0.5
            out[:, group] = torch.einsum("bhqk,bkhc->bqhc", weights.softmax(-1), v).flatten(2)
        return self.proj(out)


class Perceptron(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Scaled(nn.Module):
    """A product with one learned number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


class Residual(nn.Module):
    """The learnable residual connection: a x + b f(norm(x)) with learned numbers a and b."""

    def __init__(self, dim: int, branch: nn.Module, drop: float | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.branch = branch
        self.a, self.b = Scaled(), Scaled()
        self.drop = nn.Identity() if drop is None else DropPath(drop)

    def forward(self, x: Tensor, *grouping: object) -> Tensor:
        return self.a(x) + self.b(self.drop(self.branch(self.norm(x), *grouping)))


class Block(nn.Module):
    """The sliced recursion: shared attention and MLP, and after each turn a non-linear projection of its own.

    `groups` are those of each turn. From the second on groups are drawn, unless there is only one.
    """

    def __init__(self, dim: int, heads: int, ratio: float, np_ratio: float, groups: Sequence[int], drop: float) -> None:
        super().__init__()
        self.groups = groups
        self.attention = Residual(dim, GroupAttention(dim, heads), drop)
        self.mlp = Residual(dim, Perceptron(dim, int(dim * ratio)), drop)
        self.projections = nn.ModuleList(Residual(dim, Perceptron(dim, int(dim * np_ratio))) for _ in groups)

    def forward(self, x: Tensor) -> Tensor:
        for turn, (groups, projection) in enumerate(zip(self.groups, self.projections, strict=True)):
            x = projection(self.mlp(self.attention(x, groups, turn > 0 and groups > 1)))
        return x


class Stage(nn.Module):
    """A depthwise convolution that halves the map and widens it (none in the first stage), then blocks."""

    def __init__(self, pool: nn.Conv2d | None, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.pool = pool
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = self.pool(x)
        tokens = x.flatten(2).mT
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.mT.reshape(x.shape)


class SReT(nn.Module):
    """Images [B, 3, H, W] to logits; `size` is the images' height and width."""

    def __init__(
        self,
        size: tuple[int, int],
        head_dim: int = 32,
        heads: Sequence[int] = (2, 4, 8),
        depths: Sequence[int] = (2, 5, 3),
        ratio: float = 3.6,
        np_ratio: float = 1,
        groups: Sequence[Sequence[int]] = ((8, 2), (4, 1), (1, 1)),
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        width = head_dim * heads[0]
        self.stem = nn.Sequential()
        for before, after in ((3, width // 2), (width // 2, width), (width, width)):
            self.stem.extend([nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()])
        self.pos_embed = nn.Parameter(torch.empty(width, size[0] // 8, size[1] // 8))
        drops = rates(drop_path_rate, depths)
        self.stages = nn.ModuleList()
        for i, depth in enumerate(depths):
            before, width = width, head_dim * heads[i]
            pool = nn.Conv2d(before, width, 3, 2, 1, groups=before) if i else None
            blocks = [Block(width, heads[i], ratio, np_ratio, groups[i], next(drops)) for _ in range(depth)]
            self.stages.append(Stage(pool, blocks))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, 1000)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + self.pos_embed
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x.mean((2, 3))))
