"""Signatures of thinking blocks: clients keep them and send them back with the block.

Nothing here is secret or proves anything. A signature names its block's thinking; where the
client wants thinking left out, it carries the thinking, so that the next turn can still show it
to the template.
"""

import base64
import binascii
import hashlib

_NAMED = "lmx1."
_CARRIED = "lmx2."


def signature(thinking: str, *, carry: bool) -> str:
    """Return the signature of a block; the same thinking has the same one."""
    data = thinking.encode()
    if carry:
        return _CARRIED + base64.urlsafe_b64encode(data).decode()
    return _NAMED + hashlib.sha256(data).hexdigest()[:32]


def hidden_thinking(text: str) -> str:
    """The thinking that a signature carries; empty for any other, and for what is broken."""
    if not text.startswith(_CARRIED):
        return ""
    try:
        return base64.urlsafe_b64decode(text.removeprefix(_CARRIED)).decode()
    except (binascii.Error, ValueError):
        return ""
