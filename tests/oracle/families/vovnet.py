"""VoVNetV2 (1911.06667) and VoVNet (1904.09730)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from tests.oracle.twin import Size, Twin, timm_twin

NAMES = {
    "widths": "stem_chs",
    "mids": "stage_conv_chs",
    "dims": "stage_out_chs",
    "depths": "block_per_stage",
    "layers": "layer_per_block",
    "classes": "num_classes",
}


def _vovnet(name: str, variant: bool = True) -> Twin:
    return timm_twin(
        name,
        name,
        {
            "widths": [8, 8, 16],
            "mids": [8, 8, 16, 16],
            "dims": [16, 24, 32, 48],
            "depths": [1, 1, 2, 1],
            "layers": 2,
        },
        NAMES,
        # Odd maps, of which max pooling keeps a last window that is only partly inside.
        sizes=((250, 250), (192, 288)),
        stem_is_a_feature=True,
        variant=variant,
    )


def _without_entry(name: str) -> Twin:
    """Of which timm has the numbers only."""

    def build(size: Size, /, **parameters: object) -> nn.Module:
        from timm.models.vovnet import VovNet, model_cfgs

        given = {NAMES.get(k, k): v for k, v in parameters.items()}
        model: nn.Module = VovNet(model_cfgs[name], **given)
        return model

    return replace(_vovnet(name), source=f"timm's `VovNet` with its configuration `{name}`", build=build)


def _std(x: Tensor, groups: int = 32, eps: float = 1e-5, flatten: bool = False) -> Tensor:
    """timm's deviation of a group of channels, in the type of its operand: timm's own is float32 for any."""
    variance = x.reshape(len(x), groups, -1).var(2, correction=0)
    return (variance + eps).sqrt().repeat_interleave(x.shape[1] // groups, 1)[:, :, None, None]


def _evos(name: str) -> Twin:
    twin = _vovnet(name)
    tiny = {"widths": [32, 32, 64], "mids": [32, 32, 64, 64], "dims": [64, 96, 128, 160]}

    def build(size: Size, /, **parameters: object) -> nn.Module:
        from timm.layers import evo_norm

        evo_norm.group_std = _std
        return twin.build(size, **parameters)

    return replace(twin, build=build, tiny={**twin.tiny, **tiny})


TWINS = (
    _vovnet("ese_vovnet39b", variant=False),
    *(_vovnet(f"ese_vovnet{name}") for name in ("19b_slim", "19b_dw", "19b_slim_dw", "57b", "99b")),
    _without_entry("ese_vovnet19b"),
    *map(_vovnet, ("eca_vovnet39b", "vovnet39a", "vovnet57a")),
    _evos("ese_vovnet39b_evos"),
)
