"""What is read from the headers of GGUF files and model folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from opta_lmx.core.errors import ErrorKind, LmxError
from opta_lmx.core.types import SamplingParams
from opta_lmx.models.description import KvGroup, ModelInfo
from opta_lmx.models.info import read_info
from tests.support.tiny import tiny_gguf, tiny_llama, tiny_sliding
from tests.support.weights import (
    Gguf,
    folder_files,
    llama_metadata,
    safetensors,
    small_gguf,
    write_folder,
)


def gguf_info(folder: Path, **more: Any) -> ModelInfo:
    path = folder / "model.gguf"
    path.write_bytes(small_gguf(**more))
    return read_info(path)


def folder_info(folder: Path, **more: Any) -> ModelInfo:
    return read_info(write_folder(folder / "model", folder_files(**more)))


def refused(path: Path) -> LmxError:
    with pytest.raises(LmxError) as caught:
        read_info(path)
    return caught.value


def test_a_gguf_file(tmp_path: Path) -> None:
    info = gguf_info(tmp_path, general__sampling__temp=0.5, general__sampling__top_k=40)
    assert info == ModelInfo(
        format="gguf",
        architecture="llama",
        context_length=2048,
        quantisation="Q4_1",
        parameters=32 * 8 + 32 * 32,
        size_bytes=(tmp_path / "model.gguf").stat().st_size,
        weights_bytes=4 * (32 * 8 + 32 * 32),
        layers=1,
        vocabulary=8,
        kv=(KvGroup(1, 16, 16),),
        chat_template="{{ messages }}",
        sampling=SamplingParams(temperature=0.5, top_k=40),
    )


def test_the_tiny_models_agree_with_each_other() -> None:
    folder, file = read_info(tiny_llama()), read_info(tiny_gguf())
    assert folder.parameters == file.parameters
    assert folder.kv == file.kv == (KvGroup(4, 128, 128),)
    assert folder.chat_template == file.chat_template
    assert folder.vocabulary == file.vocabulary == 4096
    assert folder.context_length == file.context_length == 8192
    sliding = read_info(tiny_sliding())
    assert {group.window for group in sliding.kv} == {0, 64}


@pytest.mark.parametrize(
    ("more", "kv"),
    [
        ({"llama__attention__head_count_kv": [1]}, (KvGroup(1, 8, 8),)),
        ({"llama__attention__key_length": 5}, (KvGroup(1, 10, 16),)),
        ({"llama__attention__sliding_window": 64}, (KvGroup(1, 16, 16),)),
    ],
)
def test_gguf_caches(tmp_path: Path, more: dict[str, Any], kv: tuple[KvGroup, ...]) -> None:
    assert gguf_info(tmp_path, **more).kv == kv


def other_architecture(name: str, layers: int, **more: Any) -> dict[str, Any]:
    """Metadata of `name` with so many layers of 2 heads of 8."""
    given = {
        "block_count": layers,
        "embedding_length": 32,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
    } | {key.replace("__", "."): value for key, value in more.items()}
    return {"general.architecture": name} | {f"{name}.{key}": val for key, val in given.items()}


@pytest.mark.parametrize(
    ("metadata", "kv"),
    [
        (
            other_architecture("gemma3", 18, attention__sliding_window=512),
            (KvGroup(15, 16, 16, 512), KvGroup(3, 16, 16)),
        ),
        (
            other_architecture(
                "gemma3", 4, attention__sliding_window=512, attention__sliding_window_pattern=2
            ),
            (KvGroup(2, 16, 16, 512), KvGroup(2, 16, 16)),
        ),
        (
            other_architecture(
                "unheard-of",
                3,
                attention__sliding_window=9,
                attention__sliding_window_pattern=[True, False, True],
            ),
            (KvGroup(2, 16, 16, 9), KvGroup(1, 16, 16)),
        ),
        (
            other_architecture("llama4", 4),
            (KvGroup(3, 16, 16, 8192), KvGroup(1, 16, 16)),
        ),
        (
            other_architecture("gemma3n", 5, attention__shared_kv_layers=3),
            (KvGroup(2, 16, 16),),
        ),
        (other_architecture("qwen3next", 8, full_attention_interval=4), (KvGroup(2, 16, 16),)),
        (other_architecture("jamba", 3, attention__head_count_kv=[0, 2, 0]), (KvGroup(1, 16, 16),)),
    ],
)
def test_gguf_layers(tmp_path: Path, metadata: dict[str, Any], kv: tuple[KvGroup, ...]) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(Gguf(metadata).tensor("a", (4,)).data())
    assert read_info(path).kv == kv


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"general__architecture": ""}, "architecture"),
        ({"general__architecture": "../x"}, "architecture"),
        ({"general__type": "adapter"}, "adapter"),
        ({"general__architecture": "clip"}, "projector"),
        ({"llama__context_length": -1.0}, "context_length"),
        ({"llama__context_length": True}, "context_length"),
        ({"llama__block_count": 1 << 30}, "block_count"),
        ({"llama__block_count": 2, "llama__attention__head_count_kv": [1]}, "layers"),
        ({"tokenizer__chat_template": "x" * (1 << 20) + "y"}, "template"),
    ],
)
def test_senseless_gguf_metadata(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(small_gguf(**more))
    error = refused(path)
    assert error.code == "invalid_gguf"
    assert words in error.message


def test_quantisation_without_a_file_type(tmp_path: Path) -> None:
    metadata = llama_metadata()
    del metadata["general.file_type"]
    path = tmp_path / "model.gguf"
    path.write_bytes(
        Gguf(metadata).tensor("a", (4,)).tensor("b", (256, 64), 12, nbytes=144 * 64).data()
    )
    assert read_info(path).quantisation == "Q4_K"


def test_embedding_models(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(Gguf(other_architecture("bert", 2)).tensor("a", (4,)).data())
    assert read_info(path).embedding
    assert gguf_info(tmp_path, llama__pooling_type=1).embedding
    assert folder_info(tmp_path, architectures=["BertModel"]).embedding
    assert not folder_info(tmp_path).embedding


def test_split_files(tmp_path: Path) -> None:
    names = [f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    (tmp_path / names[0]).write_bytes(small_gguf())
    assert "missing" in refused(tmp_path / names[0]).message
    (tmp_path / names[1]).write_bytes(Gguf({"split.no": 1}).tensor("more", (8,)).data())
    info = read_info(tmp_path / names[0])
    assert info.parameters == 32 * 8 + 32 * 32 + 8
    assert info.size_bytes == sum((tmp_path / name).stat().st_size for name in names)
    assert "first part" in refused(tmp_path / names[1]).message


def test_a_folder(tmp_path: Path) -> None:
    info = folder_info(tmp_path)
    assert info == ModelInfo(
        format="mlx",
        architecture="llama",
        context_length=2048,
        quantisation="f32",
        parameters=256,
        size_bytes=info.size_bytes,
        weights_bytes=1024,
        layers=1,
        vocabulary=8,
        kv=(KvGroup(1, 16, 16),),
        chat_template="{{ messages }}",
        sampling=SamplingParams(temperature=0.6, top_p=0.9),
    )
    files = (tmp_path / "model").iterdir()
    assert info.size_bytes == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize(
    ("more", "kv"),
    [
        ({"head_dim": 5}, (KvGroup(1, 10, 10),)),
        ({"num_key_value_heads": None}, (KvGroup(1, 32, 32),)),
        ({"sliding_window": 7}, (KvGroup(1, 16, 16),)),
        (
            {"model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 7},
            (KvGroup(6, 16, 16, 7), KvGroup(1, 16, 16)),
        ),
        (
            {
                "layer_types": ["sliding_attention", "full_attention", "linear_attention"],
                "num_hidden_layers": 3,
                "sliding_window": 7,
            },
            (KvGroup(1, 16, 16, 7), KvGroup(1, 16, 16)),
        ),
        ({"kv_lora_rank": 100, "qk_rope_head_dim": 10}, (KvGroup(1, 100, 10),)),
        (
            {"num_hidden_layers": 4, "full_attention_interval": 2},
            (KvGroup(2, 16, 16),),
        ),
    ],
)
def test_folder_caches(tmp_path: Path, more: dict[str, Any], kv: tuple[KvGroup, ...]) -> None:
    assert folder_info(tmp_path, **more).kv == kv


def test_the_language_part_of_a_multi_modal_model(tmp_path: Path) -> None:
    inner = {"max_position_embeddings": 99, "vocab_size": 5, "num_hidden_layers": 2}
    info = folder_info(tmp_path, text_config=inner)
    assert (info.context_length, info.vocabulary, info.layers) == (99, 5, 2)


def test_quantised_weights(tmp_path: Path) -> None:
    files = folder_files(quantization={"bits": 4, "group_size": 32})
    files["model.safetensors"] = safetensors(
        {
            "a.weight": ("U32", (8, 4), bytes(128)),
            "a.scales": ("F16", (8, 1), bytes(16)),
            "a.biases": ("F16", (8, 1), bytes(16)),
            "norm.weight": ("F16", (8,), bytes(16)),
        }
    )
    info = read_info(write_folder(tmp_path / "model", files))
    assert info.quantisation == "4bit"
    assert info.parameters == 8 * 32 + 8
    assert info.weights_bytes == 176
    others = {"bits": 4, "quant_method": "awq"}
    assert folder_info(tmp_path / "b", quantization_config=others).quantisation == "awq-4bit"


def test_chat_templates_of_a_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", folder_files())
    several = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert read_info(folder).chat_template == "D"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "J"}))
    assert read_info(folder).chat_template == "J"
    (folder / "chat_template.jinja").write_text("{{ jinja }}")
    assert read_info(folder).chat_template == "{{ jinja }}"
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    assert refused(folder).code == "invalid_config"


def test_sampling_out_of_range_counts_as_unsaid(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", folder_files())
    text = '{"temperature": 1e999, "top_p": -1, "top_k": 1.5, "min_p": NaN}'
    (folder / "generation_config.json").write_text(text)
    assert read_info(folder).sampling == SamplingParams()


@pytest.mark.parametrize("key", ["auto_map", "model_file"])
@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json", "text_config"])
def test_models_with_code_of_their_own(tmp_path: Path, key: str, place: str) -> None:
    folder = write_folder(tmp_path / "model", folder_files())
    file = folder / ("config.json" if place == "text_config" else place)
    content = json.loads(file.read_text())
    demand = {key: {"AutoModel": "x.Y"} if key == "auto_map" else "x.py"}
    content |= {"text_config": demand} if place == "text_config" else demand
    file.write_text(json.dumps(content))
    (folder / "x.py").write_text("raise SystemExit")
    error = refused(folder)
    assert error.kind is ErrorKind.FORBIDDEN
    assert error.code == "remote_code_refused"


def test_pickles(tmp_path: Path) -> None:
    files = folder_files()
    del files["model.safetensors"]
    folder = write_folder(tmp_path / "model", files | {"pytorch_model.bin": b"\x80\x04."})
    assert refused(folder).code == "pickle_refused"
    assert refused(folder / "pytorch_model.bin").code == "pickle_refused"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"config.json": None}, "invalid_config"),
        ({"config.json": b"{"}, "invalid_config"),
        ({"config.json": b"[1]"}, "invalid_config"),
        ({"config.json": b"[" * 100_000}, "invalid_config"),
        ({"config.json": b'{"model_type": "llama", "num_hidden_layers": 1e309}'}, "invalid_config"),
        ({"config.json": b'{"model_type": "x", "vocab_size": -1}'}, "invalid_config"),
        ({"tokenizer.json": None}, "invalid_config"),
        ({"tokenizer_config.json": b"\xff"}, "invalid_config"),
        ({"model.safetensors": None}, "no_weights"),
        ({"model.safetensors": b"short"}, "invalid_safetensors"),
        ({"model.safetensors.index.json": b'{"weight_map": {"gone": "x"}}'}, "no_weights"),
        ({"model.safetensors.index.json": b'{"weight_map": 1}'}, "invalid_config"),
    ],
)
def test_broken_folders(tmp_path: Path, changes: dict[str, bytes | None], code: str) -> None:
    files = folder_files() | changes
    kept = {name: data for name, data in files.items() if data is not None}
    assert refused(write_folder(tmp_path / "model", kept)).code == code


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert refused(tmp_path / "notes.txt").code == "not_a_model"
    assert refused(tmp_path / "absent.gguf").code == "not_a_model"
