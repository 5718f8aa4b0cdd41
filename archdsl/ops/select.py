"""select: keeps the tokens with the highest scores, a fixed number of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need, same_frames, spread


@dataclass(frozen=True)
class Select(Op):
    """The k tokens of highest score and the N - k others, both by falling score (2202.07800)."""

    ports: ClassVar[tuple[str, ...]] = ("x", "score")
    order: ClassVar[Order] = Order.GROUP

    k: int = attr(doc="tokens to keep", low=1)
    axis: str = attr("n", "axis to select on", choices=("n",))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"k": 3}, (TensorType("tokens", (8, 6)), TensorType("tokens", (8, 1)))),
        Example({"k": 3}, (TensorType("tokens", (8, 6), batched=False), TensorType("tokens", (8, 1)))),
        Example({"k": 3}, (TensorType("tokens", (8, 6)), TensorType("tokens", (8, 1), batched=False))),
        Example({"k": 3}, (TensorType("tokens", (8, 6), batched=False), TensorType("tokens", (8, 1), batched=False))),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x, score = (*types, None, None)[:2]
        x, score = need(x, "tokens", self), need(score, "tokens", self, "score")
        present = {n: t for n, t in (("x", x), ("score", score)) if t.batched}
        same_frames(self, **present)
        if score.dims != (x.dims[0], 1):
            raise ShapeError(
                f"`select`: score is {score.short()}, expected tokens[{int(x.dims[0])}, 1]",
                code="E-SHAPE",
                port="score",
            )
        if self.k >= x.dims[0]:
            raise ShapeError(
                f"`select`: cannot keep {int(self.k)} and drop the others of {x.short()}",
                code="E-ATTR",
                attr="k",
                help=f"keep at most {int(x.dims[0]) - 1}",
            )
        frames = next((t.frames for t in present.values()), ())
        kept = replace(x, dims=(self.k, x.channels), frames=frames, batched=bool(present))
        return kept, replace(kept, dims=(x.dims[0] - self.k, x.channels))

    def torch(self, call: Call) -> Torch | str:
        x, score = call.inputs[:2]
        assert x is not None and score is not None
        if call.outputs[0].batched:
            args = f"{spread('x', x, 'score')}, {spread('score', score, 'x')}"
        else:
            args = "{x}, {score}"
        return Torch(f"select({args}, {{k}})", "", {"k": self.k}, ("select",))
