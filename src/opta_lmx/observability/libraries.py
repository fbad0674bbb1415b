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
        try:
            said = record.getMessage()
        except (TypeError, ValueError):  # Its arguments do not fit; they are not worth a fault.
            said = str(record.msg)
        level = next(name for least, name in _LEVELS if record.levelno >= least)
        fields = {} if error is None else {"exc_info": error}
        self._telemetry.log(level, "library message", logger=record.name, said=said, **fields)


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
