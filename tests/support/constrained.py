"""Requests whose answers are held, ready for an engine."""

from typing import Any

from opta_lmx.codec.constraints import answer_grammar, check
from opta_lmx.core.types import GenerationRequest, JsonOutput, Prompt, Speech, Tool, ToolChoice

WEATHER = Tool(
    "get_weather",
    "Tells the weather in a city.",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1, "maxLength": 12},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
        },
        "required": ["city"],
    },
)
REQUIRED = ToolChoice("required")


def json_grammar(schema: dict[str, Any] | None) -> str:
    """The grammar of an answer that is JSON of this schema."""
    return _grammar(GenerationRequest("m", Prompt(), output=JsonOutput(schema)), Speech())


def call_grammar(speech: Speech, *tools: Tool, **fields: Any) -> str:
    """The grammar of an answer with these tools; by default one of them must be called."""
    fields = {"tool_choice": REQUIRED, "parallel_tool_calls": False, **fields}
    return _grammar(GenerationRequest("m", Prompt(tools=tools), **fields), speech)


def _grammar(request: GenerationRequest, speech: Speech) -> str:
    check(request, output="schema", tools="tools")
    grammar = answer_grammar(request, speech, thinking=False)
    assert grammar is not None
    return grammar
