"""Turns specs, vocabulary and commands into the parts of the documentation that repeat them.

python -m docs.generate            writes what is out of date
python -m docs.generate --check    names what is out of date, and fails

Two things are generated: what stands between `<!-- generated: NAME -->` and `<!-- end -->`, by the function of
that name in PARTS, and what follows a `$ command` in a fenced block marked `console`, by running the command.
Commands run in a temporary directory that holds specs/, examples/ and the page's blocks marked
`arch NAME.arch`, and share it from the top of the page to its end.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archdsl.describe import Model
    from benchmarks.models import Agreement

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))

_PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: the words after the fence, its text, and the line it starts on."""

    words: tuple[str, ...]
    text: str
    line: int

    @property
    def language(self) -> str:
        return self.words[0] if self.words else ""

    @property
    def file(self) -> str:
        """The name under which the page's commands find the block, or ""."""
        return next((w for w in self.words[1:] if w.endswith(".arch")), "")


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for found in _BLOCK.finditer(text):
        yield Block(tuple(found[1].split()), found[2], text.count("\n", 0, found.start()) + 1)


# -- parts ---------------------------------------------------------------------------------------


def spec() -> str:
    """Swin's spec without its comment lines."""
    lines = (ROOT / "specs/swin_t.arch").read_text(encoding="utf-8").splitlines()
    return "```arch\n" + "\n".join(line for line in lines if not line.startswith("#")) + "\n```"


def excerpt() -> str:
    """Two classes of the module that is emitted for it."""
    from archdsl.api import compile_spec

    text = compile_spec(ROOT / "specs/swin_t.arch").files["model.py"]
    lines, tree = text.splitlines(), ast.parse(text)
    wanted = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name in ("Wmsa", "Swin")]
    return "```python\n" + "\n\n\n".join("\n".join(lines[n.lineno - 1 : n.end_lineno]) for n in wanted) + "\n```"


def specs() -> str:
    """A row a spec: its first architecture's paper, costs and reference, and the other sizes with their parameters."""
    from archdsl.cost import human

    rows = ["| spec | paper | input | parameters | GMACs | compared with | other sizes |"]
    rows.append("|---|---|---|---:|---:|---|---|")
    for _, group in itertools.groupby(_models(), key=lambda model: model.file):
        first, *others = group
        file = f"[`{first.name}`](specs/{first.file.name})"
        params, macs = f"{first.costs.params:,}", f"{first.costs.macs / 1e9:.3f}"
        sizes = ", ".join(f"`{m.name}` {human(m.costs.params)}" for m in others)
        cells = (file, _paper(first), first.input, params, macs, _reference(first, ""), sizes)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def models() -> str:
    """A section an architecture: its stages, its costs, and how far it is from what it is compared with."""
    from archdsl.cost import human
    from benchmarks.models import records

    found = records()
    sections = []
    for model in _models():
        costs, record = model.costs, found.get(model.name)
        facts = f"[{model.file.name}](../specs/{model.file.name}), {_paper(model)}"
        numbers = f"{costs.params:,} parameters, {costs.macs / 1e9:.3f} G multiply-adds"
        against = f"Compared with {_reference(model, '../')}"
        if record is not None:
            against += f": largest relative deviation {record.largest:.1e} (float64), measured {record.date}"
        drawing = f"```text\n{_drawing(model)}\n```"
        sections.append(
            f"### {model.name}\n\n{facts}\n\n{drawing}\n\n{numbers}, {human(costs.activations)} activations. {against}."
        )
    return "\n\n".join(sections)


def deviations() -> str:
    """A row an architecture that is compared: what benchmarks/results/models.json holds."""
    from benchmarks.models import records

    rows = ["| architecture | images | mode | logits | gradients | float32 logits | reference's | measured |"]
    rows.append("|---|---|---|---:|---:|---:|---:|---|")
    found = sorted(records().items())
    for spec, record in found:
        modes: dict[Agreement, list[str]] = {}
        for mode, agreement in record.modes.items():
            modes.setdefault(agreement, []).append(mode)
        for agreement, names in modes.items():
            exact, ours, theirs = agreement.exact, agreement.float32, agreement.reference_float32
            numbers = (f"{n:.1e}" for n in (exact.logits, exact.gradients, ours.logits, theirs.logits))
            images = f"{record.batch} of {'x'.join(map(str, record.input))}"
            cells = (f"[`{spec}`](#{spec})", images, " and ".join(names), *numbers, record.date)
            rows.append(f"| {' | '.join(cells)} |")
    made_with = {", ".join(f"{name} {number}" for name, number in record.versions.items()) for _, record in found}
    return "\n".join(rows) + f"\n\nMeasured with {'; '.join(sorted(made_with))}."


def benchmarks() -> str:
    """What benchmarks/results holds."""
    from benchmarks.report import document, recorded

    results = recorded()
    return document(results).strip() if results else "No measurements have been recorded yet."


def gpu() -> str:
    """What benchmarks/results/gpu.json holds."""
    from benchmarks.gpu import document

    return document()


def kernels() -> str:
    """A row an architecture and a kernel: what benchmarks/results/kernels.json holds."""
    from benchmarks.kernels import records

    found = records()
    if not found:
        return "Not compiled yet."
    first = next(iter(found.values()))
    capabilities = next(iter(next(r for r in found.values() if r.taken).taken.values()))
    heads = [f"{c}: registers, spilled, shared" for c in capabilities]
    rows = [f"| architecture | kernel | launches | {' | '.join(heads)} |", f"|---|---|---:|{'---:|' * len(heads)}"]
    for name, record in found.items():
        for kernel, taken in record.taken.items():
            cells = [f"{t.registers}, {t.spilled} B, {t.shared / 1024:.0f} KiB" for t in taken.values()]
            rows.append(f"| `{name}` | {kernel} | {next(iter(taken.values())).launches} | {' | '.join(cells)} |")
    without = ", ".join(f"`{name}`" for name, record in found.items() if not record.taken)
    tools = ", ".join(f"{name} {number}" for name, number in first.versions.items())
    rows += ["", f"The most of any launch of a kernel, forward and backward. {tools}."]
    return "\n".join([*rows, f"No kernel: {without}."] if without else rows)


def ops() -> str:
    """A row an op that a spec may call: how it is written, what it does."""
    from archdsl.describe import signature
    from archdsl.ops.vocabulary import Vocabulary

    rows = ["| op | what it does |", "|---|---|"]
    for name, cls in Vocabulary.of().items():
        if cls.callable:
            summary = " ".join((cls.__doc__ or "").partition("\n\n")[0].split())
            rows.append(f"| `{_cell(signature(name, cls))}` | {_cell(summary)} |")
    return "\n".join(rows)


def reserved() -> str:
    """The words that cannot be names."""
    from archdsl.syntax.build import RESERVED

    return "```text\n" + "\n".join(_filled(sorted(RESERVED), 100)) + "\n```"


def errors() -> str:
    """A row a code, linked to its entry in the catalogue."""
    from archdsl.explain import catalogue

    rows = ["| code | what is wrong |", "|---|---|"]
    for entry in catalogue().values():
        anchor = re.sub(r"[^\w\- ]", "", f"{entry.code}: {entry.title}".lower()).replace(" ", "-")
        rows.append(f"| [{entry.code}](../archdsl/errors.md#{anchor}) | {_cell(entry.title)} |")
    return "\n".join(rows)


def robustness() -> str:
    """What benchmarks/results/fuzz.json holds."""
    from tests.fuzz import document

    return document()


def targets() -> str:
    """A row an architecture: what benchmarks/results/targets.json holds."""
    from benchmarks.targets import CHECKS, records

    found, reasons = records(), []
    rows = [f"| architecture | {' | '.join(CHECKS)} | reference | found |", f"|---|{'---|' * len(CHECKS)}---|---|"]
    for spec, record in found.items():
        cells = [f"[`{spec}`](models.md#{spec})", *("no" if record.ours[name] else "yes" for name in CHECKS)]
        theirs = [name for name, fault in record.reference.items() if fault]
        rows.append(f"| {' | '.join(cells)} | {'not ' + ', '.join(theirs) if theirs else 'all'} | {record.date} |")
        for whose, faults in (("", record.ours), ("its reference, ", record.reference)):
            reasons += [f"- `{spec}`, {whose}{name}: {_cell(fault)}" for name, fault in faults.items() if fault]
    return "\n".join(rows + (["", *reasons] if reasons else []))


def decided() -> str:
    """What decides how the weights of each architecture are linked with timm's."""
    from tests.oracle.links import ALONE, BY_TABLE
    from tests.oracle.twins import ARCHITECTURES

    known = [twin.spec for twin in ARCHITECTURES if not twin.renames]
    ordered = [spec for spec in known if spec not in (*ALONE, *BY_TABLE)]
    rows = [f"| what decides, of {len(known)} architectures | count | which |", "|---|---:|---|"]
    for what, specs in (
        ("names and shapes: a file is enough", ALONE),
        ("and timm's order of execution", ordered),
        ("a table", BY_TABLE),
    ):
        rows.append(f"| {what} | {len(specs)} | {', '.join(f'`{spec}`' for spec in sorted(specs))} |")
    return "\n".join(rows)


def full() -> str:
    """A row a part of the whole test set: when it last ran, on which commit, and what came of it."""
    from benchmarks.full import records

    found = records()
    if not found:
        return "Not run yet."
    rows = ["| part | date | commit | passed | skipped | failed | minutes |", "|---|---|---|---:|---:|---|---:|"]
    for name, p in found.items():
        failed = ", ".join(f"`{f}`" for f in p.failed)
        rows.append(f"| {name} | {p.date} | {p.commit} | {p.passed} | {p.skipped} | {failed} | {p.minutes:.1f} |")
    passed, minutes = sum(p.passed for p in found.values()), sum(p.minutes for p in found.values())
    red = sum(len(p.failed) for p in found.values())
    of = next(iter(found.values())).machine
    rows.append(f"| all | | | {passed} | {sum(p.skipped for p in found.values())} | {red} | {minutes:.0f} |")
    return "\n".join([*rows, "", ", ".join(f"{key} {value}" for key, value in of.items())])


def lines() -> str:
    """A row a spec: its lines, and those of the file that its reference is in."""
    from benchmarks.targets import records

    found, ours = records(), {model.name: model.file for model in _models()}
    rows = ["| spec | lines | what it imports | reference | lines |", "|---|---:|---|---|---:|"]
    for spec, file in sorted((spec, ours[spec]) for spec in found):
        text = file.read_text(encoding="utf-8").splitlines()
        imported = re.findall(r'^import .* from "(.*)"', "\n".join(text), re.MULTILINE)
        count = sum(bool(line.strip()) for line in text)
        cells = (f"[{file.name}](../specs/{file.name})", str(count), ", ".join(f"`{i}`" for i in imported))
        rows.append(f"| {' | '.join(cells)} | `{found[spec].file}` | {found[spec].lines} |")
    return "\n".join(dict.fromkeys(rows))


PARTS: Mapping[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        spec,
        excerpt,
        specs,
        models,
        deviations,
        targets,
        decided,
        full,
        lines,
        benchmarks,
        gpu,
        kernels,
        ops,
        reserved,
        errors,
        robustness,
    )
}


def _models() -> list[Model]:
    """The shipped architectures, by file."""
    from archdsl.describe import models_of
    from archdsl.ops.vocabulary import Vocabulary

    return [m for path in sorted((ROOT / "specs").glob("*.arch")) for m in models_of(path, Vocabulary.of())]


def _paper(model: Model) -> str:
    return f"[{model.paper}](https://arxiv.org/abs/{model.paper})" if model.paper else ""


def _reference(model: Model, root: str) -> str:
    """What an architecture is compared with, as a link from a page to which the checkout is `root`."""
    from tests.oracle.twins import TWINS

    if model.name not in TWINS:
        siblings = re.findall(r"^arch (\w+)", model.file.read_text(encoding="utf-8"), re.MULTILINE)
        base = next((name for name in siblings if name in TWINS), "")
        return f"nothing, a size of `{base}`" if base else "nothing"
    source = TWINS[model.name].source
    return f"[{Path(source).name}]({root}{source})" if source.endswith(".py") else source


def _drawing(model: Model) -> str:
    """A line a stage: its positions and channels, a mark for each block, its parameters and multiply-adds."""
    from archdsl.cost import human

    lines = [("image", "x".join(map(str, model.costs.input[1:])), str(model.costs.input[0]), "", "", "")]
    for row in model.costs.per("stage"):
        width = "" if row.width is None else str(row.width)
        cost = human(row.cost.params), human(row.cost.macs)
        lines.append((row.name, row.resolution, width, "▪" * row.depth, *cost))
    wide = [max(len(line[i]) for line in lines) for i in range(6)]
    return "\n".join(
        f"{name:<{wide[0]}}  {size:>{wide[1]}} {'·' if size else ' '} {width:>{wide[2]}}  {blocks:<{wide[3]}}  "
        f"{params:>{wide[4]}}  {macs:>{wide[5]}}".rstrip()
        for name, size, width, blocks, params, macs in lines
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _filled(words: list[str], width: int) -> list[str]:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


# -- commands ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shell:
    """Runs a page's commands in one directory, with `archdsl` and `python` being this checkout's."""

    directory: Path

    @staticmethod
    def prepare(directory: Path, page: str) -> Shell:
        work, tools = directory / "work", directory / "bin"
        for name in ("specs", "examples"):
            shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__", "generated"))
        for block in blocks(page):
            if block.file:
                (work / block.file).write_text(block.text, encoding="utf-8")
        tools.mkdir()
        for name, arguments in (("archdsl", "-m archdsl"), ("python", "")):
            tool = tools / name
            tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n', encoding="utf-8")
            tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        return Shell(directory)

    def run(self, command: str) -> str:
        """What a command prints, both streams together."""
        environment = {
            **os.environ,
            "PATH": f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.directory / "work",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        if done.returncode not in (0, 1) or "Traceback" in done.stdout:
            raise RuntimeError(f"`{command}` ended with status {done.returncode}:\n{done.stdout}")
        return done.stdout


def _transcript(text: str, shell: Shell) -> str:
    """A console block with the output of its commands as it is now."""
    out = []
    for line in text.splitlines():
        if line.startswith("$ "):
            out += [line, *(printed.rstrip() for printed in shell.run(line[2:]).splitlines())]
    return "\n".join(out) + "\n"


# -- pages ---------------------------------------------------------------------------------------


def refreshed(page: str, directory: Path) -> str:
    """The page's text with its generated parts and its commands' output as they are now."""
    page = _PART.sub(lambda m: f"{m[1]}{PARTS[m[2]]()}\n{m[3]}", page)
    if not any(b.language == "console" for b in blocks(page)):
        return page
    shell = Shell.prepare(directory, page)

    def replaced(found: re.Match[str]) -> str:
        if found[1].split()[:1] != ["console"]:
            return found[0]
        return f"```{found[1]}\n{_transcript(found[2], shell)}```"

    return _BLOCK.sub(replaced, page)


def main() -> int:
    parser = argparse.ArgumentParser(description="Brings the generated parts of the documentation up to date.")
    parser.add_argument("pages", nargs="*", default=PAGES)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something would change")
    arguments = parser.parse_args()
    stale = False
    for name in arguments.pages:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as directory:
            new = refreshed(text, Path(directory))
        if new == text:
            continue
        stale = True
        print(f"{name}: {'out of date' if arguments.check else 'brought up to date'}")
        if not arguments.check:
            path.write_text(new, encoding="utf-8")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
