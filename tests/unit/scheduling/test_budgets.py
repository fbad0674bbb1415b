"""Token budgets of a key: exact at the limit, honest about the wait, given back on refusal."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Budgets, Principal
from opta_lmx.scheduling import budgets as module
from opta_lmx.scheduling.budgets import BudgetBook, BudgetState, answer_limit

LIMIT = 1000


def owner(key: str = "k", **limits: int) -> Principal:
    return Principal(key=key, budgets=Budgets(**limits))


def wait_of(book: BudgetBook, principal: Principal, tokens: int, now: float) -> float:
    """0 when admitted, else the seconds that the refusal names."""
    try:
        book.admit(principal, tokens, now, "messages")
    except LmxError as error:
        if error.kind is not ErrorKind.RATE_LIMITED:
            raise
        return error.retry_after or -1.0
    return 0.0


def passes(book: BudgetBook, principal: Principal, tokens: int, now: float) -> bool:
    return wait_of(book, principal, tokens, now) == 0


@pytest.mark.parametrize(("over", "admitted"), [(-1, True), (0, True), (1, False)])
def test_a_request_is_bounded_exactly(over: int, admitted: bool) -> None:
    book = BudgetBook()
    if admitted:
        book.admit(owner(prompt_tokens=LIMIT), LIMIT + over, 0.0, "messages")
        return
    with pytest.raises(LmxError) as refused:
        book.admit(owner(prompt_tokens=LIMIT), LIMIT + over, 0.0, "input")
    assert refused.value.kind is ErrorKind.INVALID_REQUEST
    assert refused.value.param == "input"
    assert "1001 tokens" in refused.value.message
    assert "1000 a request" in refused.value.message


@pytest.mark.parametrize(("over", "admitted"), [(-1, True), (0, True), (1, False)])
def test_a_minute_is_bounded_exactly(over: int, admitted: bool) -> None:
    book, key = BudgetBook(), owner(prompt_tokens_per_minute=LIMIT)
    book.admit(key, 300, 100.0, "messages")
    book.admit(key, 300, 130.0, "messages")
    if admitted:
        book.admit(key, 400 + over, 140.0, "messages")
        return
    with pytest.raises(LmxError) as refused:
        book.admit(key, 400 + over, 140.0, "messages")
    error = refused.value
    assert (error.kind, error.code) == (ErrorKind.RATE_LIMITED, "token_rate_exceeded")
    assert error.retry_after == 20.0
    assert error.message == (
        "The prompt has 401 tokens; this key allows 1000 a minute and has used 600 in the last "
        "60 s. Retry in 20 s."
    )
    assert not passes(book, key, 401, 159.999)
    assert passes(book, key, 401, 160.0)


def test_what_a_minute_can_never_hold_is_not_asked_to_wait() -> None:
    with pytest.raises(LmxError) as refused:
        BudgetBook().admit(owner(prompt_tokens_per_minute=LIMIT), LIMIT + 1, 0.0, "prompt")
    assert refused.value.kind is ErrorKind.INVALID_REQUEST
    assert refused.value.retry_after is None
    assert refused.value.param == "prompt"


def test_a_refund_frees_its_tokens_once() -> None:
    book, key = BudgetBook(), owner(prompt_tokens_per_minute=LIMIT)
    charge = book.admit(key, 600, 0.0, "messages")
    book.admit(key, 400, 1.0, "messages")
    assert not passes(book, key, 1, 2.0)
    book.refund(charge, 2.0)
    book.refund(charge, 2.0)
    assert not passes(book, key, 601, 2.0)
    assert passes(book, key, 600, 2.0)


def test_a_late_refund_takes_nothing_from_others() -> None:
    book, key = BudgetBook(), owner(prompt_tokens_per_minute=LIMIT)
    charge = book.admit(key, 600, 0.0, "messages")
    book.admit(key, 400, 59.0, "messages")
    book.refund(charge, 60.0)
    assert book.state(key, 60.0) == BudgetState(LIMIT, 600, 59.0)


def test_keys_and_tenants_do_not_share() -> None:
    book = BudgetBook()
    limits = Budgets(prompt_tokens_per_minute=LIMIT)
    for tenant in ("a", "b"):
        for key in ("k", "l"):
            principal = Principal(tenant, key, budgets=limits)
            assert passes(book, principal, LIMIT, 0.0)
            assert not passes(book, principal, 1, 0.0)


def test_idle_keys_take_no_memory() -> None:
    book = BudgetBook()
    for number in range(500):
        book.admit(owner(f"k{number}", prompt_tokens_per_minute=LIMIT), 1, number * 1.0, "messages")
        assert len(book) <= 60
    book.admit(owner("free"), 10**9, 1000.0, "messages")
    assert len(book) == 0


def test_a_busy_minute_is_remembered_in_bounded_space_and_never_too_short() -> None:
    book, key = BudgetBook(), owner(prompt_tokens_per_minute=10**9)
    moments = 3 * module.MAX_ENTRIES
    for number in range(moments):
        book.admit(key, 2, number * 59 / moments, "messages")
    window = book._windows["default", "k"]
    assert len(window._entries) <= module.MAX_ENTRIES
    state = book.state(key, 59.0)
    assert state is not None
    assert state.limit - state.remaining == 2 * moments
    for now in range(60, 120, 5):
        state = book.state(key, float(now))
        assert state is not None
        really = 2 * sum(60 + number * 59 / moments > now for number in range(moments))
        used = state.limit - state.remaining
        # Merged moments leave together, with the latest of them.
        assert really <= used <= really + 2 * 64


class Ledger:
    """What was admitted, kept in full."""

    def __init__(self) -> None:
        self.entries: list[tuple[float, int]] = []

    def used(self, now: float) -> int:
        return sum(tokens for at, tokens in self.entries if at + 60 > now)


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60), st.booleans()), max_size=60),
)
def test_no_60_s_ever_hold_more_and_the_wait_is_exact(
    limit: int, events: list[tuple[int, int, bool]]
) -> None:
    book, key, ledger, now = BudgetBook(), owner(prompt_tokens_per_minute=limit), Ledger(), 0.0
    for pause, tokens, refund in events:
        now += pause
        if tokens > limit:
            continue
        free = limit - ledger.used(now)
        if tokens > free:
            with pytest.raises(LmxError) as refused:
                book.admit(key, tokens, now, "messages")
            wait = refused.value.retry_after
            assert wait is not None
            assert 0 < wait <= 60
            assert ledger.used(now + wait) + tokens <= limit
            assert ledger.used(now + wait - 1) + tokens > limit
            continue
        charge = book.admit(key, tokens, now, "messages")
        if refund:
            book.refund(charge, now)
        else:
            ledger.entries.append((now, tokens))
        state = book.state(key, now)
        assert state is not None
        assert state.remaining == limit - ledger.used(now)


def test_one_who_waits_as_told_is_admitted() -> None:
    for seed in range(200):
        draw = random.Random(seed)
        book, key, now = BudgetBook(), owner(prompt_tokens_per_minute=LIMIT), draw.random() * 1e6
        for _ in range(60):
            tokens = draw.randint(1, LIMIT)
            wait = wait_of(book, key, tokens, now)
            assert 0 <= wait <= 60
            if wait:
                now += wait
                assert passes(book, key, tokens, now)
            now += draw.expovariate(0.5)


def test_a_silent_request_gets_the_cap_and_one_that_asks_for_more_is_refused() -> None:
    capped = Budgets(max_tokens=100)
    assert answer_limit(capped, None, None, "max_tokens") == 100
    assert answer_limit(capped, None, 4096, "max_tokens") == 100
    assert answer_limit(capped, None, 50, "max_tokens") == 50
    assert answer_limit(capped, 100, 50, "max_tokens") == 100
    with pytest.raises(LmxError) as refused:
        answer_limit(capped, 101, None, "max_completion_tokens")
    assert refused.value.kind is ErrorKind.INVALID_REQUEST
    assert refused.value.param == "max_completion_tokens"
    assert refused.value.message == (
        "The request asks for an answer of 101 tokens; this key allows 100."
    )


def test_without_a_cap_everything_passes() -> None:
    assert answer_limit(Budgets(), None, None, "max_tokens") is None
    assert answer_limit(Budgets(), None, 7, "max_tokens") == 7
    assert answer_limit(Budgets(), 10**6, 7, "max_tokens") == 10**6
