"""Mistakes: every code has a golden text, and what a user reads says where, why, and what to do instead.

`errors/CODE.arch` (or CODE.variant.arch) is checked with `archdsl check`; `errors/cli.toml` has the mistakes that
take arguments, other files or other contents. What is printed for either is `errors/CODE.txt`.
"""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import archdsl
from archdsl.cli import main
from archdsl.diagnostics import ArchError, Diagnostic, Source, Span, render, render_all
from archdsl.explain import catalogue
from archdsl.frontend.program import Program
from archdsl.ir.text import parse_graph, print_graph
from archdsl.ops.vocabulary import Vocabulary

HERE = Path(__file__).parent / "errors"
SPECS = sorted(p.stem for p in HERE.glob("*.arch"))
SCENES: dict[str, dict[str, Any]] = tomllib.loads((HERE / "cli.toml").read_text(encoding="utf-8"))
IN_PYTHON = ("E-IR", "E-IR.op", "E-IR.type", "E-MLIR")
"""Goldens of mistakes that no command line leads to everywhere; tests of this file make them."""

Tell = Callable[..., str]


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Runs one command in an empty directory, with given files; what it prints about mistakes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))

    def run(*argv: str, fine: bool = False, files: Mapping[str, bytes] | None = None) -> str:
        for name, content in (files or {}).items():
            place = tmp_path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        status = main(argv)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err, printed.err
        assert status == (0 if fine else 1), printed.err
        return printed.err

    return run


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with errors/NAME.txt, or writes it there under --update-golden."""

    def compare(name: str, text: str) -> None:
        path = HERE / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no {path.name}: run with --update-golden, and read what it wrote"
        assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; --update-golden writes it anew"

    return compare


# -- goldens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_spec(name: str, tell: Tell, golden: Callable[[str, str], None]) -> None:
    text = tell("check", f"{name}.arch", files={f"{name}.arch": (HERE / f"{name}.arch").read_bytes()})
    golden(name, text)
    assert f"error[{code_of(name)}]" in text
    for mistake in text.rstrip("\n").split("\n\n"):
        place, *excerpt = mistake.splitlines()[1:]
        assert re.match(r" +--> .+\.arch:\d+:\d+$", place), mistake
        assert re.search(r"\^", excerpt[2]), mistake


@pytest.mark.parametrize("name", SCENES)
def test_command(name: str, tell: Tell, golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    scene = SCENES[name]
    for module in scene.get("needs", ()):
        pytest.importorskip(module)
    for module in scene.get("missing", ()):
        monkeypatch.setitem(sys.modules, module, None)
    files = {n: text.encode() for n, text in scene.get("files", {}).items()}
    files |= {n: text.encode("latin-1") for n, text in scene.get("latin1", {}).items()}
    files |= {n: b" " * size for n, size in scene.get("sizes", {}).items()}
    for command in scene.get("before", ()):
        tell(*shlex.split(command), files=files, fine=True)
    text = tell(*shlex.split(scene["run"]), files=files if not scene.get("before") else scene_edits(scene))
    golden(name, text)
    assert f"error[{code_of(name)}]" in text


def scene_edits(scene: Mapping[str, Any]) -> dict[str, bytes]:
    """What a scene writes between its first commands and the last."""
    return {name: text.encode() for name, text in scene.get("edits", {}).items()}


def test_ir(golden: Callable[[str, str], None]) -> None:
    spec = "arch a { input img: map[3, 8, 8] head { return img |> gap |> linear[10] } }\n"
    graph = Program.parse(Source("a.arch", spec)).elaborate()
    right = print_graph(graph)
    wrong = {
        "E-IR": right[: right.index("gap(")],
        "E-IR.op": right.replace("= gap(", "= gapp(", 1),
        "E-IR.type": right.replace("vec[3]", "vec[4]", 1),
    }
    for name, text in wrong.items():
        assert text != right
        with pytest.raises(ArchError) as caught:
            parse_graph(text, Vocabulary.of(), name="a.ir")
        golden(name, render_all(caught.value.diagnostics) + "\n")


def test_mlir(tell: Tell, golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")

    said = types.SimpleNamespace(
        severity="error",
        message='failed to legalize operation: %4 = "torch.operator"(%3) <{name = "torch.aten.gap"}>',
        location='loc(callsite("a/layers.py":44:0 at "a/model.py":174:0))',
    )

    def refuse(*_: object, fx_importer: types.SimpleNamespace, **__: object) -> None:
        fx_importer.context.handle(said)
        raise Exception("Lowering failed with the following diagnostics:\n...")

    class Context:
        def attach_diagnostic_handler(self, handle: Callable[[object], bool]) -> None:
            self.handle = handle

    fake = {name: types.ModuleType(name) for name in ("torch_mlir", "torch_mlir.dialects", "torch_mlir.extras")}
    importer = types.ModuleType("torch_mlir.extras.fx_importer")
    importer.FxImporter = types.SimpleNamespace  # type: ignore[attr-defined]
    fake["torch_mlir"].fx = types.SimpleNamespace(export_and_import=refuse)  # type: ignore[attr-defined]
    fake["torch_mlir"].ir = types.SimpleNamespace(  # type: ignore[attr-defined]
        Context=Context, DiagnosticSeverity=types.SimpleNamespace(ERROR="error")
    )
    fake["torch_mlir.dialects"].torch = types.SimpleNamespace(  # type: ignore[attr-defined]
        register_dialect=lambda context: None
    )
    for name, module in (fake | {"torch_mlir.extras.fx_importer": importer}).items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = "arch a[classes = 10] { input img: map[3, 8, 8] head { return img |> gap |> linear[classes] } }\n"
    golden("E-MLIR", tell("emit", "a.arch", "--mlir", "linalg", files={"a.arch": spec.encode()}))


# -- completeness --------------------------------------------------------------------------------


def code_of(name: str) -> str:
    return name.partition(".")[0]


def goldens() -> set[str]:
    return {*SPECS, *SCENES, *IN_PYTHON}


def test_codes_raised_are_those_explained_and_those_with_a_golden() -> None:
    package = Path(archdsl.__file__).parent
    raised: set[str] = set()
    for path in package.rglob("*.py"):
        raised |= set(re.findall(r'"(E-[A-Z0-9]+(?:-[A-Z0-9]+)*)"', path.read_text(encoding="utf-8")))
    assert raised == set(catalogue())
    assert raised == {code_of(name) for name in goldens()}


def test_no_golden_is_left_over() -> None:
    assert {p.stem for p in HERE.glob("*.txt")} == goldens()


# -- what a phase reports together ---------------------------------------------------------------


def mistakes(text: str) -> Sequence[Diagnostic]:
    try:
        return Program.parse(Source("a.arch", text)).check()
    except ArchError as e:
        return e.diagnostics


def titles(text: str) -> list[str]:
    return [d.title for d in mistakes(text)]


def test_all_mistakes_in_names_are_reported_together() -> None:
    found = mistakes(
        """
        def f(x: map) = x |> conv@a[8] |> conv@a[8] |> rellu
        def g(x: map) = linear@fc[8](linear@fc[4](x))
        arch a { input img: map[3, 8, 8] head { return img |> f |> g |> gapp |> linear[clases] } }
        """
    )
    assert sorted(d.code for d in found) == ["E-LABEL"] * 2 + ["E-NAME"] * 3


def test_all_independent_mistakes_of_a_body_are_reported_and_their_consequences_are_not() -> None:
    found = mistakes(
        """
        arch a {
          input img: map[3, 8, 8]
          x = img |> conv[8, kernel = 3]
          y = x |> relu |> bn
          z = img + conv[4](img)
          for i in 3 { z = tokens(z) }
          w = img |> conv[2 / 3]
          if y.H > 4 { w = relu(y) }
          head { return (w + y + z) |> gap |> linear[10] }
        }
        """
    )
    assert [d.code for d in found] == ["E-PARAMETER", "E-BROADCAST", "E-DIVISION"]


def test_a_mistake_in_a_loop_is_reported_once() -> None:
    loop = "blocks j in 8 { x += conv[2 * x.C](x) }"
    assert len(titles("arch a { input img: map[3, 8, 8] x = img " + loop + " head { return gap(x) } }")) == 1


def test_a_variant_repeats_no_mistake_of_its_base() -> None:
    base = "arch a[n = 4] { input img: map[3, 8, 8] x = img + conv[n](img) head { return gap(x) } } "
    assert len(titles(base + "arch b = a[n = 5] arch c = a[n = 6]")) == 1


def test_a_recursion_without_end_is_not_tried_again() -> None:
    text = (
        "def f(x: map) { a = f(x) b = f(x) return a + b } arch a { input i: map[3, 8, 8] head { return f(i) |> gap } }"
    )
    assert [d.code for d in mistakes(text)] == ["E-RECURSION"]


def test_mistakes_of_parameters_and_lets_are_reported_together() -> None:
    text = """
        arch a[n: int = 0.5, m = n + 1, f: fn = 3] { input img: map[3, 8, 8] head { return gap(img) } }
        """
    assert [d.code for d in mistakes(text)] == ["E-PARAMETER"] * 2
    assert [d.code for d in mistakes('let a = 1 / 2 let b = a + 1 let c = 1 + "x"')] == ["E-DIVISION", "E-VALUE"]


# -- rendering -----------------------------------------------------------------------------------


def at(source: Source, column: int, end: int, line: int = 1) -> Span:
    return Span(source, line, column, line, end)


def test_places_on_one_line_share_an_excerpt() -> None:
    source = Source("a", "one two three")
    notes = ((at(source, 1, 4), "first"), (at(source, 9, 14), "last"))
    assert render(Diagnostic("E-X", "t", at(source, 5, 8), label="here", notes=notes)).splitlines()[2:] == [
        "  |",
        "1 | one two three",
        "  | --- ^^^ ----- last",
        "  | |   here",
        "  | first",
    ]


def test_a_place_elsewhere_has_an_excerpt_of_its_own() -> None:
    source = Source("a", "one\ntwo")
    text = render(Diagnostic("E-X", "t", at(source, 1, 4), notes=((at(source, 1, 4, line=2), "also"),)))
    assert text.count(" --> a:") == 2 and "2 | two\n  | --- also" in text


def test_places_that_overlap_have_excerpts_of_their_own() -> None:
    source = Source("a", "one two")
    text = render(Diagnostic("E-X", "t", at(source, 1, 4), notes=((at(source, 1, 8), "all"),)))
    assert text.count(" --> a:1:1") == 2


def test_a_long_line_is_cut_around_the_place() -> None:
    source = Source("a", "x" * 500 + " wrong " + "y" * 500)
    excerpt = render(Diagnostic("E-X", "t", at(source, 502, 507))).splitlines()
    shown, marks = excerpt[3], excerpt[4]
    assert len(shown) < 200
    assert shown[marks.index("^") : marks.rindex("^") + 1] == "wrong"
