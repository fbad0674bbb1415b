"""What a reference would bring, known before any of its weights are fetched."""

from typing import Literal

import msgspec

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.models.description import Format
from opta_lmx.models.manifest import ModelEntry
from opta_lmx.models.starters import Starter

Origin = Literal["store", "starter", "hub"]


class Pin(msgspec.Struct, frozen=True):
    """What a download is held to: the commit that was looked at, and the bytes of its files."""

    commit: str
    total_bytes: int


class Offer(msgspec.Struct, frozen=True):
    """One model on offer; sizes in bytes.

    Attributes:
        name: the name it has, or would have, in the store.
        origin: where its bytes are now.
        total_bytes: of all files that make it.
        held_bytes: of those, what an unfinished pull has left here.
        licence: what its makers call it; "" if they say nothing.
        quantisation: as far as its files' names tell.
        commit: of the hub's repository; "" for what does not come from the hub.
    """

    name: str
    origin: Origin
    format: Format
    total_bytes: int
    held_bytes: int = 0
    licence: str = ""
    quantisation: str = ""
    commit: str = ""

    @property
    def pin(self) -> Pin | None:
        """What a download of just this is held to; None for what is not on the hub."""
        return Pin(self.commit, self.total_bytes) if self.commit else None

    @property
    def missing_bytes(self) -> int:
        """What is still to be fetched."""
        return 0 if self.origin == "store" else max(0, self.total_bytes - self.held_bytes)


def stored_offer(entry: ModelEntry) -> Offer:
    """A model that is there already."""
    return Offer(
        name=entry.name,
        origin="store",
        format=entry.format,
        total_bytes=entry.size_bytes,
        held_bytes=entry.size_bytes,
        licence=entry.licence,
        quantisation=entry.info.quantisation,
    )


def starter_offer(starter: Starter) -> Offer:
    """A starter that is not there yet."""
    return Offer(
        name=starter.name,
        origin="starter",
        format="mlx" if starter.folder else "gguf",
        total_bytes=starter.size,
        licence=starter.licence,
    )


def offer_changed(name: str, param: str = "model") -> LmxError:
    """The error for a download that would bring something else than what was looked at.

    `param` is what the caller asked for it by.
    """
    return LmxError(
        ErrorKind.CONFLICT,
        f"'{name}' is not any more what was offered, so it is not fetched. Ask for it again to "
        "see what it is now.",
        code="offer_changed",
        param=param,
    )
