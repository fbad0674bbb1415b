"""What a request takes of its key's budgets: once, exactly, and nothing when it is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Budgets, Principal
from opta_lmx.core.telemetry import NullTelemetry
from opta_lmx.core.types import GenerationRequest, Prompt
from opta_lmx.serving.budgeting import Account, Budgeting

LIMIT = 100


class Hand:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


class Counting(NullTelemetry):
    """Keeps what was refused."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        assert name == "admission_rejections_total"
        self.refused.append(labels["reason"])


class Bench:
    """One key and its budgets."""

    def __init__(self, **limits: Any) -> None:
        self.clock = Hand()
        self.telemetry = Counting()
        self.owner = Principal(budgets=Budgets(**limits))
        self.budgeting = Budgeting(self.clock, self.telemetry)

    def account(self) -> Account:
        return self.budgeting.account(self.owner)

    @property
    def left(self) -> int:
        state = self.budgeting.state(self.owner)
        assert state is not None
        return state.remaining


def request(max_tokens: int | None, field: str = "max_tokens") -> GenerationRequest:
    return GenerationRequest("m", Prompt(text="p"), max_tokens=max_tokens, limit_field=field)


def test_a_key_without_budgets_is_never_counted() -> None:
    bench = Bench()
    account = bench.account()
    assert not account.counts_prompts
    account.take(10**9, "messages")
    account.check_answer(request(10**9))
    assert account.limited(request(None), None).max_tokens is None
    assert bench.budgeting.state(bench.owner) is None


@pytest.mark.parametrize("limits", [{"prompt_tokens": 1}, {"prompt_tokens_per_minute": 1}])
def test_a_bounded_prompt_is_counted(limits: dict[str, int]) -> None:
    assert Bench(**limits).account().counts_prompts
    assert not Bench(max_tokens=1).account().counts_prompts


def test_what_is_taken_anew_takes_the_place_of_the_old() -> None:
    bench = Bench(prompt_tokens_per_minute=LIMIT)
    account = bench.account()
    for tokens in (60, 90, LIMIT, 40):
        account.take(tokens, "messages")
        assert bench.left == LIMIT - tokens
    account.give_back()
    account.give_back()
    assert bench.left == LIMIT


def test_a_refusal_takes_nothing_and_is_counted() -> None:
    bench = Bench(prompt_tokens=LIMIT, prompt_tokens_per_minute=LIMIT + 5)
    first, second = bench.account(), bench.account()
    first.take(50, "messages")
    for tokens, kind in ((56, ErrorKind.RATE_LIMITED), (LIMIT + 1, ErrorKind.INVALID_REQUEST)):
        with pytest.raises(LmxError) as refused:
            second.take(tokens, "input")
        assert refused.value.kind is kind
    assert bench.left == LIMIT + 5 - 50
    assert bench.telemetry.refused == ["token_rate_exceeded", "prompt_budget_exceeded"]
    second.give_back()
    assert bench.left == LIMIT + 5 - 50


def test_a_refused_one_gave_up_what_it_held() -> None:
    bench = Bench(prompt_tokens=LIMIT, prompt_tokens_per_minute=LIMIT)
    account = bench.account()
    account.take(10, "messages")
    with pytest.raises(LmxError):
        account.take(LIMIT + 1, "messages")
    assert bench.left == LIMIT


def test_a_minute_later_all_is_free_and_giving_back_frees_nothing_more() -> None:
    bench = Bench(prompt_tokens_per_minute=LIMIT)
    account = bench.account()
    account.take(LIMIT, "messages")
    bench.clock.now += 60
    bench.account().take(LIMIT, "messages")
    account.give_back()
    assert bench.left == 0


@pytest.mark.parametrize(
    ("cap", "default", "asked", "given"),
    [
        (None, None, None, None),
        (None, 7, None, 7),
        (5, None, None, 5),
        (5, 7, None, 5),
        (7, 5, None, 5),
        (5, 7, 3, 3),
        (5, None, 9, 9),
    ],
)
def test_a_silent_request_gets_the_lower_bound(
    cap: int | None, default: int | None, asked: int | None, given: int | None
) -> None:
    account = Bench(max_tokens=cap).account()
    assert account.limited(request(asked), default).max_tokens == given


@pytest.mark.parametrize("field", ["max_tokens", "max_output_tokens", "options.num_predict"])
def test_an_answer_beyond_the_cap_is_refused_in_the_dialects_word(field: str) -> None:
    bench = Bench(max_tokens=5)
    for fine in (None, 4, 5):
        bench.account().check_answer(request(fine, field))
    with pytest.raises(LmxError) as refused:
        bench.account().check_answer(request(6, field))
    error = refused.value
    assert (error.kind, error.code, error.param) == (
        ErrorKind.INVALID_REQUEST,
        "answer_budget_exceeded",
        field,
    )
    assert "6 tokens" in error.message
    assert "allows 5" in error.message
    assert bench.telemetry.refused == ["answer_budget_exceeded"]


MOVES = st.tuples(st.integers(0, 3), st.sampled_from(["take", "back", "wait"]), st.integers(0, 60))


@given(st.lists(MOVES))
def test_exactly_what_the_minute_holds_is_admitted(moves: list[tuple[int, str, int]]) -> None:
    bench = Bench(prompt_tokens_per_minute=LIMIT)
    accounts = [bench.account() for _ in range(4)]
    held: dict[int, tuple[int, float]] = {}
    for who, move, number in moves:
        if move == "wait":
            bench.clock.now += number
            continue
        held.pop(who, None)
        used = sum(tokens for tokens, at in held.values() if at + 60 > bench.clock.now)
        if move == "back":
            accounts[who].give_back()
        elif used + number <= LIMIT:
            accounts[who].take(number, "messages")
            held[who] = (number, bench.clock.now)
            used += number
        else:
            with pytest.raises(LmxError):
                accounts[who].take(number, "messages")
        assert bench.left == LIMIT - used
