"""MLX's own limits: lowered as told, never raised, and not by mlx-lm behind our back."""

from collections.abc import Iterator

import mlx.core as mx
import pytest

from opta_lmx.backends.mlx.memory import hold, wired_as_before

GB = 1 << 30


@pytest.fixture(autouse=True)
def usual_limits() -> Iterator[tuple[int, int]]:
    """The limits as they are, which are so again afterwards."""
    cache, memory = mx.set_cache_limit(GB), mx.set_memory_limit(GB)
    mx.set_cache_limit(cache)
    mx.set_memory_limit(memory)
    yield cache, memory
    mx.set_cache_limit(cache)
    mx.set_memory_limit(memory)


def test_limits_are_lowered(usual_limits: tuple[int, int]) -> None:
    cache, memory = usual_limits
    hold(memory // 2, cache // 2, 0)
    assert mx.set_cache_limit(cache) == cache // 2
    assert mx.set_memory_limit(memory) == memory // 2


def test_limits_are_never_raised(usual_limits: tuple[int, int]) -> None:
    cache, memory = usual_limits
    hold(memory * 2, cache * 2, None)
    assert mx.set_cache_limit(cache) == cache
    assert mx.set_memory_limit(memory) == memory
    hold(None, None, None)
    assert mx.set_cache_limit(cache) == cache


class Metal:
    """How a Mac's device takes the wired limit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.wired = 0
        monkeypatch.setattr(mx, "set_wired_limit", self.set)
        monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": most})

    def set(self, limit: int) -> int:
        before, self.wired = self.wired, limit
        return before


@pytest.mark.parametrize(("asked", "wired"), [(10 * GB, 10 * GB), (90 * GB, 80 * GB), (0, 0)])
def test_no_more_is_wired_than_four_fifths(
    monkeypatch: pytest.MonkeyPatch, asked: int, wired: int
) -> None:
    metal = Metal(monkeypatch, 100 * GB)
    metal.wired = 50 * GB
    hold(None, None, asked)
    assert metal.wired == wired


def test_a_generator_that_wires_everything_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    metal = Metal(monkeypatch, 100 * GB)
    hold(None, None, 10 * GB)
    with wired_as_before():
        mx.set_wired_limit(100 * GB)
    assert metal.wired == 10 * GB
    with pytest.raises(RuntimeError), wired_as_before():  # noqa: PT012
        mx.set_wired_limit(100 * GB)
        raise RuntimeError
    assert metal.wired == 10 * GB
