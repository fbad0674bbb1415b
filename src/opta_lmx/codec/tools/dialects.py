"""Which dialect a model speaks, judged by its chat template, and the parser for each."""

import re
from collections.abc import Callable

from opta_lmx.codec.reasoning import HARMONY, REASONING_STYLES, style_for_template, think_marks
from opta_lmx.codec.tools import (
    deepseek,
    functionary,
    gemma,
    glm,
    harmony,
    hermes,
    json_calls,
    kimi,
    minimax,
    mistral,
    python_calls,
    qwen_coder,
)
from opta_lmx.codec.tools.harmony import HarmonyParser
from opta_lmx.codec.tools.parser import AnswerParser, Dialect, either
from opta_lmx.codec.tools.protocol import Schemas, ToolParser
from opta_lmx.core.types import Speech

HERMES = "hermes"
JSON = "json"

_DIALECTS: dict[str, Dialect] = {
    HERMES: hermes.HERMES,
    JSON: json_calls.JSON,
    "llama3": json_calls.LLAMA,
    "mistral": mistral.MISTRAL,
    "qwen3-coder": qwen_coder.in_tags("<tool_call>", "</tool_call>"),
    "seed": qwen_coder.SEED,
    "glm": hermes.HERMES,
    "longcat": glm.LONGCAT,
    "longcat-flash": hermes.LONGCAT_FLASH,
    "deepseek": either(deepseek.DEEPSEEK, hermes.HERMES),
    "deepseek-v3.2": deepseek.DSML,
    "kimi": kimi.KIMI,
    "minimax": minimax.MINIMAX,
    "gemma3": gemma.GEMMA3,
    "gemma4": gemma.GEMMA4,
    "function-gemma": gemma.FUNCTION_GEMMA,
    "pythonic": python_calls.PYTHONIC,
    "lfm2": python_calls.LFM2,
    "olmo": python_calls.OLMO,
    "cohere": hermes.COHERE,
    "granite": hermes.GRANITE,
    "phi": hermes.PHI,
    "firefunction": json_calls.FUNCTOOLS,
    "functionary": functionary.FUNCTIONARY,
    "functionary-v3.2": functionary.FUNCTIONARY_32,
    "hunyuan": functionary.HUNYUAN,
    "nemotron": hermes.NEMOTRON,
    "jamba": hermes.JAMBA,
    "apertus": hermes.APERTUS,
}

TOOL_DIALECTS = frozenset((HARMONY, *_DIALECTS))
"""Valid names of a tool dialect."""

# The first of these that stands in a template tells the dialect, so special marks come before
# those that other families took over.
_TELLING: tuple[tuple[str, str], ...] = (
    (deepseek.BAR[1:], "deepseek-v3.2"),
    (deepseek.CALL, "deepseek"),
    ("<|tool_calls_section_begin|>", "kimi"),
    ("<minimax:tool_call>", "minimax"),
    ("<seed:tool_call>", "seed"),
    ("<longcat_arg_key>", "longcat"),
    ("<longcat_tool_call>", "longcat-flash"),
    ("<|tool_call>", "gemma4"),
    ("<start_function_call>", "function-gemma"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|START_ACTION|>", "cohere"),
    ("<|tools_prefix|>", "apertus"),
    ("<|tool_call_start|>", "lfm2"),
    ("<TOOLCALL>", "nemotron"),
    (">>>", "functionary-v3.2"),
    ("<tool_call>", HERMES),
    ("<tool_calls>", "jamba"),
    ("<|tool_call|>", "granite"),
    ("<|/tool_call|>", "phi"),
    ("<function_calls>", "olmo"),
    ("<function_call>", "granite"),
    ("functools[", "firefunction"),
    ("<function=", "functionary"),
    ("<|python_start|>", "pythonic"),
    ("<|python_tag|>", "llama3"),
)
Parser = AnswerParser | HarmonyParser
"""A parser of whole answers."""

_STATEMENT_START = re.compile(r"\{[{%]")
_STATEMENT_END = re.compile(r"[}%]\}")
_TOOLS = re.compile(r"\btools\b")


def speech_for_template(source: str, has_token: Callable[[str], bool] = lambda _: False) -> Speech:
    """Return how a model with this chat template writes calls and reasoning.

    Args:
        source: the template.
        has_token: whether the vocabulary holds a text as one token.
    """
    reasoning = style_for_template(source, has_token)
    tools = HARMONY if reasoning == HARMONY else dialect_for_template(source)
    return Speech(tools=tools, reasoning=reasoning)


def dialect_for_template(source: str) -> str:
    """Return the dialect in which a model with this chat template writes its calls.

    Templates that never look at `tools` get the default rendering
    (`rendering.with_default_tools`), which teaches Hermes' convention; families that fall back
    on a convention of their own are read in both. Of all others the marks tell; without any,
    calls are read as generic JSON.
    """
    if not reads_tools(source):
        for mark, dialect in (("<start_of_turn>", "gemma3"), (deepseek.CALL, "deepseek")):
            if mark in source:
                return dialect
        return HERMES
    for mark, dialect in _TELLING:
        if mark in source:
            return _refined(dialect, source)
    return JSON


def _refined(dialect: str, source: str) -> str:
    """Several families share Hermes' tags."""
    if dialect != HERMES:
        return dialect
    if "<arg_key>" in source:
        return "glm"
    if "<function=" in source:
        return "qwen3-coder"
    if "<tool_calls>" in source and "```json" in source:
        return "hunyuan"
    return HERMES


def check_speech(speech: Speech) -> None:
    """Check names that a user may have chosen.

    Raises:
        ValueError: there is no such dialect or style; the message lists those there are.
    """
    for kind, name, known in (
        ("tool dialect", speech.tools, TOOL_DIALECTS),
        ("reasoning style", speech.reasoning, REASONING_STYLES),
    ):
        if name not in known:
            names = ", ".join(sorted(filter(None, known)))
            raise ValueError(f"unknown {kind} '{name}'; known are {names}")


def parser_for(dialect: str, tools: Schemas = ()) -> ToolParser:
    """Return a new parser of calls alone.

    Raises:
        ValueError: there is no such dialect.
    """
    return answer_parser(Speech(dialect, ""), tools, calls=True, thinking=False)


def answer_parser(speech: Speech, tools: Schemas, *, calls: bool, thinking: bool) -> Parser:
    """Return a new parser of a whole answer.

    Args:
        speech: how the model speaks.
        tools: what the request offers.
        calls: whether calls are looked for.
        thinking: the answer begins inside a block of reasoning.

    Raises:
        ValueError: the speech names what there is not.
    """
    check_speech(speech)
    if HARMONY in (speech.tools, speech.reasoning):
        return HarmonyParser(tools, calls=calls)
    dialect = _DIALECTS[speech.tools] if calls else None
    return AnswerParser(dialect, think_marks(speech.reasoning), tools, thinking=thinking)


def markers_of(speech: Speech) -> tuple[str, ...]:
    """Return the literal marks of a speech.

    Vocabularies hold many of them as control tokens, whose text engines leave out of answers;
    of these it must be kept.
    """
    check_speech(speech)
    if HARMONY in (speech.tools, speech.reasoning):
        return harmony.MARKS
    think = think_marks(speech.reasoning)
    dialect = _DIALECTS[speech.tools]
    return tuple(dict.fromkeys((*dialect.marks, *((*think.all, *think.tokens) if think else ()))))


def reads_tools(source: str) -> bool:
    """Whether the word `tools` stands inside a Jinja statement, not merely in the prose."""
    statements = _STATEMENT_START.split(source)[1:]
    return any(_TOOLS.search(_STATEMENT_END.split(part, 1)[0]) for part in statements)
