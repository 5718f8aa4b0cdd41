"""Turns stored tensors into the state dict of a spec's module, and back; says of every tensor what became of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from archdsl.diagnostics import ArchError, Diagnostic, error
from archdsl.ir.graph import Graph
from archdsl.passes.base import Pass
from archdsl.passes.pipeline import Step, level, optimize
from archdsl.weights.constants import rows_read
from archdsl.weights.deploy import fold_weights, pass_weights
from archdsl.weights.families import Family, by_name, shipped
from archdsl.weights.fit import Refusal, fit
from archdsl.weights.geometry import geometry
from archdsl.weights.match import Link, Matching, match
from archdsl.weights.random import random_weight
from archdsl.weights.stores import Stored, timm_model
from archdsl.weights.transforms import Geometry, Rows, Transform, TransformError, parse

if TYPE_CHECKING:
    from torch import Tensor, nn

AGREES = 1e-9
"""Largest difference of float64 logits, of the largest logit, between the same model in two libraries."""
_SHOWN = 4
"""Names in a message; the report has all."""


@dataclass(frozen=True)
class Mismatch:
    """A link whose tensor has another shape than the spec's weight, and why it is not resized."""

    path: str
    key: str
    stored: tuple[int, ...]
    wanted: tuple[int, ...]
    reason: Refusal


@dataclass(frozen=True)
class Import:
    """What an import found. `state` lacks the weights that are missing or mismatched."""

    graph: Graph
    stored: Stored
    family: Family | None
    matching: Matching
    state: Mapping[str, Tensor]
    resized: Mapping[str, tuple[Transform, ...]] = field(default_factory=dict)
    """What was done beyond the map to fit another resolution, window, or number of something."""
    fresh: tuple[str, ...] = ()
    """Weights that start anew, as they were asked to."""
    mismatched: tuple[Mismatch, ...] = ()

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Why the import is not complete; empty where it is."""
        return (*_ambiguities(self), *_unmatched(self), *_mismatches(self))

    @property
    def metadata(self) -> dict[str, str]:
        """What the written file says of its origin, and the map, so that it can be exported again."""
        source = {"source": self.stored.name, "model": self.stored.model, "license": self.stored.license}
        table = {"table": self.family.name} if self.family is not None else {}
        links = {x.path: [list(x.keys), [str(t) for t in x.via]] for x in self.matching.links}
        known = {k: v for k, v in source.items() if v}
        indices = self.family.indexed(self.graph.params) if self.family is not None else {}
        maps = {"map": json.dumps(links), **({"indices": json.dumps(indices)} if indices else {})}
        return {"format": "pt", "spec": self.graph.name, **known, **table, **maps}

    def text(self) -> str:
        """Counts, then lists in which a line stands for all stages and blocks of a kind."""
        m = self.matching
        changed = [x for x in m.links if x.changes and x.path in self.state]
        doubtful = sum(len(a.paths) for a in m.ambiguous)
        counts = (
            f"{len(self.state) - len(self.fresh)} mapped ({len(changed)} transformed, {len(self.resized)} resized)",
            f"{len(m.missing)} missing",
            f"{len(m.unexpected)} unexpected",
            f"{len(self.mismatched)} mismatched",
            *([f"{doubtful} ambiguous"] if doubtful else ()),
            *([f"{len(m.dropped)} dropped"] if m.dropped else ()),
            *([f"{len(self.fresh)} new"] if self.fresh else ()),
        )
        out = [f"{self.graph.name} <- {self.stored.name}: {', '.join(counts)}"]
        out.append(f"table: {self.family.name if self.family else 'none'}; license: {self.stored.license or 'unknown'}")
        for by in ("table", "name", "shape", "order", "turn"):
            out += _listed(f"mapped by {by}", [_line(x) for x in m.links if x.by == by and x.path in self.state])
        out += _listed("resized", [f"{p} ({', '.join(map(str, t))})" for p, t in self.resized.items()])
        out += _listed("new", self.fresh)
        out += _listed("missing", m.missing)
        out += _listed("unexpected", m.unexpected)
        out += _listed("mismatched", [f"{x.path} {x.wanted} <- {x.key} {x.stored}" for x in self.mismatched])
        out += _listed("ambiguous", [f"{' | '.join(a.paths)} <- {' | '.join(a.keys)}" for a in m.ambiguous])
        out += _listed("dropped", m.dropped)
        return "\n".join(out)


def import_weights(
    graph: Graph,
    stored: Stored,
    *,
    table: Family | None = None,
    adapt: Sequence[str] = (),
    initial: Mapping[str, Tensor] | None = None,
    module: Callable[[], nn.Module] | None = None,
) -> Import:
    """The stored tensors under the graph's weight paths and in its shapes; complete where it has no diagnostics.

    `table` is found by the arch's name, the model's, or what it explains where it is None. `adapt` names what may
    be changed that no spec declares (fit.ADAPT); `initial` has the values of weights that start anew. `module` makes
    the spec's module: where timm's model is known, both then prove what only the order of weights suggests. Raises
    E-WEIGHT-TRANSFORM where a table's transform does not fit its tensor.
    """
    family = table or by_name(shipped(), graph.name, stored.model) or _best(graph, stored)
    known = geometry(graph)
    found = match(graph, stored.shapes, family, stored.order)
    if module is not None and stored.model and (found.ambiguous or found.missing):
        suggested = match(graph, stored.shapes, family, stored.order, in_turn=True)
        if not (suggested.ambiguous or suggested.missing) and proved(graph, module(), suggested, stored.model):
            found = suggested
    state: dict[str, Tensor] = {}
    resized: dict[str, tuple[Transform, ...]] = {}
    fresh, mismatched, faults, links = [], [], [], []
    for link in found.links:
        about = known.get(link.path, Geometry())
        try:
            link = Link(link.path, link.keys, tuple(t.settle(about) for t in link.via), link.by)
            tensor = _applied(link, stored.tensors)
        except TransformError as e:
            faults.append(_untransformed(link, e))
            continue
        links.append(link)
        wanted = graph.params[link.path]
        try:
            steps = fit(tuple(tensor.shape), wanted, about, tuple(adapt))
        except Refusal as e:
            classes = about.classifier and tuple(tensor.shape[1:]) == wanted.shape[1:]
            if classes and "classes" in adapt and initial is not None:
                state[link.path] = initial[link.path]
                fresh.append(link.path)
            else:
                mismatched.append(Mismatch(link.path, link.keys[0], tuple(tensor.shape), wanted.shape, e))
            continue
        for step in steps:
            tensor = step.apply([tensor])
        if any(t.name not in ("squeeze", "unsqueeze") for t in steps):
            resized[link.path] = steps
        else:
            links[-1] = Link(link.path, link.keys, (*link.via, *steps), link.by)
        state[link.path] = tensor
    if faults:
        raise ArchError(*faults)
    matching = Matching(tuple(links), found.missing, found.unexpected, found.dropped, found.ambiguous)
    return Import(graph, stored, family, matching, state, resized, tuple(fresh), tuple(mismatched))


def export_weights(graph: Graph, stored: Stored, *, table: Family | None = None) -> dict[str, Tensor]:
    """The spec's weights under the other library's keys and in its shapes: what an import read, bit for bit.

    What a table calls an index is made again from the graph.

    The map is the one recorded in the file, else a table's. Raises E-WEIGHT-MATCH where the file does not hold the
    spec's weights, E-WEIGHTS where nothing says how they are called, and E-WEIGHT-TRANSFORM.
    """
    _complete(graph, stored)
    known = geometry(graph)
    links, indices = _recorded(stored) if table is None else ({}, {})
    if links.keys() != graph.params.keys() or not indices.keys() <= links.keys():
        family = table or by_name(shipped(), graph.name, stored.metadata.get("model", ""))
        if family is None:
            raise error(
                "E-WEIGHTS",
                f"nothing says what another library calls the weights of `{graph.name}`",
                help="give --table with the name of a shipped table, or a file such as docs/weights.md describes",
            )
        bounds = {p: family.bind(p) for p in graph.params}
        links, indices = {p: Link(p, b.keys, b.via) for p, b in bounds.items()}, family.indexed(graph.params)
    out: dict[str, Tensor] = {}
    parts: dict[str, dict[int, tuple[Rows, Tensor]]] = {}
    for path, link in links.items():
        try:
            via = tuple(t.settle(known.get(path, Geometry())) for t in link.via)
            pieces = _undone(via, stored.tensors[path])
            if len(pieces) != len(link.keys):
                raise TransformError(f"it makes {len(pieces)} tensors for {len(link.keys)} keys")
        except TransformError as e:
            raise ArchError(_untransformed(link, e)) from e
        rows = next((t for t in via if isinstance(t, Rows)), None)
        for key, piece in zip(link.keys, pieces, strict=True):
            if rows is not None:
                parts.setdefault(key, {})[rows.first] = rows, piece
            elif key in out:
                raise error("E-WEIGHT-MATCH", f"`{key}` would hold two weights, one of them `{path}`")
            else:
                out[key] = piece
    return out | {key: _joined(key, found) for key, found in parts.items()} | _indices(graph, indices)


def deploy_weights(
    graph: Graph, training: Graph, deployed: Graph, stored: Stored, passes: Sequence[Pass] | None = None
) -> dict[str, Tensor]:
    """The weights of the deploy graph that computes what the eval graph `graph` does with the stored ones.

    The graphs are as they are elaborated; the weights are those after the passes of -O1, or those given. What only the
    training graph has, such as an auxiliary head, may be stored and is left out. Raises E-WEIGHT-MATCH where the file
    does not hold the spec's weights, and E-WEIGHT-DEPLOY.
    """
    alone = training.params.keys() - graph.params.keys()
    used = replace(stored, tensors={k: t for k, t in stored.tensors.items() if k not in alone})
    _complete(graph, used)
    steps: list[Step] = []
    optimize(deployed, level(1) if passes is None else passes, steps.append)
    return pass_weights(steps, fold_weights(graph, deployed, used.tensors))


def check_forward(module: nn.Module, graph: Graph, found: Import, model: str = "") -> str:
    """Compares float64 logits of the module, which has the imported weights, and of timm's model with the stored.

    Returns the verdict. Raises E-WEIGHT-CHECK where they differ, or where they cannot be compared.
    """
    import torch

    name = model or found.stored.model or (found.family.models.get(graph.name, "") if found.family else "")
    if found.resized or found.fresh:
        raise _unchecked(graph, "some were resized or start anew, so the models differ")
    if not name:
        raise _unchecked(graph, "it is not known which timm model they are of", "name it with --model")
    channels, height, width = (int(n) for n in graph.inputs[0].type.dims)
    classes = graph.outputs[0].type.channels
    theirs = timm_model(name, num_classes=classes, in_chans=channels)
    own = theirs.state_dict().keys()  # some that we have no place for are buffers of theirs
    state = {k: v for k, v in found.stored.tensors.items() if k in own or k not in found.matching.dropped}
    try:
        theirs.load_state_dict(state)
    except RuntimeError as e:
        raise _unchecked(graph, f"timm's `{name}` does not take them", "name another model with --model") from e
    ours, theirs = module.double().eval(), theirs.double().eval()
    x = torch.randn(1, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = ours(x), theirs(x)
    difference, scale = float((a - b).abs().max()), float(b.abs().max())
    if not difference <= AGREES * scale:
        raise error(
            "E-WEIGHT-CHECK",
            f"with these weights `{graph.name}` and timm's `{name}` differ by {difference:.1e} in logits"
            f" up to {scale:.1e}",
            help="every shape fits, so look at orders of rows, signs of tables, eps and activations",
        )
    return f"check: logits of timm's {name} agree to {difference / scale:.0e} in float64, 1x{channels}x{height}x{width}"


def proved(graph: Graph, module: nn.Module, matching: Matching, model: str) -> bool:
    """Whether the module and timm's model compute the same float64 logits from random weights linked like this."""
    import torch

    channels, height, width = (int(n) for n in graph.inputs[0].type.dims)
    theirs = timm_model(model, num_classes=graph.outputs[0].type.channels, in_chans=channels).double().eval()
    state = {
        key: random_weight(key, tuple(t.shape)).to(t.dtype) if t.is_floating_point() else t
        for key, t in theirs.state_dict().items()
    }
    theirs.load_state_dict(state)
    known = geometry(graph)
    try:
        links = [(x, tuple(t.settle(known.get(x.path, Geometry())) for t in x.via)) for x in matching.links]
        module.double().eval().load_state_dict({x.path: _applied(replace(x, via=via), state) for x, via in links})
        x = torch.randn(1, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            a, b = module(x), theirs(x)
    except (RuntimeError, AssertionError, ValueError, KeyError):  # of another size, or with other keys
        return False
    return bool(b.std() > 0 and (a - b).abs().max() <= AGREES * b.abs().max())


def _unchecked(graph: Graph, why: str, help: str = "") -> ArchError:
    return error("E-WEIGHT-CHECK", f"the weights of `{graph.name}` cannot be checked: {why}", help=help)


def check_names(tensors: Mapping[str, Tensor], model: str) -> None:
    """Raises E-WEIGHT-MATCH where the tensors are not, by name and shape, those of timm's model."""
    wanted = {k: tuple(t.shape) for k, t in timm_model(model).state_dict().items()}
    found = {k: tuple(t.shape) for k, t in tensors.items()}
    faults = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
    if faults:
        raise error("E-WEIGHT-MATCH", f"timm's `{model}` has other names or shapes: {_some(faults)}")


# -- one tensor ----------------------------------------------------------------------------------


def _applied(link: Link, tensors: Mapping[str, Tensor]) -> Tensor:
    found = [tensors[k] for k in link.keys]
    for step in link.via:
        try:
            found = [step.apply(found)]
        except (RuntimeError, IndexError, ZeroDivisionError) as e:  # what torch says of a shape
            raise _unfit(step, found) from e
    return found[0]


def _undone(via: Sequence[Transform], tensor: Tensor) -> list[Tensor]:
    found: list[Tensor] = [tensor]
    for step in reversed(via):
        try:
            found = list(step.undo(found[0]))
        except (RuntimeError, IndexError, ZeroDivisionError) as e:
            raise _unfit(step, found) from e
    return found


def _unfit(step: Transform, tensors: Sequence[Tensor]) -> TransformError:
    return TransformError(f"{step}: it does not fit {' and '.join(str(tuple(t.shape)) for t in tensors)}")


def _joined(key: str, parts: Mapping[int, tuple[Rows, Tensor]]) -> Tensor:
    import torch

    ordered = [parts[first] for first in sorted(parts)]
    ends = [0, *(rows.last for rows, _ in ordered)]
    if [rows.first for rows, _ in ordered] != ends[:-1] or ends[-1] != ordered[0][0].of:
        raise error("E-WEIGHT-TRANSFORM", f"no weights hold all rows of `{key}`")
    return torch.cat([t for _, t in ordered])


def _indices(graph: Graph, keys: Mapping[str, str]) -> dict[str, Tensor]:
    """What the other library keeps beside tables of relative positions, whose paths are given: the graph says it."""
    found = {}
    for path, key in keys.items():
        rows = rows_read(graph, path)
        if rows is None:
            title = f"`{key}` is no index of `{path}`: that is no table of relative positions"
            raise error("E-WEIGHT-TRANSFORM", title, help="change its line under [indices]")
        found[key] = rows
    return found


def _recorded(stored: Stored) -> tuple[dict[str, Link], dict[str, str]]:
    """The map that an import wrote into the file's metadata, and keys of indices by tables; empty where none reads."""
    try:
        found = json.loads(stored.metadata["map"])
        links = {
            path: Link(path, tuple(map(str, keys)), tuple(parse(t) for t in via)) for path, (keys, via) in found.items()
        }
        return links, {str(p): str(k) for p, k in json.loads(stored.metadata.get("indices", "{}")).items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}, {}


def _best(graph: Graph, stored: Stored) -> Family | None:
    """The table that names most of the weights, and the most with lines of its own; None where none does, or two do."""
    scores = []
    for family in shipped():
        bounds = map(family.bind, graph.params)
        known = [bound.explicit for bound in bounds if all(key in stored.tensors for key in bound.keys)]
        scores.append(sum(known) if 2 * len(known) > len(graph.params) else 0)
    most = max(scores, default=0)
    return shipped()[scores.index(most)] if most and scores.count(most) == 1 else None


def _complete(graph: Graph, stored: Stored) -> None:
    wanted = {p: x.shape for p, x in graph.params.items()}
    faults = [f"{p}" for p in wanted if p not in stored.tensors] + [k for k in stored.tensors if k not in wanted]
    faults += [p for p, shape in wanted.items() if stored.shapes.get(p, shape) != shape]
    if faults:
        raise error(
            "E-WEIGHT-MATCH",
            f"`{stored.name}` does not hold the weights of `{graph.name}`: {_some(faults)}",
            help="give the spec, --input and --set that the weights were made with",
        )


# -- what is said --------------------------------------------------------------------------------


def _ambiguities(found: Import) -> list[Diagnostic]:
    return [
        Diagnostic(
            "E-WEIGHT-AMBIGUOUS",
            f"{_some(a.paths)} could each be any of {_some(a.keys)}: their shapes are equal,"
            " and nothing tells them apart",
            help="say which is which in a table, and give it with --table",
        )
        for a in found.matching.ambiguous
    ]


def _unmatched(found: Import) -> list[Diagnostic]:
    m, out = found.matching, []
    if m.missing:
        out.append(f"{len(m.missing)} missing ({_some(m.missing)})")
    if m.unexpected:
        out.append(f"{len(m.unexpected)} unexpected ({_some(m.unexpected)})")
    help = "say in a table (--table) what they are called, or what to drop; --partial takes the others"
    title = f"what is stored is not the weights of `{found.graph.name}`: {', '.join(out)}"
    return [Diagnostic("E-WEIGHT-MATCH", title, help=help)] if out else []


def _mismatches(found: Import) -> list[Diagnostic]:
    return [
        Diagnostic(
            "E-WEIGHT-RESIZE" if x.reason.resizable else "E-WEIGHT-MATCH",
            f"`{x.path}` is {list(x.wanted)}, stored is {list(x.stored)} (`{x.key}`): {x.reason}",
            help=x.reason.help,
        )
        for x in found.mismatched
    ]


def _untransformed(link: Link, e: TransformError) -> Diagnostic:
    title = f"`{link.path}` is not {_some(link.keys)} transformed: {e}"
    return Diagnostic("E-WEIGHT-TRANSFORM", title, help="change its line in the table")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{n}`" for n in names[:_SHOWN]) + more


def _line(link: Link) -> str:
    via = f" ({', '.join(map(str, link.via))})" if link.changes else ""
    return f"{link.path} <- {' + '.join(link.keys)}{via}"


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    """The lines, one for all that differ in numbers of stages and blocks only."""
    kinds: dict[str, list[str]] = {}
    for line in lines:
        kinds.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", line), []).append(line)
    if not kinds:
        return []
    rows = [f"  {of[0]}" if len(of) == 1 else f"  {kind}  x{len(of)}" for kind, of in kinds.items()]
    return [f"{title}: {len(lines)}", *rows]
