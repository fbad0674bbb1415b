"""Which files may draft for each other: those of one vocabulary, or nearly."""

from pathlib import Path
from typing import Any

import pytest

from opta_lmx.backends.gguf.speculation import mismatch


def write(path: Path, tokens: list[str], *, kind: str = "gpt2", **marks: int) -> Path:
    import gguf

    writer: Any = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_eos_token_id(marks.get("eos", 1))
    writer.add_bos_token_id(marks.get("bos", 0))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


WORDS = [f"word{n}" for n in range(300)]


@pytest.mark.parametrize(
    ("tokens", "more", "reason"),
    [
        (WORDS, {}, ""),
        (["<s>", "</s>", "<a>", "<b>", "<c>", *WORDS[5:]], {}, ""),
        (WORDS + [f"pad{n}" for n in range(128)], {}, ""),
        (WORDS[:172], {}, ""),
        (WORDS[:171], {}, "171 tokens, the model's has 300"),
        (WORDS + [f"pad{n}" for n in range(129)], {}, "429 tokens"),
        ([*WORDS[:5], "other", *WORDS[6:]], {}, "token 5 of its vocabulary is 'other'"),
        (WORDS, {"kind": "llama"}, "its tokenizer is 'llama', the model's is 'gpt2'"),
        (WORDS, {"eos": 2}, "begin and the end"),
        (WORDS, {"bos": 2}, "begin and the end"),
    ],
)
def test_vocabularies(tmp_path: Path, tokens: list[str], more: Any, reason: str) -> None:
    model = write(tmp_path / "model.gguf", WORDS)
    found = mismatch(model, write(tmp_path / "draft.gguf", tokens, **more))
    assert reason in found
    assert bool(found) == bool(reason)


def test_a_model_fits_itself(tmp_path: Path) -> None:
    assert mismatch(tmp_path / "m.gguf", tmp_path / "m.gguf") == ""
