"""The log: the section `logging`."""

from typing import Literal

from pydantic import Field

from opta_lmx.config.sections.base import Section

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "text", "json"]


class LoggingSettings(Section):
    """What is written to the log."""

    level: LogLevel = Field(default="info", description="Least severe level that is written.")
    format: LogFormat = Field(
        default="auto", description="Text on a terminal and JSON elsewhere: `auto`."
    )
