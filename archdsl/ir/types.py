"""Types of values: what a tensor is per sample (kind, axes) and which frames it has been cut into.

Batch is implicit and there is no axis order: where channels stand in memory is the backend's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from archdsl.ir.sizes import Size, text

Pair = tuple[int, int]

AXES: dict[str, tuple[str, ...]] = {
    "map": ("C", "H", "W"),
    "tokens": ("N", "C"),
    "vec": ("C",),
    "scores": ("heads", "Nq", "Nk"),
    "frame": (),
}
"""Axes of each kind, in the order a type lists them."""

CHANNEL_AXIS = {"map": 0, "tokens": 1, "vec": 0, "scores": 2}


@dataclass(frozen=True, slots=True)
class Frame:
    """Many small copies of a space (window, grid, chunk, head): `grid` cells, each `inner` positions.

    `extent` is the size of the space that was cut (tokens use (N, 1)); a window frame whose grid x inner is
    larger than its extent is padded at the bottom and right. `shift` is the cyclic shift taken before cutting,
    already zero on an axis where the map is not larger than the window. `halo` widens each cell on every side
    (`inner` does not count it). `shifts` says that a shift was given, were it 0 or dropped at this size: attention
    then asks at run time for the mask of the seam.
    """

    kind: str
    grid: Pair
    inner: Pair
    extent: Pair
    shift: Pair = (0, 0)
    halo: int = 0
    shifts: bool = False

    @property
    def cells(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def padded(self) -> bool:
        return any(g * i != e for g, i, e in zip(self.grid, self.inner, self.extent, strict=True))

    def __str__(self) -> str:
        out = f"{self.kind}[{_by(self.grid)} of {_by(self.inner)} from {_by(self.extent)}"
        if any(self.shift):
            out += f" shift {_by(self.shift)}"
        if self.halo:
            out += f" halo {self.halo}"
        return out + "]"


def _by(pair: Pair) -> str:
    return f"{int(pair[0])}x{int(pair[1])}"


@dataclass(frozen=True, slots=True)
class TensorType:
    """A value's kind and sizes per sample.

    `batched` is False for parameters and for what is computed from parameters alone. `grid` is the position
    grid of a score matrix's queries (H, W), kept so that mixing with values gives a map back.
    A value of kind "frame" carries what is needed to undo its `frames[-1]` and has no elements.
    """

    kind: str
    dims: tuple[int, ...]
    frames: tuple[Frame, ...] = ()
    batched: bool = True
    grid: Pair | None = None

    @property
    def channels(self) -> int:
        return self.dims[CHANNEL_AXIS[self.kind]]

    @property
    def positions(self) -> int:
        """Positions in one frame: H*W of a map, N of tokens, 1 of a vector, heads*Nq of scores."""
        if self.kind == "map":
            return self.dims[1] * self.dims[2]
        if self.kind == "tokens":
            return self.dims[0]
        return 1 if self.kind == "vec" else self.dims[0] * self.dims[1]

    @property
    def cells(self) -> int:
        """How many frames there are of this value, all nesting levels multiplied."""
        n = 1
        for frame in self.frames:
            n *= int(frame.grid[0]) * int(frame.grid[1])
        return n

    @property
    def elements(self) -> int:
        """Elements per sample, padding included."""
        if self.kind == "frame":
            return 0
        n = self.cells
        for d in self.dims:
            n *= int(d)
        return n

    @property
    def size(self) -> Pair:
        """(H, W) of a map; (N, 1) of tokens; (1, 1) of a vector."""
        if self.kind == "map":
            return self.dims[1], self.dims[2]
        return (self.dims[0], 1) if self.kind == "tokens" else (1, 1)

    def with_channels(self, channels: int) -> TensorType:
        axis = CHANNEL_AXIS[self.kind]
        dims = (*self.dims[:axis], channels, *self.dims[axis + 1 :])
        return TensorType(self.kind, dims, self.frames, self.batched, self.grid)

    def with_size(self, height: int, width: int) -> TensorType:
        """The same map at another resolution."""
        return replace(self, dims=(self.dims[0], height, width))

    def plain(self) -> TensorType:
        """The same type with plain integers for sizes."""
        if not any(isinstance(d, Size) for d in self.dims):
            return self
        return TensorType(self.kind, tuple(int(d) for d in self.dims), self.frames, self.batched, self.grid)

    def __str__(self) -> str:
        if self.kind == "frame":
            return f"frame {self.frames[-1]}"
        out = f"{self.kind}[{', '.join(str(int(d)) for d in self.dims)}]"
        if self.grid is not None:
            out += f" at {_by(self.grid)}"
        out += "".join(f" in {f}" for f in self.frames)
        return out if self.batched else f"const {out}"

    def short(self) -> str:
        """For messages: `map[96, 7, 7] in 64 windows`."""
        if self.kind == "frame":
            return str(self)
        out = f"{self.kind}[{', '.join(str(int(d)) for d in self.dims)}]"
        return out + "".join(f" in {int(f.cells)} {f.kind}{'s' * (f.cells != 1)}" for f in self.frames)


def image(channels: int, height: int, width: int) -> TensorType:
    """The type of an input image; its H and W are the axes all sizes are expressed in."""
    return TensorType("map", (channels, Size.axis("H", height), Size.axis("W", width)))


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight an op owns: its role ("weight", "running_mean"), shape, and initialisation.

    `init` is one of: zeros, ones, constant(v), normal(std), trunc_normal(std), trunc_normal_tf(std), uniform(bound),
    torch (what the torch.nn module does by itself). `kind` is "param" or "buffer"; a buffer is part of the state dict.
    """

    role: str
    shape: tuple[int, ...]
    init: str = "zeros"
    kind: str = "param"
    dtype: str = ""
    resize: str = field(default="", compare=True)


def size_text(value: int) -> str:
    """An attribute's integer in the text IR: a size keeps its expression, in braces."""
    return "{" + text(value) + "}" if isinstance(value, Size) else str(value)
