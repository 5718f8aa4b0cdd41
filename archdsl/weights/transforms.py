"""Turns one stored tensor, or several, into the tensor a weight path holds: a closed set of named transforms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class TransformError(ValueError):
    """A transform that does not exist, or does not fit its tensor; the text is one sentence."""


@dataclass(frozen=True)
class Geometry:
    """What the graph knows about one weight beyond its shape."""

    heads: int = 0
    """Of the attention it takes part in."""
    table: tuple[int, int] | None = None
    """Rows and columns of relative positions, where it is such a table."""
    grid: tuple[int, int] | None = None
    """Height and width of the map whose positions it embeds."""
    image: bool = False
    """Whether it is the kernel of a convolution that reads the image."""
    patch: bool = False
    """Whether it is a kernel that cuts its input into patches: its stride is its size."""
    classifier: bool = False
    """Whether it makes the logits."""


@dataclass(frozen=True)
class Transform:
    """From stored tensors to ours (`apply`), and back (`undo`) where nothing is lost."""

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    """Whether `undo` gives back every bit."""

    def settle(self, geometry: Geometry) -> Transform:
        """The same with what it needs of the graph filled in. Raises TransformError."""
        return self

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError

    def undo(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """What `apply` was given."""
        raise TransformError(f"{self} cannot be undone")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Squeeze(Transform):
    """Takes away axes of size 1: a 1x1 convolution becomes a linear layer, [heads, 1, 1] becomes [heads]."""

    name: ClassVar[str] = "squeeze"
    axes: tuple[int, ...] = ()

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        (x,) = tensors
        if any(a >= x.ndim or x.shape[a] != 1 for a in self.axes):
            raise TransformError(f"{self}: the stored shape is {tuple(x.shape)}")
        return x.reshape([n for a, n in enumerate(x.shape) if a not in self.axes])

    def undo(self, tensor: Tensor) -> tuple[Tensor, ...]:
        sizes = list(tensor.shape)
        for axis in self.axes:
            if axis > len(sizes):
                raise TransformError(f"there is no axis {axis} to add to {tuple(tensor.shape)}")
            sizes.insert(axis, 1)
        return (tensor.reshape(sizes),)

    def __str__(self) -> str:
        return f"squeeze:{','.join(map(str, self.axes))}"


@dataclass(frozen=True)
class Unsqueeze(Transform):
    """Adds axes of size 1: a linear layer becomes a 1x1 convolution."""

    name: ClassVar[str] = "unsqueeze"
    axes: tuple[int, ...] = ()

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        return Squeeze(self.axes).undo(tensors[0])[0]

    def undo(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (Squeeze(self.axes).apply([tensor]),)

    def __str__(self) -> str:
        return f"unsqueeze:{','.join(map(str, self.axes))}"


@dataclass(frozen=True)
class HeadFirst(Transform):
    """Rows stored head by head, each [q | k | v], become [q | k | v], each head by head; q, k and v are as `parts`."""

    name: ClassVar[str] = "head_first"
    parts: tuple[int, ...] = (1, 1, 1)
    heads: int = 0

    def settle(self, geometry: Geometry) -> Transform:
        if not geometry.heads:
            raise TransformError(f"{self}: no attention tells the number of heads")
        return replace(self, heads=geometry.heads)

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        import torch

        (x,) = tensors
        by_head = torch.split(x.reshape(self.heads, self._rows(x), *x.shape[1:]), self._sizes(x), dim=1)
        return torch.cat([part.flatten(0, 1) for part in by_head])

    def undo(self, tensor: Tensor) -> tuple[Tensor, ...]:
        import torch

        by_part = torch.split(tensor, [self.heads * n for n in self._sizes(tensor)])
        return (torch.cat([part.reshape(self.heads, -1, *part.shape[1:]) for part in by_part], dim=1).flatten(0, 1),)

    def _rows(self, x: Tensor) -> int:
        """Of one head."""
        rows, left = divmod(x.shape[0], self.heads)
        if left or rows % sum(self.parts):
            raise TransformError(f"{self}: {x.shape[0]} rows are not q, k and v of {self.heads} heads")
        return rows

    def _sizes(self, x: Tensor) -> list[int]:
        unit = self._rows(x) // sum(self.parts)
        return [unit * n for n in self.parts]

    def __str__(self) -> str:
        return self.name if self.parts == (1, 1, 1) else f"{self.name}:{','.join(map(str, self.parts))}"


@dataclass(frozen=True)
class Concat(Transform):
    """Joins the rows of several tensors, whose sizes are as `parts`; a negative part is zero and is not stored."""

    name: ClassVar[str] = "concat"
    parts: tuple[int, ...] = ()

    @property
    def stored(self) -> tuple[int, ...]:
        return tuple(p for p in self.parts if p > 0)

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        import torch

        unit = tensors[0].shape[0] // self.stored[0]
        if [t.shape[0] for t in tensors] != [unit * share for share in self.stored]:
            raise TransformError(f"{self}: the stored parts have {', '.join(str(t.shape[0]) for t in tensors)} rows")
        found = iter(tensors)
        rest = tensors[0].shape[1:]
        return torch.cat([next(found) if p > 0 else tensors[0].new_zeros(unit * -p, *rest) for p in self.parts])

    def undo(self, tensor: Tensor) -> tuple[Tensor, ...]:
        sizes = [abs(p) for p in self.parts]
        unit, left = divmod(tensor.shape[0], sum(sizes))
        if left:
            raise TransformError(f"{self}: {tensor.shape[0]} rows cannot be divided so")
        ends = [unit * sum(sizes[: at + 1]) for at in range(len(sizes))]
        pieces = [tensor[end - unit * n : end] for end, n in zip(ends, sizes, strict=True)]
        if any(p < 0 and bool(piece.any()) for p, piece in zip(self.parts, pieces, strict=True)):
            raise TransformError(f"{self}: a part that the other side does not store is not zero")
        return tuple(piece.contiguous() for p, piece in zip(self.parts, pieces, strict=True) if p > 0)

    def __str__(self) -> str:
        return f"concat:{','.join(map(str, self.parts))}"


@dataclass(frozen=True)
class Rows(Transform):
    """Takes parts `first` to `last` (exclusive) of `of` equal parts of the rows; other weights hold the others."""

    name: ClassVar[str] = "rows"
    first: int = 0
    last: int = 1
    of: int = 1

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        (x,) = tensors
        if x.shape[0] % self.of:
            raise TransformError(f"{self}: {x.shape[0]} rows are not {self.of} equal parts")
        unit = x.shape[0] // self.of
        return x[unit * self.first : unit * self.last].contiguous()

    def undo(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (tensor,)

    def __str__(self) -> str:
        return f"rows:{self.first},{self.last},{self.of}"


@dataclass(frozen=True)
class Slice(Transform):
    """Takes rows `start` to `stop`: classes without a background class, or fewer of them."""

    name: ClassVar[str] = "slice"
    exact: ClassVar[bool] = False
    start: int = 0
    stop: int = 0

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        (x,) = tensors
        if not self.start < self.stop <= x.shape[0]:
            raise TransformError(f"{self}: there are {x.shape[0]} rows")
        return x[self.start : self.stop].contiguous()

    def __str__(self) -> str:
        return f"slice:{self.start},{self.stop}"


@dataclass(frozen=True)
class Expand(Transform):
    """One number becomes `size` equal ones."""

    name: ClassVar[str] = "expand"
    size: int = 1

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        (x,) = tensors
        if x.numel() != 1:
            raise TransformError(f"{self}: the stored shape is {tuple(x.shape)}")
        return x.reshape(1).repeat(self.size)

    def undo(self, tensor: Tensor) -> tuple[Tensor, ...]:
        if not bool((tensor == tensor[0]).all()):
            raise TransformError(f"{self}: the numbers differ by now")
        return (tensor[:1].clone(),)

    def __str__(self) -> str:
        return f"expand:{self.size}"


@dataclass(frozen=True)
class FlipTable(Transform):
    """Reverses a table of relative positions [rows * columns, heads]: key minus query becomes query minus key."""

    name: ClassVar[str] = "flip_table"

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0].flip(0)

    def undo(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (tensor.flip(0),)


@dataclass(frozen=True)
class GridTable(Transform):
    """A table [heads, rows, columns] becomes [rows * columns, heads]."""

    name: ClassVar[str] = "grid_table"
    extent: tuple[int, int] = (0, 0)

    def settle(self, geometry: Geometry) -> Transform:
        if geometry.table is None:
            raise TransformError(f"{self}: the weight is no table of relative positions")
        return replace(self, extent=geometry.table)

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        (x,) = tensors
        if x.ndim != 3:
            raise TransformError(f"{self}: the stored shape is {tuple(x.shape)}")
        return x.permute(1, 2, 0).reshape(-1, x.shape[0]).contiguous()

    def undo(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (tensor.reshape(*self.extent, -1).permute(2, 0, 1).contiguous(),)


@dataclass(frozen=True)
class Transpose(Transform):
    """Puts the axes in another order, the first two swapped unless said: [heads, offsets] becomes [offsets, heads]."""

    name: ClassVar[str] = "transpose"
    axes: tuple[int, ...] = (1, 0)
    """Which stored axis each of the first ones is."""

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        (x,) = tensors
        if x.ndim < len(self.axes):
            raise TransformError(f"{self}: the stored shape is {tuple(x.shape)}")
        return x.permute(*self.axes, *range(len(self.axes), x.ndim)).contiguous()

    def undo(self, tensor: Tensor) -> tuple[Tensor, ...]:
        back = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return (tensor.permute(*back, *range(len(back), tensor.ndim)).contiguous(),)

    def __str__(self) -> str:
        return self.name if self.axes == (1, 0) else f"{self.name}:{','.join(map(str, self.axes))}"


@dataclass(frozen=True)
class FoldBN(Transform):
    """(kernel, weight, bias, running_mean, running_var[, kernel's bias]) become a kernel, or a bias, without norm."""

    name: ClassVar[str] = "fold_bn"
    exact: ClassVar[bool] = False
    role: str = "weight"
    eps: float = 1e-5

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        if len(tensors) not in (5, 6):
            raise TransformError(f"{self}: it takes a kernel and weight, bias, running_mean, running_var of a norm")
        kernel, weight, bias, mean, var = (t.double() for t in tensors[:5])
        factor = weight / (var + self.eps).sqrt()
        if self.role == "weight":
            folded = kernel * factor.reshape(-1, *(1,) * (kernel.ndim - 1))
        else:
            own = tensors[5].double() if len(tensors) == 6 else 0.0
            folded = bias + (own - mean) * factor
        return folded.to(tensors[0].dtype)

    def __str__(self) -> str:
        return f"fold_bn:{self.role},{self.eps:g}"


@dataclass(frozen=True)
class Resample(Transform):
    """Interpolates two neighbouring axes from `old` to `new` sizes, after `prefix` rows that are kept.

    Axis 0 holds the `old` sizes flattened where `flat`. Positions are antialiased, tables of relative positions
    are not: they are looked up, not seen as a picture.
    """

    name: ClassVar[str] = "resample"
    exact: ClassVar[bool] = False
    old: tuple[int, int] = (0, 0)
    new: tuple[int, int] = (0, 0)
    mode: str = "bicubic"
    prefix: int = 0
    flat: bool = True
    antialias: bool = True

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        import torch
        from torch.nn.functional import interpolate

        (x,) = tensors
        head, body = x[: self.prefix], x[self.prefix :]
        if self.flat:
            body = body.reshape(*self.old, -1).permute(2, 0, 1)
        rest = body.shape[: body.ndim - 2]
        picture = body.reshape(1, -1, *self.old).to(torch.promote_types(x.dtype, torch.float32))
        if self.mode == "linear":  # one axis
            out = interpolate(picture.flatten(2), size=math.prod(self.new), mode="linear")
        else:
            out = interpolate(picture, size=self.new, mode=self.mode, antialias=self.antialias)
        out = out.reshape(*rest, *self.new).to(x.dtype)
        if self.flat:
            out = out.permute(1, 2, 0).reshape(math.prod(self.new), -1)
        return (torch.cat([head, out]) if self.prefix else out).contiguous()

    def __str__(self) -> str:
        (a, b), (c, d) = self.old, self.new
        return f"{self.name}:{a}x{b}->{c}x{d},{self.mode}"


@dataclass(frozen=True)
class ResamplePatch(Transform):
    """A patch embedding [C, I, h, w] for patches of another size: the least-squares inverse of resizing the image,
    so that a resized patch gets the embedding it had (2212.08013)."""

    name: ClassVar[str] = "resample_patch"
    exact: ClassVar[bool] = False
    size: tuple[int, int] = (0, 0)

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        import torch
        from torch.nn.functional import interpolate

        (x,) = tensors
        old = math.prod(x.shape[2:])
        basis = torch.eye(old, dtype=torch.float64).reshape(old, 1, *x.shape[2:])
        resized = interpolate(basis, size=self.size, mode="bicubic", antialias=True).reshape(old, -1)
        kernel: Tensor = torch.linalg.pinv(resized) @ x.double().reshape(-1, old).T
        return kernel.T.reshape(*x.shape[:2], *self.size).to(x.dtype).contiguous()

    def __str__(self) -> str:
        return f"{self.name}:{self.size[0]}x{self.size[1]}"


@dataclass(frozen=True)
class AdaptInputs(Transform):
    """A kernel over 3 image channels for another number: their sum for one, else repeated and scaled by 3 / n."""

    name: ClassVar[str] = "adapt_inputs"
    exact: ClassVar[bool] = False
    channels: int = 3

    def apply(self, tensors: Sequence[Tensor]) -> Tensor:
        (x,) = tensors
        if self.channels == 1:
            return x.sum(1, keepdim=True)
        stored = x.shape[1]
        repeated = x.repeat(1, math.ceil(self.channels / stored), *(1,) * (x.ndim - 2))
        return (repeated[:, : self.channels] * (stored / self.channels)).contiguous()

    def __str__(self) -> str:
        return f"{self.name}:{self.channels}"


_PLAIN: Mapping[str, type[Transform]] = {t.name: t for t in (HeadFirst, FlipTable, GridTable, Transpose)}
_NUMBERED = ("squeeze", "unsqueeze", "concat", "rows", "slice", "expand")
NAMES = ("identity", *_PLAIN, *_NUMBERED, "fold_bn")
"""What a table may say."""


def parse(text: str) -> Transform:
    """The transform a table names, as `head_first` or `concat:1,1,1`. Raises TransformError."""
    name, _, rest = text.replace(" ", "").partition(":")
    if name == "identity" and not rest:
        return Squeeze(())
    if name in _PLAIN and not rest:
        return _PLAIN[name]()
    try:
        if name == "fold_bn":
            role, _, eps = rest.partition(",")
            if role in ("weight", "bias"):
                return FoldBN(role, float(eps))
        elif name in (*_NUMBERED, HeadFirst.name, Transpose.name):
            return _numbered(name, tuple(int(n) for n in rest.split(",")))
    except ValueError as e:
        if isinstance(e, TransformError):
            raise
    raise TransformError(f"`{text}` is no transform; there are {', '.join(NAMES)}")


def _numbered(name: str, numbers: tuple[int, ...]) -> Transform:
    if name == "squeeze":
        return Squeeze(numbers)
    if name == "unsqueeze":
        return Unsqueeze(numbers)
    if name == Transpose.name and sorted(numbers) == list(range(len(numbers))):
        return Transpose(numbers)
    if name == HeadFirst.name and min(numbers) > 0:
        return HeadFirst(numbers)
    if name == "concat" and 0 not in numbers and max(numbers) > 0:
        return Concat(numbers)
    if name == "rows" and len(numbers) == 3 and 0 <= numbers[0] < numbers[1] <= numbers[2]:
        return Rows(*numbers)
    if name == "slice" and len(numbers) == 2:
        return Slice(*numbers)
    if name == "expand" and len(numbers) == 1:
        return Expand(*numbers)
    raise TransformError(f"`{name}:{','.join(map(str, numbers))}`: these numbers do not fit")
