"""CrossViT (2103.14899)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tests.oracle.twin import Twin, timm_twin


def _crossvit(
    dims: object, depths: Sequence[int], heads: object, ratio: int = 3, res: int = 240, **arguments: object
) -> nn.Module:
    from timm.models.crossvit import CrossVit

    model: nn.Module = CrossVit(
        img_scale=(1.0, 224 / 240 if res == 240 else 384 / 408),
        patch_size=(12, 16),
        embed_dim=dims,
        depth=((*depths, 0),) * 3,
        num_heads=heads,
        mlp_ratio=(ratio, ratio, 1),
        **arguments,
    )
    return model


def _twin(spec: str, name: str, res: int = 240, variant: bool = True, **settings: object) -> Twin:
    """`settings` are what timm's entry point sets beside what is small in `tiny`."""
    return timm_twin(
        f"crossvit_{spec}",
        f"crossvit_{name}_{res}",
        {"dims": [16, 32], "depths": [1, 2], "heads": [2, 2]},
        make=lambda **given: _crossvit(**{**settings, "res": res, **given}),
        sized=True,
        size=(res, res),
        rebuild=((120, 120), (120, 360)),
        bound="stem.small.pos_embed",
        small=(120, 120),
        vanishing=r"\.attn\.wk\.bias$",  # the same for every key, so that the softmax takes it away
        tokens=True,
        interface=False,  # two feature sequences and two classifiers
        variant=variant,
    )


TWINS = (
    _twin("9", "9", variant=False),
    _twin("15", "15"),
    _twin("18", "18"),
    _twin("ti", "tiny", ratio=4),
    _twin("s", "small", ratio=4),
    _twin("b", "base", ratio=4),
    *(_twin(f"{size}_dagger", f"{size}_dagger", multi_conv=True) for size in (9, 15, 18)),
    *(_twin(f"{size}_dagger_408", f"{size}_dagger", res=408, multi_conv=True) for size in (15, 18)),
)
