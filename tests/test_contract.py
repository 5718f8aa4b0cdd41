"""Turns each emitted module into a check of the interface that training scripts call, with timm's as the measure."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import archdsl
from tests.oracle.compare import images
from tests.oracle.twin import Pair, Size, Twin
from tests.oracle.twins import ARCHITECTURES, TWINS

QUICK = ("swin_t", "convnext_t", "poolformer_s12", "vit_s16")
"""Asked in every run; the others are marked `full`."""
DECAYED = {"twins_pcpvt_s": r"\.peg\.", "twins_svt_s": r"\.peg\."}
"""Ours of layers that timm keeps from weight decay; a module keeps tables and embeddings from it."""
BORDERS = {(299, 35): 8, (299, 17): 16, (299, 8): 32, (331, 11): 32}
"""By how much a map is smaller than the image where borders, too, add or take rows away."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every architecture for every test, but for those whose reference lacks timm's interface where that is asked."""
    if "ref" in metafunc.fixturenames and metafunc.function is not test_counts_are_what_the_module_does:
        asked = [t for t in ARCHITECTURES if t.interface or "theirs" not in metafunc.fixturenames]
        marks = {t.spec: () if t.spec in QUICK else pytest.mark.full for t in asked}
        metafunc.parametrize("ref", [pytest.param(t, id=t.spec, marks=marks[t.spec]) for t in asked])


@pytest.fixture
def pair(ref: Twin) -> Pair:
    """Narrow, shallow models of ours and of the reference in float64, with the same random weights, in eval mode."""
    found = ref.pair(**{**ref.tiny, **ref.settled})
    found.ours.double()
    found.theirs.double()
    return found


@pytest.fixture
def ours(pair: Pair) -> nn.Module:
    return pair.ours


@pytest.fixture
def theirs(pair: Pair) -> nn.Module:
    return pair.theirs


@pytest.fixture
def x(ref: Twin) -> Tensor:
    return images(2, ref.size).double()


def timm_intermediates(
    ref: Twin, theirs: nn.Module, x: Tensor, indices: int | Sequence[int] | None = None, norm: bool = False
) -> list[Tensor]:
    """timm's maps at our indices: where it counts the stem as the first of them, we do not."""
    maps = theirs.forward_intermediates(x, norm=norm, intermediates_only=True)[1 if ref.stem_is_a_feature else 0 :]
    if indices is None or isinstance(indices, int):
        return maps[-(indices or len(maps)) :]
    return [maps[i] for i in sorted(i % len(maps) for i in indices)]


def channels(features: Tensor, model: nn.Module) -> int:
    """The size of the channel axis of unpooled features."""
    return features.shape[-1 if getattr(model, "output_fmt", "NCHW") == "NHWC" else 1]


def spatial(features: Tensor, model: nn.Module) -> tuple[int, ...]:
    return tuple(features.shape[1:3] if getattr(model, "output_fmt", "NCHW") == "NHWC" else features.shape[2:])


def last_map(ref: Twin) -> Size:
    return ref.size[0] // ref.reduction, ref.size[1] // ref.reduction


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def entry_point(ref: Twin, model: nn.Module) -> Callable[..., nn.Module]:
    """The function of the emitted module that constructs a model."""
    found: Callable[..., nn.Module] = getattr(sys.modules[type(model).__module__], ref.spec)
    return found


# -- attributes and signatures --------------------------------------------------------------------

SIGNATURES = {
    "forward_features": ("x",),
    "forward_head": ("x", "pre_logits"),
    "get_classifier": (),
    "reset_classifier": ("num_classes", "global_pool"),
    "set_grad_checkpointing": ("enable",),
    "group_matcher": ("coarse",),
    "no_weight_decay": (),
    "forward_intermediates": ("x", "indices", "norm", "stop_early", "output_fmt", "intermediates_only"),
    "prune_intermediate_layers": ("indices", "prune_norm", "prune_head"),
}


@pytest.mark.parametrize("method", SIGNATURES)
def test_signature(ours: nn.Module, method: str) -> None:
    assert tuple(inspect.signature(getattr(ours, method)).parameters) == SIGNATURES[method]


def test_constructor(ref: Twin, ours: nn.Module) -> None:
    parameters = inspect.signature(type(ours).__init__).parameters
    defaults = {name: p.default for name, p in parameters.items()}
    wanted = {
        "num_classes": 1000,
        "in_chans": 3,
        "global_pool": "token" if ref.tokens else "avg",
        "drop_rate": 0.0,
        "drop_path_rate": 0.0,
    }
    assert {name: defaults[name] for name in wanted} == wanted


def test_entry_point(ref: Twin, ours: nn.Module) -> None:
    """Beside the class stands a function named as the spec, which takes what timm's entry points take as well."""
    parameters = inspect.signature(entry_point(ref, ours)).parameters
    assert {"features_only", "out_indices", "device", "dtype", "kwargs"} <= parameters.keys()
    model = entry_point(ref, ours)(num_classes=7, drop_rate=0.1)
    assert type(model) is type(ours)
    assert model.num_classes == 7 and model.drop_rate == 0.1


def test_attributes(ours: nn.Module, theirs: nn.Module) -> None:
    for name in ("num_classes", "in_chans", "num_features", "head_hidden_size", "drop_rate"):
        assert getattr(ours, name) == getattr(theirs, name, getattr(ours, name)), name
    assert ours.in_chans == 3
    assert getattr(ours, "output_fmt", "NCHW") in ("NCHW", "NHWC", "NLC")


def test_default_config(ref: Twin, ours: nn.Module) -> None:
    config = ours.default_cfg
    state = ours.state_dict()
    assert config["input_size"] == (3, *ref.size)
    assert config["pool_size"] == (None if ref.tokens else last_map(ref))
    assert config["num_classes"] == 1000
    assert len(config["mean"]) == len(config["std"]) == 3
    assert f"{config['first_conv']}.weight" in state
    assert f"{config['classifier']}.weight" in state
    assert ours.get_submodule(config["classifier"]) is ours.get_classifier()


def test_feature_info_is_exact(ref: Twin, ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """timm's own test allows one position of slack; a reduction is a number, so here it is an equality."""
    maps = ours.forward_intermediates(x, intermediates_only=True)
    assert len(ours.feature_info) == len(maps) > 1
    named = dict(ours.named_modules())
    timm_infos = list(theirs.feature_info)[1 if ref.stem_is_a_feature else 0 :]
    for info, timm_info, feature in zip(ours.feature_info, timm_infos, maps, strict=True):
        assert info["num_chs"] == timm_info["num_chs"] == feature.shape[1]
        assert info["reduction"] == timm_info["reduction"]
        assert tuple(feature.shape[2:]) == tuple(side // info["reduction"] for side in ref.size)
        assert info["module"] in named


# -- head -----------------------------------------------------------------------------------------


def test_features_and_head_make_the_forward(ref: Twin, ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    features = ours.forward_features(x)
    if ref.tokens:
        close(features, theirs.forward_features(x))
    else:
        assert spatial(features, ours) == last_map(ref)
        assert channels(features, ours) == ours.num_features
    close(ours.forward_head(features), ours(x))
    pooled = ours.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, ours.head_hidden_size)
    close(pooled, theirs.forward_head(theirs.forward_features(x), pre_logits=True))
    if len(classifiers(ours)) == 1:
        whole = ours.get_classifier() if ours.default_cfg["classifier"] == "head.fc" else ours.head.fc
        close(whole(pooled), ours(x))


def test_no_classifier(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    pooled = ours.forward_head(ours.forward_features(x), pre_logits=True)
    ours.reset_classifier(0)
    assert ours.num_classes == 0
    assert isinstance(ours.get_classifier(), nn.Identity)
    close(ours(x), pooled)
    theirs.reset_classifier(0)
    close(ours(x), theirs(x))


def classifiers(model: nn.Module) -> tuple[str, ...]:
    """The layers that give a number for each class: two where a distilled head stands beside the other."""
    linear = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear))
    return tuple(name for name, m in linear if m.out_features == model.num_classes)


def as_nchw(features: Tensor, model: nn.Module) -> Tensor:
    return features.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "NCHW") == "NHWC" else features


def unpooled(ref: Twin, theirs: nn.Module, x: Tensor) -> Tensor:
    """What timm computes without pooling and classifier, NCHW: position by position where its head insists on both."""
    if ref.spec == "inception_next_t":
        theirs.head.global_pool = nn.Identity()
        by_position = theirs.forward_features(x).permute(0, 2, 3, 1)
        return theirs.forward_head(by_position, pre_logits=True).permute(0, 3, 1, 2)
    theirs.reset_classifier(0, "")
    found = theirs(x)
    if found.ndim == 3 and not ref.tokens:  # a sequence, in the order of the map
        return found.transpose(1, 2).unflatten(2, last_map(ref))
    return as_nchw(found, theirs)


def test_no_pooling(ref: Twin, ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Unpooled and without a classifier: a map, with the head's own norm applied as timm applies it."""
    ours.reset_classifier(0, "")
    if not ref.tokens:
        assert ours(x).ndim == 4 and spatial(ours(x), ours) == last_map(ref)
    close(as_nchw(ours(x), ours), unpooled(ref, theirs, x))


def test_constructed_without_head(ref: Twin, ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    bare = type(ours)(num_classes=0, global_pool="").double().eval()
    kept = {k: v for k, v in ours.state_dict().items() if not k.startswith(classifiers(ours))}
    bare.load_state_dict(kept)
    close(as_nchw(bare(x), bare), unpooled(ref, theirs, x))
    pooled = type(ours)(num_classes=0).double().eval()
    pooled.load_state_dict(kept)
    assert pooled(x).shape == (2, ours.head_hidden_size)


def test_dropout_before_the_classifier(ours: nn.Module, x: Tensor) -> None:
    features = ours.forward_features(x)
    kept = ours.forward_head(features, pre_logits=True)
    ours.head.drop_rate = 0.5
    assert torch.equal(ours.forward_head(features, pre_logits=True), kept)
    dropped = ours.train().head(features, True)
    assert {round(v, 6) for v in (dropped / kept)[kept != 0].tolist()} == {0.0, 2.0}


def test_another_number_of_classes(ours: nn.Module, x: Tensor) -> None:
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    ours.reset_classifier(7)
    assert ours.num_classes == 7 and ours(x).shape == (2, 7)
    for key, value in ours.state_dict().items():
        if not key.startswith(classifiers(ours)):
            assert torch.equal(value, before[key]), key
    assert ours.get_classifier().weight.dtype == torch.float64
    assert type(ours)(num_classes=7)(x.float()).shape == (2, 7)


def test_pooling_can_be_put_back(ours: nn.Module, x: Tensor) -> None:
    pooled = ours.forward_head(ours.forward_features(x), pre_logits=True)
    usual = ours.head.global_pool
    ours.reset_classifier(0, "")
    ours.reset_classifier(0, usual)
    close(ours(x), pooled)


def test_other_input_channels(ref: Twin, ours: nn.Module) -> None:
    model = type(ours)(in_chans=5).eval()
    assert model.in_chans == 5
    assert model(torch.randn(1, 5, *ref.size)).shape == (1, 1000)


# -- intermediate features ------------------------------------------------------------------------


@pytest.mark.parametrize("indices", [None, 1, 2, [0, 2], [-1], [-4, 3], (1,)], ids=str)
def test_intermediates_are_timms(
    ref: Twin, ours: nn.Module, theirs: nn.Module, x: Tensor, indices: int | Sequence[int] | None
) -> None:
    for stop_early in (False, True):
        mine = ours.forward_intermediates(x, indices=indices, intermediates_only=True, stop_early=stop_early)
        reference_maps = timm_intermediates(ref, theirs, x, indices)
        assert len(mine) == len(reference_maps)
        for a, b in zip(mine, reference_maps, strict=True):
            close(a, b)


@pytest.mark.parametrize("norm", [False, True])
def test_normed_intermediates_are_timms(ref: Twin, ours: nn.Module, theirs: nn.Module, x: Tensor, norm: bool) -> None:
    maps = ours.forward_intermediates(x, norm=norm, intermediates_only=True)
    wanted = timm_intermediates(ref, theirs, x, norm=norm)
    for a, b in zip(maps, wanted, strict=True):
        close(a, b)


def test_intermediates_end_in_the_features(ref: Twin, ours: nn.Module, x: Tensor) -> None:
    features = ours.forward_features(x)
    final, maps = ours.forward_intermediates(x)
    close(final, features)
    _, normed = ours.forward_intermediates(x, norm=True)
    if not ref.tokens:
        close(normed[-1], as_nchw(features, ours))
    assert len(maps) == len(ours.feature_info)
    ours.train()
    trained, _ = ours.forward_intermediates(x.requires_grad_())
    ours.set_grad_checkpointing()
    checkpointed, _ = ours.forward_intermediates(x)
    close(checkpointed, trained)


def test_output_format(ours: nn.Module, x: Tensor) -> None:
    """Maps are NCHW, or NHWC for those who ask; another format is refused, not replaced."""
    nchw = ours.forward_intermediates(x, output_fmt="NCHW", intermediates_only=True)
    nhwc = ours.forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
    for a, b in zip(nchw, nhwc, strict=True):
        close(a, b.permute(0, 3, 1, 2))
    with pytest.raises((ValueError, AssertionError), match="NLC"):
        ours.forward_intermediates(x, output_fmt="NLC")


def test_an_index_out_of_range_is_refused(ours: nn.Module, x: Tensor) -> None:
    stages = len(ours.feature_info)
    for indices in ([stages], [-stages - 1], [0, stages + 5]):
        with pytest.raises((ValueError, IndexError, AssertionError)):
            ours.forward_intermediates(x, indices=indices)


def test_stopping_early_changes_no_feature(ours: nn.Module, x: Tensor) -> None:
    for i, whole in enumerate(ours.forward_intermediates(x, intermediates_only=True)):
        early = ours.forward_intermediates(x, indices=[i], intermediates_only=True, stop_early=True)
        close(*early, whole)


def test_pruned_layers(ours: nn.Module, x: Tensor) -> None:
    whole = ours.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    stages = list(dict.fromkeys(info["module"] for info in ours.feature_info))
    kept = stages.index(ours.feature_info[2]["module"]) + 1
    unread = tuple(f"{stage}." for stage in stages[kept:] if stage.startswith(f"{ours.stage_list}."))
    before = len(list(ours.parameters()))
    assert list(ours.prune_intermediate_layers([0, 2], prune_norm=True)) == [0, 2]
    left = [name for name, _ in ours.named_parameters()]
    assert len(left) < before and not any(name.startswith(("head.", *unread)) for name in left)
    for a, b in zip(ours.forward_intermediates(x, indices=[0, 2], intermediates_only=True), whole, strict=True):
        close(a, b)


def reduction(ref: Twin, feature: Tensor) -> int:
    """By how much a feature is smaller than the image."""
    rows = ref.size[0], feature.shape[2]
    return BORDERS.get(rows, round(rows[0] / rows[1]))


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3), (0, 2)], ids=str)
def test_timms_feature_wrapper_takes_it(ref: Twin, ours: nn.Module, x: Tensor, out_indices: tuple[int, ...]) -> None:
    from timm.models._features import FeatureGetterNet

    out_indices = tuple(i for i in out_indices if i < len(ours.feature_info))
    whole = ours.forward_intermediates(x, indices=list(out_indices), intermediates_only=True)
    reductions = [info["reduction"] for info in ours.feature_info]
    if reductions != sorted(reductions):  # an overview comes before what looks more closely
        with pytest.raises(AssertionError):
            FeatureGetterNet(ours, out_indices=list(out_indices))
        return
    wrapped = FeatureGetterNet(ours, out_indices=list(out_indices))
    assert wrapped.feature_info.channels() == [m.shape[1] for m in whole]
    assert wrapped.feature_info.reduction() == [reduction(ref, m) for m in whole]
    for a, b in zip(wrapped(x), whole, strict=True):
        close(a, b)


@pytest.mark.parametrize("out_indices", [None, (1, 3), (0,), (-1,)], ids=str)
def test_features_only_form(ref: Twin, ours: nn.Module, x: Tensor, out_indices: tuple[int, ...] | None) -> None:
    """`features_only=True` gives NCHW maps, of which `out_indices` names some, with the keys of the whole model."""
    if out_indices is not None:
        out_indices = tuple(i for i in out_indices if i < len(ours.feature_info))
    model = entry_point(ref, ours)(features_only=True, out_indices=out_indices).double().eval()
    whole = ours.state_dict()
    inner = model.model.state_dict()
    assert inner.keys() <= whole.keys()
    model.model.load_state_dict({key: whole[key] for key in inner})
    indices = None if out_indices is None else list(out_indices)
    wanted = ours.forward_intermediates(x, indices=indices, intermediates_only=True)
    found = model(x)
    for info, a, b in zip(model.feature_info, found, wanted, strict=True):
        close(a, b)
        assert (info["num_chs"], info["reduction"]) == (a.shape[1], reduction(ref, a))


# -- what optimizers ask for ----------------------------------------------------------------------


def test_no_weight_decay(ref: Twin, pair: Pair, ours: nn.Module, theirs: nn.Module) -> None:
    timm_names = set(theirs.no_weight_decay()) if hasattr(theirs, "no_weight_decay") else set()
    mine = set(ours.no_weight_decay())
    assert mine <= {name for name, _ in ours.named_parameters()}
    timm_names &= {name for name, _ in theirs.named_parameters()}  # timm lists optional ones as well
    wanted = {pair.links.path(name) for name in timm_names}
    assert {name for name in wanted if not re.search(DECAYED.get(ref.spec, "$^"), name)} <= mine
    from timm.optim import param_groups_weight_decay

    decayed = next(g for g in param_groups_weight_decay(ours, 0.05, no_weight_decay_list=mine) if g["weight_decay"])
    kept = {id(p) for p in decayed["params"]}
    assert all((id(p) in kept) == (p.ndim > 1 and n not in mine) for n, p in ours.named_parameters())


@pytest.mark.parametrize("coarse", [False, True])
def test_group_matcher(pair: Pair, ours: nn.Module, theirs: nn.Module, coarse: bool) -> None:
    """Layer-wise rates see the blocks in the order that timm sees them; the head's own norm may go with either end."""
    from timm.models import group_parameters

    def layers(model: nn.Module, coarse: bool) -> dict[str, int]:
        return group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)

    mine = layers(ours, coarse)
    assert mine.keys() == {name for name, _ in ours.named_parameters()}
    timm_layers = layers(theirs, coarse) if hasattr(theirs, "group_matcher") else {}
    if not coarse and timm_layers and timm_layers == layers(theirs, True):
        timm_layers = {}  # timm does not tell blocks apart
    classifier = ours.default_cfg["classifier"]
    for name, layer in timm_layers.items():
        if not (key := pair.links.path(name)).startswith("head."):
            assert mine[key] == layer, key
    body = max(layer for key, layer in mine.items() if not key.startswith("head."))
    assert all(layer >= body for key, layer in mine.items() if key.startswith("head."))
    assert mine[f"{classifier}.weight"] == mine[f"{classifier}.bias"] == max(mine.values()) > body


def test_layer_decay(ours: nn.Module) -> None:
    from timm.optim import param_groups_layer_decay

    groups = param_groups_layer_decay(ours, 0.05, no_weight_decay_list=ours.no_weight_decay(), layer_decay=0.7)
    assert sum(len(g["params"]) for g in groups) == len(list(ours.parameters()))
    assert len({g["lr_scale"] for g in groups}) > len({info["module"] for info in ours.feature_info})


def test_gradient_checkpointing_changes_no_gradient(ours: nn.Module, x: Tensor) -> None:
    def gradients(model: nn.Module) -> list[Tensor]:
        model.zero_grad()
        model(x).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    ours.train()
    plain = gradients(ours)
    calls = 0
    block = ours.get_submodule(ours.feature_info[2]["module"])

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for module in block.modules():
        module.register_forward_hook(count)
    ours.set_grad_checkpointing()
    for a, b in zip(gradients(ours), plain, strict=True):
        close(a, b)
    recomputed, calls = calls, 0
    ours.set_grad_checkpointing(False)
    gradients(ours)
    assert recomputed > calls, "nothing was computed a second time, so nothing was checkpointed"


# -- what tools do to a module --------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_as_one_graph(ours: nn.Module, x: Tensor, backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend=backend)
    close(compiled(x), ours(x))
    compiled(x).sum().backward()


def test_exports_with_a_dynamic_batch(ref: Twin, ours: nn.Module, x: Tensor) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(ours, (x,), dynamic_shapes={"x": {0: batch}})
    other = images(5, ref.size, seed=3).double()
    close(program.module()(other), ours(other))


@pytest.mark.parametrize("way", ["argument", "context"])
def test_construction_on_meta(ref: Twin, ours: nn.Module, x: Tensor, way: str) -> None:
    """No memory is touched, and once the weights are loaded the module computes the same."""
    if way == "argument":
        model = entry_point(ref, ours)(device="meta")
    else:
        with torch.device("meta"):
            model = type(ours)()
    assert all(t.is_meta for t in [*model.parameters(), *model.buffers()])
    model = model.to_empty(device="cpu").double().eval()
    model.init_non_persistent_buffers()
    model.load_state_dict(ours.state_dict())
    close(model(x), ours(x))


def test_construction_in_bfloat16(ref: Twin, ours: nn.Module, x: Tensor) -> None:
    model = entry_point(ref, ours)(dtype=torch.bfloat16).eval()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(x.bfloat16()).dtype == torch.bfloat16
    model.load_state_dict(ours.state_dict())
    error = (model(x.bfloat16()).double() - ours(x)).norm() / ours(x).norm()
    assert error < 0.1


def test_copies(ours: nn.Module, x: Tensor) -> None:
    wanted = ours(x)
    close(copy.deepcopy(ours)(x), wanted)
    close(pickle.loads(pickle.dumps(ours))(x), wanted)
    fresh = type(ours)().double().eval()
    assert not torch.allclose(fresh(x), wanted)
    fresh.load_state_dict(ours.state_dict(), strict=True)
    close(fresh(x), wanted)


def test_buffers_that_are_computed_are_not_saved(ours: nn.Module) -> None:
    """The state dict holds what was learned: everything in it is a parameter or a running statistic."""
    learned = {name for name, _ in ours.named_parameters()}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert all(key in learned or key.endswith(statistics) for key in ours.state_dict())


# -- counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ref",
    [pytest.param(t, id=t.spec, marks=pytest.mark.full if t.slow or t.variant else ()) for t in TWINS.values()],
)
def test_counts_are_what_the_module_does(ref: Twin) -> None:
    with torch.device("meta"):
        model = archdsl.load(ref.spec, input=(3, *ref.size))
        with FlopCounterMode(display=False) as counter:
            model.eval()(torch.empty(1, 3, *ref.size))
        theirs = ref.build(ref.size)
    costs = archdsl.cost(ref.spec, input=(3, *ref.size))
    assert costs.macs == pytest.approx(counter.get_total_flops() / 2, rel=1e-3)
    assert costs.params == sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())
