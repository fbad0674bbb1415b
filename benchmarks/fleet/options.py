"""Command-line options and the scratch folder that all of the fleet's programs share."""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fleet.stage import KINDS

_ENDED = 128 + signal.SIGTERM


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what says how long prompts are and how the server is set up."""
    add = parser.add_argument
    add("--scale", type=float, default=0.25, help="prompts as parts of OpenClaw's (1: 12k shared)")
    add("--turns", type=int, default=10, help="turns of a session")
    add("--model", choices=KINDS, default="llama", help="the tiny model's kind")
    add("--slots", type=int, default=8, help="requests the server runs at once")
    add("--queue", type=int, default=64, help="requests that may wait")
    add("--timeout", type=float, default=120.0, help="seconds of silence that are a hang")
    add("--seed", default=str(time.time()), help="makes all texts; default: new ones")
    add("--set", action="append", default=[], metavar="LMX_SECTION__KEY=VALUE", help="a setting")


def settings_of(options: argparse.Namespace) -> dict[str, str]:
    """The server's settings as variables.

    Raises:
        SystemExit: a `--set` without `=`.
    """
    settings = {
        "LMX_ENGINE__SLOTS": str(options.slots),
        "LMX_QUEUE__MAX_WAITING": str(options.queue),
    }
    for given in options.set:
        name, equals, value = given.partition("=")
        if not equals:
            raise SystemExit(f"--set {given}: expected LMX_SECTION__KEY=VALUE")
        settings[name] = value
    return settings


@contextmanager
def scratch_folder() -> Generator[Path]:
    """A folder that is gone afterwards; being told to end ends what was started, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_ENDED))
    with tempfile.TemporaryDirectory(prefix="lmx-fleet-") as folder:
        yield Path(folder)
