"""The simulated template and tokenizer: turns as `role: text` lines, one token per UTF-8 byte."""

import os

from opta_lmx.backends.protocol import PreparedPrompt, TextError
from opta_lmx.backends.sim.options import SimOptions
from opta_lmx.core.clock import block_for
from opta_lmx.core.types import Prompt

_FOREVER_S = 3600.0


class SimTexts:
    """Renders and tokenizes."""

    def __init__(self, options: SimOptions) -> None:
        self._options = options

    def prepare(self, prompt: Prompt, *, echo: bool = False) -> PreparedPrompt:
        """Render and tokenize. Raises TextError."""
        if self._options.hang_template:
            block_for(_FOREVER_S)
        block_for(self._options.prepare_ms / 1000)
        fatal = self._options.die_preparing
        if fatal and fatal in (prompt.text or ""):
            os._exit(9)
        if prompt.ids is not None:
            shown = bytes(token % 256 for token in prompt.ids).decode("utf-8", "replace")
            return self._made(prompt.ids, (), shown if echo else None)
        turns = [f"{m.role}: {m.content}\n" for m in prompt.messages]
        text = "".join(turns) if prompt.text is None else prompt.text
        if prompt.suffix is not None and not self._options.infill:
            raise TextError("this model cannot fill in between a prompt and a suffix", "suffix")
        if not text:
            raise TextError("The prompt is empty.")
        cuts = () if prompt.text is not None else _starts(turns)
        ids = (text + (prompt.suffix or "")).encode()
        return self._made(tuple(ids), cuts, text if echo else None)

    def _made(
        self, ids: tuple[int, ...], cuts: tuple[int, ...], text: str | None
    ) -> PreparedPrompt:
        return PreparedPrompt(ids, cuts, text=text, thinking=self._options.thinking)


def _starts(turns: list[str]) -> tuple[int, ...]:
    """Where each turn but the first starts, in tokens."""
    at, found = 0, list[int]()
    for turn in turns[:-1]:
        at += len(turn.encode())
        found.append(at)
    return tuple(found)
