"""Swin (2103.14030) and S3 (2111.14725), whose windows differ by stage."""

from __future__ import annotations

from tests.oracle.twin import timm_twin

NAMES = {"dim": "embed_dim"}
TINY = {"dim": 24, "depths": [2, 2, 2, 2]}
# 256: maps of 64, 32, 16 and 8 with windows of 7, and a shift in the last stage that 224 does not have.
# 224x320: the last map is 7x10, so its shift is dropped on one axis only. Other sizes timm masks for another map.
SIZES = {"sizes": ((256, 256), (224, 320)), "rebuild": ((160, 192),), "bound": "attn.rel_bias.table", "sized": True}

TWINS = (
    timm_twin("swin_t", "swin_tiny_patch4_window7_224", TINY, NAMES, **SIZES, whole=True),
    timm_twin("swin_s", "swin_small_patch4_window7_224", TINY, NAMES, **SIZES, variant=True),
    timm_twin("swin_b", "swin_base_patch4_window7_224", TINY, NAMES, **SIZES, variant=True),
    timm_twin("swin_s3_t", "swin_s3_tiny_224", TINY, NAMES, **SIZES),
    timm_twin("swin_s3_s", "swin_s3_small_224", TINY, NAMES, **SIZES, variant=True),
    timm_twin("swin_s3_b", "swin_s3_base_224", TINY, NAMES, **SIZES, variant=True),
)
