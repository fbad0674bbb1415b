"""What a reference would bring, known before any of its weights are fetched."""

from typing import Literal

import msgspec

from opta_lmx.models.description import Format
from opta_lmx.models.manifest import ModelEntry
from opta_lmx.models.starters import Starter

Origin = Literal["store", "starter", "hub"]


class Offer(msgspec.Struct, frozen=True):
    """One model on offer; sizes in bytes.

    Attributes:
        name: the name it has, or would have, in the store.
        origin: where its bytes are now.
        total_bytes: of all files that make it.
        held_bytes: of those, what an unfinished pull has left here.
        licence: what its makers call it; "" if they say nothing.
        quantisation: as far as its files' names tell.
    """

    name: str
    origin: Origin
    format: Format
    total_bytes: int
    held_bytes: int = 0
    licence: str = ""
    quantisation: str = ""

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
