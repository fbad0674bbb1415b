"""Two servers, the same scenarios in turn, round after round; what their ratios are."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from benchmarks.arrivals import Plan
from benchmarks.measure import Result, measure
from benchmarks.peers import Peer
from benchmarks.prompts import PromptMaker
from benchmarks.raw_batch import Job, RawLoop, RawResult
from benchmarks.stats import median, percentile

Note = Callable[[str], None]
T = TypeVar("T")


class Scenario(msgspec.Struct, frozen=True):
    """A plan under a name; `raw` means the bare loop can do the same work."""

    name: str
    plan: Plan
    raw: bool = False


class Round(msgspec.Struct):
    """Figures of one round: scenario to result for either side, and for the raw loop."""

    ours: dict[str, Result] = {}
    theirs: dict[str, Result] = {}
    raw: dict[str, RawResult] = {}


class Ratio(msgspec.Struct, frozen=True):
    """Ours over theirs: the median of the rounds' own ratios, and the range they lie in."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float


class Contest:
    """Runs scenarios on both sides in turn, so that a disturbance of the machine meets both.

    Args:
        ours: this server.
        theirs: the peer.
        raw: the bare loop, where one fits the model.
        words: length of each prompt's own part.
        seed: makes the prompts; no prompt is ever sent twice to one server.
    """

    def __init__(
        self, ours: Peer, theirs: Peer, raw: RawLoop | None, words: int, seed: str
    ) -> None:
        self._sides = (ours, theirs)
        self._raw = raw
        self._words = words
        self._seed = seed

    async def play(self, scenarios: list[Scenario], rounds: int, note: Note) -> list[Round]:
        """Play every scenario on both sides, `rounds` times; who begins changes each time."""
        played: list[Round] = []
        for number in range(rounds):
            note(f"round {number + 1} of {rounds}")
            played.append(await self.play_round(scenarios, number))
        return played

    async def play_round(self, scenarios: list[Scenario], number: int) -> Round:
        """Play every scenario on both sides once, as round `number`."""
        result = Round()
        for place, scenario in enumerate(scenarios):
            await self._both(result, scenario, number, (number + place) % 2 == 1)
        return result

    async def _both(self, result: Round, scenario: Scenario, number: int, swap: bool) -> None:
        seed = f"{self._seed}/{scenario.name}/{number}"
        plan = msgspec.structs.replace(scenario.plan, seed=seed)
        prompts = PromptMaker(seed, self._words)
        pairs = list(zip(self._sides, (result.ours, result.theirs), strict=True))
        for peer, kept in reversed(pairs) if swap else pairs:
            kept[scenario.name] = await measure(peer.target, plan, prompts, peer.pid)
        if self._raw is not None and scenario.raw:
            result.raw[scenario.name] = run_raw(self._raw, plan, prompts)


def run_raw(raw: RawLoop, plan: Plan, prompts: PromptMaker) -> RawResult:
    """The raw loop on the very waves of a burst plan, summed up as one result."""
    parts: list[RawResult] = []
    for start in range(0, plan.requests, plan.concurrency):
        wave = range(start, min(start + plan.concurrency, plan.requests))
        parts.append(raw.run(Job([prompts.make(index) for index in wave], plan.max_tokens)))
    tokens = sum(part.tokens for part in parts)
    wall_s = sum(part.wall_s for part in parts)
    return RawResult(
        rows=plan.concurrency,
        tokens=tokens,
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        wall_s=wall_s,
        tokens_per_s=tokens / wall_s,
        ms_per_token=wall_s * 1000 / tokens,
        ttft_ms=median(part.ttft_ms for part in parts),
        step_ms=median(part.step_ms for part in parts),
        cpu_ms_per_token=sum(part.cpu_ms_per_token * part.tokens for part in parts) / tokens,
    )


def counted(rounds: list[T]) -> list[T]:
    """The rounds that count: all but the first, unless it is the only one."""
    return rounds[1:] or rounds


def ratio(pairs: list[tuple[float, float]]) -> Ratio:
    """Compare figures taken side by side; each pair is (ours, theirs) of one round."""
    ratios = [ours / theirs if theirs else float("nan") for ours, theirs in pairs]
    return Ratio(
        ours=median(ours for ours, _ in pairs),
        theirs=median(theirs for _, theirs in pairs),
        ratio=median(ratios),
        low=percentile(ratios, 0),
        high=percentile(ratios, 100),
    )


def against_peer(rounds: list[Round], scenario: str, figure: Callable[[Result], float]) -> Ratio:
    """The ratio of one figure between the two servers."""
    return ratio(
        [
            (figure(played.ours[scenario]), figure(played.theirs[scenario]))
            for played in counted(rounds)
        ]
    )


def against_raw(rounds: list[Round], scenario: str) -> tuple[Ratio, float]:
    """Tokens/s over the raw loop's, and the median of wall ms per token above the raw loop's."""
    pairs = [(played.ours[scenario], played.raw[scenario]) for played in counted(rounds)]
    speed = ratio([(ours.tokens_per_s, raw.tokens_per_s) for ours, raw in pairs])
    return speed, median(ours.ms_per_token - raw.ms_per_token for ours, raw in pairs)


def failures(rounds: list[Round]) -> list[str]:
    """What went wrong in any round, the first included: failed requests and false counts."""
    found: list[str] = []
    for number, played in enumerate(rounds, 1):
        for side, results in (("ours", played.ours), ("peer", played.theirs)):
            for name, result in results.items():
                where = f"round {number}, {name}, {side}"
                found += [f"{where}: {count} x {kind}" for kind, count in result.errors.items()]
                if result.miscounted:
                    found.append(f"{where}: {result.miscounted} requests with false usage")
    return found
