"""Turns a spec's modules for eval and for deployment into the ratio of their speeds.

    python -m benchmarks.deploy [--rounds 20] [--batch 2] [SPEC ...]

Eager PyTorch on one CPU thread, by processor time, the modules taking turns with the same weights, which the deploy
module has folded. Both are of -O2, which has CPUs compute faster in eval as well; beside it stands the ratio to eval's
of -O1, which `archdsl build` writes unless told otherwise. A ratio below 1 is a faster deploy module. What BatchNorm
takes of eval's time is by torch's profiler, and so is what convolutions and matrix products take: a module without its
norms still has the latter to do.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from archdsl.api import compile_spec, elaborate
from archdsl.bench import interleaved, median_ratio
from archdsl.passes.pipeline import level
from archdsl.weights.load import deploy_weights
from archdsl.weights.stores import Stored
from benchmarks.report import Measurement, ratio, save, table
from tests.oracle.compare import randomise

SPECS = (
    "repvit_m1",
    "nasnet_a_mobile",
    "inception_v4",
    "efficientformer_l1",
    "ecaresnet50d",
    "ese_vovnet39b",
    "visformer_s",
    "inception_next_t",
)
GOAL = 1 / 1.3


NORMS = ("aten::native_batch_norm",)
PRODUCTS = ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::addmm", "aten::bmm", "aten::mm")


def shares(module: nn.Module, x: Tensor, runs: int = 4) -> tuple[float, float]:
    """Of the time in ops, that in BatchNorm, and that in convolutions and matrix products."""
    with torch.inference_mode():
        module(x)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(runs):
                module(x)
    taken = {row.key: row.self_cpu_time_total for row in found.key_averages()}
    norms, products = (sum(taken.get(key, 0) for key in keys) for keys in (NORMS, PRODUCTS))
    return norms / sum(taken.values()), products / sum(taken.values())


def compare(spec: str, batch: int, rounds: int) -> Measurement:
    usual, plain, small = (
        compile_spec(spec, mode=mode, passes=level(number))
        for mode, number in (("eval", 1), ("eval", 2), ("deploy", 2))
    )
    module, deployed, slower = (artefact.module().eval() for artefact in (plain, small, usual))
    randomise(module)
    slower.load_state_dict(module.state_dict())
    graphs = [elaborate(spec, mode=mode) for mode in ("eval", "train", "deploy")]
    deployed.load_state_dict(deploy_weights(*graphs, Stored("random", module.state_dict()), level(2)))
    x = torch.randn(batch, *plain.input, generator=torch.Generator().manual_seed(1))
    ours, theirs, others = interleaved((deployed, module, slower), x, training=False, rounds=rounds)
    norms, products = shares(module, x)
    default = median_ratio(ours, others).value
    how = (
        f"-O2, eager, one CPU thread, float32, batch {batch}, processor time; "
        f"in eval norms take {norms:.0%}, products {products:.0%}; to eval of -O1 {default:.3f}x"
    )
    return ratio(f"{spec}, deploy / eval", ours, theirs, GOAL, how)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures deploy modules against those for eval.")
    parser.add_argument("specs", nargs="*", default=SPECS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measurements = [compare(spec, arguments.batch, arguments.rounds) for spec in arguments.specs]
    save("deploy", measurements)
    print(table(measurements))


if __name__ == "__main__":
    main()
