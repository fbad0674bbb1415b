"""Say what every setting is, where its value came from and what it means, secrets masked."""

from typing import Any, NamedTuple, cast

from pydantic import SecretStr

from opta_lmx.config.load import Loaded
from opta_lmx.config.settings import fields

_MASK = "********"


class Row(NamedTuple):
    """One setting: dotted key, value as text, the value's source, and the meaning."""

    key: str
    value: str
    origin: str
    description: str


def explain(loaded: Loaded) -> list[Row]:
    """One row for each setting, in the tree's order; no secret appears."""
    tree = loaded.settings.model_dump()
    rows: list[Row] = []
    for key, field in fields().items():
        section, name = key.split(".", 1)
        rows.append(
            Row(
                key,
                shown(tree[section][name]),
                loaded.origins[key],
                field.description or "",
            )
        )
    return rows


def shown(value: object) -> str:
    """A value as a person reads it, every secret in it masked."""
    if value is None:
        return "unset"
    if isinstance(value, SecretStr):
        return _MASK
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(shown(item) for item in cast(list[object], value)) + "]"
    if isinstance(value, dict):
        items = cast(dict[str, Any], value).items()
        return "{" + ", ".join(f"{k} = {shown(v)}" for k, v in items if v is not None) + "}"
    return str(value)
