"""Takes the index's orders to those who carry them out: the worker, and a thread for files."""

import asyncio
from collections.abc import Callable

from opta_lmx.backends.frames import Cache, Move, Ready
from opta_lmx.engine.caching.folder import StateFolder, StateHome
from opta_lmx.engine.prefix import Manifest, Orders


class Courier:
    """The worker and the folder of one model's states, as far as there are any."""

    def __init__(self) -> None:
        self.send: Callable[[Cache], None] | None = None
        self._folder: StateFolder | None = None
        self._deletions: asyncio.Task[None] | None = None

    async def open(
        self, home: StateHome, ready: Ready, most: int
    ) -> tuple[StateFolder, list[Manifest]]:
        """Find the folder of what is loaded, and what lies there.

        Args:
            home: where folders lie.
            ready: says what is loaded.
            most: bytes that may be left to other models.

        Raises:
            OSError: there can be no folder.
        """

        def look() -> tuple[StateFolder, list[Manifest]]:
            folder = StateFolder.open(home, ready)
            folder.make_room(most)
            return folder, folder.manifests()

        await self.deleted()
        self._folder, found = await asyncio.to_thread(look)
        return self._folder, found

    def carry(self, orders: Orders) -> None:
        """Delete files, then tell the worker."""
        if orders.delete and self._folder is not None:
            self._delete(self._folder, orders.delete)
        if self.send is not None and (orders.drop or orders.spill or orders.load):
            self.send(self._command(orders))

    def _command(self, orders: Orders) -> Cache:
        folder = self._folder
        if folder is None:
            return Cache(orders.drop)
        spill = (
            Move(one.handle, str(folder.path / one.manifest.name), one.manifest.encode())
            for one in orders.spill
        )
        load = (Move(handle, str(folder.path / name)) for handle, name in orders.load)
        return Cache(orders.drop, tuple(spill), tuple(load))

    def _delete(self, folder: StateFolder, names: tuple[str, ...]) -> None:
        before = self._deletions

        async def delete() -> None:
            if before is not None:
                await before
            await asyncio.to_thread(folder.delete, names)

        self._deletions = asyncio.create_task(delete())

    async def deleted(self) -> None:
        """Return when every file that was to go is gone."""
        if self._deletions is not None:
            await self._deletions
