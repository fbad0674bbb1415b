"""Which model traffic will want next: loaded before it is asked for, where that costs nobody."""

import math
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from statistics import median

import msgspec

from opta_lmx.core.errors import LmxError
from opta_lmx.scheduling.ledger import MemoryLedger, MemoryNeed

GAP_S = 10.0
"""Requests closer together than this, or than two loads of the model, are one spell of use."""
_REMEMBERED = 8
_ENOUGH = 3
_STEADY = 0.2
"""Largest spread of the intervals, as a share of them, on which anything is predicted."""
_MAX_MODELS = 256
_SLACK_S = 1.0
_LOAD_MARGIN = 1.25


class Expected(msgspec.Struct, frozen=True):
    """When a model's next spell should begin (monotonic s), at the earliest, likely, at latest."""

    early: float
    at: float
    late: float

    def due(self, load_s: float) -> float:
        """When to begin to load a model for it that takes so long."""
        return self.early - _LOAD_MARGIN * load_s


class Prefetch(msgspec.Struct, frozen=True):
    """A model to load now, after unloading others; its memory is reserved."""

    model: str
    evict: tuple[str, ...]


class _History:
    """When the spells of one model began."""

    def __init__(self) -> None:
        self.began = -math.inf
        self.last = -math.inf
        self.intervals: deque[float] = deque(maxlen=_REMEMBERED)

    def arrived(self, now: float, gap_s: float) -> None:
        """Add a request."""
        if now - self.last > gap_s:
            if math.isfinite(self.began):
                self.intervals.append(now - self.began)
            self.began = now
        self.last = now

    def expected(self) -> Expected | None:
        """The next spell, if those before came at steady intervals."""
        if len(self.intervals) < _ENOUGH:
            return None
        usual = median(self.intervals)
        off = [abs(each - usual) for each in self.intervals]
        spread = median(off)
        if spread > _STEADY * usual:
            return None
        at = self.began + usual
        # As far off as it ever was, unless that was an exception.
        margin = max(_SLACK_S, 1.5 * min(max(off), 3 * spread))
        return Expected(at - margin, at, at + max(margin, usual / 10))


class UsageForecast:
    """Predicts each model's next use from the intervals between its spells of use."""

    def __init__(self, gap_s: float = GAP_S) -> None:
        self._gap_s = gap_s
        self._histories: OrderedDict[str, _History] = OrderedDict()

    def arrived(self, model: str, now: float, load_s: float = 0.0) -> None:
        """A request for the model came; `load_s` is how long loading it takes."""
        history = self._histories.setdefault(model, _History())
        history.arrived(now, max(self._gap_s, 2 * load_s))
        self._histories.move_to_end(model)
        if len(self._histories) > _MAX_MODELS:
            self._histories.popitem(last=False)

    def expected(self, model: str, now: float) -> Expected | None:
        """The model's next spell; None when unsteady, too little known, or long overdue."""
        history = self._histories.get(model)
        expected = None if history is None else history.expected()
        return None if expected is None or expected.late < now else expected

    def next_use(self, model: str, now: float, idle_s: float) -> float:
        """When the model should be used again, at the earliest.

        One of which nothing is known is taken to stay idle for as long as it has been.
        """
        expected = self.expected(model, now)
        return now + idle_s if expected is None else max(now, expected.early)


def prefetch(
    forecast: UsageForecast,
    ledger: MemoryLedger,
    needs: Mapping[str, MemoryNeed],
    now: float,
    spared: Collection[str] = (),
) -> Prefetch | None:
    """Choose a model to load ahead of its next use, and reserve its memory.

    It is loaded into free memory, or over idle models that will be wanted later than it; one at a
    time, and only when it is time to begin.

    Args:
        forecast: what traffic has been like.
        ledger: the machine's memory.
        needs: what each known model takes.
        now: monotonic seconds.
        spared: models that do not go for it.
    """
    if ledger.loading:
        return None
    due: list[tuple[float, str]] = []
    for model, need in needs.items():
        expected = forecast.expected(model, now)
        if expected is None or model in ledger:
            continue
        if expected.due(need.load_s) <= now:
            due.append((expected.at, model))
    for at, model in sorted(due):

        def wanted_later(other: str, idle_s: float, at: float = at) -> bool:
            return other not in spared and forecast.next_use(other, now, idle_s) > at

        try:
            evict = ledger.admit(model, needs[model], now, wanted_later, asked=False)
            return Prefetch(model, evict)
        except LmxError:
            continue
    return None
