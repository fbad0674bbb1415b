"""What one rendering of a template may use: text and lists it builds, depth of calls, time."""

from collections.abc import Generator, Iterator, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from jinja2.exceptions import SecurityError

from opta_lmx.core.clock import Clock, SystemClock

MAX_BUILT = 32_000_000
"""The longest text that a template may make, be it a value or all of its output."""
MAX_WORK = 256_000_000
"""Characters that all operations of one rendering may make, kept or not."""
MAX_SECONDS = 5.0
"""How long rendering a short conversation may take."""
SECONDS_PER_CHAR = 1e-5
WORK_PER_CHAR = 256
"""What each character of a conversation adds: some templates look at all turns for each turn."""
MAX_DEPTH = 48
"""How deep calls of macros and of recursive loops may lie within one another."""

_STEP = 16
"""What an operation costs at least, and each member of a list, in characters."""
_LOOK_EVERY = 256
"""Operations between looks at the clock."""
_LONG = 100_000
"""Characters of a value after which the clock is looked at."""
_FLAT = frozenset({str, int, float, bool, type(None)})


class TemplateBoundError(SecurityError):
    """The template uses more than it may; no other conversation would help."""


class Meter:
    """Counts what one rendering uses.

    Each method raises TemplateBoundError once it is too much.

    Args:
        chars: length of what is rendered, by which the bounds grow.
        clock: time.
    """

    def __init__(self, chars: int = 0, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._ends = self._clock.monotonic() + MAX_SECONDS + chars * SECONDS_PER_CHAR
        self._room = MAX_WORK + chars * WORK_PER_CHAR
        self._looks = _LOOK_EVERY
        self._depth = 0

    def spend(self, size: int) -> None:
        """An operation made so many characters."""
        self._room -= size + _STEP
        if self._room < 0:
            raise TemplateBoundError("the template builds too much text")
        self._looks -= 1
        if self._looks <= 0 or size > _LONG:
            self._looks = _LOOK_EVERY
            if self._clock.monotonic() > self._ends:
                raise TemplateBoundError("the template takes too long")

    @contextmanager
    def deeper(self) -> Generator[None]:
        """Within a call."""
        self._depth += 1
        try:
            if self._depth > MAX_DEPTH:
                raise TemplateBoundError("the template's calls lie too deep within one another")
            yield
        finally:
            self._depth -= 1


_METER: ContextVar[Meter | None] = ContextVar("template_meter", default=None)


@contextmanager
def metered(meter: Meter) -> Generator[None]:
    """Everything that templates do inside is counted by this meter."""
    token = _METER.set(meter)
    try:
        yield
    finally:
        _METER.reset(token)


def meter() -> Meter:
    """The one that counts; a new one where none does."""
    found = _METER.get()
    if found is None:
        found = Meter()
        _METER.set(found)
    return found


def made(value: Any) -> Any:
    """Count a value that was just made; one that is made piece by piece is counted on the way.

    Raises:
        TemplateBoundError: it is too large, or there were too many.
    """
    if isinstance(value, str | bytes):
        size = len(value)
    elif isinstance(value, list | tuple | dict | set):
        size = len(cast("Sized", value)) * _STEP
    elif isinstance(value, Iterator):
        return _each_made(cast("Iterator[Any]", value))
    else:
        size = 0
    if size > MAX_BUILT:
        raise TemplateBoundError("the template builds too large a value")
    meter().spend(size)
    return cast("Any", value)


def each(values: Any) -> Iterator[Any]:
    """Count the rounds of a loop."""
    count = meter()
    for value in values:
        count.spend(0)
        yield value


def _each_made(values: Iterator[Any]) -> Iterator[Any]:
    return (made(value) for value in values)


def shown(value: Any) -> Any:
    """Check a value before it is written out, compared or measured as a whole.

    Raises:
        TemplateBoundError: it would come out too long.
    """
    weigh(value)
    return value


def weigh(*values: Any) -> int:
    """About how many characters values have when written out, shared parts counted each time.

    Raises:
        TemplateBoundError: more than `MAX_BUILT`.
    """
    if len(values) == 1 and type(values[0]) in _FLAT:
        return len(values[0]) if isinstance(values[0], str) else _STEP
    total = 0
    waiting: list[Any] = list(values)
    while waiting:
        value = waiting.pop()
        total += len(value) if isinstance(value, str | bytes) else _STEP
        if total > MAX_BUILT:
            raise TemplateBoundError("the template writes out too large a value")
        if isinstance(value, Mapping):
            found = cast("Mapping[Any, Any]", value)
            waiting += found.keys()
            waiting += found.values()
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += cast("list[Any]", value)
    meter().spend(total if total > _LONG else 0)
    return total
