"""What a client keeps for us between requests: opaque to it, checked when it comes back.

It holds only the client's own conversation, so it is packed and checked, not encrypted.
"""

import base64
import binascii
import zlib

import msgspec

from opta_lmx.core.errors import LmxError, invalid

_MARK = "lmx1."
_MAX_BYTES = 16 * 1024 * 1024


class Sealed(msgspec.Struct, frozen=True, tag_field="kind"):
    """Base of everything that is sealed."""


class Thinking(Sealed, tag="thinking", frozen=True):
    """The thinking of one reasoning item."""

    text: str


class Compacted(Sealed, tag="compacted", frozen=True):
    """A conversation made short: its rules word for word, and what happened since."""

    rules: tuple[str, ...]
    summary: str


_decoder = msgspec.json.Decoder(Thinking | Compacted)


def seal(content: Thinking | Compacted) -> str:
    """Pack something for a client."""
    packed = zlib.compress(msgspec.json.encode(content))
    return _MARK + base64.urlsafe_b64encode(packed).decode()


def unseal(sealed: str, param: str) -> Thinking | Compacted:
    """Open what `seal` packed.

    Raises:
        LmxError: INVALID_REQUEST `invalid_encrypted_content`; it is damaged, or not ours.
    """
    if not sealed.startswith(_MARK):
        raise _unreadable(param)
    try:
        packed = base64.b64decode(sealed.removeprefix(_MARK), altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, _MAX_BYTES)
        if not unpacker.eof:
            raise _unreadable(param)
        return _decoder.decode(text)
    except (binascii.Error, zlib.error, ValueError, msgspec.MsgspecError):
        raise _unreadable(param) from None


def _unreadable(param: str) -> LmxError:
    return invalid(
        f"'{param}' was not made by this server, or is damaged.",
        param=param,
        code="invalid_encrypted_content",
    )
