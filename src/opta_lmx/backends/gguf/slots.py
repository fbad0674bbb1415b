"""Which slot of llama.cpp a request runs on, and who waits for cache room: pure bookkeeping."""

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.gguf.line import Line

Tokens = tuple[int, ...]

COPY_TOKENS = 128
"""From so many tokens on a copy is worth its two exchanges with llama.cpp."""
_COPY_COST = 8
"""Copying so many tokens costs at most as much as processing one."""
GATHER_TOKENS = 256
"""From so many tokens on a request waits for one that is processing the same beginning."""
_MOST_COMMON = 4
"""So many beginnings are kept aside for whoever shares them."""
_COMMON_ROUNDS = 4
"""So long, in rounds of requests, one of them is kept after its last use."""
_MOVE_TOKENS = 64
"""Fewer tokens of others' prompts to go before its own are no reason to run on another slot."""


class Held(NamedTuple):
    """What an idle slot holds: the tokens, in order, whose (`tenant_of`), and by which adapter."""

    tokens: Tokens
    tenant: str
    adapter: str = ""


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


class _Slot:
    """A slot, or what was put aside of one: then `number` is that it is put aside under."""

    def __init__(self, number: int, holds: Held | None = None, used_at: int = 0) -> None:
        self.number = number
        self.hold(holds or Held((), ""))
        self.cells = 0
        self.used_at = used_at
        self.paused = False
        self.left = 0
        """Tokens of its request's prompt that are still to be processed."""
        self.prompt: Tokens = ()
        self.launched = False
        """llama.cpp was told of its request."""
        self.led = False
        """Its request was interrupted once: it is not again."""
        self.common = False
        """It was put aside for whoever shares it."""

    @property
    def holds(self) -> Held:
        return Held(self.held, self.tenant, self.adapter)

    def hold(self, holds: Held) -> None:
        self.held, self.tenant, self.adapter = holds

    def shared(self, tokens: Tokens, tenant: str) -> int:
        return common(self.held, tokens) if self.tenant == tenant else 0


class SlotTable:
    """Gives each request the free slot on which it does least harm and has least to do.

    What a slot holds is worth its tokens, half as much after every round of `slots` requests
    that used others. A request gains what it shares with a slot, and what it does not share is
    lost there; copying is cheap beside processing. So a conversation goes on where it is held,
    and another one with the same beginning gets a copy of that, on the slot least worth keeping.
    What a paused request leaves in its slot is put aside when another needs the slot.

    A slot that is used cannot be copied. So a request waits that shares much with a prompt still
    being processed, which is interrupted for it, once: as soon as what they share is processed,
    that is put aside for all who share it, now and later.

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
    """

    def __init__(self, slots: int, cells: int | None, aside: int = 0) -> None:
        self._free = {number: _Slot(number) for number in range(slots)}
        self._taken: dict[int, _Slot] = {}
        self._aside: dict[int, _Slot] = {}
        self._line = Line()
        self._cells = cells
        self._round = slots
        self._clock = 0
        self._most_aside = aside
        self._asides = 0
        self._gathering: dict[int, bool] = {}
        """Running requests others wait for, and whether the engine was told."""
        self._follows: dict[int, int] = {}
        """Whom a request in line waits for, or did: it does so once."""

    def __len__(self) -> int:
        return len(self._taken) + len(self._line)

    def add(self, request: Submit) -> None:
        """Put a request at the end of the line."""
        self._line.add(request)

    def withdraw(self, request: int) -> Submit | None:
        """Take a request out of the line and return it; None when it is not waiting there."""
        self._follows.pop(request, None)
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
        if prime and any(each.launched and each.left for each in self._taken.values()):
            # To make the slot the adapter's may take as long as those prompts.
            source, prime = slot, False
        left = request.max_tokens - len(request.generated)
        # A started slot holds its old tokens until its turn to prefill comes.
        cells = max(len(tokens) + left, len(slot.held))
        if not self._has_room(cells):
            return None
        self.withdraw(request.id)
        del self._free[slot.number]
        cached, fresh = source.shared(tokens, tenant), slot.tenant != tenant
        aside = self._put_aside(slot, tokens, tenant)
        # Whatever becomes of the request, this much of the old is true of the slot.
        slot.hold(Held(tokens[:cached], tenant, request.adapter))
        slot.left, slot.cells = len(tokens) - cached, cells
        slot.prompt, slot.led, slot.launched = tokens, False, False
        if source.common:
            source.used_at = self._clock
        self._taken[request.id] = slot
        before = Before(
            erase=self._make_room(),
            park=aside,
            prime=prime,
            load=source.number if source in self._aside.values() else None,
            copy=source.number if source in self._free.values() else None,
            forget=self._forget(tokens, tenant),
        )
        return Start(request, slot.number, cached, fresh, before)

    def progressed(self, request: int, left: int) -> None:
        """Note how many tokens of a running request's prompt are still to be processed."""
        self._taken[request].left = left

    def release(self, request: int, held: Tokens = (), *, paused: bool = False) -> int:
        """Free a running request's slot and return its number.

        `held` are the tokens it is known to hold now; where fewer, those it shared with the
        request. `paused`: the request is to go on later.
        """
        slot = self._taken.pop(request)
        self._gathering.pop(request, None)
        self._clock += 1
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
        found = [request for request, told in self._gathering.items() if not told]
        self._gathering |= dict.fromkeys(found, True)
        return found

    def gather(self, request: int, held: Tokens) -> Gathering:
        """Say how an interrupted request goes on, whose slot is idle and holds these tokens."""
        slot = self._taken[request]
        slot.held = max(slot.held, held, key=len)
        waiting = (each for each in self._line if self._follows.get(each.id) == request)
        shared = max((common(slot.prompt, submitted(each)) for each in waiting), default=0)
        if len(slot.held) < (upto := min(shared, len(slot.prompt) - 1)):
            return Gathering(slot.number, upto)
        del self._gathering[request]
        slot.led, slot.launched = True, False
        if not shared:
            return Gathering(slot.number)
        self._asides += 1
        aside = _Slot(self._asides, slot.holds, self._clock)
        aside.common = True
        self._aside[aside.number] = aside
        return Gathering(slot.number, aside=aside.number, forget=self._forget_common())

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
        if request.id in self._follows:
            return self._follows[request.id] in self._gathering
        tokens, tenant = submitted(request), tenant_of(request.salt, request.adapter)
        sources = (*self._free.values(), *self._aside.values())
        least = max(slot.shared(tokens, tenant) for slot in sources) + GATHER_TOKENS
        for leader, slot in self._taken.items():
            at_it = leader in self._gathering or (slot.left > 0 and not slot.led)
            if at_it and slot.tenant == tenant and len(slot.prompt) <= self._most_aside:
                if common(slot.prompt, tokens) < least:
                    continue
                self._follows[request.id] = leader
                self._gathering.setdefault(leader, False)
                return True
        return False

    def _forget_common(self) -> Tokens:
        """Forget the oldest of the beginnings put aside, where there are too many."""
        numbers = [number for number, each in self._aside.items() if each.common]
        for number in (forgotten := numbers[:-_MOST_COMMON]):
            del self._aside[number]
        return tuple(forgotten)

    def _in_turn(self, first: bool, tokens: Tokens, tenant: str) -> tuple[_Slot, _Slot]:
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

    def _price(
        self, source: _Slot, slot: _Slot, other: _Slot, tokens: Tokens, tenant: str
    ) -> float:
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

    def _before(self, slot: _Slot) -> int:
        """Tokens of prompts that llama.cpp processes before one on this slot."""
        return sum(each.left for each in self._taken.values() if each.number < slot.number)

    def _choose(self, tokens: Tokens, tenant: str, free: Collection[_Slot]) -> tuple[_Slot, _Slot]:
        """The slot (or what was put aside) whose tokens a request uses, and that it runs on."""
        aside = self._aside.values()
        shares = {slot: slot.shared(tokens, tenant) for slot in (*free, *aside)}

        def lost(slot: _Slot) -> float:
            return self._worth(slot, len(slot.held) - shares[slot])

        def gain(slot: _Slot) -> tuple[float, int, int]:
            return shares[slot] - lost(slot), -slot.used_at, -slot.number

        def useful(slot: _Slot) -> tuple[int, int]:
            return shares[slot], slot.used_at

        least = min(free, key=lambda each: (self._worth(each), each.used_at, each.number))
        source = max(free, key=useful)
        paused = max(aside, key=useful, default=source)
        if shares[paused] >= shares[source] + COPY_TOKENS:
            return paused, least
        if self._cells is not None or shares[source] < COPY_TOKENS:
            best = max(free, key=gain)
            return best, best
        bearable = max(COPY_TOKENS, shares[source] // _COPY_COST)
        if lost(source) <= self._worth(least) + bearable:
            return source, source
        return source, least

    def _worth(self, slot: _Slot, tokens: int | None = None) -> float:
        """What so many of a slot's tokens are worth; all of them by default."""
        count = len(slot.held) if tokens is None else tokens
        return count * 0.5 ** ((self._clock - slot.used_at) / self._round)

    def _put_aside(self, slot: _Slot, tokens: Tokens, tenant: str) -> int | None:
        """Put aside what a paused request left in a slot, unless these tokens go on from it."""
        paused, slot.paused = slot.paused, False
        if not paused or not COPY_TOKENS <= len(slot.held) <= self._most_aside:
            return None
        if slot.shared(tokens, tenant) == len(slot.held):
            return None
        self._asides += 1
        self._aside[self._asides] = _Slot(self._asides, slot.holds, slot.used_at)
        return self._asides

    def _forget(self, tokens: Tokens, tenant: str) -> Tokens:
        """Forget what these tokens go on from, then the oldest until the rest may stay."""
        left = sum(len(each.held) for each in self._aside.values())
        forgotten: list[int] = []
        for key, each in list(self._aside.items()):
            if left > self._most_aside or self._is_done(each, tokens, tenant):
                left -= len(each.held)
                forgotten.append(key)
                del self._aside[key]
        return tuple(forgotten)

    def _is_done(self, aside: _Slot, tokens: Tokens, tenant: str) -> bool:
        """Whether what was put aside has served its purpose once these tokens started."""
        if aside.common:
            return self._clock - aside.used_at > _COMMON_ROUNDS * self._round
        return aside.shared(tokens, tenant) == len(aside.held)

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


@lru_cache(maxsize=1024)
def tenant_of(salt: str, adapter: str = "") -> str:
    """Whose tokens they are, and of which adapter, in a form that may be written down."""
    name = adapter.encode()
    return hashlib.blake2b(salt.encode(), digest_size=16, key=_key(name)).hexdigest()


def _key(name: bytes) -> bytes:
    """A key that no other name has; none for none."""
    return hashlib.blake2b(name).digest() if name else b""


def submitted(request: Submit) -> Tokens:
    """What is processed before the next token: the prompt, and the answer so far."""
    return (*request.ids, *request.generated)


def held_after(request: Submit, done: int, answer: Iterable[int], keep: int | None) -> Tokens:
    """What a slot holds when its request has ended.

    Args:
        request: the request.
        done: how many of the submitted tokens were processed.
        answer: tokens generated after those.
        keep: how many tokens of the whole answer are wanted in a cache; None for all.
    """
    tokens = submitted(request)
    # The last token of an answer was drawn, but not processed.
    tokens = tokens[:done] if done < len(tokens) else (*tokens, *tuple(answer)[:-1])
    return tokens if keep is None else tokens[: len(request.ids) + keep]


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two prompts share at their start, found by halving: slices compare fast."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
