"""ViT with the blocks of ViT-22B (2302.05442)."""

from __future__ import annotations

from tests.oracle.twin import timm_twin

TWINS = (
    timm_twin(
        "vit_parallel",
        "vit_base_patch16_xp_224",
        {"dim": 48, "depth": 4},
        {"dim": "embed_dim"},
        rebuild=((256, 256), (192, 320)),
        bound="stem.pos_embed",
        sized=True,
        tokens=True,
    ),
)
