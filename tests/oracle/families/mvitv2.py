"""MViTv2 (2112.01526)."""

from __future__ import annotations

from torch import nn

from tests.oracle.twin import Twin, timm_twin


def _mvitv2(depths: object, embed_dim: object = 96, **arguments: object) -> nn.Module:
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    model: nn.Module = MultiScaleVit(MultiScaleVitCfg(depths=depths, embed_dim=embed_dim), **arguments)
    return model


def _twin(size: str, variant: bool = False) -> Twin:
    return timm_twin(
        f"mvitv2_{size[0]}",
        f"mvitv2_{size}",
        {"dim": 24, "depths": [1, 1, 1, 1]},
        {"dim": "embed_dim"},
        make=_mvitv2,
        sized=True,
        rebuild=((256, 256), (192, 192)),
        bound="attn.rel_pos_q.rel_h",
        vanishing=r"\.pool_k\.norm\.bias$",  # the same for every key, so that the softmax takes it away
        small=(96, 96),  # timm's tables of relative positions are square
        variant=variant,
    )


TWINS = (_twin("tiny"), _twin("small", variant=True), _twin("base", variant=True))
