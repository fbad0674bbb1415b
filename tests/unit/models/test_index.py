"""The names in memory follow the store, whoever changes it, and cost no reading in between."""

import os
import shutil
from pathlib import Path

import pytest

from opta_lmx.models import index as index_module
from opta_lmx.models.index import ModelIndex
from opta_lmx.models.matching import Known
from opta_lmx.models.store import ModelStore
from tests.support.weights import small_gguf


class Later:
    """A clock on which every change lies long ago."""

    def monotonic(self) -> float:
        return 0.0

    def now_ms(self) -> int:
        return 4_000_000_000_000

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    made = ModelStore(tmp_path / "store")
    made.sweep()
    (tmp_path / "m.gguf").write_bytes(small_gguf())
    made.add(tmp_path / "m.gguf", "first")
    return made


def names(index: ModelIndex) -> list[str]:
    return [known.name for known in index.known()]


def settle(store: ModelStore) -> None:
    """Age every folder, so that the next change is sure to show in its time."""
    for folder in (store.root, *store.root.iterdir()):
        os.utime(folder, (1, 1))


def test_what_the_files_say_is_known(store: ModelStore) -> None:
    (known,) = ModelIndex(store, Later()).known()
    entry = store.get("first")
    assert known == Known("first", entry.info.quantisation, "gguf", "chat")


@pytest.mark.parametrize("clock", [None, Later()], ids=["lately", "long-ago"])
def test_changes_are_seen_at_once(store: ModelStore, tmp_path: Path, clock: Later | None) -> None:
    index = ModelIndex(store, clock)
    settle(store)
    assert names(index) == ["first"]
    version = index.version
    settle(store)
    store.add(tmp_path / "m.gguf", "org/second")
    assert names(index) == ["first", "org/second"]
    assert index.version > version
    settle(store)
    other_process = ModelStore(store.root)
    other_process.add(tmp_path / "m.gguf", "org/third")
    assert names(index) == ["first", "org/second", "org/third"]
    settle(store)
    other_process.delete("org/second")
    store.delete("first")
    assert names(index) == ["org/third"]


def test_a_group_that_was_empty_is_watched(store: ModelStore, tmp_path: Path) -> None:
    (store.root / "org").mkdir()
    settle(store)
    index = ModelIndex(store, Later())
    assert names(index) == ["first"]
    settle(store)
    store.add(tmp_path / "m.gguf", "org/second")
    os.utime(store.root, (1, 1))  # only the group's own time tells
    assert names(index) == ["first", "org/second"]


def test_nothing_is_read_while_nothing_changes(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = ModelIndex(store, Later())
    settle(store)
    before = index.known()

    def refuse(*_: object) -> None:
        raise AssertionError("the disk was walked")

    monkeypatch.setattr(index_module, "model_folders", refuse)
    monkeypatch.setattr(index_module, "describe", refuse)
    assert all(index.known() is before for _ in range(3))


def test_a_store_that_is_gone_is_empty(store: ModelStore) -> None:
    index = ModelIndex(store)
    assert names(index) == ["first"]
    shutil.rmtree(store.root)
    assert names(index) == []
