"""Published weights: what is imported computes what timm computes, and goes back out bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from archdsl.api import Artefact, compile_spec, elaborate
from archdsl.cli import main
from archdsl.deviation import compare_graphs
from archdsl.diagnostics import ArchError, Source
from archdsl.frontend.program import Program
from archdsl.ir.graph import Graph
from archdsl.testing import interpret
from archdsl.weights.deploy import fold_weights
from archdsl.weights.families import Family, find, read, shipped
from archdsl.weights.load import (
    Import,
    check_forward,
    check_names,
    deploy_weights,
    export_weights,
    import_weights,
)
from archdsl.weights.match import match
from archdsl.weights.stores import Stored, execution_order, open_store, read_file, write_file
from archdsl.weights.transforms import NAMES, Geometry, Transform, TransformError, parse
from tests.oracle.compare import randomise
from tests.oracle.keys import STATE_KEYS, listed
from tests.oracle.twins import TWINS
from tests.test_rep import COLLAPSES, state_of

timm = pytest.importorskip("timm")
pytest.importorskip("safetensors")

MODELS = {arch: model for family in shipped() for arch, model in family.models.items()}
LIGHT = ("swin_t", "convnext_t", "poolformer_s12", "pvt_v2_b1", "deit_ti16", "swinv2_t", "maxvit_t")
HEAVY = ("vitdet_b", *(twin.spec for twin in TWINS.values() if twin.large))
"""Whose forward pass at the published input, 1024x1024 in float64, or all of whose weights take many gigabytes."""
EVERY = [pytest.param(s, marks=() if s in LIGHT else pytest.mark.full) for s in MODELS if s not in HEAVY]
COUNTED_ON = ("hiera",)
"""Whose blocks timm counts through all stages, so that their names depend on depths that no table knows."""
DERIVED = ("swin_t", "convnext_t", "poolformer_s12", "pvt_v2_b1", "vit_s16", "swinv2_t")
"""Specs whose weights data flow and shapes decide, without a table. MaxViT's tables differ in sign and layout."""


def randomised(name: str, **arguments: object) -> nn.Module:
    model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    tables = {k: v.clone() for k, v in model.state_dict().items() if not v.is_floating_point() and v.dim()}
    randomise(model)
    model.load_state_dict(tables, strict=False)  # positions in other tensors
    return model


def stored(tensors: Mapping[str, Tensor], **more: object) -> Stored:
    return Stored("weights.safetensors", tensors, **more)  # type: ignore[arg-type]


def graph(body: str, params: str = "", image: str = "3, 8, 8") -> Graph:
    text = f"arch a{params} {{\n  input img: map[{image}]\n  {body}\n}}\n"
    return Program.parse(Source("a.arch", text)).elaborate()


def codes(found: Import) -> list[str]:
    return [d.code for d in found.diagnostics]


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], Family]:
    def written(text: str) -> Family:
        (tmp_path / "t.toml").write_text(text)
        return read(tmp_path / "t.toml")

    return written


# -- models of timm ------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", EVERY)
def test_imported_weights_compute_the_same_and_return_bit_for_bit(spec: str, tmp_path: Path) -> None:
    state = randomised(MODELS[spec], num_classes=1000).state_dict()  # some of timm's are of other classes
    write_file(tmp_path / "theirs.safetensors", state, {"license": "mit"})
    artefact = compile_spec(spec)
    found = import_weights(artefact.graph, open_store(str(tmp_path / "theirs.safetensors")))
    assert not found.diagnostics and not found.resized
    module = artefact.module()
    module.load_state_dict(found.state)
    assert "agree" in check_forward(module, artefact.graph, found)

    write_file(tmp_path / "ours.safetensors", found.state, found.metadata)
    ours = read_file(tmp_path / "ours.safetensors")
    assert ours.license == "mit"
    assert_equal(export_weights(artefact.graph, ours), state)  # by the recorded map
    if not spec.startswith(COUNTED_ON):
        assert_equal(export_weights(artefact.graph, replace(ours, metadata={})), state)  # by the table


def assert_equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for key, tensor in b.items():
        assert a[key].dtype == tensor.dtype and a[key].shape == tensor.shape and torch.equal(a[key], tensor), key


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, marks=pytest.mark.full if spec in TWINS and TWINS[spec].variant else ())
        for spec in sorted(MODELS)
    ],
)
def test_tables_name_timms_tensors(spec: str) -> None:
    with torch.device("meta"):
        wanted = shapes(timm.create_model(MODELS[spec], num_classes=1000).state_dict())
    artefact = Program.open(Path(compile_path(spec))).elaborate(spec)
    found = match(artefact, wanted, next(f for f in shipped() if spec in f.models))
    assert not (found.missing or found.unexpected or found.ambiguous)
    if not spec.startswith(COUNTED_ON):
        zeros = {p: torch.zeros(()).expand(x.shape) for p, x in artefact.params.items()}
        assert shapes(export_weights(artefact, stored(zeros))) == wanted


LISTED = {arch: model for arch, model in MODELS.items() if (STATE_KEYS / f"{model}.txt").exists()}
"""Models whose tensors are written down; they are among those that make the round trip above in every run."""


def test_what_is_written_down_is_not_left_out() -> None:
    assert {*LISTED.values()} == {p.stem for p in STATE_KEYS.glob("*.txt")} and {*LISTED} <= {*LIGHT}
    assert {*LISTED} == {"swin_t", "convnext_t", "poolformer_s12", "maxvit_t", "pvt_v2_b1", "deit_ti16"}


@pytest.mark.parametrize("spec", LISTED)
def test_exported_names_and_shapes_are_timms(spec: str) -> None:
    """Ours, those written down, and those of the installed timm."""
    ours = elaborate(spec)
    empty = {p: torch.empty(x.shape, device="meta") for p, x in ours.params.items()}
    wanted = listed(LISTED[spec])
    assert shapes(export_weights(ours, stored(empty))) == wanted
    with torch.device("meta"):
        assert shapes(timm.create_model(LISTED[spec]).state_dict()) == wanted


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {k: tuple(t.shape) for k, t in tensors.items()}


def compile_path(spec: str) -> str:
    from archdsl.frontend.locate import locate

    return str(locate(spec).path)


@pytest.mark.parametrize("spec", DERIVED)
def test_structure_and_order_decide_without_a_table(spec: str) -> None:
    model = timm.create_model(MODELS[spec])
    shapes = {k: tuple(t.shape) for k, t in model.state_dict().items()}
    elaborated = Program.open(Path(compile_path(spec))).elaborate(spec)
    family = next(f for f in shipped() if spec in f.models)
    found = match(elaborated, shapes, None, execution_order(model))
    assert not (found.missing or found.unexpected or found.ambiguous)
    assert {x.path: x.keys for x in found.links} == {p: family.bind(p).keys for p in elaborated.params}


@pytest.mark.parametrize(
    ("spec", "model", "by"),
    [
        ("swin_t", "", {"name", "shape"}),  # a file alone
        ("poolformer_s12", "poolformer_s12", {"name", "shape", "order"}),
        ("ghostnetv2_100", "ghostnetv2_100", {"shape", "turn"}),  # proved by equal logits
    ],
)
def test_weights_are_imported_without_a_table(
    spec: str, model: str, by: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, ours = tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors"
    write_file(file, randomised(MODELS[spec]).state_dict(), {})
    command = ["import-weights", str(file), spec, "--table", "none", "--model", model, "-o", str(ours)]
    assert main(command if model else [w for w in command if w not in ("--model", "")]) == 0
    said = capsys.readouterr().out
    assert "table: none" in said
    assert {b for b in ("table", "name", "shape", "order", "turn") if f"mapped by {b}:" in said} == by
    assert_equal(read_file(ours).tensors, import_weights(elaborate(spec), read_file(file)).state)


def test_a_wrong_map_of_the_right_shapes_is_found_by_the_check(table: Callable[[str], Family]) -> None:
    state = randomised("poolformer_s12").state_dict()
    swapped = table(
        '[models]\npoolformer_s12 = "poolformer_s12"\n[paths]\n'
        '"stages.{i}.down" = "stages.{i}.downsample.conv"\n'
        '"stages.{i}.blocks.{j}.ls1.gamma" = "stages.{i}.blocks.{j}.layer_scale2.scale"\n'
        '"stages.{i}.blocks.{j}.ls2.gamma" = "stages.{i}.blocks.{j}.layer_scale1.scale"\n'
    )
    artefact = compile_spec("poolformer_s12")
    found = import_weights(artefact.graph, stored(state), table=swapped)
    assert not found.diagnostics
    module = artefact.module()
    module.load_state_dict(found.state)
    with pytest.raises(ArchError, match="differ by"):
        check_forward(module, artefact.graph, found)


# -- other sizes ---------------------------------------------------------------------------------


def test_positions_are_resampled_as_timm_does() -> None:
    from timm.layers import resample_abs_pos_embed

    state = randomised("vit_small_patch16_224", depth=1).state_dict()
    found = import_weights(elaborated("vit_s16", (3, 320, 256), depth=1), stored(state))
    assert not found.diagnostics and list(found.resized) == ["stem.pos_embed"]
    theirs = resample_abs_pos_embed(state["pos_embed"], [20, 16])
    assert torch.allclose(found.state["stem.pos_embed"], theirs[0], atol=1e-6)
    back = export_weights(found.graph, stored(found.state, metadata=found.metadata))
    assert back.keys() == state.keys() and torch.equal(back["pos_embed"][0], found.state["stem.pos_embed"])


def elaborated(spec: str, input: tuple[int, int, int], **overrides: object) -> Graph:
    return Program.open(Path(compile_path(spec))).elaborate(spec, input=input, overrides=overrides)


def test_tables_of_another_window_are_resampled_and_keep_their_middle() -> None:
    state = randomised("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)).state_dict()
    found = import_weights(elaborated("swin_t", (3, 384, 384), window=12, depths=[1, 1, 1, 1]), stored(state))
    assert not found.diagnostics and len(found.resized) == 4
    path = "stages.0.blocks.0.attn.rel_bias.table"
    old, new = state["layers.0.blocks.0.attn.relative_position_bias_table"], found.state[path]
    assert new.shape == (23 * 23, 3)
    assert torch.allclose(new.reshape(23, 23, 3)[11, 11], old.reshape(13, 13, 3)[6, 6], atol=1e-5)
    with pytest.raises(ArchError, match="resized"):
        check_forward(nn.Identity(), found.graph, found)


def test_patches_are_resampled_when_asked() -> None:
    from timm.layers import resample_patch_embed

    state = randomised("vit_small_patch16_224", depth=1).state_dict()
    small = elaborated("vit_s16", (3, 224, 224), depth=1, patch=14)
    assert codes(import_weights(small, stored(state))) == ["E-WEIGHT-RESIZE"]
    found = import_weights(small, stored(state), adapt=["patch"])
    assert not found.diagnostics
    theirs = resample_patch_embed(state["patch_embed.proj.weight"], [14, 14])
    assert torch.allclose(found.state["stem.proj.weight"], theirs, atol=1e-4)


@pytest.mark.parametrize(("patch", "size"), [(30, (240, 240)), (8, (64, 96))])
def test_one_set_of_weights_for_every_patch(patch: int, size: tuple[int, int]) -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    state = randomised("flexivit_small", depth=1).state_dict()
    ours = compile_spec("flexivit_s", input=(3, *size), overrides={"depth": 1, "patch": patch})
    found = import_weights(ours.graph, stored(state), adapt=["patch"])
    assert not found.diagnostics
    module = ours.module()
    module.load_state_dict(found.state)
    theirs = timm.create_model("flexivit_small", depth=1, patch_size=patch, img_size=size)
    theirs.load_state_dict(checkpoint_filter_fn(state, theirs))
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
def test_image_channels_are_adapted_when_asked(channels: int) -> None:
    from timm.models import adapt_input_conv

    state = randomised("convnext_tiny", depths=(1, 1, 1, 1)).state_dict()
    small = elaborated("convnext_t", (channels, 64, 64), depths=[1, 1, 1, 1])
    refused = import_weights(small, stored(state))
    assert codes(refused) == ["E-WEIGHT-RESIZE"] and "--adapt inputs" in refused.diagnostics[0].help
    found = import_weights(small, stored(state), adapt=["inputs"])
    assert not found.diagnostics
    assert torch.allclose(found.state["stem.conv.weight"], adapt_input_conv(channels, state["stem.0.weight"]))


def test_classes_start_anew_when_asked() -> None:
    state = randomised("convnext_tiny", depths=(1, 1, 1, 1)).state_dict()
    artefact = compile_spec("convnext_t", overrides={"depths": [1, 1, 1, 1], "classes": 10})
    assert codes(import_weights(artefact.graph, stored(state))) == ["E-WEIGHT-RESIZE"] * 2
    initial = artefact.module().state_dict()
    found = import_weights(artefact.graph, stored(state), adapt=["classes"], initial=initial)
    assert not found.diagnostics and found.fresh == ("head.fc.weight", "head.fc.bias")
    assert torch.equal(found.state["head.fc.weight"], initial["head.fc.weight"])


def test_rows_are_resampled_linearly() -> None:
    body = 'x = img |> tokens\n  x += param@pos[x.N, 3, resize = "linear"]\n  head { return x |> gap |> linear@fc[2] }'
    ramp = torch.arange(32.0)[:, None].repeat(1, 3)
    state = {"pos": ramp, "head.fc.weight": torch.zeros(2, 3), "head.fc.bias": torch.zeros(2)}
    found = import_weights(graph(body), stored(state))
    assert not found.diagnostics and found.state["pos"].shape == (64, 3)
    assert torch.allclose(found.state["pos"][2:62].diff(dim=0), torch.tensor(0.5))


def test_what_says_none_is_not_resized() -> None:
    body = 'x = img\n  x += param@pos[3, x.H, x.W, resize = "none"]\n  head { return x |> gap |> linear@fc[2] }'
    state = {"pos": torch.zeros(3, 4, 4), "head.fc.weight": torch.zeros(2, 3), "head.fc.bias": torch.zeros(2)}
    found = import_weights(graph(body), stored(state))
    assert codes(found) == ["E-WEIGHT-RESIZE"] and found.mismatched[0].path == "pos"
    bicubic = import_weights(graph(body.replace("none", "bicubic")), stored(state))
    assert not bicubic.diagnostics and bicubic.state["pos"].shape == (3, 8, 8)


def test_indices_of_tables_are_rebuilt() -> None:
    """timm's EfficientFormer does not load without them."""
    ours = elaborated("efficientformer_l1", (3, 224, 224), dims=[16, 24, 32, 48], depths=[1, 1, 1, 5], vits=2)
    narrow = {"embed_dims": (16, 24, 32, 48), "depths": (1, 1, 1, 5), "num_vit": 2}
    theirs = randomised("efficientformer_l1", **narrow)
    found = import_weights(ours, stored(theirs.state_dict()))
    assert not found.diagnostics and len(found.matching.dropped) == 2
    without = import_weights(ours, stored({k: t for k, t in theirs.state_dict().items() if not k.endswith("idxs")}))
    assert not without.diagnostics and not without.matching.dropped
    for metadata in (found.metadata, without.metadata, {}):
        exported = export_weights(ours, stored(found.state, metadata=metadata))
        assert_equal(exported, theirs.state_dict())
        timm.create_model("efficientformer_l1", **narrow).load_state_dict(exported)


@pytest.mark.parametrize(
    ("q", "lookup", "rows", "s", "signed"),
    [
        ("img", "rel_lookup", 77, 1, True),
        ("img", "rel_lookup[signed = false]", 24, 1, False),
        ("max_pool[2](img)", "rel_lookup[s = 2]", 60, 2, True),
        ("max_pool[2](img)", "rel_lookup[s = 2, signed = false]", 24, 2, False),
    ],
)
def test_an_index_is_what_the_lookup_reads(
    table: Callable[[str], Family], q: str, lookup: str, rows: int, s: int, signed: bool
) -> None:
    body = f"q = {q}\n  y = attend[2](q, img, img, bias = {lookup}(param@t[{rows}, 2], q, img))"
    ours = graph(f"{body}\n  head {{ return y |> gap |> linear@fc[2] }}", image="4, 4, 6")
    state = {path: torch.randn(p.shape) for path, p in ours.params.items()}
    index = export_weights(ours, stored(state), table=table('[indices]\n"t" = "positions"'))["positions"]
    up, left, width = (3, 5, 11 if s == 1 else 10) if signed else (0, 0, 6)
    distance = int if signed else abs
    assert index.dtype == torch.int64 and index.tolist() == [
        [(distance(y - v) + up) * width + distance(x - u) + left for v in range(4) for u in range(6)]
        for y in range(0, 4, s)
        for x in range(0, 6, s)
    ]
    with pytest.raises(ArchError, match="no table of relative positions"):
        export_weights(ours, stored(state), table=table('[indices]\n"head.fc.weight" = "positions"'))


# -- matching ------------------------------------------------------------------------------------

CHAIN = "head {\n    return img |> gap |> linear@a[3, bias = false] |> linear@b[3, bias = false]\n  }"
PARALLEL = "head {\n    x = gap(img)\n    return linear@a[3, bias = false](x) + linear@b[3, bias = false](x)\n  }"
ONE_TWO = {"two.weight": (3, 3), "one.weight": (3, 3)}
TIMES = {"one.weight": 0, "two.weight": 1}


def test_data_flow_and_execution_decide() -> None:
    found = match(graph(CHAIN), ONE_TWO, None, TIMES)
    assert [(x.path, x.keys[0], x.by) for x in found.links] == [
        ("head.a.weight", "one.weight", "order"),
        ("head.b.weight", "two.weight", "order"),
    ]


def test_blocks_may_be_counted_through_all_stages() -> None:
    """As in Hiera; not where a stage holds more than blocks, so that their number decides nothing."""
    stages = "stage i in 2 -> x {\n    %s\n    blocks j in 2 { x = x |> linear@in |> relu |> linear@out }\n  }"
    rest = "\n  head { return x |> gap |> linear@fc[10] }"
    keys = {f"layers.{n}.{name}.weight": (3, 3) for n in range(4) for name in ("to", "from")}
    keys |= {key.replace("weight", "bias"): (3,) for key in keys}
    order = {key: n for n, key in enumerate(keys)}
    found = match(graph(f"x = img\n  {stages % ''}{rest}"), keys, None, order)
    assert {x.keys[0]: x.path for x in found.links} == {
        f"layers.{n}.{theirs}.{role}": f"stages.{n // 2}.blocks.{n % 2}.{ours}.{role}"
        for n in range(4)
        for theirs, ours in (("to", "in"), ("from", "out"))
        for role in ("weight", "bias")
    }
    assert not match(graph(f"x = img\n  {stages % 'x = ln@norm(x)'}{rest}"), keys, None, order).links


@pytest.mark.parametrize(("body", "order"), [(CHAIN, None), (PARALLEL, TIMES), (CHAIN, dict.fromkeys(ONE_TWO, 0))])
def test_what_nothing_decides_is_refused(body: str, order: Mapping[str, int] | None) -> None:
    found = match(graph(body), ONE_TWO, None, order)
    assert not found.links and not found.missing
    (ambiguity,) = found.ambiguous
    assert ambiguity.paths == ("head.a.weight", "head.b.weight") and set(ambiguity.keys) == ONE_TWO.keys()


def test_one_key_is_not_read_twice(table: Callable[[str], Family]) -> None:
    both = table('[paths]\n"head.a" = "one"\n"head.b" = "one"\n')
    found = match(graph(PARALLEL), {"one.weight": (3, 3)}, both)
    assert not found.links


# -- tables and transforms -----------------------------------------------------------------------


def test_parts_are_split_and_joined(table: Callable[[str], Family]) -> None:
    body = (
        "x = img |> tokens |> linear@q[3] |> linear@kv[6] |> linear@all[9] |> linear@bias[9, bias = false]"
        "\n  x = x + param@row[9]\n  head { return x |> gap }"
    )
    joined = table(
        """
        [paths]
        "q" = { keys = "qkv", via = "rows:0,1,3" }
        "kv" = { keys = "qkv", via = "rows:1,3,3" }
        "all" = { keys = ["one", "two"], via = "concat:1,2" }
        "row" = { keys = ["q_bias", "v_bias"], via = "concat:1,-1,1" }
        """
    )
    elaborated = graph(body)
    make = torch.Generator().manual_seed(0)
    # kv reads 3 channels and q reads 3, so their rows may stand in one matrix.
    state = {
        "qkv.weight": torch.randn(9, 3, generator=make),
        "qkv.bias": torch.randn(9, generator=make),
        "one.weight": torch.randn(3, 6, generator=make),
        "one.bias": torch.randn(3, generator=make),
        "two.weight": torch.randn(6, 6, generator=make),
        "two.bias": torch.randn(6, generator=make),
        "q_bias": torch.randn(3, generator=make),
        "v_bias": torch.randn(3, generator=make),
        "bias.weight": torch.randn(9, 9, generator=make),
    }
    found = import_weights(elaborated, stored(state), table=joined)
    assert not found.diagnostics, found.diagnostics
    assert torch.equal(found.state["kv.weight"], state["qkv.weight"][3:])
    assert torch.equal(found.state["row"][3:6], torch.zeros(3))
    ours = stored(found.state, metadata=found.metadata)
    assert_equal(export_weights(elaborated, replace(ours, metadata={}), table=joined), state)
    assert_equal(export_weights(elaborated, ours), state)


EXAMPLES: Sequence[tuple[str, Geometry, tuple[tuple[int, ...], ...], tuple[int, ...]]] = (
    ("identity", Geometry(), ((2, 3),), (2, 3)),
    ("squeeze:2,3", Geometry(), ((2, 3, 1, 1),), (2, 3)),
    ("unsqueeze:0", Geometry(), ((2, 3),), (1, 2, 3)),
    ("head_first", Geometry(heads=2), ((12, 5),), (12, 5)),
    ("head_first:1,1,4", Geometry(heads=2), ((24, 5),), (24, 5)),
    ("head_first:1,1", Geometry(heads=2), ((12, 5),), (12, 5)),
    ("transpose:2,0,1", Geometry(), ((3, 4, 2, 5),), (2, 3, 4, 5)),
    ("concat:1,2", Geometry(), ((2, 5), (4, 5)), (6, 5)),
    ("rows:0,1,1", Geometry(), ((6, 5),), (6, 5)),
    ("expand:4", Geometry(), ((1,),), (4,)),
    ("flip_table", Geometry(), ((9, 2),), (9, 2)),
    ("grid_table", Geometry(table=(3, 5)), ((2, 3, 5),), (15, 2)),
    ("transpose", Geometry(), ((2, 9),), (9, 2)),
)


@pytest.mark.parametrize(("text", "geometry", "shapes", "wanted"), EXAMPLES, ids=[e[0] for e in EXAMPLES])
def test_transforms_are_undone_bit_for_bit(
    text: str, geometry: Geometry, shapes: Sequence[tuple[int, ...]], wanted: tuple[int, ...]
) -> None:
    step = parse(text).settle(geometry)
    given = [torch.randn(s, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(shapes)]
    made = step.apply(given)
    assert tuple(made.shape) == wanted
    for a, b in zip(step.undo(made), given, strict=True):
        assert torch.equal(a, b)


def test_every_named_transform_has_an_example() -> None:
    lossy = {"slice", "fold_bn"}
    assert {text.partition(":")[0] for text, *_ in EXAMPLES} | lossy == set(NAMES)


def test_head_first_rows_become_q_k_v() -> None:
    rows = torch.tensor([f for h in range(2) for f in (h, 10 + h, 20 + h)])  # h0: q k v, h1: q k v
    step: Transform = parse("head_first").settle(Geometry(heads=2))
    assert step.apply([rows]).tolist() == [0, 1, 10, 11, 20, 21]
    rows = torch.tensor([f for h in range(2) for f in (h, 10 + h, 20 + h, 30 + h)])  # v has two rows
    step = parse("head_first:1,1,2").settle(Geometry(heads=2))
    assert step.apply([rows]).tolist() == [0, 1, 10, 11, 20, 30, 21, 31]


def test_a_folded_norm_computes_the_same() -> None:
    conv, norm = nn.Conv2d(3, 4, 3, bias=True), nn.BatchNorm2d(4, eps=1e-3)
    randomise(conv), randomise(norm)
    norm.eval()
    tensors = [conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var, conv.bias]
    folded = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        folded.weight.copy_(parse("fold_bn:weight,1e-3").apply(tensors[:5]))  # type: ignore[arg-type]
        folded.bias.copy_(parse("fold_bn:bias,1e-3").apply(tensors))  # type: ignore[arg-type, union-attr]
        x = torch.randn(1, 3, 8, 8)
        assert torch.allclose(folded(x), norm(conv(x)), atol=1e-5)
    with pytest.raises(TransformError, match="undone"):
        parse("fold_bn:bias,1e-3").undo(folded.weight)


def test_a_key_may_count_from_another_number(table: Callable[[str], Family]) -> None:
    family = table('[paths]\n"blocks.{j}" = "layers.{j+6}"\n"down.{i}" = "down_{i-1}.conv"\n')
    assert family.bind("blocks.11.fc.weight").keys == ("layers.17.fc.weight",)
    assert family.bind("down.1.weight").keys == ("down_0.conv.weight",)


def test_what_holds_in_every_block_is_said_once(table: Callable[[str], Family]) -> None:
    family = table(
        '[blocks]\n"stages.1.blocks.0" = "layers.4.0"\n"stages.1.blocks.{j}" = "layers.5.{j-1}"\n'
        '[in_blocks]\n"ffn.fc{k}" = "mlp.{k-1}"\n"fc.weight" = { keys = ["q.w", "k.w"], via = "concat:1,1" }\n'
    )
    assert family.bind("stages.1.blocks.0.ffn.fc1.weight").keys == ("layers.4.0.mlp.0.weight",)
    assert family.bind("stages.1.blocks.3.ffn.fc2.bias").keys == ("layers.5.2.mlp.1.bias",)
    assert family.bind("stages.1.blocks.3.norm.bias").keys == ("layers.5.2.norm.bias",)
    joined = family.bind("stages.1.blocks.1.fc.weight")
    assert joined.keys == ("layers.5.0.q.w", "layers.5.0.k.w") and [str(t) for t in joined.via] == ["concat:1,1"]
    assert not family.bind("stages.0.blocks.0.ffn.fc1.weight").explicit


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('"a" = "b.{i}"', "gives {i}"),
        ('"a" = "b.{i+1}"', "gives {i}"),
        ('"a.{i+1}" = "b.{i}"', "keys only"),
        ('"a" = { keys = ["b", "c"] }', "concat"),
        ('"a" = { keys = ["b", "c"], via = "concat:1,1,1" }', "3 parts"),
        ('"a" = { keys = "b", via = "turn" }', "no transform"),
        ('"a" = { key = "b" }', "write a key"),
        ('"a" = 3', "strings"),
        ('"a" = []', "no key"),
        ('[blocks]\n"s.{k}" = "l.{k}"\n[in_blocks]\n"fc{k}" = "fc.{k}"', "holes of its own"),
        ("[blocks]\na = { keys = 'b', via = 'squeeze:0' }\n[in_blocks]\nc = 'd'", "one key"),
        ("[indices]\na = { keys = 'b', via = 'transpose' }", "one key"),
        ('"a" = ', "nvalid"),
    ],
)
def test_wrong_tables(table: Callable[[str], Family], text: str, reason: str) -> None:
    with pytest.raises(ArchError, match=reason) as caught:
        table(f"[paths]\n{text}\n")
    assert caught.value.diagnostics[0].code == "E-WEIGHT-TABLE"


@pytest.mark.parametrize(
    "via", ["unsqueeze:7", "grid_table", "expand:3", "slice:0,9", "rows:0,1,2", "head_first", "concat:7"]
)
def test_a_transform_that_does_not_fit_is_a_diagnostic(table: Callable[[str], Family], via: str) -> None:
    wrong = table(f'[paths]\n"head.fc.weight" = {{ keys = "head.fc.weight", via = "{via}" }}\n')
    state = {"head.fc.weight": torch.zeros(5, 3), "head.fc.bias": torch.zeros(5)}
    with pytest.raises(ArchError) as caught:
        import_weights(graph("head { return img |> gap |> linear@fc[5] }"), stored(state), table=wrong)
    assert [d.code for d in caught.value.diagnostics] == ["E-WEIGHT-TRANSFORM"]


def test_a_prefix_of_all_keys(table: Callable[[str], Family]) -> None:
    wrapped = table('[paths]\n"" = "module.net"\n"head.fc" = "module.fc"\n')
    assert wrapped.bind("stem.conv.weight").keys == ("module.net.stem.conv.weight",)
    assert wrapped.bind("head.fc.bias").keys == ("module.fc.bias",)


def test_every_transform_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "weights.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"| `{name}" in page, name


def test_old_buffers_are_dropped() -> None:
    state = randomised("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)).state_dict()
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    found = import_weights(elaborated("swin_t", (3, 224, 224), depths=[1, 1, 1, 1]), stored(state))
    assert not found.diagnostics and len(found.matching.dropped) == 1
    assert "1 dropped" in found.text()


def test_tables_are_found() -> None:
    assert find("swin").models["swin_t"] == "swin_tiny_patch4_window7_224"
    with pytest.raises(ArchError, match="cannot read"):
        find("swan")


# -- from training to deployment -----------------------------------------------------------------

ALIKE = 1e-10
"""Largest difference of float64 results, of the largest, between a `rep def` and the one op it becomes."""


def agree(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= ALIKE * float(a.abs().max())


def pixels(*size: int) -> Tensor:
    return torch.randn(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("spec", "input", "changes"),
    [
        ("repvit_m1", (3, 64, 64), {"depths": [1, 2, 1, 1]}),
        pytest.param("repvit_m1", (3, 224, 224), {}, marks=pytest.mark.full),
        pytest.param("overlock_xt", (3, 224, 224), {}, marks=pytest.mark.full),
    ],
)
def test_the_deploy_module_computes_what_the_trained_one_does(
    spec: str, input: tuple[int, int, int], changes: dict[str, object]
) -> None:
    trained, deployed = (compile_spec(spec, input=input, mode=m, overrides=changes) for m in ("eval", "deploy"))
    theirs = trained.module().double().eval()
    randomise(theirs)
    training = elaborate(spec, input=input, mode="train", overrides=changes)
    only_trained = {p: torch.zeros(x.shape) for p, x in training.params.items() if p not in trained.graph.params}
    file = stored(theirs.state_dict() | only_trained)
    ours = deployed.module().double().eval()
    plain = elaborate(spec, input=input, mode="deploy", overrides=changes)
    ours.load_state_dict(deploy_weights(trained.graph, training, plain, file))
    assert len(ours.state_dict()) < len(theirs.state_dict())
    x = pixels(*input)
    with torch.no_grad():
        assert agree(theirs(x), ours(x))


BODIES = (
    *(f"rep def f(x: map) = {body}" for body in COLLAPSES),
    "rep def f(x: map) = conv@a[k = 3, s = 2](x) + conv@b[k = 2, s = 2](x)",
    "rep def f(x: map) = 3 - conv[k = 3](x)",
    "rep def f(x: map) = param@a[x.C] - x",
    "rep def f(x: map) = (x - param@a[x.C]) / param@b[x.C] * (param@c[x.C] + 2)",
    "rep def f(x: map) = (-param@c[1] * conv[1](x) + x / 2) - bn(x)",
    "rep def f(x: map) = x |> avg_pool[2] |> conv@a[k = 3, p = 0, d = 2]",
    "rep def g(x: map) = conv_bn[k = 3](x) + x\nrep def f(x: map) = g@_(x) |> bn@norm",
    "rep def g(x: vec) = concat(linear@l[3](x) |> bn, param@p[2]) |> linear@m[6] |> interleave[2]\n"
    "def f(x: map) = g(gap(x))",
    "rep def g(x: tokens) = x |> bn |> linear@l1[9] |> linear@l2[5]\ndef f(x: map) = gap(g(tokens(x)))",
    "rep def g(x: vec) = x |> repeat[2] |> bn\ndef f(x: map) = g(gap(x))",
    "rep def h(x: map) = bn(x) + x\ndef f(x: map) {\n  share s = h\n  return s(relu(s(x)))\n}",
    "rep def one(x: vec) = x |> bn |> linear@l[7]\nrep def mean2[p: fn, q: fn](x: vec) = (p(x) + q(x)) / 2\n"
    "def f(x: map) {\n  share p = one\n  share q = one\n  return mean2[p, q](gap(x))\n}",
    # What looks like a collapsed call, and is none.
    "def f(x: map) = conv@_[k = 3](relu(x))",
    "def f(x: map) = relu(conv@_[k = 3](x))",
    "def f(x: map) = linear@_[7](x)",
)


@pytest.mark.parametrize("defs", BODIES)
def test_every_body_folds_into_its_deploy_form(defs: str) -> None:
    torch.manual_seed(0)
    text = defs + "\narch a {\n  input img: map[3, 12, 12]\n  x = conv@first[4](img)\n  head { return f(x) }\n}\n"
    trained, deployed = (Program.parse(Source("a.arch", text)).elaborate(mode=m) for m in ("eval", "deploy"))
    state, x = state_of(trained), pixels(3, 12, 12)
    folded = fold_weights(trained, deployed, state)
    assert all(t.dtype == torch.float64 for t in folded.values())
    assert shapes(folded) == {p: x.shape for p, x in deployed.params.items()}
    for a, b in zip(interpret(trained, state, x), interpret(deployed, folded, x), strict=True):
        assert agree(a, b)


CONV_BN = """arch a[classes = 5] {
  input img: map[3, 16, 16]
  x = img |> conv_bn@one[8, k = 3, s = 2] |> relu |> conv_bn@two[16, k = 5, g = 4] |> relu
  head { return x |> gap |> linear@fc[classes] }
}
"""


def test_weights_are_deployed_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    Path("a.arch").write_text(CONV_BN)
    trained = compile_spec("a.arch", mode="train").module()
    randomise(trained)
    write_file("trained.safetensors", trained.state_dict(), {"license": "mit"})
    assert main(["export-weights", "a.arch", "trained.safetensors", "--mode", "deploy", "-o", "d.safetensors"]) == 0
    assert "6 tensors for `a` in deploy mode, made of 14" in capsys.readouterr().out
    file = read_file("d.safetensors")
    assert file.metadata == {"format": "pt", "spec": "a", "mode": "deploy", "license": "mit"}
    assert all(t.dtype == torch.float32 for t in file.tensors.values())
    deployed = compile_spec("a.arch", mode="deploy").module()
    deployed.load_state_dict(file.tensors)
    x = pixels(3, 16, 16).float()
    with torch.no_grad():
        assert torch.allclose(deployed.eval()(x), trained.eval()(x), rtol=1e-5, atol=1e-6)

    compare = ["compare", "a.arch", "a.arch", "--mode-b", "deploy", "--weights"]
    assert main([*compare, "trained.safetensors"]) == 0 and main([*compare, "random:1"]) == 0
    assert "made of those of its eval graph" in capsys.readouterr().out
    assert main([*compare, "d.safetensors"]) == 1
    assert "has no `one.c.weight`" in capsys.readouterr().err
    assert main(["export-weights", "a.arch", "d.safetensors", "--mode", "deploy"]) == 1
    assert "E-WEIGHT-MATCH" in capsys.readouterr().err


def test_a_deploy_graph_of_another_spec_deviates() -> None:
    def modes(text: str) -> list[Graph]:
        return [Program.parse(Source("a.arch", text)).elaborate(mode=m) for m in ("eval", "deploy")]

    (a, _), (evaluated, b) = modes(CONV_BN), modes(CONV_BN.replace("relu |> conv_bn@two", "gelu |> conv_bn@two"))
    found = compare_graphs(a, b, evaluated=evaluated)
    assert found.deviating


# -- the command line ----------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artefact:
    """PoolFormer with one block a stage, and timm's full model beside it as w.safetensors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    write_file("w.safetensors", randomised("poolformer_s12").state_dict(), {})
    return compile_spec("poolformer_s12")


def test_commands_there_and_back(tiny: Artefact, capsys: pytest.CaptureFixture[str]) -> None:
    name = "poolformer_s12"
    command = ["import-weights", "w.safetensors", name, "--model", name, "--check", "-o", "ours.safetensors"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "132 mapped (24 transformed, 0 resized), 0 missing" in out and "agree to" in out and "license: " in out
    assert read_file("ours.safetensors").metadata["model"] == name
    export = ["export-weights", name, "ours.safetensors", "--names", "timm", "--model", name, "-o", "back.safetensors"]
    assert main(export) == 0
    assert "132 tensors by timm's names" in capsys.readouterr().out
    assert shapes(read_file("back.safetensors").tensors) == listed(name)
    assert_equal(read_file("back.safetensors").tensors, read_file("w.safetensors").tensors)


def test_strict_unless_partial(tiny: Artefact, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import-weights", "w.safetensors", "poolformer_s12", "--set", "depths=[2, 2, 5, 2]"]
    assert main([*command, "-o", "part.safetensors"]) == 1
    assert not Path("part.safetensors").exists()
    assert (
        "E-WEIGHT-MATCH]: what is stored is not the weights of `poolformer_s12`: 10 unexpected"
        in capsys.readouterr().err
    )
    assert main([*command, "--partial", "-o", "part.safetensors"]) == 0
    assert "warning[E-WEIGHT-MATCH]" in capsys.readouterr().err
    assert len(read_file("part.safetensors").tensors) == 122


def test_timms_names_without_its_weights(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **more: object) -> nn.Module:
        if pretrained:
            raise OSError("no route to host")
        return create(name, pretrained=False, **more)  # type: ignore[no-any-return]

    monkeypatch.setattr(timm, "create_model", offline)
    assert main(["import-weights", "timm:poolformer_s12", "poolformer_s12"]) == 0
    assert "132 mapped" in capsys.readouterr().out
    assert main(["import-weights", "timm:poolformer_s12", "poolformer_s12", "--check"]) == 1
    assert "not at hand: no route to host" in capsys.readouterr().err
    assert main(["import-weights", "timm:poolformer_s121", "poolformer_s12"]) == 1
    assert "did you mean `poolformer_s12`" in capsys.readouterr().err


def test_names_are_held_against_timms() -> None:
    with pytest.raises(ArchError, match="other names"):
        check_names({}, "poolformer_s12")
