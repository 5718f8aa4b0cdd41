"""Turns two graphs, or a graph and timm's model, into the first result that differs on equal weights and images.

Graphs are interpreted one op at a time in float64. Results of two graphs are those of equal call paths; of a graph
and timm's model, those of the modules and the ops that own the same weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from archdsl.backends.torch.alone import Declined
from archdsl.diagnostics import Span, error
from archdsl.ir.graph import Graph, Node, Parameter, Value
from archdsl.testing import trace
from archdsl.weights.deploy import fold_weights
from archdsl.weights.families import by_name, shipped
from archdsl.weights.geometry import geometry
from archdsl.weights.match import Link, Matching, match, squeezed
from archdsl.weights.random import random_weight
from archdsl.weights.stores import TIMM, execution_order, read_file, timm_model
from archdsl.weights.transforms import TransformError

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor, nn

RANDOM = "random:"
TOLERANCE = 1e-9
"""Relative difference in float64: rounding differs by the order of summation, a wrong wiring by far more."""
MOST = 8
"""Deviating results that are listed; the rest are counted."""

State = dict[str, "Tensor"]


@dataclass(frozen=True)
class Point:
    """One result that both sides compute. Deviations are largest differences, `relative` to the largest value."""

    path: str
    what: str
    """The op's name, or what kind of module it is the result of."""
    span: Span | None
    shapes: tuple[str, str]
    absolute: float
    relative: float
    note: str = ""


@dataclass(frozen=True)
class Trial:
    """Every compared result of two sides, in the order of the first; `deviating` are those that count as different."""

    names: tuple[str, str]
    conditions: str
    """What was compared, on which weights and images."""
    points: tuple[Point, ...]
    deviating: tuple[Point, ...]
    tolerance: float = TOLERANCE
    remarks: tuple[str, ...] = ()

    @property
    def last_equal(self) -> Point | None:
        """The last result before the first deviation."""
        if not self.deviating:
            return None
        before = self.points[: self.points.index(self.deviating[0])]
        return next((p for p in reversed(before) if p not in self.deviating), None)

    def text(self) -> str:
        """The verdict and, where there is one, the first deviation."""
        out = [self.conditions, *self.remarks]
        if not self.deviating:
            near = [p.relative for p in self.points if p.relative <= self.tolerance]
            elsewhere = len(self.points) - len(near)
            if elsewhere:
                out.append(
                    f"{elsewhere} results inside modules differ, but what follows agrees: they are cut elsewhere"
                )
            return "\n".join([*out, f"{len(near)} results agree: at most {max(near, default=0):.1e} apart, relatively"])
        p = self.deviating[0]
        out.append(f"first deviation of {len(self.deviating)}: {p.path} ({p.what}){_at(p.span)}")
        out.append(f"  {_apart(p)}{', ' + p.note if p.note else ''}")
        out += [f"  {name} {shape}" for name, shape in zip(self.names, p.shapes, strict=True)]
        last = self.last_equal
        out.append(
            "  nothing before it agrees" if last is None else f"  last agreement before: {last.path} ({last.what})"
        )
        return "\n".join(out)

    def table(self) -> Table:
        """The first deviations."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        for title in ("deviating result", "computed by", "spec", "shape"):
            table.add_column(title)
        table.add_column("absolute", justify="right")
        table.add_column("relative", justify="right")
        for p in self.deviating[:MOST]:
            shape = p.shapes[0] if p.shapes[0] == p.shapes[1] else " | ".join(p.shapes)
            table.add_row(p.path, p.what, str(p.span or ""), shape, f"{p.absolute:.1e}", f"{p.relative:.1e}")
        return table


# -- two graphs ----------------------------------------------------------------------------------


def compare_graphs(
    a: Graph,
    b: Graph,
    weights: str = RANDOM + "0",
    tolerance: float = TOLERANCE,
    *,
    evaluated: Graph | None = None,
) -> Trial:
    """Runs both on the same weights (`random:SEED`, or a safetensors file in our names) and the same image.

    `evaluated` is the eval graph of the one in deploy mode: the weights are its, and are folded. Raises E-INPUT where
    their images differ, E-WEIGHTS where a weight is missing or has another shape, and E-WEIGHT-DEPLOY.
    """
    _same_input(a, b)
    states, remarks = _states((a, b), evaluated, weights)
    image = _image(a)
    points: dict[str, Point] = {}
    keys = _keys(a, b), _keys(b, a)
    try:
        for key, node, x, y in _together(keys, trace(a, states[0], image), trace(b, states[1], image)):
            points[key] = _point(key, node.op.name, node.span, x, [y], tolerance)
    except Declined as e:
        raise error("E-LOWERING", f"a result cannot be computed: {e}") from e
    order = [key for found in keys[0].values() for key in found if key in points]
    listed = tuple(points[key] for key in order)
    conditions = f"{len(listed)} results of `{a.name}` and `{b.name}` {_conditions(weights, image)}"
    deviating = tuple(p for p in listed if not p.relative <= tolerance)
    names = (a.name, b.name) if a.name != b.name else (f"{a.name} (1)", f"{b.name} (2)")
    return Trial(names, conditions, listed, deviating, tolerance, tuple(remarks))


def _states(graphs: Sequence[Graph], evaluated: Graph | None, weights: str) -> tuple[list[State], list[str]]:
    """The weights of both, and what is to be said of them."""
    trained = [evaluated if g.mode == "deploy" and evaluated is not None else g for g in graphs]
    states = []
    for graph, source in zip(graphs, trained, strict=True):
        state = _state(source, weights)
        states.append(state if source is graph else fold_weights(source, graph, state))
    a, b = (g.params for g in trained)
    named = [p for p in {**a, **b} if p not in a or p not in b]
    named += [p for p in a if p in b and a[p].shape != b[p].shape]
    remarks = [f"{len(named)} weights are not the same in both, first `{named[0]}`"] if named else []
    if evaluated is not None:
        remarks.append("the weights of the deploy graph are made of those of its eval graph")
    return states, remarks


def _keys(graph: Graph, other: Graph) -> dict[Value, list[str]]:
    """Under what each value is compared: its call path where both have it, else as a feature or an output."""
    out: dict[Value, list[str]] = {}
    for node in graph.nodes():
        for value in node.values:
            if value.type.kind != "frame" and node.path in other and len(other.node(node.path).outputs) > value.index:
                out.setdefault(value, []).append(f"{node.path}:{value.index}" if value.index else node.path)
    for feature in graph.features:
        out.setdefault(feature.value, [f"{feature.stage} (feature)"])
    for i, value in enumerate(graph.outputs):
        out.setdefault(value, []).append(f"output {i + 1}")
    return out


def _together(
    keys: tuple[Mapping[Value, list[str]], Mapping[Value, list[str]]],
    a: Iterator[tuple[Node, list[Any]]],
    b: Iterator[tuple[Node, list[Any]]],
) -> Iterator[tuple[str, Node, Any, Any]]:
    """Pairs of results under one key, each as soon as both are there, so that few are held at a time."""
    waiting: tuple[dict[str, tuple[Node, Any]], dict[str, tuple[Node, Any]]] = ({}, {})
    shared = {k for found in keys[0].values() for k in found} & {k for found in keys[1].values() for k in found}
    sides: list[Iterator[tuple[Node, list[Any]]] | None] = [a, b]
    while any(side is not None for side in sides):
        for at, side in enumerate(sides):
            step = None if side is None else next(side, None)
            if step is None:
                sides[at] = None
                continue
            node, results = step
            for value, x in zip(node.values, results, strict=True):
                for key in keys[at].get(value, ()):
                    if key in waiting[1 - at]:
                        other, y = waiting[1 - at].pop(key)
                        yield (key, node, x, y) if at == 0 else (key, other, y, x)
                    elif key in shared:
                        waiting[at][key] = node, x


# -- a graph and timm's model --------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A result of ours, and the module of timm's model whose result it should be."""

    path: str
    what: str
    span: Span | None
    value: Value
    module: str
    call: int = 0
    within: str = ""
    """Our weight path, to tell what lies in what."""


def compare_timm(graph: Graph, name: str, weights: str = RANDOM + "0", tolerance: float = TOLERANCE) -> Trial:
    """Runs the graph and timm's model `name` on the same weights and the same image.

    With `random:SEED` timm's weights are drawn and translated; a safetensors file holds ours, which are translated
    back. Raises E-WEIGHTS where the two do not have the same weights, and E-DEPENDENCY without timm.
    """
    import torch

    model = _model(graph, name)
    theirs = dict(model.state_dict())
    found = _matched(graph, model, name)
    try:
        if weights.startswith(RANDOM):
            drawn = {
                k: _drawn(k, tuple(t.shape), t.dtype, weights) for k, t in theirs.items() if k not in found.dropped
            }
            state = {link.path: _forward(graph, link, drawn) for link in found.links}
        else:
            state = _state(graph, weights)
            drawn = {k: t for link in found.links for k, t in _backward(graph, link, state, theirs).items()}
    except TransformError as e:
        raise error("E-WEIGHTS", f"weights cannot be brought from one naming to the other: {e}") from e
    model.double().eval().load_state_dict({**theirs, **drawn})
    image = _image(graph)
    state = {p: t.double() if t.is_floating_point() else t for p, t in state.items()}
    places = _places(graph, found, model)
    outputs: dict[str, list[Any]] = defaultdict(list)
    hooks = [model.get_submodule(p).register_forward_hook(_recorder(outputs[p])) for p in {p.module for p in places}]
    with torch.no_grad():
        logits = model(image)
    for hook in hooks:
        hook.remove()
    wanted: dict[Value, list[_Place]] = defaultdict(list)
    calls = {p: sum(1 for place in places if place.module == p and place.what not in _KINDS) for p in outputs}
    for place in places:
        found_there = outputs[place.module]
        whole = len(found_there) == max(1, calls[place.module])
        if whole and isinstance(found_there[place.call], torch.Tensor):
            wanted[place.value].append(place)
    points: list[tuple[_Place | None, Point]] = []
    try:
        for node, results in trace(graph, state, image):
            for value, x in zip(node.values, results, strict=True):
                for place in wanted.get(value, ()):
                    candidates = _arranged(value, outputs[place.module][place.call], x)
                    points.append((place, _point(place.path, place.what, place.span, x, candidates, tolerance)))
                if value == graph.outputs[0]:
                    points.append((None, _point("logits", "output", node.span, x, [logits], tolerance)))
    except Declined as e:
        raise error("E-LOWERING", f"a result cannot be computed: {e}") from e
    kinds = {k: sum(p.what == k for _, p in points) for k in _KINDS}
    counted = ", ".join(f"{n} {k}s" for k, n in kinds.items() if n)
    ops = len(points) - sum(kinds.values()) - 1
    conditions = (
        f"{len(points)} results of `{graph.name}` and timm's `{name}` ({ops} layers, {counted or 'no blocks'}, the "
        f"logits: what owns the same weights) {_conditions(weights, image)}"
    )
    listed = tuple(p for _, p in points)
    return Trial((graph.name, TIMM + name), conditions, listed, tuple(_confirmed(points, tolerance)), tolerance)


_KINDS = ("stage", "block", "call")


def _recorder(into: list[Any]) -> Callable[[Any, Any, Any], None]:
    def record(_module: Any, _inputs: Any, result: Any) -> None:
        into.append(result)

    return record


def _confirmed(points: Sequence[tuple[_Place | None, Point]], tolerance: float) -> Iterator[Point]:
    """Deviations that everything around them shares: timm cuts some modules elsewhere than we do."""
    wrong = {p.path for _, p in points if not p.relative <= tolerance}
    if "logits" not in wrong:
        return
    for place, point in points:
        around = (
            []
            if place is None
            else [q for other, q in points if other is not None and other.what in _KINDS and _inside(place, other)]
        )
        if point.path in wrong and all(q.path in wrong for q in around):
            yield point


def _inside(inner: _Place, outer: _Place) -> bool:
    return inner is not outer and inner.within.startswith(outer.within + ".")


def _model(graph: Graph, name: str) -> nn.Module:
    """timm's model, built for the graph's image and number of classes."""
    channels, height, width = (int(d) for d in graph.inputs[0].type.dims)
    more: dict[str, object] = {"num_classes": int(graph.outputs[0].type.dims[0]), "in_chans": channels}
    try:
        return timm_model(name, img_size=(height, width), **more)
    except TypeError:  # a model that takes images of any size
        return timm_model(name, **more)


def _matched(graph: Graph, model: nn.Module, name: str) -> Matching:
    """How every weight of ours corresponds to timm's. Raises E-WEIGHTS."""
    shapes = {k: tuple(t.shape) for k, t in model.state_dict().items()}
    found = match(graph, shapes, by_name(shipped(), graph.name, name), execution_order(model))
    left = [f"`{p}` is only in `{graph.name}`" for p in found.missing]
    left += [f"`{k}` is only in timm's `{name}`" for k in found.unexpected]
    left += [f"`{a.paths[0]}` could be any of {', '.join(a.keys[:3])}" for a in found.ambiguous]
    if left:
        raise error("E-WEIGHTS", f"the weights of the two do not correspond: {left[0]}", help=_others(left[1:]))
    return found


def _others(left: Sequence[str]) -> str:
    return "; ".join([*left[:3], *([f"and {len(left) - 3} more"] if len(left) > 3 else [])])


def _forward(graph: Graph, link: Link, theirs: Mapping[str, Tensor]) -> Tensor:
    """Our tensor of timm's."""
    known = geometry(graph)
    tensors: Sequence[Tensor] = [theirs[k] for k in link.keys]
    for step in link.via:
        tensors = [(step.settle(known[link.path]) if link.path in known else step).apply(tensors)]
    shape = tuple(int(n) for n in graph.params[link.path].shape)
    for step in squeezed(tuple(tensors[0].shape), shape):
        tensors = [step.apply(tensors)]
    return tensors[0]


def _backward(graph: Graph, link: Link, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> State:
    """timm's tensors of ours. Raises TransformError."""
    known = geometry(graph)
    parts: Sequence[Tensor | None] = [ours[link.path]]
    for step in reversed(link.via):
        assert parts[0] is not None
        parts = (step.settle(known[link.path]) if link.path in known else step).undo(parts[0])
    stored = [p for p in parts if p is not None]
    return {k: t.reshape(theirs[k].shape) for k, t in zip(link.keys, stored, strict=True)}


def _places(graph: Graph, found: Matching, model: nn.Module) -> list[_Place]:
    """Layers, calls of defs, blocks and stages of ours whose weights are all those of one module of timm's."""
    keys = {link.path: link.keys for link in found.links}
    dropped = set(found.dropped)
    owned: dict[str, set[str]] = defaultdict(set)
    for key in model.state_dict():
        parts = key.split(".")
        for i in range(1, len(parts)) if key not in dropped else ():
            owned[".".join(parts[:i])].add(key)

    def module_of(paths: Iterable[str]) -> str | None:
        mine = {k for p in paths for k in keys[p]}
        if not mine:
            return None
        heads = [k.split(".")[:-1] for k in mine]
        common = [parts[0] for parts in zip(*heads, strict=False) if len(set(parts)) == 1]
        while common and any(h[: len(common)] != common for h in heads):
            common.pop()
        name = ".".join(common)
        return name if name and owned[name] == mine else None

    out: list[_Place] = []
    calls: dict[str, int] = defaultdict(int)
    below: dict[int, set[str]] = defaultdict(set)
    for node in graph.weight_nodes():
        paths = {path for _, path in node.params}
        for region in graph.region_chain(node.region):
            below[region.id] |= paths
        module = module_of(paths)
        if node.op.name != "param" and module is not None and not list(model.get_submodule(module).children()):
            out.append(_Place(node.path, node.op.name, node.span, node.value(), module, calls[module], node.module))
            calls[module] += 1
    features = {f.stage: f.value for f in graph.features}
    layers = {p.module for p in out}
    for region in graph.regions:
        value = region.results[0] if region.results else features.get(region.module)
        module = module_of(below[region.id])
        if module is None or value is None or module in layers or value.type.kind == "frame" or region.share:
            continue
        parent = None if region.parent is None else graph.regions[region.parent]
        kind = "call" if region.kind == "call" else "stage"
        if region.kind == "call" and not region.segment and parent is not None and parent.kind == "blocks":
            kind = "block"
        out.append(_Place(region.module, kind, region.span, value, module, 0, region.module))
    return out


def _arranged(value: Value, theirs: Tensor, ours: Tensor) -> list[Tensor]:
    """timm's tensor in every order of axes that could be ours: channels or positions first, positions in rows."""
    if theirs.shape == ours.shape and value.type.kind == "vec":
        return [theirs]
    out = [theirs] if theirs.shape == ours.shape else []
    if theirs.numel() != ours.numel():
        return out or [theirs]
    if ours.ndim == 4:
        b, c, h, w = ours.shape
        out += [theirs.reshape(b, h, w, c).permute(0, 3, 1, 2), theirs.reshape(b, c, h, w)]
    elif ours.ndim == 3:
        b, n, c = ours.shape
        out += [theirs.reshape(b, n, c), theirs.reshape(b, c, n).transpose(1, 2)]
    else:
        out.append(theirs.reshape(ours.shape))
    return out


# -- what both share -----------------------------------------------------------------------------


def _point(path: str, what: str, span: Span | None, ours: Any, theirs: list[Any], tolerance: float) -> Point:
    """The deviation from the candidate that is closest; values are compared without their order last."""
    import torch

    x = torch.as_tensor(ours).detach().double()
    shapes = _shape(x), _shape(torch.as_tensor(theirs[0]))
    best, note = (float("inf"), float("inf")), "shapes differ"
    for candidate in theirs:
        y = torch.as_tensor(candidate).detach().double()
        if y.shape == x.shape:
            best, note = min(best, _apart_by(x, y)), ""
    if not best[1] <= tolerance and len(theirs) > 1:
        sorted_by = _apart_by(x.flatten().sort()[0], torch.as_tensor(theirs[0]).detach().double().flatten().sort()[0])
        if sorted_by[1] <= max(tolerance, best[1] / 10):
            best, note = sorted_by, "compared in order of size: positions are in another order"
    return Point(path, what, span, shapes, *best, note)


def _apart_by(x: Tensor, y: Tensor) -> tuple[float, float]:
    if not x.numel():
        return 0.0, 0.0
    absolute = float((x - y).abs().max())
    if absolute != absolute:  # not a number on one side
        return float("inf"), float("inf")
    largest = float(y.abs().max())
    return absolute, absolute / largest if largest else (float("inf") if absolute else 0.0)


def _state(graph: Graph, weights: str) -> State:
    """Every parameter and buffer in float64. Raises E-WEIGHTS and what reading a file raises."""
    if weights.startswith(RANDOM):
        return {p: _drawn(p, _sizes(x), _dtype(x), weights).clone() for p, x in graph.params.items()}
    stored = read_file(weights).tensors
    for path, parameter in graph.params.items():
        if path not in stored:
            raise error("E-WEIGHTS", f"`{weights}` has no `{path}`, which `{graph.name}` needs")
        if tuple(stored[path].shape) != _sizes(parameter):
            shapes = f"{list(stored[path].shape)}, in `{graph.name}` {list(_sizes(parameter))}"
            raise error("E-WEIGHTS", f"`{path}` has the shape {shapes}")
    return {p: stored[p].double() if stored[p].is_floating_point() else stored[p] for p in graph.params}


def _drawn(name: str, shape: tuple[int, ...], dtype: Any, weights: str) -> Tensor:
    """Random values of a tensor, by name and seed."""
    import torch

    seed = weights.removeprefix(RANDOM) or "0"
    if not seed.isdecimal() or len(seed) > 9:
        raise error("E-WEIGHTS", f"`{weights}` is not random:SEED", help="the seed is an integer, as in random:0")
    if dtype is not None and not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    return random_weight(name, shape, int(seed))


def _dtype(parameter: Parameter) -> Any:
    import torch

    return getattr(torch, parameter.dtype or "float32")


def _sizes(parameter: Parameter) -> tuple[int, ...]:
    return tuple(int(n) for n in parameter.shape)


def _same_input(a: Graph, b: Graph) -> None:
    sizes = [tuple(int(d) for d in g.inputs[0].type.dims) for g in (a, b)]
    if sizes[0] != sizes[1]:
        shown = ["x".join(map(str, s)) for s in sizes]
        raise error(
            "E-INPUT",
            f"`{a.name}` takes images of {shown[0]}, `{b.name}` of {shown[1]}",
            help=f"give both one size: --input {shown[0]}",
        )


def _image(graph: Graph) -> Tensor:
    import torch

    size = tuple(int(d) for d in graph.inputs[0].type.dims)
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _conditions(weights: str, image: Tensor) -> str:
    return f"on the weights {weights} and a random image {_shape(image)[2:]}, in float64 and eval mode"


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape)) or "scalar"


def _apart(p: Point) -> str:
    return f"{p.absolute:.2e} apart, {p.relative:.2e} of the largest value"


def _at(span: Span | None) -> str:
    return "" if span is None else f" at {span}"
