"""Writes grammars in llguidance's variant of Lark, the same text for every engine.

Marks of a model's speech (`<tool_call>` and its like) are tokens of their own in some
vocabularies, unspeakable by ordinary ones, and plain text in others. The text is written for
the second kind; each rule that depends on it ends in a note of the mark, by which an engine
rewrites it for its vocabulary (`resolve`).
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from opta_lmx.codec.constraints.schema import Schema

HEADER = "%llguidance {}\n"
"""First line of every grammar; llama.cpp knows by it whose grammar it is."""

_SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One space after commas and colons and none elsewhere, as most models were taught.

Fixed text, since versions of the library differ in how they read a pattern here.
"""
_ANY = "/(?s:.*)/"
_NOTE = " // mark "
_START = re.compile(r"^start: (.*)$", re.MULTILINE)
_MARKED = re.compile(
    rf'^(?P<name>(?P<kind>mark|until)_\d+)(?:\[lazy\])?: .*{_NOTE}(?P<text>".*")$', re.MULTILINE
)


def literal(text: str) -> str:
    """Return a string of Lark that matches `text`."""
    return json.dumps(text, ensure_ascii=False)


class Lark:
    """One grammar as it is written; every method returns the name of a rule, or an expression."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}
        self._names: dict[tuple[str, object], str] = {}

    def json(self, schema: Schema) -> str:
        """JSON of this (prepared) schema."""
        whole: dict[str, Any] = schema if isinstance(schema, dict) else {"allOf": [schema]}
        text = json.dumps({**whole, "x-guidance": _SEPARATORS}, ensure_ascii=False)
        return self._rule("json", text, f"%json {text}")

    def mark(self, text: str) -> str:
        """A mark, as a token of its own where the vocabulary has it so."""
        return self._rule("mark", text, f"{literal(text)}{_NOTE}{literal(text)}")

    def until(self, text: str) -> str:
        """Any text up to the first `text`, and that."""
        name = self._name("until", text)
        self._lines[f"{name}[lazy]"] = f"{_ANY} {literal(text)}{_NOTE}{literal(text)}"
        return name

    def raw_until(self, value: str, end: str) -> str:
        """Text of the terminal `value` up to the first `end`, and that; no marks in it."""
        name = self._name("raw", (value, end))
        self._lines[f"{name}[lazy]"] = f"{value} {literal(end)}"
        return name

    def plain(self, marks: Sequence[str]) -> str:
        """Any text in which none of `marks` occurs; it may be empty."""
        excluded = "".join(f" & ~({_ANY} {literal(mark)} {_ANY})" for mark in marks)
        return self._rule("PLAIN", tuple(marks), f"{_ANY}{excluded}")

    def terminal(self, expression: str) -> str:
        """A terminal of this expression."""
        return self._rule("TERMINAL", expression, expression)

    def rule(self, expression: str) -> str:
        """A rule of this expression."""
        return self._rule("rule", expression, expression)

    def text(self, start: str) -> str:
        """The whole grammar, beginning with the expression `start`."""
        lines = [f"start: {start}", *(f"{name}: {body}" for name, body in self._lines.items())]
        return HEADER + "\n".join(lines) + "\n"

    def _rule(self, kind: str, key: object, body: str) -> str:
        name = self._name(kind, key)
        self._lines[name] = body
        return name

    def _name(self, kind: str, key: object) -> str:
        return self._names.setdefault((kind, key), f"{kind}_{len(self._names)}")


def may_end_with(grammar: str, ends: Sequence[int]) -> str:
    """Let tokens end an answer wherever it is complete; for engines that know but one such token.

    Args:
        grammar: as `Lark.text` or `resolve` wrote it.
        ends: ids; none leaves the grammar as it is.
    """
    if not ends:
        return grammar
    tokens = ",".join(map(str, sorted(ends)))
    return _START.sub(lambda found: f"start: ({found[1]}) <[{tokens}]>?", grammar, count=1)


def resolve(grammar: str, special: Callable[[str], int | None]) -> str:
    """Rewrite a grammar for a vocabulary.

    Args:
        grammar: as `Lark.text` wrote it.
        special: id of a mark's text, where ordinary tokens cannot spell it; else None.
    """

    def rewrite(found: re.Match[str]) -> str:
        token = special(json.loads(found["text"]))
        if token is None:
            return found.group()
        if found["kind"] == "mark":
            return f"{found['name']}: <[{token}]>"
        # The same mark spelled in letters would be read as a mark too.
        before = f"{_ANY} & ~({_ANY} {found['text']} {_ANY})"
        terminal = found["name"].upper()
        return f"{found['name']}: {terminal} <[{token}]>\n{terminal}: {before}"

    return _MARKED.sub(rewrite, grammar)
