"""What a client may ask for: models on disk joined with those that are loaded."""

import asyncio

import msgspec

from opta_lmx.engine.planner import Planner, split_ref
from opta_lmx.engine.residency import Engine, ModelStatus
from opta_lmx.models.store import ModelEntry

_Loaded = dict[str, ModelStatus]


class ServedModel(msgspec.Struct, frozen=True):
    """One model as clients see it; `context_length` is the usable window in tokens."""

    id: str
    created_s: int
    context_length: int
    state: str
    backend: str
    format: str
    quantisation: str
    architecture: str


class Catalogue:
    """Lists models; disk is read on a thread, never on the event loop."""

    def __init__(self, planner: Planner, engine: Engine) -> None:
        self._planner = planner
        self._engine = engine

    async def list(self) -> list[ServedModel]:
        """Every usable model on disk, then loaded ones that run on another backend."""
        return await asyncio.to_thread(self._all, self._loaded())

    async def get(self, ref: str) -> ServedModel:
        """One model by reference. Raises MODEL_NOT_FOUND."""
        return await asyncio.to_thread(self._one, ref, self._loaded())

    def _loaded(self) -> _Loaded:
        return {status.id: status for status in self._engine.status()}

    def _all(self, loaded: _Loaded) -> "list[ServedModel]":
        entries = self._planner.store.list()
        models = [
            self._join(entry.name, entry, loaded.pop(entry.name, None))
            for entry in entries
            if entry.broken is None
        ]
        by_name = {entry.name: entry for entry in entries}
        for status in loaded.values():
            entry = by_name.get(split_ref(status.id)[0])
            if entry is not None:
                models.append(self._join(status.id, entry, status))
        return models

    def _one(self, ref: str, loaded: _Loaded) -> ServedModel:
        name, asked = split_ref(ref)
        entry = self._planner.store.get(name)
        model_id = self._planner.id_of(entry, asked)
        return self._join(model_id, entry, loaded.get(model_id))

    def _join(self, model_id: str, entry: ModelEntry, status: ModelStatus | None) -> ServedModel:
        """From what was read already: the model may be gone from the disk by now."""
        asked = split_ref(model_id)[1]
        backend = status.backend if status else asked or self._planner.default_backend(entry)
        window = status.context_length if status else 0
        return ServedModel(
            id=model_id,
            created_s=entry.created_ms // 1000,
            context_length=window or self._planner.window_of(entry),
            state=status.state if status else "available",
            backend=backend,
            format=entry.format,
            quantisation=entry.info.quantisation,
            architecture=entry.info.architecture,
        )
