"""Groups instances into classes: what is written alike becomes one class, what differs its constructor's arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from archdsl.backends.torch.fit import MISSING, Column, Number, Rule, Symbol, constant, literal, relate, sequence
from archdsl.backends.torch.plan import Instance, Step, Unsupported
from archdsl.ir.graph import Graph, Static, Value
from archdsl.ops.base import Call, Torch, op_of
from archdsl.ops.drop_path import DropRate

SYMBOLS = {"drop_path_rate": "float", "in_chans": "int", "num_classes": "int"}
"""Arguments of the model that classes pass through where their parts need them, and their types."""

Ref = tuple[str, int, int]
"""A local value: ("in", i, 0) or ("step", index, result)."""


@dataclass(eq=False)
class ModuleClass:
    """A class to be written.

    `template` is its fullest instance; `rows[i][k]` is instance i's step for template step k, None where it lacks one.
    """

    name: str
    template: Instance
    instances: list[Instance]
    rows: list[list[Step | None]]
    children: list[ModuleClass | None] = field(default_factory=list)
    """For each template step, the class its call or loop constructs (None for ops and mixed loops)."""
    args: dict[str, Column] = field(default_factory=dict)
    flags: dict[str, Column] = field(default_factory=dict)
    """Boolean arguments: whether an optional group of steps is there."""
    symbols: set[str] = field(default_factory=set)
    """Arguments that only pass through: drop_path_rate."""
    codes: list[StepCode] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    """For each template step, the flag it depends on, or ""."""

    def values(self, instance: Instance) -> dict[str, Number]:
        i = self.instances.index(instance)
        return {name: column[i] for name, column in {**self.args, **self.flags}.items()}


@dataclass(frozen=True)
class StepCode:
    """Source of one step's construction ("" if it owns no module), and of its numbers for the expression."""

    construct: str
    numbers: Mapping[str, str]


class Classifier:
    """Assigns a class to every instance of a plan, children first."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.classes: list[ModuleClass] = []
        self.of: dict[Instance, ModuleClass] = {}
        self.by_key: dict[object, ModuleClass] = {}
        self.names: dict[str, int] = {}

    def classify(self, root: Instance) -> None:
        """Fills `classes`, in the order they must be defined."""
        for step in root.steps:
            self.children(step)

        def define(cls: ModuleClass) -> None:
            if cls in self.classes:
                return
            for row in cls.rows:
                for step in row:
                    for child in step.children if step is not None else ():
                        define(self.of[child])
            self.parametrise(cls)
            self.classes.append(cls)

        for step in root.steps:
            for child in step.children:
                define(self.of[child])

    def children(self, step: Step) -> None:
        for child in step.children:
            for inner in child.steps:
                self.children(inner)
        if step.loop:
            groups: dict[object, list[Instance]] = {}
            for child in step.children:
                groups.setdefault(self.key(child), []).append(child)
            if len(groups) > 1 and self.merge(step.children):
                return
        for child in step.children:
            self.join(child)

    def join(self, instance: Instance) -> None:
        key = self.key(instance)
        cls = self.by_key.get(key)
        if cls is None:
            cls = self.by_key[key] = ModuleClass(self.class_name(instance), instance, [], [])
        self.add(cls, instance, list(instance.steps))

    def add(self, cls: ModuleClass, instance: Instance, row: list[Step | None]) -> None:
        cls.instances.append(instance)
        cls.rows.append(row)
        self.of[instance] = cls

    def class_name(self, instance: Instance) -> str:
        stem = instance.name
        base = "".join(part[:1].upper() + part[1:] for part in stem.split("_") if part) or "Block"
        if instance.region.kind == "blocks" and instance.name == "blocks":
            base = "Block"
        n = self.names[base] = self.names.get(base, 0) + 1
        return base if n == 1 else f"{base}{n}"

    # -- keys --------------------------------------------------------------------------------------

    def key(self, instance: Instance) -> object:
        refs = local_refs(instance)
        kinds = tuple(_kind(v) for _, v in instance.inputs)
        steps = tuple(self.step_key(s, refs) for s in instance.steps)
        outputs = tuple(refs[v] for v in instance.outputs)
        span = str(instance.region.span) if instance.region.kind != "call" else ""
        return instance.name, _definition(self.graph, instance), span, kinds, steps, outputs

    def step_key(self, step: Step, refs: Mapping[Value, Ref]) -> object:
        operands = tuple(None if v is None else refs[v] for v in step.operands)
        return (*self.code_key(step), operands, len(step.results))

    def code_key(self, step: Step) -> tuple[object, ...]:
        if step.node is not None:
            lowered = lower(step)
            kinds = tuple(None if v is None else _kind(v) for v in step.operands)
            return "op", step.attr, lowered.expr, lowered.module, tuple(lowered.numbers), kinds
        classes = tuple(id(self.of[c]) for c in step.children)
        if step.loop and len(set(classes)) == 1:
            return "loop", step.attr, classes[0], step.carried
        return "loop" if step.loop else "call", step.attr, classes, step.carried

    # -- optional steps ------------------------------------------------------------------------------

    def merge(self, siblings: list[Instance]) -> bool:
        """One class for the iterations of a loop, some of which lack steps that pass one value on."""
        template = max(siblings, key=lambda i: len(i.steps))
        rows = [self.align(template, s) for s in siblings]
        if any(r is None for r in rows):
            return False
        cls = ModuleClass(self.class_name(template), template, [], [])
        for sibling, row in zip(siblings, rows, strict=True):
            assert row is not None
            self.add(cls, sibling, row)
        return True

    def align(self, template: Instance, short: Instance) -> list[Step | None] | None:
        """For each template step the short instance's, or None; None if it is not the template with steps left out."""
        if [_kind(v) for _, v in template.inputs] != [_kind(v) for _, v in short.inputs]:
            return None
        stand_in: dict[Value, Value] = {v: w for (_, v), (_, w) in zip(template.inputs, short.inputs, strict=True)}
        row: list[Step | None] = []
        at = 0
        for step in template.steps:
            other = short.steps[at] if at < len(short.steps) else None
            operands = [None if v is None else stand_in.get(v) for v in step.operands]
            if other is not None and self.code_key(step) == self.code_key(other) and operands == other.operands:
                row.append(other)
                stand_in.update(zip(step.results, other.results, strict=True))
                at += 1
                continue
            first = step.operands[0] if step.operands else None
            present = [v for v in step.operands if v is not None]
            if first is None or len(step.results) != 1 or len(present) != 1 or first not in stand_in:
                return None
            row.append(None)
            stand_in[step.results[0]] = stand_in[first]
        if at != len(short.steps):
            return None
        if [stand_in.get(v) for v in template.outputs] != list(short.outputs):
            return None
        return row

    # -- arguments -----------------------------------------------------------------------------------

    def parametrise(self, cls: ModuleClass) -> None:
        basis = self.basis(cls)
        cls.optional = self.flag(cls)
        for k, step in enumerate(cls.template.steps):
            steps = [row[k] for row in cls.rows]
            if step.node is not None:
                cls.codes.append(self.op_code(cls, steps, basis, step.attr))
            else:
                cls.codes.append(self.call_code(cls, steps, basis, step))
        rank = {"dim_in": 0, "dim": 1, "drop_path": 9}
        cls.args = dict(sorted(cls.args.items(), key=lambda item: rank.get(item[0], 5)))

    def basis(self, cls: ModuleClass) -> dict[str, Column]:
        """Columns that numbers may be expressed by: widths in and out, then the def's own parameters."""
        out: dict[str, Column] = {}
        first = cls.template
        widths_in = _widths(cls, lambda i: [v for _, v in i.inputs])
        widths_out = _widths(cls, lambda i: i.outputs)
        if widths_in and widths_out and widths_in != widths_out:
            out["dim_in"], out["dim"] = widths_in, widths_out
        elif widths_in or widths_out:
            out["dim"] = widths_in or widths_out or ()
        names = [n for n, _ in _statics(self.graph, first)]
        for name in names:
            values = [dict(_statics(self.graph, i)).get(name) for i in cls.instances]
            column = tuple(v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool))
            if len(column) == len(values) and name not in out:
                out[name] = column
        return {n: c for n, c in out.items() if constant(c) is MISSING}

    def flag(self, cls: ModuleClass) -> list[str]:
        out = []
        for k, step in enumerate(cls.template.steps):
            present = tuple(row[k] is not None for row in cls.rows)
            if all(present):
                out.append("")
                continue
            name = next((n for n, c in cls.flags.items() if c == present and out and out[-1] == n), "")
            if not name:
                last = k
                while last + 1 < len(cls.template.steps) and present == tuple(
                    r[last + 1] is not None for r in cls.rows
                ):
                    last += 1
                name = _identifier(cls.template.steps[last].attr or step.attr)
                cls.flags[name] = present
            out.append(name)
        return out

    def op_code(self, cls: ModuleClass, steps: list[Step | None], basis: dict[str, Column], attr: str) -> StepCode:
        lowered = [None if s is None else lower(s) for s in steps]
        template = next(t for t in lowered if t is not None)
        numbers = {}
        for name in template.numbers:
            column = tuple(
                MISSING
                if s is None or t is None
                else Symbol("in_chans")
                if name == "c_in" and self.reads_image(s)
                else Symbol("num_classes")
                if name == "c_out" and self.makes_logits(s)
                else t.numbers[name]
                for s, t in zip(steps, lowered, strict=True)
            )
            read = "{" + name + "}" in template.expr
            numbers[name] = self.number(cls, name, column, basis, attr, read)
        construct = fill(template.module, numbers)
        if any(s is not None and self.makes_logits(s) for s in steps):
            construct = construct.replace("nn.Linear(", "classifier(")
        return StepCode(construct, numbers)

    def makes_logits(self, step: Step) -> bool:
        """Whether a step is a classifier: a linear of the head whose width is `classes`."""
        node = step.node
        if node is None or node.op.name != "linear":
            return False
        wide = node.outputs[0].channels == self.graph.statics.get("classes")
        return wide and any(r.kind == "head" for r in self.graph.region_chain(node.region))

    def reads_image(self, step: Step) -> bool:
        """Whether a weight's input channels are the image's: it reads the input, resized or cut perhaps."""
        value = step.operands[0] if step.operands else None
        while value is not None:
            node = self.graph.node(value.node)
            if node.op.name == "input":
                return True
            if node.op.name not in ("resize", "windows", "pad", "avg_pool", "identity"):
                return False
            value = next(iter(self.graph.operands(node)), None)
        return False

    def call_code(self, cls: ModuleClass, steps: list[Step | None], basis: dict[str, Column], step: Step) -> StepCode:
        present = [s for s in steps if s is not None]
        classes = {self.of[c] for s in present for c in s.children}
        for c in classes:
            cls.symbols |= c.symbols
        if not step.loop:
            (child,) = classes
            values = [None if s is None else child.values(s.children[0]) for s in steps]
            codes = {}
            for name in {**child.args, **child.flags}:
                column = tuple(MISSING if v is None else v[name] for v in values)
                codes[name] = self.number(cls, name, column, basis, step.attr)
            return StepCode(construct(child, codes), {})
        if len(classes) > 1 or (len(cls.instances) == 1 and step.children[0].region.kind == "stage"):
            return self.listed(cls, steps, basis, step)
        (child,) = classes
        table = [[child.values(c) for c in s.children] if s is not None else [] for s in steps]
        codes = {}
        for name in {**child.args, **child.flags}:
            rows = [[v[name] for v in row] for row in table]
            rule = sequence(rows)
            codes[name] = self.rule(cls, name, rule, rows, basis, step.attr)
        depths = tuple(MISSING if s is None else len(s.children) for s in steps)
        depth = self.number(cls, "depth", depths, basis, step.attr)
        if depth == "1" and not any(re.search(r"\bj\b", c) for c in codes.values()):
            return StepCode(f"nn.ModuleList([{construct(child, codes)}])", {})
        return StepCode(f"nn.ModuleList({construct(child, codes)} for j in range({depth}))", {})

    def listed(self, cls: ModuleClass, steps: list[Step | None], basis: dict[str, Column], step: Step) -> StepCode:
        """A list of blocks written out one by one: of several classes, or the model's own stages."""
        present = [s for s in steps if s is not None]
        shapes = {tuple(self.of[c] for c in s.children) for s in present}
        if len(shapes) > 1:
            raise Unsupported(f"`{cls.name}` stands for lists of different blocks")
        items = []
        for position, child in enumerate(next(iter(shapes))):
            values = [None if s is None else child.values(s.children[position]) for s in steps]
            codes = {}
            for name in {**child.args, **child.flags}:
                column = tuple(MISSING if v is None else v[name] for v in values)
                codes[name] = self.number(cls, name, column, basis, f"{step.attr}{position}")
            items.append(construct(child, codes))
        return StepCode("nn.ModuleList([" + ", ".join(items) + "])", {})

    def use_symbols(self, cls: ModuleClass, codes: Sequence[str]) -> None:
        for symbol in SYMBOLS:
            if any(re.search(rf"\b{symbol}\b", c) for c in codes):
                cls.symbols.add(symbol)

    def rule(
        self,
        cls: ModuleClass,
        name: str,
        rule: Rule,
        rows: Sequence[Sequence[Number]],
        basis: dict[str, Column],
        attr: str,
    ) -> str:
        if rule.kind == "constant":
            return self.number(cls, name, rule.coefficients[0], basis, attr)
        if rule.kind == "affine":
            codes = [self.number(cls, "first", rule.coefficients[0], basis, attr)]
        elif rule.kind == "table":
            codes = [self.number(cls, f"{name}s", rule.coefficients[0], basis, attr)]
        else:
            sides = ("even", "odd") if rule.kind == "periodic" else ("first", "rest")
            names = [
                name if constant(c) is MISSING else f"{name}_{side}"
                for c, side in zip(rule.coefficients, sides, strict=True)
            ]
            if len(set(names)) < 2:
                names = [f"{name}_{side}" for side in sides]
            codes = [self.number(cls, n, c, basis, attr) for n, c in zip(names, rule.coefficients, strict=True)]
        out = rule.source(codes, rows)
        self.use_symbols(cls, [out])
        return out

    def number(
        self, cls: ModuleClass, name: str, column: Column, basis: dict[str, Column], attr: str, read: bool = False
    ) -> str:
        """Source for one column: a literal, an expression of the basis, or a new argument.

        `read`: the forward reads it from self, so its name must differ from those of submodules.
        """
        only = constant(column)
        if only is not MISSING:
            code = literal(only)
            self.use_symbols(cls, [code])
            return code
        if all(v is MISSING for v in column):
            return "None"
        related = relate(name, column, basis)
        if related is not None:
            used = next(p for p in basis if p in related.replace("*", " ").replace("//", " ").split())
            cls.args.setdefault(used, basis[used])
            return related
        if any(isinstance(v, DropRate) for v in column):
            name = "drop_path"
        for known, values in cls.args.items():
            if values == column and (known == name or known.endswith("_" + name)):
                return known
        taken = {*cls.args, *cls.flags, *basis, "j"}
        if read:
            taken |= {s.attr for s in cls.template.steps}
        fresh = name if name not in taken else f"{_identifier(attr)}_{name}"
        n = 2
        while fresh in taken:
            fresh = f"{_identifier(attr)}_{name}{n}"
            n += 1
        cls.args[fresh] = tuple(v if v is not MISSING else _filler(column) for v in column)
        return fresh


def _filler(column: Column) -> Number:
    """A value for instances that never use it: any present one of the same type."""
    return next(v for v in column if v is not MISSING)


def construct(cls: ModuleClass, codes: Mapping[str, str]) -> str:
    """Source that constructs an instance: widths by position, all else by name."""
    parts: list[str] = []
    for name in cls.args:
        by_position = name in ("dim", "dim_in") and all("=" not in p for p in parts)
        parts.append(codes[name] if by_position else f"{name}={codes[name]}")
    parts += [f"{name}={codes[name]}" for name in cls.flags]
    parts += [f"{s}={s}" for s in sorted(cls.symbols)]
    return f"{cls.name}({', '.join(parts)})"


def lower(step: Step, axes: str = "") -> Torch:
    """An op step's PyTorch, in the op's preferred axis order unless one is given. Raises Unsupported."""
    if axes not in step.lowered:
        assert step.node is not None
        op = op_of(step.node)
        types = tuple(None if v is None else v.type for v in step.operands)
        lowered = op.torch(Call(types, tuple(v.type for v in step.results), axes or op.axes[0]))
        if isinstance(lowered, str):
            raise Unsupported(lowered, step.node.span)
        step.lowered[axes] = lowered
    return step.lowered[axes]


def listings(cls: ModuleClass) -> dict[str, bool]:
    """Names of modules kept in a list (made in a loop): True where they are numbered 0, 1, ... without gaps."""
    found: dict[str, list[str]] = {}
    for k, step in enumerate(cls.template.steps):
        head, _, rest = step.attr.partition(".")
        if rest and cls.codes[k].construct:
            found.setdefault(head, []).append(rest)
    return {head: rests == [str(i) for i in range(len(rests))] for head, rests in found.items()}


def fill(template: str, holes: Mapping[str, str]) -> str:
    """`template` with every {name} of `holes` replaced; other braces stay."""
    for name, code in holes.items():
        template = template.replace("{" + name + "}", code)
    return template


def local_refs(instance: Instance) -> dict[Value, Ref]:
    refs: dict[Value, Ref] = {v: ("in", i, 0) for i, (_, v) in enumerate(instance.inputs)}
    for k, step in enumerate(instance.steps):
        for r, value in enumerate(step.results):
            refs[value] = ("step", k, r)
    return refs


def _kind(value: Value) -> tuple[object, ...]:
    t = value.type
    return t.kind, t.batched, tuple(f.kind for f in t.frames)


def _definition(graph: Graph, instance: Instance) -> str:
    return instance.name if instance.region.kind == "call" else ""


def _statics(graph: Graph, instance: Instance) -> Sequence[tuple[str, Static]]:
    region = instance.region
    if region.kind != "call":
        inner = next(
            (
                r
                for r in graph.regions[region.id + 1 :]
                if r.parent == region.id and not r.segment and r.name == instance.name
            ),
            None,
        )
        return inner.statics if inner is not None else ()
    return region.statics


def _widths(cls: ModuleClass, pick: Callable[[Instance], list[Value]]) -> Column | None:
    out = []
    for instance in cls.instances:
        values = [v for v in pick(instance) if v.type.kind in ("map", "tokens", "vec")]
        if not values:
            return None
        out.append(int(values[0].type.channels))
    return tuple(out)


def _identifier(attr: str) -> str:
    return attr.replace(".", "_")
