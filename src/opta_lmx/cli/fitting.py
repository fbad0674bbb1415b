"""Whether the models on disk would fit into this machine's memory."""

from collections.abc import Iterator

from opta_lmx.backends import registry
from opta_lmx.cli import machine
from opta_lmx.cli.checks import Check
from opta_lmx.cli.local import open_store, window
from opta_lmx.cli.session import Session
from opta_lmx.cli.terminal import size
from opta_lmx.core.errors import LmxError
from opta_lmx.models.memory import MemoryEstimate, estimate
from opta_lmx.models.store import ModelEntry

_F32_BYTES = 4
_F16_BYTES = 2


def models(session: Session) -> Iterator[Check]:
    """One finding for each model of the store."""
    try:
        entries = open_store(session).list()
    except LmxError as error:
        yield Check("models", "broken", error.message)
        return
    if not entries:
        yield Check("models", "info", "none on disk; get one with: opta-lmx pull starter")
    available = machine.memory().available
    for entry in entries:
        if entry.broken is not None:
            yield Check(f"model {entry.name}", "broken", entry.broken)
        else:
            yield fit(session, entry, available)


def fit(session: Session, entry: ModelEntry, available: int) -> Check:
    """Compare what a model takes with all slots full, and with one, to what there is."""
    subject = f"model {entry.name}"
    slots = session.settings.engine.for_model(entry.name).slots or 1
    tokens = window(session, entry)
    full, least = (need(session, entry, count).total for count in (slots, 1))
    needs = f"{size(full)} with {slots} slots of {tokens} tokens"
    if not available:
        return Check(subject, "info", f"needs about {needs}")
    if full <= available:
        return Check(subject, "ok", f"fits: about {needs}")
    if least <= available:
        fitting = max(n for n in range(1, slots) if need(session, entry, n).total <= available)
        return Check(subject, "warning", f"needs about {needs}; {fitting} slots would fit")
    text = f"does not fit: about {size(least)} with a single slot, {size(available)} available"
    return Check(subject, "warning", text)


def need(session: Session, entry: ModelEntry, slots: int) -> MemoryEstimate:
    """What the model would take on the backend it would run on."""
    unpacked = _on_mlx(session, entry) and not registry.has_accelerator()
    return estimate(
        entry.info,
        context=window(session, entry),
        slots=slots,
        # MLX has no half-precision kernels worth using on a CPU: weights and caches are f32.
        element_bytes=_F32_BYTES if unpacked else _F16_BYTES,
        weight_bytes=_F32_BYTES * entry.info.parameters if unpacked else None,
    )


def _on_mlx(session: Session, entry: ModelEntry) -> bool:
    wished = session.settings.engine.for_model(entry.name).backend
    if wished == "mlx" or entry.format == "mlx":
        return True
    return wished == "auto" and registry.has_accelerator()
