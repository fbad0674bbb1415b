"""Prompts to token ids for any model that has a chat template and a tokenizer."""

from collections.abc import Sequence
from typing import Protocol

from opta_lmx.backends.protocol import LONGEST_PIECE, PreparedPrompt, TextError
from opta_lmx.backends.text.anchors import anchor_tokens
from opta_lmx.backends.text.cuts import find_openers, turn_starts
from opta_lmx.backends.text.infill import Infill
from opta_lmx.backends.text.template import ChatTemplate
from opta_lmx.codec.reasoning import ends_thinking
from opta_lmx.codec.tools.rendering import with_default_tools
from opta_lmx.core.types import Message, Prompt


class Tokenizer(Protocol):
    """Text to token ids; the texts of special tokens in it are read as those tokens."""

    @property
    def bos_token(self) -> str:
        """The text of the beginning-of-text token; empty where the model has none."""
        ...

    @property
    def eos_token(self) -> str:
        """The text of the end-of-text token; empty where the model has none."""
        ...

    @property
    def vocab_size(self) -> int:
        """Ids are below this."""
        ...

    def encode(self, text: str, add_special: bool) -> list[int]:
        """Return token ids; `add_special` adds what the tokenizer's configuration says.

        Raises:
            TextError: the text cannot be encoded.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones written out. Raises TextError."""
        ...


class TemplateTexts:
    """The `Texts` of a model whose prompts are made by a template and a tokenizer.

    A short conversation is rendered at once: a template that never ends shows while it is loaded.

    Args:
        template: renders conversations.
        tokenizer: the model's own.
        infill: fills gaps, for models that can.
        context: tokens of the window, where prompts are known that cannot fit.
        anchored: tell where a prompt's anchors are, for an engine that has use for them.
    """

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: Tokenizer,
        infill: Infill | None = None,
        context: int | None = None,
        *,
        anchored: bool = False,
    ) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._infill = infill
        self._context = context
        self._anchored = anchored
        self._openers = find_openers(
            template.render, lambda text: tokenizer.encode(text, add_special=False)
        )

    def prepare(self, prompt: Prompt, *, echo: bool = False) -> PreparedPrompt:
        """Render and tokenize a prompt.

        `echo` asks for its text too: the caller's own, the rendered one, or what its token
        ids stand for.

        Raises:
            TextError: the template or tokenizer refuses it, or it comes out empty.
        """
        text, thinking = prompt.text, False
        cuts: tuple[int, ...] = ()
        anchors: tuple[int, ...] = ()
        if prompt.ids is not None:
            ids = self._checked(prompt.ids)
        elif text is not None:
            ids = self._encode(text) if prompt.suffix is None else self._fill(text, prompt.suffix)
        else:
            text = self._render(prompt)
            # A template makes much of little; the count is not worth the minutes it may take.
            least = len(text) // LONGEST_PIECE
            if self._context is not None and least > self._context:
                return PreparedPrompt(at_least=least)
            ids = self._encode(text)
            cuts = turn_starts(ids, self._openers)
            if self._anchored and self._fits(ids):
                anchors = anchor_tokens(text, ids, prompt.messages, self._encode)
            thinking = ends_thinking(text, self._template.speech.reasoning)
        if not ids:
            raise TextError("the prompt is empty")
        if echo and text is None:
            text = self._tokenizer.decode(ids)
        shown = text if echo else None
        return PreparedPrompt(tuple(ids), cuts, anchors, text=shown, thinking=thinking)

    def _fits(self, ids: Sequence[int]) -> bool:
        return self._context is None or len(ids) <= self._context

    def _fill(self, before: str, after: str) -> list[int]:
        if self._infill is None:
            raise TextError("this model cannot fill in between a prompt and a suffix", "suffix")
        return self._infill.encode(self._tokenizer, before, after)

    def _render(self, prompt: Prompt) -> str:
        if not prompt.messages:
            raise TextError("the prompt has no messages")
        messages, tools = prompt.messages, prompt.tools
        if not self._template.supports_tools and (tools or _has_tool_turns(messages)):
            messages, tools = with_default_tools(messages, tools), ()
        return self._template.render(messages, tools, prompt.template_kwargs)

    def _encode(self, text: str) -> list[int]:
        # The template usually writes the first token itself; a second one harms the answer.
        bos = self._tokenizer.bos_token
        return self._tokenizer.encode(text, add_special=not (bos and text.startswith(bos)))

    def _checked(self, ids: Sequence[int]) -> Sequence[int]:
        limit = self._tokenizer.vocab_size
        for token in ids:
            if not 0 <= token < limit:
                raise TextError(f"token id {token} is outside the vocabulary of {limit}")
        return ids


def _has_tool_turns(messages: Sequence[Message]) -> bool:
    return any(message.tool_calls or message.role == "tool" for message in messages)
