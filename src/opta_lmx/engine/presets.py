"""Presets among the models: whoever names one means its model."""

from collections.abc import Collection, Sequence
from pathlib import Path

from opta_lmx.core.errors import ErrorKind, LmxError, invalid
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.plan import Plan
from opta_lmx.engine.residency import Resolver
from opta_lmx.models.matching import Known, forms
from opta_lmx.models.presets import FOLDER, PREFIX, Found, Parse, Preset, Presets, Reloaded


class Directory:
    """A `Resolver` that knows presets too.

    A model's own name comes first, then a preset's alias, then all else a model is known by.

    Args:
        models: finds models.
        presets: what is in the folder of presets.
        aliases: other names of models, which no preset may take.
    """

    def __init__(self, models: Resolver, presets: Presets, aliases: Collection[str] = ()) -> None:
        self._models = models
        self.presets = presets
        self._aliases = {alias.lower() for alias in aliases}

    def canonical(self, ref: str) -> str:
        """The id under which a reference is served. Raises MODEL_NOT_FOUND."""
        preset = self.preset(ref)
        return self._models.canonical(ref) if preset is None else self.serves(preset)

    def adapter(self, ref: str) -> str:
        """The adapter that a reference, or its preset, names; empty for none."""
        preset = self.preset(ref)
        return self._models.adapter(ref if preset is None else preset.model)

    def known(self) -> Sequence[Known]:
        """The models there are."""
        return self._models.known()

    def serves(self, preset: Preset) -> str:
        """The id of a preset's model. Raises MODEL_NOT_FOUND."""
        try:
            return self._models.canonical(preset.model)
        except LmxError as error:
            raise _of_preset(error, preset) from None

    def plan(self, ref: str, context: int | None = None) -> Plan:
        """How to run it, with a window of `context` tokens if given (at most its own)."""
        preset = self.preset(ref)
        if preset is None:
            return self._models.plan(ref, context)
        try:
            return self._models.plan(preset.model, context)
        except LmxError as error:
            raise _of_preset(error, preset) from None

    def preset(self, ref: str) -> Preset | None:
        """The preset that a reference means; None where it means a model, or nothing.

        As for models, a provider's prefix may stand before it.

        Raises:
            LmxError: MODEL_NOT_FOUND for `preset:NAME` that is none.
        """
        if not (self.presets.list() or PREFIX in ref.lower()):
            return None
        seen: list[str] = []
        for form in forms(ref, self._models.known()):
            seen.append(form)
            if found := self.presets.asked(form):
                return found
            found = self.presets.aliased(form)
            if found is not None and not any(self._is_model(one) for one in seen):
                return found
        return None

    def _is_model(self, name: str) -> bool:
        try:
            served, adapter = self._models.canonical(name), self._models.adapter(name)
        except LmxError:
            return False
        return (f"{served}:{adapter}" if adapter else served).lower() == name.lower()

    def warm(self) -> list[str]:
        """Ids of the models that presets want kept loaded; the preset's where there is none."""
        wanted: dict[str, None] = {}
        for preset in self.presets.list():
            if preset.warm:
                wanted[self._found(preset)] = None
        return list(wanted)

    def _found(self, preset: Preset) -> str:
        try:
            return self.serves(preset)
        except LmxError:
            return preset.id

    def read(self) -> Found:
        """Read the presets anew, for `presets.take`; see there."""
        return self.presets.read(self._check_alias)

    def reload(self) -> Reloaded:
        """Read the presets anew and go by them."""
        return self.presets.take(self.read())

    def _check_alias(self, alias: str) -> None:
        if alias.lower() in self._aliases:
            raise invalid(f"The alias '{alias}' is one of models.aliases.", param="alias")
        if self._is_model(alias):
            raise invalid(f"The alias '{alias}' is the name of a model.", param="alias")


def directory(
    models: Resolver, home: Path, parse: Parse, aliases: Collection[str], telemetry: Telemetry
) -> Directory:
    """The models with the presets of a home folder; files that cannot be used are logged.

    Args:
        models: finds models.
        home: state folder.
        parse: reads a preset's file.
        aliases: other names of models.
        telemetry: told of what was refused.
    """
    made = Directory(models, Presets(home / FOLDER, parse), aliases)
    for one in made.reload().refused:
        telemetry.log("warning", "preset refused", file=one.file, reason=one.message)
    return made


def _of_preset(error: LmxError, preset: Preset) -> LmxError:
    """The error, saying whose model is meant where there is no such model."""
    if error.kind is not ErrorKind.MODEL_NOT_FOUND:
        return error
    message = f"{error.message} Preset '{preset.name}' asks for it."
    return LmxError(error.kind, message, code=error.code, param=error.param)
