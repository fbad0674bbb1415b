"""What a model is for, as its files tell; and the one file of a subfolder that goes with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.models.info import read_info
from opta_lmx.models.selection import belongs, files_of, stored_name
from opta_lmx.models.store import ModelStore
from tests.support.weights import Gguf, folder_files, llama_metadata, write_folder

POOLING = {"pooling_mode_cls_token": True}


def folder(path: Path, **config: Any) -> Path:
    return write_folder(path, folder_files(**config))


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("LlamaForCausalLM", "chat"),
        ("BertModel", "embedding"),
        ("XLMRobertaModel", "embedding"),
        ("BertForSequenceClassification", "rerank"),
        ("XLMRobertaForSequenceClassification", "rerank"),
    ],
)
def test_the_kind_of_a_folder(tmp_path: Path, architecture: str, kind: str) -> None:
    info = read_info(folder(tmp_path / "m", architectures=[architecture]))
    assert info.kind == kind
    assert (info.kv == ()) == (kind != "chat")


@pytest.mark.parametrize("name", ["modules.json", "1_Pooling/config.json", "1_Pooling_config.json"])
def test_sentence_transformers_files_make_an_embedder(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path / "m")
    assert read_info(path).kind == "chat"
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text("[]" if name == "modules.json" else json.dumps(POOLING))
    assert read_info(path).kind == "embedding"


@pytest.mark.parametrize(
    ("foreseen", "context"), [(128, 128), (10_000, None), (True, None), ("x", None), (0, None)]
)
def test_the_window_an_embedder_was_made_for(
    tmp_path: Path, foreseen: object, context: int | None
) -> None:
    path = folder(tmp_path / "m", architectures=["BertModel"])
    own = read_info(path).context_length
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": foreseen}))
    assert read_info(path).context_length == (context or own)


@pytest.mark.parametrize(
    ("more", "head", "kind"),
    [
        ({}, False, "chat"),
        ({"llama.pooling_type": 0}, False, "chat"),
        ({"llama.pooling_type": 3}, False, "embedding"),
        ({"llama.pooling_type": 4}, False, "rerank"),
        ({}, True, "chat"),
    ],
)
def test_the_kind_of_a_gguf(tmp_path: Path, more: dict[str, Any], head: bool, kind: str) -> None:
    file = Gguf(llama_metadata() | more).tensor("a", (4,))
    if head:
        file.tensor("cls.output.weight", (4,))
    path = tmp_path / "m.gguf"
    path.write_bytes(file.data())
    info = read_info(path)
    assert info.kind == kind
    assert (info.kv == ()) == (kind != "chat")


@pytest.mark.parametrize(
    ("pooling", "head", "kind"),
    [(None, False, "embedding"), (None, True, "rerank"), (1, True, "embedding")],
)
def test_an_encoder_with_a_head_scores_unless_it_says_otherwise(
    tmp_path: Path, pooling: int | None, head: bool, kind: str
) -> None:
    metadata = {
        key.replace("llama.", "bert."): value for key, value in llama_metadata().items()
    } | {"general.architecture": "bert"}
    if pooling is not None:
        metadata["bert.pooling_type"] = pooling
    file = Gguf(metadata).tensor("a", (4,))
    if head:
        file.tensor("cls.output.weight", (4,))
    path = tmp_path / "m.gguf"
    path.write_bytes(file.data())
    assert read_info(path).kind == kind


def test_the_pooling_file_is_kept_under_a_name_of_its_own(tmp_path: Path) -> None:
    path = folder(tmp_path / "source", architectures=["BertModel"])
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps(POOLING))
    (path / "2_Normalize").mkdir()
    assert path / "1_Pooling" / "config.json" in files_of(path)
    entry = ModelStore(tmp_path / "store").add(path, "e")
    assert json.loads((entry.path / "1_Pooling_config.json").read_text()) == POOLING
    assert json.loads((entry.path / "config.json").read_text())["architectures"] == ["BertModel"]
    assert entry.kind == "embedding"
    again = ModelStore(tmp_path / "other").add(entry.path, "e")
    assert (again.path / "1_Pooling_config.json").is_file()


def test_which_files_belong() -> None:
    assert belongs("1_Pooling/config.json")
    assert not belongs("2_Dense/model.safetensors")
    assert not belongs("onnx/config.json")
    assert stored_name("1_Pooling/config.json") == "1_Pooling_config.json"
    assert stored_name("config.json") == "config.json"
