"""The memory estimate, against what an engine was seen to allocate."""

import msgspec

from opta_lmx.core.kv_cost import KV_TYPE_BYTES
from opta_lmx.models.description import KvGroup, ModelInfo
from opta_lmx.models.memory import estimate, kv_bytes, kv_bytes_per_token

MIB = 1 << 20
GEMMA_270M = ModelInfo(
    format="gguf",
    architecture="gemma3",
    context_length=32_768,
    quantisation="Q4_K_M",
    parameters=268_098_176,
    size_bytes=253_113_024,
    weights_bytes=246_587_904,
    layers=18,
    vocabulary=262_144,
    kv=(KvGroup(15, 256, 256, 512), KvGroup(3, 256, 256)),
)


def test_sliding_layers_keep_a_window() -> None:
    # llama.cpp reports 168 MiB for 16384 cells in 8 slots; all layers global would be 288.
    assert kv_bytes(GEMMA_270M, context=2048, slots=8) == 168 * MIB


def test_a_short_context_caps_the_window() -> None:
    assert kv_bytes(GEMMA_270M, context=100, slots=1) == 100 * 18 * 512 * 2


def test_wider_elements_cost_more() -> None:
    half = kv_bytes(GEMMA_270M, context=4096, slots=2)
    assert kv_bytes(GEMMA_270M, context=4096, slots=2, element_bytes=4) == 2 * half


def test_blocks_with_a_scale_cost_less() -> None:
    # llama.cpp reports 90, 47.81 and 25.31 MiB for two slots of 2048 cells of this shape.
    shape = msgspec.structs.replace(GEMMA_270M, kv=(KvGroup(30, 192, 192),))
    told = {
        kv_type: kv_bytes(shape, context=2048, slots=2, element_bytes=size) / MIB
        for kv_type, size in KV_TYPE_BYTES.items()
    }
    assert told == {"f16": 90.0, "q8_0": 47.8125, "q4_0": 25.3125}


def test_one_more_token() -> None:
    step = kv_bytes_per_token(GEMMA_270M)
    more, less = (kv_bytes(GEMMA_270M, context=n, slots=1) for n in (8193, 8192))
    assert step == more - less == 3 * 512 * 2


def test_the_sum() -> None:
    found = estimate(GEMMA_270M, context=2048, slots=8)
    assert found.weights == 246_587_904
    assert found.total == found.weights + found.kv + found.buffers
    unpacked = estimate(GEMMA_270M, context=2048, slots=8, weight_bytes=4 * 268_098_176)
    assert unpacked.weights == 1_072_392_704
