"""Which answers can go on after an interruption."""

import asyncio

import pytest

from opta_lmx.backends.frames import ResumeAbility, Submit, TokenOut
from opta_lmx.core.principal import Caller, Principal
from opta_lmx.core.types import NO_PLACES, SamplingParams
from opta_lmx.engine.course import Course


@pytest.mark.parametrize(
    ("ids", "ability", "seed", "survives"),
    [
        ((), "none", None, True),
        ((5,), "none", None, False),
        ((5,), "unseeded", None, True),
        ((5,), "unseeded", 1, False),
        ((5,), "all", 1, True),
        ((-1, 7), "all", None, False),
        ((5, -1), "unseeded", None, False),
    ],
)
def test_what_goes_on(
    ids: tuple[int, ...], ability: ResumeAbility, seed: int | None, survives: bool
) -> None:
    async def answered() -> Course:
        course = Course(Submit(1, (1, 2), SamplingParams(seed=seed), 10), Caller())
        for one in ids:
            course.stream.push(TokenOut(1, one, b"x"))
        return course

    assert asyncio.run(answered()).survives(ability) is survives


def test_what_is_submitted_names_its_tenant_and_what_was_said() -> None:
    async def answered() -> Course:
        caller = Caller(Principal(tenant="acme"))
        course = Course(Submit(1, (1, 2), SamplingParams(), 10), caller)
        course.stream.push(TokenOut(1, 7, b"x"))
        return course

    request, _ = asyncio.run(answered()).rest()
    assert (request.salt, request.ids, request.generated) == ("acme", (1, 2), (7,))


def test_every_version_of_an_adapter_has_caches_of_its_own() -> None:
    async def asked(tenant: str, adapter: str) -> Course:
        caller = Caller(Principal(tenant=tenant))
        course = Course(Submit(1, (1, 2), SamplingParams(), 10), caller, NO_PLACES, adapter)
        course.stream.push(TokenOut(1, 7, b"x"))
        return course

    salts: set[str] = set()
    for tenant, adapter in (("a", ""), ("a", "v1"), ("a", "v2"), ("b", ""), ("b", "v1")):
        course = asyncio.run(asked(tenant, adapter))
        request, wish = course.rest()
        assert request.salt == course.request.salt == course.wish.salt == wish.salt
        salts.add(request.salt)
    assert len(salts) == 5
