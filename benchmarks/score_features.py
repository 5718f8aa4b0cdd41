"""Turns timm's models into rows of numbers: what their multiply-adds are spent on, by torch's own counter.

    python -m benchmarks.score_features

Every model of the published table runs once on `meta`: shapes alone decide, and no weight is computed or fetched.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from archdsl.search.metrics import KINDS
from archdsl.search.published import FEATURES, RESULTS
from tests.oracle.twin import declare_torchvision_ops

aten = torch.ops.aten

COUNTED = tuple(f"macs_{kind}" for kind in KINDS if kind != "other")
COLUMNS = ("model", "params", "macs", *COUNTED, "timm", "torch")


class Kinds(TorchDispatchMode):
    """Adds up the multiply-adds of everything that runs inside it, by the kind of op they are spent on."""

    def __init__(self) -> None:
        super().__init__()
        self.macs: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        counter = flop_registry.get(func.overloadpacket)
        if counter is not None:
            self.macs[f"macs_{_kind(func.overloadpacket, args)}"] += counter(*args, **(kwargs or {}), out_val=out) // 2
        return out


def _kind(op: Any, args: tuple[Any, ...]) -> str:
    if op is aten.convolution:
        weight, groups = args[1].shape, args[8]
        if groups > 1 and weight[1] == 1:
            return "depthwise"
        return "pointwise" if tuple(weight[2:]) == (1, 1) else "dense"
    return "pointwise" if op in (aten.mm, aten.addmm) else "attention"


def spent(model: nn.Module, side: int) -> Counter[str]:
    """Multiply-adds of one image of `side` by `side` pixels, by kind."""
    kinds = Kinds()
    with torch.no_grad(), kinds:
        model.eval().to("meta")(torch.empty(1, 3, side, side, device="meta"))
    return kinds.macs


def main() -> None:
    schemas = declare_torchvision_ops()  # live while timm is in use
    import timm

    versions = {name: version(name).partition("+")[0] for name in ("timm", "torch")}
    with RESULTS.open(encoding="utf-8", newline="") as published, FEATURES.open("w", encoding="utf-8") as features:
        table = csv.DictWriter(features, COLUMNS, lineterminator="\n", restval=0)
        table.writeheader()
        for row in csv.DictReader(published):
            model = timm.create_model(row["model"])
            macs = spent(model, int(row["img_size"]))
            params = sum(p.numel() for p in model.parameters())
            table.writerow({"model": row["model"], "params": params, "macs": macs.total(), **macs, **versions})
            print(row["model"], row["gmacs"], f"{macs.total() / 1e9:.2f}", flush=True)
    del schemas


if __name__ == "__main__":
    main()
