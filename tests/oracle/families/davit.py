"""DaViT (2204.03645)."""

from __future__ import annotations

from tests.oracle.twin import timm_twin

NAMES = {"dims": "embed_dims"}
TINY = {"dims": [12, 24, 48, 96], "depths": [1, 1, 2, 1]}
SIZES = ((183, 250), (192, 288))  # 183x250: maps that are halved are odd; the last one is smaller than a window

TWINS = (
    timm_twin("davit_t", "davit_tiny", TINY, NAMES, sizes=SIZES),
    timm_twin("davit_s", "davit_small", TINY, NAMES, sizes=SIZES, variant=True),
    timm_twin("davit_b", "davit_base", TINY, NAMES, sizes=SIZES, variant=True),
    timm_twin("davit_l", "davit_large", TINY, NAMES, sizes=SIZES, variant=True, large=True),
    timm_twin("davit_h", "davit_huge", TINY, NAMES, sizes=SIZES, variant=True, large=True),
    timm_twin("davit_g", "davit_giant", TINY, NAMES, sizes=SIZES, variant=True, large=True),
)
