"""Visformer (2104.12533); timm lacks its second version."""

from __future__ import annotations

from torch import nn

from tests.oracle.twin import Overrides, Size, Twin, timm_twin
from tests.references.visformer_v2 import VisformerV2


def _twin(spec: str, name: str, variant: bool = False) -> Twin:
    return timm_twin(
        spec,
        name,
        {"dim": 48, "depths": [2, 1, 1]},
        {"dim": "embed_dim", "depths": "depth"},
        sized=True,
        rebuild=((256, 256), (192, 320)),
        bound="patch_embed.pos_embed",
        vanishing_in_training=r"\.patch_embed\.(proj|norm)\.bias$",  # each goes through a batch norm
        interface=False,
        variant=variant,
    )


RENAMES = (
    (r"^stem\.0\.", "stem.conv."),
    (r"^stem\.1\.", "stem.norm."),
    (r"^(stages\.\d)\.(proj|norm|pos_embed)\b", r"\1.patch_embed.\2"),
    (r"\.attn\.table$", ".attn.rel_bias.table"),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)


def _second(spec: str, numbers: Overrides, variant: bool = False) -> Twin:
    def build(size: Size, /, **parameters: object) -> nn.Module:
        return VisformerV2(size, **{**numbers, **parameters})  # type: ignore[arg-type]

    # 448x224: shifted windows on one axis. 192x160: maps of 12x10 and 6x5, each a window.
    return Twin(
        spec,
        "tests/references/visformer_v2.py",
        build,
        {"dim": 16, "depths": [1, 1, 2, 1]},
        rebuild=((448, 224), (192, 160)),
        bound="patch_embed.pos_embed",
        vanishing_in_training=r"\.patch_embed\.(proj|norm)\.bias$",
        gain=0.6,  # at 1 maps grow a thousandfold in 28 blocks, until softmax turns a rounding into another maximum
        renames=RENAMES,
        interface=False,
        variant=variant,
    )


M = {"dim": 96, "depths": (1, 8, 14, 2)}
TI = {"dim": 48, "width": 24, "depths": (1, 4, 6, 3), "heads": (None, None, 6, 12)}
TWINS = (
    _twin("visformer_s", "visformer_small"),
    _twin("visformer_ti", "visformer_tiny", variant=True),
    _second("visformer_v2_s", {}),
    _second("visformer_v2_ti", TI, variant=True),
    _second("visformer_v2_m", M, variant=True),
)
