"""Which dialect a model speaks, judged by its chat template, and the parser for each."""

import re
from collections.abc import Callable

from opta_lmx.codec.tools.hermes import HermesParser
from opta_lmx.codec.tools.json_calls import JsonCallParser
from opta_lmx.codec.tools.protocol import ToolParser

HERMES = "hermes"
JSON = "json"

_PARSERS: dict[str, Callable[[], ToolParser]] = {HERMES: HermesParser, JSON: JsonCallParser}
_STATEMENT_START = re.compile(r"\{[{%]")
_STATEMENT_END = re.compile(r"[}%]\}")
_TOOLS = re.compile(r"\btools\b")


def dialect_for_template(source: str) -> str:
    """Return the dialect in which a model with this chat template writes its calls.

    Templates that mention Hermes' tag are Hermes'; so are those that never look at `tools`,
    because their conversations get the default rendering (`rendering.with_default_tools`),
    which teaches that convention. All others are read as generic JSON.
    """
    if "<tool_call>" in source or not _reads_tools(source):
        return HERMES
    return JSON


def parser_for(dialect: str) -> ToolParser:
    """Return a new parser.

    Raises:
        ValueError: there is no such dialect.
    """
    maker = _PARSERS.get(dialect)
    if maker is None:
        raise ValueError(f"unknown tool dialect '{dialect}'")
    return maker()


def _reads_tools(source: str) -> bool:
    """Whether the word `tools` stands inside a Jinja statement, not merely in the prose."""
    statements = _STATEMENT_START.split(source)[1:]
    return any(_TOOLS.search(_STATEMENT_END.split(part, 1)[0]) for part in statements)
