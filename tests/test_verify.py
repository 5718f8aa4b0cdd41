"""Turns sound graphs into ones that break exactly one invariant, and equal graphs into equal hashes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest

from archdsl.diagnostics import Span
from archdsl.ir.graph import Feature, Graph, Guard, Parameter, Value
from archdsl.ir.hash import canonical_hash
from archdsl.ir.sizes import Condition, Size, of
from archdsl.ir.text import parse_graph, print_graph
from archdsl.ir.types import TensorType
from archdsl.ir.verify import INVARIANTS, BrokenInvariant, check, verify
from tests.test_ir_text import OPS, SPEC, call, start, tiny

MIX, ADD, Q = "stages.0.attn.mix#2", "add", "stages.0.attn.q"


def test_a_sound_graph_breaks_nothing() -> None:
    assert verify(tiny()) == []
    check(tiny())


# -- one way at least to break each invariant, and nothing else --------------------------------


def below(graph: Graph) -> None:
    graph.net.add_edge(ADD, MIX, key=3, index=0)


def first_last(graph: Graph) -> None:
    net = nx.MultiDiGraph()
    net.add_nodes_from(reversed(list(graph.net.nodes(data=True))))
    net.add_edges_from(graph.net.edges(keys=True, data=True))
    graph.net = net


def missing_operand(graph: Graph) -> None:
    graph.net.remove_edge("stages.0.attn.windows", MIX, key=2)


def extra_operand(graph: Graph) -> None:
    graph.net.add_edge("img", MIX, key=6, index=0)


def wrong_type(graph: Graph) -> None:
    node = graph.node("pos_embed")
    graph.replace_node(replace(node, outputs=(replace(node.outputs[0], batched=True),)))


def lost_expression(graph: Graph) -> None:
    node = graph.node("pos_embed")
    dims = tuple(map(int, node.outputs[0].dims))
    graph.replace_node(replace(node, outputs=(replace(node.outputs[0], dims=dims),)))


def refused(graph: Graph) -> None:
    graph.replace_node(replace(graph.node(MIX), op=OPS["attend"](heads=3)))


def unresolved(graph: Graph) -> None:
    graph.replace_node(replace(graph.node("stages.0.attn.windows"), op=OPS["windows"](size=7, shift=(3, 3))))


def without_its_bias(graph: Graph) -> None:
    node = graph.node("stem.proj")
    graph.replace_node(replace(node, params=node.params[:1]))
    del graph.params["stem.proj.bias"]


def dangling_weight(graph: Graph) -> None:
    del graph.params["stem.proj.bias"]


def other_shape(graph: Graph) -> None:
    graph.params["stem.proj.bias"] = replace(graph.params["stem.proj.bias"], shape=(17,))


def other_kind(graph: Graph) -> None:
    graph.params["stem.proj.bias"] = replace(graph.params["stem.proj.bias"], kind="buffer")


def unused(graph: Graph) -> None:
    graph.params["old"] = Parameter("old", (3,))


def without_its_frame(graph: Graph) -> None:
    graph.net.remove_edge("stages.0.attn.windows", MIX, key=5)


def another_frame(graph: Graph) -> None:
    (_, frame) = call(graph, OPS["windows"](size=5), graph.node("stem.proj").value(), path="other")
    graph.net.remove_edge("stages.0.attn.windows", MIX, key=5)
    net = nx.MultiDiGraph()
    order = [p for p in graph.net.nodes if p != "other"]
    order.insert(order.index(MIX), "other")
    net.add_nodes_from((p, graph.net.nodes[p]) for p in order)
    net.add_edges_from(graph.net.edges(keys=True, data=True))
    net.add_edge("other", MIX, key=5, index=frame.index)
    graph.net = net


def no_frame_at_all(graph: Graph) -> None:
    graph.net.remove_edge("stages.0.attn.windows", MIX, key=5)
    graph.net.add_edge("stages.0.attn.windows", MIX, key=5, index=0)


def orphan_region(graph: Graph) -> None:
    graph.regions[2].parent = 3


def second_root(graph: Graph) -> None:
    graph.regions[2].parent = None


def misfiled_region(graph: Graph) -> None:
    graph.regions[3].id = 7


def unknown_region(graph: Graph) -> None:
    graph.replace_node(replace(graph.node(ADD), region=9))


def stale_port(graph: Graph) -> None:
    graph.regions[2].ports = (("x", Value("stem.proj", 0, TensorType("map", (16, 15, 15)))),)


def lost_result(graph: Graph) -> None:
    graph.regions[2].results = (Value("gone", 0, TensorType("vec", (1,))),)


def lost_output(graph: Graph) -> None:
    graph.outputs = (replace(graph.outputs[0], index=1),)


def no_output(graph: Graph) -> None:
    graph.outputs = ()


def lost_feature(graph: Graph) -> None:
    graph.features.append(Feature("stages.1", "x", Value("gone", 0, TensorType("vec", (1,)))))


def odd_path(graph: Graph) -> None:
    call(graph, OPS["identity"](), graph.node(ADD).value(), path="a b")


def half_named(graph: Graph) -> None:
    graph.replace_node(replace(graph.node("stages.0.attn.windows"), names=("w",)))


def broken_guard(graph: Graph) -> None:
    graph.guards.append(Guard(Condition("<", "H", 30), "small images"))


def guard_of_nothing(graph: Graph) -> None:
    graph.guards.append(Guard(Condition("==", "D", 3), "depth"))


def no_input(graph: Graph) -> None:
    graph.inputs.clear()


def lost_input(graph: Graph) -> None:
    graph.inputs.append(replace(graph.inputs[0], node="gone"))


def stale_input(graph: Graph) -> None:
    graph.inputs[0] = replace(graph.inputs[0], type=graph.inputs[0].type.with_channels(4))


def reading_input(graph: Graph) -> None:
    x = graph.node(ADD).value()
    graph.inputs.append(call(graph, OPS["identity"](), x, path="second")[0])


def odd_input(graph: Graph) -> None:
    vec = TensorType("vec", (3,))
    graph.inputs.append(graph.add(OPS["input"](), (), (vec,), path="second", region=0).value())


def third_result(graph: Graph) -> None:
    graph.net.edges["stages.0.attn.windows", MIX, 5]["index"] = 2


def crowded_slot(graph: Graph) -> None:
    graph.net.add_edge("stem.proj", MIX, key=5, index=0)


def node_without_record(graph: Graph) -> None:
    graph.net.add_edge("ghost", MIX, key=3, index=0)


def misfiled_node(graph: Graph) -> None:
    graph.net.nodes[ADD]["node"] = replace(graph.node(ADD), path="sum")


def misfiled_parameter(graph: Graph) -> None:
    graph.params["stem.proj.bias"] = replace(graph.params["stem.proj.bias"], path="stem.bias")


def wrong_size(graph: Graph) -> None:
    node = graph.node("pos_embed")
    shape = node.op.attributes()["shape"]
    assert isinstance(shape, tuple) and isinstance(shape[1], Size)
    shape = (shape[0], of(15, ("//", "H", 3)), shape[2])
    op = OPS["param"](shape=shape, resize="bicubic")
    graph.replace_node(replace(node, op=op, outputs=op.infer()))
    other = graph.node(ADD)
    types = [v and v.type for v in graph.operands(other)]
    graph.replace_node(replace(other, outputs=other.op.infer(*types)))


def size_of_another_axis(graph: Graph) -> None:
    op = OPS["param"](shape=(16, of(15, ("//", "D", 2)), 14), resize="bicubic")
    graph.replace_node(replace(graph.node("pos_embed"), op=op, outputs=op.infer()))


def odd_mode(graph: Graph) -> None:
    graph.mode = "test"


BREAKS: tuple[tuple[int, str, Callable[[Graph], None]], ...] = (
    (1, MIX, below),
    (1, "stem.proj", first_last),
    (2, MIX, missing_operand),
    (2, MIX, extra_operand),
    (3, "pos_embed", wrong_type),
    (3, "pos_embed", lost_expression),
    (3, MIX, refused),
    (4, "stages.0.attn.windows", unresolved),
    (5, "stem.proj", without_its_bias),
    (5, "stem.proj", dangling_weight),
    (5, "stem.proj", other_shape),
    (5, "stem.proj", other_kind),
    (6, "", unused),
    (7, MIX, without_its_frame),
    (7, MIX, another_frame),
    (7, MIX, no_frame_at_all),
    (8, "", orphan_region),
    (8, "", second_root),
    (8, "", misfiled_region),
    (8, ADD, unknown_region),
    (8, "", stale_port),
    (8, "", lost_result),
    (9, "", lost_output),
    (9, "", no_output),
    (9, "", lost_feature),
    (10, "a b", odd_path),
    (10, "stages.0.attn.windows", half_named),
    (11, "", broken_guard),
    (11, "", guard_of_nothing),
    (12, "", no_input),
    (12, "", lost_input),
    (12, "img", stale_input),
    (12, "second", reading_input),
    (12, "second", odd_input),
    (13, MIX, third_result),
    (13, MIX, crowded_slot),
    (13, "ghost", node_without_record),
    (13, ADD, misfiled_node),
    (14, "", misfiled_parameter),
    (15, "pos_embed", wrong_size),
    (15, "pos_embed", size_of_another_axis),
    (16, "", odd_mode),
)


@pytest.mark.parametrize(("number", "node", "breaks"), BREAKS, ids=[f"V{n}-{b.__name__}" for n, _, b in BREAKS])
def test_each_invariant_is_broken_by_itself(number: int, node: str, breaks: Callable[[Graph], None]) -> None:
    graph = tiny()
    breaks(graph)
    found = verify(graph)
    assert found and {v.number for v in found} == {number}
    assert node in [v.node for v in found]
    with pytest.raises(BrokenInvariant) as caught:
        check(graph, after="fold_bn")
    assert f"V{number}" in str(caught.value) and node in str(caught.value) and "`fold_bn`" in str(caught.value)


def test_every_invariant_has_a_break_and_numbers_count_up() -> None:
    assert [i.number for i in INVARIANTS] == list(range(1, len(INVARIANTS) + 1))
    assert {n for n, _, _ in BREAKS} == {i.number for i in INVARIANTS}


def test_the_documented_invariants_are_the_checked_ones() -> None:
    page = (Path(__file__).parent.parent / "docs" / "ir.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| V(\d+) \| (.+?) \|$", page, re.MULTILINE)
    assert listed == [(str(i.number), i.statement) for i in INVARIANTS]


# -- the canonical hash ------------------------------------------------------------------------


def renamed(graph: Graph) -> Graph:
    """The graph with other names for nodes, weights, variables and regions, and without spans."""
    text = re.sub(r"([%@])([\w.#]+)", r"\1net.\2", print_graph(graph))
    text = re.sub(r" from (\"[^\"]*\":)?\d+:\d+-\d+:\d+", "", text)
    text = text.replace(" as x ", " as y ").replace("call wmsa", "call attn").replace("graph tiny", "graph other")
    out = parse_graph(text, OPS)
    out.guards.clear()
    out.statics.clear()
    out.regions = out.regions[:1]
    for node in list(out.nodes()):
        out.replace_node(replace(node, region=0))
    return out


def test_names_origin_and_regions_do_not_change_the_hash() -> None:
    other = renamed(tiny())
    assert print_graph(other) != print_graph(tiny())
    assert canonical_hash(other) == canonical_hash(tiny()) == canonical_hash(tiny())


def shared(twice: bool, swapped: bool = False) -> Graph:
    """Two linears, on weights of their own or on the same, optionally made in the other order."""
    graph, img = start()
    (a, b) = ("a", "b") if not swapped else ("b", "a")
    made = {}
    for name in (a, b):
        made[name] = call(graph, OPS["linear"](), img, path=name, module="a" if twice else name)[0]
    graph.outputs = call(graph, OPS["add"](), made["a"], made["b"], path="sum")
    return graph


def test_the_hash_sees_which_nodes_share_a_weight() -> None:
    assert canonical_hash(shared(True)) != canonical_hash(shared(False))


def test_the_hash_does_not_see_the_order_of_independent_nodes() -> None:
    assert canonical_hash(shared(False, swapped=True)) == canonical_hash(shared(False))


def test_the_hash_tells_one_node_read_twice_from_two_equal_ones() -> None:
    def doubled(apart: bool) -> Graph:
        graph, img = start()
        (one,) = call(graph, OPS["relu"](), img, path="one")
        (two,) = call(graph, OPS["relu"](), img, path="two") if apart else (one,)
        graph.outputs = call(graph, OPS["add"](), one, two, path="sum")
        return graph

    assert canonical_hash(doubled(True)) != canonical_hash(doubled(False))


CHANGES = [
    ("heads = 2, scale", "heads = 4, scale"),
    ("scale = 0.1", "scale = 0.2"),
    ("(%stages.0.attn.q, %stages.0.attn.k,", "(%stages.0.attn.windows, %stages.0.attn.k,"),
    ("= add(%stages.0.attn.merge, %pos_embed)", "= sub(%stages.0.attn.merge, %pos_embed)"),
    ("output %add, %stages.0.attn.merge", "output %stages.0.attn.merge, %add"),
    ("output %add, %stages.0.attn.merge", "output %add"),
    ('feature "stages.0" y = %add', ""),
    ('] resize "bicubic"', "]"),
    ("16, 3, 2, 2]", '16, 3, 2, 2] dtype "float16"'),
    ("mode eval", "mode train"),
    ("(H + 1) // 2", "H // 2"),
    (
        "%stages.0.attn.k = linear[dim = 16](%stages.0.attn.windows)",
        "%stages.0.attn.k = linear[dim = 16](%stages.0.attn.q)",
    ),
]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_what_is_computed_changes_the_hash(old: str, new: str) -> None:
    text = print_graph(tiny())
    assert old in text
    assert canonical_hash(parse_graph(text.replace(old, new), OPS)) != canonical_hash(tiny())


def test_spans_do_not_change_the_hash() -> None:
    graph = tiny()
    graph.replace_node(replace(graph.node(ADD), span=Span(SPEC, 1, 1, 1, 2)))
    assert canonical_hash(graph) == canonical_hash(tiny())


def test_a_deep_graph_is_walked_without_recursion() -> None:
    graph, x = start()
    for i in range(3000):
        (x,) = call(graph, OPS["identity"](), x, path=f"i.{i}")
    graph.outputs = (x,)
    assert canonical_hash(graph) == canonical_hash(parse_graph(print_graph(graph), OPS))
    assert verify(graph) == []
