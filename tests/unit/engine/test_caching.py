"""The index, a worker that is played here, and whoever waits: joined by `PrefixCache`."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.backends.frames import (
    Cache,
    CacheAbility,
    CacheChanged,
    Kept,
    Ready,
    Released,
    Started,
    Step,
    Submit,
    TokenOut,
)
from opta_lmx.backends.statefile import StateHead, hash_ids, write_state
from opta_lmx.core.principal import Caller, Principal
from opta_lmx.core.types import NO_PLACES, SamplingParams
from opta_lmx.engine.caching import CacheLimits, NoCache, PrefixCache, StateHome, wish_for
from opta_lmx.engine.caching.costs import Costs
from opta_lmx.engine.caching.folder import StateFolder
from opta_lmx.engine.prefix import read_manifest
from tests.support.states import HandClock
from tests.support.waiting import until

PROMPT = tuple(range(1000, 1600))
READY = Ready(4096, 4, kv_bytes=4096 * 4 * 10, engine="played", caches="trimmable")
LIMITS = CacheLimits(memory_bytes=1_000_000)


class Telling:
    """Counts by name, and log events."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.events: list[tuple[str, str, dict[str, object]]] = []

    def count(self, name: str, value: float = 1, **_: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + value

    def observe(self, name: str, value: float, **labels: str) -> None:
        raise AssertionError

    def gauge(self, name: str, value: float, **labels: str) -> None:
        raise AssertionError

    def log(self, level: str, event: str, **fields: object) -> None:
        self.events.append((level, event, fields))


class Played:
    """A worker: holds what it is told to keep, at ten bytes a token."""

    def __init__(self, cache: PrefixCache, clock: HandClock) -> None:
        self.cache = cache
        self.clock = clock
        self.commands: list[Cache] = []

    def submit(
        self, ticket: int, ids: tuple[int, ...] = PROMPT, tenant: str = "t", **more: Any
    ) -> Submit:
        plain = Submit(ticket, ids, SamplingParams(), 16, **more)
        caller = Caller(Principal(tenant), session="s")
        wish = wish_for((*ids, *plain.generated), NO_PLACES, caller)
        return self.cache.planned(plain, wish)

    def start(self, request: Submit, cached: int | None = None) -> None:
        reused = 0 if request.reuse is None else request.reuse.tokens
        found = reused if cached is None else cached
        self.cache.take(Step(1, 1.0, started=(Started(request.id, found),)))
        self.clock.now += 10.0  # a prompt is worth a file
        for keep in request.keep:
            self.keep(keep.handle, keep.tokens)

    def keep(self, handle: int, tokens: int) -> None:
        self.cache.take(CacheChanged(kept=(Kept(handle, tokens, 10 * tokens),)))

    def say(self, request: Submit, *ids: int) -> None:
        tokens = tuple(TokenOut(request.id, token, b"x") for token in ids)
        self.cache.take(Step(2, 1.0, tokens))

    def end(self, request: Submit, length: int | None = None) -> None:
        if length is not None:
            self.keep(request.keep_end, length)
        self.cache.take(Released(request.id))


Body = Callable[[PrefixCache, Played, Telling], Coroutine[Any, Any, None]]


def play(body: Body, ready: Ready = READY, limits: CacheLimits = LIMITS, **more: Any) -> Telling:
    """Run with a cache that a played worker is attached to."""
    told = Telling()

    async def run() -> None:
        clock = HandClock()
        cache = PrefixCache("m", limits, more.get("home"), clock, told)
        played = Played(cache, clock)
        await cache.attach(ready, played.commands.append)
        await asyncio.wait_for(body(cache, played, told), 10)

    asyncio.run(run())
    return told


def test_the_answer_is_found_in_the_next_prompt() -> None:
    async def body(cache: PrefixCache, played: Played, told: Telling) -> None:
        first = played.submit(1)
        played.start(first)
        played.say(first, 1, 2, 3)
        played.end(first, len(PROMPT) + 2)
        second = played.submit(2, (*PROMPT, 1, 2, 9, 9))
        assert second.reuse is not None
        assert second.reuse.tokens == len(PROMPT) + 2
        assert cache.levels.memory_bytes > 0
        played.start(second)
        length = 2 * len(PROMPT) + 4
        assert told.counts["prefix_cache_queries_total"] == length
        assert told.counts["prefix_cache_hits_total"] == len(PROMPT) + 2

    play(body)


def test_a_state_beyond_the_known_answer_is_dropped() -> None:
    async def body(_: PrefixCache, played: Played, __: Telling) -> None:
        first = played.submit(1)
        played.start(first)
        played.end(first, len(PROMPT) + 5)
        assert [command.drop for command in played.commands] == [(first.keep_end,)]

    play(body)


def test_who_asks_alike_waits_in_the_worker_for_the_state_to_come() -> None:
    async def body(_: PrefixCache, played: Played, told: Telling) -> None:
        first, second = played.submit(1), played.submit(2)
        assert second.reuse is not None
        assert second.reuse.handle in {keep.handle for keep in first.keep}
        played.start(first)
        played.start(second)
        played.end(first, len(PROMPT))
        played.end(second)
        assert "prefix_cache_corrections_total" not in told.counts

    play(body)


def test_what_a_leader_does_not_give_is_no_contradiction() -> None:
    async def body(_: PrefixCache, played: Played, told: Telling) -> None:
        first, second = played.submit(1), played.submit(2)
        handles = tuple(keep.handle for keep in first.keep)
        played.cache.take(CacheChanged(lost=handles))
        played.end(first)
        played.start(second, cached=0)
        assert "prefix_cache_corrections_total" not in told.counts
        assert played.submit(3).reuse is not None  # the second keeps what the first did not

    play(body)


def test_a_worker_that_finds_less_is_believed() -> None:
    async def body(_: PrefixCache, played: Played, told: Telling) -> None:
        first = played.submit(1)
        played.start(first)
        played.end(first, len(PROMPT))
        played.start(played.submit(2), cached=0)
        assert told.counts["prefix_cache_corrections_total"] == 1

    play(body)


def test_tenants_do_not_meet() -> None:
    async def body(_: PrefixCache, played: Played, __: Telling) -> None:
        first = played.submit(1)
        played.start(first)
        played.end(first, len(PROMPT))
        assert played.submit(2, tenant="other").reuse is None
        assert played.submit(3).reuse is not None

    play(body)


def test_a_paused_answer_goes_on_from_its_state() -> None:
    async def body(cache: PrefixCache, played: Played, _: Telling) -> None:
        first = played.submit(1)
        played.start(first)
        played.say(first, 1, 2, 3)
        assert cache.hold(1)
        played.end(first, len(PROMPT) + 2)
        again = played.submit(1, generated=(1, 2, 3))
        assert again.reuse is not None
        assert again.reuse.tokens == len(PROMPT) + 2
        assert not cache.hold(7)

    play(body)


def test_waiting_ends_when_the_state_comes() -> None:
    async def body(cache: PrefixCache, played: Played, _: Telling) -> None:
        first = played.submit(1)
        wish = wish_for(PROMPT, NO_PLACES, Caller(Principal("t")))
        waiting = asyncio.create_task(cache.wait(2, wish))
        await asyncio.sleep(0)
        assert not waiting.done()
        played.start(first)
        await waiting
        assert cache.expected(wish) == len(PROMPT) - 1

    play(body)


@pytest.mark.parametrize("how", ["released", "lost", "detached"])
def test_waiting_ends_when_the_state_does_not_come(how: str) -> None:
    async def body(cache: PrefixCache, played: Played, _: Telling) -> None:
        first = played.submit(1)
        waiting = asyncio.create_task(
            cache.wait(2, wish_for(PROMPT, NO_PLACES, Caller(Principal("t"))))
        )
        await asyncio.sleep(0)
        if how == "released":
            played.end(first)
        elif how == "lost":
            cache.take(CacheChanged(lost=tuple(keep.handle for keep in first.keep)))
        else:
            cache.detach()
        await waiting

    play(body)


def test_who_gives_up_waiting_is_forgotten() -> None:
    async def body(cache: PrefixCache, played: Played, _: Telling) -> None:
        first = played.submit(1)
        waiting = asyncio.create_task(
            cache.wait(2, wish_for(PROMPT, NO_PLACES, Caller(Principal("t"))))
        )
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        cache.leave(2)
        played.end(first)
        cache.tick()

    play(body)


def test_nothing_is_left_of_a_dead_worker() -> None:
    async def body(cache: PrefixCache, played: Played, _: Telling) -> None:
        first = played.submit(1)
        played.start(first)
        played.end(first, len(PROMPT))
        cache.detach()
        assert cache.levels.memory_bytes == 0
        assert played.submit(2).keep == ()
        await cache.attach(READY, played.commands.append)
        fresh = played.submit(3)
        assert fresh.reuse is None
        assert fresh.keep
        assert min(keep.handle for keep in fresh.keep) > first.keep_end

    play(body)


@pytest.mark.parametrize(
    ("caches", "limits"), [("none", LIMITS), ("trimmable", CacheLimits(memory_bytes=0))]
)
def test_where_nothing_can_be_held_requests_stay_as_they_are(
    caches: CacheAbility, limits: CacheLimits
) -> None:
    async def body(cache: PrefixCache, played: Played, _: Telling) -> None:
        request = played.submit(1)
        assert (request.reuse, request.keep, request.keep_end) == (None, (), 0)
        played.start(request)
        played.end(request)
        cache.tick()
        await cache.flush(1.0)

    told = play(body, Ready(4096, 4, caches=caches), limits)
    assert told.counts == {}
    assert NoCache().levels == PrefixCache("m", LIMITS, None, HandClock(), told).levels


def test_a_prompt_that_leaves_its_session_is_told_of() -> None:
    async def body(_: PrefixCache, played: Played, told: Telling) -> None:
        first = played.submit(1)
        played.start(first)
        played.end(first, len(PROMPT))
        played.submit(2, (*PROMPT[:500], *range(90)))
        ((level, event, fields),) = told.events
        assert (level, event) == ("debug", "prompt left its session")
        assert (fields["session"], fields["shared"], fields["of"]) == ("s", 500, len(PROMPT))

    play(body)


# --- files


def home_in(folder: Path) -> StateHome:
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    (weights / "model.safetensors").write_bytes(b"w" * 100)
    return StateHome(folder / "prefix", weights)


def test_states_are_written_before_a_worker_ends_and_found_again(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    limits = CacheLimits(memory_bytes=1_000_000, disk_bytes=1_000_000)

    async def write(cache: PrefixCache, played: Played, _: Telling) -> None:
        first = played.submit(1)
        played.start(first)
        played.end(first, len(PROMPT))
        flushing = asyncio.create_task(cache.flush(5.0))
        await until(lambda: any(command.spill for command in played.commands))
        (move,) = next(command.spill for command in played.commands if command.spill)
        manifest = read_manifest(move.note, Path(move.path).name)
        assert manifest is not None
        head = StateHead(manifest.tokens, hash_ids(manifest.ids), "p", "", None, (), move.note)
        write_state(Path(move.path), head, manifest.ids, ())
        cache.take(CacheChanged(spilled=(Kept(move.handle, manifest.tokens, 10),)))
        await flushing

    async def find(cache: PrefixCache, played: Played, _: Telling) -> None:
        assert cache.levels.disk_bytes > 0
        request = played.submit(1)
        ((load,),) = [command.load for command in played.commands if command.load]
        assert request.reuse is not None
        assert request.reuse.handle == load.handle
        assert load.path in map(str, home.root.rglob("*.kv"))

    play(write, READY, limits, home=home)
    play(find, READY, limits, home=home)


def test_a_worker_that_does_not_write_is_not_waited_for(tmp_path: Path) -> None:
    async def body(cache: PrefixCache, played: Played, told: Telling) -> None:
        first = played.submit(1)
        played.start(first)
        played.end(first, len(PROMPT))
        await cache.flush(0.05)
        assert [event for _, event, _ in told.events] == ["prefix cache not all written"]

    limits = CacheLimits(memory_bytes=1_000_000, disk_bytes=1_000_000)
    play(body, READY, limits, home=home_in(tmp_path))


def test_no_folder_means_no_files(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    home.root.write_bytes(b"in the way")

    async def body(cache: PrefixCache, played: Played, told: Telling) -> None:
        assert [level for level, _, _ in told.events] == ["warning"]
        first = played.submit(1)
        played.start(first)
        played.end(first, len(PROMPT))
        await cache.flush(1.0)
        assert not any(command.spill for command in played.commands)

    play(body, READY, CacheLimits(memory_bytes=1_000_000, disk_bytes=1_000_000), home=home)


def test_other_weights_settings_and_engines_have_other_folders(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    first = StateFolder.open(home, READY)
    assert StateFolder.open(home, READY).path == first.path
    assert first.path.stat().st_mode & 0o777 == 0o700
    other = StateHome(home.root, home.weights, settings="{}")
    newer = Ready(4096, 4, engine="other", caches="trimmable")
    (home.weights / "model.safetensors").write_bytes(b"w" * 99 + b"v")
    paths = {
        StateFolder.open(*pair).path for pair in ((home, READY), (other, READY), (home, newer))
    }
    assert len({first.path, *paths}) == 4


def test_what_other_models_left_goes_when_it_is_too_much(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    home.root.mkdir()
    for name in ("old", "new"):
        (home.root / name).mkdir()
        (home.root / name / "a.kv").write_bytes(b"x" * 100)
    os.utime(home.root / "old", (1, 1))
    folder = StateFolder.open(home, READY)
    folder.make_room(150)
    assert sorted(path.name for path in home.root.iterdir()) == sorted(["new", folder.key])


def test_costs_are_those_of_the_states_seen() -> None:
    costs = Costs()
    assert (costs.per_token, costs.fixed, costs.prefill_rate) == (0, 0, None)
    costs.state(100, 1500)
    assert (costs.per_token, costs.fixed) == (15, 0)
    costs.state(200, 2500)
    assert (costs.per_token, costs.fixed) == (10, 500)
    costs.prefill(10, 1.0)
    assert costs.prefill_rate is None
    costs.prefill(100, 1.0)
    costs.prefill(200, 1.0)
    assert costs.prefill_rate == pytest.approx(130.0)
