"""The grammar of a whole answer: thinking, then JSON, tool calls, or text around them."""

from typing import Any

import msgspec

from opta_lmx.codec.constraints.calls import FORMS, Callee, Form, calls, sequence
from opta_lmx.codec.constraints.compiling import arguments_schema, prepared
from opta_lmx.codec.constraints.lark import Lark
from opta_lmx.codec.reasoning import HARMONY, think_marks
from opta_lmx.core.errors import LmxError, invalid, unsupported
from opta_lmx.core.types import GenerationRequest, Speech, Tool

MOST_BYTES = 1024 * 1024
"""All schemas of a request together."""

_USUAL_BLOCK = ("<think>", "</think>")
_HARMONY_MARKS = ("<|channel|>", "<|start|>", "<|message|>", "<|end|>", "<|call|>")
_MARKED_LATER = ("<|python_tag|>", "[TOOL_CALLS]", "<tool_call>")
"""Marks that the readers of bare JSON calls also look for inside a text."""
_NO_CALL = r"/\s*[^\s{\[`<](?s:.*)/"
_BREAK = r"/\n{0,2}/"
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


def check(request: GenerationRequest, *, output: str, tools: str) -> None:
    """Refuse what cannot be held, before a model is asked.

    Args:
        request: the whole call.
        output: the dialect's name for the schema of the answer, dotted.
        tools: the dialect's name for its tools: `tools` where the schema of number 3 is
            `tools.3.function.parameters`, else with braces for the number, such as
            `tools.{}.input_schema`.

    Raises:
        LmxError: INVALID_REQUEST for a schema that is none, is too large or fits nothing, or
            a tool choice without that tool; UNSUPPORTED_PARAMETER for a keyword that cannot be
            enforced; `param` is the place.
    """
    size = 0
    if request.output is not None:
        prepared(request.output.schema, output)
        size += _size(request.output.schema)
    choice = request.tool_choice
    if choice.mode == "required" and not request.prompt.tools:
        raise invalid("A tool must be called, but there are none.", param="tool_choice")
    if choice.name is not None and all(t.name != choice.name for t in request.prompt.tools):
        raise invalid(f"There is no tool '{choice.name:.64}'.", param="tool_choice")
    place = tools if "{}" in tools else f"{tools}.{{}}.function.parameters"
    for index, tool in enumerate(request.prompt.tools):
        if _is_held(request, tool):
            arguments_schema(tool.parameters, place.format(index))
            size += _size(tool.parameters)
    if size > MOST_BYTES:
        raise invalid("The schemas are too large together.", param=tools.partition(".")[0])


def answer_grammar(request: GenerationRequest, speech: Speech, thinking: bool) -> str | None:
    """Return llguidance's Lark text that the whole answer must match.

    Marks in it are plain text; an engine passes it through `lark.resolve` first.

    Args:
        request: a call that passed `check`.
        speech: how the model marks calls and thinking.
        thinking: the prompt ends inside a block of reasoning.

    Returns:
        None for an answer that may be anything.

    Raises:
        LmxError: UNSUPPORTED_PARAMETER where the model's dialect of calls has no grammar.
    """
    calling = request.tool_choice.mode != "none" and bool(request.prompt.tools)
    parts = _Parts(request, speech, thinking)
    if calling and request.tool_choice.mode == "required":
        body = parts.required()
    elif calling and (
        request.output is not None
        or not request.parallel_tool_calls
        or any(tool.strict for tool in request.prompt.tools)
    ):
        body = parts.free()
    elif request.output is not None:
        body = parts.final(parts.json())
    else:
        return None
    return parts.lark.text(f"{parts.reasoning()} {body}".strip())


def _is_held(request: GenerationRequest, tool: Tool) -> bool:
    """Whether this tool's arguments are held to its schema."""
    choice = request.tool_choice
    if choice.mode == "required":
        return choice.name in (None, tool.name)
    return choice.mode == "auto" and tool.strict


def _size(schema: object) -> int:
    return len(msgspec.json.encode(schema))


class _Parts:
    """Expressions of one answer; `lark` takes their rules."""

    def __init__(self, request: GenerationRequest, speech: Speech, thinking: bool) -> None:
        self.lark = Lark()
        self._request = request
        self._speech = speech
        self._thinking = thinking
        self._channels = HARMONY in (speech.tools, speech.reasoning)

    def reasoning(self) -> str:
        """A block of thinking: its rest where the prompt began it, else one or none."""
        lark = self.lark
        if self._channels:
            # The prompt ends before the first channel, whatever is thought in it.
            start = sequence(lark, ("<|channel|>", "analysis", "<|message|>"))
            end = f"{lark.until('<|end|>')} {sequence(lark, ('<|start|>', 'assistant'))}"
            return f"({start} {end})?"
        if not self._speech.reasoning and not self._thinking:
            return ""
        marks = think_marks(self._speech.reasoning)
        opening, closing = (marks.opens[0], marks.closes[0]) if marks else _USUAL_BLOCK
        rest = f"{lark.until(closing)} {lark.terminal(_BREAK)}"
        return rest if self._thinking else f"({lark.mark(opening)} {rest})?"

    def final(self, body: str) -> str:
        """The answer proper, after its channel's head where the model has channels."""
        if not self._channels:
            return body
        return f"{sequence(self.lark, ('<|channel|>', 'final', '<|message|>'))} {body}"

    def json(self) -> str:
        """JSON as the request wants it."""
        output = self._request.output
        assert output is not None
        return self.lark.json(prepared(output.schema, "response_format"))

    def required(self) -> str:
        """One call, or more where the request allows."""
        many = self._request.parallel_tool_calls and self._request.tool_choice.name is None
        return calls(self.lark, self._form(), self._callees(), many=many, triggered=False)

    def free(self) -> str:
        """Text or JSON, or calls; after calls nothing else."""
        form, many = self._form(), self._request.parallel_tool_calls
        callees = self._callees()
        if self._request.output is not None:
            wanted = calls(self.lark, form, callees, many=many, triggered=False)
            return f"({self.final(self.json())} | {wanted})"
        if form.trigger:
            wanted = calls(self.lark, form, callees, many=many, triggered=True)
            text = self.lark.plain((form.trigger,))
            return f"({text} | {self.lark.until(form.trigger)} {wanted})"
        wanted = calls(self.lark, form, callees, many=many, triggered=False)
        if self._channels:
            return f"({self.final(self.lark.plain(_HARMONY_MARKS))} | {wanted})"
        unmarked = self.lark.plain(_MARKED_LATER)
        text = self.lark.terminal(f"{_NO_CALL} & {unmarked}")
        return f"({text}? | {wanted})"

    def _form(self) -> Form:
        form = FORMS.get(self._speech.tools)
        if form is None:
            raise self._no_form()
        return form

    def _no_form(self) -> LmxError:
        if self._request.tool_choice.mode == "required":
            param = "tool_choice"
        elif not self._request.parallel_tool_calls:
            param = "parallel_tool_calls"
        else:
            param = "response_format" if self._request.output is not None else "tools"
        return unsupported("This model's tool calls cannot be constrained.", param)

    def _callees(self) -> list[Callee]:
        choice = self._request.tool_choice
        return [
            Callee(
                tool.name,
                arguments_schema(tool.parameters, f"tools.{index}.function.parameters")
                if _is_held(self._request, tool)
                else _ANY_OBJECT,
            )
            for index, tool in enumerate(self._request.prompt.tools)
            if choice.name in (None, tool.name)
        ]
