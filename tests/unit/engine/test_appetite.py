"""What a model would take: the largest window is found exactly, and nothing is cut to fit."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import Load
from opta_lmx.config.sections.memory import MemorySettings
from opta_lmx.engine.appetite import Appetite
from opta_lmx.engine.sizing import Sizing
from opta_lmx.models.description import KvGroup, ModelInfo

GB = 10**9
INFO = ModelInfo(
    format="gguf",
    architecture="llama",
    context_length=100_000,
    quantisation="Q4_K_M",
    parameters=8 * GB,
    size_bytes=5 * GB,
    weights_bytes=5 * GB,
    layers=32,
    vocabulary=32_000,
    kv=(KvGroup(32, 1024, 1024),),
)


def appetite(budget: int = 16 * GB, info: ModelInfo = INFO, **load: object) -> Appetite:
    wanted = Load(model="m", backend="gguf", **load)  # type: ignore[arg-type]
    return Appetite(Sizing(MemorySettings(budget_bytes=budget)), info, wanted, 0)


def test_a_full_window_costs_what_its_tokens_cost() -> None:
    one = appetite()
    small, large = one.full(1000, 1), one.full(3000, 1)
    assert large.kv - small.kv == 2000 * 32 * 2048 * 2
    assert one.full(1000, 4).kv == 4 * small.kv
    assert small.weights == INFO.weights_bytes


def test_what_is_reserved_keeps_to_the_budget_and_what_is_full_does_not() -> None:
    one = appetite(budget=6 * GB, slots=8)
    assert one.reserved().total <= 6 * GB
    assert one.full(one.most, 8).total > 100 * GB


@pytest.mark.parametrize(("configured", "usual"), [(0, 32_768), (2048, 2048), (200_000, 100_000)])
def test_the_usual_window_is_that_of_a_load(configured: int, usual: int) -> None:
    assert appetite(context=configured).context == usual


@given(room=st.integers(0, 200 * GB), slots=st.integers(1, 16))
def test_the_largest_window_fits_and_a_larger_does_not(room: int, slots: int) -> None:
    one = appetite()
    found = one.largest_context(room, slots)
    assert 0 <= found <= one.most
    if found:
        assert one.full(found, slots).total <= room
    if found < one.most:
        assert one.full(found + 256, slots).total > room


def test_a_model_that_says_nothing_of_its_window_has_the_usual_one() -> None:
    one = appetite(info=msgspec.structs.replace(INFO, context_length=0))
    assert one.most == one.context == 4096
