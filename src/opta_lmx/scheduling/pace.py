"""How fast the model serves, measured on what was really served."""

from opta_lmx.scheduling.rules import Work

_KEPT = 0.95
"""Of the measurements before, this much counts still: the last twenty requests, about."""
_LEAST_LEFT = 0.25
"""Of an average answer, or of what it has taken already, whichever is more: what a row is
expected to take still that has run longer than was expected. The longer something has lasted, the
longer it is likely to go on."""
_ENOUGH = 2.0
"""Answers from which an average is believed."""


class Average:
    """A ratio of sums in which old measurements fade.

    Args:
        first: what is assumed until something was measured.
    """

    __slots__ = ("_first", "_over", "_sum", "weight")

    def __init__(self, first: float) -> None:
        self._first = first
        self._sum = self._over = 0.0
        self.weight = 0.0
        """How many measurements count."""

    def add(self, amount: float, over: float = 1.0) -> None:
        """Measure `amount` for `over` units."""
        self._sum = self._sum * _KEPT + amount
        self._over = self._over * _KEPT + over
        self.weight = self.weight * _KEPT + 1.0

    @property
    def value(self) -> float:
        """Amount per unit."""
        return self.blend(0.0, 0.0)

    def blend(self, amount: float, over: float) -> float:
        """The same, with something that is still being measured."""
        over += self._over
        return (self._sum + amount) / over if over > 0 else self._first


class Pace:
    """Seconds that prompts and answers take in a slot, and the length of answers.

    Prompts count when they have been processed and answers by their tokens, so a request that
    was broken off counts with what it used.
    """

    def __init__(self) -> None:
        self.prompt_s = Average(0.001)
        """Slot seconds for one unit of prompt cost."""
        self.token_s = Average(0.02)
        """Slot seconds for one token of answer."""
        self.answer = Average(96.0)
        """Tokens of an answer."""
        self.request_s = Average(2.0)
        """Slot seconds of a request."""


def still_to_come(average: float, so_far: float) -> float:
    """What is expected yet of something that takes `average` as a rule, and has taken `so_far`."""
    return max(average - so_far, _LEAST_LEFT * max(average, so_far))


def answer_left(average: float, produced: int, work: Work) -> float:
    """Tokens expected of an answer that has `produced` some already."""
    left = still_to_come(average, produced)
    return left if work.most is None else min(left, max(0, work.most - produced))


def believed(*averages: Average) -> float:
    """The first average that enough was measured for, or the last."""
    return next((one.value for one in averages if one.weight >= _ENOUGH), averages[-1].value)
