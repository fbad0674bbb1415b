"""One round of the gate after another."""

import asyncio
from collections.abc import Sequence

import msgspec

from benchmarks.arrivals import Plan
from benchmarks.contest import Contest, Note, Scenario, run_raw
from benchmarks.fleet.asking import Asked, Server, see_through
from benchmarks.fleet.dialects import Caller
from benchmarks.fleet.drive import BOT
from benchmarks.fleet.hits import look
from benchmarks.fleet.rendering import render
from benchmarks.fleet.script import Conversation, House
from benchmarks.fleet.stage import Stage, metrics, server_of
from benchmarks.fleet.warming import warm_up
from benchmarks.gate.figures import BURST, BUSY, GateRound, SharedPrefix
from benchmarks.measure import measure
from benchmarks.peers import Peer
from benchmarks.prompts import PromptMaker, calibrate
from benchmarks.raw_batch import RawLoop
from benchmarks.stats import Spread

WIDTH = 8
ANSWER_TOKENS = 64
PROMPT_TOKENS = 128
WAVES = 3
PAIRS = 4
PAIR_TOKENS = 128
SHARED_SCALE = 0.125
"""Of OpenClaw's sizes: 1,500 tokens that all bots share."""
_TIMEOUT_S = 120.0
_STEPS = "opta_lmx_engine_steps"


class Sides(msgspec.Struct, frozen=True):
    """All that is compared: this server, mlx_lm.server, the bare loop."""

    ours: Peer
    theirs: Peer
    raw: RawLoop


SCENARIOS = [
    Scenario(BURST, Plan(WIDTH, 3 * WIDTH, ANSWER_TOKENS), raw=True),
    Scenario(BUSY, Plan(WIDTH, 6, 4 * ANSWER_TOKENS, arrival="busy")),
]


async def play(sides: Sides, stage: Stage, rounds: int, seed: str, note: Note) -> list[GateRound]:
    """Play all rounds; the first only warms up."""
    words = (await calibrate(sides.ours.target)).words(PROMPT_TOKENS)
    own, other = server_of(sides.ours), server_of(sides.theirs, plain=True)
    for server in (own, other):
        await warm_up(stage.house(SHARED_SCALE, f"{seed}/warm"), server, WIDTH)
    contest = Contest(sides.ours, sides.theirs, sides.raw, words, seed)
    played: list[GateRound] = []
    for number in range(rounds):
        note(f"round {number + 1} of {rounds}")
        contested = await contest.play_round(SCENARIOS, number)
        ours, theirs = await shared_waves(stage, (own, other), f"{seed}/{number}")
        cold = await shared_waves(stage, (own, other), f"{seed}/{number}", turn=number, cold=True)
        played.append(
            GateRound(
                played=contested,
                ours=ours,
                theirs=theirs,
                cold=[waves[0] for waves in cold],
                steps=await count_steps(sides.ours, PromptMaker(f"{seed}/{number}/n", words)),
                answer_tokens=ANSWER_TOKENS,
                cpu=await cpu_pairs(sides, f"{seed}/{number}/cpu", words),
            )
        )
    return played


async def shared_waves(
    stage: Stage, servers: Sequence[Server], seed: str, *, turn: int = 0, cold: bool = False
) -> list[list[SharedPrefix]]:
    """Waves of bots with a shared prefix on each server; one if `cold`.

    Who begins changes from one to the next, and with `turn`.
    """
    found: list[list[SharedPrefix]] = [[] for _ in servers]
    for wave in range(1 if cold else WAVES):
        house = stage.house(SHARED_SCALE, f"{seed}/{cold}/{wave}")
        sides = list(zip(servers, found, strict=True))
        for server, waves in reversed(sides) if (wave + turn) % 2 else sides:
            waves.append(await shared_prefix(house, stage, server, cold=cold))
    return found


async def cpu_pairs(sides: Sides, seed: str, words: int, pairs: int = PAIRS) -> list[float]:
    """The worker's CPU per token over the bare loop's, in pairs of bursts one after the other.

    A burst lasts a second or two, and who begins changes: what else the machine does, and how
    fast it runs, meets both halves of a pair alike.
    """
    found: list[float] = []
    plan = Plan(WIDTH, WIDTH, PAIR_TOKENS)
    for place in range(pairs):
        prompts = PromptMaker(f"{seed}/{place}", words)
        raw = run_raw(sides.raw, plan, prompts) if place % 2 else None
        cpu = (await measure(sides.ours.target, plan, prompts, sides.ours.pid)).cpu
        raw = raw or run_raw(sides.raw, plan, prompts)
        assert cpu is not None
        found.append((cpu.server_ms_per_token - cpu.root_ms_per_token) / raw.cpu_ms_per_token)
    return found


async def count_steps(peer: Peer, prompts: PromptMaker) -> float:
    """Engine steps this server needs for eight answers at once."""
    before = _steps(peer)
    await measure(peer.target, Plan(WIDTH, WIDTH, ANSWER_TOKENS), prompts)
    return _steps(peer) - before


def _steps(peer: Peer) -> float:
    found = metrics(peer, "")
    return sum(value for name, value in found.items() if name.startswith(_STEPS + "{"))


async def shared_prefix(house: House, stage: Stage, server: Server, *, cold: bool) -> SharedPrefix:
    """Eight bots' first turns at once, after one other's unless `cold`."""
    first = [] if cold else await _turns(house, server, [0])
    found = await _turns(house, server, list(range(1, WIDTH + 1)))
    asked = [one for one in (*first, *found) if one.served]
    ids = stage.counter.ids([render(one.ask, joined=not server.plain) for one in asked])
    others = {one.who for one in first}
    rows = [row for row in look(asked, ids) if row.who not in others]
    return SharedPrefix(
        first_token=Spread.of_seconds([one.ttft for one in found if one.ttft is not None]),
        computed=sum(row.counted - row.cached for row in rows),
        needed=sum(row.counted - row.known for row in rows),
        untrue=sum(row.cached > row.possible + row.counted // 100 for row in rows),
    )


async def _turns(house: House, server: Server, numbers: list[int]) -> list[Asked]:
    asked: list[Asked] = []
    for number in numbers:
        name = f"bot-{number}"
        ask = Conversation(house, name, 0, "completions").ask()
        short = msgspec.structs.replace(ask, max_tokens=8)
        asked.append(Asked(name, BOT, "", short))
    await asyncio.gather(
        *(see_through(one, Caller("none", one.who), server, timeout_s=_TIMEOUT_S) for one in asked)
    )
    return asked
