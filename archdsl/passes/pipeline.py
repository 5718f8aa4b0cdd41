"""Turns a graph into an optimized one: the passes of a level or of the user's choice, each verified after it ran."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from archdsl.diagnostics import did_you_mean, error
from archdsl.ir.graph import Graph
from archdsl.ir.verify import BrokenInvariant, Violation, check
from archdsl.passes.attend_in_place import AttendInPlace
from archdsl.passes.base import Pass, Property, astray
from archdsl.passes.cheap_gelu import CheapGelu
from archdsl.passes.common import Common
from archdsl.passes.elide_concat import ElideConcat
from archdsl.passes.fold_affines import FoldAffines
from archdsl.passes.fold_constants import FoldConstants
from archdsl.passes.fold_leading_norms import FoldLeadingNorms
from archdsl.passes.fold_norms import FoldNorms
from archdsl.passes.fuse import Fuse
from archdsl.passes.gelu_to_relu import GeluToRelu
from archdsl.passes.merge_siblings import MergeSiblings
from archdsl.passes.onednn import Onednn
from archdsl.passes.packed import Packed
from archdsl.passes.relayout import Relayout
from archdsl.passes.scale_into_linear import ScaleIntoLinear
from archdsl.passes.tune_norms import TuneNorms

PASSES: Mapping[str, type[Pass]] = {
    cls.name: cls
    for cls in (
        Common,
        ElideConcat,
        FoldConstants,
        FoldNorms,
        FoldLeadingNorms,
        FoldAffines,
        ScaleIntoLinear,
        MergeSiblings,
        TuneNorms,
        Relayout,
        Onednn,
        Packed,
        AttendInPlace,
        Fuse,
        CheapGelu,
        GeluToRelu,
    )
}
"""Every pass by name."""

_FOLDS = (FoldNorms(), FoldAffines(), FoldLeadingNorms(), ScaleIntoLinear())
_LESS = (
    Common(),
    ElideConcat(),
    FoldConstants(),
    *_FOLDS,
    MergeSiblings(),
    ElideConcat(),
    *_FOLDS,
    Common(),
    TuneNorms(),
)
LEVELS: tuple[tuple[Pass, ...], ...] = ((), _LESS, (*_LESS, Relayout(), Onednn(), Packed()))
"""What -O0, -O1 and -O2 run: nothing; what makes emitted code do less; and what plans for a device as well."""


@dataclass(frozen=True)
class Step:
    """A pass that ran: the graphs before and after it, and its seconds of processor time, checks apart."""

    ran: Pass
    before: Graph
    after: Graph
    seconds: float


def optimize(graph: Graph, passes: Sequence[Pass], watch: Callable[[Step], None] | None = None) -> Graph:
    """Runs passes in order. After each the graph is verified, and what held before and is not broken must still hold.

    `watch` is told of every step. Raises BrokenInvariant, which names the pass, and E-PASS where what a pass needs does
    not hold.
    """
    held: dict[str, Property] = {}
    for one in passes:
        for needed in one.needs:
            if broken := next(needed.broken(graph), None):
                title = f"`{one.name}` needs a graph in which {needed.statement[0].lower()}{needed.statement[1:-1]}"
                raise error("E-PASS", title, help=f"%{broken[0]} {broken[1]}; run another pass before it")
        start = time.process_time()
        after = one(graph)
        seconds = time.process_time() - start
        held = {name: p for name, p in held.items() if p not in one.breaks} | {p.name: p for p in one.gives}
        if after is not graph:
            check(after, one.name)
            if strayed := tuple(Violation(0, *finding) for finding in astray(graph, after)):
                raise BrokenInvariant(strayed, one.name)
            _hold(after, held, one)
        if watch is not None:
            watch(Step(one, graph, after, seconds))
        graph = after
    return graph


def _hold(graph: Graph, held: Mapping[str, Property], ran: Pass) -> None:
    broken = [Violation(0, *finding) for p in held.values() for finding in p.broken(graph)]
    if broken:
        raise BrokenInvariant(tuple(broken), ran.name)


def level(number: int) -> tuple[Pass, ...]:
    """The passes of -O0, -O1 or -O2."""
    return LEVELS[number]


def with_kernels(passes: Sequence[Pass], fuse: Fuse) -> tuple[Pass, ...]:
    """Passes with those that make ops kernels behind them. Maps stay as they lie, for kernels find their windows."""
    kept = (one for one in passes if not isinstance(one, Relayout | Onednn | Packed | AttendInPlace | Fuse))
    return (*kept, AttendInPlace(), fuse)


def parse_passes(text: str) -> tuple[Pass, ...]:
    """The passes that `a,b{option=4}` names, in that order. Raises E-PASS."""
    rest, found = text.strip(), []
    while rest:
        one = re.match(r"(?P<name>\w+)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?:,\s*|$)", rest)
        if one is None:
            raise error(
                "E-PASS", f"`{rest}` is no list of passes", help="write names with commas between: a,b{option=4}"
            )
        found.append(_made(one["name"], one["options"] or ""))
        rest = rest[one.end() :]
    return tuple(found)


def _made(name: str, options: str) -> Pass:
    cls = PASSES.get(name)
    if cls is None:
        hint = did_you_mean(name, PASSES) or f"there are {', '.join(PASSES)}"
        raise error("E-PASS", f"there is no pass `{name}`", help=hint)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    given: dict[str, object] = {}
    for option in filter(None, (o.strip() for o in options.split(","))):
        key, equals, value = (part.strip() for part in option.partition("="))
        if not equals or key not in fields:
            hint = did_you_mean(key, fields) or (f"it takes {', '.join(fields)}" if fields else "it takes none")
            raise error("E-PASS", f"`{name}` has no option `{option}`", help=hint)
        given[key] = _value(name, key, value, fields[key].default)
    return cls(**given)


def _value(name: str, key: str, text: str, usual: object) -> object:
    """The text as a value of the option's type."""
    if isinstance(usual, bool):
        if text in ("true", "false"):
            return text == "true"
    elif isinstance(usual, int):
        if re.fullmatch(r"-?\d{1,18}", text):
            return int(text)
    else:
        return text
    raise error("E-PASS", f"`{name}`: `{text}` is no value of `{key}`", help=f"it is {usual} unless set")
