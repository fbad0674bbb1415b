"""Answers are the same without the log-probabilities that nobody reads, and these when read."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.generate import BatchGenerator, GenerationBatch

from opta_lmx.backends.mlx.decoding import Decoding
from opta_lmx.backends.mlx.loader import MlxOptions, load
from opta_lmx.backends.mlx.logprobs import Asked, LogprobReader
from opta_lmx.backends.mlx.sampling import Draw, Filters, greedy
from opta_lmx.core.types import SamplingParams
from tests.support.tiny import tiny_llama


@pytest.fixture(scope="module")
def model() -> Any:
    return load(tiny_llama(), MlxOptions()).model


def answers(model: Any, batch: type[GenerationBatch], samplers: list[Any], processors: Any) -> Any:
    """Tokens and what was called their log-probabilities, by row."""
    generator = BatchGenerator(model, stop_tokens=[])
    vars(generator)["_generation_batch"] = batch.empty(model, generator.sampler)
    prompts = [list(range(20 + row, 60 + 3 * row)) for row in range(len(samplers))]
    uids = generator.insert(
        prompts,
        max_tokens=[9, 12, 5][: len(samplers)],
        samplers=samplers,
        logits_processors=processors,
    )
    rows: dict[int, list[tuple[int, Any]]] = {uid: [] for uid in uids}
    while any(generator._find_uids(uids)):
        for found in generator.next()[1]:
            rows[found.uid].append((found.token, found.logprobs))
    return list(rows.values())


def fresh(kind: str) -> list[Any]:
    warm = SamplingParams(temperature=0.9, top_p=0.8, top_k=50, min_p=0.01)
    if kind == "greedy":
        return [greedy] * 3
    if kind == "shared":
        return [Draw(Filters(warm), 7)] * 3
    return [greedy, Draw(Filters(warm), 3), Draw(Filters(SamplingParams(temperature=1.0)), 5)]


def bar(_: Any, logits: Any) -> Any:
    return mx.where(mx.arange(logits.shape[-1]) % 2 == 0, logits, -mx.inf)


@pytest.mark.parametrize("kind", ["greedy", "shared", "mixed"])
@pytest.mark.parametrize("barred", [False, True])
def test_same_tokens_and_same_log_probabilities(model: Any, kind: str, barred: bool) -> None:
    processors = [[], [bar], []] if barred else None
    expected = answers(model, GenerationBatch, fresh(kind), processors)
    found = answers(model, Decoding, fresh(kind), processors)
    reader = LogprobReader(lambda token: bytes([token % 256]))
    for own, usual in zip(found, expected, strict=True):
        assert [token for token, _ in own] == [token for token, _ in usual]
        read = reader.read([Asked(logits, token, 0) for token, logits in own])
        wanted = [float(logprobs[token]) for token, logprobs in usual]
        np.testing.assert_allclose([one.logprob for one in read], wanted, rtol=1e-4, atol=1e-5)
    if barred:
        assert all(token % 2 == 0 for token, _ in found[1])
