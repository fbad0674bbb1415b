"""One typed settings tree: unknown keys refused, every value's source known."""

from opta_lmx.config.explain import explain
from opta_lmx.config.load import Loaded, lmx_home, load_settings
from opta_lmx.config.settings import Settings

__all__ = ["Loaded", "Settings", "explain", "lmx_home", "load_settings"]
