"""States held for later requests, by the front's handles: kept, waited for, forked and let go."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from opta_lmx.backends.frames import CacheChanged, Kept, Reuse
from opta_lmx.backends.mlx.caches import Caches, covered, fork, settle
from opta_lmx.backends.protocol import Emit


class State(msgspec.Struct, frozen=True):
    """The caches of one sequence, never written to; `ids` are its tokens, packed."""

    ids: bytes
    caches: Caches
    bytes: int

    @property
    def tokens(self) -> int:
        """How many tokens it covers."""
        return len(self.ids) // 4


class States:
    """All held states of one model; for the engine thread alone.

    A handle is *expected* from when a request (or a file) is to provide it until it does or no
    longer can. It is *wanted* by requests that have not taken their fork of it yet.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._held: dict[int, State] = {}
        self._expected: set[int] = set()
        self._wanted: Counter[int] = Counter()
        self._dropped: set[int] = set()
        self._kept: list[Kept] = []
        self._lost: list[int] = []

    def get(self, handle: int) -> State | None:
        """The state of a handle."""
        return self._held.get(handle)

    def known(self, handle: int) -> bool:
        """True when the handle holds something or is expected to."""
        return handle in self._held or handle in self._expected

    def expects(self, handle: int) -> bool:
        """True when the handle may still come to hold something."""
        return handle in self._expected

    # --- providing

    def expect(self, handles: Iterable[int]) -> None:
        """These will be provided, or given up."""
        self._expected.update(handles)

    def keep(self, handle: int, ids: Sequence[int], caches: Caches) -> bool:
        """Hold the caches of the tokens `ids`; False when that cannot be."""
        try:
            sound = bool(caches) and covered(caches) in {None, len(ids)}
            size = settle(caches)
        except Exception:  # noqa: BLE001  (boundary: a state is worth less than the rows)
            sound, size = False, 0
        if sound:
            self.hold(handle, State(pack(ids), caches, size))
        else:
            self.give_up((handle,))
        return sound

    def hold(self, handle: int, state: State) -> None:
        """Hold a state whose arrays are settled."""
        self._expected.discard(handle)
        self._held[handle] = state
        self._kept.append(Kept(handle, state.tokens, state.bytes))
        self._let_go(handle)

    def give_up(self, handles: Iterable[int]) -> None:
        """These will not be provided."""
        for handle in handles:
            if handle in self._expected:
                self._expected.discard(handle)
                self._dropped.discard(handle)
                self._lost.append(handle)

    # --- taking

    def want(self, reuse: Reuse | None) -> None:
        """A request is to fork this; until it has, the state is not let go."""
        if reuse is not None:
            self._wanted[reuse.handle] += 1

    def unwant(self, reuse: Reuse | None) -> None:
        """The request has its fork, or is gone."""
        if reuse is not None:
            self._wanted[reuse.handle] -= 1
            if self._wanted[reuse.handle] <= 0:
                del self._wanted[reuse.handle]
                self._let_go(reuse.handle)

    def promises(self, reuse: Reuse, length: int) -> int:
        """How many of a prompt's `length` tokens a fork should cover; never all of them."""
        state = self._held.get(reuse.handle)
        tokens = min(reuse.tokens, length - 1)
        return tokens if state is not None and 0 < tokens <= state.tokens else 0

    def fork(self, reuse: Reuse, ids: Sequence[int]) -> tuple[Caches, int] | None:
        """Caches of a request's own and how many of its tokens they cover; None without any."""
        tokens = self.promises(reuse, len(ids))
        if not tokens:
            return None
        state = self._held[reuse.handle]
        if state.ids[: tokens * 4] != pack(ids[:tokens]):
            return None  # a wrong answer is worse than a slow one
        caches = fork(state.caches, state.tokens - tokens)
        return None if caches is None else (caches, tokens)

    # --- letting go

    def drop(self, handles: Iterable[int]) -> None:
        """Let go of these, or of what they will be, once nobody is to fork them any more."""
        for handle in handles:
            if self.known(handle):
                self._dropped.add(handle)
                self._let_go(handle)
            else:
                self._lost.append(handle)

    def lose(self, handle: int) -> None:
        """Tell that this handle holds nothing."""
        self._lost.append(handle)

    def flush(self) -> None:
        """Tell the front what has changed."""
        if self._kept or self._lost:
            gone = set(self._lost)
            kept = tuple(each for each in self._kept if each.handle not in gone)
            self._emit(CacheChanged(kept, tuple(self._lost)))
            self._kept.clear()
            self._lost.clear()

    def _let_go(self, handle: int) -> None:
        if handle in self._dropped and handle in self._held and not self._wanted[handle]:
            self._dropped.discard(handle)
            del self._held[handle]
            self._lost.append(handle)


def pack(ids: Sequence[int]) -> bytes:
    """Token ids as little-endian 32-bit numbers."""
    return array("i", ids).tobytes()
