"""Finds a head's parts: features up to the spatial reduction, what follows it, and the layers that make logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from archdsl.backends.torch.axes import FIRST, Orders
from archdsl.backends.torch.classes import Classifier, ModuleClass, fill, lower
from archdsl.backends.torch.forward import Forward
from archdsl.backends.torch.plan import Instance, Step, Unsupported
from archdsl.ir.graph import Value
from archdsl.ops.base import Order, op_of

POOLS = {"gap": "avg", "mean": "avg", "token": "token"}
"""timm's names for the ops that end a feature map or sequence in one vector."""


@dataclass(frozen=True)
class Head:
    """A head's class, the step that reduces over positions, the one from which logits are made, and their layers."""

    cls: ModuleClass
    pool: int
    tail: int
    logits: dict[str, int]
    """Paths of the layers that make logits, and their input widths."""

    @property
    def feature(self) -> Value:
        """What is pooled."""
        value = self.cls.template.steps[self.pool].operands[0]
        assert value is not None
        return value

    @property
    def hidden(self) -> Value:
        """The one value that the layers after `tail` start from."""
        (value,) = _carried(self.cls.template.steps, self.tail)
        return value

    @property
    def pooling(self) -> str:
        step = self.cls.template.steps[self.pool]
        assert step.node is not None
        return POOLS[step.node.op.name]


def find(step: Step | None, classifier: Classifier, outputs: int) -> Head:
    """The head that the model's last step is. Raises Unsupported where it has another form."""
    if step is None or not step.children or step.children[0].region.kind != "head":
        raise Unsupported("the model does not end in a `head { }`, which the timm interface needs")
    if outputs != 1:
        raise Unsupported(
            "the model returns several values, which the timm interface has no place for", step.children[0].region.span
        )
    cls = classifier.of[step.children[0]]
    steps = cls.template.steps
    pool = next((k for k, s in enumerate(steps) if _reduces(s)), None)
    tail = next((k for k, s in enumerate(steps) if any(classifier.makes_logits(t) for t in _inner(s))), None)
    if pool is None or tail is None or tail <= pool:
        raise Unsupported(
            "the head is not features, a reduction over positions and a classifier of width `classes`",
            step.children[0].region.span,
        )
    known = {steps[pool].results[0]}
    for s in steps[pool + 1 :]:
        if any(v not in known for v in s.operands if v is not None and v.type.batched):
            raise Unsupported(
                "the head reduces several values over positions, which a timm head has no place for",
                step.children[0].region.span,
            )
        known.update(s.results)
    tail = next(k for k in range(tail, pool, -1) if len(_carried(steps, k)) == 1)
    prefix = cls.template.path + "."
    logits = {
        t.node.module.removeprefix(prefix): int(t.operands[0].type.channels)
        for s in steps
        for t in _inner(s)
        if t.node is not None and t.operands[0] is not None and classifier.makes_logits(t)
    }
    return Head(cls, pool, tail, logits)


def _carried(steps: Sequence[Step], tail: int) -> list[Value]:
    """The values that the steps from `tail` on take from those before."""
    made = {v for s in steps[:tail] for v in s.results}
    return list(dict.fromkeys(v for s in steps[tail:] for v in s.operands if v is not None and v in made))


def _inner(step: Step) -> Iterator[Step]:
    """A step, or the steps of the instance it calls."""
    if step.node is not None:
        yield step
    for child in step.children:
        for inner in child.steps:
            yield from _inner(inner)


def _reduces(step: Step) -> bool:
    """Whether a step turns all positions, or one chosen token, into a vector."""
    if step.node is None or not step.operands or step.operands[0] is None:
        return False
    ends = step.operands[0].type.kind in ("map", "tokens") and step.results[0].type.kind == "vec"
    return (
        ends
        and (op_of(step.node).order is Order.REDUCES or step.node.op.name == "token")
        and step.node.op.name in POOLS
    )


@dataclass(frozen=True)
class HeadSource:
    """The head's code: its arguments, the statements of `features`, and of `forward` after pooling."""

    arguments: str
    features: list[str]
    pooling: str
    post: list[str]
    tail: list[str]
    helpers: list[str]


def source(head: Head, orders: Orders) -> HeadSource:
    """Writes a head's methods. Maps are [B, H, W, C] inside, whatever order the features came in."""
    cls, steps = head.cls, head.cls.template.steps
    before = Forward(cls, orders)
    names = before.open()
    before.run(0, head.pool)
    features = [*before.lines, f"return {before.operand(head.feature, FIRST)}"]
    after = Forward(cls, orders)
    lowered = lower(steps[head.pool], "last" if head.feature.type.kind == "map" else "")
    pooled = steps[head.pool].results[0]
    after.bind("x", pooled)
    after.order[pooled] = "last"
    after.run(head.pool + 1, head.tail)
    hidden = after.code[head.hidden]
    post = after.lines + ([f"x = {hidden}"] if hidden != "x" else [])
    end = Forward(cls, orders)
    end.bind("x", head.hidden)
    end.order[head.hidden] = "last"
    end.run(head.tail)
    result = end.close()
    tail = end.lines + ([f"x = {result}"] if result != "x" else [])
    helpers = [*before.helpers, *lowered.helpers, *after.helpers, *end.helpers]
    arguments = ", ".join(f"{n}: Tensor" for n in names)
    pooling = fill(lowered.expr, {**cls.codes[head.pool].numbers, "x": "x"})
    return HeadSource(arguments, features, pooling, post, tail, helpers)


__all__ = ["Head", "HeadSource", "Instance", "find", "source"]
