"""What the engine room takes from the settings."""

from pathlib import Path

from opta_lmx.config.settings import EngineSettings, QueueSettings
from opta_lmx.engine import load_times
from opta_lmx.engine.load_times import LoadBook
from opta_lmx.engine.residency import EngineOptions
from opta_lmx.engine.runtime import RuntimeLimits
from opta_lmx.engine.worker import WatchdogLimits
from opta_lmx.models.names import split_ref
from opta_lmx.scheduling.retry import RestartPolicy


def engine_options(engine: EngineSettings, queue: QueueSettings, home: Path) -> EngineOptions:
    """Times, bounds and policies.

    Args:
        engine: the section of that name.
        queue: the section of that name.
        home: state folder; the times loads have taken are kept there.
    """

    def restart_policy() -> RestartPolicy:
        return RestartPolicy(
            backoff_s=engine.restart_backoff_s,
            backoff_max_s=engine.restart_backoff_max_s,
            max_restarts=engine.max_restarts,
            window_s=engine.restart_window_s,
        )

    return EngineOptions(
        limits=RuntimeLimits(
            load_timeout_s=engine.load_timeout_s,
            prepare_timeout_s=engine.prepare_timeout_s,
            stall_target_ms=engine.stall_target_ms,
            watchdog=WatchdogLimits(engine.stall_floor_s, engine.stall_factor),
            load_wait_s=min(queue.load_wait_s, queue.queue_deadline_s),
        ),
        max_waiting=lambda ref: queue.bound(split_ref(ref)[0]),
        restart_policy=restart_policy,
        load_on_demand=engine.load_on_demand,
        loads=LoadBook(home / load_times.FILE),
    )
