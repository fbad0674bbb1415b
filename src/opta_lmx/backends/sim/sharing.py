"""A simulated device: workers that share it compute one at a time, in the order they asked."""

import contextlib
import fcntl
from collections.abc import Generator
from pathlib import Path


@contextlib.contextmanager
def device(path: str) -> Generator[None]:
    """Have the device of this name (a file) for oneself; without a name nobody shares it.

    Whoever comes next waits at the turnstile, and passes when the one before has left the device.
    """
    if not path:
        yield
        return
    with Path(path).open("w") as file:
        with Path(f"{path}.turnstile").open("w") as turnstile:
            fcntl.flock(turnstile, fcntl.LOCK_EX)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
