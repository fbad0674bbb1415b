"""The lines that requests wait in: the section `queue`."""

from typing import Annotated

from pydantic import Field

from opta_lmx.config.sections.base import DAY_S, Seconds, Section


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
        le=DAY_S,
        description="Longest estimated load a request waits for; beyond: 503 with Retry-After.",
    )

    def bound(self, model: str) -> int:
        """How many requests may wait for `model`."""
        return self.per_model.get(model, self.max_waiting)
