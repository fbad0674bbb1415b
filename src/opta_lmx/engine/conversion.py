"""Runs the GGUF to MLX converter as a child process, once per model."""

import asyncio
from pathlib import Path
from typing import Any

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.engine.child import run
from opta_lmx.engine.settle import settle
from opta_lmx.models.store import ModelEntry, ModelStore


class Conversions:
    """Makes the MLX conversions of a store; all who want that of one model share the work.

    Args:
        store: where models lie.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._under_way: dict[str, _Shared] = {}

    async def make(self, entry: ModelEntry) -> None:
        """Make the MLX conversion of a GGUF model unless it exists.

        Work that nobody waits for any more is ended.

        Raises:
            LmxError: the converter refused the file (its own code) or ended badly.
        """
        if self._store.has_conversion(entry.name):
            return
        shared = self._under_way.get(entry.name)
        if shared is None:
            shared = _Shared(asyncio.ensure_future(_convert(self._store, entry)))
            self._under_way[entry.name] = shared
        shared.waiting += 1
        try:
            await asyncio.shield(shared.work)
        finally:
            shared.waiting -= 1
            if not shared.waiting:
                del self._under_way[entry.name]
                shared.work.cancel()
                await settle(asyncio.wait({shared.work}))


class _Shared:
    """One conversion, and how many wait for it."""

    def __init__(self, work: asyncio.Task[None]) -> None:
        self.work = work
        self.waiting = 0


async def _convert(store: ModelStore, entry: ModelEntry) -> None:
    begun: list[Path] = []

    def begin() -> None:
        begun.append(store.begin_conversion(entry.name))

    try:
        await settle(asyncio.to_thread(begin))
        await _run_converter(entry.path, begun[0])
        await settle(asyncio.to_thread(store.finish_conversion, entry.name, begun[0]))
    finally:
        for work in begun:
            await settle(asyncio.to_thread(store.abandon, work))


async def _run_converter(source: Path, target: Path) -> None:
    options = ("--gguf", str(source), "--out", str(target))
    said, status = await run("opta_lmx.backends.convert", options)
    if status != 0:
        raise _refusal(said.get("error"))


def _refusal(error: dict[str, Any] | None) -> LmxError:
    """The converter's last line says what was wrong."""
    said = error or {}
    message = said.get("message", "the converter ended without saying why")
    return LmxError(
        ErrorKind.INVALID_REQUEST,
        f"The model cannot be converted to MLX: {message}",
        code=str(said.get("code", "conversion_failed")),
        param="model",
    )
