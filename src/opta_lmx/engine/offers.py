"""Downloads in two steps: what is large is first said to be, and begun when that is confirmed."""

import asyncio
from collections import OrderedDict

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.ids import random_id
from opta_lmx.engine.aside import aside
from opta_lmx.engine.downloads import Download, Downloads
from opta_lmx.models.offer import Offer, Pin, offer_changed
from opta_lmx.models.puller import Puller
from opta_lmx.models.store import ModelStore

EXPIRES_S = 600
_MAX_PENDING = 1000
_LOOKS_AT_ONCE = 4


class Pending(msgspec.Struct, frozen=True):
    """A download that waits for its confirmation; `free_bytes` are those of the store's disk."""

    token: str
    model: str
    offer: Offer
    free_bytes: int
    until: float
    """Monotonic seconds."""


class Offers:
    """Decides which downloads are asked about.

    Args:
        puller: looks models up.
        store: on whose disk they are to lie.
        downloads: runs them.
        confirm_bytes: a hub model larger than this is asked about; 0: none is.
        clock: for the tokens' time.
    """

    def __init__(
        self,
        puller: Puller,
        store: ModelStore,
        downloads: Downloads,
        confirm_bytes: int,
        clock: Clock,
    ) -> None:
        self._puller = puller
        self._store = store
        self._downloads = downloads
        self._confirm_bytes = confirm_bytes
        self._clock = clock
        self._pending: OrderedDict[str, Pending] = OrderedDict()
        self._looking = asyncio.Semaphore(_LOOKS_AT_ONCE)

    async def request(self, model: str) -> Download | Pending:
        """Begin a download, join the one under way, or say what would have to be confirmed.

        Raises:
            LmxError: what the hub's listing refuses; INSUFFICIENT_RESOURCES `insufficient_disk`;
                RATE_LIMITED `too_many_downloads`.
        """
        if not self._confirm_bytes or self._downloads.accepted(model):
            return await self._begin(model, None)
        async with self._looking:
            offer, free = await aside(lambda: self._look(model), "hub listing")
        if self._downloads.accepted(model):  # meanwhile, by somebody who looked as well
            return await self._begin(model, None)
        if offer.origin != "hub" or offer.total_bytes <= self._confirm_bytes:
            return await self._begin(model, offer.pin)
        return self._ask(model, offer, free)

    async def confirm(self, token: str, model: str | None = None) -> Download:
        """Begin a download that was asked about; each token is good once.

        What was offered is fetched, at the commit that was looked at.

        Args:
            token: the one that came with the question.
            model: where the answer names it once more: as it was asked for.

        Raises:
            LmxError: NOT_FOUND `confirmation_not_found`; RATE_LIMITED `too_many_downloads`;
                CONFLICT `offer_changed`.
        """
        self._forget_old()
        pending = self._pending.get(token)
        if pending is None or model not in (None, pending.model):
            raise LmxError(
                ErrorKind.NOT_FOUND,
                "No download waits for this confirmation: the token is unknown, was used, is of "
                f"another model, or older than {EXPIRES_S // 60} minutes. Ask for the download "
                "again.",
                code="confirmation_not_found",
                param="confirmation_token",
            )
        try:
            begun = self._downloads.start(pending.model, pending.offer.pin)
        except LmxError as error:
            if error.code == "offer_changed":
                raise offer_changed(pending.model, "confirmation_token") from None
            raise
        del self._pending[token]
        await self._downloads.saved()
        return begun

    def expires_s(self, pending: Pending) -> int:
        """Whole seconds for which a token is still good."""
        return max(0, round(pending.until - self._clock.monotonic()))

    async def _begin(self, model: str, pin: Pin | None) -> Download:
        """Begin what nobody need be asked about; whoever hears of it can rely on it."""
        begun = self._downloads.start(model, pin)
        await self._downloads.saved()
        return begun

    def _look(self, model: str) -> tuple[Offer, int]:
        offer = self._puller.look(model)
        if offer.missing_bytes:
            self._store.refuse_full_disk(offer.missing_bytes)
        return offer, self._store.free_bytes()

    def _ask(self, model: str, offer: Offer, free: int) -> Pending:
        self._forget_old()
        until = self._clock.monotonic() + EXPIRES_S
        pending = Pending(random_id("confirm-", 32), model, offer, free, until)
        self._pending[pending.token] = pending
        if len(self._pending) > _MAX_PENDING:
            self._pending.popitem(last=False)
        return pending

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        while self._pending:
            token, oldest = next(iter(self._pending.items()))
            if oldest.until > now:
                return
            del self._pending[token]
