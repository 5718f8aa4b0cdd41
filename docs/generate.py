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
    """A row an architecture: its paper, its costs, and what it is compared with."""
    from archdsl.api import elaborate
    from archdsl.cost import price
    from archdsl.frontend.program import Program
    from tests.oracle.references import REFERENCES

    references = {r.spec: r.timm for r in REFERENCES}
    rows = ["| architecture | file | paper | input | parameters | GMACs | compared with |"]
    rows.append("|---|---|---|---|---:|---:|---|")
    for path in sorted((ROOT / "specs").glob("*.arch")):
        comment = next(iter(path.read_text(encoding="utf-8").splitlines()), "")
        paper = re.search(r"\d{4}\.\d{5}", comment)
        link = "" if paper is None else f"[{paper[0]}](https://arxiv.org/abs/{paper[0]})"
        program = Program.open(path)
        for name in program.archs:
            if not program.buildable(name):
                continue
            costs = price(elaborate(f"{path}:{name}"))
            size = "x".join(map(str, costs.input))
            against = f"timm's `{references[name]}`" if name in references else "nothing"
            file = f"[{path.name}](specs/{path.name})"
            cells = (f"`{name}`", file, link, size, f"{costs.params:,}", f"{costs.macs / 1e9:.3f}", against)
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def benchmarks() -> str:
    """What benchmarks/results holds."""
    from benchmarks.report import RESULTS, document

    results = sorted(RESULTS.glob("*.json"))
    return document(results).strip() if results else "No measurements have been recorded yet."


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


PARTS: Mapping[str, Callable[[], str]] = {
    f.__name__: f for f in (spec, excerpt, specs, benchmarks, ops, reserved, errors)
}


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
