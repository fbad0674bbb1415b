"""One thing at a time: what the index plans, and what it does when it is told something."""

from collections.abc import Sequence

import msgspec
import pytest

from opta_lmx.engine.prefix import (
    CachePlan,
    CacheRules,
    Divergence,
    Manifest,
    ModelKey,
    PrefixIndex,
    read_manifest,
)
from opta_lmx.engine.prefix.tree import pack
from tests.support.states import HandClock, StateKeeper, run

PROMPT = list(range(1000, 2000))


def make(clock: HandClock | None = None, **changes: float) -> tuple[PrefixIndex, StateKeeper]:
    rules = CacheRules(budget_bytes=100_000, bytes_per_token=10, prefill_rate=100.0)
    rules = msgspec.structs.replace(rules, **changes)
    index = PrefixIndex(rules, clock or HandClock(), "model")
    return index, StateKeeper(index, rules)


def asked(keeper: StateKeeper, ticket: int, ids: Sequence[int], cuts: Sequence[int] = ()) -> int:
    """Run a request through; the tokens it had cached."""
    plan = keeper.index.plan(ids, cuts, "t", "s")
    run(keeper, ticket, plan, [1, 2, 3])
    return plan.cached


def test_the_same_prompt_again_leaves_one_token() -> None:
    _, keeper = make()
    assert asked(keeper, 1, PROMPT) == 0
    assert asked(keeper, 2, PROMPT) == len(PROMPT) - 1


def test_an_answer_in_the_next_prompt_is_cached_too() -> None:
    _, keeper = make()
    asked(keeper, 1, PROMPT)
    assert asked(keeper, 2, [*PROMPT, 1, 2, 3, *range(50)]) == len(PROMPT) + 3


def test_what_cannot_be_trimmed_is_used_at_its_own_length_only() -> None:
    _, keeper = make(trimmable=False)
    asked(keeper, 1, PROMPT, [700])
    assert asked(keeper, 2, [*PROMPT[:700], *range(300)], [700]) == 700
    assert asked(keeper, 3, [*PROMPT[:699], *range(300)]) < 699


def test_a_place_the_caller_named_is_kept_to_the_token() -> None:
    _, keeper = make(trimmable=False)
    run(keeper, 1, keeper.index.plan(PROMPT, [700], "t", "one", anchors=(533,)))
    assert asked(keeper, 2, [*PROMPT[:533], *range(300)], [700]) == 533


def test_a_conversation_that_begins_cached_stops_seldom_inside_its_messages() -> None:
    index, keeper = make(trimmable=False, budget_bytes=1_000_000)
    long = list(range(6000))
    run(keeper, 1, index.plan(long, [5500], "t", "one", anchors=(3000,)))

    rest = index.plan([*long[:3000], *range(7000, 10_000)], [5500], "t", "two")
    assert rest.cached == 3000
    # The turn's start, one guess, and those that the 3,000 tokens left allow.
    assert len(rest.keep) == 2 + 3000 // index.rules.stop_every


def test_a_named_place_outlives_guesses_where_there_is_little_room() -> None:
    index, keeper = make(trimmable=False, budget_bytes=30_000)
    run(keeper, 1, index.plan(PROMPT, [700], "t", "one", anchors=(533, 5000)))
    for number in range(6):
        run(
            keeper,
            10 + number,
            index.plan(list(range(5000 * number, 5000 * number + 900)), [400], "t", f"{number}"),
        )
    assert 533 in {entry.tokens for entry in index.entries}
    assert index.plan([*PROMPT[:533], *range(300)], [], "t", "two").cached == 533


def test_named_places_are_no_way_to_push_out_what_others_have() -> None:
    index, keeper = make(trimmable=False, budget_bytes=30_000)
    theirs = list(range(3000, 4200))
    for ticket in range(3):
        run(keeper, ticket + 1, index.plan(theirs, [400], "other", "o"))
    plan = index.plan(PROMPT[:600], [], "t", "s", anchors=(300, 301, 590, 595))
    kept = {keep.tokens for keep in plan.keep}
    assert 595 in kept
    assert not kept & {300, 590}
    run(keeper, 9, plan)
    assert index.plan([*theirs, 1], [400], "other", "o").cached >= 1100


def test_divergence_says_where_and_in_which_turn() -> None:
    index, keeper = make()
    asked(keeper, 1, PROMPT, [600, 900])
    plan = index.plan([*PROMPT[:650], *range(400)], [600], "t", "s")
    assert plan.divergence == Divergence(650, 1000, turn=1, turns=2)
    assert index.plan([*PROMPT, 5], [600], "t", "s").divergence is None
    assert index.plan(PROMPT, [600], "t", "other").divergence is None


def test_a_leaders_end_wakes_those_who_wait_for_it() -> None:
    index, _ = make()
    assert index.begin(1, index.plan(PROMPT, [], "t"))
    plan = index.plan([*PROMPT, 7], [], "t")
    assert plan.leader == 1
    assert index.follow(2, plan)
    assert index.woken() == ()
    index.ended(1)
    assert index.woken() == (2,)
    assert index.plan([*PROMPT, 7], [], "t").leader is None


def test_a_kept_checkpoint_wakes_those_who_wait_for_it() -> None:
    index, _ = make()
    leading = index.plan(PROMPT, [], "t")
    assert index.begin(1, leading)
    assert index.follow(2, index.plan(PROMPT, [], "t"))
    (keep,) = leading.keep
    index.kept(keep.handle, keep.tokens, 9990)
    assert index.woken() == (2,)
    assert index.plan(PROMPT, [], "t").cached == 999


def test_nobody_waits_beyond_the_limit() -> None:
    clock = HandClock()
    index, _ = make(clock, follow_limit_s=10.0)
    assert index.begin(1, index.plan(PROMPT, [], "t"))
    plan = index.plan(PROMPT, [], "t")
    assert index.follow(2, plan)
    clock.now += 10
    assert index.next_deadline() == clock.now
    assert index.woken() == (2,)
    assert not index.follow(2, index.plan(PROMPT, [], "t"))
    assert index.begin(2, index.plan(PROMPT, [], "t"))


def test_other_tenants_wait_for_nobody() -> None:
    index, _ = make()
    assert index.begin(1, index.plan(PROMPT, [], "t"))
    assert not index.plan(PROMPT, [], "u").waits


def test_a_start_that_contradicts_the_plan_corrects_the_index() -> None:
    index, keeper = make()
    asked(keeper, 1, PROMPT)
    plan = index.plan(PROMPT, [], "t")
    assert plan.reuse is not None
    assert index.begin(2, plan)
    index.started(2, 0)
    assert index.counts.corrections == 1
    assert plan.reuse.handle in index.take_orders().drop


def test_a_stale_plan_does_not_begin() -> None:
    index, keeper = make()
    asked(keeper, 1, PROMPT)
    plan = index.plan(PROMPT, [], "t")
    assert plan.reuse is not None
    index.lost([plan.reuse.handle])
    assert not index.begin(2, plan)


def test_a_preempted_request_goes_on_where_it_was() -> None:
    index, keeper = make(trimmable=False)
    plan = index.plan(PROMPT, [], "t", "s")
    assert index.begin(1, plan)
    handle = index.hold(1)
    keeper.states[handle] = (pack([*PROMPT, 1, 2]), "t")
    index.kept(handle, 1002, 10_020, [1, 2, 3])
    index.ended(1)
    again = index.plan([*PROMPT, 1, 2, 3], [], "t", "s", learn=False)
    assert again.cached == 1002
    assert again.divergence is None


def test_a_state_beyond_what_is_known_is_dropped() -> None:
    index, _ = make()
    plan = index.plan(PROMPT, [], "t")
    assert index.begin(1, plan)
    index.kept(plan.keep_end, 1003, 10_030, [1])
    assert plan.keep_end in index.take_orders().drop
    assert index.memory_bytes == 0


def stored_on_disk(clock: HandClock) -> tuple[PrefixIndex, StateKeeper]:
    index, keeper = make(clock, disk_bytes=100_000, spill_after_s=5.0)
    asked(keeper, 1, PROMPT)
    clock.now += 5
    index.settle()
    keeper.obey(index.take_orders())
    return index, keeper


def test_a_dead_worker_leaves_the_files() -> None:
    clock = HandClock()
    index, keeper = stored_on_disk(clock)
    keeper.move()
    index.clear()
    assert index.memory_bytes == 0
    plan = index.plan(PROMPT, [], "t")
    assert plan.load
    assert plan.reuse is None
    assert index.follow(2, plan)
    ((handle, name),) = index.take_orders().load
    assert name in keeper.files
    assert index.plan(PROMPT, [], "t").awaits == handle
    index.kept(handle, 1000, 10_000)  # read back
    assert index.woken() == (2,)
    assert index.plan(PROMPT, [], "t").cached == 999


def test_an_unreadable_file_is_deleted_and_nobody_waits_for_it() -> None:
    clock = HandClock()
    index, keeper = stored_on_disk(clock)
    keeper.move()
    index.clear()
    assert index.follow(2, index.plan(PROMPT, [], "t"))
    ((handle, name),) = index.take_orders().load
    index.lost([handle])
    assert index.woken() == (2,)
    assert index.take_orders().delete == (name,)
    assert index.counts.unreadable == 1
    assert not index.plan(PROMPT, [], "t").waits


def test_a_file_whose_state_was_lost_meanwhile_is_deleted_when_written() -> None:
    index, keeper = stored_on_disk(HandClock())
    ((_, handle, manifest),) = keeper.moving
    assert isinstance(manifest, Manifest)
    index.lost([handle])
    assert not index.take_orders()
    index.spilled(handle)
    assert index.take_orders().delete == (manifest.name,)
    assert index.disk_bytes == 0


def test_files_of_other_models_and_beyond_the_budget_are_deleted() -> None:
    index, _ = make(disk_bytes=1_500)
    wanted = Manifest("model", "t", pack(PROMPT), 1_000, saved_ms=2)
    older = Manifest("model", "t", pack(PROMPT[:500]), 1_000, saved_ms=1)
    foreign = Manifest("other", "t", pack(PROMPT[:300]), 100, saved_ms=3)
    index.adopt([older, foreign, wanted])
    assert [entry.name for entry in index.entries] == [wanted.name]
    assert set(index.take_orders().delete) == {older.name, foreign.name}


@pytest.mark.parametrize("spoil", ["name", "ids", "salt", "cut", "layout"])
def test_a_manifest_is_believed_only_whole(spoil: str) -> None:
    sound = Manifest(ModelKey("weights").digest(), "t", pack([1, 2, 3]), 30, 5)
    assert read_manifest(sound.encode(), sound.name) == sound
    header, name = sound.encode(), sound.name
    if spoil == "name":
        name = "0" * 40 + ".kv"
    elif spoil == "cut":
        header = header[:-1]
    else:
        changes = {"ids": pack([1, 2, 4]), "salt": "u", "layout": 0}
        header = msgspec.structs.replace(sound, **{spoil: changes[spoil]}).encode()
    assert read_manifest(header, name) is None


def test_every_part_of_the_model_key_counts() -> None:
    keys = [
        ModelKey("a"),
        ModelKey("a", kv_type="x"),
        ModelKey("a", positions="x"),
        ModelKey("a", template="x"),
        ModelKey("a", engine="x"),
        ModelKey("b"),
    ]
    assert len({key.digest() for key in keys}) == len(keys)


def begun(index: PrefixIndex, keeper: StateKeeper, ticket: int, first: int) -> CachePlan:
    """Submit a request that shares nothing with others."""
    plan = index.plan(range(first, first + 1000), [], "t", f"s{ticket}")
    assert index.begin(ticket, plan)
    keeper.obey(index.take_orders())
    keeper.begin(ticket, plan)
    return plan


def test_what_is_held_stays_until_something_comes_in_its_place() -> None:
    index, keeper = make(budget_bytes=25_000, request_share=1.0)
    asked(keeper, 1, PROMPT)
    plans = [begun(index, keeper, ticket, 3000 * ticket) for ticket in (2, 3)]
    assert [len(plan.keep) for plan in plans] == [1, 0], "more is promised than there is room for"
    assert index.cached(PROMPT, "t") == len(PROMPT) - 1, "requests that wait took its place"

    keeper.start(3, plans[1])
    assert index.cached(PROMPT, "t") == len(PROMPT) - 1, "an answer's end took it ahead of time"
    keeper.start(2, plans[0])
    assert index.memory_bytes + 10 * plans[0].keep[0].tokens <= 25_000, "there is no room for it"
    for plan in plans:
        for keep in plan.keep:
            keeper.keep(plan, keep.handle)
        keeper.keep(plan, plan.keep_end, [1, 2, 3])
        keeper.obey(index.take_orders())
    assert 20_000 <= index.memory_bytes <= 25_000
    for ticket in (2, 3):
        index.ended(ticket)
    assert index.idle()
    assert index._shelf.promised == index._shelf.reserved == 0
