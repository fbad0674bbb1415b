"""The port by which rooms tell operators what happened; `observability` implements it."""

from typing import Protocol

TOLD = "opta_lmx_told"
"""Attribute of an exception that stands in the log already."""


class Telemetry(Protocol):
    """Counters, distributions and levels. Label values must come from a bounded set."""

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Add `value` to a counter."""
        ...

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Record one sample of a distribution (seconds unless the name says otherwise)."""
        ...

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set the current level of something."""
        ...

    def log(self, level: str, event: str, **fields: object) -> None:
        """Write one structured log line; `level` is a standard logging level in lower case."""
        ...


class NullTelemetry:
    """Discards everything: for tools and tests that watch nothing."""

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Discard."""

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Discard."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Discard."""

    def log(self, level: str, event: str, **fields: object) -> None:
        """Discard."""
