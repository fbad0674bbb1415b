"""Which slot of llama.cpp a request runs on, and who waits for cache room: pure bookkeeping."""

import math
from collections.abc import Callable, Collection
from typing import NamedTuple

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.gguf.aside import COPY_TOKENS, Aside
from opta_lmx.backends.gguf.gathering import GatheringLimits, Gatherings
from opta_lmx.backends.gguf.line import Line
from opta_lmx.backends.gguf.slot import Held, Slot, Tokens, common, submitted, tenant_of

_COPY_COST = 8
"""Copying so many tokens costs at most as much as processing one."""
_MOVE_TOKENS = 64
"""Fewer tokens of others' prompts to go before its own are no reason to run on another slot.

Nor are they one not to prepare a slot while those are processed."""


class Before(NamedTuple):
    """What is to be done with idle slots before a request starts, in this order.

    `erase` are slots whose caches make room. `park`: what the request's slot holds is put aside
    under this number. `prime`: the slot is to count as one of the request's adapter, so that it
    may be filled. `load` is what was put aside and is brought back to the request's slot, or
    `copy` the slot whose tokens are copied there. `forget` is put aside no longer.
    """

    erase: Tokens = ()
    park: int | None = None
    prime: bool = False
    load: int | None = None
    copy: int | None = None
    forget: Tokens = ()

    @property
    def fills(self) -> bool:
        """Whether the request's slot is filled with what is held elsewhere."""
        return self.load is not None or self.copy is not None


class Prepared(NamedTuple):
    """What came of a `Before`: whether the slot was `filled`, and what was `lost` aside."""

    filled: bool = False
    lost: Tokens = ()


class Start(NamedTuple):
    """A request may start on `slot`, which holds the first `cached` tokens of what it submits.

    `fresh`: nothing of what the slot held may be used, for it was another tenant's.
    """

    request: Submit
    slot: int
    cached: int
    fresh: bool
    before: Before


class Gathering(NamedTuple):
    """How a request on `slot` goes on that was interrupted for those who share its beginning.

    The first `upto` tokens of it are to be processed before all else. Or (0) what its slot holds
    is put aside under `aside`, and it goes on; None where nobody waits for that any more.
    `forget` is put aside no longer.
    """

    slot: int
    upto: int = 0
    aside: int | None = None
    forget: Tokens = ()


class SlotTable:
    """Gives each request the free slot on which it does least harm and has least to do.

    What a slot holds is worth its tokens, half as much after every round of `slots` requests
    that used others. A request gains what it shares with a slot, and what it does not share is
    lost there; copying is cheap beside processing. So a conversation goes on where it is held,
    and another one with the same beginning gets a copy of that, on the slot least worth keeping.
    What a paused request leaves in its slot is put aside when another needs the slot.

    A slot that is used cannot be copied. So a request waits that shares much with a prompt still
    being processed, which is interrupted for it, once: as soon as what they share is processed,
    that is put aside for all who share it, now and later. It does not wait for one whose turn
    comes after its own, nor for one that is far beyond what they share.

    llama.cpp processes prompts one after the other, by the numbers of their slots. So the lowest
    free one is left to a request that is the only one of its key (`Submit.first`), which runs
    there when long prompts would go before its own elsewhere.

    Where the caches are shared, a request starts only when its prompt and its longest answer
    fit beside the others; those that do not fit wait in order of arrival.

    Args:
        slots: how many there are.
        cells: tokens that all caches hold together, where slots share one; None where each slot
            has its own whole window.
        aside: tokens that may be put aside.
        limits: for whom a request waits; None: for all whose beginning may be put aside.
    """

    def __init__(
        self,
        slots: int,
        cells: int | None,
        aside: int = 0,
        limits: GatheringLimits | None = None,
    ) -> None:
        self._free = {number: Slot(number) for number in range(slots)}
        self._taken: dict[int, Slot] = {}
        self._aside = Aside(aside, slots)
        self._line = Line()
        self._cells = cells
        self._round = slots
        self._clock = 0
        self._gatherings = Gatherings(limits or GatheringLimits(aside))

    def __len__(self) -> int:
        return len(self._taken) + len(self._line)

    def add(self, request: Submit) -> None:
        """Put a request at the end of the line."""
        self._line.add(request)

    def withdraw(self, request: int) -> Submit | None:
        """Take a request out of the line and return it; None when it is not waiting there."""
        self._gatherings.leave(request)
        return self._line.remove(request)

    def start(self) -> Start | None:
        """Start the next request, if there is one and it has room."""
        if not self._line or not self._free:
            return None
        running = next((slot.adapter for slot in self._taken.values()), None)
        request = self._line.next(running, self._follows_another)
        if request is None:
            return None
        tokens, tenant = submitted(request), tenant_of(request.salt, request.adapter)
        source, slot = self._in_turn(request.first, tokens, tenant)
        prime = source is not slot and slot.adapter != request.adapter
        if prime and self._crowded():
            source, prime = slot, False
        cells = _cells_of(request, source, slot, self._gatherings.limits.batch)
        if not self._has_room(cells) and source is not slot:
            source, prime = slot, False
            cells = _cells_of(request, source, slot, self._gatherings.limits.batch)
        if not self._has_room(cells):
            return None
        self.withdraw(request.id)
        del self._free[slot.number]
        cached, fresh = source.shared(tokens, tenant), slot.tenant != tenant
        aside = self._put_aside(slot, tokens, tenant)
        # Whatever becomes of the request, this much of the old is true of the slot.
        slot.hold(Held(tokens[:cached], tenant, request.adapter))
        slot.sure = not fresh
        slot.left, slot.cells = len(tokens) - cached, cells
        slot.prompt, slot.led, slot.launched = tokens, False, False
        if source.common:
            source.used_at = self._clock
        self._taken[request.id] = slot
        before = Before(
            erase=self._make_room(),
            park=aside,
            prime=prime,
            load=source.number if source in self._aside.all else None,
            copy=source.number if source in self._free.values() else None,
            forget=self._aside.forget(tokens, tenant, self._clock),
        )
        return Start(request, slot.number, cached, fresh, before)

    def prepared(self, start: Start, done: Prepared) -> None:
        """Note what came of what was to be done before a start."""
        slot = self._taken[start.request.id]
        slot.sure = slot.sure or done.filled
        if start.before.fills and not done.filled:
            slot.held, slot.left = (), len(slot.prompt)
        self._aside.lose(done.lost)

    def progressed(self, request: int, left: int) -> None:
        """Note how many tokens of a running request's prompt are still to be processed."""
        slot = self._taken[request]
        slot.left, slot.sure = left, True

    def release(self, request: int, held: Tokens = (), *, paused: bool = False) -> int:
        """Free a running request's slot and return its number.

        `held` are the tokens it is known to hold now; where fewer, those it shared with the
        request. `paused`: the request is to go on later.
        """
        slot = self._taken.pop(request)
        self._gatherings.over(request)
        self._clock += 1
        if not slot.sure and not held:
            # llama.cpp may never have seen the request: what was held before may still be there.
            slot.hold(Held((), ""))
        slot.held, slot.cells, slot.used_at = max(slot.held, held, key=len), 0, self._clock
        slot.paused = paused
        self._free[slot.number] = slot
        return slot.number

    def launched(self) -> list[int]:
        """Note that llama.cpp was told of all that started; return who is to be interrupted now.

        Others wait for what these are processing.
        """
        for slot in self._taken.values():
            slot.launched = True
        return self._gatherings.untold()

    def lose(self, numbers: Tokens) -> None:
        """Note that so much was never put aside."""
        self._aside.lose(numbers)

    def gather(self, request: int, held: Tokens) -> Gathering:
        """Say how an interrupted request goes on, whose slot is idle and holds these tokens.

        The oldest beginnings put aside make room for a new one.
        """
        slot = self._taken[request]
        slot.held = max(slot.held, held, key=len)
        waiting = (each for each in self._line if self._gatherings.leader_of(each.id) == request)
        shared = max((common(slot.prompt, submitted(each)) for each in waiting), default=0)
        if len(slot.held) < (upto := min(shared, len(slot.prompt) - 1)):
            return Gathering(slot.number, upto)
        self._gatherings.over(request)
        slot.led, slot.launched = True, False
        if not self._gatherings.limits.suits(len(slot.held), shared):
            return Gathering(slot.number)
        number, forgotten = self._aside.share(slot.holds, self._clock)
        return Gathering(slot.number, aside=number, forget=forgotten)

    def restore(self, number: int, held: Held) -> None:
        """Note what a free slot was filled with; who is restored first counts as older."""
        slot = self._free[number]
        self._clock += 1
        slot.hold(held)
        slot.used_at = self._clock

    def held(self, number: int) -> Held | None:
        """What a slot holds; None while it is used."""
        slot = self._free.get(number)
        return None if slot is None else slot.holds

    def _follows_another(self, request: Submit) -> bool:
        """Whether a running request is processing what this one would have to process again."""
        if (waits := self._gatherings.waits(request.id)) is not None:
            return waits
        tokens, tenant = submitted(request), tenant_of(request.salt, request.adapter)
        sources = (*self._free.values(), *self._aside.all)
        held = max(slot.shared(tokens, tenant) for slot in sources)
        for leader, slot in self._taken.items():
            if slot.tenant != tenant or not self._gatherings.may_lead(leader, slot, tokens, held):
                continue
            if self._is_sooner(request, slot, tokens, tenant):
                continue
            self._gatherings.follow(request.id, leader)
            return True
        return False

    def _is_sooner(self, request: Submit, leader: Slot, tokens: Tokens, tenant: str) -> bool:
        """Whether a request is better off by itself than behind a running one."""
        if request.first:
            return True
        other = any(slot.adapter != request.adapter for slot in self._free.values())
        if other and self._crowded(leader.number):
            return True  # nothing could be loaded for it
        source, own = self._in_turn(False, tokens, tenant)
        delay = self._before(leader) - self._before(own)
        return delay > max(_MOVE_TOKENS, (len(tokens) - source.shared(tokens, tenant)) // 2)

    def _crowded(self, after: int = -1) -> bool:
        """Whether llama.cpp is busy with prompts: to prime a slot may take as long as those.

        `after`: when those of this slot and of the ones before it are processed.
        """
        busy = (each for each in self._taken.values() if each.launched and each.number > after)
        return sum(each.left for each in busy) > _MOVE_TOKENS

    def _in_turn(self, first: bool, tokens: Tokens, tenant: str) -> tuple[Slot, Slot]:
        """As `_choose`, with a view to whose prompt is to be processed first."""
        source, slot = self._choose(tokens, tenant, self._free.values())
        lowest = min(self._free.values(), key=lambda each: each.number)
        shared = source.shared(tokens, tenant)
        if not first:
            others = [each for each in self._free.values() if each is not lowest]
            keeps = slot is not lowest or (source is slot and shared >= COPY_TOKENS)
            if keeps or not others or not self._taken:
                return source, slot
            return self._choose(tokens, tenant, others)
        if lowest is slot or self._before(slot) - self._before(lowest) <= self._price(
            source, slot, lowest, tokens, tenant
        ):
            return source, slot
        return (source if shared >= COPY_TOKENS else lowest), lowest

    def _price(self, source: Slot, slot: Slot, other: Slot, tokens: Tokens, tenant: str) -> float:
        """What it costs, in tokens processed, to run on another slot than the one chosen."""
        shared = source.shared(tokens, tenant)
        if source is slot and shared >= COPY_TOKENS and self._cells is not None:
            return math.inf  # no copies are made of shared cells
        lost, kept = (
            self._worth(each, len(each.held) - each.shared(tokens, tenant))
            for each in (other, slot)
        )
        copying = shared // _COPY_COST if source is slot else 0
        return max(_MOVE_TOKENS, (len(tokens) - shared) // 2) + max(0.0, lost - kept) + copying

    def _before(self, slot: Slot) -> int:
        """Tokens of prompts that llama.cpp processes before one on this slot."""
        return sum(each.left for each in self._taken.values() if each.number < slot.number)

    def _choose(self, tokens: Tokens, tenant: str, free: Collection[Slot]) -> tuple[Slot, Slot]:
        return _choose(
            (tokens, tenant), free, self._aside.all, self._worth, copies=self._cells is None
        )

    def _worth(self, slot: Slot, tokens: int | None = None) -> float:
        """What so many of a slot's tokens are worth; all of them by default."""
        count = len(slot.held) if tokens is None else tokens
        return count * 0.5 ** ((self._clock - slot.used_at) / self._round)

    def _put_aside(self, slot: Slot, tokens: Tokens, tenant: str) -> int | None:
        """Put aside what a paused request left in a slot, unless these tokens go on from it."""
        paused, slot.paused = slot.paused, False
        if not paused or slot.shared(tokens, tenant) == len(slot.held):
            return None
        return self._aside.put(slot.holds, slot.used_at)

    def _used(self) -> int:
        return sum(slot.cells for slot in self._taken.values())

    def _has_room(self, cells: int) -> bool:
        used = self._used()
        return self._cells is None or not used or used + cells <= self._cells

    def _make_room(self) -> Tokens:
        """Forget the least valuable idle slots until all cells fit; return their numbers."""
        if self._cells is None:
            return ()
        idle = [slot for slot in self._free.values() if slot.held]
        room = self._cells - self._used() - sum(len(slot.held) for slot in idle)
        erased: list[int] = []
        for slot in sorted(idle, key=lambda each: (each.paused, self._worth(each))):
            if room >= 0:
                break
            room += len(slot.held)
            slot.held = ()
            erased.append(slot.number)
        return tuple(erased)


def _choose(
    wanted: tuple[Tokens, str],
    free: Collection[Slot],
    aside: Collection[Slot],
    worth: Callable[..., float],
    *,
    copies: bool,
) -> tuple[Slot, Slot]:
    """The slot (or what was put aside) whose tokens a request uses, and that it runs on.

    Args:
        wanted: its tokens, and whose they are.
        free: where it may run.
        aside: what was put aside.
        worth: what so many of a slot's tokens are worth, all by default.
        copies: whether a slot may be copied.
    """
    tokens, tenant = wanted
    shares = {slot: slot.shared(tokens, tenant) for slot in (*free, *aside)}

    def lost(slot: Slot) -> float:
        return worth(slot, len(slot.held) - shares[slot])

    def gain(slot: Slot) -> tuple[float, int, int]:
        return shares[slot] - lost(slot), -slot.used_at, -slot.number

    def loading(slot: Slot) -> int:
        return len(slot.held) // _COPY_COST

    def useful(slot: Slot) -> tuple[int, int]:
        return shares[slot], slot.used_at

    least = min(free, key=lambda each: (worth(each), each.used_at, each.number))
    source = max(free, key=useful)
    paused = max(aside, key=lambda each: shares[each] - loading(each), default=source)
    if shares[paused] >= shares[source] + max(COPY_TOKENS, loading(paused)):
        return paused, least
    if not copies or shares[source] < COPY_TOKENS:
        best = max(free, key=gain)
        return best, best
    bearable = max(COPY_TOKENS, shares[source] // _COPY_COST)
    if lost(source) <= worth(least) + bearable:
        return source, source
    return source, least


def _cells_of(request: Submit, source: Slot, slot: Slot, batch: int) -> int:
    """Cells a request takes at most, also while it is started."""
    left = request.max_tokens - len(request.generated)
    # A started slot holds its old tokens until its turn to prefill comes.
    old = len(slot.held)
    if source is not slot:
        # All of it is loaded, and more than was known may have been processed by then.
        old = max(old, len(source.held) + 2 * batch)
    return max(len(submitted(request)) + left, old)
