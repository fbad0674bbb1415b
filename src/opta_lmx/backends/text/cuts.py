"""Where turns start in a prompt's tokens: found by the special tokens that open them.

A template is asked once how it writes a conversation whose words are known; from then on a look
at a prompt's ids tells, and nothing is rendered or encoded a second time. Models that open turns
with plain text have no such tokens, and no cuts.
"""

import re
from collections.abc import Callable, Container, Sequence

import msgspec

from opta_lmx.backends.protocol import TextError
from opta_lmx.core.types import Message, Role

_MARK = re.compile(r"<[^<>\s]{1,64}>|\[/?[A-Z_]{1,32}\]|\]~\w{1,8}\]|\[e~\[")
_ROLES: tuple[Role, ...] = ("system", "user", "assistant", "user")
_WORDS = ("quibbled", "marzipan", "vexation", "jodhpurs")
"""Said in the probe: words that no template writes itself."""

Render = Callable[[Sequence[Message]], str]
Encode = Callable[[str], Sequence[int]]


class _Mark(msgspec.Struct, frozen=True):
    """What may be a special token's text; `after`: other text stands between it and the next."""

    text: str
    after: bool


def find_openers(render: Render, encode: Encode) -> frozenset[int]:
    """The tokens with which turns start.

    Args:
        render: a conversation to its text; may raise TextError.
        encode: a text to its tokens, none added; may raise TextError.
    """
    # Some templates put instructions elsewhere than in front: those are asked without any.
    return _ask(render, encode, 0) or _ask(render, encode, 1)


def _ask(render: Render, encode: Encode, skip: int) -> frozenset[int]:
    turns = [Message(role, word) for role, word in zip(_ROLES, _WORDS, strict=True)][skip:]
    try:
        gaps = _gaps(render(turns), _WORDS[skip:])
        marks = {mark for gap in gaps for mark in _MARK.findall(gap)}
        found = {mark: encode(mark) for mark in marks}
    except TextError:
        return frozenset()
    single = {mark: ids[0] for mark, ids in found.items() if len(ids) == 1}
    if not single:
        return frozenset()
    known = [_marks(gap, single) for gap in gaps]
    known[1:1] = [[]] * skip
    return frozenset(single[mark] for mark in _openers(known))


def turn_starts(ids: Sequence[int], openers: frozenset[int]) -> tuple[int, ...]:
    """Offsets of these tokens in a prompt, but for its very beginning."""
    return tuple(at for at, token in enumerate(ids) if token in openers and at)


def _gaps(text: str, words: Sequence[str]) -> list[str]:
    """The text before each word that was said; nothing when one is missing or out of place."""
    gaps: list[str] = []
    at = 0
    for word in words:
        start = text.find(word, at)
        if start < 0:
            return []
        gaps.append(text[at:start])
        at = start + len(word)
    return gaps


def _marks(gap: str, known: Container[str]) -> list[_Mark]:
    found = [match for match in _MARK.finditer(gap) if match[0] in known]
    ends = [match.start() for match in found] + [len(gap)]
    return [
        _Mark(match[0], after=bool(gap[match.end() : end].strip()))
        for match, end in zip(found, ends[1:], strict=True)
    ]


def _openers(gaps: list[list[_Mark]]) -> set[str]:
    """Of the marks before each turn the one that opens it."""
    first = {mark.text for mark in gaps[0]}
    user, assistant, again = gaps[1:]
    # What ends an answer only stands before a user's second turn, not before the first.
    common = {mark.text for mark in user}
    again = [mark for mark in again if mark.text in common] or again
    before, answer, after = _without_closer([user, assistant, again], first)
    same = [mark for mark in after if mark in before] or [mark for mark in after if mark in first]
    openers = set(same[:1])
    openers.update([mark for mark in answer if mark in openers][:1] or answer[:1])
    return openers


def _without_closer(gaps: list[list[_Mark]], first: set[str]) -> list[list[str]]:
    """The marks' texts, without those that end every turn: another follows them directly."""
    while True:
        used = [gap for gap in gaps if gap]
        heads = {gap[0].text for gap in used}
        if len(heads) != 1 or any(len(gap) == 1 or gap[0].after for gap in used):
            break
        # One that stands before the first turn too, and before each role's own, opens turns.
        if heads <= first and len({gap[1].text for gap in used}) > 1:
            break
        gaps = [gap[1:] for gap in gaps]
    return [[mark.text for mark in gap] for gap in gaps]
