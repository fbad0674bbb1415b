"""The prefix cache's index: pure decisions over opaque handles."""

from opta_lmx.engine.prefix.index import PrefixIndex
from opta_lmx.engine.prefix.manifest import Manifest, ModelKey, read_manifest
from opta_lmx.engine.prefix.orders import Counts, Orders, Spill
from opta_lmx.engine.prefix.plan import CachePlan, Divergence
from opta_lmx.engine.prefix.rules import CacheRules

__all__ = [
    "CachePlan",
    "CacheRules",
    "Counts",
    "Divergence",
    "Manifest",
    "ModelKey",
    "Orders",
    "PrefixIndex",
    "Spill",
    "read_manifest",
]
