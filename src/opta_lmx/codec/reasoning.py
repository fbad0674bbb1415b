"""How models mark their reasoning, and whether a prompt leaves a block of it open."""

from collections.abc import Callable

import msgspec

HARMONY = "harmony"


class ThinkMarks(msgspec.Struct, frozen=True):
    """Marks of one style: `opens` and `closes` of a block; `silent` ones are merely dropped.

    `tokens` are parts of marks that vocabularies hold as one token.
    """

    opens: tuple[str, ...]
    closes: tuple[str, ...]
    silent: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every mark."""
        return (*self.opens, *self.closes, *self.silent)


# In this order a template is searched: marks of one family before those that many use.
_STYLES: dict[str, ThinkMarks] = {
    "mistral": ThinkMarks(("[THINK]",), ("[/THINK]",)),
    "seed": ThinkMarks(("<seed:think>",), ("</seed:think>",)),
    "kimi-vl": ThinkMarks(("◁think▷",), ("◁/think▷",)),
    "gemma": ThinkMarks(("<|channel>thought",), ("<channel|>",), tokens=("<|channel>",)),
    "cohere": ThinkMarks(
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    "minimax": ThinkMarks(("<mm:think>",), ("</mm:think>",)),
    "longcat": ThinkMarks(("<longcat_think>",), ("</longcat_think>",)),
    "apertus": ThinkMarks(("<|inner_prefix|>",), ("<|inner_suffix|>",)),
    "granite": ThinkMarks(("Here is my thought process:",), ("Here is my response:",)),
    "apriel": ThinkMarks(("Here are my reasoning steps:",), ("[BEGIN FINAL RESPONSE]",)),
    "think": ThinkMarks(("<think>",), ("</think>",)),
    "thinking": ThinkMarks(("<thinking>",), ("</thinking>",)),
}

REASONING_STYLES = frozenset(("", HARMONY, *_STYLES))
"""Valid names of a reasoning style; empty: the model marks none."""

_HARMONY_MARK = "<|channel|>"


def think_marks(style: str) -> ThinkMarks | None:
    """Return the marks of a style; None for no style and for Harmony, which has channels.

    Raises:
        ValueError: there is no such style.
    """
    if style not in REASONING_STYLES:
        raise ValueError(f"unknown reasoning style '{style}'")
    return _STYLES.get(style)


def style_for_template(source: str, has_token: Callable[[str], bool]) -> str:
    """Return the style of a model with this chat template.

    Args:
        source: the template.
        has_token: whether the vocabulary holds a text as one token; it tells the style of
            models whose templates do not mention it.
    """
    if _HARMONY_MARK in source and "analysis" in source:
        return HARMONY
    said = source.replace("\\\\n", "\n")
    for name, marks in _STYLES.items():
        if any(mark in said for mark in (*marks.opens, *marks.closes)):
            return name
    for name, marks in _STYLES.items():
        if all(has_token(mark) for mark in (*marks.opens, *marks.closes)):
            return name
    return ""


def ends_thinking(rendered: str, style: str) -> bool:
    """Whether a rendered prompt ends inside a block of reasoning, which the answer continues."""
    marks = think_marks(style)
    return marks is not None and rendered[-256:].rstrip().endswith(marks.opens)
