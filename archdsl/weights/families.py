"""Turns a table (TOML) of weight path templates into the keys another library knows the same tensors by."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from archdsl.diagnostics import ArchError, error
from archdsl.weights.transforms import Concat, FoldBN, Transform, TransformError, parse

TABLES = Path(__file__).parent / "tables"
_HOLE = re.compile(r"\{([a-z]\w*)\}")
_SHIFTED = re.compile(r"\{([a-z]\w*)([+-]\d+)?\}")


@dataclass(frozen=True)
class Template:
    """A path with holes for numbers: `stages.{i}.down` also stands for what lies below it, "" for everything.

    A hole of a key may be counted from elsewhere: `cell_{j+6}`.
    """

    text: str

    def bind(self, path: str) -> tuple[dict[str, str], str] | None:
        """The holes' numbers, and the rest of `path` ("" or ".weight"); None where it does not fit."""
        found = _pattern(self.text).fullmatch(path if self.text else f".{path}")
        if found is None:
            return None
        return {k: v for k, v in found.groupdict().items() if k != "_rest"}, found["_rest"]

    def fill(self, numbers: Mapping[str, str]) -> str:
        return _SHIFTED.sub(lambda hole: str(int(numbers[hole[1]]) + int(hole[2] or 0)), self.text)

    @property
    def holes(self) -> frozenset[str]:
        return frozenset(name for name, _ in _SHIFTED.findall(self.text))

    @property
    def weight(self) -> tuple[int, int]:
        """How specific it is: by its length, then by how few holes it has."""
        return self.text.count(".") + bool(self.text), -len(self.holes)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    seen: set[str] = set()
    out = ""
    for at, piece in enumerate(_HOLE.split(text)):
        if at % 2 == 0:
            out += re.escape(piece)
        elif piece in seen:
            out += f"(?P={piece})"
        else:
            seen.add(piece)
            out += rf"(?P<{piece}>\d+)"
    return re.compile(rf"{out}(?P<_rest>(?:\..+)?)")


@dataclass(frozen=True)
class Rule:
    """One line of a table. `keys` are templates of the other side, more than one where parts are joined."""

    path: Template
    keys: tuple[Template, ...]
    via: tuple[Transform, ...] = ()
    """Applied in order to what is read from the keys; undone in reverse on the way out."""


@dataclass(frozen=True)
class Bound:
    """What a table says of one weight path."""

    keys: tuple[str, ...]
    via: tuple[Transform, ...] = ()
    explicit: bool = True
    """False where no line matched, so that the name is the same on both sides."""


@dataclass(frozen=True)
class Family:
    """A table: how a family of models names its weights in another library."""

    name: str
    library: str
    models: Mapping[str, str]
    """The other library's model by arch name."""
    rules: tuple[Rule, ...]
    drop: tuple[Template, ...] = ()
    """Keys that hold nothing to learn, such as index buffers of old checkpoints."""
    indices: tuple[Rule, ...] = ()
    """Keys that hold which row of a table of relative positions each query and key read: the graph says it, too."""

    def bind(self, path: str) -> Bound:
        """The keys of a weight path. The longest template that fits wins."""
        return _bound(self.rules, path) or Bound((path,), (), explicit=False)

    def indexed(self, paths: Iterable[str]) -> dict[str, str]:
        """The keys of their indices by the paths of tables."""
        found = {path: _bound(self.indices, path) for path in paths}
        return {path: bound.keys[0] for path, bound in found.items() if bound is not None}

    def drops(self, key: str) -> bool:
        return any(t.bind(key) is not None for t in self.drop)


def _bound(rules: Iterable[Rule], path: str) -> Bound | None:
    """What the longest template that fits says; None where none does."""
    best: tuple[tuple[int, int], Rule, dict[str, str], str] | None = None
    for rule in rules:
        found = rule.path.bind(path)
        if found is not None and (best is None or rule.path.weight > best[0]):
            best = (rule.path.weight, rule, *found)
    if best is None:
        return None
    _, rule, numbers, rest = best
    return Bound(tuple(_joined(key.fill(numbers), rest) for key in rule.keys), rule.via)


def _joined(head: str, rest: str) -> str:
    return head + rest if head else rest[1:]


@cache
def shipped() -> tuple[Family, ...]:
    """The tables that come with archdsl, by name."""
    return tuple(read(path) for path in sorted(TABLES.glob("*.toml")))


NONE = Family("none", "timm", {}, ())
"""No table: names, structure and order of execution decide."""


def find(table: str) -> Family:
    """The shipped table of that name, `none`, or the one in that file. Raises as `read` does."""
    return next((f for f in (NONE, *shipped()) if f.name == table), None) or read(table)


def read(path: str | Path) -> Family:
    """The table in a TOML file. Raises E-WEIGHT-TABLE, and E-FILE where it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise error("E-FILE", f"cannot read `{path}`: {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise error("E-WEIGHT-TABLE", f"`{path}` is not a table of weights: {e.reason}") from e
    try:
        return _family(Path(path).stem, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, TransformError) as e:
        raise _wrong(path, str(e)) from e


def _family(name: str, table: Mapping[str, object]) -> Family:
    unknown = table.keys() - {"library", "models", "paths", "blocks", "in_blocks", "indices", "drop"}
    if unknown:
        known = "library, models, paths, blocks, in_blocks, indices and drop"
        raise TransformError(f"unknown entry `{sorted(unknown)[0]}`; there are {known}")
    models, drop = table.get("models", {}), table.get("drop", [])
    entries = ("paths", "blocks", "in_blocks", "indices")
    paths, blocks, inside, indices = (_rules(table.get(entry, {})) for entry in entries)
    if not isinstance(models, dict) or not isinstance(drop, list):
        raise TransformError("`models` is a table, `drop` is a list")
    for rule in indices:
        if len(rule.keys) > 1 or rule.via:
            raise TransformError(f"`{rule.path.text}`: an index is one key, which holds it as it is")
    rules = (*paths, *blocks, *(_in_block(block, rule) for block in blocks for rule in inside))
    return Family(
        name,
        str(table.get("library", "timm")),
        {str(k): str(v) for k, v in models.items()},
        rules,
        tuple(Template(str(t)) for t in drop),
        indices,
    )


def _rules(lines: object) -> tuple[Rule, ...]:
    if not isinstance(lines, dict):
        raise TransformError("`paths`, `blocks`, `in_blocks` and `indices` are tables")
    return tuple(_rule(ours, theirs) for ours, theirs in lines.items())


def _in_block(block: Rule, rule: Rule) -> Rule:
    """What a line says of every block, said of one: `block` tells where that stands."""
    ours, theirs = block.path.text, block.keys[0].text
    if block.path.holes & rule.path.holes or len(block.keys) > 1 or block.via:
        raise TransformError(f"`{ours}`: a block has one key, and holes of its own")
    keys = tuple(Template(f"{theirs}.{key.text}") for key in rule.keys)
    return Rule(Template(f"{ours}.{rule.path.text}"), keys, rule.via)


def _rule(ours: str, theirs: object) -> Rule:
    stored, via = theirs, []
    if isinstance(theirs, dict):
        if theirs.keys() - {"keys", "via"} or "keys" not in theirs:
            raise TransformError(f"`{ours}`: write a key, or {{ keys = [...], via = [...] }}")
        stored, via = theirs["keys"], _texts(ours, theirs.get("via", []))
    keys = _texts(ours, stored)
    if not keys:
        raise TransformError(f"`{ours}`: it has no key")
    if any(shift for _, shift in _SHIFTED.findall(ours)):
        raise TransformError(f"`{ours}`: numbers are counted from elsewhere in keys only")
    rule = Rule(Template(ours), tuple(Template(k) for k in keys), _transforms(ours, keys, via))
    unbound = [hole for k in rule.keys for hole in k.holes - rule.path.holes]
    if unbound:
        raise TransformError(f"`{ours}`: nothing gives {{{unbound[0]}}} a number")
    return rule


def _texts(ours: str, given: object) -> list[str]:
    """A string, or a list of strings, as a list."""
    found = [str(x) for x in given if isinstance(x, str)] if isinstance(given, list) else [str(given)]
    if not isinstance(given, str | list) or (isinstance(given, list) and len(found) < len(given)):
        raise TransformError(f"`{ours}`: keys and transforms are strings")
    return found


def _transforms(ours: str, keys: list[str], steps: list[str]) -> tuple[Transform, ...]:
    via = tuple(parse(s) for s in steps)
    first = via[0] if via else None
    if isinstance(first, Concat):
        if len(first.stored) != len(keys):
            raise TransformError(f"`{ours}`: {first} joins {len(first.stored)} parts, but there are {len(keys)} keys")
    elif len(keys) > 1 and not isinstance(first, FoldBN):
        raise TransformError(f"`{ours}`: several keys are joined by concat or folded by fold_bn, first of all")
    return via


def _wrong(path: str | Path, reason: str) -> ArchError:
    return error(
        "E-WEIGHT-TABLE",
        f"`{path}` is not a table of weights: {reason}",
        help='write [paths] with lines such as "stages.{i}" = "layers.{i}"',
    )


def by_name(families: Iterable[Family], arch: str, model: str = "") -> Family | None:
    """The table that lists the arch, or the other library's model; None where none does."""
    known = list(families)
    for family in known:
        if arch in family.models:
            return family
    base = model.partition(".")[0]
    return next((f for f in known if base and base in f.models.values()), None)
