"""How models are loaded and run: the section `engine`."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from opta_lmx.config.sections.base import LONGEST_KEPT_S, FilePath, Name, Seconds, Section
from opta_lmx.core.kv_cost import KvType

Backend = Literal["auto", "mlx", "gguf"]


class ModelOverride(Section):
    """Engine settings of one model; what is unset follows the section's own."""

    backend: Backend | None = None
    context: int | None = Field(default=None, ge=0)
    slots: int | None = Field(default=None, ge=1, le=1024)
    threads: int | None = Field(default=None, ge=0, le=1024)
    template: FilePath | None = None
    tool_dialect: Name | None = None
    reasoning: str | None = Field(default=None, max_length=64)
    ttl_s: float | None = Field(default=None, ge=0, le=LONGEST_KEPT_S)
    draft: Name | None = None
    draft_tokens: int | None = Field(default=None, ge=1, le=64)
    kv_type: KvType | None = None
    options: dict[str, Any] = Field(default={})

    @model_validator(mode="after")
    def _drafts_with_a_model(self) -> Self:
        """How far ahead is guessed says nothing without who guesses."""
        if self.draft_tokens is not None and self.draft is None:
            raise PydanticCustomError("draft_missing", "draft_tokens needs a draft model (draft)")
        return self

    @model_validator(mode="after")
    def _one_kv_type(self) -> Self:
        """Among the options it would be neither checked nor refused where it cannot be."""
        if "kv_type" in self.options:
            raise PydanticCustomError(
                "kv_type_misplaced", "options cannot hold kv_type: set it beside them"
            )
        return self


class EngineSettings(Section):
    """How models are loaded, run and watched."""

    backend: Backend = Field(
        default="auto", description="Engine used where a model does not name one."
    )
    load_on_demand: bool = Field(
        default=True, description="Load a stored model at its first request."
    )
    restore: bool = Field(
        default=True,
        description="After a stop without order, load again what was loaded at a request.",
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
        "draft names a model that guesses draft_tokens ahead; kv_type (f16, q8_0, q4_0) is how "
        "llama.cpp holds keys and values; tool_dialect and reasoning replace "
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
            kv_type=own.kv_type,
            options=own.options,
        )
