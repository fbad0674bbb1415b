"""Suspects, played in simulated time: no innocent request is ever found guilty, and all end."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from opta_lmx.engine.suspects import Suspects, Verdict


class World:
    """Requests that come, are prepared, run and kill, in an order of chance.

    A killer of the kind `row` kills with one of its first tokens in every worker, one of the
    kind `prompt` when it is prepared.
    """

    def __init__(self, seed: int, count: int) -> None:
        self.chance = random.Random(seed)
        self.suspects = Suspects()
        self.kinds = {n: self._kind() for n in range(count)}
        self.kills_at = {n: self.chance.randrange(16) for n in range(count)}
        self.left = {n: self.chance.randrange(1, 60) for n in range(count)}
        self.outside = list(range(count))
        self.preparing: list[int] = []
        self.waiting: list[int] = []
        self.rows: dict[int, int] = {}
        self.guilty: set[int] = set()
        self.deaths = 0

    def _kind(self) -> str:
        one = self.chance.random()
        return "row" if one < 0.2 else "prompt" if one < 0.3 else "innocent"

    def play(self) -> None:
        while self.outside or self.preparing or self.waiting or self.rows:
            upcoming = self.chance.choice(self.waiting) if self.waiting else None
            moves = [(self.token, n) for n in self.rows for _ in range(3)]
            moves += [(self.prepared, n) for n in self.preparing]
            moves += [(self.prepare, n) for n in self.outside if self._admitted(n, upcoming)]
            if upcoming is not None and self.suspects.admits(upcoming, self.rows.keys()):
                moves.append((self.begin, upcoming))
            assert moves or upcoming is not None, "everybody waits"
            if moves:
                move, number = self.chance.choice(moves)
                move(number)

    def _admitted(self, number: int, upcoming: int | None) -> bool:
        return self.suspects.admits_prompt(number, self.rows.keys(), upcoming)

    def prepare(self, number: int) -> None:
        self.outside.remove(number)
        self.preparing.append(number)
        self.suspects.prepares(number)

    def prepared(self, number: int) -> None:
        if self.kinds[number] == "prompt":
            self.die()
            return
        self.preparing.remove(number)
        self.waiting.append(number)
        self.suspects.prepared(number)

    def begin(self, number: int) -> None:
        self.waiting.remove(number)
        self.rows[number] = 0
        self.suspects.begins(number)

    def token(self, number: int) -> None:
        if self.kinds[number] == "row" and self.rows[number] == self.kills_at[number]:
            self.die()
            return
        self.rows[number] += 1
        self.left[number] -= self.kinds[number] == "innocent"
        self.suspects.said(number)
        if not self.left[number]:
            del self.rows[number]
            self.suspects.over(number, finished=True)

    def die(self) -> None:
        self.deaths += 1
        self.suspects.died(self.rows.keys())
        convicted = {n for n in (*self.rows, *self.preparing) if self.suspects.convicted(n)}
        assert all(self.kinds[n] != "innocent" for n in convicted)
        self.waiting += [n for n in self.rows if n not in convicted]
        self.outside += [n for n in self.preparing if n not in convicted]
        for number in convicted:
            self.suspects.prepared(number)
            self.suspects.over(number, finished=False)
        self.guilty |= convicted
        self.rows, self.preparing = {}, []


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 9))
def test_whoever_kills_is_found_and_nobody_else(seed: int, count: int) -> None:
    world = World(seed, count)
    world.play()
    assert world.guilty == {n for n, kind in world.kinds.items() if kind != "innocent"}
    assert world.deaths <= 2 * len(world.guilty)
    assert world.suspects.none


def test_a_death_is_of_a_request_only_where_others_came_through() -> None:
    suspects = Suspects()

    def killed(*rows: int) -> list[Verdict]:
        found = [suspects.died(rows)]
        for ticket in rows:
            found.append(suspects.died([ticket]))
            suspects.over(ticket, finished=False)
        return found

    assert killed(1) == killed(2) == [Verdict.OPEN, Verdict.OPEN]
    suspects.over(3, finished=True)
    assert killed(4, 5) == [Verdict.OPEN, Verdict.REQUEST, Verdict.REQUEST]
    assert killed(6) == [Verdict.OPEN, Verdict.OPEN], "the next takes new evidence"


def test_a_suspect_that_proves_itself_speaks_for_the_model() -> None:
    suspects = Suspects()
    assert suspects.died([1, 2]) is Verdict.OPEN
    suspects.begins(1)
    assert [suspects.said(1) for _ in range(17)] == [False] * 15 + [True, False]
    assert suspects.admits(2, {1})
    assert not suspects.admits(2, {1, 3}), "a newcomer may kill as well"
    assert suspects.died([1, 2]) is Verdict.REQUEST
    assert (suspects.convicted(1), suspects.convicted(2)) == (False, True)


def test_a_worker_that_was_ended_in_peace_makes_no_suspects() -> None:
    suspects = Suspects()
    suspects.prepares(1)
    suspects.parted()
    assert suspects.none
    assert suspects.admits(2, set())
