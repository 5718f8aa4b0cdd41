"""Turns the relayout pass into checks: what it leaves to be moved, and that its modules do what the others do."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from torch import Tensor, nn

from archdsl.api import compile_spec, elaborate
from archdsl.ir.graph import Graph
from archdsl.ir.verify import BrokenInvariant, verify
from archdsl.ops.base import op_of
from archdsl.passes.base import Draft, Pass
from archdsl.passes.pipeline import optimize
from archdsl.passes.relayout import Relayout
from tests.oracle.compare import check_exact, images, randomise, run
from tests.oracle.twin import Twin
from tests.oracle.twins import ARCHITECTURES
from tests.programs import programs

MOVES = ("windows", "grids", "merge", "regroup", "zero_padding")
MOVED = {"swin_t": (37, 15), "swinv2_t": (37, 15), "swin_s3_t": (31, 10), "gcvit_t": (62, 8), "maxvit_t": (44, 33)}
"""Launches that move positions at 224 (256), before and after; of Swin's, five are no copies: one window is the map."""
TWINS = {t.spec: t for t in ARCHITECTURES}
HERE = [pytest.param(TWINS[s], id=s, marks=() if s in ("swin_t", "maxvit_t") else pytest.mark.full) for s in MOVED]
BLOCKS = """language 1
def attn[shift, window](x: map[C]) {
  q, k, v = x |> windows[window, shift] |> linear@qkv[3 * C] |> split[3]
  return attend[2](q, k, v) |> merge |> linear@proj[C]
}
def block[shift, window](x: map) {
  x += drop_path(attn[shift, window](ln(x)))
  x += mlp[2](ln(x))
  return x
}
"""


def launches(graph: Graph) -> int:
    return sum(op_of(n).launches(graph.operand_types(n), n.outputs) for n in graph.nodes() if n.op.name in MOVES)


def modules(twin: Twin, **changes: object) -> tuple[nn.Module, nn.Module]:
    """The module as the spec has it, and with its maps kept in windows: tiny, the same random weights, fp64."""
    parameters = {**twin.tiny, **twin.settled, **changes}
    plain, moved = (
        compile_spec(twin.spec, input=(3, *twin.size), overrides=parameters, passes=passes).module().double().eval()
        for passes in ((), (Relayout(),))
    )
    randomise(plain, gain=twin.gain)
    moved.load_state_dict(plain.state_dict())
    assert list(plain.state_dict()) == list(moved.state_dict())
    return plain, moved


@pytest.mark.parametrize("spec", MOVED)
def test_fewer_moves(spec: str) -> None:
    graph = elaborate(spec)
    after = Relayout()(graph)
    assert not verify(after) and (launches(graph), launches(after)) == MOVED[spec]
    assert Relayout()(after) is after


def test_specs_without_windows_stay() -> None:
    for spec in ("convnext_t", "poolformer_s12", "vit_s16", "halonet26t", "cswin_t"):
        graph = elaborate(spec)
        assert Relayout()(graph) is graph


def sizes() -> list[object]:
    """At the declared size, at those of the reference, and where windows tile nothing and the map is no square."""
    out = []
    for spec in MOVED:
        twin = TWINS[spec]
        height, width = twin.size
        more = [(height + 40, width + 72)] if twin.sizes else []
        for size in (twin.size, *twin.sizes, *more):
            fast = spec in ("swin_t", "maxvit_t") and size in (twin.size, *more)
            name = f"{spec}-{size[0]}x{size[1]}"
            out.append(pytest.param(twin, size, id=name, marks=() if fast else pytest.mark.full))
    return out


@pytest.mark.parametrize(("twin", "size"), sizes())
def test_the_same_numbers_and_gradients(twin: Twin, size: tuple[int, int]) -> None:
    plain, moved = modules(twin)
    x = images(2, size)
    check_exact(run(moved, x, torch.float64), run(plain, x, torch.float64), twin.vanishing)


@pytest.mark.parametrize("built", [(40, 56), (32, 32), (33, 47)])
def test_small_maps_in_large_windows_and_ragged_ones(built: tuple[int, int]) -> None:
    """Where one window is the map at the size that is built for, and is not at another."""
    text = BLOCKS + (
        "arch a[classes = 10] {\n  input img: map[3, 32, 32]\n  stem { x = img |> conv[8, k = 2, s = 2] }\n"
        "  stage i in 2 -> x {\n    if i > 0 { x = x |> windows[2] |> pack |> linear[16] }\n"
        "    blocks j in 3 { x = block[shift = j % 2 * 4, window = 9](x) }\n  }\n"
        "  head { return x |> gap |> linear[classes] }\n}\n"
    )
    plain, moved = (
        compile_spec(text, input=(3, *built), passes=p).module().double().eval() for p in ((), (Relayout(),))
    )
    randomise(plain)
    moved.load_state_dict(plain.state_dict())
    for size in ((32, 32), (40, 56), (37, 21), (70, 30)):
        x = images(2, size)
        check_exact(run(moved, x, torch.float64), run(plain, x, torch.float64))


ENDINGS = ("x = x + dwconv[3](x)", "x = dwconv[3](x)", "x = x * sigmoid(linear(gap(x)))", "x = dwconv[3](x) + ln(x)")


@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("line", ENDINGS)
def test_blocks_that_need_raster_order_too(line: str, where: str) -> None:
    """Their loops stay loops, and hand on maps in raster order; between two attentions these stay in windows."""
    twice = "x = x |> block@a[shift = j % 2 * 2, window = 4] |> block@b[shift = 1, window = 4]"
    body = "\n".join([line, twice] if where == "first" else [twice, line])
    text = BLOCKS + (
        "arch a[classes = 10] {\n  input img: map[3, 32, 32]\n  stem { x = img |> conv[8, k = 2, s = 2] }\n"
        "  stage i in 2 -> x {\n    if i > 0 { x = x |> windows[2] |> pack |> linear[16] }\n"
        f"    blocks j in 3 {{ {body} }}\n  }}\n"
        "  head { return x |> gap |> linear[classes] }\n}\n"
    )
    graph = elaborate(text)
    after = Relayout()(graph)
    assert launches(after) < launches(graph)
    plain, moved = (compile_spec(text, passes=p) for p in ((), (Relayout(),)))
    assert moved.files["model.py"].count("for block in self.blocks:") == 1
    assert moved.files["model.py"].count("\nclass ") <= plain.files["model.py"].count("\nclass ") + 3
    one, other = plain.module().double().eval(), moved.module().double().eval()
    randomise(one)
    other.load_state_dict(one.state_dict())
    for size in ((32, 32), (38, 26)):
        x = images(2, size)
        check_exact(run(other, x, torch.float64), run(one, x, torch.float64))


def test_features_stay_as_they_are() -> None:
    plain, moved = modules(TWINS["swin_t"])
    x = images(2, (224, 224)).double()
    with torch.no_grad():
        for norm in (False, True):
            maps = [m.forward_intermediates(x, norm=norm) for m in (plain, moved)]
            torch.testing.assert_close(maps[1], maps[0], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(moved.forward_features(x), plain.forward_features(x), rtol=1e-9, atol=1e-12)
        few = [
            m.forward_intermediates(x, indices=[0, 1], stop_early=True, intermediates_only=True) for m in (plain, moved)
        ]
        torch.testing.assert_close(few[1], few[0], rtol=1e-9, atol=1e-12)
        moved.prune_intermediate_layers([0, 1])
        torch.testing.assert_close(
            moved.forward_intermediates(x, intermediates_only=True)[-1], few[0][1], rtol=1e-9, atol=1e-12
        )
    assert moved.feature_info == plain.feature_info or moved.feature_info.info == plain.feature_info.info


@pytest.mark.parametrize("twin", HERE)
def test_checkpoints_change_no_gradient(twin: Twin) -> None:
    _, moved = modules(twin)
    x = images(1, twin.size)
    plain = run(moved, x, torch.float64)
    calls: list[int] = []
    layer = next(m for m in moved.modules() if type(m).__name__ == "Mlp")
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    moved.set_grad_checkpointing()
    y = moved(x.double())
    functional = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).double()
    (y * functional).sum().backward()
    assert len(calls) == 2, "the forward, and that of the backward pass"
    for name, parameter in moved.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.gradients[name], rtol=1e-9, atol=1e-12)


def test_samples_are_dropped_whole() -> None:
    """In windows as outside of them: a dropped branch leaves the whole sample, and the mean stays."""
    text = BLOCKS + (
        "arch a[dpr = 0.5, classes = 10] {\n  input img: map[8, 8, 8]\n  stem { x = img |> conv[8] }\n"
        "  stage i in 1 -> x { blocks j in 2 { x = block[shift = 0, window = 4](x) } }\n"
        "  head { return x |> gap |> linear[classes] }\n}\n"
    )
    graph = elaborate(text, mode="train")
    after = Relayout()(graph)
    drops = [n for n in after.nodes() if n.op.name == "drop_path"]
    assert drops and all(n.op.attributes()["whole"] and n.outputs[0].frames for n in drops)
    module = compile_spec(text, mode="train", passes=(Relayout(),)).module()
    layer = next(m for m in module.modules() if type(m).__name__ == "DropPath" and m.rate > 0).train()
    torch.manual_seed(0)
    kept = layer(torch.ones(4000, 2, 2, 3), 4).reshape(1000, -1)
    assert ((kept == kept[:, :1]).all()) and 0.4 < float((kept[:, 0] > 0).double().mean()) < 0.6
    assert float(kept.mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("twin", HERE)
def test_captured_whole(twin: Twin) -> None:
    _, moved = modules(twin)
    x = images(2, twin.size).double()
    with torch.no_grad():
        y = moved(x)
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(moved, backend="aot_eager", fullgraph=True)(x), y)
        dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},)
        exported = torch.export.export(moved, (x,), dynamic_shapes=dynamic).module()
        torch.testing.assert_close(exported(torch.cat([x, x, x]))[:2], y)
        torch.testing.assert_close(copy.deepcopy(moved)(x), y)


@pytest.mark.parametrize("extent", [(8, 12), (7, 9)])
def test_the_gather_is_differentiable_twice(extent: tuple[int, int]) -> None:
    """By autograd, checked by finite differences, and by torch.func; with padding and without."""
    text = BLOCKS + (
        "arch a[classes = 10] {\n  input img: map[8, 8, 12]\n  stem { x = img |> conv[8] }\n"
        "  stage i in 1 -> x { blocks j in 2 { x = block[shift = j % 2 * 2, window = 4](x) } }\n"
        "  head { return x |> gap |> linear[classes] }\n}\n"
    )
    module = compile_spec(text, passes=(Relayout(),)).module().double()
    regroup = module.stages[0].blocks[1].regroup
    image = torch.randn(2, *extent, 3, dtype=torch.float64)
    x, frame = module.windows(image)

    def move(x: Tensor) -> Tensor:
        return regroup(x, frame)[0]

    x.requires_grad_()
    assert torch.autograd.gradcheck(move, x) and torch.autograd.gradgradcheck(move, x)
    by_function = torch.func.grad(lambda x: move(x).square().sum())(x.detach())
    torch.testing.assert_close(by_function, torch.autograd.grad(move(x).square().sum(), x)[0])


def test_made_on_meta() -> None:
    twin = TWINS["swin_t"]
    _, moved = modules(twin)
    files = compile_spec("swin_t", input=(3, *twin.size), overrides={**twin.tiny, **twin.settled}, passes=(Relayout(),))
    with torch.device("meta"):
        other = files.module()
    other = other.to_empty(device="cpu").double().eval()
    for part in other.modules():
        if hasattr(part, "init_non_persistent_buffers"):
            part.init_non_persistent_buffers()
    other.load_state_dict(moved.state_dict())
    x = images(1, twin.size).double()
    with torch.no_grad():
        torch.testing.assert_close(other.double()(x), moved(x))


def test_classes_are_as_few() -> None:
    """All stages of Swin are one class, all blocks another; MaxViT's blocks hand on maps in raster order."""
    for spec in ("swin_t", "maxvit_t"):
        source = [compile_spec(spec, passes=p).files["model.py"] for p in ((), (Relayout(),))]
        classes = [re.findall(r"^class (\w+)", text, re.MULTILINE) for text in source]
        assert classes[0] == classes[1]


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(programs())
def test_drawn_programs_compute_the_same(text: str) -> None:
    graph = elaborate(text)
    if Relayout()(graph) is graph:
        return
    plain, moved = (compile_spec(text, passes=p).module().double().eval() for p in ((), (Relayout(),)))
    randomise(plain)
    moved.load_state_dict(plain.state_dict())
    x = images(2, tuple(map(int, graph.inputs[0].type.dims[1:])), int(graph.inputs[0].type.dims[0])).double()
    with torch.no_grad():
        torch.testing.assert_close(moved(x), plain(x), rtol=1e-9, atol=1e-12)


# -- a wrong relayout is found --------------------------------------------------------------------

CONV = """language 1
arch a[] {
  input img: map[8, 8, 8]
  return img |> windows[4] |> relu |> merge |> conv[8, 3] |> gap
}
"""


class Astray(Pass):
    """Moves a convolution into windows, as if it did not look beyond them."""

    name = "astray"

    def __call__(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        merge, conv = graph.node("merge"), graph.node("conv")
        x, frame = graph.operands(merge)
        assert x is not None
        inside = conv.op.infer(x.type)
        draft.swap(replace(conv, outputs=inside), operands=[x])
        moved = replace(conv, outputs=inside).value()
        gap = graph.node("gap")
        back = draft.put(merge.op, [moved, frame], merge.op.infer(*[moved.type]), at=gap, path="merge")
        draft.swap(gap, operands=[back.value()])
        draft.drop("merge")
        return draft.done()


def test_a_wrong_relayout_is_refused() -> None:
    graph = elaborate(CONV)
    after = Astray()(graph)
    assert not verify(after), "every type fits: only what was before tells"
    with pytest.raises(BrokenInvariant, match=r"(?s)after `astray`.*%conv.*needs neighbours"):
        optimize(graph, (Astray(),))


def test_cuts_that_differ_at_another_size_are_not_one() -> None:
    """A shift that is dropped at this size is no cut without one."""
    graph = elaborate("swin_t")
    after = Relayout()(graph)
    last = [n.op.attributes() for n in after.nodes() if n.op.name == "regroup" and n.path.startswith("stages.3.b")]
    assert [attributes["shift"] for attributes in last] == [(0, 0), (3, 3)]


def test_stages_in_windows_have_their_maps_resolution() -> None:
    plain, moved = (compile_spec("swin_t", passes=p).costs for p in ((), (Relayout(),)))
    rows = [{r.name: r.resolution for r in costs.per("stage")} for costs in (plain, moved)]
    assert rows[0].items() <= rows[1].items() and moved.total.macs == plain.total.macs
