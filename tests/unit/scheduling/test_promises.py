"""What refused callers were told is kept: places for them, in their order, for a while."""

import pytest

from opta_lmx.core.principal import Caller
from opta_lmx.scheduling.places import NOBODY, First
from opta_lmx.scheduling.promises import Promises
from opta_lmx.scheduling.shares import Share
from tests.support.line_bench import bot

PATH = (Share(1.0),)


@pytest.fixture
def outside() -> dict[Share, int]:
    return {}


@pytest.fixture
def promises(outside: dict[Share, int]) -> Promises:
    return Promises(outside)


def tell(promises: Promises, caller: Caller, wait_s: float, now: float, places: int = 1) -> None:
    promises.tell(caller, places, PATH, wait_s, now)


def test_a_newcomer_comes_after_all_who_were_promised_something(promises: Promises) -> None:
    tell(promises, bot("a"), 10.0, 0.0)
    tell(promises, bot("b", key="other"), 20.0, 0.0, places=2)
    found = promises.before(bot("new"), 1.0)
    assert (found.places, found.kept, found.due) == (First(1, 2, 1), NOBODY, False)
    assert promises.before(bot("a"), 1.0).client == 1


@pytest.mark.parametrize(("now", "kept"), [(8.9, 0), (9.0, 1), (10.0, 1), (12.0, 1), (12.1, 0)])
def test_a_place_is_kept_from_a_second_before_its_time_until_two_after(
    promises: Promises, now: float, kept: int
) -> None:
    tell(promises, bot("a"), 10.0, 0.0)
    assert promises.before(bot("new"), now).kept == First(kept, 0, kept)


def test_who_is_back_comes_before_later_promises_and_redeems_its_own(promises: Promises) -> None:
    for at, name in enumerate("abc"):
        tell(promises, bot(name), 10.0, float(at))
    found = promises.before(bot("b"), 11.0)
    assert (found.places, found.kept, found.due) == (First(1, 0, 1), First(1, 0, 1), True)
    assert not promises.before(bot("b"), 11.0, count=2).due
    promises.redeem(bot("b"), 11.0)
    assert len(promises) == 2
    assert promises.before(bot("b"), 11.0).places == First(2, 0, 2)


def test_who_comes_too_early_has_no_better_right(promises: Promises) -> None:
    tell(promises, bot("a"), 10.0, 0.0)
    found = promises.before(bot("a"), 5.0)
    assert (found.places, found.due) == (First(1, 0, 0), False)
    promises.redeem(bot("a"), 5.0)
    assert len(promises) == 1


def test_who_is_refused_again_keeps_its_rank_and_at_last_its_place(promises: Promises) -> None:
    tell(promises, bot("a"), 5.0, 0.0)
    tell(promises, bot("b"), 30.0, 0.0)
    now = 0.0
    for _ in range(3):
        now += 5.0
        assert promises.before(bot("a"), now).places == NOBODY
        tell(promises, bot("a"), 5.0, now)
    assert len(promises) == 2
    assert promises.before(bot("new"), now + 1).kept == First(1, 0, 1)  # long before its time
    assert promises.before(bot("a"), now + 5).waited_s == now + 5


def test_promises_nobody_came_for_end_and_what_is_outside_is_counted(
    promises: Promises, outside: dict[Share, int]
) -> None:
    tell(promises, bot("a"), 10.0, 0.0, places=3)
    assert outside == {PATH[0]: 3}
    assert promises.before(bot("new"), 12.5).places == NOBODY
    assert (len(promises), outside) == (0, {})


def test_there_are_no_more_promises_than_can_be_kept_in_mind(promises: Promises) -> None:
    for _ in range(100):
        tell(promises, bot("busy"), 10.0, 0.0)
    assert len(promises) == 64
    for number in range(400):
        tell(promises, bot(f"bot-{number}"), 10.0, 0.0)
    assert len(promises) == 128
    for number in range(4000):
        tell(promises, bot("bot", key=f"key-{number}"), 10.0, 0.0)
    assert len(promises) == 1024


def test_what_other_clients_were_promised_is_one_place_each_for_who_has_none(
    promises: Promises,
) -> None:
    for _ in range(9):
        tell(promises, bot("hog"), 1.0, 0.0)
    tell(promises, bot("other"), 1.0, 0.0)
    assert promises.before(bot("new"), 0.5).kept == First(10, 0, 2)
    assert promises.before(bot("hog"), 0.5).kept == First(10, 0, 1)
