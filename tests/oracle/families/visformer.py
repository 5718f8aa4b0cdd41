"""Visformer (2104.12533)."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _twin(spec: str, name: str, variant: bool = False) -> Twin:
    return timm_twin(
        spec,
        name,
        {"dim": 48, "depths": [2, 1, 1]},
        {"dim": "embed_dim", "depths": "depth"},
        sized=True,
        rebuild=((256, 256), (192, 320)),
        bound="patch_embed.pos_embed",
        vanishing_in_training=r"\.patch_embed\.(proj|norm)\.bias$",  # each goes through a batch norm
        interface=False,
        variant=variant,
    )


TWINS = (_twin("visformer_s", "visformer_small"), _twin("visformer_ti", "visformer_tiny", variant=True))
