"""cheap_gelu: gelu becomes a cheaper function that is nowhere far from it; what is computed changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.diagnostics import error
from archdsl.ir.graph import Graph
from archdsl.ops._pointwise import Pointwise
from archdsl.ops.div import Div
from archdsl.ops.gelu_tanh import GeluTanh
from archdsl.ops.hswish import Hswish
from archdsl.ops.mul import Mul
from archdsl.ops.silu import Silu
from archdsl.passes.base import Draft, Pass


@dataclass(frozen=True)
class Form:
    """f(scale * x) / scale, which is nowhere further than `bound` from gelu(x).

    The bound is what a grid of -12 to 12 finds, rounded up by more than the functions can do between its points: the
    derivatives of gelu and of the smooth forms are within 1.13 of 0, that of the hard one is within 1.5. Beyond the
    grid all of them are x or 0 but for less than 1e-6.
    """

    op: Pointwise
    scale: float
    bound: float


FORMS: Mapping[str, Form] = {
    "tanh": Form(GeluTanh(), 1.0, 4.8e-4),
    "sigmoid": Form(Silu(), 1.772, 1.41e-2),
    "hard": Form(Hswish(), 1.668, 6.5e-2),
}
"""By name, with the scales that have the least bounds. In deploy mode the layers around a gelu do the scaling."""


@dataclass(frozen=True)
class CheapGelu(Pass):
    """Gelu becomes its tanh, sigmoid or hard form: off by at most 0.00048, 0.0141 or 0.065."""

    name: ClassVar[str] = "cheap_gelu"
    exact: ClassVar[bool] = False

    form: str = "tanh"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise error("E-PASS", f"`cheap_gelu` has no form `{self.form}`", help=f"there are {', '.join(FORMS)}")

    def __call__(self, graph: Graph) -> Graph:
        form, draft = FORMS[self.form], Draft(graph)
        for node in graph.nodes():
            if node.op.name != "gelu":
                continue
            if form.scale == 1:
                draft.swap(replace(node, op=form.op))
                continue
            (value,), stem = graph.operands(node), node.path.partition("#")[0]
            assert value is not None
            for op, name in ((Mul(form.scale), f"{stem}_in"), (form.op, stem), (Div(form.scale), f"{stem}_out")):
                value = draft.put(op, (value,), node.outputs, at=node, path=name).value()
            draft.use(value, instead_of=node.value())
            draft.drop(node.path)
        return draft.done()
