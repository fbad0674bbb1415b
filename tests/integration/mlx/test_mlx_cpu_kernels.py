"""Whole models compute the same with numpy's kernels as with MLX's own."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import BatchKVCache, make_prompt_cache

from opta_lmx.backends.mlx.cpu import kernels
from opta_lmx.backends.mlx.loader import MlxOptions, load
from tests.support.tiny import tiny_llama, tiny_qwen2, tiny_sliding

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="MLX is as good elsewhere")


@pytest.fixture(autouse=True)
def left_as_loading_leaves_it() -> Iterator[None]:
    yield
    kernels.install()


def logits(model: Any, rows: Any, chunk: int, caches: Any) -> Any:
    """Of every token, processed `chunk` at a time."""
    parts = [
        model(mx.array(rows[:, at : at + chunk]), cache=caches)
        for at in range(0, rows.shape[1], chunk)
    ]
    return np.asarray(mx.concatenate(parts, axis=1))


@pytest.mark.parametrize("folder", [tiny_llama, tiny_sliding, tiny_qwen2])
@pytest.mark.parametrize("chunk", [150, 40])
def test_a_prompt_comes_out_the_same(folder: Callable[[], Path], chunk: int) -> None:
    model = load(folder(), MlxOptions()).model
    ids = np.random.default_rng(3).integers(10, 1000, (1, 150))
    found = logits(model, ids, chunk, make_prompt_cache(model))
    kernels.remove()
    expected = logits(model, ids, chunk, make_prompt_cache(model))
    assert not np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_padded_rows_come_out_the_same() -> None:
    model = load(tiny_llama(), MlxOptions()).model
    ids = np.random.default_rng(4).integers(10, 1000, (2, 90))

    def padded() -> Any:
        return logits(model, ids, 45, [BatchKVCache([0, 30]) for _ in model.layers])

    found = padded()
    kernels.remove()
    expected = padded()
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[1, 30:], expected[1, 30:], rtol=1e-3, atol=1e-4)
    assert np.isfinite(found).all()


def test_the_last_layer_is_not_computed_for_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_llama(), MlxOptions()).model
    calls: list[int] = []
    attend = kernels.attend

    def counted(queries: Any, *others: Any) -> Any:
        calls.append(queries.shape[2])
        return attend(queries, *others)

    monkeypatch.setattr(kernels, "attend", counted)
    caches = make_prompt_cache(model)
    for _ in range(2):
        model(mx.array([[5] * 30]), cache=caches)
        mx.eval([cache.state for cache in caches])
    assert calls == [30] * 2 * (len(model.layers) - 1)
