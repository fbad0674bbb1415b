"""What libraries say through the standard library's `logging` becomes lines of the one log."""

import contextlib
import logging
from collections.abc import Generator

from opta_lmx.core.telemetry import TOLD, Telemetry

_LEVELS = ((logging.CRITICAL, "critical"), (logging.ERROR, "error"), (0, "warning"))


class _Teller(logging.Handler):
    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__(logging.WARNING)
        self._telemetry = telemetry

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if getattr(error, TOLD, False):
            return
        level = next(name for least, name in _LEVELS if record.levelno >= least)
        fields = {} if error is None else {"exc_info": error}
        try:
            self._telemetry.log(
                level, "library message", logger=record.name, said=_said(record), **fields
            )
        except Exception as fault:  # noqa: BLE001  (boundary: no library fails by what it says)
            self._telemetry.log(level, "library message", logger=record.name, fault=_kind(fault))


def _said(record: logging.LogRecord) -> str:
    """What a record says: its own objects make the text, and may raise anything."""
    try:
        return record.getMessage()
    except Exception as fault:  # noqa: BLE001  (boundary: as `logging.Handler.handleError`)
        words = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        return f"{words} ({_kind(fault)})"


def _kind(fault: Exception) -> str:
    return type(fault).__name__


@contextlib.contextmanager
def told_by_libraries(telemetry: Telemetry) -> Generator[None]:
    """Log warnings and errors of libraries for the block, in our form and without secrets.

    Without a handler of its own, Python would print them as they are: a traceback may hold what
    a request brought.
    """
    root, handler = logging.getLogger(), _Teller(telemetry)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
