"""The prefix index of one loaded model: what is stored, what to reuse, what to keep, what to drop.

It decides; the worker holds the states and obeys. Nothing here reads a clock, a file or a socket
of its own accord.
"""

from collections.abc import Iterable, Sequence

import msgspec

from opta_lmx.backends.frames import Keep, Reuse
from opta_lmx.core.clock import Clock
from opta_lmx.engine.prefix.books import Books
from opta_lmx.engine.prefix.checkpoints import Prompt, affordable
from opta_lmx.engine.prefix.entries import Entry, Source
from opta_lmx.engine.prefix.flights import Flight, Flights, Followers
from opta_lmx.engine.prefix.matching import best_entry, usable_tokens, worth_loading
from opta_lmx.engine.prefix.plan import CachePlan
from opta_lmx.engine.prefix.rules import CacheRules
from opta_lmx.engine.prefix.sessions import Sessions, divergence
from opta_lmx.engine.prefix.tree import WIDTH, Node, pack, release
from opta_lmx.engine.prefix.worth import yielding

_PATIENCE = 4.0
"""How much longer than predicted a request waits for another one's checkpoint."""
_PATIENCE_FLOOR_S = 2.0


class PrefixIndex(Books):
    """The stored prefixes of one model, by tenant.

    A request: `plan`; while the plan `waits`, `follow` and plan again when `woken` names the
    ticket; then `begin` and submit; then `started`, `kept`, `lost` as the worker tells; `ended`
    in any case. After each call `take_orders` has what is to be sent to the worker.

    Args:
        rules: budgets and costs.
        clock: now.
        model: the `ModelKey.digest()` that files are made for.
    """

    def __init__(self, rules: CacheRules, clock: Clock, model: str = "") -> None:
        super().__init__(rules, clock, model)
        self._sessions = Sessions(rules.sessions)
        self._flights = Flights(self._shelf)
        self._followers = Followers(rules.follow_limit_s)

    # --- questions

    def cached(self, ids: Sequence[int] | bytes, salt: str) -> int:
        """How many tokens of a prompt could be reused from memory now; changes nothing."""
        data = _packed(ids)
        entry, tokens = best_entry(
            self._trees.walk(data, salt), len(data) // WIDTH - 1, self.rules.trimmable
        )
        return tokens if entry is not None and tokens >= self.rules.min_gain else 0

    def idle(self) -> bool:
        """True when nothing is in flight, waited for or reserved."""
        waiting = self._followers.next_deadline() is not None
        return not (self._flights.tickets or waiting or self._shelf.reserved)

    def plan(
        self,
        ids: Sequence[int] | bytes,
        cuts: Sequence[int],
        salt: str,
        session: str | None = None,
        *,
        anchors: Sequence[int] = (),
        learn: bool = True,
    ) -> CachePlan:
        """Decide how a prompt uses the cache; changes nothing but takes handles.

        Args:
            ids: the prompt's tokens, for a resumed request those of its answer too; or packed.
            cuts: offsets at which turns start.
            salt: the tenant; nothing is shared between different ones.
            session: names the conversation where the caller told; else it is recognised.
            anchors: offsets up to which the caller says that it will send the prompt again.
            learn: False for a request that resumes, which is no new turn.
        """
        data = _packed(ids)
        length = len(data) // WIDTH
        path = self._trees.walk(data, salt)
        entry, tokens = best_entry(path, length - 1, self.rules.trimmable)
        if entry is None or tokens < self.rules.min_gain:
            entry, tokens = None, 0
        inside = tuple(sorted({cut for cut in cuts if 0 < cut < length}))
        known = self._sessions.find(salt, session, path) if learn else None
        tail = self._sessions.tail(known, salt)
        told = tuple(sorted({one for one in anchors if 0 < one < length}))
        opens = learn and known is None
        prompt = Prompt(length, tokens, path.tokens, inside, tail, told, opens)
        keep, keep_end = self._keeps(prompt, None if known is None else known.tail)
        worthwhile = tokens + self.rules.lead_tokens
        leader, state = self._flights.leader(path, length - 1, salt, worthwhile)
        awaits, offered = state.handle, state.tokens
        load = None if awaits else worth_loading(path, length - 1, tokens, self.rules)
        if load is not None:
            awaits, offered = load.handle, usable_tokens(load, path, length - 1)
        return CachePlan(
            data,
            inside,
            salt,
            session,
            anchors=told,
            reuse=None if entry is None else Reuse(entry.handle, tokens),
            keep=keep,
            keep_end=keep_end,
            leader=leader,
            load=load is not None,
            awaits=awaits,
            offered=offered,
            divergence=divergence(known, path),
            learn=learn,
            opens=opens,
        )

    # --- a request's life

    def follow(self, ticket: int, plan: CachePlan) -> bool:
        """Let a ticket wait for what its plan awaits; False: it had better begin.

        A ticket that waits is named by `woken` in the end, unless it is `ended`.
        """
        handle = self._coming(plan)
        if not handle:
            return False
        length = len(plan.ids) // WIDTH
        patience = max(_PATIENCE_FLOOR_S, _PATIENCE * self.rules.seconds(plan.cached, length))
        if not self._followers.wait(ticket, handle, self._clock.monotonic(), patience):
            return False
        self.counts.followed += 1
        return True

    def joined(self, plan: CachePlan) -> CachePlan:
        """The plan of a request that is submitted now, and waits for its state in the worker."""
        handle = self._coming(plan) if plan.waits else 0
        if not handle:
            return plan
        return msgspec.structs.replace(plan, reuse=Reuse(handle, plan.offered))

    def _coming(self, plan: CachePlan) -> int:
        """The handle that a plan awaits, if it is under way, a file being asked for; else 0."""
        handle = plan.awaits
        if plan.load and not handle:
            path = self._trees.walk(plan.ids, plan.salt)
            usable = len(plan.ids) // WIDTH - 1
            entry = worth_loading(path, usable, plan.cached, self.rules)
            handle = 0 if entry is None else self._shelf.load(entry)
        return handle if self._is_coming(handle) else 0

    def _is_coming(self, handle: int) -> bool:
        entry = self._shelf.of(handle)
        loading = entry is not None and entry.moving == "load"
        return loading or self._flights.expects(handle)

    def begin(self, ticket: int, plan: CachePlan) -> bool:
        """A request is about to be submitted as planned; what it starts from is held for it.

        False, and nothing done, when the state it would start from has gone: plan again.

        Raises:
            ValueError: the ticket is in flight already.
        """
        if ticket in self._flights:
            raise ValueError(f"ticket {ticket} is in flight")
        entry = None if plan.reuse is None else self._shelf.of(plan.reuse.handle)
        if entry is not None and not entry.usable and entry.moving != "load":
            return False
        if plan.reuse is not None and entry is None and not self._is_coming(plan.reuse.handle):
            return False
        self._followers.forget(ticket)
        self.counts.prompts += 1
        now = self._clock.monotonic()
        if entry is not None:
            self._shelf.pin(entry)
            entry.heat.add(now, self.rules.half_life_s)
            entry.used = now
        flight = self._launch(plan, entry, now)
        self._flights.add(ticket, flight)
        states = [(keep.handle, keep.tokens) for keep in plan.keep]
        ends = [(plan.keep_end, 0)] if plan.keep_end else []
        self._flights.expect(ticket, states + ends)
        self.counts.prompt_tokens += flight.node.depth
        return True

    def started(self, ticket: int, cached: int) -> None:
        """The worker began a request's prompt with `cached` tokens already there."""
        flight = self._flights.get(ticket)
        if flight is None:
            return
        self.counts.cached_tokens += cached
        entry, flight.entry = flight.entry, None
        if cached != flight.plan.cached and not flight.joins:
            self.counts.corrections += 1
        if entry is not None:
            self._shelf.unpin(entry)
            if cached < flight.plan.cached and entry.handle:
                self._shelf.distrust(entry)
        self._flights.make_room(flight)

    def hold(self, ticket: int) -> int:
        """The handle under which a preempted request's state is to be kept (0: unknown ticket)."""
        flight = self._flights.get(ticket)
        if flight is None:
            return 0
        if flight.plan.keep_end in flight.pending:
            return flight.plan.keep_end
        handle = self._shelf.new_handle()
        self._flights.expect(ticket, [(handle, 0)])
        return handle

    def kept(self, handle: int, tokens: int, size: int, generated: Sequence[int] = ()) -> None:
        """A state of `tokens` tokens and `size` bytes is in the worker's memory.

        `generated` are the answer's tokens that follow the planned ids; a state that reaches
        beyond what is known of them is of no use and dropped.
        """
        flight = self._flights.settle(handle)
        if flight is None:
            if self._shelf.of(handle) is None:
                self._shelf.outbox.drop(handle)
            self.loaded(handle)
            return
        data = flight.plan.ids
        if tokens * WIDTH > len(data):
            data += pack(generated)
        if not 0 < tokens * WIDTH <= len(data):
            self._shelf.outbox.drop(handle)
        else:
            node = self._trees.insert(
                data[: tokens * WIDTH], flight.plan.salt, self._clock.monotonic()
            )
            source = Source(flight.number, flight.plan.opens, tokens in flight.plan.anchors)
            self._shelf.store(node, flight.plan.salt, handle, size, source)
            release(node)
        self._await_start(handle)
        self._followers.wake(handle)

    def _await_start(self, handle: int) -> None:
        """A state has come that requests in the worker are to start from: hold it for them."""
        entry = self._shelf.of(handle)
        for flight in self._flights.starting(handle):
            flight.joins = False
            if entry is not None:
                self._shelf.pin(entry)
                flight.entry = entry

    def lost(self, handles: Iterable[int]) -> None:
        """The worker does not have these states, will not keep them, or cannot read them."""
        for handle in handles:
            self._flights.settle(handle)
            self._shelf.lose(handle)
            self._followers.wake(handle)

    def ended(self, ticket: int) -> None:
        """A request is over or goes no further: what it has not kept by now it never will."""
        self._followers.forget(ticket)
        flight = self._flights.get(ticket)
        if flight is None:
            return
        if flight.entry is not None:
            self._shelf.unpin(flight.entry)
        for handle in list(flight.pending):
            self._flights.settle(handle)
            self._followers.wake(handle)
        self._flights.pop(ticket)
        flight.node.marks.discard(flight)
        release(flight.node)

    def woken(self) -> tuple[int, ...]:
        """Tickets that waited and are to be planned again, each named once."""
        return self._followers.take_woken(self._clock.monotonic())

    def next_deadline(self) -> float | None:
        """The time on the clock at which `woken` must be asked though nothing happens."""
        return self._followers.next_deadline()

    # --- memory and disk

    def loaded(self, handle: int) -> None:
        """A state has been read from its file."""
        self._shelf.loaded(handle)
        self._followers.wake(handle)

    def clear(self) -> None:
        """The worker is gone: everything in memory and in flight is over; files remain."""
        for ticket in self._flights.tickets:
            self.ended(ticket)
        awaited = set(self._followers.awaited().values())
        self._shelf.clear()
        for handle in awaited:
            self._followers.wake(handle)

    # --- inside

    def _launch(self, plan: CachePlan, entry: Entry | None, now: float) -> Flight:
        """Put the prompt into the tree, so that others see what they share with it."""
        path = self._trees.walk(plan.ids, plan.salt)
        node = self._trees.insert(plan.ids, plan.salt, now)
        flight = Flight(self.counts.prompts, plan, node, entry)
        node.marks.add(flight)
        if plan.learn:
            self._sessions.learn(plan.salt, plan.session, path, node, plan.cuts)
        at: Node | None = node.parent
        while at is not None:
            at.heat.add(now, self.rules.half_life_s)
            at = at.parent
        return flight

    def _keeps(self, prompt: Prompt, own_tail: int | None) -> tuple[tuple[Keep, ...], int]:
        """The checkpoints there is room for, and a handle for the answer's end if it is useful."""
        free = self._shelf.free_bytes()
        room = min(self.rules.request_bytes, free)
        points = affordable(prompt, own_tail, self.rules, room, yielding(free, self._shelf.going()))
        ends = prompt.length in points
        inside = sorted(point for point in points if point < prompt.length)
        keeps = tuple(Keep(self._shelf.new_handle(), point) for point in inside)
        return keeps, self._shelf.new_handle() if ends else 0


def _packed(ids: Sequence[int] | bytes) -> bytes:
    return ids if isinstance(ids, bytes) else pack(ids)
