"""What a client may ask for: models on disk joined with those that are loaded."""

import asyncio

import msgspec

from opta_lmx.engine.planner import Planner, split_ref
from opta_lmx.engine.residency import Engine, ModelStatus
from opta_lmx.models.store import ModelEntry


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
        entries = await asyncio.to_thread(self._planner.store.list)
        loaded = {status.id: status for status in self._engine.status()}
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

    async def get(self, ref: str) -> ServedModel:
        """One model by reference. Raises MODEL_NOT_FOUND."""
        entry = await asyncio.to_thread(self._planner.store.get, split_ref(ref)[0])
        model_id = self._planner.canonical(ref)
        loaded = {status.id: status for status in self._engine.status()}
        return self._join(model_id, entry, loaded.get(model_id))

    def _join(self, model_id: str, entry: ModelEntry, status: ModelStatus | None) -> ServedModel:
        backend = status.backend if status else self._planner.backend_of(model_id)
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
