"""Whole generated programs: what is printed reads the same, what is emitted computes and costs what the graph says."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from torch.utils.flop_counter import FlopCounterMode

from archdsl.backends.load import import_files
from archdsl.backends.torch import Unsupported, emit
from archdsl.cost import price
from archdsl.diagnostics import ArchError, Diagnostic, Source
from archdsl.frontend.names import children
from archdsl.frontend.program import Program
from archdsl.ir.graph import Graph
from archdsl.ir.hash import canonical_hash
from archdsl.ir.text import parse_graph, print_graph
from archdsl.ir.verify import verify
from archdsl.ops.vocabulary import Vocabulary
from archdsl.syntax import tree
from archdsl.testing import interpret
from tests.oracle.compare import randomise
from tests.programs import Author, programs
from tests.specs import spec
from tests.test_printer import canonical, read

SAMPLES = 60
EXAMPLES = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def many(quick: int, thorough: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs a property on a few programs in every run of the tests, and on more in the full one."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        cases = [pytest.param(quick, id="few"), pytest.param(thorough, id="many", marks=pytest.mark.full)]

        @pytest.mark.parametrize("examples", cases)
        def test(examples: int) -> None:
            settings(EXAMPLES, max_examples=examples)(given(programs())(check))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def sample(seed: int) -> str:
    return Author(random.Random(seed).randrange).program()


def mistakes(text: str) -> list[Diagnostic]:
    try:
        return Program.parse(Source("a.arch", text)).check()
    except ArchError as e:
        return list(e.diagnostics)


def graph_of(text: str, mode: str = "eval") -> Graph:
    return Program.parse(Source("a.arch", text)).elaborate("a", mode=mode)


def emitted(graph: Graph) -> torch.nn.Module | None:
    """The emitted module, or None where the backend says that it cannot write it."""
    try:
        files = emit(graph)
    except Unsupported as e:
        assert e.span is not None
        return None
    module: torch.nn.Module = getattr(import_files(graph.name, files), graph.name)()
    return module


# -- the language as a whole -----------------------------------------------------------------------


def nodes(t: tree.Tree) -> Counter[str]:
    """How often each class of the tree occurs, with an operator or a form where it has several."""
    found: Counter[str] = Counter()
    todo = [t]
    while todo:
        at = todo.pop()
        found[type(at).__name__] += 1
        match at:
            case tree.Unary(op=op) | tree.Binary(op=op) | tree.Update(op=op):
                found[f"{type(at).__name__} {op}"] += 1
            case tree.Compare(ops=ops):
                found.update(f"Compare {op}" for op in ops)
                found["Compare chained"] += len(ops) > 1
            case tree.For(index=index):
                found["For with an index"] += index is not None
            case tree.Stage(iterable=iterable):
                found["Stage of a name"] += iterable is None
            case tree.If(otherwise=otherwise):
                found[f"If, else {type(otherwise).__name__}"] += 1
            case tree.Blocks(label=label, name=name):
                found["Blocks with a label"] += label is not None
                found["Blocks without a name"] += name is None
            case tree.Def(body=body, rep=rep):
                found[f"Def of a {'body' if isinstance(body, tree.Body) else 'value'}"] += 1
                found["Def rep"] += rep
            case tree.TypeRef(optional=optional, ports=ports, dims=dims):
                found["TypeRef optional"] += optional
                found["TypeRef of a function"] += bool(ports)
                found["TypeRef with sizes"] += bool(dims)
            case tree.RegionBlock(kind=kind):
                found[f"RegionBlock {kind}"] += 1
        todo += children(at)
    return found


FORMS = {
    *(f"Unary {op}" for op in ("-", "not")),
    *(f"Binary {op}" for op in ("+", "-", "*", "/", "//", "%", "^", "and", "or")),
    *(f"Compare {op}" for op in ("<", "<=", ">", ">=", "==", "!=", "~=", "chained")),
    *("Update +", "Update *", "For with an index", "Stage of a name", "RegionBlock stem", "RegionBlock head"),
    *("If, else NoneType", "If, else If", "If, else Body", "Blocks with a label", "Blocks without a name"),
    *("Def of a body", "Def of a value", "Def rep"),
    *("TypeRef optional", "TypeRef of a function", "TypeRef with sizes"),
}


def test_every_form_of_the_language_occurs() -> None:
    found: Counter[str] = Counter()
    for seed in range(SAMPLES):
        found += nodes(read(sample(seed)))
    classes = {c.__name__ for c in tree.Tree.__subclasses__() if c.__module__ == tree.__name__}
    assert {c.__name__ for group in (tree.Expr, tree.Statement, tree.Item) for c in get_args(group)} < classes
    assert classes | FORMS <= {form for form, n in found.items() if n}


def test_every_sample_is_right_and_most_can_be_emitted() -> None:
    written = 0
    for seed in range(20):
        text = sample(seed)
        assert mistakes(text) == [], text
        try:
            emit(graph_of(text))
            written += 1
        except Unsupported:
            continue
    assert written >= 15


# -- properties ------------------------------------------------------------------------------------


@many(25, 500)
def test_text_and_graph_survive_printing(text: str) -> None:
    formatted = canonical(text)
    graph = graph_of(text)
    assert canonical_hash(graph_of(formatted)) == canonical_hash(graph)
    for mode in ("eval", "train", "deploy"):
        made = graph_of(text, mode)
        assert verify(made) == []
        printed = print_graph(made)
        again = parse_graph(printed, Vocabulary.of())
        assert print_graph(again) == printed
        assert canonical_hash(again) == canonical_hash(made)


def shapes(values: Any) -> list[tuple[int, ...]]:
    return [tuple(v.shape) for v in (values if isinstance(values, tuple) else (values,))]


@many(20, 300)
def test_costs_and_shapes_are_those_of_the_emitted_module(text: str) -> None:
    graph = graph_of(text)
    with torch.device("meta"):
        module = emitted(graph)
        if module is None:
            event("not written")
            return
        module.eval()
        assert {n: tuple(p.shape) for n, p in module.state_dict().items()} == {
            n: p.shape for n, p in graph.params.items()
        }
        image = torch.zeros(1, *(int(d) for d in graph.inputs[0].type.dims))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            out = module(image)
    costs = price(graph).total
    assert sum(p.numel() for p in module.parameters()) == costs.params
    assert shapes(out) == [(1, *(int(d) for d in v.type.dims)) for v in graph.outputs]
    assert counter.get_total_flops() / 2 == pytest.approx(costs.macs, rel=1e-3)


@many(20, 300)
def test_the_emitted_module_computes_the_graph(text: str) -> None:
    for mode in ("eval", "deploy"):
        graph = graph_of(text, mode)
        module = emitted(graph)
        if module is None:
            event("not written")
            return
        randomise(module.double().eval())
        generator = torch.Generator().manual_seed(0)
        shape = [int(d) for d in graph.inputs[0].type.dims]
        image = torch.randn(1, *shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            (wanted,) = interpret(graph, module.state_dict(), image)
            torch.testing.assert_close(module(image), wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))


# -- what generated programs have found ----------------------------------------------------------------


def computes(text: str) -> None:
    graph = graph_of(text)
    module = emitted(graph)
    assert module is not None
    randomise(module.double().eval())
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert {n: tuple(p.shape) for n, p in module.state_dict().items()} == {n: p.shape for n, p in graph.params.items()}
    with torch.no_grad():
        (wanted,) = interpret(graph, module.state_dict(), image)
        torch.testing.assert_close(module(image), wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))


@pytest.mark.parametrize("condition", ["true", "i != j", "i + j == 2"])
def test_weights_in_loops_inside_loops(condition: str) -> None:
    body = f"for i in 3 {{ for j in 2 {{ if {condition} {{ x += linear@w[8](x) * param@scale[8, init = 1] }} }} }}"
    computes(spec(body, image="3, 8, 8"))


def test_a_let_of_a_space_may_have_the_name_of_its_label() -> None:
    text = spec("x = relu(x)") + "\nspace s of a { let drop = {0.1 | 0.2}@drop dpr = drop seed a }\n"
    assert mistakes(text) == []
