"""Swin v2 (2111.09883)."""

from __future__ import annotations

from tests.oracle.twin import timm_twin

TWINS = (
    # 288: maps of 72, 36, 18 and 9 with windows of 8. 192x320: the last is 6x10, clamped on one axis only.
    timm_twin(
        "swinv2_t",
        "swinv2_tiny_window8_256",
        {"dim": 48, "depths": [2, 2, 2, 2]},
        {"dim": "embed_dim"},
        size=(256, 256),
        sizes=((288, 288), (192, 320)),
        sized=True,
    ),
)
