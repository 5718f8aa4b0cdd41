"""TNT (2103.00112)."""

from __future__ import annotations

from dataclasses import replace

from tests.oracle.twin import Twin, timm_twin

TI = {"embed_dim": 192, "inner_dim": 12, "num_heads_inner": 2, "num_heads_outer": 3}


def _twin(size: str, name: str, variant: bool = True, **fixed: object) -> Twin:
    return timm_twin(
        f"tnt_{size}",
        f"tnt_{name}_patch16_224",
        {"dim": 48, "depth": 4},
        {"dim": "embed_dim"},
        fixed=fixed,
        sized=True,
        rebuild=((256, 256), (192, 320)),
        bound="stem.patch_pos",
        tokens=True,
        variant=variant,
    )


TWINS = (
    _twin("s", "s", variant=False),
    _twin("b", "b"),
    replace(_twin("ti", "s", **TI), source="timm's `tnt_s_patch16_224` with Ti's widths and heads"),
)
