"""Numpy's kernels stand in for MLX's where they can, and nowhere else."""

import sys
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import activations, cache

from opta_lmx.backends.mlx.cpu import kernels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="MLX is as good elsewhere")


@pytest.fixture(autouse=True)
def afterwards_as_before() -> Iterator[None]:
    before = mx.fast.scaled_dot_product_attention
    kernels.remove()
    kernels.forwards.learn(lambda: None, 0)
    yield
    if before is kernels.attention:
        kernels.install()


class Counted:
    """Calls of numpy's kernels, with the shapes they were called with."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.shapes: list[tuple[int, ...]] = []
        for name in ("attend", "_gated"):
            patch.setattr(kernels, name, self._counting(vars(kernels)[name]))

    def _counting(self, kernel: Any) -> Any:
        def called(first: Any, *others: Any) -> Any:
            self.shapes.append(first.shape)
            return kernel(first, *others)

        return called


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def states(tokens: int, context: int, dtype: Any = mx.float32) -> tuple[Any, Any, Any]:
    mx.random.seed(7)
    shapes = (2, 4, tokens, 16), (2, 2, context, 16), (2, 2, context, 16)
    return tuple(mx.random.normal(shape).astype(dtype) for shape in shapes)  # type: ignore[return-value]


def padded(tokens: int, context: int) -> Any:
    """As batched caches have it: the second row begins three keys later."""
    ends = mx.arange(context - tokens, context)[:, None]
    seen = mx.arange(context)[None] <= ends
    begins = mx.array([0, 3])[:, None, None, None]
    return mx.logical_and(seen, mx.arange(context) >= begins)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("kind", ["none", "causal", "padded", "plane"])
def test_prompts_attend_as_with_mlx(kind: str, counted: Counted) -> None:
    q, k, v = states(20, 50)
    plane = padded(20, 50)[0, 0]
    masks: dict[str, Any] = {"none": None, "causal": "causal", "padded": padded(20, 50)}
    mask = masks.get(kind, plane)
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask=mask)
    close(kernels.attention(q, k, v, scale=0.25, mask=mask), expected)
    assert counted.shapes == [(2, 4, 20, 16)]


def by_head(tokens: int, context: int) -> Any:
    return mx.random.normal((2, 4, tokens, context))


@pytest.mark.parametrize(
    ("call", "more"),
    [
        (states(1, 50), {}),
        (states(kernels.LEAST_TOKENS - 1, 50), {}),
        (states(20, 50, mx.bfloat16), {}),
        (states(20, 50), {"sinks": mx.zeros(4)}),
        (states(20, 50), {"mask": by_head(20, 50)}),
    ],
    ids=["token", "few", "half", "sinks", "by head"],
)
def test_the_rest_is_left_to_mlx(call: Any, more: dict[str, Any], counted: Counted) -> None:
    found = kernels.attention(*call, scale=0.25, **more)
    expected = mx.fast.scaled_dot_product_attention(*call, scale=0.25, **more)
    assert mx.array_equal(found, expected)
    assert counted.shapes == []


def test_what_mlx_refuses_is_refused(counted: Counted) -> None:
    q, k, v = states(20, 50)
    wrong = ((q[:, :3], k, v), (q, k[:1], v[:1]), (q, k[..., :8], v), (q, k, v[:, :, :40]))
    for call in wrong:
        with pytest.raises(ValueError, match=r"matmul|scaled_dot_product_attention"):
            mx.eval(kernels.attention(*call, scale=0.25))
    assert kernels.attention(q, k[:, :, :0], v[:, :, :0], scale=0.25).shape == q.shape
    assert kernels.roll(k[:, :, :0], mx.array([[1], [2]]), 2).shape == (2, 2, 0, 16)
    assert counted.shapes == []


def test_gates(counted: Counted) -> None:
    gate, x = mx.random.normal((2, 20, 8)) * 40, mx.random.normal((2, 20, 8))
    gate[0, 0, 0], gate[0, 0, 1] = -200.0, 200.0
    close(kernels.swiglu(gate, x), gate * mx.sigmoid(gate) * x)
    assert counted.shapes == [(2, 20, 8)]
    token, other = gate[:, :1], x[:, :1]
    close(kernels.swiglu(token, other), token * mx.sigmoid(token) * other)
    assert len(counted.shapes) == 1


def test_compiled_functions_keep_mlx(counted: Counted) -> None:
    q, k, v = states(20, 50)

    def both(q: Any) -> Any:
        return kernels.attention(q, k, v, scale=0.25), kernels.swiglu(q[0], q[1])

    for found, expected in zip(mx.compile(both)(q), both(q), strict=True):
        close(found, expected)
    assert counted.shapes == [(2, 4, 20, 16), (4, 20, 16)]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_rows_are_moved_on(dtype: Any) -> None:
    rows = mx.random.normal((3, 2, 40, 4)).astype(dtype)[:, :, 5:]
    shifts = mx.array([[0], [7], [36]])
    assert mx.array_equal(kernels.roll(rows, shifts, 2), cache.dynamic_roll(rows, shifts, 2))


def test_of_the_last_layer_nothing_is_asked(counted: Counted) -> None:
    q, k, v = states(20, 50)
    kernels.forwards.learn(lambda: [kernels.forwards.attend() for _ in range(2)], 2)
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25)
    for _ in range(2):
        for calls in (2, 0):
            counted.shapes.clear()
            close(kernels.attention(q, k, v, scale=0.25), expected)
            kernels.swiglu(q[0], q[1])
            assert len(counted.shapes) == calls


def test_installed_once_and_taken_out_again() -> None:
    own = mx.fast.scaled_dot_product_attention, activations.swiglu, cache.dynamic_roll
    assert kernels.install()
    assert kernels.install()
    assert mx.fast.scaled_dot_product_attention is kernels.attention
    assert activations.swiglu is kernels.swiglu
    assert cache.dynamic_roll is kernels.roll
    kernels.remove()
    found = mx.fast.scaled_dot_product_attention, activations.swiglu, cache.dynamic_roll
    assert found == own


def test_not_where_mlx_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not kernels.install()
    assert mx.fast.scaled_dot_product_attention is not kernels.attention
