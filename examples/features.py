"""Multi-scale features for detection and segmentation: the features-only form under a small feature pyramid.

python examples/features.py [SPEC] [-o DIRECTORY]
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archdsl


class Pyramid(nn.Module):
    """Brings a backbone's feature maps to one width and adds each to the next finer one (FPN, 1612.03144)."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(info["num_chs"], width, 1) for info in backbone.feature_info)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image [B, 3, H, W] -> [B, width, H / reduction, W / reduction] maps, finest first."""
        maps = [lateral(x) for lateral, x in zip(self.lateral, self.backbone(image), strict=True)]
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], size=maps[i - 1].shape[-2:])
        return maps


def build(spec: str, directory: str) -> Any:
    """The generated package's entry point. The package needs torch and nothing of archdsl."""
    place = archdsl.compile(spec).write(directory)
    sys.path.insert(0, str(place.parent))
    return getattr(importlib.import_module(place.name), place.name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints the feature maps of a backbone under a feature pyramid.")
    parser.add_argument("spec", nargs="?", default="convnext_t")
    parser.add_argument("-o", "--output", default="generated")
    arguments = parser.parse_args()

    backbone = build(arguments.spec, arguments.output)(features_only=True, out_indices=(1, 2, 3))
    pyramid = Pyramid(backbone, width=64).eval()
    with torch.inference_mode():
        maps = pyramid(torch.randn(1, 3, 256, 320))
    for info, x in zip(backbone.feature_info, maps, strict=True):
        print(f"{info['module']}  1/{info['reduction']} of the image  {'x'.join(map(str, x.shape))}")


if __name__ == "__main__":
    main()
