"""Stop strings on text, across token borders, in linear time (Aho-Corasick).

Which occurrence wins: the one that ends first in the text, because generation would have
stopped there; of several ending at the same place, the longest. The result therefore depends
on the text alone, never on how it was split.
"""

import re
from collections import deque
from collections.abc import Sequence


class _Automaton:
    """Trie of the stop strings with failure links; state 0 is "nothing matched so far"."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.edges: list[dict[str, int]] = [{}]
        self.fail: list[int] = [0]
        self.depth: list[int] = [0]
        self.matched: list[int] = [0]
        for stop in stops:
            self._insert(stop)
        self._link()

    def _insert(self, stop: str) -> None:
        state = 0
        for char in stop:
            following = self.edges[state].get(char)
            if following is None:
                following = len(self.edges)
                self.edges[state][char] = following
                self.edges.append({})
                self.fail.append(0)
                self.depth.append(self.depth[state] + 1)
                self.matched.append(0)
            state = following
        self.matched[state] = len(stop)

    def _link(self) -> None:
        waiting = deque(self.edges[0].values())
        while waiting:
            state = waiting.popleft()
            for char, following in self.edges[state].items():
                self.fail[following] = self.step(self.fail[state], char)
                waiting.append(following)
            if not self.matched[state]:
                self.matched[state] = self.matched[self.fail[state]]

    def step(self, state: int, char: str) -> int:
        """Return the state after `char`; amortised constant time."""
        while state and char not in self.edges[state]:
            state = self.fail[state]
        return self.edges[state].get(char, 0)


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
        firsts = "".join(sorted({re.escape(stop[0]) for stop in stops}))
        self._first = re.compile(f"[{firsts}]")
        self._state = 0
        self.held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that is safe to show, and whether a stop string is now complete.

        After a match nothing more may be fed: the stop string and all after it are gone.
        """
        if self._state == 0 and self._first.search(text) is None:
            return text, False
        whole = self.held + text
        end = self._scan(text)
        if end is not None:
            end += len(self.held)
            cut = end - self._automaton.matched[self._state]
            self.matched = whole[cut:end]
        else:
            cut = len(whole) - self._automaton.depth[self._state]
        self.held = whole[cut:]
        return whole[:cut], end is not None

    def restart(self) -> None:
        """Begin anew with the next text, whatever was held or matched."""
        self.held, self._state, self.matched = "", 0, None

    def _scan(self, text: str) -> int | None:
        """Advance over `text`; return the offset just past the first complete stop string."""
        step, matched, state = self._automaton.step, self._automaton.matched, self._state
        position, size = 0, len(text)
        while position < size:
            if state == 0:
                found = self._first.search(text, position)
                if found is None:
                    break
                position = found.start()
            state = step(state, text[position])
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
