"""The `Telemetry` port on prometheus-client and structlog."""

import logging
import sys
from typing import Literal, TextIO

import structlog
from prometheus_client import Counter, Histogram

from opta_lmx.observability.metrics import MetricsRegistry

LogFormat = Literal["auto", "text", "json"]


class OperatorTelemetry:
    """Counts into the metrics registry and writes one structured line per log call."""

    def __init__(
        self, registry: MetricsRegistry, logger: structlog.typing.FilteringBoundLogger
    ) -> None:
        self.registry = registry
        self._logger = logger

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a counter."""
        family = self.registry.family(name)
        assert isinstance(family, Counter)
        family.labels(**labels).inc(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a sample to a histogram."""
        family = self.registry.family(name)
        assert isinstance(family, Histogram)
        family.labels(**labels).observe(value)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a level."""
        self.registry.set_gauge(name, value, **labels)

    def log(self, level: str, event: str, **fields: object) -> None:
        """Write a log line."""
        self._logger.log(logging.getLevelNamesMapping()[level.upper()], event, **fields)


def make_logger(
    level: str,
    log_format: LogFormat,
    stream: TextIO | None = None,
    redact: structlog.typing.Processor | None = None,
) -> structlog.typing.FilteringBoundLogger:
    """A logger that writes to `stream` (standard error): text on a terminal, JSON elsewhere.

    `redact` masks secrets in the fields of a line, and once more in the line itself.
    """
    target = stream or sys.stderr
    as_text = log_format == "text" or (log_format == "auto" and target.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=target.isatty())
        if as_text
        else structlog.processors.JSONRenderer()
    )
    return structlog.wrap_logger(
        structlog.PrintLogger(target),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *([renderer] if redact is None else [redact, renderer, redact]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
    )
