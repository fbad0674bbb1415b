"""Quotas and the usage ledger: the section `quotas`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from opta_lmx.config.sections.base import Section

_Count = Annotated[int, Field(ge=1, le=2**63 - 1)]
_Owner = Annotated[str, Field(pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9._-]{0,63}|oidc:[!-~]{1,123})$")]
"""A key's or a tenant's name, or that of who shows tokens."""


class QuotaSettings(Section):
    """What one key, or all keys of one tenant together, may use; what is left out is unbounded."""

    name: _Owner
    requests_per_minute: _Count | None = None
    requests_per_day: _Count | None = None
    prompt_tokens_per_minute: _Count | None = None
    prompt_tokens_per_day: _Count | None = None
    output_tokens_per_minute: _Count | None = None
    output_tokens_per_day: _Count | None = None
    agent_runs_per_minute: _Count | None = None
    agent_runs_per_day: _Count | None = None
    skill_calls_per_minute: _Count | None = None
    skill_calls_per_day: _Count | None = None
    concurrency: _Count | None = None


def _distinct(quotas: list[QuotaSettings]) -> list[QuotaSettings]:
    """Refuse a name that has quotas twice."""
    names = [one.name for one in quotas]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise PydanticCustomError(
                "same_name",
                "Entries {first} and {second} have the same name",
                {"first": names.index(name), "second": place},
            )
    return quotas


class QuotasSettings(Section):
    """What keys and tenants may use in a minute and a day, and how use is kept."""

    store: Literal["sqlite", "memory"] = Field(
        default="sqlite",
        description="Where use is counted: the home's database (exact over restarts and over "
        "processes that share it), or this process alone.",
    )
    keys: Annotated[list[QuotaSettings], AfterValidator(_distinct)] = Field(
        default=[],
        description="Quotas of keys by name: requests, prompt_tokens, output_tokens, agent_runs "
        "and skill_calls, each _per_minute and _per_day, and concurrency.",
    )
    tenants: Annotated[list[QuotaSettings], AfterValidator(_distinct)] = Field(
        default=[],
        description="Quotas of tenants by name, over all their keys; fields as in quotas.keys.",
    )
    usage_days: int = Field(
        default=400,
        ge=1,
        le=3650,
        description="How many days of use the ledger keeps.",
    )
