"""Held states to files and back. The engine thread only looks at memory, and copies in pieces."""
# pyright: reportUnknownMemberType=false
# (mlx is only partly typed)

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx

from opta_lmx.backends.frames import CacheChanged, Kept, Move
from opta_lmx.backends.mlx import caches
from opta_lmx.backends.mlx.disk import Disk, ReadBack
from opta_lmx.backends.mlx.states import State, States
from opta_lmx.backends.protocol import Emit
from opta_lmx.backends.statefile import StateFile, StateHead, hash_ids

_BYTES_PER_STEP = 64 * 1024 * 1024
"""Copied from a file at a time: some milliseconds."""
_WRITER = f"mlx-lm {version('mlx-lm')}"


class _Arriving:
    """A state that is being copied into arrays."""

    def __init__(self, handle: int, file: StateFile) -> None:
        self.handle = handle
        self.file = file
        self.arrays: list[Any] = []

    def copy(self, budget: int) -> int:
        """Make arrays of at least one part, and of at most `budget` bytes; return what is left."""
        parts, kinds = self.file.parts, self.file.head.arrays
        while budget > 0 and len(self.arrays) < len(parts):
            at = len(self.arrays)
            self.arrays.append(caches.from_bytes(parts[at], kinds[at]))
            mx.eval(self.arrays[at])
            budget -= kinds[at].nbytes
        return budget

    @property
    def whole(self) -> bool:
        """True when all of it is there."""
        return len(self.arrays) == len(self.file.parts)


class Files:
    """Carries out `Cache.spill` and `Cache.load`; for the engine thread alone.

    Args:
        states: where states come from and go to.
        form: `caches.form` of the model's states; files of any other are not used.
        emit: where `CacheChanged` goes.
    """

    def __init__(self, states: States, form: str, emit: Emit) -> None:
        self._states = states
        self._form = form
        self._emit = emit
        self._disk = Disk()
        self._writing: dict[int, tuple[State, Any]] = {}
        self._arriving: list[_Arriving] = []

    @property
    def busy(self) -> bool:
        """True while something is on its way."""
        return self._disk.busy or bool(self._arriving)

    def spill(self, move: Move) -> None:
        """Begin to write a held state."""
        state = self._states.get(move.handle)
        if state is None or move.handle in self._writing:
            self._emit(CacheChanged(unspilled=(move.handle,)))
            return
        try:
            structure, arrays = caches.flatten(state.caches)
        except TypeError:
            self._emit(CacheChanged(unspilled=(move.handle,)))
            return
        kinds = tuple(caches.describe(array) for array in arrays)
        head = StateHead(
            *(state.tokens, hash_ids(state.ids), _WRITER, self._form, structure, kinds),
            note=move.note,
        )
        parts = caches.view_bytes(arrays)
        # The views end on the writer's thread; the memory they look at is kept here until then.
        self._writing[move.handle] = (state, arrays)
        self._disk.write(move.handle, Path(move.path), head, state.ids, parts)

    def load(self, move: Move) -> None:
        """Begin to read a file; its handle is expected from now on."""
        if self._states.known(move.handle):
            self._states.lose(move.handle)
            return
        self._states.expect((move.handle,))
        self._disk.read(move.handle, Path(move.path))

    def advance(self, wait_s: float) -> None:
        """Take in what is done, waiting up to `wait_s` for it where nothing else is to be done."""
        if self._disk.busy:
            for done in self._disk.take(0.0 if self._arriving else wait_s):
                if isinstance(done, ReadBack):
                    self._read(done)
                else:
                    self._written(done.handle, done.size)
        budget = _BYTES_PER_STEP
        while self._arriving and budget > 0:
            budget = self._arrive(self._arriving[0], budget)

    def _written(self, handle: int, size: int) -> None:
        state, _ = self._writing.pop(handle)
        if size:
            self._emit(CacheChanged(spilled=(Kept(handle, state.tokens, size),)))
        else:
            self._emit(CacheChanged(unspilled=(handle,)))

    def _read(self, done: ReadBack) -> None:
        file = done.file
        if file is None or (file.head.engine, file.head.shape) != (_WRITER, self._form):
            self._states.give_up((done.handle,))
        else:
            self._arriving.append(_Arriving(done.handle, file))

    def _arrive(self, arriving: _Arriving, budget: int) -> int:
        """Go on with one state; one whose bytes make no sense is lost."""
        try:
            left = arriving.copy(budget)
            if not arriving.whole:
                return left
            made = caches.unflatten(arriving.file.head.structure, arriving.arrays)
            ids = arriving.file.ids
            sound = caches.form(made) == self._form and caches.covered(made) in {
                None,
                len(ids) // 4,
            }
            size = caches.settle(made)
        except Exception:  # noqa: BLE001  (boundary: a file may say anything)
            left, sound, made, ids, size = budget, False, [], b"", 0
        self._arriving.remove(arriving)
        if sound:
            self._states.hold(arriving.handle, State(ids, made, size))
        else:
            self._states.give_up((arriving.handle,))
        return left
