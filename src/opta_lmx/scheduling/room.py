"""Cache memory as a waiting line meets it: who fits, who must wait, whose caches grow."""

from collections.abc import Collection, Iterable, Sequence

from opta_lmx.core.errors import LmxError, invalid
from opta_lmx.core.kv_cost import KvCost
from opta_lmx.core.principal import Principal
from opta_lmx.scheduling.kv import GRAIN, AnswerLengths, KvDemand, Reservations
from opta_lmx.scheduling.places import key_of
from opta_lmx.scheduling.tickets import NEVER, Ticket


class Room:
    """The reservations of one model's rows.

    Whoever is next but does not fit is *held back*: whoever is let in after that must leave room
    for it, and a slot. So it waits for those who ran before at most, while others may use what
    is left beside it. One whose key holds all that it may is passed by other keys freely.

    Args:
        cost: what a row takes.
        budget: bytes for all caches.
        lengths: of the answers so far.
    """

    def __init__(self, cost: KvCost, budget: int, lengths: AnswerLengths) -> None:
        self.books = Reservations(cost, budget)
        self._lengths = lengths
        self.short: dict[int, Ticket] = {}
        """Rows that cannot grow, in the order in which that was seen."""

    # --- before a request takes its turn

    def answer_room(self, principal: Principal, prompt: int, param: str) -> int | None:
        """Tokens that an answer may have by its key's cap; None where there is no cap.

        Args:
            principal: the key's owner.
            prompt: tokens of the prompt.
            param: the request field that holds it.

        Raises:
            LmxError: INVALID_REQUEST `cache_budget_exceeded` for a prompt that never fits.
        """
        cap = principal.budgets.kv_bytes
        if cap is None:
            return None
        longest = self.books.longest(cap)
        if prompt >= longest:
            raise _above_cap(prompt, self.books.cost.at(prompt + 1), cap, longest, param)
        return longest - prompt

    def demand(self, ticket: Ticket) -> KvDemand:
        """What a ticket needs from now on."""
        prompt, most = ticket.work.prompt, self._most(ticket)
        if not self._grows(ticket):
            left = max(1, most - ticket.produced)
            return KvDemand(prompt + ticket.produced, left, left)
        owner = key_of(ticket.caller)
        found = self._lengths.demand(owner, prompt, most, ticket.produced)
        return self.books.reachable(found, _cap(ticket))

    # --- who fits

    def fits(self, ticket: Ticket, without: Collection[int] = ()) -> bool:
        """True when a ticket's caches could be held now, were the rows `without` gone."""
        demand = self.demand(ticket)
        return self._fits_key(ticket, demand, without) and self.books.fits(demand, without)

    def passes(
        self, ticket: Ticket, back: Sequence[Ticket], rows: Collection[Ticket], slots: int
    ) -> bool:
        """True when a ticket takes nothing from those held back before it.

        One that was paused does so only where their own key holds them back: it may have been
        paused for them.

        Args:
            ticket: who might be let in.
            back: who is held back.
            rows: who runs.
            slots: how many may run.
        """
        return ticket not in back and all(self._beside(ticket, one, rows, slots) for one in back)

    def freeing(self, ticket: Ticket, able: list[Ticket], going: set[int]) -> list[Ticket]:
        """Of the rows that could be paused for a ticket those that help; none if all are too few.

        `going` are rows that are about to leave anyway.
        """
        if self._key_bound(ticket):
            able = [row for row in able if key_of(row.caller) == key_of(ticket.caller)]
        return able if self.fits(ticket, going.union(row.number for row in able)) else []

    def _beside(self, ticket: Ticket, back: Ticket, rows: Collection[Ticket], slots: int) -> bool:
        bound = self._key_bound(back)
        if bound and key_of(ticket.caller) != key_of(back.caller):
            return True
        later = {row.number for row in rows if row.granted >= back.held_at}
        return (
            not ticket.granted
            and self.fits(ticket)
            and self._leaves(ticket, back, later, of_key=bound)
            and (bound or len(later) + 2 <= slots)  # a slot each, for it and who is held back
        )

    def _leaves(self, ticket: Ticket, back: Ticket, later: set[int], *, of_key: bool) -> bool:
        books, cap = self.books, _cap(back)
        both = books.size(self.demand(ticket)) + books.size(self.demand(back))
        if of_key and cap is not None:
            return books.of(later, key_of(back.caller)) + both <= cap
        return books.of(later) + both <= books.available

    def _key_bound(self, ticket: Ticket) -> bool:
        return not self._fits_key(ticket, self.demand(ticket))

    def _fits_key(self, ticket: Ticket, demand: KvDemand, without: Collection[int] = ()) -> bool:
        cap = _cap(ticket)
        return cap is None or self.books.fits_key(demand, key_of(ticket.caller), cap, without)

    # --- rows

    def take(self, ticket: Ticket) -> None:
        """The ticket runs."""
        ticket.held_at, ticket.base = 0, ticket.produced
        answer = self.books.add(ticket.number, self.demand(ticket), key_of(ticket.caller))
        self._set_mark(ticket, answer)

    def grow(self, ticket: Ticket) -> None:
        """Reserve more for a row whose answer has come close to what it has, if that can be."""
        answer = self.books.grow(ticket.number, ticket.produced - ticket.base, _cap(ticket))
        if answer:
            self.short.pop(ticket.number, None)
            self._set_mark(ticket, answer)
        else:
            self.short[ticket.number] = ticket
            ticket.grows_at = NEVER

    def release(self, ticket: Ticket) -> None:
        """The row is gone; those that could not grow may do so now."""
        ticket.grows_at = NEVER
        self.books.release(ticket.number)
        self.short.pop(ticket.number, None)
        for row in list(self.short.values()):
            self.grow(row)

    def giving_way(self, rows: Iterable[Ticket]) -> Ticket | None:
        """The row that must let go of its caches so that another can grow, or None.

        Of the lowest lane, whoever came last: who came first always goes on.
        """
        if not self.short:
            return None
        short = next(iter(self.short.values()))
        able = [row for row in rows if row.work.pausable]
        if self.books.key_is_full(short.number, short.produced - short.base, _cap(short)):
            able = [row for row in able if key_of(row.caller) == key_of(short.caller)]
        return max(able, key=lambda row: (row.caller.lane, row.order), default=None)

    def _set_mark(self, ticket: Ticket, answer: int) -> None:
        reserved = ticket.base + answer
        ticket.grows_at = NEVER if reserved >= self._most(ticket) else reserved - GRAIN + 1

    def _grows(self, ticket: Ticket) -> bool:
        """True when a row need not have all it may ever take from the start."""
        return ticket.work.pausable and not self.books.cost.whole

    def _most(self, ticket: Ticket) -> int:
        """Tokens its answer may have."""
        most = ticket.work.most
        return self.books.longest(_cap(ticket)) - ticket.work.prompt if most is None else most


def _cap(ticket: Ticket) -> int | None:
    return ticket.caller.principal.budgets.kv_bytes


def _above_cap(prompt: int, size: int, cap: int, longest: int, param: str) -> LmxError:
    return invalid(
        f"The prompt has {prompt} tokens, whose caches take {size} bytes; this key allows {cap}: "
        f"room for {longest} tokens, answer included.",
        param=param,
        code="cache_budget_exceeded",
    )
