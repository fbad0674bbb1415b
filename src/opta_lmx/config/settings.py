"""The settings tree: one frozen section per room, each field with its default and meaning."""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

Backend = Literal["auto", "mlx", "gguf"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "text", "json"]
UnknownFields = Literal["refuse", "warn"]

_MAX_DAY_S = 86_400.0


def _usable_key(key: SecretStr) -> SecretStr:
    """Refuse keys no HTTP header can carry; a blank one would let anybody in."""
    text = key.get_secret_value()
    if not text or not all("!" <= char <= "~" for char in text):
        raise PydanticCustomError(
            "unusable_key", "A key must be visible ASCII characters without spaces"
        )
    return key


Secret = Annotated[SecretStr, AfterValidator(_usable_key)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Name = Annotated[str, Field(min_length=1, max_length=512)]
Seconds = Annotated[float, Field(gt=0, le=_MAX_DAY_S)]
FilePath = Annotated[Path, Field(strict=False)]


def is_loopback(host: str) -> bool:
    """True for `localhost` and loopback addresses; any other name may reach beyond them."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Section(BaseModel):
    """Base of all sections: immutable, exact types, nothing unknown, no NaN."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


class ServerSettings(Section):
    """Where the server listens and what it bears from a connection."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; beyond loopback needs keys.",
    )
    port: int = Field(default=1234, ge=0, le=65_535, description="TCP port; 0 takes any free one.")
    api_keys: list[Secret] = Field(
        default=[],
        description="Bearer keys that callers must show, without names or limits of their own.",
    )
    allowed_hosts: list[Annotated[str, Field(min_length=1)]] = Field(
        default=[],
        description="Names accepted in the Host header besides the loopback ones.",
    )
    body_limit_bytes: int = Field(
        default=10 * 1024 * 1024,
        ge=1024,
        le=128 * 1024**2,
        description="Largest request body.",
    )
    body_timeout_s: Seconds = Field(
        default=30.0, description="Longest time a body may take to arrive."
    )
    keepalive_s: float = Field(
        default=10.0,
        ge=1,
        le=15,
        description="Seconds of silence in a stream before a no-op chunk is sent.",
    )
    drain_timeout_s: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="Time running answers get to finish at shutdown.",
    )
    prepare_before_headers_s: float = Field(
        default=8.0,
        ge=0,
        le=60,
        description="How long headers wait for the prompt's exact checks before they are sent.",
    )


class KeySettings(Section):
    """One key with a name: whose it is, and what its owner may use."""

    name: Label
    key: Secret
    tenant: Label = "default"
    lane: Literal["interactive", "agent", "background"] = "interactive"
    weight: float = Field(default=1.0, ge=0.01, le=100)
    max_running: int | None = Field(default=None, ge=1)
    prompt_tokens: int | None = Field(default=None, ge=1)
    prompt_tokens_per_minute: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    kv_bytes: int | None = Field(default=None, ge=1)


def _distinct(keys: list[KeySettings]) -> list[KeySettings]:
    """Refuse a name or a secret that stands for two keys; a secret is not told."""
    for what, shown in (
        ("name", [key.name for key in keys]),
        ("key", [key.key.get_secret_value() for key in keys]),
    ):
        for place, one in enumerate(shown):
            if one in shown[:place]:
                raise PydanticCustomError(
                    "same_key",
                    "Entries {first} and {second} have the same {what}",
                    {"first": shown.index(one), "second": place, "what": what},
                )
    return keys


class AccessSettings(Section):
    """Who may ask, and how much of the server each of them may use."""

    keys: Annotated[list[KeySettings], AfterValidator(_distinct)] = Field(
        default=[],
        description="Keys with names: name, key, tenant, lane, weight, max_running, "
        "prompt_tokens, prompt_tokens_per_minute, max_tokens, kv_bytes; besides those of "
        "server.api_keys.",
    )


class ModelsSettings(Section):
    """Where models lie and where they come from."""

    dir: FilePath | None = Field(
        default=None,
        description="Folder of the model store; unset: `models` in the home folder.",
    )
    hub_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s/]+",
        description="Address of the model hub; unset: the Hugging Face hub.",
    )
    downloads_enabled: bool = Field(
        default=True, description="Whether models may be fetched at all."
    )
    hub_token: Secret | None = Field(default=None, description="Access token for gated hub models.")
    aliases: dict[Name, Name] = Field(
        default={},
        description="Other names for models: each for a stored model, or `NAME:mlx`, `NAME:gguf`.",
    )

    def root(self, home: Path) -> Path:
        """The store's folder; a relative `dir` is taken from `home`."""
        return home / self.dir.expanduser() if self.dir else home / "models"


class ModelOverride(Section):
    """Engine settings of one model; what is unset follows the section's own."""

    backend: Backend | None = None
    context: int | None = Field(default=None, ge=0)
    slots: int | None = Field(default=None, ge=1, le=1024)
    threads: int | None = Field(default=None, ge=0, le=1024)
    template: FilePath | None = None
    tool_dialect: Name | None = None
    reasoning: str | None = Field(default=None, max_length=64)
    ttl_s: float | None = Field(default=None, ge=0, le=3650 * _MAX_DAY_S)
    draft: Name | None = None
    draft_tokens: int | None = Field(default=None, ge=1, le=64)
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _drafts_with_a_model(self) -> Self:
        """How far ahead is guessed says nothing without who guesses."""
        if self.draft_tokens is not None and self.draft is None:
            raise PydanticCustomError("draft_missing", "draft_tokens needs a draft model (draft)")
        return self


class EngineSettings(Section):
    """How models are loaded, run and watched."""

    backend: Backend = Field(
        default="auto", description="Engine used where a model does not name one."
    )
    load_on_demand: bool = Field(
        default=True, description="Load a stored model at its first request."
    )
    slots: int = Field(default=8, ge=1, le=1024, description="Requests one model runs at once.")
    context: int = Field(
        default=0, ge=0, description="Tokens one request may use; 0: the model's own."
    )
    threads: int = Field(
        default=0, ge=0, le=1024, description="CPU threads a model; 0: engine's choice."
    )
    load_timeout_s: Seconds = Field(
        default=600.0, description="Longest time a model may take to load."
    )
    prepare_timeout_s: Seconds = Field(
        default=20.0,
        description="Longest time rendering and tokenizing one prompt may take.",
    )
    stall_floor_s: Seconds = Field(
        default=60.0,
        description="Shortest silence of an engine that counts as a stall.",
    )
    stall_factor: float = Field(
        default=10.0,
        ge=1,
        le=1000,
        description="A stall is this many times the predicted duration.",
    )
    restart_backoff_s: Seconds = Field(
        default=0.5, description="Pause before a crashed model restarts."
    )
    restart_backoff_max_s: Seconds = Field(default=30.0, description="Longest such pause.")
    max_restarts: int = Field(
        default=5,
        ge=0,
        le=1000,
        description="Restarts within the window before a model is quarantined.",
    )
    restart_window_s: Seconds = Field(
        default=600.0, description="Window in which restarts are counted."
    )
    stall_target_ms: int = Field(
        default=250,
        ge=1,
        le=60_000,
        description="Longest pause a prefill may cause a running stream.",
    )
    kv_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Memory for the caches of one model's running requests; unset: what the "
        "memory section gives it.",
    )
    prefix_cache_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Memory for processed prompts of one model; 0: none; unset: half its caches'.",
    )
    prefix_cache_disk_bytes: int = Field(
        default=0,
        ge=0,
        description="Disk for processed prompts of one model, kept over restarts; 0: none.",
    )
    default_max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Answer limit where a request gives none; unset: the context's.",
    )
    overrides: dict[str, ModelOverride] = Field(
        default={},
        description="Per model: backend, context, slots, threads, template, ttl_s, options; "
        "draft names a model that guesses draft_tokens ahead; tool_dialect and reasoning replace "
        "what its template tells.",
    )

    def for_model(self, name: str) -> ModelOverride:
        """The settings of one model; what the section itself holds is filled in."""
        own = self.overrides.get(name, ModelOverride())
        return ModelOverride(
            backend=own.backend or self.backend,
            context=self.context if own.context is None else own.context,
            slots=own.slots or self.slots,
            threads=self.threads if own.threads is None else own.threads,
            template=own.template,
            tool_dialect=own.tool_dialect,
            reasoning=own.reasoning,
            ttl_s=own.ttl_s,
            draft=own.draft,
            draft_tokens=own.draft_tokens,
            options=own.options,
        )


class MemorySettings(Section):
    """What models may take of the machine's memory, and which of them stay."""

    budget_bytes: int | None = Field(
        default=None, ge=1, description="For all models together; unset: three quarters of it all."
    )
    cache_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="What an MLX model's caches may take of the budget left by its weights.",
    )
    ttl_s: float | None = Field(
        default=None,
        ge=0,
        le=3650 * _MAX_DAY_S,
        description="Unload a model that was idle for so long; unset: when its room is needed.",
    )
    pinned: list[Name] = Field(default=[], description="Models that are never unloaded for others.")
    warm: list[Name] = Field(
        default=[], description="Models kept loaded, unasked, while there is free room for them."
    )
    prefetch: bool = Field(
        default=True, description="Load a model ahead of its next use when that comes regularly."
    )
    mlx_cache_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Freed buffers an MLX worker keeps; unset: a sixteenth of the budget, at most "
        "1 GiB.",
    )
    mlx_wired_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Memory an MLX worker wires on Metal; 0: none; unset: weights and caches.",
    )


class QueueSettings(Section):
    """The bounded waiting line in front of each model."""

    max_waiting: int = Field(
        default=64,
        ge=0,
        le=100_000,
        description="Requests that may wait for one model; beyond: 429.",
    )
    per_model: dict[str, Annotated[int, Field(ge=0, le=100_000)]] = Field(
        default={}, description="The same bound for single models, by name."
    )
    queue_deadline_s: Seconds = Field(default=600.0, description="Longest time a request may wait.")
    load_wait_s: float = Field(
        default=120.0,
        ge=0,
        le=_MAX_DAY_S,
        description="Longest estimated load a request waits for; beyond: 503 with Retry-After.",
    )

    def bound(self, model: str) -> int:
        """How many requests may wait for `model`."""
        return self.per_model.get(model, self.max_waiting)


class SchedulingSettings(Section):
    """How requests share the machine while they run."""

    adaptive: bool = Field(
        default=True,
        description="Run fewer requests at once while a model's steps are slower than usual.",
    )
    background_share: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="Device time for background work while interactive requests run beside it "
        "on another model.",
    )


class ProtocolSettings(Section):
    """How strictly requests are read, whatever dialect they are in."""

    unknown_fields: UnknownFields = Field(
        default="refuse",
        description="`refuse` answers 400; `warn` ignores them and names them in a header.",
    )
    max_choices: int = Field(
        default=16, ge=1, le=128, description="Most answers one request may ask for (`n`)."
    )


class ResponsesSettings(Section):
    """What `/v1/responses` keeps for `previous_response_id` and later reading."""

    ttl_s: float = Field(
        default=30 * _MAX_DAY_S,
        ge=60,
        le=3650 * _MAX_DAY_S,
        description="How long a stored response is kept.",
    )
    max_bytes: int = Field(
        default=1024**3,
        ge=1024**2,
        description="Most that stored responses take; the oldest go first.",
    )


class WebsocketSettings(Section):
    """What one WebSocket connection may do."""

    max_requests_per_socket: int = Field(
        default=8, ge=1, le=1024, description="Requests one connection may have under way."
    )


class LoggingSettings(Section):
    """What is written to the log."""

    level: LogLevel = Field(default="info", description="Least severe level that is written.")
    format: LogFormat = Field(
        default="auto", description="Text on a terminal and JSON elsewhere: `auto`."
    )


class Settings(Section):
    """All sections; every field has a default."""

    server: ServerSettings = ServerSettings()
    access: AccessSettings = AccessSettings()
    models: ModelsSettings = ModelsSettings()
    engine: EngineSettings = EngineSettings()
    memory: MemorySettings = MemorySettings()
    queue: QueueSettings = QueueSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    responses: ResponsesSettings = ResponsesSettings()
    websocket: WebsocketSettings = WebsocketSettings()
    logging: LoggingSettings = LoggingSettings()

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        """Nothing listens beyond loopback without keys; no key is there twice."""
        if not self.all_keys() and not is_loopback(self.server.host):
            raise PydanticCustomError(
                "keys_required",
                "Listening on {host} reaches beyond this machine and needs server.api_keys "
                "or access.keys",
                {"host": self.server.host},
            )
        names = {plain_name(place) for place in range(len(self.server.api_keys))}
        secrets = {key.get_secret_value() for key in self.server.api_keys}
        for place, one in enumerate(self.access.keys):
            if one.name in names or one.key.get_secret_value() in secrets:
                what = "name" if one.name in names else "key"
                raise PydanticCustomError(
                    "key_taken",
                    "Entry {place} has the {what} of a key in server.api_keys",
                    {"place": place, "what": what},
                )
        return self

    def all_keys(self) -> list[SecretStr]:
        """The secrets of all keys, those without names first."""
        return [*self.server.api_keys, *(one.key for one in self.access.keys)]


def plain_name(place: int) -> str:
    """The name of the key at a place in `server.api_keys`."""
    return f"key-{place + 1}"


def fields() -> dict[str, FieldInfo]:
    """Every setting there is: dotted key (`section.key`) to its field, in the tree's order."""
    return {
        f"{section}.{key}": field
        for section, holder in Settings.model_fields.items()
        for key, field in cast(type[Section], holder.annotation).model_fields.items()
    }
