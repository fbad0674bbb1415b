"""One typed settings tree: unknown keys refused, every value's source known."""

from opta_lmx.config.explain import Row, explain
from opta_lmx.config.load import Loaded, lmx_home, load_settings
from opta_lmx.config.settings import (
    AccessSettings,
    EngineSettings,
    KeySettings,
    LoggingSettings,
    ModelOverride,
    ModelsSettings,
    QueueSettings,
    ServerSettings,
    Settings,
)

__all__ = [
    "AccessSettings",
    "EngineSettings",
    "KeySettings",
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
