"""One typed settings tree: unknown keys refused, every value's source known."""

from opta_lmx.config.explain import Row, explain
from opta_lmx.config.load import Loaded, lmx_home, load_settings
from opta_lmx.config.settings import (
    EngineSettings,
    LoggingSettings,
    ModelOverride,
    ModelsSettings,
    QueueSettings,
    ServerSettings,
    Settings,
)

__all__ = [
    "EngineSettings",
    "Loaded",
    "LoggingSettings",
    "ModelOverride",
    "ModelsSettings",
    "QueueSettings",
    "Row",
    "ServerSettings",
    "Settings",
    "explain",
    "lmx_home",
    "load_settings",
]
