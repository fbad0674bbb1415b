"""Keys with names: the section `access`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from opta_lmx.config.sections.base import Label, Name, Secret, Section

ScopeName = Literal["inference", "agents", "skills", "admin", "metrics"]


class KeySettings(Section):
    """One key with a name: whose it is, and what its owner may use."""

    name: Label
    key: Secret
    tenant: Label = "default"
    scopes: list[ScopeName] = Field(default=["inference"], min_length=1)
    models: list[Name] | None = Field(default=None, min_length=1, max_length=64)
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
        description="Keys with names: name, key, tenant, scopes (unless said: inference), models "
        "(names, * for any characters), lane, weight, max_running, prompt_tokens, "
        "prompt_tokens_per_minute, max_tokens, kv_bytes; besides those of server.api_keys.",
    )
