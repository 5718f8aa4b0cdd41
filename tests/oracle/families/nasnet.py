"""NASNet-A (1707.07012). timm's means of stride 2 count the zeros at the border."""

from __future__ import annotations

from torch import Tensor, nn

from tests.oracle.twin import Twin, timm_twin


class Previous(nn.Module):
    """In place of a cell: what was before. Two of them in a row leave a network without these cells."""

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return before


def _nasnet(dim: int = 168, stem_dim: int = 96, cells: int = 6, skip: bool = True, **arguments: object) -> nn.Module:
    """timm's class, which has six cells a stage; fewer by an even number."""
    from timm.models.nasnet import NASNetALarge

    class Mobile(NASNetALarge):  # type: ignore[misc]
        """Whose cell after a reduction sees what was reduced, not what came before that."""

        def forward_features(self, x: Tensor) -> Tensor:
            first = self.conv0(x)
            before = self.cell_stem_0(first)
            now = self.cell_stem_1(first, before)
            for n in range(18):
                if n in (6, 12):
                    before, now = now, getattr(self, f"reduction_cell_{n // 6 - 1}")(now, before)
                if n % 6 < cells:
                    before, now = now, getattr(self, f"cell_{n}")(now, before)
            return self.act(now)

    kind = NASNetALarge if skip else Mobile
    model: nn.Module = kind(stem_size=stem_dim, num_features=24 * dim, **arguments)
    assert cells % 2 == 0
    for first in (0, 6, 12):
        for left_out in range(first + cells, first + 6):
            setattr(model, f"cell_{left_out}", Previous())
    return model


TINY = {"dim": 8, "stem_dim": 8, "cells": 2}
RENAMES = (
    (r"^(conv0|cell_stem_)", r"stem.\1"),
    *((rf"^cell_{6 * i + j}\.", f"stages.{i}.blocks.{j}.") for i in range(3) for j in range(4)),
    *((rf"^reduction_cell_{i}\.", f"stages.{i + 1}.reduction_cell.") for i in range(2)),
    (r"\.comb_iter_(\d)_(left|right)\.", r".\2.\1."),
    (r"\.path_(\d)\.conv\.", r".path_\1."),
    (r"^last_linear", "head.fc"),
)

TWINS = (
    timm_twin(
        "nasnet_a_large",
        "nasnetalarge",
        TINY,
        make=_nasnet,
        size=(331, 331),
        reduction=30,
        sizes=((160, 160), (107, 203)),
        drops=False,
        interface=False,
    ),
    Twin(
        "nasnet_a_mobile",
        "timm's `NASNetALarge` of mobile's width and depth",
        lambda size, **arguments: _nasnet(**{"dim": 44, "stem_dim": 32, "cells": 4, "skip": False, **arguments}),
        TINY,
        sizes=((160, 160), (107, 203)),
        renames=RENAMES,
        drops=False,
        interface=False,
        variant=True,
    ),
)
