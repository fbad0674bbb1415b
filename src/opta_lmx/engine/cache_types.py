"""How a model's keys and values are held, where the configuration says, or why they cannot be."""

from opta_lmx.config.sections.engine import ModelOverride
from opta_lmx.core.errors import invalid
from opta_lmx.models.store import ModelEntry


def cache_type(entry: ModelEntry, backend: str, override: ModelOverride) -> dict[str, str]:
    """The engine's options for it: none where nothing is said.

    mlx-lm's quantised cache holds one sequence: it cannot be part of a batch.

    Raises:
        LmxError: INVALID_REQUEST `kv_type_refused`, naming the setting.
    """
    wanted = override.kv_type
    if wanted is None:
        return {}
    field = f"engine.overrides.{entry.name}.kv_type"
    instead = ""
    if entry.info.kind != "chat":
        reason = "makes no text and keeps no caches"
    elif backend != "gguf":
        reason = f"runs on the {backend} backend, whose batches hold keys and values as computed"
        if entry.format == "gguf":
            instead = 'set `backend = "gguf"`, or '
    else:
        return {"kv_type": wanted}
    raise invalid(
        f"'{field}': '{entry.name}' {reason}; {instead}remove it.",
        param=field,
        code="kv_type_refused",
    )
