"""Whole fleets of conversations, in simulation: how much of what was seen before is reused."""

from collections import deque
from statistics import median

import pytest

from opta_lmx.engine.prefix import CachePlan, CacheRules, PrefixIndex, read_manifest
from opta_lmx.engine.prefix.tree import common, pack
from tests.support.bot_prompts import SYSTEM, Bot, Dialect
from tests.support.states import HandClock, StateKeeper, run

DIALECTS: tuple[Dialect, ...] = ("completions", "responses", "messages")
PER_TOKEN = 1000
PROMPT = (SYSTEM + 2000) * PER_TOKEN


def rules_for(trimmable: bool, budget: int, disk: int = 0) -> CacheRules:
    """A state of a sliding window is mostly its window; else bytes grow with the tokens."""
    grows = PER_TOKEN if trimmable else PER_TOKEN // 8
    fixed = 0 if trimmable else 512 * PER_TOKEN
    return CacheRules(
        budget_bytes=budget,
        trimmable=trimmable,
        bytes_per_token=grows,
        fixed_bytes=fixed,
        disk_bytes=disk,
        spill_after_s=0.0,
    )


class Fleet:
    """Bots that take turns; notes of each request what was cached and what could have been."""

    def __init__(self, rules: CacheRules, bots: int, dialect: Dialect) -> None:
        self.clock = HandClock()
        self.rules = rules
        self.index = PrefixIndex(rules, self.clock, "model")
        self.keeper = StateKeeper(self.index, rules)
        self.bots = [Bot(number, dialect, seed=1) for number in range(bots)]
        self.seen: list[bytes] = []
        self.tickets = 0

    def turn(self, bot: Bot, *, named: bool, said: int = 60) -> tuple[int, int, int]:
        """One request: (cached, shared with any earlier request, length), in tokens."""
        bot.ask(said)
        ids, cuts = bot.prompt()
        data = pack(ids)
        shared = max((common(data, other) for other in self.seen), default=0)
        plan = self.index.plan(ids, cuts, "tenant", bot.name if named else None)
        assert not plan.waits
        self.tickets += 1
        run(self.keeper, self.tickets, plan, bot.answer(150))
        self.seen.append(data)
        self.clock.now += 5
        assert self.index.memory_bytes <= self.rules.budget_bytes
        return plan.cached, min(shared, len(ids) - 1), len(ids)

    def begin(self, bot: Bot) -> CachePlan:
        """Submit a request, whose prompt is processed at once, and leave it running."""
        bot.ask(60)
        ids, cuts = bot.prompt()
        self.tickets += 1
        plan = self.index.plan(ids, cuts, "tenant", bot.name)
        assert self.index.begin(self.tickets, plan)
        self.keeper.obey(self.index.take_orders())
        self.keeper.begin(self.tickets, plan)
        self.keeper.start(self.tickets, plan)
        for keep in plan.keep:
            self.keeper.keep(plan, keep.handle)
            self.keeper.obey(self.index.take_orders())
        return plan

    def finish(self, ticket: int, plan: CachePlan, bot: Bot) -> None:
        """End its answer."""
        answer = bot.answer(150)
        if plan.keep_end:
            self.keeper.keep(plan, plan.keep_end, answer)
        self.index.ended(ticket)
        self.keeper.obey(self.index.take_orders())
        assert self.index.memory_bytes <= self.rules.budget_bytes


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("trimmable", [True, False])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_warm_conversations_stay_warm(dialect: Dialect, trimmable: bool, named: bool) -> None:
    fleet = Fleet(rules_for(trimmable, 40 * PROMPT), 8, dialect)
    worst = 1.0
    for turn in range(10):
        for number, bot in enumerate(fleet.bots):
            # Some messages are long: results of tools, read files.
            cached, shared, length = fleet.turn(
                bot, named=named, said=1500 if turn % 4 == 3 else 60
            )
            if turn:
                assert cached >= 0.98 * shared, (turn, number, cached, shared, length)
                worst = min(worst, cached / shared)
            elif number:
                assert cached >= 0.8 * length, (number, cached, length)
    print(f"{dialect} trimmable={trimmable} named={named}: worst reuse {worst:.4f}")


@pytest.mark.parametrize("trimmable", [True, False])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_small_budget_keeps_what_all_share(dialect: Dialect, trimmable: bool) -> None:
    fleet = Fleet(rules_for(trimmable, int(2.5 * PROMPT) if trimmable else PROMPT), 12, dialect)
    cached = length = 0
    for turn in range(8):
        for number, bot in enumerate(fleet.bots):
            found, _, total = fleet.turn(bot, named=True)
            if turn or number:
                assert found >= 0.7 * total, (turn, number, found, total)
            cached += found
            length += total
    print(f"{dialect} trimmable={trimmable}: {cached / length:.3f} of all tokens from cache")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_long_conversation_leaves_what_others_begin_with(dialect: Dialect) -> None:
    """Nobody has shared the beginning yet, and the budget holds but a dozen whole states."""
    rules = CacheRules(
        budget_bytes=12 * PROMPT, trimmable=False, bytes_per_token=PER_TOKEN, fixed_bytes=64_000
    )
    fleet = Fleet(rules, 2, dialect)
    one, two = fleet.bots
    for turn in range(12):
        cached, shared, _ = fleet.turn(one, named=True, said=(60, 900, 300)[turn % 3])
        assert not turn or cached >= 0.9 * shared, (turn, cached, shared)
    cached, _, length = fleet.turn(two, named=True)
    print(f"{dialect}: {cached / length:.3f} of the second bot's first prompt")
    assert cached >= 0.75 * length


@pytest.mark.parametrize("trimmable", [True, False])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_small_budget_is_used_while_many_run(dialect: Dialect, trimmable: bool) -> None:
    """What rows will leave one day does not push out what others could start from now."""
    fleet = Fleet(rules_for(trimmable, 6 * (PROMPT if trimmable else PROMPT // 4)), 12, dialect)
    running: deque[tuple[int, CachePlan, Bot]] = deque()
    cached = length = 0
    used: list[float] = []
    for number in range(15 * len(fleet.bots)):
        bot = fleet.bots[number % len(fleet.bots)]
        plan = fleet.begin(bot)
        running.append((fleet.tickets, plan, bot))
        if len(running) > 8:
            fleet.finish(*running.popleft())
        fleet.clock.now += 1
        if number >= 5 * len(fleet.bots):
            cached += plan.cached
            length += plan.tokens
            used.append(fleet.index.memory_bytes / fleet.rules.budget_bytes)
    print(f"{dialect} trimmable={trimmable}: {median(used):.2f} full, {cached / length:.3f} cached")
    assert median(used) >= 0.8
    assert cached >= 0.7 * length


@pytest.mark.parametrize("trimmable", [True, False])
def test_a_restart_is_warm_from_files(trimmable: bool) -> None:
    rules = rules_for(trimmable, 40 * PROMPT, disk=80 * PROMPT)
    fleet = Fleet(rules, 6, "completions")
    for _ in range(3):
        for bot in fleet.bots:
            fleet.turn(bot, named=True)
    fleet.index.settle(everything=True)
    fleet.keeper.obey(fleet.index.take_orders())
    while fleet.keeper.moving:
        fleet.keeper.move()
    files = fleet.keeper.files
    headers = {name: manifest.encode() for name, manifest in files.items()}

    index = PrefixIndex(rules, fleet.clock, "model")
    keeper = StateKeeper(index, rules)
    keeper.files = dict(files)
    found = [read_manifest(header, name) for name, header in headers.items()]
    index.adopt([manifest for manifest in found if manifest is not None])
    keeper.obey(index.take_orders())
    for ticket, bot in enumerate(fleet.bots):
        bot.ask(60)
        ids, cuts = bot.prompt()
        plan = index.plan(ids, cuts, "tenant", bot.name)
        if plan.waits:
            assert index.follow(ticket, plan)
            keeper.obey(index.take_orders())
            keeper.move()
            assert index.woken() == (ticket,)
            plan = index.plan(ids, cuts, "tenant", bot.name)
        assert plan.cached >= 0.8 * len(ids)
        run(keeper, ticket, plan)


@pytest.mark.parametrize("trimmable", [True, False])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_cold_rush_computes_the_shared_part_once(dialect: Dialect, trimmable: bool) -> None:
    rules = rules_for(trimmable, 40 * PROMPT)
    index = PrefixIndex(rules, HandClock(), "model")
    keeper = StateKeeper(index, rules)
    bots = [Bot(number, dialect, seed=1) for number in range(12)]
    waiting = dict(enumerate(bots))
    asked = {}
    for ticket, bot in waiting.items():
        bot.ask(60)
        asked[ticket] = bot.prompt()
    running, processed = {}, 0
    ready = list(waiting)
    while ready or running:
        for ticket in ready:
            plan = index.plan(*asked[ticket], "tenant", f"s{ticket}")
            if plan.waits and index.follow(ticket, plan):
                continue
            assert index.begin(ticket, plan)
            keeper.obey(index.take_orders())
            keeper.begin(ticket, plan)
            running[ticket] = plan
            processed += len(asked[ticket][0]) - plan.cached
        ticket, plan = running.popitem()
        keeper.start(ticket, plan)
        for keep in plan.keep:
            keeper.keep(plan, keep.handle)
        index.ended(ticket)
        keeper.obey(index.take_orders())
        ready = list(index.woken())
    total = sum(len(ids) for ids, _ in asked.values())
    print(f"{dialect} trimmable={trimmable}: {processed} of {total} tokens processed")
    assert processed <= 0.25 * total
