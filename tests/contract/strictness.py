"""What an SDK's own types do not know of an answer that they have read."""

from typing import Any

from pydantic import BaseModel


def unknown(value: Any) -> set[str]:
    """Keys that types kept without knowing them, however deep."""
    if isinstance(value, BaseModel):
        inner = [unknown(getattr(value, name)) for name in type(value).model_fields]
        return set(value.model_extra or ()).union(*inner)
    if isinstance(value, list | tuple):
        return set().union(*map(unknown, value))
    return set()
