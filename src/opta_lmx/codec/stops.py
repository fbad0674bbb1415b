"""Stop strings on text, across token borders, in linear time (Aho-Corasick).

Which occurrence wins: the one that ends first in the text, because generation would have
stopped there; of several ending at the same place, the longest. The result therefore depends
on the text alone, never on how it was split.
"""

import re
from collections import deque
from collections.abc import Sequence

_GLANCE = 4
"""Characters of a stop string that are looked for at once before the automaton takes over."""


class _Automaton:
    """States are beginnings of the stop strings, 0 the empty one: the longest that was met.

    Attributes:
        moves: for each state, the next one by character; 0 where there is none.
        depth: characters of the state.
        matched: characters of the longest stop string that ends with the state; 0 for none.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.moves: list[dict[str, int]] = [{}]
        self.depth: list[int] = [0]
        self.matched: list[int] = [0]
        for stop in stops:
            self._insert(stop)
        self._link()

    def _insert(self, stop: str) -> None:
        state = 0
        for char in stop:
            following = self.moves[state].get(char)
            if following is None:
                following = len(self.moves)
                self.moves[state][char] = following
                self.moves.append({})
                self.depth.append(self.depth[state] + 1)
                self.matched.append(0)
            state = following
        self.matched[state] = len(stop)

    def _link(self) -> None:
        """Give each state the moves of the longest other state that it ends with."""
        waiting = deque((state, 0) for state in self.moves[0].values())
        while waiting:
            state, other = waiting.popleft()
            moves = self.moves[other]
            waiting.extend((to, moves.get(char, 0)) for char, to in self.moves[state].items())
            self.moves[state] = moves | self.moves[state]
            self.matched[state] = self.matched[state] or self.matched[other]


def _beginning(stop: str) -> str:
    """A pattern of the first characters of a stop string, or of fewer where the text ends."""
    pattern = ""
    for char in reversed(stop[:_GLANCE]):
        pattern = re.escape(char) + (rf"(?:{pattern}|\Z)" if pattern else "")
    return pattern


class StopMatcher:
    """Watches one text for any of `stops` and holds back only what may still become one.

    Args:
        stops: non-empty strings.

    Attributes:
        matched: the stop string that was met.
        held: what the last `feed` did not return: the beginning of a stop string, or the one
            that matched and all after it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._automaton = _Automaton(stops)
        self._first = re.compile("|".join(map(_beginning, stops)))
        self._state = 0
        self.held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that is safe to show, and whether a stop string is now complete.

        After a match nothing more may be fed: the stop string and all after it are gone.
        """
        whole = self.held + text
        end = self._scan(whole)
        if self._state == 0:
            self.held = ""
            return whole, False
        if end is None:
            cut = len(whole) - self._automaton.depth[self._state]
        else:
            cut = end - self._automaton.matched[self._state]
            self.matched = whole[cut:end]
        self.held = whole[cut:]
        return whole[:cut], end is not None

    def restart(self) -> None:
        """Begin anew with the next text, whatever was held or matched."""
        self.held, self._state, self.matched = "", 0, None

    def _scan(self, text: str) -> int | None:
        """Advance over `text`, of which `held` is known; return where a stop string ends."""
        moves, matched = self._automaton.moves, self._automaton.matched
        state, position, size = self._state, len(self.held), len(text)
        if position < _GLANCE:  # so few are sooner looked for again
            state = position = 0
        while position < size:
            if state == 0:
                found = self._first.search(text, position)
                if found is None:
                    break
                position = found.start()
            state = moves[state].get(text[position], 0)
            position += 1
            if matched[state]:
                self._state = state
                return position
        self._state = state
        return None

    def flush(self) -> str:
        """Return the held text: the end came, so it was no stop string."""
        held = self.held
        self.restart()
        return held
