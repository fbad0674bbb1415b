"""What the engine room takes from the settings."""

from collections.abc import Callable, Sequence
from pathlib import Path

from opta_lmx.config.sections.engine import EngineSettings
from opta_lmx.config.sections.memory import MemorySettings
from opta_lmx.config.sections.queue import QueueSettings
from opta_lmx.core.clock import Clock
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine import load_times
from opta_lmx.engine.caching import CacheLimits, ModelCache, PrefixCache
from opta_lmx.engine.load_times import LoadBook
from opta_lmx.engine.memory import MemoryPolicy
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.recovery import RecoveryOptions
from opta_lmx.engine.residency import EngineOptions
from opta_lmx.engine.runtime import RuntimeLimits
from opta_lmx.engine.sizing import budget_bytes
from opta_lmx.engine.worker import WatchdogLimits
from opta_lmx.models.names import split_ref
from opta_lmx.scheduling.retry import RestartPolicy
from opta_lmx.scheduling.rules import LineRules


def prefix_caches(
    engine: EngineSettings, clock: Clock, telemetry: Telemetry
) -> Callable[[Plan], ModelCache]:
    """What makes the prefix cache of each model that is loaded."""
    limits = CacheLimits(engine.prefix_cache_bytes, engine.prefix_cache_disk_bytes)
    return lambda plan: PrefixCache(plan.ref, limits, plan.states, clock, telemetry)


def memory_policy(
    memory: MemorySettings,
    required: Sequence[str] = (),
    warm: Sequence[str] = (),
    *,
    on_demand: bool = True,
) -> MemoryPolicy:
    """What models may take; those that are `required` at all times are pinned too.

    `warm` are kept loaded besides those the section names.
    """
    return MemoryPolicy(
        budget_bytes=budget_bytes(memory),
        ttl_s=memory.ttl_s,
        pinned=(*memory.pinned, *required),
        warm=(*memory.warm, *warm),
        prefetch=memory.prefetch,
        swap_after_s=memory.swap_after_s,
        on_demand=on_demand,
    )


def engine_options(engine: EngineSettings, queue: QueueSettings, home: Path) -> EngineOptions:
    """Times, bounds and policies.

    Args:
        engine: the section of that name.
        queue: the section of that name.
        home: state folder; kept there are the times loads have taken, crashes, what is loaded.
    """

    def restart_policy() -> RestartPolicy:
        return RestartPolicy(
            backoff_s=engine.restart_backoff_s,
            backoff_max_s=engine.restart_backoff_max_s,
            max_restarts=engine.max_restarts,
            window_s=engine.restart_window_s,
        )

    def line_rules(plan: Plan) -> LineRules:
        # Vectors are made in a moment: a slot kept free for somebody else would only stand empty.
        reserve = 1 if plan.kind == "chat" else 0
        return LineRules(
            max_waiting=queue.bound(split_ref(plan.ref)[0]),
            reserve=reserve,
            always_reserve=plan.backend == "gguf",  # llama.cpp ends a row some batches late
        )

    return EngineOptions(
        limits=RuntimeLimits(
            load_timeout_s=engine.load_timeout_s,
            prepare_timeout_s=engine.prepare_timeout_s,
            stall_target_ms=engine.stall_target_ms,
            watchdog=WatchdogLimits(engine.stall_floor_s, engine.stall_factor),
            load_wait_s=min(queue.load_wait_s, queue.queue_deadline_s),
        ),
        line_rules=line_rules,
        recovery=RecoveryOptions(restart_policy, home, engine.restore),
        load_on_demand=engine.load_on_demand,
        loads=LoadBook(home / load_times.FILE),
    )
