"""Who is next in line: requests of one adapter at a time, and nobody waits for ever."""

from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.gguf.line import Line
from opta_lmx.core.types import SamplingParams


def submit(number: int, adapter: str = "") -> Submit:
    return Submit(number, (1,), SamplingParams(), 1, adapter=adapter)


def nobody(_: Submit) -> bool:
    return False


def line_of(*adapters: str) -> Line:
    line = Line()
    for number, adapter in enumerate(adapters, 1):
        line.add(submit(number, adapter))
    return line


def take(line: Line, adapter: str | None) -> int | None:
    found = line.next(adapter, nobody)
    return None if found is None else (line.remove(found.id) or found).id


def test_requests_of_one_adapter_come_in_order() -> None:
    line = line_of("", "", "")
    assert [take(line, running) for running in (None, "", "", "")] == [1, 2, 3, None]
    assert len(line) == 0


def test_those_of_the_turns_adapter_start_together() -> None:
    line = line_of("a", "b", "a", "b")
    assert [take(line, running) for running in (None, "a", "a")] == [1, 3, None]
    assert [take(line, running) for running in (None, "b", "b")] == [2, 4, None]


def test_who_comes_later_does_not_lengthen_a_turn_others_wait_for() -> None:
    line = line_of("a", "b")
    assert take(line, None) == 1
    line.add(submit(3, "a"))
    assert take(line, "a") is None
    assert take(line, None) == 2
    assert take(line, "b") is None
    assert take(line, None) == 3


def test_while_nobody_else_waits_a_turn_goes_on() -> None:
    line = line_of("a")
    assert take(line, None) == 1
    for number in range(2, 9):
        line.add(submit(number, "a"))
        assert take(line, "a") == number


def test_who_is_better_off_waiting_is_passed_over() -> None:
    line = line_of("", "", "")
    found = line.next("", lambda request: request.id == 1)
    assert found is not None
    assert found.id == 2
    assert line.next("", lambda _: True) is None
    assert [request.id for request in line] == [1, 2, 3]


@given(
    arrivals=st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=30),
    slots=st.integers(1, 4),
    pauses=st.lists(st.integers(0, 3), min_size=30, max_size=30),
)
def test_one_adapter_at_a_time_and_everybody_has_a_turn(
    arrivals: list[str], slots: int, pauses: list[int]
) -> None:
    line, running, started = Line(), list[Submit](), list[int]()
    for number, (adapter, ends) in enumerate(zip(arrivals, pauses, strict=False), 1):
        line.add(submit(number, adapter))
        _fill(line, running, started, slots)
        del running[:ends]
        _fill(line, running, started, slots)
    left = len(arrivals)
    while running:
        del running[0]
        _fill(line, running, started, slots)
        left -= 1
        assert left >= 0
    assert sorted(started) == list(range(1, len(arrivals) + 1))


def _fill(line: Line, running: list[Submit], started: list[int], slots: int) -> None:
    while len(running) < slots:
        found = line.next(running[0].adapter if running else None, nobody)
        if found is None:
            break
        running.append(line.remove(found.id) or found)
        started.append(found.id)
    assert len({request.adapter for request in running}) <= 1
    assert running or not len(line), "somebody runs while anybody waits"
