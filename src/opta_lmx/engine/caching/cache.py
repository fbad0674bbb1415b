"""Joins the prefix index of one model with its worker, its files and whoever waits."""

import asyncio
from collections.abc import Callable

import msgspec

from opta_lmx.backends.frames import (
    Cache,
    CacheChanged,
    Ready,
    Released,
    Step,
    Submit,
    ToFront,
)
from opta_lmx.core.clock import Clock
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.caching.costs import Costs
from opta_lmx.engine.caching.courier import Courier
from opta_lmx.engine.caching.folder import StateHome
from opta_lmx.engine.caching.limits import CacheLimits
from opta_lmx.engine.caching.ports import CacheLevels, Wish
from opta_lmx.engine.prefix import CachePlan, PrefixIndex

_SETTLE_S = 1.0
_ATTEMPTS = 3


class _Running:
    """A request in the worker: what was planned, and the tokens that have come since."""

    __slots__ = ("answer", "began", "plan")

    def __init__(self, plan: CachePlan, began: float) -> None:
        self.plan = plan
        self.began = began
        self.answer: list[int] = []


class PrefixCache:
    """A `ModelCache` that decides by a `PrefixIndex`.

    Args:
        model: for metrics and logs.
        limits: what may be held.
        home: where files may lie; None for a model whose states are not written.
        clock: time.
        telemetry: is told what is found and what is let go.
    """

    def __init__(
        self,
        model: str,
        limits: CacheLimits,
        home: StateHome | None,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._model = model
        self._limits = limits
        self._home = home
        self._clock = clock
        self._telemetry = telemetry
        self._index: PrefixIndex | None = None
        self._worker: tuple[object, ...] | None = None
        self._courier = Courier()
        self._costs = Costs()
        self._running: dict[int, _Running] = {}
        self._ends: dict[int, int] = {}
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._written: asyncio.Event = asyncio.Event()
        self._settled_at = 0.0
        self._evicted = self._corrected = 0

    @property
    def levels(self) -> CacheLevels:
        """What is held."""
        index = self._index
        if index is None:
            return CacheLevels()
        return CacheLevels(index.memory_bytes, index.disk_bytes)

    # --- a worker's life

    async def attach(self, ready: Ready, send: Callable[[Cache], None]) -> None:
        """A worker is ready; what earlier ones wrote of the same model is found again."""
        self.detach()
        kind = (ready.caches, ready.engine, ready.context, ready.slots)
        if kind != self._worker:
            rules = self._limits.rules(ready)
            self._index = None if rules is None else PrefixIndex(rules, self._clock)
            self._worker, self._costs = kind, Costs()
            self._evicted = self._corrected = 0
            if self._index is not None and self._home is not None and self._limits.disk_bytes:
                await self._open_folder(self._index, self._home, ready)
        self._courier.send = send
        self._obey()

    async def _open_folder(self, index: PrefixIndex, home: StateHome, ready: Ready) -> None:
        most = self._limits.disk_bytes

        try:
            folder, manifests = await self._courier.open(home, ready, most)
        except OSError as error:
            reason = error.strerror or str(error)
            self._log("warning", "prefix cache without files", reason=reason)
            return
        index.use_disk(folder.key, most, manifests)

    def detach(self) -> None:
        """The worker is gone; files that were whole remain."""
        self._courier.send = None
        self._written.set()
        self._running.clear()
        self._ends.clear()
        if self._index is not None:
            self._index.clear()
            self._obey()

    def tick(self) -> None:
        """Write now and then what has rested for a while, and end waits that last too long."""
        index, now = self._index, self._clock.monotonic()
        if index is None or self._courier.send is None:
            return
        if now - self._settled_at >= _SETTLE_S and index.idle():
            self._settled_at = now
            index.settle()
        self._obey()

    async def flush(self, limit_s: float) -> None:
        """Write everything of use, for `limit_s` at most."""
        index = self._index
        if index is None or self._courier.send is None:
            return
        index.settle(everything=True)
        self._obey()
        try:
            async with asyncio.timeout(limit_s):
                while index.spilling and self._courier.send is not None:
                    self._written.clear()
                    await self._written.wait()
                await self._courier.deleted()
        except TimeoutError:
            self._log("warning", "prefix cache not all written")

    # --- a request's life

    def expected(self, wish: Wish) -> int:
        """How many of the prompt's tokens are in memory now."""
        return 0 if self._index is None else self._index.cached(wish.ids, wish.salt)

    async def wait(self, ticket: int, wish: Wish) -> None:
        """Return when what is about to come has come, or takes too long."""
        index = self._index
        if index is None or ticket in self._running:
            return
        try:
            while self._courier.send is not None and index is self._index:
                plan = _plan(index, wish)
                if not plan.waits or not index.follow(ticket, plan):
                    return
                self._waiting[ticket] = asyncio.get_running_loop().create_future()
                self._obey()
                await self._woken(index, ticket)
        finally:
            self._waiting.pop(ticket, None)
            if ticket not in self._running:
                index.ended(ticket)
            self._obey()

    async def _woken(self, index: PrefixIndex, ticket: int) -> None:
        deadline = index.next_deadline()
        left = None if deadline is None else max(0.0, deadline - self._clock.monotonic())
        try:
            async with asyncio.timeout(left):
                await self._waiting[ticket]
        except TimeoutError:
            self._wake()

    def planned(self, request: Submit, wish: Wish) -> Submit:
        """The request with what it reuses and keeps."""
        index, ticket = self._index, request.id
        if index is None or self._courier.send is None:
            return request
        index.ended(ticket)
        learn = not request.generated
        for _ in range(_ATTEMPTS):
            plan = _plan(index, wish, learn=learn)
            plan = index.joined(plan)
            if index.begin(ticket, plan):
                return self._begun(request, plan)
        self._obey()
        return request

    def _begun(self, request: Submit, plan: CachePlan) -> Submit:
        self._running[request.id] = _Running(plan, self._clock.monotonic())
        if plan.keep_end:
            self._ends[plan.keep_end] = request.id
        self._obey()
        left = plan.divergence
        if left is not None:
            self._log(
                "debug",
                "prompt left its session",
                session=plan.session,
                shared=left.tokens,
                of=left.of,
                turn=left.turn,
                turns=left.turns,
            )
        return msgspec.structs.replace(
            request, reuse=plan.reuse, keep=plan.keep, keep_end=plan.keep_end
        )

    def hold(self, ticket: int) -> bool:
        """True when the request has a handle for the state it ends with."""
        running = self._running.get(ticket)
        return running is not None and running.plan.keep_end != 0

    def leave(self, ticket: int) -> None:
        """The request was never submitted, or waits to go on and will not."""
        if self._index is not None and ticket not in self._running:
            self._index.ended(ticket)
            self._obey()

    def bound(self, left: int) -> None:
        """Rows leave so many bytes; where states share memory with them, they take no more."""
        if self._index is not None and self._limits.shared:
            self._index.bound(left)
            self._obey()

    # --- what the worker tells

    def take(self, frame: ToFront) -> None:
        """Learn from a frame."""
        index = self._index
        if index is None:
            return
        match frame:
            case Step():
                self._stepped(index, frame)
            case CacheChanged():
                self._changed(index, frame)
            case Released():
                if self._running.pop(frame.id, None) is not None:
                    self._ends = {one: of for one, of in self._ends.items() if of != frame.id}
                    index.ended(frame.id)
                    self._obey()
            case _:
                pass

    def _stepped(self, index: PrefixIndex, step: Step) -> None:
        for token in step.tokens:
            running = self._running.get(token.request)
            if running is not None:
                running.answer.append(token.id)
        for started in step.started:
            running = self._running.get(started.request)
            if running is not None:
                index.started(started.request, started.cached)
                self._count("queries", running.plan.tokens)
                self._count("hits", started.cached)
        if step.started:
            self._obey()

    def _changed(self, index: PrefixIndex, frame: CacheChanged) -> None:
        for kept in frame.kept:
            ticket = self._ends.pop(kept.handle, 0)
            running = self._running.get(ticket)
            self._costs.state(kept.tokens, kept.bytes)
            self._time(kept.handle, kept.tokens)
            index.kept(
                kept.handle, kept.tokens, kept.bytes, () if running is None else running.answer
            )
        index.lost(frame.lost)
        for spilled in frame.spilled:
            index.spilled(spilled.handle)
        for handle in frame.unspilled:
            index.spilled(handle, done=False)
        if frame.kept:
            costs = self._costs
            index.learn(costs.per_token, costs.fixed, costs.prefill_rate)
        self._written.set()
        self._obey()

    def _time(self, handle: int, tokens: int) -> None:
        """A checkpoint of a prompt tells how fast the prompt goes, if nothing was waited for."""
        for running in self._running.values():
            plan = running.plan
            if any(keep.handle == handle for keep in plan.keep) and not plan.waits:
                took_s = self._clock.monotonic() - running.began
                self._costs.prefill(tokens - plan.cached, took_s)

    # --- orders

    def _obey(self) -> None:
        """Do what the index wants done, and wake who waited for what has happened."""
        index = self._index
        if index is None:
            return
        self._courier.carry(index.take_orders())
        self._wake()
        self._count("evictions", index.counts.evicted - self._evicted)
        self._count("corrections", index.counts.corrections - self._corrected)
        self._evicted, self._corrected = index.counts.evicted, index.counts.corrections

    def _wake(self) -> None:
        if self._index is None:
            return
        for ticket in self._index.woken():
            future = self._waiting.get(ticket)
            if future is not None and not future.done():
                future.set_result(None)

    def _count(self, what: str, value: int) -> None:
        if value:
            self._telemetry.count(f"prefix_cache_{what}_total", value, model=self._model)

    def _log(self, level: str, event: str, **fields: object) -> None:
        self._telemetry.log(level, event, model=self._model, **fields)


def _plan(index: PrefixIndex, wish: Wish, *, learn: bool = True) -> CachePlan:
    places = wish.places
    return index.plan(
        wish.ids, places.cuts, wish.salt, wish.session, anchors=places.anchors, learn=learn
    )
