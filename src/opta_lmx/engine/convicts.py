"""Requests that have killed their workers, remembered: sent again, they are refused at once."""

import hashlib
from collections import OrderedDict

import msgspec

from opta_lmx.backends.frames import Embed, Submit
from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import Prompt
from opta_lmx.engine.worker import WORKER_DIED

_MOST = 256

Asked = Submit | Prompt | Embed
"""What a worker can be given, and die of."""


class Convicts:
    """The latest of one model, by digests of what was asked.

    Args:
        clock: time.

    Attributes:
        keep_s: how long one is remembered (s).
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self.keep_s = 600.0

    def add(self, request: Asked) -> None:
        """Remember a request."""
        key = digest(request)
        self._until[key] = self._clock.monotonic() + self.keep_s
        self._until.move_to_end(key)
        if len(self._until) > _MOST:
            self._until.popitem(last=False)

    def holds(self, request: Asked) -> bool:
        """True for a request that is remembered."""
        if not self._until:
            return False
        key, now = digest(request), self._clock.monotonic()
        if self._until.get(key, now) > now:
            return True
        self._until.pop(key, None)
        return False

    def refuse(self, request: Asked) -> None:
        """Raise INTERNAL `worker_died` for a request that is remembered."""
        if self.holds(request):
            raise LmxError(
                ErrorKind.INTERNAL,
                "Workers of this model died with this very request, which is not tried again "
                "for now.",
                code=WORKER_DIED,
            )


def digest(request: Asked) -> bytes:
    """The same for the same request; its number and its seed do not make another of it."""
    if isinstance(request, Submit):
        sampling = msgspec.structs.replace(request.sampling, seed=None)
        bounds = (request.max_tokens, request.grammar, request.logit_bias, request.adapter)
        asked: object = (request.ids, sampling, bounds)
    elif isinstance(request, Embed):
        asked = msgspec.structs.replace(request, id=0)
    else:
        asked = request
    return hashlib.blake2b(msgspec.msgpack.encode(asked), digest_size=16).digest()
