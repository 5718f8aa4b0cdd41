"""Turns an emitted module and timm's model into the ratio of their speeds.

    python -m benchmarks.runtime [--rounds 30] [--batch 4] [SPEC ...]

Eager PyTorch on one CPU thread, by processor time, the two models taking turns with the same weights.
"""

from __future__ import annotations

import argparse

import torch

from archdsl.bench import interleaved
from benchmarks.report import Measurement, ratio, save, table
from tests.oracle.compare import images
from tests.oracle.twin import Twin, declare_torchvision_ops
from tests.oracle.twins import ARCHITECTURES, TWINS

GOAL = 1.03


def compare(twin: Twin, what: str, batch: int, rounds: int) -> Measurement:
    """Ours over timm's, one step a round each, the order changing from round to round."""
    pair = twin.pair()
    x = images(batch, twin.size)
    taken = interleaved((pair.ours, pair.theirs), x, training=what == "training", rounds=rounds)
    how = f"eager, one CPU thread, float32, batch {batch}, processor time"
    return ratio(f"{twin.spec} / {twin.source.replace('`', '')}, {what}", *taken, GOAL, how)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures emitted modules against timm's.")
    parser.add_argument("specs", nargs="*", default=[t.spec for t in ARCHITECTURES if t.source.startswith("timm")])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4)
    arguments = parser.parse_args()
    schemas = declare_torchvision_ops()  # live while timm is in use
    torch.set_num_threads(1)
    measurements = [
        compare(TWINS[spec], what, arguments.batch, arguments.rounds)
        for spec in arguments.specs
        for what in ("inference", "training")
    ]
    del schemas
    save("runtime", measurements)
    print(table(measurements))


if __name__ == "__main__":
    main()
