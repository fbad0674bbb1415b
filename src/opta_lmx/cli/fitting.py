"""Whether the models on disk would fit into this machine's memory, and which other would."""

from collections.abc import Iterator

from opta_lmx.cli import machine
from opta_lmx.cli.checks import Check, with_step
from opta_lmx.cli.local import open_store
from opta_lmx.cli.session import Session
from opta_lmx.cli.terminal import size
from opta_lmx.core.errors import LmxError
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.sizing import budget_bytes
from opta_lmx.models.puller import stored_as
from opta_lmx.models.recommended import best_for
from opta_lmx.models.store import ModelEntry


def models(session: Session) -> Iterator[Check]:
    """One finding for each model of the store."""
    settings = session.settings
    try:
        store = open_store(session)
        planner = Planner(store, settings.engine, session.home, settings.models, settings.memory)
        entries = store.list()
    except LmxError as error:
        step = "correct that setting, or what models.dir names"
        yield Check("models", "broken", with_step(error.message, step))
        return
    if not entries:
        yield Check("models", "info", "none on disk; get one with: opta-lmx pull starter")
    available = machine.memory().available
    for entry in entries:
        if entry.broken is not None:
            step = f"opta-lmx rm {entry.name} removes it, to be had anew"
            yield Check(f"model {entry.name}", "broken", with_step(entry.broken, step))
        else:
            yield fit(planner, entry, available)


def better(session: Session) -> Iterator[Check]:
    """The largest model of the catalogue that this machine's budget for models takes."""
    budget = budget_bytes(session.settings.memory)
    one = best_for(budget)
    if one is None:
        return
    try:
        present = open_store(session).find(stored_as(one.ref)) is not None
    except LmxError:
        present = False
    if present:
        yield Check("recommended", "ok", f"{one.title}, the largest known to fit, is on disk")
        return
    yield Check(
        "recommended",
        "info",
        f"{one.title} ({one.format}, {one.quantisation}, {size(one.size_bytes)}, licence "
        f"{one.licence}) should fit into {size(budget)}: opta-lmx pull {one.ref}",
    )


def fit(planner: Planner, entry: ModelEntry, available: int) -> Check:
    """Compare what a model takes, as the server would load it, to what there is."""
    subject = f"model {entry.name}"
    try:
        appetite = planner.appetite(entry, planner.default_backend(entry))
    except LmxError as error:
        return Check(subject, "warning", with_step(error.message, "correct that setting"))

    def full(slots: int) -> int:
        return appetite.full(appetite.context, slots).total

    slots, reserved = appetite.slots, appetite.reserved().total
    needs = f"{size(full(slots))} with {slots} slots of {appetite.context} tokens"
    if not available:
        return Check(subject, "info", f"needs about {needs}")
    if full(slots) <= available:
        return Check(subject, "ok", f"fits: about {needs}")
    if reserved <= available:
        text = f"fits: it is given {size(reserved)}, and would fill {needs}"
        return Check(subject, "ok", text)
    fitting = max((n for n in range(1, slots) if full(n) <= available), default=0)
    if fitting:
        step = f'set slots = {fitting} under [engine.overrides."{entry.name}"]'
        text = f"needs about {needs}; {fitting} slots would fit"
        return Check(subject, "warning", with_step(text, step))
    least = min(reserved, full(1))
    text = f"does not fit: at least {size(least)} is needed, {size(available)} available"
    step = f"free some, or see what would fit with opta-lmx fit {entry.name} --slots 1"
    return Check(subject, "warning", with_step(text, step))
