"""The routes of every dialect, joined to the rooms below: a part of the composition root."""

import functools
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.types import ASGIApp

from opta_lmx.api.admin.audit import AdminAudit
from opta_lmx.api.admin.benchmark import AdminBenchmark
from opta_lmx.api.admin.downloads import AdminDownloads
from opta_lmx.api.admin.health import AdminHealth
from opta_lmx.api.admin.keys import AdminKeys
from opta_lmx.api.admin.models import AdminModels
from opta_lmx.api.admin.presets import AdminPresets
from opta_lmx.api.admin.quantize import AdminQuantize
from opta_lmx.api.admin.queues import AdminQueues
from opta_lmx.api.admin.quotas import AdminQuotas
from opta_lmx.api.admin.shelf import AdminShelf
from opta_lmx.api.admin.usage import UsageRoutes
from opta_lmx.api.anthropic import errors as anthropic_errors
from opta_lmx.api.anthropic.messages import MessagesRoute
from opta_lmx.api.audit import Audit
from opta_lmx.api.calls import Calls
from opta_lmx.api.cohere import errors as cohere_errors
from opta_lmx.api.cohere.rerank import RerankRoutes
from opta_lmx.api.door import Door, DoorRules
from opta_lmx.api.errors import Envelopes
from opta_lmx.api.exchange import CallLimits
from opta_lmx.api.guard import Guard
from opta_lmx.api.lmstudio import errors as lmstudio_errors
from opta_lmx.api.lmstudio.routes import LmStudioRoutes
from opta_lmx.api.ollama import errors as ollama_errors
from opta_lmx.api.ollama.embed import EmbedRoutes
from opta_lmx.api.ollama.models import ModelRoutes
from opta_lmx.api.ollama.routes import GenerationRoutes
from opta_lmx.api.openai import errors as openai_errors
from opta_lmx.api.openai import models as openai_models
from opta_lmx.api.openai.chat import ChatRoute
from opta_lmx.api.openai.completions import CompletionsRoute
from opta_lmx.api.openai.embeddings import EmbeddingsRoute
from opta_lmx.api.openai.parse import ChatParser
from opta_lmx.api.preset_files import parse_preset
from opta_lmx.api.ratelimit import RateLimitHeaders
from opta_lmx.api.responses.surface import ResponsesSurface
from opta_lmx.api.tickets import TicketRoutes, Tickets
from opta_lmx.api.tls import Certificates, Gateways
from opta_lmx.api.vector_calls import VectorCalls
from opta_lmx.api.ws.frames import ChatDialect
from opta_lmx.api.ws.stream import PATH as CHAT_STREAM
from opta_lmx.api.ws.stream import ChatStream
from opta_lmx.config.profiles import keys_required, profile_of
from opta_lmx.config.sections.access import KeySettings
from opta_lmx.config.sections.oidc import ClaimSettings, OidcSettings
from opta_lmx.config.sections.server import ServerSettings
from opta_lmx.config.sections.tls import CertificateSettings, TlsSettings
from opta_lmx.config.settings import Settings, plain_name
from opta_lmx.core.clock import Clock, SystemClock
from opta_lmx.core.principal import Budgets, Lane, Principal, Quotas, Scope
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.downloads import Downloads
from opta_lmx.engine.presets import Directory, directory
from opta_lmx.engine.quantising import Quantising
from opta_lmx.engine.residency import Engine, Resolver
from opta_lmx.models.store import ModelStore
from opta_lmx.security.failures import AuthFailures
from opta_lmx.security.forwarded import Networks
from opta_lmx.security.proxies import TrustedProxies
from opta_lmx.security.redaction import Redactor
from opta_lmx.security.tls.mapping import Rule
from opta_lmx.serving.benchmarking import Benchmarks
from opta_lmx.serving.catalogue import Catalogue
from opta_lmx.serving.embedding import EmbeddingService
from opta_lmx.serving.management import Management
from opta_lmx.serving.metering import Metering, MeteringRules, open_metering
from opta_lmx.serving.service import Serving
from opta_lmx.store.database import Database
from opta_lmx.tenancy.audit import AuditLog
from opta_lmx.tenancy.key_book import KeyBook
from opta_lmx.tenancy.keyring import Keyring
from opta_lmx.tenancy.quotas_rows import Subject
from opta_lmx.tenancy.tokens import Tokens
from opta_lmx.tenancy.tokens_claims import Expected
from opta_lmx.tenancy.tokens_claims import Rule as ClaimRule
from opta_lmx.tenancy.tokens_source import Source, believing, fetch_keys


class Rooms(msgspec.Struct, frozen=True):
    """What routes talk to."""

    serving: Serving
    vectors: EmbeddingService
    engine: Engine
    catalogue: Catalogue
    store: ModelStore
    downloads: Downloads
    management: Management
    quantising: Quantising
    responses: ResponsesSurface
    benchmarks: Benchmarks
    presets: Directory
    keyring: Keyring
    key_book: KeyBook
    audit: AuditLog
    metering: Metering
    clock: Clock
    telemetry: Telemetry
    tickets: Tickets = msgspec.field(default_factory=lambda: Tickets(SystemClock()))


def with_presets(
    models: Resolver, home: Path, settings: Settings, telemetry: Telemetry
) -> Directory:
    """The models with the presets of a home folder, read under the rules of requests."""
    return directory(models, home, parse_preset, settings.models.aliases, telemetry)


def envelopes(settings: Settings) -> Envelopes:
    """Which dialect an error is told in, by path; keys are told in none."""
    return Envelopes(
        openai_errors.render,
        [
            ("/v1/messages", anthropic_errors.render),
            ("/v1/rerank", cohere_errors.render),
            ("/v2/rerank", cohere_errors.render),
            ("/api/v1/", lmstudio_errors.render),
            ("/api/v0/", lmstudio_errors.render),
            ("/api/", ollama_errors.render),
        ],
        Redactor(settings.secrets()).mask_keys,
    )


def open_keyring(
    settings: Settings, database: Database, clock: Clock, telemetry: Telemetry
) -> Keyring:
    """Whose keys there are: those of the configuration, and those kept in the database."""
    secrets = [key.get_secret_value() for key in settings.all_keys()]
    fixed = tuple(zip(secrets, _owners(settings), strict=True))
    tokens = _tokens(settings.oidc, database.path.parent, clock, telemetry)
    return Keyring(fixed, database, clock, required=keys_required(settings), tokens=tokens)


def _tokens(asked: OidcSettings, home: Path, clock: Clock, telemetry: Telemetry) -> Tokens | None:
    """What tells whose an identity provider's tokens are; None where none are taken."""
    source = identity_source(asked, home)
    if source is None or asked.audience is None:
        return None
    rules = tuple(ClaimRule(one.claim, one.value, **_granted(one)) for one in asked.rules)
    expected = Expected(source.issuer, asked.audience, rules, asked.max_lifetime_s)
    fetch = functools.partial(fetch_keys, source)
    return Tokens(expected, asked.algorithms, fetch, clock, telemetry)


def identity_source(asked: OidcSettings, home: Path) -> Source | None:
    """Where the identity provider's keys are; None where there is none.

    Raises:
        LmxError: INVALID_REQUEST `invalid_config` for authorities that cannot be read.
    """
    if asked.issuer is None:
        return None
    return Source(asked.issuer, asked.jwks_url, believing(asked.authorities(home), "oidc.ca"))


def open_key_book(settings: Settings, database: Database, clock: Clock) -> KeyBook:
    """What makes and ends keys of the database; those of the configuration keep their names."""
    mask = Redactor(settings.secrets()).mask_keys
    return KeyBook(database, clock, [owner.key for owner in _owners(settings)], mask)


def open_audit(settings: Settings, database: Database, clock: Clock) -> AuditLog:
    """What operators did, kept in the database."""
    mask = Redactor(settings.secrets()).mask
    return AuditLog(database, clock, mask, settings.audit.retention_days)


def metered(settings: Settings, database: Database, serving: Serving) -> Metering:
    """Quotas and the usage ledger, which `serving` follows from now on."""
    quotas, book = settings.quotas, serving.budgeting
    named = [(Subject("key", one.name), one) for one in quotas.keys]
    named += [(Subject("tenant", one.name), one) for one in quotas.tenants]
    configured = {whose: Quotas(**one.model_dump(exclude={"name"})) for whose, one in named}
    rules = MeteringRules(quotas.store, quotas.usage_days)
    book.metering = open_metering(configured, rules, database, book.clock, book.telemetry)
    return book.metering


def guarded(http: ASGIApp, rooms: Rooms, settings: Settings) -> ASGIApp:
    """The application behind its door; before that, whoever stands behind a proxy is made out."""
    clock, telemetry = rooms.clock, rooms.telemetry
    asked, security, profile = settings.server, settings.security, profile_of(settings)
    rules = DoorRules(
        allowed_hosts=frozenset({asked.host, *asked.allowed_hosts}),
        check_host=profile.host_check,
        check_origin=profile.origin_check,
        remote_admin=profile.remote_admin,
    )
    failures = AuthFailures(clock, security.auth_failures_per_minute)
    certificates = _certificates(settings.tls, clock)
    door = Door(rules, rooms.keyring, failures, certificates, rooms.tickets)
    audit = _audited(RateLimitHeaders(http, clock), rooms, settings)
    guard = Guard(audit, door, envelopes(settings), clock, telemetry, refused=audit.refused)
    return TrustedProxies(guard, Networks.parse(security.trusted_proxies))


def _audited(http: ASGIApp, rooms: Rooms, settings: Settings) -> Audit:
    """The application whose operators are written down; strictly, where others reach it."""
    strict = settings.security.profile != "loopback"
    reads = settings.audit.reads
    return Audit(
        http, rooms.audit, envelopes(settings), rooms.telemetry, strict=strict, reads=reads
    )


def _certificates(asked: TlsSettings, clock: Clock) -> Certificates:
    """Whose clients' certificates are."""
    gateways = Gateways(
        tuple(asked.gateway), asked.gateway_san_header, asked.gateway_subject_header
    )
    return Certificates([_rule(one) for one in asked.mapping], gateways, clock)


def _rule(asked: CertificateSettings) -> Rule:
    owner = Principal(key=asked.name or "", **_granted(asked))
    return Rule(*asked.pattern, owner, named=asked.name is not None)


def _granted(asked: CertificateSettings | ClaimSettings) -> dict[str, Any]:
    """What a certificate or a claim opens."""
    return {
        "tenant": asked.tenant,
        "lane": Lane[asked.lane.upper()],
        "scopes": frozenset(Scope(one) for one in asked.scopes),
        "models": None if asked.models is None else tuple(asked.models),
    }


def _owners(settings: Settings) -> list[Principal]:
    """The owners of all keys, in the order of `Settings.all_keys`."""
    plain = [Principal(key=plain_name(place)) for place in range(len(settings.server.api_keys))]
    return [*plain, *(_principal(one) for one in settings.access.keys)]


def _principal(key: KeySettings) -> Principal:
    return Principal(
        tenant=key.tenant,
        key=key.name,
        lane=Lane[key.lane.upper()],
        weight=key.weight,
        max_running=key.max_running,
        budgets=Budgets(
            key.prompt_tokens, key.prompt_tokens_per_minute, key.max_tokens, key.kv_bytes
        ),
        scopes=frozenset(Scope(one) for one in key.scopes),
        models=None if key.models is None else tuple(key.models),
    )


def routers(rooms: Rooms, settings: Settings) -> list[APIRouter]:
    """Every route but health and metrics."""
    lenient = settings.protocol.unknown_fields == "warn"
    told = envelopes(settings)
    calls = Calls(rooms.serving, _limits(settings.server), rooms.clock, told, lenient=lenient)
    return [
        *_openai(calls, rooms, settings),
        *_others(calls, rooms),
        *rooms.responses.routers(calls),
        AdminBenchmark(rooms.benchmarks).router(),
        AdminQuantize(rooms.quantising, rooms.serving, rooms.clock).router(),
        AdminQueues(rooms.engine).router(),
        AdminHealth(rooms.engine).router(),
        AdminPresets(rooms.presets).router(),
        TicketRoutes(rooms.tickets).router(),
        AdminAudit(rooms.audit).router(),
        AdminQuotas(rooms.metering).router(),
        UsageRoutes(rooms.metering.ledger).router(),
        AdminKeys(rooms.keyring, rooms.key_book, rooms.serving.budgeting, rooms.clock).router(),
        AdminModels(rooms.engine, rooms.serving, rooms.clock).router(),
        AdminDownloads(rooms.management, rooms.serving, rooms.clock).router(),
        AdminShelf(rooms.management, rooms.engine, rooms.serving).router(),
    ]


def _openai(calls: Calls, rooms: Rooms, settings: Settings) -> list[APIRouter]:
    choices = settings.protocol.max_choices
    dialect = ChatDialect(
        ChatParser(choices), functools.partial(calls.envelopes.render, CHAT_STREAM)
    )
    per_socket = settings.websocket.max_requests_per_socket
    return [
        ChatRoute(calls, choices).router(),
        ChatStream(calls, dialect, rooms.telemetry, per_socket).router(),
        CompletionsRoute(calls, choices).router(),
        EmbeddingsRoute(VectorCalls(calls, rooms.vectors)).router(),
        openai_models.router(rooms.catalogue),
    ]


def _others(calls: Calls, rooms: Rooms) -> list[APIRouter]:
    vectors = VectorCalls(calls, rooms.vectors)
    return [
        MessagesRoute(calls).router(),
        RerankRoutes(vectors).router(),
        LmStudioRoutes(calls, rooms.engine, rooms.catalogue, rooms.management).router(),
        GenerationRoutes(calls, rooms.engine).router(),
        ModelRoutes(calls, rooms.catalogue, rooms.store).router(),
        EmbedRoutes(vectors, rooms.clock).router(),
    ]


def _limits(server: ServerSettings) -> CallLimits:
    return CallLimits(
        body_limit_bytes=server.body_limit_bytes,
        body_timeout_s=server.body_timeout_s,
        keepalive_s=server.keepalive_s,
        prepare_before_headers_s=server.prepare_before_headers_s,
    )
