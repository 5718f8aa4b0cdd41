"""Turns published results into a table: models of others, their metrics and how accurate they were."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archdsl.search.metrics import METRICS

DATA = Path(__file__).resolve().parent / "data"
RESULTS = DATA / "timm_in1k.csv"
"""Accuracy and size, as published."""
FEATURES = DATA / "timm_features.csv"
"""What the multiply-adds of the same models are spent on (benchmarks/score_features.py)."""

COMPARED = ("params", "macs", "activations")
"""What models are near each other by."""

LINEAGES: dict[str, tuple[str, ...]] = {
    "ghostnet": ("ghostnet", "ghostnetv", "repghostnet"),
    "maxxvit": ("coatnet", "coatnext", "maxxvit"),
    "metaformer": ("caformer", "convformer", "poolformer", "poolformerv"),
    "mobileone": ("fastvit", "mobileone"),
    "nfnet": ("eca", "nfnet"),
    "vit": ("beit", "cait", "convit", "deit", "eva"),
}
"""Names that stand for one design, or for one group's with one recipe."""

_LINEAGE = {name: lineage for lineage, names in LINEAGES.items() for name in names}
_HELPED = re.compile(r"in2[12]k|in12k|dist|ssld|usi")


def family(model: str) -> str:
    """The family of a timm model: the letters its name starts with, or the lineage they belong to.

    >>> family("swinv2_cr_tiny_ns_224.sw_in1k"), family("caformer_s18.sail_in1k")
    ('swinv', 'metaformer')
    """
    letters = re.match("[a-z]*", model)
    assert letters is not None
    return _LINEAGE.get(letters[0], letters[0])


def helped(model: str) -> bool:
    """Whether a timm model's name says that it learned from more images than ImageNet-1k or from a teacher."""
    return _HELPED.search(model) is not None


@dataclass(frozen=True)
class Published:
    """Models trained on ImageNet-1k alone, with their top-1 and their metrics."""

    models: tuple[str, ...]
    families: NDArray[np.str_]
    top1: NDArray[np.float64]
    side: NDArray[np.int64]
    """Height and width of the images, in pixels."""
    metrics: NDArray[np.float64]
    """[models, METRICS]: not a number where nothing is published or counted."""

    @staticmethod
    def read() -> Published:
        """The shipped tables. Left out: models without a top-1, those helped, those whose ops are not all counted."""
        counted = {row["model"]: row for row in read_rows(FEATURES)}
        rows = [row for row in read_rows(RESULTS) if row["top1"] and not helped(row["model"])]
        rows = [row for row in rows if _complete(row, counted[row["model"]])]
        metrics = np.full((len(rows), len(METRICS)), np.nan)
        for out, row in zip(metrics, rows, strict=True):
            found = dict(counted[row["model"]])
            found |= {"params": f"{row['params_m']}e6", "timm": f"{row['gmacs']}e9", "activations": f"{row['macts']}e6"}
            out[:] = [found.get(name, np.nan) for name in METRICS]
        models = tuple(row["model"] for row in rows)
        return Published(
            models,
            np.array([family(m) for m in models]),
            np.array([float(row["top1"]) for row in rows]),
            np.array([int(row["img_size"]) for row in rows]),
            metrics,
        )

    def __len__(self) -> int:
        return len(self.models)

    def where(self, chosen: NDArray[np.bool_]) -> Published:
        """The models of the rows that are chosen."""
        models = tuple(m for m, keep in zip(self.models, chosen, strict=True) if keep)
        return Published(models, self.families[chosen], self.top1[chosen], self.side[chosen], self.metrics[chosen])

    @property
    def ranks(self) -> NDArray[np.float64]:
        """The percentage of the models that each one beats, those equal to it (itself too) counting half."""
        worse = (self.top1[:, None] > self.top1).sum(1) + 0.5 * (self.top1[:, None] == self.top1).sum(1)
        return np.asarray(100 * worse / len(self))


def nearest(published: Published, sizes: Mapping[str, float]) -> str:
    """The model whose COMPARED, among `sizes` by metric, are nearest on a logarithmic scale."""
    known = published.metrics[:, [METRICS.index(name) for name in COMPARED]]
    off = np.log(known) - np.log(np.maximum([sizes[name] for name in COMPARED], 1))
    return published.models[int(np.argmin((off**2).sum(axis=1)))]


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _complete(published: dict[str, str], counted: dict[str, str]) -> bool:
    """Whether the counter, which knows no recurrent layers, saw what timm published."""
    return abs(float(counted["macs"]) / 1e9 - float(published["gmacs"])) < 0.2 * float(published["gmacs"])
