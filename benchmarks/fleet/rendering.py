"""The prompt a model is really given, made here too: the client knows what its requests share.

The model's folder carries `TEMPLATE`, and `render` writes the same text from a request; every
answer's own count of prompt tokens is held against it, so that a wrong guess cannot pass.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.fleet.script import Ask, Turn
from benchmarks.prompts import WORDS

TEMPLATE = (
    "{% if tools %}<|im_start|>system\n# Tools\n"
    "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Call a tool by <tool_call>object with name and arguments</tool_call>.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>"
    "{{ call.function.name }} {{ call.function.arguments | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_BETWEEN = "\n\n"
"""What this server puts between two turns of one role that it joins."""


def render(ask: Ask, *, joined: bool) -> str:
    """The prompt's text; `joined` where the server merges neighbouring turns of one role."""
    parts: list[str] = []
    if ask.tools:
        parts.append("<|im_start|>system\n# Tools\n")
        parts += [_tool_line(tool.name, tool.description, tool.parameters) for tool in ask.tools]
        parts.append(
            "Call a tool by <tool_call>object with name and arguments</tool_call>.<|im_end|>\n"
        )
    for role, text in _merged(_messages(ask)) if joined else _messages(ask):
        parts.append(f"<|im_start|>{role}\n{text}<|im_end|>\n")
    return "".join([*parts, "<|im_start|>assistant\n"])


def _tool_line(name: str, description: str, parameters: object) -> str:
    function = {"name": name, "description": description, "parameters": parameters}
    return json.dumps({"type": "function", "function": function}, ensure_ascii=False) + "\n"


def _messages(ask: Ask) -> Iterator[tuple[str, str]]:
    if ask.system:
        yield "system", ask.system
    for turn in ask.turns:
        yield turn.role, _text(turn)
    if ask.tail:
        yield "user", ask.tail


def _text(turn: Turn) -> str:
    if turn.call is None:
        return turn.text
    arguments = json.dumps(turn.call.arguments, ensure_ascii=False)
    return f"{turn.text}<tool_call>{turn.call.name} {arguments}</tool_call>"


def _merged(messages: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    held: tuple[str, str] | None = None
    for role, text in messages:
        if held is not None and held[0] == role == "user":
            held = (role, held[1] + _BETWEEN + text)
            continue
        if held is not None:
            yield held
        held = (role, text)
    if held is not None:
        yield held


class Counter:
    """Token ids of prompts, by the model's own tokenizer.

    Args:
        folder: the model's.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        return [found.ids for found in self._tokenizer.encode_batch(list(texts))]

    @property
    def tokens_per_word(self) -> float:
        """Of the words that prompts are made of."""
        (ids,) = self.ids([" ".join(WORDS)])
        return len(ids) / len(WORDS)
