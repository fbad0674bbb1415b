"""Which models were loaded when the server stopped without ending, and what becomes of them."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from opta_lmx.core.clock import Clock
from opta_lmx.core.errors import LmxError
from opta_lmx.core.telemetry import Telemetry
from opta_lmx.engine.kept_file import KeptFile, read_kept

FILE = "loaded.json"
SAFE_AFTER = 3
"""After so many unclean stops in a row the next start is in safe mode."""
WINDOW_S = 600.0
"""Unclean stops longer ago than this are forgiven."""
_ORDER_S = 10.0
"""How often, at most, it is written down that models are used in another order."""
NAMED = "start"
"""Why a model is loaded that was named when the server was started."""
_OUR_OWN = frozenset({NAMED, "warm"})
"""Models that are loaded anyway, by every start."""
_UNASKED = _OUR_OWN | {"prefetch"}


class Noted(msgspec.Struct):
    """A loaded model: its id, the window it was asked for in tokens (0: as configured).

    `reason` is who wanted it; `loading`: it has not been ready yet since its worker started.
    """

    model: str
    backend: str = ""
    context: int = 0
    reason: str = ""
    loading: bool = False

    @property
    def asked(self) -> bool:
        """True when it would not be there again by itself."""
        return self.reason not in _UNASKED


class _Run(msgspec.Struct):
    """What the file holds: the models, the one used last at the end, and earlier unclean stops.

    The times are those of the starts that found them (UTC ms).
    """

    unclean_ms: list[int] = []
    models: list[Noted] = []


class Journal:
    """Notes what is loaded, for the next start if this run does not end in order.

    Nothing is written before `begin`, and nothing of it is left after `end`.

    Args:
        path: the file; None keeps nothing.
        clock: time.
        telemetry: where failures are logged.

    Attributes:
        safe: too many runs have ended without order lately: nothing is loaded unasked in this one.
        frozen: the server is told to stop.
    """

    def __init__(self, path: Path | None, clock: Clock, telemetry: Telemetry) -> None:
        self._clock, self._telemetry = clock, telemetry
        last, now_ms = read_kept(path, _Run, telemetry), clock.now_ms()
        self._unclean = [] if last is None else [*_recent(last.unclean_ms, now_ms), now_ms]
        self.safe = len(self._unclean) >= SAFE_AFTER
        self._found = [] if last is None else last.models
        self._models: dict[str, Noted] = {}
        self._running = self.frozen = False
        self._ordered_at = -_ORDER_S
        self._file = KeptFile(path, self._state, telemetry)

    async def begin(self, *, restore: bool) -> list[Noted]:
        """From here on the run counts as unclean until `end`.

        Args:
            restore: whether models are to be loaded that were, which safe mode rules out.

        Returns:
            The models whose load was under way when the last run stopped.
        """
        interrupted = [one for one in self._found if one.loading]
        wanted = [one for one in self._found if one.asked] if restore and not self.safe else []
        # Until each has been tried they stay in the file: this run may not get that far either.
        self._found = [msgspec.structs.replace(one, loading=False) for one in wanted]
        self._running = True
        if self._unclean:
            log = {"unclean_stops": len(self._unclean), "models": [one.model for one in wanted]}
            self._telemetry.log("warning", "the last run did not end in order", **log)
        if self.safe:
            self._telemetry.log(
                "error",
                "safe mode: nothing is loaded unasked",
                unclean_stops=len(self._unclean),
                within_s=WINDOW_S,
            )
        await self._written()
        return interrupted

    def started(self, note: Noted) -> None:
        """A model is to be loaded."""
        self._models[note.model] = note
        self._save()

    async def loading(self, model: str) -> None:
        """A worker is about to load the model; returns when that is on the disk."""
        if (note := self._models.get(model)) is not None:
            note.loading = True
            await self._written()

    def settled(self, model: str) -> None:
        """The load under way is over, for better or worse."""
        note = self._models.get(model)
        if note is not None and note.loading:
            note.loading = False
            self._save()

    def used(self, model: str) -> None:
        """Somebody asked for a loaded model."""
        note = self._models.get(model)
        if note is None:
            return
        if note.reason == "prefetch":
            note.reason = "request"
            self._save()
        if next(reversed(self._models)) != model:
            self._models[model] = self._models.pop(model)
            if self._clock.monotonic() - self._ordered_at >= _ORDER_S:
                self._ordered_at = self._clock.monotonic()
                self._save()

    def gone(self, model: str) -> None:
        """A model is not loaded any more."""
        if not self.frozen and self._models.pop(model, None) is not None:
            self._save()

    async def restore(self, load: Callable[[Noted], Awaitable[None]]) -> None:
        """Load what was loaded, one at a time, what was used last first.

        Those that fail are logged and given up.
        """
        while self._found:
            note = self._found[-1]
            try:
                await load(note)
            except LmxError as error:
                why = {"code": error.code, "reason": error.message}
                self._telemetry.log("warning", "model not restored", model=note.model, **why)
            except Exception as cause:  # noqa: BLE001  (boundary: one must not keep the others away)
                self._telemetry.log("error", "restoring failed", model=note.model, exc_info=cause)
            self._found.pop()
            self._save()

    async def end(self) -> None:
        """The run ends in order: the next one has nothing to make good."""
        if self._running:
            self._running, self._unclean = False, []
            self._file.save()
            await self._file.saved()

    def freeze(self) -> None:
        """The server is told to stop: if `end` is not reached, what is loaded now is restored.

        A load that is cut short by that says nothing of its model.
        """
        under_way = [note for note in self._models.values() if note.loading]
        for note in under_way:
            note.loading = False
        if under_way:
            self._save()
        self.frozen = True

    def _save(self) -> None:
        if self._running and not self.frozen:
            self._file.save()

    async def _written(self) -> None:
        self._save()
        if self._running:
            await self._file.saved()

    def _state(self) -> _Run | None:
        """Without those to be restored that are there by now."""
        if not self._running:
            return None
        waiting = [one for one in self._found if one.model not in self._models]
        return _Run(self._unclean, [*waiting, *self._models.values()])


def _recent(stops_ms: list[int], now_ms: int) -> list[int]:
    """Stops that still count; one of the future is a clock that was set back."""
    return [when for when in stops_ms if 0 <= now_ms - when < WINDOW_S * 1000]
