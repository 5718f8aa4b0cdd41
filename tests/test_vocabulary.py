"""Holds the vocabulary to its rules: one op a file, names that agree, attributes with bounds and a line of text."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from archdsl.ops.base import KINDS, Op
from archdsl.ops.vocabulary import NOT_CALLED, DuplicateOp, Vocabulary
from archdsl.resources import template_dir

VOCABULARY = Vocabulary.of()

WEIGHTS = {"param", "linear", "conv", "dwconv", "ln", "bn", "evonorm", "gn", "rms", "fft_filter"}
POINTWISE = {
    "identity",
    "relu",
    "relu6",
    "gelu",
    "gelu_tanh",
    "silu",
    "hswish",
    "hsigmoid",
    "sigmoid",
    "tanh",
    "softplus",
    "exp",
}
REDUCTIONS = {"gap", "mean", "l2", "mean_n", "token", "avg_pool", "max_pool", "avg_pool_n", "adaptive_pool"}
ARITHMETIC = {"add", "sub", "mul", "div", "neg", "square", "log", "clamp", "softmax", "l2norm", "repeat"}
OTHERS = {"drop_path", "dropout", "resize", "pad", "windows", "merge", "attend", "split", "concat"}


def test_documented_ops_exist() -> None:
    assert set(VOCABULARY) >= WEIGHTS | POINTWISE | REDUCTIONS | ARITHMETIC | OTHERS


def test_ops_that_statements_stand_for_or_passes_make_cannot_be_called() -> None:
    assert {name for name, cls in VOCABULARY.items() if not cls.callable} == NOT_CALLED
    assert set(VOCABULARY.callables()) == set(VOCABULARY) - NOT_CALLED


def test_an_op_is_imported_when_it_is_asked_for() -> None:
    script = (
        "import sys\n"
        "from archdsl.ops.vocabulary import Vocabulary\n"
        "known = Vocabulary.of()\n"
        "assert 'conv' in known and 'archdsl.ops.conv' not in sys.modules\n"
        "assert known['conv'].__module__ in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=template_dir().parent, check=True, timeout=120)


def test_names_are_sorted() -> None:
    assert list(VOCABULARY) == sorted(VOCABULARY)


@pytest.mark.parametrize("name", VOCABULARY)
def test_op_stands_in_the_file_of_its_name(name: str) -> None:
    cls = VOCABULARY[name]
    assert cls.__module__ == f"archdsl.ops.{name}"
    assert dataclasses.is_dataclass(cls)
    params = cls.__dataclass_params__  # type: ignore[attr-defined]
    assert params.frozen, "an op is a frozen dataclass"


@pytest.mark.parametrize("name", VOCABULARY)
def test_op_documents_itself(name: str) -> None:
    cls = VOCABULARY[name]
    assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), "a docstring of its own"
    for f in dataclasses.fields(cls):
        assert f.metadata.get("doc"), f"attribute {f.name} has no line of text"
        if f.default is not dataclasses.MISSING and f.metadata["choices"]:
            assert f.default in (*f.metadata["choices"], None)


@pytest.mark.parametrize("name", [n for n in VOCABULARY if VOCABULARY[n].examples])
def test_attribute_types_are_known(name: str) -> None:
    for f in dataclasses.fields(VOCABULARY[name]):
        kinds = {kind.strip() for kind in str(f.type).split("|")}
        assert kinds <= {*KINDS, "None"}, f"{f.name}: {f.type}"


@pytest.mark.parametrize("name", VOCABULARY)
def test_ports_and_axes_are_well_formed(name: str) -> None:
    cls = VOCABULARY[name]
    assert all(re.fullmatch(r"\*?[a-z][a-z0-9_]*\??", port) for port in cls.ports)
    assert not any(port.startswith("*") for port in cls.ports[:-1])
    optional = [port.endswith("?") for port in cls.ports]
    assert optional == sorted(optional), "required ports come first"
    assert cls.axes and set(cls.axes) <= {"first", "last"}


def test_templates_name_templates_that_exist() -> None:
    templates = template_dir() / "torch"
    for path in templates.glob("*.py.j2"):
        needs = re.match(r"\{#\s*needs:\s*(.*?)\s*#\}", path.read_text())
        for needed in needs[1].split(",") if needs else ():
            assert (templates / f"{needed.strip()}.py.j2").is_file(), f"{path.name} needs {needed}"


PLUGIN = '''
from dataclasses import dataclass
from archdsl.ops._pointwise import Pointwise

@dataclass(frozen=True)
class {name}(Pointwise):
    """A user's own."""
    def of_number(self, value: float) -> float:
        return value
'''


def test_a_file_adds_ops(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN.format(name="SnakeBeta"))
    grown = VOCABULARY.with_file(path)
    assert set(grown) - set(VOCABULARY) == {"snake_beta"}
    assert issubclass(grown["snake_beta"], Op)


def test_a_name_declared_twice_names_both_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN.format(name="Gelu"))
    with pytest.raises(DuplicateOp, match=r"gelu\.py and in .*mine\.py"):
        VOCABULARY.with_file(path)


def test_an_op_with_an_alias_is_found_by_it() -> None:
    assert all(name == cls(**cls.examples[0].attrs).name for name, cls in VOCABULARY.items() if cls.examples)
