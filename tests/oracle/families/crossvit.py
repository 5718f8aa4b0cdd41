"""CrossViT (2103.14899)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tests.oracle.twin import Twin, timm_twin


def _crossvit(dims: object, depths: Sequence[int], heads: object, **arguments: object) -> nn.Module:
    from timm.models.crossvit import CrossVit

    model: nn.Module = CrossVit(
        img_scale=(1.0, 224 / 240),
        patch_size=(12, 16),
        embed_dim=dims,
        depth=((*depths, 0),) * 3,
        num_heads=heads,
        mlp_ratio=(3, 3, 1),
        **arguments,
    )
    return model


def _twin(size: int, variant: bool = True) -> Twin:
    return timm_twin(
        f"crossvit_{size}",
        f"crossvit_{size}_240",
        {"dims": [16, 32], "depths": [1, 2], "heads": [2, 2]},
        make=_crossvit,
        sized=True,
        size=(240, 240),
        rebuild=((120, 120), (120, 360)),
        bound="stem.small.pos_embed",
        small=(120, 120),
        vanishing=r"\.attn\.wk\.bias$",  # the same for every key, so that the softmax takes it away
        tokens=True,
        interface=False,  # two feature sequences and two classifiers
        variant=variant,
    )


TWINS = (_twin(9, variant=False), _twin(15), _twin(18))
