"""Turns the project's metadata and a built wheel into a check of what a user gets."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import archdsl

ROOT = Path(archdsl.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA = ("grammars", "codegen", "specs")


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirement lines name."""
    return {re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0].lower() for line in requirements}


def readme_block(marker: str) -> str:
    """The fenced block of the README under `<!-- marker -->`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^<!-- {marker} -->\n+```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"README.md has no block under <!-- {marker} -->"
    return found[1]


def test_core_needs_five_packages() -> None:
    assert names(PROJECT["project"]["dependencies"]) == {"jinja2", "lark", "networkx", "numpy", "rich"}


def test_torch_is_an_extra() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert {"torch", "triton", "mlir", "test", "dev"} <= extras.keys()
    assert "torch>=2.11" in extras["torch"]


def test_constraints_fix_a_version_for_what_the_tests_depend_on() -> None:
    lines = (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8").splitlines()
    fixed = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in fixed), fixed
    assert fixed[0].startswith("torch=="), "torch comes first"
    project = PROJECT["project"]
    wanted = names([r for extra in project["optional-dependencies"].values() for r in extra])
    unfixed = (wanted | names(project["dependencies"])) - names(fixed) - {"archdsl", "triton"}
    assert not unfixed, unfixed


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "archdsl/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", archdsl.__version__)


def test_the_licence_is_there_in_full() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


def test_the_wheel_carries_every_data_directory() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {name: f"archdsl/_data/{name}" for name in DATA}


@pytest.mark.parametrize("marker", ["build", "test", "use"])
def test_the_readme_has_the_commands_that_ci_runs(marker: str) -> None:
    assert readme_block(marker).strip()
    assert f"$(readme {marker})" in (ROOT / ".ci/run").read_text(encoding="utf-8")


@pytest.mark.parametrize("marker", ["build", "test"])
def test_each_of_the_two_commands_is_one_line(marker: str) -> None:
    assert len(readme_block(marker).strip().splitlines()) == 1


def test_nothing_names_a_machine() -> None:
    """Scripts and configuration hold no absolute path of the place they were written in."""
    for name in ("pyproject.toml", "Makefile", "README.md", ".ci/run", ".ci/full", ".ci/constraints.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp|opt|Users)\b", text), name


def build_wheel(directory: Path) -> Path:
    """Builds the wheel with the hatchling of this environment."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "-w", directory, ROOT], check=True, timeout=300)
    return next(directory.glob("archdsl-*.whl"))


def test_the_wheel_holds_code_and_data(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(tmp_path)) as wheel:
        inside = set(wheel.namelist())
        metadata = next(wheel.read(n).decode() for n in inside if n.endswith(".dist-info/METADATA"))
        entry_points = next(wheel.read(n).decode() for n in inside if n.endswith("entry_points.txt"))
    assert "archdsl/py.typed" in inside
    for name in DATA:
        shipped = {p.relative_to(ROOT).as_posix() for p in (ROOT / name).rglob("*") if p.is_file()}
        assert {f"archdsl/_data/{path}" for path in shipped} <= inside
    assert not [name for name in inside if name.startswith(("tests/", "benchmarks/"))]
    assert "License-Expression: Apache-2.0" in metadata
    assert "archdsl = archdsl.cli:console" in entry_points


@pytest.mark.full
def test_the_wheel_works_without_torch_from_another_directory(tmp_path: Path) -> None:
    """A fresh environment with the wheel and its core dependencies checks, prices and builds."""
    wheel = build_wheel(tmp_path / "wheels")
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=300)
    python = environment / "bin" / "python"
    constraints = ROOT / ".ci/constraints.txt"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", constraints, wheel]
    subprocess.run(install, check=True, timeout=600)

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    archdsl_command = str(environment / "bin" / "archdsl")
    run(archdsl_command, "cost", "swin_t")
    assert "model.py" in run(archdsl_command, "build", "swin_t")
    assert (elsewhere / "generated" / "swin_t" / "model.py").is_file()
    assert "_data" in run(str(python), "-c", "from archdsl.resources import root; print(root())")
