"""Slots are never given twice, remember prompts, and shared room is never overdrawn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.gguf.aside import COPY_TOKENS
from opta_lmx.backends.gguf.slot import Held, common, held_after, submitted, tenant_of
from opta_lmx.backends.gguf.slots import Before, Prepared, SlotTable
from tests.support.gguf_slots import begin, run, start, submit

LONG = 4 * COPY_TOKENS


def test_requests_start_in_order_on_different_slots() -> None:
    table = SlotTable(2, 100)
    for number in (1, 2, 3):
        table.add(submit(number))
    first, second = start(table), start(table)
    assert (first[0], second[0]) == (1, 2)
    assert first[1] != second[1]
    assert table.start() is None
    assert len(table) == 3


def test_slot_that_remembers_most_of_the_prompt_is_chosen() -> None:
    table = SlotTable(3, 100)
    long = begin(table, submit(1, (1, 2, 3)))
    begin(table, submit(2, (9, 8)))
    table.release(1, (1, 2, 3, 4, 5))
    table.release(2)
    again = begin(table, submit(3, (1, 2, 3, 4, 7)))
    assert (again.slot, again.cached) == (long.slot, 4)


def test_unknown_prompt_takes_an_empty_slot_then_the_one_unused_longest() -> None:
    table = SlotTable(3, None)
    first, second = (run(table, submit(n, range(n * 1000, n * 1000 + 50))).slot for n in (1, 2))
    third = run(table, submit(3, range(3000, 3050))).slot
    assert len({first, second, third}) == 3
    assert run(table, submit(4, range(4000, 4050))).slot == first
    assert run(table, submit(5, range(5000, 5050))).slot == second


def test_a_long_conversation_outlives_short_ones_but_not_for_ever() -> None:
    table = SlotTable(2, None)
    long = run(table, submit(1, range(10_000, 10_400)))
    taken = [run(table, submit(n, range(n * 100, n * 100 + 50))).slot for n in range(2, 20)]
    assert taken[:4] == [1 - long.slot] * 4
    assert long.slot in taken


def test_a_conversation_stays_where_it_is_held() -> None:
    table = SlotTable(4, None)
    history = tuple(range(1000))
    slots = set()
    for turn in range(10):
        new, volatile = range(10_000 * turn + 5000, 10_000 * turn + 5040), range(90_000, 90_100)
        prompt = (*history, *new, *volatile)
        started = run(table, submit(turn + 1, prompt), answer=[7] * 20)
        slots.add(started.slot)
        assert started.before.copy is None
        assert turn == 0 or started.cached == len(history)
        history = (*history, *new)
    assert len(slots) == 1


def test_another_one_with_the_same_beginning_gets_a_copy_and_ruins_nothing() -> None:
    table = SlotTable(3, None)
    tools = tuple(range(LONG))
    first = run(table, submit(1, (*tools, *range(5000, 5000 + LONG))))
    second = run(table, submit(2, (*tools, *range(9000, 9000 + LONG))))
    assert (second.before.copy, second.cached) == (first.slot, LONG)
    assert second.slot != first.slot
    for again in (1, 2, 1, 2):
        prompt = (*tools, *range(1000 + 4000 * again, 1000 + 4000 * again + LONG), 1)
        started = run(table, submit(10 + again, prompt))
        assert started.before.copy is None
        assert started.cached >= 2 * LONG
        assert started.slot == (first.slot if again == 1 else second.slot)


def test_nothing_is_copied_where_copies_would_take_room_from_others() -> None:
    table = SlotTable(3, 10 * LONG)
    tools = tuple(range(LONG))
    run(table, submit(1, (*tools, *range(5000, 5000 + LONG))))
    assert run(table, submit(2, (*tools, *range(9000, 9000 + LONG)))).before.copy is None


def test_tenants_share_nothing() -> None:
    table = SlotTable(2, None)
    prompt = tuple(range(LONG))
    first = run(table, submit(1, prompt, salt="a"))
    other = run(table, submit(2, prompt, salt="b"))
    assert (other.cached, other.before.copy) == (0, None)
    assert other.slot != first.slot
    third = run(table, submit(3, prompt, salt="c"))
    assert (third.cached, third.fresh) == (0, True)
    assert run(table, submit(4, prompt, salt="b")).cached == LONG
    assert tenant_of("a") != tenant_of("b")


def test_request_waits_until_its_part_of_the_cache_is_free() -> None:
    table = SlotTable(4, 100)
    table.add(submit(1, (1,) * 50, 10))
    table.add(submit(2, (2,) * 50, 10))
    table.add(submit(3, (3,), 1))
    assert start(table)[0] == 1
    assert table.start() is None, "2 does not fit, and 3 does not overtake it"
    table.release(1)
    assert start(table)[0] == 2
    assert start(table)[0] == 3


def test_request_larger_than_the_cache_starts_alone() -> None:
    table = SlotTable(2, 10)
    table.add(submit(1, (1,) * 50))
    assert start(table)[0] == 1


def test_least_valuable_slots_make_room_in_a_shared_cache() -> None:
    table = SlotTable(4, 100)
    slots = [run(table, submit(n, range(n * 100, n * 100 + size))).slot for n, size in
             ((1, 20), (2, 40), (3, 20))]  # fmt: skip
    started = begin(table, submit(4, range(900, 930), 10))
    assert started.before.erase == (slots[0],), "the oldest of the small ones"
    table.release(4)
    assert begin(table, submit(5, range(200, 240))).cached == 40


def test_withdrawn_request_never_starts() -> None:
    table = SlotTable(1, 100)
    table.add(submit(1))
    table.add(submit(2))
    assert start(table)[0] == 1
    assert table.withdraw(2)
    assert not table.withdraw(2)
    assert not table.withdraw(1), "it runs already"
    assert len(table) == 1


def test_what_was_generated_before_counts_as_prompt_and_of_the_limit() -> None:
    table = SlotTable(2, 20)
    run(table, submit(1, (1, 2, 3, 4, 5)))
    resumed = submit(2, (1, 2, 3), max_tokens=4, generated=(4, 5, 6))
    started = begin(table, resumed)
    assert started.cached == 5
    table.add(submit(3, (9,) * 12, 1))
    assert table.start() is not None, "6 + 1 and 13 cells are all there are"


def pause(table: SlotTable, request: Submit, answer: tuple[int, ...]) -> None:
    begin(table, request)
    table.release(request.id, (*submitted(request), *answer), paused=True)


def test_nobody_knows_what_a_slot_holds_whose_request_never_began() -> None:
    table = SlotTable(1, None)
    ids = tuple(range(LONG))
    run(table, submit(1, ids, salt="a"))
    begin(table, submit(2, ids, salt="b"))
    table.release(2)
    for salt in "ba":
        started = begin(table, submit(3, ids, salt=salt))
        assert (started.fresh, started.cached) == (True, 0)
        table.release(3)
    begin(table, submit(4, ids, salt="b"))
    table.progressed(4, LONG)
    table.release(4)
    assert not begin(table, submit(5, ids, salt="b")).fresh


def test_a_slot_that_could_not_be_filled_holds_nothing() -> None:
    table = SlotTable(2, None)
    tools = tuple(range(LONG))
    run(table, submit(9, range(50_000, 50_010)))
    run(table, submit(1, (*tools, *range(5000, 5000 + LONG))))
    table.add(submit(2, (*tools, *range(9000, 9000 + LONG))))
    started = table.start()
    assert started is not None
    assert started.before.copy is not None
    table.prepared(started, Prepared())
    table.release(2)
    held = table.held(started.slot)
    assert held is not None
    assert held.tokens == ()


def test_a_paused_request_goes_on_in_its_slot_if_nobody_took_it() -> None:
    table = SlotTable(2, None, 10 * LONG)
    ids = tuple(range(LONG))
    pause(table, submit(1, ids, 9), (1, 2))
    started = begin(table, submit(2, ids, 9, generated=(1, 2, 3)))
    assert started.cached == LONG + 2
    assert started.before == Before()


@pytest.mark.parametrize("others", [1, 5])
def test_what_a_paused_request_leaves_is_put_aside_for_others_and_brought_back(others: int) -> None:
    table = SlotTable(1, None, 10 * LONG)
    ids = tuple(range(LONG))
    pause(table, submit(1, ids, 9), (1, 2))
    parked = [
        run(table, submit(n, range(n * 9000, n * 9000 + LONG))).before.park
        for n in range(2, 2 + others)
    ]
    assert parked == [1] + [None] * (others - 1)
    back = begin(table, submit(9, ids, 9, generated=(1, 2, 3)))
    assert (back.before.load, back.before.forget, back.cached) == (1, (1,), LONG + 2)


def test_what_is_put_aside_is_bounded_and_the_tenants_own() -> None:
    table = SlotTable(1, None, 2 * LONG)
    parked = []
    for number in range(1, 6):
        pause(table, submit(number, range(number * 9000, number * 9000 + LONG), salt="a"), ())
        started = run(table, submit(100 + number, (number,)))
        parked.append((started.before.park, started.before.forget))
    assert parked == [(1, ()), (2, ()), (3, (1,)), (4, (2,)), (5, (3,))]
    again = range(5 * 9000, 5 * 9000 + LONG)
    assert run(table, submit(200, again, salt="b")).before.load is None
    assert run(table, submit(201, again, salt="a")).before.load == 5


def test_short_ones_are_processed_again() -> None:
    table = SlotTable(1, None, 2 * LONG)
    pause(table, submit(1, range(20), 9), ())
    assert run(table, submit(2, (7,))).before == Before()


def test_restored_slots_are_used() -> None:
    table = SlotTable(2, None)
    table.restore(1, Held((1, 2, 3), tenant_of("t")))
    assert table.held(1) == Held((1, 2, 3), tenant_of("t"))
    started = begin(table, submit(1, (1, 2, 3, 4), salt="t"))
    assert (started.slot, started.cached, started.fresh) == (1, 3, False)
    assert table.held(1) is None


@pytest.mark.parametrize(
    ("done", "keep", "expected"),
    [
        (2, None, (1, 2)),
        (4, None, (1, 2, 3, 4, 5, 6)),
        (4, 2, (1, 2, 3, 4, 5)),
        (4, 0, (1, 2, 3)),
        (2, 9, (1, 2)),
    ],
)
def test_what_an_ended_request_leaves(
    done: int, keep: int | None, expected: tuple[int, ...]
) -> None:
    request = submit(1, (1, 2, 3), 9, generated=(4,))
    assert held_after(request, done, (5, 6, 7) if done == 4 else (), keep) == expected


@given(
    actions=st.lists(st.tuples(st.booleans(), st.integers(1, 8), st.integers(1, 8)), max_size=40),
    slots=st.integers(1, 4),
)
def test_room_and_slots_are_never_overdrawn(
    actions: list[tuple[bool, int, int]], slots: int
) -> None:
    table, running, number = SlotTable(slots, 12), dict[int, tuple[int, int]](), 0
    for add, length, tokens in actions:
        if add:
            number += 1
            table.add(submit(number, (number,) * length, tokens, first=length % 2 == 0))
        elif running:
            request = next(iter(running))
            del running[request]
            table.release(request)
        while (started := table.start()) is not None:
            request = started.request
            running[request.id] = (started.slot, len(request.ids) + request.max_tokens)
            assert started.slot not in started.before.erase
        taken = [slot for slot, _ in running.values()]
        assert len(set(taken)) == len(taken) <= slots
        assert len(running) == 1 or sum(cells for _, cells in running.values()) <= 12
    assert not len(table) or running, "somebody always runs while anybody waits"


@given(
    prompts=st.lists(
        st.tuples(
            st.lists(st.integers(0, 1), max_size=4),
            st.integers(1, 3 * COPY_TOKENS),
            st.sampled_from("ab"),
        ),
        min_size=1,
        max_size=20,
    ),
    slots=st.integers(1, 3),
)
def test_what_is_said_to_be_cached_is_held_there_and_the_tenants_own(
    prompts: list[tuple[list[int], int, str]], slots: int
) -> None:
    table = SlotTable(slots, None)
    real: dict[int, tuple[str, tuple[int, ...]]] = {}
    for number, (blocks, size, salt) in enumerate(prompts, 1):
        ids = (5, *(block for block in blocks for _ in range(size)))
        started = run(table, submit(number, ids, salt=salt))
        source = started.slot if started.before.copy is None else started.before.copy
        owner, held = real.get(source, ("", ()))
        assert started.cached <= common(held, ids)
        assert not started.cached or owner == salt
        old = real.get(started.slot)
        assert started.fresh == (old is None or old[0] != salt)
        real[started.slot] = (salt, ids)


IDS = st.lists(st.integers(0, 2), max_size=12).map(tuple)


@given(IDS, IDS)
def test_common_prefix(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    shared = common(left, right)
    assert left[:shared] == right[:shared]
    assert left[shared : shared + 1] != right[shared : shared + 1] or shared == min(
        len(left), len(right)
    )


def test_what_a_slot_still_holds_counts_until_it_is_overwritten() -> None:
    table = SlotTable(1, 100)
    run(table, submit(1, (1,) * 80))
    table = SlotTable(2, 100)
    table.restore(0, Held((1,) * 80, tenant_of("")))
    table.restore(1, Held((7,) * 10, tenant_of("")))
    assert begin(table, submit(2, ((1,) * 75 + (5,)), 10)).slot == 0
    table.add(submit(3, (7,) * 20, 5))
    assert table.start() is None


def occupy(table: SlotTable, number: int, left: int) -> None:
    """Have a request run on this slot, with so many tokens of its prompt to be processed."""
    held = tuple(range(number * 10_000, number * 10_000 + COPY_TOKENS))
    table.restore(number, Held(held, tenant_of("")))
    assert begin(table, submit(100 + number, (*held, 7))).slot == number
    table.progressed(100 + number, left)


def test_the_lowest_slot_is_left_to_who_has_nothing_running() -> None:
    """A prompt there is processed before all others, however many of another key came first."""
    table = SlotTable(4, None)
    hog = [begin(table, submit(n, range(n * 1000, n * 1000 + 50), first=n == 1)) for n in (1, 2, 3)]
    assert [each.slot for each in hog] == [0, 2, 3]
    table.release(1)
    assert begin(table, submit(4, range(4000, 4050))).slot == 1
    assert begin(table, submit(5, range(5000, 5050), first=True)).slot == 0


def test_the_last_free_slot_is_taken_whoever_asks() -> None:
    table = SlotTable(2, None)
    occupy(table, 1, 0)
    assert begin(table, submit(1, range(50))).slot == 0


@pytest.mark.parametrize("left", [LONG, 215, 214, 0])
@pytest.mark.parametrize("cells", [None, 40 * LONG])
def test_who_would_wait_long_behind_others_moves_ahead_of_them(
    left: int, cells: int | None
) -> None:
    """Its conversation is copied; but no copies are made of cells that all slots share."""
    table = SlotTable(3, cells)
    conversation = tuple(range(LONG))
    table.restore(2, Held(conversation, tenant_of("")))
    occupy(table, 1, left)
    turn = submit(5, (*conversation, *range(9000, 9300)), first=True)
    started = begin(table, turn)
    # Half of its own 300 tokens, and what copying the others costs.
    moves = cells is None and left > 150 + LONG // 8
    assert (started.slot, started.before.copy) == ((0, 2) if moves else (2, None))
    assert started.cached == LONG


def test_without_a_conversation_it_just_starts_lower() -> None:
    table = SlotTable(3, None)
    table.restore(0, Held((8,) * 100, tenant_of("")))
    occupy(table, 1, 500)
    started = begin(table, submit(5, range(300), first=True))
    assert (started.slot, started.cached, started.before.copy) == (0, 0, None)


def test_prompts_of_higher_slots_do_not_matter() -> None:
    table = SlotTable(3, None)
    conversation = tuple(range(LONG))
    table.restore(1, Held(conversation, tenant_of("")))
    occupy(table, 2, 10 * LONG)
    assert begin(table, submit(5, (*conversation, *range(9000, 9300)), first=True)).slot == 1


def test_a_long_conversation_is_not_overwritten_for_a_short_prompt() -> None:
    table = SlotTable(4, None)
    table.restore(0, Held(tuple(range(20_000)), tenant_of("")))
    occupy(table, 1, 500)
    started = begin(table, submit(5, range(50_000, 50_100), first=True))
    assert (started.slot, started.before.copy) == (2, None)


def test_a_copy_does_not_take_the_lowest_slot_either() -> None:
    """Of two requests with the same beginning, the second leaves it to who has nothing."""
    table = SlotTable(4, None)
    shared = tuple(range(LONG))
    table.restore(3, Held((*shared, 1), tenant_of("")))
    occupy(table, 2, 0)
    started = begin(table, submit(5, (*shared, *range(9000, 9300))))
    assert started.slot != 0
