"""How many requests a model runs at once, from how fast its steps are compared to before."""

import math
from collections import OrderedDict, deque
from statistics import median

import msgspec

MAX_SHAPES = 512
_EXACT_ROWS = 8
"""Widths up to this are told apart; wider ones are taken together by about an eighth."""
_RECENT = 9
"""Steps that say how slow it is now: the median shrugs off four outliers."""
_EVERY = 4
"""Clean steps between two changes of the limit."""
_TOLERANCE = 2.0
"""Steps this much slower than usual are usual still: as when another program runs beside."""
_STEEPEST = 0.5
_HEADROOM = 0.5
"""Of the root of the limit: room to grow at each change, which balances a slight slowness."""
_GROWTH = 0.5
"""Share of the way up taken at once; the way down is taken whole."""
_QUICKER = 0.95
_SETTLED = 1 / 500
"""How fast a step changes what its shape costs compared to others, once that is known."""
_LONG_RUN = 1 / 1000
"""How fast a step changes what is usual: four times slower for good is usual after 1,400
steps of each shape."""
_TINY = 1e-300
_PATIENCE = 64
"""Steps in a row that tell nothing, after which what they told before no longer counts."""


class StepSample(msgspec.Struct, frozen=True):
    """One engine step: its width, its length, and the bytes of its rows' caches (0: unknown).

    `clean` says that it decoded only: no prompt was processed in it, and no other worker of the
    device was active meanwhile.
    """

    rows: int
    ms: float
    kv_bytes: int = 0
    clean: bool = True


class _Shape:
    """What steps of one width and cache size cost (ms), as a running median of logarithms."""

    __slots__ = ("first", "kv_bytes", "ms", "rows", "seen")

    def __init__(self, sample: StepSample) -> None:
        self.rows = sample.rows
        self.kv_bytes = sample.kv_bytes
        self.first: list[float] = []
        self.ms = 0.0
        self.seen = 0

    def learn(self, ms: float) -> bool:
        """Take in one of the first steps; True when there are enough of them."""
        self.first.append(ms)
        return len(self.first) >= _RECENT

    def settle(self, ms: float) -> None:
        """The first steps are seen, and this is what they cost."""
        self.ms = ms
        self.seen = _RECENT
        self.first = []

    def follow(self, ratio: float, slowness: float) -> None:
        """Move towards what a step took, both as it is now and, more slowly, as is usual."""
        self.seen += 1
        part = math.copysign(max(_SETTLED, 0.5 / self.seen), ratio - slowness)
        part *= ratio != slowness
        part += math.copysign(max(_LONG_RUN, 0.1 / self.seen), ratio - 1)
        self.ms *= math.exp(part)

    def allows(self, other: "_Shape") -> tuple[float, float]:
        """Least and most (ms) that another shape costs: costs grow at most in proportion."""
        ratios = [1.0, other.rows / self.rows]
        if self.kv_bytes and other.kv_bytes:
            ratios.append(other.kv_bytes / self.kv_bytes)
        return self.ms * min(ratios), self.ms * max(ratios)


class Baseline:
    """How slow steps are now, as a multiple of what their shape takes in the long run.

    A shape is a batch width and a range of cache sizes (a factor of 1.4 wide): a step reads the
    weights once, and every row's cache. What shapes cost compared to each other is learnt at any
    time, slow or not; how long steps take in general follows over thousands of steps. A shape
    never seen before says nothing for its first steps.
    """

    def __init__(self) -> None:
        self._shapes: OrderedDict[tuple[int, int], _Shape] = OrderedDict()
        self._last: _Shape | None = None
        self._recent: deque[float] = deque(maxlen=_RECENT)

    @property
    def slowness(self) -> float:
        """1 when steps take what they usually do; 1 also until enough of them were seen."""
        return median(self._recent) if len(self._recent) == _RECENT else 1.0

    def add(self, sample: StepSample) -> bool:
        """Take in a clean step; True when it says something about the slowness."""
        shape = self._shape(sample)
        if not shape.seen:
            if shape.learn(sample.ms):
                self._settle(shape)
            return False
        self._last = shape
        ratio = sample.ms / shape.ms
        self._recent.append(ratio)
        slowness = self.slowness
        shape.follow(ratio, slowness)
        if slowness < _STEEPEST:
            shape.ms *= _QUICKER  # what was learnt in a slow spell is unlearnt quickly
        return True

    def forget_recent(self) -> None:
        """What was seen last no longer says how slow it is now."""
        self._recent.clear()

    def _shape(self, sample: StepSample) -> _Shape:
        rows, kv_bytes = sample.rows, sample.kv_bytes
        width = rows if rows <= _EXACT_ROWS else _EXACT_ROWS + round(6 * math.log2(rows / 8))
        key = (width, round(2 * math.log2(kv_bytes)) if kv_bytes else 0)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = _Shape(sample)
            if len(self._shapes) > MAX_SHAPES:
                self._shapes.popitem(last=False)
        self._shapes.move_to_end(key)
        return shape

    def _settle(self, shape: _Shape) -> None:
        """Say what a new shape costs, given the last one known.

        Its first steps are as slow as the last ones known were, if they would be too slow else.
        In doubt it is over: a limit that rises too early soon meets shapes that are known.
        """
        ms, slowness = median(shape.first), self.slowness
        if self._last is not None:
            least, most = self._last.allows(shape)

            def misfit(cost: float) -> float:
                return max(1.0, least / max(cost, _TINY), cost / most)

            ms = min(ms, ms / slowness if slowness > _TOLERANCE else ms, key=misfit)
            ms = min(max(ms, least), most)
        shape.settle(ms)


class AdaptiveLimit:
    """A limit that falls when steps become slow and returns when they are as fast as before.

    At each change the limit becomes `limit x gradient + headroom`, where the gradient is the
    tolerated slowness over the measured one (0.5 to 1) and the headroom half the limit's root.
    Steps four times slower bring any limit to 1; up to twice as slow leave it alone; a limit of
    8 gives way from 2.4 times on. Running requests are never cut: a lower limit holds for
    who comes next.

    Args:
        most: the slots the worker has.
    """

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._exact = float(self._most)
        self._baseline = Baseline()
        self._since = 0
        self._silent = 0

    @property
    def limit(self) -> int:
        """Requests that may run at once, at least 1."""
        return round(self._exact)

    @property
    def slowness(self) -> float:
        """How slow steps are now, as a multiple of the usual."""
        return self._baseline.slowness

    def resize(self, most: int) -> None:
        """The worker has another number of slots; a limit that was at its top stays there."""
        at_top = self._exact >= self._most
        self._most = max(1, most)
        self._exact = float(self._most) if at_top else min(self._exact, float(self._most))

    def restarted(self) -> None:
        """The worker is a new one: what is usual stays, how slow it just was does not."""
        self._baseline.forget_recent()
        self._exact = float(self._most)
        self._since = self._silent = 0

    def step(self, sample: StepSample) -> int:
        """Take in a step and return the limit."""
        usable = sample.clean and sample.rows > 0 and math.isfinite(sample.ms) and sample.ms > 0
        if usable and self._baseline.add(sample):
            self._silent = 0
            self._since += 1
            if self._since >= _EVERY:
                self._since = 0
                self._change(self._baseline.slowness)
        else:
            self._silent += 1
            if self._silent >= _PATIENCE:
                self._silent = 0
                self._baseline.forget_recent()
                self._change(1.0)
        return self.limit

    def _change(self, slowness: float) -> None:
        gradient = min(1.0, max(_STEEPEST, _TOLERANCE / slowness))
        target = self._exact * gradient + _HEADROOM * math.sqrt(self._exact)
        if target > self._exact:
            target = self._exact + _GROWTH * (target - self._exact)
        self._exact = min(float(self._most), max(1.0, target))
