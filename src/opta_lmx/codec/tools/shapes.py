"""Patterns of JSON that is sound as it stands, so that whole stretches of it pass at once."""

import re
from functools import lru_cache

from opta_lmx.codec.tools.source import Marks

DEEPEST = 4
"""How deep lists and objects may be nested in one value of a stretch."""

_B = r"[ \t\r\n]*+"
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_NAMED = rf"[A-Za-z_][A-Za-z0-9_]*+{_B}[:=]"
_MORE_ITEMS = rf'(?:,{_B}(?=[-0-9"\[{{tfn])|(?=\]))'
_MORE_MEMBERS = rf'(?:,{_B}(?=")|(?=\}}))'


class Shapes:
    """Patterns for strings without certain marks in them; what they accept, the tokens accept.

    Attributes:
        member: a name and its colon. string: a string that is closed for certain.
    """

    def __init__(self, marks: Marks) -> None:
        """Use `shapes_of`, which keeps what it compiled."""
        text = _text(marks)
        self._text = text
        self.member = re.compile(rf"{text}{_B}:{_B}")
        self.string = re.compile(rf'{text}(?={_B}(?:[}}\])]|,{_B}(?:"|{_NAMED})))')
        self._items: dict[int, re.Pattern[str]] = {}
        self._members: dict[int, re.Pattern[str]] = {}

    def items(self, depth: int) -> re.Pattern[str]:
        """Values of a list with what separates them.

        Behind the last one stands a comma that another value follows, or the list's end.

        Args:
            depth: how deep the values may be nested.
        """
        found = self._items.get(depth)
        if found is None:
            found = re.compile(rf"(?:{_item(self._text, depth)}{_B}{_MORE_ITEMS})++")
            self._items[depth] = found
        return found

    def members(self, depth: int) -> re.Pattern[str]:
        """The same for the members of an object."""
        found = self._members.get(depth)
        if found is None:
            member = rf"{self._text}{_B}:{_B}{_item(self._text, depth)}"
            found = re.compile(rf"(?:{member}{_B}{_MORE_MEMBERS})++")
            self._members[depth] = found
        return found


def _text(marks: Marks) -> str:
    """A string with sound escapes and no mark."""
    firsts = "".join(sorted({re.escape(mark[0]) for mark in marks.all}))
    rests = "|".join(re.escape(mark[1:]) for mark in marks.all)
    apart = rf"|[{firsts}](?!{rests})" if firsts else ""
    return rf'"(?:[^"\\\x00-\x1f{firsts}]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{{4}}){apart})*+"'


def _item(text: str, depth: int) -> str:
    scalar = rf"true|false|null|{_NUMBER}|{text}"
    if depth == 0:
        return f"(?:{scalar})"
    item = _item(text, depth - 1)
    listed = rf"\[{_B}(?:{item}{_B}{_MORE_ITEMS})*+\]"
    members = rf"\{{{_B}(?:{text}{_B}:{_B}{item}{_B}{_MORE_MEMBERS})*+\}}"
    return f"(?:{scalar}|{listed}|{members})"


@lru_cache(maxsize=64)
def shapes_of(marks: Marks) -> Shapes:
    """Return the compiled shapes."""
    return Shapes(marks)
