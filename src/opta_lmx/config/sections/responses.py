"""Stored responses: the section `responses`."""

from pydantic import Field

from opta_lmx.config.sections.base import DAY_S, LONGEST_KEPT_S, Section


class ResponsesSettings(Section):
    """What `/v1/responses` keeps for `previous_response_id` and later reading."""

    ttl_s: float = Field(
        default=30 * DAY_S,
        ge=60,
        le=LONGEST_KEPT_S,
        description="How long a stored response is kept.",
    )
    max_bytes: int = Field(
        default=1024**3,
        ge=1024**2,
        description="Most that stored responses take; the oldest go first.",
    )
