"""A home with models to quantise: a small one, a large one, a GGUF."""

from pathlib import Path

import pytest

from opta_lmx.models.store import ModelStore
from tests.support.deep import deep_llama
from tests.support.tiny import tiny_gguf, tiny_llama


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose store holds `tiny`, `deep` and `tiny-gguf`."""
    home = tmp_path_factory.mktemp("home")
    store = ModelStore(home / "models")
    store.sweep()
    store.add(tiny_llama(), "tiny")
    store.add(deep_llama(), "deep")
    store.add(tiny_gguf(), "tiny-gguf")
    return home


@pytest.fixture
def store(home: Path) -> ModelStore:
    """The store of the home."""
    return ModelStore(home / "models")
