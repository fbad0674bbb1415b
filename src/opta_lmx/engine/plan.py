"""How one model is to be run, as it was decided before anything is loaded."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from opta_lmx.backends.frames import Load, ModelKind
from opta_lmx.core.errors import LmxError
from opta_lmx.core.types import SamplingParams
from opta_lmx.engine.caching import StateHome
from opta_lmx.scheduling.ledger import MemoryNeed
from opta_lmx.scheduling.loading import LoadWork


class Plan(msgspec.Struct, frozen=True):
    """How to run one model: what to load and the worker's environment.

    `prepare` does what must be done first (a conversion) and returns the final `Load`; `room`
    waits before that until there is room for it (None: there is);
    `sampling` are the defaults the model's record on disk asks for; `kind` is what it is for;
    `context` is the window that was asked for (0: as configured); `weights_bytes` and
    `convert_bytes` are the work; `states` says where prompts that were processed may be written;
    `need` is the memory it is given, `ttl_s` how long it may be idle (None: as the others);
    `adapters` are those loaded with it, each with the version of its files; `refuse`, where given,
    is told why a worker would not load it.
    """

    ref: str
    backend: str
    slots: int
    prepare: Callable[[], Awaitable[Load]]
    environment: Mapping[str, str]
    log_file: Path
    sampling: SamplingParams = SamplingParams()
    kind: ModelKind = "chat"
    context: int = 0
    weights_bytes: int = 0
    convert_bytes: int = 0
    states: StateHome | None = None
    need: MemoryNeed = MemoryNeed(0)
    ttl_s: float | None = None
    adapters: Mapping[str, str] = {}
    room: Callable[[], Awaitable[None]] | None = None
    refuse: Callable[[LmxError], None] | None = None

    @property
    def work(self) -> LoadWork:
        """What loading it means."""
        return LoadWork(self.ref, self.weights_bytes, self.convert_bytes)
