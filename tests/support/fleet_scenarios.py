"""Random fleets for the simulated line: who asks for what, when, of which machine."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec

from opta_lmx.core.kv_cost import KvCost
from opta_lmx.core.principal import Budgets, Caller, Lane, Principal
from opta_lmx.scheduling.rules import LaneRule, LineRules, Work


@dataclass(frozen=True)
class Asked:
    """One request: when it comes (s), what it takes, when its client gives up (s after)."""

    at: float
    caller: Caller
    work: Work
    answer: int
    prepare_s: float
    patience_s: float | None


Following = Callable[..., Asked | None]
"""Of random draws, a request that is over, the time, and whether it was `served`."""


@dataclass(frozen=True)
class Scenario:
    """A machine, its rules and everything that is asked of it.

    `prefill` and `decode` are tokens per second of one row; `step` is tokens per event;
    `limits` are (time, slots) at which the adaptive limit changes. `kv` is what caches take,
    where memory for them is short, and `kv_bytes` what there is. A refused request is tried so
    many times, after waits of whole seconds; `following` says what its client asks when it is over.
    """

    seed: int
    rules: LineRules
    slots: int
    prefill: float
    decode: float
    step: int
    asked: tuple[Asked, ...]
    limits: tuple[tuple[float, int], ...] = ()
    kv: KvCost | None = None
    kv_bytes: int = 0
    tries: int = 5
    following: Following | None = None

    @cached_property
    def prompt_cost(self) -> float:
        """The dearest prompt."""
        return max(one.work.cost(self.rules.prices) for one in self.asked)

    @cached_property
    def answer_tokens(self) -> int:
        """The longest answer."""
        return max(one.answer for one in self.asked)

    @cached_property
    def unit(self) -> float:
        """U: the dearest prompt and a full batch of the longest answers."""
        most = self.rules.prices.answer * self.slots * self.answer_tokens
        return self.prompt_cost + most

    @cached_property
    def row_s(self) -> float:
        """Longest time one row can take (s)."""
        prompt = max(one.work.prompt for one in self.asked)
        return prompt / self.prefill + (self.answer_tokens + self.step) / self.decode


@dataclass(frozen=True)
class _Kind:
    """A client's habits: how many requests, over which time, and how long they are."""

    caller: Caller
    count: int
    start: float
    span: float
    prompt: tuple[int, int]
    answer: tuple[int, int]
    cached: float
    gives_up: float


def random_scenario(seed: int) -> Scenario:
    """The fleet of a seed; the same one each time."""
    rng = random.Random(seed)
    slots = rng.choice((1, 2, 2, 3, 4, 4, 6))
    decode = rng.uniform(5, 50)
    rules = _rules(rng, slots)
    if rng.random() < 0.4:
        # No caps: they alone decide who has the slots, were there any.
        rules = msgspec.structs.replace(
            rules, max_waiting=rng.choice((20, 60, 120)), reserve=0, client_max_running=None
        )
        kinds = [_rival(rng, caller) for caller in _rivals(rng)]
    else:
        kinds = [_kind(rng, caller, slots) for caller in _callers(rng)]
    asked = sorted((one for kind in kinds for one in _requests(rng, kind)), key=lambda one: one.at)
    limits: list[tuple[float, int]] = []
    if rng.random() < 0.2:
        limits = [(rng.uniform(10, 20), rng.randint(1, slots)) for _ in range(2)]
        limits.append((22.0, slots))
    return Scenario(
        seed,
        rules,
        slots,
        prefill=decode * rng.uniform(10, 60),
        decode=decode,
        step=rng.choice((2, 4, 8)),
        asked=tuple(asked),
        limits=tuple(limits),
    )


def cramped_scenario(seed: int) -> Scenario:
    """The fleet of a seed on a machine whose memory does not do for all slots."""
    scenario, rng = random_scenario(seed), random.Random(-1 - seed)
    window = rng.choice((0, 0, 64))
    cost = KvCost(
        ((100, 0), (300, window)) if window else ((100, 0),),
        fixed=rng.choice((0, 500)),
        slack=rng.choice((0, 15)),
        whole=rng.random() < 0.2,
    )
    asked = tuple(_bounded(one, rng) for one in scenario.asked)
    longest = max(cost.at(one.work.prompt + (one.work.most or 0)) for one in asked)
    budget = int(longest * rng.uniform(1, max(1.5, 0.8 * scenario.slots)))
    keys = sorted({one.caller.principal.key for one in asked})
    caps = {key: int(longest * rng.uniform(1, 2)) for key in keys if rng.random() < 0.2}
    return replace(
        scenario, asked=tuple(_capped(one, caps) for one in asked), kv=cost, kv_bytes=budget
    )


def _bounded(one: Asked, rng: random.Random) -> Asked:
    """Every answer has a bound: the model's window, at the least; some are much longer."""
    answer = one.answer * rng.choice((1, 1, 1, 6))
    most = answer * rng.choice((1, 2)) + rng.choice((0, 40))
    return replace(one, answer=answer, work=msgspec.structs.replace(one.work, most=most))


def _capped(one: Asked, caps: dict[str, int]) -> Asked:
    who = one.caller.principal
    budgets = Budgets(kv_bytes=caps.get(who.key))
    who = msgspec.structs.replace(who, budgets=budgets)
    return replace(one, caller=msgspec.structs.replace(one.caller, principal=who))


def _rules(rng: random.Random, slots: int) -> LineRules:
    patience = rng.choice((0.0, 0.05, 0.5))
    return LineRules(
        max_waiting=rng.choice((4, 10, 40, 80)),
        lanes=(
            LaneRule(8.0, patience_s=patience),
            LaneRule(4.0, patience_s=4 * patience),
            LaneRule(1.0, spare=rng.choice((0, 1))),
        ),
        quantum=float(rng.choice((0, 50, 400))),
        ageing_s=rng.uniform(3, 15),
        preemptible=rng.random() < 0.5,
        reserve=rng.choice((0, 1)) if slots > 1 else 0,
        client_max_running=rng.choice((None, None, None, 2)),
    )


def _callers(rng: random.Random) -> list[Caller]:
    one_lane = rng.random() < 0.5
    callers: list[Caller] = []
    for number in range(rng.choice((1, 1, 2, 3))):
        who = Principal(
            key=f"key-{number}",
            weight=rng.choice((1.0, 1.0, 1.0, 2.0)),
            max_running=rng.choice((None, None, None, 2)),
        )
        for client in range(rng.choice((1, 2, 2, 3))):
            lane = Lane.INTERACTIVE if one_lane else rng.choice(list(Lane))
            callers.append(Caller(who, f"bot-{client}", lane))
    return callers


def _rivals(rng: random.Random) -> list[Caller]:
    """Clients of one lane and of equal weight: of one key, or of as many keys."""
    lane, count = rng.choice(list(Lane)), rng.randint(2, 4)
    keys = [f"key-{number}" if rng.random() < 0.5 else "key" for number in range(count)]
    return [Caller(Principal(key=key), f"bot-{number}", lane) for number, key in enumerate(keys)]


def _kind(rng: random.Random, caller: Caller, slots: int) -> _Kind:
    """Floods come at once, fleets keep asking, visitors ask now and then."""
    habit = rng.choice(("flood", "flood", "fleet", "visitor"))
    count = {"flood": rng.randint(20, 60), "fleet": rng.randint(10, 30), "visitor": 5}[habit]
    longest, least = rng.choice((40, 120, 400)), rng.choice((4, 10))
    answer = rng.choice((4, 8, 16, 40))
    return _Kind(
        caller,
        count,
        start=rng.uniform(10, 16),
        span=0.1 if habit == "flood" else rng.uniform(5, 60) / slots,
        prompt=(least, longest),
        answer=(max(1, answer // 3), answer),
        cached=rng.choice((0.0, 0.0, 0.5, 0.95)),
        gives_up=rng.choice((0.0, 0.0, 0.15)),
    )


def _rival(rng: random.Random, caller: Caller) -> _Kind:
    """All of them flood the line, one before the other."""
    longest, answer = rng.choice((40, 120)), rng.choice((4, 8, 16))
    return _Kind(
        caller,
        rng.randint(15, 60),
        start=rng.uniform(10, 10.3),
        span=rng.choice((0.1, 1.0, 5.0)),
        prompt=(10, longest),
        answer=(max(1, answer // 3), answer),
        cached=rng.choice((0.0, 0.0, 0.5, 0.95)),
        gives_up=rng.choice((0.0, 0.0, 0.15)),
    )


def _requests(rng: random.Random, kind: _Kind) -> list[Asked]:
    """A few at first, from which the line learns how fast the machine is; then all the others."""
    found: list[Asked] = []
    first = [rng.uniform(0, 10) for _ in range(4)]
    later = [kind.start + rng.uniform(0, kind.span) for _ in range(kind.count)]
    for at in (*first, *later):
        prompt = rng.randint(*kind.prompt)
        answer = rng.randint(*kind.answer)
        most = rng.choice((None, answer, 2 * kind.answer[1]))
        found.append(
            Asked(
                at,
                kind.caller,
                Work(prompt, int(prompt * kind.cached), most, pausable=rng.random() < 0.9),
                answer,
                prepare_s=rng.uniform(0, 0.02),
                patience_s=rng.uniform(0, 4) if rng.random() < kind.gives_up else None,
            )
        )
    return found
