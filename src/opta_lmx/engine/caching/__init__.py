"""The prefix cache of a running model: the index's decisions carried to the worker and back."""

from opta_lmx.engine.caching.cache import PrefixCache
from opta_lmx.engine.caching.folder import StateHome
from opta_lmx.engine.caching.limits import CacheLimits
from opta_lmx.engine.caching.ports import (
    CacheLevels,
    ModelCache,
    NoCache,
    Wish,
    salt_of,
    wish_for,
)

__all__ = [
    "CacheLevels",
    "CacheLimits",
    "ModelCache",
    "NoCache",
    "PrefixCache",
    "StateHome",
    "Wish",
    "salt_of",
    "wish_for",
]
