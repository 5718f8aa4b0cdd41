"""MViTv2 (2112.01526)."""

from __future__ import annotations

from torch import nn

from tests.oracle.twin import Twin, timm_twin


def _mvitv2(depths: object, embed_dim: object, settings: dict[str, object], **arguments: object) -> nn.Module:
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    model: nn.Module = MultiScaleVit(MultiScaleVitCfg(depths=depths, embed_dim=embed_dim, **settings), **arguments)
    return model


LARGE = ("large", "large_cls", "huge_cls")
SAME_FOR_ALL_KEYS = r"\.pool_k\.norm\.bias$"
"""What the softmax takes away."""


def _twin(spec: str, name: str, depth: int = 1, variant: bool = True, unread: str = "", **settings: object) -> Twin:
    """`settings` are what timm's entry point sets beside what is small in `tiny`."""
    return timm_twin(
        f"mvitv2_{spec}",
        f"mvitv2_{name}",
        {"dim": 24, "depths": [1, 1, 1, depth]},
        {"dim": "embed_dim"},
        make=lambda **given: _mvitv2(settings=settings, **given),
        fixed={"num_classes": 1000},
        sized=True,
        rebuild=((256, 256), (192, 192)),
        bound="attn.rel_pos_q.rel_h",
        vanishing=f"{SAME_FOR_ALL_KEYS}|{unread}" if unread else SAME_FOR_ALL_KEYS,
        small=(96, 96),  # timm's tables of relative positions are square
        variant=variant,
        large=name in LARGE,
        tokens=name.endswith("_cls"),
    )


def _with_token(spec: str, name: str, depth: int, variant: bool = True, **settings: object) -> Twin:
    """`depth` is that of the last stage, in whose last block only the class token's query is of consequence."""
    unread = rf"^stages\.3\.blocks\.{depth - 1}\.attn\.(pool_q\.conv\.|rel_pos_q\.)"
    return _twin(f"{spec}_cls", f"{name}_cls", depth, variant, unread, use_cls_token=True, **settings)


TWINS = (
    _twin("t", "tiny", variant=False),
    _twin("s", "small"),
    _twin("b", "base"),
    _twin("l", "large", num_heads=2, expand_attn=False),
    _with_token("s", "small", 2, variant=False),
    _with_token("b", "base", 3),
    _with_token("l", "large", 4, num_heads=2),
    _with_token("h", "huge", 8, num_heads=3),
)
