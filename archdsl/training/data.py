"""Turns a recipe's data into labelled images of one size: a directory of images, or digits that ship in a package."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from archdsl.diagnostics import error
from archdsl.training.recipe import DIGITS

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".webp"))
HELD_OUT = 5
"""One of so many digits is for validation."""


class Images(Protocol):
    """Labelled images, numbered from 0."""

    @property
    def labels(self) -> Tensor:
        """[N], classes."""

    def take(self, numbers: Sequence[int]) -> Tensor:
        """[n, C, H, W], 0 to 1 in float32."""


@dataclass(frozen=True)
class Data:
    """What a module is trained on, and what its accuracy is measured on."""

    train: Images
    validation: Images
    classes: int
    mean: float
    deviation: float
    """Of the training images' numbers, or those that are usual."""


@dataclass(frozen=True)
class Held:
    """Images in memory."""

    images: Tensor
    labels: Tensor

    def take(self, numbers: Sequence[int]) -> Tensor:
        return self.images[list(numbers)]


@dataclass(frozen=True)
class Files:
    """Images in files, read when they are taken: the middle of each, of one shape."""

    paths: tuple[Path, ...]
    labels: Tensor
    shape: tuple[int, int, int]

    def take(self, numbers: Sequence[int]) -> Tensor:
        import torch

        return torch.stack([self._read(self.paths[n]) for n in numbers])

    def _read(self, path: Path) -> Tensor:
        import numpy as np
        import torch
        from PIL import Image, ImageOps

        channels, height, width = self.shape
        try:
            with Image.open(path) as file:
                image = ImageOps.fit(
                    file.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.BICUBIC
                )
        except OSError as e:
            raise error("E-DATA", f"`{path}` is no image that can be read", help="take it out of the directory") from e
        pixels = torch.from_numpy(np.asarray(image, np.float32) / 255)
        return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def data(name: str, shape: tuple[int, int, int]) -> Data:
    """The data of a recipe as images of `shape`, (channels, height, width). Raises E-DATA and E-DEPENDENCY."""
    return _digits(shape) if name == DIGITS else _directory(Path(name), shape)


def _digits(shape: tuple[int, int, int]) -> Data:
    import torch
    from torch.nn import functional as F

    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as e:
        raise error(
            "E-DEPENDENCY", "the digits are scikit-learn's, which is not installed", help="pip install archdsl[train]"
        ) from e
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 16
    channels, height, width = shape
    images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False).expand(-1, channels, -1, -1)
    labels = torch.from_numpy(found.target).long()
    held_out = torch.arange(len(labels)) % HELD_OUT == 0
    train = images[~held_out]
    return Data(
        Held(train, labels[~held_out]),
        Held(images[held_out], labels[held_out]),
        10,
        float(train.mean()),
        float(train.std()),
    )


def _directory(place: Path, shape: tuple[int, int, int]) -> Data:
    import torch

    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as e:
        raise error(
            "E-DEPENDENCY", "images are read by Pillow, which is not installed", help="pip install archdsl[train]"
        ) from e
    parts = place / "train", place / "val"
    try:
        classes = sorted(p.name for p in parts[0].iterdir() if p.is_dir())
    except OSError as e:
        help = 'it has to hold train/CLASS/*.png and val/CLASS/*.png; or write data = "digits"'
        raise error("E-DATA", f"cannot read `{os.path.relpath(parts[0])}`: {e.strerror}", help=help) from e
    if len(classes) < 2:
        help = "it has to hold a directory a class"
        raise error("E-DATA", f"`{os.path.relpath(parts[0])}` has fewer than two directories", help=help)
    found = []
    for part in parts:
        named = [
            (p, n)
            for n, name in enumerate(classes)
            for p in sorted((part / name).glob("*"))
            if p.suffix.lower() in FORMATS
        ]
        if not named:
            raise error(
                "E-DATA",
                f"`{os.path.relpath(part)}` has no images",
                help=f"of the formats {', '.join(sorted(FORMATS))}",
            )
        found.append(Files(tuple(p for p, _ in named), torch.tensor([n for _, n in named]), shape))
    # Means and deviations of ImageNet's channels, in the middle.
    return Data(found[0], found[1], len(classes), 0.45, 0.225)
