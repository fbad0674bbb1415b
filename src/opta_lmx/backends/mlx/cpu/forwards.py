"""Where in a pass through the model we are, as far as calls of attention tell."""

from collections.abc import Callable


class Forwards:
    """Counts attention's calls, to know the last layer's.

    Of a prompt only the caches are read. MLX computes what is read and nothing else, so what the
    last layer makes of its attention is never computed, unless somebody asks for it at once, as
    numpy does. A wrong count costs time, and nothing else.
    """

    def __init__(self) -> None:
        self._length = 0
        self._calls = 0

    @property
    def at_end(self) -> bool:
        """Whether the last layer's attention was called: of a prompt nothing more is read."""
        return 0 < self._length == self._calls

    def learn(self, forward: Callable[[], object]) -> None:
        """Count the calls of one pass."""
        self._length = self._calls = 0
        forward()
        self._length, self._calls = self._calls, 0

    def begin(self) -> None:
        """What was begun before is over: a pass begins, or none."""
        self._calls = 0

    def attend(self) -> None:
        """Attention is called."""
        self._calls = 1 if self.at_end else self._calls + 1
