"""Costs against numbers worked out by hand, torch's own counts, and timm's published table."""

from __future__ import annotations

import subprocess
import sys

import pytest

from archdsl.cost import CONVENTIONS, Costs, human, price
from archdsl.ir.graph import Graph, Parameter, Region, Value
from archdsl.ir.types import TensorType, image
from archdsl.ops.attend import Attend
from archdsl.ops.base import Op
from archdsl.ops.bn import Bn
from archdsl.ops.conv import Conv
from archdsl.ops.input import Input
from archdsl.ops.linear import Linear
from archdsl.ops.split import Split
from archdsl.ops.windows import Windows


class Small:
    """A graph made by hand: regions opened and closed, ops applied, weights made or shared."""

    def __init__(self) -> None:
        self.graph = Graph("small", regions=[Region(0, None, "arch", "small")])
        self.region = 0
        node = self.graph.add(Input(), [], (image(3, 8, 8),), path="img", region=0)
        self.graph.inputs.append(node.value())
        self.image = node.value()

    def enter(self, kind: str, module: str, parent: int = 0, index: int | None = None) -> None:
        self.region = len(self.graph.regions)
        name = module.rpartition(".")[0] if index is not None else module
        self.graph.regions.append(Region(self.region, parent, kind, name, module=module, index=index))

    def apply(self, op: Op, *operands: Value, path: str, share: str = "") -> tuple[Value, ...]:
        types = [v.type for v in operands]
        op = op.resolve(*types)
        module = share or path
        params = []
        for w in op.weights(*types):
            weight = f"{module}.{w.role}"
            self.graph.params[weight] = Parameter(weight, w.shape, w.init, w.kind, w.dtype)
            params.append((w.role, weight))
        outputs = op.infer(*types)
        node = self.graph.add(
            op, list(operands), outputs, path=path, region=self.region, module=module, params=tuple(params)
        )
        return node.values


@pytest.fixture
def costs() -> Costs:
    net = Small()
    net.enter("stem", "stem")
    (x,) = net.apply(Conv(dim=4, k=2, s=2), net.image, path="stem.conv")
    net.enter("stage", "stages.0", index=0)
    stage = net.region
    for j in range(2):
        net.enter("blocks", f"stages.0.blocks.{j}", stage, j)
        (x,) = net.apply(Linear(bias=False), x, path=f"stages.0.blocks.{j}.fc", share="stages.0.fc")
        w, _ = net.apply(Windows(2), x, path=f"stages.0.blocks.{j}.windows")
        net.apply(Attend(heads=2), w, w, w, path=f"stages.0.blocks.{j}.attend")
    net.enter("head", "head")
    (x,) = net.apply(Linear(dim=10), x, path="head.fc")
    return price(net.graph)


def test_totals(costs: Costs) -> None:
    conv, fc, attend, head = 4 * 4 * 4 * 3 * 4, 16 * 4 * 4, 4 * 4 * 4 * (4 + 4), 16 * 4 * 10
    assert costs.macs == costs.timm == conv + 2 * (fc + attend) + head
    assert costs.params == (4 * 12 + 4) + 16 + (40 + 10)  # the shared linear counts once
    scores = 2 * 4 * 4 * 4
    assert costs.activations == 64 + 2 * (64 + scores + 64) + 160


def test_bytes_count_operands_weights_and_results_once_an_op(costs: Costs) -> None:
    rows = {row.name: row.cost.bytes for row in costs.per("op")}
    assert rows["stem.conv"] == 4 * (3 * 64 + 52 + 64)
    assert rows["stages.0.blocks.1.fc"] == 4 * (64 + 16 + 64)  # a shared weight is read by every user
    assert costs.bytes == sum(rows.values())


def test_views_move_nothing() -> None:
    net = Small()
    net.apply(Split(3), net.image, path="split")
    assert price(net.graph).bytes == 0


def test_statistics_are_read_but_are_no_parameters() -> None:
    net = Small()
    net.apply(Bn(), net.image, path="bn")
    assert price(net.graph).params == 2 * 3
    assert price(net.graph).bytes == 4 * (192 + 4 * 3 + 192)  # the counter of batches is not read


@pytest.mark.parametrize("level", ["stage", "block", "op"])
def test_rows_add_up_to_the_totals(costs: Costs, level: str) -> None:
    rows = costs.per(level)
    for key, total in costs.total.as_dict().items():
        assert sum(row.cost.as_dict()[key] for row in rows) == total


def test_rows_of_stages(costs: Costs) -> None:
    stem, stage, head = costs.per("stage")
    assert (stem.name, stem.resolution, stem.width, stem.depth) == ("stem", "4x4", 4, 0)
    assert (stage.name, stage.depth, stage.width) == ("stages.0", 2, 4)
    assert (head.name, head.width) == ("head", 10)
    assert [row.name for row in costs.per("block")] == ["stem", "stages.0.blocks.0", "stages.0.blocks.1", "head"]


def test_depth_counts_the_innermost_of_nested_blocks() -> None:
    net = Small()
    net.enter("blocks", "blocks.0", index=0)
    outer = net.region
    (x,) = net.apply(Conv(dim=4), net.image, path="blocks.0.conv")
    for j in range(3):
        net.enter("blocks", f"blocks.0.inner.{j}", outer, j)
        (x,) = net.apply(Conv(), x, path=f"blocks.0.inner.{j}.conv")
    (row,) = price(net.graph).per("stage")
    assert (row.name, row.depth) == ("blocks", 3)


def test_every_form_states_its_convention_in_words(costs: Costs) -> None:
    for count, words in CONVENTIONS.items():
        assert costs.as_dict("block", count)["convention"] == words
        assert words in costs.convention(count)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1.00k"), (28288354, "28.29M"), (123456789012, "123.5G")]
)
def test_human(number: int, text: str) -> None:
    assert human(number) == text


def test_types_without_a_size_have_no_cost() -> None:
    assert TensorType("frame", ()).elements == 0


PUBLISHED = {
    "swin_t": (28.29, 4.51, 17.06),
    "convnext_t": (28.59, 4.47, 13.44),
    "poolformer_s12": (11.92, 1.82, 5.53),
    "sequencer2d_s": (27.65, 4.96, 11.31),
}
"""timm's table (params_m, gmacs, macts) for the models of these specs at 224."""


@pytest.mark.parametrize("spec", PUBLISHED)
def test_timm_table(spec: str) -> None:
    import archdsl

    costs = archdsl.cost(spec)
    found = (costs.params / 1e6, costs.flops("timm") / 1e9, costs.activations / 1e6)
    assert tuple(round(n, 2) for n in found) == PUBLISHED[spec]


def test_pricing_needs_no_torch() -> None:
    script = "import sys, archdsl; archdsl.cost('swin_t'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
