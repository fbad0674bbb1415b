"""Files of LoRA adapters are held against the model before llama.cpp sees them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opta_lmx.backends.frames import Submit
from opta_lmx.backends.gguf.adapters import Adapters, defect
from opta_lmx.backends.gguf.sampling import beginning_body, completion_body
from opta_lmx.core.types import SamplingParams
from opta_lmx.models.gguf_header import GgufHeader
from opta_lmx.models.gguf_layout import GgufTensor
from opta_lmx.models.gguf_types import F32
from tests.support import gguf_adapters

FACTS = {
    "general.type": "adapter",
    "adapter.type": "lora",
    "general.architecture": "llama",
    "adapter.lora.alpha": 8.0,
}
WEIGHTS = {name: GgufTensor(name, shape, 0, 0, 0) for name, shape in gguf_adapters.WEIGHTS.items()}


def header(
    tensors: dict[str, tuple[int, ...]], kind: int = 0, alpha: int = F32, **facts: Any
) -> GgufHeader:
    made = tuple(GgufTensor(name, shape, kind, 0, 0) for name, shape in tensors.items())
    said = {**FACTS, **{key.replace("__", "."): value for key, value in facts.items()}}
    return GgufHeader(3, said, {}, {}, made, 0, 0, {"adapter.lora.alpha": alpha})


def pair(name: str, a: tuple[int, ...], b: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.lora_a": a, f"{name}.lora_b": b}


GOOD = pair("blk.0.attn_q.weight", (32, 4), (4, 64))


def judge(*headers: GgufHeader) -> str:
    return defect(list(headers), "llama", WEIGHTS)


@pytest.mark.parametrize(("name", "a", "b", "_"), gguf_adapters.FITTING)
def test_what_fits(name: str, a: tuple[int, ...], b: tuple[int, ...], _: int) -> None:
    assert judge(header(pair(name, a, b))) == ""


@pytest.mark.parametrize(("name", "a", "b"), [*gguf_adapters.AT_ODDS, *gguf_adapters.MISFITS])
def test_what_does_not(name: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert "other shapes" in judge(header(pair(name, a, b)))


def test_what_is_said_must_be_right() -> None:
    assert "split" in judge(header(GOOD), header(GOOD))
    assert "no LoRA" in judge(header(GOOD, adapter__type="dora"))
    assert "no LoRA" in judge(header(GOOD, general__type=7))
    assert "for 'qwen2'" in judge(header(GOOD, general__architecture="qwen2"))
    assert "32-bit" in judge(header(GOOD, alpha=12)), "a double would end llama.cpp"
    assert "32-bit" in judge(header(GOOD, alpha=8, adapter__lora__alpha="8"))
    assert "32-bit" in judge(header(GOOD, adapter__lora__alpha=float("inf")))
    assert "32-bit" in judge(header(GOOD, adapter__lora__alpha=[8.0]))
    several = msgspec.structs.replace(header(GOOD), array_lengths={"adapter.lora.alpha": 5000})
    assert "32-bit" in judge(several)
    assert "F64" in judge(header(GOOD, kind=28))
    assert "IQ2_XXS" in judge(header(GOOD, kind=16))
    assert "no matrix" in judge(header(pair("output_norm.weight", (32, 1), (1, 1))))


NAMES = st.sampled_from([*WEIGHTS, "blk.1.attn_q.weight", "", "x"])
SIDES = st.lists(st.sampled_from([1, 4, 32, 48, 64, 100]), min_size=1, max_size=4).map(tuple)


@given(
    st.dictionaries(
        st.tuples(NAMES, st.sampled_from([".lora_a", ".lora_b", ".weight", ""])).map("".join),
        SIDES,
        max_size=4,
    )
)
def test_only_products_of_the_weights_shape_pass(tensors: dict[str, tuple[int, ...]]) -> None:
    if judge(header(tensors)):
        return
    assert tensors
    for name in tensors:
        weight = WEIGHTS[name[:-7]].shape
        a, b = tensors[f"{name[:-7]}.lora_a"], tensors[f"{name[:-7]}.lora_b"]
        rank = a[0] if name.startswith("token_embd") else (*a, 1)[1]
        assert rank == b[0]
        sizes = {a[0] * (*a, 1)[1] // rank, b[0] * (*b, 1)[1] // rank}
        assert sizes == set(weight[:2])


def test_every_request_says_what_each_adapter_counts() -> None:
    request = Submit(1, (1, 2), SamplingParams(), 4)
    both = Adapters(("one", "two"))
    assert both.chosen("") == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]
    assert both.chosen("two") == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]
    assert Adapters().chosen("") is None
    lora = both.chosen("one")
    assert completion_body(request, 0, cache_prompt=True, lora=lora)["lora"] == lora
    assert beginning_body(request, 0, 1, cache_prompt=True, lora=lora)["lora"] == lora
    assert "lora" not in completion_body(request, 0, cache_prompt=True)
    assert beginning_body(request, 3, 1, cache_prompt=False)["prompt"] == [1]
