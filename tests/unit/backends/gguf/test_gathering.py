"""A long beginning that several share is processed once, and adapters share nothing."""

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.gguf.gathering import GATHER_TOKENS, GatheringLimits
from opta_lmx.backends.gguf.slot import Held, common, tenant_of
from opta_lmx.backends.gguf.slots import Gathering, Prepared, SlotTable, Start
from tests.support.gguf_slots import begin, run, start, submit

BEGINNING = tuple(range(2 * GATHER_TOKENS))


def sharing(number: int, salt: str = "", adapter: str = "") -> Submit:
    own = range(number * 10_000, number * 10_000 + 50)
    return submit(number, (*BEGINNING, *own), salt=salt, adapter=adapter)


def test_who_shares_a_prompt_in_process_waits_until_it_was_put_aside() -> None:
    table = SlotTable(4, None, 100_000)
    first = begin(table, sharing(1))
    assert table.launched() == []
    for number in (2, 3):
        table.add(sharing(number))
    assert table.start() is None
    assert table.launched() == [1]
    assert table.launched() == [], "told once"
    assert table.gather(1, BEGINNING[:100]) == Gathering(first.slot, upto=len(BEGINNING))
    assert table.start() is None
    assert table.gather(1, BEGINNING) == Gathering(first.slot, aside=1)
    for number in (2, 3):
        started = table.start()
        assert started is not None
        assert (started.request.id, started.before.load, started.cached) == (
            number,
            1,
            len(BEGINNING),
        )
    late = begin(table, sharing(4))
    assert (late.before.load, late.before.forget) == (1, ()), "it stays for who comes later"
    assert table.launched() == []


def test_others_pass_by_those_who_wait() -> None:
    table = SlotTable(3, None, 100_000)
    begin(table, sharing(1))
    table.add(sharing(2))
    assert begin(table, submit(3, range(900_000, 900_100))).request.id == 3


def test_nobody_waits_for_what_is_not_worth_it_or_not_theirs() -> None:
    short = submit(2, (*BEGINNING[: GATHER_TOKENS - 1], 7))
    for other in (short, sharing(2, salt="b"), submit(2, range(7000, 7600))):
        table = SlotTable(3, None, 100_000)
        begin(table, sharing(1))
        assert begin(table, other).before.load is None
        assert table.launched() == []


def test_nobody_waits_for_an_answer_nor_where_nothing_may_be_put_aside() -> None:
    for aside, left in ((100_000, 0), (len(BEGINNING), 50)):
        table = SlotTable(3, None, aside)
        begin(table, sharing(1))
        table.progressed(1, left)
        begin(table, sharing(2))
        assert table.launched() == []


def test_a_request_waits_once_and_for_no_one_that_is_gone() -> None:
    table = SlotTable(3, None, 100_000)
    begin(table, sharing(1))
    table.add(sharing(2))
    assert table.start() is None
    table.release(1)
    table.add(submit(3, (*BEGINNING, *range(8000, 9000))))
    assert start(table)[0] == 2
    assert table.start() is None, "now that one is waited for"
    table.progressed(2, 0)
    assert table.start() is None, "until it was put aside"
    table.gather(2, BEGINNING)
    assert start(table)[0] == 3


def test_where_nobody_waits_any_more_nothing_is_put_aside() -> None:
    table = SlotTable(3, None, 100_000)
    first = begin(table, sharing(1))
    table.add(sharing(2))
    assert table.start() is None
    assert table.withdraw(2)
    assert table.gather(1, ()) == Gathering(first.slot)


def test_beginnings_put_aside_are_few_and_forgotten_in_time() -> None:
    table = SlotTable(2, None, 1_000_000)
    forgotten: list[int] = []
    for place in range(7):
        ids = tuple(range(place * 5000, place * 5000 + 2 * GATHER_TOKENS))
        one, other = (submit(10 * place + n, (*ids, 90_000 + n)) for n in (1, 2))
        begin(table, one)
        table.add(other)
        assert table.start() is None
        now = table.gather(one.id, ids)
        assert now.aside == place + 1
        forgotten += now.forget
        assert table.start() is not None
        table.release(one.id)
        table.release(other.id)
    assert forgotten == [1, 2, 3]
    for number in range(100, 140):
        forgotten += run(table, submit(number, (number,))).before.forget
    assert forgotten == [1, 2, 3, 4, 5, 6, 7]


def test_a_beginning_put_aside_makes_room_for_the_next() -> None:
    table = SlotTable(2, None, 3 * len(BEGINNING))
    forgotten = []
    for place in range(1, 6):
        ids = tuple(range(place * 5000, place * 5000 + len(BEGINNING)))
        begin(table, submit(10 * place, (*ids, 1)))
        table.add(submit(10 * place + 1, (*ids, 2)))
        assert table.start() is None
        forgotten.append(table.gather(10 * place, ids).forget)
        assert table.start() is not None
        table.release(10 * place)
        table.release(10 * place + 1)
    assert forgotten == [(), (), (), (1,), (2,)]


def test_adapters_share_nothing_and_never_run_together() -> None:
    table = SlotTable(3, None, 100_000)
    run(table, sharing(1))
    other = run(table, sharing(2, adapter="a"))
    assert (other.cached, other.before.copy) == (0, None)
    begin(table, sharing(3))
    table.add(sharing(4, adapter="a"))
    assert table.start() is None
    table.release(3)
    assert table.start() is not None
    assert tenant_of("x", "a") != tenant_of("x") != tenant_of("x", "b")


def test_a_slot_of_another_adapter_is_primed_before_it_is_filled() -> None:
    table = SlotTable(2, None, 100_000)
    run(table, submit(1, range(50_000, 50_010)))
    run(table, submit(2, (*BEGINNING, *range(60_000, 60_600)), adapter="a"))
    branch = submit(3, (*BEGINNING, *range(70_000, 70_600)), adapter="a")
    started = begin(table, branch)
    assert (started.before.copy is not None, started.before.prime) == (True, True)
    table.release(3)
    assert not run(table, submit(4, (*branch.ids, 1), adapter="a")).before.prime


def test_no_slot_is_primed_behind_the_prompts_of_others() -> None:
    table = SlotTable(3, None, 100_000)
    for number in (1, 2):
        begin(table, submit(number, range(number * 50_000, number * 50_000 + 500)))
    for number in (1, 2):
        table.release(number)
    long = (*BEGINNING, *range(60_000, 60_600))
    table.restore(0, Held(long, tenant_of("", "a"), "a"))
    begin(table, submit(8, range(90_000, 90_500), adapter="a"))
    table.launched()
    started = begin(table, submit(9, (*BEGINNING, *range(70_000, 70_600)), adapter="a"))
    assert not started.before.prime


def test_who_is_first_or_whose_turn_is_sooner_does_not_wait() -> None:
    table = SlotTable(3, None, 100_000)
    begin(table, sharing(1))
    first = submit(2, (*BEGINNING, 7), first=True)
    assert begin(table, first).request is first
    assert table.launched() == []
    for long_one in (True, False):
        table, long = SlotTable(4, None, 100_000), tuple(range(20_000, 25_000))
        for number, held in ((0, BEGINNING[:200]), (2, long[:300]), (3, BEGINNING[:210])):
            table.restore(number, Held(held, tenant_of("")))
        if long_one:
            assert begin(table, submit(1, long)).slot == 2
        assert begin(table, sharing(2)).slot == 3
        table.add(sharing(3))
        alone = table.start()
        assert (alone is not None and alone.slot == 0) is long_one


def test_nobody_waits_for_what_is_far_beyond() -> None:
    for done, waits in ((300, True), (2000, False)):
        table = SlotTable(3, None, 100_000)
        begin(table, submit(1, (*BEGINNING, *range(20_000, 25_000))))
        table.progressed(1, len(BEGINNING) + 5000 - done)
        table.add(sharing(2))
        assert (table.start() is None) is waits


def test_what_is_far_beyond_is_not_put_aside_nor_loaded_for_little() -> None:
    table = SlotTable(3, None, 100_000)
    long = (*BEGINNING, *range(20_000, 25_000))
    first = begin(table, submit(1, long))
    table.add(sharing(2))
    assert table.start() is None
    assert table.gather(1, long[:3000]) == Gathering(first.slot), "it was not stopped in time"
    assert start(table)[0] == 2
    paused = SlotTable(1, None, 100_000)
    begin(paused, submit(1, long))
    paused.release(1, long, paused=True)
    assert run(paused, submit(2, range(90_000, 90_500))).before.park == 1
    assert begin(paused, sharing(3)).before.load is None, "to load it all costs more"


def test_beginnings_that_load_too_slowly_are_not_gathered() -> None:
    for most, waits in ((100_000, True), (len(BEGINNING), False)):
        table = SlotTable(3, None, 100_000, GatheringLimits(most))
        begin(table, sharing(1))
        table.add(sharing(2))
        assert (table.start() is None) is waits


def test_shared_cells_are_counted_while_more_is_loaded_than_is_used() -> None:
    batch = 64
    leading = submit(1, (*BEGINNING, *range(20_000, 20_600)))
    held = leading.ids[: len(BEGINNING) + batch]
    needed = len(held) + 2 * batch
    for more, loads in ((0, True), (-1, False)):
        table = SlotTable(3, len(leading.ids) + 1 + needed + more, 100_000)
        begin(table, leading)
        table.add(submit(2, (*BEGINNING, 7)))
        assert table.start() is None
        assert table.gather(1, held).aside == 1
        started = table.start()
        assert started is not None
        assert (started.before.load is not None, started.cached > 0) == (loads, loads)


def test_what_was_never_written_is_forgotten() -> None:
    table = SlotTable(4, None, 100_000)
    begin(table, sharing(1))
    table.add(sharing(2))
    assert table.start() is None
    table.lose((table.gather(1, BEGINNING).aside or 0,))
    assert begin(table, sharing(3)).before.load is None
    assert table.start() is None, "the next one gathers again"
    table.gather(2, BEGINNING)
    loaded = table.start()
    assert loaded is not None
    assert loaded.before.load == 2
    table.prepared(loaded, Prepared(lost=(2,)))
    assert begin(table, sharing(5)).before.load is None


def test_who_cannot_load_does_not_wait() -> None:
    for left, waits in ((500, False), (0, True)):
        table = SlotTable(4, None, 100_000)
        table.restore(3, Held((1, 2), tenant_of("", "b"), "b"))
        other = submit(1, range(90_000, 90_500), adapter="a")
        table.restore(2, Held(other.ids[:200], tenant_of("", "a"), "a"))
        assert begin(table, other).slot == 2
        table.launched()
        table.progressed(1, left)
        assert begin(table, sharing(2, adapter="a")).slot == 1
        table.add(sharing(3, adapter="a"))
        assert (table.start() is None) is waits


class Played:
    """llama.cpp as the table sees it: what is really held, and where."""

    def __init__(self, slots: int, cells: int | None) -> None:
        self.table = SlotTable(slots, cells, 100_000)
        self.held: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.aside: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.running: dict[int, Start] = {}
        self.interrupted: list[int] = []
        self.ended: set[int] = set()
        self.broken = False
        """Nothing can be loaded or copied."""

    def settle(self) -> None:
        """Start who may, and note who is interrupted."""
        while (started := self.table.start()) is not None:
            self._begin(started)
        self.interrupted += self.table.launched()

    def _begin(self, started: Start) -> None:
        request, before = started.request, started.before
        for number in before.erase:
            self.held.pop(number, None)
        if before.park is not None:
            self.aside[before.park] = self.held[started.slot]
        source = self.held.get(started.slot if before.copy is None else before.copy)
        if before.load is not None:
            source = self.aside[before.load]
        if started.cached and not (self.broken and before.fills):
            assert source is not None
            assert source[0] == request.salt + request.adapter
            assert common(source[1], request.ids) >= started.cached
        for number in before.forget:
            del self.aside[number]
        if self.broken and before.fills:
            lost = () if before.load is None else (before.load,)
            self.table.prepared(started, Prepared(lost=lost))
            for number in lost:
                self.aside.pop(number, None)
        else:
            self.table.prepared(started, Prepared(before.fills))
            held = request.ids[: started.cached]
            self.held[started.slot] = request.salt + request.adapter, held
        self.running[request.id] = started
        assert len({each.request.adapter for each in self.running.values()}) == 1
        assert len({each.slot for each in self.running.values()}) == len(self.running)

    def go_on(self, done: int) -> None:
        """The request interrupted first has come to a stop, this much processed."""
        number = self.interrupted.pop(0)
        started = self.running.get(number)
        if started is None:
            return
        ids = started.request.ids
        now = self.table.gather(number, ids[:done])
        while now.upto:
            now = self.table.gather(number, ids[: now.upto])
        self.held[started.slot] = started.request.salt + started.request.adapter, ids[:done]
        if now.aside is not None:
            self.aside[now.aside] = started.request.salt + started.request.adapter, ids
        for each in now.forget:
            del self.aside[each]

    def vanish(self) -> None:
        """The newest request is cancelled, and llama.cpp never saw it."""
        number = next(reversed(self.running), None)
        if number is not None and number not in self.interrupted:
            del self.running[number]
            self.table.release(number)
            self.ended.add(number)

    def end(self) -> None:
        """The oldest request that nothing is done for is over."""
        number = next((each for each in self.running if each not in self.interrupted), None)
        if number is not None:
            started = self.running.pop(number)
            self.held[started.slot] = (
                started.request.salt + started.request.adapter,
                started.request.ids,
            )
            self.table.release(number, started.request.ids)
            self.ended.add(number)


@given(
    arrivals=st.lists(
        st.tuples(
            st.sampled_from([0, 0, 0, 1]),
            st.sampled_from(["", "", "", "s"]),
            st.sampled_from(["", "", "", "a"]),
            st.integers(0, 4),
        ),
        min_size=2,
        max_size=16,
    ),
    slots=st.sampled_from([1, 2, 3, 4]),
    cells=st.sampled_from([None, 4 * GATHER_TOKENS]),
    done=st.integers(0, 2 * GATHER_TOKENS),
    broken=st.booleans(),
)
def test_everybody_ends_and_nothing_is_used_that_is_not_there(
    arrivals: list[tuple[int, str, str, int]],
    slots: int,
    cells: int | None,
    done: int,
    broken: bool,
) -> None:
    played = Played(slots, cells)
    played.broken = broken
    for number, (beginning, salt, adapter, then) in enumerate(arrivals, 1):
        ids = (beginning, *BEGINNING, number)
        played.table.add(submit(number, ids, salt=salt, adapter=adapter))
        played.settle()
        if then == 1:
            played.end()
        elif then == 2 and played.interrupted:
            played.go_on(done)
        elif then == 3:
            played.vanish()
        played.settle()
    while played.running:
        if played.interrupted:
            played.go_on(done)
        else:
            played.end()
        played.settle()
    assert played.ended == set(range(1, len(arrivals) + 1))
