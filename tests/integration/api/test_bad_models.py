"""Damaged model files are refused with a typed 4xx and cost nothing else."""

import shutil
from pathlib import Path

import pytest

from opta_lmx.core.errors import LmxError
from opta_lmx.models.store import ModelStore
from tests.support.process import running_server
from tests.support.tiny import tiny_gguf, tiny_llama


def _overwrite_tail(path: Path) -> None:
    """Keep the size and the header, lose the rest."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(0)
        file.write(b"\xa5" * min(size, 4096))


def _register(store: ModelStore, source: Path, name: str) -> Path:
    """Add a private copy, so that spoiling it spoils nothing else."""
    folder = store.root.parent / "sources" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    copied = shutil.copytree(source, folder) if source.is_dir() else _copy(source, folder)
    return store.add(copied, name).path


def _copy(source: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    return Path(shutil.copy(source, folder / "model.gguf"))


def test_damaged_models_are_refused_and_the_server_lives(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    store.sweep()
    _register(store, tiny_gguf(), "good")
    _overwrite_tail(_register(store, tiny_gguf(), "spoilt-gguf"))
    _overwrite_tail(_register(store, tiny_llama(), "spoilt-mlx") / "model.safetensors")
    cut = _register(store, tiny_llama(), "cut-mlx") / "model.safetensors"
    with cut.open("r+b") as file:
        file.truncate(cut.stat().st_size // 2)
    config = _register(store, tiny_llama(), "no-config") / "config.json"
    config.write_text("{not json")
    with running_server(tmp_path, "--model", "good", LMX_ENGINE__THREADS="1") as server:
        for name in ("spoilt-gguf", "spoilt-mlx", "cut-mlx", "no-config"):
            for path, body in (
                ("/admin/models/load", {"model": name}),
                (
                    "/v1/chat/completions",
                    {"model": name, "messages": [{"role": "user", "content": "x"}]},
                ),
            ):
                reply = server.http.post(server.url + path, json=body)
                assert 400 <= reply.status_code < 500, (name, reply.status_code, reply.text)
                assert reply.json()["error"]["code"]
        assert set(server.models()) == {"good"}
        body = {"model": "good", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
        assert server.http.post(f"{server.url}/v1/chat/completions", json=body).status_code == 200
        big = server.http.post(f"{server.url}/v1/chat/completions", content=b"x" * 20_000_000)
        assert big.status_code == 413


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 100, b"\x00" * 5000])
def test_garbage_is_never_registered(tmp_path: Path, content: bytes) -> None:
    store = ModelStore(tmp_path / "models")
    store.sweep()
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(content)
    with pytest.raises(LmxError) as error:
        store.add(garbage, "garbage")
    assert error.value.code == "invalid_gguf"
    assert store.list() == []
