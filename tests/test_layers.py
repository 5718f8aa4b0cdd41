"""Turns the package's imports into a check of its layers: each imports only from those before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import archdsl

PACKAGE = Path(archdsl.__file__).parent
LAYERS = (
    "resources",
    "diagnostics",
    "explain",
    "syntax",
    "ir",
    "ops",
    "cost",
    "device",
    "frontend",
    "passes",
    "backends",
    "weights",
    "training",
    "search",
    "testing",
    "api",
    "compare",
    "deviation",
    "deployment",
    "bench",
    "tuning",
    "describe",
    "output",
    "arguments",
    "cli",
)
ROOT = ("__init__", "__main__")
"""The package itself stands on top, and may import all."""
LIGHT = LAYERS[: LAYERS.index("backends")]
"""The layers in which no line imports torch."""

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def layer_of(module: Path) -> str:
    """The layer a module of the package belongs to: its top-level package or module."""
    return module.parts[0].removesuffix(".py")


def imports(text: str) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """(module, names taken from it, line) of every import, those inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, (), node.lineno
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module, tuple(alias.name for alias in node.names), node.lineno


def faults(module: Path, text: str) -> list[str]:
    """What a module's imports break."""
    out = []
    layer = layer_of(module)
    if layer not in (*LAYERS, *ROOT):
        return [f"{module}: `{layer}` has no place among the layers"]
    for name, taken, line in imports(text):
        place = f"{module}:{line}"
        if name.startswith("."):
            out.append(f"{place}: relative import")
        if layer in LIGHT and name.partition(".")[0] in ("torch", "triton", "timm", "torchvision"):
            out.append(f"{place}: `{layer}` imports {name}")
        if name.partition(".")[0] != "archdsl" or layer in ROOT:
            continue
        if name == "archdsl":
            wanted = {n for n in taken if n != "__version__"}  # a fact, not a dependency
        else:
            wanted = {name.split(".")[1]}
        for target in sorted(wanted):
            if target not in LAYERS or LAYERS.index(target) > LAYERS.index(layer):
                out.append(f"{place}: `{layer}` imports from `{target}`")
    return out


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_only_from_below(module: Path) -> None:
    found = faults(module, (PACKAGE / module).read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "text", "fault"),
    [
        ("ir/graph.py", "from archdsl.ops import base", "`ir` imports from `ops`"),
        ("ir/graph.py", "def f():\n    import archdsl.cli", "`ir` imports from `cli`"),
        ("ir/graph.py", "from archdsl import cost", "`ir` imports from `cost`"),
        ("frontend/elaborate.py", "def f():\n    import torch.nn", "`frontend` imports torch.nn"),
        ("ops/conv.py", "from .base import Op", "relative import"),
        ("helpers.py", "", "`helpers` has no place"),
    ],
)
def test_the_walk_sees_what_it_forbids(module: str, text: str, fault: str) -> None:
    assert fault in "\n".join(faults(Path(module), text))


def test_allowed_imports_pass() -> None:
    text = "from archdsl import __version__\nfrom archdsl.ir.graph import Graph\nimport networkx"
    assert faults(Path("ops/conv.py"), text) == []


@pytest.mark.parametrize("command", ["check", "cost", "build"])
def test_commands_that_need_no_torch_do_not_import_it(command: str, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from archdsl.cli import main\n"
        f"status = main([{command!r}, 'swin_t'])\n"
        "assert status == 0, status\n"
        "heavy = {'torch', 'triton', 'timm', 'numpy'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(PACKAGE.parent)!r})\n{script}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_the_package_is_light() -> None:
    script = "import sys, archdsl\nprint(sorted({'torch', 'lark', 'networkx', 'rich', 'jinja2'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
