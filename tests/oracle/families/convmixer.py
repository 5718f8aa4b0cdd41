"""ConvMixer (2201.09792)."""

from __future__ import annotations

from torch import nn

from tests.oracle.twin import Twin, timm_twin


def _convmixer(**arguments: object) -> nn.Module:
    from timm.models.convmixer import ConvMixer

    settings = {"dim": 768, "depth": 32, "kernel_size": 7, "patch_size": 7, "act_layer": nn.ReLU}
    model: nn.Module = ConvMixer(**{**settings, **arguments})
    return model


def _twin(spec: str, name: str, variant: bool = True) -> Twin:
    # 250: patches of 7 leave a remainder out. 192x288: not square.
    return timm_twin(
        spec,
        name,
        {"dim": 48, "depth": 4},
        make=_convmixer,
        sizes=((250, 250), (192, 288)),
        drops=False,
        reduction=7,
        interface=False,
        rounding=2e-5,  # torch adds up the last norm's gradients one by one where channels come last: 2048 positions
        variant=variant,
    )


TWINS = (
    _twin("convmixer_768_32", "convmixer_768_32", variant=False),
    _twin("convmixer_1024_20", "convmixer_1024_20_ks9_p14"),
    _twin("convmixer_1536_20", "convmixer_1536_20"),
)
