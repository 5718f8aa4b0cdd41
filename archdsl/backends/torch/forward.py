"""Writes a class's forward: statements in order, short ones folded into their reader, names as in the spec."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from archdsl.backends.torch.axes import FIRST, Orders, optional_groups, passed_on
from archdsl.backends.torch.classes import ModuleClass, Ref, StepCode, fill, listings, local_refs, lower, python_name
from archdsl.backends.torch.plan import Step
from archdsl.ir.graph import Value
from archdsl.ops.base import op_of

_SAME = re.compile(r"\s*(\w+) = \1")
"""What computes nothing: an identity that some instances lack."""
FOLDED = 64
"""Longest expression that is written inside its reader."""
SPARE = ("y", "z", "u", "w", "t", "s", "r")
TO_FIRST, TO_LAST = ".permute(0, 3, 1, 2)", ".permute(0, 2, 3, 1)"


@dataclass
class Forward:
    """The body of one forward. `lines` come out unindented; nested lines carry their own indent."""

    cls: ModuleClass
    orders: Orders
    within: range | None = None
    """The steps whose reading counts, where others are not run after these."""
    results: Sequence[Value] | None = None
    """What is returned, where not all the results of the class are."""
    refs: dict[Value, Ref] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    code: dict[Value, str] = field(default_factory=dict)
    """Source of each live value: a variable, or an expression still to be folded."""
    order: dict[Value, str] = field(default_factory=dict)
    variables: dict[str, Value] = field(default_factory=dict)
    helpers: list[str] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    """Arguments of the constructor that the forward reads from self."""
    targets: dict[str, tuple[Value, int]] = field(default_factory=dict)
    """Variables that an optional run of steps sets when it ends: to what, and its last step."""
    branch: tuple[int, int] = (-1, -1)
    """The last step of the latest `if`, and how many lines there were after it."""
    shortest: int = 2
    """The fewest calls of blocks, written out by the plan, that a loop over part of their list stands for."""

    def __post_init__(self) -> None:
        self.refs = local_refs(self.cls.template)
        self.readers: dict[Value, list[int]] = {}
        steps = self.cls.template.steps
        within = range(len(steps)) if self.within is None else self.within
        self.end = within.stop
        """What stands for a step that reads what is returned."""
        for k in within:
            for value in steps[k].operands:
                if value is not None:
                    self.readers.setdefault(value, []).append(k)
        for value in self.cls.template.outputs if self.results is None else self.results:
            self.readers.setdefault(value, []).append(self.end)
        self.groups = dict(optional_groups(self.cls))

    # -- inputs ------------------------------------------------------------------------------------

    def open(self) -> list[str]:
        """Names of the inputs, which become variables."""
        names = []
        for i, (wanted, value) in enumerate(self.cls.template.inputs):
            name = python_name(wanted)
            n = 2
            while name in names:
                name, n = f"{python_name(wanted)}{n}", n + 1
            names.append(name)
            self.bind(name, value)
            self.order[value] = self.orders.of((id(self.cls), "in", i))
        return names

    def bind(self, name: str, value: Value) -> None:
        self.variables[name] = value
        self.code[value] = name

    # -- statements ----------------------------------------------------------------------------------

    def run(self, start: int = 0, stop: int | None = None) -> None:
        """Writes the steps in [start, stop)."""
        steps = self.cls.template.steps
        k = start
        while k < (len(steps) if stop is None else stop):
            if k in self.groups:
                self.optional(k, self.groups[k])
                k = self.groups[k] + 1
                continue
            if (part := self.part(k)) is not None:
                self.loop(k, part)
                k += len(part.children)
                continue
            self.step(k)
            k += 1

    def part(self, k: int) -> Step | None:
        """The loop over part of a list that the calls of its blocks from step k on come to, if they do to one."""
        steps, last = self.cls.template.steps, k
        name, _, first = steps[k].attr.partition(".")
        if not self.called_alike(k) or not listings(self.cls).get(name):
            return None
        while last + 1 < len(steps) and steps[last + 1].attr == f"{name}.{int(first) + last + 1 - k}":
            here, after = steps[last], steps[last + 1]
            fed = [*here.results, *here.operands[len(here.results) :]]
            one = (
                self.called_alike(last + 1)
                and self.orders.owner[here.children[0]] is self.orders.owner[after.children[0]]
            )
            if not one or after.operands != fed or any(self.readers.get(v) != [last + 1] for v in here.results):
                break
            last += 1
        if last + 1 - k < self.shortest:
            return None
        children = [step.children[0] for step in steps[k : last + 1]]
        attr = f"{name}[{first.lstrip('0')}:{int(first) + len(children)}]"
        return Step(steps[last].results, steps[k].operands, None, children, True, len(steps[k].results), attr)

    def called_alike(self, k: int) -> bool:
        """Whether step k calls a block, unconditionally and so that it may stand in a loop: maps come as they go."""
        step = self.cls.template.steps[k]
        if step.loop or not step.children or step.children[0].region.kind != "blocks":
            return False
        if self.cls.optional[k] or self.cls.made[k] or self.cls.codes[k].numbers:
            return False
        owner = id(self.orders.owner[step.children[0]])
        return 0 < len(step.results) <= len(step.operands) and all(
            self.orders.of((owner, "in", i)) == self.orders.of((owner, "out", i))
            for i, value in enumerate(step.results)
            if value.type.kind == "map"
        )

    def step(self, k: int) -> None:
        step = self.cls.template.steps[k]
        if step.loop:
            self.loop(k, step)
            return
        source = self.expression(k, step)
        for r, value in enumerate(step.results):
            self.order[value] = self.orders.of(self.orders.source(self.cls, ("step", k, r)))
        if self.folds(k, step, source):
            self.code[step.results[0]] = source
            return
        names = self.names(k, step)
        self.lines.append(f"{', '.join(names)} = {source}" if names else source)

    def expression(self, k: int, step: Step) -> str:
        if step.node is None:
            target = (id(self.orders.owner[step.children[0]]), "in")
            operands = [
                self.operand(v, self.orders.of((*target, i))) for i, v in enumerate(step.operands) if v is not None
            ]
            given = self.cls.codes[k].numbers
            operands += [f"{name}={code}" for name, code in self.numbers(k, list(given)).items()]
            if not _is_block(step):
                return f"{self.access(step.attr)}({', '.join(operands)})"
            self.helpers.append("checkpoint_if")
            return f"checkpoint_if({', '.join(['self.grad_checkpointing', self.access(step.attr), *operands])})"
        axes = self.orders.of((id(self.cls), "op", k))
        if axes not in op_of(step.node).axes:
            axes = op_of(step.node).axes[0]
        lowered = lower(step, axes)
        self.helpers += [h for h in lowered.helpers if h not in self.helpers]
        holes = dict(self.numbers(k, [n for n in lowered.numbers if "{" + n + "}" in lowered.expr]))
        if "{self}" in lowered.expr:  # an op without weights in a loop is in no list of modules
            holes["self"] = self.access(step.attr)
        ports = op_of(step.node).ports
        for slot, port in enumerate(ports):
            if port.startswith("*"):
                rest = [self.operand(v, axes) for v in step.operands[slot:] if v is not None]
                holes[port[1:]] = ", ".join(rest)
            elif slot < len(step.operands) and step.operands[slot] is not None:
                text = self.operand(step.operands[slot], axes)
                name = port.rstrip("?")
                alone = lowered.expr == "{" + name + "}" or re.search(r"[(,] ?\{" + name + r"\}[,)]", lowered.expr)
                holes[name] = text if alone or _atomic(text) else f"({text})"
        return fill(lowered.expr, holes)

    def access(self, attr: str) -> str:
        """self.qkv, self.pws[0], or self.e1["4"] where the list has gaps; loops in loops make lists of lists."""
        path, *rest = attr.split(".")
        text, numbered = f"self.{path}", listings(self.cls) if rest else {}
        for part in rest:
            text += f"[{part}]" if numbered[path] else f'["{part}"]'
            path += f".{part}"
        return text

    def numbers(self, k: int, present: Sequence[str]) -> Mapping[str, str]:
        """Source of the numbers an expression mentions: literals, or attributes that the constructor keeps."""
        codes: StepCode = self.cls.codes[k]
        out = {}
        for name in present:
            code = codes.numbers[name]
            for argument in {**self.cls.args, **self.cls.flags}:
                if argument not in self.cls.per_use and re.search(rf"\b{argument}\b", code):
                    self.kept.add(argument)
                    code = re.sub(rf"\b{argument}\b", f"self.{argument}", code)
            out[name] = code
        return out

    def operand(self, value: Value | None, wanted: str) -> str:
        assert value is not None
        text = self.code[value]
        if value.type.kind != "map" or not value.type.batched or self.order[value] == wanted:
            return text
        turned = TO_FIRST if wanted == FIRST else TO_LAST
        return (text if _atomic(text) else f"({text})") + turned

    def folds(self, k: int, step: Step, source: str) -> bool:
        """Whether the result is written inside the one step that reads it, right after this one."""
        if len(step.results) != 1 or len(source) > FOLDED or _is_block(step):
            return False
        value = step.results[0]
        readers = self.readers.get(value, [])
        given = step.node is None and self.cls.codes[k].numbers
        if len(readers) != 1 or (self.hint(step, 0) and (given or readers[0] != k + 1)):
            return False
        if any(
            k < first <= readers[0] <= last or (first <= k < readers[0] and k <= last < readers[0])
            for first, last in self.groups.items()
        ):
            return False
        if readers[0] < self.end and self.cls.template.steps[readers[0]].loop:
            return False
        return all(self.folded_at(m, readers[0]) for m in range(k + 1, readers[0])) and not self.mentions_twice(
            value, readers[0]
        )

    def folded_at(self, m: int, reader: int) -> bool:
        """Whether step m is itself read only by `reader` (so that order of evaluation is kept)."""
        step = self.cls.template.steps[m]
        return len(step.results) == 1 and self.readers.get(step.results[0], []) == [reader] and not step.loop

    def mentions_twice(self, value: Value, reader: int) -> bool:
        steps = self.cls.template.steps
        if reader >= self.end or steps[reader].node is None:
            return False
        step = steps[reader]
        assert step.node is not None
        lowered = lower(step)
        slot = step.operands.index(value)
        ports = op_of(step.node).ports
        port = ports[min(slot, len(ports) - 1)].strip("?*")
        return lowered.expr.count("{" + port + "}") > 1

    def hint(self, step: Step, r: int) -> str:
        """The spec's name for a result, "" where it gave none."""
        value = step.results[r]
        if step.node is not None:
            return step.node.names[r] if step.node.names else ""
        return self.orders.given.get(value, "")

    def names(self, k: int, step: Step) -> list[str]:
        out: list[str] = []
        for r, value in enumerate(step.results):
            wanted = [self.hint(step, r)]
            if value.type.kind == "frame":
                wanted.append("frame")
            tensors = [v for v in step.operands if v is not None and v.type.kind != "frame"]
            if len(tensors) == 1 and self.code[tensors[0]].isidentifier():
                wanted.append(self.code[tensors[0]])
            wanted += ["x", *SPARE]
            taken = {*out, *(n for n, (leave, last) in self.targets.items() if self.outlives(value, leave, last))}
            wanted += [f"v{i}" for i in range(99)]
            free = next(n for n in wanted if n and self.free(n, k) and n not in taken)
            out.append(python_name(free))
        for name, value in zip(out, step.results, strict=True):
            self.bind(name, value)
        return out

    def outlives(self, value: Value, leave: Value, last: int) -> bool:
        """Whether a value is still read when an optional run of steps, which ends in `last`, has set `leave`."""
        return value != leave and any(r > last for r in self.readers.get(value, ()))

    def free(self, name: str, k: int) -> bool:
        """Whether a variable may be assigned at step k: nothing it holds is read later."""
        if name in self.cls.per_use:
            return False
        held = self.variables.get(name)
        if held is not None and any(r > k for r in self.readers.get(held, ())):
            return False
        word = re.compile(rf"\b{re.escape(name)}\b")
        for value, text in self.code.items():
            if text.isidentifier() or not any(r > k for r in self.readers.get(value, ())):
                continue
            if word.search(text):
                return False
        return True

    def loop(self, k: int, step: Step) -> None:
        target = (id(self.orders.owner[step.children[0]]), "in")
        arguments: list[str] = []
        for i, value in enumerate(step.operands):
            assert value is not None
            text = self.operand(value, self.orders.of((*target, i)))
            if i >= step.carried:
                arguments.append(text)
                continue
            name = self.code[value]
            if not name.isidentifier() or any(r > k for r in self.readers[value]):
                wanted = [self.orders.given.get(step.results[i], ""), "x", *SPARE]
                name = next(n for n in wanted if n and self.free(n, k) and n not in arguments)
            if text != name:
                self.lines.append(f"{name} = {text}")
            self.variables[name] = step.results[i]
            arguments.append(name)
        item = "stage" if step.attr == "stages" else "block"
        results = ", ".join(arguments[: step.carried])
        call = ", ".join(arguments)
        self.lines.append(f"for {item} in self.{step.attr}:")
        once = f"{item}({call})"
        if item == "block":
            once = f"checkpoint({item}, {call}, use_reentrant=False) if self.grad_checkpointing else {once}"
        self.lines.append(f"    {results} = {once}" if results else f"    {once}")
        for r, value in enumerate(step.results):
            self.bind(arguments[r], value)
            self.order[value] = self.orders.of(self.orders.source(self.cls, ("step", k, r)))

    def optional(self, first: int, last: int) -> None:
        """A run of steps that some instances lack: the variables it starts from are those it ends in."""
        names: dict[Value, str] = {}
        for entry, leave in passed_on(self.cls, first, last):
            name = self.code[entry]
            if not name.isidentifier() or name in names.values() or any(r > last for r in self.readers[entry]):
                wanted = [self.orders.given.get(leave, ""), "x", *SPARE]
                fresh = next(n for n in wanted if n and self.free(n, first - 1) and n not in names.values())
                self.lines.append(f"{fresh} = {name}")
                if not name.isidentifier():
                    self.bind(fresh, entry)
                name = fresh
            names[leave] = name
        keep, self.lines = self.lines, []
        self.targets = {name: (leave, last) for leave, name in names.items()}
        for k in range(first, last + 1):
            self.step(k)
        self.targets = {}
        new = {name: self.code[leave] for leave, name in names.items() if self.code[leave] != name}
        if len(new) == 1 and self.lines and self.lines[-1].startswith(f"{next(iter(new.values()))} = "):
            name, source = next(iter(new.items()))
            self.lines[-1] = f"{name} = " + self.lines[-1].removeprefix(f"{source} = ")
        elif new:
            self.lines.append(f"{', '.join(new)} = {', '.join(new.values())}")
        body, self.lines = self.lines, keep
        if not all(_SAME.fullmatch(line) for line in body):
            otherwise = self.branch == (first - 1, len(keep)) and _negation(self.cls.optional[first - 1])
            header = "else:" if otherwise == self.cls.optional[first] else f"if {self.condition(first, last)}:"
            self.lines += [header, *(f"    {line}" for line in body)]
            self.branch = last, len(self.lines)
        for leave, name in names.items():
            self.bind(name, leave)

    def condition(self, first: int, last: int) -> str:
        """When an optional run of steps is run: where an argument says so, or where its module is there."""
        flag = self.cls.optional[first]
        if flag.removeprefix("not ") in self.cls.per_use:
            return flag
        module = next((k for k in range(last, first - 1, -1) if self.cls.made[k] == flag), None)
        if module is not None:
            return f"{self.access(self.cls.template.steps[module].attr)} is not None"
        self.kept.add(flag)
        return f"self.{flag}"

    def close(self) -> list[str]:
        """What the return statement has."""
        outputs = self.cls.template.outputs
        wanted = outputs if self.results is None else self.results
        return [self.operand(v, self.orders.of((id(self.cls), "out", outputs.index(v)))) for v in wanted]

    def branched(self, within: range, results: Sequence[Value]) -> Forward:
        """A forward that goes on from here with other steps, to other results. Runs them."""
        out = Forward(self.cls, self.orders, within, results)
        out.code, out.order, out.variables = dict(self.code), dict(self.order), dict(self.variables)
        out.run(within.start, within.stop)
        return out


def _is_block(step: Step) -> bool:
    return bool(step.children) and step.children[0].region.kind == "blocks"


def _negation(condition: str) -> str:
    return condition.removeprefix("not ") if condition.startswith("not ") else f"not {condition}"


def _atomic(text: str) -> bool:
    """Whether source can be followed by an index or a method without parentheses."""
    depth = 0
    for c in text:
        if c in "([":
            depth += 1
        elif c in ")]":
            depth -= 1
        elif depth == 0 and not (c.isalnum() or c in "_."):
            return False
    return not text[:1].isdigit()
