"""PiT (2103.16302)."""

from __future__ import annotations

from torch import nn

from tests.oracle.twin import Twin, timm_twin


def _pit(dim: int, depths: object, heads: object, **arguments: object) -> nn.Module:
    from timm.models.pit import PoolingVisionTransformer

    model: nn.Module = PoolingVisionTransformer(base_dims=(dim,) * 3, depth=depths, heads=heads, **arguments)
    return model


def _twin(size: str, variant: bool = True, **settings: object) -> Twin:
    """`settings` are what timm's entry point sets beside what is small in `tiny`."""
    return timm_twin(
        f"pit_{size}",
        f"pit_{size}_224",
        {"dim": 8, "depths": [1, 2, 1], "heads": [2, 4, 8]},
        make=lambda **given: _pit(**{**settings, **given}),
        sized=True,
        rebuild=((256, 256), (192, 320)),
        bound="stem.pos_embed",
        tokens=True,
        interface=False,  # three stages, the first of 27x27
        variant=variant,
    )


B = {"patch_size": 14, "stride": 7}
TWINS = (
    _twin("s", variant=False),
    _twin("xs"),
    _twin("ti"),
    _twin("b", **B),
    *(_twin(f"{size}_distilled", distilled=True) for size in ("s", "xs", "ti")),
    _twin("b_distilled", distilled=True, **B),
)
