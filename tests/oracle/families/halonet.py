"""HaloNet (2103.12731).

timm multiplies queries with all rows of a table of relative positions, 2 * window - 1 of them, and drops what it does
not need; here a query meets the rows of its own distances, one for each key of an axis. So timm's models have more
multiply-adds by torch's counter, 0.09 to 1.7 %, and compute the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from tests.oracle.twin import Overrides, Size, Twin, timm_twin


def _make(
    name: str, dims: Sequence[int], depths: Sequence[int], widths: Sequence[int], block: int, halo: int, **more: object
) -> nn.Module:
    import timm
    from timm.models.byoanet import model_cfgs
    from timm.models.byobnet import expand_blocks_cfg

    sizes = {"block_size": block, "halo_size": halo}
    stages = []
    for stage, dim, depth in zip(model_cfgs[name].blocks, dims, depths, strict=True):
        made = [replace(b, c=dim) for b in expand_blocks_cfg(stage)[:depth]]
        stages.append([replace(b, self_attn_kwargs={**(b.self_attn_kwargs or {}), **sizes}) for b in made])
    model: nn.Module = timm.create_model(name, blocks=stages, stem_chs=widths[-1], **more)
    return model


def _halonet(name: str, tiny: Overrides, **more: object) -> Twin:
    return timm_twin(
        name,
        name,
        {"dims": [32, 64, 128, 256], "widths": [6, 8, 16], "block": 4, "halo": 1, **tiny},
        make=lambda **parameters: _make(name, **parameters),
        # Maps that its blocks do not tile timm refuses, and a strided one here too.
        size=(256, 256),
        sizes=((256, 512),),
        small=(128, 128),
        stem_is_a_feature=True,
        **more,
    )


class ByHead(nn.Module):
    """All rows of keys, then all of values, become timm's: those of a head together."""

    def __init__(self, keys: int, heads: int) -> None:
        super().__init__()
        self.keys, self.heads = keys, heads

    def forward(self, weight: Tensor) -> Tensor:
        parts = weight.split([self.keys, len(weight) - self.keys])
        return torch.cat([part.unflatten(0, (self.heads, -1)) for part in parts], 1).flatten(0, 1)


class Flipped(nn.Module):
    """A table of relative positions counted the other way."""

    def forward(self, table: Tensor) -> Tensor:
        return table.flip(0)


def _published(
    depths: Sequence[int],
    ratio: float,
    block: int = 8,
    halo: int = 3,
    widen: float = 1,
    last: int = 0,
    widths: Sequence[int] = (64,),
    dims: Sequence[int] = (),
    **more: object,
) -> nn.Module:
    """timm's H1 with other numbers, and with layers of its own kind where values are wider than queries."""
    import timm
    from timm.layers import BatchNormAct2d, ConvNormAct
    from timm.layers.halo_attn import HaloAttn
    from timm.models._manipulate import named_apply
    from timm.models.byobnet import ByoBlockCfg, SelfAttnBlock, _init_weights

    sizes = {"block_size": block, "halo_size": halo}
    blocks = [
        ByoBlockCfg("self_attn", d=depth, c=dim, s=2 if i else 1, gs=0, br=1 / ratio)
        for i, (depth, dim) in enumerate(zip(depths, dims or [int(64 * ratio * 2**i) for i in range(4)], strict=True))
    ]
    model: nn.Module = timm.create_model(
        "halonet_h1", blocks=blocks, stem_chs=widths[0], self_attn_kwargs=sizes, num_features=last, **more
    )
    attentive = [m for m in model.modules() if isinstance(m, SelfAttnBlock)]
    for m in attentive:
        mid, dim = m.conv1_1x1.conv.out_channels, m.conv3_1x1.conv.out_channels
        wide = int(widen * mid)
        m.self_attn = HaloAttn(mid, wide, stride=m.self_attn.block_stride, qk_ratio=mid / wide, **sizes)
        m.post_attn = BatchNormAct2d(wide)
        m.conv3_1x1 = ConvNormAct(wide, dim, 1, apply_act=False)
    named_apply(partial(_init_weights, zero_init_last=True), model)
    for attn in (m.self_attn for m in attentive):
        register_parametrization(attn.kv, "weight", ByHead(attn.dim_out_qk, attn.num_heads), unsafe=True)
        for table in ("height_rel", "width_rel"):
            register_parametrization(attn.pos_embed, table, Flipped(), unsafe=True)
    return model


RENAMES = (
    (r"\.parametrizations\.(\w+)\.original$", r".\1"),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^final_conv\.", "stages.3.final_conv."),
    (r"^stem\.conv1\.", "stem.conv."),
    (r"\.conv([13])_1x1\.", r".conv\1."),
    (r"\.((?:final_)?conv\d?|shortcut)\.conv\.", r".\1.c."),
    (r"\.self_attn\.pos_embed\.([hw])\w+_rel$", r".self_attn.pos_embed.rel_\1"),
    (r"\.self_attn\.", ".spatial."),
    (r"\.post_attn\.", ".spatial.norm."),
)


def _h(number: int, res: int, numbers: Overrides, **more: object) -> Twin:
    """One of the paper's eight models, of which timm lists H1."""

    def build(size: Size, /, classes: int = 1000, **parameters: object) -> nn.Module:
        return _published(**{**numbers, "num_classes": classes, **parameters})

    return Twin(
        f"halonet_h{number}",
        "timm's `halonet_h1`" if number == 1 else f"timm's `halonet_h1` with the numbers of `halonet_h{number}`",
        build,
        {
            "widths": [16],
            "dims": [32, 64, 128, 256],
            "ratio": 2,
            "widen": 2.5,
            "depths": [1, 1, 2, 1],
            "block": 4,
            "halo": 1,
            "last": 24,
        },
        size=(res, res),
        sizes=((256, 512),),
        small=(128, 128),
        stem_is_a_feature=True,
        # timm's attention gives a batch norm its map with channels first: with channels last torch sums the norm's
        # gradients in a coarser order, which alone is an error of 2.0e-6 from 80x80 positions on.
        rounding=1e-6 if res == 256 else 3e-6,
        renames=RENAMES,
        **more,  # type: ignore[arg-type]
    )


def _sized(depth: int, ratio: float, **more: object) -> Overrides:
    return {"depths": (3, 3, depth, 3), "ratio": ratio, **more}


TWINS = (
    _halonet("halonet26t", {"depths": [1, 1, 2, 2]}),
    _halonet("halonet50ts", {"depths": [1, 4, 2, 2]}, variant=True),
    _h(1, 256, _sized(10, 1)),
    _h(0, 256, _sized(7, 0.5), variant=True),
    _h(2, 256, _sized(11, 1.25), variant=True),
    _h(3, 320, _sized(12, 1.5, block=10, last=1024), variant=True),
    _h(4, 384, _sized(12, 3, block=12, halo=2, last=1280), variant=True, large=True),
    _h(5, 448, _sized(23, 2, block=14, halo=2, widen=2.5, last=1536), variant=True, large=True),
    _h(6, 512, _sized(24, 2.75, block=8, halo=4, widen=3, last=1536), variant=True, large=True),
    _h(7, 640, _sized(26, 3.5, block=10, halo=3, widen=4, last=2048), variant=True, large=True),
)
