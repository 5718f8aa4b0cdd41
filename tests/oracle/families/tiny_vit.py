"""TinyViT (2207.10666)."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _twin(size: str, variant: bool = False) -> Twin:
    return timm_twin(
        f"tiny_vit_{size}",
        f"tiny_vit_{size}_224.in1k",
        {"dims": [16, 32, 40, 40], "depths": [1, 2, 6, 1]},
        {"dims": "embed_dims"},
        sizes=((250, 250), (192, 288)),  # the third map, 12x18, is smaller than a window on one axis only
        # The last blocks before a batch norm, with no padding in between, which takes the bias away again.
        vanishing_in_training=r"^stages\.(1\.blocks\.1|2\.blocks\.5)\.mlp\.fc2\.bias$",
        variant=variant,
    )


TWINS = (_twin("5m"), _twin("11m", variant=True), _twin("21m", variant=True))
