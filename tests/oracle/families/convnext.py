"""ConvNeXt (2201.03545)."""

from __future__ import annotations

from tests.oracle.twin import timm_twin

RENAMED = (
    (r"^stem\.0\.", "stem.conv."),
    (r"^stem\.1\.", "stem.norm."),
    (r"\.downsample\.0\.", ".down_norm."),
    (r"\.downsample\.1\.", ".down."),
    (r"\.gamma$", ".ls.gamma"),
    (r"\.conv_dw\.", ".dwconv."),
)
"""timm's names written down by hand, to be held against those that are found."""
TINY = {"dims": [24, 48, 96, 192], "depths": [2, 2, 2, 2]}
SIZES = ((250, 250), (192, 288))

TWINS = (
    timm_twin("convnext_t", "convnext_tiny", TINY, sizes=SIZES, whole=True),
    timm_twin("convnext_s", "convnext_small", TINY, sizes=SIZES, variant=True),
)
