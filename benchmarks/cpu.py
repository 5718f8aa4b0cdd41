"""Turns an emitted module and every way to run timm's model on a CPU into the ratio of ours to the fastest of these.

    python -m benchmarks.cpu [--level 2] [--rounds 20] [--batch 2] [--compile] [SPEC ...]

Inference in float32 on one thread by processor time, eager or compiled, all models taking turns with the same weights.
timm's is run with its attention fused, as it chooses, or not, in both memory formats; ours as it was emitted, in both
memory formats too. A ratio below 1 is a faster module of ours. Each row is written as soon as it is measured, and rows
of other specs stay where the machine and the versions are theirs.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from archdsl.api import compile_spec
from archdsl.bench import interleaved
from archdsl.passes.pipeline import level
from benchmarks.report import Measurement, known, ratio, save, table
from tests.oracle.compare import images, randomise
from tests.oracle.links import link
from tests.oracle.twin import Twin, declare_torchvision_ops
from tests.oracle.twins import TWINS

SPECS = (
    "swin_t",
    "maxvit_t",
    "convnext_t",
    "poolformer_s12",
    "caformer_s18",
    "repvit_m1",
    "pvt_v2_b1",
    "mvitv2_t",
    "tiny_vit_5m",
    "davit_t",
    "efficientformer_l1",
    "twins_svt_s",
    "vit_s16",
)
GOALS: Mapping[str, float] = {"swin_t": 1 / 1.04, "maxvit_t": 1 / 1.10}
GOAL = 1 / 0.98
FUSED: Mapping[str, tuple[bool, bool]] = {"default": (True, False), "fused": (True, True), "unfused": (False, False)}
"""Which of timm's models attend by the fused kernel: all, all of those that are declared stable, none."""


def ours(twin: Twin, theirs: nn.Module, number: int) -> nn.Module:
    """The module that the passes of a level give, with the weights of timm's."""
    rate = {"dpr": 0.0} if twin.drops else {}
    artefact = compile_spec(twin.spec, input=(3, *twin.size), overrides=rate, passes=level(number))
    module = artefact.module()
    module.load_state_dict(link(artefact.graph, theirs, twin.size, twin.renames).translate(theirs.state_dict()))
    return module


def opponents(twin: Twin) -> dict[str, nn.Module]:
    """timm's model in each way of attending, where these make a difference, with the same random weights."""
    from timm.layers import set_fused_attn

    found: dict[str, nn.Module] = {}
    kinds: list[list[object]] = []
    for name, (fused, experimental) in FUSED.items():
        set_fused_attn(fused, experimental)
        model = twin.build(twin.size, **({"drop_path_rate": 0.0} if twin.drops else {}))
        attends: list[object] = [getattr(m, "fused_attn", None) for m in model.modules()]
        if attends not in kinds:
            kinds.append(attends)
            randomise(model, gain=twin.gain)
            found[name] = model
    set_fused_attn(*FUSED["default"])
    return found


def channels_last(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy of a model that holds its weights, and takes `x`, channels last."""
    held = x.to(memory_format=torch.channels_last)
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    model.register_forward_pre_hook(lambda module, args: (held,))
    return model


def compare(twin: Twin, number: int, batch: int, rounds: int, compiled: bool) -> Measurement:
    """The fastest of ours over the fastest of timm's."""
    theirs = opponents(twin)
    x = images(batch, twin.size)
    models = {("ours", "as emitted"): ours(twin, theirs["default"], number)}
    models |= {("timm", name): model for name, model in theirs.items()}
    models |= {(side, f"{name}, channels last"): channels_last(model, x) for (side, name), model in models.items()}
    run = [torch.compile(model) if compiled else model for model in models.values()]  # type: ignore[list-item]
    taken = dict(zip(models, interleaved(run, x, rounds=rounds), strict=True))
    medians = {way: statistics.median(series) for way, series in taken.items()}
    first, best = (min((w for w in medians if w[0] == side), key=lambda w: medians[w]) for side in ("ours", "timm"))
    ways = "; ".join(f"{side} {way} {1000 * seconds:.0f} ms" for (side, way), seconds in medians.items())
    how = f"{'compiled' if compiled else 'eager'}, -O{number}, one CPU thread, float32, batch {batch}, processor time"
    name = f"{twin.spec} {first[1]} / {twin.source.replace('`', '')} {best[1]}{', compiled' if compiled else ''}"
    return ratio(name, taken[first], taken[best], GOAL if compiled else GOALS.get(twin.spec, GOAL), f"{how}; {ways}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures emitted modules against the fastest way to run timm's.")
    parser.add_argument("specs", nargs="*")
    parser.add_argument("--level", type=int, choices=(0, 1, 2), default=2, help="the passes of ours")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="both sides by torch.compile")
    arguments = parser.parse_args()
    schemas = declare_torchvision_ops()  # live while timm is in use
    torch.set_num_threads(1)
    suite = "cpu_compiled" if arguments.compile else "cpu"
    rows = {m.name.split()[0]: m for m in known(suite)}
    for spec in arguments.specs or SPECS:
        rows[spec] = compare(TWINS[spec], arguments.level, arguments.batch, arguments.rounds, arguments.compile)
        save(suite, list(rows.values()))
    del schemas
    print(table(list(rows.values())))


if __name__ == "__main__":
    main()
