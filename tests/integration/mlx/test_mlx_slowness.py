"""Real steps, made slower: fewer requests run for as long, and those that ran go on."""

from collections.abc import Callable
from statistics import median

import pytest

from opta_lmx.core.principal import Caller
from opta_lmx.engine.throttle import Throttle
from opta_lmx.scheduling.fair_line import FairLine
from opta_lmx.scheduling.rules import LineRules, Work
from tests.integration.mlx.conftest import Driver, prompt
from tests.support.clocks import HandClock

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SLOTS = 8
TOKENS = 40
USUAL_MS = 30


class Demand:
    """A line in front of the engine that is never empty."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.line = FairLine(LineRules(max_waiting=99, reserve=0), HandClock())
        self.line.set_slots(SLOTS)
        self.throttle = Throttle(self.line, adaptive=True)
        self.throttle.resume(SLOTS)
        self.ended = self.lost = 0

    def run(self, steps: int) -> list[int]:
        """The limit after each of so many steps."""
        limits: list[int] = []
        while len(limits) < steps:
            while self.line.waiting < 4:
                self.line.mark_ready(self.line.enter(Caller()), Work(20))
            while (ticket := self.line.grant()) is not None:
                self.driver.submit(ticket, prompt(20, ticket), TOKENS)
            released = len(self.driver.released)
            step = self.driver.step()
            if step is not None:
                self.throttle.stepped(step, alone=True)
                limits.append(self.throttle.limit)
            for ticket in self.driver.released[released:]:
                self.ended += 1
                self.lost += not self.driver.tokens[ticket][-1].finish
                self.line.release(ticket)
                self.throttle.freed()
        return limits


def test_the_limit_follows_real_steps(drivers: Callable[[str], Driver]) -> None:
    """Steps are held to a length far beyond what they take, so that noise is none of it."""
    driver = drivers("llama")
    demand = Demand(driver)
    try:
        driver.inject("slow", USUAL_MS)
        before = median(demand.run(160)[-60:])
        driver.inject("slow", 4 * USUAL_MS)
        slow = demand.run(40)
        driver.inject("slow", USUAL_MS)
        after = median(demand.run(260)[-60:])
    finally:
        driver.inject("none", 0)
        driver.run()
    print(f"limit {before} before, {slow[19]} after 20 slow steps, {after} at the end")
    assert slow[19] < before
    assert min(slow) <= SLOTS // 2
    assert after >= 0.9 * before
    assert demand.ended > 20
    assert demand.lost == 0
