"""Servers with real models on both backends, for the tests that only need answers.

They end with this folder, so that none of them takes time from the tests after it.
"""

import fcntl
from collections.abc import Iterator

import pytest

from opta_lmx.models.store import ModelStore
from tests.support.encoders import tiny_encoder, tiny_encoder_gguf
from tests.support.process import ServerProcess, running_server
from tests.support.starters import cache_root, starter_settings
from tests.support.tiny import tiny_gguf, tiny_llama


@pytest.fixture(scope="package")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`tiny-mlx` and `tiny-gguf` answer; `tiny-embed-…` and `tiny-rerank-…` load when asked."""
    home = tmp_path_factory.mktemp("tiny-home")
    store = ModelStore(home / "models")
    store.sweep()
    store.add(tiny_gguf(), "tiny-gguf")
    store.add(tiny_llama(), "tiny-mlx")
    for name, rerank in (("tiny-embed", False), ("tiny-rerank", True)):
        store.add(tiny_encoder(rerank=rerank), f"{name}-mlx")
        store.add(tiny_encoder_gguf(rerank=rerank), f"{name}-gguf")
    models = ("--model", "tiny-mlx", "--model", "tiny-gguf")
    with running_server(home, *models, LMX_ENGINE__THREADS="1") as running:
        yield running


@pytest.fixture(scope="package")
def starter_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The small real model as `starter` (llama.cpp) and `starter:mlx`; it can talk and call."""
    home = tmp_path_factory.mktemp("starter-home")
    with running_server(home, "--model", "starter", **starter_settings()) as running:
        with (cache_root() / ".starter-mlx.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second finds it converted
            running.load("starter", "mlx")
        yield running


@pytest.fixture(params=["starter", "starter:mlx"], ids=["gguf", "mlx"])
def model(request: pytest.FixtureRequest) -> str:
    """The small real model's name on each engine: what holds on one holds on both."""
    return request.param
