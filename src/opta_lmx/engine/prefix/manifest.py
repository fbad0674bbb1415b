"""What the file of a stored state says about itself, so that the index can be made from files."""

import hashlib

import msgspec

from opta_lmx.engine.prefix.tree import WIDTH

LAYOUT = 1
_SUFFIX = ".kv"
_encoder = msgspec.msgpack.Encoder()


class ModelKey(msgspec.Struct, frozen=True):
    """Everything that must be equal for a state to mean the same.

    `fingerprint` names the weights, `kv_type` how the state's numbers are stored, `positions` the
    settings of position encoding, `template` the version of the text around messages, `engine`
    what computes. What an adapter added to the weights is told by a state's salt.
    """

    fingerprint: str
    kv_type: str = ""
    positions: str = ""
    template: str = ""
    engine: str = ""

    def digest(self) -> str:
        """The key as 32 hexadecimal digits."""
        return hashlib.blake2b(_encoder.encode((LAYOUT, self)), digest_size=16).hexdigest()


class Manifest(msgspec.Struct, frozen=True):
    """One stored state: `model` is a `ModelKey.digest()`, `ids` are packed token ids.

    `salt` names whose it is, and the version of the adapter that it was made with, if any.
    `size` is the bytes it takes in memory, `saved_ms` the UTC time it was written in
    milliseconds.
    """

    model: str
    salt: str
    ids: bytes
    size: int
    saved_ms: int
    layout: int = LAYOUT

    @property
    def tokens(self) -> int:
        """The length of the prefix."""
        return len(self.ids) // WIDTH

    @property
    def name(self) -> str:
        """The file's name: a hash of what the state depends on."""
        return file_name(self.model, self.salt, self.ids)

    def encode(self) -> bytes:
        """The header to write into the file."""
        return _encoder.encode(self)


def file_name(model: str, salt: str, ids: bytes) -> str:
    """The name of the file for the state of these packed ids."""
    key = _encoder.encode((LAYOUT, model, salt, ids))
    return hashlib.blake2b(key, digest_size=20).hexdigest() + _SUFFIX


def read_manifest(header: bytes, name: str) -> Manifest | None:
    """The manifest in a file's header; None when it is not one, or not that of `name`."""
    try:
        manifest = msgspec.msgpack.decode(header, type=Manifest)
    except msgspec.DecodeError:
        return None
    sound = (
        manifest.layout == LAYOUT
        and manifest.ids
        and len(manifest.ids) % WIDTH == 0
        and manifest.size >= 0
        and manifest.name == name
    )
    return manifest if sound else None
