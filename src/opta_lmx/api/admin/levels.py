"""Levels for `/metrics`: read when asked for, where everything else is counted as it happens."""

from collections.abc import Callable, Mapping

from opta_lmx.api.admin.queues import by_lane
from opta_lmx.engine.residency import Engine
from opta_lmx.observability.metrics import MetricsRegistry


def metrics(
    registry: MetricsRegistry,
    engine: Engine,
    certificates: Callable[[], Mapping[str, float]] = dict,
) -> Callable[[], bytes]:
    """What renders all metrics, levels among them; `certificates` tells when each ends."""

    def render() -> bytes:
        registry.clear_gauges()
        for status in engine.status():
            levels = {
                "model_loaded": status.state == "ready",
                "engine_steps": status.steps,
                "engine_step_age_seconds": status.step_age_s,
                "concurrency_limit": status.limit,
                "kv_cache_bytes": status.kv.available,
                "kv_cache_reserved_bytes": status.kv.reserved,
                "kv_cache_usage_perc": status.kv.used / max(1, status.kv.available),
                "prefix_cache_bytes": status.cache.memory_bytes,
                "prefix_cache_disk_bytes": status.cache.disk_bytes,
            }
            for name, level in levels.items():
                registry.set_gauge(name, float(level), model=status.id)
        memory = engine.memory()
        registry.set_gauge("memory_free_bytes", memory.free_bytes)
        for line in memory.models:
            registry.set_gauge("model_memory_bytes", line.bytes, model=line.model)
        for model, depths in engine.queues().items():
            for lane, depth in by_lane(depths).items():
                where = {"model": model, "lane": lane}
                registry.set_gauge("requests_running", depth.running, **where)
                registry.set_gauge("requests_waiting", depth.waiting, **where)
                registry.set_gauge("queue_age_seconds", depth.oldest_s, **where)
        for name, ends_s in certificates().items():
            registry.set_gauge("tls_certificate_expiry_timestamp_seconds", ends_s, certificate=name)
        return registry.render()

    return render
