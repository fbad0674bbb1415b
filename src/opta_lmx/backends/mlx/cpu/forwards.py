"""Where in a pass through the model we are, as far as calls of attention tell."""

from collections.abc import Callable


class Forwards:
    """Counts attention's calls, to know the last layer's.

    Of a prompt only the caches are read. MLX computes what is read and nothing else, so what the
    last layer with a cache makes of its attention is never computed, nor are layers after it that
    share its cache, unless somebody asks for it at once, as numpy does. A wrong count costs time,
    and nothing else.
    """

    def __init__(self) -> None:
        self._length = 0
        self._read = 0
        self._calls = 0

    @property
    def at_end(self) -> bool:
        """Whether the last cache has been written: of a prompt nothing more is read."""
        return 0 < self._read <= self._calls

    def learn(self, forward: Callable[[], object], caches: int) -> None:
        """Count the calls of one pass through a model that has so many caches."""
        self._length = self._calls = self._read = 0
        forward()
        self._length, self._calls = self._calls, 0
        self._read = min(self._length, caches)

    def begin(self) -> None:
        """What was begun before is over: a pass begins, or none."""
        self._calls = 0

    def attend(self) -> None:
        """Attention is called."""
        self._calls = 1 if 0 < self._length == self._calls else self._calls + 1
