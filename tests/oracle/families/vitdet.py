"""ViTDet (2203.16527), as SAM's image encoder has it (2304.02643), with a classifier."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _twin(size: str, variant: bool = True) -> Twin:
    return timm_twin(
        f"vitdet_{size[0]}",
        f"samvit_{size}_patch16",
        {"dim": 48, "heads": 2, "depth": 4, "window": 5},
        {"dim": "embed_dim", "heads": "num_heads", "window": "window_size"},
        fixed={"num_classes": 1000},
        sized=True,
        size=(256, 256),  # instead of 1024x1024: a map of 16x16, so that windows of 14, and of 5, are padded
        rebuild=((320, 320), (224, 320)),
        bound="stem.pos_embed",
        small=(96, 80),
        reduction=16,
        interface=False,  # what timm norms a feature with is the whole neck
        variant=variant,
        large=variant,
    )


TWINS = (_twin("base", variant=False), _twin("large"), _twin("huge"))
