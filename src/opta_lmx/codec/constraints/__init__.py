"""What holds an answer to JSON and tool calls to their schemas: grammars, and their checks."""

from opta_lmx.codec.constraints.answers import answer_grammar, check
from opta_lmx.codec.constraints.lark import may_end_with, resolve

__all__ = ["answer_grammar", "check", "may_end_with", "resolve"]
