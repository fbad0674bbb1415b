"""The text of an answer as it arrives, read by coroutines that yield when they need more.

A parser written this way reads like one for a whole text, and cannot depend on how the text
was split as long as it decides nothing before it has seen what the decision rests on.
"""

import re
from collections.abc import Generator, Iterable
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
Reads = Generator[None, None, T]
"""A coroutine that yields whenever it needs more text, and returns a `T`."""

PATIENCE = 4096
"""Repairs that one answer is worth: behind them no calls and blocks of reasoning are looked for.

It bounds what a hostile or confused model can cost; what needs no repair is read in stretches.
"""

CALL_COST = 4
"""A call, or what looks like one, counts as so many repairs; so an answer holds about 700."""


class Source:
    """Text that has arrived and is not yet consumed: `text[at:]`.

    Attributes:
        base: how many characters came before `text`.
        ended: no more will come. `truncated`: because the answer was cut.
        raw: what was consumed since a beginning that is still in doubt; None: nothing is.
        literal: marks count inside strings too, because a string was never closed.
        last: the character consumed last; empty behind a call's arguments.
        spent: how much of `PATIENCE` is used up; it depends on the text alone.
    """

    __slots__ = ("at", "base", "ended", "last", "literal", "raw", "spent", "text", "truncated")

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.base = 0
        self.ended = False
        self.truncated = False
        self.literal = False
        self.raw: list[str] | None = None
        self.last = ""
        self.spent = 0

    @property
    def weary(self) -> bool:
        """Nothing more is repaired, and no further calls are looked for."""
        return self.spent >= PATIENCE

    def add(self, text: str) -> None:
        """Append what was generated."""
        self.text = self.text[self.at :] + text
        self.base += self.at
        self.at = 0

    def end(self, *, truncated: bool) -> None:
        """Nothing more will come."""
        self.ended = True
        self.truncated = truncated

    def take(self, to: int) -> str:
        """Consume up to the index `to` and return that text."""
        text = self.text[self.at : to]
        if text:
            self.last = text[-1]
            self.at = to
            if self.raw is not None:
                self.raw.append(text)
        return text

    def back(self, to: int, text: str) -> None:
        """Return to the place `to` (counted from the answer's first character), unread.

        Args:
            to: the place.
            text: what was consumed from there on, in case it is gone.
        """
        if to >= self.base:
            self.at = to - self.base
        else:
            self.text = text + self.text[self.at :]
            self.base, self.at = to, 0

    def more(self) -> Reads[bool]:
        """Wait until there is more text than now; False when there never will be."""
        size = len(self.text) - self.at
        while not self.ended:
            yield
            if len(self.text) - self.at > size:
                return True
        return False

    def peek(self) -> Reads[str]:
        """Return the next character without consuming it; empty at the end."""
        if self.at >= len(self.text):
            yield from self.more()
        return self.text[self.at : self.at + 1]

    def follows(self, marks: "Marks") -> Reads[str]:
        """Return which mark stands here, without consuming it; empty when none does."""
        while True:
            if self.at < len(self.text) and self.text[self.at] not in marks.firsts:
                return ""
            found = marks.whole.match(self.text, self.at)
            if found is not None:
                return found.group()
            if marks.cut(self.text, self.at) != len(self.text) - self.at:
                return ""
            if not (yield from self.more()):
                return ""

    def accept(self, marks: "Marks") -> Reads[str]:
        """Consume one of the marks if it stands here, and return it."""
        mark = yield from self.follows(marks)
        if mark:
            self.take(self.at + len(mark))
        return mark

    def skip(self, pattern: re.Pattern[str]) -> Reads[None]:
        """Consume every character at hand that `pattern`, a repeated set of them, takes."""
        while True:
            found = pattern.match(self.text, self.at)
            if found is not None:
                self.take(found.end())
            if self.at < len(self.text) or not (yield from self.more()):
                return

    def blank(self, limit: int = 1 << 30) -> Reads[str]:
        """Consume white space, at most `limit` characters, and return it."""
        parts: list[str] = []
        while limit > 0:
            found = _BLANK.match(self.text, self.at, self.at + limit)
            if found is not None:
                parts.append(self.take(found.end()))
                limit -= len(parts[-1])
            if self.at < len(self.text) or not (yield from self.more()):
                break
        return "".join(parts)


_BLANK = re.compile(r"\s+")


class Marks:
    """Literal marks to look for; where several match, the longest counts."""

    def __init__(self, marks: Iterable[str]) -> None:
        """Use `marks_of`, which keeps what it compiled."""
        self.all = tuple(sorted({mark for mark in marks if mark}, key=len, reverse=True))
        self.firsts = frozenset(mark[0] for mark in self.all)
        never = r"(?!)"
        self.whole = re.compile("|".join(map(re.escape, self.all)) or never)
        self._cut = re.compile(rf"(?:{_beginnings(self.all) or never})\Z")
        self._longest = max((len(mark) for mark in self.all), default=1)
        self._overlapping = any(
            first.endswith(second[:size])
            for first in self.all
            for second in self.all
            for size in range(1, min(len(first), len(second)))
        )

    def cut(self, text: str, start: int) -> int:
        """Return how many characters at the end of `text[start:]` may be the start of a mark.

        Those that belong to a whole mark are none.
        """
        begin = len(text) - self._longest + 1
        found = self._cut.search(text, max(start, begin))
        if found is None:
            return 0
        if self._overlapping:
            begin = max(start, found.start() - self._longest + 1)
            for whole in self.whole.finditer(text, begin):
                if whole.start() < found.start() < whole.end():
                    return self.cut(text, whole.end())
        return len(text) - found.start()


@lru_cache(maxsize=256)
def marks_of(*marks: str) -> Marks:
    """Return the compiled marks."""
    return Marks(marks)


def _beginnings(marks: Iterable[str]) -> str:
    """A pattern of every proper beginning of the marks; what they share is written once."""
    rests: dict[str, list[str]] = {}
    for mark in marks:
        if len(mark) > 1:
            rests.setdefault(mark[0], []).append(mark[1:])
    following = ((re.escape(char), _beginnings(after)) for char, after in rests.items())
    return "|".join(char + (f"(?:{rest})?+" if rest else "") for char, rest in following)
