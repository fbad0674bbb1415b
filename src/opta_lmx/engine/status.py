"""What operators are told of a loaded model."""

import msgspec

from opta_lmx.engine.caching import CacheLevels
from opta_lmx.engine.process import resident_bytes
from opta_lmx.engine.quarantine import Quarantined
from opta_lmx.engine.runtime import ModelRuntime, ModelState
from opta_lmx.scheduling.kv import KvLevels


class ModelStatus(msgspec.Struct, frozen=True):
    """One loaded model for operators; `load_s` is what its last load took, in seconds.

    `limit`: how many of its `slots` may be in use now; `expires_s`: when it is unloaded if
    nobody asks for it (None: not by itself); `kv`: the caches of its running requests;
    `adapters`: names of those it is loaded with.
    """

    id: str
    backend: str
    state: str
    context_length: int
    slots: int
    running: int
    waiting: int
    restarts: int
    steps: int
    step_age_s: float
    pid: int | None
    rss_bytes: int | None
    error: str | None
    load_s: float
    cache: CacheLevels = CacheLevels()
    limit: int = 0
    kv: KvLevels = KvLevels()
    expires_s: float | None = None
    adapters: tuple[str, ...] = ()


def status_of(runtime: ModelRuntime, expires_s: float | None) -> ModelStatus:
    """How a model is now, to be unloaded in `expires_s` seconds (None: not by itself)."""
    worker, ready = runtime.worker, runtime.ready
    pid = None if worker is None else worker.pid
    return ModelStatus(
        id=runtime.plan.ref,
        backend=runtime.plan.backend,
        state=runtime.state.value,
        context_length=0 if ready is None else ready.context,
        slots=runtime.plan.slots if ready is None else ready.slots,
        running=runtime.line.running,
        waiting=runtime.line.waiting,
        restarts=runtime.restarts,
        steps=0 if worker is None else worker.steps,
        step_age_s=0.0 if worker is None else worker.step_age_s(),
        pid=pid,
        rss_bytes=None if pid is None else resident_bytes(pid),
        error=None if runtime.error is None else runtime.error.message,
        load_s=runtime.loading.last_s,
        cache=runtime.cache.levels,
        limit=runtime.seat.limit,
        kv=runtime.line.levels,
        expires_s=expires_s,
        adapters=tuple(sorted(runtime.plan.adapters)),
    )


def status_out_of_service(record: Quarantined) -> ModelStatus:
    """How a quarantined model is: not there, and not let in."""
    return ModelStatus(
        id=record.model,
        backend=record.backend,
        state=ModelState.QUARANTINED.value,
        context_length=0,
        slots=0,
        running=0,
        waiting=0,
        restarts=0,
        steps=0,
        step_age_s=0.0,
        pid=None,
        rss_bytes=None,
        error=record.message,
        load_s=0.0,
    )
