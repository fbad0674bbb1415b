"""What `doctor` says of the presets in the home folder."""

from collections.abc import Iterator

from opta_lmx.api.preset_files import parse_preset
from opta_lmx.cli.checks import Check, with_step
from opta_lmx.cli.local import open_store
from opta_lmx.cli.session import Session
from opta_lmx.core.errors import LmxError
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.presets import Directory
from opta_lmx.models.presets import FOLDER, Presets


def presets(session: Session) -> Iterator[Check]:
    """Files that are refused, presets without their model, and the rest in one line."""
    settings = session.settings
    aliases = settings.models.aliases
    try:
        planner = Planner(open_store(session), settings.engine, session.home, settings.models)
    except LmxError as error:
        yield Check(FOLDER, "warning", with_step(error.message, "correct that setting"))
        return
    found = Directory(planner, Presets(session.home / FOLDER, parse_preset), aliases)
    for refused in found.reload().refused:
        text = with_step(refused.message, f"correct {FOLDER}/{refused.file}")
        yield Check(f"preset file {refused.file}", "warning", text)
    usable: list[str] = []
    for preset in found.presets.list():
        try:
            found.canonical(preset.id)
            usable.append(preset.name)
        except LmxError as error:
            step = f"get that model, or correct {FOLDER}/{preset.name}.toml"
            yield Check(f"preset {preset.name}", "warning", with_step(error.message, step))
    if usable:
        yield Check(FOLDER, "ok", ", ".join(usable))
