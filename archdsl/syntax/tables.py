"""Turns the grammars into the shipped LALR tables that lalr.py reads.

`python -m archdsl.syntax.tables --write` regenerates archdsl/syntax/_<grammar>_tables.json; `--check` rebuilds with
lark's strict mode (conflicts and colliding terminals are errors; needs `interegular`) and compares. Building the
tables takes half a second, importing lark some thirty milliseconds, loading the shipped tables three. They are JSON
because Python source of that size takes long to compile wherever bytecode cannot be cached.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from archdsl import resources
from archdsl.syntax.lalr import shipped, table_file

GRAMMARS = ("arch", "ir")


def digest(text: str) -> str:
    """What a table file records of the grammar it was made from."""
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()


def recorded(name: str) -> str:
    """The digest of the grammar that the shipped tables were made from."""
    return str(shipped(name)["grammar"])


def build(name: str, *, strict: bool = False) -> str:
    """The text of the table file for grammar `name`; deterministic for one version of lark."""
    grammar = resources.grammar(name).read_text(encoding="utf-8")
    parser = Lark(
        grammar,
        parser="lalr",
        lexer="contextual",
        maybe_placeholders=False,
        keep_all_tokens=True,
        strict=strict,
    )
    data, memo = _numbered(*parser.memo_serialize([TerminalDef, Rule]))
    table = data["parser"]["parser"]
    symbols = table["tokens"]
    rules = [key for key, entry in memo.items() if entry["__type__"] == "Rule"]
    place = {key: i for i, key in enumerate(rules)}
    states = [
        [x for i, (kind, to) in row.items() for x in (i, to if kind == _SHIFT else ~place[to["@"]])]
        for _, row in sorted(table["states"].items())
    ]
    tables = {
        "grammar": digest(grammar),
        "symbols": [symbols[i] for i in range(len(symbols))],
        "rules": [_rule(memo[key]) for key in rules],
        "start": table["start_states"]["start"],
        "end": table["end_states"]["start"],
        "terminals": _terminals(parser),
        "ignored": sorted(data["parser"]["lexer_conf"]["ignore"]),
        "states": states,
    }
    return json.dumps(tables, separators=(",", ":")) + "\n"


def _rule(rule: Any) -> list[object]:
    """The fields of a lalr.Rule, from lark's."""
    origin, alias, options = rule["origin"]["name"], rule["alias"], rule["options"]
    symbols = rule["expansion"]
    spliced = [i for i, s in enumerate(symbols) if s["__type__"] == "NonTerminal" and s["name"].startswith("_")]
    return [alias or origin, origin, len(symbols), origin.startswith("_"), options["expand1"] and not alias, spliced]


def _terminals(parser: Lark) -> list[tuple[str, str]]:
    """Lark's terminals in the order in which it tries them."""
    lexer = parser.parser.lexer.root_lexer
    assert lexer.scanner and not lexer.callback, "a literal that a regular expression matches too"
    return [(t.name, t.pattern.to_regexp()) for t in lexer.terminals]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m archdsl.syntax.tables", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="rebuild in strict mode and compare")
    action.add_argument("--write", action="store_true", help="regenerate the table files")
    options = parser.parse_args(argv)
    stale = False
    for name in GRAMMARS:
        if not resources.grammar(name).exists():
            continue
        text, path = build(name, strict=options.check), table_file(name)
        fresh = path.exists() and path.read_text(encoding="utf-8") == text
        if options.write and not fresh:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
        elif not fresh:
            print(f"{path.name} does not match {name}.lark; run python -m archdsl.syntax.tables --write")
            stale = True
    return int(stale)


def _numbered(data: Any, memo: Any) -> tuple[Any, Any]:
    """The same tables with states, terminals and rules numbered by content: lark's follow set order."""
    ranked = sorted(memo, key=lambda key: repr(memo[key]))
    new = {old: i for i, old in enumerate(ranked)}
    memo = {new[old]: memo[old] for old in ranked}
    data = _renumbered(data, new)
    lexer = data["parser"]["lexer_conf"]
    lexer["terminals"] = sorted(lexer["terminals"], key=lambda t: int(t["@"]))
    table = data["parser"]["parser"]
    names, states = table["tokens"], table["states"]
    rows = {s: {names[i]: action for i, action in row.items()} for s, row in states.items()}
    order = list(table["start_states"].values())
    seen = set(order)
    for state in order:  # grows while it is walked: breadth first from the start states
        for name in sorted(rows[state]):
            kind, target = rows[state][name]
            if kind == _SHIFT and target not in seen:
                seen.add(target)
                order.append(target)
    place = {state: i for i, state in enumerate(order)}
    words = sorted(names.values())
    index = {name: i for i, name in enumerate(words)}
    table["tokens"] = dict(enumerate(words))
    table["states"] = {
        place[s]: {
            index[n]: (kind, place[target] if kind == _SHIFT else target)
            for n, (kind, target) in sorted(rows[s].items())
        }
        for s in order
    }
    table["start_states"] = {k: place[s] for k, s in table["start_states"].items()}
    table["end_states"] = {k: place[s] for k, s in table["end_states"].items()}
    return data, memo


_SHIFT = 0


def _renumbered(value: Any, new: dict[int, int]) -> Any:
    """`value` with every memo reference {"@": number} renumbered."""
    if isinstance(value, dict):
        if set(value) == {"@"}:
            return {"@": new[value["@"]]}
        return {k: _renumbered(v, new) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_renumbered(v, new) for v in value)
    return value


if __name__ == "__main__":
    sys.exit(main())
