"""Turns a spec's modules for eval and for tune into what each keeps for backward, and the ratio of their speeds.

    python -m benchmarks.tune [--rounds 10] [--batch 8] [SPEC ...]

Both with frozen statistics and the same weights, in eager PyTorch on one CPU thread, float32. What is kept are the
bytes of the distinct storages that a forward pass saves, weights of the model apart. The graph says what of these the
results of layers with a BatchNorm behind them take, which mode tune does not keep, and what the scaled weights take,
which it keeps instead, whatever the batch. The modules take turns at steps of forward and backward, by processor time.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from archdsl.api import compile_spec
from archdsl.bench import WARM_UP
from archdsl.ir.graph import Graph
from benchmarks.report import Measurement, ratio, save, table
from tests.oracle.compare import randomise

SPECS = ("repvit_m1", "ecaresnet50d", "inception_v4", "efficientformer_l1")
KEPT_GOAL = 1.01
"""What tune keeps, of what the graph says it should: eval's, less the results of layers, plus scaled weights."""
TIME_GOAL = 1.0


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes of the distinct storages that autograd saves in one forward pass, those of the weights not counted."""
    own = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = module(x)
    total = sum(storage.nbytes() for storage in held.values())
    del y
    return total


def layer_bytes(graph: Graph) -> tuple[int, int]:
    """Bytes in float32, of layers that take in a norm: of their results for one image, and of their weights."""
    scaled = [n for n in graph.nodes() if n.op.name.startswith("scaled_")]
    weights = [graph.params[path] for n in scaled for role, path in n.params if role == "weight"]
    return 4 * sum(t.elements for n in scaled for t in n.outputs), 4 * sum(p.elements for p in weights)


def compare(spec: str, batch: int, rounds: int) -> list[Measurement]:
    plain, ours = (compile_spec(spec, mode=mode) for mode in ("eval", "tune"))
    modules = [artefact.module().eval() for artefact in (ours, plain)]
    randomise(modules[1])
    modules[0].load_state_dict(modules[1].state_dict())
    x = torch.randn(batch, *plain.input, generator=torch.Generator().manual_seed(1))
    kept, usual = (saved_bytes(module, x) for module in modules)
    results, weights = layer_bytes(ours.graph)
    expected = usual - results * batch + weights
    how = f"eager, float32, batch {batch}, {'x'.join(map(str, plain.input))}"
    numbers = (
        f"eval keeps {usual / 1e6:.1f} MB, tune {kept / 1e6:.1f}: {(usual - kept) / 1e6:.1f} less; by the graph "
        f"results of its layers take {results * batch / 1e6:.1f}, their weights {weights / 1e6:.1f}; {how}"
    )
    return [
        Measurement(f"{spec}, kept for backward, tune / eval", kept / usual, "x", 1, detail=numbers),
        Measurement(
            f"{spec}, kept for backward, tune / what the graph says",
            kept / expected,
            "x",
            1,
            goal=KEPT_GOAL,
            detail=numbers,
        ),
        ratio(
            f"{spec}, forward and backward, tune / eval",
            *_turns(modules, x, rounds),
            TIME_GOAL,
            f"{how}, one CPU thread, processor time",
        ),
    ]


def _turns(modules: list[nn.Module], x: Tensor, rounds: int) -> list[list[float]]:
    """Seconds of each module's steps, one step a round each, the order changing every round."""
    taken: list[list[float]] = [[] for _ in modules]
    for number in range(rounds + WARM_UP):
        for at in (0, 1) if number % 2 else (1, 0):
            start = time.process_time()
            modules[at].zero_grad(set_to_none=True)
            modules[at](x).square().mean().backward()
            if number >= WARM_UP:
                taken[at].append(time.process_time() - start)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures tune modules against those for eval.")
    parser.add_argument("specs", nargs="*", default=SPECS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measurements = [m for spec in arguments.specs for m in compare(spec, arguments.batch, arguments.rounds)]
    save("tune", measurements)
    print(table(measurements))


if __name__ == "__main__":
    main()
