"""Turns every spec of the repository into broken ones, and what `archdsl` says of them into counts.

    python -m tests.fuzz [--count 10000] [--seed 0] [--jobs 1]

A mutant is made from the seed and its number alone. Each is checked, every fifth is built as well, in worker processes
whose address space may grow by two gigabytes. What must hold: exit status 0 or 1, no traceback, at most five seconds of
processor time, at most one gigabyte more memory, and what is emitted is Python. The outcome is written to
benchmarks/results/fuzz.json, which docs/robustness.md shows.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import io
import json
import random
import re
import resource
import shutil
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from archdsl.cli import main as archdsl
from archdsl.syntax.build import RESERVED
from benchmarks.report import RESULTS, Measurement, machine

ROOT = Path(__file__).resolve().parents[1]
CORPUS = tuple(
    sorted(str(p.relative_to(ROOT)) for d in ("specs", "tests/language") for p in (ROOT / d).rglob("*.arch"))
)
SECONDS = 5.0
"""Processor time that one command may take."""
ALARM = 4 * SECONDS
"""After which a command is stopped."""
MEGABYTES = 1024.0
"""By which one command may raise the peak of a worker's resident memory."""
BUILD_EVERY = 5
BATCH = 250
"""Mutants that one worker process runs."""

# -- mutants -----------------------------------------------------------------------------------------

_TOKEN = re.compile(r'#[^\n]*|"[^"\n]*"|[0-9]+(?:\.[0-9]+)?\w*|\w+|\|>|\.\.|=>|->|//|[<>=!~+*]=|\S')
_NAME = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?")


@dataclass(frozen=True)
class Token:
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Mutant:
    """A broken spec: where it comes from, what was done to it, and the bytes that this left."""

    number: int
    origin: str
    kinds: tuple[str, ...]
    edits: tuple[str, ...]
    data: bytes


@functools.cache
def original(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tokens(text: str) -> list[Token]:
    return [Token(m.start(), m.end(), m[0]) for m in _TOKEN.finditer(text)]


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """The different tokens of all specs but comments, so that rare ones are met as often as commas."""
    return tuple(sorted({t.text for name in CORPUS for t in tokens(original(name)) if not t.text.startswith("#")}))


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def _replaced(text: str, token: Token, by: str) -> tuple[str, str]:
    """The text with another token, and what that is called."""
    what = f"`{by}` for `{token.text}`" if by.strip() else f"`{token.text}` deleted"
    return text[: token.start] + by + text[token.end :], f"line {_line(text, token.start)}: {what}"


def _pick(random: random.Random, text: str, kind: re.Pattern[str] | None = None) -> Token:
    """A token of the text, comments aside; of a kind, where it has one of the kind."""
    every = [t for t in tokens(text) if not t.text.startswith("#")] or [Token(0, 0, "")]
    return random.choice([t for t in every if kind is not None and kind.fullmatch(t.text)] or every)


def delete(random: random.Random, text: str) -> tuple[str, str]:
    return _replaced(text, _pick(random, text), "")


def duplicate(random: random.Random, text: str) -> tuple[str, str]:
    token = _pick(random, text)
    return _replaced(text, token, f"{token.text} {token.text}")


def replace(random: random.Random, text: str) -> tuple[str, str]:
    token = _pick(random, text)
    return _replaced(text, token, random.choice([t for t in vocabulary() if t != token.text]))


def exchange(random: random.Random, text: str) -> tuple[str, str]:
    """A token replaced by one of its kind, so that many of these are sentences of the language."""
    token = _pick(random, text)
    kind = next((k for k in (_NAME, _NUMBER) if k.fullmatch(token.text)), None)
    alike = [t for t in vocabulary() if t != token.text and (kind.fullmatch(t) if kind else not re.match(r"\w", t))]
    return _replaced(text, token, random.choice(alike))


def insert(random: random.Random, text: str) -> tuple[str, str]:
    token = _pick(random, text)
    return _replaced(text, token, f"{token.text} {random.choice(vocabulary())}")


def swap(random: random.Random, text: str) -> tuple[str, str]:
    """Two tokens, neighbours half of the time."""
    every = tokens(text)
    if len(every) < 2:
        return delete(random, text)
    at = random.randrange(len(every) - 1)
    other = at + 1 if random.random() < 0.5 else random.randrange(len(every))
    first, second = sorted((every[at], every[other]), key=lambda t: t.start)
    between = text[first.end : second.start]
    changed = text[: first.start] + second.text + between + first.text + text[second.end :]
    return changed, f"line {_line(text, first.start)}: `{first.text}` and `{second.text}` exchanged"


def number(random: random.Random, text: str) -> tuple[str, str]:
    token = _pick(random, text, _NUMBER)
    if not _NUMBER.fullmatch(token.text):
        return replace(random, text)
    value = float(token.text)
    near = (value + 1, value - 1, 2 * value, 10 * value, -value, value / 2, value**3)
    far = ("0", "0.5", "3", "7", "1e9", "2147483648", "99999999999999999999")
    return _replaced(text, token, random.choice([n for n in (*(f"{v:g}" for v in near), *far) if n != token.text]))


def rename(random: random.Random, text: str) -> tuple[str, str]:
    """A name misspelt, or exchanged for another name of the file."""
    token = _pick(random, text, _NAME)
    name, at = token.text, random.randrange(max(1, len(token.text)))
    others = sorted({t.text for t in tokens(text) if _NAME.fullmatch(t.text)}) or ["x"]
    misspelt = (name[:at] + name[at + 1 :], name[:at] + name[at : at + 1] + name[at:], name.swapcase(), f"{name}s")
    candidates = [n for n in (*misspelt, *random.choices(others, k=4)) if n != name]
    return _replaced(text, token, random.choice(candidates))


def truncate(random: random.Random, text: str) -> tuple[str, str]:
    at = random.randrange(len(text) + 1)
    return text[:at], f"cut off in line {_line(text, at)}"


def splice(random: random.Random, text: str) -> tuple[str, str]:
    """A few lines of another spec in the place of as many of this one, or between two of them."""
    other = random.choice(CORPUS)
    lines, theirs = text.split("\n"), original(other).split("\n")
    at, start, count = random.randrange(len(lines)), random.randrange(len(theirs)), random.randint(1, 8)
    lines[at : at + random.choice((0, count))] = theirs[start : start + count]
    return "\n".join(lines), f"line {at + 1}: lines {start + 1}-{start + count} of {other} put in"


TEXT_EDITS: tuple[Callable[[random.Random, str], tuple[str, str]], ...] = (
    delete, duplicate, replace, exchange, exchange, insert, swap,
    number, number, number, rename, rename, truncate, splice,
)  # fmt: skip


def flip(random: random.Random, data: bytes) -> tuple[bytes, str]:
    """One byte becomes another, by a single bit or at will."""
    at = random.randrange(max(1, len(data)))
    old = data[at : at + 1] or b"\0"
    new = bytes([old[0] ^ 1 << random.randrange(8) if random.random() < 0.5 else random.randrange(256)])
    return data[:at] + new + data[at + 1 :], f"byte {at}: 0x{new.hex()} for 0x{old.hex()}"


def mutant(seed: int, number: int) -> Mutant:
    """The mutant of that number: one spec after one to three edits, bytes last."""
    draw = random.Random(f"{seed}:{number}")
    origin = draw.choice(CORPUS)
    text, data, kinds, edits = original(origin), b"", list[str](), list[str]()
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        edit = draw.choice((*TEXT_EDITS, None))
        if edit is None:
            kinds.append("flip")
            continue
        text, told = edit(draw, text)
        kinds.append(edit.__name__)
        edits.append(told)
    data = text.encode()
    for _ in range(kinds.count("flip")):
        data, told = flip(draw, data)
        edits.append(told)
    return Mutant(number, origin, tuple(kinds), tuple(edits), data)


# -- what is said of one -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """One mistake as printed: its code and title, where it points (file and line), and what is underlined there."""

    code: str
    title: str
    file: str
    line: int
    underlined: str
    kind: str


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant; `wrong` says what must not be."""

    mutant: Mutant
    status: int
    said: tuple[Said, ...]
    built: bool
    seconds: float
    megabytes: float
    wrong: tuple[str, ...]


class TooSlow(BaseException):
    """Raised by the processor-time alarm; not an Exception, which the command line would report as its own."""


_MISTAKE = re.compile(r"^error\[(E-[A-Z0-9-]+)\]: (.*)$(?:\n  --> (.+):(\d+):\d+$)?", re.MULTILINE)
_KINDS = {
    "number": re.compile(r"-?[0-9]\S*"),
    "string": re.compile(r'"[^"]*"?'),
    "name": re.compile(r"@?[A-Za-z_]\w*"),
    "bracket": re.compile(r"[\[\](){}]"),
    "sign": re.compile(r"\W{1,3}"),
    "call": re.compile(r"[\w.@]+[\[(].*[\])]"),
    "binding": re.compile(r"\w+ = .*"),
}


def _kind(underlined: str, several_lines: bool) -> str:
    if several_lines:
        return "several lines"
    if not underlined.strip():
        return "end of a line"
    if underlined in RESERVED:
        return "reserved word"
    return next((kind for kind, form in _KINDS.items() if form.fullmatch(underlined)), "expression")


def said(printed: str) -> Iterator[Said]:
    """The mistakes of what a command has printed."""
    for found in _MISTAKE.finditer(printed):
        if found[3] is None:
            yield Said(found[1], found[2], "", 0, "", "nothing")
            continue
        excerpt = printed[found.end() :].split("\n")[1:4]
        carets = re.search(r"\^+", excerpt[2]) if len(excerpt) == 3 else None
        if carets is None:
            yield Said(found[1], found[2], found[3], int(found[4]), "", "nothing")
            continue
        text = excerpt[1]
        underlined = text[carets.start() : carets.end()]
        kind = _kind(underlined, text.endswith(" ...") and carets.end() >= len(text) - len(" ..."))
        yield Said(found[1], found[2], found[3], int(found[4]), underlined, kind)


def command(*argv: str) -> tuple[int, str, str]:
    """Exit status, output and errors of one command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = archdsl(argv)
        except SystemExit as e:
            status = e.code if isinstance(e.code, int) else 1
        except TooSlow:
            return -1, out.getvalue(), f"stopped after {ALARM:.0f} s\n"
        except MemoryError:
            return -1, out.getvalue(), "out of memory\n"
    return status, out.getvalue(), err.getvalue()


def outcome(mutant: Mutant, build: bool) -> Outcome:
    """Checks a mutant in the current directory, and builds it."""
    path, out = Path("a.arch"), Path("out")
    path.write_bytes(mutant.data)
    before, start = _peak(), time.process_time()
    status, _, told = command("check", str(path))
    taken = [time.process_time() - start]
    wrong = list(_wrong("check", status, told))
    mistakes = list(said(told))
    if build:
        start = time.process_time()
        built, _, told = command("build", str(path), "-o", str(out))
        taken.append(time.process_time() - start)
        wrong += _wrong("build", built, told)
        if status == 0:
            mistakes += said(told)
        for module in out.rglob("*.py"):
            try:
                ast.parse(module.read_text(encoding="utf-8"))
            except SyntaxError as e:
                wrong.append(f"build: {module.name} is no Python: {e}")
        shutil.rmtree(out, ignore_errors=True)
    grown = _peak() - before
    if max(taken) > SECONDS:
        wrong.append(f"{max(taken):.1f} s of processor time")
    if grown > MEGABYTES:
        wrong.append(f"{grown:.0f} MB more memory")
    return Outcome(mutant, status, tuple(mistakes), build, max(taken), grown, tuple(wrong))


def _wrong(name: str, status: int, told: str) -> Iterator[str]:
    if status not in (0, 1):
        yield f"{name}: exit status {status}: {told.strip().splitlines()[-1:] or ''} {_last_call(told)}"
    elif "Traceback" in told:
        yield f"{name}: a traceback: {_last_call(told)}"
    elif (status == 1) != bool(_MISTAKE.search(told)):
        yield f"{name}: exit status {status}, and printed: {told[:200]!r}"


def _last_call(told: str) -> str:
    """The innermost frame of a traceback and what was raised there."""
    frames = re.findall(r'^  File "[^"]*?(\w+\.py)", line (\d+), in (\w+)', told, re.MULTILINE)
    raised = re.findall(r"^(\w+(?:Error|Exception|Exit|Iteration|Interrupt)\b.*)$", told, re.MULTILINE)
    return f"{':'.join(frames[-1]) if frames else ''} {raised[-1] if raised else ''}"


def _peak() -> float:
    """The highest resident memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- many --------------------------------------------------------------------------------------------


def run(seed: int, numbers: Iterable[int]) -> list[Outcome]:
    """The outcomes of some mutants, one after the other in this process; the alarm needs its main thread."""

    def stop(*_: object) -> None:
        raise TooSlow

    previous = signal.signal(signal.SIGPROF, stop)
    out = []
    try:
        with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
            for beside in (ROOT / "specs/std").glob("*.arch"):  # which they import from one another
                shutil.copy(beside, directory)
            for number in numbers:
                made = mutant(seed, number)
                signal.setitimer(signal.ITIMER_PROF, ALARM)
                out.append(outcome(made, number % BUILD_EVERY == 0))
                signal.setitimer(signal.ITIMER_PROF, 0)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
    return out


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    allowed = pages * resource.getpagesize() + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def fresh(seed: int, numbers: Sequence[int]) -> list[Outcome]:
    """The outcomes of some mutants, from a process of their own."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_limit) as worker:
        return worker.submit(run, seed, numbers).result()


def survey(seed: int, count: int, jobs: int) -> Iterator[Outcome]:
    """The outcomes of `count` mutants in the order of their numbers, from `jobs` processes at a time."""
    batches = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    with ThreadPoolExecutor(jobs) as threads:
        for found in threads.map(functools.partial(fresh, seed), batches):
            yield from found


# -- the record --------------------------------------------------------------------------------------


def record(seed: int, outcomes: Sequence[Outcome]) -> Mapping[str, object]:
    """What is written of a survey: bounds as measurements, then what was said, code by code."""
    slow = max(outcomes, key=lambda o: o.seconds)
    hungry = max(outcomes, key=lambda o: o.megabytes)
    seconds = sorted(o.seconds for o in outcomes)
    how = f"mutated specs, seed {seed}"
    measurements = [
        Measurement(
            "mutants that break a rule", sum(bool(o.wrong) for o in outcomes), "", len(outcomes), goal=0, detail=how
        ),
        Measurement("slowest mutant, processor time", slow.seconds, "s", len(outcomes), goal=SECONDS, detail=how),
        Measurement("median mutant, processor time", statistics.median(seconds), "s", len(outcomes), detail=how),
        Measurement(
            "growth of memory in one mutant", hungry.megabytes, "MB", len(outcomes), goal=MEGABYTES, detail=how
        ),
    ]
    edits: dict[str, Counter[str]] = {}
    for o in outcomes:
        if len(o.mutant.kinds) == 1:
            edits.setdefault(o.mutant.kinds[0], Counter())["refused" if o.said else "accepted"] += 1
    return {
        "suite": "fuzz",
        "machine": machine(),
        "measurements": [asdict(m) for m in measurements],
        "seed": seed,
        "count": len(outcomes),
        "built": sum(o.built for o in outcomes),
        "accepted": sum(not o.said for o in outcomes),
        "edits": {kind: dict(sorted(counts.items())) for kind, counts in sorted(edits.items())},
        "codes": _codes(outcomes),
    }


def _codes(outcomes: Sequence[Outcome]) -> Mapping[str, object]:
    """For each code, most frequent first: how often, what is underlined how wide, and one mutant of a single edit."""
    by_code: dict[str, list[tuple[Outcome, Said]]] = {}
    for o in outcomes:
        for s in o.said:
            by_code.setdefault(s.code, []).append((o, s))
    out = {}
    for code, found in sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0])):
        shown, mistake = min(found, key=lambda f: (len(f[0].mutant.kinds), len(f[0].said), f[0].mutant.number))
        made = shown.mutant
        widths = sorted(len(s.underlined) for _, s in found)
        out[code] = {
            "count": len(found),
            "mutants": len({o.mutant.number for o, _ in found}),
            "elsewhere": sum(s.file not in ("", "a.arch") for _, s in found),
            "underlined": dict(Counter(s.kind for _, s in found).most_common()),
            "width": {"median": widths[len(widths) // 2], "most": widths[-1]},
            "example": {
                "mutant": made.number,
                "spec": made.origin,
                "edits": list(made.edits),
                "title": mistake.title,
                "underlined": mistake.underlined,
            },
        }
    return out


def save(seed: int, outcomes: Sequence[Outcome]) -> Path:
    path = RESULTS / "fuzz.json"
    path.write_text(json.dumps(record(seed, outcomes), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def document() -> str:
    """What benchmarks/results/fuzz.json holds, as tables."""
    found = json.loads((RESULTS / "fuzz.json").read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {found['machine'][name]}" for name in ("python", "archdsl", "lark"))
    rows = [
        f"{found['count']:,} mutants of seed {found['seed']} were checked, {found['built']:,} of them built as well "
        f"({versions}). {found['accepted']:,} are still specs without a mistake.\n",
        "| bound | found | at most |\n|---|---:|---:|",
    ]
    for m in found["measurements"]:
        at_most = "" if m["goal"] is None else f"{m['goal']:g} {m['unit']}"
        rows.append(f"| {m['name']} | {m['value']:.3g} {m['unit']} | {at_most} |")
    rows.append("\n| the only edit | mutants | refused |\n|---|---:|---:|")
    for kind, counts in found["edits"].items():
        every = sum(counts.values())
        rows.append(f"| {kind} | {every} | {counts.get('refused', 0) / every:.0%} |")
    rows.append("\n| code | mistakes | mutants | what is underlined | median width |\n|---|---:|---:|---|---:|")
    for code, of in found["codes"].items():
        shares = ", ".join(f"{kind} {n / of['count']:.0%}" for kind, n in list(of["underlined"].items())[:3])
        rows.append(f"| {code} | {of['count']} | {of['mutants']} | {shares} | {of['width']['median']} |")
    rows.append("\n| code | spec and edit | what is said | underlined |\n|---|---|---|---|")
    for code, of in found["codes"].items():
        shown = of["example"]
        edits = "; ".join(shown["edits"])
        title, underlined = _code(shown["title"]), _code(shown["underlined"])
        rows.append(f"| {code} | {_code(shown['spec'])} {_code(edits)} | {title} | {underlined} |")
    return "\n".join(rows)


def _code(text: str) -> str:
    """Inline code in a cell of a markdown table."""
    shown = text.replace("`", "'").replace("|", "\\|").strip()
    return f"`{shown}`" if shown else ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutates specs and counts what is said of them.")
    parser.add_argument("--count", type=int, default=10_000, help="mutants (10000)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes (1)")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/fuzz.json")
    arguments = parser.parse_args()
    outcomes = []
    for o in survey(arguments.seed, arguments.count, arguments.jobs):
        outcomes.append(o)
        for wrong in o.wrong:
            made = o.mutant
            print(f"mutant {made.number} ({made.origin}, {'; '.join(made.edits)}): {wrong}", flush=True)
    if arguments.save:
        print(save(arguments.seed, outcomes).name)
    counts = Counter(s.code for o in outcomes for s in o.said)
    print(", ".join(f"{code} {n}" for code, n in counts.most_common()))
    broken = sum(bool(o.wrong) for o in outcomes)
    print(f"{len(outcomes)} mutants, {sum(not o.said for o in outcomes)} accepted, {broken} break a rule")
    print(f"{sum(o.seconds for o in outcomes):.0f} s, slowest {max(o.seconds for o in outcomes):.2f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
