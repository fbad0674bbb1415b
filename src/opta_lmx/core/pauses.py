"""Long computations must not hold up the event loop: there they are refused, and done elsewhere.

Whether one is needed often shows only in the midst of the work, such as a schema that was never
judged before.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_forbidden: ContextVar[bool] = ContextVar("forbidden", default=False)


class TakesLong(Exception):
    """What was begun takes too long for the event loop."""


@contextmanager
def no_long_pauses() -> Generator[None]:
    """Within the block `about_to_pause` raises; threads begun afterwards are not concerned."""
    token = _forbidden.set(True)
    try:
        yield
    finally:
        _forbidden.reset(token)


def about_to_pause() -> None:
    """Say that some milliseconds of work follow. Raises TakesLong where nothing may take long."""
    if _forbidden.get():
        raise TakesLong
