"""concat: joins values along one axis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, ShapeError, Torch, attr, frames_of, need
from archdsl.ops.split import KINDS_WITH, axis_of, torch_dim

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))


_AXES = {"c": "channels", "n": "tokens", "key": "keys"}


@dataclass(frozen=True)
class Concat(Op):
    """Joins values of one kind along channels ("c"), tokens ("n") or keys ("key"); the other axes agree.

    A parameter joins every sample, and every frame, alike (a class token).
    """

    ports: ClassVar[tuple[str, ...]] = ("*xs",)
    affine: ClassVar[bool] = True

    axis: str = attr("c", "axis to join along: channels, tokens or keys", choices=("c", "n", "key"))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 5)), TensorType("map", (2, 4, 5)), TensorType("map", (3, 4, 5)))),
        Example({"axis": "n"}, (TensorType("tokens", (1, 8), batched=False), TensorType("tokens", (9, 8)))),
        Example({"axis": "key"}, (TensorType("scores", (2, 6, 9), grid=(2, 3)), TensorType("scores", (2, 6, 4)))),
        Example({}, (TensorType("vec", (6,)), TensorType("vec", (2,)))),
        Example({}, (TensorType("map", (6, 4, 4), (_WINDOW,)), TensorType("map", (2, 4, 4), batched=False))),
        Example(
            {"axis": "n"}, (TensorType("tokens", (2, 8), batched=False), TensorType("tokens", (3, 8), batched=False))
        ),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        if not types:
            raise ShapeError("`concat` needs values to join", code="E-ARITY", port="xs")
        xs = [need(t, KINDS_WITH[self.axis], self, "xs") for t in types]
        first, at = xs[0], axis_of(xs[0].kind, self.axis)
        frames = frames_of(*(x for x in xs if x.batched))
        for x in xs[1:]:
            same = x.kind == first.kind and all(
                a == b for i, (a, b) in enumerate(zip(x.dims, first.dims, strict=False)) if i != at
            )
            if not same:
                raise ShapeError(
                    f"`concat` joins along {_AXES[self.axis]}, and {first.short()} and {x.short()} differ elsewhere",
                    code="E-SPLIT",
                    port="xs",
                    help="resize, pool or project one of them first",
                )
        if any(x.frames != frames for x in xs if x.batched):
            raise ShapeError(
                f"`concat`'s operands live in different frames: {', '.join(x.short() for x in xs)}",
                code="E-FRAME",
                port="xs",
                help="merge(...) what is still split into windows, or tile(x, like) to repeat x in every frame",
            )
        total = xs[0].dims[at]
        for x in xs[1:]:
            total = total + x.dims[at]
        dims = (*first.dims[:at], total, *first.dims[at + 1 :])
        grid = next((x.grid for x in xs if x.grid is not None), None) if self.axis != "n" else None
        return (replace(first, dims=dims, frames=frames, batched=any(x.batched for x in xs), grid=grid),)

    def torch(self, call: Call) -> Torch | str:
        xs = [x for x in call.inputs if x is not None]
        out = call.outputs[0]
        dim = torch_dim(out, self.axis, call.axes)
        if all(x.batched == out.batched for x in xs):
            return Torch(f"torch.cat([{{xs}}], dim={dim})")
        if out.kind == "map" and call.axes == "last":
            return Torch("concat_channels({xs})", "", {}, ("concat_channels",))
        return Torch(f"concat([{{xs}}], dim={dim})", "", {}, ("concat",))
