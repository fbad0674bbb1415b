"""The machine's memory: the section `memory`."""

from pydantic import Field

from opta_lmx.config.sections.base import DAY_S, LONGEST_KEPT_S, Name, Section


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
        le=LONGEST_KEPT_S,
        description="Unload a model that was idle for so long; unset: when its room is needed.",
    )
    pinned: list[Name] = Field(default=[], description="Models that are never unloaded for others.")
    warm: list[Name] = Field(
        default=[], description="Models kept loaded, unasked, while there is free room for them."
    )
    prefetch: bool = Field(
        default=True, description="Load a model ahead of its next use when that comes regularly."
    )
    swap_after_s: float = Field(
        default=20.0,
        ge=0,
        le=DAY_S,
        description="How long a busy model still begins requests while another waits for its room; "
        "0: who finds no room is told to come back.",
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
