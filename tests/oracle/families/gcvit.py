"""GCViT (2206.09959)."""

from __future__ import annotations

from torch import nn

from tests.oracle.twin import Build, Size, Twin, timm_build

TINY = {"dim": 16, "depths": [2, 2, 2, 2]}
NAMES = {"dim": "embed_dim", "heads": "num_heads"}
S = {"embed_dim": 96, "num_heads": (3, 6, 12, 24), "mlp_ratio": 2, "layer_scale": 1e-5}
B = {**S, "embed_dim": 128, "num_heads": (4, 8, 16, 32)}
L = {**S, "embed_dim": 192, "num_heads": (6, 12, 24, 48)}


def _gcvit(**arguments: object) -> nn.Module:
    from timm.models.gcvit import GlobalContextVit

    model: nn.Module = GlobalContextVit(**arguments)
    return model


def _class(depths: tuple[int, ...], **settings: object) -> Build:
    """timm's class with the numbers of a size that timm does not list."""
    names = {**NAMES, "classes": "num_classes"}

    def build(size: Size, /, **parameters: object) -> nn.Module:
        given = {names.get(name, name): value for name, value in parameters.items()}
        return _gcvit(**{"img_size": size, "depths": depths, **settings, **given})

    return build


def _twin(size: str, source: str, build: Build, variant: bool = True) -> Twin:
    # 192x320: windows of 6x10, and of 12x20 in the third stage.
    return Twin(
        f"gcvit_{size}",
        source,
        build,
        TINY,
        rebuild=((256, 256), (192, 320)),
        bound="attn.rel_bias.table",
        variant=variant,
        large=size == "l",
    )


def _listed(size: str, name: str, variant: bool = True, **settings: object) -> Twin:
    build = timm_build(name, NAMES, sized=True, make=lambda **given: _gcvit(**{**settings, **given}))
    return _twin(size, f"timm's `{name}`", build, variant)


TWINS = (
    _listed("t", "gcvit_tiny", variant=False),
    _listed("xt", "gcvit_xtiny"),
    _listed("xxt", "gcvit_xxtiny"),
    _listed("s", "gcvit_small", **S),
    _listed("b", "gcvit_base", **B),
    _twin("t2", "timm's `GlobalContextVit` of T2's depth", _class((3, 4, 29, 5))),
    _twin("s2", "timm's `GlobalContextVit` of S2's depth and width", _class((3, 4, 23, 5), **{**S, "mlp_ratio": 3})),
    _twin("l", "timm's `GlobalContextVit` of L's depth and width", _class((3, 4, 19, 5), **L)),
)
