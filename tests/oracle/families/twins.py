"""Twins (2104.13840): PCPVT, and SVT, which attends within windows and to reduced keys in turns."""

from __future__ import annotations

from tests.oracle.twin import timm_twin

NAMES = {"dims": "embed_dims"}
TINY = {"dims": [16, 32, 40, 64], "depths": [2, 2, 2, 2]}
TINY_SVT = {"dims": [16, 32, 64, 128], "depths": [2, 2, 2, 2]}
SIZES = ((250, 250), (192, 288))  # 192x288: the last map, 6x9, is smaller than a window on one axis only

TWINS = (
    timm_twin("twins_pcpvt_s", "twins_pcpvt_small", TINY, NAMES, sizes=SIZES),
    timm_twin("twins_pcpvt_b", "twins_pcpvt_base", TINY, NAMES, sizes=SIZES, variant=True),
    timm_twin("twins_pcpvt_l", "twins_pcpvt_large", TINY, NAMES, sizes=SIZES, variant=True),
    timm_twin("twins_svt_s", "twins_svt_small", TINY_SVT, NAMES, sizes=SIZES),
    timm_twin("twins_svt_b", "twins_svt_base", TINY_SVT, NAMES, sizes=SIZES, variant=True),
    timm_twin("twins_svt_l", "twins_svt_large", TINY_SVT, NAMES, sizes=SIZES, variant=True),
)
