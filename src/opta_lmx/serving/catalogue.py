"""What a client may ask for: models on disk joined with those that are loaded."""

import asyncio
import contextlib
from typing import Literal

import msgspec

from opta_lmx.core.errors import LmxError
from opta_lmx.core.principal import Principal
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.presets import Directory
from opta_lmx.engine.residency import Engine
from opta_lmx.engine.status import ModelStatus
from opta_lmx.models.names import split_ref
from opta_lmx.models.presets import Preset
from opta_lmx.models.store import ModelEntry
from opta_lmx.serving.access import ModelAccess

_Loaded = dict[str, ModelStatus]
_Aliases = dict[str, list[str]]


class ServedModel(msgspec.Struct, frozen=True):
    """One model as clients see it.

    Attributes:
        id: what to ask for; also the id of the loaded instance.
        name: the stored model, the same for all backends it runs on.
        context_length: the usable window in tokens, as loaded or as it would be.
        max_context_length: the largest window it can be loaded with; 0: unknown.
        kind: what it is for.
        tools: its template was made for tool calls (without, a default rendering teaches them).
        reasoning: the choices a caller has of how much it thinks, the usual one first.
        parameters: weights, counted before quantisation.
        source: where it came from, as in `Manifest`.
        load_s: what loading took, in seconds.
        expires_s: seconds until it is unloaded if nobody asks for it; None: not by itself.
        preset: what it is asked for through, where that is a preset: then `id` is that one's.
        adapters: names of those it can be asked for with, as `id:ADAPTER`.
        parent: the id of the model that this is an adapter of; None: it is none.
    """

    id: str
    name: str
    created_s: int
    context_length: int
    max_context_length: int
    state: str
    backend: str
    format: Literal["gguf", "mlx"]
    quantisation: str
    architecture: str
    kind: Literal["chat", "embedding", "rerank"]
    tools: bool
    reasoning: tuple[str, ...]
    aliases: tuple[str, ...]
    size_bytes: int
    parameters: int
    source: str
    load_s: float
    expires_s: float | None = None
    preset: Preset | None = None
    adapters: tuple[str, ...] = ()
    parent: str | None = None


class Catalogue:
    """Lists the models that a key may use; disk is read on a thread, never on the event loop.

    Args:
        planner: models on disk.
        engine: loaded ones.
        directory: knows presets, where there are any.
    """

    def __init__(
        self, planner: Planner, engine: Engine, directory: Directory | None = None
    ) -> None:
        self._planner = planner
        self._engine = engine
        self._directory = directory
        self._access = ModelAccess(directory or planner)

    async def list(self, owner: Principal) -> list[ServedModel]:
        """Every usable model on disk, then loaded ones that run on another backend."""
        return self._for(owner, await asyncio.to_thread(self._all, self._loaded()))

    async def adapters(self, owner: Principal) -> "list[ServedModel]":
        """Every adapter of the models that `list` gives, each as a model of its own."""
        return self._for(owner, await asyncio.to_thread(self._adapters, self._loaded()))

    async def presets(self, owner: Principal) -> "list[ServedModel]":
        """Every preset whose model can be asked for, by name."""
        return self._for(owner, await asyncio.to_thread(self._presets, self._loaded()))

    async def get(self, owner: Principal, ref: str) -> ServedModel:
        """One model, or preset, by reference.

        Raises:
            LmxError: MODEL_NOT_FOUND; FORBIDDEN `model_not_allowed`; CONFLICT `model_broken`;
                INVALID_REQUEST `backend_mismatch`.
        """
        self._access.check(owner, ref)
        return self._seen_by(owner, await asyncio.to_thread(self._one, ref, self._loaded()))

    def _for(self, owner: Principal, served: "list[ServedModel]") -> "list[ServedModel]":
        """Those of them that a key may use."""
        if owner.models is None:
            return served
        seen = [self._seen_by(owner, one) for one in served]
        own = [one for one in seen if self._access.allows(owner, one.id)]
        # Who was given a model under another name only knows it by that one.
        named = [_as(one.aliases[0], one) for one in seen if one not in own and one.aliases]
        return own + named

    def _seen_by(self, owner: Principal, model: ServedModel) -> ServedModel:
        """A model with those of its adapters and other names that a key may use."""
        if owner.models is None:
            return model
        adapters = tuple(
            name for name in model.adapters if self._access.allows(owner, f"{model.id}:{name}")
        )
        aliases = tuple(name for name in model.aliases if self._access.allows(owner, name))
        return msgspec.structs.replace(model, adapters=adapters, aliases=aliases)

    def _loaded(self) -> _Loaded:
        return {status.id: status for status in self._engine.status()}

    def _all(self, loaded: _Loaded) -> "list[ServedModel]":
        aliases = self._aliases()
        entries = self._planner.store.list()
        models = [
            self._join(entry.name, entry, loaded.pop(entry.name, None), aliases)
            for entry in entries
            if entry.broken is None
        ]
        by_name = {entry.name: entry for entry in entries}
        for status in loaded.values():
            entry = by_name.get(split_ref(status.id)[0])
            if entry is not None:
                models.append(self._join(status.id, entry, status, aliases))
        return models

    def _adapters(self, loaded: _Loaded) -> "list[ServedModel]":
        models, aliases = self._all(loaded), self._aliases()
        return [_with_adapter(each, name, aliases) for each in models for name in each.adapters]

    def _presets(self, loaded: _Loaded) -> "list[ServedModel]":
        found: list[ServedModel] = []
        for preset in () if self._directory is None else self._directory.presets.list():
            with contextlib.suppress(LmxError):  # its model is not in the store, or broken
                found.append(self._one(preset.id, loaded))
        return found

    def _one(self, ref: str, loaded: _Loaded) -> ServedModel:
        preset = None if self._directory is None else self._directory.preset(ref)
        if preset is None:
            return self._model(ref, loaded)
        aliases = (preset.alias,) if preset.alias else ()
        model = self._model(preset.model, loaded)
        return msgspec.structs.replace(
            model, id=preset.id, aliases=aliases, preset=preset, adapters=(), parent=None
        )

    def _model(self, ref: str, loaded: _Loaded) -> ServedModel:
        wanted = self._planner.asked(ref)
        entry = self._planner.store.get(wanted.name)
        model_id = self._planner.id_of(entry, self._planner.backend_of(entry, wanted.backend))
        aliases = self._aliases()
        model = self._join(model_id, entry, loaded.get(model_id), aliases)
        return _with_adapter(model, wanted.adapter, aliases) if wanted.adapter else model

    def _join(
        self, model_id: str, entry: ModelEntry, status: ModelStatus | None, aliases: _Aliases
    ) -> ServedModel:
        """From what was read already: the model may be gone from the disk by now."""
        asked = split_ref(model_id)[1]
        backend = status.backend if status else asked or self._planner.default_backend(entry)
        window = status.context_length if status else 0
        most = self._planner.window_of(entry)
        abilities = self._planner.abilities(entry)
        return ServedModel(
            id=model_id,
            name=entry.name,
            created_s=entry.created_ms // 1000,
            context_length=window or most,
            max_context_length=max(window, most),
            state=status.state if status else "available",
            backend=backend,
            format=entry.format,
            quantisation=entry.info.quantisation,
            architecture=entry.info.architecture,
            kind=entry.info.kind,
            tools=abilities.tools,
            reasoning=abilities.reasoning,
            aliases=tuple(aliases.get(model_id, ())),
            size_bytes=entry.size_bytes,
            parameters=entry.info.parameters,
            source=entry.source,
            load_s=status.load_s if status else 0.0,
            expires_s=status.expires_s if status else None,
            adapters=self._planner.adapters_of(entry, backend),
        )

    def _aliases(self) -> _Aliases:
        """Configured names by the id (model and backend) that they lead to."""
        found: _Aliases = {}
        for alias in self._planner.aliases:
            with contextlib.suppress(LmxError):  # its target is not in the store
                model, adapter = self._planner.canonical(alias), self._planner.adapter(alias)
                found.setdefault(f"{model}:{adapter}" if adapter else model, []).append(alias)
        return found


def _as(name: str, model: ServedModel) -> ServedModel:
    return msgspec.structs.replace(model, id=name, name=name, parent=None, aliases=())


def _with_adapter(model: ServedModel, name: str, aliases: _Aliases) -> ServedModel:
    own = f"{model.id}:{name}"
    known_as = tuple(aliases.get(own, ()))
    return msgspec.structs.replace(model, id=own, parent=model.id, adapters=(), aliases=known_as)
