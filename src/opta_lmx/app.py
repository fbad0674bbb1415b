"""The composition root: settings in, a running application out. The only place that wires rooms."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp

from opta_lmx.api import health
from opta_lmx.api.admin.models import AdminModels
from opta_lmx.api.guard import Guard, GuardRules
from opta_lmx.api.http import create_http
from opta_lmx.api.openai import errors as openai_errors
from opta_lmx.api.openai import models as openai_models
from opta_lmx.api.openai.chat import ChatLimits, ChatRoute
from opta_lmx.config.settings import ModelsSettings, Settings, is_loopback
from opta_lmx.core.clock import Clock, SystemClock
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.downloads import Downloads
from opta_lmx.engine.planner import Planner, split_ref
from opta_lmx.engine.residency import Engine, EngineOptions, Resolver
from opta_lmx.engine.runtime import RuntimeLimits
from opta_lmx.engine.worker import WatchdogLimits
from opta_lmx.models.puller import Puller
from opta_lmx.models.store import ModelStore
from opta_lmx.observability.metrics import MetricsRegistry
from opta_lmx.observability.telemetry import OperatorTelemetry, make_logger
from opta_lmx.scheduling.retry import RestartPolicy
from opta_lmx.server import Server
from opta_lmx.serving.catalogue import Catalogue
from opta_lmx.serving.run import RunLimits
from opta_lmx.serving.service import Serving
from opta_lmx.startup import HomeLock, address_text, bind, clean_rooms


class App(msgspec.Struct, frozen=True):
    """The composed application: what the server runs and what tests hold on to."""

    asgi: ASGIApp
    http: FastAPI
    engine: Engine
    serving: Serving
    downloads: Downloads
    clock: Clock
    telemetry: Telemetry

    def active_requests(self) -> int:
        """Requests running or waiting, over all models."""
        return sum(status.running + status.waiting for status in self.engine.status())

    async def close(self) -> None:
        """End every worker and download; none waits for the others."""
        await asyncio.gather(self.engine.close(), self.downloads.close())


def build(
    settings: Settings, home: Path, required: list[str], resolver: Resolver | None = None
) -> App:
    """Wire every room.

    Args:
        settings: the whole tree; each room gets its own section.
        home: state folder.
        required: models `/readyz` waits for.
        resolver: finds models by name; those of the store unless given.
    """
    clock = SystemClock()
    registry = MetricsRegistry()
    log = settings.logging
    telemetry = OperatorTelemetry(registry, make_logger(log.level, log.format))
    store = ModelStore(settings.models.root(home))
    store.sweep()
    planner = Planner(store, settings.engine, home)
    engine = Engine(resolver or planner, _engine_options(settings), clock, telemetry)
    run_limits = RunLimits(settings.queue.queue_deadline_s, settings.engine.default_max_tokens)
    serving = Serving(engine, run_limits, clock, telemetry)
    downloads = Downloads(_puller(store, settings.models).pull, telemetry)
    http = create_http(
        [
            ChatRoute(serving, _chat_limits(settings), clock, telemetry).router(),
            openai_models.router(Catalogue(planner, engine)),
            AdminModels(engine, downloads, serving, clock).router(),
            health.router(serving, engine, required, _metrics(registry, engine)),
        ],
        telemetry,
    )
    guard = Guard(http, _guard_rules(settings), openai_errors.render, clock, telemetry)
    return App(guard, http, engine, serving, downloads, clock, telemetry)


def serve(settings: Settings, home: Path, models: list[str]) -> int:
    """Run the server until it is told to stop; the exit code.

    Raises:
        LmxError: CONFLICT when the home or the port is taken, UNAVAILABLE for a bad state
            folder, or whatever kept a model of `models` from loading.
    """
    host, port = settings.server.host, settings.server.port
    with HomeLock(home) as lock:
        lock.acquire(address_text(host, port))
        with clean_rooms(home):
            listener = bind(host, port)
            address = address_text(host, listener.getsockname()[1])
            lock.note(address)
            app = build(settings, home, models)
            sys.stderr.write(f"Opta LMX listens on http://{address}\n")
            sys.stderr.flush()

            async def main() -> None:
                await Server(app, listener, models, settings.server.drain_timeout_s).run()

            uvloop.run(main())
    return 0


def _puller(store: ModelStore, settings: ModelsSettings) -> Puller:
    token = settings.hub_token
    return Puller(
        store,
        endpoint=settings.hub_endpoint,
        token=None if token is None else token.get_secret_value(),
        enabled=settings.downloads_enabled,
    )


def _engine_options(settings: Settings) -> EngineOptions:
    engine, queue = settings.engine, settings.queue

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
        ),
        max_waiting=lambda ref: queue.bound(split_ref(ref)[0]),
        restart_policy=restart_policy,
        load_on_demand=engine.load_on_demand,
    )


def _chat_limits(settings: Settings) -> ChatLimits:
    server = settings.server
    return ChatLimits(
        body_limit_bytes=server.body_limit_bytes,
        body_timeout_s=server.body_timeout_s,
        keepalive_s=server.keepalive_s,
        prepare_before_headers_s=server.prepare_before_headers_s,
    )


def _guard_rules(settings: Settings) -> GuardRules:
    server = settings.server
    return GuardRules(
        api_keys=tuple(key.get_secret_value() for key in server.api_keys),
        allowed_hosts=frozenset({server.host, *server.allowed_hosts}),
        check_host=is_loopback(server.host),
    )


def _metrics(registry: MetricsRegistry, engine: Engine) -> Callable[[], bytes]:
    """Levels are read when asked for, everything else is counted as it happens."""

    def render() -> bytes:
        registry.clear_gauges()
        for status in engine.status():
            levels = {
                "requests_running": status.running,
                "requests_waiting": status.waiting,
                "model_loaded": status.state == "ready",
                "engine_steps": status.steps,
                "engine_step_age_seconds": status.step_age_s,
            }
            for name, level in levels.items():
                registry.set_gauge(name, float(level), model=status.id)
        return registry.render()

    return render
