"""Samplers: which tokens may be drawn, how often, and that draws repeat."""

import math
from collections import Counter

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opta_lmx.backends.mlx.sampling import Draw, Filters, Samplers, greedy
from opta_lmx.core.types import SamplingParams

PROBABILITIES = (0.4, 0.3, 0.15, 0.1, 0.05)
LOGPROBS = mx.array([[math.log(p) for p in PROBABILITIES]])


def kept(**params: float) -> set[int]:
    logits = Filters(SamplingParams(**params)).apply(LOGPROBS)  # type: ignore[arg-type]
    return {i for i, value in enumerate(logits[0].tolist()) if value != -math.inf}


@pytest.mark.parametrize(
    ("params", "tokens"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 2}, {0, 1}),
        ({"top_k": 5}, {0, 1, 2, 3, 4}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.69}, {0, 1}),
        ({"top_p": 0.71}, {0, 1, 2}),
        ({"top_p": 0.0}, {0}),
        ({"min_p": 0.3}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        # After top-k two tokens are left, of 4/7 and 3/7: top-p counts within them.
        ({"top_k": 2, "top_p": 0.5}, {0}),
        ({"top_k": 2, "top_p": 0.6}, {0, 1}),
        ({"top_p": 0.9, "min_p": 0.5}, {0, 1}),
    ],
)
def test_filters_keep_what_they_should(params: dict[str, float], tokens: set[int]) -> None:
    assert kept(temperature=1.0, **params) == tokens
    assert kept(temperature=0.1, **params) == tokens  # temperature comes last


def test_draws_follow_the_probabilities() -> None:
    sampler = Samplers().get(SamplingParams(temperature=1.0))
    rows = mx.broadcast_to(LOGPROBS, (20_000, 5))
    counts = Counter(sampler(rows).tolist())
    for token, probability in enumerate(PROBABILITIES):
        assert counts[token] / 20_000 == pytest.approx(probability, abs=0.02)


def test_temperature_sharpens() -> None:
    draw = Draw(Filters(SamplingParams(temperature=0.25)), seed=3)
    counts = Counter(draw(mx.broadcast_to(LOGPROBS, (5_000, 5))).tolist())
    powers = [p**4 for p in PROBABILITIES]
    assert counts[0] / 5_000 == pytest.approx(powers[0] / sum(powers), abs=0.03)


def test_one_object_serves_equal_requests_unless_seeded() -> None:
    samplers = Samplers()
    warm = SamplingParams(temperature=0.7, top_p=0.9)
    assert samplers.get(warm) is samplers.get(SamplingParams(temperature=0.7, top_p=0.9, top_k=0))
    assert samplers.get(warm) is not samplers.get(SamplingParams(temperature=0.8, top_p=0.9))
    assert samplers.get(SamplingParams(temperature=0.0, top_k=5)) is greedy
    seeded = SamplingParams(temperature=0.7, seed=1)
    assert samplers.get(seeded) is not samplers.get(seeded)


def test_a_seeded_draw_depends_on_seed_and_index_only() -> None:
    def draws(seed: int) -> list[int]:
        sampler = Samplers().get(SamplingParams(temperature=1.0, seed=seed))
        return [sampler(LOGPROBS).item() for _ in range(40)]

    mx.random.seed(1)
    first = draws(7)
    mx.random.seed(2)
    assert draws(7) == first
    assert draws(8) != first
    assert draws(-1) == draws(2**64 - 1)


@settings(max_examples=60)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40),
    st.integers(0, 50),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(1e-4, 100),
)
def test_the_best_token_is_always_possible_and_draws_are_allowed(
    logits: list[float], top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    row = mx.array([logits])
    filtered = np.array(Filters(params).apply(row))[0]
    assert not np.isnan(filtered).any()
    assert filtered[int(np.argmax(logits))] == 0
    if top_k:
        edge = sorted(logits, reverse=True)[min(top_k, len(logits)) - 1]
        assert all(np.isinf(f) or x >= edge for f, x in zip(filtered, logits, strict=True))
    token = Samplers().get(params)(row).item()
    assert np.isfinite(filtered[token])
