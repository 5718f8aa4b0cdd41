"""What an op is: one frozen dataclass that states its attributes, shapes, weights, costs and lowerings."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from archdsl.ir.graph import Node, Static
from archdsl.ir.types import AXES, Frame, Pair, TensorType, Weight

MAX_INT = 1 << 31


class Order(enum.Enum):
    """How an op depends on the order of positions (what a layout pass may do around it)."""

    FREE = "each position by itself, in any order"
    REDUCES = "over all positions of a sample, in any order"
    SENSITIVE = "needs neighbours or raster order"
    GROUP = "needs the members of a frame together"


class ShapeError(Exception):
    """An op cannot take these operands or attributes; the frontend adds the place and the chain of producers.

    `attr` or `port` names what is wrong, so that the underline can be the smallest wrong piece of text.
    """

    def __init__(
        self, message: str, *, code: str = "E-SHAPE", attr: str = "", port: str = "", help: str = "", label: str = ""
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.attr, self.port, self.help, self.label = message, code, attr, port, help, label


def attr(
    default: Static = dataclasses.MISSING,  # type: ignore[assignment]
    doc: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Static] = (),
    search: Sequence[Static] = (),
) -> Any:
    """An attribute: default (none: required), one-line doc, inclusive bounds or choices, and what search may try."""
    return field(
        default=default,
        metadata={"doc": doc, "low": low, "high": high, "choices": tuple(choices), "search": tuple(search)},
    )


KINDS: dict[str, str] = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "a string",
    "Pair": "a pair [h, w]",
    "Ints": "a list of integers",
    "Parts": "a number of parts or a list of sizes",
    "Rows": "a list of rows of numbers",
}
"""Attribute annotations an op may use (each may also be `| None`), and how messages name them."""

Ints = tuple[int, ...]
Parts: TypeAlias = "int | tuple[int | str, ...]"
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Torch:
    """How an op is written in PyTorch.

    `expr` is a Python expression in which `{port}` stands for an operand, `{self}` for the submodule or parameter
    that holds the op's weights, and `{name}` for an entry of `numbers`. `module` is the constructor of that
    submodule ("" if the op owns no weights), with the same `{name}` holes. `numbers` holds whatever may differ
    between two calls that share one class: widths, heads, window sizes. What changes the code's structure
    (whether there is a bias) is text, not a number. `helpers` are templates codegen/torch/<helper>.py.j2;
    `fused/<kernel>` is codegen/fused/<kernel>.py.j2, with its Triton kernels in codegen/triton/<kernel>.py.j2.
    `recomputed` are numbers that prepare the submodule for the input it is built for, but bind it to none: at
    another size it computes what it needs. The others must hold at every size the module accepts.
    """

    expr: str
    module: str = ""
    numbers: Mapping[str, Static] = field(default_factory=dict)
    helpers: tuple[str, ...] = ()
    recomputed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """What a lowering sees: operand and result types, and where channels stand in maps ("last" or "first")."""

    inputs: tuple[TensorType | None, ...]
    outputs: tuple[TensorType, ...]
    axes: str = "last"

    def has(self, slot: int) -> bool:
        return slot < len(self.inputs) and self.inputs[slot] is not None


@dataclass(frozen=True)
class Example:
    """One use of the op for the contract suite: attributes by name and operand types."""

    attrs: Mapping[str, Static]
    inputs: tuple[TensorType | None, ...]
    note: str = ""
    """Where MACs differ from torch's counter: the reason, and the closed form stands (FFT, sampling)."""


@dataclass(frozen=True)
class Op:
    """Base of the vocabulary. A subclass is one file named as the op; its class name is the op's in CamelCase.

    `ports` lists operands: "x", "bias?" (optional), "*xs" (any number, last). The port "frame?" is never written
    by a user: the frontend fills it with the frame of the first framed operand. `axes` lists the channel
    positions its PyTorch lowering can work in, preferred first.
    """

    ports: ClassVar[tuple[str, ...]] = ("x",)
    order: ClassVar[Order] = Order.FREE
    axes: ClassVar[tuple[str, ...]] = ("last", "first")
    affine: ClassVar[bool] = False
    """Affine and shift-invariant in its operands in eval mode: allowed inside a `rep def`."""
    measured: ClassVar[tuple[str, ...]] = ()
    """Ports that are read for their size only."""
    view: ClassVar[bool] = False
    """Moves no bytes in eager PyTorch."""
    training: ClassVar[bool] = False
    """Does nothing outside training."""
    slots: ClassVar[int] = 1
    """Instructions on each element of the largest operand or result."""
    matmul: ClassVar[bool] = False
    """Counted as activations by timm's convention (outputs of conv, linear, matmul)."""
    examples: ClassVar[tuple[Example, ...]] = ()
    callable: ClassVar[bool] = True
    """Whether a spec may call it by name."""
    alias: ClassVar[str] = ""
    """The op's name where the class name cannot give it."""
    abstract: ClassVar[bool] = True
    """Set (in the class itself) on bases that are not ops of their own."""

    @property
    def name(self) -> str:
        return op_name(type(self))

    def attributes(self) -> dict[str, Static]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def resolve(self, *types: TensorType | None) -> Op:
        """The op with what is left to be inferred filled in (dim = C); may be another op (dwconv is a conv)."""
        return self

    def ordering(self) -> Order:
        """`order`, where the attributes decide it: a 1x1 conv needs no neighbours."""
        return self.order

    def wants_frame(self, *types: TensorType | None) -> bool:
        """Whether the frontend fills the port "frame?" for these operands."""
        return False

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        """Result types of the resolved op. Raises ShapeError."""
        raise NotImplementedError

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        """Weights that one instance of the resolved op owns, in state-dict order."""
        return ()

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        """Multiply-accumulates per sample of matrix-like work (conv, linear, matmul)."""
        return 0

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        """What fvcore, and so timm's tables, count for it: MACs, plus 2x for bn, 5x for ln and gn."""
        return self.macs(inputs, outputs)

    def activations(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        """Elements that its conv, linear and matmul work writes, timm's `macts`."""
        return sum(t.elements for t in outputs) if self.matmul else 0

    def launches(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        """Kernels that eager PyTorch runs for it, each of which reads the operands and writes the results."""
        return 0 if self.view else 1

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        """Instructions of the general cores per sample, multiply-adds of products apart: an estimate."""
        return self.slots * max((t.elements for t in (*inputs, *outputs) if t is not None), default=0)

    def is_affine(self, *types: TensorType | None) -> bool:
        """Whether it is affine with these attributes and operands (a product of two tensors is not)."""
        return self.affine

    def torch(self, call: Call) -> Torch | str:
        """The PyTorch lowering, or a sentence saying why there is none."""
        return f"{self.name} has no PyTorch lowering"

    def replace(self, **changes: Static) -> Op:
        return dataclasses.replace(self, **changes)


def op_name(cls: type[Op]) -> str:
    """The op's name as the language writes it: the class's in snake case (AvgPool -> avg_pool)."""
    return cls.alias or _snake(cls.__name__)


@functools.cache
def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))


# -- checks that many ops share ------------------------------------------------------------------


def need(t: TensorType | None, kinds: str, op: Op, port: str = "x") -> TensorType:
    """`t`, checked to be one of `kinds` ("map|tokens")."""
    if t is None:
        raise ShapeError(f"`{op.name}` needs its input `{port}`", code="E-ARITY", port=port)
    if t.kind not in kinds.split("|"):
        wanted = " or ".join(f"a {k}" if k in ("map", "vec") else k for k in kinds.split("|"))
        way_out = {"map": "to_map[H, W](x) gives tokens a grid", "tokens": "tokens(x) flattens a map"}.get(kinds, "")
        raise ShapeError(f"`{op.name}` needs {wanted}, got {t.short()}", code="E-KIND", port=port, help=way_out)
    return t


def same_frames(op: Op, **operands: TensorType | None) -> None:
    """All given operands live in equal frames."""
    present = {n: t for n, t in operands.items() if t is not None}
    if len({t.frames for t in present.values()}) > 1:
        listing = ", ".join(f"{n} {t.short()}" for n, t in present.items())
        raise ShapeError(
            f"`{op.name}`'s operands live in different frames: {listing}",
            code="E-FRAME",
            help="merge(...) what is still split into windows, or tile(q, k) to repeat q in every frame of k",
        )


def unpadded(op: Op, t: TensorType) -> TensorType:
    """`t`, checked not to contain padding of a frame: reductions and statistics would count it."""
    for frame in t.frames:
        if frame.padded:
            raise ShapeError(
                f"`{op.name}` would count the padding of {t.short()}: "
                f"{frame.kind}s of {int(frame.inner[0])}x{int(frame.inner[1])} do not tile "
                f"{int(frame.extent[0])}x{int(frame.extent[1])}",
                code="E-FRAME",
                port="x",
                help=f"merge(...) before {op.name}, or choose a {frame.kind} size that tiles the map",
            )
    return t


def torch_dim(t: TensorType, axis: str, axes: str) -> int:
    """The (negative) dimension of `axis` ("C", "H", "W", "N", "heads", "Nq", "Nk") in `t`'s run-time tensor.

    Counting from the back makes one answer serve values with a batch axis and parameters without one; a
    parameter's map is stored channels first whatever `axes` is.
    """
    names = AXES[t.kind]
    if t.kind == "map" and axes == "last" and t.batched:
        names = ("H", "W", "C")
    return names.index(axis) - len(names)


def divides(op: Op, by: int, what: int, noun: str, attr: str, code: str) -> None:
    """`by` divides `what`. Raises ShapeError with the divisors next to it."""
    if by < 1 or what % by:
        near = divisors_near(what, by)
        parts = {"E-HEADS": " heads", "E-GROUPS": " groups"}.get(code, "")
        raise ShapeError(
            f"`{op.name}`: {int(by)}{parts} {'do' if parts else 'does'} not divide the {int(what)} {noun}",
            code=code,
            attr=attr,
            help=f"use {either(near)}{parts}" if near else "",
        )


def divisors_near(what: int, by: int) -> list[int]:
    """The three divisors of `what` nearest to `by`, among the small ones and their counterparts."""
    small = [d for d in range(1, min(math.isqrt(what), 10_000) + 1) if int(what) % d == 0]
    every = {*small, *(int(what) // d for d in small)}
    return sorted(sorted(every, key=lambda d: (abs(d - by), d))[:3])


def either(numbers: Sequence[int]) -> str:
    """`4, 6 or 8`."""
    words = [str(int(n)) for n in numbers]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def pair(value: int | Pair) -> Pair:
    return (value[0], value[1]) if isinstance(value, tuple) else (value, value)


def frames_of(*types: TensorType | None) -> tuple[Frame, ...]:
    """The frames of the first framed operand."""
    return next((t.frames for t in types if t is not None and t.frames), ())


def of_samples(op: Op, t: TensorType, port: str = "x") -> TensorType:
    """`t`, checked to be computed from the input: a parameter has no samples that could be cut into frames."""
    if not t.batched:
        raise ShapeError(
            f"`{op.name}` cuts a value of each sample, but {t.short()} is a parameter",
            code="E-FRAME",
            port=port,
            help="use the parameter inside the frame: it is added to, or attended in, every frame alike",
        )
    return t


def spread(port: str, t: TensorType, like: str) -> str:
    """Source of an operand with a batch axis (maps channels last): a parameter repeats for each sample of `like`."""
    if t.batched:
        return "{" + port + "}"
    last = "{" + port + "}" + (".permute(1, 2, 0)" if t.kind == "map" else "")
    return f"{last}.expand({{{like}}}.shape[0]{', -1' * len(t.dims)})"


def op_of(node: Node) -> Op:
    """A node's op as the vocabulary's class; the graph itself knows ops only as an Operation."""
    assert isinstance(node.op, Op)
    return node.op
