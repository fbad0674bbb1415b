"""A stand-in for the worker of a prefix index: it holds states by handle and trusts nobody.

It checks what the index must never get wrong: every state that a request starts from is there and
holds exactly the tokens it is used for.
"""

from collections.abc import Sequence

from opta_lmx.engine.prefix import CachePlan, CacheRules, Manifest, Orders, PrefixIndex
from opta_lmx.engine.prefix.tree import WIDTH, pack


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return int(self.now * 1000)

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("pure code does not sleep")


class StateKeeper:
    """States and files of one worker. `states` maps a handle to packed ids and the salt."""

    def __init__(self, index: PrefixIndex, rules: CacheRules) -> None:
        self.index = index
        self.rules = rules
        self.states: dict[int, tuple[bytes, str]] = {}
        self.files: dict[str, Manifest] = {}
        self.used: set[int] = set()
        self.starting: dict[int, int] = {}
        self.moving: list[tuple[str, int, Manifest | str]] = []

    def obey(self, orders: Orders) -> None:
        """Carry out what is done at once; reading and writing is for `move`."""
        for name in orders.delete:
            self.files.pop(name, None)
        for handle in orders.drop:
            assert handle not in self.starting.values(), "dropped before it was forked from"
            self.states.pop(handle, None)
        for spill in orders.spill:
            assert self.states[spill.handle] == (spill.manifest.ids, spill.manifest.salt)
            self.moving.append(("spill", spill.handle, spill.manifest))
        for handle, name in orders.load:
            assert name in self.files
            self._fresh(handle)
            self.moving.append(("load", handle, name))

    def move(self, done: bool = True) -> None:
        """Finish the oldest move between memory and disk."""
        what, handle, subject = self.moving.pop(0)
        if isinstance(subject, Manifest):
            there = done and handle in self.states
            if there:
                self.files[subject.name] = subject
            self.index.spilled(handle, there)
        elif done and subject in self.files:
            self.states[handle] = (self.files[subject].ids, self.files[subject].salt)
            self.index.loaded(handle)
        else:
            self.index.lost([handle])
        assert what in {"spill", "load"}

    def begin(self, ticket: int, plan: CachePlan) -> None:
        """Check that a submitted plan is sound, and fork where it says."""
        length = len(plan.ids) // WIDTH
        for keep in plan.keep:
            assert plan.cached < keep.tokens < length
            self._fresh(keep.handle)
        if plan.keep_end:
            self._fresh(plan.keep_end)
        if plan.reuse is None:
            return
        ids, salt = self.states[plan.reuse.handle]
        assert salt == plan.salt, "a state of another tenant"
        assert 0 < plan.reuse.tokens < length, "a hit leaves at least one token"
        span = plan.reuse.tokens * WIDTH
        assert ids[:span] == plan.ids[:span], "tokens that differ"
        assert self.rules.trimmable or len(ids) == span, "a state that cannot be trimmed"
        self.starting[ticket] = plan.reuse.handle

    def start(self, ticket: int, plan: CachePlan) -> None:
        """The request has forked from its state."""
        self.starting.pop(ticket, None)
        self.index.started(ticket, plan.cached)

    def keep(
        self, plan: CachePlan, handle: int, answer: Sequence[int] = (), *, known: bool = True
    ) -> None:
        """Store one state the plan asked for: of a prompt's part, or of the answer's end.

        `known`: the index is told the answer's tokens.
        """
        at = {keep.handle: keep.tokens for keep in plan.keep}.get(handle)
        ids = plan.ids + pack(answer) if at is None else plan.ids[: at * WIDTH]
        self.states[handle] = (ids, plan.salt)
        tokens = len(ids) // WIDTH
        self.index.kept(handle, tokens, self.rules.size(tokens), answer if known else ())

    def _fresh(self, handle: int) -> None:
        assert handle > 0
        assert handle not in self.used, "a handle is used once"
        self.used.add(handle)


def run(keeper: StateKeeper, ticket: int, plan: CachePlan, answer: Sequence[int] = ()) -> None:
    """A whole request at once: everything it was to keep is kept."""
    index = keeper.index
    assert index.begin(ticket, plan)
    keeper.obey(index.take_orders())
    keeper.begin(ticket, plan)
    keeper.start(ticket, plan)
    for keep in plan.keep:
        keeper.keep(plan, keep.handle)
        keeper.obey(index.take_orders())
    if plan.keep_end:
        keeper.keep(plan, plan.keep_end, answer)
    index.ended(ticket)
    keeper.obey(index.take_orders())
    while keeper.moving:
        keeper.move()
        keeper.obey(index.take_orders())
