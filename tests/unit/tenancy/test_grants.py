"""What a key may be made with, and by whom."""

import contextlib
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.principal import Budgets, Lane, Principal, Scope
from opta_lmx.tenancy.grants import check_grant, check_maker, lane_of, scopes_of

SCOPE_SETS = [frozenset(some) for size in range(6) for some in combinations(Scope, size)]


@pytest.mark.parametrize(
    ("param", "owner"),
    [
        ("name", Principal(key="")),
        ("name", Principal(key="-a")),
        ("name", Principal(key="a b")),
        ("name", Principal(key="a\n")),
        ("name", Principal(key="a" * 65)),
        ("tenant", Principal(tenant="ä")),
        ("scopes", Principal(scopes=frozenset())),
        ("weight", Principal(weight=0.0)),
        ("weight", Principal(weight=-1.0)),
        ("weight", Principal(weight=float("nan"))),
        ("weight", Principal(weight=float("inf"))),
        ("max_running", Principal(max_running=0)),
        ("prompt_tokens", Principal(budgets=Budgets(prompt_tokens=-5))),
        ("kv_bytes", Principal(budgets=Budgets(kv_bytes=2**63))),
        ("models", Principal(models=())),
        ("models", Principal(models=("",))),
        ("models", Principal(models=("a\x1b[2J",))),
        ("models", Principal(models=("a" * 513,))),
        ("models", Principal(models=("a",) * 65)),
    ],
)
def test_what_no_key_may_have(param: str, owner: Principal) -> None:
    with pytest.raises(LmxError) as caught:
        check_grant(owner, "")
    assert (caught.value.kind, caught.value.param) == (ErrorKind.INVALID_REQUEST, param)


@pytest.mark.parametrize("note", ["x" * 201, "two\nlines"])
def test_notes_are_short_and_of_one_line(note: str) -> None:
    with pytest.raises(LmxError) as caught:
        check_grant(Principal(), note)
    assert caught.value.param == "note"


def test_a_sound_key() -> None:
    check_grant(Principal(key="bot-1", models=("org/*",), budgets=Budgets(1, 1, 1, 1)), "für Bots")


def test_words_for_scopes_and_lanes() -> None:
    assert scopes_of(["admin", "metrics", "admin"]) == {Scope.ADMIN, Scope.METRICS}
    assert lane_of("background") is Lane.BACKGROUND
    for param, call in (("scopes", lambda: scopes_of(["root"])), ("lane", lambda: lane_of("top"))):
        with pytest.raises(LmxError) as caught:
            call()
        assert caught.value.param == param


@pytest.mark.parametrize("mine", SCOPE_SETS)
def test_nobody_grants_a_scope_that_is_not_theirs(mine: frozenset[Scope]) -> None:
    maker = Principal(scopes=mine)
    for wanted in SCOPE_SETS:
        if wanted <= mine:
            check_maker(maker, Principal(scopes=wanted))
            continue
        with pytest.raises(LmxError) as caught:
            check_maker(maker, Principal(scopes=wanted))
        assert caught.value.kind is ErrorKind.FORBIDDEN
        assert caught.value.code == "scope_not_grantable"
        for scope in wanted - mine:
            assert scope in caught.value.message


@pytest.mark.parametrize(
    ("mine", "wanted", "granted"),
    [
        (None, None, True),
        (None, ("a",), True),
        (("a",), None, False),
        (("a",), ("a",), True),
        (("a",), ("b",), False),
        (("a",), ("*",), False),
        (("a*",), ("a*", "ab*c", "ab*"), True),
        (("a*",), ("ab*", "*b"), False),
        (("a*",), ("alias",), False),
        (("a*", "alias"), ("alias", "a*b"), True),
    ],
)
def test_nobody_grants_a_model_that_is_not_theirs(
    mine: tuple[str, ...] | None, wanted: tuple[str, ...] | None, *, granted: bool
) -> None:
    if granted:
        check_maker(Principal(models=mine), Principal(models=wanted))
        return
    with pytest.raises(LmxError) as caught:
        check_maker(Principal(models=mine), Principal(models=wanted))
    assert (caught.value.kind, caught.value.code) == (
        ErrorKind.FORBIDDEN,
        "model_not_grantable",
    )


@given(st.text())
def test_any_name_is_taken_or_refused(name: str) -> None:
    with contextlib.suppress(LmxError):
        check_grant(Principal(key=name), "")
        assert name.isascii()
        assert 0 < len(name) <= 64


@pytest.mark.parametrize(
    ("param", "wanted"),
    [
        ("lane", {"lane": Lane.INTERACTIVE}),
        ("max_running", {"max_running": None}),
        ("max_running", {"max_running": 3}),
        ("max_tokens", {"budgets": Budgets(5, max_tokens=11)}),
        ("prompt_tokens", {"budgets": Budgets(max_tokens=10)}),
    ],
)
def test_nobody_grants_wider_limits_than_their_own(param: str, wanted: dict[str, Any]) -> None:
    bounds = {"lane": Lane.AGENT, "max_running": 2, "budgets": Budgets(5, max_tokens=10)}
    maker = Principal(**bounds)
    check_maker(maker, Principal(**{**bounds, "tenant": "other", "lane": Lane.BACKGROUND}))
    with pytest.raises(LmxError) as caught:
        check_maker(maker, Principal(**{**bounds, **wanted}))
    assert (caught.value.code, caught.value.param) == ("limits_not_grantable", param)
