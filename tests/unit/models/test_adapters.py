"""Adapters are judged by their headers, before an engine sees them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from opta_lmx.core.errors import LmxError
from opta_lmx.models.adapters import format_of, read_adapter, version_of
from opta_lmx.models.description import Format, ModelInfo
from tests.support import gguf_adapters
from tests.support.adapters import adapter_config, adapter_tensors, tiny_adapter, write_adapter
from tests.support.tiny import tiny_gguf

MODEL = ModelInfo("mlx", "llama", 8192, "f32", 4_983_040, 0, 20_000_000, 4, 4096)
Spoil = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_adapter(tmp_path / "a", 1)
    return tmp_path / "a"


def refusal(path: Path, kind: Format = "mlx", model: ModelInfo = MODEL) -> str:
    with pytest.raises(LmxError) as caught:
        read_adapter(path, kind, model)
    assert caught.value.code == "adapter_refused"
    assert str(path.parent) not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_sound_folder_is_measured(tmp_path: Path, method: str) -> None:
    tensors = write_adapter(tmp_path / "a", 1, method)
    info = read_adapter(tmp_path / "a", "mlx", MODEL)
    assert info.parameters == sum(array.size for array in tensors.values())
    assert info.weights_bytes == sum(array.nbytes for array in tensors.values())
    assert info.rank == 4


def test_a_sound_file_is_measured() -> None:
    info = read_adapter(gguf_adapters.tiny_adapter(1), "gguf", MODEL)
    assert info.rank == gguf_adapters.RANK
    assert info.weights_bytes == 4 * info.parameters > 0


def _pair(path: Path, name: str, a: tuple[int, ...], b: tuple[int, ...]) -> Path:
    """A file of one pair; shapes are given fastest dimension first."""
    halves = {f"{name}.lora_a": a, f"{name}.lora_b": b}
    tensors = {half: np.ones(shape[::-1], np.float32) for half, shape in halves.items()}
    return gguf_adapters.write_adapter(path, tensors)


@pytest.mark.parametrize(("name", "a", "b", "rank"), gguf_adapters.FITTING)
def test_what_the_engine_takes_is_let_through(
    tmp_path: Path, name: str, a: tuple[int, ...], b: tuple[int, ...], rank: int
) -> None:
    path = _pair(tmp_path / "a.gguf", name, a, b)
    assert read_adapter(path, "gguf", MODEL).rank == rank


@pytest.mark.parametrize(("name", "a", "b"), gguf_adapters.AT_ODDS)
def test_pairs_at_odds_are_refused(
    tmp_path: Path, name: str, a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    assert "do not fit each other" in refusal(_pair(tmp_path / "a.gguf", name, a, b), "gguf")


def test_what_it_is_made_for_is_told_by_its_name() -> None:
    names = ("a.gguf", "b/A.GGUF", "a", "a.safetensors")
    assert [format_of(Path(name)) for name in names] == ["gguf", "gguf", "mlx", "mlx"]


def test_a_version_is_that_of_the_files_that_are_read(folder: Path) -> None:
    first = version_of(folder, "mlx")
    assert first == read_adapter(folder, "mlx", MODEL).version
    (folder / "0000100_adapters.safetensors").write_bytes(b"a checkpoint")
    assert version_of(folder, "mlx") == first
    config = folder / "adapter_config.json"
    changed = adapter_config()
    changed["lora_parameters"]["scale"] = 3.0
    config.write_text(json.dumps(changed))
    second = version_of(folder, "mlx")
    os.utime(folder / "adapters.safetensors", ns=(1, 1))
    assert len({first, second, version_of(folder, "mlx")}) == 3
    config.unlink()
    assert not version_of(folder, "mlx")


def _config(**changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "adapter_config.json").write_text(json.dumps(adapter_config() | changes))

    return spoil


def _tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Spoil:
    def spoil(folder: Path) -> None:
        save_file(change(adapter_tensors(folder)), folder / "adapters.safetensors")

    return spoil


def _gone(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def _cut(folder: Path) -> None:
    file = folder / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def _without(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in tensors.items() if "3.mlp.down_proj.lora_b" not in name}


def _deep(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("layers.3", "layers.4"): array for name, array in tensors.items()}


Q = "model.layers.2.self_attn.q_proj"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_gone("adapters.safetensors"), "there is no file adapters.safetensors"),
        (_gone("adapter_config.json"), "there is no file adapter_config.json"),
        (_cut, "shorter than its tensors"),
        (_config(fine_tune_type="full"), "a whole fine-tuned model"),
        (_config(fine_tune_type="prefix"), "method that is not known ('prefix')"),
        (_config(lora_parameters=None), "no 'lora_parameters'"),
        (_config(lora_parameters={"rank": 4}), "no number as 'scale'"),
        (_config(lora_parameters={"scale": True}), "no number as 'scale'"),
        (_config(lora_parameters={"scale": float("inf")}), "beyond reason"),
        (_tensors(_without), "'model.layers.3.mlp.down_proj.lora_a' is no half"),
        (_tensors(_deep), "a layer 4, beyond the 4"),
        (_tensors(lambda _: {}), "no tensors"),
        (_tensors(lambda all_: all_ | {"lm_head.weight": np.ones((2, 2), np.float32)}), "no half"),
        (_tensors(lambda all_: all_ | {"lora_a": np.ones((2, 2), np.float32)}), "no half"),
        (
            _tensors(lambda all_: all_ | {f"{Q}.lora_b": np.ones((5, 256), np.float32)}),
            f"its pair '{Q}' do not fit",
        ),
        (
            _tensors(lambda all_: all_ | {f"{Q}.lora_a": np.ones(4, np.float32)}),
            f"its pair '{Q}' do not fit",
        ),
        (
            _tensors(lambda all_: all_ | {f"{Q}.lora_a": np.ones((256, 4), np.int32)}),
            "no array of floats",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_why(folder: Path, spoil: Spoil, reason: str) -> None:
    spoil(folder)
    assert reason in refusal(folder)


def test_an_adapter_that_dwarfs_its_model_is_refused(folder: Path) -> None:
    numbers = read_adapter(folder, "mlx", MODEL).parameters
    small = ModelInfo("mlx", "llama", 0, "f32", numbers - 1, 0, 0, 4, 4096)
    assert "larger than the model" in refusal(folder, model=small)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    assert "no adapter" in refusal(tiny_gguf(), "gguf")
    assert "there is no file none.gguf" in refusal(tmp_path / "none.gguf", "gguf")
    assert "architecture 'llama'" in refusal(
        gguf_adapters.tiny_adapter(1),
        "gguf",
        ModelInfo("gguf", "qwen2", 0, "f32", 4_983_040, 0, 0, 4, 4096),
    )
    assert "there is no file adapter_config.json" in refusal(tmp_path, "mlx")
    pickled = tmp_path / "b.gguf"
    pickled.write_bytes(b"\x80\x04K\x01.")
    assert "GGUF" in refusal(pickled, "gguf")


def test_experts_have_pairs_of_their_own(tmp_path: Path) -> None:
    write_adapter(tmp_path, 1)
    a, b = np.ones((3, 4, 16), np.float32), np.ones((3, 8, 4), np.float32)
    name = "model.layers.1.mlp.switch_mlp.up_proj"
    save_file({f"{name}.lora_a": a, f"{name}.lora_b": b}, tmp_path / "adapters.safetensors")
    assert read_adapter(tmp_path, "mlx", MODEL).rank == 4
    save_file({f"{name}.lora_a": a, f"{name}.lora_b": b[:2]}, tmp_path / "adapters.safetensors")
    assert "do not fit" in refusal(tmp_path)


def test_tensors_of_the_tiny_adapters_are_written_once() -> None:
    assert tiny_adapter("math") != tiny_adapter("law")
    first, other = (adapter_tensors(tiny_adapter(name)) for name in ("math", "law"))
    assert first.keys() == other.keys()
    assert not np.array_equal(first[f"{Q}.lora_a"], other[f"{Q}.lora_a"])
