"""Finds a head's parts: features up to the spatial reduction, what follows it, and the layers that make logits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from archdsl.backends.torch.axes import FIRST, Orders
from archdsl.backends.torch.classes import Classifier, ModuleClass, fill, lower
from archdsl.backends.torch.forward import Forward
from archdsl.backends.torch.plan import Instance, Step, Unsupported
from archdsl.ir.graph import Value
from archdsl.ops.base import Order, op_of

POOLS = {"gap": "avg", "mean": "avg", "pool_head": "avg", "token": "token"}
"""timm's names for the ops that end a feature map or sequence in one vector."""


@dataclass(frozen=True)
class Head:
    """A head, the step that reduces over positions, the one from which logits are made, and their layers.

    Its steps are, in this order, those of every mode, those of training alone, those of eval alone, and those that
    make results beside the logits.
    """

    instance: Instance
    pool: int
    tail: int
    trained: range
    settled: range
    aside: range
    logits: dict[str, int]
    """Paths of the layers that make logits, and their input widths."""
    result: Value
    """In every mode, or where there are `results` of training in the others."""
    results: tuple[Value, ...] = ()
    """In training, what is made of the pooled features."""
    beside: tuple[Value, ...] = ()
    """In training, what is returned besides."""

    @property
    def steps(self) -> list[Step]:
        return self.instance.steps

    @property
    def feature(self) -> Value:
        """What is pooled."""
        value = self.steps[self.pool].operands[0]
        assert value is not None
        return value

    @property
    def hidden(self) -> Value:
        """The one value that the layers after `tail` start from."""
        (value,) = _carried(self.steps[: self.settled.stop], self.tail)
        return value

    @property
    def pooling(self) -> str:
        step = self.steps[self.pool]
        assert step.node is not None
        return POOLS[step.node.op.name]


def find(step: Step | None, classifier: Classifier, outputs: Sequence[Value], trained: int) -> Head:
    """The head that the model's last step is. The first `trained` of the outputs are those of training.

    Puts the steps in the order that `Head` states where there are such. Raises Unsupported where it has another form.
    """
    if step is None or not step.children or step.children[0].region.kind != "head":
        raise Unsupported("the model does not end in a `head { }`, which the timm interface needs")
    instance = step.children[0]
    span = instance.region.span
    if len(outputs) - trained != 1:
        raise Unsupported("the model returns several values, which the timm interface has no place for", span)
    if any(v not in instance.outputs for v in outputs):
        raise Unsupported("a result is made outside the head, which the timm interface has no place for", span)
    steps, result = instance.steps, outputs[-1]
    pool = next((k for k in sorted(_needed(steps, [result])) if _reduces(steps[k])), None)
    if pool is None:
        raise Unsupported(_NO_CLASSIFIER, span)
    results = [v for v in outputs[:trained] if pool in _needed(steps, [v])]
    beside = list(outputs[len(results) : trained])
    if trained and not results:
        raise Unsupported("training and eval reduce different values over positions, so there are two heads", span)
    if [*results, *beside] != list(outputs[:trained]):
        raise Unsupported("the first result of training is not made of the features that eval has", span)
    before, aside = _needed(steps, steps[pool].operands[:1]), _needed(steps, beside)
    in_eval, in_training = _needed(steps, [result]), _needed(steps, results or [result])
    after = (in_eval | in_training) - before - {pool}
    pooled = {steps[pool].results[0], *(v for k in after for v in steps[k].results)}
    if any(v not in pooled for k in after for v in steps[k].operands if v is not None and v.type.batched):
        raise Unsupported("the head reduces several values over positions, which a timm head has no place for", span)
    if aside & {*before, pool, *after}:
        raise Unsupported("the classifier and a result beside it share steps of the head", span)
    start = stop = end = len(steps)
    if trained:
        parts = [before, {pool}, after & in_eval & in_training, after - in_eval, after - in_training, aside]
        parts.append({*range(len(steps))}.difference(*parts))  # what nothing reads
        pool, start = len(before), sum(map(len, parts[:3]))
        stop, end = start + len(parts[3]), start + len(parts[3]) + len(parts[4])
        steps[:] = [steps[k] for part in parts for k in sorted(part)]
    makes = (k for k, s in enumerate(steps[:end]) if any(classifier.makes_logits(t) for t in _inner(s)))
    tail = next(makes, -1)
    if tail <= pool:
        raise Unsupported(_NO_CLASSIFIER, span)
    tail = next(k for k in range(min(tail, start), pool, -1) if len(_carried(steps[:end], k)) == 1)
    prefix = instance.path + "."
    logits = {
        t.node.module.removeprefix(prefix): int(t.operands[0].type.channels)
        for s in steps
        for t in _inner(s)
        if classifier.makes_logits(t) and t.node is not None and t.operands[0] is not None
    }
    ranges = range(start, stop), range(stop, end), range(end, end + len(aside))
    return Head(instance, pool, tail, *ranges, logits, result, tuple(results), tuple(beside))


_NO_CLASSIFIER = "the head is not features, a reduction over positions and a classifier of width `classes`"


def _needed(steps: Sequence[Step], values: Collection[Value | None]) -> set[int]:
    """The steps that values are made by."""
    wanted, found = set(values), set[int]()
    for k in range(len(steps) - 1, -1, -1):
        if wanted & set(steps[k].results):
            found.add(k)
            wanted |= set(steps[k].operands)
    return found


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
    """The head's code: its arguments, and the statements of its methods."""

    arguments: str
    features: list[str]
    whole: str
    """What a kernel computes of features where logits are asked for, if there is one."""
    pooling: str
    post: list[str]
    tail: list[str]
    beside: list[str]
    helpers: list[str]


def source(head: Head, cls: ModuleClass, orders: Orders) -> HeadSource:
    """Writes a head's methods. Maps are [B, H, W, C] inside, whatever order the features came in."""
    before = Forward(cls, orders)
    names = before.open()
    before.run(0, head.pool)
    features = [*before.lines, f"return {before.operand(head.feature, FIRST)}"]
    after = Forward(cls, orders)
    of_map = head.feature.type.kind == "map"
    lowered = lower(head.steps[head.pool], "last" if of_map else "")
    pooled = head.steps[head.pool].results[0]
    after.bind("x", pooled)
    after.order[pooled] = "last"
    after.run(head.pool + 1, head.tail)
    hidden = after.code[head.hidden]
    post = after.lines + ([f"x = {hidden}"] if hidden != "x" else [])
    made = tuple(dict.fromkeys([*head.results, head.result]))
    end = Forward(cls, orders, range(head.tail, head.settled.stop), made)
    end.bind("x", head.hidden)
    end.order[head.hidden] = "last"
    end.run(head.tail, head.trained.start)
    tail, written = end.lines, [before, after, end]
    if made != (head.result,):
        branch = end.branched(head.trained, head.results)
        found = ", ".join(f"channels_first({r})" if of_map else r for r in branch.close())
        tail += ["if self.training and self.distilled_training:"]
        tail += [f"    {line}" for line in [*branch.lines, f"return {found}"]]
        end = end.branched(head.settled, (head.result,))
        tail, written = tail + end.lines, [*written, branch, end]
    (result,) = end.close()
    tail += [f"x = {result}"] if result != "x" else []
    aside = Forward(cls, orders, head.aside, head.beside)
    aside.open()
    aside.run(head.aside.start, head.aside.stop)
    beside = [*aside.lines, f"return {', '.join(aside.close())}"] if head.beside else []
    helpers = [*lowered.helpers, *(h for part in [*written, aside] for h in part.helpers)]
    arguments = ", ".join(f"{n}: Tensor" for n in names)
    pooling = fill(lowered.expr, {**cls.codes[head.pool].numbers, "x": "x"})
    return HeadSource(arguments, features, _whole(head), pooling, post, tail, beside, helpers)


def _whole(head: Head) -> str:
    """The call of a kernel that computes pooling, norm and logits, or ""."""
    pooled = head.steps[head.pool].node
    if pooled is None or pooled.op.name != "pool_head":
        return ""
    *norms, last = (f"self.{step.attr}" for step in head.steps[head.pool + 1 :])
    return f"pool_head({', '.join(['x', last, *norms])})"


__all__ = ["Head", "HeadSource", "Instance", "find", "source"]
