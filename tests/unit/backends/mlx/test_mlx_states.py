"""Handles of held states: each is answered for once, and none goes while it is wanted."""

from typing import Any

import mlx.core as mx
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from mlx_lm.models.cache import KVCache

from opta_lmx.backends.frames import CacheChanged, Kept, Reuse
from opta_lmx.backends.mlx.states import States, pack

IDS = tuple(range(9))


def caches(tokens: int) -> list[Any]:
    cache = KVCache()
    cache.update_and_fetch(mx.ones((1, 1, tokens, 2)), mx.zeros((1, 1, tokens, 2)))
    return [cache]


class Handles(RuleBasedStateMachine):
    """Requests provide and take states while the front lets go of them."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[CacheChanged] = []
        self.states = States(self.frames.append)  # type: ignore[arg-type]
        self.next = 0
        self.expected: set[int] = set()
        self.held: set[int] = set()
        self.doomed: set[int] = set()
        self.wants: list[Reuse] = []

    @rule()
    def expect(self) -> None:
        self.next += 1
        self.expected.add(self.next)
        self.states.expect((self.next,))

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), tokens=st.integers(1, 9), wrong=st.booleans())
    def keep(self, data: st.DataObject, tokens: int, wrong: bool) -> None:
        handle = data.draw(st.sampled_from(sorted(self.expected)))
        self.expected.discard(handle)
        made = self.states.keep(handle, IDS[:tokens], caches(tokens + wrong))
        assert made == (not wrong)
        if made:
            self.held.add(handle)
        else:
            self.doomed.discard(handle)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.expected)))
        self.expected.discard(handle)
        self.doomed.discard(handle)
        self.states.give_up((handle, 999))

    @precondition(lambda self: self.expected or self.held)
    @rule(data=st.data(), tokens=st.integers(1, 8))
    def want(self, data: st.DataObject, tokens: int) -> None:
        handle = data.draw(st.sampled_from(sorted(self.expected | self.held)))
        self.wants.append(Reuse(handle, tokens))
        self.states.want(self.wants[-1])

    @precondition(lambda self: self.wants)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(self.wants) - 1))
        reuse = self.wants.pop(at)
        state = self.states.get(reuse.handle)
        found = self.states.fork(reuse, IDS)
        assert (state is not None) == (reuse.handle in self.held)
        if state is None or state.tokens < reuse.tokens:
            assert found is None
        else:
            assert found is not None
            assert found[1] == found[0][0].offset == reuse.tokens
            assert state.caches[0].offset == state.tokens
        self.states.unwant(reuse)

    @precondition(lambda self: self.next)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        handle = data.draw(st.integers(1, self.next))
        if handle in self.expected | self.held:
            self.doomed.add(handle)
        self.states.drop((handle,))

    @invariant()
    def what_is_wanted_stays_and_what_is_dropped_goes(self) -> None:
        wanted = {reuse.handle for reuse in self.wants}
        gone = {handle for handle in self.held & self.doomed if handle not in wanted}
        self.held -= gone
        self.doomed -= gone
        for handle in range(1, self.next + 1):
            assert (self.states.get(handle) is not None) == (handle in self.held)
            assert self.states.expects(handle) == (handle in self.expected)

        # and the front knows
        self.states.flush()
        known: set[int] = set()
        for frame in self.frames:
            known |= {kept.handle for kept in frame.kept}
            known -= set(frame.lost)
        assert known == self.held
        lost = {handle for frame in self.frames for handle in frame.lost}
        kept = {each.handle for frame in self.frames for each in frame.kept}
        assert lost | kept >= set(range(1, self.next + 1)) - self.expected


Handles.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestHandles = Handles.TestCase


def test_other_tokens_are_never_used() -> None:
    frames: list[Any] = []
    states = States(frames.append)
    states.expect((1,))
    states.keep(1, IDS, caches(9))
    states.flush()
    assert frames == [CacheChanged(kept=(Kept(1, 9, 9 * 2 * 2 * 4),))]
    assert states.fork(Reuse(1, 5), (*IDS[:5], 77)) is not None
    assert states.fork(Reuse(1, 6), (*IDS[:5], 77, 78)) is None
    assert states.fork(Reuse(1, 9), IDS) is not None  # but for the last token
    assert states.promises(Reuse(1, 9), 9) == 8
    assert states.promises(Reuse(1, -3), 9) == states.promises(Reuse(2, 5), 9) == 0
    assert pack((1, 256)) == b"\1\0\0\0\0\1\0\0"
