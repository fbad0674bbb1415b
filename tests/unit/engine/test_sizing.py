"""What a model is given: from its headers, within the budget, and the same told to its engine."""

from typing import Any

import msgspec
import pytest

from opta_lmx.backends import registry
from opta_lmx.backends.frames import Load
from opta_lmx.config.sections.memory import MemorySettings
from opta_lmx.engine import sizing
from opta_lmx.engine.sizing import Sizing, budget_bytes
from opta_lmx.models.description import KvGroup, ModelInfo
from opta_lmx.models.memory import kv_bytes

GB = 1 << 30
INFO = ModelInfo(
    format="mlx",
    architecture="llama",
    context_length=8192,
    quantisation="4bit",
    parameters=8 * GB,
    size_bytes=4 * GB,
    weights_bytes=4 * GB,
    layers=32,
    vocabulary=1000,
    kv=(KvGroup(32, 1024, 1024),),
)
FULL = 32 * 2048 * 2 * 8192 * 8  # eight slots of the whole window in 16 bits: 8 GiB


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four gigabytes, and a GPU."""
    monkeypatch.setattr(sizing, "machine_bytes", lambda: 64 * GB)
    monkeypatch.setattr(registry, "has_accelerator", lambda: True)


def load(backend: Any = "mlx", **fields: Any) -> Load:
    return Load("m", backend, **fields)


def test_three_quarters_of_the_machine_unless_configured() -> None:
    assert budget_bytes(MemorySettings()) == 48 * GB
    assert budget_bytes(MemorySettings(budget_bytes=5)) == 5


def test_caches_take_their_share_of_what_the_weights_leave() -> None:
    ample = Sizing(MemorySettings()).of(INFO, load())
    assert (ample.need.weights, ample.need.kv) == (4 * GB, FULL)
    tight = Sizing(MemorySettings(budget_bytes=16 * GB)).of(INFO, load())
    room = 16 * GB - tight.need.weights - tight.need.peak
    assert tight.need.kv == int(0.25 * room) < FULL
    assert tight.options == {
        "kv_bytes": tight.need.kv,
        "memory_bytes": tight.need.total,
        "cache_bytes": GB,
        "wired_bytes": tight.need.weights + tight.need.kv,
    }
    wide = MemorySettings(budget_bytes=16 * GB, cache_share=1.0)
    assert Sizing(wide).of(INFO, load()).need.total == 12 * GB + tight.need.peak


def test_a_model_whose_states_cannot_be_cut_has_room_for_more_of_them() -> None:
    window = msgspec.structs.replace(
        INFO, kv=(KvGroup(16, 1024, 1024), KvGroup(16, 1024, 1024, 64))
    )
    rows = kv_bytes(window, context=8192, slots=8)
    assert Sizing(MemorySettings(budget_bytes=256 * GB)).of(window, load()).need.kv == 2 * rows
    assert Sizing(MemorySettings()).of(window, load("gguf")).need.kv == rows
    tight = Sizing(MemorySettings(budget_bytes=16 * GB)).of(window, load())
    assert tight.need.kv == int(0.25 * (16 * GB - tight.need.weights - tight.need.peak)) < rows


def test_a_model_that_leaves_no_room_asks_for_a_little_and_is_refused_by_the_ledger() -> None:
    need = Sizing(MemorySettings(budget_bytes=4 * GB)).of(INFO, load()).need
    assert need.kv == 32 * 2048 * 2 * 2048
    assert need.total > 4 * GB


def test_what_the_operator_says_is_what_is_reserved() -> None:
    sized = Sizing(MemorySettings()).of(INFO, load(options={"kv_bytes": 3 * GB}))
    assert sized.need.kv == 3 * GB
    settings = MemorySettings(mlx_cache_bytes=0, mlx_wired_bytes=0)
    options = Sizing(settings).of(INFO, load()).options
    assert (options["cache_bytes"], options["wired_bytes"]) == (0, 0)
    held = Sizing(MemorySettings()).of(INFO, load(), held_bytes=GB)
    assert held.need.kv == FULL + GB
    assert held.options["kv_bytes"] == FULL


def test_a_cpu_computes_in_32_bits_and_keeps_its_own_small_buffers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "has_accelerator", lambda: False)
    sized = Sizing(MemorySettings(budget_bytes=256 * GB)).of(INFO, load())
    # Packed weights stay packed; what grows are their scales.
    assert (sized.need.weights, sized.need.kv) == (4 * GB * 4 // 3, 2 * FULL)
    assert "cache_bytes" not in sized.options
    for whole in (
        msgspec.structs.replace(INFO, quantisation="bf16", weights_bytes=16 * GB),
        msgspec.structs.replace(INFO, format="gguf"),
    ):
        sized = Sizing(MemorySettings(budget_bytes=256 * GB)).of(whole, load())
        assert sized.need.weights == 32 * GB
    half = Sizing(MemorySettings()).of(INFO, load(options={"dtype": "float16"}))
    assert (half.need.weights, half.need.kv) == (4 * GB, FULL)


def test_llama_cpp_takes_an_eighth_of_the_machine_and_is_told_where_that_is_too_much() -> None:
    assert Sizing(MemorySettings()).of(INFO, load("gguf")).options == {}
    less = Sizing(MemorySettings(budget_bytes=6 * GB)).of(INFO, load("gguf"))
    assert less.need.total == 6 * GB
    assert less.options == {"kv_bytes": less.need.kv}
    # Its window is bounded where nobody asks for one.
    long = msgspec.structs.replace(INFO, context_length=1 << 20)
    assert Sizing(MemorySettings()).of(long, load("gguf")).need.kv == 8 * GB


def test_vectors_need_no_caches() -> None:
    for backend in ("mlx", "gguf"):
        sized = Sizing(MemorySettings()).of(INFO, load(backend, kind="embedding"))
        assert sized.need.kv == 0
        assert "kv_bytes" not in sized.options
