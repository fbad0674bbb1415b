"""What the index wants done by others: the worker, and who looks after the files."""

import msgspec

from opta_lmx.engine.prefix.manifest import Manifest


class Spill(msgspec.Struct, frozen=True):
    """Write the state under `handle` to the file `manifest.name`, with the manifest in front."""

    handle: int
    manifest: Manifest


class Orders(msgspec.Struct, frozen=True):
    """What to do: delete files, drop handles, write and read (handle, file name) states.

    Deleting comes first. A file to be deleted need not be there.
    """

    drop: tuple[int, ...] = ()
    spill: tuple[Spill, ...] = ()
    load: tuple[tuple[int, str], ...] = ()
    delete: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.drop or self.spill or self.load or self.delete)


class Counts(msgspec.Struct):
    """Counters since the model was loaded, for metrics.

    `evicted` counts states that left memory for want of room, `lost` those the worker lost,
    `corrections` requests that started with another number of cached tokens than planned,
    `unreadable` files that were not what they should be, `followed` waits for another request.
    """

    prompts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    corrections: int = 0
    evicted: int = 0
    lost: int = 0
    spilled: int = 0
    loaded: int = 0
    unreadable: int = 0
    followed: int = 0


class Outbox:
    """Orders not yet taken, and files being written."""

    def __init__(self) -> None:
        self._drop: list[int] = []
        self._spill: dict[int, Spill] = {}
        self._load: list[tuple[int, str]] = []
        self._delete: dict[str, None] = {}
        self._writing: dict[int, str] = {}

    def take(self) -> Orders:
        """What is to be done now; each order is given once."""
        self._writing |= {handle: spill.manifest.name for handle, spill in self._spill.items()}
        orders = Orders(
            tuple(self._drop),
            tuple(self._spill.values()),
            tuple(self._load),
            tuple(self._delete),
        )
        for given in (self._drop, self._spill, self._load, self._delete):
            given.clear()
        return orders

    def drop(self, handle: int) -> None:
        """Have a state dropped."""
        self._drop.append(handle)

    def load(self, handle: int, name: str) -> None:
        """Have a file read."""
        self._load.append((handle, name))

    def spill(self, handle: int, manifest: Manifest) -> None:
        """Have a state written."""
        self._delete.pop(manifest.name, None)
        self._spill[handle] = Spill(handle, manifest)

    def delete(self, name: str) -> None:
        """Have a file deleted."""
        self._delete[name] = None

    def unspill(self, handle: int) -> None:
        """The file is not wanted after all; one that is being written is deleted afterwards."""
        self._spill.pop(handle, None)

    def written(self, handle: int, wanted: bool) -> None:
        """Writing has ended; an unwanted file goes."""
        name = self._writing.pop(handle, None)
        if name is not None and not wanted and name not in self._writing.values():
            self.delete(name)

    def clear(self) -> None:
        """Nobody is there to carry out orders; what was being written may lie there in part."""
        for given in (self._drop, self._spill, self._load):
            given.clear()
        for name in self._writing.values():
            self.delete(name)
        self._writing.clear()
