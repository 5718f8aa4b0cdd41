"""Holds ops to their contract: what an op says of shapes, weights and costs is what its PyTorch does.

For us and for authors of ops: `check_op(MyOp)` runs every example of the op, `check_neighbours(MyOp)` looks
for inputs around the examples that crash instead of raising ShapeError. Torch is imported
only inside the functions.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from archdsl.backends.torch.alone import Bench, Declined, Types, bench, results, shape_of
from archdsl.ir.graph import Graph, Node, Value
from archdsl.ir.types import AXES, Frame, TensorType
from archdsl.ops.base import Call, Example, Op, ShapeError, op_of

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy
    from torch import Tensor, nn

# -- values ---------------------------------------------------------------------------------------


def random_tensor(t: TensorType, axes: str, batch: int, port: str = "", **kind: Any) -> Tensor:
    """Positive numbers (every function is defined there); a permutation for a port that wants an order."""
    import torch

    shape = shape_of(t, axes, batch)
    if port == "order":
        order = torch.stack([torch.randperm(shape[-1]) for _ in range(max(1, math.prod(shape[:-1])))])
        return order.reshape(shape).to(kind.get("device", "cpu"))
    return torch.rand(shape, **kind) + 0.1


def random_inputs(op: Op, types: Types, axes: str, batch: int, room: Bench, **kind: Any) -> list[Any]:
    """Operands for a module made by `Bench.module`, absent ones left out."""
    ports = [p.strip("?*") for p in op.ports]
    values: list[Any] = []
    for slot, t in enumerate(types):
        if t is None:
            continue
        if t.kind == "frame":
            values.append(room.frame(t.frames[-1]))
        else:
            values.append(random_tensor(t, axes, batch, ports[min(slot, len(ports) - 1)], **kind))
    return values


def moved(value: Any, t: TensorType, source: str, target: str) -> Any:
    """A value of type `t` brought from one order of axes ("first", "last") to another."""
    if t.kind != "map" or not t.batched or source == target:
        return value
    return value.permute(0, 2, 3, 1) if target == "last" else value.permute(0, 3, 1, 2)


def completed(op: Op, types: Types) -> Types:
    """The operands as the frontend would pass them: with the port "frame?" filled where the op wants it."""
    if "frame?" not in op.ports or not op.wants_frame(*types):
        return types
    slot = op.ports.index("frame?")
    frames = next((t.frames for t in types if t is not None and t.frames), ())
    if not frames or (slot < len(types) and types[slot] is not None):
        return types
    padded = (*types[:slot], *(None,) * (slot - len(types)))
    return (*padded, TensorType("frame", (), frames), *types[slot + 1 :])


def run_op(op: Op, types: Types, tensors: Sequence[Any], axes: str = "last") -> list[Any]:
    """Results of the op on tensors laid out as lowerings expect them, with fresh weights, in eval mode.

    `op` need not be resolved. Operands that are absent in `types` are left out of `tensors`; a frame operand
    is a run-time frame, or is left out to be made from its type. Raises Declined where the op has no lowering.
    """
    import torch

    with bench() as room, torch.no_grad():
        op = op.resolve(*types)
        full = completed(op, types)
        module = room.module(op, full, axes).eval()
        values = list(tensors)
        at = 0
        for t in full:
            if t is not None and t.kind == "frame" and (at >= len(values) or isinstance(values[at], torch.Tensor)):
                values.insert(at, room.frame(t.frames[-1]))
            at += t is not None
        if tensors and isinstance(tensors[0], torch.Tensor):
            module = module.to(tensors[0].dtype)
        return results(module(*values), op.infer(*full))


# -- whole graphs ---------------------------------------------------------------------------------


def interpret(graph: Graph, state: Mapping[str, Tensor], image: Tensor) -> list[Tensor]:
    """The graph's outputs for [B, C, H, W] images, one op at a time, each in a module of its own.

    Knows nothing of classes, loops, folding or axis orders, so it judges emitted modules. `state` holds every
    parameter and buffer by path. Raises Declined.
    """
    known: dict[Value, Any] = {}
    for node, found in trace(graph, state, image):
        known |= {v: x for v, x in zip(node.values, found, strict=True) if v in graph.outputs}
    return [known[v] for v in graph.outputs]


def trace(graph: Graph, state: Mapping[str, Tensor], image: Tensor) -> Iterator[tuple[Node, list[Any]]]:
    """Every node with its results, as `interpret` computes them: maps are [B, C, H, W], frames lie in the batch.

    A result is kept while an op still needs it. Raises Declined.
    """
    import torch

    def turned(x: Any, value: Value, axes: str) -> Any:
        """A map between the interpreter's [B, C, H, W] and the order an op works in."""
        if value.type.kind != "map" or not value.type.batched or axes == "first":
            return x
        return x.permute(0, 2, 3, 1)

    known: dict[Value, Any] = {}
    readers = {v: len(graph.users(v)) for node in graph.nodes() for v in node.values}
    with bench() as room:
        for node in graph.nodes():
            operands = graph.operands(node)
            if node.op.name == "input":
                found = [image]
            else:
                op = op_of(node)
                axes = op.axes[0]
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    module = room.module(op, graph.operand_types(node), axes).to(image.dtype).eval()
                    torch.manual_seed(0)  # what an op draws does not depend on where it stands
                    weights = {"op" + (f".{role}" if role else ""): state[path] for role, path in node.params}
                    module.load_state_dict(weights)
                    given = [turned(known[v], v, axes) for v in operands if v is not None]
                    found = []
                    for value, x in zip(node.values, results(module(*given), node.outputs), strict=True):
                        back = value.type.kind == "map" and value.type.batched and axes == "last"
                        found.append(x.permute(0, 3, 1, 2) if back else x)
            known |= zip(node.values, found, strict=True)
            for v in operands:
                if v is not None:
                    readers[v] -= 1
                    if not readers[v]:
                        del known[v]
            yield node, found


# -- the contract ---------------------------------------------------------------------------------


def check_op(cls: type[Op]) -> None:
    """Asserts the whole contract on every example of the op."""
    assert cls.examples, f"{cls.__name__} has no examples"
    with bench() as room:
        for example in cls.examples:
            try:
                check_example(cls, example, room)
            except Exception as error:
                error.add_note(f"in {cls.__name__}, {example}")
                raise


def check_example(cls: type[Op], example: Example, room: Bench) -> None:
    """Asserts the contract on one example."""
    written = cls(**example.attrs)
    assert type(written)(**written.attributes()) == written, "attributes() does not rebuild the op"
    op = written.resolve(*example.inputs)
    types = completed(op, example.inputs)
    assert op.resolve(*types) == op, "resolve is not idempotent"
    assert type(op)(**op.attributes()) == op, "attributes() of the resolved op does not rebuild it"
    outputs = op.infer(*types)
    assert op.timm_flops(types, outputs) >= 0
    modules = {}
    for axes in op.axes:
        try:
            modules[axes] = room.module(op, types, axes)
        except Declined:
            continue
    for axes, module in modules.items():
        check_weights(op, types, module)
        check_shapes(op, types, axes, room)
        check_values(op, types, axes, module, room)
        if not example.note:
            check_macs(op, types, axes, room)
        check_outer_frame(op, types, axes, room)
        check_other_size(op, example, axes, room)
    if len(modules) > 1:
        check_axes_agree(op, types, modules, room)


def randomise(module: nn.Module) -> nn.Module:
    """Every float of the state dict drawn anew, in float64, positive: default values hide mistakes."""
    import torch

    module.double()
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.1)
    return module


def check_weights(op: Op, types: Types, module: nn.Module) -> None:
    """Names, order, shapes, kinds and types of the state dict are those that `weights` states."""
    parameters = dict(module.named_parameters())
    real = {
        name: (
            tuple(value.shape),
            "param" if name in parameters else "buffer",
            str(value.dtype).removeprefix("torch."),
        )
        for name, value in module.state_dict().items()
    }
    stated = {
        "op" + ("." + w.role if w.role else ""): (
            tuple(int(d) for d in w.shape),
            w.kind,
            w.dtype or "float32",
        )
        for w in op.weights(*types)
    }
    assert list(real.items()) == list(stated.items()), f"weights are {real}, stated {stated}"


def check_shapes(op: Op, types: Types, axes: str, room: Bench) -> None:
    """Inferred types are what the module returns on the meta device."""
    import torch

    with torch.device("meta"):
        module = room.module(op, types, axes)
        got = results(module(*random_inputs(op, types, axes, 2, room, device="meta")), op.infer(*types))
    compare_shapes(got, op.infer(*types), axes, 2)


def compare_shapes(got: Sequence[Any], outputs: Sequence[TensorType], axes: str, batch: int) -> None:
    for value, t in zip(got, outputs, strict=True):
        if t.kind != "frame":
            assert tuple(value.shape) == shape_of(t, axes, batch), f"{t} came out as {tuple(value.shape)} ({axes})"


def check_values(op: Op, types: Types, axes: str, module: nn.Module, room: Bench) -> None:
    """Values and gradients are finite in float64, whose results keep their type; bfloat16 works too."""
    import torch

    module = randomise(module)
    inputs = random_inputs(op, types, axes, 2, room, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in inputs if isinstance(x, torch.Tensor) and x.is_floating_point()]
    outputs = op.infer(*types)
    got = results(module.train()(*inputs), outputs)
    compare_shapes(got, outputs, axes, 2)
    floats = [y for y, t in zip(got, outputs, strict=True) if t.kind != "frame" and y.is_floating_point()]
    assert all(y.dtype == torch.float64 and y.isfinite().all() for y in floats), "float64 in, something else out"
    leaves += list(module.parameters())
    if any(y.requires_grad for y in floats):
        sum(y.square().sum() for y in floats if y.requires_grad).backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in leaves), "a gradient is not finite"
    assert all(p.grad is not None for p in module.parameters()), "a weight got no gradient"
    with torch.no_grad():
        low = room.module(op, types, axes).eval().to(torch.bfloat16)
        rough = results(low(*random_inputs(op, types, axes, 2, room, dtype=torch.bfloat16)), outputs)
    for y, t in zip(rough, outputs, strict=True):
        assert t.kind == "frame" or not y.is_floating_point() or y.dtype == torch.bfloat16, f"bfloat16 became {y.dtype}"


def check_macs(op: Op, types: Types, axes: str, room: Bench) -> None:
    """Multiply-accumulates are what torch counts: half of its FLOPs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        room.module(op, types, axes).eval()(*random_inputs(op, types, axes, 1, room, device="meta"))
    stated = op.macs(types, op.infer(*types))
    assert counter.get_total_flops() == 2 * stated, (
        f"stated {stated} MACs, torch counts {counter.get_total_flops() / 2}"
    )


def check_axes_agree(op: Op, types: Types, modules: dict[str, nn.Module], room: Bench) -> None:
    """Channels first and channels last compute the same."""
    import torch

    inputs = random_inputs(op, types, "last", 2, room, dtype=torch.float64)
    present = [t for t in types if t is not None]
    outputs = op.infer(*types)
    found = {}
    state = None
    for axes, module in modules.items():
        module.eval().double()
        state = state or module.state_dict()
        module.load_state_dict(state)
        torch.manual_seed(0)
        placed = [moved(x, t, "last", axes) for x, t in zip(inputs, present, strict=True)]
        with torch.no_grad():
            got = results(module(*placed), outputs)
        found[axes] = [moved(y, t, axes, "last") for y, t in zip(got, outputs, strict=True)]
    compare(found["first"], found["last"], outputs)


def compare(left: Sequence[Any], right: Sequence[Any], outputs: Sequence[TensorType]) -> None:
    import torch

    for a, b, t in zip(left, right, outputs, strict=True):
        if t.kind != "frame":
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def check_outer_frame(op: Op, types: Types, axes: str, room: Bench) -> None:
    """Inside one more frame, around all others, the op does to each cell what it does to a sample."""
    import torch

    outer = Frame("head", (3, 1), (1, 1), (3, 1))
    framed = tuple(t if t is None or not t.batched else replace(t, frames=(outer, *t.frames)) for t in types)
    if framed == types or op.wants_frame(*framed) != op.wants_frame(*types):
        return
    try:
        outputs = op.infer(*framed)
    except ShapeError:
        return
    plain = op.infer(*types)
    assert all(
        t == (replace(p, frames=(outer, *p.frames)) if p.batched else p) for t, p in zip(outputs, plain, strict=True)
    ), "an outer frame changes more of the result's type than its frames"
    assert op.weights(*framed) == op.weights(*types)
    assert op.macs(framed, outputs) == 3 * op.macs(types, plain) or not any(t.batched for t in plain)
    one, many = room.module(op, types, axes).eval(), room.module(op, framed, axes).eval()
    randomise(one)
    many.double().load_state_dict(one.state_dict())
    inputs = random_inputs(op, types, axes, 6, room, dtype=torch.float64)
    with torch.no_grad():
        torch.manual_seed(0)
        left = results(one(*inputs), plain)
        torch.manual_seed(0)
        compare(left, results(many(*inputs), plain), plain)


def check_other_size(op: Op, example: Example, axes: str, room: Bench) -> None:
    """The law of sizes: at another resolution a module computes what one built there computes."""
    import torch

    larger = tuple(
        t if t is None or t.kind != "map" else t.with_size(t.dims[1] + 2, t.dims[2] + 3) for t in example.inputs
    )
    if larger == example.inputs or any(t is not None and t.frames for t in larger):
        return
    types, same = completed(op, larger), completed(op, example.inputs)
    try:
        if op.resolve(*larger) != op or [w.shape for w in op.weights(*larger)] != [w.shape for w in op.weights(*same)]:
            return
        outputs = op.infer(*types)
        native = randomise(room.module(op, types, axes).eval())
    except (ShapeError, Declined):
        return
    built = room.module(op, same, axes).eval().double()
    built.load_state_dict(native.state_dict())
    inputs = random_inputs(op, types, axes, 2, room, dtype=torch.float64)
    with torch.no_grad():
        torch.manual_seed(0)
        wanted = results(native(*inputs), outputs)
        torch.manual_seed(0)
        got = results(built(*inputs), outputs)
    compare_shapes(got, outputs, axes, 2)
    compare(got, wanted, outputs)


def check_export(cls: type[Op]) -> None:
    """Every example's module is captured whole by torch.export and computes the same afterwards."""
    import torch

    with bench() as room:
        for example in cls.examples:
            op = cls(**example.attrs).resolve(*example.inputs)
            types, axes = completed(op, example.inputs), op.axes[0]
            try:
                module = randomise(room.module(op, types, axes).eval())
            except Declined:
                continue
            inputs = random_inputs(op, types, axes, 2, room, dtype=torch.float64)
            if not all(isinstance(x, torch.Tensor) for x in inputs):
                continue  # a frame is made and used inside a model, never passed to one
            outputs = op.infer(*types)
            if any(t.kind == "frame" for t in outputs):
                continue
            exported = torch.export.export(module, tuple(inputs)).module()
            torch.manual_seed(0)
            captured = results(exported(*inputs), outputs)
            torch.manual_seed(0)
            compare(captured, results(module(*inputs), outputs), outputs)


# -- neighbours of the examples -------------------------------------------------------------------

SMALL = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12)
NUMBERS = (-1.0, 0.0, 1e-6, 0.1, 0.5, 1.0, 2.0)
TEXTS = (
    "zeros",
    "ones",
    "constant(0.5)",
    "normal(0.1)",
    "trunc_normal(0.02)",
    "trunc_normal_tf(0.02)",
    "uniform(1)",
    "normal",
    "normal(x)",
    "",
)
FRAMES = (
    Frame("window", (2, 2), (3, 4), (6, 8)),
    Frame("window", (2, 2), (3, 4), (5, 7)),
    Frame("window", (2, 2), (4, 4), (8, 8), (2, 2)),
    Frame("grid", (2, 3), (3, 4), (6, 12)),
    Frame("chunk", (2, 1), (4, 1), (8, 1)),
    Frame("head", (2, 1), (1, 1), (2, 1)),
)


def check_neighbours(cls: type[Op], budget: int = 100) -> frozenset[str]:
    """Tries `budget` changes of the examples' attributes and operands; returns the error codes it met.

    An op either raises a ShapeError that names an attribute or port of its own, or has a lowering that runs
    and gives what `infer` said, or declines the lowering. Anything else is an AssertionError or the crash itself.
    """
    from hypothesis import HealthCheck, given, settings

    codes: set[str] = set()

    @settings(
        max_examples=budget,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(neighbours(cls))
    def attempt(case: tuple[dict[str, Any], Types]) -> None:
        code = try_neighbour(cls, *case)
        if code:
            codes.add(code)

    attempt()
    return frozenset(codes)


def try_neighbour(cls: type[Op], attrs: dict[str, Any], types: Types) -> str:
    """The code of the ShapeError that these attributes and operands raise, "" where they are right."""
    import torch

    written = cls(**attrs)
    op = written
    try:
        op = written.resolve(*types)
        types = completed(op, types)
        outputs = op.infer(*types)
        assert op.resolve(*types) == op, "resolve is not idempotent"
        weights = op.weights(*types)
        op.macs(types, outputs), op.timm_flops(types, outputs)
        lowerings = {axes: op.torch(Call(types, outputs, axes)) for axes in op.axes}
    except ShapeError as error:
        own = {f.name for f in dataclasses.fields(written)} | {f.name for f in dataclasses.fields(op)}
        ports = {p.strip("?*") for p in (*written.ports, *op.ports)}
        assert error.message and re.fullmatch(r"E-[A-Z]+(-[A-Z]+)*", error.code), error.code
        assert error.attr in own | {""}, f"{error.attr} is no attribute of {written.name}"
        assert error.port in ports | {""}, f"{error.port} is no port of {written.name}"
        return error.code
    present = [t for t in (*types, *outputs) if t is not None]
    if any(not t.batched and t.frames for t in present) or max([t.elements for t in present], default=0) > 1 << 16:
        return ""
    if sum(w.shape[0] if w.shape else 1 for w in weights) > 1 << 16:
        return ""
    with bench() as room, torch.no_grad():
        for axes, lowering in lowerings.items():
            if not isinstance(lowering, str):
                module = room.module(op, types, axes).eval()
                got = module(*random_inputs(op, types, axes, 2, room))
                compare_shapes(results(got, outputs), outputs, axes, 2)
    return ""


def neighbours(cls: type[Op]) -> SearchStrategy[tuple[dict[str, Any], Types]]:
    """Attributes and operands one or a few changes away from an example of the op."""
    from hypothesis import strategies as st

    fields = {f.name: f for f in dataclasses.fields(cls)}
    required = [i for i, p in enumerate(cls.ports) if p[-1] != "?"]

    def attribute(name: str) -> SearchStrategy[Any]:
        f = fields[name]
        if f.metadata.get("choices"):
            return st.sampled_from([*f.metadata["choices"], *([None] if "None" in str(f.type) else [])])
        low, high = f.metadata.get("low"), f.metadata.get("high")

        def inside(value: float) -> bool:
            return (low is None or value >= low) and (high is None or value <= high)

        ints = st.sampled_from([v for v in (*SMALL, -1, -2) if inside(v)])
        options: list[SearchStrategy[Any]] = []
        for kind in str(f.type).split("|"):
            match kind.strip():
                case "int":
                    options.append(ints)
                case "float":
                    options.append(st.sampled_from([v for v in NUMBERS if inside(v)]))
                case "bool":
                    options.append(st.booleans())
                case "str":
                    options.append(st.sampled_from(TEXTS))
                case "None":
                    options.append(st.none())
                case "Pair":
                    options.append(st.tuples(ints, ints))
                case "Ints":
                    options.append(st.lists(ints, max_size=4).map(tuple))
                case "Parts":
                    options.append(st.integers(1, 5))
                    options.append(st.lists(st.integers(1, 4) | st.just("rest"), max_size=4).map(tuple))
        return st.one_of(options)

    sizes = st.sampled_from([s for s in SMALL if s])
    anything = st.sampled_from(["map", "tokens", "vec", "scores"]).flatmap(
        lambda kind: st.builds(
            TensorType,
            st.just(kind),
            st.tuples(*[sizes] * len(AXES[kind])),
            st.sampled_from([(), *[(f,) for f in FRAMES], FRAMES[:1] * 2]),
            st.booleans(),
        )
    )

    def changed(t: TensorType) -> SearchStrategy[TensorType]:
        if t.kind == "frame":
            return st.just(t)
        one_size = st.tuples(st.integers(0, len(t.dims) - 1), sizes).map(
            lambda change: replace(t, dims=(*t.dims[: change[0]], change[1], *t.dims[change[0] + 1 :]))
        )
        framed = st.sampled_from(FRAMES).map(lambda f: replace(t, frames=(*t.frames, f)))
        return st.one_of(one_size, framed, st.just(replace(t, batched=not t.batched)), anything)

    @st.composite
    def case(draw: Any) -> tuple[dict[str, Any], Types]:
        example = draw(st.sampled_from(cls.examples))
        attrs = dict(example.attrs)
        types = [None if t is not None and t.kind == "frame" else t for t in example.inputs]
        for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)) if fields else ():
            attrs[name] = draw(attribute(name))
        if types and cls.ports[-1:] and cls.ports[-1].startswith("*") and draw(st.booleans()):
            types.append(draw(st.sampled_from(types)))
        for slot in draw(st.lists(st.integers(0, len(types) - 1), max_size=2)) if types else ():
            kept = types[slot]
            if slot not in required and slot < len(cls.ports) and draw(st.booleans()):
                types[slot] = None
            elif kept is not None:
                types[slot] = draw(changed(kept))
        if types and draw(st.booleans()):  # the same frame around all operands, so that they still agree
            frame = draw(st.sampled_from(FRAMES))
            types = [
                t if t is None or t.kind == "frame" or not t.batched else replace(t, frames=(*t.frames, frame))
                for t in types
            ]
        return attrs, tuple(types)

    return case()
