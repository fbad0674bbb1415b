"""Fill-in-the-middle: the marks with which models of code are shown what surrounds a gap."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec


class Marks(msgspec.Struct, frozen=True):
    """How one family writes a gap: each mark is a single token of its vocabulary.

    `suffix_first`: what follows the gap comes before what precedes it. `middle` is empty in
    families whose answer follows the last part directly. `spaced`: the vocabulary writes a
    space before every text, which the part after the gap must not have.
    """

    prefix: str
    suffix: str
    middle: str
    suffix_first: bool = False
    spaced: bool = False


FAMILIES = (
    # Qwen2.5-Coder, CodeGemma; StarCoder, Granite, StableCode; DeepSeek-Coder; CodeLlama;
    # Codestral; Seed-Coder; GLM-4. Told apart by the vocabulary alone.
    Marks("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    Marks("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    Marks("<\uff5cfim▁begin\uff5c>", "<\uff5cfim▁hole\uff5c>", "<\uff5cfim▁end\uff5c>"),
    Marks("▁<PRE>", "▁<SUF>", "▁<MID>", spaced=True),
    Marks("[PREFIX]", "[SUFFIX]", "", suffix_first=True),
    Marks("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", suffix_first=True),
    Marks("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
)
_ANCHOR = "☺"


class Encoder(Protocol):
    """The part of a tokenizer that is needed here."""

    def encode(self, text: str, add_special: bool) -> list[int]:
        """Return token ids; raises TextError."""
        ...


class Infill:
    """Writes prompts with a gap for one model.

    Args:
        marks: the family's way.
        ids: of the marks of prefix, suffix and (if any) middle.
    """

    def __init__(self, marks: Marks, ids: tuple[int, int, int | None]) -> None:
        self._marks = marks
        self._prefix, self._suffix, self._middle = ids

    def encode(self, tokenizer: Encoder, before: str, after: str) -> list[int]:
        """Token ids of a prompt whose continuation belongs between two texts.

        Raises:
            TextError: a text cannot be tokenized.
        """
        left = [self._prefix, *_plain(tokenizer, before, spaced=False)]
        right = [self._suffix, *_plain(tokenizer, after, spaced=self._marks.spaced)]
        parts = right + left if self._marks.suffix_first else left + right
        end = [] if self._middle is None else [self._middle]
        return [*tokenizer.encode("", add_special=True), *parts, *end]


def find_infill(token_id: Callable[[str], int | None]) -> Infill | None:
    """The way of the family whose marks the vocabulary holds; None where there are none.

    Args:
        token_id: the id of a text that is one token of the vocabulary, else None.
    """
    for marks in FAMILIES:
        prefix, suffix = token_id(marks.prefix), token_id(marks.suffix)
        middle = token_id(marks.middle) if marks.middle else None
        if prefix is None or suffix is None or (marks.middle and middle is None):
            continue
        return Infill(marks, (prefix, suffix, middle))
    return None


def _plain(tokenizer: Encoder, text: str, *, spaced: bool) -> Sequence[int]:
    """Token ids of a text, without the space a vocabulary would put before it if `spaced`."""
    if not text:
        return []
    if spaced:
        anchor = tokenizer.encode(_ANCHOR, add_special=False)
        joined = tokenizer.encode(_ANCHOR + text, add_special=False)
        if joined[: len(anchor)] == anchor:
            return joined[len(anchor) :]
    return tokenizer.encode(text, add_special=False)
