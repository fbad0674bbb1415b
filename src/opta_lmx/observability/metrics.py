"""Every metric this server exposes, in one table, with its labels and buckets."""

from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

PREFIX = "opta_lmx_"
_LATENCY_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metric(msgspec.Struct, frozen=True):
    """One family: its kind, help text and label names (values always from a bounded set)."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


METRICS: dict[str, Metric] = {
    "requests_total": Metric("counter", "HTTP requests by route and status.", ("route", "code")),
    "admission_rejections_total": Metric("counter", "Requests refused at a gate.", ("reason",)),
    "audit_failures_total": Metric(
        "counter", "Rows of the audit log that could not be written.", ("outcome",)
    ),
    "client_disconnects_total": Metric(
        "counter", "Clients gone before their answer ended.", ("route",)
    ),
    "identity_provider_fetches_total": Metric(
        "counter", "Fetches of the identity provider's keys (done, failed).", ("outcome",)
    ),
    "tls_handshake_failures_total": Metric(
        "counter", "TLS connections that did not come about, by the reason.", ("reason",)
    ),
    "tls_reloads_total": Metric(
        "counter", "Changed TLS files taken over (done) or left aside (failed).", ("outcome",)
    ),
    "tls_certificate_expiry_timestamp_seconds": Metric(
        "gauge", "When the server's certificate ends, and the first client CA.", ("certificate",)
    ),
    "queue_time_seconds": Metric("histogram", "From arrival to the grant of a slot.", ("model",)),
    "slot_wait_seconds": Metric(
        "histogram", "From a prepared prompt to the grant of a slot.", ("model", "lane")
    ),
    "time_to_first_token_seconds": Metric(
        "histogram", "From arrival to the first token.", ("model",)
    ),
    "time_per_output_token_seconds": Metric("histogram", "Mean gap between tokens.", ("model",)),
    "e2e_request_seconds": Metric(
        "histogram", "From arrival to the end of the answer.", ("model",)
    ),
    "first_byte_seconds": Metric(
        "histogram", "From the last request byte to the first reply byte.", ("route", "code")
    ),
    "prompt_tokens_total": Metric("counter", "Prompt tokens processed.", ("model",)),
    "generation_tokens_total": Metric("counter", "Tokens generated and delivered.", ("model",)),
    "spec_decode_num_draft_tokens_total": Metric(
        "counter", "Tokens guessed by a draft model.", ("model",)
    ),
    "spec_decode_num_accepted_tokens_total": Metric(
        "counter", "Guessed tokens that became part of an answer.", ("model",)
    ),
    "prefix_cache_queries_total": Metric(
        "counter", "Prompt tokens looked up in the prefix cache.", ("model",)
    ),
    "prefix_cache_hits_total": Metric(
        "counter", "Prompt tokens found in the prefix cache.", ("model",)
    ),
    "prefix_cache_evictions_total": Metric(
        "counter", "Cached states dropped from memory for want of room.", ("model",)
    ),
    "prefix_cache_corrections_total": Metric(
        "counter", "Requests that found less in the prefix cache than expected.", ("model",)
    ),
    "prefix_cache_bytes": Metric("gauge", "Cached states in memory.", ("model",)),
    "prefix_cache_disk_bytes": Metric("gauge", "Cached states in files.", ("model",)),
    "model_load_seconds": Metric("histogram", "Time to load a model.", ("model",)),
    "model_loads_total": Metric("counter", "Models loaded, by who wanted it.", ("model", "reason")),
    "model_evictions_total": Metric(
        "counter", "Idle models unloaded unasked, by the reason.", ("model", "reason")
    ),
    "model_memory_bytes": Metric("gauge", "Memory a model is given.", ("model",)),
    "memory_free_bytes": Metric("gauge", "Of the models' memory, what none has a claim on.", ()),
    "model_quarantines_total": Metric(
        "counter", "Models left alone from then on, by the reason.", ("model", "reason")
    ),
    "engine_restarts_total": Metric("counter", "Workers restarted after a crash.", ("model",)),
    "tool_parse_failures_total": Metric("counter", "Tool calls given back as text.", ("dialect",)),
    "concurrency_limit": Metric(
        "gauge",
        "Requests that may run at once: the slots, or fewer while steps are slow.",
        ("model",),
    ),
    "kv_cache_usage_perc": Metric(
        "gauge", "Caches of running requests, as a part (0 to 1) of their memory.", ("model",)
    ),
    "kv_cache_reserved_bytes": Metric("gauge", "Reserved for those caches.", ("model",)),
    "kv_cache_bytes": Metric("gauge", "Memory that those caches may take.", ("model",)),
    "requests_running": Metric("gauge", "Requests that hold a slot.", ("model", "lane")),
    "requests_waiting": Metric("gauge", "Requests waiting for a slot.", ("model", "lane")),
    "queue_age_seconds": Metric(
        "gauge", "How long the oldest of the waiting requests has waited.", ("model", "lane")
    ),
    "model_loaded": Metric("gauge", "1 while the model serves, else 0.", ("model",)),
    "engine_steps": Metric("gauge", "Decode steps of the current worker.", ("model",)),
    "engine_step_age_seconds": Metric("gauge", "Since the engine's last sign of life.", ("model",)),
}


def build_family(
    name: str, metric: Metric, registry: CollectorRegistry
) -> Counter | Gauge | Histogram:
    """Register one family under the common prefix."""
    full_name = PREFIX + name
    match metric.kind:
        case "counter":
            return Counter(full_name, metric.help, metric.labels, registry=registry)
        case "gauge":
            return Gauge(full_name, metric.help, metric.labels, registry=registry)
        case "histogram":
            return Histogram(
                full_name, metric.help, metric.labels, registry=registry, buckets=_LATENCY_S
            )


class MetricsRegistry:
    """Holds the families and renders them in Prometheus' text format."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._families = {
            name: build_family(name, metric, self._registry) for name, metric in METRICS.items()
        }

    def family(self, name: str) -> Counter | Gauge | Histogram:
        """The family of that name. Raises KeyError for one that is not in the table."""
        return self._families[name]

    def set_gauge(self, name: str, value: float, **labels: str) -> None:
        """Set one level."""
        family = self._families[name]
        assert isinstance(family, Gauge)
        (family.labels(**labels) if labels else family).set(value)

    def clear_gauges(self) -> None:
        """Forget all levels, so that what is gone is not shown any more."""
        for family in self._families.values():
            if isinstance(family, Gauge):
                family.clear()

    def render(self) -> bytes:
        """Prometheus text exposition."""
        return generate_latest(self._registry)
