"""Turns each spec that timm lacks into a module and holds it against one written from the paper (tests/references)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import archdsl
from tests.oracle.compare import adopt, check_exact, check_rounding, images, randomise, run
from tests.oracle.keys import renamed, translate
from tests.oracle.references import Size
from tests.references.cswin import CSWin
from tests.references.hornet import HorNet
from tests.references.overlock import OverLoCK
from tests.test_oracle import Moments

Overrides = Mapping[str, object]


@dataclass(frozen=True)
class Written:
    """A spec's reference: `build` makes it from an input size, the spec's own parameters and `drop_path_rate`.

    `tiny` makes it small and shallow. `sizes` are inputs at which the module built for 224x224 must agree too,
    `rebuild` those for which it must be built anew, because the parameter `bound` has another shape there.
    `vanishing` finds the parameters whose gradient is zero in exact arithmetic, `vanishing_in_training` those in
    training mode.
    """

    spec: str
    family: str
    build: Callable[..., nn.Module]
    tiny: Overrides
    sizes: tuple[Size, ...] = ()
    rebuild: tuple[Size, ...] = ()
    bound: str = ""
    vanishing: str = ""
    vanishing_in_training: str = ""
    drops: bool = True
    settings: Overrides = field(default_factory=dict)
    """What the reference needs besides to be the spec."""

    def pair(self, size: Size, built: Size | None = None, **overrides: object) -> tuple[nn.Module, nn.Module]:
        """Ours built for `built` and the reference for `size`, with the same random weights, in eval mode."""
        ours = archdsl.load(self.spec, input=(3, *(built or size)), **overrides, **({"dpr": 0.0} if self.drops else {}))
        theirs = self.build(size, **self.settings, **overrides)
        randomise(theirs)
        adopt(ours, theirs, self.family)
        return ours.eval(), theirs.eval()


def _cswin(size: Size, **arguments: object) -> nn.Module:
    return CSWin(size, **arguments)  # type: ignore[arg-type]


def _hornet(size: Size, **arguments: object) -> nn.Module:
    return HorNet(size, **arguments)  # type: ignore[arg-type]


def _overlock(size: Size, **arguments: object) -> nn.Module:
    return OverLoCK(**arguments)  # type: ignore[arg-type]


def _repvit(size: Size, **arguments: object) -> nn.Module:
    import timm

    names = {"dims": "embed_dim", "depths": "depth", "distill": "distillation"}
    model: nn.Module = timm.create_model("repvit_m1_0", **{names[k]: v for k, v in arguments.items()})
    return model


SHALLOW = {"depths": [1, 1, 2, 1]}
REFERENCES = (
    # 448: the last stage is 14 wide and stays whole. 224x448: stripes of two lengths.
    Written("cswin_t", "cswin", _cswin, {"dim": 16, **SHALLOW}, sizes=((448, 448), (224, 448))),
    Written("hornet_t", "hornet", _hornet, {"dim": 32, **SHALLOW}, sizes=((250, 250), (192, 288))),
    Written(
        "hornet_t_gf",
        "hornet",
        _hornet,
        {"dim": 32, **SHALLOW},
        rebuild=((256, 256), (192, 288)),
        bound="fft_filter.weight",
        settings={"globals_from": 2},
    ),
    Written(
        "repvit_m1",
        "repvit",
        _repvit,
        {"dims": [16, 32, 48, 64], "depths": [1, 1, 2, 2]},
        sizes=((250, 250), (192, 288)),
        # Biases that a batch norm takes away again.
        vanishing_in_training=r"token_mixer\.(conv\.bn|conv1)\.bias$|downsample\.spatial\.bn\.bias$"
        r"|^stages\.3\.blocks\.1\.(token_mixer|channel_mixer\.conv2)\.bn\.bias$",
        drops=False,
    ),
    Written(
        "overlock_xt",
        "overlock",
        _overlock,
        {"dims": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "sub": [2, 2]},
        sizes=((256, 256), (224, 288)),
        vanishing_in_training=r"\.(dilated|lepe)\.(lk_bn|dil_bn\.\d)\.bias$|\.fuse_dw\.bias$"
        r"|^look4\.blocks\.1\.(ls2|ffn\.fc2)\.bias$|^look4\.blocks\.1\.ffn\.grn\.beta$",
    ),
)


def each() -> list[object]:
    return [pytest.param(ref, id=ref.spec) for ref in REFERENCES]


def each_depth() -> Iterator[object]:
    """Every spec small, and as it is."""
    for ref in REFERENCES:
        yield pytest.param(ref, ref.tiny, id=f"{ref.spec}-tiny")
        yield pytest.param(ref, {}, id=ref.spec, marks=pytest.mark.full)


@pytest.mark.parametrize(("ref", "overrides"), list(each_depth()))
def test_same_numbers_at_the_reference_size(ref: Written, overrides: Overrides) -> None:
    ours, theirs = ref.pair((224, 224), **overrides)
    x = images(2, (224, 224))
    exact = run(theirs, x, torch.float64, ref.family)
    check_exact(run(ours, x, torch.float64), exact, ref.vanishing)
    # Channels last, as ours lays maps out: torch sums batch norm's gradients in another, coarser order there.
    theirs, laid_out = theirs.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    check_rounding(run(ours, x, torch.float32), run(theirs, laid_out, torch.float32, ref.family), exact)


@pytest.mark.parametrize(("ref", "overrides"), list(each_depth()))
def test_same_numbers_in_training_mode(ref: Written, overrides: Overrides) -> None:
    ours, theirs = ref.pair((224, 224), **overrides)
    x = images(2, (224, 224))
    exact = run(theirs.train(), x, torch.float64, ref.family)
    check_exact(run(ours.train(), x, torch.float64), exact, ref.vanishing_in_training or ref.vanishing)


def elsewhere() -> Iterator[object]:
    for ref in REFERENCES:
        for size in ref.sizes:
            for built in (size, (224, 224)):
                name = f"{ref.spec}-{size[0]}x{size[1]}-built-for-{built[0]}x{built[1]}"
                yield pytest.param(ref, size, built, ref.tiny, id=f"{name}-tiny")
            yield pytest.param(ref, size, (224, 224), {}, id=f"{ref.spec}-{size[0]}x{size[1]}", marks=pytest.mark.full)


@pytest.mark.parametrize(("ref", "size", "built", "overrides"), list(elsewhere()))
def test_same_numbers_at_other_sizes(ref: Written, size: Size, built: Size, overrides: Overrides) -> None:
    ours, theirs = ref.pair(size, built, **overrides)
    x = images(1, size)
    check_exact(run(ours, x, torch.float64), run(theirs, x, torch.float64, ref.family), ref.vanishing)


def rebuilds() -> Iterator[object]:
    for ref in REFERENCES:
        for size in ref.rebuild:
            yield pytest.param(ref, size, id=f"{ref.spec}-{size[0]}x{size[1]}")


@pytest.mark.parametrize(("ref", "size"), list(rebuilds()))
def test_a_size_that_changes_a_parameter_needs_a_rebuild(ref: Written, size: Size) -> None:
    ours, theirs = ref.pair(size, **ref.tiny)
    x = images(1, size)
    check_exact(run(ours, x, torch.float64), run(theirs, x, torch.float64, ref.family), ref.vanishing)
    usual = archdsl.load(ref.spec, **ref.tiny)
    with pytest.raises(ValueError, match=rf"{re.escape(ref.bound)} \(.*:\d+\).*--input 3x{size[0]}x{size[1]}"):
        usual(x)


@pytest.mark.parametrize("ref", each())
def test_the_same_weights(ref: Written) -> None:
    with torch.device("meta"):
        theirs = ref.build((224, 224), **ref.settings)
    ours = archdsl.load(ref.spec)
    translate(theirs.state_dict(), ours.state_dict(), ref.family)
    assert archdsl.cost(ref.spec).params == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("ref", [pytest.param(r, id=r.spec) for r in REFERENCES if r.drops])
@pytest.mark.parametrize("rate", [0.0, 0.37])
def test_drop_path_rates(ref: Written, rate: float) -> None:
    theirs: dict[str, float] = {}
    with torch.device("meta"):
        for name, module in ref.build((224, 224), drop_path_rate=rate, **ref.settings).named_modules():
            if type(module).__name__ == "DropPath":
                theirs[block_of(renamed(name, ref.family))] = float(module.drop_prob)
    found: dict[str, set[float]] = {}
    for name, module in archdsl.load(ref.spec, dpr=rate).named_modules():
        if type(module).__name__ == "DropPath":
            found.setdefault(block_of(name), set()).add(float(module.rate))
    assert len(theirs) > 10 and found.keys() <= theirs.keys()
    for name, rate_of_block in theirs.items():
        assert sorted(found.get(name, {0.0})) == pytest.approx([rate_of_block]), name


def block_of(path: str) -> str:
    match = re.match(r".*?blocks\.\d+", path)
    assert match, path
    return match[0]


@pytest.mark.parametrize(("ref", "overrides"), list(each_depth()))
def test_initialisation(ref: Written, overrides: Overrides) -> None:
    """Mean and std of every tensor over some seeds, ours and the reference's drawn from different streams."""
    first = archdsl.load(ref.spec, **overrides)
    ours: dict[str, Moments] = {}
    theirs: dict[str, Moments] = {}
    for seed in range(10):
        torch.manual_seed(seed)
        for key, tensor in type(first)().state_dict().items():
            ours.setdefault(key, Moments()).add(tensor)
        torch.manual_seed(1000 + seed)
        for key, tensor in ref.build((224, 224), **ref.settings, **overrides).state_dict().items():
            theirs.setdefault(renamed(key, ref.family), Moments()).add(tensor)
    assert ours.keys() == theirs.keys()
    faults = [f"{key}: {fault}" for key in ours if (fault := ours[key].differs(theirs[key]))]
    assert not faults, "\n".join(faults)
