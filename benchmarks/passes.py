"""Turns the default passes into what they take: on NASNet, and on models of 500 to 2,000 blocks.

    python -m benchmarks.passes

A pass is to be linear in the graph: the second number is the time a block in the longest model over that in the
shortest.
"""

from __future__ import annotations

import gc
import time
from statistics import median

from archdsl.api import elaborate
from archdsl.ir.graph import Graph
from archdsl.passes.pipeline import LEVELS, optimize
from benchmarks.report import Measurement, save, table

SAMPLES = 5
BLOCKS = (500, 1000, 2000)
DEEP = """language 1
def block(x: map[C]) {
  y = x |> ln |> dwconv[3] |> gelu |> linear[C]
  return x + y + avg_pool[3, s = 1, p = 1](x) + avg_pool[3, s = 1, p = 1](x)
}
arch deep[depth = 500] {
  input img: map[8, 16, 16]
  stage only -> x { x = img  blocks j in depth { x = block(x) } }
  head { return x |> gap |> linear[10] }
}
"""
"""Every block has something for a pass to change."""


def seconds(graph: Graph) -> float:
    """Processor time of the passes of the highest level and of the checks after them, the median of SAMPLES."""
    times = []
    gc.disable()  # as the command does
    for _ in range(SAMPLES):
        start = time.process_time()
        optimize(graph, LEVELS[-1])
        times.append(time.process_time() - start)
    gc.enable()
    return median(times)


def main() -> None:
    how = f"-O{len(LEVELS) - 1}, processor time, verification included"
    found = [Measurement("nasnet_a_large", seconds(elaborate("nasnet_a_large")), "s", SAMPLES, goal=2, detail=how)]
    taken = {}
    for blocks in BLOCKS:
        taken[blocks] = seconds(elaborate(DEEP, overrides={"depth": blocks}))
        goal = 20 if blocks == BLOCKS[-1] else None
        found.append(Measurement(f"{blocks} blocks", taken[blocks], "s", SAMPLES, goal=goal, detail=how))
    growth = taken[BLOCKS[-1]] / BLOCKS[-1] / (taken[BLOCKS[0]] / BLOCKS[0])
    found.append(Measurement("time a block, longest over shortest", growth, "x", SAMPLES, goal=1.5, detail=how))
    save("passes", found)
    print(table(found))


if __name__ == "__main__":
    main()
