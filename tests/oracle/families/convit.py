"""ConViT (2103.10697)."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _twin(size: str, name: str, variant: bool = True) -> Twin:
    return timm_twin(
        f"convit_{size}",
        f"convit_{name}",
        {"dim": 12, "depth": 4, "local": 2},
        {"dim": "embed_dim", "local": "local_up_to_layer"},
        sized=True,
        rebuild=((256, 256), (192, 192)),
        bound="stem.pos_embed",
        vanishing=r"\.pos_proj\.bias$",  # the same for every key, so that the softmax takes it away
        tokens=True,
        small=(96, 96),
        variant=variant,
    )


TWINS = (_twin("t", "tiny", variant=False), _twin("s", "small"), _twin("b", "base"))
