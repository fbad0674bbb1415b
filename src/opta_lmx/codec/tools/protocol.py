"""What a tool-call parser offers: text goes in as it is generated, text and calls come out."""

from typing import Protocol

import msgspec


class TextOut(msgspec.Struct, frozen=True, gc=False):
    """Text that is no part of a call."""

    text: str


class CallOut(msgspec.Struct, frozen=True, gc=False):
    """One whole call; `arguments` is valid JSON text, as the model wrote it where possible."""

    name: str
    arguments: str


ToolOut = TextOut | CallOut


class ToolParser(Protocol):
    """An incremental parser for one answer.

    Text is returned at once unless it may be the start of a call; a call is returned whole
    when it is complete. What turns out to be no call is given back as text, unchanged. The
    concatenated result depends on the text alone, never on how it was split.
    """

    @property
    def parse_failures(self) -> int:
        """How many calls were begun but could not be read, and were given back as text."""
        ...

    def feed(self, text: str) -> list[ToolOut]:
        """Take the next generated text (not empty)."""
        ...

    def finish(self, *, truncated: bool) -> list[ToolOut]:
        """End the answer.

        Args:
            truncated: it was cut (length limit, stop string, cancel) rather than ended by the
                model. A cut call is never completed by guessing: half a command is worse than
                none.
        """
        ...
