"""What the program says at its end. Imports no inference library."""

import msgspec

from opta_lmx.models.manifest import FileRecord


class Packed(msgspec.Struct, frozen=True):
    """What became of the layers; `kept` are those whose width is no multiple of the group."""

    bits_per_weight: float
    quantised: int
    kept: int


class Outcome(msgspec.Struct, frozen=True):
    """The files of the folder that was made, and its figures."""

    files: tuple[FileRecord, ...]
    packed: Packed
