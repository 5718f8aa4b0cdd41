"""InceptionNeXt (2303.16900)."""

from __future__ import annotations

from tests.oracle.twin import Twin, timm_twin


def _twin(size: str, variant: bool = True) -> Twin:
    return timm_twin(
        f"inception_next_{size[0]}",
        f"inception_next_{size}",
        {"dims": [24, 48, 96, 192], "depths": [2, 2, 2, 2]},
        sizes=((250, 250), (192, 288)),
        # Biases that a batch norm takes away again.
        vanishing_in_training=r"^stem\.conv\.bias$|\.dwconv_\w+\.bias$|^stages\.[012]\.blocks\.-1\.mlp\.fc2\.bias$",
        variant=variant,
    )


TWINS = (_twin("tiny", variant=False), _twin("atto"), _twin("small"), _twin("base"))
