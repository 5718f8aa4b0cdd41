"""Turns specs into the seconds of processor time that each proxy takes for one candidate.

    python -m benchmarks.proxies [--rounds 2] [SPEC ...]

From graph to number, so emission, import and initialisation of the module are in it; one CPU thread.
"""

from __future__ import annotations

import argparse
import statistics
import time

from archdsl.api import elaborate
from archdsl.ir.graph import Graph
from archdsl.search.evaluators import Evaluator, evaluators
from archdsl.search.proxies import BATCH, CODED
from benchmarks.report import Measurement, save, table

SPECS = ("swin_t",)
WARM = {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}


def seconds(evaluator: Evaluator, graph: Graph, rounds: int) -> Measurement:
    """The median over rounds, each with a seed of its own."""
    taken = []
    for seed in range(rounds):
        start = time.process_time()
        found = evaluator.evaluate(graph, seed)
        taken.append(time.process_time() - start)
        assert not found.reason, found.reason
    detail = f"one CPU thread, float32 (synflow, dss: float64), processor time, batch {BATCH} (nwot: {CODED})"
    return Measurement(f"{evaluator.name}, {graph.name}", statistics.median(taken), "s", rounds, detail=detail)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what proxies cost.")
    parser.add_argument("specs", nargs="*", default=list(SPECS))
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    graphs = [elaborate(spec) for spec in arguments.specs]
    small = elaborate("poolformer_s12", input=(3, 64, 64), overrides=WARM)
    for evaluator in evaluators():  # what is imported and compiled once is not a candidate's
        evaluator.evaluate(small, 0)
    measurements = [seconds(e, graph, arguments.rounds) for graph in graphs for e in evaluators()]
    save("proxies", measurements)
    print(table(measurements))


if __name__ == "__main__":
    main()
