"""TNT (2103.00112)."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _twin(size: str, variant: bool = False) -> Twin:
    return timm_twin(
        f"tnt_{size}",
        f"tnt_{size}_patch16_224",
        {"dim": 48, "depth": 4},
        {"dim": "embed_dim"},
        sized=True,
        rebuild=((256, 256), (192, 320)),
        bound="stem.patch_pos",
        tokens=True,
        variant=variant,
    )


TWINS = (_twin("s"), _twin("b", variant=True))
