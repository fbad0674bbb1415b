"""Prefetch: the model that traffic wants next is there when it is asked for, at nobody's cost."""

import heapq
import random
from collections.abc import Iterator, Sequence

import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.scheduling.ledger import MemoryLedger, MemoryNeed, Residency
from opta_lmx.scheduling.prefetch import Expected, Prefetch, UsageForecast, prefetch

GB = 10**9
TICK_S = 0.5
Trace = Sequence[tuple[float, str, float]]
"""Requests: when, for which model, and how many seconds they keep it busy."""


class Machine:
    """A server in simulated time: requests load what they need, and wait while they cannot.

    Args:
        budget: bytes of memory.
        needs: the models there are.
        ahead: whether to prefetch.
    """

    def __init__(self, budget: int, needs: dict[str, MemoryNeed], *, ahead: bool) -> None:
        self.ledger = MemoryLedger(budget)
        self.forecast = UsageForecast()
        self.needs = needs
        self.ahead = ahead
        self.cold: list[tuple[float, str]] = []
        self.warm = self.prefetched = 0
        self.busy = dict.fromkeys(needs, 0)
        self._ready_at: dict[str, float] = {}
        self._ends: list[tuple[float, str]] = []

    def run(self, trace: Trace) -> None:
        now, pending = 0.0, sorted(trace)
        waiting: list[tuple[float, str, float]] = []
        while pending or waiting:
            now += TICK_S
            self._settle(now)
            while pending and pending[0][0] <= now:
                at, model, seconds = pending.pop(0)
                self.forecast.arrived(model, at, self.needs[model].load_s)
                if self._is_ready(model):
                    self.warm += 1
                elif all(other != model for _, other, _ in waiting):
                    self.cold.append((at, model))  # the first to wait for this load
                waiting.append((at, model, seconds))
            waiting = [each for each in waiting if not self._serve(each, now)]
            if self.ahead:
                self._look_ahead(now)

    def _look_ahead(self, now: float) -> None:
        chosen = prefetch(self.forecast, self.ledger, self.needs, now)
        if chosen is not None:
            self.prefetched += 1
            self._load(chosen, now)

    def _serve(self, request: tuple[float, str, float], now: float) -> bool:
        _, model, seconds = request
        if model not in self.ledger:
            try:
                evict = self.ledger.admit(model, self.needs[model], now)
            except LmxError:
                return False
            self._load(Prefetch(model, evict), now)
        if not self._is_ready(model):
            return False
        self.busy[model] += 1
        self.ledger.use(model, self.busy[model], now)
        heapq.heappush(self._ends, (now + seconds, model))
        return True

    def _load(self, load: Prefetch, now: float) -> None:
        for name in load.evict:
            assert not self.busy[name]
            assert name not in self.ledger.pinned
            assert self._ready_at.pop(name) <= now
            self.ledger.gone(name)
        assert self.ledger.may_load()
        assert self.ledger.free >= 0
        self._ready_at[load.model] = now + self.needs[load.model].load_s

    def _settle(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, model = heapq.heappop(self._ends)
            self.busy[model] -= 1
            self.ledger.use(model, self.busy[model], now)
        for line in self.ledger.lines(now):
            if line.state is Residency.LOADING and self._ready_at[line.model] <= now:
                self.ledger.loaded(line.model, self.needs[line.model].total, now)

    def _is_ready(self, model: str) -> bool:
        return any(
            line.model == model and line.state is Residency.READY for line in self.ledger.lines(0)
        )


PERIOD_S = 80.0
SPELLS = 40


def spells(
    draw: random.Random, model: str, first: float, jitter: float
) -> Iterator[tuple[float, str, float]]:
    """Spells of one to four requests each, a few seconds apart, at a jittered period."""
    for number in range(SPELLS):
        at = first + PERIOD_S * (number + draw.uniform(-jitter, jitter))
        for _ in range(draw.randint(1, 4)):
            yield at, model, draw.uniform(0.5, 3)
            at += draw.uniform(0.5, 3)


TWO = {"a": MemoryNeed(8 * GB, load_s=6), "b": MemoryNeed(7 * GB, load_s=5)}


def two_models(seed: int, jitter: float = 0.05) -> Trace:
    draw = random.Random(seed)
    return [*spells(draw, "a", 10, jitter), *spells(draw, "b", 50, jitter)]


@pytest.mark.parametrize("jitter", [0.0, 0.03, 0.06])
def test_a_periodic_pair_is_warm_when_it_is_asked_for(jitter: float) -> None:
    for seed in range(20):
        trace = two_models(seed, jitter)
        runs = {ahead: Machine(10 * GB, TWO, ahead=ahead) for ahead in (False, True)}
        for machine in runs.values():
            machine.run(trace)
        off, on = len(runs[False].cold), len(runs[True].cold)
        assert off >= 2 * SPELLS - 1
        assert on <= 0.2 * off, (seed, on, off)
        # Each spell is prefetched for once, and hardly any of them in vain.
        assert runs[True].prefetched <= 2 * SPELLS + 5


def test_pinned_and_busy_models_stay_whatever_is_wanted() -> None:
    needs = {**TWO, "pinned": MemoryNeed(2 * GB), "long": MemoryNeed(4 * GB, load_s=3)}
    for seed in range(8):
        draw = random.Random(seed)
        machine = Machine(14 * GB, needs, ahead=True)
        machine.ledger.pinned.add("pinned")
        # Answers of up to 100 s keep a model busy into the time when others are expected.
        trace = [
            (0.0, "pinned", 1.0),
            *two_models(seed),
            *((draw.uniform(0, 3000), "long", draw.uniform(20, 100)) for _ in range(20)),
        ]
        machine.run(trace)
        assert "pinned" in machine.ledger
        assert machine.prefetched > 10


def test_random_traffic_is_left_alone() -> None:
    total = 0
    for seed in range(6):
        draw, now, trace = random.Random(seed), 0.0, []
        for _ in range(150):
            now += 15 + draw.expovariate(1 / 60)
            trace.append((now, draw.choice("ab"), draw.uniform(0.5, 3)))
        off, on = (Machine(10 * GB, TWO, ahead=ahead) for ahead in (False, True))
        off.run(trace)
        on.run(trace)
        total += on.prefetched
        # Hardly anything is predicted, so hardly anything can be made worse.
        assert len(on.cold) <= 1.1 * len(off.cold), seed
    assert total <= 6 * 150 * 0.05


def test_nothing_is_loaded_over_what_is_wanted_sooner() -> None:
    ledger, forecast = MemoryLedger(10 * GB), UsageForecast()
    ledger.admit("a", TWO["a"], 0)
    ledger.loaded("a", 8 * GB, 0)
    for number in range(5):
        forecast.arrived("a", 100.0 * number)
        forecast.arrived("b", 100.0 * number + 20)
    ledger.use("a", 0, 400)
    # b is wanted at 520, a at 500 and at 600.
    assert prefetch(forecast, ledger, TWO, 490) is None
    assert prefetch(forecast, ledger, TWO, 512.5) is None
    forecast.arrived("a", 500)
    assert prefetch(forecast, ledger, TWO, 512.5) is None
    assert prefetch(forecast, ledger, TWO, 512.8) == Prefetch("b", ("a",))


def test_free_memory_is_used_without_evicting() -> None:
    ledger, forecast = MemoryLedger(20 * GB), UsageForecast()
    ledger.admit("a", TWO["a"], 0)
    assert prefetch(forecast, ledger, TWO, 0) is None
    for number in range(5):
        forecast.arrived("b", 100.0 * number)
    assert prefetch(forecast, ledger, TWO, 495) is None  # another is being loaded
    ledger.loaded("a", 8 * GB, 0)
    assert prefetch(forecast, ledger, TWO, 495) == Prefetch("b", ())
    assert prefetch(forecast, ledger, TWO, 495) is None


def test_one_of_which_nothing_is_known_goes_when_it_has_been_idle_longer() -> None:
    for idle_s, goes in ((2.0, False), (30.0, True)):
        ledger, forecast = MemoryLedger(10 * GB), UsageForecast()
        ledger.admit("a", TWO["a"], 0)
        ledger.loaded("a", 8 * GB, 495 - idle_s)
        for number in range(5):
            forecast.arrived("b", 100.0 * number)
        assert (prefetch(forecast, ledger, TWO, 495) is not None) is goes


def test_those_that_are_spared_stay() -> None:
    for spared, goes in (({"a"}, False), ({"b"}, True)):
        ledger, forecast = MemoryLedger(10 * GB), UsageForecast()
        ledger.admit("a", TWO["a"], 0)
        ledger.loaded("a", 8 * GB, 1)
        for number in range(5):
            forecast.arrived("b", 100.0 * number)
        chosen = prefetch(forecast, ledger, TWO, 495, spared)
        assert (chosen is not None) is goes


def test_a_request_goes_before_what_is_loaded_ahead_of_it() -> None:
    ledger, forecast = MemoryLedger(10 * GB), UsageForecast()
    for number in range(5):
        forecast.arrived("b", 100.0 * number)
    assert prefetch(forecast, ledger, TWO, 495) == Prefetch("b", ())
    assert ledger.admit("a", TWO["a"], 496) == ("b",)


def test_a_forecast_takes_steady_intervals() -> None:
    forecast = UsageForecast(gap_s=5)
    for number in range(3):
        for burst in range(4):
            forecast.arrived("m", 100.0 * number + burst * 4.9)
    assert forecast.expected("m", 250) is None
    forecast.arrived("m", 300)
    assert forecast.expected("m", 310) == Expected(399, 400, 410)
    assert forecast.expected("m", 410) is not None
    assert forecast.expected("m", 410.1) is None  # overdue: it may never come
    assert forecast.next_use("m", 310, 10) == 399
    assert forecast.next_use("m", 405, 90) == 405
    assert forecast.next_use("m", 500, 200) == 700
    for at in (330, 480, 500):
        forecast.arrived("m", float(at))
    assert forecast.expected("m", 500) is None


def test_one_missed_spell_does_not_confuse_it() -> None:
    forecast = UsageForecast()
    for at in (0, 100, 200, 400, 500, 600):
        forecast.arrived("m", float(at))
    assert forecast.expected("m", 600) == Expected(699, 700, 710)


def test_models_are_remembered_in_bounded_space() -> None:
    forecast = UsageForecast()
    for number in range(1000):
        forecast.arrived(f"m{number}", float(number))
    assert len(forecast._histories) == 256
