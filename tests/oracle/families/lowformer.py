"""LowFormer (2409.03460, 2603.26551)."""

from __future__ import annotations

from torch import nn

from tests.oracle.twin import Build, Size, Twin, timm_build


def _build(name: str, first: int) -> Build:
    plain = timm_build(name, {"dims": "width_list", "depths": "depth_list", "hidden": "head_widths"})

    def build(size: Size, /, **parameters: object) -> nn.Module:
        """timm's model, which takes the number of blocks in the stem before those in the stages."""
        depths = parameters.get("depths")
        if isinstance(depths, list):
            parameters = {**parameters, "depths": [first, *depths]}
        return plain(size, **parameters)

    return build


def _twin(size: str, depth: int, first: int = 0, variant: bool = True) -> Twin:
    """`depth` is that of the last stage, `first` how many blocks come before the stages."""
    name = f"lowformer_{size}"
    return Twin(
        name,
        f"timm's `{name}`",
        _build(name, first),
        {"dims": [16, 24, 32, 64, 256], "depths": [1, 2, 1, depth], "hidden": [48, 64]},
        sizes=((260, 288),),  # maps of 17x18, which halved and doubled are cut again
        # Biases that a batch norm takes away again.
        vanishing_in_training=r"\.spatial_conv\.conv\.bias$"
        rf"|^stages\.3\.attentive\.{depth - 1}\.local\.point_conv\.norm\.bias$",
        interface=False,  # timm counts a convolution between the features and pooling to the classifier
        variant=variant,
    )


TWINS = (
    _twin("b0", 4, variant=False),
    _twin("b1", 5),
    _twin("b15", 6),
    _twin("b2", 6),
    _twin("b3", 6, first=1),
    _twin("e1", 4),
    _twin("e2", 4, first=1),
    _twin("e3", 6, first=1),
)
