"""attend: softmax attention over the positions of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, divides, need, spread
from archdsl.ops.softmax import Softmax

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))
_SHIFTED = Frame("window", (2, 2), (4, 4), (7, 8), (2, 1), shifts=True)


@dataclass(frozen=True)
class Attend(Op):
    """softmax(scale * tau * q k^T + bias) v per head: maps count as their positions in raster order.

    Queries and keys may differ in number, keys and values in width. `bias` is scores[heads, Nq, Nk]; `tau` is a
    factor per head. In a shifted window frame, pairs across the seam get -100 (2103.14030). Keys may come from
    the windows of the queries with a halo. Queries that are a parameter attend in every sample and frame.
    """

    ports: ClassVar[tuple[str, ...]] = ("q", "k", "v", "bias?", "tau?", "frame?")
    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True

    heads: int = attr(1, "number of heads", low=1)
    scale: float | None = attr(None, "factor on the scores; none is (C / heads)^-0.5")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"heads": 2}, (TensorType("map", (8, 4, 4)),) * 3),
        Example(
            {"heads": 2},
            (
                TensorType("tokens", (5, 8)),
                TensorType("map", (8, 3, 3)),
                TensorType("map", (6, 3, 3)),
                TensorType("scores", (2, 5, 9), batched=False),
            ),
        ),
        Example(
            {"heads": 2, "scale": 1.0},
            (*(TensorType("tokens", (5, 8)),) * 3, None, TensorType("vec", (2,), batched=False)),
        ),
        Example(
            {"heads": 2},
            (
                *(TensorType("map", (8, 4, 4), (_SHIFTED,)),) * 3,
                TensorType("scores", (2, 16, 16), batched=False),
                None,
                TensorType("frame", (), (_SHIFTED,)),
            ),
        ),
        Example(
            {"heads": 2},
            (
                *(TensorType("map", (8, 4, 4), (_SHIFTED,)),) * 3,
                TensorType("scores", (2, 16, 16), (_SHIFTED,)),
                None,
                TensorType("frame", (), (_SHIFTED,)),
            ),
        ),
        Example(
            {"heads": 2},
            (
                TensorType("map", (8, 4, 4), (_WINDOW,)),
                *(TensorType("map", (8, 6, 6), (replace(_WINDOW, halo=1),)),) * 2,
            ),
        ),
        Example(
            {"heads": 2},
            (TensorType("tokens", (3, 8), batched=False), *(TensorType("map", (8, 4, 4), (_WINDOW,)),) * 2),
        ),
    )

    def wants_frame(self, *types: TensorType | None) -> bool:
        return masked(types)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        q, k, v, bias, tau = (*types, None, None, None, None, None)[:5]
        q, k, v = need(q, "map|tokens", self, "q"), need(k, "map|tokens", self, "k"), need(v, "map|tokens", self, "v")
        frames = attention_frames(self, "q", q, k=k, v=v)
        mask_fits(self, frames, q=q, k=k)
        if q.channels != k.channels:
            message = f"`attend`: q has {q.channels} channels but k has {k.channels}"
            raise ShapeError(message, code="E-CHANNELS", port="k", help=f"project it: linear[{q.channels}](k)")
        if k.positions != v.positions:
            raise ShapeError(
                f"`attend`: {int(k.positions)} keys but {int(v.positions)} values",
                code="E-CHANNELS",
                port="v",
                help="make k and v from the same map or tokens",
            )
        divides(self, self.heads, q.channels, "channels of q", "heads", "E-HEADS")
        divides(self, self.heads, v.channels, "channels of v", "heads", "E-HEADS")
        wanted = (self.heads, q.positions, k.positions)
        if bias is not None and (bias.kind != "scores" or bias.dims != wanted):
            raise ShapeError(
                f"`attend`: bias is {bias.short()}, expected scores[{', '.join(str(int(d)) for d in wanted)}]",
                code="E-BIAS",
                port="bias",
                help=f"make it rel_bias[{self.heads}](q), or another of {self.heads} heads over the same q and k",
            )
        if tau is not None and (tau.kind != "vec" or tau.channels != self.heads):
            raise ShapeError(
                f"`attend`: tau is {tau.short()}, expected vec[{self.heads}]",
                code="E-BIAS",
                port="tau",
                help=f"one number a head: param@tau[{self.heads}]",
            )
        for port, extra in (("bias", bias), ("tau", tau)):
            if extra is not None and extra.batched and extra.frames != frames:
                raise ShapeError(
                    f"`attend`: {port} is {extra.short()}, but q is {q.short()}",
                    code="E-FRAME",
                    port=port,
                    help=f"compute {port} from q, in the same windows",
                )
        return (replace(q.with_channels(v.channels), frames=frames, batched=True),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        q, k, v = inputs[:3]
        assert q is not None and k is not None and v is not None
        return outputs[0].cells * int(q.positions) * int(k.positions) * (q.channels + v.channels)

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        q, k = inputs[:2]
        assert q is not None and k is not None
        return Softmax.slots * self.heads * outputs[0].cells * int(q.positions) * int(k.positions)

    def activations(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        q, k = inputs[:2]
        assert q is not None and k is not None
        return self.heads * outputs[0].cells * int(q.positions) * int(k.positions) + outputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        q, k, v = call.inputs[:3]
        assert q is not None and k is not None and v is not None
        batched = next(p for p, t in (("q", q), ("k", k), ("v", v)) if t.batched)
        args = ", ".join(spread(p, t, batched) for p, t in (("q", q), ("k", k), ("v", v))) + ", {heads}"
        numbers: dict[str, Static] = {"heads": self.heads}
        if call.has(3):
            args += ", bias={bias}"
        if call.has(4):
            args += ", tau={tau}"
        if self.scale is not None:
            args += ", scale={scale}"
            numbers["scale"] = self.scale
        if call.has(5):
            args += ", mask={frame}.mask"
        return Torch(f"attend({args})", "", numbers, ("attend",))


def masked(types: Sequence[TensorType | None]) -> bool:
    """Whether scores of q and k, the first two, are masked across a seam: their frame is one that may be shifted."""
    return len(types) > 1 and all(t is not None and t.batched and t.frames and t.frames[-1].shifts for t in types[:2])


def attention_frames(op: Op, port: str, queries: TensorType, **keys: TensorType) -> tuple[Frame, ...]:
    """The frames attention happens in: those of the operands of a sample; keys and values may add a halo.

    `queries` is the operand `port`. Raises E-FRAME where frames differ, or where only parameters are given.
    """
    present = [t for t in (queries, *keys.values()) if t.batched]
    if not present:
        raise ShapeError(f"`{op.name}` among parameters alone has no sample to attend in", code="E-FRAME", port=port)
    without = {(*t.frames[:-1], *(replace(f, halo=0) for f in t.frames[-1:])) for t in present}
    reaching = queries.batched and any(f.halo for f in queries.frames)
    if len(without) > 1 or len({t.frames for t in keys.values() if t.batched}) > 1 or reaching:
        listing = ", ".join(f"{p} {t.short()}" for p, t in {port: queries, **keys}.items())
        raise ShapeError(
            f"`{op.name}`'s operands live in different frames: {listing}",
            code="E-FRAME",
            help="merge(...) what is still split into windows, or tile(q, k) to repeat q in every frame of k",
        )
    return without.pop()


def mask_fits(op: Op, frames: tuple[Frame, ...], **operands: TensorType) -> None:
    """In shifted windows, queries and keys are the windows' own positions: those the mask is for. Raises E-FRAME."""
    if any(frame.shifts for frame in frames[:-1]):
        raise ShapeError(
            f"`{op.name}`: inside a {frames[-1].kind} of shifted windows there is no mask for the seam of the shift",
            code="E-FRAME",
            help="merge(...) the inner frame first; attend[heads] needs no by_head",
        )
    if not frames or not any(frames[-1].shift):
        return
    for port, t in operands.items():
        if t.size != frames[-1].inner:
            height, width = frames[-1].inner
            raise ShapeError(
                f"`{op.name}`: {port} is {t.short()}, but the windows are shifted and their mask is for"
                f" {int(height)}x{int(width)} positions",
                code="E-FRAME",
                port=port,
                help="cut with shift = 0 where positions are pooled or added inside windows",
            )
