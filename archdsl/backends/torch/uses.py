"""Turns instances of one def into one list of steps: those that some instances lack are optional.

An instance that lacks a step goes on with what it has: its first operand as its first result, and for a frame among the
results the latest frame that it has. Other results it does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from archdsl.backends.torch.plan import Instance, Step
from archdsl.ir.graph import Value

Row = list[Step | None]
"""An instance's step for each step of a template, None where it lacks it."""


def merged(instances: Sequence[Instance], key: Callable[[Step], object]) -> tuple[Instance, list[Row]] | None:
    """A template and each instance's row, or None where no one order of steps serves them all.

    `key` is equal for steps that are written alike.
    """
    columns: list[dict[int, Step]] = []
    for i, instance in enumerate(instances):
        union: list[dict[int, Step]] = []
        known = [key(next(iter(column.values()))) for column in columns]
        own = [key(step) for step in instance.steps]
        for kind, a, b, c, d in SequenceMatcher(None, known, own, autojunk=False).get_opcodes():
            if kind == "equal":
                union += [{**column, i: step} for column, step in zip(columns[a:b], instance.steps[c:d], strict=True)]
            else:
                union += [*columns[a:b], *({i: step} for step in instance.steps[c:d])]
        columns = union
    template = _wired(instances, columns)
    rows = [[column.get(i) for column in columns] for i in range(len(instances))]
    return None if template is None else (template, rows)


def passed_by(step: Step, before: Sequence[Value]) -> dict[Value, Value]:
    """By result of a step, the value from before it that an instance without it goes on with."""
    out: dict[Value, Value] = {}
    first = step.operands[0] if step.operands else None
    if step.results and first is not None and first.type.kind == step.results[0].type.kind:
        out[step.results[0]] = first
    for result in step.results:
        frame = next((v for v in reversed(before) if v.type.kind == "frame"), None)
        if result.type.kind == "frame" and frame is not None:
            out[result] = frame
    return out


def _wired(instances: Sequence[Instance], columns: Sequence[dict[int, Step]]) -> Instance | None:
    """The template. Its values are those of the first instance that makes them."""
    first = instances[0]
    known = [v for _, v in first.inputs]
    held = [dict(zip(known, [v for _, v in instance.inputs], strict=True)) for instance in instances]
    """For each instance, what it has in the place of a value of the template."""

    def stand_in(wanted: dict[int, Value | None]) -> Value | None:
        """The template's latest value that stands for all of these."""
        return next((v for v in reversed(known) if all(held[i].get(v) == w for i, w in wanted.items())), None)

    steps: list[Step] = []
    for column in columns:
        model = next(iter(column.values()))
        operands = [
            None if value is None else stand_in({i: step.operands[slot] for i, step in column.items()})
            for slot, value in enumerate(model.operands)
        ]
        if any((a is None) != (b is None) for a, b in zip(operands, model.operands, strict=True)):
            return None
        steps.append(replace(model, operands=operands))
        passed = passed_by(steps[-1], known)
        for i, own in enumerate(held):
            if i in column:
                own.update(zip(model.results, column[i].results, strict=True))
            else:
                own.update({result: own[value] for result, value in passed.items() if value in own})
        known += model.results
    outputs = [stand_in({i: other.outputs[o] for i, other in enumerate(instances)}) for o in range(len(first.outputs))]
    if any(v is None for v in outputs):
        return None
    return replace(first, steps=steps, outputs=[v for v in outputs if v is not None])
