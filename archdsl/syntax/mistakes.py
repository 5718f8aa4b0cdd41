"""Turns a place where reading got stuck into the diagnostic of the likely mistake.

Rules are tried in order and decide by what could have followed and by the tokens around, never by the parser's
state numbers, so that they survive changes of the grammar. Unclosed brackets come first: whatever reading trips
over inside one is usually their consequence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from archdsl.diagnostics import Diagnostic, Source, Span, did_you_mean
from archdsl.syntax.build import RESERVED, reserved
from archdsl.syntax.lalr import END, Stuck, Token

ITEM_START = re.compile(
    r"^(?:import|let|def|rep|extern|arch|check|space)(?![A-Za-z0-9_])(?![ \t]*(?:=|,|\+=|\*=))", re.MULTILINE
)
"""A line that begins a top-level item: where reading resumes after a mistake."""

ITEM_WORDS = ("import", "let", "def", "rep", "extern", "arch", "check", "space")
STATEMENT_WORDS = (
    "input", "share", "return", "if", "for", "blocks", "stage", "stem", "head", "require",
)  # fmt: skip
SPACE_WORDS = ("let", "require", "minimize", "maximize", "seed")
KEYWORDS = frozenset(w.upper() for w in (*ITEM_WORDS, *STATEMENT_WORDS, *SPACE_WORDS)) | {
    "LANGUAGE", "FROM", "AS", "OF", "ELSE", "IN", "THEN", "FN", "AND", "OR", "NOT", "BY",
}  # fmt: skip

FORMS = {
    "IMPORT": 'import name, other as alias from "file.arch"',
    "LET": "let name = value",
    "DEF": "def name[constants](tensors) -> types { ... }, or def name[constants](tensors) = value",
    "EXTERN": 'extern name[constants](tensors) -> types from "package.module:Class" { flops = ... }',
    "ARCH": "arch name[parameters] { ... }, or arch name = base[parameter = value]",
    "CHECK": "check name: condition, condition",
    "SPACE": "space name of arch { ... }",
    "INPUT": "input name: map[3, 224, 224]",
    "SHARE": "share name = block[...]",
    "FOR": "for i in n { ... }, or for i, x in list { ... }",
    "BLOCKS": "blocks j in n { ... }",
    "STAGE": "stage i in n -> x { ... }, or stage name -> x { ... }",
    "STEM": "stem { ... }",
    "HEAD": "head { ... }",
}

SYMBOLS = {
    "COMMA": ",", "EQUAL": "=", "COLON": ":", "DOT": ".", "AT": "@", "LPAR": "(", "RPAR": ")", "LSQB": "[",
    "RSQB": "]", "LBRACE": "{", "RBRACE": "}", "PIPE": "|>", "BAR": "|", "ARROW": "->", "DARROW": "=>",
    "DOTS": "..", "ELLIPSIS": "...", "OPTIONAL": "?",
}  # fmt: skip

OPERATORS = frozenset(
    {
        "PLUS",
        "MINUS",
        "MULTIPLY",
        "POWER",
        "COMPARE",
        "AND",
        "OR",
        "DOTS",
        "BY",
        "PIPE",
        "LPAR",
        "LSQB",
        "DOT",
        "AT",
    }
)
ARITHMETIC = frozenset({"PLUS", "MINUS", "MULTIPLY", "POWER", "COMPARE", "DOTS", "AND", "OR"})
BEGINS_VALUE = frozenset({"NAME", "NUMBER", "STRING", "LPAR", "LSQB", "LBRACE", "MINUS", "NOT", "IF", "FN"})
ENDS_VALUE = frozenset({"NAME", "NUMBER", "STRING", "RPAR", "RSQB"})

CHARACTERS = {
    ";": "statements need no `;`: a new line, or nothing, ends one",
    "'": 'strings are written in double quotes: "..."',
    "`": 'strings are written in double quotes: "..."',
    "!": "negation is written `not`, inequality `!=`",
    "&": "conjunction is written `and`",
    "~": "`~=` is the comparison within 0.5 %",
    "\\": "a line needs no continuation mark: newlines are whitespace",
    "$": "names are made of ASCII letters, digits and `_`",
    "=": "`=` binds a name, `==` compares",
    "×": "multiplication is written `*`",
    "·": "multiplication is written `*`",
    "÷": "division is written `/`",
    "−": "minus is the ASCII hyphen `-`",
    "–": "minus is the ASCII hyphen `-`",
    "→": "results are written after `->`",
    "≤": "written `<=`",
    "≥": "written `>=`",
    "≠": "written `!=`",
    "≈": "written `~=`",
    "…": "a range is written `a..b`",
    "“": 'strings are written in plain double quotes: "..."',
    "”": 'strings are written in plain double quotes: "..."',
    "‘": 'strings are written in plain double quotes: "..."',
    "’": 'strings are written in plain double quotes: "..."',
}


@dataclass(frozen=True)
class Trouble:
    """Where reading stopped, seen from its surroundings."""

    source: Source
    stuck: Stuck
    start: int
    """The offset reading began at: everything from there to the broken item was fine."""

    @property
    def token(self) -> Token:
        assert self.stuck.token is not None
        return self.stuck.token

    @property
    def accepts(self) -> frozenset[str]:
        return self.stuck.accepts

    def before(self, n: int = 1) -> Token | None:
        """The n-th token before the stuck one."""
        tokens = self.stuck.tokens
        return tokens[-n] if len(tokens) >= n else None

    def kind_before(self, n: int = 1) -> str:
        token = self.before(n)
        return token.type if token is not None else ""

    def same_line(self, n: int = 1) -> bool:
        """Whether the n-th token before is on the line of the token after it."""
        earlier, later = self.before(n), self.before(n - 1) if n > 1 else self.token
        return earlier is not None and later is not None and earlier.end_line == later.line

    def after_value(self) -> bool:
        """Whether a whole expression stands before the stuck token."""
        return bool(self.accepts & {"PLUS", "COMPARE", "AND", "OR", "BY", "PIPE"})

    def at_statement_name(self) -> bool:
        """Whether the token before begins a statement `name ...`, or a binding in a space."""
        if self.kind_before() != "NAME":
            return False
        return "UPDATE" in self.accepts or (self.accepts == {"EQUAL"} and self.kind_before(2) not in ("LET", "SHARE"))

    def span(self, token: Token | None = None) -> Span:
        token = token or self.token
        if token.type == END:
            last = self.before()
            if last is None:
                return Span(self.source, 1, 1, 1, 2)
            line, column = last.end_line or 1, last.end_column or 1
            return Span(self.source, line, column, line, column + 1)
        return Span(self.source, token.line or 1, token.column or 1, token.end_line or 1, token.end_column or 1)

    def at(self, offset: int, length: int = 1) -> Span:
        text = self.source.text
        line = text.count("\n", 0, offset) + 1
        column = offset - text.rfind("\n", 0, offset)
        return Span(self.source, line, column, line, column + length)


def explain(source: Source, stuck: Stuck, start: int) -> Diagnostic:
    """The diagnostic for `stuck`, reading having begun at offset `start`."""
    trouble = Trouble(source, stuck, start)
    if stuck.token is None:
        return _character(trouble)
    return next(d for rule in _RULES if (d := rule(trouble)) is not None)


# -- characters --------------------------------------------------------------------------------


def _character(t: Trouble) -> Diagnostic:
    text, offset = t.source.text, t.stuck.offset
    char = text[offset]
    whole = re.compile(r"[0-9]+\.$").search(text, _line_start(text, offset), offset) if char.isdigit() else None
    if whole is not None:  # of `28.35x`, `28.` has been read already
        offset = whole.start()
    word = re.compile(r"[\w.]+").match(text, offset)
    if char == '"':
        end = text.find("\n", offset)
        line = text[offset : end if end >= 0 else len(text)].rstrip()
        return Diagnostic("E-UNCLOSED", "this string is not closed", t.at(offset, len(line)), help='end it with `"`')
    if word is not None and char.isdigit():
        return Diagnostic(
            "E-NUMBER",
            f"`{word[0]}` is not a number",
            t.at(offset, len(word[0])),
            help="multiples are k K M G T, units GFLOPs GMACs (or FLOPs MACs), B (KB MB GB TB), ms us; "
            "a product is written `4 * x`",
        )
    pair = text[offset : offset + 2]
    help_ = "conjunction is written `and`" if pair == "&&" else CHARACTERS.get(char, "")
    if not help_ and char.isalpha():
        help_ = "names are made of ASCII letters, digits and `_`"
    shown = f"`{char}`" if char.isprintable() else f"U+{ord(char):04X} ({unicodedata.name(char, 'control character')})"
    shown = "a backquote" if char == "`" else shown
    length = 2 if pair in ("&&", "!!") else 1
    return Diagnostic("E-CHARACTER", f"{shown} is not used in the language", t.at(offset, length), help=help_)


# -- brackets ----------------------------------------------------------------------------------

_PAIRS = {")": "(", "]": "[", "}": "{"}
_CLOSING = {v: k for k, v in _PAIRS.items()}
_BRACKETS = re.compile(rf'#[^\n]*|"[^"\n]*"|[()\[\]{{}}]|{ITEM_START.pattern}', re.MULTILINE)


def _unclosed(t: Trouble) -> Diagnostic | None:
    blamed = _unbalanced(t.source.text, t.start, t.stuck.offset)
    if blamed is None:
        return None
    offset, found = blamed
    bracket = t.source.text[offset]
    if bracket in _PAIRS:
        return Diagnostic(
            "E-UNCLOSED",
            f"this `{bracket}` closes nothing",
            t.at(offset),
            help=f"remove it, or open its `{_PAIRS[bracket]}` before",
        )
    notes = () if found is None else ((t.at(found[0], len(found[1])), f"`{_CLOSING[bracket]}` is missing before this"),)
    return Diagnostic(
        "E-UNCLOSED",
        f"this `{bracket}` is never closed",
        t.at(offset),
        label="opened here",
        notes=notes,
        help=f"close it with `{_CLOSING[bracket]}`",
    )


def _unbalanced(text: str, start: int, stuck: int) -> tuple[int, tuple[int, str] | None] | None:
    """The bracket to blame, and the offset and text of what shows it: the first misfit at or after `stuck`."""
    opened: list[int] = []
    crooked: int | None = None  # the first `{` whose `}` stands at another indentation
    for match in _BRACKETS.finditer(text, start):
        piece, place = match[0], match.start()
        if piece in _CLOSING:
            opened.append(place)
        elif piece in _PAIRS:
            if not opened:
                return (place, None) if place == stuck else None
            after = _BRACKETS.search(text, match.end())
            opener = opened.pop()
            if text[opener] != _PAIRS[piece]:
                if place == stuck and after is not None and _PAIRS.get(after[0]) == text[opener]:
                    return place, None
                return (opener, (place, piece)) if opener < stuck <= place else None
            if (
                crooked is None
                and piece == "}"
                and _begins_line(text, place)
                and _indent(text, place) != _indent(text, opener)
            ):
                crooked = opener
        elif piece[0] not in '#"' and opened and stuck <= text.find("\n", place) % (len(text) + 1):
            blamed = _blamed(opened, crooked)
            return (blamed, (place, piece)) if blamed < stuck else None
    if not opened or stuck < opened[-1]:
        return None
    return _blamed(opened, crooked), None


def _blamed(opened: list[int], crooked: int | None) -> int:
    return opened[-1] if crooked is None or crooked < opened[-1] else crooked


def _line_start(text: str, offset: int) -> int:
    return text.rfind("\n", 0, offset) + 1


def _begins_line(text: str, offset: int) -> bool:
    return not text[_line_start(text, offset) : offset].strip()


def _indent(text: str, offset: int) -> int:
    line = text[_line_start(text, offset) : offset]
    return len(line) - len(line.lstrip())


# -- words -------------------------------------------------------------------------------------


def _reserved(t: Trouble) -> Diagnostic | None:
    last = t.before()
    if last is None or str(last) not in RESERVED or last.type not in KEYWORDS or not t.same_line():
        return None
    if t.token.type in ("EQUAL", "UPDATE") or (t.token.type == "COMMA" and "NAME" in t.accepts):
        return reserved(str(last), t.span(last))
    return None


def _else_if(t: Trouble) -> Diagnostic | None:
    last = t.before()
    if last is None or not t.at_statement_name() or last not in ("elif", "elsif", "elseif"):
        return None
    return Diagnostic("E-SYNTAX", f"`{last}` is not a keyword", t.span(last), help="write `else if`")


def _misspelt(t: Trouble) -> Diagnostic | None:
    last = t.before()
    if (
        last is None
        or not t.at_statement_name()
        or not t.same_line()
        or t.token.type not in BEGINS_VALUE - {"LPAR", "LSQB"}
    ):
        return None
    words = STATEMENT_WORDS if "UPDATE" in t.accepts else SPACE_WORDS
    help_ = (
        "there are no unbounded loops; `for i in n { ... }` repeats" if last == "while" else did_you_mean(last, words)
    )
    if not help_:
        return None
    return Diagnostic("E-SYNTAX", f"`{last}` does not begin a statement", t.span(last), help=help_)


def _top_level(t: Trouble) -> Diagnostic | None:
    token = t.token
    if "DEF" not in t.accepts or token.type == END or (t.after_value() and t.same_line()):
        return None
    words = ", ".join(f"`{w}`" for w in ITEM_WORDS)
    title = f"{_found(token)} cannot begin a top-level item"
    follows = t.source.text[(token.end_pos or 0) :].lstrip(" \t")
    help_ = did_you_mean(token, (*ITEM_WORDS, "language")) if token.type == "NAME" else ""
    inside = str(token) in STATEMENT_WORDS or (token.column or 1) > 1
    if not help_ and not inside and follows.startswith("=") and not follows.startswith("=="):
        help_ = f"write `let {token} = ...`"
    if token == "language":
        title, help_ = "`language` stands only in the first line", "move it above everything but comments"
    elif inside and not help_:
        help_ = "statements belong inside `arch name { ... }` or `def name(...) { ... }`"
    last = t.before()
    notes = ((t.span(last), "the body before ends here"),) if last is not None and last.type == "RBRACE" else ()
    return Diagnostic("E-SYNTAX", title, t.span(), notes=notes, help=help_ or f"the top level holds {words}")


# -- expressions -------------------------------------------------------------------------------


def _mixed_pipe(t: Trouble) -> Diagnostic | None:
    kind = t.token.type
    if kind == "PIPE" and t.accepts & {"PLUS", "COMPARE", "AND", "OR", "BY"}:
        title = "`|>` after an arithmetic expression: which one goes first is not defined"
        return Diagnostic("E-PIPE-MIX", title, t.span(), help="write (a + b) |> f, or a + (b |> f)")
    if kind in ARITHMETIC and "PIPE" in t.accepts and "PLUS" not in t.accepts:
        title = f"`{t.token}` after `|>`: which one goes first is not defined"
        return Diagnostic("E-PIPE-MIX", title, t.span(), help=f"write (x |> f) {t.token} y, or x |> (f {t.token} y)")
    return None


def _bare_point(t: Trouble) -> Diagnostic | None:
    text, offset = t.source.text, t.stuck.offset
    number = re.compile(r"\.[0-9]+").match(text, offset)
    if number is not None and "NUMBER" in t.accepts:
        help_ = f"write 0{number[0]}"
        return Diagnostic("E-NUMBER", f"`{number[0]}` is not a number", t.at(offset, len(number[0])), help=help_)
    last, point = t.before(2), t.before()
    if (
        last is not None
        and point is not None
        and last.type == "NUMBER"
        and last.end_pos == point.start_pos
        and point == "."
    ):
        return Diagnostic(
            "E-NUMBER", f"`{last}.` is not a number", t.span(last).to(t.span(point)), help=f"write {last}.0"
        )
    return None


def _foreign_operator(t: Trouble) -> Diagnostic | None:
    last, token = t.before(), t.token
    doubled = last is not None and last.end_pos == token.start_pos and str(last) == str(token)
    if doubled and token == "*":
        title, help_ = "`**` is not an operator", "power is written `^`"
    elif doubled and token == "|":
        title, help_ = "`||` is not an operator", "disjunction is written `or`"
    elif token.type == "BAR" and t.after_value():
        after = t.source.text[(token.end_pos or 0) : (token.end_pos or 0) + 1]
        if after == "|":
            return Diagnostic(
                "E-CHARACTER",
                "`||` is not an operator",
                t.at(t.stuck.offset, 2),
                help="disjunction is written `or`",
            )
        return Diagnostic(
            "E-SYNTAX", "`|` separates choices, and only inside { }", t.span(), help="a pipe is written `|>`"
        )
    elif token.type == "OPTIONAL" and t.after_value():
        return Diagnostic("E-SYNTAX", "`?` marks an optional type", t.span(), help="write `if c then a else b`")
    else:
        return None
    assert last is not None
    return Diagnostic("E-CHARACTER", title, t.span(last).to(t.span()), help=help_)


def _equals(t: Trouble) -> Diagnostic | None:
    if t.token.type != "EQUAL" or not t.after_value():
        return None
    if t.kind_before() in ("COMPARE", "EQUAL"):
        return None
    word = next((k.type for k in _enclosing(t) if k.type in ("IF", "REQUIRE", "CHECK")), "")
    if word or t.accepts & {"THEN"}:
        return Diagnostic("E-SYNTAX", "`=` binds a name, it does not compare", t.span(), help="write `==`")
    inside = t.accepts & {"RPAR", "RSQB"}
    if t.kind_before() == "RPAR" and not inside:
        names = t.source.lines[t.span().line - 1][: t.span().column - 1].strip(" ()")
        if re.fullmatch(r"[A-Za-z_]\w*(\s*,\s*[A-Za-z_]\w*)+", names):
            title = "the names on the left of `=` stand without parentheses"
            return Diagnostic("E-SYNTAX", title, t.span(), help=f"write {names} = ...")
    help_ = (
        "an argument's name is one plain word" if inside else "bind one name (or `a, b`) per statement; `==` compares"
    )
    return Diagnostic("E-SYNTAX", "`=` cannot stand inside an expression", t.span(), help=help_)


def _if_behind(t: Trouble) -> Diagnostic | None:
    if t.token.type != "IF" or not t.after_value() or not t.same_line():
        return None
    return Diagnostic("E-SYNTAX", "`if` stands before what it decides", t.span(), help="write `if c then a else b`")


def _side_by_side(t: Trouble) -> Diagnostic | None:
    last, token = t.before(), t.token
    if last is None:
        return None
    if t.at_statement_name() and t.kind_before(2) in ENDS_VALUE and t.same_line(2):
        return _juxtaposed(t, last, "an operator or `|>`")
    begins = BEGINS_VALUE - {"LPAR", "LSQB", "MINUS", "LBRACE"}
    if token.type in begins and t.after_value() and last.type in ENDS_VALUE and t.same_line():
        return _juxtaposed(t, token, "an operator or `|>`" if "COMMA" not in t.accepts else "`,`, an operator or `|>`")
    if token.type in begins and t.accepts & {"RPAR", "RSQB"} and t.after_value() and last.type in ENDS_VALUE:
        return _juxtaposed(t, token, "`,`, an operator or `|>`")
    return None


def _juxtaposed(t: Trouble, token: Token, what: str) -> Diagnostic:
    title = f"two expressions side by side: {what} is missing before `{token}`"
    last = t.before() if token is t.token else t.before(2)
    help_ = ""
    if last is not None and last.type in ("NAME", "NUMBER", "STRING"):
        help_ = f"write {last} + {token} ..., or {last} |> {token} ..."
        if what.startswith("`,`"):
            help_ = f"write {last}, {token}"
    return Diagnostic("E-JUXTAPOSED", title, t.span(token), help=help_)


def _no_effect(t: Trouble) -> Diagnostic | None:
    last, token = t.before(), t.token
    begins_again = token.type in BEGINS_VALUE - {"LPAR", "LSQB", "MINUS"} and t.same_line()
    if last is not None and t.at_statement_name() and "UPDATE" in t.accepts and not begins_again:
        return _unused(t, last)
    if "STEM" in t.accepts and token.type in BEGINS_VALUE - {"LBRACE", "NAME"}:
        return _unused(t, token)
    return None


def _unused(t: Trouble, first: Token) -> Diagnostic:
    text, offset = t.source.text, first.start_pos or 0
    end = text.find("\n", offset)
    line = text[offset : end if end >= 0 else len(text)].split("#")[0].rstrip()
    while line and line[-1] in _PAIRS and line.count(line[-1]) > line.count(_PAIRS[line[-1]]):
        line = line[:-1].rstrip()
    return Diagnostic(
        "E-NO-EFFECT",
        f"`{line}` is not a statement: nothing uses its result"
        if len(line) < 60
        else "not a statement: nothing uses its result",
        t.at(offset, max(1, len(line))),
        help="bind it (`x = ...`), return it (`return ...`), or remove it",
    )


# -- everything else ---------------------------------------------------------------------------


def _generic(t: Trouble) -> Diagnostic:
    expected = _listed(list(_expected(t.accepts)))
    form = next((FORMS[k.type] for k in _enclosing(t) if k.type in FORMS), "")
    help_ = f"the form is: {form}" if form and not t.after_value() and "NUMBER" not in t.accepts else ""
    if t.token.type == END:
        return Diagnostic("E-SYNTAX", f"the file ends where {expected} is expected", t.span(), help=help_)
    return Diagnostic("E-SYNTAX", f"expected {expected}, found {_found(t.token)}", t.span(), help=help_)


def _enclosing(t: Trouble) -> Iterator[Token]:
    """The keywords of the construct around the stuck place, innermost first; finished brackets are stepped over."""
    depth = 0
    for token in reversed(t.stuck.tokens):
        if token.type in ("RPAR", "RSQB", "RBRACE"):
            depth += 1
        elif token.type in ("LPAR", "LSQB", "LBRACE"):
            if depth == 0 and token.type == "LBRACE":
                return
            depth = max(0, depth - 1)
        elif depth == 0 and token.type in KEYWORDS:
            yield token
            if token.type in FORMS:
                return


def _expected(accepts: frozenset[str]) -> Iterator[str]:
    """What could have come, in words; symbols and keywords last."""
    left = set(accepts) - {END}
    if "STEM" in left:
        yield "a statement"
        left -= {*(w.upper() for w in STATEMENT_WORDS), "NAME", "UPDATE"}
    if "DEF" in left and "CHECK" in left:
        yield "a top-level item"
        left -= {*(w.upper() for w in ITEM_WORDS), "LANGUAGE"}
    if {"MINIMIZE", "SEED"} <= left:
        yield "a choice, a requirement or a goal"
        left -= {*(w.upper() for w in SPACE_WORDS), "NAME"}
    if {"NUMBER", "STRING", "LPAR"} <= left:
        yield "an expression"
        left -= BEGINS_VALUE
    if "PLUS" in left:
        yield "an operator"
        left -= OPERATORS
    if "NAME" in left:
        yield "a name"
    if "STRING" in left:
        yield 'a string "..."'
    if "NUMBER" in left:
        yield "a number"
    if "COMPARE" in left:
        yield "a comparison"
    for kind in sorted(left - {"NAME", "STRING", "NUMBER", "COMPARE", "PLUS"}, key=lambda k: (k in KEYWORDS, k)):
        if kind == "UPDATE":
            yield "`+=`"
        elif kind in SYMBOLS or kind in KEYWORDS:
            yield f"`{SYMBOLS.get(kind, kind.lower())}`"


def _listed(words: list[str]) -> str:
    if len(words) <= 1:
        return words[0] if words else "nothing more"
    return ", ".join(words[:-1]) + " or " + words[-1]


def _found(token: Token) -> str:
    return f"the reserved word `{token}`" if str(token) in RESERVED else f"`{token}`"


_RULES: tuple[Callable[[Trouble], Diagnostic | None], ...] = (
    _unclosed,
    _reserved,
    _else_if,
    _misspelt,
    _mixed_pipe,
    _bare_point,
    _foreign_operator,
    _equals,
    _if_behind,
    _side_by_side,
    _no_effect,
    _top_level,
    _generic,
)
