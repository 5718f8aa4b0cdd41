"""PVTv2 (2106.13797)."""

from __future__ import annotations

from tests.oracle.twin import timm_twin

NAMES = {"dims": "embed_dims"}
TINY = {"dims": [16, 32, 40, 64], "depths": [2, 2, 2, 2]}
SIZES = ((250, 250), (192, 288))  # 250: every map is odd somewhere, and the reduced keys leave a remainder out

TWINS = (
    timm_twin("pvt_v2_b0", "pvt_v2_b0", TINY, NAMES, sizes=SIZES),
    timm_twin("pvt_v2_b1", "pvt_v2_b1", TINY, NAMES, sizes=SIZES, variant=True),
    timm_twin("pvt_v2_b2", "pvt_v2_b2", TINY, NAMES, sizes=SIZES, variant=True),
)
