"""TNT (2103.00112)."""

from __future__ import annotations

from tests.oracle.twin import timm_twin

TWINS = (
    timm_twin(
        "tnt_s",
        "tnt_s_patch16_224",
        {"dim": 48, "depth": 4},
        {"dim": "embed_dim"},
        sized=True,
        rebuild=((256, 256), (192, 320)),
        bound="stem.patch_pos",
        tokens=True,
    ),
)
