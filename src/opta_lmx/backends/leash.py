"""Keeps a program that works in the background from outliving, or outpacing, its server."""

import os
import threading

_STDIN = 0
_FAILED = 1
_NICENESS = 10
"""Requests of users go before work in the background."""


def hold() -> None:
    """Give way to other processes, and end when standard input does: whoever began us is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(_NICENESS)


def _end_with_parent() -> None:
    """End at once, whatever is going on."""
    # Not through `sys.stdin`: its lock, held here, would abort the interpreter's own end.
    while os.read(_STDIN, 1 << 10):
        pass
    os._exit(_FAILED)
