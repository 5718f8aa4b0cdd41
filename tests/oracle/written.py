"""Turns the name of a spec that tests/oracle/references.py lacks into a reference, most of them in tests/references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

import archdsl
from tests.oracle.compare import adopt, randomise
from tests.oracle.references import REFERENCES, Reference, Size
from tests.references.cswin import CSWin
from tests.references.hornet import HorNet
from tests.references.overlock import OverLoCK
from tests.references.sret import SReT

Overrides = Mapping[str, object]


@dataclass(frozen=True)
class Written:
    """A spec's reference: `build` makes it from an input size, the spec's own parameters and `drop_path_rate`.

    `source` is what it is, in words. `tiny` makes it small and shallow. `sizes` are inputs at which the module built
    for 224x224 must agree too, `rebuild` those for which it must be built anew, because the parameter `bound` has
    another shape there. `vanishing` finds the parameters whose gradient is zero in exact arithmetic,
    `vanishing_in_training` those in training mode.
    """

    spec: str
    family: str
    source: str
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
    size: Size = (224, 224)

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


def _sret(size: Size, **arguments: object) -> nn.Module:
    return SReT(size, **arguments)  # type: ignore[arg-type]


SHALLOW = {"depths": [1, 1, 2, 1]}
WRITTEN = (
    # 448: the last stage is 14 wide and stays whole. 224x448: stripes of two lengths.
    Written(
        "cswin_t",
        "cswin",
        "tests/references/cswin.py",
        _cswin,
        {"dim": 16, **SHALLOW},
        sizes=((448, 448), (224, 448)),
    ),
    Written(
        "hornet_t",
        "hornet",
        "tests/references/hornet.py",
        _hornet,
        {"dim": 32, **SHALLOW},
        sizes=((250, 250), (192, 288)),
    ),
    Written(
        "hornet_t_gf",
        "hornet",
        "tests/references/hornet.py",
        _hornet,
        {"dim": 32, **SHALLOW},
        rebuild=((256, 256), (192, 288)),
        bound="fft_filter.weight",
        settings={"globals_from": 2},
    ),
    Written(
        "repvit_m1",
        "repvit",
        "timm's `repvit_m1_0`",
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
        "tests/references/overlock.py",
        _overlock,
        {"dims": [16, 32, 64, 96], "depths": [1, 1, 1, 1], "sub": [2, 2]},
        sizes=((256, 256), (224, 288)),
        vanishing_in_training=r"\.(dilated|lepe)\.(lk_bn|dil_bn\.\d)\.bias$|\.fuse_dw\.bias$"
        r"|^look4\.blocks\.1\.(ls2|ffn\.fc2)\.bias$|^look4\.blocks\.1\.ffn\.grn\.beta$",
    ),
    # 256: maps of 32, 16 and 8. 192x320: maps of 24x40, 12x20 and 6x10.
    Written(
        "sret_t",
        "sret",
        "tests/references/sret.py",
        _sret,
        {"head_dim": 16, "depths": [1, 2, 1]},
        rebuild=((256, 256), (192, 320)),
        bound="stem.pos_embed",
        vanishing_in_training=r"^stem\.conv\d\.bias$",
    ),
)

Twin = Reference | Written

TWINS: Mapping[str, Twin] = {twin.spec: twin for twin in (*REFERENCES, *WRITTEN)}
"""What each spec is compared with."""
