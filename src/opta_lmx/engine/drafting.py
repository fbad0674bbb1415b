"""Which model drafts for another, and whether the backend lets it."""

from collections.abc import Callable

import msgspec

from opta_lmx.backends import registry
from opta_lmx.backends.frames import Load
from opta_lmx.config.sections.engine import ModelOverride
from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.models.description import ModelInfo, with_draft
from opta_lmx.models.matching import Reference
from opta_lmx.models.store import ModelEntry

DRAFT_TOKENS = 4
"""Guessed at a time, unless configured."""


def drafted(
    entry: ModelEntry,
    load: Load,
    override: ModelOverride,
    find: Callable[[str], tuple[Reference, ModelEntry]],
) -> tuple[Load, ModelInfo]:
    """Add the configured draft model, if there is one.

    Args:
        entry: the model.
        load: how it is to be loaded.
        override: its own settings.
        find: resolves a reference in the catalogue.

    Returns:
        How to load both, and what they are together.

    Raises:
        LmxError: INVALID_REQUEST `draft_refused`, naming the setting.
    """
    if override.draft is None:
        return load, entry.info
    field = f"engine.overrides.{entry.name}.draft"
    if not registry.drafts(load.backend, load.kind):
        raise _refused(
            f"'{field}': '{entry.name}' runs on the {load.backend} backend, which has no draft "
            'models; set `backend = "gguf"` for a GGUF file, or remove it.',
            field,
        )
    try:
        wanted, draft = find(override.draft)
    except LmxError as error:
        raise _refused(f"'{field}': {error.message}", field) from None
    if draft.format != load.backend or wanted.backend not in (None, load.backend):
        raise _refused(
            f"'{field}': '{override.draft}' is not a {load.backend.upper()} file.", field
        )
    tokens = override.draft_tokens or DRAFT_TOKENS
    load = msgspec.structs.replace(load, draft=str(draft.path), draft_tokens=tokens)
    return load, with_draft(entry.info, draft.info)


def _refused(message: str, field: str) -> LmxError:
    return invalid(message, param=field, code="draft_refused")
