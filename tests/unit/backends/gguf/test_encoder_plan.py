"""How llama.cpp is set up for models that make vectors or scores."""

from typing import Any

from opta_lmx.backends.frames import Load, ModelKind
from opta_lmx.backends.gguf.embedding.encoder import (
    LONGEST_WINDOW,
    UNKNOWN_WINDOW,
    plan_encoder,
)
from opta_lmx.backends.gguf.plan import Machine, Plan
from opta_lmx.models.description import ModelInfo


def plan(
    trained: int = 512,
    architecture: str = "bert",
    kind: ModelKind = "embedding",
    named: bool = True,
    **load: Any,
) -> Plan:
    info = ModelInfo("gguf", architecture, trained, "F32", 1, 1, 1, 6, 1000, embedding=True)
    machine = Machine(memory_bytes=1 << 34, cores=8, accelerator=False)
    return plan_encoder(info, Load("m", "gguf", kind=kind, **load), machine, named=named)


def test_an_input_fits_one_batch_whole() -> None:
    for trained in (0, 128, 512, 8192, 1 << 20):
        made = plan(trained)
        assert made.batch == made.context
        assert made.cells >= made.context * made.slots
        assert not made.shared


def test_the_window() -> None:
    assert plan(512).context == 512
    assert plan(512, context=128).context == 128
    assert plan(512, context=4096).context == 512
    assert plan(1 << 20).context == LONGEST_WINDOW
    assert plan(1 << 20, context=20_000).context == 20_000
    assert plan(0).context == UNKNOWN_WINDOW


def test_a_decoder_takes_fewer_inputs_at_once() -> None:
    assert plan(architecture="qwen3").slots < plan(architecture="bert").slots


def test_pooling() -> None:
    assert plan().pooling == "own"
    assert plan(named=False).pooling == "mean"
    assert plan(kind="rerank", named=False).pooling == "rank"


def test_threads() -> None:
    assert plan(threads=3).threads == 3
    assert plan().threads == 8
