"""How each dialect writes tool calls, as grammar; the parsers of `codec.tools` read the same."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from opta_lmx.codec.constraints.lark import Lark, literal
from opta_lmx.codec.constraints.tagged import TaggedArguments, Tags


class Callee(msgspec.Struct, frozen=True):
    """A tool that may be called; `schema` (prepared) is what its arguments are held to."""

    name: str
    schema: dict[str, Any]


class Form(msgspec.Struct, frozen=True):
    """The calls of one dialect.

    `opening` and `closing` stand around all calls, `between` between two of them; they are
    sequences of marks and plain strings. `call` writes one. `trigger` is the mark that begins
    the first call after free text; a dialect without one has calls at the start of an answer.
    `many`: several calls can be written.
    """

    call: Callable[[Lark, Callee], str]
    trigger: str = ""
    opening: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    many: bool = True


_MARK = re.compile(r"^(?:<[^<> ]+>|\[[A-Z_]+\])$")


def sequence(lark: Lark, parts: Sequence[str]) -> str:
    """Return an expression for marks and plain strings one after another."""
    return " ".join(lark.mark(part) if _MARK.match(part) else literal(part) for part in parts)


def calls(lark: Lark, form: Form, callees: Sequence[Callee], *, many: bool, triggered: bool) -> str:
    """Return an expression for one call, or one and more.

    Args:
        lark: takes the rules.
        form: the dialect's.
        callees: the tools to choose from.
        many: whether more than one call may come.
        triggered: the trigger has been written already.
    """
    one = lark.rule(" | ".join(form.call(lark, callee) for callee in callees))
    parts = [sequence(lark, form.opening[1:] if triggered and form.opening else form.opening)]
    first = one
    if triggered and not form.opening:
        first = lark.rule(" | ".join(_without(form, lark, callee) for callee in callees))
    parts.append(first)
    if many and form.many:
        parts.append(f"({sequence(lark, form.between)} {one})*")
    parts.append(sequence(lark, form.closing))
    return " ".join(part for part in parts if part)


def _without(form: Form, lark: Lark, callee: Callee) -> str:
    """One call without the trigger that begins it."""
    head, _, rest = form.call(lark, callee).partition(" ")
    assert head == lark.mark(form.trigger)
    return rest


def _object(keys: tuple[str, str]) -> Callable[[Lark, Callee], str]:
    """`{"name": ..., "arguments": {...}}` with these keys."""

    def call(lark: Lark, callee: Callee) -> str:
        name = json.dumps(callee.name, ensure_ascii=False)
        head = f'{{"{keys[0]}": {name}, "{keys[1]}": '
        return f"{literal(head)} {lark.json(callee.schema)} {literal('}')}"

    return call


def _wrapped(
    before: tuple[str, ...], inner: Callable[[Lark, Callee], str], after: tuple[str, ...]
) -> Callable[[Lark, Callee], str]:
    def call(lark: Lark, callee: Callee) -> str:
        return f"{sequence(lark, before)} {inner(lark, callee)} {sequence(lark, after)}"

    return call


def _keyed(
    head: tuple[str, str, str], key: tuple[str, str], tail: tuple[str, ...]
) -> Callable[[Lark, Callee], str]:
    """Arguments one by one, each between its own tags; strings stand there unquoted.

    Args:
        head: mark, and what stands around the name.
        key: what stands around a key, then what ends its value.
        tail: what ends the call.
    """

    def call(lark: Lark, callee: Callee) -> str:
        before, after = key[0].split("{}")
        tags = Tags(before, after, key[1])
        parts = (
            sequence(lark, (head[0], f"{head[1]}{callee.name}{head[2]}")),
            TaggedArguments(lark, callee.name, callee.schema, tags).expression(),
            sequence(lark, tail),
        )
        return " ".join(part for part in parts if part)

    return call


def _kimi(lark: Lark, callee: Callee) -> str:
    number = lark.terminal("/[0-9]{1,3}/")
    before = sequence(lark, ("<|tool_call_begin|>", f"functions.{callee.name}:"))
    middle, after = lark.mark("<|tool_call_argument_begin|>"), lark.mark("<|tool_call_end|>")
    return f"{before} {number} {middle} {lark.json(callee.schema)} {after}"


def _deepseek_mark(name: str) -> str:
    """A mark of DeepSeek's, in whose text the bars are full-width."""
    return f"<\uff5ctool▁{name}\uff5c>"


def _deepseek(lark: Lark, callee: Callee) -> str:
    """Version 3 wrote a fenced block after the word `function`, 3.1 the name alone."""
    begin, separator = lark.mark(_deepseek_mark("call▁begin")), lark.mark(_deepseek_mark("sep"))
    arguments, end = lark.json(callee.schema), lark.mark(_deepseek_mark("call▁end"))
    fenced = (
        f'"function" {separator} {literal(callee.name + chr(10) + "```json" + chr(10))} '
        f"{arguments} {literal(chr(10) + '```')}"
    )
    return f"{begin} ({fenced} | {literal(callee.name)} {separator} {arguments}) {end}"


def _functions(opening: str, closing: str) -> Form:
    """Qwen3-Coder's form, which others took over in tags of their own."""
    head = (opening, "\n<function=", ">\n")
    key = ("<parameter={}>\n", "\n</parameter>\n")
    return Form(_keyed(head, key, ("</function>\n", closing)), trigger=opening, between=("\n",))


_ARGUMENTS = _object(("name", "arguments"))

FORMS: dict[str, Form] = {
    "json": Form(_ARGUMENTS, between=("\n",)),
    "llama3": Form(_object(("name", "parameters")), between=("; ",)),
    "hermes": Form(
        _wrapped(("<tool_call>", "\n"), _ARGUMENTS, ("\n", "</tool_call>")),
        trigger="<tool_call>",
        between=("\n",),
    ),
    "mistral": Form(
        _ARGUMENTS,
        trigger="[TOOL_CALLS]",
        opening=("[TOOL_CALLS]", "["),
        closing=("]",),
        between=(", ",),
    ),
    "deepseek": Form(
        _deepseek,
        trigger=_deepseek_mark("calls▁begin"),
        opening=(_deepseek_mark("calls▁begin"),),
        closing=(_deepseek_mark("calls▁end"),),
        between=("\n",),
    ),
    "kimi": Form(
        _kimi,
        trigger="<|tool_calls_section_begin|>",
        opening=("<|tool_calls_section_begin|>",),
        closing=("<|tool_calls_section_end|>",),
    ),
    "qwen3-coder": _functions("<tool_call>", "</tool_call>"),
    "seed": _functions("<seed:tool_call>", "</seed:tool_call>"),
    "glm": Form(
        _keyed(
            ("<tool_call>", "", "\n"),
            ("<arg_key>{}</arg_key>\n<arg_value>", "</arg_value>\n"),
            ("</tool_call>",),
        ),
        trigger="<tool_call>",
        between=("\n",),
    ),
    "minimax": Form(
        _keyed(
            ("<minimax:tool_call>", '\n<invoke name="', '">\n'),
            ('<parameter name="{}">', "</parameter>\n"),
            ("</invoke>\n", "</minimax:tool_call>"),
        ),
        trigger="<minimax:tool_call>",
        between=("\n",),
    ),
    "harmony": Form(
        _wrapped(
            ("<|channel|>", "commentary to=functions."),
            lambda lark, callee: (
                f"{literal(callee.name)} {sequence(lark, (' ', '<|constrain|>', 'json'))} "
                f"{lark.mark('<|message|>')} {lark.json(callee.schema)}"
            ),
            (),
        ),
        many=False,
    ),
}
"""By dialect; the others cannot be held to a grammar."""
