"""Held states that hold nothing but the tokens they would cover."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from opta_lmx.backends.frames import Cache, CacheAbility, CacheChanged, Kept, Move, Reuse, Submit
from opta_lmx.backends.protocol import Emit
from opta_lmx.backends.statefile import (
    StateFileError,
    StateHead,
    hash_ids,
    read_state,
    write_state,
)

_WRITER = "sim"


class SimStates:
    """Handles and the tokens behind them, under the same rules as real ones.

    Args:
        ability: what can be reused of a state.
        token_bytes: what one token takes.
        emit: where `CacheChanged` goes.
    """

    def __init__(self, ability: CacheAbility, token_bytes: int, emit: Emit) -> None:
        self._ability = ability
        self._token_bytes = token_bytes
        self._emit = emit
        self._held: dict[int, tuple[int, ...]] = {}
        self._expected: set[int] = set()
        self._wanted: Counter[int] = Counter()
        self._dropped: set[int] = set()

    @property
    def tokens(self) -> int:
        """Tokens of all held states."""
        return sum(len(ids) for ids in self._held.values())

    def expect(self, request: Submit) -> bool:
        """A request comes that keeps and reuses; True when it has to wait for its state."""
        waits = request.reuse is not None and request.reuse.handle in self._expected
        self._expected.update(_handles(request))
        if request.reuse is not None:
            self._wanted[request.reuse.handle] += 1
        return waits

    def awaited(self, handle: int) -> bool:
        """True while a state may still come under this handle."""
        return handle in self._expected

    def take(self, request: Submit) -> int:
        """How many of a request's tokens a state gives it; it wants none any more."""
        reuse = request.reuse
        if reuse is None:
            return 0
        found = self._usable(reuse, (*request.ids, *request.generated))
        self.unwant(reuse)
        return found

    def unwant(self, reuse: Reuse | None) -> None:
        """A request has taken its state, or is gone."""
        if reuse is not None:
            self._wanted[reuse.handle] -= 1
            self._let_go(reuse.handle)

    def _usable(self, reuse: Reuse, ids: Sequence[int]) -> int:
        held = self._held.get(reuse.handle, ())
        if not 0 < reuse.tokens < len(ids) or held[: reuse.tokens] != (*ids[: reuse.tokens],):
            return 0
        return reuse.tokens if self._ability == "trimmable" or len(held) == reuse.tokens else 0

    def keep(self, handle: int, ids: Sequence[int]) -> None:
        """Hold the state of these tokens, if it is expected and there are any."""
        if self._ability == "none" or not ids:
            self.give_up((handle,))
        elif handle in self._expected:
            self._expected.discard(handle)
            self._held[handle] = (*ids,)
            self._emit(CacheChanged(kept=(self._kept(handle),)))
            self._let_go(handle)

    def give_up(self, handles: Iterable[int]) -> None:
        """These will not be held."""
        lost = tuple(handle for handle in handles if handle in self._expected)
        self._expected.difference_update(lost)
        self._dropped.difference_update(lost)
        if lost:
            self._emit(CacheChanged(lost=lost))

    def cache(self, command: Cache) -> None:
        """Let go, write and read."""
        for handle in command.drop:
            if handle in self._held or handle in self._expected:
                self._dropped.add(handle)
                self._let_go(handle)
            else:
                self._emit(CacheChanged(lost=(handle,)))
        for move in command.spill:
            self._spill(move)
        for move in command.load:
            self._load(move)

    def _spill(self, move: Move) -> None:
        held = self._held.get(move.handle)
        if held is None:
            self._emit(CacheChanged(unspilled=(move.handle,)))
            return
        ids = array("i", held).tobytes()
        head = StateHead(len(held), hash_ids(ids), _WRITER, "", None, (), note=move.note)
        size = write_state(Path(move.path), head, ids, ())
        self._emit(CacheChanged(spilled=(Kept(move.handle, len(held), size),)))

    def _load(self, move: Move) -> None:
        try:
            file = read_state(Path(move.path))
        except StateFileError:
            self._emit(CacheChanged(lost=(move.handle,)))
            return
        self._held[move.handle] = (*array("i", file.ids),)
        self._emit(CacheChanged(kept=(self._kept(move.handle),)))

    def _kept(self, handle: int) -> Kept:
        tokens = len(self._held[handle])
        return Kept(handle, tokens, tokens * self._token_bytes)

    def _let_go(self, handle: int) -> None:
        if self._wanted[handle] <= 0:
            del self._wanted[handle]
            if handle in self._dropped and self._held.pop(handle, None) is not None:
                self._dropped.discard(handle)
                self._emit(CacheChanged(lost=(handle,)))


def _handles(request: Submit) -> list[int]:
    ends = [request.keep_end] if request.keep_end else []
    return [keep.handle for keep in request.keep] + ends
