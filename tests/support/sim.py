"""Models played by the simulation adapter, in real worker processes."""

from pathlib import Path
from typing import Any

from opta_lmx.backends.frames import Load
from opta_lmx.core.types import SamplingParams
from opta_lmx.engine.caching import StateHome
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.recovery import RecoveryOptions
from opta_lmx.engine.residency import EngineOptions
from opta_lmx.engine.runtime import RuntimeLimits
from opta_lmx.engine.worker import WatchdogLimits
from opta_lmx.models.catalogue import not_found
from opta_lmx.models.matching import Known, Reference, resolve
from opta_lmx.scheduling.ledger import MemoryNeed
from opta_lmx.scheduling.retry import RestartPolicy
from opta_lmx.scheduling.rules import LineRules


class SimResolver:
    """Resolves names to scripted models; `scripts` may be changed between loads."""

    def __init__(self, log_dir: Path, scripts: dict[str, dict[str, Any]], slots: int = 4) -> None:
        self.scripts = scripts
        self._log_dir = log_dir
        self._slots = slots
        self.loads: list[str] = []
        self.sampling = SamplingParams()
        self.aliases: dict[str, str] = {}
        self.adapters: dict[str, dict[str, str]] = {}
        """The versions of each model's adapters."""

    def canonical(self, ref: str) -> str:
        return self._asked(ref).name

    def adapter(self, ref: str) -> str:
        return self._asked(ref).adapter

    def _asked(self, ref: str) -> Reference:
        wanted = resolve(ref, self.known(), self.aliases)
        if wanted.adapter and wanted.adapter not in self.adapters.get(wanted.name, {}):
            raise not_found(ref)
        return wanted

    def known(self) -> list[Known]:
        return [Known(name) for name in self.scripts]

    def plan(self, ref: str, context: int | None = None) -> Plan:
        ref = self.canonical(ref)
        wanted = min(context or 0, self.scripts[ref].get("max_context", 32_768))

        async def prepare() -> Load:
            self.loads.append(ref)
            script = dict(self.scripts[ref])
            context, kind = wanted or script.get("context", 4096), script.get("kind", "chat")
            for ours in ("context", "kind", "max_context", "weights_bytes", "ttl_s"):
                script.pop(ours, None)
            needs = script.pop("needs_bytes", 0)
            takes = script.pop("takes_bytes", needs)
            if kind == "chat":
                script["weights_bytes"] = takes
            return Load(
                model=ref,
                backend="sim",
                kind=kind,
                slots=self._slots,
                context=context,
                options=script,
            )

        return Plan(
            ref=ref,
            backend="sim",
            slots=self._slots,
            prepare=prepare,
            environment={},
            log_file=self._log_dir / f"{ref}.log",
            sampling=self.sampling,
            kind=self.scripts[ref].get("kind", "chat"),
            context=wanted,
            weights_bytes=self.scripts[ref].get("weights_bytes", 0),
            need=MemoryNeed(self.scripts[ref].get("needs_bytes", 0)),
            ttl_s=self.scripts[ref].get("ttl_s"),
            adapters=self.adapters.get(ref, {}),
            states=StateHome(self._log_dir.parent / "cache" / "prefix", Path(__file__)),
        )


def engine_options(
    *,
    max_waiting: int = 8,
    max_restarts: int = 3,
    load_timeout_s: float = 30.0,
    prepare_timeout_s: float = 10.0,
    stall_floor_s: float = 30.0,
    load_on_demand: bool = True,
    load_wait_s: float = 120.0,
    reserve: int = 0,
) -> EngineOptions:
    """Options with short restart pauses."""
    return EngineOptions(
        limits=RuntimeLimits(
            load_timeout_s=load_timeout_s,
            prepare_timeout_s=prepare_timeout_s,
            stall_target_ms=250,
            watchdog=WatchdogLimits(stall_floor_s, 10.0),
            load_wait_s=load_wait_s,
        ),
        line_rules=lambda _: LineRules(max_waiting=max_waiting, reserve=reserve),
        recovery=RecoveryOptions(
            lambda: RestartPolicy(
                backoff_s=0.01, backoff_max_s=0.05, max_restarts=max_restarts, window_s=600.0
            )
        ),
        load_on_demand=load_on_demand,
    )
