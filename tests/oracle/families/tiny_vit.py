"""TinyViT (2207.10666)."""

from __future__ import annotations

from tests.oracle.twin import Size, Twin, timm_twin


def _twin(spec: str, name: str, size: Size = (224, 224), variant: bool = True) -> Twin:
    return timm_twin(
        f"tiny_vit_{spec}",
        f"tiny_vit_{name}",
        {"dims": [16, 32, 40, 40], "depths": [1, 2, 6, 1]},
        {"dims": "embed_dims"},
        size=size,
        sizes=((250, 250), (192, 288)),  # the third map, 12x18, is smaller than a window on one axis only
        # The last blocks before a batch norm, with no padding in between, which takes the bias away again.
        vanishing_in_training=r"^stages\.(1\.blocks\.1|2\.blocks\.5)\.mlp\.fc2\.bias$",
        variant=variant,
    )


TWINS = (
    _twin("5m", "5m_224.in1k", variant=False),
    _twin("11m", "11m_224.in1k"),
    _twin("21m", "21m_224.in1k"),
    _twin("21m_384", "21m_384.dist_in22k_ft_in1k", (384, 384)),
    _twin("21m_512", "21m_512.dist_in22k_ft_in1k", (512, 512)),
)
