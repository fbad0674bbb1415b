"""What one model would take of the memory, for any window and any number of slots."""

import sys

import msgspec

from opta_lmx.backends.frames import Load
from opta_lmx.backends.gguf.plan import DEFAULT_CONTEXT, UNKNOWN_CONTEXT
from opta_lmx.engine.sizing import Sizing
from opta_lmx.models.description import ModelInfo
from opta_lmx.scheduling.ledger import MemoryNeed

_STEP = 256
"""Windows are found to this many tokens."""


class Appetite:
    """Sizes one model up.

    Args:
        sizing: estimates and divides the budget.
        info: what the model's files say, and those of its draft model.
        load: how it would be loaded as things are configured.
        held_bytes: what processed prompts may take besides.

    Attributes:
        context: the window it would be loaded with, in tokens.
        most: the largest window it was made for; as `context` where it does not say.
        slots: how many requests would run at once.
    """

    def __init__(self, sizing: Sizing, info: ModelInfo, load: Load, held_bytes: int) -> None:
        self._sizing = sizing
        self._info = info
        self._load = load
        self._held_bytes = held_bytes
        own = info.context_length or UNKNOWN_CONTEXT
        usual = own if load.backend == "mlx" else min(own, DEFAULT_CONTEXT)
        self.context = min(own, load.context) if load.context else usual
        self.most = max(own, self.context)
        self.slots = load.slots

    def reserved(self) -> MemoryNeed:
        """What is kept free when it is loaded as configured; caches then make do with less."""
        return self._sizing.of(self._info, self._load, self._held_bytes).need

    def full(self, context: int, slots: int) -> MemoryNeed:
        """What it takes with every slot's window of `context` tokens full."""
        options = {**self._load.options, "kv_bytes": sys.maxsize}
        load = msgspec.structs.replace(
            self._load, context=max(1, context), slots=slots, options=options
        )
        return self._sizing.of(self._info, load, self._held_bytes).need

    def largest_context(self, room: int, slots: int) -> int:
        """The largest window whose slots can all be full within `room` bytes; 0: none can."""
        if self.full(self.most, slots).total <= room:
            return self.most
        low, high = 0, -(-self.most // _STEP)
        while high - low > 1:
            middle = (low + high) // 2
            if self.full(middle * _STEP, slots).total <= room:
                low = middle
            else:
                high = middle
        return low * _STEP
