"""Tokens of an identity provider (JWT), in the place of keys.

Whose a token is can be told without waiting: signatures are checked with keys that were fetched
before, in the background.
"""

import asyncio
import base64
import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context

from jwt import PyJWS, PyJWTError

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Principal
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.tenancy.tokens_claims import (
    BadTokenError,
    Expected,
    Owned,
    check_claims,
    check_header,
    read_object,
)
from opta_lmx.tenancy.tokens_keys import KeySet, ProviderError

MAX_TOKEN = 8 * 1024
FRESH_S = 300.0
"""How long keys are taken for the provider's present ones."""
STALE_S = 3600.0
"""How long they go on while it does not answer: longer, a withdrawn one might."""
PAUSE_S = 10.0
"""Between two fetches, whatever key ids callers make up."""
_SHORTEST_WAIT_S = 1.0
_KNOWN = 1024
# As every provider writes them: the JSON of the header begins with {" and is not padded.
_SHAPE = re.compile(r"(eyJ[A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class Tokens:
    """Says whose a token is.

    Args:
        expected: what tokens must say.
        algorithms: of signatures.
        fetch: gets the provider's keys; raises ProviderError.
        clock: time.
        telemetry: told why keys cannot be had, and why tokens open nothing.
    """

    def __init__(
        self,
        expected: Expected,
        algorithms: Sequence[str],
        fetch: Callable[[], Awaitable[KeySet]],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._expected = expected
        self._algorithms = frozenset(algorithms)
        self._fetch = fetch
        self._clock = clock
        self._telemetry = telemetry
        self._jws = PyJWS(algorithms=list(algorithms))
        self._keys: KeySet | None = None
        self._read_at = self._tried_at = -math.inf
        self._wanted = False
        self._fetching: asyncio.Task[None] | None = None
        self._failure = ""
        # Good tokens by their digest: most callers show one many times.
        self._known: OrderedDict[bytes, Owned] = OrderedDict()

    def owner(self, shown: str) -> Principal | None:
        """Whose token this is; None for any that is not good here and now.

        Raises:
            LmxError: UNAVAILABLE `identity_provider_unavailable` while there are no keys to
                check it with.
        """
        shape = _SHAPE.fullmatch(shown) if len(shown) <= MAX_TOKEN else None
        if shape is None:
            return None
        self.follow()
        now_s = self._clock.now_ms() / 1000
        digest = _digest(shown)
        try:
            owned = self._known.get(digest) or self._checked(shown, shape[1], now_s)
        except BadTokenError as error:
            self._telemetry.log("debug", "token refused", reason=str(error))
            return None
        self._known[digest] = owned
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return owned.owner if owned.opens(now_s) else None

    def ends_ms(self, shown: str) -> int | None:
        """When a token that `owner` knew ends, in UTC milliseconds; None for any other text."""
        owned = self._known.get(_digest(shown))
        return None if owned is None else int(owned.ends_s * 1000)

    def follow(self) -> None:
        """Fetch keys in the background where that is due; to be called every second or so."""
        now = self._clock.monotonic()
        if self._keys is not None and now - self._read_at > STALE_S:
            self._take(None)
        if self._fetching is not None and not self._fetching.done():
            return
        due = self._wanted or now - self._read_at >= FRESH_S
        if due and now - self._tried_at >= PAUSE_S:
            self._tried_at, self._wanted = now, False
            # Of no request: what it logs must not carry the id of the one that began it.
            self._fetching = asyncio.create_task(self._refresh(), context=Context())

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    async def _refresh(self) -> None:
        try:
            keys = await self._fetch()
        except ProviderError as error:
            self._failed(str(error))
            return
        self._telemetry.count("identity_provider_fetches_total", outcome="done")
        self._read_at, self._failure = self._clock.monotonic(), ""
        self._take(keys)

    def _failed(self, reason: str) -> None:
        """Tell operators, once for each reason."""
        self._telemetry.count("identity_provider_fetches_total", outcome="failed")
        if reason != self._failure:
            self._failure = reason
            self._telemetry.log(
                "warning", "the identity provider's keys cannot be had", reason=reason
            )

    def _take(self, keys: KeySet | None) -> None:
        """From now on these keys count, and no token that was checked with others."""
        self._keys = keys
        self._known.clear()

    def _checked(self, token: str, head: str, now_s: float) -> Owned:
        algorithm, kid = check_header(read_object(_decoded(head)))
        if algorithm not in self._algorithms:
            raise BadTokenError("another algorithm")
        if self._keys is None:
            raise self._unavailable()
        key = self._keys.find(kid)
        if key is None:
            self._wanted = True
            self.follow()
            raise BadTokenError("an unknown key")
        if algorithm not in key.algorithms:
            raise BadTokenError("not this key's algorithm")
        try:
            payload = self._jws.decode(token, key.public, algorithms=[algorithm])
        except (PyJWTError, ValueError, TypeError):
            raise BadTokenError("a wrong signature") from None
        return check_claims(read_object(payload), self._expected, now_s)

    def _unavailable(self) -> LmxError:
        wait_s = self._tried_at + PAUSE_S - self._clock.monotonic()
        if self._fetching is not None and not self._fetching.done():
            wait_s = _SHORTEST_WAIT_S
        return LmxError(
            ErrorKind.UNAVAILABLE,
            "The identity provider cannot be reached, so that no token can be checked. Retry "
            "later, or show a key.",
            code="identity_provider_unavailable",
            retry_after=max(_SHORTEST_WAIT_S, wait_s),
        )


def _digest(shown: str) -> bytes:
    return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).digest()


def _decoded(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise BadTokenError("no base64") from None
