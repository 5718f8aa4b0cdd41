"""Turns a test generator's choices into whole well-formed programs, in which every form of the language occurs.

Widths are multiples of 8 and sizes even, so that any def made here may be called anywhere: each takes a map and gives
one of the same type. Compile-time values are written in many ways, all of which come to the value that is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
Choose = Callable[[int], int]
"""Of n: a number below n."""

WIDTHS = (8, 16, 24)
UNARY = ("relu", "gelu", "silu", "tanh", "sigmoid", "hswish", "identity", "softplus", "relu6", "gelu_tanh")


@dataclass
class Author:
    """Writes one program. `functions` are names of what maps a map to one of the same type, so far."""

    choose: Choose
    lets: dict[str, int] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    named: int = 0

    # -- choices ---------------------------------------------------------------------------------

    def one_of(self, options: Sequence[T]) -> T:
        return options[self.choose(len(options))]

    def maybe(self) -> bool:
        return self.choose(2) == 0

    def name(self, stem: str) -> str:
        self.named += 1
        return f"{stem}{self.named}"

    # -- compile-time values ---------------------------------------------------------------------

    def integer(self, value: int, depth: int = 2) -> str:
        """An expression for a positive integer."""
        known = [name for name, known in self.lets.items() if known == value]
        if depth == 0 or self.choose(3) == 0:
            return self.one_of(known) if known and self.maybe() else str(value)
        part, other = 1 + self.choose(9), self.choose(9)

        def a(v: int) -> str:
            return self.integer(v, depth - 1) if v > 0 else f"({v})" if v < 0 else "0"

        forms = (
            lambda: f"({a(value + part)} - {a(part)})",
            lambda: f"({a(value * part)} // {a(part)})",
            lambda: f"({a(value * part)} / {a(part)})",
            lambda: f"({a(value)} % {a(value + part)})",
            lambda: f"(-(-{a(value)}))",
            lambda: f"({a(value)} ^ 1 * 1)",
            lambda: f"[{a(part)}, {a(value)}][-1]",
            lambda: f"([{a(value)}] + [{a(part)}] * 2)[0]",
            lambda: f"max({a(value)}, {a(min(part, value))})",
            lambda: f"min([{a(value)}, {a(value + part)}])",
            lambda: f"(if {self.boolean(True, depth - 1)} then {a(value)} else {a(part)})",
            lambda: f"(if {self.boolean(False, depth - 1)} then {a(part)} else {a(value)})",
            lambda: f"sum([1 for i in {a(value)}])",
            lambda: f"(len({other}..{a(value + other)} by 1) - 1)",
            lambda: f"[i for i in 0..{a(value + other)} by 1 if i == {a(value)}][0]",
            lambda: f"round({value}.0 * 1e0)",
            lambda: f"make_div({a(value)}, 1)",
        )
        return self.one_of(forms)()

    def boolean(self, truth: bool, depth: int = 2) -> str:
        small, large = 1 + self.choose(9), 10 + self.choose(9)
        a, b = (small, large) if truth else (large, small)
        if depth == 0:
            return f"{a} < {b}"
        forms = (
            lambda: "true" if truth else "false",
            lambda: f"not {self.boolean(not truth, 0)}",
            lambda: f"({self.boolean(truth, depth - 1)} and {self.boolean(True, 0)})",
            lambda: f"({self.boolean(truth, depth - 1)} or {self.boolean(False, 0)})",
            lambda: f"0 < {self.integer(a, depth - 1)} <= {self.integer(b, 0)}",
            lambda: f"{a} {'!=' if truth else '=='} {b}",
            lambda: f"{b} >= {a} > {min(a, b) - 1 if truth else b}",
            lambda: f"{large}.0 ~= {large if truth else small}",
            lambda: f"all([{self.boolean(truth, 0)}, 1 == 1])",
            lambda: f'"a" == "{"a" if truth else "b"}"',
            lambda: f"none {'==' if truth else '!='} none",
        )
        return self.one_of(forms)()

    # -- functions of a map ------------------------------------------------------------------------

    def function(self, width: str, depth: int = 2) -> str:
        """An expression for a function that keeps a map's type."""
        i, label = self.integer, self.name("w")
        forms = [
            lambda: self.one_of(UNARY),
            lambda: f"linear@{label}[{width}]",
            lambda: f"conv[{width}, k = {i(3)}]@{label}",
            lambda: f"dwconv[{i(3)}]",
            lambda: f"conv@{label}[{width}][k = 3, g = {i(2)}, bias = {self.boolean(self.maybe())}]",
            lambda: "norm",
            lambda: "gn[2, eps = 1e-3]",
            lambda: "bn",
            lambda: f"layer_scale@{label}[{0.1 + self.choose(9)}]",
            lambda: f"mlp@{label}[{i(2)}, act = {self.one_of(UNARY)}]",
            lambda: f"mhsa@{label}[{i(2)}]",
            lambda: f"se@{label}[{i(4)}]",
            lambda: "grn",
            lambda: f"avg_pool[3, s = 1, p = 1, include_pad = {self.boolean(self.maybe())}]",
            lambda: f"conv_bn@{label}[k = 3]",
        ]
        forms += [lambda: f"{self.one_of(self.functions)}@{label}"] * (3 if self.functions else 0)
        if depth > 0:
            forms += [lambda: f"(fn (y) => {self.expression('y', 'y.C', depth - 1)})"] * 2
        return self.one_of(forms)()

    def value(self, width: str) -> str:
        """A function to be passed on: the place that calls it names its weights."""
        return re.sub(r"@\w+", "", self.function(width))

    def expression(self, x: str, width: str, depth: int = 2) -> str:
        """A map of the type of `x`, which is a name."""
        f, label = self.function, self.name("w")
        if depth == 0:
            return f"{f(width, 0)}({x})"
        inner = self.expression
        forms = (
            lambda: f"{x} |> {f(width)} |> {f(width)}",
            lambda: f"{x} |> {f(width)} |> tokens |> ln |> to_map[{x}.H, {x}.W]",
            lambda: f"({inner(x, width, depth - 1)}) + {x}",
            lambda: f"({x} - ({inner(x, width, depth - 1)})) * 0.5",
            lambda: f"{x} * sigmoid({inner(x, width, depth - 1)}) / 2",
            lambda: f"-({inner(x, width, depth - 1)})",
            lambda: f"(if {self.boolean(self.maybe())} then {inner(x, width, depth - 1)} else {x})",
            lambda: f"sum([({inner(x, width, depth - 1)}) for k in {self.integer(2)}])",
            lambda: f"concat([relu(part) for part in split[{self.integer(2)}]({x})][0], linear[{width} / 2]({x}))",
            lambda: f"{x} |> windows[{self.integer(2)}, shift = {self.integer(1)}] |> linear@{label}[{width}] |> merge",
            lambda: f"{x} |> grids[2] |> mhsa@{label}[2] |> merge",
            lambda: (
                f"{x} |> tokens |> chunks[{self.integer(2)}] |> linear@{label}[{width}] |> merge"
                f" |> to_map[{x}.H, {x}.W]"
            ),
            lambda: f'resize[mode = "nearest"](conv@{label}[{width}, k = 2, s = 2]({x}), {x})',
        )
        return self.one_of(forms)()

    # -- statements ----------------------------------------------------------------------------------

    def statements(self, x: str, width: str, count: int, depth: int = 2) -> list[str]:
        """Statements that give `x` new values of the same type."""
        return [self.statement(x, width, depth) for _ in range(count)]

    def block(self, x: str, width: str, depth: int) -> str:
        return "{\n" + "\n".join(self.statements(x, width, 1 + self.choose(2), depth - 1)) + "\n}"

    def statement(self, x: str, width: str, depth: int = 2) -> str:
        value, y, z = self.expression, self.name("y"), self.name("z")
        simple = (
            lambda: f"{x} = {value(x, width)}",
            lambda: f"{x} += drop_path[t = 0.5]({value(x, width)})",
            lambda: f"{x} *= sigmoid({value(x, width, 1)})",
            lambda: f"{y}, {z} = split[{self.integer(2)}]({x})\n{x} = concat({z}, relu({y}))",
            lambda: (
                f"{y}, {z} = if {self.boolean(self.maybe())} then ({x}, {value(x, width, 1)}) else ({x}, {x})\n"
                f"{x} = {y} + {z}"
            ),
            lambda: f"share {y} = linear[{width}]\n{x} = {x} |> {y} |> relu |> {y}",
            lambda: f'require {width} % {self.integer(2)} == 0, "an even width"',
            lambda: (
                f"q, k, v = {x} |> windows[2] |> linear@{y}[3 * {width}] |> split[3]\n"
                f"{x} += attend[2](q, k, v, bias = rel_bias@{z}[2](q)) |> merge"
            ),
            lambda: f"{x} = attended@{y}[2]({x}{', ' + x if self.maybe() else ''})",
            lambda: f"{x} = {self.one_of(('twice', 'twice[n = 1]'))}[{self.value(width)}]@{y}({x})",
            lambda: f"{x} = branches@{y}({x})  # a comment",
            lambda: f"{x} = grouped@{y}(tokens({x}), {self.integer(2)}) |> to_map[{x}.H, {x}.W]",
            lambda: f"{y} = [{self.value(width)}, {self.value(width)}]\n{x} = {y}[{self.choose(2)}]@{z}({x})",
        )
        if depth == 0 or self.choose(3):
            return self.one_of(simple)()
        inner = self.block
        nested = (
            lambda: f"if {self.boolean(self.maybe())} {inner(x, width, depth)}",
            lambda: f"if {self.boolean(self.maybe())} {inner(x, width, depth)} else {inner(x, width, depth)}",
            lambda: (
                f"if {self.boolean(self.maybe())} {inner(x, width, depth)} else if {self.boolean(self.maybe())} "
                f"{inner(x, width, depth)} else {inner(x, width, depth)}"
            ),
            lambda: f"for {y} in {self.one_of((self.integer(2), '1..2', '[3, 5]'))} {inner(x, width, depth)}",
            lambda: f"for {y}, {z} in [3, 5] {{ {x} = dwconv[{z} - 2 * {y}]({x}) }}",
        )
        return self.one_of(nested)()

    def definition(self) -> str:
        """A def of either form, after which it may be called."""
        name = self.name("f")
        statics = self.one_of(
            ("", "[n = 2]", "[n: int = C // 4, act: fn = relu]", "[ls: float = 0.5, flag: bool = true]")
        )
        result = self.one_of(("", " -> map[C, H, W]", " -> any[C]"))
        head = f"def {name}{statics}(x: {self.one_of(('map[C, H, W]', 'map[C, H, W]'))}){result}"
        if self.choose(3) == 0:
            text = f"{head} = {self.expression('x', 'C')}"
        else:
            body = "\n".join(self.statements("x", "C", 1 + self.choose(2)))
            text = f"{head} {{\n{body}\nreturn x\n}}"
        self.functions.append(name)
        return text

    # -- a whole file --------------------------------------------------------------------------------

    def arch(self, name: str) -> str:
        stages = 1 + self.choose(3)
        first = self.one_of(WIDTHS)
        widths = self.widths = [first * 2**i for i in range(stages)]
        depths = [1 + self.choose(2) for _ in range(stages)]
        listing = ", ".join(self.integer(d, 1) for d in depths)
        down = self.one_of(("conv@down[dims[i], k = 2, s = 2](x)", "x |> windows[2] |> pack |> linear@down[dims[i]] "))
        step = "\n".join(self.statements("x", "dims[i]", 1 + self.choose(2)))
        label = self.one_of(("", "@layer "))
        blocks = self.one_of((f"blocks{label} j in depths[i]", f"blocks{label} depths[i]"))
        drop = "x += drop_path(mlp@last(norm(x)))"
        low = f"low = conv@low[{self.integer(8)}, k = 4, s = 4](img)" if self.maybe() else ""
        join = "x += resize(low |> linear@join[x.C], x)" if low else ""
        extra = f"stage context -> c, x {{ c = {self.expression('x', 'x.C')} }}" if self.maybe() else ""
        ending = "c + x" if extra else "x"
        return "\n".join(
            (
                f"arch {name}[",
                f"  dims = [{', '.join(self.integer(w, 1) for w in widths)}], depths: int[{stages}] = [{listing}],",
                f"  mixer: fn(map[C]) -> map[C] = {self.one_of(UNARY)}, dpr = 0.1, classes = 10",
                "] {",
                "input img: map[3, 32, 32]",
                'require sum(depths) < 100, "few"',
                low,
                f"stem {{ x = img |> conv@proj[dims[0], k = {self.one_of((2, 4))}, s = 2] |> norm }}",
                f"stage i in {self.integer(stages)} -> x {{",
                f"if i > 0 {{ x = {down} }}",
                f"{blocks} {{\n{step}\nx = mixer(x)\n{drop}\n}}",
                "}",
                extra,
                join,
                f"head {{ return {ending} |> norm |> gap |> linear@fc[classes] }}".replace(
                    "return c + x", "return (c + x)"
                ),
                "}",
            )
        )

    def program(self) -> str:
        for _ in range(self.choose(3)):
            self.lets[self.name("n")] = self.one_of((2, 3, 8))
        parts = [
            "language 1" if self.maybe() else "# no version",
            'import dilated as wide, cont_mix from "std/mixers.arch"',
            *(f"let {name} = {value}" for name, value in self.lets.items()),
            f"let norm = ln[eps = {self.one_of(('1e-6', '0.001'))}]",
            HELPERS,
            *(self.definition() for _ in range(1 + self.choose(3))),
            self.arch("a"),
            self.one_of(("arch b = a", "arch b = a[dpr = 0.2, classes = 2 * classes]")),
            "check a: params > 1, 1 < flops < 1T, train.params >= params",
            self.one_of(("", SPACE.replace("DIMS", str(self.widths)))),
        ]
        return "\n".join(part for part in parts if part) + "\n"


HELPERS = """
def attended[heads, bias: fn? = none](x: map[C], other: map[C]? = none, extra: scores? = none) -> map[C] {
q = linear@q[C](x)
k, v = linear@kv[2 * C](x) |> split[2]
return attend[heads](q, k, v, bias = extra) |> linear@proj[C]
}
def twice[f: fn(map[C, H, W]) -> map[C, H, W], n = 2](x: map) {
for i in n { x = f(x) }
return x
}
rep def branches(x: map[C]) = bn(conv@a[C, k = 3, bias = false](x) + conv@b[C, bias = false](x) + x)
def grouped(x: tokens[N, C], groups: int) -> tokens[N, C] = x |> chunks[groups] |> linear@mix[C] |> merge
extern scan[state = 16](x: map[C, H, W]) -> map[C, H, W] from "package.module:Scan" {
flops = 9 * H * W * C * state
params = 8 * C ^ 2
}
""".strip()

SPACE = """
space s of a {
let drop = {0.1 | 0.2}@drop
let wide_dims = DIMS
dpr = drop
depths = [{1..2} for d in wide_dims]
dims = wide_dims
require params < 1T
minimize flops
seed a
}
""".strip()


@st.composite
def programs(draw: Callable[[st.SearchStrategy[Any]], Any]) -> str:
    """Whole files with an arch `a` that can be built and a variant `b`."""
    return Author(lambda n: draw(st.integers(0, n - 1))).program()
