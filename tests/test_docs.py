"""Turns the documentation into tests: specs elaborate, commands print what is shown, generated parts are fresh."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from archdsl.diagnostics import ArchError, Source
from archdsl.frontend.program import Program
from archdsl.syntax.parser import parse
from archdsl.syntax.printer import format_file
from docs.generate import PAGES, PARTS, ROOT, Block, Shell, blocks, refreshed

TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
EXAMPLES = sorted((ROOT / "examples").iterdir())


SPECS = [
    pytest.param(page, block, id=f"{page}:{block.line}")
    for page, text in TEXTS.items()
    for block in blocks(text)
    if block.language == "arch"
]


@pytest.mark.parametrize(("page", "block"), SPECS)
def test_specs_are_right(page: str, block: Block, tmp_path: Path) -> None:
    """A block marked `arch` checks, `arch body` parses as statements, `arch E-CODE` is refused with that code."""
    code = next((word for word in block.words if word.startswith("E-")), "")
    if "body" in block.words:
        parse(Source(page, f"arch a {{\n{block.text}\n}}\n"))
        return
    for other in blocks(TEXTS[page]):
        if other.file:
            (tmp_path / other.file).write_text(other.text, encoding="utf-8")
    try:
        found = Program.parse(Source(f"{page}:{block.line}", block.text), tmp_path / "documented.arch").check()
    except ArchError as e:
        found = list(e.diagnostics)
    assert [d.code for d in found] == ([code] if code else []), found


@pytest.mark.parametrize(("page", "block"), SPECS)
def test_specs_are_formatted(page: str, block: Block) -> None:
    if len(block.words) == 1 or block.file:
        assert format_file(parse(Source(page, block.text))) == block.text


@pytest.mark.parametrize("page", PAGES)
def test_generated_parts_and_transcripts_are_fresh(page: str, tmp_path: Path) -> None:
    """After a change that is meant: python -m docs.generate."""
    assert refreshed(TEXTS[page], tmp_path) == TEXTS[page]


PREAMBLE = """from __future__ import annotations
import torch
import torch.nn.functional as F
from torch import Tensor, nn
images = torch.zeros(1, 3, 224, 224)
"""


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in TEXTS[page]])
def test_python_runs(page: str, tmp_path: Path) -> None:
    shell = Shell.prepare(tmp_path, TEXTS[page])
    shell.run("archdsl build swin_t")
    code = "\n".join(block.text for block in blocks(TEXTS[page]) if block.language == "python")
    (tmp_path / "work" / "shown.py").write_text(PREAMBLE + code, encoding="utf-8")
    shell.run("python shown.py")


def test_every_part_is_used() -> None:
    used = {name for text in TEXTS.values() for name in re.findall(r"<!-- generated: ([\w-]+) -->", text)}
    assert used == PARTS.keys()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", TEXTS[page], flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in anchors, f"{target}#{anchor}"


def test_every_page_is_linked_from_the_readme() -> None:
    for page in PAGES[1:]:
        assert f"({page})" in TEXTS["README.md"], page


def test_every_example_is_shown_in_the_readme() -> None:
    for example in EXAMPLES:
        if example.suffix in (".py", ".arch"):
            assert f"(examples/{example.name})" in TEXTS["README.md"], example.name


# -- examples ------------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell.prepare(tmp_path, "")


def test_training_learns(shell: Shell) -> None:
    printed = shell.run("python examples/train.py --steps 60")
    right = re.search(r"right after 60 steps: (\d+)%", printed)
    assert right is not None and int(right[1]) > 60, printed


def test_features(shell: Shell) -> None:
    printed = shell.run("python examples/features.py convnext_t -o built")
    assert [line.rpartition(" ")[2] for line in printed.splitlines()] == ["1x64x32x40", "1x64x16x20", "1x64x8x10"]


def test_a_mixer_of_ones_own(shell: Shell) -> None:
    assert "ok (" in shell.run("archdsl check examples/custom_mixer.arch")
    for arch in Program.open(ROOT / "examples" / "custom_mixer.arch").archs:
        assert f"generated/{arch}" in shell.run(f"archdsl build examples/custom_mixer.arch:{arch}")


def test_an_op_of_ones_own(shell: Shell) -> None:
    assert "keeps its contract" in shell.run("python examples/custom_op.py")
    assert "E-NAME" in shell.run("archdsl check examples/shift_mixer.arch || true")
    assert "model.py" in shell.run("archdsl build examples/shift_mixer.arch --ops examples/custom_op.py")


def test_examples_are_formatted(shell: Shell) -> None:
    shell.run("archdsl fmt --check examples/*.arch")


def test_nothing_needs_the_checkout(tmp_path: Path) -> None:
    """What is emitted imports torch and the standard library."""
    from archdsl.api import compile_spec

    place = compile_spec("swin_t", overrides={"depths": (1, 1, 1, 1), "dim": 24}).write(tmp_path)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {place.name}; print('archdsl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
