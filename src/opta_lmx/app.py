"""The composition root: settings in, a running application out. The only place that wires rooms."""

import asyncio
import sys
from pathlib import Path

import msgspec
import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp

from opta_lmx.api import health
from opta_lmx.api.admin.levels import metrics
from opta_lmx.api.encryption import Encryption
from opta_lmx.api.http import create_http
from opta_lmx.api.responses.surface import ResponsesSurface
from opta_lmx.config.settings import Settings
from opta_lmx.core.clock import Clock, SystemClock
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.downloads import Downloads
from opta_lmx.engine.options import engine_options, memory_policy, prefix_caches
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.quantising import open_quantising
from opta_lmx.engine.residency import Engine, Resolver
from opta_lmx.models.store import ModelStore
from opta_lmx.observability.libraries import told_by_libraries
from opta_lmx.observability.metrics import MetricsRegistry
from opta_lmx.observability.telemetry import OperatorTelemetry, make_logger
from opta_lmx.scheduling.governor import GovernorLimits
from opta_lmx.security.redaction import Redactor
from opta_lmx.server import Server, no_core_files, open_encryption
from opta_lmx.serving import benchmarking
from opta_lmx.serving.catalogue import Catalogue
from opta_lmx.serving.embedding import EmbeddingService
from opta_lmx.serving.management import Ground, open_management
from opta_lmx.serving.metering import SCHEMAS as METERING_SCHEMAS
from opta_lmx.serving.response_rows import SCHEMA as RESPONSES_SCHEMA
from opta_lmx.serving.responses import ResponseLimits, StoredResponses
from opta_lmx.serving.run import RunLimits
from opta_lmx.serving.service import Serving
from opta_lmx.startup import HomeLock, address_text, bind, check_profile, clean_rooms
from opta_lmx.store.database import Database
from opta_lmx.surfaces import (
    Rooms,
    envelopes,
    guarded,
    metered,
    open_audit,
    open_key_book,
    open_keyring,
    routers,
    with_presets,
)
from opta_lmx.tenancy.audit_rows import SCHEMA as AUDIT_SCHEMA
from opta_lmx.tenancy.key_rows import SCHEMA as KEYS_SCHEMA
from opta_lmx.tenancy.keyring import Keyring


class App(msgspec.Struct, frozen=True):
    """The composed application: what the server runs and what tests hold on to."""

    asgi: ASGIApp
    http: FastAPI
    engine: Engine
    serving: Serving
    downloads: Downloads
    rooms: Rooms
    database: Database
    keyring: Keyring
    encryption: Encryption
    clock: Clock
    telemetry: Telemetry

    def active_requests(self) -> int:
        """Requests running or waiting, over all models."""
        return sum(status.running + status.waiting for status in self.engine.status())

    async def close(self) -> None:
        """End background work, then every worker and download; the database last."""
        await self.rooms.responses.close()
        background = (self.downloads.close(), self.rooms.quantising.close(), self.keyring.close())
        await asyncio.gather(self.engine.close(), *background)
        await self.rooms.metering.close()
        await self.rooms.audit.close()
        await self.database.close()


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
    redact = Redactor(settings.secrets())
    telemetry = OperatorTelemetry(registry, make_logger(log.level, log.format, redact=redact))
    encryption = open_encryption(settings.tls, home, telemetry)
    store = ModelStore(settings.models.root(home))
    store.sweep()
    planner = Planner(store, settings.engine, home, settings.models, settings.memory)
    options = engine_options(settings.engine, settings.queue, home)
    caches = prefix_caches(settings.engine, clock, telemetry)
    on_demand = settings.engine.load_on_demand
    named = with_presets(resolver or planner, home, settings, telemetry)
    memory = memory_policy(settings.memory, required, named.warm(), on_demand=on_demand)
    options = msgspec.structs.replace(
        options,
        caches=caches,
        memory=memory,
        adaptive=settings.scheduling.adaptive,
        governor=GovernorLimits(settings.scheduling.background_share),
    )
    engine = Engine(named, options, clock, telemetry)
    run_limits = RunLimits(settings.queue.queue_deadline_s, settings.engine.default_max_tokens)
    serving = Serving(engine, run_limits, clock, telemetry, named.preset)
    schemas = (RESPONSES_SCHEMA, benchmarking.SCHEMA, KEYS_SCHEMA, AUDIT_SCHEMA, *METERING_SCHEMAS)
    database = Database(home / "lmx.db", schemas, clock, telemetry)
    keyring = open_keyring(settings, database, clock, telemetry)
    kept = settings.responses
    limits = ResponseLimits(kept.ttl_s, kept.max_bytes)
    stored = StoredResponses(database, limits, clock, telemetry)
    benchmarks = benchmarking.Benchmarks(engine, serving, database, clock, telemetry)
    quantising = open_quantising(planner, home, settings.models, telemetry, clock)
    ground = Ground(home, planner, engine, benchmarks, quantising, clock, telemetry)
    management = open_management(ground, settings.models)
    rooms = Rooms(
        serving=serving,
        vectors=EmbeddingService(run_limits, clock, telemetry),
        engine=engine,
        catalogue=Catalogue(planner, engine, named),
        store=store,
        downloads=management.downloads,
        management=management,
        quantising=quantising,
        responses=ResponsesSurface(stored, telemetry),
        benchmarks=benchmarks,
        presets=named,
        keyring=keyring,
        key_book=open_key_book(settings, database, clock),
        audit=open_audit(settings, database, clock),
        metering=metered(settings, database, serving),
        clock=clock,
        telemetry=telemetry,
    )
    watching = health.router(serving, engine, required, metrics(registry, engine, encryption.ends))
    http = create_http([*routers(rooms, settings), watching], envelopes(settings), telemetry)
    return App(
        asgi=guarded(http, rooms, settings),
        http=http,
        engine=engine,
        serving=serving,
        downloads=rooms.downloads,
        rooms=rooms,
        database=database,
        keyring=keyring,
        encryption=encryption,
        clock=clock,
        telemetry=telemetry,
    )


def serve(settings: Settings, home: Path, models: list[str]) -> int:
    """Run the server until it is told to stop; the exit code.

    Raises:
        LmxError: INVALID_REQUEST while the security profile is not met, CONFLICT when the home or
            the port is taken, UNAVAILABLE for a bad state folder, or whatever kept a model of
            `models` from loading.
    """
    host, port = settings.server.host, settings.server.port
    no_core_files()
    with HomeLock(home) as lock:
        lock.acquire(address_text(host, port))
        with clean_rooms(home):
            check_profile(settings, home)
            listener = bind(host, port)
            address = address_text(host, listener.getsockname()[1])
            lock.note(address)
            app = build(settings, home, models)
            sys.stderr.write(f"Opta LMX listens on {app.encryption.scheme}://{address}\n")
            sys.stderr.flush()

            async def main() -> None:
                if settings.models.resume_downloads:
                    app.downloads.resume()
                drain_s = settings.server.drain_timeout_s
                body_bytes = settings.server.body_limit_bytes
                await Server(app, listener, models, drain_s, body_bytes).run()

            with told_by_libraries(app.telemetry):
                uvloop.run(main())
    return 0
