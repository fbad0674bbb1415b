"""A small fleet against a scripted server: every dialect is spoken, and refusals are waited out."""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.fleet.asking import Server
from benchmarks.fleet.drive import BOT, JOB, Fleet, Play, Played
from benchmarks.fleet.promises import honesty
from benchmarks.fleet.script import DIALECTS, House, Sizes, Text
from benchmarks.fleet.summary import class_of
from tests.support.server import sim_server

pytestmark = pytest.mark.alone

SCRIPT = {"reply": "one two three four five six", "step_ms": 5, "context": 32_768}


def play(home: Path, fleet: Fleet, *, slots: int, max_waiting: int) -> Played:
    house = House(Text(1.5), Sizes().scaled(0.02), "s")
    scripts = {"m": SCRIPT}
    with sim_server(home, scripts, slots=slots, max_waiting=max_waiting) as server:
        return asyncio.run(Play(fleet, house, Server(f"{server.url}/v1", "m")).run())


@pytest.mark.timeout(60)
def test_every_dialect_is_spoken_and_answered(tmp_path: Path) -> None:
    fleet = Fleet(bots=3, jobs=1, duration_s=3.0, think_s=0.05, turns=3, timeout_s=20)
    played = play(tmp_path, fleet, slots=4, max_waiting=16)
    bots, jobs = played.of(BOT), played.of(JOB)
    failed = [
        (one.ask.dialect, one.last.error, one.last.detail)
        for one in (*bots, *jobs)
        if not one.served
    ]
    assert failed == []
    assert {one.ask.dialect for one in bots} == set(DIALECTS)
    assert all(one.last.text.split()[:2] == ["one", "two"] for one in bots)
    assert all((one.last.counts.completion or 0) > 0 for one in (*bots, *jobs))
    assert max(len(one.ask.turns) for one in bots) > 3
    found = class_of(BOT, bots, played)
    assert found.answered == found.requests == len(bots)
    assert (found.given_up, found.server_errors, found.hangs, found.errors) == (0, 0, 0, {})
    assert found.ttft.p50 > 0


@pytest.mark.timeout(60)
def test_refused_bots_wait_and_come_back(tmp_path: Path) -> None:
    fleet = Fleet(bots=6, jobs=0, duration_s=4.0, think_s=0.0, turns=3, timeout_s=20)
    played = play(tmp_path, fleet, slots=1, max_waiting=0)
    bots = played.of(BOT)
    told = honesty(bots)
    assert told.refused > 0
    assert told.silent == 0
    back = [one for one in bots if len(one.tries) > 1]
    assert back
    for one in back:
        for before, after in pairwise(one.tries):
            assert before.retry_after is not None
            assert after.sent - before.end >= before.retry_after
    assert {each.status for one in bots for each in one.tries} == {200, 429}
