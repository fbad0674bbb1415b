"""The models on disk as operators see and delete them."""

import asyncio
from collections.abc import Callable

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.downloads import Downloads
from opta_lmx.engine.planner import Planner
from opta_lmx.engine.residency import Engine
from opta_lmx.engine.settle import settle
from opta_lmx.models.description import Format, ModelKind
from opta_lmx.models.manifest import ModelEntry
from opta_lmx.models.names import checked_name, split_ref
from opta_lmx.models.puller import Puller

Uses = Callable[[str], str | None]
"""What a stored model is in use for, as the end of `it is …`; None if it is not."""


class StoredModel(msgspec.Struct, frozen=True):
    """One model on disk.

    Attributes:
        context_length: the usable window in tokens; 0: unknown.
        size_bytes: of its files.
        created_ms: when it was added (UTC, ms since the epoch).
        converted: it is there for MLX too.
        loaded: the ids under which it is loaded.
        broken: why it cannot be used.
    """

    name: str
    format: Format
    kind: ModelKind
    architecture: str
    quantisation: str
    parameters: int
    context_length: int
    size_bytes: int
    created_ms: int
    source: str
    licence: str
    converted: bool
    loaded: tuple[str, ...]
    broken: str | None


class Shelf:
    """Lists and deletes; the disk is read on a thread.

    Args:
        planner: knows the store and what is configured for its models.
        engine: knows which are loaded.
        downloads: knows which are on their way.
        puller: knows what a download's model will be called.
        uses: other reasons for which a model must stay.
    """

    def __init__(
        self,
        planner: Planner,
        engine: Engine,
        downloads: Downloads,
        puller: Puller,
        uses: tuple[Uses, ...] = (),
    ) -> None:
        self._planner = planner
        self._engine = engine
        self._downloads = downloads
        self._puller = puller
        self._uses = uses

    async def stored(self) -> list[StoredModel]:
        """All models by name, broken ones included."""
        entries = await asyncio.to_thread(self._planner.store.list)
        loaded: dict[str, list[str]] = {}
        for model_id in self._loaded():
            loaded.setdefault(split_ref(model_id)[0], []).append(model_id)
        return [self._describe(entry, loaded.get(entry.name, [])) for entry in entries]

    async def delete(self, name: str) -> int:
        """Delete a model, or what an unfinished download of it has left; the bytes freed.

        Raises:
            LmxError: INVALID_REQUEST `invalid_model_name`; MODEL_NOT_FOUND; CONFLICT
                `model_loaded`, `model_downloading`, `model_in_use` or `model_busy`.
        """
        checked_name(name)
        self._planner.refuse_leaving(name)
        self._refuse_used(name)
        # Until it is gone nobody may begin what was just made sure that nobody does.
        self._planner.leaving.add(name)
        try:
            freed = await settle(asyncio.to_thread(self._planner.store.delete, name))
        finally:
            self._planner.leaving.discard(name)
        self._forgive(name)
        for job in self._downloads.list():
            if job.status == "interrupted" and self._is_of(job.model, name):
                self._downloads.cancel(job.id)
        await self._downloads.saved()
        return freed

    def _refuse_used(self, name: str) -> None:
        if any(self._is_of(job.model, name) for job in self._downloads.active()):
            raise _conflict(
                "model_downloading", f"The model '{name}' is being downloaded; cancel that first."
            )
        for model_id in self._loaded():
            served = split_ref(model_id)[0]
            if served == name:
                raise _conflict(
                    "model_loaded", f"The model '{name}' is loaded; unload '{model_id}' first."
                )
            if self._planner.draft_of(served) == name:
                raise _conflict(
                    "model_loaded",
                    f"The model '{name}' drafts for '{model_id}', which is loaded; unload that "
                    "first.",
                )
        for use in self._uses:
            purpose = use(name)
            if purpose is not None:
                raise _conflict("model_in_use", f"The model '{name}' is {purpose}.")

    def _forgive(self, name: str) -> None:
        """What is held against a model is not held against the next one of its name."""
        health = self._engine.recovery.health
        for model in health.known():
            if split_ref(model)[0] == name:
                health.reset(model)

    def _loaded(self) -> list[str]:
        """Ids of models that have, or are about to have, a worker; not those in quarantine."""
        ids = [status.id for status in self._engine.status()]
        return [model_id for model_id in ids if self._engine.find(model_id) is not None]

    def _is_of(self, ref: str, name: str) -> bool:
        try:
            return self._puller.model_name(ref) == name
        except LmxError:
            return False

    def _describe(self, entry: ModelEntry, loaded: list[str]) -> StoredModel:
        info = entry.info
        return StoredModel(
            name=entry.name,
            format=entry.format,
            kind=entry.kind,
            architecture=info.architecture,
            quantisation=info.quantisation,
            parameters=info.parameters,
            context_length=self._planner.window_of(entry),
            size_bytes=entry.size_bytes,
            created_ms=entry.created_ms,
            source=entry.source,
            licence=entry.licence,
            converted=entry.converted,
            loaded=tuple(sorted(loaded)),
            broken=entry.broken,
        )


def _conflict(code: str, message: str) -> LmxError:
    return LmxError(ErrorKind.CONFLICT, message, code=code, param="model")
