"""What a tool-call parser offers: text goes in as it is generated, text and calls come out."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from opta_lmx.core.types import Tool


class TextOut(msgspec.Struct, frozen=True, gc=False):
    """Text that is no part of a call."""

    text: str


class ThoughtOut(msgspec.Struct, frozen=True, gc=False):
    """Reasoning; only parsers that know their model's marks of it give it.

    Empty where a mark of reasoning stands and no thoughts are told: what was blank before it
    does not belong to the answer.
    """

    text: str


class CallBegin(msgspec.Struct, frozen=True, gc=False):
    """A call begins: its name is known, and its arguments have begun."""

    name: str


class CallText(msgspec.Struct, frozen=True, gc=False):
    """More of the JSON text of the arguments of the call that is open."""

    text: str


class CallEnd(msgspec.Struct, frozen=True, gc=False):
    """The open call is complete: its arguments are one valid JSON value."""


ToolOut = TextOut | ThoughtOut | CallBegin | CallText | CallEnd


class ToolParser(Protocol):
    """An incremental parser for one answer.

    Text is returned at once unless it may be the start of a call. A call's arguments are
    returned as they are generated, mended on the way where they are not quite JSON; what was
    returned is never taken back. What turns out to be no call is given back as text,
    unchanged. The concatenated result depends on the text alone, never on how it was split.
    """

    @property
    def parse_failures(self) -> int:
        """How many calls were begun but could not be read.

        Those that broke before their name was known came out as text; later ones were ended
        with what was sound.
        """
        ...

    def feed(self, text: str) -> list[ToolOut]:
        """Take the next generated text (not empty)."""
        ...

    def finish(self, *, truncated: bool) -> list[ToolOut]:
        """End the answer.

        Args:
            truncated: it was cut (length limit, stop string, cancel) rather than ended by the
                model. A cut call is never completed by guessing: half a command is worse than
                none. It has no `CallEnd`.
        """
        ...


Schemas = Sequence[Tool]
"""The tools a request offers; parsers of untyped values look at their schemas."""
