"""Attention in tiles is attention, whatever is hidden and wherever the tiles end."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.mlx.cpu import attention as room
from opta_lmx.backends.mlx.cpu.attention import attend


def plainly(q: Any, k: Any, v: Any, scale: float, mask: Any) -> Any:
    """The textbook's formula in double precision, all scores at once."""
    shared = q.shape[1] // k.shape[1]
    keys, values = (np.repeat(each, shared, axis=1).astype(np.float64) for each in (k, v))
    scores = q.astype(np.float64) @ keys.swapaxes(-1, -2) * scale
    if isinstance(mask, str):
        tokens, context = scores.shape[-2:]
        mask = np.arange(context)[None] <= np.arange(context - tokens, context)[:, None]
    if mask is not None and mask.dtype == np.bool_:
        scores = np.where(mask, scores, -1e30)
    elif mask is not None:
        scores = scores + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ values


def states(seed: int, batch: int, heads: tuple[int, int], lengths: tuple[int, int]) -> Any:
    """Queries, keys and values; keys and values are parts of larger memory, as caches are."""
    groups, shared = heads
    tokens, context = lengths
    draw = np.random.default_rng(seed)

    def some(*shape: int) -> Any:
        return draw.standard_normal(shape, np.float32)

    keys, values = some(batch, groups, context + 7, 16), some(batch, groups, context + 7, 24)
    queries = some(batch, groups * shared, tokens, 16)
    return queries, keys[..., :context, :], values[..., :context, :]


@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    heads=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    tokens=st.integers(1, 40),
    earlier=st.integers(0, 40),
    kind=st.sampled_from(["none", "causal", "seen", "windows", "added"]),
    tile=st.integers(1, 2000),
)
def test_tiles_come_to_the_same(
    *,
    seed: int,
    batch: int,
    heads: tuple[int, int],
    tokens: int,
    earlier: int,
    kind: str,
    tile: int,
) -> None:
    context = earlier + tokens
    q, k, v = states(seed, batch, heads, (tokens, context))
    draw = np.random.default_rng(seed)
    ends = np.arange(earlier, context)[:, None]
    columns = np.arange(context)[None]
    masks: dict[str, Any] = {
        "none": None,
        "causal": "causal",
        "seen": draw.random((batch, 1, tokens, context)) < 0.5,
        "windows": ((columns <= ends) & (columns > ends - 5))[None, None],
        "added": draw.standard_normal((1, 1, 1, context), np.float32),
    }
    if kind == "seen":
        masks["seen"][..., 0] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_TILE", tile)
        patch.setattr(room, "_LEAST_ROWS", 3)
        found = attend(q, k, v, 0.25, masks[kind])
    expected = plainly(q, k, v, 0.25, masks[kind])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_query_that_sees_nothing_is_a_number() -> None:
    q, k, v = states(1, 2, (2, 2), (40, 40))
    mask = np.ones((2, 1, 40, 40), np.bool_)
    mask[0, 0, :35] = False
    mask[1] = False
    found = attend(q, k, v, 0.25, mask)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, :, 35:], plainly(q, k, v, 0.25, mask)[0, :, 35:], rtol=1e-4)


def test_hidden_keys_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    tile: Any = vars(room)["_tile"]

    def counted(queries: Any, keys: Any, values: Any, bias: Any) -> Any:
        seen.append(queries.shape[1] * len(keys))
        return tile(queries, keys, values, bias)

    monkeypatch.setattr(room, "_tile", counted)
    q, k, v = states(1, 1, (1, 1), (512, 4096))
    window = np.arange(3584, 4096)[:, None] - np.arange(4096)[None]
    attend(q, k, v, 0.25, ((window >= 0) & (window < 256))[None, None])
    assert sum(seen) < 512 * (256 + 512)
    seen.clear()
    q, k, v = states(1, 1, (1, 1), (4096, 4096))
    attend(q, k, v, 0.25, "causal")
    assert sum(seen) < 0.6 * 4096 * 4096


def test_numbers_that_overflow_raise_no_warning() -> None:
    q, k, v = states(1, 1, (1, 1), (20, 20))
    attend(q * np.float32(1e30), k * np.float32(1e30), v, 1.0)
