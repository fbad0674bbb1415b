"""Every kind of vocabulary the converter knows gives the tokens llama.cpp gives."""

from pathlib import Path
from typing import Any

import pytest

from opta_lmx.backends.text.tokenizer import HfTokenizer
from tests.integration.mlx.converted import run_converter
from tests.integration.mlx.test_mlx_starters import TEXTS
from tests.support.gguf_child import Child as GgufChild
from tests.support.tiny import write_gguf


@pytest.mark.parametrize(
    "vocabulary",
    [{"pre": "gpt-2"}, {"pre": "smollm"}, {"pre": "llama-bpe"}, {"pre": "qwen2"},
     {"sentencepiece": True}],
    ids=lambda vocabulary: str(next(iter(vocabulary.values()))),
)  # fmt: skip
def test_tokens_are_those_of_llama_cpp(tmp_path: Path, vocabulary: dict[str, Any]) -> None:
    write_gguf(tmp_path / "model.gguf", **vocabulary)
    run_converter(tmp_path / "model.gguf", tmp_path / "out", "--dtype", "f16")
    tokenizer = HfTokenizer.from_folder(tmp_path / "out")
    with GgufChild(tmp_path / "model.gguf", context=512) as llama_cpp:
        llama_cpp.ready()
        for text in TEXTS:
            assert tuple(tokenizer.encode(text, add_special=True)) == llama_cpp.ids(text), text
