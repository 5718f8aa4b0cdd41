"""ViT (2010.11929), with parallel branches (2203.09795), and DeiT (2012.12877)."""

from __future__ import annotations

from tests.oracle.twin import timm_twin

NAMES = {"dim": "embed_dim"}
TINY = {"dim": 48, "depth": 4}
SIZES = {"rebuild": ((256, 256), (192, 320)), "bound": "stem.pos_embed", "sized": True, "tokens": True}

TWINS = (
    timm_twin("vit_s16", "vit_small_patch16_224", TINY, NAMES, **SIZES),
    timm_twin("vit_s16_18x2", "vit_small_patch16_18x2_224", TINY, NAMES, **SIZES),
    timm_twin("vit_b16_18x2", "vit_base_patch16_18x2_224", TINY, NAMES, **SIZES, variant=True, large=True),
    timm_twin("vit_s16_36x1", "vit_small_patch16_36x1_224", TINY, NAMES, **SIZES, variant=True),
    timm_twin("vit_b16", "vit_base_patch16_224", TINY, NAMES, **SIZES, variant=True),
    timm_twin("vit_ti16", "vit_tiny_patch16_224", TINY, NAMES, **SIZES, variant=True),
    timm_twin("deit_ti16", "deit_tiny_patch16_224", TINY, NAMES, **SIZES, variant=True),
)
