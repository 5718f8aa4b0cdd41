"""Groups instances into classes: what is written alike becomes one class, what differs its constructor's arguments."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from archdsl.backends.torch.fit import (
    CHANNELS,
    MISSING,
    Column,
    Number,
    Rule,
    Symbol,
    constant,
    literal,
    relate,
    sequence,
)
from archdsl.backends.torch.plan import Instance, Step, Unsupported
from archdsl.backends.torch.uses import Row, merged
from archdsl.ir.graph import Graph, Static, Value
from archdsl.ops.base import Call, Torch, op_of
from archdsl.ops.drop_path import DropRate
from archdsl.ops.held_conv import HeldConv

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
    rows: list[Row]
    args: dict[str, Column] = field(default_factory=dict)
    flags: dict[str, Column] = field(default_factory=dict)
    """Boolean arguments: whether an optional group of steps is there."""
    per_use: set[str] = field(default_factory=set)
    """Names of `args` and `flags` that differ between uses of one module: arguments of forward."""
    symbols: set[str] = field(default_factory=set)
    """Arguments that only pass through: drop_path_rate."""
    codes: list[StepCode] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    """For each template step, the flag it depends on, or ""; of a flag of forward the condition, `not shift`."""
    made: list[str] = field(default_factory=list)
    """For each template step, the flag on which its module is there, or ""."""

    def values(self, instance: Instance) -> dict[str, Number]:
        i = self.instances.index(instance)
        return {name: column[i] for name, column in {**self.args, **self.flags}.items()}

    def uses(self) -> list[list[int]]:
        """Positions of the instances that are one module each."""
        found: dict[str, list[int]] = {}
        for i, instance in enumerate(self.instances):
            found.setdefault(instance.path, []).append(i)
        return list(found.values())

    def varies(self, column: Column) -> bool:
        """Whether a number differs between uses of one module."""
        return any(constant([column[i] for i in group]) is MISSING for group in self.uses() if _present(column, group))

    def settled(self, column: Column) -> Column:
        """The column with what some uses of a module lack filled in from its other uses, where those agree."""
        out = list(column)
        for group in self.uses():
            for i in group:
                out[i] = constant([column[g] for g in group]) if column[i] is MISSING else column[i]
        return tuple(out)


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
        self.uses: dict[str, list[Instance]] = {}
        """Instances by weight path: several where a module is shared."""
        self.peers: dict[object, list[Instance]] = {}
        """Instances by what they are calls of."""

    def classify(self, root: Instance) -> None:
        """Fills `classes`, in the order they must be defined."""
        for instance in root.walk():
            self.uses.setdefault(instance.path, []).append(instance)
            self.peers.setdefault(_call_of(instance), []).append(instance)
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
        if all(child in self.of for child in step.children):
            return
        for child in step.children:
            for inner in child.steps:
                self.children(inner)
        if step.loop:
            groups: dict[object, list[Instance]] = {}
            for child in step.children:
                groups.setdefault(self.key(child), []).append(child)
            if len(groups) > 1 and self.unite(step.children, longest=True):
                return
        for child in step.children:
            self.join(child)

    def join(self, instance: Instance) -> None:
        peers = self.peers[_call_of(instance)]
        if any(len(self.uses[peer.path]) > 1 for peer in peers):
            self.join_uses(instance, peers)
        if instance in self.of:
            return
        key = self.key(instance)
        cls = self.by_key.get(key)
        if cls is None:
            cls = self.by_key[key] = ModuleClass(self.class_name(instance), instance, [], [])
        self.add(cls, instance, list(instance.steps))

    def join_uses(self, instance: Instance, peers: list[Instance]) -> None:
        """One class for calls of a def where uses of one module are not written alike."""
        for peer in peers:
            for step in peer.steps:
                self.children(step)
        uses = self.uses[instance.path]
        differ = [p for p in peers if len({self.key(use) for use in self.uses[p.path]}) > 1]
        if not differ or self.unite(peers) or instance not in differ:
            return
        if not self.unite(uses):
            raise Unsupported(
                f"the uses of `{instance.path}` differ by more than numbers and steps that some leave out",
                instance.region.span,
            )

    def add(self, cls: ModuleClass, instance: Instance, row: Row) -> None:
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

    def unite(self, instances: list[Instance], longest: bool = False) -> bool:
        """One class for instances, some of which lack steps; where `longest`, only if one of them lacks none.

        Steps written at one place in the spec belong together, or else those that are written alike.
        """
        if len({_call_of(i)[1:] for i in instances}) > 1:
            return False
        for key in (lambda step: (self.code_key(step), str(step.span)), self.code_key):
            found = merged(instances, key)
            if found is None or (longest and all(None in row for row in found[1])):
                continue
            cls = ModuleClass(self.class_name(found[0]), found[0], [], [])
            for instance, row in zip(instances, found[1], strict=True):
                self.add(cls, instance, row)
            return True
        return False

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
        cls.per_use = {name for name, column in {**cls.args, **cls.flags}.items() if cls.varies(column)}

    def basis(self, cls: ModuleClass) -> dict[str, Column]:
        """Columns that numbers may be expressed by: widths in and out, then the def's own parameters."""
        out: dict[str, Column] = {}
        widths_in = _widths(cls, lambda i: [v for _, v in i.inputs])
        widths_out = _widths(cls, lambda i: i.outputs)
        if widths_in and widths_out and widths_in != widths_out:
            out["dim_in"], out["dim"] = widths_in, widths_out
        elif widths_in or widths_out:
            out["dim"] = widths_in or widths_out or ()
        for name, values in self.given(cls):
            column = tuple(v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool))
            if len(column) == len(values) and name not in out:
                out[name] = column
        return {n: c for n, c in out.items() if constant(c) is MISSING}

    def flag(self, cls: ModuleClass) -> list[str]:
        """The flag of each step; that of its module goes to `cls.made`."""
        steps, out, name = cls.template.steps, list[str](), ""
        columns = [tuple(row[k] is not None for row in cls.rows) for k in range(len(steps))]
        made = [self.module_is_there(cls, step) for step in steps]
        for k, present in enumerate(columns):
            if k and present == columns[k - 1]:
                out.append(out[-1])
            else:
                last = next((m - 1 for m in range(k, len(steps)) if columns[m] != present), len(steps) - 1)
                called = next((s.attr for s in steps[k : last + 1] if s.children), "")
                final = steps[last].node
                named = called if final is not None and not final.module else ""
                name = self.flag_name(cls, named or steps[last].attr or steps[k].attr)
                if all(present):
                    out.append("")
                elif cls.varies(present):
                    out.append(self.condition(cls, present, f"with_{name}"))
                else:
                    name = name if present in made[k : last + 1] else f"with_{name}"
                    cls.flags[name] = present
                    out.append(name)
            flag = name if cls.flags.get(name, made[k]) == made[k] else self.flag_name(cls, steps[k].attr)
            if not all(made[k]):
                cls.flags[flag] = made[k]
            cls.made.append("" if all(made[k]) else flag)
        return out

    def module_is_there(self, cls: ModuleClass, step: Step) -> Column:
        """For each instance whether any use of its module has a step, so that it owns the step's module."""
        if step.node is not None and not lower(step).module:
            return (True,) * len(cls.rows)
        own = [k for k, other in enumerate(cls.template.steps) if other.attr == step.attr]
        out = list[bool](False for _ in cls.rows)
        for group in cls.uses():
            there = any(cls.rows[i][k] is not None for i in group for k in own)
            for i in group:
                out[i] = there
        return tuple(out)

    def flag_name(self, cls: ModuleClass, attr: str) -> str:
        name, n = _identifier(attr), 2
        while name in cls.flags:
            name, n = f"{_identifier(attr)}{n}", n + 1
        return name

    def condition(self, cls: ModuleClass, present: Column, name: str) -> str:
        """Python for when steps are run that only some uses of a module have: of the spec's own flag, if it has one."""
        for known, column in {**dict(self.given(cls)), **cls.flags}.items():
            if all(isinstance(v, bool) for v in column) and column in (present, tuple(not v for v in present)):
                cls.flags[known] = column
                return known if column == present else f"not {known}"
        cls.flags[name] = present
        return name

    def given(self, cls: ModuleClass) -> list[tuple[str, tuple[Static, ...]]]:
        """The compile-time arguments of the def that a class is of, with one value for each instance."""
        names = [name for name, _ in _statics(self.graph, cls.template)]
        statics = [dict(_statics(self.graph, instance)) for instance in cls.instances]
        return [(python_name(name), tuple(values.get(name) for values in statics)) for name in names]

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
        self.check_constructor(cls, steps, [numbers[n] for n in numbers if "{" + n + "}" in template.module])
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
        if step.node is not None and isinstance(step.node.op, HeldConv):
            value = next((self.graph.operands(user)[0] for user, _ in self.graph.users(step.node.value())), None)
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
        if step.loop and any(c.per_use for c in classes):
            raise Unsupported(
                f"blocks of `{step.attr}` call a shared module each in another way", step.children[0].region.span
            )
        if not step.loop:
            (child,) = classes
            values = [None if s is None else child.values(s.children[0]) for s in steps]
            calls = [s for s in cls.template.steps if s.attr == step.attr]
            codes = {}
            for name in {**child.args, **child.flags}:
                column = tuple(MISSING if v is None else v[name] for v in values)
                read = name in child.per_use
                label = f"{name}{calls.index(step) + 1}" if read and len(calls) > 1 else name
                codes[name] = self.number(cls, label, column, basis, step.attr, read)
            given = {name: code for name, code in codes.items() if name in child.per_use}
            self.check_constructor(cls, steps, [code for name, code in codes.items() if name not in given])
            return StepCode(construct(child, codes), given)
        if len(classes) > 1 or (len(cls.instances) == 1 and step.children[0].region.kind == "stage"):
            return self.listed(cls, steps, basis, step)
        (child,) = classes
        table = [[child.values(c) for c in s.children] if s is not None else [] for s in steps]
        codes = {}
        for name in {**child.args, **child.flags}:
            rows = [[v[name] for v in row] for row in table]
            rule = sequence(rows)
            codes[name] = self.rule(cls, name, rule, rows, basis, step.attr)
        self.check_constructor(cls, steps, list(codes.values()))
        depths = tuple(MISSING if s is None else len(s.children) for s in steps)
        depth = self.number(cls, "depth", depths, basis, step.attr)
        if depth == "1" and not any(re.search(r"\bj\b", c) for c in codes.values()):
            return StepCode(f"nn.ModuleList([{construct(child, codes)}])", {})
        return StepCode(f"nn.ModuleList({construct(child, codes)} for j in range({depth}))", {})

    def check_constructor(self, cls: ModuleClass, steps: list[Step | None], codes: Sequence[str]) -> None:
        """Raises Unsupported where the uses of one module would have it constructed in several ways."""
        for name, column in {**cls.args, **cls.flags}.items():
            if cls.varies(column) and any(re.search(rf"\b{name}\b", code) for code in codes):
                step = next(s for s in steps if s is not None)
                raise Unsupported(f"`{step.attr}` is shared by calls that need different modules", step.span)

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
        column = cls.settled(column)
        if not cls.varies(column):
            basis = {p: values for p, values in basis.items() if not cls.varies(values)}
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
        for known, values in {**cls.args, **cls.flags}.items():
            if values == column and (known == name or known.endswith("_" + name) or {known, name} <= CHANNELS):
                return known
        taken = {*cls.args, *cls.flags, *basis, "j"}
        if read:
            taken |= {s.attr for s in cls.template.steps} | {port for port, _ in cls.template.inputs}
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
    for name in (n for n in cls.args if n not in cls.per_use):
        by_position = name in ("dim", "dim_in") and all("=" not in p for p in parts)
        parts.append(codes[name] if by_position else f"{name}={codes[name]}")
    parts += [f"{name}={codes[name]}" for name in cls.flags if name not in cls.per_use]
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
    """Paths of lists of modules (made in loops): True where they are numbered 0, 1, ... without gaps."""
    found: dict[str, dict[str, None]] = {}
    for k, step in enumerate(cls.template.steps):
        if cls.codes[k].construct:
            parts = step.attr.split(".")
            for i in range(1, len(parts)):
                found.setdefault(".".join(parts[:i]), {})[parts[i]] = None
    return {path: list(held) == [str(i) for i in range(len(held))] for path, held in found.items()}


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
    return t.kind, t.batched, tuple(f.kind for f in t.frames) if t.kind == "frame" else len(t.frames)


def _definition(graph: Graph, instance: Instance) -> str:
    return instance.name if instance.region.kind == "call" else ""


def _call_of(instance: Instance) -> tuple[object, ...]:
    """Equal for calls of one def with inputs and results of the same kinds."""
    kinds = tuple(_kind(v) for _, v in instance.inputs)
    return (instance.region.kind, instance.name), kinds, len(instance.outputs)


def _present(column: Column, group: Sequence[int]) -> bool:
    return any(column[i] is not MISSING for i in group)


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


def python_name(name: str) -> str:
    """A name of the spec as a variable or an argument."""
    return name + "_" if keyword.iskeyword(name) or name in ("self", "torch", "math", "nn", "F") else name


def _identifier(attr: str) -> str:
    return attr.replace(".", "_")
