"""HaloNet (2103.12731).

timm multiplies queries with all rows of a table of relative positions, 2 * window - 1 of them, and drops what it does
not need; here a query meets the rows of its own distances, one for each key of an axis. So timm's models have more
multiply-adds by torch's counter, 0.09 to 1.7 %, and compute the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from tests.oracle.twin import Overrides, Twin, timm_twin


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


TWINS = (
    _halonet("halonet26t", {"depths": [1, 1, 2, 2]}),
    _halonet("halonet50ts", {"depths": [1, 4, 2, 2]}, variant=True),
    _halonet("halonet_h1", {"depths": [1, 1, 2, 1], "widths": [16]}, variant=True),
)
