"""Emitted modules as a product: what they look like, that they are stable, and that they compute the graph."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from archdsl.api import compile_spec, elaborate
from archdsl.backends.load import import_files
from archdsl.backends.torch import Unsupported, emit
from archdsl.backends.torch.fit import MISSING, Rule, relate, sequence
from archdsl.backends.torch.layout import wrap
from archdsl.backends.torch.reserved import HEAD, MODEL, check_names
from archdsl.diagnostics import Source
from archdsl.frontend.program import Program
from archdsl.ir.graph import Graph
from archdsl.ops.drop_path import DropRate
from archdsl.testing import interpret
from tests.golden import check_golden
from tests.oracle.twins import ARCHITECTURES, TWINS

ROOT = Path(__file__).parent.parent
SHIPPED = ("swin_t", "convnext_t", "poolformer_s12")
LANGUAGE = ("hybrid",)
"""Specs that the backend can write."""
MORE = tuple(twin.spec for twin in ARCHITECTURES if twin.spec not in SHIPPED)
"""Shipped specs whose text is not compared, only what they compute."""


def graph_of(name: str, arch: str | None = None) -> Graph:
    shipped = ROOT / "specs" / f"{name}.arch"
    path = shipped if shipped.exists() else ROOT / "tests" / "language" / f"{name}.arch"
    return Program.open(path).elaborate(arch)


def build(text: str, **overrides: object) -> tuple[Graph, str]:
    """The graph and model.py of a spec given as text."""
    graph = Program.parse(Source("spec.arch", text)).elaborate(overrides=overrides)
    return graph, emit(graph)["model.py"]


def randomise(model: torch.nn.Module) -> None:
    """Every parameter and buffer away from its initial value, running variances positive."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        if name.endswith("running_var"):
            tensor.copy_(noise.abs() + 0.5)
        elif tensor.ndim > 1:
            tensor.copy_(noise * 0.05)
        else:
            tensor.copy_(noise * 0.3 + float(name.endswith(("weight", "alpha"))))


@contextmanager
def same_orders() -> Iterator[None]:
    """Orders of tokens that are drawn are the same every time, whatever else is drawn between them."""
    draw, seeds = torch.randperm, itertools.count()

    def drawn(n: int, **options: object) -> torch.Tensor:
        return draw(n, generator=torch.Generator().manual_seed(next(seeds)))

    with patch.object(torch, "randperm", drawn):
        yield


def check_computes(graph: Graph) -> None:
    """The emitted module against the graph run op by op, in float64."""
    files = emit(graph)
    model = getattr(import_files(graph.name, files), graph.name)().double().eval()
    randomise(model)
    state = model.state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == {k: p.shape for k, p in graph.params.items()}
    shape = [int(d) for d in graph.inputs[0].type.dims]
    image = torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), same_orders():
        ours = model(image)
    with same_orders():
        (wanted,) = interpret(graph, state, image)
    assert float(wanted.std()) > 1e-3
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", [*SHIPPED, *(pytest.param(n, marks=pytest.mark.full) for n in MORE)])
def test_module_computes_the_graph(name: str) -> None:
    check_computes(elaborate(name, input=(3, *TWINS[name].size)))


@pytest.mark.full
@pytest.mark.parametrize("name", LANGUAGE)
def test_module_of_a_language_spec_computes_the_graph(name: str) -> None:
    check_computes(graph_of(name))


@pytest.mark.parametrize("name", SHIPPED)
def test_golden(name: str, request: pytest.FixtureRequest) -> None:
    for file, text in emit(graph_of(name), digest="0" * 64, version="0").items():
        if file != "backbone.py" or name == SHIPPED[0]:
            check_golden(request, f"emit/{name}/{file}", text)


@pytest.mark.parametrize("name", SHIPPED)
def test_emitted_code_is_readable(name: str, tmp_path: Path) -> None:
    files = emit(graph_of(name))
    assert len(files["model.py"].splitlines()) <= 300
    for file, text in files.items():
        (tmp_path / file).write_text(text)
        tree = ast.parse(text)
        imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        known = {"__future__", "collections.abc", "typing", "math"}
        assert all(m in known or m in files or m.split(".")[0] == "torch" or f"{m}.py" in files for m in imported if m)
        assert all(ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, ast.ClassDef)), file
    check_formatted(tmp_path)


def check_formatted(directory: Path) -> None:
    """What ruff and its formatter, with our line length, have nothing to say against."""
    config = ["--isolated", "--line-length", "120", "--target-version", "py311"]
    lint = [sys.executable, "-m", "ruff", "check", *config, "--select", "E,F,I,W,B,UP,SIM", "--ignore", "B905"]
    subprocess.run([*lint, str(directory)], check=True)
    subprocess.run([sys.executable, "-m", "ruff", "format", "--check", *config, str(directory)], check=True)


def camel(name: str) -> str:
    return "".join(p[:1].upper() + p[1:] for p in name.split("_"))


def classes_of(text: str) -> list[str]:
    return re.findall(r"^class (\w+)", text, re.MULTILINE)


@pytest.mark.parametrize("name", SHIPPED)
def test_one_class_a_def(name: str) -> None:
    graph = graph_of(name)
    called = {r.name for r in graph.regions if r.kind == "call" and any(n.region >= r.id for n in graph.nodes())}
    made = classes_of(emit(graph)["model.py"])
    assert len(made) == len(set(made))
    structural = {"Stem", "Stage", "Head", camel(name)}
    assert set(made) - structural == {camel(n) for n in called}


def test_sizes_of_one_family_differ_in_header_names_and_numbers_only() -> None:
    def skeleton(arch: str) -> str:
        text = emit(graph_of("swin_t", arch), version="0")["model.py"]
        text = re.sub(rf"\b{arch}\b(?!\.arch)", "ARCH", text.split('"""', 2)[2]).replace(camel(arch), "Arch")
        return ast.dump(ast.parse(re.sub(r"\b\d[\d.e-]*\b", "0", text)))  # blind to how lines are broken

    assert skeleton("swin_t") == skeleton("swin_s")


def test_emission_does_not_depend_on_hashing() -> None:
    code = (
        "from archdsl.frontend.program import Program\nfrom archdsl.backends.torch import emit\nimport hashlib\n"
        "g = Program.open('specs/swin_t.arch').elaborate()\n"
        "print(hashlib.sha256(repr(sorted(emit(g).items())).encode()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


HEADER = """
def mlp2[ratio = 2](x: any[C]) = x |> linear@fc1[ratio * C] |> relu |> linear@fc2[C]
"""


def model(stages: str, defs: str = "", params: str = "") -> str:
    return f"""{HEADER}{defs}
arch tiny[dim = 8, dpr = 0.1, classes = 5{params}] {{
  input img: map[3, 16, 16]
  stem {{ x = img |> conv[dim, k = 2, s = 2] |> ln }}
  {stages}
  head {{ return x |> gap |> linear@fc[classes] }}
}}
"""


PLAIN = "stage i in 2 -> x { blocks j in 2 { x = x + drop_path(mlp2(x)) } }"


def test_a_reduction_is_what_the_strides_make_it_not_the_borders() -> None:
    graph, text = build("""arch tiny[classes = 5] {
  input img: map[3, 35, 35]
  x = img
  stage i in 3 -> x { x = conv@down[8, k = 3, s = 2, p = 0](x) }
  head { return x |> gap |> linear@fc[classes] }
}
""")
    assert [int(f.value.type.size[0]) for f in graph.features] == [17, 8, 3]
    assert re.findall(r'"reduction": (\d+)', text) == ["2", "4", "8"]


def test_a_stage_without_a_step_shares_its_class() -> None:
    stages = """stage i in 2 -> x {
    if i > 0 { x = x |> ln@down_norm |> conv@down[2 * x.C, k = 2, s = 2] }
    blocks j in 2 { x = x + drop_path(mlp2(x)) }
  }"""
    graph, text = build(model(stages))
    assert classes_of(text).count("Stage") == 1 and "if self.down is not None:" in text
    check_computes(graph)


def test_numbers_that_alternate_are_a_rule_in_j() -> None:
    defs = "def b[s](x: map) = x + linear@proj[x.C](merge(windows[4, s](x)))\n"
    _, text = build(model("stage i in 1 -> x { blocks j in 4 { x = b[j % 2 * 2](x) } }", defs))
    assert "shift=2 * (j % 2)" in text or "s=2 * (j % 2)" in text


def test_blocks_of_several_classes_stand_in_one_list() -> None:
    defs = "def c(x: map[C]) = x + dwconv[3](x)\n"
    stages = "stage i in 1 -> x { blocks j in 4 { x = if j % 2 == 0 then c(x) else x + mlp2(x) } }"
    graph, text = build(model(stages, defs))
    assert "for block in self.blocks:" in text
    check_computes(graph)


def test_two_live_values_and_one_that_all_blocks_share() -> None:
    defs = "def two(a: map[C], b: map[C], c: map[C]) -> map, map { a += linear@p[C](b * c)\n  return a, ln(a + b) }\n"
    stages = """stage i in 1 -> x {
    s = linear@side[x.C](x)
    y = ln@start(x)
    blocks j in 3 { x, y = two(x, y, s) }
    x = x + y
  }"""
    graph, _ = build(model(stages, defs))
    check_computes(graph)


def test_a_stage_is_run_once_also_where_its_feature_is_taken() -> None:
    _, text = build(model("stage last -> x { x = x + linear@p[x.C](x) }"))
    assert text.count("self.last(") == 1


def test_layers_start_as_stated() -> None:
    stages = """stage i in 1 -> x {
    x = x |> linear@a[64, init = normal(1 / sqrt(16)), bias_init = 0.5] |> linear@b[64, bias_init = "torch"]
    x = x |> conv@c[64, init = "torch", bias_init = 1] |> dwconv@d[3, bias_init = "uniform(2)"]
  }"""
    graph, _ = build(model(stages))
    torch.manual_seed(0)
    module = getattr(import_files(graph.name, emit(graph)), graph.name)().stages[0]
    assert abs(module.a.weight.std() - 0.25) < 0.02 and (module.a.bias == 0.5).all()
    assert abs(module.b.weight.std() - 0.02) < 0.002 and 0.1 < module.b.bias.abs().max() <= 1 / 8
    assert 0.1 < module.c.weight.abs().max() <= 1 / 8 and (module.c.bias == 1).all()
    assert abs(module.d.weight.std() - 0.02) < 0.002 and 1.5 < module.d.bias.abs().max() <= 2


def test_a_linear_layer_may_start_as_given_numbers() -> None:
    stages = """stage i in 1 -> x {
    x = x |> linear@same[init = "identity"] |> linear@rows[3, init = [[i + j / 2.0 for j in dim] for i in 3]]
  }"""
    graph, _ = build(model(stages))
    module = getattr(import_files(graph.name, emit(graph)), graph.name)().stages[0]
    assert torch.equal(module.same.weight, torch.eye(8)) and not module.same.bias.any()
    assert module.rows.weight.tolist() == [[i + j / 2 for j in range(8)] for i in range(3)]
    assert not module.rows.bias.any()


MIXED = """  x += linear@a[dim](x)
  blocks j in 5 {
    if j == 3 { x = concat["n"](param@cls[1, dim], tokens(x)) }
    x = block[if j < 3 then dwconv[3] else mhsa[2]](x)
  }"""
MIXED_DEFS = "def block[f: fn](x: any) = x + drop_path(f(x))\n"


def test_blocks_of_several_kinds_are_loops_over_parts_of_their_list() -> None:
    graph, text = build(model(MIXED, MIXED_DEFS))
    assert re.findall(r"enumerate\((.*)\):", text) == [
        "self.blocks[:3]",
        "self.blocks[3:4], 3",
        "self.blocks[4:5], 4",
    ]
    check_computes(graph)


def test_features_of_blocks_of_several_kinds() -> None:
    graph, _ = build(model(MIXED, MIXED_DEFS))
    made = import_files(graph.name, emit(graph))
    whole = getattr(made, graph.name)().eval()
    assert [info["module"] for info in whole.feature_info] == [f"blocks.{j}" for j in range(5)]
    x = torch.randn(1, 3, 16, 16)
    maps = whole.forward_intermediates(x, intermediates_only=True)
    assert [tuple(m.shape) for m in maps] == [(1, 8, 8, 8)] * 5
    seen: list[object] = []
    for block in whole.blocks:
        block.register_forward_hook(lambda module, given, result: seen.append(module))
    early = whole.forward_intermediates(x, [0, 2], stop_early=True, intermediates_only=True)
    assert seen == list(whole.blocks[:3])
    assert all(torch.equal(a, b) for a, b in zip(early, (maps[0], maps[2]), strict=True))
    tiny = made.tiny(features_only=True, out_indices=[1, 3]).eval()
    assert len(tiny.model.blocks) == 4
    tiny.model.load_state_dict(whole.state_dict(), strict=False)
    assert all(torch.equal(a, b) for a, b in zip(tiny(x), (maps[1], maps[3]), strict=True))


def test_stages_of_several_signatures_stop_where_they_are_asked_to() -> None:
    """The last of three stages does not hand on what came before, so that no loop runs over them."""
    stages = """p = conv@before[dim](x)
  stage i in 3 -> x { p, x = (x, conv@a[dim, k = 2, s = 2](x) + (p |> gap |> linear@b[dim])) }"""
    graph, text = build(model(stages))
    assert "self.stages[1]" in text
    made = import_files(graph.name, emit(graph))
    whole = getattr(made, graph.name)().eval()
    x = torch.randn(1, 3, 16, 16)
    last, maps = whole.forward_intermediates(x)
    assert torch.equal(whole.forward_features(x), last)
    for i, wanted in enumerate(maps):
        part = made.tiny(features_only=True, out_indices=[i]).eval()
        assert len(part.model.stages) == i + 1
        part.model.load_state_dict(whole.state_dict(), strict=False)
        assert torch.equal(part(x)[0], wanted)
        assert torch.equal(part.model.forward_intermediates(x, [i], intermediates_only=True)[0], wanted)


def test_stages_may_have_several_features() -> None:
    stages = """y = x |> linear[4]
  c = param@cls[1, dim]
  stage i in 3 -> x, y {
    c = c + linear@c[dim](c)
    x = conv@a[dim, k = 2, s = 2](x)
    y = y + linear@b[4](y)
  }
  x = x + (c |> token[0])"""
    graph, _ = build(model(stages))
    made = import_files(graph.name, emit(graph))
    whole = getattr(made, graph.name)().eval()
    x = torch.randn(1, 3, 16, 16)
    maps = whole.forward_intermediates(x, intermediates_only=True)
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 4, 4), (4, 8, 8), (8, 2, 2), (4, 8, 8), (8, 1, 1), (4, 8, 8)]
    assert [info["num_chs"] for info in whole.feature_info] == [8, 4] * 3
    early = whole.forward_intermediates(x, [2, 1], stop_early=True, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(early, (maps[1], maps[2]), strict=True))
    part = made.tiny(features_only=True, out_indices=[3]).eval()
    assert len(part.model.stages) == 2
    part.model.load_state_dict(whole.state_dict(), strict=False)
    assert torch.equal(part(x)[0], maps[3])


def test_logits_of_several_values_start_from_what_these_are_made_of() -> None:
    head = """head {
    a, b = x |> gap |> split[[3, 5]]
    return (linear@one[classes](a) + linear@two[classes](b)) / 2
  }"""
    graph, _ = build(model("").replace("head { return x |> gap |> linear@fc[classes] }", head))
    check_computes(graph)
    module = getattr(import_files(graph.name, emit(graph)), graph.name)().eval()
    x = torch.randn(2, 3, 16, 16)
    assert module.head_hidden_size == 8
    pooled = module.forward_head(module.forward_features(x), pre_logits=True)
    torch.testing.assert_close(pooled, module.forward_features(x).mean((2, 3)))
    module.reset_classifier(0)
    assert torch.equal(module(x), pooled)


def test_lists_of_modules_made_in_loops() -> None:
    defs = "def chain(x: map[C]) { for i in 3 { x = linear@pws[C](x) * param@gains[C, init = 1] }\n  return x }\n"
    graph, text = build(model("stage i in 1 -> x { x = x + chain(x) }", defs))
    assert "self.pws = nn.ModuleList(" in text and "self.gains = nn.ParameterList(" in text
    check_computes(graph)


def test_shared_weights_are_one_module_called_twice() -> None:
    defs = "def pair(x: map[C]) { share f = mlp2[3]\n  share g = linear[C]\n  return f(x) + g(f(relu(x))) + g(x) }\n"
    graph, text = build(model("stage i in 1 -> x { blocks j in 2 { x = pair(x) } }", defs))
    assert text.count("self.f = ") == text.count("self.g = ") == 1
    check_computes(graph)


EACH = "stage i in 2 -> x { blocks j in 2 { share f = two\n  %s } }"
"""Stages whose blocks use one instance of `two` several times."""


def test_uses_of_one_module_pass_what_differs_to_its_forward() -> None:
    defs = """def inner(x: tokens[N, C], n: int, mixed: bool) {
  x, order = if mixed then shuffle(x) else (x, none)
  y = x |> chunks[n] |> linear@a[C]
  y = merge(attend(y, y, y))
  return if mixed then unshuffle(y, order) else y
}
def two(x: map[C], n: int, mixed: bool) =
    x |> tokens |> inner(n, mixed) |> linear@b[C] |> to_map[x.H, x.W]
"""
    graph, text = build(model(EACH % "x = x + f(x, 4, false)\n  x = x + f(x, 2 + 2 * i, i == 0)", defs))
    assert "def forward(self, x: Tensor, n: int, mixed: bool) -> Tensor:" in text and text.count("if mixed:") == 2
    assert text.count("self.f = Two()") == 1 and classes_of(text).count("Two") == 1 and "Two2" not in text
    assert "self.f(x, n=4, mixed=False)" in text and "self.f(x, n=self.n2, mixed=self.mixed2)" in text
    check_computes(graph)


@pytest.mark.parametrize(
    ("signature", "middle", "uses", "line"),
    [
        (
            "k: int, sharp: bool",
            "y = if sharp then relu(y * k) else gelu(y * k)",
            "f(x, 1, true) + f(x, 2, false)",
            "else:",
        ),
        ("how: int", "y = if how == 0 then relu(y) else y", "f(x, 0) * f(f(x, 1), 2)", "if with_relu:"),
        ("more: bool", "y = if more then y + linear@c[C](relu(y)) else y", "f(x, true) + f(x, false)", "if more:"),
        (
            "more: bool",
            "y = if more then y |> linear@c[2 * C] |> relu |> linear@d[C] else y",
            "f(x, i == 0) + f(x, false)",
            "self.d = nn.Linear(16, 8) if d else None",
        ),
        (
            "more: bool",
            "for l in 2 { y = if more then linear@r[C](relu(y)) else y }",
            "f(x, i == 0) + f(x, false)",
            "self.r = nn.ModuleList([nn.Linear(8, 8) if r_1 else None, nn.Linear(8, 8) if r_1 else None])",
        ),
        (
            "a: bool",
            "z = if not a then y + x else x\n  z = if a then y * 2 else z\n  y = z * y + z",
            "f(x, i == 0) * f(x, false)",
            "if a:",
        ),
        ("less: bool", "y = if less then y else y * relu(y)", "f(x, true) + f(x, false)", "if not less:"),
    ],
    ids=[
        "branches",
        "no flag in the spec",
        "weights",
        "weights in some blocks",
        "lists",
        "values of both branches",
        "negation",
    ],
)
def test_code_that_some_uses_of_a_module_lack(signature: str, middle: str, uses: str, line: str) -> None:
    defs = f"def two(x: map[C], {signature}) {{\n  y = linear@a[C](x)\n  {middle}\n  return linear@b[C](y + x)\n}}\n"
    graph, text = build(model(EACH % f"x = x + {uses}", defs))
    assert line in text and text.count("self.f = Two(") == 1
    check_computes(graph)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("y = if j > 0 then linear@a[x.C](x) else x\n  x = x + y", "if self.a is not None:"),
        (
            "y = linear@b[x.C](x)\n  z = if j > 0 then linear@a[x.C](x) else x\n"
            "  y = if j > 0 then linear@c[x.C](y) else y\n  x = z * x + y",
            "if self.c is not None:",
        ),
        ("share g = linear[x.C]\n  x = if j == 0 then g(relu(x)) else x\n  x = x + g(x)", "if self.with_g:"),
        ("x = if j == 0 then gelu(x) else x\n  x = x + linear@b[x.C](x)", "if self.with_gelu:"),
    ],
    ids=["read later", "two at once", "shared with steps that are always there", "no module"],
)
def test_steps_that_some_blocks_lack(body: str, line: str) -> None:
    graph, text = build(model(f"stage i in 1 -> x {{ blocks j in 3 {{ {body} }} }}"))
    assert line in text
    check_computes(graph)


def test_an_identity_that_some_blocks_lack() -> None:
    defs = "def two[f: fn?](x: map[C]) {\n  y = linear@a[C](x)\n  if f != none { y = f(y) }\n  return x + relu(y)\n}\n"
    graph, text = build(model(EACH % "x = two[if j == 1 then identity else none](x)", defs))
    assert "if self.with" not in text
    check_computes(graph)


def test_arguments_are_not_words_of_python() -> None:
    defs = "def two[lambda](x: map[C]) = x + linear@b[C](linear@a[4 * lambda](x))\n"
    graph, text = build(model("stage i in 2 -> x { blocks j in 2 { x = two[i + 1](x) } }", defs))
    assert "lambda_: int" in text
    check_computes(graph)


def test_lambdas_and_captured_values() -> None:
    defs = "def apply[f: fn](x: map) = x + f(ln(x))\n"
    stages = "stage i in 1 -> x { q = linear@q[x.C](x)\n  blocks j in 2 { x = apply[fn (y) => mlp2(y * q)](x) } }"
    graph, _ = build(model(stages, defs))
    check_computes(graph)


def test_labels_without_a_segment_and_elided_calls() -> None:
    defs = "def inner(x: map[C]) = x |> linear@a[C] |> relu\ndef outer(x: map[C]) = inner@_(x) + x\n"
    graph, _ = build(model("stage i in 1 -> x { blocks j in 2 { x = outer(x) } }", defs))
    assert "stages.0.blocks.1.a.weight" in graph.params
    check_computes(graph)


def test_of_several_bounds_the_strongest_is_checked() -> None:
    graph, text = build(model("stage i in 1 -> x { for n in [3, 7, 5] { if x.H > n { x = relu(x) } } }"))
    module = getattr(import_files(graph.name, emit(graph)), graph.name)()
    assert text.count("self.require(") == 1
    assert module(torch.zeros(1, 3, 16, 16)).shape == (1, 5)
    with pytest.raises(ValueError, match="a comparison of sizes"):
        module(torch.zeros(1, 3, 14, 16))


def test_a_result_that_nobody_reads_is_computed_and_dropped() -> None:
    stages = "stage i in 2 -> x { blocks j in 2 { y = mlp2@unread(x)\n  x = x + mlp2(x) } }"
    graph, _ = build(model(stages))
    check_computes(graph)


# -- several results of training ---------------------------------------------------------------------

SEVERAL = """
rep def norm_linear[n](x: vec) = x |> bn |> linear@l[n]
def both[classes](f: vec) {
  y = linear@fc[classes](f)
  d = linear@dist[classes](f)
  if training { return y, d }
  return (y + d) / 2
}
def shared[classes](f: vec) {
  share a = norm_linear[classes]
  share b = norm_linear[classes]
  if training { return a(f), b(f) }
  return (a(f) + b(f)) / 2
}
"""


def taught(head: str) -> tuple[Graph, Graph, dict[str, str]]:
    """The training graph and the eval graph of a spec with that head, and the files of both in one."""
    text = model(PLAIN, SEVERAL).replace("return x |> gap |> linear@fc[classes]", head)
    program = Program.parse(Source("spec.arch", text))
    trained, settled = program.elaborate(mode="train"), program.elaborate(mode="eval")
    return trained, settled, emit(trained, settled=settled)


@pytest.mark.parametrize(
    ("head", "line"),
    [
        (
            "f = gap(x)\ny = linear@fc[classes](f)\nif training { return y, linear@aux[classes](f) }\nreturn y",
            "return channels_first(y), channels_first(self.aux(x))",
        ),
        (
            "f = gap(x)\na = f |> linear@h[7] |> relu |> linear@aux[classes]\ny = f |> bn |> linear@fc[classes]\n"
            "if training { return y, a }\nreturn y",
            "return channels_first(y), channels_first(self.aux(F.relu(self.h(x))))",
        ),
        ("return both@_[classes](gap(x))", "x = (y + d) / 2.0"),
        ("return both@two[classes](gap(x))", "y, d = self.two(x)"),
        ("return shared@_[classes](gap(x))", "x = (y + x) / 2.0"),
        (
            "a = x |> bn@aux_bn |> gap |> linear@aux[classes]\ny = x |> ln |> gap |> relu |> linear@fc[classes]\n"
            "if training { return y, a }\nreturn y",
            "return x, self.head.auxiliary(*last)",
        ),
        (
            "f = x |> ln |> gap\ny = linear@fc[classes](relu(f))\nd = linear@dist[classes](f)\n"
            "a = x |> bn@a |> gap |> linear@c[classes]\nb = x |> bn@b |> gap |> linear@d[classes]\n"
            "if training { return y, d, a, b }\nreturn y + 2 * d",
            "return *x, *self.head.auxiliary(*last)",
        ),
        (
            "f = tokens(x) |> ln |> token[0]\ny = linear@fc[classes](f)\nd = linear@dist[classes](f)\n"
            "if training { return y, d }\nreturn y - d",
            "x = y - d",
        ),
        ("y = x |> gap |> linear@fc[classes]\nif training { return 2 * y, y }\nreturn y", "x = y"),
    ],
    ids=["head", "hidden", "elided", "labelled", "shared", "aside", "four", "tokens", "scaled"],
)
def test_training_with_several_results(head: str, line: str, tmp_path: Path) -> None:
    """In training the module computes the training graph, in eval mode the eval graph, with the same weights."""
    trained, settled, files = taught(head)
    assert line in files["model.py"]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    check_formatted(tmp_path)
    module = getattr(import_files(trained.name, files), trained.name)().double().eval()
    randomise(module)
    state = module.state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == {k: p.shape for k, p in trained.params.items()}
    image = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module(image), *interpret(settled, state, image))
        module.training = module.head.training = True  # batch norms, as the interpreter's, by running statistics
        torch.testing.assert_close(list(module(image)), interpret(trained, state, image))
        module.set_distilled_training(False)
        torch.testing.assert_close(module(image), *interpret(settled, state, image))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("y = x |> gap |> linear@fc[classes]\nreturn y, 2 * y", "several values"),
        (
            "n = ln(x)\ny = n |> gap |> linear@fc[classes]\n"
            "if training { return y, n |> conv[5] |> gap |> linear@aux[classes] }\nreturn y",
            "share steps",
        ),
        (
            "y = x |> gap |> linear@fc[classes]\n"
            "if training { return x |> conv[5] |> gap |> linear@aux[classes], y }\nreturn y",
            "the first result",
        ),
        (
            "f = gap(if training then relu(x) else gelu(x))\ny = linear@fc[classes](f)\n"
            "if training { return y, f }\nreturn y",
            "different values over positions",
        ),
        (
            "f = gap(x)\ny = linear@fc[classes](f)\nif training { return y, f }\nreturn linear@other[classes](f)",
            "`head.other.weight` is a weight in eval",
        ),
    ],
    ids=["eval", "shared", "order", "pooled", "weight"],
)
def test_several_results_that_one_module_cannot_have(head: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        taught(head)


def test_no_label_is_a_name_that_the_head_or_the_model_has() -> None:
    trained, _, files = taught("return both@_[classes](gap(x))")
    module = getattr(import_files(trained.name, files), trained.name)()
    plain = {*dir(torch.nn.Module), *dir(torch.nn.Module())}
    for owner, known in ((module, MODEL), (module.head, HEAD)):
        own = {n for n in set(dir(owner)) - plain - set(owner._modules) if not n.startswith("__")}
        assert own <= known
    for name in ("logits", "features", "auxiliary"):
        graph, _ = build(model(PLAIN).replace("linear@fc", f"linear@{name}"))
        with pytest.raises(Unsupported, match="something that the head has"):
            check_names(graph)


def test_training_and_eval_may_differ_in_the_head_only() -> None:
    text = model(PLAIN.replace("mlp2(x)", "mlp2(if training then relu(x) else x)"))
    head = "y = x |> gap |> linear@fc[classes]\nif training { return y, y }\nreturn y"
    program = Program.parse(Source("spec.arch", text.replace("return x |> gap |> linear@fc[classes]", head)))
    with pytest.raises(Unsupported, match="more than the head"):
        emit(program.elaborate(mode="train"), settled=program.elaborate())


def test_blocks_that_alternate_are_recomputed() -> None:
    """Of two streams that take turns no loop can be made, so each block's call is written out."""
    stages = """h = relu(x)
  stage i in 1 -> x {
    blocks j in 4 {
      if j % 2 == 0 { x = x + mlp2(h) }
      if j % 2 == 1 { h = h + mlp2(x) }
    }
    x = x + h
  }"""
    graph, text = build(model(stages, params=", dpr = 0.0").replace("dpr = 0.1, ", ""))
    check_computes(graph)
    assert text.count("checkpoint_if(self.grad_checkpointing, self.blocks[") == 4
    module = getattr(import_files(graph.name, emit(graph)), graph.name)().double()
    calls: list[torch.nn.Module] = []
    for block in module.stages[0].blocks:
        block.register_forward_pre_hook(lambda block, _: calls.append(block))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)

    def gradients(recompute: bool) -> tuple[torch.Tensor, ...]:
        module.set_grad_checkpointing(recompute)
        logits = module(x)
        return logits, *torch.autograd.grad(logits.square().sum(), list(module.parameters()))

    kept = gradients(False)
    assert len(calls) == 4
    for a, b in zip(gradients(True), kept, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert len(calls) == 4 + 2 * 4


def test_a_module_may_have_the_name_of_an_op_without_weights() -> None:
    module = compile_spec(
        "language 1\narch a[classes = 10] {\n  input img: map[3, 8, 8]\n"
        "  stem { x = img |> conv[8] |> tokens |> linear@tokens[8] }\n"
        '  head { return x |> mean["n"] |> linear[classes] }\n}\n'
    ).module()
    assert module(torch.zeros(2, 3, 8, 8)).shape == (2, 10) and "stem.tokens.weight" in module.state_dict()


def test_values_are_not_overwritten_while_they_are_needed() -> None:
    defs = """def braid(x: map[C]) {
  y = linear@a[C](x)
  x = relu(x) + y
  z = y * x
  y = linear@b[C](z)
  x = x + y * z
  return x + attend[2](linear@queries_of_all[C](x), linear@keys_of_all[C](x), linear@values_of_all[C](x))
}
"""
    graph, _ = build(model("stage i in 1 -> x { blocks j in 2 { x = braid(x) } }", defs))
    check_computes(graph)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            model(
                "stage i in 1 -> x { share f = linear[x.C]\n  x = use[f](x) + f(x) }",
                "def use[g: fn](x: map[C]) = linear@own[C](g(x))\n",
            ),
            "has no place",
        ),
        (
            model(PLAIN).replace("|> gap", "|> gap |> relu |> linear@pre[8]").replace("linear@fc[classes]", "relu"),
            "head",
        ),
        (
            model(PLAIN).replace(
                "return x |> gap |> linear@fc[classes]", "y = x |> gap |> linear@fc[classes]\n  return y, y"
            ),
            "several",
        ),
        (
            model(
                EACH % "x = f(x, 2) + f(x, 4)", "def two(x: map[C], n: int) = linear@a[C](merge(windows[n](x)))\n"
            ).replace("windows[n]", "windows[n, n // 2]"),
            "shared by calls that need different modules",
        ),
        (
            model(
                EACH % "x = f(x, true) + f(x, false)",
                "def two(x: map[C], b: bool) {\n  y = linear@a[C](x)\n  z = relu(x)\n"
                "  return if b then y * z else z + relu(y) * z\n}\n",
            ),
            "steps that some leave out",
        ),
    ],
    ids=["share", "no classifier", "two results", "other modules", "other data flow"],
)
def test_what_cannot_be_written_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        build(text)


# -- fitting numbers --------------------------------------------------------------------------------


def test_columns_are_related_to_the_plainest_argument() -> None:
    basis = {"dim": (96, 192, 384), "heads": (3, 6, 12)}
    assert relate("c_out", (384, 768, 1536), basis) == "4 * dim"
    assert relate("c_in", (48, 96, 192), basis) == "dim // 2"
    assert relate("heads", (3, 6, 12), basis) == "heads"
    assert relate("c_out", (MISSING, 192, 384), basis) == "dim"
    assert relate("c_out", (96, 192, 385), basis) is None
    assert relate("size", (96, 192, 384), basis) is None


def test_sequences_become_rules() -> None:
    assert sequence([[1, 1], [2, 2, 2]]).kind == "constant"
    assert sequence([[0, 3], [0, 3, 0, 3]]) == Rule("periodic", ((0, 0), (3, 3)))
    assert sequence([[2, 1, 1], [4, 1, 1, 1]]) == Rule("first", ((2, 4), (1, 1)))
    assert sequence([[1, 2, 4], [1, 2, 4]]).kind == "table"
    rates = [[DropRate(i, 11) for i in range(2)], [DropRate(i, 11) for i in range(2, 8)]]
    assert sequence(rates) == Rule("affine", ((0, 2),))


def test_long_lines_break_at_brackets() -> None:
    line = "self.blocks = nn.ModuleList(" + ", ".join(f"Block({i}, dim={i})" for i in range(9)) + ")"
    out = wrap("    " + line)
    assert all(len(part) <= 120 for part in out) and out[0].endswith("(") and out[-1] == "    )"
    assert "".join(p.strip() for p in out).replace(",)", ")").replace(" ", "") == line.replace(" ", "")


@pytest.mark.parametrize("line", ["x = ({}) // 2", "x = n[{}]", "x = max(({}) // 2, 1)"])
def test_a_broken_line_means_what_it_meant(line: str) -> None:
    whole = line.format("(" + " + ".join(f"max({i}, {i})" for i in range(40)) + ") % 3")
    out = wrap(whole)
    assert len(out) > 3 and ast.dump(ast.parse("\n".join(out))) == ast.dump(ast.parse(whole))
